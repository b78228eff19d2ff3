"""Deliberate breaks: each takes one safeguard away, and must be caught."""

import asyncio
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import wraps
from pathlib import Path
from typing import IO, Any, TypeVar
from unittest.mock import patch

from sqlalchemy import Connection, func, select, update

from uploader import attempt, engine, flow, results, worker
from uploader.jobs import JobPoller
from uploader.ledger import callbacks, claiming, lanes, matching, outcomes, postgres
from uploader.ledger import workers as ledger_workers
from uploader.ledger.claiming import AdmissionResult, admit, claim
from uploader.ledger.commits import GroupCommits
from uploader.ledger.facts import apply_callbacks
from uploader.ledger.limit import limit_facts
from uploader.ledger.outcomes import ReplyRecord
from uploader.ledger.reading import last_doubt
from uploader.ledger.schema import accounts, items, workers
from uploader.ledger.workers import beat
from uploader.model import Next, Outcome, Reply, State, Verdict
from uploader.policy import replies
from uploader.policy.facts import ResolvedItem
from uploader.worker import Worker

T = TypeVar("T")


@contextmanager
def intent_after_the_first_byte() -> Iterator[None]:
    """Forget the intent when its process dies, as if it were written after the first byte."""

    def forgetful(connection: Connection, *_: object) -> tuple[int, int]:
        connection.execute(
            update(items).where(items.c.state.in_([State.SENDING, State.SENT])).values(state=State.PENDING)
        )
        return 0, 0

    with patch("tests.simulation.schedule.end_workers", forgetful):
        yield


@contextmanager
def admission_left_out() -> Iterator[None]:
    """Let the last chunk leave without an admission in the ledger."""

    def unwritten(
        connection: Connection, account_id: int, waiting: Any, room: int, now: float, **_: Any
    ) -> AdmissionResult:
        admitted = [admission.claim.attempt_id for admission in waiting[:room]]
        return AdmissionResult(frozenset(admitted), {}, frozenset(), limit_facts(connection, account_id, None, now))

    with patch.object(flow, "admit", unwritten):
        yield


@contextmanager
def admitted_without_a_slot() -> Iterator[None]:
    """Let an admission skip the check for a free slot."""

    def generous(connection: Connection, account_id: int, configured: int | None, now: float) -> Any:
        return limit_facts(connection, account_id, configured, now)._replace(live=0)

    with patch.object(claiming, "limit_facts", generous):
        yield


@contextmanager
def admitted_before_the_predecessor_completed() -> Iterator[None]:
    """Let an admission skip the check of the item before it in its lane."""
    with patch.object(claiming, "is_turn_due", lambda _row: True), patch.object(JobPoller, "is_lane_live", _no_lane):
        yield


def _no_lane(_poller: Any, _lane_id: int) -> bool:
    return False


@contextmanager
def cut_wait_counted_as_doubt() -> Iterator[None]:
    """Let an attempt that was cut before its admission count as one that may have been appended."""
    judge = replies.judge

    def fearful(reply: Reply, conversation_id: str, proves_not_appended: Any = ()) -> Verdict:
        verdict = judge(reply, conversation_id, proves_not_appended)
        if reply.withheld and reply.bytes_sent:
            return Verdict(Outcome.IN_DOUBT, State.IN_DOUBT, Next.SETTLE, verdict.reason)
        return verdict

    with patch.object(attempt, "judge", fearful):
        yield


@contextmanager
def waits_never_cut() -> Iterator[None]:
    """An attempt waits for its admission until its turn comes, or the run is over."""
    with patch.object(flow.FlowControl, "_end_waits", lambda *_: None):
        yield


@contextmanager
def bad_gateway_tried_again() -> Iterator[None]:
    """Take a 502 after the last chunk for "not appended"."""
    judge = replies.judge

    def optimistic(reply: Reply, conversation_id: str, proves_not_appended: Any = ()) -> Verdict:
        verdict = judge(reply, conversation_id, proves_not_appended)
        if reply.status == 502:
            return Verdict(Outcome.NOT_SENT, State.PENDING, Next.AGAIN, verdict.reason)
        return verdict

    with patch.object(attempt, "judge", optimistic):
        yield


