"""`uploader insights`: every conversation's file, whole or not there, and nothing asked twice."""

import json
import signal
import stat
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from tests.acceptance.batches import Row, make_rows, write_manifest
from tests.acceptance.place import Place, Server, until
from uploader.policy.parts import PARTS

FAST = {"UPLOADER_INSIGHTS__REQUESTS_PER_SECOND": "1000"}
RUN = ("run", "m.csv", "--limit", "8", "--json")
ALL_OF_IT = {None, *(part.path for part in PARTS)}


def run_batch(place: Place, files: int, conversations: int) -> Sequence[Row]:
    """Append a batch to its end."""
    rows = make_rows(place, files, conversations)
    write_manifest(place, "m.csv", rows)
    assert place.run(*RUN).code == 0
    return rows


def whole_files(folder: Path) -> Mapping[str, Mapping[str, Any]]:
    """The files by their conversations; half a file is an error."""
    found = [json.loads(path.read_text(encoding="utf-8")) for path in folder.glob("*.json")]
    return {conversation["conversationId"]: conversation for conversation in found}


def test_one_command_fetches_the_insights_of_a_batch(place: Place) -> None:
    """A file a conversation beside the results, for its owner alone, with what the service has; each asked for once."""
    server = place.serve("--limit", "50")  # one that knows of no other test's appends
    place.use(server)
    rows = run_batch(place, 8, 3)
    ending = place.run("insights", "--json", environment=FAST)
    assert ending.code == 0, ending.err
    folder = place.path("m.insights")
    expected = {"batch": "m.csv", "exitCode": 0, "folder": "m.insights", "conversations": 3, "written": 3, "leftOut": 0}
    assert {name: ending.summary[name] for name in expected} == expected
    looks = Counter((look.conversation_id, look.part) for look in server.journal.looks())
    conversations = {row.conversation for row in rows}
    assert looks == {(conversation, part): 1 for conversation in conversations for part in ALL_OF_IT}
    files = whole_files(folder)
    appended = Counter(put.conversation_id for put in server.journal.appended())
    assert {conversation: len(file["messages"]["messages"]) for conversation, file in files.items()} == appended
    assert {conversation: file["completed"]["items"] for conversation, file in files.items()} == appended
    jobs = {put.job_id for put in server.journal.appended()}
    assert {message["id"] for file in files.values() for message in file["messages"]["messages"]} == jobs
    assert {stat.S_IMODE(path.stat().st_mode) for path in folder.iterdir()} == {0o600}
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert "transcribe" not in ending.err
    assert str(place.folder) not in ending.err


def test_what_was_killed_goes_on_with_whole_files(place: Place, server: Server) -> None:
    """`kill -9` three times: whole files alone; what has one is not asked for again; in the end all have theirs."""
    rows = run_batch(place, 24, 24)
    slow = {"UPLOADER_INSIGHTS__REQUESTS_PER_SECOND": "150"}
    done, looks_before = set[str](), 0
    for enough in (2, 8, 14):
        running = place.start("insights", "out", environment=slow)
        until(
            lambda least=enough: len(list(place.path("out").glob("*.json"))) >= least,  # type: ignore[misc]
            "some files are written",
        )
        assert running.stop(signal.SIGKILL).code == -signal.SIGKILL
        asked_since = {look.conversation_id for look in server.journal.looks()[looks_before:]}
        assert not asked_since & done
        looks_before = len(server.journal.looks())
        done = set(whole_files(place.path("out")))
        assert enough <= len(done) < len(rows)
    assert place.run("insights", "out", environment=FAST).code == 0
    asked_since = {look.conversation_id for look in server.journal.looks()[looks_before:]}
    assert asked_since == {row.conversation for row in rows} - done
    assert set(whole_files(place.path("out"))) == {row.conversation for row in rows}
    assert all(path.suffix == ".json" and not path.name.startswith(".") for path in place.path("out").iterdir())


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_ends_it_cleanly(place: Place, server: Server, number: int, code: int) -> None:
    """Whole files, a closing summary that counts them, the signal's code; the same command goes on."""
    rows = run_batch(place, 12, 12)
    slow = {"UPLOADER_INSIGHTS__REQUESTS_PER_SECOND": "50"}
    running = place.start("insights", "out", "--json", environment=slow)
    until(lambda: len(list(place.path("out").glob("*.json"))) >= 2, "some files are written")
    ending = running.stop(number)
    assert (ending.code, ending.summary["exitCode"]) == (code, code)
    files = whole_files(place.path("out"))
    assert 2 <= ending.summary["written"] == len(files) < len(rows)
    again = place.run("insights", "out", "--json", environment=FAST)
    assert (again.code, again.summary["upToDate"]) == (0, len(files))
    times = Counter((look.conversation_id, look.part) for look in server.journal.looks())
    assert {times[conversation, None] for conversation in files} == {1}


