"""Several workers of one ledger: their leases, their ends, and what they leave to each other, on both databases."""

import time
from collections.abc import Callable
from math import inf
from typing import Any

import pytest
from sqlalchemy import select, update

from tests.integration.test_ledger import BASE_URL, DOUBT_SECONDS, IDENTITY, LOST, Book, accepted
from uploader.errors import WorkerEndedError
from uploader.ledger import steps
from uploader.ledger.callbacks import apply_callback
from uploader.ledger.claiming import NOTHING_AHEAD, Admission, Ahead, admit, claim, need_slot_first
from uploader.ledger.lanes import activate_account, activate_batch
from uploader.ledger.leases import LEASE_SECONDS, LOOKING_SECONDS, OpenWorker, read_clock, worker_facts
from uploader.ledger.loading import account
from uploader.ledger.outcomes import job_overdue
from uploader.ledger.reading import is_batch_over
from uploader.ledger.resolving import Selection, open_items, resolve
from uploader.ledger.schema import items, lanes, workers
from uploader.ledger.workers import (
    SPARE_SECONDS,
    Beat,
    begin_worker,
    end_worker,
    has_moving_slots,
    release_lanes,
    take_jobs,
)
from uploader.model import Claim, Decision, JobStatus, Load, Order
from uploader.policy.callbacks import token_hash
from uploader.policy.facts import Callback, CallbackEffect
from uploader.policy.sharing import LATE_SECONDS

LONG_AGO = 0.0


def another(book: Book, load: Load, first: int | None = None) -> int:
    """Begin a second worker of a batch."""
    with book.ledger.writing() as connection:
        until = activate_batch(connection, load.account_id, load.batch_id, first=first)
        return begin_worker(connection, load.account_id, load.batch_id, IDENTITY, book.now, until_position=until)


def look(book: Book, worker_id: int, load: Load, *, gone: str = "", looks: bool = False) -> Beat:
    """Renew a worker's lease, and see what it finds; a process of this name is known to be dead."""
    with book.ledger.writing() as connection:
        return beat(book, connection, worker_id, load, gone, looks=looks)


def beat(book: Book, connection: Any, worker_id: int, load: Load, gone: str, *, looks: bool = False) -> Beat:
    """Renew a worker's lease in a transaction."""
    from uploader.ledger.workers import beat as renew  # noqa: PLC0415 - a name of this module's own

    which = (worker_id, load.account_id, load.batch_id, book.now, DOUBT_SECONDS, inf)
    return renew(connection, *which, no_wait=False, is_gone=lambda process: process == gone, looks=looks)


def let_lease_run_out(book: Book, *worker_ids: int) -> None:
    """Let the leases of workers be over by any clock."""
    with book.ledger.writing() as connection:
        connection.execute(update(workers).where(workers.c.id.in_(worker_ids)).values(lease_until=LONG_AGO))


def claim_as(book: Book, worker_id: int, wanted: int = 1, ahead: Ahead = NOTHING_AHEAD) -> list[Claim]:
    """Claim items for a worker."""
    with book.ledger.writing() as connection:
        who = account(connection, BASE_URL)
        return list(claim(connection, who, wanted, book.now, book.order, ahead=ahead, worker_id=worker_id).claims)


def three_steps(book: Book) -> tuple[Load, int, list[Claim]]:
    """Let a second worker have an item that is sent, one that is admitted and one whose job lives."""
    load = book.load([("c", "a.wav"), ("d", "a.wav"), ("e", "a.wav"), ("c", "b.wav")])
    other = another(book, load)
    claims = claim_as(book, other, 3)
    book.admit(claims[1])
    book.answer(claims[2], accepted("j"))
    return load, other, claims


def test_a_worker_whose_lease_is_over_is_ended_and_taken_over(book: Book) -> None:
    """What it sent is pending again, what it admitted is in doubt, and its job is followed by who has ended it."""
    load, other, claims = three_steps(book)
    assert look(book, book.worker_id, load) == Beat(1, 0, [], 0, 0, is_batch_over=False)
    let_lease_run_out(book, other)
    found = look(book, book.worker_id, load)
    assert (found.others, found.ended, found.pending, found.doubtful) == (0, 1, 1, 1)
    assert [job.job_id for job in found.jobs] == ["j"]
    assert book.states(load) == "pending in_doubt accepted pending"
    assert look(book, book.worker_id, load).jobs == []
    (again,) = book.claim()
    assert (again.item_id, again.number) == (claims[0].item_id, 2)
    book.check_work()


