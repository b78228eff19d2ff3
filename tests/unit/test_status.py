"""What summary, status and progress tell of a run: words that are true of it, and what to type next."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import datetime

import pytest

from uploader.errors import ExitCode
from uploader.ledger.leases import WorkerFacts
from uploader.ledger.reading import AccountFacts, BatchFacts, Trouble
from uploader.ledger.standing import Standing, Tally
from uploader.model import LimitFacts, State
from uploader.status.formatting import format_limit, format_slot_first, limit_json
from uploader.status.overview import Overview
from uploader.status.progress import ProgressTracker
from uploader.status.summary import Summary

QUARTER_TO_FOUR = datetime(2026, 11, 22, 3, 45).astimezone().timestamp()
IN_DOUBT = LimitFacts(configured=2, stated=None, in_force=2, live=3, doubtful=2, doubtful_until=QUARTER_TO_FOUR)


def standing(counts: Mapping[State, int]) -> Standing:
    """A batch with so many items in each state."""
    return Standing({state: Tally(items=count, attempts=7) for state, count in counts.items()})


def summary(counts: Mapping[State, int], exit_code: ExitCode = ExitCode.DONE, bytes_sent: int = 0) -> Summary:
    """The summary of a run without any trouble."""
    return Summary(
        batch="m.csv",
        exit_code=exit_code,
        standing=standing(counts),
        bytes_sent=bytes_sent,
        seconds=2.0,
        results=None,
        ledger="/ledger.db",
        limit=LimitFacts(configured=2, stated=None, in_force=2, live=0),
        throttled=0,
        troubles=(),
    )


@pytest.mark.parametrize(
    ("limit", "told"),
    [
        (LimitFacts(2, None, 2, 1), "2 concurrent jobs in force (configured 2); 1 live now"),
        (LimitFacts(50, 4, 4, 0), "4 concurrent jobs in force (configured 50, the service stated 4: use --limit 4); 0"),
        (LimitFacts(4, 4, 4, 0), "4 concurrent jobs in force (configured 4, the service stated 4); 0 live now"),
        (LimitFacts(4, 50, 4, 0), "4 concurrent jobs in force (configured 4, the service stated 50); 0 live now"),
        (LimitFacts(50, 4, 50, 0), "50 concurrent jobs in force (configured 50, the service stated 4); 0 live now"),
        (
            LimitFacts(10, 10, 1, 1, others=9),
            "(configured 10, the service stated 10, by its 429s, about 9 slots seem to be taken by others); 1 live now",
        ),
        (
            LimitFacts(10, None, 7, 7),
            "7 concurrent jobs in force (configured 10, by its 429s, others seem to use the account, too); 7 live now",
        ),
    ],
)
def test_the_limit_is_told_with_what_follows_from_it(limit: LimitFacts, told: str) -> None:
    """A stated limit below the configured one is a remedy; hints of 429s are worded as a guess; else plain figures."""
    assert told in format_limit(limit)


def test_an_account_that_bears_no_bodies_ahead_is_told() -> None:
    """Until when, and the answer that showed it, to a person and to a machine; nothing where bodies are sent ahead."""
    limit = LimitFacts(4, None, 4, 0)._replace(
        needs_slot_first=True,
        slot_first_until=QUARTER_TO_FOUR,
        slot_first_reason="a 429 came",
    )
    told = format_slot_first(limit)
    assert told.startswith("uploads wait for a free slot before they begin until ")
    assert "03:45, which takes longer; nothing is to be done (`uploader help limit`): a 429 came" in told
    found = limit_json(limit)
    assert (found["needsSlotFirst"], found["needsSlotFirstReason"]) == (True, "a 429 came")
    assert found["needsSlotFirstUntil"] is not None
    assert format_slot_first(LimitFacts(4, None, 4, 0)) == ""
    assert limit_json(LimitFacts(4, None, 4, 0))["needsSlotFirst"] is False


def test_slots_of_doubt_are_told_apart_from_jobs_that_live() -> None:
    """Nobody takes a doubt for a job: how many, until when, what frees them; a machine has them as well."""
    assert format_limit(IN_DOUBT) == (
        "2 concurrent jobs in force (configured 2); 1 live now; 2 slots are held for items in doubt until 03:45; "
        "`uploader resolve` frees them"
    )
    report = limit_json(IN_DOUBT)
    assert (report["live"], report["heldForDoubt"]) == (3, 2)
    assert str(report["heldForDoubtUntil"]).endswith("Z")
    free = limit_json(LimitFacts(2, None, 2, 1))
    assert (free["live"], free["heldForDoubt"], free["heldForDoubtUntil"]) == (1, 0, None)


@pytest.mark.parametrize(("pending", "live", "waits"), [(1, 3, True), (0, 3, False), (1, 1, False)])
def test_a_progress_line_says_when_doubt_is_what_it_waits_for(
    capsys: pytest.CaptureFixture[str], pending: int, live: int, waits: bool
) -> None:
    """Held slots are named; what frees them, too, where nothing can be sent because of them."""
    limit = IN_DOUBT._replace(live=live)
    tracker = ProgressTracker(
        read=lambda: standing({}),
        limit=lambda: limit,
        bytes_moved=lambda: 0,
        snapshot=lambda: None,
        lines=True,
    )
    tracker._show(standing({State.PENDING: pending}))
    result = capsys.readouterr()
    text = result.out + result.err
    assert "heldForDoubt" in text
    assert ("uploader resolve" in text) is waits


@pytest.mark.parametrize(
    ("counts", "sent", "told"),
    [
        ({State.COMPLETED: 60}, 0, True),
        ({State.COMPLETED: 59, State.ACCEPTED: 1}, 0, True),
        ({State.COMPLETED: 60}, 1, False),
        ({State.COMPLETED: 59, State.REFUSED: 1}, 0, False),
        ({}, 0, False),
    ],
)
def test_a_run_with_nothing_to_do_says_why(counts: Mapping[State, int], sent: int, told: bool) -> None:
    """No byte left because every item was appended before: that is no fault."""
    assert ("all of it was appended before" in "\n".join(summary(counts, bytes_sent=sent).as_lines())) is told


@pytest.mark.parametrize("held", [0, 26])
def test_what_held_items_wait_for_is_told(held: int) -> None:
    """A word that stands in no other program is explained where it is shown."""
    text = "\n".join(summary({State.HELD: held, State.FAILED: 1}, ExitCode.NEEDS_PERSON, 1).as_lines())
    assert (f"held      {held} items, to keep the order: each waits for one before it" in text) is (held > 0)


def overview(*standings: tuple[str, Standing], busy: bool = False, troubles: Sequence[Trouble] = ()) -> Overview:
    """A status of batches of these names."""
    batches = [
        (BatchFacts(number, name, 1, "https://api.symbl.ai", "/night.csv", None, (), 0.0), found)
        for number, (name, found) in enumerate(standings, start=1)
    ]
    return Overview(
        ledger="/ledger.db",
        busy=busy,
        no_wait=False,
        config=None,
        batch=batches[0][0],
        batches=batches,
        limits=[(AccountFacts(1, "https://api.symbl.ai", "default"), LimitFacts(2, None, 2, 0))],
        troubles=troubles,
    )


@pytest.mark.parametrize(
    ("state", "busy", "exit_code"),
    [
        (State.PENDING, False, ExitCode.GAVE_UP),
        (State.PENDING, True, ExitCode.NOT_NOW),
        (State.COMPLETED, False, ExitCode.DONE),
        (State.IN_DOUBT, False, ExitCode.IN_DOUBT),
        (State.HELD, False, ExitCode.NEEDS_PERSON),
    ],
)
def test_a_status_after_a_run_that_died_says_what_to_type(state: State, busy: bool, exit_code: ExitCode) -> None:
    """Exit 5 with no run on: the command that carries on stands there, with the batch, service and ledger."""
    found = overview(
        ("last night.csv", standing({State.COMPLETED: 1})), ("my night.csv", standing({state: 1})), busy=busy
    )
    assert found.exit_code is exit_code, "it looks at all batches"
    assert ("no run is on" in "\n".join(found.as_lines())) is (exit_code is ExitCode.GAVE_UP)
    command = "uploader run --batch 'my night.csv' --base-url https://api.symbl.ai --ledger sqlite:////ledger.db"
    assert (command in "\n".join(found.as_lines())) is (exit_code is ExitCode.GAVE_UP)


@pytest.mark.parametrize(
    ("batch_id", "is_alive", "exit_code"),
    [
        (1, True, ExitCode.NOT_NOW),
        (None, True, ExitCode.NOT_NOW),
        (2, True, ExitCode.GAVE_UP),
        # another worker lives, and this batch's does not
        (1, False, ExitCode.GAVE_UP),
    ],
)
def test_a_batch_that_no_living_worker_has_is_to_be_carried_on(
    batch_id: int | None, is_alive: bool, exit_code: ExitCode
) -> None:
    """Beside a run of another batch its status is that of a batch without a run: 5, and the command to type."""
    worker = WorkerFacts(
        1, "https://api.symbl.ai", "default", batch_id, "a batch", "host", "process", "1.0", 0.0, 30.0, 0, 0
    )
    others = worker._replace(worker_id=2, batch_id=3)
    found = replace(
        overview(("m.csv", standing({State.PENDING: 13})), busy=True), workers=[(worker, is_alive), (others, True)]
    )
    assert [found.exit_code, found.as_json()["batches"][0]["exitCode"]] == [exit_code, exit_code]
    text = "\n".join(found.as_lines())
    assert ("uploader run --batch m.csv" in text) is (exit_code is ExitCode.GAVE_UP)
    assert "no run is on" not in text


def test_the_workers_of_one_run_are_told_apart_by_their_accounts() -> None:
    """A run has a worker for each account; where there is one account alone, no line names it."""
    found = overview(("m.csv", standing({State.PENDING: 1})), busy=True)
    url = "https://api.symbl.ai"
    small = WorkerFacts(1, url, "small", 1, "m.csv", "host", "process", "1.0", 0.0, 30.0, 0, 0)
    workers = [(small, True), (small._replace(worker_id=2, account="default"), True)]
    accounts = [
        (AccountFacts(number, url, name), LimitFacts(2, None, 2, 0)) for number, name in enumerate(("default", "small"))
    ]
    several = replace(found, workers=workers, limits=accounts)
    lines = [line for line in several.as_lines() if line.startswith("worker")]
    assert [line.partition(" since")[0] for line in lines] == [
        f"worker 1 on host: m.csv for small ({url})",
        f"worker 2 on host: m.csv for {url}",
    ]
    assert [worker["account"] for worker in several.as_json()["workers"]] == ["small", "default"]
    assert f"for {url}" not in "\n".join(replace(found, workers=workers[1:]).as_lines())


def test_beside_a_batch_that_is_on_another_may_be_carried_on() -> None:
    """All batches together wait for the run that is on; the other one's command stands there."""
    worker = WorkerFacts(1, "https://api.symbl.ai", "default", 1, "on.csv", "host", "process", "1.0", 0.0, 30.0, 0, 0)
    both = overview(("on.csv", standing({State.PENDING: 1})), ("m.csv", standing({State.PENDING: 1})), busy=True)
    found = replace(both, workers=[(worker, True)])
    assert found.exit_code is ExitCode.NOT_NOW
    assert [batch["exitCode"] for batch in found.as_json()["batches"]] == [ExitCode.NOT_NOW, ExitCode.GAVE_UP]
    text = "\n".join(found.as_lines())
    assert "uploader run --batch m.csv" in text
    assert "uploader run --batch on.csv" not in text


