"""Merges staged and resolved rows into the ledger, in steps: rows with their new items, then the lanes one by one."""

from collections.abc import Callable, Collection, Mapping
from functools import cache
from typing import Any

from sqlalchemy import (
    BigInteger,
    Column,
    Connection,
    Delete,
    Insert,
    RowMapping,
    ScalarSelect,
    Select,
    String,
    Update,
    and_,
    bindparam,
    case,
    cast,
    delete,
    exists,
    func,
    insert,
    literal,
    literal_column,
    select,
    update,
)
from sqlalchemy.sql.dml import ReturningDelete
from sqlalchemy.sql.elements import ColumnElement

from uploader.ledger.dialects import analyze, execute_bulk, insert_or_ignore
from uploader.ledger.held import is_held
from uploader.ledger.lanes import activate_parts
from uploader.ledger.orphans import count_by_state, is_orphan
from uploader.ledger.schema import (
    IS_UNFINISHED,
    ITEMS_PER_LOAD,
    POSITIONS_PER_LOAD,
    items,
    lanes,
    rows,
    workers,
)
from uploader.ledger.staging import (
    ACCOUNT,
    HAS_LANE,
    IN_LANES,
    Takes,
    apart,
    found,
    hashed,
    is_listed,
    staged,
    touch_batch,
    touched,
    unnamed,
)
from uploader.ledger.steps import Steps
from uploader.model import Load, State

# the lines of a step
_IN_LINES = staged.c.line.between(bindparam("from_line"), bindparam("to_line"))
_ROWS_IN_LINES = and_(
    rows.c.batch_id == bindparam("batch", type_=BigInteger),
    rows.c.line.between(bindparam("from_line"), bindparam("to_line")),
)

# the first and the last line of the manifest, by one look-up each: two figures of one query would read all lines
_LINES = select(select(func.min(staged.c.line)).scalar_subquery(), select(func.max(staged.c.line)).scalar_subquery())
# the last line of the batch's previous load
_FORMER_LAST_LINE = select(func.max(rows.c.line)).where(rows.c.batch_id == bindparam("batch"))

# of an item: its row was invalid in an earlier load of the batch
_WAS_INVALID = and_(
    items.c.invalid_batch_id == bindparam("batch", type_=BigInteger),
    items.c.load_id < bindparam("load", type_=BigInteger),
)

# the lanes in which an invalid row of an earlier load held the rest
_TOUCH_INVALID = (
    insert_or_ignore(touched)
    .from_select(["lane_id"], select(items.c.lane_id).where(_WAS_INVALID).distinct())
    .execution_options(preserve_rowcount=True)
)

# the lanes of the load's new items, and of the existing ones that its rows name
_TOUCH_NEW = insert_or_ignore(touched).from_select(
    ["lane_id"],
    select(items.c.lane_id).where(
        items.c.id >= bindparam("first_id", type_=BigInteger),
        items.c.id < bindparam("first_id", type_=BigInteger) + ITEMS_PER_LOAD,
    ),
)
_TOUCH_FOUND = insert_or_ignore(touched).from_select(
    ["lane_id"], select(items.c.lane_id).join(found, found.c.item_id == items.c.id)
)


@cache
def _forget_invalid() -> Delete:
    """Build the statement that deletes the items of rows that were invalid, which no row names any more."""
    return delete(items).where(IN_LANES, _WAS_INVALID)


# add a lane for each new conversation
_ADD_LANES = insert_or_ignore(lanes).from_select(
    ["account_id", "conversation_id"],
    select(ACCOUNT, staged.c.conversation_id).where(staged.c.lane_id.is_(None), HAS_LANE, _IN_LINES).distinct(),
)

_lane = func.coalesce(
    staged.c.lane_id,
    select(lanes.c.id)
    .where(lanes.c.account_id == ACCOUNT, lanes.c.conversation_id == staged.c.conversation_id)
    .correlate(staged)
    .scalar_subquery(),
)
_is_invalid = apart.c.error.is_not(None)
_beside = staged.outerjoin(apart, apart.c.line == staged.c.line)
_new_id = bindparam("first_id", type_=BigInteger) + staged.c.line
_new_position = bindparam("first_position", type_=BigInteger) + staged.c.line
_new_position_of_found = bindparam("first_position", type_=BigInteger) + found.c.line

