"""Finds orphans: unfinished items that no batch's current rows reference."""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from sqlalchemy import Connection, and_, case, func, literal, select
from sqlalchemy.sql.elements import ColumnElement

from uploader.ledger.held import is_held
from uploader.ledger.schema import IS_IN_BACKLOG, IS_UNFINISHED, batches, items, lanes, loads, rows
from uploader.model import State


class Orphans(NamedTuple):
    """The orphans of a batch: the items that it was the last to name."""

    batch_id: int
    batch: str
    # items by state, held ones apart from pending ones
    counts: Mapping[State, int]
    # pending ones that the present run does not send
    leftovers: int

    @property
    def items(self) -> int:
        """The number of all orphans."""
        return sum(self.counts.values())


def find_orphans(connection: Connection, account_id: int) -> list[Orphans]:
    """Find the orphans of an account, by batch; the cost grows with the unfinished items alone."""
    state = case((is_held(), literal(State.HELD.value)), else_=items.c.state)
    beyond = and_(items.c.state == State.PENDING, ~IS_IN_BACKLOG)
    # count the unfinished items without a row, by the batch of the load that named them last, and by state
    found = connection.execute(
        select(
            batches.c.id,
            batches.c.name,
            state.label("state"),
            func.count().label("items"),
            func.sum(case((beyond, 1), else_=0)).label("leftovers"),
        )
        .select_from(items)
        .join(lanes, lanes.c.id == items.c.lane_id)
        .join(loads, loads.c.id == items.c.load_id)
        .join(batches, batches.c.id == loads.c.batch_id)
        .where(IS_UNFINISHED, items.c.account_id == account_id, is_orphan())
        .group_by(batches.c.id, batches.c.name, state)
        .order_by(batches.c.id)
    ).all()
    by_batch: defaultdict[tuple[int, str], list[Any]] = defaultdict(list)
    for row in found:
        by_batch[row.id, row.name].append(row)
    return [
        Orphans(batch_id, batch, count_by_state(of_batch), sum(row.leftovers for row in of_batch))
        for (batch_id, batch), of_batch in by_batch.items()
    ]


def is_orphan() -> ColumnElement[bool]:
    """Build the condition that no batch's rows name an item."""
    named = rows.alias("named_at_all")
    return ~select(named.c.line).where(named.c.item_id == items.c.id).correlate(items).exists()


def count_by_state(found: Sequence[Any]) -> Mapping[State, int]:
    """Add up rows of a state and a number of items, by state."""
    return {state: sum(row.items for row in found if row.state == state) for state in State}
