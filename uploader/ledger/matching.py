"""Matches the staged rows of a manifest to the items that exist in the ledger."""

import json
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from functools import cache
from itertools import groupby
from operator import itemgetter
from typing import Any

from sqlalchemy import (
    Connection,
    Insert,
    Select,
    String,
    and_,
    bindparam,
    case,
    cast,
    exists,
    func,
    insert,
    literal_column,
    or_,
    select,
    tuple_,
    update,
)
from sqlalchemy.sql.elements import ColumnElement

from uploader.ledger.dialects import analyze, execute_bulk, insert_or_ignore
from uploader.ledger.schema import IS_REFUSED_FOR_FILE, items
from uploader.ledger.staging import Stage, Takes, apart, compared, found, is_listed, met, staged
from uploader.model import NOTHING, FileSignature, Row, State
from uploader.policy.identity import ContentHash, ExistingItem, Items, Unread, find, is_corrected

# one statement fetches the items of so many rows, or those of one lane
TOGETHER = 1000
# in place of a load's id: a row of this manifest has named the item
NAMED = -1
# the id of a ``--repeat`` that begins: no item has it
NEW_REPEAT = -1

# in the order of Known's fields
_KNOWN = (
    *items.c["id", "lane_id", "path", "size", "change", "content_hash", "state", "attempts", "position", "load_id"],
    # its parameters as text: few items' are looked at
    items.c.content_type,
    cast(items.c.parameters, String),
    IS_REFUSED_FOR_FILE,
)
_STATES = {state.value: state for state in State}


class Hashes:
    """A cache of content hashes, for which each file is read once at most."""

    def __init__(self, read: ContentHash) -> None:
        self._read = read
        self._found: dict[str, str | None] = {}

    def of(self, path: str) -> str | None:
        """Return the hash of a file, which is read unless it was read before."""
        if path not in self._found:
            self._found[path] = self._read(path)
        return self._found[path]

    def known(self, path: str) -> str | None:
        """Return the hash of a file that was read already; None where it was not."""
        return self._found.get(path)


def _may_be_named(item: Any) -> ColumnElement[bool]:
    """Build the condition that rows may name an item: a repeat's rows its own items alone, other rows all items."""
    meant = bindparam("repeat_id", type_=items.c.repeat_id.type)
    return and_(item.c.invalid_batch_id.is_(None), or_(meant == 0, item.c.repeat_id == meant))


_is_new = ~exists().where(found.c.line == staged.c.line)

# The statements about existing items are built where rows may name some: no row of a new conversation does.


@cache
def _find_untouched() -> Insert:
    """Build the statement by which rows name the only item of their path, where its file is untouched since.

    The first such row takes it.
    """
    first, other = items.alias("first"), items.alias("other")
    of_path = (
        select(first.c.id)
        .where(first.c.lane_id == staged.c.lane_id, first.c.path == staged.c.path, _may_be_named(first))
        .limit(1)
        .correlate(staged)
        .scalar_subquery()
    )
    # correlated to the row, or SQLite would read all items first
    is_one_of_several = exists().where(
        other.c.lane_id == staged.c.lane_id,
        other.c.path == staged.c.path,
        other.c.id != items.c.id,
        _may_be_named(other),
    )
    untouched = (
        select(
            staged.c.line,
            items.c.id,
            items.c.state,
            case((items.c.state == State.PENDING, literal_column("1")), else_=literal_column("0")),
            bindparam("no", False),
        )
        .select_from(staged)
        .join(items, items.c.id == of_path)
        .where(
            staged.c.lane_id.is_not(None),
            items.c.size == staged.c.size,
            items.c.change == staged.c.change,
            ~is_one_of_several,
        )
        .order_by(staged.c.line)
    )
    return (
        insert_or_ignore(found)
        .from_select(["line", "item_id", "state", "takes", "mended"], untouched)
        .execution_options(preserve_rowcount=True)
    )


def _is_any_unnamed(item: Any, *conditions: ColumnElement[bool]) -> ColumnElement[bool]:
    """Build the condition that some item meets these which no row has named so far."""
    is_found = exists().where(found.c.item_id == item.c.id)
    return exists().where(*conditions, _may_be_named(item), ~is_found)


