"""`uploader ledger`: a lost ledger is made good from results, a running one is copied, a damaged one is told."""

import shutil
from pathlib import Path

import pytest

from tests.acceptance.batches import make_rows, read_results, write_manifest
from tests.acceptance.judging import check_appended, check_job_ids
from tests.acceptance.nights import restore
from tests.acceptance.place import Place, Server, until
from uploader.ledger.migrations import OLDEST


def url(path: Path) -> str:
    """A ledger's address."""
    return f"sqlite:///{path}"


@pytest.mark.parametrize("ending", ["csv", "jsonl"])
def test_nothing_of_adopted_results_is_appended_again(place: Place, server: Server, ending: str) -> None:
    """The ledger is lost after a part: the results are taken back, the rest is appended, and nothing twice.

    Files that were archived meanwhile are known by their path; adopting twice does nothing more.
    """
    rows = make_rows(place, 30, 10)
    manifest = write_manifest(place, f"m.{ending}", rows)
    assert place.run("run", manifest, "--limit", "5", "--first", "18").code == 6
    for path in place.ledger.parent.iterdir():
        path.unlink()
    kept = place.path(rows[0].audio).read_bytes()
    place.path(rows[0].audio).unlink()
    results = place.path(f"m.results.{ending}")
    for counts in ("18 adopted, 0 known already, 12 not appended", "0 adopted, 18 known already, 12 not appended"):
        adopted = place.run("ledger", "adopt", results)
        assert adopted.code == 0, adopted.err
        assert counts in adopted.out
        assert "1 file gone" in adopted.out
    assert place.run("run", manifest, "--limit", "5").code == 0
    check_appended(server.journal, rows)
    place.write(rows[0].audio, kept)
    place.path("other").mkdir()
    shutil.copytree(place.path("audio"), place.path("other/audio"))
    assert place.run("run", manifest, "--limit", "5").code == 0
    check_appended(server.journal, rows)
    check_job_ids(server.journal, read_results(results))


def test_what_was_in_flight_when_the_results_were_written_is_in_doubt(place: Place) -> None:
    """Results of a run that was killed are older than what it sent: its rows under way are not sent again."""
    rows = make_rows(place, 12, 12)
    write_manifest(place, "m.csv", rows)
    server = place.serve("--limit", "12", "--job-seconds", "30")
    place.use(server)
    place.run("run", "m.csv", "--limit", "4", "--no-wait", "--first", "4")
    results = place.path("m.results.csv")
    content = results.read_text()
    results.write_text(content.replace(",accepted,", ",sent,", 1))
    for path in place.ledger.parent.iterdir():
        path.unlink()
    assert "4 adopted" in place.run("ledger", "adopt", results).out
    place.run("run", "m.csv", "--limit", "12", "--no-wait", "--doubt-seconds", "1")
    check_appended(server.journal, rows)
    states = [line["status"] for line in read_results(results)]
    assert states.count("in_doubt") == 1


def test_results_of_an_older_copy_are_adopted_then_it_is_accepted(place: Place, server: Server) -> None:
    """Restored from yesterday's backup: refused, made good by the results, accepted, and nothing is appended twice."""
    rows = make_rows(place, 12, 12)
    write_manifest(place, "monday.csv", rows[:6])
    write_manifest(place, "tuesday.csv", rows[6:])
    write_manifest(place, "both.csv", rows)
    assert place.run("run", "monday.csv").code == 0
    assert place.run("ledger", "backup", "copy.db").code == 0
    assert place.run("run", "tuesday.csv").code == 0
    shutil.copy(place.path("copy.db"), place.ledger)
    refused = place.run("run", "both.csv")
    assert refused.code == 2
    assert "an older copy" in refused.err
    assert place.run("ledger", "check").code == 1
    assert "6 adopted" in place.run("ledger", "adopt", "tuesday.results.csv").out
    assert place.run("run", "both.csv").code == 2, "there may be more results to adopt"
    assert place.run("ledger", "check", "--accept").code == 0
    assert place.run("run", "both.csv").code == 0
    check_appended(server.journal, rows)


def test_a_rehearsals_results_are_not_adopted_for_the_service(place: Place) -> None:
    """They name jobs that the service never had."""
    write_manifest(place, "m.csv", make_rows(place, 1, 1))
    assert place.run("run", "m.csv", "--sandbox").code == 0
    assert "rehearsal" in place.run("ledger", "adopt", "m.sandbox.results.csv").err


@pytest.mark.parametrize("content", ["a,b\n1,2\n", "conversationId,jobId,status\nc,j,completed\n", "{}"])
def test_what_is_no_results_file_is_not_adopted(place: Place, content: str) -> None:
    """Exit 2, in words; no ledger is made for it."""
    ending = place.run("ledger", "adopt", place.write("x.csv", content))
    assert ending.code == 2
    assert "holds no results of the uploader: name another\n" in ending.err
    assert not place.ledger.exists()


