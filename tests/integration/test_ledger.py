"""The ledger's contract: claim, admission, outcome, end of the job, and what a crash leaves."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Connection, and_, event, func, select, update

from uploader import audio
from uploader.ledger import Ledger
from uploader.ledger.claiming import (
    NOTHING_AHEAD,
    WAITS_IN_VAIN,
    Admission,
    AdmissionResult,
    Ahead,
    ClaimResult,
    admit,
    claim,
    need_slot_first,
)
from uploader.ledger.clock import rebase_deadlines
from uploader.ledger.lanes import activate_batch, reweigh_lanes
from uploader.ledger.leases import open_workers
from uploader.ledger.limit import limit_facts
from uploader.ledger.loading import account, begin_load, load_rows, save_rules, was_begun
from uploader.ledger.outcomes import (
    JOBS_REMEMBERED,
    JobEnd,
    ReplyRecord,
    end_job,
    job_overdue,
    record_replies,
    record_reply,
)
from uploader.ledger.reading import is_batch_over, latest_completed_jobs, live_jobs, result_lines, troubles
from uploader.ledger.schema import accounts, attempts, items, lanes
from uploader.ledger.sending import elsewhere, lanes_to_send, to_send
from uploader.ledger.standing import standing
from uploader.ledger.workers import Identity, begin_worker, end_workers
from uploader.model import (
    Claim,
    InvalidRow,
    JobStatus,
    LimitFacts,
    LiveJob,
    Load,
    Order,
    Problem,
    Reply,
    ResultLine,
    Row,
    State,
)
from uploader.policy.durations import CompletedJob
from uploader.policy.forecast import BYTES_PER_AUDIO_SECOND
from uploader.policy.limits import JOB_SECONDS, STATED_LIMIT_BELIEVED_SECONDS, Refusal
from uploader.policy.replies import judge

BASE_URL = "https://service.example"
IDENTITY = Identity("host", "process", "1.0")
# the law is of SQLite's files, or the fault that shows it is
on_sqlite = pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
DOUBT_SECONDS = 900.0
LOST = Reply(connected=True, last_chunk_left=True, failure="reset", bytes_sent=7)
CUT = Reply(connected=True, failure="reset", bytes_sent=3)
UNREACHABLE = Reply(failure="Connection refused")
NOT_FOUND = Reply(connected=True, last_chunk_left=True, status=404, bytes_sent=7)
THROTTLED = Reply(connected=True, last_chunk_left=True, status=429, bytes_sent=7)
OUR_FILE = Reply(connected=True, source_failure="the file shrank while it was sent")
_AUDIO = func.coalesce(items.c.duration_seconds, items.c.size / BYTES_PER_AUDIO_SECOND, 0.0)


def accepted(job_id: str) -> Reply:
    """Return the answer that an append is answered with."""
    return Reply(connected=True, last_chunk_left=True, status=201, answer={"jobId": job_id}, bytes_sent=7)


@dataclass
class Book:
    """A ledger on the disk, the recordings beside it, and a clock that the test sets."""

    folder: Path
    ledger: Ledger
    limit: int = 100
    hold: bool = True
    now: float = 1000.0
    order: Order = Order.MANIFEST
    worker_id: int = 0
    loads: dict[str, Load] = field(default_factory=dict)

    def file(self, name: str, content: str = "") -> Path:
        """Write a recording of this name, by default with its name as content."""
        path = self.folder / name
        path.write_text(content or name, encoding="utf-8")
        return path

    def row(self, line: int, conversation_id: str, name: str, extras: Mapping[str, Any]) -> Row | InvalidRow:
        """Return a row as the manifest's reader makes it: a missing file is valid where its item was begun."""
        path = self.folder / name
        if not name or (not path.exists() and not self.was_begun(conversation_id, str(path))):
            problem = Problem(line, "audioPath", name, "the file cannot be found: correct the path")
            return InvalidRow(line, conversation_id, name, extras, [problem])
        signature = audio.signature(path) if path.exists() else None
        return Row(line, conversation_id, name, str(path), extras=extras, signature=signature)

    def was_begun(self, conversation_id: str, path: str) -> bool:
        """Return True where the ledger has a begun item of this path."""
        with self.ledger.writing() as connection:
            return was_begun(connection, account(connection, BASE_URL))(conversation_id, path, None)

    def load(
        self, rows: Sequence[tuple[str, str]], name: str = "m.csv", *, repeat: bool = False, run: bool = True
    ) -> Load:
        """Load a manifest of these rows (conversation, file), and begin to run it."""
        read = [self.row(line, *row, {}) for line, row in enumerate(rows, start=2)]
        with self.ledger.writing() as connection:
            load = begin_load(
                connection,
                account(connection, BASE_URL),
                name,
                manifest=name,
                results=self.folder / "r.csv",
                extra_columns=[],
                now=self.now,
                repeat=repeat,
            )
            load_rows(connection, load, read, content_hash=audio.content_hash, probe=audio.probe)
        self.loads[name] = load
        self.save_rules()
        if run:
            self.run(load)
        return load

    def __setattr__(self, name: str, value: Any) -> None:
        """Set an attribute; the limit and ``hold`` are facts of the account."""
        object.__setattr__(self, name, value)
        if name in ("limit", "hold") and "loads" in self.__dict__:
            self.save_rules()

    def save_rules(self) -> None:
        """Store the limit, and whether trouble holds a lane, as a run of these settings does at its begin."""
        with self.ledger.writing() as connection:
            save_rules(connection, account(connection, BASE_URL), limit=self.limit, holds=self.hold)

    def run(self, load: Load, *, first: int | None = None) -> None:
        """Make this batch, or so many of its first items, the one that is run."""
        with self.ledger.writing() as connection:
            self.end_worker(connection)
            self.begin_worker(connection, load, first)

    def begin_worker(self, connection: Connection, load: Load, first: int | None = None) -> None:
        """Begin the worker of this batch, or of so many of its first items."""
        until = activate_batch(connection, load.account_id, load.batch_id, first=first)
        self.worker_id = begin_worker(
            connection, load.account_id, load.batch_id, IDENTITY, self.now, until_position=until
        )

    def end_worker(self, connection: Connection) -> tuple[int, int]:
        """End the worker, as if it had died; return the numbers of items that are pending again, and in doubt."""
        mine = [worker for worker in open_workers(connection) if worker.worker_id == self.worker_id]
        return end_workers(connection, mine, self.now, DOUBT_SECONDS)

    def look(self, wanted: int = 100, ahead: Ahead = NOTHING_AHEAD) -> ClaimResult:
        """Claim, and see all that is answered."""
        with self.ledger.writing() as connection:
            who = account(connection, BASE_URL)
            return claim(connection, who, wanted, self.now, self.order, ahead=ahead, worker_id=self.worker_id)

    def claim(self, wanted: int = 100, ahead: Ahead = NOTHING_AHEAD) -> list[Claim]:
        """Claim as many items as may go."""
        return list(self.look(wanted, ahead).claims)

    def claim_one(self) -> Claim:
        """Claim the one item that may go."""
        (claim,) = self.claim()
        return claim

    def ask(self, *waiting: Claim, room: int = 100) -> AdmissionResult:
        """Ask for the admission of attempts that wait for it."""
        asked = [Admission(claimed, audio.content_hash(claimed.path) or "unread") for claimed in waiting]
        with self.ledger.writing() as connection:
            who = account(connection, BASE_URL)
            return admit(connection, who, asked, room, self.now, order=self.order)

    def admit(self, claimed: Claim) -> None:
        """Admit an attempt whose turn has come, and which finds a slot."""
        found = self.ask(claimed)
        assert found.admitted == {claimed.attempt_id}, found

    def answer(self, claimed: Claim, reply: Reply, wait: float = 0.0) -> State:
        """Admit an attempt where its last chunk left, and write down its reply."""
        if reply.last_chunk_left:
            self.admit(claimed)
        return self.record(claimed, reply, wait)

    def record(self, claim: Claim, reply: Reply, wait: float = 0.0, refusal: Refusal | None = None) -> State:
        """Write down the reply to an attempt."""
        verdict = judge(reply, claim.conversation_id)
        with self.ledger.writing() as connection:
            record_reply(connection, ReplyRecord(claim, verdict, reply, self.now, wait, DOUBT_SECONDS, refusal))
        return verdict.state

    def jobs(self) -> list[LiveJob]:
        """Return the live jobs."""
        with self.ledger.writing() as connection:
            return live_jobs(connection, account(connection, BASE_URL))

    def end(self, job_id: str, status: JobStatus = JobStatus.COMPLETED, lived_seconds: float | None = None) -> None:
        """End a live job."""
        (job,) = [job._replace(has_known_start=True) for job in self.jobs() if job.job_id == job_id]
        with self.ledger.writing() as connection:
            end_job(connection, JobEnd(job, status, self.now, lived_seconds))

    def complete(self, claim: Claim, job_id: str = "") -> None:
        """Carry an item to its good end."""
        self.answer(claim, accepted(job_id or f"job-{claim.attempt_id}"))
        self.end(job_id or f"job-{claim.attempt_id}")

    def complete_all(self) -> list[str]:
        """Carry everything that may go to its good end; the files' names in the order in which they went."""
        went = []
        while some := self.claim(1):
            went += [Path(claim.path).name for claim in some]
            self.complete(some[0])
        return went

    def crash(self, load: Load) -> tuple[int, int]:
        """Let the run die, and begin it anew without loading; return the recovery."""
        with self.ledger.writing() as connection:
            recovered = self.end_worker(connection)
            self.begin_worker(connection, load)
        return recovered

    def lines(self, load: Load) -> list[ResultLine]:
        """Return the results of a batch."""
        with self.ledger.writing() as connection:
            return list(result_lines(connection, load.batch_id))

    def states(self, load: Load) -> str:
        """Return the states of a batch's rows, in manifest order."""
        return " ".join(line.state.value for line in self.lines(load))

    def limit_facts(self) -> LimitFacts:
        """Read the account's limit and slots."""
        with self.ledger.writing() as connection:
            return limit_facts(connection, account(connection, BASE_URL), self.limit, self.now)

    def live(self) -> int:
        """Count the slots that are taken."""
        return self.limit_facts().live

    def value(self, name: str, line: int) -> Any:
        """Return a column of the item that the newest load named in this line."""
        with self.ledger.writing() as connection:
            newest = select(items.c[name]).where(items.c.line == line).order_by(items.c.load_id.desc()).limit(1)
            return connection.execute(newest).scalar_one()

    def reweigh_lanes(self, item_seconds: float, account_id: int = 1) -> None:
        """Order an account's lanes by what an item counts for beside its audio."""
        with self.ledger.writing() as connection:
            reweigh_lanes(connection, account_id, item_seconds)

    def check_work(self) -> None:
        """Check that the backlog of each lane is the sum over its items."""
        counted = select(items.c.lane_id, func.count().label("items"), func.sum(_AUDIO).label("audio"))
        carried = and_(items.c.state == State.PENDING, items.c.position <= lanes.c.active_until)
        with self.ledger.writing() as connection:
            found = connection.execute(counted.join(lanes).where(carried).group_by(items.c.lane_id)).all()
            kept = connection.execute(select(lanes)).all()
        left = {row.lane_id: (row.items, row.audio) for row in found}
        for lane in kept:
            waiting, audio_left = left.get(lane.id, (0, 0.0))
            assert (lane.items_left, lane.audio_left) == (waiting, pytest.approx(audio_left, abs=1e-9))
            assert lane.work_left == lane.audio_left + waiting * lane.item_seconds

    def attempts(self) -> list[tuple[int, int, str | None]]:
        """Return item, number and outcome of every attempt."""
        with self.ledger.writing() as connection:
            found = select(attempts.c.item_id, attempts.c.number, attempts.c.outcome).order_by(attempts.c.id)
            return [(row.item_id, row.number, row.outcome) for row in connection.execute(found)]