# columns of a row's file
_FILE = ("path", "size", "change")
# columns that an item takes from its row as they were staged
_SENT = ("content_type", "duration_seconds", "channels", "billed_seconds")
_parameters = func.coalesce(apart.c.parameters, literal_column("'{}'"))


def _of_row(column: Column[Any]) -> ScalarSelect[Any]:
    """Build the subquery of a column that few rows have."""
    return select(column).where(column.table.c.line == staged.c.line).correlate(staged).scalar_subquery()


_ITEM = {
    "id": _new_id,
    "account_id": ACCOUNT,
    "lane_id": _lane,
    "first_batch_id": bindparam("batch", type_=BigInteger),
    "load_id": bindparam("load", type_=BigInteger),
    "line": staged.c.line,
    "position": _new_position,
    "repeat_id": bindparam("of_repeat", type_=BigInteger),
    "invalid_batch_id": case((_is_invalid, bindparam("batch", type_=BigInteger))),
    "path": func.coalesce(staged.c.path, staged.c.audio_path),
    **{name: staged.c[name] for name in ("size", "change", *_SENT)},
    "content_hash": _of_row(hashed.c.content_hash),
    "parameters": _parameters,
    "state": case((_is_invalid, literal(State.REFUSED.value)), else_=literal(State.PENDING.value)),
    "error": apart.c.error,
}

# add an item for each row that matches none; an invalid row's item is refused, so that it holds its lane
_ADD_ITEMS = insert(items).from_select(
    list(_ITEM),
    select(*_ITEM.values())
    .select_from(_beside)
    .where(~exists().where(found.c.line == staged.c.line), HAS_LANE, _IN_LINES)
    .order_by(staged.c.line),
)


@cache
def _name() -> Update:
    """Build the statement that makes the load the last that has named items of the ledger."""
    is_in_lines = found.c.line.between(bindparam("from_line"), bindparam("to_line"))
    line = select(found.c.line).where(found.c.item_id == items.c.id).correlate(items).scalar_subquery()
    return (
        update(items)
        .where(is_listed(found.c.takes == Takes.NOTHING, is_in_lines))
        .values(load_id=bindparam("load"), line=line)
    )


@cache
def _mend() -> Update:
    """Build the statement that makes the refused items pending that their rows correct."""
    return (
        update(items)
        .where(IN_LANES, items.c.state == State.REFUSED, items.c.id == found.c.item_id, found.c.mended)
        .values(state=State.PENDING, error=None, http_status=None, finished_at=None, cut_offs=0)
    )


@cache
def _take(takes: Takes) -> Update:
    """Build the statement by which matched items take columns of their rows."""
    # a pending item takes its row's parameters, and the row's place unless it was begun
    taken = {
        "load_id": bindparam("load"),
        "line": staged.c.line,
        **{name: staged.c[name] for name in _SENT},
        "parameters": func.coalesce(_of_row(apart.c.parameters), literal_column("'{}'")),
        "position": case((items.c.attempts > 0, items.c.position), else_=_new_position),
    }
    if takes is Takes.ROW_AND_FILE:
        is_unchanged = and_(items.c.path == staged.c.path, items.c.change == staged.c.change)
        taken |= {name: staged.c[name] for name in _FILE}
        taken["content_hash"] = func.coalesce(
            _of_row(hashed.c.content_hash), case((is_unchanged, items.c.content_hash))
        )
    return (
        update(items)
        .where(
            IN_LANES,
            # an item that began since its row was resolved keeps what it began with
            items.c.state == State.PENDING,
            items.c.id == found.c.item_id,
            found.c.takes == takes,
            staged.c.line == found.c.line,
        )
        .values(**taken)
    )


@cache
def _carry_active() -> Update:
    """Build the statement by which what is active in a lane stays so where it moves."""
    moved = (
        select(items.c.lane_id, func.max(_new_position_of_found).label("position"))
        .join(found, found.c.item_id == items.c.id)
        .join(lanes, lanes.c.id == items.c.lane_id)
        .where(
            IN_LANES,
            items.c.state == State.PENDING,
            items.c.attempts == 0,
            found.c.takes != Takes.NOTHING,
            items.c.position <= lanes.c.active_until,
        )
        .group_by(items.c.lane_id)
        .subquery()
    )
    return (
        update(lanes)
        .where(lanes.c.id == moved.c.lane_id, lanes.c.active_until < moved.c.position)
        .values(active_until=moved.c.position)
    )


