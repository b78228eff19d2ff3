"""Counts the items of batches by state; a batch's count of items that are over is kept with it."""

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any, NamedTuple

from sqlalchemy import Connection, Select, and_, bindparam, case, func, literal, select, update
from sqlalchemy.sql.elements import ColumnElement

from uploader.ledger.held import is_held
from uploader.ledger.schema import (
    ANY_ACCOUNT,
    IS_UNFINISHED,
    TOTAL_SIZE,
    accounts,
    batches,
    is_in_state,
    is_unfinished,
    items,
    loads,
    rows,
)
from uploader.model import OVER, TROUBLED, State


class Tally(NamedTuple):
    """The number of items of one state, and their sums."""

    items: int = 0
    size: int = 0
    attempts: int = 0
    billed_seconds: float = 0.0
    # items whose billed length is unknown
    unknown_lengths: int = 0
    overdue: int = 0

    @classmethod
    def total(cls, tallies: Iterable["Tally"]) -> "Tally":
        """Add up tallies, figure by figure."""
        return cls(*map(sum, zip(*tallies, strict=True)))


@dataclass(frozen=True, slots=True)
class Standing:
    """The tallies of one batch, or of several, by state; held items apart from pending ones."""

    tallies: Mapping[State, Tally]

    def __add__(self, other: "Standing") -> "Standing":
        """Add two standings, state by state."""
        states = {*self.tallies, *other.tallies}
        return Standing({state: Tally.total((self.of(state), other.of(state))) for state in State if state in states})

    def of(self, *states: State) -> Tally:
        """Return the tally of some states together."""
        return Tally.total(self.tallies[state] for state in states if state in self.tallies)

    @property
    def counts(self) -> Mapping[State, int]:
        """The number of items by state, of all states."""
        return {state: self.of(state).items for state in State}

    @property
    def billed_minutes(self) -> Mapping[State, float]:
        """The minutes that are, or would be, billed, by state."""
        return {
            state: round(tally.billed_seconds / 60, 2) for state, tally in self.tallies.items() if tally.billed_seconds
        }

    @property
    def unknown_lengths(self) -> int:
        """The number of items whose billed length is unknown."""
        return self.of(*State).unknown_lengths

    @property
    def overdue(self) -> int:
        """The number of items whose job did not end in time."""
        return self.of(*State).overdue

    @property
    def attempts(self) -> int:
        """The attempts at all items."""
        return self.of(*State).attempts

    @property
    def bytes_all(self) -> int:
        """The bytes of all items."""
        return self.of(*State).size

    @property
    def bytes_done(self) -> int:
        """The bytes of the items that were appended."""
        return self.of(State.ACCEPTED, State.COMPLETED, State.FAILED).size

    @property
    def items(self) -> int:
        """The number of all items."""
        return self.of(*State).items

    @property
    def is_over(self) -> bool:
        """True where every item is completed or dropped."""
        return all(state in OVER for state in self.tallies)


# of a batch whose items are all over: no unfinished items
NOTHING = Standing({})

# the kept count of a batch, and the id of its newest load
# batch by batch: for an IN, SQLite would rather scan all batches where statistics say that they are few
_KEPT = select(
    batches.c.counted, select(func.max(loads.c.id)).where(loads.c.batch_id == batches.c.id).scalar_subquery()
).where(batches.c.id == bindparam("batch"))


# some item that is not over, by the same index as all
_ANY_UNFINISHED = select(items.c.id).where(IS_UNFINISHED, ANY_ACCOUNT).limit(1)

_other = items.alias("other")

# lanes that may have held items: read once by a statement, which then looks into these lanes alone
_LANES_IN_TROUBLE = select(_other.c.lane_id).where(
    is_unfinished(_other.c.state),
    _other.c.account_id.in_(select(accounts.c.id)),
    is_in_state(_other.c.state, [*TROUBLED, State.ACCEPTED]),
)


def shown_state() -> ColumnElement[str]:
    """Build the state that people are shown of a row: its item's, or held; refused where the row has no item."""
    return case(
        (items.c.id.is_(None), literal(State.REFUSED.value)),
        (and_(items.c.lane_id.in_(_LANES_IN_TROUBLE), is_held()), literal(State.HELD.value)),
        else_=items.c.state,
    )


def standing(connection: Connection, batch_id: int) -> Standing:
    """Count the rows of a batch by state, held ones apart; invalid rows count as refused."""
    return _standing(connection.execute(_count_all(), {"batch": batch_id}))


def unfinished(connection: Connection) -> dict[int, Standing]:
    """Count unfinished items by batch; the cost grows with their number alone.

    Returns:
        Standings without completed and dropped items, by the id of the batch whose rows name them.
    """
    found: defaultdict[int, list[Any]] = defaultdict(list)
    # the statement that counts them takes 3 ms to build: after a good night there are none
    is_any = connection.execute(_ANY_UNFINISHED).first() is not None
    for statement in (_count_unfinished(), _count_without_item()) if is_any else (_count_without_item(),):
        for row in connection.execute(statement):
            found[row.batch_id].append(row)
    return {batch_id: _standing(tallies) for batch_id, tallies in found.items()}


def has_unfinished(connection: Connection, account_id: int) -> bool:
    """Return True where an account has an item that is not over, in whatever batch."""
    found = connection.execute(select(items.c.id).where(IS_UNFINISHED, items.c.account_id == account_id).limit(1))
    return found.first() is not None


