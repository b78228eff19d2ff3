"""Keeps of each lane the item that may go next, how far it is active, and its backlog."""

from collections.abc import Collection, Mapping, Sequence
from functools import cache
from typing import Any

from sqlalchemy import (
    CTE,
    BigInteger,
    Connection,
    ScalarSelect,
    Select,
    Subquery,
    Update,
    and_,
    bindparam,
    case,
    func,
    literal_column,
    or_,
    select,
    update,
)
from sqlalchemy.sql.elements import ColumnElement

from uploader.ledger.dialects import insert_or_ignore, unindexed
from uploader.ledger.held import is_held_of_many, lanes_with
from uploader.ledger.schema import (
    IS_ACTIVE_OF_ACCOUNT,
    IS_IN_BACKLOG,
    account_holds,
    is_in_state,
    is_unfinished,
    items,
    lanes,
    rows,
    workers,
)
from uploader.ledger.staging import IN_LANES, LANES_OF_STEP, touched
from uploader.model import LIVE, OVER, TROUBLED, State
from uploader.policy.forecast import BYTES_PER_AUDIO_SECOND

# the same of one of a range of lanes; an expression, as PostgreSQL, which last counted active lanes when there were
# none, would else read all active ones in each step
_IS_ACTIVE_IN_RANGE = and_(
    lanes.c.id.in_(LANES_OF_STEP),
    lanes.c.active_until + literal_column("0") > 0,
    unindexed(lanes.c.account_id) == bindparam("account"),
)

# the states of items that are not over
UNFINISHED = [state for state in State if state not in (*OVER, State.HELD)]
_BEGUN = [state for state in UNFINISHED if state is not State.PENDING]

# behind all positions
BEYOND = 2**62

# another item of the lane; each alias of a wide table costs a start most of a millisecond
_other = items.alias("other")

# the columns of a lane that is inactive
INACTIVE: dict[str, float | None] = {
    "active_until": 0,
    "ready_position": None,
    "audio_left": 0.0,
    "items_left": 0,
    "item_seconds": 0.0,
}

# make the lanes of an account inactive
_DEACTIVATE = update(lanes).where(IS_ACTIVE_OF_ACCOUNT).values(INACTIVE)


def last_of(
    *conditions: ColumnElement[bool], in_lanes: bool = False, states: Collection[State] = UNFINISHED
) -> Subquery:
    """Build the subquery of the last position, by lane, among unfinished items that rows name.

    Args:
        *conditions: What holds of the items and their rows besides.
        in_lanes: Only of the lanes of a range of those that a load concerns, lane by lane.
        states: There, only of these states.
    """
    if in_lanes:
        # by states, or the items that are over of many nights would be read
        conditions = (IN_LANES, is_in_state(items.c.state, states), *conditions)
    return (
        select(items.c.lane_id, func.max(items.c.position).label("position"))
        .join(rows, rows.c.item_id == items.c.id)
        .where(items.c.state.not_in(OVER), *conditions)
        .group_by(items.c.lane_id)
        .subquery()
    )


def _raise_to(last: Subquery, position: ColumnElement[int]) -> Update:
    """Build the statement that makes lanes active up to a position, and none less far than it is."""
    further = case((lanes.c.active_until < position, position), else_=lanes.c.active_until)
    # a lane that stays as it is is not written, with its entries in several indexes
    changes = or_(lanes.c.active_until < position, lanes.c.not_before != literal_column("0"))
    return update(lanes).where(lanes.c.id == last.c.lane_id, changes).values(active_until=further, not_before=0.0)


# of a row and its item: it is one of the batch, and of the account
IS_OF_BATCH = and_(rows.c.batch_id == bindparam("batch"), items.c.account_id == bindparam("account"))

# the same where the items are looked up first, and not all rows of the batch
_IS_OF_BATCH_TOO = and_(unindexed(rows.c.batch_id) == bindparam("batch"), items.c.account_id == bindparam("account"))


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


