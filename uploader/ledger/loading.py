"""Loads a manifest into the ledger: matches rows to existing items, adds the new ones, and orders the lanes."""

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

from sqlalchemy import (
    JSON,
    BigInteger,
    Column,
    Connection,
    RowMapping,
    ScalarSelect,
    Select,
    Update,
    and_,
    bindparam,
    case,
    delete,
    exists,
    func,
    insert,
    literal,
    literal_column,
    select,
    tuple_,
    update,
)
from sqlalchemy.sql.elements import ColumnElement

from uploader.ledger.dialects import insert_or_ignore
from uploader.ledger.matching import NEW_REPEAT, Hashes, resolve_rows
from uploader.ledger.schema import (
    ITEMS_PER_LOAD,
    POSITIONS_PER_LOAD,
    accounts,
    batches,
    items,
    lanes,
    loads,
    rows,
    workers,
)
from uploader.ledger.staging import (
    ACCOUNT,
    CHUNK,
    HAS_LANE,
    AudioProbe,
    Stage,
    Takes,
    apart,
    chunks,
    found,
    hashed,
    is_listed,
    staged,
)
from uploader.model import NOTHING, InvalidRow, Load, Problem, Row, State
from uploader.policy.identity import ContentHash
from uploader.urls import shown

# make an account unless it exists
_ADD_ACCOUNT = insert_or_ignore(accounts)

# the id of an account
_ACCOUNT = select(accounts.c.id).where(accounts.c.base_url == bindparam("url"), accounts.c.name == bindparam("named"))

# make a batch unless it exists
_ADD_BATCH = insert_or_ignore(batches).values(repeat_id=0, extra_columns=[]).execution_options(preserve_rowcount=True)

# a batch by its name
_BATCH = select(batches.c.id, batches.c.repeat_id, batches.c.repeat_open).where(
    batches.c.account_id == bindparam("account"), batches.c.name == bindparam("named")
)

# add a load of a batch
_ADD_LOAD = insert(loads).returning(loads.c.id)

# store the facts of a batch's newest load
_SAVE_LOAD = (
    update(batches)
    .where(batches.c.id == bindparam("batch"))
    .values(
        manifest=bindparam("from"),
        results=bindparam("to"),
        extra_columns=bindparam("extras", type_=JSON),
        repeat_id=bindparam("meant"),
        repeat_open=bindparam("repeats"),
        ran_at=bindparam("now"),
    )
)

# delete the rows of a batch's previous load
_FORGET_ROWS = delete(rows).where(rows.c.batch_id == bindparam("batch"))

# delete the items of a batch's invalid rows
_FORGET_INVALID = delete(items).where(items.c.invalid_batch_id == bindparam("batch"))

# add a lane for each new conversation
_ADD_LANES = insert_or_ignore(lanes).from_select(
    ["account_id", "conversation_id"],
    select(ACCOUNT, staged.c.conversation_id).where(staged.c.lane_id.is_(None), HAS_LANE).distinct(),
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
    "repeat_id": bindparam("repeat_id", type_=BigInteger),
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
    .where(~exists().where(found.c.line == staged.c.line), HAS_LANE)
    .order_by(staged.c.line),
)


_named_in = select(found.c.line).where(found.c.item_id == items.c.id).correlate(items).scalar_subquery()

# make the load the last that has named these items
_NAME = update(items).where(is_listed(found.c.takes == Takes.NOTHING)).values(load_id=bindparam("load"), line=_named_in)

# make the refused items pending that their rows correct
_MEND = (
    update(items)
    .where(items.c.id == found.c.item_id, found.c.mended, is_listed(found.c.mended))
    .values(state=State.PENDING, error=None, http_status=None, finished_at=None, cut_offs=0)
)

# a pending item takes its row's parameters, and the row's place unless it was begun
_taken = {
    "load_id": bindparam("load"),
    "line": staged.c.line,
    **{name: staged.c[name] for name in _SENT},
    "parameters": func.coalesce(_of_row(apart.c.parameters), literal_column("'{}'")),
    "position": case((items.c.attempts > 0, items.c.position), else_=_new_position),
}


