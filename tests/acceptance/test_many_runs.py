"""Several runs on one ledger at once, of one manifest or of several: the promises hold for all of them together."""

import json
import os
import signal
from typing import Any

from sqlalchemy import select

from tests.acceptance.batches import make_rows, read_results, write_manifest
from tests.acceptance.judging import (
    check_appended,
    check_interrupted,
    check_job_ids,
    check_limit,
    check_one_at_a_time,
)
from tests.acceptance.place import Place, until
from uploader.ledger import Ledger
from uploader.ledger.schema import attempts

LIMIT = 4


def test_one_manifest_in_three_places_is_appended_once_and_each_writes_its_results(place_of: Place) -> None:
    """Each ends when the batch has ended, whoever has carried what, and the results of each are whole."""
    rows = make_rows(place_of, 40, 12)
    write_manifest(place_of, "m.csv", rows)
    server = place_of.serve("--limit", str(LIMIT), "--job-seconds", "0.2")
    place_of.use(server)
    results = [f"results-{number}.csv" for number in range(3)]
    words = ("run", "m.csv", "--limit", str(LIMIT), "--json", "--results")
    endings = [run.wait() for run in [place_of.start(*words, name) for name in results]]
    assert [ending.code for ending in endings] == [0, 0, 0], [ending.err for ending in endings]
    check_appended(server.journal, rows)
    check_limit(server.journal, LIMIT)
    check_one_at_a_time(server.journal)
    for name in results:
        check_job_ids(server.journal, read_results(place_of.path(name)))


def test_who_needs_the_ledger_alone_notices_a_run_that_still_reads_its_manifest(place_of: Place) -> None:
    """Its rows are matched to the items as it finds them: adopt beside it ends with 6, and works once it is over."""
    rows = make_rows(place_of, 4, 2)
    manifest = write_manifest(place_of, "m.csv", rows)
    server = place_of.serve()
    place_of.use(server)
    assert place_of.run("run", "m.csv", "--first", "2").code == 6
    os.mkfifo(place_of.path("fed.csv"))
    running = place_of.start("run", "fed.csv", "--batch", "m.csv", "--results", "m.results.csv")
    with place_of.path("fed.csv").open("wb") as feeding:  # opened once the run reads it
        busy = place_of.run("ledger", "adopt", "m.results.csv")
        assert (busy.code, "a run is at work on it" in busy.err) == (6, True)
        assert place_of.run("status", "--json").summary["running"] is True
        feeding.write(manifest.read_bytes())
    assert running.wait().code == 0, running.err.read_text()
    assert place_of.run("ledger", "adopt", "m.results.csv").code == 0
    check_appended(server.journal, rows)


def test_several_batches_at_once_share_the_account(place_of: Place) -> None:
    """Conversations that both have stay in order, the limit holds for both, and each ends with its own batch."""
    monday, tuesday = make_rows(place_of, 16, 6), make_rows(place_of, 16, 8, seed=9, folder="other")
    for name, rows in (("monday.csv", monday), ("tuesday.csv", tuesday)):
        write_manifest(place_of, name, rows)
    server = place_of.serve("--limit", str(LIMIT), "--job-seconds", "0.2")
    place_of.use(server)
    first = place_of.start("run", "monday.csv", "--limit", str(LIMIT), "--json")
    until(lambda: bool(server.journal.appended()), "the first run is in its work")
    second = place_of.start("run", "tuesday.csv", "--limit", str(LIMIT), "--json")
    until(lambda: len(json.loads(place_of.run("status", "--json").out)["workers"]) > 1, "status shows both workers")
    endings = [first.wait(), second.wait()]
    assert [(ending.code, ending.summary["batch"]) for ending in endings] == [(0, "monday.csv"), (0, "tuesday.csv")]
    check_limit(server.journal, LIMIT)
    check_one_at_a_time(server.journal)
    check_appended(server.journal, [*monday, *tuesday])
    status = json.loads(place_of.run("status", "--json").out)
    assert (status["running"], status["workers"], status["exitCode"]) == (False, [], 0)


