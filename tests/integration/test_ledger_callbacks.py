"""The ledger's contract for callbacks: what they resolve, and what they leave untouched."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule
from sqlalchemy import select, update

from tests.integration.test_ledger import (
    BASE_URL,
    CUT,
    DOUBT_SECONDS,
    LOST,
    NOT_FOUND,
    THROTTLED,
    UNREACHABLE,
    Book,
    accepted,
    opened,
)
from uploader.ledger.callbacks import CallbackResult, apply_callback
from uploader.ledger.claiming import NOTHING_AHEAD, Ahead, ClaimResult, claim
from uploader.ledger.loading import account
from uploader.ledger.outcomes import ReplyRecord, ReplyResult, record_reply
from uploader.ledger.reading import anomalies
from uploader.ledger.resolving import Selection, open_items, resolve
from uploader.ledger.schema import accounts, attempts, items, lanes
from uploader.model import LIVE, Claim, Decision, JobStatus, Next, Order, Reply, State
from uploader.policy.callbacks import token_hash
from uploader.policy.facts import Callback, CallbackEffect
from uploader.policy.replies import judge

SERVER_ERROR = Reply(connected=True, last_chunk_left=True, status=502, bytes_sent=7)
UNREADABLE = Reply(connected=True, last_chunk_left=True, status=201, answer=None, bytes_sent=7)
# replies after which nobody knows of a job
UNSEEN = (UNREACHABLE, CUT, THROTTLED, NOT_FOUND, LOST, SERVER_ERROR, UNREADABLE)

pytestmark = pytest.mark.policy


@dataclass
class Listening(Book):
    """A ledger whose run listens: every attempt has a token."""

    drawn: list[str] = field(default_factory=list)

    def token(self) -> str:
        """Draw a token."""
        self.drawn.append(f"token-{len(self.drawn)}")
        return self.drawn[-1]

    def look(self, wanted: int = 100, ahead: Ahead = NOTHING_AHEAD) -> ClaimResult:
        """Claim, with tokens."""
        with self.ledger.writing() as connection:
            who = account(connection, BASE_URL)
            return claim(connection, who, wanted, self.now, Order.MANIFEST, self.token, ahead, worker_id=self.worker_id)

    def reply(self, claim: Claim, reply: Reply, *, admitted: bool = False) -> ReplyResult:
        """Admit an attempt whose last chunk left, unless it is ``admitted``, and record its reply."""
        if reply.last_chunk_left and not admitted:
            self.admit(claim)
        with self.ledger.writing() as connection:
            verdict = judge(reply, claim.conversation_id)
            record = ReplyRecord(claim, verdict, reply, self.now, 0.0, DOUBT_SECONDS, listens=True)
            return record_reply(connection, record)

    def callback(self, claim: Claim | str, job_id: str, status: str = "in_progress") -> CallbackResult:
        """Apply a callback, for an attempt or with a token of its own."""
        token = claim if isinstance(claim, str) else claim.token
        assert token is not None
        with self.ledger.writing() as connection:
            return apply_callback(
                connection,
                token_hash(token),
                Callback(job_id, JobStatus(status)),
                self.now,
                listening_since=0.0,
            )

    def resolve(self, decision: Decision, job_id: str | None = None, state: State | None = None) -> None:
        """Resolve the only item that needs a person."""
        with self.ledger.writing() as connection:
            (batch,) = {load.batch_id for load in self.loads.values()}
            selection = Selection(states=[state] if state else [])
            (item,) = open_items(connection, batch, selection)
            resolve(connection, item, decision, job_id=job_id, note=None, who="a person", now=self.now)

    def said(self) -> list[str]:
        """Return the texts of the anomalies."""
        with self.ledger.writing() as connection:
            (batch,) = {load.batch_id for load in self.loads.values()}
            return [anomaly.said for anomaly in anomalies(connection, batch)]

    def everything(self) -> list[Any]:
        """Return all rows of items, attempts, lanes and the account."""
        with self.ledger.writing() as connection:
            tables = (items, attempts, lanes, accounts)
            return [tuple(row) for table in tables for row in connection.execute(select(table)).all()]


@contextmanager
def listening_in(folder: Path, url: str = "") -> Iterator[Listening]:
    """Give a new ledger in this folder, whose run listens."""
    with opened(folder, url) as book:
        yield Listening(book.folder, book.ledger)


@pytest.fixture
def book(tmp_path: Path, database_url: str) -> Iterator[Listening]:
    """Provide a new ledger whose run listens."""
    with listening_in(tmp_path, database_url) as made:
        yield made


def test_the_token_is_committed_with_the_intent_as_a_hash(book: Listening) -> None:
    """A callback may come as soon as the first byte has left; a reader of the ledger cannot forge claim."""
    book.load([("c", "a.wav")])
    claim = book.claim_one()
    assert claim.token == "token-0"
    assert "token-0" not in repr(claim)
    with book.ledger.writing() as connection:
        assert connection.execute(select(attempts.c.token_hash)).scalar_one() == token_hash("token-0")


def test_a_callback_names_the_worker_that_follows_its_job(book: Listening) -> None:
    """Several runs of one process have one listener, which passes it on; a token of no attempt names none."""
    book.load([("c", "a.wav")])
    claim = book.claim_one()
    book.admit(claim)
    assert book.callback(claim, "j", "completed").worker_id == book.worker_id
    assert book.callback("token-9", "j", "completed").worker_id is None


@pytest.mark.parametrize("reply", [LOST, SERVER_ERROR, UNREADABLE])
def test_doubt_is_settled_by_a_call(book: Listening, reply: Reply) -> None:
    """A callback makes an item in doubt accepted, with its jobId; the end of the job then frees lane and slot."""
    load = book.load([("c", "a.wav"), ("c", "b.wav")])
    claim = book.claim_one()
    assert book.reply(claim, reply).verdict.state is State.IN_DOUBT
    assert book.states(load) == "in_doubt held"
    result = book.callback(claim, "j")
    assert (result.effect, result.anomaly) == (CallbackEffect.ACCEPTED, None)
    assert result.job is not None
    assert (result.job.job_id, result.job.line, result.job.is_active) == ("j", 2, True)
    assert book.states(load) == "accepted pending"
    assert (book.lines(load)[0].job_id, book.lines(load)[0].error, book.live()) == ("j", None, 1)
    assert book.claim() == []
    assert book.callback(claim, "j", "completed").effect is CallbackEffect.ENDED
    assert (book.states(load), book.live()) == ("completed pending", 0)
    assert [again.line for again in book.claim()] == [3]


@pytest.mark.parametrize(("status", "state"), [("completed", "completed"), ("failed", "failed")])
def test_the_end_may_be_the_first_word(book: Listening, status: str, state: str) -> None:
    """Any callback that arrives makes up for those that were lost or overtaken."""
    load = book.load([("c", "a.wav"), ("c", "b.wav")])
    claim = book.claim_one()
    book.reply(claim, LOST)
    result = book.callback(claim, "j", status)
    assert (result.effect, result.ended is not None, book.live()) == (CallbackEffect.ACCEPTED, True, 0)
    assert book.states(load) == f"{state} {'pending' if status == 'completed' else 'held'}"


@pytest.mark.parametrize("status", ["scheduled", "in_progress", "completed", "failed"])
@pytest.mark.parametrize("reply", UNSEEN)
def test_a_call_before_the_reply_outweighs_it(book: Listening, reply: Reply, status: str) -> None:
    """A job that a callback names during the attempt is its outcome, whatever the reply."""
    load = book.load([("c", "a.wav")])
    claim = book.claim_one()
    assert book.callback(claim, "j", status).effect is CallbackEffect.DEFERRED
    assert book.states(load) == "sending"
    recorded = book.reply(claim, reply)
    assert (recorded.verdict.state, recorded.verdict.next, recorded.verdict.job_id) == (
        State.ACCEPTED,
        Next.FOLLOW,
        "j",
    )
    ended = {"completed": "completed", "failed": "failed"}.get(status)
    assert (recorded.ended is not None, book.states(load)) == (ended is not None, ended or "accepted")
    assert book.lines(load)[0].job_id == "j"


def test_an_answer_that_arrives_is_as_if_nothing_was_heard(book: Listening) -> None:
    """Where answer and callback agree there is no anomaly, and the callback's end is the job's end."""
    load = book.load([("c", "a.wav")])
    claim = book.claim_one()
    book.callback(claim, "j", "scheduled")
    recorded = book.reply(claim, accepted("j"))
    assert (recorded.verdict.job_id, recorded.has_callback, recorded.ended, recorded.anomaly) == ("j", True, None, None)
    book.now += 5
    result = book.callback(claim, "j", "completed")
    assert result.ended is not None
    assert (result.ended.seconds, book.states(load)) == (5.0, "completed")


@pytest.mark.parametrize("comes_first", ["the answer", "the callback"])
def test_a_job_of_another_account_with_the_same_id_is_another_job(book: Listening, comes_first: str) -> None:
    """Two accounts of a ledger may have jobs of one id: each callback counts for the job of its own attempt."""
    load = book.load([("c", "a.wav"), ("d", "b.wav")])
    first, second = book.claim()
    book.reply(first, accepted("j"))
    with book.ledger.writing() as connection:
        elsewhere = account(connection, "https://another.example")
        connection.execute(update(items).where(items.c.id == first.item_id).values(account_id=elsewhere))
    if comes_first == "the answer":
        book.reply(second, accepted("j"))
        result = book.callback(second, "j", "completed")
        assert (result.effect, result.reason) == (CallbackEffect.ENDED, None)
    else:
        assert book.callback(second, "j", "completed").effect is CallbackEffect.DEFERRED
        book.reply(second, accepted("j"), admitted=True)
    assert book.states(load) == "accepted completed"


def test_a_contradictory_callback_says_what_it_contradicts(book: Listening) -> None:
    """A callback that changes nothing is logged with the fact that it contradicts."""
    book.load([("c", "a.wav"), ("d", "b.wav")])
    first, second = book.claim()
    book.reply(first, accepted("j"))
    of_another = book.callback(second, "j", "completed")
    assert of_another.effect is CallbackEffect.CONTRADICTORY
    assert of_another.reason == "another item of this account has that job"
    assert book.callback(first, "k", "completed").reason == "its attempt is known to be job j"


def test_an_answer_with_another_job_stands_and_is_told(book: Listening) -> None:
    """Of two jobIds for one upload the answer's is followed, and the row has both."""
    load = book.load([("c", "a.wav")])
    claim = book.claim_one()
    book.callback(claim, "j")
    assert book.reply(claim, accepted("k")).verdict.job_id == "k"
    assert book.said() == ["attempt 1 is job k by its answer and job j by the webhook"]
    assert book.lines(load)[0].error == book.said()[0]
    assert book.callback(claim, "j", "failed").effect is CallbackEffect.CONTRADICTORY
    assert book.callback(claim, "k", "completed").effect is CallbackEffect.ENDED


