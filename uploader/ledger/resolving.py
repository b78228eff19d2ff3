"""Finds the items that need a person, with the evidence about them, and records the person's decisions."""

import re
from collections import defaultdict
from collections.abc import Collection, Mapping, Sequence
from typing import Any, NamedTuple

from sqlalchemy import Connection, RowMapping, Select, and_, func, insert, not_, or_, select, update
from sqlalchemy.sql.elements import ColumnElement

from uploader.errors import UsageError
from uploader.ledger.facts import unfollow_job
from uploader.ledger.held import is_held
from uploader.ledger.lanes import add_to_backlog, recompute_ready, remove_from_backlog, waiting_lanes
from uploader.ledger.orphans import is_orphan
from uploader.ledger.schema import (
    ANY_ACCOUNT,
    IS_CORRECTED,
    IS_JOB_UNCERTAIN,
    IS_UNFINISHED,
    accounts,
    attempts,
    batches,
    items,
    lanes,
    loads,
    resolutions,
    rows,
)
from uploader.ledger.staging import CHUNK, chunks
from uploader.model import LIVE, TROUBLED, ConversationSnapshot, Decision, Outcome, State
from uploader.policy.resolving import RESOLVABLE, resolved_state
from uploader.urls import shown


class Selection(NamedTuple):
    """A selection of items by several criteria; an empty one selects all. Times are seconds since the epoch."""

    # lines of the batch itself
    lines: Sequence[int] = ()
    # the ledger's numbers of items, of any batch of the account
    items: Sequence[int] = ()
    conversations: Sequence[str] = ()
    states: Sequence[State] = ()
    reply: str | None = None
    since: float | None = None
    until: float | None = None

    @property
    def names_any(self) -> bool:
        """True where any criterion is set."""
        return self != Selection()


class OpenItem(NamedTuple):
    """An unfinished item that needs a person, or was selected, with the evidence about it."""

    item_id: int
    lane_id: int
    # the batch that named it last; for a search in all batches, the batch of the row that is shown
    batch: str
    # the batch of the row that is shown; None where it has no row
    row_batch_id: int | None
    base_url: str
    # the account's name
    account: str
    # of the batch's own account, which may be another one than the item's: its base URL, and the limit of its last run
    batch_base_url: str
    batch_limit: int | None
    # named by the batch that is searched, or by any where all are: other items may hold the batch's own
    own: bool
    # no batch's rows name it any more
    orphan: bool
    # the line of the batch's row; of other items, the line that named it last
    line: int
    conversation_id: str
    audio_path: str
    state: State
    # pending behind an item of its lane that must be resolved first
    held: bool
    overdue: bool
    # a person named its job, and may correct that
    by_hand: bool
    invalid: bool
    error: str | None
    http_status: int | None
    job_id: str | None
    size: int | None
    attempts: int
    # begin and end of its last attempt, in seconds since the epoch
    attempted_at: float | None
    ended_at: float | None
    bytes_sent: int | None
    # the conversation before its last attempt
    before: ConversationSnapshot | None
    # no other item of its lane can have been appended since its last attempt began
    alone: bool

    @property
    def shown_state(self) -> State:
        """The state that people are shown."""
        return State.HELD if self.held else self.state

    @property
    def needs_person(self) -> bool:
        """True where the item itself is to be resolved, not one before it."""
        return self.state in TROUBLED or self.is_job_uncertain

    @property
    def is_job_uncertain(self) -> bool:
        """True where the job is overdue, or the service gives it no status that is known."""
        return self.state is State.ACCEPTED and (self.overdue or self.error is not None)


class Resolution(NamedTuple):
    """A decision of a person about an item."""

    # seconds since the epoch
    resolved_at: float
    resolved_by: str
    decision: Decision
    from_state: State
    job_id: str | None
    note: str | None