def _begun_until(position: ColumnElement[int]) -> ColumnElement[int]:
    """Build the subquery of the position of the last item, up to this one, before the first pending one of a lane."""
    is_behind_pending = (
        select(_waiting.c.id)
        .where(
            _waiting.c.lane_id == items.c.lane_id,
            _waiting.c.state == State.PENDING,
            _waiting.c.position < items.c.position,
        )
        .exists()
    )
    last = (
        select(func.max(items.c.position))
        .where(
            items.c.lane_id == lanes.c.id,
            items.c.state != State.PENDING,
            items.c.position <= position,
            ~is_behind_pending,
        )
        .correlate(lanes, position.table)
        .scalar_subquery()
    )
    return func.coalesce(last, 0)


def _is_active(*, in_lanes: bool) -> ColumnElement[bool]:
    """Build the condition that a lane is active and of the account, and one of a range."""
    return _IS_ACTIVE_IN_RANGE if in_lanes else IS_ACTIVE_OF_ACCOUNT


def _is_of_batch(*, in_lanes: bool) -> ColumnElement[bool]:
    """Build the condition that a row is one of the batch, and its item of the account."""
    return _IS_OF_BATCH_TOO if in_lanes else IS_OF_BATCH


@cache
def _activate(*, in_lanes: bool = False) -> Update:
    """Build the statement that makes the lanes of a batch active up to its last unfinished item in each."""
    last = last_of(_is_of_batch(in_lanes=in_lanes), in_lanes=in_lanes)
    return _raise_to(last, last.c.position)


@cache
def _activate_pending() -> Update:
    """Build the statement that makes a range of lanes active up to the batch's last pending item in each."""
    last = last_of(_IS_OF_BATCH_TOO, in_lanes=True, states=[State.PENDING])
    return _raise_to(last, last.c.position)


@cache
def _activate_account(*, in_lanes: bool = False) -> Update:
    """Build the statement that makes the lanes of all batches of an account active."""
    last = last_of(items.c.account_id == bindparam("account"), in_lanes=in_lanes)
    return _raise_to(last, last.c.position)


@cache
def _activate_begun(*, in_lanes: bool = False) -> Update:
    """Build the statement that makes the lanes of a batch active as far as their items were begun."""
    last = last_of(_is_of_batch(in_lanes=in_lanes), in_lanes=in_lanes)
    return _raise_to(last, _begun_until(last.c.position))


# of an item: it is among those of a batch that --first chooses
_IS_CHOOSABLE = and_(items.c.account_id == bindparam("account"), items.c.state == State.PENDING)


@cache
def _choose() -> Select[Any]:
    """Build the statement of the position of a batch's n-th pending item that is not held."""
    return (
        select(items.c.position)
        .join(rows, and_(rows.c.item_id == items.c.id, IS_OF_BATCH))
        .where(_IS_CHOOSABLE, ~is_held_of_many())
        .order_by(items.c.position)
        .limit(1)
        .offset(bindparam("skipped"))
    )


@cache
def _activate_chosen(*, in_lanes: bool = False) -> Update:
    """Build the statement that makes lanes active up to the batch's last chosen item in each."""
    last = last_of(
        _is_of_batch(in_lanes=in_lanes),
        _IS_CHOOSABLE,
        items.c.position <= bindparam("until", type_=BigInteger),
        ~is_held_of_many(),
        in_lanes=in_lanes,
    )
    return _raise_to(last, last.c.position)


# the end of a worker's part that wants nothing any more: it is about to end
WANTS_NOTHING = -1
# of a worker: it has not ended, and wants what its batch has
_WANTS_ANYTHING = and_(
    workers.c.ended_at.is_(None), func.coalesce(workers.c.until_position, 0) != literal_column(str(WANTS_NOTHING))
)