@pytest.mark.parametrize("reply", [UNREACHABLE, CUT, THROTTLED])
def test_a_call_stops_the_retry_of_what_was_thought_cut_off(book: Listening, reply: Reply) -> None:
    """The item is accepted, and its lane waits for that job instead of sending it again."""
    load = book.load([("c", "a.wav"), ("c", "b.wav")])
    claim = book.claim_one()
    book.reply(claim, reply)
    assert book.states(load) == "pending pending"
    result = book.callback(claim, "j")
    assert result.effect is CallbackEffect.ACCEPTED
    assert result.anomaly is not None
    assert book.lines(load)[0].error == result.anomaly
    assert book.claim() == []
    book.callback(claim, "j", "completed")
    assert [again.line for again in book.claim()] == [3]
    assert book.said() == [result.anomaly]


def test_what_was_left_to_send_is_less_by_what_is_not_sent_again(book: Listening) -> None:
    """A stopped retry leaves the backlog by which lanes are ordered."""
    book.load([("c", "a.wav"), ("c", "b.wav")])
    claim = book.claim_one()
    book.reply(claim, CUT)
    book.callback(claim, "j")
    with book.ledger.writing() as connection:
        left = connection.execute(select(lanes.c.work_left)).scalar_one()
    book.callback(claim, "j", "completed")
    assert left == pytest.approx(book.claim_one().work)