def _taking(takes: Takes, **more: ColumnElement[Any]) -> Update:
    """Build the statement by which matched items take columns of their rows."""
    return (
        update(items)
        .where(
            # the sum keeps SQLite from reading all items and looking for each in ``found``
            items.c.id == found.c.item_id.op("+")(0),
            found.c.takes == takes,
            staged.c.line == found.c.line,
        )
        .values(**_taken, **more)
    )


# the workers of a part of their batch (--first) that have not ended
_PARTS = select(*workers.c["id", "account_id", "batch_id", "until_position"]).where(
    workers.c.ended_at.is_(None), workers.c.until_position > 0
)

# move the end of a worker's part
_MOVE_PART = update(workers).where(workers.c.id == bindparam("worker")).values(until_position=bindparam("until"))


@cache
def _moved_part() -> Select[Any]:
    """Build the statement of the last position of a part's pending items, and the first of the rest, after a load."""
    takes_place = and_(found.c.takes.in_([Takes.ROW, Takes.ROW_AND_FILE]), items.c.attempts == 0)
    moved = bindparam("first_position", type_=BigInteger) + found.c.line
    position = case((takes_place, moved), else_=items.c.position)
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


_is_unchanged = and_(items.c.path == staged.c.path, items.c.change == staged.c.change)

_TAKE = _taking(Takes.ROW)

