"""The ledger's one writing thread: what is waiting goes in one transaction, and one bad write fails alone."""

import asyncio
import itertools
import threading
import time
from collections.abc import AsyncIterator, Container, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from sqlalchemy import Connection, insert, select, update
from sqlalchemy.exc import IntegrityError

from tests.integration.test_ledger import CUT, LOST, NOT_FOUND, THROTTLED, Book, accepted, executed, on_sqlite
from tests.integration.test_ledger_callbacks import listening_in
from uploader.errors import LedgerUnavailableError
from uploader.ledger import Ledger, thread
from uploader.ledger.callbacks import apply_callback
from uploader.ledger.claiming import Admission, AdmissionResult, Ahead, admit, claim
from uploader.ledger.commits import GroupCommits
from uploader.ledger.lanes import reweigh_lanes
from uploader.ledger.loading import account
from uploader.ledger.outcomes import JobEnd, ReplyRecord, end_job, record_reply
from uploader.ledger.schema import accounts, attempts, items, lanes
from uploader.ledger.thread import LedgerThread
from uploader.model import Claim, JobStatus, LiveJob, Next, Order, Reply, State
from uploader.policy.callbacks import token_hash
from uploader.policy.facts import Callback
from uploader.policy.limits import Refusal
from uploader.policy.replies import judge


class Busy:
    """A write that keeps the thread busy, so that later writes wait together."""

    def __init__(self, writer: LedgerThread) -> None:
        self._writer = writer
        self._inside = threading.Event()
        self._go_on = threading.Event()

    def _wait(self, connection: Connection) -> None:
        self._inside.set()
        self._go_on.wait()

    async def gather(self, *calls: Any) -> list[Any]:
        """Let all these calls wait, then let the thread go on; what each of them came to."""
        first = asyncio.ensure_future(self._writer.call(self._wait))
        await asyncio.to_thread(self._inside.wait)
        waiting = [asyncio.ensure_future(call) for call in calls]
        await asyncio.sleep(0)
        self._go_on.set()
        await first
        return await asyncio.gather(*waiting, return_exceptions=True)


@asynccontextmanager
async def running(ledger: Ledger) -> AsyncIterator[LedgerThread]:
    """Give a thread that writes this ledger, closed at the end."""
    writer = LedgerThread(GroupCommits(ledger))
    try:
        yield writer
    finally:
        await asyncio.to_thread(writer.close)


def note(connection: Connection, name: str) -> str:
    """Write something down: an account of this name."""
    connection.execute(insert(accounts).values(base_url=name, name="x"))
    return name


def noted(ledger: Ledger) -> list[str]:
    """Return the committed notes, as another connection sees them."""
    with ledger.beside() as reader, reader.reading() as connection:
        found = select(accounts.c.base_url).where(accounts.c.name == "x").order_by(accounts.c.id)
        return list(connection.execute(found).scalars())


class CountedLedger:
    """A ledger whose transactions are counted; those that the test says fail when they are committed."""

    is_remote = False

    def __init__(self, ledger: Ledger, failing: Container[int] = (), error: Exception | None = None) -> None:
        self.transactions = 0
        self.rooms = 0
        self.failing = failing
        self._ledger = ledger
        self._error = error or LedgerUnavailableError("the disk is full")

    @contextmanager
    def writing(self) -> Iterator[Connection]:
        """Give a transaction; one that fails is rolled back at its very end."""
        self.transactions += 1
        with self._ledger.writing() as connection:
            yield connection
            if self.transactions in self.failing:
                raise self._error

    def moved(self) -> None:
        """Return None: the ledger is where it was."""

    def hurry(self, seconds: float) -> None:
        """Do nothing: a file is never silent."""

    def make_room(self) -> None:
        """Count how often room was asked for."""
        self.rooms += 1


async def test_a_write_is_durable_when_its_call_returns(book: Book) -> None:
    """The result is the function's own, and everybody can see what was written by then."""
    async with running(book.ledger) as writer:
        assert await writer.call(note, "a") == "a"
        assert noted(book.ledger) == ["a"]