def test_a_worker_that_is_known_to_be_dead_is_ended_at_once(book: Book) -> None:
    """Its lease need not be over: its host knows that its process is dead."""
    load, other, _ = three_steps(book)
    with book.ledger.writing() as connection:
        connection.execute(update(workers).where(workers.c.id == other).values(process="dead"))
    assert look(book, book.worker_id, load).others == 1
    found = look(book, book.worker_id, load, gone="dead")
    assert (found.others, found.pending, found.doubtful, len(found.jobs)) == (0, 1, 1, 1)


def test_a_late_renewal_is_good_until_somebody_has_ended_the_worker(book: Book) -> None:
    """The ledger was away for longer than a lease: whoever is back renews, and nobody has lost anything."""
    load, other, claims = three_steps(book)
    let_lease_run_out(book, other)
    look(book, other, load)
    assert look(book, book.worker_id, load).others == 1
    book.admit(claims[0])
    assert book.states(load) == "sent sent accepted pending"


@pytest.mark.parametrize("seconds_left", [-1.0, SPARE_SECONDS - 1.0])
def test_who_renews_its_own_lease_late_ends_no_others(book: Book, seconds_left: float) -> None:
    """What kept it from the ledger may have kept the others, too: they get as long as a lease to come back."""
    load, other, _ = three_steps(book)
    let_lease_run_out(book, other)
    with book.ledger.writing() as connection:
        left = {"lease_until": read_clock(connection, book.now) + seconds_left}
        connection.execute(update(workers).where(workers.c.id == book.worker_id).values(left))
    found = look(book, book.worker_id, load)
    assert (found.others, found.pending, found.doubtful, found.jobs) == (1, 0, 0, [])
    assert look(book, book.worker_id, load).others == 0


def test_a_worker_is_ended_as_of_the_transaction(book: Book) -> None:
    """The call may have waited for a ledger that was away: an end, and the doubts with it, is not earlier than that."""
    load, other, _ = three_steps(book)
    with book.ledger.writing() as connection:
        lease_until = read_clock(connection, book.now) - 1.0
        connection.execute(update(workers).where(workers.c.id == other).values(lease_until=lease_until))
    assert look(book, book.worker_id, load).ended == 1
    with book.ledger.reading() as connection:
        ended_at = connection.execute(select(workers.c.ended_at).where(workers.c.id == other)).scalar_one()
        until = connection.execute(select(items.c.slot_until).where(items.c.state == "in_doubt")).scalar_one()
    assert ended_at >= lease_until
    assert until >= lease_until + DOUBT_SECONDS


def test_a_worker_that_was_ended_claims_and_admits_nothing(book: Book) -> None:
    """It was stopped for longer than its lease: its last chunks never leave, even before their items are settled."""
    load, other, claims = three_steps(book)
    book.load([("f", "a.wav")], "more.csv", run=False)
    with book.ledger.writing() as connection:
        activate_account(connection, load.account_id)
        connection.execute(update(workers).where(workers.c.id == other).values(ended_at=book.now))
        asked = [Admission(claims[0], "hash")]
        found = admit(connection, load.account_id, asked, 1, book.now, order=Order.MANIFEST)
    assert (set(found.admitted), list(found.withdrawn)) == (set(), [claims[0].attempt_id])
    for call in (lambda: claim_as(book, other, 4), lambda: look(book, other, load)):
        with pytest.raises(WorkerEndedError):
            call()
    assert book.states(load) == "sending sent accepted pending"


def active(book: Book) -> dict[str, int]:
    """Return how many items of each conversation are active and pending."""
    with book.ledger.reading() as connection:
        found = connection.execute(select(lanes.c.conversation_id, lanes.c.items_left).where(lanes.c.active_until > 0))
        return {row.conversation_id: row.items_left for row in found}


End = Callable[[int], None]