def test_what_another_nights_retry_had_left_is_not_this_runs(book: Listening) -> None:
    """A retry is stopped in a lane that this run does not carry: there it had nothing left to send."""
    book.load([("c", "a.wav"), ("c", "b.wav")])
    claim = book.claim_one()
    book.reply(claim, CUT)
    book.load([("d", "c.wav")], "tuesday.csv")
    assert book.callback(claim, "j").effect is CallbackEffect.ACCEPTED
    book.check_work()


def test_a_refusal_that_was_none_is_accepted(book: Listening) -> None:
    """A callback after a 404 shows that the item was appended: nobody is asked to correct the row."""
    load = book.load([("c", "a.wav")])
    claim = book.claim_one()
    book.reply(claim, NOT_FOUND)
    assert book.callback(claim, "j").effect is CallbackEffect.ACCEPTED
    assert book.states(load) == "accepted"


def retried(book: Listening) -> tuple[Claim, Claim]:
    """Return an item of which a first attempt was cut off, and a second one is under way."""
    book.load([("c", "a.wav"), ("c", "b.wav")])
    first = book.claim_one()
    book.reply(first, CUT)
    return first, book.claim_one()


@pytest.mark.parametrize("reply", [CUT, UNREACHABLE, Reply(connected=True, status=429)])
def test_a_retry_under_way_is_stopped_before_its_last_chunk(book: Listening, reply: Reply) -> None:
    """It is not admitted, so that it is never whole; once it has come to its end, the earlier job is the item's."""
    first, second = retried(book)
    assert book.callback(first, "j").effect is CallbackEffect.DEFERRED
    stopped = book.ask(second)
    assert not stopped.admitted
    assert "earlier attempt" in stopped.withdrawn[second.attempt_id]
    settled = book.reply(second, reply)
    assert (settled.verdict.state, settled.verdict.job_id) == (State.ACCEPTED, "j")
    (load,) = book.loads.values()
    assert (book.states(load), book.lines(load)[0].job_id, book.live()) == ("accepted pending", "j", 1)
    book.callback(first, "j", "completed")
    assert [again.line for again in book.claim()] == [3]


