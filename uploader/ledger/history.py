"""Reads what the account's slots, lanes and uplink did over time, from attempts, items and resolutions."""

from collections.abc import Collection, Iterator
from typing import Any, NamedTuple

from sqlalchemy import ColumnElement, Connection, and_, bindparam, case, func, or_, select

from uploader.ledger.schema import (
    IS_ACTIVE_OF_ACCOUNT,
    IS_UNFINISHED,
    attempts,
    batches,
    is_in_state,
    items,
    lanes,
    loads,
    resolutions,
    rows,
)
from uploader.model import SLOTTED, Decision, Outcome, State

# the most lanes and slots that are read for people
MOST_SHOWN = 200


class AttemptSpan(NamedTuple):
    """The time for which an attempt used the uplink and a slot; times are seconds since the epoch."""

    attempt_id: int
    started_at: float
    # None where it had no slot
    admitted_at: float | None
    # the answer; None while it is under way
    ended_at: float | None
    # the end of its slot; None while it holds one
    freed_at: float | None
    bytes_sent: int

    def is_open_at(self, now: float) -> bool:
        """Return True while a later reading may differ."""
        return self.ended_at is None or self.freed_at is None or self.freed_at > now


class SlotSpan(NamedTuple):
    """An attempt that held a slot, with its item."""

    attempt: AttemptSpan
    # no later attempt at the item was begun
    is_latest: bool
    # when a decision settled what it had left open
    settled_at: float | None
    outcome: Outcome | None
    state: State
    batch: str
    line: int
    conversation_id: str
    job_id: str | None


class SlotNow(NamedTuple):
    """An item that holds a slot; times are seconds since the epoch."""

    state: State
    batch: str
    line: int
    conversation_id: str
    job_id: str | None
    since: float | None
    # None where no time ends it
    until: float | None
    # of its audio; None where unknown
    duration_seconds: float | None


class LaneLeft(NamedTuple):
    """The backlog of an active lane."""

    conversation_id: str
    items: int
    audio_seconds: float
    is_busy: bool


class DecisionFacts(NamedTuple):
    """A person's decision about an item of a batch."""

    # seconds since the epoch
    resolved_at: float
    resolved_by: str
    decision: Decision
    from_state: State
    line: int
    conversation_id: str
    job_id: str | None
    note: str | None


_IS_LATEST = attempts.c.number == items.c.attempts

# when a person, or a proof, first settled what an attempt had left open: a doubt, or a job that failed
_SETTLED_AT = (
    select(func.min(resolutions.c.resolved_at))
    .where(resolutions.c.item_id == items.c.id, resolutions.c.resolved_at >= attempts.c.ended_at)
    .correlate(items, attempts)
    .scalar_subquery()
)


def _freed_at() -> ColumnElement[Any]:
    """Build the end of an attempt's slot; NULL while it holds one."""
    finished_at = case((_IS_LATEST, items.c.finished_at))
    return case(
        (attempts.c.admitted_at.is_(None), attempts.c.ended_at),
        (and_(_IS_LATEST, is_in_state(items.c.state, SLOTTED)), items.c.slot_until),
        # a decision ends an item later than its slot was free: it is the nearest that the ledger keeps
        (
            attempts.c.outcome.in_([Outcome.APPLIED, Outcome.IN_DOUBT]),
            func.coalesce(_SETTLED_AT, finished_at, attempts.c.ended_at),
        ),
        else_=attempts.c.ended_at,
    )


# in the order of the fields of ``AttemptSpan``
_SPAN = (
    attempts.c.id,
    attempts.c.started_at,
    attempts.c.admitted_at,
    attempts.c.ended_at,
    _freed_at().label("freed_at"),
    func.coalesce(attempts.c.bytes_sent, 0).label("bytes_sent"),
)


# attempts of accounts, by id
_SPANS = (
    select(*_SPAN)
    .join_from(attempts, items, items.c.id == attempts.c.item_id)
    .where(items.c.account_id.in_(bindparam("accounts", expanding=True)))
    .order_by(attempts.c.id)
)

# the same from an id on, and those that are named; two statements, as SQLite would scan all attempts for one
_SPANS_FROM = _SPANS.where(attempts.c.id >= bindparam("first"))
_SPANS_NAMED = _SPANS.where(attempts.c.id.in_(bindparam("open_ids", expanding=True)))

# accounts' attempts between two ids, with their items, by id
_SLOT_SPANS = (
    select(
        *_SPAN,
        _IS_LATEST,
        _SETTLED_AT,
        attempts.c.outcome,
        items.c.state,
        batches.c.name,
        items.c.line,
        lanes.c.conversation_id,
        attempts.c.job_id,
    )
    .join_from(attempts, items, items.c.id == attempts.c.item_id)
    .join(lanes, lanes.c.id == items.c.lane_id)
    .join(loads, loads.c.id == items.c.load_id)
    .join(batches, batches.c.id == loads.c.batch_id)
    .where(
        attempts.c.id.between(bindparam("first"), bindparam("last")),
        items.c.account_id.in_(bindparam("accounts", expanding=True)),
    )
    .order_by(attempts.c.id)
)

# the first and the last attempt at an item that a batch names
_ATTEMPTS_OF_BATCH = (
    select(func.min(attempts.c.id), func.max(attempts.c.id))
    .join_from(rows, attempts, attempts.c.item_id == rows.c.item_id)
    .where(rows.c.batch_id == bindparam("batch"))
)