@contextmanager
def opened(folder: Path, url: str = "") -> Iterator[Book]:
    """Give a new ledger, by default in this folder, open for a run, with seven recordings in the folder."""
    with Ledger.open_for_run(url or f"sqlite:///{folder}/ledger.db") as ledger:
        book = Book(folder, ledger)
        for name in "abcdefg":
            book.file(f"{name}.wav", f"{name} speaks")
        yield book


@contextmanager
def executed(book: Book) -> Iterator[list[tuple[str, Any]]]:
    """Give a list of the statements that the ledger executes in the block, each with its parameters."""
    statements: list[tuple[str, Any]] = []

    def keep(_: object, __: object, statement: str, parameters: Any, *___: object) -> None:
        statements.append((statement, parameters))

    event.listen(book.ledger._engine, "before_cursor_execute", keep)
    yield statements
    event.remove(book.ledger._engine, "before_cursor_execute", keep)


def test_an_item_goes_from_load_to_completed(book: Book) -> None:
    """Load, claim, admission, answer, end: each step shows, and the result says all of it."""
    load = book.load([("c", "a.wav")])
    assert book.states(load) == "pending"
    claim = book.claim_one()
    assert (claim.number, claim.batch, claim.line, claim.conversation_id) == (1, "m.csv", 2, "c")
    assert (claim.path, claim.size, claim.content_hash) == (str(book.folder / "a.wav"), 8, None)
    assert book.states(load) == "sending"
    book.admit(claim)
    assert book.states(load) == "sent"
    assert book.record(claim, accepted("j")) is State.ACCEPTED
    assert book.states(load) == "accepted"
    book.now += 5
    book.end("j")
    (line,) = book.lines(load)
    assert (line.state, line.job_id, line.attempts, line.http_status) == (State.COMPLETED, "j", 1, 201)
    assert (line.accepted_at, line.finished_at, line.error, line.batch) == (1000.0, 1005.0, None, "m.csv")
    assert book.claim() == []
    assert book.live() == 0


def test_a_claim_is_committed_before_it_is_answered(book: Book) -> None:
    """The attempt is committed before its first byte can leave."""
    load = book.load([("c", "a.wav")])
    claim = book.claim_one()
    with book.ledger.beside() as reader, reader.reading() as connection:
        (line,) = result_lines(connection, load.batch_id)
        assert (line.state, line.attempts) == (State.SENDING, 1)
    assert book.attempts() == [(claim.item_id, 1, None)]


