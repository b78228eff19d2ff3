"""Sums up what a run of a batch sends, for plan, run, forecast and summary alike."""

from collections import Counter, defaultdict
from collections.abc import Callable, Collection, Mapping, Sequence
from functools import cache
from heapq import nsmallest
from itertools import starmap
from typing import Any

from sqlalchemy import (
    BigInteger,
    Connection,
    Select,
    and_,
    bindparam,
    case,
    cast,
    false,
    func,
    literal_column,
    or_,
    select,
    true,
)
from sqlalchemy.sql.elements import ColumnElement

from uploader.ledger.amounts import Amount, Leftover, ToSend
from uploader.ledger.held import is_held_of_many, lanes_in_trouble
from uploader.ledger.lanes import BEYOND, IS_OF_BATCH, activate_batch, last_of
from uploader.ledger.loading import save_rules
from uploader.ledger.schema import (
    IS_ACTIVE_OF_ACCOUNT,
    IS_IN_BACKLOG,
    IS_UNFINISHED,
    TOTAL_SIZE,
    batches,
    items,
    lanes,
    loads,
    rows,
    workers,
)
from uploader.model import LiveJob, State
from uploader.policy.forecast import Lanes, audio_seconds
from uploader.settings import Settings

# states of an attempt under way, which holds a slot or is about to
ENTERED = (State.SENDING, State.SENT)


def firsts(
    connection: Connection, account_ids: Collection[int], batch_id: int, first: int | None
) -> dict[int, int | None]:
    """Return by account how many of a batch's first pending items, in the manifest's order, are the account's.

    Args:
        account_ids: The accounts of the batch.
        first: How many items of the batch are to be sent; None: all of each account.
    """
    if first is None or len(account_ids) == 1:
        return dict.fromkeys(account_ids, first)
    places = [
        (position, account_id)
        for account_id in account_ids
        for position in connection.execute(
            _first_of_account(), {"account": account_id, "batch": batch_id, "first": first}
        ).scalars()
    ]
    counts = Counter(account_id for _, account_id in nsmallest(first, places))
    return {account_id: counts[account_id] for account_id in account_ids}


def begin_sending(
    connection: Connection,
    batch_id: int,
    own_settings: Mapping[int, Settings],
    first: int | None,
    copy_workers: Callable[[], object] = lambda: None,
) -> dict[int, ToSend]:
    """Make what a run of a batch sends active, and sum it up by account: the one answer of plan, cost check and run.

    Args:
        connection: A connection in a transaction: on the ledger, or on the copies of a dry run.
        own_settings: The settings of the accounts that the batch is sent to, by their ids.
        first: How many of the batch's items are to be sent; None: all.
        copy_workers: Copies the workers of others, once the batch is active in the copies.
    """
    for account_id, own in own_settings.items():
        save_rules(connection, account_id, limit=own.limit, holds=own.lanes.hold)
    ends = {
        account_id: activate_batch(connection, account_id, batch_id, first=count)
        for account_id, count in firsts(connection, own_settings, batch_id, first).items()
    }
    copy_workers()
    return {account_id: to_send(connection, account_id, batch_id, until) for account_id, until in ends.items()}


def to_send(connection: Connection, account_id: int, batch_id: int, until: int | None = None) -> ToSend:
    """Sum up the items that a run sends, after ``activate_batch`` and before its first claim.

    Other batches' items that their own runs, at work now, will send are none of this run's.

    Args:
        connection: A connection in a transaction: on the ledger, or on the copies of a dry run.
        until: As ``activate_batch`` returned it.
    """
    of_batch = {"account": account_id, "batch": batch_id, "until": BEYOND if until is None else until}
    # where no lane is in trouble, as on most nights, nothing is held
    is_any_held = connection.execute(_IN_TROUBLE, of_batch).first() is not None
    pending, held, backlog, *figures = connection.execute(_own(is_any_held=is_any_held), of_batch).one()
    own = Amount(*figures)
    leftovers = defaultdict[str, Amount](Amount)
    # on most nights the lanes have no backlog but the batch's own, and nobody else's items are looked for
    if connection.execute(_BACKLOG, of_batch).scalar_one() > backlog:
        for batch, *others in connection.execute(_leftovers(is_any_held=is_any_held), of_batch):
            leftovers[batch] += Amount(*others)
    return ToSend(own, list(starmap(Leftover, leftovers.items())), held=held, later=pending - held - own.files)