def test_a_retry_that_is_stopped_keeps_slot_and_lane_until_its_end(book: Listening) -> None:
    """The earlier attempt's job has ended: the retry's upload is still out, so nothing begins in its place."""
    book.limit = 1
    first, second = retried(book)
    book.callback(first, "j", "completed")
    assert (book.limit_facts().sending, book.claim()) == (1, [])
    settled = book.reply(second, CUT)
    assert settled.ended is not None
    assert [again.line for again in book.claim()] == [3]


def test_a_retry_that_is_out_and_taken_is_one_too_many(book: Listening) -> None:
    """Where a callback comes too late to stop a retry, both jobs are reported, in the results and for the batch."""
    first, second = retried(book)
    book.admit(second)
    assert book.callback(first, "j").effect is CallbackEffect.DEFERRED
    assert book.reply(second, accepted("k"), admitted=True).verdict.job_id == "k"
    assert book.said() == ["appended once too often: as job j (attempt 1) beside job k"]
    (load,) = book.loads.values()
    assert (book.lines(load)[0].job_id, book.lines(load)[0].error) == ("k", book.said()[0])
    assert book.callback(first, "j", "completed").effect is CallbackEffect.NOTHING
    assert book.states(load) == "accepted pending"
    book.callback(second, "k", "completed")
    assert book.states(load) == "completed pending"
    assert book.lines(load)[0].error == book.said()[0]


@pytest.mark.parametrize("reply", [THROTTLED, NOT_FOUND])
def test_a_retry_that_was_out_and_not_taken_does_not_matter(book: Listening, reply: Reply) -> None:
    """The earlier attempt's job is the item's, and it is not tried a third time."""
    first, second = retried(book)
    book.admit(second)
    book.callback(first, "j")
    settled = book.reply(second, reply, admitted=True)
    assert (settled.verdict.state, settled.verdict.job_id) == (State.ACCEPTED, "j")
    assert book.said() == ["attempt 1 was taken for cut off, and the service made job j of it"]