def open_items(
    connection: Connection, batch_id: int | None, selection: Selection, *, base_url: str | None = None
) -> list[OpenItem]:
    """Find the unfinished items that need a person, or that the selection names.

    Args:
        batch_id: Only the items of this batch, those that block them, and the batch's orphans; None: of any batch.
        selection: The criteria.
        base_url: Only items of this service.
    """
    found = connection.execute(_find_open_items(batch_id, selection, base_url)).mappings()
    return [_open(row) for row in found]


def _find_open_items(batch_id: int | None, selection: Selection, base_url: str | None) -> Select[Any]:
    """Build the statement of ``open_items``; its columns have the names of an open item's fields."""
    named_last, named_in = batches.alias("named_last"), batches.alias("named_in")
    batch_account = accounts.alias("batch_account")
    row_of = batch_id if batch_id is not None else _row_of_item()
    concerned = [] if batch_id is None else [_concerns(batch_id, named_last.c.id, selection)]
    if base_url is not None:
        concerned.append(accounts.c.base_url == base_url)
    batch = named_last.c.name if batch_id is not None else func.coalesce(named_in.c.name, named_last.c.name)
    return (
        select(
            items.c.id.label("item_id"),
            *items.c["lane_id", "state", "overdue", "error", "http_status", "job_id", "size", "attempts"],
            items.c.invalid_batch_id.is_not(None).label("invalid"),
            batch.label("batch"),
            named_in.c.id.label("row_batch_id"),
            accounts.c.base_url,
            accounts.c.name.label("account"),
            batch_account.c.base_url.label("batch_base_url"),
            batch_account.c.configured_limit.label("batch_limit"),
            rows.c.line.is_not(None).label("own"),
            is_orphan().label("orphan"),
            is_held().label("held"),
            not_(_others_since()).label("alone"),
            _is_by_hand().label("by_hand"),
            func.coalesce(rows.c.line, items.c.line).label("line"),
            lanes.c.conversation_id,
            func.coalesce(rows.c.audio_path, items.c.path).label("audio_path"),
            attempts.c.started_at.label("attempted_at"),
            *attempts.c["ended_at", "bytes_sent", "messages_before", "last_end_before"],
        )
        .select_from(
            items.join(lanes, lanes.c.id == items.c.lane_id)
            .join(accounts, accounts.c.id == items.c.account_id)
            .join(loads, loads.c.id == items.c.load_id)
            .join(named_last, named_last.c.id == loads.c.batch_id)
            .outerjoin(rows, and_(rows.c.item_id == items.c.id, rows.c.batch_id == row_of))
            .outerjoin(named_in, named_in.c.id == rows.c.batch_id)
            .join(batch_account, batch_account.c.id == func.coalesce(named_in.c.account_id, named_last.c.account_id))
            .outerjoin(attempts, and_(attempts.c.item_id == items.c.id, attempts.c.number == items.c.attempts))
        )
        .where(IS_UNFINISHED, ANY_ACCOUNT, *concerned, *_conditions(selection))
        .order_by(items.c.position)
    )


def resolve(
    connection: Connection,
    item: OpenItem,
    decision: Decision,
    *,
    job_id: str | None,
    note: str | None,
    who: str,
    now: float,
) -> State:
    """Resolve an item as a person decided; return its new state.

    Raises:
        UsageError: The decision does not fit the item's state, or a run has it in hand by now.
    """
    _check_fits(item, decision)
    if job_id is not None:
        _check_free(connection, item, job_id)
    state = resolved_state(decision, job_id)
    if item.state is State.PENDING:
        remove_from_backlog(connection, item.item_id)
    changed = connection.execute(
        update(items)
        .where(items.c.id == item.item_id, items.c.state == item.state, items.c.attempts == item.attempts)
        .values(_values(item, state, job_id, note, now))
    )
    if changed.rowcount != 1:
        raise UsageError(f"line {item.line}: a run has changed this item meanwhile: look again")
    connection.execute(
        insert(resolutions).values(
            item_id=item.item_id,
            resolved_at=now,
            resolved_by=who,
            decision=decision,
            from_state=item.state,
            job_id=job_id,
            note=note,
        )
    )
    if state is State.PENDING:
        add_to_backlog(connection, item.item_id)
    if state is State.ACCEPTED:
        unfollow_job(connection, item.item_id)
    recompute_ready(connection, [item.lane_id])
    return state


