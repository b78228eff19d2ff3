"""Applies callbacks: the service's news of jobs, each for one attempt."""

from collections.abc import Sequence
from typing import NamedTuple

from sqlalchemy import Column, Connection, RowMapping, ScalarSelect, bindparam, select, union_all, update

from uploader.ledger.dialects import is_among
from uploader.ledger.facts import accept_item, apply_callbacks, save_callback
from uploader.ledger.lanes import recompute_ready
from uploader.ledger.outcomes import JobEnd, end_job
from uploader.ledger.schema import IS_CORRECTED, attempts, batches, items, lanes, ledger, loads, resolutions
from uploader.model import UNDER_WAY, JobStatus, LiveJob, Outcome, State
from uploader.policy.facts import AttemptFacts, Callback, CallbackEffect, ItemFacts, resolve_item
from uploader.policy.forecast import audio_seconds
from uploader.policy.replies import is_success

# the attempt of a token, with its item, lane and batch
_ATTEMPT = (
    select(
        *attempts.c["id", "number", "outcome", "job_id", "admitted_at", "http_status"],
        *attempts.c["callback_job_id", "callback_status", "callback_pending", "worker_id"],
        *items.c["account_id", "lane_id", "state", "line", "size", "duration_seconds", "accepted_at"],
        items.c.id.label("item_id"),
        items.c.job_id.label("items_job_id"),
        items.c.attempts.label("latest"),
        lanes.c.conversation_id,
        (lanes.c.active_until >= items.c.position).label("is_active"),
        batches.c.name.label("batch"),
    )
    .join(items, items.c.id == attempts.c.item_id)
    .join(lanes, lanes.c.id == items.c.lane_id)
    .join(loads, loads.c.id == items.c.load_id)
    .join(batches, batches.c.id == loads.c.batch_id)
    .where(attempts.c.token_hash == bindparam("token"))
)

# the accounts of the attempts of some tokens
_ACCOUNTS = (
    select(items.c.account_id)
    .join(attempts, attempts.c.item_id == items.c.id)
    .where(is_among(attempts.c.token_hash, "tokens"))
    .distinct()
)

_NAMED = items.alias("named")


def _account_of(item_id: Column[int]) -> ScalarSelect[int]:
    return select(_NAMED.c.account_id).where(_NAMED.c.id == item_id).scalar_subquery()