@cache
def _wanted(*, in_lanes: bool = False) -> CTE:
    """Build the last position of each lane that a worker of the account wants which has not ended."""
    is_wanted = or_(
        workers.c.until_position.is_(None),
        items.c.position <= workers.c.until_position,
        items.c.state != State.PENDING,
    )
    # in a range, the items are looked up by their lanes, and the rows by their items
    of_batch = unindexed(rows.c.batch_id) if in_lanes else rows.c.batch_id
    of_account = unindexed(items.c.account_id) if in_lanes else items.c.account_id
    in_range = [IN_LANES, is_in_state(items.c.state, UNFINISHED), workers.c.id != bindparam("own")]
    return (
        select(items.c.lane_id, func.max(items.c.position).label("position"))
        .join(rows, rows.c.item_id == items.c.id)
        .join(workers, workers.c.batch_id == of_batch)
        .where(workers.c.account_id == bindparam("account"), of_account == bindparam("account"))
        .where(_WANTS_ANYTHING, is_wanted)
        .where(*(in_range if in_lanes else [is_unfinished(items.c.state)]))
        .group_by(items.c.lane_id)
        .cte("wanted")
    )


@cache
def _activate_wanted(*, in_lanes: bool = False) -> Update:
    """Build the statement that makes lanes active as far as a worker of the account wants which has not ended."""
    wanted = select(_wanted(in_lanes=in_lanes)).subquery()
    return _raise_to(wanted, wanted.c.position)


# the batches that workers of the account want which have not ended, None for every batch
_WANTS = select(*workers.c["batch_id", "id"]).where(workers.c.account_id == bindparam("account"), _WANTS_ANYTHING)

# the same of those workers that want all of it
_WANTS_WHOLE = select(workers.c.batch_id).where(
    workers.c.account_id == bindparam("account"), _WANTS_ANYTHING, workers.c.until_position.is_(None)
)

# make a range of the active lanes inactive
_DEACTIVATE_LANES = update(lanes).where(_IS_ACTIVE_IN_RANGE).values(INACTIVE)

# the active lanes of an account
_TOUCH_ACTIVE = insert_or_ignore(touched).from_select(["lane_id"], select(lanes.c.id).where(IS_ACTIVE_OF_ACCOUNT))

# the active ones among the lanes in which a batch has items
_TOUCH_ACTIVE_OF_BATCH = insert_or_ignore(touched).from_select(
    ["lane_id"],
    select(items.c.lane_id)
    .join(rows, rows.c.item_id == items.c.id)
    .join(lanes, lanes.c.id == items.c.lane_id)
    .where(rows.c.batch_id == bindparam("batch"), lanes.c.active_until > 0, items.c.account_id == bindparam("account")),
)


@cache
def _deactivate_unwanted(*, in_lanes: bool = False) -> Update:
    """Build the statement that makes the lanes inactive in which no worker wants anything."""
    is_wanted = lanes.c.id.in_(select(_wanted(in_lanes=in_lanes).c.lane_id))
    return update(lanes).where(_is_active(in_lanes=in_lanes), ~is_wanted).values(INACTIVE)


@cache
def _lower(*, in_lanes: bool = False) -> Update:
    """Build the statement that makes lanes active no further than some worker wants."""
    wanted = _wanted(in_lanes=in_lanes)
    return (
        update(lanes)
        .where(_is_active(in_lanes=in_lanes), lanes.c.id == wanted.c.lane_id, lanes.c.active_until > wanted.c.position)
        .values(active_until=wanted.c.position)
    )


def recompute_ready(connection: Connection, lane_ids: Sequence[int]) -> None:
    """Recompute the item of these lanes that may begin, after one of their items has changed."""
    if lane_ids:
        connection.execute(_recompute_ready(), [{"lane": lane_id} for lane_id in lane_ids])


