"""Reads the callbacks that are pending, and writes the consequences of an item's facts."""

from collections import defaultdict
from collections.abc import Mapping, Sequence

from sqlalchemy import Connection, bindparam, func, select, update

from uploader.ledger.schema import attempts, items
from uploader.model import JobStatus, Outcome, State
from uploader.policy.facts import AttemptFacts, Callback, ResolvedItem

# the pending callbacks of items, the latest attempt first
_PENDING = (
    select(*attempts.c["id", "item_id", "number", "outcome", "callback_job_id", "callback_status"])
    .where(attempts.c.item_id.in_(bindparam("ids", expanding=True)), attempts.c.callback_pending)
    .order_by(attempts.c.number.desc())
)

# keep a callback with its attempt
_SAVE_CALLBACK = (
    update(attempts)
    .where(attempts.c.id == bindparam("attempt"))
    .values(
        callback_job_id=bindparam("job"), callback_status=bindparam("status"), callback_pending=bindparam("pending")
    )
)

# let an attempt's callback be its outcome
_APPLY = (
    update(attempts)
    .where(attempts.c.id == bindparam("attempt"))
    .values(outcome=Outcome.APPLIED, job_id=attempts.c.callback_job_id, callback_pending=False)
)

# accept an item as the job that a callback has named
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

# let nobody follow the job of an item, so that the worker that looks next does (workers.take_jobs)
_UNFOLLOW = (
    update(attempts)
    .where(
        attempts.c.item_id == bindparam("item"),
        attempts.c.number == select(items.c.attempts).where(items.c.id == bindparam("item")).scalar_subquery(),
    )
    .values(worker_id=None)
)

# append a text to an item's anomaly
_ADD_ANOMALY = (
    update(items)
    .where(items.c.id == bindparam("item"))
    .values(anomaly=func.coalesce(items.c.anomaly + "; ", "") + bindparam("anomaly"))
)


def pending_callbacks(connection: Connection, item_ids: Sequence[int]) -> Mapping[int, Sequence[AttemptFacts]]:
    """Read the attempts of these items whose callbacks are pending: by item, the latest attempt first."""
    found: defaultdict[int, list[AttemptFacts]] = defaultdict(list)
    if not item_ids:
        return found
    for row in connection.execute(_PENDING, {"ids": item_ids}):
        outcome = Outcome(row.outcome) if row.outcome is not None else None
        callback = Callback(row.callback_job_id, JobStatus(row.callback_status))
        found[row.item_id].append(AttemptFacts(row.id, row.number, outcome, callback))
    return found


def save_callback(connection: Connection, attempt_id: int, callback: Callback, *, pending: bool) -> None:
    """Keep a callback with its attempt.

    Args:
        pending: Whether it is applied only when the item's latest attempt has its reply.
    """
    values = {"attempt": attempt_id, "job": callback.job_id, "status": callback.status, "pending": pending}
    connection.execute(_SAVE_CALLBACK, values)


def accept_item(connection: Connection, item_id: int, job_id: str | None, accepted_at: float) -> None:
    """Let an item be accepted as the job that a callback has named."""
    connection.execute(_ACCEPT, {"item": item_id, "job": job_id, "accepted": accepted_at})
    unfollow_job(connection, item_id)


def unfollow_job(connection: Connection, item_id: int) -> None:
    """Let the job of an item be taken by any worker: that of its latest attempt has had no answer that names it."""
    connection.execute(_UNFOLLOW, {"item": item_id})


def apply_callbacks(connection: Connection, item_id: int, resolved: ResolvedItem) -> None:
    """Let the callbacks of attempts be their outcomes, and keep the anomaly with the item."""
    for attempt_id in resolved.applied:
        connection.execute(_APPLY, {"attempt": attempt_id})
    if resolved.anomaly is not None:
        add_anomaly(connection, item_id, resolved.anomaly)


def add_anomaly(connection: Connection, item_id: int, anomaly: str) -> None:
    """Keep an anomaly with its item, whatever becomes of the item."""
    connection.execute(_ADD_ANOMALY, {"item": item_id, "anomaly": anomaly})
