"""What came of an attempt, and of the job after it."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import groupby
from math import inf
from operator import attrgetter
from typing import Any

from sqlalchemy import Boolean, Connection, and_, bindparam, case, or_, select, union_all, update

from uploader.ledger.lanes import recompute_ready
from uploader.ledger.limit import ACCOUNT_OF_ITEM, save_refusal
from uploader.ledger.reading import latest_completed_jobs
from uploader.ledger.schema import accounts, attempts, items, lanes
from uploader.ledger.unmatched import report_job, report_outcomes
from uploader.model import Claim, JobStatus, LiveJob, Outcome, Reply, State, Verdict
from uploader.policy.forecast import audio_seconds
from uploader.policy.limits import Refusal
from uploader.policy.replies import counts_against_file, distrust
from uploader.policy.waits import doubt_slot_seconds

JOBS_REMEMBERED = 16.0
"""What a job typically takes is a mean in which each new one weighs as much as one of so many.

It starts from a default, not from the first job: the first to end are the short ones.
"""

# What every outcome says to the ledger is built once: putting a statement together costs more than running it.

# a reply does not take back that a callback has named the attempt's job
_KEEPS_JOB = and_(attempts.c.outcome == Outcome.APPLIED, bindparam("outcome_is") != Outcome.APPLIED.value)

_CLOSE_ATTEMPT = (
    update(attempts)
    .where(attempts.c.id == bindparam("attempt"))
    .values(
        ended_at=bindparam("now"),
        outcome=case((_KEEPS_JOB, attempts.c.outcome), else_=bindparam("outcome_is")),
        http_status=bindparam("status"),
        reason=bindparam("because"),
        bytes_sent=bindparam("bytes"),
        job_id=case((_KEEPS_JOB, attempts.c.job_id), else_=bindparam("job")),
        heard_waits=False,
    )
)

_OUTCOME = (
    update(items)
    .where(
        items.c.id == bindparam("item"),
        items.c.attempts == bindparam("number"),
        # an IN could not be executed for many at once
        or_(items.c.state == State.SENDING, items.c.state == State.SENT),
    )
    .values(
        state=bindparam("becomes"),
        error=bindparam("because"),
        job_id=bindparam("job"),
        http_status=bindparam("status"),
        cut_offs=case((bindparam("file_failed", type_=Boolean), 0), else_=items.c.cut_offs + bindparam("cut_off")),
        accepted_at=case((bindparam("accepted", type_=Boolean), bindparam("now")), else_=items.c.accepted_at),
        finished_at=case((bindparam("finished", type_=Boolean), bindparam("now")), else_=items.c.finished_at),
        slot_until=bindparam("keeps_slot_until"),
    )
)

_PUT_OFF = (
    update(lanes)
    .where(lanes.c.id == bindparam("lane"))
    .values(
        not_before=bindparam("until"),
        audio_left=lanes.c.audio_left + bindparam("work"),
        items_left=lanes.c.items_left + 1,
    )
)

# an item whose jobId a person corrected does not end by its former job
_HAS_JOB = and_(items.c.id == bindparam("item"), items.c.state == State.ACCEPTED, items.c.job_id == bindparam("job"))

_JOB_ENDED = (
    update(items)
    .where(_HAS_JOB)
    .values(
        state=bindparam("becomes"),
        finished_at=bindparam("now"),
        job_seconds=bindparam("lived"),
        error=bindparam("because"),
        slot_until=None,
        overdue=False,
    )
)

_JOB_OVERDUE = (
    update(items)
    .where(_HAS_JOB, items.c.overdue.is_(False))
    .values(overdue=True, error=bindparam("because"), slot_until=bindparam("keeps_slot_until"))
)

_typical = accounts.c.typical_job_seconds

_LEARN = (
    update(accounts)
    .where(accounts.c.id == ACCOUNT_OF_ITEM.where(_HAS_JOB).scalar_subquery())
    .values(typical_job_seconds=_typical + (bindparam("seconds") - _typical) / JOBS_REMEMBERED)
)

_ITEM = select(*items.c["account_id", "size", "duration_seconds"]).where(items.c.id == bindparam("item"))

# which of these jobs are another item's: the latest job of an item that is not in doubt, and what it was before
_OWNERS = union_all(
    select(items.c.job_id, items.c.id.label("item_id")).where(
        items.c.job_id.in_(bindparam("jobs", expanding=True)),
        items.c.account_id == ACCOUNT_OF_ITEM.scalar_subquery(),
        items.c.state != State.IN_DOUBT,
    ),
    select(attempts.c.job_id, attempts.c.item_id)
    .join(items, items.c.id == attempts.c.item_id)
    .where(
        attempts.c.job_id.in_(bindparam("jobs", expanding=True)),
        attempts.c.outcome == Outcome.APPLIED,
        items.c.account_id == ACCOUNT_OF_ITEM.scalar_subquery(),
    ),
)

_NOTE_ANSWER = update(items).where(_HAS_JOB).values(error=bindparam("because"))

_DISTRUST_JOB = (
    update(items)
    .where(_HAS_JOB)
    .values(state=State.IN_DOUBT, error=bindparam("because"), slot_until=bindparam("keeps_slot_until"))
)


@dataclass(frozen=True, slots=True)
class Ended:
    """An item whose job ended, as told to the log. ``job_seconds`` is the job's whole life."""

    item_id: int
    state: State
    job_seconds: float