@pytest.fixture(params=["at once", "in steps"])
def end(request: pytest.FixtureRequest, book: Book, monkeypatch: pytest.MonkeyPatch) -> End:
    """Provide the end of a worker, in one transaction, or after its lanes were released one by one."""
    monkeypatch.setattr(steps, "FIRST_SIZE", 1)
    monkeypatch.setattr(steps, "GROWTH", 1.0)
    monkeypatch.setattr(steps, "LEAST_SIZE", 1)
    is_released = request.param == "in steps"

    def ended(worker_id: int) -> None:
        if is_released:
            release_lanes(book.ledger, [OpenWorker(worker_id, 1, "", 0.0)])
        with book.ledger.writing() as connection:
            end_worker(connection, worker_id, 1, book.now, DOUBT_SECONDS, is_released=is_released)

    return ended


def test_who_ends_makes_inactive_what_nobody_else_wants(book: Book, end: End) -> None:
    """Two batches share a conversation: one's end leaves the other's part of it, and of all others, as it was."""
    monday = book.load([("c", "a.wav"), ("d", "a.wav")])
    tuesday = book.load([("c", "b.wav"), ("e", "a.wav")], "tuesday.csv", run=False)
    other = another(book, tuesday)
    assert active(book) == {"c": 2, "d": 1, "e": 1}
    twin = another(book, monday)
    end(other)
    assert active(book) == {"c": 1, "d": 1}
    end(twin)
    assert active(book) == {"c": 1, "d": 1}
    book.check_work()
    end(book.worker_id)
    assert active(book) == {}


def test_a_part_of_a_batch_stays_a_part_when_another_worker_ends(book: Book, end: End) -> None:
    """``--first 1`` beside a whole batch: once that one's worker has ended, no more than the part is active."""
    part = book.load([("c", "a.wav"), ("d", "a.wav")], run=False)
    whole = book.load([("e", "a.wav"), ("d", "b.wav")], "whole.csv", run=False)
    book.save_rules()
    first, other = another(book, part, first=1), another(book, whole)
    assert active(book) == {"c": 1, "d": 2, "e": 1}
    end(other)
    assert active(book) == {"c": 1}
    assert len(claim_as(book, first, 5)) == 1


def test_an_item_that_is_pending_again_is_no_part_that_another_worker_wants(book: Book, end: End) -> None:
    """The end of a worker withdraws what it has begun of its whole batch: beside ``--first 1`` it is inactive then."""
    load = book.load([("c", "a.wav"), ("d", "a.wav")], run=False)
    book.save_rules()
    whole, part = another(book, load), another(book, load, first=1)
    assert len(claim_as(book, whole, 2)) == 2
    end(whole)
    assert active(book) == {"c": 1}
    assert len(claim_as(book, part, 5)) == 1


@pytest.mark.parametrize("name", ["m.csv", "same.csv"])
def test_a_load_of_a_part_takes_nothing_from_a_living_worker(book: Book, end: End, name: str) -> None:
    """``--first 1`` of the same rows, by the batch's name or another, moves them: all stays active for the first."""
    named = [("c", "a.wav"), ("d", "a.wav"), ("c", "b.wav"), ("e", "a.wav")]
    book.load(named)
    part = another(book, book.load(named, name, run=False), first=1)
    assert active(book) == {"c": 2, "d": 1, "e": 1}
    end(part)
    assert active(book) == {"c": 2, "d": 1, "e": 1}
    assert len(claim_as(book, book.worker_id, 5)) == 3
    book.check_work()


def test_a_load_of_a_part_takes_nothing_from_a_worker_for_every_batch(book: Book) -> None:
    """It wants what the load has moved, too."""
    monday = book.load([("c", "a.wav"), ("d", "a.wav")], run=False)
    with book.ledger.writing() as connection:
        activate_account(connection, monday.account_id)
        begin_worker(connection, monday.account_id, None, IDENTITY, book.now)
    another(book, book.load([("c", "a.wav"), ("d", "a.wav")], run=False), first=1)
    assert active(book) == {"c": 1, "d": 1}