def activate_batch(connection: Connection, account_id: int, batch_id: int, *, first: int | None = None) -> int | None:
    """Make the lanes of a batch active up to its last item in each; what else is active stays so.

    Items before the batch's own in these lanes, leftovers of earlier batches, are active with them. It is active as
    long as a worker wants it that has not ended (``deactivate_unwanted``).

    Args:
        first: Activate only so many of the batch's first pending items, and the leftovers before them; None: all.

    Returns:
        The position of the last of these, for the worker that wants them; None for all.
    """
    which = {"account": account_id, "batch": batch_id}
    until = None if first is None else choose(connection, account_id, batch_id, first)
    if first is None:
        connection.execute(_activate(), which)
    else:
        last = BEYOND if until is None else until
        connection.execute(_activate_begun(), which)
        connection.execute(_activate_chosen(), {**which, "until": last})
        # a load may have moved items of the batch behind the part that is active, where others want more than it
        _activate_what_others_want(connection, {"account": account_id})
    connection.execute(_make_ready(), {"account": account_id})
    return until


def choose(connection: Connection, account_id: int, batch_id: int, first: int) -> int | None:
    """Return the position of the last of a batch's first pending items that are not held; None for all of them.

    Args:
        first: The number of items.
    """
    if first == 0:
        return 0
    which = {"account": account_id, "batch": batch_id, "skipped": first - 1}
    found: int | None = connection.execute(_choose(), which).scalar()
    return found


def activate_lanes(connection: Connection, account_id: int, batch_id: int, lanes_of_step: Mapping[str, int]) -> None:
    """Make a range of the lanes that a load concerns active up to the batch's last item in each.

    Args:
        connection: The stage's connection, in a transaction.
        account_id: The account; lanes of others stay as they are.
        lanes_of_step: The range, as ``Steps.over_lanes`` gives it.
    """
    which = {"account": account_id, "batch": batch_id, **lanes_of_step}
    connection.execute(_activate_pending(), which)
    # most lanes have nothing but pending items
    if connection.execute(_ANY_BEGUN, which).first() is not None:
        connection.execute(_activate(in_lanes=True), which)
    connection.execute(_make_ready(in_lanes=True), which)


def activate_chosen_lanes(
    connection: Connection,
    account_id: int,
    batch_id: int,
    lanes_of_step: Mapping[str, int],
    *,
    worker_id: int,
    until: int | None,
) -> None:
    """Make a range of lanes active up to the batch's last chosen item in each; see ``activate_lanes``.

    Args:
        connection: The stage's connection, in a transaction.
        lanes_of_step: The range.
        worker_id: The worker that wants the chosen items.
        until: As ``choose`` returned it.
    """
    which = {"account": account_id, "batch": batch_id, **lanes_of_step}
    connection.execute(_activate_begun(in_lanes=True), which)
    connection.execute(_activate_chosen(in_lanes=True), {**which, "until": BEYOND if until is None else until})
    _activate_what_others_want(connection, {**which, "own": worker_id}, in_lanes=True)
    connection.execute(_make_ready(in_lanes=True), which)


def activate_parts(connection: Connection, account_id: int, lanes_of_step: Mapping[str, int]) -> None:
    """Make a range of lanes active as far as the workers of an account want, after the ends of parts have moved."""
    which = {"account": account_id, "own": 0, **lanes_of_step}
    _activate_what_others_want(connection, which, in_lanes=True)
    connection.execute(_make_ready(in_lanes=True), which)


def refresh_lanes(connection: Connection, account_id: int, lanes_of_step: Mapping[str, int]) -> None:
    """Recompute what may begin, and the backlog, of the active ones among a range of lanes."""
    connection.execute(_make_ready(in_lanes=True), {"account": account_id, **lanes_of_step})


def _activate_what_others_want(connection: Connection, which: Mapping[str, int], *, in_lanes: bool = False) -> None:
    """Make active what the workers of an account want that have not ended."""
    wants = [row.batch_id for row in connection.execute(_WANTS, which) if row.id != which.get("own")]
    if None in wants:
        connection.execute(_activate_account(in_lanes=in_lanes), which)
    elif wants:
        connection.execute(_activate_wanted(in_lanes=in_lanes), which)


def activate_account(connection: Connection, account_id: int) -> None:
    """Make the lanes of every batch of an account active."""
    connection.execute(_activate_account(), {"account": account_id})
    connection.execute(_make_ready(), {"account": account_id})