def standings(connection: Connection, batch_ids: Iterable[int], left: Mapping[int, Standing]) -> dict[int, Standing]:
    """Count the rows of several batches, from the kept counts where they are still right.

    Args:
        left: The unfinished items, as ``unfinished`` returned them in the same transaction.
    """
    batch_ids = list(batch_ids)
    kept = _kept(connection, batch_ids, left)
    return {batch_id: kept.get(batch_id) or standing(connection, batch_id) for batch_id in batch_ids}


def keep_counts(connection: Connection, most: int) -> None:
    """Keep the counts of items that are over, of the batches that ``status`` shows, where they are not right any more.

    Args:
        connection: A connection in a transaction that may write.
        most: How many of the latest batches; unfinished ones are always among them.
    """
    left = unfinished(connection)
    latest = select(batches.c.id).order_by(batches.c.ran_at.desc(), batches.c.id.desc()).limit(most)
    batch_ids = {*left, *connection.execute(latest).scalars()}
    for batch_id in batch_ids - _kept(connection, batch_ids, left).keys():
        _, newest_load = connection.execute(_KEPT, {"batch": batch_id}).one()
        keep_count(connection, batch_id, newest_load, standing(connection, batch_id))


def keep_count(
    connection: Connection, batch_id: int, load_id: int, found: Standing, *, pruned_at: float | None = None
) -> None:
    """Keep the count of a batch's items that are over, which holds until a later load.

    Args:
        connection: A connection in a transaction that may write.
        load_id: Its newest load.
        found: Its standing.
        pruned_at: When its rows were forgotten, in seconds since the epoch; None: they are there.
    """
    over = {state: list(tally) for state, tally in found.tallies.items() if state in OVER}
    counted = {"load": load_id, "rows": found.items, "over": over}
    counted |= {"prunedAt": pruned_at} if pruned_at is not None else {}
    connection.execute(update(batches).where(batches.c.id == batch_id).values(counted=counted))


def save_held_back(connection: Connection, batch_id: int, found: Mapping[str, Any]) -> None:
    """Store what has held a batch's run back so far, and what that run waits for, as JSON."""
    connection.execute(update(batches).where(batches.c.id == batch_id).values(held_back=found))


def _kept(connection: Connection, batch_ids: Iterable[int], left: Mapping[int, Standing]) -> dict[int, Standing]:
    """Return the standings of some batches by their kept counts, without those that have none that is right.

    An item that is over stays so, and only a load changes a batch's rows. So a count is right where no load came since
    and as many rows are over as were then.
    """
    kept = {}
    for batch_id in batch_ids:
        counted, newest_load = connection.execute(_KEPT, {"batch": batch_id}).one()
        if counted is None or counted["load"] != newest_load:
            continue
        over = Standing({State(state): Tally(*figures) for state, figures in counted["over"].items()})
        found = over + left.get(batch_id, NOTHING)
        if found.items == counted["rows"]:
            kept[batch_id] = found
    return kept


@cache
def _count_all() -> Select[Any]:
    """Build the statement that sums up the rows of a batch by their shown state."""
    state = shown_state()
    return (
        select(state.label("state"), *_sums())
        .select_from(rows.outerjoin(items, items.c.id == rows.c.item_id))
        .where(rows.c.batch_id == bindparam("batch"))
        .group_by(state)
    )


@cache
def _count_unfinished() -> Select[Any]:
    """Build the statement that sums up rows with an unfinished item, by its index."""
    state = shown_state()
    return (
        select(rows.c.batch_id, state.label("state"), *_sums())
        .select_from(items.join(rows, rows.c.item_id == items.c.id))
        .where(IS_UNFINISHED, ANY_ACCOUNT)
        .group_by(rows.c.batch_id, state)
    )


@cache
def _count_without_item() -> Select[Any]:
    """Build the statement that sums up rows without an item."""
    return (
        select(rows.c.batch_id, literal(State.REFUSED.value).label("state"), func.count(), *[literal(0)] * 5)
        .where(rows.c.item_id.is_(None))
        .group_by(rows.c.batch_id)
    )


def _sums() -> Sequence[ColumnElement[Any]]:
    """Build the figures of a tally, in the order of its fields."""
    is_of_unknown_length = and_(items.c.size.is_not(None), items.c.billed_seconds.is_(None))
    return (
        func.count(),
        TOTAL_SIZE,
        func.coalesce(func.sum(items.c.attempts - items.c.unadmitted), 0),
        func.coalesce(func.sum(items.c.billed_seconds), 0.0),
        func.coalesce(func.sum(case((is_of_unknown_length, 1), else_=0)), 0),
        func.coalesce(func.sum(case((items.c.overdue, 1), else_=0)), 0),
    )


def _standing(found: Iterable[Sequence[Any]]) -> Standing:
    """Make the standing of rows that end with a state and the figures of its tally."""
    tallies: defaultdict[State, list[Tally]] = defaultdict(list)
    for *_, state, count, size, attempts, billed, unknown, overdue in found:
        tallies[State(state)].append(Tally(count, size, attempts, billed, unknown, overdue))
    return Standing({state: Tally.total(of_state) for state, of_state in tallies.items()})
