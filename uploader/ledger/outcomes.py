"""Records the outcomes of attempts, and the ends of their jobs."""

from collections.abc import Sequence
from math import inf
from typing import Any, NamedTuple

from sqlalchemy import Boolean, Connection, and_, bindparam, case, or_, select, union_all, update

from uploader.ledger.facts import apply_callbacks, pending_callbacks
from uploader.ledger.lanes import add_to_backlog, recompute_ready
from uploader.ledger.limit import ACCOUNT_OF_ITEM, save_refusal
from uploader.ledger.reading import latest_completed_jobs
from uploader.ledger.schema import accounts, attempts, items, lanes
from uploader.ledger.unmatched import report_job, report_outcomes
from uploader.model import Claim, JobStatus, LiveJob, Outcome, Reply, State, Verdict
from uploader.policy.facts import AttemptFacts, ItemFacts, ResolvedItem, resolve_item
from uploader.policy.forecast import audio_seconds
from uploader.policy.limits import Refusal
from uploader.policy.replies import counts_against_file, distrust
from uploader.policy.waits import doubt_slot_seconds

# the typical duration is a running mean in which each new job weighs as much as one of so many; it starts from a
# default, not from the first job: the first to end are the short ones
JOBS_REMEMBERED = 16.0
# no job counts as shorter: a mean of nothing but zeros would underflow, which PostgreSQL takes for an error
LEAST_JOB_SECONDS = 1e-30

# The statements of every outcome are built once: building one costs more than running it.

# a reply does not take back that a callback has named the attempt's job
_KEEPS_JOB = and_(attempts.c.outcome == Outcome.APPLIED, bindparam("outcome_is") != Outcome.APPLIED.value)

# the end of an attempt; one that a callback has named as a job keeps outcome and job
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
        callback_pending=False,
    )
)

_IS_LATEST = and_(items.c.id == bindparam("item"), items.c.attempts == bindparam("number"))

_CHANGE = {
    "state": bindparam("becomes"),
    "error": bindparam("because"),
    "job_id": bindparam("job"),
    "http_status": bindparam("status"),
    "cut_offs": case((bindparam("file_failed", type_=Boolean), 0), else_=items.c.cut_offs + bindparam("cut_off")),
    "unadmitted": items.c.unadmitted + bindparam("withdrawn"),
    "accepted_at": case((bindparam("accepted", type_=Boolean), bindparam("now")), else_=items.c.accepted_at),
    "finished_at": case((bindparam("finished", type_=Boolean), bindparam("now")), else_=items.c.finished_at),
    "slot_until": bindparam("keeps_slot_until"),
}

# the outcome of an item whose latest attempt is this one
_OUTCOME = (
    update(items)
    # an IN could not be executed for many at once
    .where(_IS_LATEST, or_(items.c.state == State.SENDING, items.c.state == State.SENT))
    .values(_CHANGE)
)

# the same of an item that a takeover has put in doubt meanwhile: a late answer is a fact of its attempt
_LATE_OUTCOME = update(items).where(_IS_LATEST, items.c.state == State.IN_DOUBT).values(_CHANGE)

# let a lane wait until a time
_PUT_OFF = update(lanes).where(lanes.c.id == bindparam("lane")).values(not_before=bindparam("until"))

# an item whose jobId a person corrected does not end by its former job
_HAS_JOB = and_(items.c.id == bindparam("item"), items.c.state == State.ACCEPTED, items.c.job_id == bindparam("job"))

# the end of an item's job
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

# mark the item's job as overdue, once
_JOB_OVERDUE = (
    update(items)
    .where(_HAS_JOB, items.c.overdue.is_(False))
    .values(overdue=True, error=bindparam("because"), slot_until=bindparam("keeps_slot_until"))
)

_typical = accounts.c.typical_job_seconds

# move the account's typical job time a little towards a job's seconds
_LEARN = (
    update(accounts)
    .where(accounts.c.id == ACCOUNT_OF_ITEM.where(_HAS_JOB).scalar_subquery())
    .values(typical_job_seconds=_typical + (bindparam("seconds") - _typical) / JOBS_REMEMBERED)
)