@pytest.mark.parametrize(
    ("name", "named", "left"),
    [
        ("m.csv", "abc", {"c": 1, "d": 1}),
        ("whole.csv", "abc", {"c": 1, "d": 1}),
        # in another order, or but a few of them: never more than was chosen
        ("m.csv", "cab", {}),
        ("m.csv", "acb", {"c": 1}),
        ("few.csv", "a", {"d": 1}),
        ("few.csv", "c", {"c": 1, "d": 1}),
    ],
)
def test_a_part_of_a_batch_stays_the_same_part_when_a_load_moves_its_items(
    book: Book, end: End, name: str, named: str, left: dict[str, int]
) -> None:
    """``--first 2`` beside another load: once that one's worker has ended, the part is still active, and no more."""
    rows = {"a": ("c", "a.wav"), "b": ("d", "a.wav"), "c": ("e", "a.wav")}
    part = another(book, book.load(list(rows.values()), run=False), first=2)
    assert active(book) == {"c": 1, "d": 1}
    other = another(book, book.load([rows[row] for row in named], name, run=False))
    end(other)
    assert active(book) == left
    assert len(claim_as(book, part, 5)) == len(left)


def test_a_worker_for_every_batch_keeps_all_active(book: Book, end: End) -> None:
    """As long as it lives, the end of a batch's own worker takes nothing away."""
    monday = book.load([("c", "a.wav")])
    book.load([("d", "a.wav")], "tuesday.csv", run=False)
    with book.ledger.writing() as connection:
        activate_account(connection, monday.account_id)
        begin_worker(connection, monday.account_id, None, IDENTITY, book.now)
    end(book.worker_id)
    assert active(book) == {"c": 1, "d": 1}


def test_a_batch_is_over_whoever_has_carried_it(book: Book) -> None:
    """Its own items count alone: under way or live with any worker it is not over, held or without a job it is."""
    mine = book.load([("c", "a.wav"), ("c", "b.wav")])
    theirs = book.load([("d", "b.wav")], "theirs.csv", run=False)
    other = another(book, theirs)

    def is_over(load: Load, *, no_wait: bool = False) -> bool:
        with book.ledger.reading() as connection:
            return is_batch_over(connection, load.account_id, load.batch_id, no_wait=no_wait)

    assert not is_over(mine)
    for claimed in claim_as(book, other, 5):
        book.answer(claimed, accepted(f"job-{claimed.line}-{claimed.batch}"))
    assert (is_over(theirs), is_over(theirs, no_wait=True), is_over(mine, no_wait=True)) == (False, True, False)
    book.end("job-2-theirs.csv")
    assert (is_over(theirs), is_over(mine)) == (True, False)
    book.end("job-2-m.csv")
    (last,) = claim_as(book, other, 5)
    assert not is_over(mine)
    book.complete(last)
    assert is_over(mine)


def test_a_job_that_a_person_named_is_followed_by_whoever_looks_first(book: Book) -> None:
    """A live job without a follower goes to one worker alone."""
    load, other, _ = three_steps(book)
    with book.ledger.writing() as connection:
        assert take_jobs(connection, load.account_id, book.worker_id) == []
        assert has_moving_slots(connection, load.account_id)
        end_worker(connection, other, load.account_id, book.now, DOUBT_SECONDS)
        (job,) = take_jobs(connection, load.account_id, book.worker_id)
        assert take_jobs(connection, load.account_id, book.worker_id) == []
    assert job.job_id == "j"


def in_doubt(book: Book) -> tuple[Load, int, Claim]:
    """Let a second worker have an attempt in doubt, and live on."""
    load = book.load([("c", "a.wav"), ("d", "a.wav")])
    other = another(book, load)
    with book.ledger.writing() as connection:
        (claimed,) = claim(
            connection, load.account_id, 1, book.now, book.order, new_token=lambda: "token", worker_id=other
        ).claims
    book.answer(claimed, LOST)
    assert look(book, other, load).jobs == []
    return load, other, claimed


def check_taken_once(book: Book, load: Load, *worker_ids: int) -> None:
    """Check that the worker that looks first follows the job, and no other does."""
    found = [job.job_id for worker_id in worker_ids for job in look(book, worker_id, load).jobs]
    assert found == ["found"]


@pytest.mark.parametrize("is_carrier_first", [False, True])
def test_a_job_that_a_person_named_is_followed_while_its_carrier_lives(book: Book, is_carrier_first: bool) -> None:
    """The carrier had no answer, and does not know of the job: whoever looks first follows it."""
    load, other, claimed = in_doubt(book)
    with book.ledger.writing() as connection:
        (item,) = open_items(connection, load.batch_id, Selection())
        resolve(connection, item, Decision.APPENDED, job_id="found", note=None, who="ann", now=book.now)
    check_taken_once(book, load, *([other, book.worker_id] if is_carrier_first else [book.worker_id, other]))
    assert claimed.item_id == item.item_id