async def test_what_waits_is_written_in_one_transaction(book: Book) -> None:
    """Fifty writes that came while the thread was busy are one commit, in the order in which they came."""
    counted = CountedLedger(book.ledger)
    async with running(counted) as writer:  # type: ignore[arg-type]
        names = [f"n{number:02}" for number in range(50)]
        assert await Busy(writer).gather(*[writer.call(note, name) for name in names]) == names
    assert counted.transactions == 2
    assert noted(book.ledger) == names


async def test_only_a_long_burst_is_spaced(book: Book, monkeypatch: pytest.MonkeyPatch) -> None:
    """After a pause the steps of an item follow each other at once; only more than a burst waits for more writes."""
    slept: list[float] = []
    clocks = SimpleNamespace(monotonic=time.monotonic, thread_time=time.thread_time, sleep=slept.append)
    monkeypatch.setattr(thread, "time", clocks)
    monkeypatch.setattr(thread, "COMMIT_SPACING_SECONDS", 60.0)
    monkeypatch.setattr(thread, "MAX_COMMIT_SPACING_SECONDS", 60.0)
    monkeypatch.setattr(thread, "BURST_SECONDS", 150.0)
    async with running(book.ledger) as writer:
        for name in ("first", "second", "third"):
            await writer.call(note, name)
        assert slept == []
        await writer.call(note, "fourth")
    [rest] = slept
    assert 0.0 < rest <= 30.0


async def test_a_group_has_an_end(book: Book, monkeypatch: pytest.MonkeyPatch) -> None:
    """A group of writes is bounded, so that no caller waits for the last of a flood."""
    monkeypatch.setattr(thread, "GROUP", 10)
    counted = CountedLedger(book.ledger)
    async with running(counted) as writer:  # type: ignore[arg-type]
        await Busy(writer).gather(*[writer.call(note, str(number)) for number in range(25)])
    assert counted.transactions == 4
    assert len(noted(book.ledger)) == 25


async def test_one_bad_write_fails_alone(book: Book) -> None:
    """Its exception is its caller's; the others of its group are written."""

    def broken(connection: Connection) -> None:
        note(connection, "half")
        raise KeyError("broken")

    async with running(book.ledger) as writer:
        answers = await Busy(writer).gather(
            writer.call(note, "a"),
            writer.call(broken),
            writer.call(note, "a"),
            writer.call(note, "b"),
        )
        assert await writer.call(note, "c") == "c"
    assert (answers[0], answers[3]) == ("a", "b")
    assert isinstance(answers[1], KeyError)
    assert isinstance(answers[2], IntegrityError)
    assert noted(book.ledger) == ["a", "b", "c"]


async def admitted(writer: LedgerThread, *claims: Claim) -> AdmissionResult:
    """Ask for the admission of attempts, as the flow does."""
    asked = [Admission(claimed, f"hash {claimed.line}") for claimed in claims]
    return await writer.call(admit, 1, asked, len(asked), 1005.0, order=Order.MANIFEST)


async def test_an_attempt_that_is_over_is_withdrawn_alone(book: Book) -> None:
    """What the ledger does not have as being sent any more is not admitted, and nobody else pays for it."""
    load = book.load([("c", "a.wav"), ("d", "a.wav")])
    first, second = book.claim()
    book.crash(load)
    again, _ = book.claim()
    async with running(book.ledger) as writer:
        found = await admitted(writer, first, again)
    assert (set(found.admitted), list(found.withdrawn)) == ({again.attempt_id}, [first.attempt_id])
    assert book.states(load) == "sent sending"
    assert second.item_id != again.item_id


async def test_what_callbacks_say_and_outcomes_free_comes_before_admissions(tmp_path: Path) -> None:
    """Of one group an admission sees the job of an earlier attempt, and the slot that an outcome gives back."""
    with listening_in(tmp_path) as book:
        book.limit = 1
        load = book.load([("c", "a.wav"), ("d", "b.wav")])
        (first,) = book.claim(1)
        book.reply(first, CUT)
        (again, other) = book.claim(2, Ahead(slots=1))
        book.admit(other)
        token, told = token_hash(first.token or ""), Callback("j", JobStatus.IN_PROGRESS)
        async with running(book.ledger) as writer:
            asked, *_ = await Busy(writer).gather(
                admitted(writer, again),
                writer.call(record_reply, record_of(other, NOT_FOUND)),
                writer.call(apply_callback, token, told, 1.0, listening_since=0.0),
            )
        assert list(asked.withdrawn) == [again.attempt_id]
        assert (asked.limit.free, book.states(load)) == (1, "sending refused")