@cache
def _meet() -> Insert:
    """Build the statement that lists the rows' sizes that some item has which no row has named so far."""
    # looked up once a size, not once a row
    groups = (
        select(staged.c.lane_id, staged.c.size)
        .where(staged.c.lane_id.is_not(None), staged.c.size.is_not(None), _is_new)
        .distinct()
        .subquery("groups")
    )
    item = items.alias("open")
    is_met = _is_any_unnamed(item, item.c.lane_id == groups.c.lane_id, item.c.size == groups.c.size)
    return insert(met).from_select(["lane_id", "size"], select(groups).where(is_met))


def _comparing(condition: ColumnElement[bool]) -> Insert:
    """Build the statement that lists rows to be compared with existing items."""
    return insert(compared).from_select(
        ["line", "lane_id", "path", "size"],
        select(staged.c.line, func.coalesce(staged.c.lane_id, 0), staged.c.path, staged.c.size).where(
            staged.c.path.is_not(None), _is_new, condition
        ),
    )


_COMPARE_GONE = _comparing(staged.c.size.is_(None))


@cache
def _compare_met() -> Insert:
    """Build the statement that lists the rows whose file is gone, or that share a size or a path with an item."""
    item = items.alias("open")
    has_size = tuple_(staged.c.lane_id, staged.c.size).in_(select(met.c.lane_id, met.c.size))
    has_path = _is_any_unnamed(item, item.c.lane_id == staged.c.lane_id, item.c.path == staged.c.path)
    meets = and_(staged.c.lane_id.is_not(None), or_(has_size, has_path))
    return _comparing(or_(staged.c.size.is_(None), meets))


# in the order of Row's fields, its signature last
_ROW = (
    *staged.c["line", "conversation_id", "audio_path", "path", "given_type"],
    *apart.c["parameters", "extras"],
    *staged.c["size", "change"],
)

# the rows to be compared, by lane, in the manifest's order
_COMPARED = (
    select(compared.c.lane_id, *_ROW)
    .select_from(compared)
    .join(staged, staged.c.line == compared.c.line)
    .outerjoin(apart, apart.c.line == compared.c.line)
    .order_by(compared.c.lane_id, compared.c.line)
    .execution_options(yield_per=TOGETHER)
)


def _items_beside(column: str) -> Select[Any]:
    """Select the items of some lanes that share a size, or a path, with one of the compared rows."""
    beside = (
        select(compared.c.lane_id, compared.c[column])
        .where(compared.c.lane_id.between(bindparam("lane_from"), bindparam("lane_to")))
        .distinct()
        .subquery()
    )
    return select(items.c.id).join(
        beside, and_(items.c.lane_id == beside.c.lane_id, items.c[column] == beside.c[column])
    )


@cache
def _items_of_lanes() -> Select[Any]:
    """Build the statement of the items of some lanes that compared rows may name."""
    return select(*_KNOWN).where(
        items.c.id.in_(_items_beside("size").union(_items_beside("path"))),
        _may_be_named(items),
        ~exists().where(found.c.item_id == items.c.id),
    )


@cache
def _refused() -> Select[Any]:
    """Build the statement of the refused items that untouched rows name, beside these rows."""
    return (
        select(*_ROW, *_KNOWN)
        .select_from(found)
        .join(staged, staged.c.line == found.c.line)
        .outerjoin(apart, apart.c.line == found.c.line)
        .join(items, items.c.id == found.c.item_id)
        .where(found.c.state == State.REFUSED, is_listed(found.c.state == State.REFUSED))
    )


# make a refused item pending again that its row corrects
_MEND = (
    update(found).where(found.c.line == bindparam("of_line")).values(mended=True, state=State.PENDING, takes=Takes.ROW)
)

# all staged rows, with the states of their items
_ALL = (
    select(
        *staged.c["line", "path", "size", "duration_seconds", "billed_seconds", "account"],
        apart.c.hints,
        found.c.state,
    )
    .select_from(staged)
    .outerjoin(apart, apart.c.line == staged.c.line)
    .outerjoin(found, found.c.line == staged.c.line)
    .order_by(staged.c.line)
    .execution_options(yield_per=TOGETHER)
)