def test_a_retry_that_is_in_doubt_is_told(book: Listening) -> None:
    """The anomaly says that the item was appended once for certain, and once perhaps."""
    first, second = retried(book)
    book.reply(second, LOST)
    assert book.callback(first, "j").effect is CallbackEffect.ACCEPTED
    assert book.said() == ["appended as job j; attempt 2 may have appended it once too often"]
    assert book.callback(second, "k").effect is CallbackEffect.DUPLICATE_APPEND
    assert "appended once too often: as job k (attempt 2) beside job j" in book.said()[0]


@pytest.mark.parametrize("ended", [False, True])
def test_a_word_of_the_first_after_the_second_is_one_too_many(book: Listening, ended: bool) -> None:
    """The retry was accepted, or has completed: what the first became is told, and nothing else changes."""
    first, second = retried(book)
    book.reply(second, accepted("k"))
    if ended:
        book.callback(second, "k", "completed")
    (load,) = book.loads.values()
    before = book.states(load)
    result = book.callback(first, "j")
    assert result.effect is CallbackEffect.DUPLICATE_APPEND
    assert result.anomaly == "appended once too often: as job j (attempt 1) beside job k"
    assert book.states(load) == before
    assert book.callback(first, "j", "completed").effect is CallbackEffect.NOTHING
    assert book.said() == [result.anomaly]


def test_a_retry_that_was_stopped_and_is_a_job_all_the_same_is_told(book: Listening) -> None:
    """A job of an upload that was cut off is reported as a second append."""
    first, second = retried(book)
    book.callback(first, "j")
    assert book.callback(second, "k").effect is CallbackEffect.DEFERRED
    book.reply(second, CUT)
    assert book.said()[0].endswith("appended once too often: as job j (attempt 1) beside job k")


def test_calls_for_both_attempts_of_an_item_wait_for_the_retrys_end(book: Listening) -> None:
    """Where callbacks name first the retry's job and then the earlier attempt's, both are reported in the end."""
    first, second = retried(book)
    book.callback(second, "k")
    assert book.callback(first, "j").effect is CallbackEffect.DEFERRED
    book.reply(second, CUT)
    (load,) = book.loads.values()
    assert book.lines(load)[0].job_id == "k"
    assert "as job j (attempt 1) beside job k" in book.said()[0]


DECISIONS = [
    (Decision.NOT_APPENDED, None, CallbackEffect.ACCEPTED, "accepted"),
    (Decision.APPENDED, "j", CallbackEffect.NOTHING, "accepted"),
    (Decision.APPENDED, "k", CallbackEffect.DUPLICATE_APPEND, "accepted"),
    (Decision.APPENDED, None, CallbackEffect.DEFERRED, "completed"),
    (Decision.DROP, None, CallbackEffect.DUPLICATE_APPEND, "dropped"),
]


@pytest.mark.parametrize(("decision", "job_id", "effect", "state"), DECISIONS)
def test_a_person_was_quicker_than_the_call(
    book: Listening, decision: Decision, job_id: str | None, effect: CallbackEffect, state: str
) -> None:
    """A person's decision stands; but an appended item is not sent again, and a contradiction is reported."""
    load = book.load([("c", "a.wav")])
    claim = book.claim_one()
    book.reply(claim, LOST)
    book.resolve(decision, job_id)
    assert book.callback(claim, "j").effect is effect
    assert book.states(load) == state
    assert bool(book.said()) is (effect is CallbackEffect.DUPLICATE_APPEND)


def test_a_failed_job_that_is_tried_again_is_not_brought_back_by_a_late_call(book: Listening) -> None:
    """The job that failed is known: its call, late or again, does not stop what a person wanted."""
    load = book.load([("c", "a.wav")])
    claim = book.claim_one()
    book.reply(claim, accepted("j"))
    book.callback(claim, "j", "failed")
    book.resolve(Decision.RETRY)
    before = book.everything()
    assert book.callback(claim, "j", "failed").effect is CallbackEffect.NOTHING
    assert book.callback(claim, "j", "completed").effect is CallbackEffect.NOTHING
    assert book.everything() == before
    again = book.claim_one()
    book.admit(again)
    assert book.callback(claim, "j", "completed").effect is CallbackEffect.NOTHING
    book.reply(again, accepted("k"), admitted=True)
    assert (book.states(load), book.said()) == ("accepted", [])