def elsewhere(connection: Connection, account_id: int, batch_id: int) -> list[Leftover]:
    """Sum up the leftovers of other batches that a run of this batch does not send, by batch.

    Args:
        batch_id: The batch that is run.
    """
    # inactive pending items that the batch does not name, by the batch that named them last
    found = connection.execute(
        select(batches.c.name, *_SUMS)
        .select_from(items)
        .join(lanes, lanes.c.id == items.c.lane_id)
        .join(loads, loads.c.id == items.c.load_id)
        .join(batches, batches.c.id == loads.c.batch_id)
        .where(
            IS_UNFINISHED,
            items.c.account_id == account_id,
            items.c.state == State.PENDING,
            items.c.position > lanes.c.active_until,
            ~_is_own(),
        )
        .group_by(batches.c.id, batches.c.name)
        .order_by(batches.c.id),
        {"batch": batch_id},
    )
    return [Leftover(row.name, Amount(*row[1:])) for row in found]


def lanes_to_send(
    connection: Connection, account_id: int, live: Sequence[LiveJob], now: float, *, under_way: bool = True
) -> Lanes:
    """Build the forecast's lanes of the items that a run still sends, behind the account's live jobs.

    Args:
        connection: As for ``to_send``.
        live: The account's live jobs; the batch waits for those in scope.
        under_way: Read attempts under way, too, as during a run.
    """
    found, of_account = Lanes(), {"account": account_id}
    first = connection.execute(_FIRST_LANE, of_account).scalar_one()
    base = min((job.lane_id for job in live), default=first)
    base = min(base, first) if first is not None else base
    for job in live:
        found.begin_with(job.lane_id - base, job.work, max(now - job.accepted_at, 0.0))
        if job.is_active:
            found.wait_for(job.lane_id - base)
    for row in connection.execute(_ENTERED, of_account) if under_way else ():
        found.begin_with(row.lane_id - base, audio_seconds(row.size, row.duration_seconds), 0.0)
        found.wait_for(row.lane_id - base)
    for lane_id, size, duration in connection.execute(_pending(), of_account):
        found.add(lane_id - base, size or 0, duration)
    return found


def _is_of_part(position: ColumnElement[int]) -> ColumnElement[bool]:
    """Build the condition that a position is not behind the part of its batch that the run sends."""
    return position <= bindparam("until", type_=BigInteger)


@cache
def _is_wanted_elsewhere() -> ColumnElement[bool]:
    """Build the condition that the worker of another batch, or of every batch, wants an item."""
    named = rows.alias("named_elsewhere")
    is_named = select(named.c.line).where(named.c.item_id == items.c.id, named.c.batch_id == workers.c.batch_id)
    is_of_its_part = or_(workers.c.until_position.is_(None), items.c.position <= workers.c.until_position)
    return (
        select(workers.c.id)
        .where(
            workers.c.ended_at.is_(None),
            workers.c.account_id == items.c.account_id,
            or_(
                workers.c.batch_id.is_(None),
                and_(
                    workers.c.batch_id != bindparam("batch"),
                    is_of_its_part,
                    is_named.correlate(items, workers).exists(),
                ),
            ),
        )
        .correlate(items)
        .exists()
    )


def _is_own() -> ColumnElement[bool]:
    """Build the condition that the batch's rows name an item."""
    named = rows.alias("named_by_batch")
    return (
        select(named.c.line).where(named.c.item_id == items.c.id, named.c.batch_id == bindparam("batch"))
    ).exists()  # fmt: skip


# in the order of the fields of an amount
_SUMS = (
    func.count(),
    TOTAL_SIZE,
    func.coalesce(func.sum(items.c.duration_seconds), 0.0),
    func.coalesce(func.sum(items.c.billed_seconds), 0.0),
    func.coalesce(func.sum(case((items.c.billed_seconds.is_(None), 1), else_=0)), 0),
)

# the lowest id of an account's active lanes
_FIRST_LANE = select(func.min(lanes.c.id)).where(IS_ACTIVE_OF_ACCOUNT)

# the attempts under way in an account's active lanes
_ENTERED = (
    select(items.c.lane_id, items.c.size, items.c.duration_seconds)
    .join(lanes, lanes.c.id == items.c.lane_id)
    .where(
        IS_UNFINISHED,
        items.c.account_id == bindparam("account"),
        items.c.state.in_([literal_column(repr(state.value)) for state in ENTERED]),
        IS_ACTIVE_OF_ACCOUNT,
    )
)