async def test_outcomes_are_written_before_claims(book: Book) -> None:
    """An outcome is written before a claim that came earlier, so that the claim sees the free slot."""
    book.limit = 1
    book.load([("c", "a.wav"), ("c", "b.wav")])
    book.answer(book.claim_one(), accepted("j"))
    (job,) = book.jobs()
    with book.ledger.writing() as connection:
        account_id = account(connection, "https://service.example")
    async with running(book.ledger) as writer:
        claimed, _ = await Busy(writer).gather(
            writer.call(claim, account_id, 10, book.now, worker_id=book.worker_id),
            writer.call(end_job, JobEnd(job, JobStatus.COMPLETED, book.now)),
        )
    assert [Path(claim.path).name for claim in claimed.claims] == ["b.wav"]


async def test_a_caller_that_is_cancelled_does_not_stop_its_write(book: Book) -> None:
    """A cancelled caller does not undo its write."""
    async with running(book.ledger) as writer:

        async def give_up() -> None:
            call = asyncio.ensure_future(writer.call(note, "a"))
            await asyncio.sleep(0)
            call.cancel()

        await Busy(writer).gather(give_up(), writer.call(note, "b"))
    assert sorted(noted(book.ledger)) == ["a", "b"]


async def test_closing_writes_what_waits(book: Book) -> None:
    """Everything that was handed in before the end is in the ledger after it."""
    writer = LedgerThread(GroupCommits(book.ledger))
    calls = [asyncio.ensure_future(writer.call(note, name)) for name in ("a", "b", "c")]
    await asyncio.sleep(0)
    await asyncio.to_thread(writer.close)
    assert await asyncio.gather(*calls) == ["a", "b", "c"]
    assert noted(book.ledger) == ["a", "b", "c"]


async def test_what_came_back_is_written_with_the_reserve(book: Book) -> None:
    """A commit that fails gives room free and writes the outcomes once more; a claim is not tried again."""
    book.load([("c", "a.wav")])
    counted = CountedLedger(book.ledger, failing={2})
    async with running(counted) as writer:  # type: ignore[arg-type]
        outcome, claimed = await Busy(writer).gather(
            writer.call(note, "a"), writer.call(claim, 1, 10, book.now, worker_id=book.worker_id)
        )
    assert outcome == "a"
    assert counted.rooms == 1
    assert isinstance(claimed, LedgerUnavailableError)
    assert noted(book.ledger) == ["a"]
    assert book.states(book.loads["m.csv"]) == "pending"


async def test_a_transaction_that_cannot_be_committed_fails_for_all_of_it(book: Book) -> None:
    """A failed commit fails all its callers; the thread goes on afterwards."""
    counted = CountedLedger(book.ledger, failing=range(10_000))
    async with running(counted) as writer:  # type: ignore[arg-type]
        for error in await asyncio.gather(writer.call(note, "a"), writer.call(note, "b"), return_exceptions=True):
            assert isinstance(error, LedgerUnavailableError)
        assert noted(book.ledger) == []
        counted.failing = ()
        assert await writer.call(note, "c") == "c"
    assert noted(book.ledger) == ["c"]


@on_sqlite
async def test_a_full_disk_stops_claims_and_loses_nothing(book: Book) -> None:
    """SQLite's own "disk is full": nothing new begins, or is ordered for that; what came back is still written."""
    load = book.load([("c", "a.wav")])

    def fill(connection: Connection) -> None:
        connection.execute(update(accounts).values(name="x" * 10_000_000))

    def set_pages(most: int) -> None:
        with book.ledger.writing() as connection:
            used = connection.exec_driver_sql("PRAGMA page_count").scalar_one()
            connection.exec_driver_sql(f"PRAGMA max_page_count={used + most}")

    async with running(book.ledger) as writer:
        set_pages(8)
        with pytest.raises(LedgerUnavailableError, match="full"):
            await writer.call(fill)
        with pytest.raises(LedgerUnavailableError, match="full"):
            await writer.call(claim, 1, 10, book.now, worker_id=book.worker_id)
        with pytest.raises(LedgerUnavailableError, match="full"):
            await writer.call(reweigh_lanes, 1, 3.0)
        assert await writer.call(note, "a") == "a"
        set_pages(10_000)
        await writer.call(fill)
        with pytest.raises(LedgerUnavailableError, match="full"):
            await writer.call(claim, 1, 10, book.now, worker_id=book.worker_id)
    assert book.states(load) == "pending"