def test_a_job_that_a_callback_named_is_followed_by_whoever_looks_first(book: Book) -> None:
    """The callback may have reached another worker's listener, and that worker may end."""
    load, other, claimed = in_doubt(book)
    assert claimed.token is not None
    with book.ledger.writing() as connection:
        callback = Callback("found", JobStatus.IN_PROGRESS)
        result = apply_callback(connection, token_hash(claimed.token), callback, book.now, listening_since=0.0)
    assert result.effect is CallbackEffect.ACCEPTED
    check_taken_once(book, load, book.worker_id, other)


def test_an_upload_of_another_worker_moves(book: Book) -> None:
    """Where uploads count as jobs, it takes a slot that becomes free by itself."""
    load = book.load([("c", "a.wav"), ("d", "a.wav")])
    other = another(book, load)

    def is_moving() -> bool:
        with book.ledger.reading() as connection:
            return has_moving_slots(connection, load.account_id)

    assert not is_moving()
    (claimed,) = claim_as(book, other)
    assert is_moving()
    book.answer(claimed, LOST)
    assert not is_moving()


@pytest.mark.parametrize("jump_seconds", [-3600.0, 3600.0])
def test_whether_a_worker_lives_is_seen_by_the_ledgers_clock(
    book: Book, monkeypatch: pytest.MonkeyPatch, jump_seconds: float
) -> None:
    """The wall clock of a host where people look may be an hour ahead, or behind: a lease is told by its own clock."""
    load = book.load([("c", "a.wav")], run=False)
    with book.ledger.writing() as connection:
        now = book.ledger.clock(connection)
        begin_worker(connection, load.account_id, load.batch_id, IDENTITY, now())
    wall = time.time
    monkeypatch.setattr(time, "time", lambda: wall() + jump_seconds)
    with book.ledger.reading() as connection:
        (worker,) = worker_facts(connection)
        assert 0.0 < worker.lease_until - book.ledger.read_clock(connection) <= LEASE_SECONDS


@pytest.fixture(params=["beside jobs", "slot first"])
def crowd(request: pytest.FixtureRequest, book: Book) -> tuple[Load, int]:
    """Provide four slots that one worker has filled, eight lanes that wait, and a second worker that looks for work.

    Once with bodies sent ahead, and once where an upload needs its slot before its first byte.
    """
    book.limit = 4
    load = book.load([(f"lane-{number}", "a.wav") for number in range(12)])
    if request.param == "slot first":
        with book.ledger.writing() as connection:
            need_slot_first(connection, load.account_id, book.now + 3600.0, "a 429")
    for number, claimed in enumerate(claim_as(book, book.worker_id, 12)):
        book.answer(claimed, accepted(f"job-{number}"))
    other = another(book, load)
    for worker_id in (book.worker_id, other):
        look(book, worker_id, load, looks=True)
    return load, other


def test_a_worker_leaves_the_slots_above_its_part_to_another_that_looks_for_work(
    book: Book, crowd: tuple[Load, int]
) -> None:
    """Neither for the ends that it foresees, nor for those that have come, until both have the same."""
    _, other = crowd
    ahead = Ahead(slots=2)
    assert claim_as(book, book.worker_id, 12, ahead) == [], "its next two ends are for the other"
    assert claim_as(book, other, 12) == [], "none is free yet"
    for number in range(2):
        book.end(f"job-{number}")
        assert claim_as(book, book.worker_id, 12) == []
        (claimed,) = claim_as(book, other, 12)
        book.answer(claimed, accepted(f"other-{number}"))
    book.end("job-2")
    assert claim_as(book, other, 12) == [], "it has its part"
    (claimed,) = claim_as(book, book.worker_id, 12)
    book.answer(claimed, accepted("job-4"))
    book.end("other-0")
    assert claim_as(book, book.worker_id, 12) == []
    assert len(claim_as(book, other, 12)) == 1
    book.check_work()