@pytest.mark.parametrize("admitted", [False, True])
def test_a_callback_before_a_crash_is_not_forgotten(book: Listening, admitted: bool) -> None:
    """Where a run dies during an attempt with a job known by callback, its item is neither sent again nor in doubt."""
    load = book.load([("c", "a.wav")])
    claim = book.claim_one()
    if admitted:
        book.admit(claim)
    book.callback(claim, "j")
    assert book.crash(load) == (0, 0)
    assert (book.states(load), book.lines(load)[0].job_id) == ("accepted", "j")
    assert book.callback(claim, "j", "completed").effect is CallbackEffect.ENDED


@pytest.mark.parametrize("admitted", [False, True])
def test_a_callback_after_a_crash_resolves_its_attempt(book: Listening, admitted: bool) -> None:
    """The next run applies callbacks for an attempt that the recovery made pending or in doubt."""
    load = book.load([("c", "a.wav")])
    claim = book.claim_one()
    if admitted:
        book.admit(claim)
    assert book.crash(load) == ((0, 1) if admitted else (1, 0))
    assert book.callback(claim, "j").effect is CallbackEffect.ACCEPTED
    assert book.states(load) == "accepted"


def test_a_crash_after_it_was_too_late_is_told(book: Listening) -> None:
    """The retry was out when the first was heard of, and the run died: appended for sure, and perhaps twice."""
    first, second = retried(book)
    book.admit(second)
    book.callback(first, "j")
    (load,) = book.loads.values()
    assert book.crash(load) == (0, 0)
    assert (book.states(load), book.lines(load)[0].job_id) == ("accepted pending", "j")
    assert book.said() == ["appended as job j; attempt 2 may have appended it once too often"]


def test_calls_for_another_batch_settle_as_well(book: Listening) -> None:
    """A callback settles an item of another batch, too, and the run does not wait for it."""
    load = book.load([("c", "a.wav")], "first.csv")
    claim = book.claim_one()
    book.reply(claim, LOST)
    book.load([("d", "b.wav")], "second.csv")
    result = book.callback(claim, "j")
    assert result.job is not None
    assert (result.effect, result.job.is_active, book.states(load)) == (CallbackEffect.ACCEPTED, False, "accepted")


def test_a_row_with_a_webhook_of_its_own_has_no_token(book: Listening) -> None:
    """A row with its own webhookUrl keeps it, and its job is polled."""
    book.load([("c", "a.wav"), ("d", "b.wav")])
    with book.ledger.writing() as connection:
        own = {"webhookUrl": "https://own.example"}
        connection.execute(items.update().where(items.c.line == 3).values(parameters=own))
    assert [claim.token for claim in book.claim()] == ["token-0", None]


def test_a_job_of_a_lost_answer_teaches_how_long_jobs_take(book: Listening) -> None:
    """A job's age counts from the admission, not from the first callback."""
    book.load([("c", "a.wav")])
    claim = book.claim_one()
    book.reply(claim, LOST)
    book.now += 30
    result = book.callback(claim, "j", "completed")
    assert result.ended is not None
    assert result.ended.seconds == 30


STATUSES = st.sampled_from(["scheduled", "in_progress", "completed", "failed"])
NUMBERS = st.integers(1, 6)


