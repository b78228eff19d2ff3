"""`uploader work`: one more worker on a ledger, for every batch in it, until it is stopped."""

import json
import re
import shlex
import signal
import time
from math import ceil

import pytest

from tests.acceptance.batches import make_rows, read_results, write_manifest
from tests.acceptance.judging import (
    check_appended,
    check_interrupted,
    check_job_ids,
    check_limit,
    check_one_at_a_time,
)
from tests.acceptance.place import Place, until
from tests.acceptance.test_reporting import hook
from tests.acceptance.test_sending_ahead import clock_before_six
from tests.acceptance.test_status_page import fetched
from tests.acceptance.test_webhook import listening, polls, polls_after_the_end_was_told
from tests.integration.servers import free_port

LIMIT = 4
WORK = ("work", "--json", "--log-level", "info")


def counts(place: Place, batch: str) -> dict[str, int]:
    """Return the items of a batch by state, as `status` shows them."""
    found = json.loads(place.run("status", "--batch", batch, "--json").out)
    return {name: count for name, count in found["batches"][0]["counts"].items() if count}


def begun(place: Place, number: int = 1) -> bool:
    """Return True once so many workers are on the ledger."""
    return len(json.loads(place.run("status", "--json").out)["workers"]) >= number


def test_a_worker_carries_what_killed_runs_have_left_and_what_is_loaded_later(place_of: Place) -> None:
    """It goes on with all batches, in order and within the limit of the runs, and SIGTERM ends it with 143."""
    monday, tuesday = make_rows(place_of, 16, 6), make_rows(place_of, 16, 8, seed=9, folder="other")
    for name, rows in (("monday.csv", monday), ("tuesday.csv", tuesday)):
        write_manifest(place_of, name, rows)
    server = place_of.serve("--limit", str(LIMIT), "--job-seconds", "0.5")
    place_of.use(server)
    killed = place_of.start("run", "monday.csv", "--limit", str(LIMIT), "--results", "cut.csv")
    # some jobs have ended: a doubt holds its slot for three times as long as they took
    until(lambda: len(server.journal.appended()) >= 8, "the run is in its work")
    killed.stop(signal.SIGKILL)
    worker = place_of.start(*WORK)
    until(lambda: begun(place_of), "the worker is on the ledger")
    loads = place_of.start("run", "tuesday.csv", "--limit", str(LIMIT))
    until(lambda: begun(place_of, 2), "the second batch is loaded")
    loads.stop(signal.SIGKILL)

    def is_over() -> bool:
        found = [counts(place_of, name) for name in ("monday.csv", "tuesday.csv")]
        return not any(set(states) & {"pending", "sending", "sent", "accepted"} for states in found)

    until(is_over, "the worker has carried both batches to their ends")
    ending = worker.stop()
    assert ending.code == 143, ending.err
    summary = ending.summary
    assert summary["completed"] > 0
    assert summary["attempts"]["applied"] <= len(server.journal.appended())
    assert (summary["limit"]["configured"], summary["failed"]) == (LIMIT, 0)
    assert [event["exitCode"] for event in ending.events("run.ended")] == [143]
    found = []
    for name in ("monday.csv", "tuesday.csv"):
        assert place_of.run("results", "--batch", name, "--results", "found.csv").code == 0
        found += read_results(place_of.path("found.csv"))
    check_interrupted(server.journal, [*monday, *tuesday], found)
    check_limit(server.journal, LIMIT)
    check_one_at_a_time(server.journal)
    status = json.loads(place_of.run("status", "--json").out)
    assert (status["running"], status["workers"]) == (False, [])


def test_a_worker_beside_a_run_takes_part_in_its_batch(place_of: Place) -> None:
    """Both carry it, the limit is full and never exceeded, nothing is twice; the run ends with whole results."""
    rows = make_rows(place_of, 11, 8)
    write_manifest(place_of, "first.csv", rows[:1])
    write_manifest(place_of, "m.csv", rows)
    server = place_of.serve("--limit", str(LIMIT), "--job-seconds", "3", "--round-trip", "0.3")
    place_of.use(server)
    # one upload at a time over a long line: the run alone could not fill the account
    alone = ("--uploads", "1", "--send-ahead", "off")
    words = ("--limit", str(LIMIT), *alone)
    assert place_of.run("run", "first.csv", *words).code == 0
    # before the run, which a slow machine could end before the worker has begun
    worker = place_of.start(*WORK, *alone)
    until(lambda: begun(place_of), "the worker is on the ledger")
    ended = place_of.run("run", "m.csv", *words, "--results", "r.csv")
    ending = worker.stop()
    assert (ended.code, ending.code) == (0, 143), ended.err + ending.err
    assert 0 < ending.summary["attempts"]["applied"] < len(rows) - 1
    check_appended(server.journal, rows)
    check_job_ids(server.journal, read_results(place_of.path("r.csv")))
    check_limit(server.journal, LIMIT)
    assert server.journal.peak_live() == LIMIT
    check_one_at_a_time(server.journal)


