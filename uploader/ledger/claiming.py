"""The claim of an attempt and the mark before its last chunk."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sqlalchemy import Connection, RowMapping, and_, bindparam, func, insert, select, update

from uploader.ledger.limit import limit_facts
from uploader.ledger.schema import attempts, batches, items, lanes, loads
from uploader.model import Claim, LimitFacts, Order, State
from uploader.policy.callbacks import token_hash
from uploader.policy.forecast import audio_seconds

# What every claim says to the ledger is built once: putting a statement together costs more than running it.

_FOUND = (
    select(
        *items.c["id", "lane_id", "line", "path", "size", "change", "content_hash", "content_type", "parameters"],
        *items.c["duration_seconds", "attempts", "cut_offs"],
        lanes.c.conversation_id,
        batches.c.name.label("batch"),
    )
    .join_from(
        lanes,
        items,
        and_(
            items.c.lane_id == lanes.c.id,
            items.c.state == State.PENDING,
            items.c.position == lanes.c.ready_position,
        ),
    )
    .join(loads, loads.c.id == items.c.load_id)
    .join(batches, batches.c.id == loads.c.batch_id)
    .where(
        lanes.c.account_id == bindparam("account_id"),
        lanes.c.ready_position.is_not(None),
        lanes.c.not_before <= bindparam("now"),
    )
    .limit(bindparam("room"))
)

_READY = {
    Order.MANIFEST: _FOUND.order_by(lanes.c.ready_position),
    Order.LONGEST_LANE_FIRST: _FOUND.order_by(lanes.c.work_left.desc(), lanes.c.ready_position),
}

_WAITING = (
    select(lanes.c.id)
    .where(lanes.c.account_id == bindparam("account_id"), lanes.c.ready_position.is_not(None))
    .limit(1)
)

_WAIT_ENDS = select(func.min(lanes.c.not_before)).where(
    lanes.c.account_id == bindparam("account_id"),
    lanes.c.ready_position.is_not(None),
    lanes.c.not_before > bindparam("now"),
)

_BEGIN = (
    update(items)
    .where(items.c.id == bindparam("item"))
    .values(state=State.SENDING, attempts=items.c.attempts + 1, slot_until=None, finished_at=None)
)

_TAKE_LANE = (
    update(lanes)
    .where(lanes.c.id == bindparam("lane"))
    .values(ready_position=None, audio_left=lanes.c.audio_left - bindparam("work"), items_left=lanes.c.items_left - 1)
)

_BEGIN_ATTEMPTS = insert(attempts).returning(attempts.c.id, sort_by_parameter_order=True)

_EARLIER = attempts.alias("earlier")

_EARLIER_WAS_HEARD = select(_EARLIER.c.id).where(
    _EARLIER.c.item_id == bindparam("item"), _EARLIER.c.callback_pending, _EARLIER.c.number < bindparam("number")
)
"""Whether a call has told meanwhile that an earlier attempt became a job."""

_MARK = (
    update(items)
    .where(
        items.c.id == bindparam("item"),
        items.c.state == State.SENDING,
        items.c.attempts == bindparam("number"),
        ~_EARLIER_WAS_HEARD.exists(),
    )
    .values(state=State.SENT, content_hash=bindparam("hash"))
)

_MARK_ATTEMPT = update(attempts).where(attempts.c.id == bindparam("attempt")).values(marked_at=bindparam("now"))


class RetryStoppedError(Exception):
    """A mark is refused because an earlier attempt turned out to have been appended: the last chunk must not leave."""


@dataclass(frozen=True, slots=True)
class Claimed:
    """The answer to a claim.

    ``waiting`` says that some lane has an item that may go, now or later, for want of time or a slot; where all hands
    got something to do, nobody looks whether there is more. ``wake_at`` is when that may be, in seconds since the
    epoch (None: not before something else happens).
    """

    claims: Sequence[Claim]
    limit: LimitFacts
    waiting: bool
    wake_at: float | None = None


def claim(
    connection: Connection,
    account_id: int,
    wanted: int,
    configured_limit: int,
    now: float,
    order: Order = Order.MANIFEST,
    new_token: Callable[[], str] | None = None,
) -> Claimed:
    """Decide who is next, and commit the intent: slot free, lane order, item, attempt, in one transaction.

    Its cost depends on the limit and on ``wanted``, never on how many items the ledger holds.

    Args:
        connection: A connection in a transaction.
        account_id: The account whose slots are taken.
        wanted: The most attempts to begin; 0 only looks.
        configured_limit: The limit of the settings.
        now: The time, in seconds since the epoch.
        order: Which of the lanes that may go goes first.
        new_token: Draws the secret for the webhookUrl of an attempt whose row has none; None: there is no listener.
    """
    limit = limit_facts(connection, account_id, configured_limit, now)
    room = min(wanted, limit.in_force - limit.live)
    ready = _ready(connection, account_id, room, now, order) if room > 0 else []
    claims = _begin(connection, ready, [_token(item, new_token) for item in ready], now)
    if len(claims) == wanted > 0:
        return Claimed(claims, limit, waiting=True)
    waiting = _is_waiting(connection, account_id)
    wake_at = None
    if waiting and wanted > 0:
        full = limit.live + len(claims) >= limit.in_force
        wake_at = limit.room_at if full else _wait_ends(connection, account_id, now)
    return Claimed(claims, limit, waiting, wake_at)


@dataclass(frozen=True, slots=True)
class Mark:
    """The mark of one attempt.

    ``content_hash``: that of the whole content, in hexadecimal. ``now``: seconds since the epoch.
    """

    one: Claim
    content_hash: str
    now: float


def mark(connection: Connection, of: Mark) -> None:
    """Commit that the last chunk is about to leave: from now on a crash means doubt.

    Raises:
        RetryStoppedError: An earlier attempt turned out to have been appended.
    """
    try:
        mark_all(connection, [of])
    except RuntimeError:
        which = {"item": of.one.item_id, "number": of.one.number}
        if connection.execute(_EARLIER_WAS_HEARD, which).first() is not None:
            raise RetryStoppedError from None
        raise


def mark_all(connection: Connection, marks: Sequence[Mark]) -> None:
    """Commit several marks; where one of them is refused, the transaction is to be rolled back."""
    changed = connection.execute(
        _MARK, [{"item": of.one.item_id, "number": of.one.number, "hash": of.content_hash} for of in marks]
    )
    if changed.rowcount != len(marks):
        which = " or ".join(f"item {of.one.item_id} is not being sent by attempt {of.one.number}" for of in marks)
        raise RuntimeError(f"{which}: its mark is refused")
    connection.execute(_MARK_ATTEMPT, [{"attempt": of.one.attempt_id, "now": of.now} for of in marks])


def _ready(connection: Connection, account_id: int, room: int, now: float, order: Order) -> Sequence[RowMapping]:
    found = connection.execute(_READY[order], {"account_id": account_id, "room": room, "now": now})
    return found.mappings().all()


def _token(item: RowMapping, new_token: Callable[[], str] | None) -> str | None:
    """A row with a webhookUrl of its own keeps it."""
    return new_token() if new_token is not None and "webhookUrl" not in item["parameters"] else None


def _begin(
    connection: Connection, ready: Sequence[RowMapping], tokens: Sequence[str | None], now: float
) -> list[Claim]:
    if not ready:
        return []
    connection.execute(_BEGIN, [{"item": item["id"]} for item in ready])
    connection.execute(_TAKE_LANE, [{"lane": item["lane_id"], "work": _work_of(item)} for item in ready])
    begun = connection.execute(
        _BEGIN_ATTEMPTS, [_intent(item, token, now) for item, token in zip(ready, tokens, strict=True)]
    )
    return [_claim(item, attempt.id, token) for item, attempt, token in zip(ready, begun.all(), tokens, strict=True)]


def _intent(item: RowMapping, token: str | None, now: float) -> dict[str, Any]:
    return {
        "item_id": item["id"],
        "number": item["attempts"] + 1,
        "started_at": now,
        "token_hash": token_hash(token) if token is not None else None,
    }


def _claim(item: RowMapping, attempt_id: int, token: str | None) -> Claim:
    return Claim(
        attempt_id=attempt_id,
        token=token,
        item_id=item["id"],
        lane_id=item["lane_id"],
        number=item["attempts"] + 1,
        batch=item["batch"],
        line=item["line"],
        conversation_id=item["conversation_id"],
        path=Path(item["path"]),
        size=item["size"],
        change=item["change"],
        cut_offs=item["cut_offs"],
        work=_work_of(item),
        content_hash=item["content_hash"],
        content_type=item["content_type"],
        parameters=item["parameters"],
    )


def _work_of(item: RowMapping) -> float:
    return audio_seconds(item["size"], item["duration_seconds"])


def _is_waiting(connection: Connection, account_id: int) -> bool:
    return connection.execute(_WAITING, {"account_id": account_id}).first() is not None


def _wait_ends(connection: Connection, account_id: int, now: float) -> float | None:
    earliest: float | None = connection.execute(_WAIT_ENDS, {"account_id": account_id, "now": now}).scalar_one()
    return earliest