def are_wanted_as_whole(connection: Connection, account_id: int, batch_ids: Collection[int | None]) -> bool:
    """Return True where workers that have not ended want all of some batches of an account."""
    whole = set(connection.execute(_WANTS_WHOLE, {"account": account_id}).scalars())
    return None in whole or whole.issuperset(batch_ids)


def touch_active_lanes(connection: Connection, account_id: int, batch_id: int | None) -> None:
    """Find the active lanes that a worker which is about to end may have wanted.

    Args:
        connection: As ``Ledger.staging`` gave it, in a transaction; ``make_touched`` has made its table.
        batch_id: The worker's batch, None for every batch.
    """
    which = {"account": account_id}
    wants = connection.execute(_WANTS, which).first()
    if batch_id is None or wants is None:
        connection.execute(_TOUCH_ACTIVE, which)
    else:
        connection.execute(_TOUCH_ACTIVE_OF_BATCH, {**which, "batch": batch_id})


def deactivate_unwanted_lanes(connection: Connection, account_id: int, lanes_of_step: Mapping[str, int]) -> None:
    """Make inactive what no worker of the account wants of a range of lanes; see ``deactivate_unwanted``."""
    which = {"account": account_id, "own": 0, **lanes_of_step}
    wants = connection.execute(_WANTS, which).scalars().all()
    if not wants:
        connection.execute(_DEACTIVATE_LANES, which)
    elif None not in wants:
        connection.execute(_deactivate_unwanted(in_lanes=True), which)
        connection.execute(_lower(in_lanes=True), which)
        connection.execute(_make_ready(in_lanes=True), which)


def deactivate_unwanted(connection: Connection, account_id: int, *, is_released: bool = False) -> None:
    """Make inactive what no worker of the account wants any more, after one of them has ended.

    Args:
        is_released: ``deactivate_unwanted_lanes`` has seen to all that others do not want.
    """
    of_account = {"account": account_id}
    wants = connection.execute(_WANTS, of_account).scalars().all()
    if not wants:
        connection.execute(_DEACTIVATE, of_account)
    elif None not in wants and not is_released:
        connection.execute(_deactivate_unwanted(), of_account)
        connection.execute(_lower(), of_account)
        connection.execute(_make_ready(), of_account)


def reweigh_lanes(connection: Connection, account_id: int, item_seconds: float) -> None:
    """Order the account's active lanes by new weights; the cost grows with their number, not with their items.

    Args:
        item_seconds: The weight of an item beside its audio, in seconds of audio; 0 in a lane that was inactive.
    """
    connection.execute(_REWEIGH, {"account": account_id, "seconds": item_seconds})


def add_to_backlog(connection: Connection, item_id: int) -> None:
    """Add an item that has become pending to the backlog of its lane, where the item is active."""
    connection.execute(_ADD_TO_BACKLOG, {"item": item_id})


def remove_from_backlog(connection: Connection, item_id: int) -> None:
    """Remove an item, still pending, from the backlog of its lane."""
    connection.execute(_REMOVE_FROM_BACKLOG, {"item": item_id})


@cache
def _make_ready(*, in_lanes: bool = False) -> Update:
    """Build the statement that sets the item that may go, and the backlog, of each active lane, or of a range."""
    # lane by lane: grouped, SQLite would read the items of all lanes that there ever were; and all at once, as each
    # update of a lane changes its entries in several indexes
    # most lanes have nothing but pending items, and need no look for others
    ready = case(
        (lanes.c.id.in_(lanes_with(_BEGUN)), _ready_position()),
        else_=_of_lane(func.min(items.c.position)),
    )
    return (
        update(lanes)
        .where(_is_active(in_lanes=in_lanes))
        .values(
            ready_position=ready,
            is_busy=lanes.c.id.in_(lanes_with(LIVE)),
            audio_left=_of_lane(func.coalesce(func.sum(_seconds), 0.0)),
            items_left=_of_lane(func.count()),
        )
    )


# a lane of an account with an item that was begun and is not over
_ANY_BEGUN = lanes_with(_BEGUN).limit(1)


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