def test_a_recording_that_this_host_lacks_stays_pending(place: Place) -> None:
    """A worker without the mount refuses nothing, says so once, and sends once the recordings are there."""
    rows = make_rows(place, 6, 3)
    write_manifest(place, "m.csv", rows)
    server = place.serve("--limit", str(LIMIT), "--job-seconds", "0.1")
    place.use(server)
    loads = place.run("run", "m.csv", "--limit", str(LIMIT), "--first", "1")
    assert loads.code == 6
    [folder] = {place.path(row.audio).parent for row in rows}
    away = folder.with_name("away")
    folder.rename(away)
    worker = place.start(*WORK)
    until(lambda: "recording.elsewhere" in worker.err.read_text(encoding="utf-8"), "the worker says it")
    until(lambda: worker.err.read_text(encoding="utf-8").count('"attempt.ended"') > 4, "it has tried all lanes")
    # a lane that is tried again is under way for a moment
    until(lambda: counts(place, "m.csv") == {"completed": 1, "pending": 5}, "all that it has tried is pending")
    assert len(server.journal.puts()) == 1
    away.rename(folder)
    until(lambda: counts(place, "m.csv") == {"completed": 6}, "it has sent them")
    ending = worker.stop(signal.SIGINT)
    assert (ending.code, len(ending.events("recording.elsewhere"))) == (130, 1)
    check_appended(server.journal, rows)


def test_a_worker_with_nothing_to_do_asks_the_service_for_nothing(place: Place) -> None:
    """It fetches its token, and waits; a later load is carried without a restart."""
    rows = make_rows(place, 4, 2)
    write_manifest(place, "first.csv", rows[:1])
    write_manifest(place, "m.csv", rows)
    server = place.serve("--limit", "2", "--job-seconds", "0.1")
    place.use(server)
    assert place.run("run", "first.csv").code == 0
    since = server.from_now_on()
    worker = place.start(*WORK)
    until(lambda: begun(place), "the worker is on the ledger")
    until(lambda: since.lines() > since.since, "it has its token")
    assert place.run("status").code == 0
    assert [entry for entry in since.journal.entries if getattr(entry, "conversation_id", None)] == []
    assert place.run("run", "m.csv", "--no-wait").code == 0
    until(lambda: counts(place, "m.csv") == {"completed": 4}, "the batch has ended")
    assert worker.stop(signal.SIGHUP).code == 129
    check_appended(server.journal, rows)


def test_a_worker_ends_with_3_where_the_credentials_are_wrong(place: Place) -> None:
    """It tells the reason; the others' work is not touched."""
    write_manifest(place, "m.csv", make_rows(place, 1, 1))
    place.use(place.serve())
    assert place.run("run", "m.csv").code == 0
    place.environment["UPLOADER_APP_SECRET"] = "wrong"
    ending = place.run(*WORK)
    assert (ending.code, ending.summary["exitCode"]) == (3, 3)
    assert [event["account"] for event in ending.events("account.ended")] == ["default"]


def test_a_worker_makes_no_ledger(place: Place) -> None:
    """Where there is none it names the remedy, and leaves nothing behind."""
    place.use(place.serve())
    ending = place.run("work")
    assert ending.code == 2
    assert "there is none yet: `uploader run MANIFEST` makes it" in ending.err
    assert list(place.folder.rglob("*.db*")) == []


def test_a_worker_starts_nothing_new_after_a_time(place: Place) -> None:
    """At `--until` it follows its jobs to their ends, and ends with 6 where something is left, else with 0."""
    rows = make_rows(place, 30, 1)
    write_manifest(place, "m.csv", rows)
    server = place.serve("--limit", "1", "--job-seconds", "1")
    place.use(server)
    begun_at = time.monotonic()
    assert place.run("run", "m.csv", "--limit", "1", "--first", "1").code == 6
    # as much as this machine needs to begin, and then for some jobs
    seconds = 4 + ceil(3 * (time.monotonic() - begun_at))
    ending = place.run(*WORK, "--until", "06:00", environment=clock_before_six(seconds))
    states = counts(place, "m.csv")
    assert ending.code == 6, ending.err
    assert set(states) == {"completed", "pending"}
    assert states["completed"] == len(server.journal.appended()) > 1
    assert ending.summary["reason"] == "--until 06:00: nothing new starts after it"


