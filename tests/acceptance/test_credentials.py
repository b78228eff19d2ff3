"""Secrets that change or end while a batch runs: taken up where they can be, told where not, and never shown."""

from collections import Counter
from pathlib import Path

import pytest

from tests.acceptance.batches import make_rows, statuses, write_manifest
from tests.acceptance.judging import check_appended, check_one_at_a_time
from tests.acceptance.place import Ending, Place, Server, until
from uploader.sandbox.entries import PutEntry, TokenEntry

OLD, NEW = "the-old-secret-of-monday", "the-new-secret-of-tuesday"
SHOWN_BY_NONE = (OLD, NEW, "sandbox-token-")


def _give(path: Path, secret: str) -> None:
    """Write a secret as those do who rotate it: whole, and with the line end of an editor."""
    beside = path.with_suffix(".new")
    beside.write_text(f"{secret}\n")
    beside.replace(path)


def _serve(place: Place, *arguments: str) -> Server:
    """A sandbox that takes the secret from a file of its own; the uploader has it in another."""
    for name in ("theirs", "ours"):
        _give(place.path(name), OLD)
    server = place.serve("--secret-file", "theirs", "--limit", "4", *arguments)
    place.use(server)
    place.environment["UPLOADER_APP_SECRET_FILE"] = str(place.path("ours"))
    return server


def _check_unseen(place: Place, ending: Ending) -> None:
    """Neither output nor log, results nor ledger has a secret or a token in it."""
    shown = [ending.out.encode(), ending.err.encode()]
    shown += [path.read_bytes() for path in (place.path("m.results.csv"), *place.ledger.parent.iterdir())]
    assert [word for word in SHOWN_BY_NONE for text in shown if word.encode() in text] == []


def test_a_secret_that_is_rotated_while_the_batch_runs_is_taken_up(place: Place) -> None:
    """The service ends the token with the old secret; the run reads the file again, and appends everything once."""
    rows = make_rows(place, 60, 30)
    write_manifest(place, "m.csv", rows)
    server = _serve(place)
    running = place.start("run", "m.csv", "--limit", "4", "--log-level", "debug")
    until(lambda: len(server.journal.appended()) >= 10, "ten items are appended")
    _give(place.path("theirs"), NEW)
    _give(place.path("ours"), NEW)
    ending = running.wait()
    assert ending.code == 0, ending.err
    check_appended(server.journal, rows)
    check_one_at_a_time(server.journal)
    assert [entry.status for entry in server.journal.entries if isinstance(entry, TokenEntry)].count(200) == 2
    _check_unseen(place, ending)


def test_a_secret_that_was_taken_away_ends_with_3_and_loses_nothing(place: Place) -> None:
    """A 401 that stays: nothing new starts, what is under way ends as the service says, the rest is pending."""
    rows = make_rows(place, 60, 30)
    write_manifest(place, "m.csv", rows)
    server = _serve(place)
    place.environment["UPLOADER_APP_SECRET"] = OLD
    del place.environment["UPLOADER_APP_SECRET_FILE"]
    running = place.start("run", "m.csv", "--limit", "4")
    until(lambda: len(server.journal.appended()) >= 10, "ten items are appended")
    _give(place.path("theirs"), NEW)
    ending = running.wait()
    assert ending.code == 3, ending.err
    assert "UPLOADER_APP_SECRET" in ending.out
    ended = Counter(entry.status for entry in server.journal.entries if isinstance(entry, PutEntry))
    # what waited for its slot was cut before its last chunk
    assert set(ended) <= {201, 401, None}
    assert sum(ended.values()) == len(server.journal.begun_puts())
    by_status = Counter(statuses(place.path("m.results.csv")))
    assert by_status["completed"] + by_status["accepted"] == ended[201]
    assert by_status["pending"] == len(rows) - ended[201]
    _check_unseen(place, ending)

    place.environment["UPLOADER_APP_SECRET"] = NEW
    assert place.run("run", "m.csv", "--limit", "4").code == 0
    check_appended(server.journal, rows)


def test_a_cached_token_with_seconds_left_is_renewed_in_time(place: Place) -> None:
    """Tokens that are nearly over when they come, again and again: every item once, and few requests for them."""
    rows = make_rows(place, 40, 20)
    write_manifest(place, "m.csv", rows)
    server = _serve(place, "--token-left", "1.5", "--token-seconds", "2", "--job-seconds", "0.2")
    assert place.run("run", "m.csv", "--limit", "4").code == 0
    check_appended(server.journal, rows)
    asked = [entry.at for entry in server.journal.entries if isinstance(entry, TokenEntry)]
    assert len(asked) <= 4 + 4 * (asked[-1] - asked[0])


@pytest.mark.parametrize(
    ("environment", "words"),
    [
        ({"UPLOADER_SECRETS_DIR": "nowhere"}, ["UPLOADER_SECRETS_DIR", "nowhere", "name a folder"]),
        ({"UPLOADER_APP_SECRET_FILE": "missing"}, ["UPLOADER_APP_SECRET_FILE", "missing", "name a file"]),
        ({"UPLOADER_APP_ID": ""}, ["UPLOADER_APP_ID is missing"]),
        ({"UPLOADER_LEDGER": f"mysql://u:{OLD}@h/d"}, ["UPLOADER_LEDGER", "mysql://…@h/d"]),
    ],
    ids=["folder", "file", "half", "ledger"],
)
def test_secrets_that_cannot_be_had_end_with_2(place: Place, environment: dict[str, str], words: list[str]) -> None:
    """Before anything is sent: what is wrong, where, and what to do, without the secret."""
    server = _serve(place)
    write_manifest(place, "m.csv", make_rows(place, 1, 1))
    ending = place.run("run", "m.csv", environment=environment)
    assert ending.code == 2
    assert [word for word in words if word not in ending.err] == []
    assert OLD not in ending.err
    assert server.journal.entries == []