# the facts by which a doubt about the item keeps its slot
_ITEM = select(*items.c["account_id", "size", "duration_seconds"]).where(items.c.id == bindparam("item"))

# the items that these jobs belong to, with their accounts: by an item that is not in doubt, or by an applied attempt
_OWNERS = union_all(
    select(items.c.account_id, items.c.job_id, items.c.id.label("item_id")).where(
        items.c.job_id.in_(bindparam("jobs", expanding=True)), items.c.state != State.IN_DOUBT
    ),
    select(items.c.account_id, attempts.c.job_id, attempts.c.item_id)
    .join(items, items.c.id == attempts.c.item_id)
    .where(attempts.c.job_id.in_(bindparam("jobs", expanding=True)), attempts.c.outcome == Outcome.APPLIED),
)

# nothing is sent ahead of a job that does not end
_BLOCK_LANE = update(lanes).where(lanes.c.id == bindparam("lane")).values(ready_position=None)

# the service's answer in place of a status, as the item's error
_SAVE_ANSWER = update(items).where(_HAS_JOB).values(error=bindparam("because"))

# put the accepted item in doubt
_DISTRUST_JOB = (
    update(items)
    .where(_HAS_JOB)
    .values(state=State.IN_DOUBT, error=bindparam("because"), slot_until=bindparam("keeps_slot_until"))
)


class JobEnd(NamedTuple):
    """The end of one job."""

    job: LiveJob
    status: JobStatus
    # seconds since the epoch
    now: float
    # the job's lifetime as far as it is known, None where it tells nothing of other jobs
    lived_seconds: float | None = None

    @property
    def state(self) -> State:
        """The item's state after it."""
        return resolve_item(ItemFacts(State.ACCEPTED, self.job.job_id, polled=self.status)).state

    @property
    def seconds(self) -> float:
        """Seconds from the job's acceptance to the moment its end was seen."""
        return max(self.now - self.job.accepted_at, 0.0)


class ReplyRecord(NamedTuple):
    """The reply to one attempt, to be recorded."""

    claim: Claim
    # of the reply by itself
    verdict: Verdict
    reply: Reply
    # seconds since the epoch
    now: float
    # seconds before the lane is tried again
    wait: float
    # seconds that doubt keeps a slot as long as no job has ended
    doubt_seconds: float
    # a 429 about the limit
    refusal: Refusal | None = None
    job_timeout_seconds: float = inf
    # the run has a webhook: callbacks may be pending
    listens: bool = False


class ReplyResult(NamedTuple):
    """The recorded outcome of an attempt: the verdict after callbacks, and what they have told of its job."""

    verdict: Verdict
    has_callback: bool = False
    ended: JobEnd | None = None
    anomaly: str | None = None


def record_reply(connection: Connection, record: ReplyRecord) -> ReplyResult:
    """Record the reply to an attempt; see ``record_replies``."""
    return record_replies(connection, [record])[0]


def record_replies(connection: Connection, records: Sequence[ReplyRecord]) -> list[ReplyResult]:
    """Record the replies to several attempts, one of each item: the same as one after the other.

    An answer with the jobId of another item is in doubt; a callback that is pending is applied.
    """
    records = _distrust_known_jobs(connection, records)
    pending = pending_callbacks(connection, [record.claim.item_id for record in records if record.listens])
    resolved = [(record, _resolve(record, pending.get(record.claim.item_id, ()))) for record in records]
    alone = {record.claim.item_id for record in records if record.verdict.state is not State.ACCEPTED} | pending.keys()
    # the common case is one statement for each table: nothing may go behind an item that is live, so lanes stay
    together = [(record, item) for record, item in resolved if record.claim.item_id not in alone]
    if together:
        _write(connection, together)
    return [
        _record_alone(connection, record, item) if record.claim.item_id in alone else ReplyResult(record.verdict)
        for record, item in resolved
    ]


def _resolve(record: ReplyRecord, pending: Sequence[AttemptFacts]) -> ResolvedItem:
    return resolve_item(ItemFacts.after(record.verdict, record.claim.number, pending))


