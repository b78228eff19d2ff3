"""What calls to the webhook say of attempts, and what that settles."""

from typing import NamedTuple

from sqlalchemy import Connection, RowMapping, bindparam, literal, select, union_all, update

from uploader.ledger.heard import add_remark, count_as_applied, note
from uploader.ledger.lanes import recompute_ready
from uploader.ledger.outcomes import Ended, JobEnd, end_job
from uploader.ledger.schema import IS_CORRECTED, attempts, batches, items, lanes, ledger, loads, resolutions
from uploader.model import JobStatus, LiveJob, Outcome, State
from uploader.policy.forecast import audio_seconds
from uploader.policy.hearing import Call, Known, Meaning, meaning, remark_on_acceptance, surplus_remark
from uploader.policy.replies import is_success

_ATTEMPT = (
    select(
        *attempts.c["id", "number", "outcome", "job_id", "marked_at", "http_status"],
        *attempts.c["heard_job_id", "heard_status", "heard_waits"],
        *items.c["account_id", "lane_id", "state", "line", "size", "duration_seconds", "accepted_at"],
        items.c.id.label("item_id"),
        items.c.job_id.label("items_job_id"),
        items.c.attempts.label("latest"),
        lanes.c.conversation_id,
        (lanes.c.active_until >= items.c.position).label("in_scope"),
        batches.c.name.label("batch"),
    )
    .join(items, items.c.id == attempts.c.item_id)
    .join(lanes, lanes.c.id == items.c.lane_id)
    .join(loads, loads.c.id == items.c.load_id)
    .join(batches, batches.c.id == loads.c.batch_id)
    .where(attempts.c.token_hash == bindparam("token"))
)

_OF_ANOTHER = union_all(
    select(literal(1))
    .select_from(items)
    .where(items.c.job_id == bindparam("job"), items.c.id != bindparam("item"), items.c.state != State.IN_DOUBT),
    select(literal(1))
    .select_from(attempts)
    .where(
        attempts.c.job_id == bindparam("job"),
        attempts.c.item_id != bindparam("item"),
        attempts.c.outcome == Outcome.APPLIED,
    ),
    select(literal(1))
    .select_from(attempts)
    .where(attempts.c.heard_job_id == bindparam("job"), attempts.c.item_id != bindparam("item")),
    select(literal(1))
    .select_from(resolutions)
    .where(resolutions.c.job_id == bindparam("job"), resolutions.c.item_id != bindparam("item"), ~IS_CORRECTED),
)

_ACCEPT = (
    update(items)
    .where(items.c.id == bindparam("item"))
    .values(
        state=State.ACCEPTED,
        job_id=bindparam("job"),
        accepted_at=bindparam("accepted"),
        finished_at=None,
        slot_until=None,
        overdue=False,
        error=None,
    )
)

# an item that waited was still counted among what its lane has left, where this run was to send it
_TAKE_FROM_LANE = (
    update(lanes)
    .where(lanes.c.id == bindparam("lane"))
    .values(
        not_before=0.0,
        audio_left=lanes.c.audio_left - bindparam("work"),
        items_left=lanes.c.items_left - bindparam("count"),
    )
)


class Hearing(NamedTuple):
    """What came of a call. ``job`` is that of the attempt it was about, as it is now (None: there is no such)."""

    meaning: Meaning
    job: LiveJob | None = None
    ended: Ended | None = None
    remark: str | None = None
    account_id: int = 0
    """Whose it is: the ledger may have other accounts beside the run's."""
    attempt_id: int = 0
    """The attempt that the call was for."""

    @property
    def is_live(self) -> bool:
        """Whether the call told of a job that lives on."""
        return self.job is not None and self.ended is None


def webhook_key(connection: Connection) -> str:
    """What this ledger's tokens are signed with."""
    key: str = connection.execute(select(ledger.c.webhook_key)).scalar_one()
    return key


def hear(
    connection: Connection, token_hash: str, call: Call, now: float, *, listening_since: float, hold: bool
) -> Hearing:
    """Write down what a call means; what it does not change stays untouched.

    Args:
        connection: A connection in a transaction.
        token_hash: The hash of the token that it came with.
        call: What it says.
        now: The time, in seconds since the epoch.
        listening_since: When this run began to listen: only the jobs that began since tell how long jobs take.
        hold: Whether trouble holds the rest of a lane.
    """
    found = connection.execute(_ATTEMPT, {"token": token_hash}).mappings().first()
    if found is None:
        return Hearing(Meaning.FORGED)
    job = _job(found, call, now, listening_since)
    heard = _heed(connection, found, job, call, now, hold=hold)
    return heard._replace(account_id=found["account_id"], attempt_id=found["id"])