def resolve_rows(
    connection: Connection, stage: Stage, repeat_id: int, hashes: Hashes
) -> list[tuple[Row, Unread | None]]:
    """Match each staged row to an existing item; writes to the stage alone.

    Args:
        connection: The stage's connection, in a transaction.
        stage: The staged rows.
        repeat_id: The ``--repeat`` whose own items alone are matched; 0 matches all items.
        hashes: Hashes of files; used only where a row's size equals that of an item.

    Returns:
        The rows whose file is gone although no item that was begun is theirs, and, each with the file that could not be
        read, those that may be an item or not.
    """
    stage.place()
    analyze(connection, staged, apart)
    which = {"repeat_id": repeat_id}
    # every item has a lane: where all rows are of new conversations, they name none
    if repeat_id == NEW_REPEAT or not stage.meets_lanes:
        connection.execute(_COMPARE_GONE)
    else:
        if connection.execute(_find_untouched(), which).rowcount:
            _mend_untouched(connection, hashes)
        connection.execute(_meet(), which)
        connection.execute(_compare_met(), which)
    lacking: list[tuple[Row, Unread | None]] = []
    for some in _by_lanes(connection.execute(_COMPARED)):
        lacking += _compare(connection, stage, some, repeat_id, hashes)
    return lacking


def staged_rows(connection: Connection) -> Iterator[Any]:
    """Yield all staged rows in the manifest's order, each with the state in which loading would leave its item.

    The state is None where the row is a new item; an invalid row has no path.
    """
    yield from connection.execute(_ALL)


def _by_lanes(rows: Iterable[tuple[Any, ...]]) -> Iterator[Sequence[tuple[Any, ...]]]:
    """Split rows, whose first column is their lane, into chunks of whole lanes."""
    some: list[tuple[Any, ...]] = []
    for _, of_lane in groupby(rows, itemgetter(0)):
        some += of_lane
        if len(some) >= TOGETHER:
            yield some
            some = []
    if some:
        yield some


def _compare(
    connection: Connection, stage: Stage, rows: Sequence[tuple[Any, ...]], repeat_id: int, hashes: Hashes
) -> list[tuple[Row, Unread | None]]:
    """Match the rows of some lanes one by one, in the manifest's order; return those that lack a file for it."""
    known: defaultdict[int, Items] = defaultdict(Items)
    span = {"lane_from": rows[0][0], "lane_to": rows[-1][0], "repeat_id": repeat_id}
    for columns in connection.execute(_items_of_lanes(), span):
        known[columns.lane_id].add(_existing_item(columns))
    taken, read, lacking = [], [], []
    for lane_id, *given in rows:
        row = _row(given)
        item = find(row.path, row.signature, known[lane_id], NAMED, hashes.of)
        if (content_hash := hashes.known(row.path)) is not None:
            read.append((row.line, content_hash))
        if isinstance(item, ExistingItem):
            item.load_id = NAMED
            taken.append(_found(item, row, hashes))
        elif item is not None or row.signature is None:
            lacking.append((row, item))
    execute_bulk(connection, found, found.columns.keys(), taken)
    stage.keep_hashes(read)
    return lacking


def _found(item: ExistingItem, row: Row, hashes: Hashes) -> tuple[int, int, str, int, bool]:
    """Return the columns of ``found`` for an item that a row names."""
    mended = is_corrected(item, row, hashes.of)
    state = State.PENDING if mended else item.state
    takes = Takes.ROW_AND_FILE if state is State.PENDING and row.signature is not None else Takes.NOTHING
    return row.line, item.item_id, state.value, takes.value, mended


def _mend_untouched(connection: Connection, hashes: Hashes) -> None:
    """Make refused items pending whose untouched rows correct them, by type or parameters."""
    mended = []
    for columns in connection.execute(_refused()):
        row = _row(columns[: len(_ROW)])
        if is_corrected(_existing_item(columns[len(_ROW) :]), row, hashes.of):
            mended.append({"of_line": row.line})
    if mended:
        connection.execute(_MEND, mended)


def _existing_item(columns: Sequence[Any]) -> ExistingItem:
    item_id, lane_id, path, size, change, content_hash, state, *more = columns
    attempts, position, load_id, content_type, parameters, is_refused_for_file = more
    state = _STATES[state]
    return ExistingItem(
        item_id,
        lane_id,
        path,
        size,
        change,
        content_hash,
        state,
        attempts,
        position,
        load_id,
        content_type,
        json.loads(parameters) if state is State.REFUSED else NOTHING,
        is_refused_for_file,
    )


def _row(columns: Sequence[Any]) -> Row:
    line, conversation_id, audio_path, path, content_type, parameters, extras, size, change = columns
    signature = None if size is None else FileSignature(size, change)
    return Row(
        line, conversation_id, audio_path, path, content_type, parameters or NOTHING, extras or NOTHING, signature
    )