async def test_a_fault_of_ours_reaches_its_caller(book: Book) -> None:
    """Any error in the thread reaches the caller, who never waits for ever."""
    counted = CountedLedger(book.ledger, failing={1}, error=RuntimeError("a fault of ours"))
    writer = LedgerThread(GroupCommits(counted))  # type: ignore[arg-type]
    call = asyncio.ensure_future(writer.call(note, "a"))
    await asyncio.sleep(0)
    await asyncio.to_thread(writer.close)
    for _ in range(5):
        await asyncio.sleep(0)
    assert call.done()
    assert isinstance(call.exception(), RuntimeError)


async def test_arguments_by_name_arrive_too(book: Book) -> None:
    """Positional and keyword arguments reach the function."""
    load = book.load([("c", "a.wav")])
    book.answer(book.claim_one(), accepted("j"))
    (job,) = book.jobs()
    async with running(book.ledger) as writer:
        await writer.call(end_job, end=JobEnd(job, JobStatus.FAILED, book.now))
    assert book.states(load) == "failed"


TABLES = (accounts, attempts, items, lanes)
REPLIES = (accepted("j"), LOST, accepted("k"), THROTTLED, NOT_FOUND, CUT, accepted("l"), THROTTLED)


def record_of(claim: Claim, reply: Reply, *, listens: bool = False) -> ReplyRecord:
    """Make the record of this reply."""
    verdict = judge(reply, claim.conversation_id)
    refusal = Refusal() if verdict.next is Next.COOL_DOWN else None
    record = ReplyRecord(claim, verdict, reply, now=1010.0, wait=1.0, doubt_seconds=900.0, refusal=refusal)
    return record._replace(listens=listens)


# of which attempts a call told before their reply came, and what
CALLS = {0: ("j", "completed"), 1: ("m", "in_progress"), 3: ("n", "failed"), 5: ("o", "scheduled"), 6: ("p", "failed")}
# of an earlier attempt of this one a call told, too
CUT_BEFORE = 4


def endings(jobs: list[LiveJob]) -> list[JobEnd]:
    """Return the ends of these jobs, of every kind; the first one comes again, seen later."""
    kinds = itertools.cycle([(JobStatus.COMPLETED, 4.0), (JobStatus.FAILED, None), (JobStatus.COMPLETED, None)])
    ends = [JobEnd(job, status, 1020.0 + job.line, lived) for job, (status, lived) in zip(jobs, kinds, strict=False)]
    return [*ends, JobEnd(jobs[0], JobStatus.FAILED, 1090.0)]


async def written(folder: Path, *, listens: bool, together: bool) -> tuple[dict[str, list[Any]], list[Any]]:
    """Return the ledger's rows after an attempt met each of these replies, and the answers of the calls.

    ``together``: all were written down at once, not one by one. ``listens``: calls told of some of them.
    """
    with listening_in(folder) as book:
        book.limit = len(REPLIES)
        book.load([(f"c{n // 2}", book.file(f"{n}.wav").name) for n in range(2 * len(REPLIES))])
        first = book.claim()
        book.reply(first[CUT_BEFORE], CUT)
        (again,) = book.claim()
        claims = [again if claim.item_id == again.item_id else claim for claim in first]
        async with running(book.ledger) as writer:
            await admitted(writer, *claims)
            if listens:
                for number, said in CALLS.items():
                    book.callback(claims[number], *said)
                book.callback(first[CUT_BEFORE], "q")
            ends = [
                writer.call(record_reply, record_of(*both, listens=listens))
                for both in zip(claims, REPLIES, strict=True)
            ]
            answers = await in_turns(writer, ends, together=together)
            over = [writer.call(end_job, ending) for ending in endings(book.jobs())]
            answers += await in_turns(writer, over, together=together)
        with book.ledger.reading() as connection:
            its_own = {items.c.path, items.c.change}
            columns = {table.name: [column for column in table.c if column not in its_own] for table in TABLES}
            return {name: list(connection.execute(select(*some))) for name, some in columns.items()}, answers


