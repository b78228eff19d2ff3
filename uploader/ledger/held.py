"""Conditions of held items: pending behind one of their lane that a person must resolve first."""

from collections.abc import Collection
from functools import cache

from sqlalchemy import Select, and_, bindparam, or_, select
from sqlalchemy.sql.elements import ColumnElement

from uploader.ledger.schema import account_holds, is_in_state, is_unfinished, items
from uploader.model import TROUBLED, State


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
    return lanes_with([*TROUBLED, State.ACCEPTED])


def lanes_with(states: Collection[State]) -> Select[tuple[int]]:
    """Select the lanes of the account ``account`` with items in some of the states that are not over."""
    # it depends on nothing of the statement around it, which reads it once, by the partial index of unfinished items
    other = items.alias()
    return select(other.c.lane_id).where(
        is_unfinished(other.c.state), other.c.account_id == bindparam("account"), is_in_state(other.c.state, states)
    )
