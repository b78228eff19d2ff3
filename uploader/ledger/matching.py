"""Which items of the ledger the staged rows of a manifest name."""

from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from itertools import groupby
from operator import itemgetter
from typing import Any

from sqlalchemy import (
    Connection,
    Insert,
    Select,
    and_,
    bindparam,
    case,
    exists,
    func,
    insert,
    literal_column,
    or_,
    select,
    tuple_,
    update,
)
from sqlalchemy.dialects.sqlite import insert as insert_or_ignore
from sqlalchemy.sql.elements import ColumnElement

from uploader.ledger.schema import IS_REFUSED_FOR_FILE, items
from uploader.ledger.staging import Stage, Takes, apart, compared, found, is_listed, met, staged
from uploader.model import NOTHING, FileSignature, Row, State
from uploader.policy.identity import ContentHash, ExistingItem, Items, find, is_corrected

TOGETHER = 1000
"""So many rows' items are fetched with one statement, or those of one lane."""
NAMED = -1
"""In place of a load: a row of this manifest has named the item."""
NEW_REPEAT = -1
"""The generation of a ``--repeat`` that begins: no item is of it."""

# in the order of Known's fields
_KNOWN = (
    *items.c["id", "lane_id", "path", "size", "change", "content_hash", "state", "attempts", "position", "load_id"],
    *items.c["content_type", "parameters"],
    IS_REFUSED_FOR_FILE,
)
_STATES = {state.value: state for state in State}


class Hashes:
    """Hashes of files, each read once at most."""

    def __init__(self, read: ContentHash) -> None:
        self._read = read
        self._found: dict[str, str | None] = {}

    def of(self, path: str) -> str | None:
        """The hash of a file; it is read where it was not before."""
        if path not in self._found:
            self._found[path] = self._read(path)
        return self._found[path]

    def known(self, path: str) -> str | None:
        """The hash of a file that was read already."""
        return self._found.get(path)


def _may_be_named(item: Any) -> ColumnElement[bool]:
    """A repeat knows its own items alone; to any other load what a repeat appended is appended."""
    meant = bindparam("repeat_id", type_=items.c.repeat_id.type)
    return and_(item.c.invalid_batch_id.is_(None), or_(meant == 0, item.c.repeat_id == meant))


_first, _other, _open = items.alias("first"), items.alias("other"), items.alias("open")

_of_path = (
    select(_first.c.id)
    .where(_first.c.lane_id == staged.c.lane_id, _first.c.path == staged.c.path, _may_be_named(_first))
    .limit(1)
    .correlate(staged)
    .scalar_subquery()
)

# by the row's lane and path, which are the item's, too: were it about the item alone, SQLite would read all items first
_is_one_of_several = exists().where(
    _other.c.lane_id == staged.c.lane_id,
    _other.c.path == staged.c.path,
    _other.c.id != items.c.id,
    _may_be_named(_other),
)

# a row whose file is untouched since the one item of its path was loaded is that item; the first such row takes it
_FIND_UNTOUCHED = (
    insert_or_ignore(found)
    .from_select(
        ["line", "item_id", "state", "takes", "mended"],
        select(
            staged.c.line,
            items.c.id,
            items.c.state,
            case((items.c.state == State.PENDING, literal_column("1")), else_=literal_column("0")),
            bindparam("no", False),
        )
        .select_from(staged)
        .join(items, items.c.id == _of_path)
        .where(
            staged.c.lane_id.is_not(None),
            items.c.size == staged.c.size,
            items.c.change == staged.c.change,
            ~_is_one_of_several,
        )
        .order_by(staged.c.line),
    )
    .on_conflict_do_nothing()
)

_is_new = ~exists().where(found.c.line == staged.c.line)
_is_found = exists().where(found.c.item_id == _open.c.id)

_unnamed_of_path = exists().where(
    _open.c.lane_id == staged.c.lane_id, _open.c.path == staged.c.path, _may_be_named(_open), ~_is_found
)
_groups = (
    select(staged.c.lane_id, staged.c.size)
    .where(staged.c.lane_id.is_not(None), staged.c.size.is_not(None), _is_new)
    .distinct()
    .subquery("groups")
)

# sizes that meet an item which no row has named so far: looked up once a size, not once a row
_MEET = insert(met).from_select(
    ["lane_id", "size"],
    select(_groups).where(
        exists().where(
            _open.c.lane_id == _groups.c.lane_id, _open.c.size == _groups.c.size, _may_be_named(_open), ~_is_found
        )
    ),
)

# what is left is new, but for rows that meet an item by size or path, or have no file
_meets = or_(tuple_(staged.c.lane_id, staged.c.size).in_(select(met.c.lane_id, met.c.size)), _unnamed_of_path)


def _comparing(condition: ColumnElement[bool]) -> Insert:
    return insert(compared).from_select(
        ["line", "lane_id", "path", "size"],
        select(staged.c.line, func.coalesce(staged.c.lane_id, 0), staged.c.path, staged.c.size).where(
            staged.c.path.is_not(None), _is_new, condition
        ),
    )


_COMPARE_GONE = _comparing(staged.c.size.is_(None))
_COMPARE = _comparing(or_(staged.c.size.is_(None), and_(staged.c.lane_id.is_not(None), _meets)))

# in the order of Row's fields; its signature at last
_ROW = (
    *staged.c["line", "conversation_id", "audio_path", "path", "given_type"],
    *apart.c["parameters", "extras"],
    *staged.c["size", "change"],
)