# the accounts where a job is another item's: by its state, an applied attempt, a callback, or a person's decision
_OF_ANOTHER = union_all(
    *(
        select(_account_of(item)).where(job == bindparam("job"), item != bindparam("item"), *more)
        for job, item, more in (
            (items.c.job_id, items.c.id, [items.c.state != State.IN_DOUBT]),
            (attempts.c.job_id, attempts.c.item_id, [attempts.c.outcome == Outcome.APPLIED]),
            (attempts.c.callback_job_id, attempts.c.item_id, []),
            (resolutions.c.job_id, resolutions.c.item_id, [~IS_CORRECTED]),
        )
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


class CallbackResult(NamedTuple):
    """The result of a callback."""

    effect: CallbackEffect
    # the job that it names, as that of its attempt; None where no attempt has its token
    job: LiveJob | None = None
    # the end of that job, where it ended an accepted item
    ended: JobEnd | None = None
    anomaly: str | None = None
    # the ledger may have other accounts beside the run's
    account_id: int = 0
    attempt_id: int = 0
    # the worker that carries the attempt, or follows its job; None where there is none
    worker_id: int | None = None
    # why it is contradictory
    reason: str | None = None


def webhook_key(connection: Connection) -> str:
    """Read the key that this ledger's tokens are signed with."""
    key: str = connection.execute(select(ledger.c.webhook_key)).scalar_one()
    return key


def accounts_of(connection: Connection, token_hashes: Sequence[str]) -> frozenset[int]:
    """Return the ids of the accounts of the attempts with these tokens, by their hashes."""
    if not token_hashes:
        return frozenset()
    return frozenset(connection.execute(_ACCOUNTS, {"tokens": list(token_hashes)}).scalars())


def apply_callback(
    connection: Connection, token_hash: str, callback: Callback, now: float, *, listening_since: float
) -> CallbackResult:
    """Apply a callback to the item of its attempt; one without an effect writes nothing.

    Args:
        token_hash: The hash of the token that it came with.
        callback: The job and its status.
        listening_since: When this run began to listen: only the jobs that began since tell how long jobs take.
    """
    found = connection.execute(_ATTEMPT, {"token": token_hash}).mappings().first()
    if found is None:
        return CallbackResult(CallbackEffect.UNKNOWN_TOKEN)
    item = _facts(connection, found, callback)
    resolved = resolve_item(item)
    job = _job(found, callback, now, listening_since)
    if resolved.effect in (CallbackEffect.DEFERRED, CallbackEffect.ACCEPTED, CallbackEffect.DUPLICATE_APPEND):
        save_callback(connection, found["id"], callback, pending=resolved.state in UNDER_WAY)
    apply_callbacks(connection, job.item_id, resolved)
    if resolved.effect is CallbackEffect.ACCEPTED:
        accept_item(connection, job.item_id, job.job_id, job.accepted_at)
        if item.state is State.PENDING:
            counted = {"work": job.work, "count": 1} if job.is_active else {"work": 0.0, "count": 0}
            connection.execute(_TAKE_FROM_LANE, {"lane": job.lane_id, **counted})
        recompute_ready(connection, [job.lane_id])
    ended = None
    if resolved.job_status is not None and resolved.job_status.ended:
        # a callback arrives when the job ends, so its lifetime is exact
        is_exact = job.has_known_start and callback.status is JobStatus.COMPLETED
        ended = JobEnd(job, callback.status, now, max(now - job.accepted_at, 0.0) if is_exact else None)
        end_job(connection, ended)
    concerned = found["account_id"], found["id"], found["worker_id"]
    return CallbackResult(resolved.effect, job, ended, resolved.anomaly, *concerned, resolved.reason)


def _facts(connection: Connection, found: RowMapping, callback: Callback) -> ItemFacts:
    """Return the facts of the item that a callback is about."""
    answered = found["job_id"] if found["outcome"] == Outcome.APPLIED else None
    attempt = AttemptFacts(
        attempt_id=found["id"],
        number=found["number"],
        outcome=Outcome(found["outcome"]) if found["outcome"] is not None else None,
        callback=callback,
        job_id=answered or found["callback_job_id"],
        pending_status=JobStatus(found["callback_status"]) if found["callback_pending"] else None,
    )
    which = {"job": callback.job_id, "item": found["item_id"]}
    return ItemFacts(
        state=State(found["state"]),
        job_id=found["items_job_id"],
        latest=found["latest"],
        attempts=[attempt],
        # as for answers (outcomes): the services of two accounts may give two jobs the same id
        names_other_job=found["account_id"] in connection.execute(_OF_ANOTHER, which).scalars().all(),
    )


def _job(found: RowMapping, callback: Callback, now: float, listening_since: float) -> LiveJob:
    """Return the job that a callback names; unless its answer came, it began at the admission at the earliest."""
    # the answer of an accepted item tells when the job began, a status that proves no success does not
    answered = found["state"] == State.ACCEPTED and is_success(found["http_status"])
    began = found["accepted_at"] if answered else found["admitted_at"]
    has_known_start = began is not None and listening_since <= began <= now
    return LiveJob(
        item_id=found["item_id"],
        lane_id=found["lane_id"],
        job_id=callback.job_id,
        batch=found["batch"],
        line=found["line"],
        conversation_id=found["conversation_id"],
        attempt=found["number"],
        size=found["size"] or 0,
        accepted_at=began if has_known_start else now,
        is_active=bool(found["is_active"]),
        work=audio_seconds(found["size"], found["duration_seconds"]),
        has_known_start=has_known_start,
    )