# the items that hold the account's slots, the oldest first
_SLOTS_NOW = (
    select(
        items.c.state,
        batches.c.name,
        items.c.line,
        lanes.c.conversation_id,
        items.c.job_id,
        func.coalesce(items.c.accepted_at, attempts.c.admitted_at, attempts.c.started_at).label("since"),
        items.c.slot_until,
        items.c.duration_seconds,
    )
    .join_from(items, lanes, lanes.c.id == items.c.lane_id)
    .join(loads, loads.c.id == items.c.load_id)
    .join(batches, batches.c.id == loads.c.batch_id)
    .outerjoin(attempts, and_(attempts.c.item_id == items.c.id, _IS_LATEST))
    .where(
        IS_UNFINISHED,
        items.c.account_id == bindparam("account"),
        is_in_state(items.c.state, SLOTTED),
        or_(items.c.slot_until.is_(None), items.c.slot_until > bindparam("now")),
    )
    .order_by("since", items.c.id)
    .limit(MOST_SHOWN)
)

# the active lanes of the account with the largest backlog
_LONGEST_LANES = (
    select(lanes.c.conversation_id, lanes.c.items_left, lanes.c.audio_left, lanes.c.is_busy)
    .where(IS_ACTIVE_OF_ACCOUNT, lanes.c.items_left > 0)
    .order_by(lanes.c.audio_left.desc(), lanes.c.items_left.desc(), lanes.c.id)
    .limit(bindparam("most"))
)

# the active lanes of the account that have a backlog
_LANES_LEFT = select(func.count()).select_from(lanes).where(IS_ACTIVE_OF_ACCOUNT, lanes.c.items_left > 0)

# the accounts of the items that a batch names, its first item's first
_ACCOUNTS_OF_BATCH = (
    select(items.c.account_id)
    .join(rows, rows.c.item_id == items.c.id)
    .where(rows.c.batch_id == bindparam("batch"))
    .group_by(items.c.account_id)
    .order_by(func.min(rows.c.line))
)

# the decisions about the items that a batch names, in order
_DECISIONS = (
    select(
        resolutions.c.resolved_at,
        resolutions.c.resolved_by,
        resolutions.c.decision,
        resolutions.c.from_state,
        rows.c.line,
        rows.c.conversation_id,
        resolutions.c.job_id,
        resolutions.c.note,
    )
    .join_from(resolutions, rows, rows.c.item_id == resolutions.c.item_id)
    .where(rows.c.batch_id == bindparam("batch"))
    .order_by(resolutions.c.id)
    .limit(bindparam("most"))
)


def attempts_of_batch(connection: Connection, batch_id: int) -> tuple[int, int] | None:
    """Return the ids of the first and the last attempt at items of a batch; None where none was begun."""
    first, last = connection.execute(_ATTEMPTS_OF_BATCH, {"batch": batch_id}).one()
    return None if first is None else (first, last)


def accounts_of_batch(connection: Connection, batch_id: int) -> list[int]:
    """Return the accounts of a batch's items, the first item's first."""
    return list(connection.execute(_ACCOUNTS_OF_BATCH, {"batch": batch_id}).scalars())


def attempt_spans(
    connection: Connection, account_ids: Collection[int], first: int, open_ids: Collection[int] = ()
) -> Iterator[AttemptSpan]:
    """Yield the attempts of accounts in the order in which they began, of whatever batch and worker.

    Args:
        first: The first attempt's id.
        open_ids: Earlier attempts to read as well.
    """
    known = {"accounts": list(account_ids)}
    if open_ids:
        yield from (
            AttemptSpan(*row) for row in connection.execute(_SPANS_NAMED, {**known, "open_ids": list(open_ids)})
        )
    yield from (AttemptSpan(*row) for row in connection.execute(_SPANS_FROM, {**known, "first": first}))


def slot_spans(connection: Connection, account_ids: Collection[int], first: int, last: int) -> Iterator[SlotSpan]:
    """Yield the attempts of accounts with their items, in the order in which they began.

    Args:
        first: The first attempt's id.
        last: The last attempt's id.
    """
    given = {"accounts": list(account_ids), "first": first, "last": last}
    for row in connection.execute(_SLOT_SPANS, given):
        is_latest, settled_at, outcome, state, *item = row[len(AttemptSpan._fields) :]
        attempt = AttemptSpan(*row[: len(AttemptSpan._fields)])
        yield SlotSpan(attempt, bool(is_latest), settled_at, outcome and Outcome(outcome), State(state), *item)


def slots_now(connection: Connection, account_id: int, now: float) -> list[SlotNow]:
    """Return the items that hold the account's slots at this time, the oldest first, ``MOST_SHOWN`` at most."""
    found = connection.execute(_SLOTS_NOW, {"account": account_id, "now": now})
    return [SlotNow(State(state), *rest) for state, *rest in found]


def longest_lanes(connection: Connection, account_id: int, most: int) -> tuple[list[LaneLeft], int]:
    """Return the active lanes with the largest backlog, and the number of all that have one."""
    found = connection.execute(_LONGEST_LANES, {"account": account_id, "most": most})
    count: int = connection.execute(_LANES_LEFT, {"account": account_id}).scalar_one()
    return [LaneLeft(*row) for row in found], count


def decisions(connection: Connection, batch_id: int, most: int) -> list[DecisionFacts]:
    """Return the decisions about items of a batch, the first ones first, ``most`` at most."""
    found = connection.execute(_DECISIONS, {"batch": batch_id, "most": most})
    return [DecisionFacts(at, by, Decision(decision), State(state), *rest) for at, by, decision, state, *rest in found]