def test_an_admission_is_kept_with_the_content(book: Book) -> None:
    """The admission before the last chunk stores what is about to be appended."""
    book.load([("c", "a.wav")])
    claimed = book.claim_one()
    book.admit(claimed)
    assert book.value("content_hash", 2) == audio.content_hash(claimed.path)


def test_only_the_attempt_that_is_being_sent_is_admitted(book: Book) -> None:
    """An admission that is asked for too late, or twice, is refused: its last chunk must not leave."""
    load = book.load([("c", "a.wav")])
    claimed = book.claim_one()
    book.admit(claimed)
    refused = book.ask(claimed)
    assert (refused.admitted, list(refused.withdrawn)) == (frozenset(), [claimed.attempt_id])
    assert "does not have it as being sent any more" in refused.withdrawn[claimed.attempt_id]
    book.record(claimed, CUT)
    again = book.claim_one()
    assert list(book.ask(claimed).withdrawn) == [claimed.attempt_id]
    assert book.states(load) == "sending"
    book.admit(again)


def test_the_items_of_a_lane_go_one_after_the_other(book: Book) -> None:
    """The items of a lane go in manifest order, each after the one before it has completed."""
    load = book.load([("c", "b.wav"), ("c", "a.wav"), ("c", "c.wav")])
    for name in ("b.wav", "a.wav", "c.wav"):
        claim = book.claim_one()
        assert Path(claim.path).name == name
        assert book.claim() == []
        book.answer(claim, accepted(name))
        assert book.claim() == []
        book.end(name)
    assert book.states(load) == "completed completed completed"


def test_lanes_do_not_wait_for_each_other(book: Book) -> None:
    """One item of each lane may be live at once, in manifest order."""
    book.load([("c", "a.wav"), ("c", "b.wav"), ("d", "a.wav"), ("e", "c.wav")])
    assert [(claim.conversation_id, Path(claim.path).name) for claim in book.claim()] == [
        ("c", "a.wav"),
        ("d", "a.wav"),
        ("e", "c.wav"),
    ]


def test_no_more_is_claimed_than_wanted(book: Book) -> None:
    """A claim begins at most as many attempts as there are free workers; with none it only reads."""
    book.load([(conversation, "a.wav") for conversation in "cdefg"])
    assert book.look(0).claims == []
    assert [len(book.claim(2)), len(book.claim(2)), len(book.claim(2))] == [2, 2, 1]


def test_no_more_is_claimed_than_the_limit(book: Book) -> None:
    """Where nothing is foreseen, as much begins as there is room beside what is sent and what lives."""
    book.limit = 2
    book.load([(conversation, "a.wav") for conversation in "cdefg"])
    first, second = book.claim()
    assert book.claim() == []
    book.answer(first, accepted("1"))
    assert book.claim() == []
    book.end("1")
    (third,) = book.claim()
    book.answer(second, NOT_FOUND)
    (fourth,) = book.claim()
    assert (third.conversation_id, fourth.conversation_id) == ("e", "f")
    assert (book.live(), book.limit_facts().sending) == (0, 2)


def test_an_item_in_doubt_keeps_its_slot_for_a_while(book: Book) -> None:
    """An item in doubt holds its slot exactly until slot_until."""
    book.limit = 1
    load = book.load([("c", "a.wav"), ("d", "a.wav")])
    assert book.answer(book.claim_one(), LOST) is State.IN_DOUBT
    book.now += DOUBT_SECONDS - 1
    waiting = book.look()
    assert (waiting.claims, waiting.waiting, waiting.limit.live) == ([], True, 1)
    assert waiting.wake_at == 1000.0 + DOUBT_SECONDS
    assert (waiting.limit.doubtful, waiting.limit.doubtful_until) == (1, waiting.wake_at)
    book.now = waiting.wake_at
    assert book.claim_one().conversation_id == "d"
    facts = book.look().limit
    assert (facts.live, facts.sending, facts.doubtful, facts.doubtful_until) == (0, 1, 0, None)
    assert book.states(load) == "in_doubt sending"


def test_a_job_that_another_item_has_is_not_believed(book: Book) -> None:
    """One job cannot be two appends: the second item is in doubt, and it is said why; the first one stays as it is."""
    book.limit = 4
    load = book.load([("c", "a.wav"), ("d", "b.wav"), ("e", "a.wav"), ("f", "b.wav")])
    claims = book.claim()
    book.answer(claims[0], accepted("same"))
    book.answer(claims[1], accepted("same"))
    book.end("same")
    book.answer(claims[2], accepted("same"))
    book.answer(claims[3], accepted("another"))
    assert book.states(load) == "completed in_doubt in_doubt accepted"
    lines = book.lines(load)
    assert [line.job_id for line in lines] == ["same", "same", "same", "another"]
    assert ["that of another item" in (line.error or "") for line in lines] == [False, True, True, False]
    assert book.value("slot_until", 3) is not None


def test_two_answers_of_one_group_with_one_job_are_told_apart(book: Book) -> None:
    """Outcomes that are written together are the same as one after the other: the first has the job."""
    load = book.load([("c", "a.wav"), ("d", "b.wav")])
    claims = book.claim()
    for claimed in claims:
        book.admit(claimed)
    reply = accepted("same")
    with book.ledger.writing() as connection:
        results = record_replies(
            connection,
            [
                ReplyRecord(attempt, judge(reply, attempt.conversation_id), reply, book.now, 0.0, DOUBT_SECONDS)
                for attempt in claims
            ],
        )
    assert [result.verdict.state for result in results] == [State.ACCEPTED, State.IN_DOUBT]
    assert book.states(load) == "accepted in_doubt"


def test_the_same_job_in_another_account_is_another_job(book: Book) -> None:
    """JobIds are unique for one service only: two services may use the same ones."""
    load = book.load([("c", "a.wav")])
    book.complete(book.claim_one(), "job-1")
    with book.ledger.writing() as connection:
        other = account(connection, "https://elsewhere.example")
        connection.execute(update(items).values(account_id=other))
        connection.execute(update(lanes).values(account_id=other))
    second = book.load([("c", "b.wav")], "n.csv")
    book.complete(book.claim_one(), "job-1")
    assert (book.states(load), book.states(second)) == ("completed", "completed")


@pytest.mark.parametrize("is_live", [True, False])
def test_an_overdue_job_that_the_service_calls_live_keeps_its_slot(book: Book, is_live: bool) -> None:
    """A job that is known to live counts towards the limit however long it takes; one that nobody knows is in doubt."""
    book.limit = 1
    book.load([("c", "a.wav"), ("d", "b.wav")])
    book.answer(book.claim_one(), accepted("j"))
    (job,) = book.jobs()
    with book.ledger.writing() as connection:
        job_overdue(connection, job, "late", book.now, DOUBT_SECONDS, is_live=is_live)
    book.now += 10 * DOUBT_SECONDS
    assert len(book.claim()) == (0 if is_live else 1)


