"""Reads conversations: those in which items of a batch completed, and their progress."""

from collections.abc import Sequence
from typing import NamedTuple

from sqlalchemy import Connection, and_, case, func, or_, select, update

from uploader.ledger.reading import AccountFacts, accounts_of_batch
from uploader.ledger.schema import attempts, items, lanes, rows
from uploader.model import LIVE, ConversationFacts, ConversationSnapshot, State


class Conversation(NamedTuple):
    """A conversation in which items of a batch completed."""

    # the line of the last such item
    line: int
    lane_id: int
    conversation_id: str


def conversations(
    connection: Connection, batch_id: int, account_id: int, after_line: int, most: int
) -> Sequence[Conversation]:
    """Return a page of an account's conversations with completed items of a batch, by their last such line.

    Args:
        after_line: The line of the last conversation of the page before; 0 for the first page.
        most: The page's size.
    """
    later, named = items.alias("later"), rows.alias("named")
    # no later item of the conversation completed
    is_last = ~(
        # by the index of lane, state and position: as a rule the lane's next item ends the search
        select(later.c.id)
        .join(named, named.c.item_id == later.c.id)
        .where(
            later.c.lane_id == items.c.lane_id,
            later.c.state == State.COMPLETED,
            later.c.position > items.c.position,
            named.c.batch_id == batch_id,
        )
        .correlate(items)
        .exists()
    )
    found = connection.execute(
        select(rows.c.line, items.c.lane_id, lanes.c.conversation_id)
        .join(items, items.c.id == rows.c.item_id)
        .join(lanes, lanes.c.id == items.c.lane_id)
        .where(
            rows.c.batch_id == batch_id,
            rows.c.line > after_line,
            items.c.account_id == account_id,
            items.c.state == State.COMPLETED,
            is_last,
        )
        .order_by(rows.c.line)
        .limit(most)
    )
    return [Conversation(**row) for row in found.mappings()]


def completed_accounts(connection: Connection, batch_id: int) -> Sequence[AccountFacts]:
    """List the accounts with completed items of a batch."""
    return accounts_of_batch(connection, batch_id, items.c.state == State.COMPLETED)


def count_conversations(connection: Connection, batch_id: int) -> int:
    """Count the conversations with completed items of a batch."""
    count: int = connection.execute(
        select(func.count(items.c.lane_id.distinct()))
        .select_from(rows)
        .join(items, items.c.id == rows.c.item_id)
        .where(rows.c.batch_id == batch_id, items.c.state == State.COMPLETED)
    ).scalar_one()
    return count


def conversation_facts(connection: Connection, lane_id: int, now: float) -> ConversationFacts:
    """Read the progress of a conversation at this moment, over all batches."""
    # an item in doubt may have a job until its ``slot_until``
    may_live = or_(
        items.c.state.in_(LIVE),
        and_(items.c.state == State.IN_DOUBT, or_(items.c.slot_until.is_(None), items.c.slot_until > now)),
    )
    completed = items.c.state == State.COMPLETED
    row = connection.execute(
        select(
            func.coalesce(func.sum(case((completed, 1), else_=0)), 0).label("completed"),
            func.max(case((completed, items.c.finished_at))).label("last_finished_at"),
            func.coalesce(func.sum(case((may_live, 1), else_=0)), 0).label("live"),
        ).where(items.c.lane_id == lane_id)
    ).one()
    return ConversationFacts(**row._mapping)  # noqa: SLF001 - SQLAlchemy's own name for a public thing


def save_snapshot(connection: Connection, attempt_id: int, snapshot: ConversationSnapshot) -> None:
    """Save the snapshot of a conversation that was taken before an attempt."""
    connection.execute(
        update(attempts)
        .where(attempts.c.id == attempt_id)
        .values(messages_before=snapshot.messages, last_end_before=snapshot.last_end)
    )