def held_items(connection: Connection, lane_ids: Collection[int]) -> Mapping[int, int]:
    """Return the held items of some lanes that a batch names, as lane ids by item id."""
    held: dict[int, int] = {}
    for chunk in chunks(lane_ids, CHUNK):
        held_in = select(items.c.id, items.c.lane_id).where(items.c.lane_id.in_(chunk), is_held(), ~is_orphan())
        held |= {row.id: row.lane_id for row in connection.execute(held_in)}
    return held


def histories(connection: Connection, item_ids: Sequence[int]) -> Mapping[int, Sequence[Resolution]]:
    """Return the earlier decisions about items, in order, by item id; items without one are left out."""
    found: defaultdict[int, list[Resolution]] = defaultdict(list)
    for chunk in chunks(item_ids, CHUNK):
        in_chunk = resolutions.c.item_id.in_(chunk)
        for row in connection.execute(select(resolutions).where(in_chunk).order_by(resolutions.c.id)):
            decision, state = Decision(row.decision), State(row.from_state)
            found[row.item_id].append(
                Resolution(row.resolved_at, row.resolved_by, decision, state, row.job_id, row.note)
            )
    return found


def _row_of_item() -> ColumnElement[int]:
    """Build the batch whose row is shown of an item: the batch that named it last, else the newest that names it."""
    named = rows.alias("named_somewhere")
    newest = select(func.max(named.c.batch_id)).where(named.c.item_id == items.c.id).correlate_except(named)
    return func.coalesce(newest.where(named.c.batch_id == loads.c.batch_id).scalar_subquery(), newest.scalar_subquery())


def _concerns(batch_id: int, named_last: ColumnElement[int], selection: Selection) -> ColumnElement[bool]:
    """Build the condition that an item concerns a batch: its own, its orphan, or one that blocks its items."""
    in_the_way = and_(items.c.lane_id.in_(waiting_lanes(batch_id)), items.c.state.in_([*TROUBLED, State.ACCEPTED]))
    was_its_own = and_(named_last == batch_id, is_orphan())
    return or_(rows.c.line.is_not(None), in_the_way, was_its_own, items.c.id.in_(selection.items))


def _others_since() -> ColumnElement[bool]:
    """Build the condition that another item of the lane may have been appended since the last attempt began."""
    other = items.alias("other")
    may_be_there = or_(other.c.finished_at >= attempts.c.started_at, other.c.state.in_([*LIVE, State.IN_DOUBT]))
    found = select(other.c.id).where(
        other.c.lane_id == items.c.lane_id, other.c.id != items.c.id, other.c.attempts > 0, may_be_there
    )
    return found.correlate(items, attempts).exists()


def _is_by_hand() -> ColumnElement[bool]:
    """Build the condition that a person named the item's job."""
    named = select(resolutions.c.id).where(
        resolutions.c.item_id == items.c.id,
        resolutions.c.job_id == items.c.job_id,
        resolutions.c.decision == Decision.APPENDED,
    )
    return and_(items.c.state == State.ACCEPTED, named.correlate(items).exists())


def _conditions(selection: Selection) -> list[ColumnElement[bool]]:
    """Build the conditions of a selection."""
    conditions: list[ColumnElement[bool]] = [_of_states(selection)]
    if selection.lines or selection.items:  # another batch's lines are not this one's
        conditions.append(or_(rows.c.line.in_(selection.lines), items.c.id.in_(selection.items)))
    if selection.conversations:
        conditions.append(lanes.c.conversation_id.in_(selection.conversations))
    if selection.reply is not None:
        status = int(selection.reply) if re.fullmatch("[1-9][0-9]{2}", selection.reply) else None
        said = items.c.error.icontains(selection.reply, autoescape=True)
        conditions.append(or_(items.c.http_status == status, said) if status is not None else said)
    when = func.coalesce(attempts.c.ended_at, attempts.c.started_at)
    if selection.since is not None:
        conditions.append(when >= selection.since)
    if selection.until is not None:
        conditions.append(when <= selection.until)
    return conditions