# a lane of an account whose trouble holds its pending items
_IN_TROUBLE = lanes_in_trouble().limit(1)

# the pending items of an account's active lanes
_BACKLOG = select(func.coalesce(func.sum(lanes.c.items_left), 0)).where(IS_ACTIVE_OF_ACCOUNT)


@cache
def _first_of_account() -> Select[Any]:
    """Build the statement of the positions of a batch's first pending items of an account that are not held."""
    return (
        select(items.c.position)
        .join(rows, rows.c.item_id == items.c.id)
        .where(
            rows.c.batch_id == bindparam("batch"),
            items.c.account_id == bindparam("account"),
            items.c.state == State.PENDING,
            ~is_held_of_many(),
        )
        .order_by(items.c.position)
        .limit(bindparam("first"))
    )


@cache
def _own(*, is_any_held: bool) -> Select[Any]:
    """Build the statement that counts a batch's pending, held and active items, and sums up those to send."""
    own = (
        select(
            *items.c["size", "duration_seconds", "billed_seconds"],
            and_(IS_IN_BACKLOG, _is_of_part(items.c.position)).label("is_active"),
            # as a value and no condition, SQLite would look into the lanes of all items
            case((is_held_of_many() if is_any_held else false(), literal_column("1")), else_=literal_column("0")).label(
                "held"
            ),
        )
        .select_from(rows)
        .join(items, items.c.id == rows.c.item_id)
        .join(lanes, lanes.c.id == items.c.lane_id)
        .where(
            rows.c.batch_id == bindparam("batch"),
            items.c.account_id == bindparam("account"),
            items.c.state == State.PENDING,
        )
        .subquery()
    )
    is_held = own.c.held == literal_column("1")
    is_sent = and_(own.c.is_active, ~is_held)
    is_of_unknown_length = and_(is_sent, own.c.billed_seconds.is_(None))
    figures: tuple[ColumnElement[Any], ...] = (
        func.count(),
        *(func.count(case((condition, 1))) for condition in (is_held, own.c.is_active, is_sent)),
        # PostgreSQL's own sum of 64 bits has more
        func.coalesce(cast(func.sum(case((is_sent, own.c.size))), BigInteger), 0),
        func.coalesce(func.sum(case((is_sent, own.c.duration_seconds))), 0.0),
        func.coalesce(func.sum(case((is_sent, own.c.billed_seconds))), 0.0),
        func.count(case((is_of_unknown_length, 1))),
    )
    return select(*figures)


@cache
def _leftovers(*, is_any_held: bool) -> Select[Any]:
    """Build the statement that sums up the items to send that are not the batch's own, by the batch of their load."""
    # by the load first: the names of its batch need not be looked up for each item
    last = last_of(IS_OF_BATCH, or_(items.c.state != State.PENDING, _is_of_part(items.c.position)))
    sums = (
        select(items.c.load_id, *_SUMS)
        .select_from(items)
        .join(lanes, lanes.c.id == items.c.lane_id)
        # what other workers want behind the batch, or before it, is none of its own
        .join(last, and_(last.c.lane_id == items.c.lane_id, items.c.position <= last.c.position))
        .where(IS_ACTIVE_OF_ACCOUNT, IS_IN_BACKLOG, ~is_held_of_many() if is_any_held else true(), ~_is_own())
        .where(~_is_wanted_elsewhere())
        .group_by(items.c.load_id)
        .subquery()
    )
    load_id, *figures = sums.c
    return (
        select(batches.c.name, *figures)
        .select_from(sums)
        .join(loads, loads.c.id == load_id)
        .join(batches, batches.c.id == loads.c.batch_id)
        .order_by(batches.c.id)
    )


@cache
def _pending() -> Select[Any]:
    """Build the statement of the items to send, in the order of their positions."""
    return (
        select(items.c.lane_id, items.c.size, items.c.duration_seconds)
        .join(lanes, lanes.c.id == items.c.lane_id)
        .where(IS_ACTIVE_OF_ACCOUNT, IS_IN_BACKLOG, ~is_held_of_many())
        .order_by(items.c.position)
        .execution_options(yield_per=1000)
    )