@dataclass(frozen=True, slots=True)
class Settlement:
    """What came of one attempt, to be written down.

    ``verdict``: what its reply means. ``now``: seconds since the epoch. ``wait``: how long the lane waits before it is
    tried again, in seconds. ``doubt_seconds``: how long doubt keeps a slot as long as no job has ended. ``hold``:
    whether trouble holds the rest of a lane. ``refusal``: a 429 about the limit, which teaches something of it.
    """

    one: Claim
    verdict: Verdict
    reply: Reply
    now: float
    wait: float
    doubt_seconds: float
    hold: bool
    refusal: Refusal | None = None
    job_timeout_seconds: float = inf


def settle(connection: Connection, of: Settlement) -> Verdict:
    """Write down what came of an attempt; see ``settle_all``."""
    return settle_all(connection, [of])[0]


def settle_all(connection: Connection, settlements: Sequence[Settlement]) -> list[Verdict]:
    """Write down what came of several attempts: the same as one after the other.

    Returns:
        What each means in the end: an answer with the jobId of another item is in doubt.
    """
    settlements = distrust_known_jobs(connection, settlements)
    write_all(connection, settlements)
    return [of.verdict for of in settlements]


def distrust_known_jobs(connection: Connection, settlements: Sequence[Settlement]) -> Sequence[Settlement]:
    """Put in doubt what was answered with a jobId that another item has, in the ledger or in this group."""
    jobs = [of.verdict.job_id for of in settlements if of.verdict.state is State.ACCEPTED]
    if not jobs:
        return settlements
    owners: dict[str | None, int] = {}
    for job_id, item_id in connection.execute(_OWNERS, {"jobs": jobs, "item": settlements[0].one.item_id}):
        owners.setdefault(job_id, item_id)
    return [_distrusted(of, owners) for of in settlements]


def _distrusted(of: Settlement, owners: dict[str | None, int]) -> Settlement:
    """An accepted attempt, in doubt where its job has another owner, which it becomes where there is none."""
    if of.verdict.state is not State.ACCEPTED or owners.setdefault(of.verdict.job_id, of.one.item_id) == of.one.item_id:
        return of
    return replace(of, verdict=distrust(of.verdict))


