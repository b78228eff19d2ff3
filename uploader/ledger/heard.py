"""What calls to the webhook said of attempts whose item had not come to its outcome, kept until it has."""

from collections.abc import Sequence
from typing import NamedTuple

from sqlalchemy import Connection, bindparam, func, select, update

from uploader.ledger.schema import attempts, items
from uploader.model import JobStatus, Outcome, Verdict
from uploader.policy.hearing import Call, Earlier, remark_on_verdict

_WAITING = (
    select(*attempts.c["id", "number", "outcome", "heard_job_id", "heard_status"])
    .where(attempts.c.item_id == bindparam("item"), attempts.c.heard_waits)
    .order_by(attempts.c.number.desc())
)

_SPOKEN_OF = select(attempts.c.item_id).where(
    attempts.c.item_id.in_(bindparam("ids", expanding=True)), attempts.c.heard_waits
)

_NOTE = (
    update(attempts)
    .where(attempts.c.id == bindparam("attempt"))
    .values(heard_job_id=bindparam("job"), heard_status=bindparam("status"), heard_waits=bindparam("waits"))
)

_TAKE_EFFECT = (
    update(attempts)
    .where(attempts.c.id == bindparam("attempt"))
    .values(outcome=Outcome.APPLIED, job_id=attempts.c.heard_job_id, heard_waits=False)
)

_ADD_REMARK = (
    update(items)
    .where(items.c.id == bindparam("item"))
    .values(remark=func.coalesce(items.c.remark + "; ", "") + bindparam("said"))
)


class Heard(NamedTuple):
    """What calls said of an item's last attempt, and of earlier ones, while the last one was out."""

    own: Call | None = None
    earlier: Earlier | None = None
    before: tuple[Earlier, ...] = ()
    """What became a job still earlier."""
    attempt_ids: tuple[int, ...] = ()
    """Of all the earlier ones."""


def note(connection: Connection, attempt_id: int, call: Call, *, waits: bool) -> None:
    """Keep a call with its attempt. ``waits``: until the item's outcome is there, it changes nothing else."""
    connection.execute(_NOTE, {"attempt": attempt_id, "job": call.job_id, "status": call.status, "waits": waits})


def count_as_applied(connection: Connection, attempt_id: int) -> None:
    """Let what was noted of an attempt be its outcome."""
    connection.execute(_TAKE_EFFECT, {"attempt": attempt_id})


def heard_items(connection: Connection, item_ids: Sequence[int]) -> set[int]:
    """Those of these items of which something was heard that waits for their outcome."""
    return set(connection.execute(_SPOKEN_OF, {"ids": item_ids}).scalars())


def heard_of(connection: Connection, item_id: int, number: int) -> Heard:
    """What was heard of an item and waits for the outcome of its attempt of this number."""
    found = connection.execute(_WAITING, {"item": item_id}).all()
    own = [Call(row.heard_job_id, JobStatus(row.heard_status)) for row in found if row.number == number]
    others = [row for row in found if row.number != number]
    earlier = [
        Earlier(row.heard_job_id, row.number, Outcome(row.outcome), JobStatus(row.heard_status)) for row in others
    ]
    return Heard(next(iter(own), None), next(iter(earlier), None), tuple(earlier[1:]), tuple(row.id for row in others))


def take_effect(connection: Connection, item_id: int, number: int, verdict: Verdict, heard: Heard) -> str | None:
    """Let what was heard of earlier attempts be their outcome, and say in the open what is out of order.

    Args:
        connection: A connection in a transaction.
        item_id: The item.
        number: The number of its last attempt.
        verdict: What that one's reply means by itself.
        heard: What was heard.
    """
    for attempt_id in heard.attempt_ids:
        count_as_applied(connection, attempt_id)
    remark = remark_on_verdict(verdict, number, heard.own, heard.earlier, heard.before)
    if remark is not None:
        add_remark(connection, item_id, remark)
    return remark


def add_remark(connection: Connection, item_id: int, remark: str) -> None:
    """Add to what stays to be said of an item, whatever becomes of it."""
    connection.execute(_ADD_REMARK, {"item": item_id, "said": remark})