def test_doubt_lasts_three_times_what_such_a_job_takes(book: Book) -> None:
    """Once jobs have ended, slot_until follows from what they took, and never exceeds three times the longest."""
    book.file("long.wav", "x" * 10_000_000)
    book.limit = 3
    book.load([("c", "a.wav"), ("d", "b.wav"), ("e", "long.wav")])
    claims = book.claim()
    for attempt, seconds in zip(claims[:2], (4.0, 5.0), strict=True):
        book.answer(attempt, accepted(attempt.conversation_id))
        book.now += seconds
        book.end(attempt.conversation_id, lived_seconds=seconds)
    book.answer(claims[2], LOST)
    assert book.value("slot_until", 4) == pytest.approx(book.now + 3 * 5.0)


@pytest.mark.parametrize(("boot", "moved"), [("this boot", 3600.0), ("another boot", 0.0)])
@pytest.mark.parametrize("sign", [1, -1])
def test_a_clock_that_jumps_between_two_runs_shortens_nothing(book: Book, boot: str, moved: float, sign: int) -> None:
    """On the same boot a jump of the wall clock moves slot_until and the age of live jobs with it."""
    book.load([("c", "a.wav"), ("d", "a.wav"), ("e", "a.wav")])
    first, second, _ = book.claim()
    book.answer(first, LOST)
    book.answer(second, accepted("j"))
    with book.ledger.writing() as connection:
        rebase_deadlines(connection, "this boot", 500.0)
        rebase_deadlines(connection, boot, 500.0 + sign * 3600.0)
    assert book.value("slot_until", 2) == 1000.0 + DOUBT_SECONDS + sign * moved
    assert book.jobs()[0].accepted_at == 1000.0 + sign * moved
    assert book.value("slot_until", 4) is None


def test_what_a_clock_that_was_ahead_wrote_is_of_now(book: Book) -> None:
    """Times in the future are moved to the present, or a stated limit and a slot would be kept until then."""
    book.limit = 5
    load = book.load([(conversation, "a.wav") for conversation in "cdefg"])
    years = 4 * 365 * 86400.0
    book.now += years
    first, second, third = book.claim(3)
    book.answer(first, LOST)
    book.record(second, THROTTLED, refusal=Refusal(3))
    book.record(third, THROTTLED, refusal=Refusal())
    book.now -= years
    with book.ledger.writing() as connection:
        end_workers(connection, open_workers(connection), book.now, DOUBT_SECONDS, 7200.0)
    book.run(load)
    assert book.look().limit.in_force < 3
    assert book.value("slot_until", 2) == book.now + 7200.0
    book.now += STATED_LIMIT_BELIEVED_SECONDS + 1
    assert book.look().limit.in_force == 5


def test_a_stated_limit_lowers_the_claim_for_a_day(book: Book) -> None:
    """What a 429 stated is in force for 24 hours, and the setting again after that."""
    book.load([(conversation, "a.wav") for conversation in "cdefg"])
    first, *others = book.claim(3)
    for claimed in (first, *others):
        book.admit(claimed)
    book.record(first, THROTTLED, refusal=Refusal(2))
    for other in others:
        book.record(other, CUT)
    answered = book.look()
    assert (len(answered.claims), answered.limit.in_force, answered.limit.stated) == (2, 2, 2)
    book.now += STATED_LIMIT_BELIEVED_SECONDS + 1
    assert len(book.claim()) == 3


def test_a_refusal_lowers_the_limit_to_what_was_live(book: Book) -> None:
    """After a 429 without a number as many jobs as were live are allowed, one more after each job's time."""
    book.limit = 5
    book.load([(conversation, "a.wav") for conversation in "cdefg"])
    first, second, refused, again = book.claim(4)
    book.admit(again)
    book.answer(first, accepted("1"))
    book.complete(second)
    step = JOB_SECONDS - JOB_SECONDS / JOBS_REMEMBERED  # that job took no time
    book.record(refused, THROTTLED, refusal=Refusal())
    facts = book.look().limit
    assert (facts.configured, facts.stated, facts.in_force, facts.live, facts.others) == (5, None, 2, 2, None)
    assert facts.rises_at == book.now + step
    book.now += step
    (claim,) = book.claim()
    book.record(claim, THROTTLED, refusal=Refusal())
    waiting = book.look()
    assert (waiting.claims, waiting.wake_at) == (
        [],
        book.now + 2 * step,
    )  # the step was refused: the next one waits longer
    book.record(again, CUT)
    book.now += 4 * step
    assert len(book.claim()) == 3


def test_what_a_job_typically_takes_is_learned(book: Book) -> None:
    """The typical job time follows each job a little, and is the step of the learned limit."""
    book.load([(conversation, "a.wav") for conversation in "cdefg"])
    typical = JOB_SECONDS
    for job_id, seconds in (("1", 400.0), ("2", 8.0)):
        (claim,) = book.claim(1)
        book.answer(claim, accepted(job_id))
        book.now += seconds
        book.end(job_id)
        typical += (seconds - typical) / JOBS_REMEMBERED
    first, *_ = book.claim()
    book.record(first, THROTTLED, refusal=Refusal())
    assert book.look().limit.rises_at == pytest.approx(book.now + typical)


def test_jobs_that_seem_to_take_no_time_leave_a_mean_that_is_a_number(book: Book) -> None:
    """Ends at the moment of acceptance, by a clock that went back, say: the mean stays a number on each database."""
    load = book.load([("c", "a.wav")])
    (claimed,) = book.claim()
    book.answer(claimed, accepted("j"))
    with book.ledger.writing() as connection:
        connection.execute(update(accounts).values(typical_job_seconds=5e-324))
    book.end("j")
    with book.ledger.writing() as connection:
        typical = connection.execute(select(accounts.c.typical_job_seconds)).scalar_one()
    assert typical == pytest.approx(1e-30 / JOBS_REMEMBERED)
    assert book.states(load) == "completed"


def test_a_refusal_below_what_was_stated_tells_of_others(book: Book) -> None:
    """Where 4 is stated and one job of ours was live, others have three, until our limit has risen again."""
    book.limit = 5
    book.load([(conversation, "a.wav") for conversation in "cdefg"])
    first, refused = book.claim(2)
    book.admit(first)
    book.record(refused, THROTTLED, refusal=Refusal(4))
    facts = book.look(0).limit
    assert (facts.stated, facts.in_force, facts.live, facts.others) == (4, 1, 1, 3)
    book.now += JOB_SECONDS
    assert book.look(0).limit.others == 2
    book.now += 2 * JOB_SECONDS
    assert (book.look(0).limit.in_force, book.look(0).limit.others) == (4, None)
    assert len(book.claim()) == 3
    book.record(first, CUT)


@pytest.mark.parametrize(("boot", "moved"), [("this boot", 3600.0), ("another boot", 0.0)])
@pytest.mark.parametrize("sign", [1, -1])
def test_a_clock_that_jumps_between_two_runs_teaches_nothing(book: Book, boot: str, moved: float, sign: int) -> None:
    """On the same boot what was learned of the limit is as old after a jump of the wall clock as before it."""
    book.load([(conversation, "a.wav") for conversation in "cdefg"])
    (claim,) = book.claim(1)
    book.record(claim, THROTTLED, refusal=Refusal())
    with book.ledger.writing() as connection:
        rebase_deadlines(connection, "this boot", 500.0)
        rebase_deadlines(connection, boot, 500.0 + sign * 3600.0)
    book.now += sign * moved
    facts = book.look(0).limit
    assert (facts.in_force, facts.rises_at) == (1, book.now + JOB_SECONDS)