def write_all(connection: Connection, settlements: Sequence[Settlement]) -> None:
    """Write down what came of several attempts, as their verdicts say."""
    accepted = [of for of in settlements if of.verdict.state is State.ACCEPTED]
    if accepted:
        # their lanes stay as they are: nothing may go behind a live item
        _write_down(connection, accepted)
    for of in settlements:
        if of.verdict.state is not State.ACCEPTED:
            is_changed = _write_down(connection, [of])
            go_on(connection, of, is_changed=is_changed)


@dataclass(frozen=True, slots=True)
class JobEnd:
    """The end of one job, to be written down.

    ``status``: how it ended. ``now``: seconds since the epoch. ``hold``: whether trouble holds the rest of a lane.
    ``lived_seconds``: the job's lifetime as far as it is known, None where it tells nothing of other jobs.
    """

    job: LiveJob
    status: JobStatus
    now: float
    hold: bool
    lived_seconds: float | None = None

    @property
    def state(self) -> State:
        """The item's state after it."""
        return State.COMPLETED if self.status is JobStatus.COMPLETED else State.FAILED

    @property
    def seconds(self) -> float:
        """Seconds from the job's acceptance to the moment its end was seen."""
        return max(self.now - self.job.accepted_at, 0.0)


def end_job(connection: Connection, end: JobEnd) -> Ended:
    """Record the end of a job, release its slot, and update the account's job durations."""
    return end_jobs(connection, [end])[0]


def end_jobs(connection: Connection, ends: Sequence[JobEnd]) -> list[Ended]:
    """Record the ends of several jobs: the same as one after the other."""
    # an end that was recorded before teaches nothing, which the items' states tell as long as they are the old ones
    durations = {end.job.item_id: _duration(end) for end in ends if end.job.watched}
    if durations:
        connection.execute(_LEARN, list(durations.values()))
    changed = connection.execute(_JOB_ENDED, [_ending(end) for end in ends])
    if changed.rowcount != len(ends):
        for end in ends:
            report_job(connection, end.job, f"ended as {end.status.value}")
    for hold, same in groupby(ends, key=attrgetter("hold")):
        recompute_ready(connection, [end.job.lane_id for end in same], hold=hold)
    return [Ended(end.job.item_id, end.state, end.seconds) for end in ends]


def job_overdue(
    connection: Connection,
    job: LiveJob,
    reason: str,
    now: float,
    doubt_seconds: float,
    *,
    job_timeout_seconds: float = inf,
    is_live: bool = False,
) -> None:
    """Write down that a job did not end in time: it keeps its lane.

    One that the service says is live keeps its slot, too; any other gives it back as an item in doubt does.
    """
    until = None if is_live else slot_until(connection, job.item_id, now, doubt_seconds, job_timeout_seconds)
    told = {"item": job.item_id, "job": job.job_id, "because": reason, "keeps_slot_until": until}
    if not connection.execute(_JOB_OVERDUE, told).rowcount:
        report_job(connection, job, "did not end in time")


def note_job_answer(connection: Connection, job: LiveJob, reason: str | None) -> None:
    """Write down what the service says of a live job in place of a status; None: its status is known again."""
    connection.execute(_NOTE_ANSWER, {"item": job.item_id, "job": job.job_id, "because": reason})


def distrust_job(
    connection: Connection,
    job: LiveJob,
    reason: str,
    now: float,
    doubt_seconds: float,
    *,
    job_timeout_seconds: float,
    hold: bool,
) -> None:
    """Put an accepted item in doubt: nothing that the service says of its job can be believed."""
    keeps = slot_until(connection, job.item_id, now, doubt_seconds, job_timeout_seconds)
    told = {"item": job.item_id, "job": job.job_id, "because": reason, "keeps_slot_until": keeps}
    if not connection.execute(_DISTRUST_JOB, told).rowcount:
        report_job(connection, job, "could not be believed")
    recompute_ready(connection, [job.lane_id], hold=hold)