def _of_states(selection: Selection) -> ColumnElement[bool]:
    is_pending = items.c.state == State.PENDING
    if not selection.states:
        needs_person = or_(items.c.state.in_(TROUBLED), IS_JOB_UNCERTAIN)
        if selection.lines or selection.items:
            # items selected by number may be pending, or have a job that a person named
            return or_(needs_person, is_pending, _is_by_hand())
        return or_(needs_person, and_(is_pending, is_orphan()))
    conditions = {
        State.ACCEPTED: or_(IS_JOB_UNCERTAIN, _is_by_hand()),
        State.HELD: is_held(),
        State.PENDING: and_(is_pending, ~is_held()),
    }
    return or_(*(conditions.get(state, items.c.state == state) for state in selection.states))


def _open(row: RowMapping) -> OpenItem:
    facts = dict(row)
    messages, last_end = facts.pop("messages_before"), facts.pop("last_end_before")
    facts["before"] = None if messages is None else ConversationSnapshot(messages, last_end)
    facts["audio_path"], facts["state"] = shown(row["audio_path"]), State(row["state"])
    return OpenItem(**facts)


def fits(item: OpenItem, decision: Decision) -> bool:
    """Return True where a decision fits the item's state."""
    if item.state not in RESOLVABLE[decision]:
        return False
    if item.state is State.ACCEPTED and not (item.is_job_uncertain or item.by_hand):
        return False
    return decision is Decision.DROP or not item.invalid


def _check_fits(item: OpenItem, decision: Decision) -> None:
    if fits(item, decision):
        return
    if item.invalid and item.state in RESOLVABLE[decision]:
        raise UsageError(f"line {item.line}: its row is invalid: correct the manifest and run it again, or --drop it")
    states = ", ".join(sorted(state.value for state in RESOLVABLE[decision]))
    shown = item.shown_state.value
    fitting = " or ".join(f"--{other.value}" for other in Decision if fits(item, other))
    instead = f"; this one takes {fitting}" if fitting else ""
    raise UsageError(f"line {item.line}: it is {shown}: --{decision.value} is for items that are {states}{instead}")


def _check_free(connection: Connection, item: OpenItem, job_id: str) -> None:
    """Check that no other append has this job.

    Raises:
        UsageError: The ledger knows the job.
    """
    applied = select(attempts.c.item_id).where(attempts.c.job_id == job_id, attempts.c.outcome == Outcome.APPLIED)
    resolved = select(resolutions.c.item_id).where(
        resolutions.c.job_id == job_id, resolutions.c.item_id != item.item_id, ~IS_CORRECTED
    )
    shown = select(items.c.id).where(items.c.job_id == job_id, items.c.id != item.item_id)
    if connection.execute(applied.union(resolved, shown).limit(1)).first() is not None:
        raise UsageError(f"line {item.line}: --appended {job_id}: the ledger knows this job as another append's")


def _values(item: OpenItem, state: State, job_id: str | None, note: str | None, now: float) -> dict[str, Any]:
    over = state in (State.COMPLETED, State.DROPPED)
    values: dict[str, Any] = {
        "state": state,
        "slot_until": None,
        "overdue": False,
        "cut_offs": 0,
        "finished_at": now if over else None,
        "error": note if state is State.DROPPED else None,
    }
    if state is State.ACCEPTED:
        values |= {"job_id": job_id, "accepted_at": now}
    if over and (item.by_hand and not item.overdue):
        values |= {"job_id": None}  # a slip of the pen: the job is none of this item's
    if state is State.COMPLETED and item.state is State.IN_DOUBT:
        values |= {"job_id": None}  # an answer that was not trusted may have named one
    if state is State.PENDING:
        values |= {"job_id": None, "http_status": None, "invalid_batch_id": None}
    if state is State.DROPPED:
        values |= {"invalid_batch_id": None}
    return values