def test_results_that_were_put_together_of_several_are_not_adopted(place: Place) -> None:
    """Two rows of one line belong to two manifests: it is said so, and is no fault of the ledger's disk."""
    row = "c,a.wav,job-1,completed,1,201,,10,,,,,,m.csv,2\n"
    place.write(
        "r.csv",
        (
            "conversationId,audioPath,jobId,status,attempts,httpStatus,error,bytes,durationSeconds,channels,"
            "billedSeconds,acceptedAt,finishedAt,batch,line\n" + row + row.replace("job-1", "job-2")
        ).encode(),
    )
    refused = place.run("ledger", "adopt", "r.csv")
    assert refused.code == 2
    assert "two rows have the line 2" in refused.err


def test_a_backup_beside_a_run_is_a_whole_ledger(place: Place) -> None:
    """It is one file, knows what was appended by then, and opens as a ledger that was closed."""
    rows = make_rows(place, 40, 20)
    write_manifest(place, "m.csv", rows)
    server = place.serve("--limit", "5")
    place.use(server)
    running = place.start("run", "m.csv", "--limit", "5")
    until(lambda: len(server.journal.appended()) > 10, "the run is under way")
    there = len(server.journal.appended())
    copy = place.path("copy.db")
    assert place.run("ledger", "backup", copy).code == 0
    assert place.run("ledger", "backup", copy).code == 2, "a copy that stands there is not replaced"
    checked = place.run("ledger", "check", "--ledger", url(copy))
    assert checked.code == 0
    assert "database  whole" in checked.out
    assert not list(place.folder.glob("copy.db-*"))
    known = [
        line
        for line in read_results_of(place, copy)
        if line["status"] in ("completed", "accepted", "sent", "sending", "in_doubt")
    ]
    assert len(known) >= there
    assert running.wait().code == 0


def read_results_of(place: Place, ledger: Path) -> list[dict[str, str]]:
    """The results that a ledger tells."""
    path = place.path("copy.results.csv")
    assert place.run("results", "--ledger", url(ledger), "--results", path).code == 0
    return read_results(path)


def test_a_damaged_ledger_is_told_by_check(place: Place, server: Server) -> None:
    """`ledger check` reads the whole database: exit 1, what is wrong, and what to do."""
    write_manifest(place, "m.csv", make_rows(place, 2, 2))
    assert place.run("run", "m.csv").code == 0
    content = bytearray(place.ledger.read_bytes())
    content[-3000:] = b"\xff" * 3000
    place.ledger.write_bytes(content)
    ending = place.run("ledger", "check")
    assert ending.code in (1, 5), ending.out + ending.err
    assert "restore a copy" in ending.out + ending.err


def test_an_earlier_version_is_upgraded_by_name(place: Place) -> None:
    """Readers of an earlier ledger are told the command; it makes a copy and migrates, and reading works."""
    restore(place.ledger, OLDEST, place.folder)
    statuses = place.run("status")
    assert statuses.code == 2
    assert "uploader ledger upgrade" in statuses.err
    assert place.run("ledger", "upgrade").code == 0
    assert place.ledger.with_name(f"ledger.db.version-{OLDEST}").exists()
    assert place.run("status").code in (0, 1, 4, 5)


@pytest.mark.parametrize("target", ["missing/copy.db", "m.csv/copy.db"])
def test_a_backup_that_has_no_place_is_a_slip_of_the_command(place: Place, server: Server, target: str) -> None:
    """A folder that does not exist is no full disk: exit 2 with the remedy, without an errno, and nothing is made."""
    write_manifest(place, "m.csv", make_rows(place, 1, 1))
    assert place.run("run", "m.csv").code == 0
    ending = place.run("ledger", "backup", target)
    assert (ending.code, "Errno" in ending.err) == (2, False)
    assert "name a new file in a folder that exists" in ending.err
    assert not place.path("missing").exists()


def test_a_check_for_a_machine_says_what_a_person_reads(place: Place, server: Server) -> None:
    """`ledger check --json`: whole or what is damaged, the runs it has seen, and the exit code."""
    write_manifest(place, "m.csv", make_rows(place, 1, 1))
    assert place.run("run", "m.csv").code == 0
    ending = place.run("ledger", "check", "--json")
    whole = {"exitCode": 0, "damage": None, "doubt": None, "runs": 1, "running": False, "lastRunEnded": True}
    assert (ending.code, ending.summary | whole) == (0, ending.summary)
    assert ending.summary["bytes"] == place.ledger.stat().st_size