def test_what_was_learned_of_the_limit_outlives_the_run(book: Book) -> None:
    """The learned limit is in the ledger: the command after a crash, or another worker, claims no more."""
    load = book.load([(conversation, "a.wav") for conversation in "cdefg"])
    first, second, refused = book.claim(3)
    for claimed in (first, second):
        book.admit(claimed)
    book.record(refused, THROTTLED, refusal=Refusal())
    book.record(first, CUT)
    book.record(second, CUT)
    book.crash(load)
    assert len(book.claim()) == 2


def test_a_limit_below_what_is_live_claims_nothing(book: Book) -> None:
    """Under a limit that has fallen below the live jobs nothing is claimed until they end."""
    book.limit = 3
    book.load([(conversation, "a.wav") for conversation in "cdefg"])
    assert len(book.claim()) == 3
    book.limit = 1
    answered = book.look()
    assert (answered.claims, answered.waiting) == ([], True)


@pytest.mark.parametrize(
    ("reply", "state"),
    [
        (LOST, State.IN_DOUBT),
        (CUT, State.PENDING),
        (UNREACHABLE, State.PENDING),
        (THROTTLED, State.PENDING),
        (NOT_FOUND, State.REFUSED),
        (OUR_FILE, State.REFUSED),
    ],
)
def test_an_outcome_is_kept_with_its_reason(book: Book, reply: Reply, state: State) -> None:
    """State, reason and status are stored with item and attempt, and shown in the results."""
    load = book.load([("c", "a.wav")])
    claim = book.claim_one()
    book.answer(claim, reply)
    verdict = judge(reply, "c")
    (line,) = book.lines(load)
    assert (line.state, line.error, line.http_status) == (state, verdict.reason, reply.status)
    assert book.attempts() == [(claim.item_id, 1, verdict.outcome.value)]


def test_an_item_that_is_tried_again_counts_its_attempts(book: Book) -> None:
    """Attempts are numbered without a gap, cut-offs among them are counted apart, and our own cuts count for nobody."""
    load = book.load([("c", "a.wav")])
    for reply in (CUT, UNREACHABLE, Reply(connected=True, withheld=True), CUT, THROTTLED):
        book.answer(book.claim_one(), reply)
    last = book.claim_one()
    assert (last.number, last.cut_offs, last.unadmitted) == (6, 2, 1)
    book.complete(last)
    assert [number for _, number, _ in book.attempts()] == [1, 2, 3, 4, 5, 6]
    (line,) = book.lines(load)
    assert (line.state, line.attempts, line.error) == (State.COMPLETED, 5, None)


def test_a_lane_waits_and_then_goes_on(book: Book) -> None:
    """After a failed attempt its lane waits, the others do not, and the claim tells when to look again."""
    book.load([("c", "a.wav"), ("d", "a.wav")])
    first, second = book.claim()
    book.answer(first, CUT, wait=30.0)
    book.answer(second, accepted("d"))
    answered = book.look()
    assert (answered.claims, answered.waiting, answered.wake_at) == ([], True, 1030.0)
    book.now = 1030.0
    assert book.claim_one().conversation_id == "c"


def test_an_attempt_holds_no_slot_before_its_admission(book: Book) -> None:
    """What is sent ahead is none of the account's jobs; the admission takes the slot, and finds one free or waits."""
    book.limit = 2
    load = book.load([(conversation, "a.wav") for conversation in "cdefg"])
    book.answer(book.claim(1)[0], accepted("j"))
    claims = book.claim(ahead=Ahead(slots=2))
    assert [claimed.is_ahead for claimed in claims] == [False, True, True]
    facts = book.limit_facts()
    assert (facts.live, facts.sending, facts.free) == (1, 3, 1)
    found = book.ask(*claims)
    assert (set(found.admitted), dict(found.withdrawn)) == ({claims[0].attempt_id}, {})
    assert (found.limit.live, found.limit.free) == (2, 0)
    assert book.ask(*claims[1:]).admitted == frozenset()
    assert book.states(load) == "accepted sent sending sending pending"
    book.end("j")
    assert book.ask(*claims[1:]).admitted == {claims[1].attempt_id}
    assert book.live() == 2


def test_items_that_waited_in_vain_keep_none_behind_them_from_going_ahead(book: Book) -> None:
    """Too many waits in vain: from then on an item waits for its slot, and the body of the next lane travels."""
    book.limit = 1
    book.load([(conversation, "a.wav") for conversation in "cdefg"])
    book.answer(book.claim(1)[0], accepted("j"))
    with book.ledger.writing() as connection:
        in_vain = update(items).where(items.c.line.in_([3, 4])).values(unadmitted=WAITS_IN_VAIN)
        assert connection.execute(in_vain).rowcount == 2
    (ahead,) = book.claim(ahead=Ahead(slots=1))
    assert (ahead.conversation_id, ahead.is_ahead) == ("f", True)
    book.end("j")
    assert [claimed.conversation_id for claimed in book.claim(1)] == [], "the body that travels has the slot"
    book.answer(ahead, accepted("k"))
    book.end("k")
    assert [claimed.conversation_id for claimed in book.claim(1)] == ["d"]


def test_no_more_are_admitted_than_asked_for(book: Book) -> None:
    """So many last chunks may be out without an answer, however many slots are free; none at all only looks."""
    load = book.load([(conversation, "a.wav") for conversation in "cde"])
    claims = book.claim()
    assert book.ask(*claims, room=0).admitted == frozenset()
    assert book.ask(*claims, room=2).admitted == {claimed.attempt_id for claimed in claims[:2]}
    assert book.states(load) == "sent sent sending"


def test_the_next_of_a_lane_is_sent_ahead_and_admitted_after_the_one_before_it(book: Book) -> None:
    """Its body may travel while the job before it lives; its last chunk leaves once that has completed, not before."""
    load = book.load([("c", "a.wav"), ("c", "b.wav"), ("c", "c.wav")])
    first = book.claim_one()
    book.answer(first, accepted("j"))
    assert book.claim() == []
    due = Ahead(lanes=[first.lane_id])
    (second,) = book.claim(ahead=due)
    assert (Path(second.path).name, second.is_ahead) == ("b.wav", True)
    assert book.claim(ahead=due) == []
    waits = book.ask(second)
    assert (waits.admitted, waits.withdrawn) == (frozenset(), {})
    assert book.states(load) == "accepted sending pending"
    book.end("j")
    book.admit(second)
    assert book.states(load) == "completed sent pending"


def test_nothing_is_sent_ahead_of_an_attempt_or_of_a_job_that_does_not_end(book: Book) -> None:
    """One attempt of a lane at most waits, and behind an overdue job none begins, whatever is foreseen."""
    book.load([("c", "a.wav"), ("c", "b.wav")])
    first = book.claim_one()
    due = Ahead(slots=5, lanes=[first.lane_id])
    assert book.claim(ahead=due) == []
    book.answer(first, accepted("j"))
    (job,) = book.jobs()
    with book.ledger.writing() as connection:
        job_overdue(connection, job, "late", book.now, DOUBT_SECONDS)
    assert book.claim(ahead=due) == []