# the workers of a part of their batch (--first) that have not ended, of the accounts that the load adds to
_PARTS = select(*workers.c["id", "account_id", "batch_id", "until_position"]).where(
    workers.c.ended_at.is_(None),
    workers.c.until_position > 0,
    workers.c.account_id.in_(bindparam("accounts", expanding=True)),
)


# the first line of the load that is a new item
_FIRST_NEW = select(func.min(staged.c.line)).where(~exists().where(found.c.line == staged.c.line), HAS_LANE)

# move the end of a worker's part, unless that has changed or the worker is about to end
_MOVE_PART = (
    update(workers)
    .where(workers.c.id == bindparam("worker"), workers.c.until_position == bindparam("was"))
    .values(until_position=bindparam("until"))
)


@cache
def _moved_part() -> Select[Any]:
    """Build the statement of the last position of a part's pending items, and the first of the rest, after a load."""
    takes_place = and_(found.c.takes.in_([Takes.ROW, Takes.ROW_AND_FILE]), items.c.attempts == 0)
    position = case((takes_place, _new_position_of_found), else_=items.c.position)
    is_wanted = items.c.position <= bindparam("until", type_=BigInteger)
    return (
        select(func.max(case((is_wanted, position))), func.min(case((~is_wanted, position))))
        .select_from(rows)
        .join(items, items.c.id == rows.c.item_id)
        .outerjoin(found, found.c.item_id == items.c.id)
        .where(
            rows.c.batch_id == bindparam("of"),
            items.c.account_id == bindparam("sent_to"),
            items.c.state == State.PENDING,
        )
    )


_ROW = {
    "batch_id": bindparam("batch", type_=BigInteger),
    "line": staged.c.line,
    "item_id": case((HAS_LANE, func.coalesce(found.c.item_id, _new_id))),
    "conversation_id": staged.c.conversation_id,
    "audio_path": staged.c.audio_path,
    "content_type": staged.c.given_type,
    "given": apart.c.given,
    "extras": func.coalesce(apart.c.extras, literal_column("'{}'")),
    "error": apart.c.error,
}


def _as_text(column: ColumnElement[Any]) -> ColumnElement[str]:
    # PostgreSQL compares no JSON
    return cast(column, String)


_of_load = _beside.outerjoin(found, found.c.line == staged.c.line)
_JSON = ("given", "extras")


@cache
def _forget_rows() -> ReturningDelete[Any]:
    """Build the statement that deletes former rows that are not as the manifest's; it returns the items they named."""
    is_equal = (
        *(
            rows.c[name].is_not_distinct_from(value)
            for name, value in _ROW.items()
            if name not in ("batch_id", "line", *_JSON)
        ),
        *(_as_text(rows.c[name]).is_not_distinct_from(_as_text(_ROW[name])) for name in _JSON),
    )
    same = select(staged.c.line).select_from(_of_load).where(staged.c.line == rows.c.line, _IN_LINES, *is_equal)
    return delete(rows).where(_ROWS_IN_LINES, ~exists(same.correlate(rows))).returning(rows.c.item_id)


# add the rows of the load
_ADD_ROWS = insert(rows).from_select(
    list(_ROW), select(*_ROW.values()).select_from(_of_load).where(_IN_LINES).order_by(staged.c.line)
)


@cache
def _add_missing_rows() -> Insert:
    """Build the statement that adds the rows of the load that the batch does not have."""
    kept = rows.alias("kept")
    is_kept = exists().where(kept.c.batch_id == bindparam("batch", type_=BigInteger), kept.c.line == staged.c.line)
    return insert(rows).from_select(
        list(_ROW),
        select(*_ROW.values()).select_from(_of_load).where(_IN_LINES, ~is_kept).order_by(staged.c.line),
    )


# how many rows are as the batch's former ones, and the numbers of both
_SAME = select(
    select(func.count())
    .select_from(found)
    .join(items, and_(items.c.id == found.c.item_id, items.c.line == found.c.line))
    .join(rows, and_(rows.c.line == found.c.line, rows.c.item_id == found.c.item_id))
    .where(rows.c.batch_id == bindparam("batch"), found.c.takes != Takes.ROW_AND_FILE, ~found.c.mended)
    .scalar_subquery(),
    select(func.count()).select_from(staged).scalar_subquery(),
    select(func.count()).where(rows.c.batch_id == bindparam("batch")).scalar_subquery(),
)