_COMPARED = (
    select(compared.c.lane_id, *_ROW)
    .select_from(compared)
    .join(staged, staged.c.line == compared.c.line)
    .outerjoin(apart, apart.c.line == compared.c.line)
    .order_by(compared.c.lane_id, compared.c.line)
    .execution_options(yield_per=TOGETHER)
)


def _items_beside(column: str) -> Select[Any]:
    """Items that share a size, or a path, with one of the rows that are compared in some lanes."""
    beside = (
        select(compared.c.lane_id, compared.c[column])
        .where(compared.c.lane_id.between(bindparam("lane_from"), bindparam("lane_to")))
        .distinct()
        .subquery()
    )
    return select(items.c.id).join(
        beside, and_(items.c.lane_id == beside.c.lane_id, items.c[column] == beside.c[column])
    )


_ITEMS = select(*_KNOWN).where(
    items.c.id.in_(_items_beside("size").union(_items_beside("path"))),
    _may_be_named(items),
    ~exists().where(found.c.item_id == items.c.id),
)

_REFUSED = (
    select(*_ROW, *_KNOWN)
    .select_from(found)
    .join(staged, staged.c.line == found.c.line)
    .outerjoin(apart, apart.c.line == found.c.line)
    .join(items, items.c.id == found.c.item_id)
    .where(found.c.state == State.REFUSED, is_listed(found.c.state == State.REFUSED))
)

_MEND = (
    update(found).where(found.c.line == bindparam("of_line")).values(mended=True, state=State.PENDING, takes=Takes.ROW)
)

_ADD = insert(found)

_ALL = (
    select(
        *staged.c["line", "path", "size", "duration_seconds", "billed_seconds"],
        apart.c.hints,
        found.c.state,
    )
    .select_from(staged)
    .outerjoin(apart, apart.c.line == staged.c.line)
    .outerjoin(found, found.c.line == staged.c.line)
    .order_by(staged.c.line)
    .execution_options(yield_per=TOGETHER)
)


def resolve_rows(connection: Connection, stage: Stage, repeat_id: int, hashes: Hashes) -> list[Row]:
    """Look up which item each staged row names; nothing is written but the stage.

    Args:
        connection: The stage's connection, in a transaction.
        stage: The staged rows.
        repeat_id: That of the ``--repeat`` whose own items alone are meant; 0 means all items.
        hashes: Hashes of files; asked only where a size meets one that is known.

    Returns:
        The rows whose file is gone although no item that was begun is theirs.
    """
    stage.place()
    which = {"repeat_id": repeat_id}
    if repeat_id == NEW_REPEAT:
        connection.execute(_COMPARE_GONE)
    else:
        connection.execute(_FIND_UNTOUCHED, which)
        _mend_untouched(connection, hashes)
        connection.execute(_MEET, which)
        connection.execute(_COMPARE, which)
    lacking: list[Row] = []
    for some in _by_lanes(connection.execute(_COMPARED)):
        lacking += _compare(connection, stage, some, repeat_id, hashes)
    return lacking


def staged_rows(connection: Connection) -> Iterator[Any]:
    """Yield all staged rows in the manifest's order, with the state of the item.

    The state is the one in which loading would leave the item, None where the row is new; an invalid row has no path.
    """
    yield from connection.execute(_ALL)


def _by_lanes(rows: Iterable[tuple[Any, ...]]) -> Iterator[Sequence[tuple[Any, ...]]]:
    """Part rows, which begin with their lane, between lanes; some lanes together."""
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
) -> list[Row]:
    """Find the items of the rows of some lanes one by one, in the manifest's order; return those that lack a file."""
    known: defaultdict[int, Items] = defaultdict(Items)
    for one in connection.execute(_ITEMS, {"lane_from": rows[0][0], "lane_to": rows[-1][0], "repeat_id": repeat_id}):
        known[one.lane_id].add(_known(one))
    taken, read, lacking = [], [], []
    for lane_id, *columns in rows:
        row = _row(columns)
        item = find(row.path, row.signature, known[lane_id], NAMED, hashes.of)
        if (content_hash := hashes.known(row.path)) is not None:
            read.append({"of_line": row.line, "hash": content_hash})
        if item is not None:
            item.load_id = NAMED
            taken.append(_found(item, row, hashes))
        elif row.signature is None:
            lacking.append(row)
    if taken:
        connection.execute(_ADD, taken)
    stage.keep_hashes(read)
    return lacking


def _found(item: ExistingItem, row: Row, hashes: Hashes) -> dict[str, Any]:
    """What is kept of an item that a row names, and that was looked for one by one."""
    mended = is_corrected(item, row, hashes.of)
    state = State.PENDING if mended else item.state
    takes = Takes.ROW_AND_FILE if state is State.PENDING and row.signature is not None else Takes.NOTHING
    return {"line": row.line, "item_id": item.item_id, "state": state, "takes": takes, "mended": mended}


def _mend_untouched(connection: Connection, hashes: Hashes) -> None:
    """See which of the refused items that were found are corrected by their rows: by type or parameters alone."""
    mended = []
    for one in connection.execute(_REFUSED):
        row = _row(one[: len(_ROW)])
        if is_corrected(_known(one[len(_ROW) :]), row, hashes.of):
            mended.append({"of_line": row.line})
    if mended:
        connection.execute(_MEND, mended)


def _known(columns: Sequence[Any]) -> ExistingItem:
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
        parameters,
        is_refused_for_file,
    )


def _row(columns: Sequence[Any]) -> Row:
    line, conversation_id, audio_path, path, content_type, parameters, extras, size, change = columns
    signature = None if size is None else FileSignature(size, change)
    return Row(
        line,
        conversation_id,
        audio_path,
        path,
        content_type,
        parameters or NOTHING,
        extras or NOTHING,
        signature,
    )
