"""`uploader ledger prune`: paths and parameters are forgotten, and still nothing is ever appended again."""

import shutil
import sqlite3
from contextlib import closing

import pytest

from tests.acceptance.batches import make_rows, read_results, record, statuses, write_manifest, write_table
from tests.acceptance.judging import check_appended, check_job_ids
from tests.acceptance.place import Place, Server, until

ALL = ("ledger", "prune", "--older-than", "0")


def test_nothing_pruned_is_appended_again(place_of: Place) -> None:
    """Repeated under its name, under another, from another folder: the journal has each recording once, with its job.

    Among them are two equal recordings of one conversation, which are two items before and after.
    """
    rows = make_rows(place_of, 30, 10)
    server = place_of.serve("--limit", "5")
    place_of.use(server)
    write_manifest(place_of, "m.csv", rows)
    assert place_of.run("run", "m.csv", "--limit", "5").code == 0
    done = place_of.run(*ALL, "--yes", "--json").summary
    assert (done["done"], done["batches"], done["rows"], done["items"]) == (True, ["m.csv"], 30, 30)
    shutil.copytree(place_of.path("audio"), place_of.path("other/audio"))
    for manifest in ("m.csv", "again.csv", "other/m.csv"):
        write_manifest(place_of, manifest, rows)
        results = place_of.path("r.csv")
        planned = place_of.run("plan", manifest, "--json")
        assert planned.code == 0, planned.out + planned.err
        assert planned.summary["toAppend"]["files"] == 0
        assert place_of.run("run", manifest, "--limit", "5", "--results", results).code == 0
        check_appended(server.journal, rows)
        check_job_ids(server.journal, read_results(results))
        assert place_of.run(*ALL, "--yes").code == 0


def test_without_yes_it_says_what_would_go(place: Place, server: Server) -> None:
    """Counts and bytes, the batches by name; the results can still be written, and what is younger stays."""
    write_manifest(place, "m.csv", make_rows(place, 4, 2))
    assert place.run("run", "m.csv").code == 0
    shown = place.run(*ALL)
    assert shown.code == 0
    assert "batches   1: m.csv" in shown.out
    assert "--yes" in shown.out
    counted = place.run(*ALL, "--json").summary
    assert {name: counted[name] for name in ("done", "rows", "items", "attempts")} == {
        "done": False,
        "rows": 4,
        "items": 4,
        "attempts": 4,
    }
    assert counted["bytes"] > 0
    young = place.run("ledger", "prune", "--older-than", "1", "--yes", "--json").summary
    assert (young["batches"], young["items"]) == ([], 0)
    assert place.run("results").code == 0
    assert place.run("ledger", "prune").code == 2, "the age is the person's to say"


def test_results_of_a_pruned_batch_are_refused_in_words(place: Place, server: Server) -> None:
    """No command replaces good results by blanks: those that need the rows exit 2, and status says what was pruned."""
    rows = make_rows(place, 4, 2)
    write_manifest(place, "m.csv", rows)
    assert place.run("run", "m.csv").code == 0
    results = place.path("m.results.csv")
    before = results.read_bytes()
    assert place.run(*ALL, "--yes").code == 0
    for command in (
        ("results",),
        ("results", "--open", "--as-manifest", "open.csv"),
        ("report", "--html", "night.html"),
        ("insights",),
        ("run", "--batch", "m.csv"),
    ):
        ending = place.run(*command)
        assert ending.code == 2, command
        assert "forgotten by `uploader ledger prune`" in ending.err
    assert results.read_bytes() == before
    shown = place.run("status")
    assert shown.code == 0
    assert "4 items: 4 completed; its rows were pruned at" in shown.out
    (batch,) = place.run("status", "--json").summary["batches"]
    assert (batch["items"], batch["counts"]["completed"], batch["prunedAt"] is None) == (4, 4, False)
    assert place.run("run", "m.csv").code == 0, "loaded anew, it has rows again"
    check_appended(server.journal, rows)
    assert place.run("results").code == 0
    (batch,) = place.run("status", "--json").summary["batches"]
    assert batch["prunedAt"] is None


def test_paths_parameters_and_own_columns_leave_the_file(place: Place, server: Server) -> None:
    """No byte of them is left in a ledger that no run uses; the file becomes smaller, and is whole."""
    cells = [
        {"conversationId": f"c{number}", "audioPath": f"secret-{number:03}.wav", "name": "a-meeting", "x-id": "of-mine"}
        for number in range(200)
    ]
    for cell in cells:
        record(place, cell["audioPath"], cell["audioPath"].encode() * 20)
    write_table(place, "m.csv", cells)
    assert place.run("run", "m.csv", "--limit", "20").code == 0
    words = (b"secret-", b"a-meeting", b"of-mine")
    size = place.ledger.stat().st_size
    assert all(word in place.ledger.read_bytes() for word in words)
    assert place.run(*ALL, "--yes").code == 0
    assert [word for word in words if word in place.ledger.read_bytes()] == []
    assert place.ledger.stat().st_size < size
    assert not place.ledger.with_name("ledger.db-wal").exists()
    assert place.run("ledger", "check").code == 0
    with closing(sqlite3.connect(place.ledger)) as connection:
        kept = connection.execute(
            "SELECT count(DISTINCT job_id), count(content_hash), count(size) FROM items"
        ).fetchone()
    assert kept == (200, 200, 200)


@pytest.mark.policy
def test_what_is_not_over_stays_as_it_is(place_of: Place) -> None:
    """A batch with a refused item keeps its rows, those of its completed items too, and is named."""
    rows = make_rows(place_of, 6, 3)
    place_of.use(place_of.serve("--limit", "5", faults=f'unknown_conversations = ["{rows[1].conversation}"]'))
    write_manifest(place_of, "over.csv", rows[:1])
    write_manifest(place_of, "open.csv", rows[1:])
    assert place_of.run("run", "over.csv").code == 0
    assert place_of.run("run", "open.csv").code == 1
    before = read_results(place_of.path("open.results.csv"))
    done = place_of.run(*ALL, "--yes", "--json").summary
    assert (done["batches"], done["notOver"]) == (["over.csv"], ["open.csv"])
    assert place_of.run("results", "--batch", "open.csv").code == 0
    assert read_results(place_of.path("open.results.csv")) == before


def test_prune_works_beside_a_run(place_of: Place) -> None:
    """The run goes on and ends well, its batch is untouched, and what is over of earlier nights is forgotten."""
    old, new = make_rows(place_of, 20, 5), make_rows(place_of, 30, 10, seed=7, folder="new")
    server = place_of.serve("--limit", "5", "--job-seconds", "0.3")
    place_of.use(server)
    write_manifest(place_of, "old.csv", old)
    write_manifest(place_of, "new.csv", new)
    assert place_of.run("run", "old.csv", "--limit", "5").code == 0
    running = place_of.start("run", "new.csv", "--limit", "5")
    until(lambda: len(server.journal.appended()) > 22, "the run is under way")
    done = place_of.run(*ALL, "--yes", "--json")
    assert (done.code, done.summary["batches"], done.summary["items"]) == (0, ["old.csv"], 20)
    assert running.wait().code == 0
    assert statuses(place_of.path("new.results.csv")) == ["completed"] * 30
    assert place_of.run("run", "old.csv", "--limit", "5").code == 0
    check_appended(server.journal, [*old, *new])