_TAKE_WITH_FILE = _taking(
    Takes.ROW_AND_FILE,
    **{name: staged.c[name] for name in _FILE},
    content_hash=func.coalesce(_of_row(hashed.c.content_hash), case((_is_unchanged, items.c.content_hash))),
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

# add the rows of the load
_ADD_ROWS = insert(rows).from_select(
    list(_ROW),
    select(*_ROW.values()).select_from(_beside.outerjoin(found, found.c.line == staged.c.line)).order_by(staged.c.line),
)

# store the settings of the account's latest run
_SAVE_RULES = (
    update(accounts)
    .where(accounts.c.id == bindparam("account"))
    .values(configured_limit=bindparam("limit"), holds=bindparam("on_trouble"))
)

# an item of a conversation and path that was begun
_WAS_BEGUN = (
    select(items.c.id)
    .join(lanes, lanes.c.id == items.c.lane_id)
    .where(
        lanes.c.account_id == bindparam("account"),
        lanes.c.conversation_id == bindparam("conversation"),
        items.c.path == bindparam("of_path"),
        items.c.attempts > 0,
    )
    .limit(1)
)

# a row that names an item of the ledger, if there is one
_ANY_FOUND = select(found.c.line).limit(1)

# invalid rows whose conversation can be read
_INVALID = (
    select(staged.c.line, staged.c.lane_id, staged.c.audio_path)
    .select_from(apart)
    .join(staged, staged.c.line == apart.c.line)
    .where(_is_invalid, staged.c.lane_id.is_not(None))
    .order_by(staged.c.line)
)

# items of invalid rows that a person dropped, by lane and path: for a join SQLite might read all items
_DROPPED = (
    select(items.c.lane_id, items.c.path, items.c.id)
    .where(
        tuple_(items.c.lane_id, items.c.path).in_(bindparam("places", expanding=True)),
        items.c.state == State.DROPPED,
        items.c.attempts == 0,
        items.c.size.is_(None),
    )
    .order_by(items.c.id.desc())
)


def account(connection: Connection, base_url: str, name: str = "default") -> int:
    """Find or make the account of a base URL and a name; return its id."""
    which = {"base_url": base_url, "name": name}
    connection.execute(_ADD_ACCOUNT, which)
    found: int = connection.execute(_ACCOUNT, {"url": base_url, "named": name}).scalar_one()
    return found


def begin_load(
    connection: Connection,
    account_id: int,
    name: str,
    *,
    manifest: str,
    results: Path,
    extra_columns: Sequence[str],
    now: float,
    repeat: bool,
) -> Load:
    """Begin to load a manifest as the batch of this name.

    Args:
        connection: A connection in a transaction, the same until ``merge``.
        account_id: The account of the batch.
        name: The batch's name.
        manifest: The manifest's name in commands that a person is told to run.
        results: The results file.
        extra_columns: The manifest's ``x-`` columns, which its results repeat.
        now: The time, in seconds since the epoch.
        repeat: Make new items of all rows (``--repeat``).
    """
    is_first = connection.execute(_ADD_BATCH, {"account_id": account_id, "name": name, "ran_at": now}).rowcount > 0
    batch = connection.execute(_BATCH, {"account": account_id, "named": name}).one()
    load_id: int = connection.execute(_ADD_LOAD, {"batch_id": batch.id, "loaded_at": now}).scalar_one()
    repeat_id = 0
    if repeat:
        # an interrupted repeat is carried on, not begun once more
        repeat_id = batch.repeat_id if batch.repeat_open else load_id
    about = {"from": manifest, "to": str(results), "extras": list(extra_columns), "now": now}
    connection.execute(_SAVE_LOAD, about | {"batch": batch.id, "meant": repeat_id, "repeats": repeat})
    return Load(load_id, batch.id, account_id, repeat_id, is_first)


def load_rows(
    connection: Connection,
    load: Load,
    manifest: Iterable[Row | InvalidRow],
    *,
    content_hash: ContentHash,
    probe: AudioProbe,
    separate: bool = False,
    accounts: Mapping[str, int] = NOTHING,
) -> list[InvalidRow]:
    """Load all rows of a manifest in one transaction: stage, resolve and merge them.

    Args:
        connection: A connection in a transaction.
        load: The load, as ``begin_load`` returned it.
        manifest: The rows; they are consumed one by one and not kept.
        content_hash: Hashes a file's content.
        probe: Reads duration and channels of a file whose row lacks them.
        separate: Channels are recognised, and billed, separately where a row does not say.
        accounts: The ids of the accounts that rows name.

    Returns:
        The rows that are invalid after all: their file is gone, and they match no item that was begun.
    """
    stage = Stage(connection, load.account_id, accounts)
    stage.add(manifest, probe, separate=separate)
    lacking = resolve(connection, stage, load.repeat_id, Hashes(content_hash))
    merge(connection, load)
    return lacking


def current_repeat_id(connection: Connection, account_id: int, name: str, *, repeat: bool) -> int:
    """Return the id of the repeat whose items a load of this batch would match, as ``resolve`` takes it."""
    if not repeat:
        return 0
    batch = connection.execute(_BATCH, {"account": account_id, "named": name}).one_or_none()
    return int(batch.repeat_id) if batch is not None and batch.repeat_open else NEW_REPEAT


def resolve(connection: Connection, stage: Stage, repeat_id: int, hashes: Hashes) -> list[InvalidRow]:
    """Match each staged row to an existing item, and invalid rows to those that a person has dropped.

    Args:
        connection: The stage's connection, in a transaction; only the stage is written.
        stage: The staged rows.
        repeat_id: As ``current_repeat_id`` returns it.
        hashes: Hashes of files.

    Returns:
        The rows that are invalid after all.
    """
    lacking = [without_a_file(row) for row in resolve_rows(connection, stage, repeat_id, hashes)]
    stage.refuse(lacking)
    _find_dropped(connection)
    return lacking


def merge(connection: Connection, load: Load) -> None:
    """Merge the resolved rows into the ledger, in a fixed number of statements; they replace the batch's rows."""
    values = {
        "account": load.account_id,
        "batch": load.batch_id,
        "load": load.load_id,
        "repeat_id": load.repeat_id,
        "first_position": load.load_id * POSITIONS_PER_LOAD,
        "first_id": load.load_id * ITEMS_PER_LOAD,
    }
    parts = connection.execute(_PARTS).mappings().all()
    for worker_id, until in [(part["id"], _moved_until(connection, part, values)) for part in parts]:
        connection.execute(_MOVE_PART, {"worker": worker_id, "until": until})
    if not load.is_first:
        connection.execute(_FORGET_ROWS, values)
        connection.execute(_FORGET_INVALID, values)
    connection.execute(_ADD_LANES, values)
    connection.execute(_ADD_ITEMS, values)
    if connection.execute(_ANY_FOUND).first() is not None:
        for statement in (_NAME, _MEND, _TAKE, _TAKE_WITH_FILE):
            connection.execute(statement, values)
    connection.execute(_ADD_ROWS, values)


def _moved_until(connection: Connection, part: RowMapping, values: Mapping[str, Any]) -> int:
    """Return the last position of a worker's part (``--first``) once a load has moved items."""
    of_part = {"of": part["batch_id"], "sent_to": part["account_id"], "until": part["until_position"]}
    wanted, unwanted = connection.execute(_moved_part(), {**values, **of_part}).one()
    until: int = max(part["until_position"], wanted or 0)
    # moved in another order, or but a few: the part becomes smaller, as it never sends more than was chosen
    return until if unwanted is None else min(until, unwanted - 1)


def was_begun(
    connection: Connection, account_id: int | None, accounts: Mapping[str, int] = NOTHING
) -> Callable[[str, str, str | None], bool]:
    """Make the predicate that an item of a conversation, path and account was begun, so that its file may be gone.

    Args:
        connection: A connection in a transaction.
        account_id: The account of rows that name none; None where the ledger has none.
        accounts: The ids of the accounts that rows may name, as far as the ledger has them.
    """
    # compiled once: the predicate may be called for every row
    statement = _WAS_BEGUN.compile(dialect=connection.dialect)
    names, text = statement.positiontup, str(statement)

    # the driver's own cursor: SQLAlchemy's result costs several times what the look-up does
    cursor = connection.connection.cursor()

    def begun(conversation_id: str, path: str, named: str | None = None) -> bool:
        which = account_id if named is None else accounts.get(named)
        values = {**statement.params, "account": which, "conversation": conversation_id, "of_path": path}
        cursor.execute(text, values if names is None else tuple([values[name] for name in names]))
        return bool(cursor.fetchall())

    return begun


def close_repeat(connection: Connection, batch_id: int) -> None:
    """Mark a batch's repeat as complete, so that the next ``--repeat`` makes new items again."""
    connection.execute(update(batches).where(batches.c.id == batch_id).values(repeat_open=False))


def save_rules(connection: Connection, account_id: int, *, limit: int, holds: bool) -> None:
    """Store the settings that are facts of the account: those of the run that began last hold for all its workers.

    Args:
        connection: A connection in a transaction, before ``activate_batch``.
        account_id: The account.
        limit: The limit of concurrent jobs.
        holds: Trouble holds the rest of a lane (``[lanes] on_trouble``).
    """
    connection.execute(_SAVE_RULES, {"account": account_id, "limit": limit, "on_trouble": holds})


def save_run(connection: Connection, batch_id: int, results: Path, now: float) -> None:
    """Store the time and the results file of a batch's run, which nothing has held back yet."""
    connection.execute(
        update(batches).where(batches.c.id == batch_id).values(ran_at=now, results=str(results), held_back=None)
    )


def _find_dropped(connection: Connection) -> None:
    """Match invalid rows to dropped items of invalid rows with the same lane and path."""
    invalid = connection.execute(_INVALID).all()
    places = dict.fromkeys((row.lane_id, row.audio_path) for row in invalid)
    dropped = defaultdict[tuple[int, str], list[int]](list)
    for chunk in chunks(places, CHUNK):
        for item in connection.execute(_DROPPED, {"places": chunk}):
            dropped[item.lane_id, item.path].append(item.id)
    values = [
        {"line": row.line, "item_id": waiting.pop(), "state": State.DROPPED, "takes": Takes.NOTHING, "mended": False}
        for row in invalid
        if (waiting := dropped[row.lane_id, row.audio_path])
    ]
    if values:
        connection.execute(insert(found), values)


def without_a_file(row: Row) -> InvalidRow:
    """Make the invalid row of a row whose file is gone, and that matches no item that was begun."""
    remedy = (
        "the file is gone, and the item that was begun with it is another row's: bring it back or leave the row out"
    )
    problem = Problem(row.line, "audioPath", shown(row.audio_path), remedy)
    given = {**row.parameters, **({"contentType": row.content_type} if row.content_type else {})}
    return InvalidRow(row.line, row.conversation_id, row.audio_path, row.extras, [problem], given=given)
