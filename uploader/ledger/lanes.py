"""Keeps of each lane the item that may go next, how far it is active, and its backlog."""

from collections.abc import Collection, Sequence
from functools import cache
from typing import Any

from sqlalchemy import Connection, ScalarSelect, Select, Update, and_, bindparam, case, func, or_, select, update
from sqlalchemy.sql.elements import ColumnElement

from uploader.ledger.schema import IS_ACTIVE, account_holds, is_in_state, is_unfinished, items, lanes, rows
from uploader.model import LIVE, OVER, TROUBLED, State
from uploader.policy.forecast import BYTES_PER_AUDIO_SECOND

# of an item joined to its lane: it is pending, and a run is to send it
IS_IN_BACKLOG = and_(items.c.state == State.PENDING, items.c.position <= lanes.c.active_until)

# of a lane: it is active, and of the account bound as ``account``
# the sum keeps SQLite on the index of active lanes: by account it would read all lanes that there ever were
IS_ACTIVE_OF_ACCOUNT = and_(IS_ACTIVE, lanes.c.account_id.op("+")(0) == bindparam("account"))

# another item of the lane; each alias of a wide table costs a start most of a millisecond
_other = items.alias("other")

# make the lanes of an account inactive
_DEACTIVATE = (
    update(lanes)
    .where(IS_ACTIVE_OF_ACCOUNT)
    .values(active_until=0, ready_position=None, audio_left=0.0, items_left=0, item_seconds=0.0)
)

# the position of the last unfinished item that a batch names, by lane
_last = (
    select(items.c.lane_id, func.max(items.c.position).label("position"))
    .join(rows, rows.c.item_id == items.c.id)
    .where(rows.c.batch_id == bindparam("batch"), items.c.state.not_in(OVER))
    .group_by(items.c.lane_id)
    .subquery()
)

# make the lanes of a batch, as far as they are of the account, active up to its last unfinished item in each
_ACTIVATE = (
    update(lanes)
    .where(lanes.c.id == _last.c.lane_id, lanes.c.account_id == bindparam("account"))
    .values(active_until=_last.c.position, not_before=0.0)
)

_seconds = func.coalesce(items.c.duration_seconds, func.coalesce(items.c.size, 0) / BYTES_PER_AUDIO_SECOND)


def _of_lane(figure: ColumnElement[Any]) -> ScalarSelect[Any]:
    """Build the subquery of a figure over the backlog of a lane."""
    return select(figure).where(items.c.lane_id == lanes.c.id, IS_IN_BACKLOG).correlate(lanes).scalar_subquery()


# add an item's audio, and one item, to the backlog of its lane
_ADD_TO_BACKLOG = (
    update(lanes)
    .where(items.c.id == bindparam("item"), lanes.c.id == items.c.lane_id, IS_IN_BACKLOG)
    .values(audio_left=lanes.c.audio_left + _seconds, items_left=lanes.c.items_left + 1)
)

# take an item's audio, and one item, from the backlog of its lane
_REMOVE_FROM_BACKLOG = (
    update(lanes)
    .where(items.c.id == bindparam("item"), lanes.c.id == items.c.lane_id, IS_IN_BACKLOG)
    .values(audio_left=lanes.c.audio_left - _seconds, items_left=lanes.c.items_left - 1)
)

# set the weight of an item in all active lanes
_REWEIGH = update(lanes).where(IS_ACTIVE_OF_ACCOUNT).values(item_seconds=bindparam("seconds"))

_waiting = items.alias("waiting_first")

# the position of the last active item before the first pending one of a lane
_begun = (
    select(func.max(items.c.position))
    .where(
        items.c.lane_id == lanes.c.id,
        items.c.state != State.PENDING,
        items.c.position <= lanes.c.active_until,
        ~select(_waiting.c.id)
        .where(
            _waiting.c.lane_id == items.c.lane_id,
            _waiting.c.state == State.PENDING,
            _waiting.c.position < items.c.position,
        )
        .exists(),
    )
    .correlate(lanes)
    .scalar_subquery()
)