# the kinds of changes that existing items take from their rows
_KINDS = select(found.c.takes, found.c.mended).distinct()


def merge(
    connection: Connection,
    load: Load,
    account_ids: Collection[int] = (),
    steps: Steps | None = None,
    activate: Callable[[Mapping[str, int]], object] | None = None,
    *,
    is_same: bool = False,
) -> None:
    """Merge the resolved rows into the ledger; they replace the batch's rows.

    Rows come with their new items, which stand behind all that is active in their lanes. An existing item takes its
    row's place together with all others of its lane, and what an earlier load's invalid rows held is held until then,
    so that a lane is in order at any time. Where the process dies between two steps, the same load carries on: its rows
    name the items that are there.

    Args:
        connection: The stage's connection.
        load: The load, as ``begin_load`` returned it.
        account_ids: The accounts that it adds to, besides the batch's own.
        steps: The steps in which the ledger is written; None: all is written in the caller's transaction.
        activate: Makes the lanes of a range active, once they are in order.
        is_same: The batch's load before this one had the same manifest and settings, and was complete.
    """
    merging = _Merge(connection, load, steps if steps is not None else Steps(connection))
    merging.begin({load.account_id, *account_ids}, is_same=is_same)
    merging.merge_rows()
    merging.merge_lanes(activate)
    merging.move_parts()


def orphaned_by_load(connection: Connection, load: Load) -> Mapping[State, int]:
    """Count by state the items that a load made orphans: named by the load before it, and by no batch now.

    Args:
        connection: The stage's connection, in a transaction, its rows merged.
    """
    if load.is_first:
        return {}
    state = case((is_held(), literal(State.HELD.value)), else_=items.c.state)
    # count the unfinished items without a row that rows of the batch's previous load named
    found = connection.execute(
        select(state.label("state"), func.count().label("items"))
        .select_from(items)
        .where(
            IS_UNFINISHED,
            items.c.id.in_(select(unnamed.c.item_id)),
            is_orphan(),
        )
        .group_by(state)
    ).all()
    return count_by_state(found)