@pytest.mark.parametrize(("busy", "exit_code"), [(False, ExitCode.IN_DOUBT), (True, ExitCode.NOT_NOW)])
def test_a_status_exits_as_a_run_that_finds_all_slots_held(busy: bool, exit_code: ExitCode) -> None:
    """Pending items behind slots that only a person can free: 4, and no run to type; another service's wait: 5."""
    waiting = ("my night.csv", standing({State.PENDING: 2, State.ACCEPTED: 2}))
    found = replace(overview(waiting, busy=busy), stuck=[1])
    assert (found.exit_code, found.as_json()["batches"][0]["exitCode"]) == (exit_code, exit_code)
    assert "no run is on" not in "\n".join(found.as_lines())
    if not busy:
        assert replace(found, stuck=[2]).exit_code is ExitCode.GAVE_UP


def test_what_carries_a_batch_on_has_the_limit_that_it_ran_with() -> None:
    """Typed as it stands, the command of `status` does not go back to the default limit."""
    text = "\n".join(overview(("m.csv", standing({State.PENDING: 1}))).as_lines())
    assert re.search(r"uploader run --batch m.csv .*--limit 2$", text, re.MULTILINE)


@pytest.mark.parametrize(("count", "told"), [(1, "1 item of 1 needs a person's"), (2, "2 items of 2 need a person's")])
def test_what_needs_a_person_is_counted_in_whole_sentences(count: int, told: str) -> None:
    """One item needs, two need."""
    assert told in summary({State.FAILED: count}, ExitCode.NEEDS_PERSON).ending()


def test_a_job_id_stands_beside_its_line() -> None:
    """Known jobIds stand beside the lines of rows, for a person and for a machine."""
    trouble = Trouble("m.csv", State.FAILED, "the job ended as failed", 4, [2, 3, 7], ["job-1", None, "job-9"])
    found = overview(("m.csv", standing({State.FAILED: 4})), troubles=[trouble])
    assert "4 failed (lines 2, job job-1; 3; 7, job job-9; …): the job ended" in "\n".join(found.as_lines())
    assert found.as_json()["needsPerson"][0]["jobIds"] == ["job-1", None, "job-9"]