# keep the lanes of an account active only as far as their items were begun: no pending item is sent
_ACTIVATE_BEGUN = update(lanes).where(IS_ACTIVE_OF_ACCOUNT).values(active_until=func.coalesce(_begun, 0))

# make the lanes active that ``_choose`` has marked
_ACTIVATE_CHOSEN = update(lanes).where(lanes.c.active_until < 0).values(active_until=-lanes.c.active_until)


def _activate_first(connection: Connection, batch_id: int, account_id: int, first: int) -> None:
    """Narrow what is active to a batch's first pending items and those before them; begun items stay active."""
    connection.execute(_choose(), {"account": account_id, "batch": batch_id, "first": first})
    connection.execute(_ACTIVATE_BEGUN, {"account": account_id})
    connection.execute(_ACTIVATE_CHOSEN)


@cache
def _choose() -> Update:
    """Build the statement that marks the lanes of a batch's first items by a negative position."""
    # one statement finds the first items of all lanes: a subquery would find them once for each lane
    first = (
        select(items.c.lane_id, items.c.position)
        .join(lanes, lanes.c.id == items.c.lane_id)
        .join(rows, and_(rows.c.item_id == items.c.id, rows.c.batch_id == bindparam("batch")))
        .where(IS_ACTIVE_OF_ACCOUNT, IS_IN_BACKLOG, ~is_held_of_many())
        .order_by(items.c.position)
        .limit(bindparam("first"))
        .subquery()
    )
    last = select(first.c.lane_id, func.max(first.c.position).label("position")).group_by(first.c.lane_id).subquery()
    return update(lanes).where(lanes.c.id == last.c.lane_id).values(active_until=-last.c.position)


def recompute_ready(connection: Connection, lane_ids: Sequence[int]) -> None:
    """Recompute the item of these lanes that may begin, after one of their items has changed.

    Args:
        connection: A connection in a transaction.
        lane_ids: The lanes.
    """
    if lane_ids:
        connection.execute(_recompute_ready(), [{"lane": lane_id} for lane_id in lane_ids])


def activate_batch(connection: Connection, account_id: int, batch_id: int, *, first: int | None = None) -> None:
    """Make the lanes of a batch, up to its last item in each, the only active ones of its account.

    Items before the batch's own in these lanes, leftovers of earlier batches, are active with them.

    Args:
        connection: A connection in a transaction.
        account_id: Its account.
        batch_id: The batch.
        first: Activate only so many of the batch's first pending items, and the leftovers before them; None: all.
    """
    of_account = {"account": account_id}
    connection.execute(_DEACTIVATE, of_account)
    connection.execute(_ACTIVATE, {**of_account, "batch": batch_id})
    if first is not None:
        _activate_first(connection, batch_id, account_id, first)
    connection.execute(_make_ready(), of_account)


def reweigh_lanes(connection: Connection, account_id: int, item_seconds: float) -> None:
    """Order the account's active lanes by new weights; the cost grows with their number, not with their items.

    Args:
        connection: A connection in a transaction.
        account_id: The account.
        item_seconds: The weight of an item beside its audio, in seconds of audio; 0 after ``activate_batch``.
    """
    connection.execute(_REWEIGH, {"account": account_id, "seconds": item_seconds})


def add_to_backlog(connection: Connection, item_id: int) -> None:
    """Add an item that has become pending to the backlog of its lane, where the item is active."""
    connection.execute(_ADD_TO_BACKLOG, {"item": item_id})


def remove_from_backlog(connection: Connection, item_id: int) -> None:
    """Remove an item, still pending, from the backlog of its lane."""
    connection.execute(_REMOVE_FROM_BACKLOG, {"item": item_id})


@cache
def _make_ready() -> Update:
    """Build the statement that sets the item that may go, and the backlog, of each active lane."""
    # lane by lane: grouped, SQLite would read the items of all lanes that there ever were; and all at once, as each
    # update of a lane changes its entries in several indexes
    # most lanes have nothing but pending items, and need no look for others
    begun = [state for state in State if state not in (*OVER, State.PENDING, State.HELD)]
    ready = case(
        (lanes.c.id.in_(_lanes_with(begun)), _ready_position()),
        else_=_of_lane(func.min(items.c.position)),
    )
    return (
        update(lanes)
        .where(IS_ACTIVE_OF_ACCOUNT)
        .values(
            ready_position=ready,
            is_busy=lanes.c.id.in_(_lanes_with(LIVE)),
            audio_left=_of_lane(func.coalesce(func.sum(_seconds), 0.0)),
            items_left=_of_lane(func.count()),
        )
    )