class _Merge:
    """The merge of one load."""

    def __init__(self, connection: Connection, load: Load, steps: Steps) -> None:
        self._connection = connection
        self._load = load
        self._steps = steps
        self._values = {
            "account": load.account_id,
            "batch": load.batch_id,
            "load": load.load_id,
            # not by the column's name: an update of items would set it
            "of_repeat": load.repeat_id,
            "first_position": load.load_id * POSITIONS_PER_LOAD,
            "first_id": load.load_id * ITEMS_PER_LOAD,
        }
        # the batch's rows and their items, and the order of these, are what they were
        self._is_unchanged = False
        # rows name items of the ledger
        self._has_found = False
        # the statements by which existing items change, lane by lane
        self._changes: list[Update | Delete] = []
        # the last line of the batch's previous load; None: it is the first one
        self._former: int | None = None
        # the workers of a part (``--first``), each with the end of its part once the load has moved its items
        self._parts: list[tuple[RowMapping, int]] = []

    def begin(self, account_ids: Collection[int], *, is_same: bool) -> None:
        """See what there is to merge, and how far the parts of workers reach afterwards."""
        connection, values = self._connection, self._values
        with self._steps.locked():
            parts = connection.execute(_PARTS, {"accounts": list(account_ids)}).mappings().all()
            self._parts = [(part, _moved_until(connection, part, values)) for part in parts]
        with self._steps.unlocked():
            analyze(connection, found, hashed)
            # nobody has loaded anything since: all positions are in the order of the batch's lines
            if is_same and self._load.is_again and self._is_each_row_as_it_was():
                # no item moves, and no part
                self._is_unchanged, self._parts = True, []
                return
            kinds = connection.execute(_KINDS).all()
            self._has_found = bool(kinds)
            self._changes = _changes({takes for takes, _ in kinds}, mends=any(mended for _, mended in kinds))
            if not self._load.is_first:
                self._former = connection.execute(_FORMER_LAST_LINE, values).scalar()
                if connection.execute(_TOUCH_INVALID, values).rowcount:
                    self._changes.insert(0, _forget_invalid())

    def _is_each_row_as_it_was(self) -> bool:
        """Return True where each row names the item that the batch's row of its line does, the file untouched since."""
        same, staged_rows, former_rows = self._connection.execute(_SAME, self._values).one()
        return bool(same == staged_rows == former_rows)

    def merge_rows(self) -> None:
        """Merge the rows with their new items, line by line."""
        if self._is_unchanged:
            return
        with self._steps.unlocked():
            first, last = (line or 0 for line in self._connection.execute(_LINES).one())
        if self._former is not None:
            first, last = 0, max(last, self._former)
        # a manifest without rows has no line, and no line is the 0th
        self._steps.over_lines(max(first, 1), last, self._write_rows)

    def merge_lanes(self, activate: Callable[[Mapping[str, int]], object] | None) -> None:
        """Let existing items take what their rows say, and make the lanes active, lane by lane."""
        if activate is None and not self._changes:
            return
        with self._steps.unlocked():
            if self._is_unchanged:
                touch_batch(self._connection, self._load.batch_id)
            else:
                self._connection.execute(_TOUCH_NEW, self._values)
                if self._has_found:
                    self._connection.execute(_TOUCH_FOUND)
                self._analyze()

        def write(lanes_of_step: Mapping[str, int]) -> None:
            for statement in self._changes:
                self._connection.execute(statement, {**self._values, **lanes_of_step})
            if activate is not None:
                activate(lanes_of_step)

        self._steps.over_lanes(write)

    def move_parts(self) -> None:
        """Move the ends of workers' parts (``--first``) with the items that the load has moved."""
        # not before: where the load is interrupted, items that stand where they did are not of the part all the same
        moved = [(part, until) for part, until in self._parts if until != part["until_position"]]
        if not moved:
            return
        with self._steps.locked():
            for part, until in moved:
                self._connection.execute(
                    _MOVE_PART, {"worker": part["id"], "was": part["until_position"], "until": until}
                )

        def write(lanes_of_step: Mapping[str, int]) -> None:
            for account_id in {part["account_id"] for part, _ in moved}:
                activate_parts(self._connection, account_id, lanes_of_step)

        self._steps.over_lanes(write)

    def _analyze(self) -> None:
        """Let the planner know what has been added, where nobody waits for it: the lanes are looked up one by one."""
        tables = (items, rows, lanes) if self._steps.are_short else ()
        analyze(self._connection, touched, *tables)

    def _write_rows(self, lines: Mapping[str, int]) -> None:
        """Write the rows of a range of lines, and their new items."""
        connection, some = self._connection, {**self._values, **lines}
        connection.execute(_ADD_LANES, some)
        connection.execute(_ADD_ITEMS, some)
        if self._has_found:
            connection.execute(_name(), some)
        if self._former is None:
            connection.execute(_ADD_ROWS, some)
            return
        left = [(item_id,) for item_id in connection.execute(_forget_rows(), some).scalars() if item_id is not None]
        execute_bulk(connection, unnamed, ("item_id",), left)
        connection.execute(_add_missing_rows(), some)


def _changes(takes: Collection[int], *, mends: bool) -> list[Update | Delete]:
    """Return the statements by which existing items take what their rows say, in their order."""
    found = [_mend()] if mends else []
    found += [_take(kind) for kind in (Takes.ROW, Takes.ROW_AND_FILE) if kind in takes]
    return [_carry_active(), *found] if found else []


def _moved_until(connection: Connection, part: RowMapping, values: Mapping[str, Any]) -> int:
    """Return the last position of a worker's part (``--first``) once a load has moved items."""
    of_part = {"of": part["batch_id"], "sent_to": part["account_id"], "until": part["until_position"]}
    wanted, unwanted = connection.execute(_moved_part(), {**values, **of_part}).one()
    until: int = max(part["until_position"], wanted or 0)
    if part["batch_id"] == values["batch"]:
        new = connection.execute(_FIRST_NEW).scalar()
        unwanted = min([at for at in (unwanted, new and values["first_position"] + new) if at], default=None)
    # moved in another order, or but a few: the part becomes smaller, as it never sends more than was chosen
    return until if unwanted is None else min(until, unwanted - 1)