def _distrust_known_jobs(connection: Connection, records: Sequence[ReplyRecord]) -> Sequence[ReplyRecord]:
    """Put in doubt what was answered with a jobId that another item has, in the ledger or in this group."""
    jobs = [record.verdict.job_id for record in records if record.verdict.state is State.ACCEPTED]
    if not jobs:
        return records
    known = connection.execute(_OWNERS, {"jobs": jobs}).all()
    if not known and len(set(jobs)) == len(jobs):
        return records
    owners: dict[tuple[int, str | None], int] = {}
    for account_id, job_id, item_id in known:
        owners.setdefault((account_id, job_id), item_id)
    return [_distrusted(connection, record, owners) for record in records]


def _distrusted(connection: Connection, record: ReplyRecord, owners: dict[tuple[int, str | None], int]) -> ReplyRecord:
    """Put an accepted attempt in doubt where its job has another owner; where it has none, the item becomes it."""
    if record.verdict.state is not State.ACCEPTED:
        return record
    item_id = record.claim.item_id
    # a group may have records of several accounts, whose services number their jobs each for itself
    account_id = connection.execute(ACCOUNT_OF_ITEM, {"item": item_id}).scalar_one()
    if owners.setdefault((account_id, record.verdict.job_id), item_id) == item_id:
        return record
    return record._replace(verdict=distrust(record.verdict))


def end_job(connection: Connection, end: JobEnd) -> None:
    """Record the end of a job, release its slot, and update the account's job durations."""
    end_jobs(connection, [end])


def end_jobs(connection: Connection, ends: Sequence[JobEnd]) -> None:
    """Record the ends of several jobs: the same as one after the other."""
    # before the items' states change: an end that was recorded before teaches nothing
    durations = {
        end.job.item_id: {
            "item": end.job.item_id,
            "job": end.job.job_id,
            "seconds": max(end.seconds, LEAST_JOB_SECONDS),
        }
        for end in ends
        if end.job.has_known_start
    }
    if durations:
        connection.execute(_LEARN, list(durations.values()))
    changed = connection.execute(_JOB_ENDED, [_ending(end) for end in ends])
    if changed.rowcount != len(ends):
        for end in ends:
            report_job(connection, end.job, f"ended as {end.status.value}")
    recompute_ready(connection, [end.job.lane_id for end in ends])


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
    """Record that a job did not end in time: it holds its lane.

    A job that the service calls live keeps its slot, too; any other gives it back as an item in doubt does.
    """
    until = None if is_live else slot_until(connection, job.item_id, now, doubt_seconds, job_timeout_seconds)
    values = {"item": job.item_id, "job": job.job_id, "because": reason, "keeps_slot_until": until}
    if connection.execute(_JOB_OVERDUE, values).rowcount:
        connection.execute(_BLOCK_LANE, {"lane": job.lane_id})
    else:
        report_job(connection, job, "did not end in time")


def save_job_answer(connection: Connection, job: LiveJob, reason: str | None) -> None:
    """Record the service's answer about a live job in place of a status; None once its status is known again."""
    connection.execute(_SAVE_ANSWER, {"item": job.item_id, "job": job.job_id, "because": reason})


def distrust_job(
    connection: Connection,
    job: LiveJob,
    reason: str,
    now: float,
    doubt_seconds: float,
    *,
    job_timeout_seconds: float,
) -> None:
    """Put an accepted item in doubt: the service's answers are about another job."""
    keeps = slot_until(connection, job.item_id, now, doubt_seconds, job_timeout_seconds)
    values = {"item": job.item_id, "job": job.job_id, "because": reason, "keeps_slot_until": keeps}
    if not connection.execute(_DISTRUST_JOB, values).rowcount:
        report_job(connection, job, "could not be believed")
    recompute_ready(connection, [job.lane_id])


def slot_until(
    connection: Connection, item_id: int, now: float, doubt_seconds: float, job_timeout_seconds: float = inf
) -> float:
    """Return the time until which an item in doubt keeps its slot, in seconds since the epoch."""
    item = connection.execute(_ITEM, {"item": item_id}).one()
    work = audio_seconds(item.size, item.duration_seconds)
    ends = latest_completed_jobs(connection, item.account_id)
    return now + doubt_slot_seconds(work, ends, doubt_seconds, job_timeout_seconds)


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