@contextmanager
def doubt_of_another_clock_listened_for() -> Iterator[None]:
    """Wait for callbacks about a doubt until its time has come by a clock that was set back since."""

    async def awaits(self: engine.Engine) -> bool:
        doubt = None if self._new_token is None else await self._writer.call(last_doubt, self._account_id)
        self._listens_until = None if doubt is None else doubt + engine.LISTEN_ON_SECONDS
        return self._listens_until is not None and self._now() < self._listens_until

    with patch.object(engine.Engine, "_awaits_callback", awaits):
        yield


@contextmanager
def slot_given_back_on_accept() -> Iterator[None]:
    """Free the slot with the upload, not with the job."""

    def generous(connection: Connection, account_id: int, configured: int | None, now: float) -> Any:
        facts = limit_facts(connection, account_id, configured, now)
        accepted = connection.execute(select(func.count()).where(items.c.state == State.ACCEPTED)).scalar_one()
        return facts._replace(live=facts.live - accepted)

    with patch.object(claiming, "limit_facts", generous):
        yield


@contextmanager
def outcome_not_shielded() -> Iterator[None]:
    """Cancel an upload once it has its reply, and the writing of the outcome with it."""
    judge = replies.judge

    async def no_shield(awaitable: Any) -> Any:
        return await awaitable

    def interrupted(reply: Reply, conversation_id: str, proves_not_appended: Any = ()) -> Verdict:
        task = asyncio.current_task()
        if task is not None:
            task.cancel()
        return judge(reply, conversation_id, proves_not_appended)

    with patch("uploader.attempt.asyncio.shield", no_shield), patch.object(attempt, "judge", interrupted):
        yield


@contextmanager
def item_known_by_path_alone() -> Iterator[None]:
    """Take a renamed file for a new item."""

    def by_path(path: Any, _signature: Any, known: Any, load_id: int, _content_hash: Any) -> Any:
        return next((item for queue in known.own(path).alike.values() if (item := queue.first(load_id))), None)

    with patch.object(matching, "find", by_path):
        yield


@contextmanager
def late_surplus_not_told() -> Iterator[None]:
    """Ignore a callback that comes too late to stop a retry: the second append is not reported."""
    with patch.object(callbacks, "apply_callbacks", _without_anomaly):
        yield


@contextmanager
def surplus_beside_an_answer_not_told() -> Iterator[None]:
    """Forget a callback that came during the retry once that is answered: the second append is not reported."""
    with patch.object(outcomes, "apply_callbacks", _without_anomaly):
        yield


def _without_anomaly(connection: Connection, item_id: int, resolved: ResolvedItem) -> None:
    apply_callbacks(connection, item_id, resolved._replace(anomaly=None))


def _without_seeing_ends(function: Callable[..., T]) -> Callable[..., T]:
    """Wrap a function of the ledger so that it takes all workers for living ones."""

    @wraps(function)
    def call(connection: Connection, *args: Any, **kwargs: Any) -> T:
        ended = connection.execute(
            select(workers.c.id, workers.c.ended_at).where(workers.c.ended_at.is_not(None))
        ).all()
        connection.execute(update(workers).values(ended_at=None))
        result = function(connection, *args, **kwargs)
        for row in ended:
            connection.execute(update(workers).where(workers.c.id == row.id).values(ended_at=row.ended_at))
        return result

    return call


@contextmanager
def last_chunk_without_the_lease() -> Iterator[None]:
    """Let the last chunk of an admitted attempt leave however long ago that was."""
    with patch.object(Worker, "has_lease", lambda _: True):
        yield