@pytest.mark.parametrize("why", ["idle", "late", "ended"])
def test_a_worker_that_does_not_look_for_work_leaves_its_part_at_once(
    book: Book, crowd: tuple[Load, int], why: str
) -> None:
    """It has nothing to begin, has not looked for longer than a look takes, or has ended: the account is full."""
    load, other = crowd
    book.end("job-0")
    assert claim_as(book, book.worker_id, 12) == []
    if why == "idle":
        look(book, other, load, looks=False)
    elif why == "late":
        with book.ledger.writing() as connection:
            earlier = workers.c.lease_until - LOOKING_SECONDS
            connection.execute(update(workers).where(workers.c.id == other).values(lease_until=earlier))
    else:
        with book.ledger.writing() as connection:
            end_worker(connection, other, load.account_id, book.now, DOUBT_SECONDS)
    assert len(claim_as(book, book.worker_id, 12)) == 1


def test_a_worker_that_comes_sends_few_bodies_for_slots_that_others_may_mean(book: Book) -> None:
    """The first one's bodies are on their way to all slots: it tries one, and then as many as it has jobs."""
    book.limit = 8
    load = book.load([(f"lane-{number}", "a.wav") for number in range(24)])
    assert len(claim_as(book, book.worker_id, 24)) == 8
    other = another(book, load)
    for worker_id in (book.worker_id, other):
        look(book, worker_id, load, looks=True)
    (tried,) = claim_as(book, other, 24)
    assert claim_as(book, other, 24) == [], "it waits for its slot"
    book.answer(tried, accepted("other-0"))
    (second,) = claim_as(book, other, 24)
    book.answer(second, accepted("other-1"))
    assert len(claim_as(book, other, 24)) == 2, "its part is four"


def test_a_worker_that_cannot_fill_its_part_leaves_it_to_the_others(book: Book) -> None:
    """Its bodies are on their way for longer than a slot may idle: it has one, and more as it fills what it has."""
    book.limit = 8
    load = book.load([(f"lane-{number}", "a.wav") for number in range(24)])
    slow = another(book, load)
    for worker_id in (book.worker_id, slow):
        look(book, worker_id, load, looks=True)
    bodies = claim_as(book, slow, 24)
    quick = claim_as(book, book.worker_id, 24)
    assert (len(bodies), len(quick)) == (4, 4)
    for claimed in quick:
        book.answer(claimed, accepted(f"job-{claimed.line}"))
    assert claim_as(book, book.worker_id, 24) == [], "the other's bodies may be there soon"
    book.now += LATE_SECONDS + 0.1
    for worker_id in (book.worker_id, slow):
        look(book, worker_id, load, looks=True)
    more = claim_as(book, book.worker_id, 24)
    assert len(more) == 3
    for claimed in more:
        book.answer(claimed, accepted(f"job-{claimed.line}"))
    book.answer(bodies[0], accepted("slow-0"))
    book.end(f"job-{more[0].line}")
    assert claim_as(book, book.worker_id, 24) == [], "three are the other's now"


@pytest.mark.parametrize("is_late", [True, False])
def test_a_slot_of_an_overdue_job_that_has_expired_is_nobodys(book: Book, is_late: bool) -> None:
    """It is free: the worker that follows the job may fill it, as far as its part goes."""
    book.limit = 4
    load = book.load([(f"lane-{number}", "a.wav") for number in range(12)])
    for number, claimed in enumerate(claim_as(book, book.worker_id, 12)):
        book.answer(claimed, accepted(f"job-{number}"))
    other = another(book, load)
    for job in book.jobs():
        with book.ledger.writing() as connection:
            job_overdue(connection, job, "late", book.now, DOUBT_SECONDS, is_live=False)
    book.now += DOUBT_SECONDS + 1.0 if is_late else DOUBT_SECONDS - 1.0
    for worker_id in (book.worker_id, other):
        look(book, worker_id, load, looks=True)
    assert [len(claim_as(book, worker_id, 12)) for worker_id in (book.worker_id, other)] == (
        [2, 2] if is_late else [0, 0]
    )


def test_workers_are_shown_with_what_they_do(book: Book) -> None:
    """Where, since when, doing what."""
    _, other, _ = three_steps(book)
    with book.ledger.reading() as connection:
        mine, theirs = worker_facts(connection)
    assert (mine.batch, mine.host, mine.sending, mine.jobs) == ("m.csv", "host", 0, 0)
    assert (theirs.worker_id, theirs.begun_at, theirs.sending, theirs.jobs) == (other, book.now, 2, 1)