@cache
def is_held() -> ColumnElement[bool]:
    """Build the condition that an item is pending behind one of its lane that a person must resolve first."""
    before = items.alias("before")
    earlier = and_(before.c.lane_id == items.c.lane_id, before.c.position < items.c.position)
    # two look-ups, each by the index of lane and state
    troubled = select(before.c.id).where(earlier, is_in_state(before.c.state, TROUBLED)).correlate(items).exists()
    overdue = (
        select(before.c.id).where(earlier, before.c.state == State.ACCEPTED, before.c.overdue).correlate(items).exists()
    )
    return and_(items.c.state == State.PENDING, or_(troubled, overdue), account_holds(items))


@cache
def is_held_of_many() -> ColumnElement[bool]:
    """Build the condition of ``is_held`` for statements that go through many items of the account ``account``."""
    # most items need no look into their lane
    return and_(items.c.lane_id.in_(lanes_in_trouble()), is_held())


def lanes_in_trouble() -> Select[tuple[int]]:
    """Select the lanes of the account ``account`` with an item that may hold others, and some without."""
    return _lanes_with([*TROUBLED, State.ACCEPTED])


def _lanes_with(states: Collection[State]) -> Select[tuple[int]]:
    """Select the lanes of the account ``account`` with items in some of the states that are not over."""
    # it depends on nothing of the statement around it, which reads it once, by the partial index of unfinished items
    other = items.alias()
    return select(other.c.lane_id).where(
        is_unfinished(other.c.state), other.c.account_id == bindparam("account"), is_in_state(other.c.state, states)
    )


def waiting_lanes(batch_id: int) -> Select[tuple[int]]:
    """Select the lanes with pending items of a batch."""
    waiting, named = items.alias("waiting"), rows.alias("named")
    return (
        select(waiting.c.lane_id)
        .join(named, named.c.item_id == waiting.c.id)
        .where(named.c.batch_id == batch_id, waiting.c.state == State.PENDING)
    )


def _first_pending() -> ScalarSelect[int]:
    pending = items.alias("pending")
    return (
        select(func.min(pending.c.position))
        .where(pending.c.lane_id == lanes.c.id, pending.c.state == State.PENDING)
        .correlate(lanes)  # SQLAlchemy does not correlate two levels down by itself
        .scalar_subquery()
    )


def _exists(*conditions: ColumnElement[bool]) -> ColumnElement[bool]:
    """Build the condition that some item of the lane meets all of these."""
    return select(_other.c.id).where(_other.c.lane_id == lanes.c.id, *conditions).correlate(lanes).exists()


@cache
def _recompute_ready() -> Update:
    # cached: compiling the statement costs more than running it
    # lane by lane: an IN would be compiled anew for every number of lanes
    return (
        update(lanes)
        .where(lanes.c.id == bindparam("lane"))
        .values(ready_position=_ready_position(), is_busy=_is_busy())
    )


@cache
def _ready_position() -> ColumnElement[int | None]:
    first = _first_pending()
    # one attempt of a lane at most waits for its admission, and a job that does not end lets nothing follow it
    is_overdue = _exists(_other.c.state == State.ACCEPTED, _other.c.overdue)
    blocked = or_(_exists(is_in_state(_other.c.state, [State.SENDING])), is_overdue)
    is_troubled = _exists(is_in_state(_other.c.state, TROUBLED), _other.c.position < first)
    blocked = or_(blocked, and_(is_troubled, account_holds(lanes)))
    return case((blocked, None), (first > lanes.c.active_until, None), else_=first)


def _is_busy() -> ColumnElement[bool]:
    """Build the condition that an item of the lane is admitted or its job lives."""
    return _exists(is_in_state(_other.c.state, LIVE))