@pytest.mark.parametrize(("order", "goes"), [(Order.MANIFEST, "short"), (Order.LONGEST_LANE_FIRST, "long")])
def test_of_those_that_wait_the_one_with_the_most_work_left_is_admitted_first(
    book: Book, order: Order, goes: str
) -> None:
    """The order of the claim is that of the admission, too: a slot goes to the lane that has the most left."""
    book.order = order
    book.load([("short", "a.wav"), ("long", "b.wav"), ("long", "c.wav")])
    claims = book.claim()
    (admitted,) = book.ask(*claims, room=1).admitted
    assert [claimed.conversation_id for claimed in claims if claimed.attempt_id == admitted] == [goes]


@pytest.mark.parametrize("reply", [LOST, NOT_FOUND])
def test_trouble_withdraws_what_waits_behind_it(book: Book, reply: Reply) -> None:
    """A lane that is held admits none of those that were sent ahead in it; told to go on, it does."""
    load = book.load([("c", "a.wav"), ("c", "b.wav")])
    first = book.claim_one()
    book.admit(first)
    (second,) = book.claim(ahead=Ahead(lanes=[first.lane_id]))
    state = book.record(first, reply)
    refused = book.ask(second)
    assert (refused.admitted, list(refused.withdrawn)) == (frozenset(), [second.attempt_id])
    assert "needs a person" in refused.withdrawn[second.attempt_id]
    assert book.states(load) == f"{state.value} sending"
    book.hold = False
    book.admit(second)


def test_where_uploads_count_an_attempt_has_its_slot_from_its_claim_on(book: Book) -> None:
    """A service that counts uploads as jobs: nothing is sent ahead, and what is sent counts, until the day is over."""
    book.limit = 2
    book.load([(conversation, "a.wav") for conversation in "cdefg"])
    with book.ledger.writing() as connection:
        need_slot_first(connection, account(connection, BASE_URL), book.now + 60.0, "a 429 before the last chunk")
    first, second = book.claim(ahead=Ahead(slots=3))
    assert [first.is_ahead, second.is_ahead] == [False, False]
    facts = book.limit_facts()
    assert (facts.needs_slot_first, facts.live, facts.sending, facts.free) == (True, 2, 2, 0)
    assert book.claim(ahead=Ahead(slots=3)) == []
    assert book.ask(first, second).admitted == {first.attempt_id, second.attempt_id}
    assert book.live() == 2
    book.now += 60.0
    assert (book.limit_facts().needs_slot_first, book.live()) == (False, 2)
    assert len(book.claim(ahead=Ahead(slots=3))) == 3


def test_where_uploads_count_a_refusal_counts_them(book: Book) -> None:
    """The limit that a 429 without a number teaches is what was live beside it, uploads that count as jobs included."""
    book.limit = 4
    book.load([(conversation, "a.wav") for conversation in "cdefg"])
    with book.ledger.writing() as connection:
        need_slot_first(connection, account(connection, BASE_URL), book.now + 60.0, "a 429 before the last chunk")
    refused = book.claim()[-1]
    book.record(refused, Reply(connected=True, status=429), refusal=Refusal())
    assert book.limit_facts().in_force == 3


@pytest.mark.parametrize(("last_chunk_left", "in_force"), [(False, 3), (True, 1)])
def test_a_429_before_the_last_chunk_counts_the_uploads_beside_it(
    book: Book, *, last_chunk_left: bool, in_force: int
) -> None:
    """With fewer jobs than the limit such a 429 means that uploads count: they are a part of the limit that it teaches.

    A 429 to a whole body says nothing of uploads: what it teaches is the number of jobs beside it.
    """
    book.limit = 4
    book.load([(conversation, "a.wav") for conversation in "cdef"])
    job, refused, *_ = book.claim()
    book.answer(job, accepted("j"))
    if last_chunk_left:
        book.admit(refused)
    facts = book.limit_facts()
    assert (facts.needs_slot_first, facts.live, facts.in_force) == (False, 2 if last_chunk_left else 1, 4)
    book.record(refused, Reply(connected=True, last_chunk_left=last_chunk_left, status=429), refusal=Refusal())
    assert book.limit_facts().in_force == in_force


def test_what_was_sent_ahead_before_uploads_counted_waits_for_a_slot(book: Book) -> None:
    """A body that waits beside a full account when uploads are seen to count is not admitted above the limit."""
    book.limit = 1
    book.load([("c", "a.wav"), ("d", "a.wav")])
    first = book.claim_one()
    book.answer(first, accepted("j"))
    (second,) = book.claim(ahead=Ahead(slots=1))
    with book.ledger.writing() as connection:
        need_slot_first(connection, account(connection, BASE_URL), book.now + 60.0, "a 429 before the last chunk")
    assert book.ask(second).admitted == frozenset()
    book.end("j")
    book.admit(second)


@pytest.mark.parametrize("hold", [True, False])
def test_an_item_that_is_to_be_sent_again_withdraws_the_one_behind_it(book: Book, hold: bool) -> None:
    """The next of its lane was sent ahead, and the one before it was cut off: they go again in their order."""
    book.hold = hold
    book.load([("c", "a.wav"), ("c", "b.wav")])
    first = book.claim_one()
    book.admit(first)
    (second,) = book.claim(ahead=Ahead(lanes=[first.lane_id]))
    book.record(first, THROTTLED)
    found = book.ask(second)
    assert (set(found.admitted), list(found.withdrawn)) == (set(), [second.attempt_id])
    book.record(second, Reply(connected=True, withheld=True, failure=found.withdrawn[second.attempt_id]))
    assert book.complete_all() == ["a.wav", "b.wav"]


@pytest.mark.parametrize("reply", [LOST, NOT_FOUND, OUR_FILE])
def test_trouble_holds_the_rest_of_its_lane_alone(book: Book, reply: Reply) -> None:
    """An item that failed, is refused or in doubt holds the items behind it, and no other lane."""
    load = book.load([("c", "a.wav"), ("c", "b.wav"), ("d", "a.wav"), ("d", "b.wav")])
    first, other = book.claim()
    state = book.answer(first, reply)
    book.complete(other)
    assert book.complete_all() == ["b.wav"]
    assert book.states(load) == f"{state.value} held completed completed"


def test_a_failed_job_holds_its_lane(book: Book) -> None:
    """A job that ended as failed gives its slot back and holds the rest."""
    load = book.load([("c", "a.wav"), ("c", "b.wav")])
    book.answer(book.claim_one(), accepted("j"))
    book.end("j", JobStatus.FAILED)
    assert book.states(load) == "failed held"
    assert book.live() == 0
    assert book.claim() == []
    assert book.lines(load)[0].error