@contextmanager
def admission_without_the_lease() -> Iterator[None]:
    """Let a worker that was ended by another claim and admit as before."""
    with (
        patch.object(engine, "claim", _without_seeing_ends(claim)),
        patch.object(flow, "admit", _without_seeing_ends(admit)),
        last_chunk_without_the_lease(),
    ):
        yield


@contextmanager
def takeover_of_the_living() -> Iterator[None]:
    """End the other workers although their leases are not over."""

    @wraps(beat)
    def greedy(*args: Any, **kwargs: Any) -> Any:
        return beat(*args, **{**kwargs, "is_gone": lambda _: True})

    with patch.object(worker, "beat", greedy):
        yield


@contextmanager
def outcome_that_matches_no_row() -> Iterator[None]:
    """Write the outcome of an attempt without a look at whether its item was still as the attempt had left it."""

    def blind(connection: Connection, resolved: Sequence[tuple[ReplyRecord, ResolvedItem]]) -> bool:
        for record, item in resolved:
            connection.execute(
                outcomes._CLOSE_ATTEMPT, outcomes._closing(record, item.attempt_verdict or record.verdict)
            )
            connection.execute(outcomes._OUTCOME, outcomes._change(connection, record, item.verdict or record.verdict))
        return True

    with patch.object(outcomes, "_write", blind):
        yield


@contextmanager
def lost_commit_written_anew() -> Iterator[None]:
    """Take a COMMIT that was not answered for one that was not carried out."""

    def forgetful(self: GroupCommits, _group: object) -> bool:
        self._mark = None
        return False

    with patch.object(GroupCommits, "_is_committed", forgetful):
        yield


@contextmanager
def lost_commit_believed() -> Iterator[None]:
    """Take a COMMIT that was not answered for one that was carried out."""

    def trustful(self: GroupCommits, _group: object) -> bool:
        is_lost, self._mark = self._mark is not None, None
        return is_lost

    with patch.object(GroupCommits, "_is_committed", trustful):
        yield


@contextmanager
def lanes_released_that_others_want() -> Iterator[None]:
    """Let a worker that is about to end make the lanes inactive in which others have work."""

    def careless(connection: Connection, account_id: int, lanes_of_step: Mapping[str, int]) -> None:
        connection.execute(lanes._DEACTIVATE_LANES, {"account": account_id, "own": 0, **lanes_of_step})

    with patch.object(ledger_workers, "deactivate_unwanted_lanes", careless):
        yield


@contextmanager
def account_lock_left_out() -> Iterator[None]:
    """Let transactions read and write without the lock of their account."""
    with patch.object(postgres, "_LOCK_SOME", select(accounts.c.id)):
        yield


SIMULATED = {
    break_.__name__: break_
    for break_ in (
        intent_after_the_first_byte,
        admission_left_out,
        admitted_without_a_slot,
        admitted_before_the_predecessor_completed,
        cut_wait_counted_as_doubt,
        waits_never_cut,
        bad_gateway_tried_again,
        doubt_of_another_clock_listened_for,
        slot_given_back_on_accept,
        outcome_not_shielded,
        item_known_by_path_alone,
    )
}
# what only a schedule in which calls tell of appends too many can show
TOLD_BY_CALLS = {break_.__name__: break_ for break_ in (late_surplus_not_told, surplus_beside_an_answer_not_told)}

# what only several workers on one ledger can show
OF_SEVERAL = {
    break_.__name__: break_
    for break_ in (
        admission_without_the_lease,
        last_chunk_without_the_lease,
        takeover_of_the_living,
        outcome_that_matches_no_row,
        account_lock_left_out,
        lost_commit_written_anew,
        lost_commit_believed,
        lanes_released_that_others_want,
    )
}


@contextmanager
def results_written_in_place() -> Iterator[None]:
    """Write the results in place, not beside and renamed."""

    @contextmanager
    def in_place(path: Path) -> Iterator[IO[str]]:
        with path.open("w", encoding="utf-8", newline="") as file:
            yield file

    with patch.object(results, "_replacing", in_place):
        yield