def test_live_jobs_leave_a_conversation_out_until_they_have_ended(place: Place) -> None:
    """Exit 1 and a clear word once a run was stopped; when the jobs have ended the same command writes the rest."""
    rows = make_rows(place, 4, 2)
    write_manifest(place, "m.csv", rows)
    server = place.serve("--limit", "8", "--job-seconds", "6")
    place.use(server)
    running = place.start(*RUN)
    until(lambda: len(server.journal.appended()) == 4, "each conversation has a completed and a live job")
    # stopped: whether the jobs have ended by now, the ledger does not know
    assert running.stop(signal.SIGTERM).code == 143
    ending = place.run("insights", "out", "--json", environment=FAST)
    assert (ending.code, ending.summary["leftOut"], list(place.path("out").iterdir())) == (1, 2, [])
    assert "a job that may still run" in ending.summary["leftOutExamples"][0]["reason"]
    assert server.journal.looks() == []
    assert place.run(*RUN).code == 0
    outcome = place.run("insights", "out", environment=FAST)
    assert (outcome.code, outcome.out.splitlines()[0]) == (
        0,
        "m.csv: 2 conversations: 2 written, 0 up to date, 0 left out",
    )


def test_what_it_cannot_do_is_told_by_its_code(place: Place, server: Server) -> None:
    """2 for usage, another service's batch and a folder that is none; 3 for credentials that are not taken."""
    run_batch(place, 2, 2)
    tries: list[tuple[int, tuple[str, ...], dict[str, str], str]] = [
        (2, ("--only", "topicz"), {}, "did you mean topics?"),
        (2, ("--batch", "other.csv"), {}, "it has: m.csv"),
        (2, ("--base-url", "http://127.0.0.1:1"), {}, "it has batches of http://127.0.0.1:"),
        (2, ("m.csv",), {}, "name another"),
        (3, (), {"UPLOADER_APP_SECRET": "wrong"}, "UPLOADER_APP_SECRET"),
    ]
    for code, arguments, environment, word in tries:
        ending = place.run("insights", *arguments, environment={**FAST, **environment})
        assert (ending.code, word in ending.out + ending.err) == (code, True), (arguments, ending)
    del place.environment["UPLOADER_APP_SECRET"]
    none = place.run("insights")
    assert (none.code, "no credentials" in none.err) == (2, True)
    assert server.journal.looks() == []


def test_a_service_that_is_gone_is_given_up_and_the_files_stay(place: Place) -> None:
    """Exit 5 after give_up_seconds; what was written stays."""
    run_rows = make_rows(place, 2, 2)
    write_manifest(place, "m.csv", run_rows)
    server = place.serve("--limit", "8")
    place.use(server)
    assert place.run(*RUN).code == 0
    assert place.run("insights", "--only", "messages,members", environment=FAST).code == 0
    server.running.stop()
    ending = place.run("insights", "--give-up-seconds", "0.5", "--json", environment=FAST)
    assert (ending.code, ending.summary["exitCode"]) == (5, 5)
    assert "give_up_seconds" in ending.summary["reason"]
    assert set(whole_files(place.path("m.insights"))) == {row.conversation for row in run_rows}


def test_a_batch_without_a_completed_item_is_told_why_nothing_is_fetched(place: Place) -> None:
    """With live jobs alone nothing is fetched: the summary says so, and the exit code is no success."""
    place.use(place.serve("--limit", "50", "--job-seconds", "3600"))
    write_manifest(place, "m.csv", make_rows(place, 2, 2))
    assert place.run(*RUN, "--no-wait").code == 0
    ending = place.run("insights", environment=FAST)
    assert (ending.code, "no item of the batch has completed: 2 accepted" in ending.out) == (1, True)
    summary = place.run("insights", "--json", environment=FAST).summary
    assert (summary["exitCode"], summary["conversations"]) == (1, 0)
    assert "2 accepted" in summary["reason"]