async def in_turns(writer: LedgerThread, calls: list[Any], *, together: bool) -> list[Any]:
    """Return the answers of these calls, in one transaction or in one for each."""
    if together:
        return await Busy(writer).gather(*calls)
    return [answer for call in calls for answer in await Busy(writer).gather(call)]


@pytest.mark.parametrize("listens", [False, True])
async def test_what_is_written_together_is_what_is_written_one_by_one(tmp_path: Path, listens: bool) -> None:
    """Outcomes and ends of all kinds: ledger and answers are the same, in one statement or in many."""
    folders = [tmp_path / "at-once", tmp_path / "one-by-one"]
    for folder in folders:
        folder.mkdir()
    at_once, one_by_one = [await written(folder, listens=listens, together=folder is folders[0]) for folder in folders]
    assert at_once == one_by_one
    ledger, answers = at_once
    assert len(ledger["attempts"]) == len(REPLIES) + 1
    assert {item.state for item in ledger["items"]} >= {State.COMPLETED, State.FAILED}
    answers = answers[: len(REPLIES)]
    if not listens:
        assert {answer.verdict.state for answer in answers} >= {
            State.ACCEPTED,
            State.REFUSED,
            State.IN_DOUBT,
            State.PENDING,
        }
        return
    assert [number for number, answer in enumerate(answers) if answer.has_callback] == sorted({0, 1, 3, 5, CUT_BEFORE})
    assert [number for number, answer in enumerate(answers) if answer.ended] == [0, 3]
    assert [number for number, answer in enumerate(answers) if answer.anomaly] == [3, CUT_BEFORE, 5, 6]
    assert [answer.verdict.state for answer in answers if not answer.has_callback] == [
        "accepted",
        "accepted",
        "pending",
    ]


def _locking(book: Book) -> int:
    """Return how many statements begin a transaction: PostgreSQL locks the accounts, and looks for a later run."""
    return 0 if book.ledger._engine.dialect.name == "sqlite" else 2


@contextmanager
def counted(book: Book, counts: list[int]) -> Iterator[None]:
    """Append the number of questions and changes that the ledger executes in the block."""
    with executed(book) as statements:
        yield
    counts.append(sum(statement.startswith(("SELECT", "UPDATE")) for statement, _ in statements))


@pytest.mark.parametrize(
    ("function", "listens", "becomes"),
    [(record_reply, False, "accepted"), (record_reply, True, "accepted"), (end_job, False, "completed")],
)
async def test_what_waits_together_costs_no_statement_more_than_one(
    book: Book, function: Any, listens: bool, becomes: str
) -> None:
    """Outcomes and ends of jobs that wait are the same few statements, whether they are two or twenty."""
    book.limit = 30
    book.load([(f"c{n}", book.file(f"{n}.wav").name) for n in range(22)])
    claims = book.claim()
    values: list[Any] = [record_of(claim, accepted(f"job-{claim.line}"), listens=listens) for claim in claims]
    if function is end_job:
        for claim in claims:
            book.answer(claim, accepted(f"job-{claim.line}"))
        values = [JobEnd(job, JobStatus.COMPLETED, 1010.0) for job in book.jobs()]
    counts: list[int] = []
    async with running(book.ledger) as writer:
        for some in (values[:2], values[2:]):
            with counted(book, counts):
                answers = await Busy(writer).gather(*[writer.call(function, value) for value in some])
            assert [answer for answer in answers if isinstance(answer, Exception)] == []
    assert counts[0] == counts[1] <= (4 if listens else 3) + 2 * _locking(book)
    assert book.states(book.loads["m.csv"]).split() == [becomes] * len(claims)


async def test_attempts_that_wait_are_admitted_by_the_same_few_statements(book: Book) -> None:
    """Two or twenty: one look at all of them, and one statement for each kind of change."""
    book.limit = 30
    load = book.load([(f"c{n}", book.file(f"{n}.wav").name) for n in range(22)])
    claims = book.claim()
    counts: list[int] = []
    async with running(book.ledger) as writer:
        for some in (claims[:2], claims[2:]):
            with counted(book, counts):
                answer = await admitted(writer, *some)
            assert answer.admitted == {claimed.attempt_id for claimed in some}
    assert counts[0] == counts[1] <= 7 + 2 * _locking(book)
    assert book.states(load).split() == ["sent"] * len(claims)