def _write(connection: Connection, resolved: Sequence[tuple[ReplyRecord, ResolvedItem]]) -> bool:
    """Write outcomes of attempts and of their items; report an item that has moved on without an explanation.

    Returns:
        Whether each item was changed.
    """
    closings = [_closing(record, item.attempt_verdict or record.verdict) for record, item in resolved]
    connection.execute(_CLOSE_ATTEMPT, closings)
    verdicts = [(record, item.verdict or record.verdict) for record, item in resolved]
    changes = [_change(connection, record, verdict) for record, verdict in verdicts]
    if connection.execute(_OUTCOME, changes).rowcount == len(resolved):
        return True
    late = [
        record.claim
        for (record, verdict), change in zip(verdicts, changes, strict=True)
        if verdict.state is not State.IN_DOUBT and connection.execute(_LATE_OUTCOME, change).rowcount
    ]
    recompute_ready(connection, [claim.lane_id for claim in late])
    if len(late) < len(resolved):
        report_outcomes(connection, [(record.claim, verdict) for record, verdict in verdicts])
    return len(late) == len(resolved)


def _record_alone(connection: Connection, record: ReplyRecord, item: ResolvedItem) -> ReplyResult:
    """Record an outcome that changes more than attempt and item: the limit, the lane, other attempts, or a job."""
    claim, verdict = record.claim, item.verdict or record.verdict
    is_changed = _write(connection, [(record, item)])
    apply_callbacks(connection, claim.item_id, item)
    if record.refusal is not None:
        is_early = not record.reply.last_chunk_left
        save_refusal(connection, claim.item_id, record.refusal, record.now, counts_uploads=is_early)
    if verdict.state is State.PENDING and is_changed:
        until = record.now + record.wait if record.wait else 0.0
        connection.execute(_PUT_OFF, {"lane": claim.lane_id, "until": until})
        # a worker that was ended meanwhile may have been the last that wanted the lane
        add_to_backlog(connection, claim.item_id)
    recompute_ready(connection, [claim.lane_id])
    ended = None
    if item.job_id is not None and item.job_status is not None and item.job_status.ended:
        job = claim.job(item.job_id, record.now)._replace(has_known_start=False)
        ended = JobEnd(job, item.job_status, record.now)
        end_job(connection, ended)
    return ReplyResult(verdict, item.job_status is not None, ended, item.anomaly)


def _closing(record: ReplyRecord, verdict: Verdict) -> dict[str, Any]:
    """Return the parameters of an attempt's end."""
    return {
        "attempt": record.claim.attempt_id,
        "now": record.now,
        "outcome_is": verdict.outcome,
        "status": record.reply.status,
        "because": verdict.reason,
        "bytes": record.reply.bytes_sent,
        "job": verdict.job_id,
    }


def _change(connection: Connection, record: ReplyRecord, verdict: Verdict) -> dict[str, Any]:
    """Return the parameters of an item's change."""
    accepted, refused = verdict.state is State.ACCEPTED, verdict.state is State.REFUSED
    keeps = (record.now, record.doubt_seconds, record.job_timeout_seconds)
    doubtful = verdict.state is State.IN_DOUBT
    return {
        "item": record.claim.item_id,
        "number": record.claim.number,
        "now": record.now,
        "becomes": verdict.state,
        "because": None if accepted else verdict.reason,
        "status": record.reply.status,
        "job": verdict.job_id,
        # also the last cut-off counts, so that a count of 0 shows a refusal for the file's sake (IS_REFUSED_FOR_FILE)
        "cut_off": int(counts_against_file(verdict, record.reply) or (refused and record.reply.status is None)),
        "file_failed": refused and bool(record.reply.source_failure),
        # an attempt that we cut before its admission counts neither for a person nor towards max_attempts
        "withdrawn": int(record.reply.withheld and not record.reply.last_chunk_left),
        "accepted": accepted,
        "finished": refused,
        "keeps_slot_until": slot_until(connection, record.claim.item_id, *keeps) if doubtful else None,
    }