def test_others_may_look_while_a_run_is_on(place: Place) -> None:
    """Status and results work beside a run; what needs the ledger for itself ends with 6, and changes nothing."""
    rows = make_rows(place, 6, 2)
    write_manifest(place, "m.csv", rows)
    server = place.serve("--limit", "2", "--job-seconds", "1.5")
    place.use(server)
    run = place.start("run", "m.csv", "--limit", "2")
    until(lambda: bool(server.journal.appended()), "the run is in its work")
    status = place.run("status", "--json")
    results = place.run("results", "--results", "beside.jsonl")
    alone = place.run("ledger", "check", "--accept")
    assert (status.code, json.loads(status.out)["running"]) == (6, True)
    [worker] = json.loads(status.out)["workers"]
    assert (worker["batch"], worker["alive"]) == ("m.csv", True)
    assert results.code == 0
    assert [line["audioPath"] for line in read_results(place.path("beside.jsonl"))] == [row.audio for row in rows]
    assert (alone.code, "a run is at work on it" in alone.err) == (6, True)
    assert run.wait().code == 0
    check_appended(server.journal, rows)


def test_when_one_of_several_is_killed_the_others_carry_on(place_of: Place) -> None:
    """On its host it is known to be dead at once: its jobs are followed, and what it sent is sent again or in doubt."""
    rows = make_rows(place_of, 40, 12)
    write_manifest(place_of, "m.csv", rows)
    server = place_of.serve("--limit", str(LIMIT), "--job-seconds", "0.3")
    place_of.use(server)
    words = ("run", "m.csv", "--limit", str(LIMIT), "--json", "--results")
    stays, dies = (place_of.start(*words, f"{name}.csv") for name in ("stays", "dies"))
    until(lambda: len(server.journal.appended()) >= 10, "both are in their work")
    dies.process.send_signal(signal.SIGKILL)
    dies.wait()
    ending = stays.wait()
    found = read_results(place_of.path("stays.csv"))
    assert ending.code in (0, 4), ending.err
    assert {line["status"] for line in found} <= {"completed", "in_doubt", "held"}
    check_interrupted(server.journal, rows, found)
    check_limit(server.journal, LIMIT)
    check_one_at_a_time(server.journal)


def test_a_run_that_comes_later_gets_its_part_of_a_full_account(place_of: Place) -> None:
    """The first one sends bodies ahead for its jobs' ends; once the second has begun, both carry about as many."""
    rows = make_rows(place_of, 72, 36)
    write_manifest(place_of, "m.csv", rows)
    server = place_of.serve("--limit", str(LIMIT), "--job-seconds", "1")
    place_of.use(server)
    words = ("run", "m.csv", "--limit", str(LIMIT), "--json", "--results")
    first = place_of.start(*words, "first.results.csv")
    until(lambda: len(server.journal.appended()) >= 2 * LIMIT, "the first run has filled the account again and again")
    second = place_of.start(*words, "second.results.csv")
    assert [run.wait().code for run in (first, second)] == [0, 0]
    check_appended(server.journal, rows)
    check_limit(server.journal, LIMIT)
    check_one_at_a_time(server.journal)
    begun = attempts_by_worker(place_of)
    earlier, later = begun[min(begun)], begun[max(begun)]
    beside = [attempt for attempt in earlier if attempt.id >= later[0].id]
    assert 0.6 < len(later) / len(beside) < 1.7, "each has half of the slots"
    in_vain = [attempt for attempt in (*earlier, *later) if attempt.admitted_at is None]
    assert len(in_vain) <= LIMIT, "bodies of one do not wait for slots that the other takes"


def attempts_by_worker(place: Place) -> dict[int, list[Any]]:
    """Return the attempts of each worker, in the order begun, by the ledger."""
    url = place.environment.get("UPLOADER_LEDGER", f"sqlite:///{place.ledger}")
    with Ledger.open_for_reading(url) as ledger, ledger.reading() as connection:
        found = connection.execute(select(*attempts.c["id", "worker_id", "admitted_at"]).order_by(attempts.c.id)).all()
    return {worker: [row for row in found if row.worker_id == worker] for worker in {row.worker_id for row in found}}