@pytest.mark.parametrize("reply", [LOST, NOT_FOUND])
def test_with_on_trouble_continue_a_lane_goes_on(book: Book, reply: Reply) -> None:
    """With [lanes] on_trouble = "continue" the next item goes, in order; the item in trouble stays as it is."""
    book.hold = False
    load = book.load([("c", "a.wav"), ("c", "b.wav"), ("c", "c.wav")])
    state = book.answer(book.claim_one(), reply)
    assert book.complete_all() == ["b.wav", "c.wav"]
    assert book.states(load) == f"{state.value} completed completed"


def test_with_on_trouble_continue_nothing_is_held(book: Book) -> None:
    """With ``continue`` an item behind trouble is pending, not held, and counts as unsent while another is live."""
    book.hold = False
    load = book.load([("c", "a.wav"), ("c", "b.wav"), ("c", "c.wav")])
    book.answer(book.claim_one(), NOT_FOUND)
    book.answer(book.claim_one(), accepted("j"))
    with book.ledger.writing() as connection:
        is_over = is_batch_over(connection, load.account_id, load.batch_id, no_wait=True)
    assert (book.states(load), is_over) == ("refused accepted pending", False)


def test_what_was_held_goes_once_on_trouble_is_continue(book: Book) -> None:
    """The setting may change between two runs: the next one carries the rest of the lane."""
    load = book.load([("c", "a.wav"), ("c", "b.wav")])
    book.answer(book.claim_one(), NOT_FOUND)
    assert book.claim() == []
    book.hold = False
    book.run(load)
    assert book.complete_all() == ["b.wav"]


def test_a_job_that_never_ends_keeps_its_lane_and_gives_its_slot_back(book: Book) -> None:
    """An overdue job holds its lane, counts as a doubt, frees its slot after slot_until, and may still end."""
    book.limit = 1
    load = book.load([("c", "a.wav"), ("c", "b.wav"), ("d", "a.wav")])
    book.answer(book.claim_one(), accepted("j"))
    (job,) = book.jobs()
    with book.ledger.writing() as connection:
        job_overdue(connection, job, "it did not end", book.now, DOUBT_SECONDS)
        found = standing(connection, load.batch_id)
    assert (found.overdue, found.counts[State.HELD], found.counts[State.ACCEPTED]) == (1, 1, 1)
    assert book.claim() == []
    book.now += DOUBT_SECONDS
    other = book.claim_one()
    assert other.conversation_id == "d"
    book.complete(other)
    assert [job.job_id for job in book.jobs()] == ["j"]
    book.end("j")
    assert book.states(load) == "completed pending completed"
    assert Path(book.claim_one().path).name == "b.wav"


def test_a_job_that_has_ended_is_not_ended_again(book: Book) -> None:
    """A second end of the same job, or a late overdue, changes nothing."""
    load = book.load([("c", "a.wav")])
    book.answer(book.claim_one(), accepted("j"))
    (job,) = book.jobs()
    book.end("j")
    with book.ledger.writing() as connection:
        end_job(connection, JobEnd(job, JobStatus.FAILED, book.now + 9))
        job_overdue(connection, job, "late", book.now, DOUBT_SECONDS)
    (line,) = book.lines(load)
    assert (line.state, line.finished_at, line.error) == (State.COMPLETED, book.now, None)


def test_the_latest_ends_are_those_that_tell_what_jobs_take(book: Book) -> None:
    """The history has the completed jobs that were followed from their acceptance, the latest last."""
    book.load([(name, "a.wav") for name in "abcde"])
    book.limit = 5
    ended = {"b": 20.0, "a": 10.0, "c": None, "e": 50.0}
    jobs = {}
    for attempt in book.claim():
        book.answer(attempt, accepted(attempt.conversation_id))
        jobs[attempt.conversation_id] = next(job for job in book.jobs() if job.job_id == attempt.conversation_id)
    with book.ledger.writing() as connection:
        for name, seconds in ended.items():
            book.now += 1.0
            end_job(connection, JobEnd(jobs[name], JobStatus.COMPLETED, book.now, lived_seconds=seconds))
        expected = [CompletedJob(jobs[name].work, seconds) for name, seconds in ended.items() if seconds]
        assert all(end.work > 0.0 for end in expected)
        assert latest_completed_jobs(connection, 1) == expected
        assert latest_completed_jobs(connection, 1, most=2) == expected[1:]
        assert latest_completed_jobs(connection, 2) == []


def test_before_its_admission_a_crash_means_pending(book: Book) -> None:
    """What had not been admitted is pending again, first in its lane; its attempt counts for nobody."""
    load = book.load([("c", "a.wav"), ("c", "b.wav")])
    claim = book.claim_one()
    assert book.crash(load) == (1, 0)
    assert book.states(load) == "pending pending"
    assert book.live() == 0
    assert book.attempts() == [(claim.item_id, 1, "cut off")]
    again = book.claim_one()
    assert (again.item_id, again.number, again.unadmitted) == (claim.item_id, 2, 1)
    book.complete(again)
    assert [line.attempts for line in book.lines(load)] == [1, 0]


def test_after_its_admission_a_crash_means_doubt(book: Book) -> None:
    """What may have been appended is in doubt, holds its lane, and keeps its slot until slot_until."""
    book.limit = 1
    load = book.load([("c", "a.wav"), ("c", "b.wav"), ("d", "a.wav")])
    claim = book.claim_one()
    book.admit(claim)
    assert book.crash(load) == (0, 1)
    assert book.states(load) == "in_doubt held pending"
    assert book.attempts() == [(claim.item_id, 1, "in doubt")]
    assert book.claim() == []
    assert book.lines(load)[0].error
    book.now += DOUBT_SECONDS
    assert book.claim_one().conversation_id == "d"


def test_after_the_answer_a_crash_changes_nothing(book: Book) -> None:
    """Accepted jobs are live after a crash, and are followed on; what is over stays over."""
    load = book.load([("c", "a.wav"), ("c", "b.wav"), ("d", "a.wav"), ("e", "a.wav")])
    first, second, third = book.claim()
    book.answer(first, accepted("j"))
    book.complete(second)
    book.answer(third, NOT_FOUND)
    assert book.crash(load) == (0, 0)
    assert book.states(load) == "accepted pending completed refused"
    assert [job.job_id for job in book.jobs()] == ["j"]
    assert book.claim() == []
    book.end("j")
    assert Path(book.claim_one().path).name == "b.wav"


def test_a_second_crash_finds_nothing_more(book: Book) -> None:
    """To recover twice is to recover once."""
    load = book.load([("c", "a.wav"), ("d", "a.wav")])
    first, _ = book.claim()
    book.admit(first)
    assert book.crash(load) == (1, 1)
    before = book.lines(load)
    book.now += 60
    assert book.crash(load) == (0, 0)
    assert book.lines(load) == before


def test_a_crash_ends_a_lanes_wait(book: Book) -> None:
    """A lane that waited for its next try does not wait in the next run."""
    load = book.load([("c", "a.wav")])
    book.answer(book.claim_one(), CUT, wait=3600.0)
    assert book.claim() == []
    book.crash(load)
    assert book.claim_one().number == 2