def slot_until(
    connection: Connection, item_id: int, now: float, doubt_seconds: float, job_timeout_seconds: float = inf
) -> float:
    """Until when an item in doubt keeps its slot, in seconds since the epoch."""
    item = connection.execute(_ITEM, {"item": item_id}).one()
    work = audio_seconds(item.size, item.duration_seconds)
    ends = latest_completed_jobs(connection, item.account_id)
    return now + doubt_slot_seconds(work, ends, doubt_seconds, job_timeout_seconds)


def _duration(end: JobEnd) -> dict[str, Any]:
    return {"item": end.job.item_id, "job": end.job.job_id, "seconds": end.seconds}


def _ending(end: JobEnd) -> dict[str, Any]:
    failed = end.state is State.FAILED
    return {
        "item": end.job.item_id,
        "job": end.job.job_id,
        "becomes": end.state,
        "now": end.now,
        "because": "the job ended as failed; the service states no reason" if failed else None,
        "lived": end.lived_seconds,
    }


def close_attempt(connection: Connection, of: Settlement) -> None:
    """Write down an attempt's own end, and nothing of its item."""
    connection.execute(_CLOSE_ATTEMPT, _closing(of))


def change_items(connection: Connection, settlements: Sequence[Settlement]) -> bool:
    """Write down what becomes of the items alone; report an item that has moved on without an explanation.

    Returns:
        Whether each item was changed.
    """
    changed = connection.execute(_OUTCOME, [_change(connection, of) for of in settlements])
    if changed.rowcount == len(settlements):
        return True
    report_outcomes(connection, [(of.one, of.verdict) for of in settlements])
    return False


def _write_down(connection: Connection, settlements: Sequence[Settlement]) -> bool:
    connection.execute(_CLOSE_ATTEMPT, [_closing(of) for of in settlements])
    return change_items(connection, settlements)


def _closing(of: Settlement) -> dict[str, Any]:
    """What is written down of the attempt."""
    return {
        "attempt": of.one.attempt_id,
        "now": of.now,
        "outcome_is": of.verdict.outcome,
        "status": of.reply.status,
        "because": of.verdict.reason,
        "bytes": of.reply.bytes_sent,
        "job": of.verdict.job_id,
    }


def _change(connection: Connection, of: Settlement) -> dict[str, Any]:
    """What becomes of the item."""
    verdict, reply = of.verdict, of.reply
    accepted, doubtful = verdict.state is State.ACCEPTED, verdict.state is State.IN_DOUBT
    refused = verdict.state is State.REFUSED
    return {
        "item": of.one.item_id,
        "number": of.one.number,
        "now": of.now,
        "becomes": verdict.state,
        "because": None if accepted else verdict.reason,
        "status": reply.status,
        "job": verdict.job_id,
        # also the last cut-off counts, so that a count of 0 shows a refusal for the file's sake (IS_REFUSED_FOR_FILE)
        "cut_off": int(counts_against_file(verdict, reply) or (refused and reply.status is None)),
        "file_failed": refused and bool(reply.source_failure),
        "accepted": accepted,
        "finished": refused,
        "keeps_slot_until": (
            slot_until(connection, of.one.item_id, of.now, of.doubt_seconds, of.job_timeout_seconds)
            if doubtful
            else None
        ),
    }


def go_on(connection: Connection, of: Settlement, *, is_changed: bool) -> None:
    """Do to limit and lane what an attempt that was not accepted does to them.

    Args:
        connection: A connection in a transaction.
        of: What came of the attempt.
        is_changed: Whether its item was changed: one that has moved on does not wait in its lane again.
    """
    if of.refusal is not None:
        save_refusal(connection, of.one.item_id, of.refusal, of.now)
    if of.verdict.state is State.PENDING and is_changed:
        until = of.now + of.wait if of.wait else 0.0
        connection.execute(_PUT_OFF, {"lane": of.one.lane_id, "until": until, "work": of.one.work})
    recompute_ready(connection, [of.one.lane_id], hold=of.hold)