def test_the_page_of_a_worker_shows_all_batches_that_are_not_over(place: Place) -> None:
    """Those of the moment: one that is loaded later comes, and one that is over goes."""
    port = free_port()
    rows = make_rows(place, 4, 2)
    write_manifest(place, "first.csv", rows[:1])
    write_manifest(place, "m.csv", rows)
    place.use(place.serve("--limit", "2", "--job-seconds", "3"))
    assert place.run("run", "first.csv").code == 0
    worker = place.start(*WORK, "--status", f"127.0.0.1:{port}", "--metrics", "work.prom")

    def shown() -> list[str]:
        status, text = fetched(port, "/status.json")
        return list(json.loads(text)["run"]["batches"]) if status == 200 else ["(none yet)"]

    until(lambda: shown() == [], "the page is served, and shows no batch")
    assert place.run("run", "m.csv", "--no-wait").code == 0
    until(lambda: shown() == ["m.csv"], "the page shows the batch")
    until(lambda: shown() == [], "the batch is over")
    assert fetched(port, "/metrics")[0] == 200
    assert worker.stop().code == 143
    assert "uploader_last_run_exit_code 143.0" in place.path("work.prom").read_text(encoding="utf-8")


def test_a_worker_tells_the_outside_of_its_end_and_of_what_needs_a_person(place: Place) -> None:
    """`--notify`: a batch's doubt as it comes, the end by a signal, and a worker that could not begin."""
    rows = make_rows(place, 6, 6)
    write_manifest(place, "m.csv", rows)
    with hook() as receiver:
        place.environment["UPLOADER_NOTIFY"] = receiver.address
        ending = place.run("work")
        assert ending.code == 2
        assert receiver.posted[0]["exitCode"] == 2
        assert "there is none yet" in receiver.posted[0]["reason"]
        place.use(place.serve("--limit", "5", faults="[put]\nlost_answer = 1.0\n"))
        assert place.run("run", "m.csv", "--first", "1", "--doubt-seconds", "0.1").code == 6
        del receiver.posted[:]
        worker = place.start(*WORK, "--doubt-seconds", "1")
        until(lambda: bool(receiver.posted), "a doubt is told", seconds=60)
        (told,) = receiver.posted
        assert (told["event"], told["batch"], told["needsPerson"][0]["batch"]) == ("needs_person", None, "m.csv")
        assert "all batches: something needs a person" in told["text"]
        ending = worker.stop()
    assert [told["event"] for told in receiver.posted] == ["needs_person", "ended"]
    assert receiver.posted[-1]["exitCode"] == ending.code == 143
    assert receiver.posted[-1]["run"] == ending.summary["run"]


def test_a_worker_is_called_by_the_jobs_of_its_attempts(place: Place) -> None:
    """Each address is the worker's, and the ends come by callbacks: no job is asked for after its end was told."""
    rows = make_rows(place, 20, 10)
    write_manifest(place, "m.csv", rows)
    server = place.serve("--limit", "5", "--job-seconds", "1")
    place.use(server)
    assert place.run("run", "m.csv", "--first", "1").code == 6
    before = polls(server)
    flags = listening(free_port())
    address = flags[-1].partition("?")[0]
    worker = place.start(*WORK, "--limit", "5", *flags)
    until(lambda: counts(place, "m.csv") == {"completed": 20}, "the batch has ended")
    assert worker.stop().code == 143
    check_appended(server.journal, rows)
    check_one_at_a_time(server.journal)
    urls = [dict(put.query).get("webhookUrl", "") for put in server.journal.puts()]
    assert len({url for url in urls if url.startswith(address)}) == len(rows) - 1
    assert {(call.job, call.status) for call in server.journal.calls()} >= {("completed", 200)}
    assert polls(server) - before <= 0.5 * len(rows)
    assert polls_after_the_end_was_told(server) == {}


@pytest.mark.policy
def test_a_worker_names_what_needs_a_person_at_its_end(place_of: Place) -> None:
    """Items in doubt, and those held behind them, stand in its closing words, with the command that lists them."""
    write_manifest(place_of, "m.csv", make_rows(place_of, 6, 2))
    place_of.use(place_of.serve("--limit", str(LIMIT), faults="[put]\nlost_answer = 1.0\n"))
    assert place_of.run("run", "m.csv", "--limit", str(LIMIT), "--doubt-seconds", "1").code == 4
    worker = place_of.start(*(word for word in WORK if word != "--json"))
    until(lambda: begun(place_of), "the worker is on the ledger")
    ending = worker.stop()
    assert "; 2 items need a person's decision, and 4 are held behind them." in ending.out
    [command] = re.findall(r"^  next +uploader (resolve.*)$", ending.out, re.MULTILINE)
    listed = place_of.run(*shlex.split(command))
    assert (listed.code, listed.out.count("in doubt\n")) == (1, 2)