def _heed(connection: Connection, found: RowMapping, job: LiveJob, call: Call, now: float, *, hold: bool) -> Hearing:
    known = _known(connection, found, call)
    what = meaning(known, call)
    if what in (Meaning.NOTED, Meaning.SURPLUS):
        waits = what is Meaning.NOTED and known.state in (State.SENDING, State.SENT)
        note(connection, found["id"], call, waits=waits)
    if what is Meaning.ACCEPTED:
        return _accept(connection, found, job, call, now, hold=hold)
    if what is Meaning.ENDED:
        return Hearing(what, job, _end(connection, job, call, now, hold=hold))
    if what is Meaning.SURPLUS:
        remark = surplus_remark(call.job_id, found["number"], known.state, known.items_job_id)
        add_remark(connection, job.item_id, remark)
        return Hearing(what, job, remark=remark)
    is_of_live_job = known.state is State.ACCEPTED and known.items_job_id == call.job_id
    return Hearing(what, job if is_of_live_job or what is Meaning.DISTRUSTED else None)


def _known(connection: Connection, found: RowMapping, call: Call) -> Known:
    applied = found["outcome"] == Outcome.APPLIED
    return Known(
        is_open=found["outcome"] is None,
        job_id=(found["job_id"] if applied else None) or found["heard_job_id"],
        heard=JobStatus(found["heard_status"]) if found["heard_status"] else None,
        waits=found["heard_waits"],
        state=State(found["state"]),
        items_job_id=found["items_job_id"],
        is_anothers=connection.execute(_OF_ANOTHER, {"job": call.job_id, "item": found["item_id"]}).first() is not None,
    )


def _job(found: RowMapping, call: Call, now: float, listening_since: float) -> LiveJob:
    """The job of a call; where nobody saw it begin, it began at the mark before the last chunk, as far as is known."""
    # an answer that was lost was waited for: only one that came tells when the job began
    answered = found["state"] == State.ACCEPTED and is_success(found["http_status"])
    began = found["accepted_at"] if answered else found["marked_at"]
    watched = began is not None and listening_since <= began <= now
    return LiveJob(
        item_id=found["item_id"],
        lane_id=found["lane_id"],
        job_id=call.job_id,
        batch=found["batch"],
        line=found["line"],
        conversation_id=found["conversation_id"],
        attempt=found["number"],
        size=found["size"] or 0,
        accepted_at=began if watched else now,
        in_scope=bool(found["in_scope"]),
        work=audio_seconds(found["size"], found["duration_seconds"]),
        watched=watched,
    )


def _accept(connection: Connection, found: RowMapping, job: LiveJob, call: Call, now: float, *, hold: bool) -> Hearing:
    """Settle an item by a call: in doubt no more, refused no more, not to be tried again."""
    note(connection, found["id"], call, waits=False)
    count_as_applied(connection, found["id"])
    connection.execute(_ACCEPT, {"item": job.item_id, "job": call.job_id, "accepted": job.accepted_at})
    if found["state"] == State.PENDING:
        counted = {"work": job.work, "count": 1} if job.in_scope else {"work": 0.0, "count": 0}
        connection.execute(_TAKE_FROM_LANE, {"lane": job.lane_id, **counted})
    remark = _remark(found, call)
    if remark is not None:
        add_remark(connection, job.item_id, remark)
    recompute_ready(connection, [job.lane_id], hold=hold)
    ended = _end(connection, job, call, now, hold=hold) if call.status.ended else None
    return Hearing(Meaning.ACCEPTED, job, ended, remark)


def _end(connection: Connection, job: LiveJob, call: Call, now: float, *, hold: bool) -> Ended:
    """End a job as a look at it would; a call comes at the moment of the end."""
    teaches = job.watched and call.status is JobStatus.COMPLETED
    lived = max(now - job.accepted_at, 0.0) if teaches else None
    return end_job(connection, JobEnd(job, call.status, now, hold, lived))


def _remark(found: RowMapping, call: Call) -> str | None:
    number, latest = found["number"], found["latest"]
    if found["state"] == State.IN_DOUBT and number != latest:
        return f"appended as job {call.job_id}; attempt {latest} may have appended it once too often"
    return remark_on_acceptance(Outcome(found["outcome"]), number, call.job_id)