class CallsMachine(RuleBasedStateMachine):
    """Two lanes, attempts that end in any way, and calls at any time, true, false, late and again."""

    def __init__(self) -> None:
        super().__init__()
        self.folder = TemporaryDirectory()
        self.opened = listening_in(Path(self.folder.name))
        self.book = self.opened.__enter__()
        self.book.limit = 2
        self.load = self.book.load([("c", "a.wav"), ("c", "b.wav"), ("d", "c.wav")])
        self.out: list[Claim] = []
        self.admitted: set[int] = set()
        self.begun: list[Claim] = []
        self.done: set[int] = set()

    def teardown(self) -> None:
        """Close the ledger."""
        self.opened.__exit__(None, None, None)
        self.folder.cleanup()

    @rule()
    def claim(self) -> None:
        """Begin what may go."""
        claimed = self.book.claim(1)
        self.out += claimed
        self.begun += claimed

    @precondition(lambda self: self.out)
    @rule()
    def admit(self) -> None:
        """Ask for the admission of a last chunk; without it the chunk stays."""
        claimed = self.out[0]
        if claimed.attempt_id in self.admitted:
            return
        if self.book.ask(claimed).admitted:
            self.admitted.add(claimed.attempt_id)

    @precondition(lambda self: self.out)
    @rule(before=st.sampled_from([CUT, UNREACHABLE]), after=st.sampled_from([LOST, NOT_FOUND, THROTTLED, SERVER_ERROR]))
    def reply(self, before: Reply, after: Reply) -> None:
        """Record a reply that names no job."""
        claim = self.out.pop(0)
        self.book.reply(claim, after if claim.attempt_id in self.admitted else before, admitted=True)

    @precondition(lambda self: self.out and self.out[0].attempt_id in self.admitted)
    @rule()
    def answer(self) -> None:
        """Record a good answer."""
        claim = self.out.pop(0)
        self.book.reply(claim, accepted(f"job-{claim.attempt_id}"), admitted=True)

    @rule()
    def crash(self) -> None:
        """Let the run die, and begin it anew."""
        self.out = []
        self.book.crash(self.load)

    @precondition(lambda self: self.begun)
    @rule(data=st.data(), status=STATUSES)
    def true_call(self, data: st.DataObject, status: str) -> None:
        """Apply a callback that names the job which the attempt's answer would name."""
        claim = data.draw(st.sampled_from(self.begun))
        self._call_twice(claim, f"job-{claim.attempt_id}", status)

    @precondition(lambda self: self.begun)
    @rule(data=st.data(), number=NUMBERS, status=STATUSES)
    def any_call(self, data: st.DataObject, number: int, status: str) -> None:
        """Apply a callback with a valid token and any job but one that an answer is still to name."""
        is_answered = number <= len(self.begun) and number not in {claim.attempt_id for claim in self.out}
        job_id = f"job-{number}" if is_answered else f"odd-{number}"
        self._call_twice(data.draw(st.sampled_from(self.begun)), job_id, status)

    @rule(number=NUMBERS, status=STATUSES)
    def forged_call(self, number: int, status: str) -> None:
        """Send a callback without a valid token: it changes nothing."""
        before = self.book.everything()
        assert self.book.callback("forged", f"job-{number}", status).effect is CallbackEffect.UNKNOWN_TOKEN
        assert self.book.everything() == before

    @invariant()
    def a_job_is_one_items(self) -> None:
        """Check that no jobId belongs to two items."""
        ids = [line.job_id for line in self.book.lines(self.load) if line.job_id]
        assert len(ids) == len(set(ids))

    @invariant()
    def a_lane_has_one_live_item(self) -> None:
        """Check that no lane has two live items."""
        states = self.book.states(self.load).split()
        assert sum(state in LIVE for state in states[:2]) <= 1

    @invariant()
    def what_is_left_is_counted(self) -> None:
        """Check the backlog: an item that callbacks settle leaves it once."""
        self.book.check_work()

    @invariant()
    def what_is_accepted_has_a_job(self) -> None:
        """Check that every accepted item has a job to follow."""
        assert all(line.job_id for line in self.book.lines(self.load) if line.state is State.ACCEPTED)

    @invariant()
    def over_is_over(self) -> None:
        """Check that no pending or live item has a job that completed: an ended item is never sent again."""
        with self.book.ledger.writing() as connection:
            done = connection.execute(select(items.c.id).where(items.c.state == State.COMPLETED)).scalars().all()
        assert self.done <= set(done)
        self.done |= set(done)

    def _call_twice(self, claim: Claim, job_id: str, status: str) -> None:
        self.book.callback(claim, job_id, status)
        before = self.book.everything()
        again = self.book.callback(claim, job_id, status)
        assert again.effect in (CallbackEffect.NOTHING, CallbackEffect.CONTRADICTORY)
        assert self.book.everything() == before


TestCalls = CallsMachine.TestCase
TestCalls.settings = settings(max_examples=settings().max_examples // 7, stateful_step_count=25, deadline=None)