def test_live_jobs_say_whose_they_are(book: Book) -> None:
    """The ledger has all facts for following and reporting a job, and if an active batch waits for it."""
    first = book.load([("c", "a.wav")])
    book.answer(book.claim_one(), accepted("j"))
    (job,) = book.jobs()
    assert (job.job_id, job.batch, job.line, job.conversation_id) == ("j", "m.csv", 2, "c")
    assert (job.attempt, job.size, job.accepted_at, job.is_active) == (1, 8, 1000.0, True)
    book.load([("d", "a.wav")], "other.csv")
    (job,) = book.jobs()
    assert not job.is_active
    book.run(first)
    (job,) = book.jobs()
    assert job.is_active


def test_another_batchs_lanes_are_not_carried(book: Book) -> None:
    """A run sends the items of its own batch's lanes alone."""
    first = book.load([("c", "a.wav"), ("d", "a.wav")])
    second = book.load([("d", "b.wav"), ("e", "a.wav")], "other.csv")
    with book.ledger.writing() as connection:
        (left,) = elsewhere(connection, account(connection, BASE_URL), second.batch_id)
        assert (left.batch, left.amount.files) == ("m.csv", 1)
    assert book.complete_all() == ["a.wav", "b.wav", "a.wav"]
    assert book.states(first) == "pending completed"
    assert book.states(second) == "completed completed"
    book.run(first)
    assert book.complete_all() == ["a.wav"]
    assert book.states(first) == "completed completed"


def test_leftovers_go_first(book: Book) -> None:
    """Leftovers of an earlier batch stand before the new batch's items in a lane, and are sent with them."""
    book.load([("c", "a.wav"), ("c", "b.wav")], "monday.csv")
    book.complete(book.claim_one())
    second = book.load([("c", "c.wav")], "tuesday.csv")
    assert book.complete_all() == ["b.wav", "c.wav"]
    assert book.states(second) == "completed"


def test_what_stands_behind_the_batchs_own_items_is_not_carried(book: Book) -> None:
    """A run goes as far as its own last item in each lane."""
    first = book.load([("c", "a.wav")], "monday.csv")
    second = book.load([("c", "b.wav")], "tuesday.csv")
    book.run(first)
    assert book.complete_all() == ["a.wav"]
    with book.ledger.writing() as connection:
        (left,) = elsewhere(connection, account(connection, BASE_URL), first.batch_id)
        assert (left.batch, left.amount.files) == ("tuesday.csv", 1)
    assert book.states(second) == "pending"


def test_an_earlier_batchs_trouble_holds_a_later_batch(book: Book) -> None:
    """A lane is the items of one conversation over all batches: doubt of Monday holds Tuesday."""
    first = book.load([("c", "a.wav")], "monday.csv")
    book.answer(book.claim_one(), LOST)
    second = book.load([("c", "b.wav")], "tuesday.csv")
    assert book.claim() == []
    assert (book.states(first), book.states(second)) == ("in_doubt", "held")


def test_unsent_tells_whether_more_will_go(book: Book) -> None:
    """Under --no-wait a run goes on as long as live jobs stand before unsent items."""
    load = book.load([("c", "a.wav"), ("c", "b.wav"), ("d", "a.wav")])

    def more() -> bool:
        with book.ledger.writing() as connection:
            return not is_batch_over(connection, load.account_id, load.batch_id, no_wait=True)

    first, other = book.claim()
    book.answer(first, accepted("1"))
    book.answer(other, accepted("2"))
    assert more()
    book.end("1")
    book.answer(book.claim_one(), accepted("3"))
    assert not more()


def test_the_standing_counts_every_row_once(book: Book) -> None:
    """A standing has counts by state, held items apart, and the bytes of appended and of all items."""
    load = book.load([("c", "a.wav"), ("c", "b.wav"), ("d", "a.wav"), ("e", "a.wav"), ("f", "a.wav")])
    first, second, third, _ = book.claim()
    book.answer(first, LOST)
    book.complete(second)
    book.answer(third, NOT_FOUND)
    with book.ledger.writing() as connection:
        found = standing(connection, load.batch_id)
    counts = {state.value: count for state, count in found.counts.items() if count}
    assert counts == {"in_doubt": 1, "held": 1, "completed": 1, "refused": 1, "sending": 1}
    assert (found.items, found.bytes_done, found.bytes_all, found.attempts) == (5, 8, 40, 4)


def test_troubles_are_told_by_reason(book: Book) -> None:
    """Troubles are grouped by state and reason, with their number and the first lines."""
    load = book.load([(conversation, "a.wav") for conversation in "cdefgh"])
    for attempt, reply in zip(book.claim(), [NOT_FOUND] * 4 + [LOST, accepted("j")], strict=True):
        book.answer(attempt, reply)
    with book.ledger.writing() as connection:
        refused, doubtful = troubles(connection, load.batch_id)
    assert (refused.state, refused.items, list(refused.lines)) == (State.REFUSED, 4, [2, 3, 4])
    assert (doubtful.state, doubtful.items, list(doubtful.lines)) == (State.IN_DOUBT, 1, [6])


def load_elsewhere(book: Book, conversation_ids: Sequence[str]) -> Load:
    """Load a recording for each of these conversations of another account."""
    with book.ledger.writing() as connection:
        load = begin_load(
            connection,
            account(connection, "https://elsewhere.example"),
            "m.csv",
            manifest="m.csv",
            results=book.folder / "r.csv",
            extra_columns=[],
            now=1.0,
            repeat=False,
        )
        read = [
            book.row(line, conversation_id, "a.wav", {})
            for line, conversation_id in enumerate(conversation_ids, start=2)
        ]
        load_rows(connection, load, read, content_hash=audio.content_hash, probe=audio.probe)
    return load


def test_two_accounts_share_nothing(book: Book) -> None:
    """Another base URL is another account: other lanes, other slots, other items."""
    book.limit = 1
    book.load([("c", "a.wav")])
    assert len(book.claim()) == 1
    load = load_elsewhere(book, ["c"])
    book.run(load)
    with book.ledger.writing() as connection:
        assert len(claim(connection, load.account_id, 10, book.now, worker_id=book.worker_id).claims) == 1


@pytest.mark.parametrize("first", [None, 1])
def test_a_run_leaves_the_lanes_of_other_accounts_as_they_are(book: Book, first: int | None) -> None:
    """A run changes, counts and sends the active lanes of its own account alone."""
    ours = book.load([("c", "a.wav"), ("d", "a.wav"), ("d", "b.wav")])
    book.reweigh_lanes(3.0)
    carried = select(lanes).where(lanes.c.account_id == ours.account_id).order_by(lanes.c.id)
    with book.ledger.reading() as connection:
        before = connection.execute(carried).all()
        assert all(lane.active_until and lane.audio_left and lane.items_left for lane in before)
    theirs = load_elsewhere(book, ["d", "e", "f"])
    with book.ledger.writing() as connection:
        book.begin_worker(connection, theirs, first)
    book.reweigh_lanes(7.0, theirs.account_id)
    with book.ledger.reading() as connection:
        assert connection.execute(carried).all() == before
        sending = to_send(connection, theirs.account_id, theirs.batch_id)
        assert (sending.all.files, sending.later) == ((3, 0) if first is None else (1, 2))
        foreseen = lanes_to_send(connection, theirs.account_id, [], book.now)
        assert foreseen.count == sending.all.files
    assert len(book.complete_all()) == 3
