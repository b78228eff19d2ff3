"""Loads a manifest into the ledger: matches rows to existing items, adds the new ones, and orders the lanes."""

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path

from sqlalchemy import (
    JSON,
    Connection,
    bindparam,
    exists,
    func,
    insert,
    null,
    or_,
    select,
    tuple_,
    union,
    update,
)

from uploader.ledger.dialects import insert_or_ignore
from uploader.ledger.load_leases import Progress
from uploader.ledger.matching import NEW_REPEAT, Hashes, resolve_rows
from uploader.ledger.merging import merge
from uploader.ledger.schema import (
    accounts,
    batches,
    items,
    lanes,
    load_leases,
    loads,
    rows,
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
    staged,
)
from uploader.model import NOTHING, OVER, InvalidRow, Load, Problem, Row, State
from uploader.policy.identity import ContentHash, Unread
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

# the id of the newest load
_NEWEST_LOAD = select(func.coalesce(func.max(loads.c.id), 0))

# the batch of the newest load
_NEWEST_LOADED = select(loads.c.batch_id).where(loads.c.id == _NEWEST_LOAD.scalar_subquery())

# forget the counts of a batch's rows that are over
_FORGET_COUNTS = update(batches).where(batches.c.id == bindparam("of_batch")).values(counted=null())

_is_being_loaded = exists().where(
    load_leases.c.account_id == batches.c.account_id,
    load_leases.c.batch == batches.c.name,
    load_leases.c.progress == Progress.MERGING,
)

# mark a repeat as complete
_CLOSE_REPEAT = (
    update(batches)
    .where(batches.c.id == bindparam("of_batch"), batches.c.repeat_id == bindparam("complete"), ~_is_being_loaded)
    .values(repeat_open=False)
)

# the number of accounts
_COUNT_ACCOUNTS = select(func.count()).select_from(accounts)

# the accounts of the items of a batch's rows, and of those that its invalid rows have left without a row
_FORMER_ACCOUNTS = union(
    select(items.c.account_id).join(rows, rows.c.item_id == items.c.id).where(rows.c.batch_id == bindparam("batch")),
    select(items.c.account_id).where(items.c.invalid_batch_id == bindparam("batch")),
)

# the accounts of the rows whose items are not over once they are merged
_ACCOUNTS_TO_SEND = (
    select(ACCOUNT)
    .select_from(staged.outerjoin(found, found.c.line == staged.c.line))
    .where(HAS_LANE, or_(found.c.line.is_(None), found.c.state.not_in(OVER)))
    .distinct()
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

# invalid rows whose conversation can be read
_INVALID = (
    select(staged.c.line, staged.c.lane_id, staged.c.audio_path)
    .select_from(apart)
    .join(staged, staged.c.line == apart.c.line)
    .where(apart.c.error.is_not(None), staged.c.lane_id.is_not(None))
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
        manifest: The manifest's name in commands that a person is told to run.
        extra_columns: The manifest's ``x-`` columns, which its results repeat.
        repeat: Make new items of all rows (``--repeat``).
    """
    is_first = connection.execute(_ADD_BATCH, {"account_id": account_id, "name": name, "ran_at": now}).rowcount > 0
    batch = connection.execute(_BATCH, {"account": account_id, "named": name}).one()
    is_again = connection.execute(_NEWEST_LOADED).scalar() == batch.id
    load_id: int = connection.execute(_ADD_LOAD, {"batch_id": batch.id, "loaded_at": now}).scalar_one()
    repeat_id = 0
    if repeat:
        # an interrupted repeat is carried on, not begun once more
        repeat_id = batch.repeat_id if batch.repeat_open else load_id
    about = {"from": manifest, "to": str(results), "extras": list(extra_columns), "now": now}
    connection.execute(_SAVE_LOAD, about | {"batch": batch.id, "meant": repeat_id, "repeats": repeat})
    return Load(load_id, batch.id, account_id, repeat_id, is_first, is_again)


def newest_load(connection: Connection) -> int:
    """Return the id of the newest load of the ledger; 0 where there is none."""
    found: int = connection.execute(_NEWEST_LOAD).scalar_one()
    return found


def end_load(connection: Connection, load: Load) -> None:
    """End a load that was merged in steps: a count of the batch's rows that was kept between two steps is wrong."""
    connection.execute(_FORGET_COUNTS, {"of_batch": load.batch_id})


def accounts_to_send(connection: Connection, account_id: int) -> list[int]:
    """Return the ids of the accounts of the rows whose items are not over.

    Args:
        connection: The stage's connection, its rows resolved.
        account_id: The account of rows that name none.
    """
    return sorted(connection.execute(_ACCOUNTS_TO_SEND, {"account": account_id}).scalars())


def load_rows(
    connection: Connection,
    load: Load,
    manifest: Iterable[Row | InvalidRow],
    *,
    content_hash: ContentHash,
    probe: AudioProbe,
    accounts: Mapping[str, int] = NOTHING,
    are_appended: bool = False,
) -> list[InvalidRow]:
    """Load all rows of a manifest in one transaction: stage, resolve and merge them.

    Args:
        load: The load, as ``begin_load`` returned it.
        manifest: The rows; they are consumed one by one and not kept.
        content_hash: Hashes a file's content.
        probe: Reads duration and channels of a file whose row lacks them.
        accounts: The ids of the accounts that rows name.
        are_appended: As ``resolve`` takes it.

    Returns:
        The rows that are invalid after all.
    """
    stage = Stage(connection, load.account_id, accounts)
    stage.add(manifest, probe, separate=False)
    lacking = resolve(connection, stage, load.repeat_id, Hashes(content_hash), are_appended=are_appended)
    merge(connection, load)
    return lacking


def current_repeat_id(connection: Connection, account_id: int, name: str, *, repeat: bool) -> int:
    """Return the id of the repeat whose items a load of this batch would match, as ``resolve`` takes it."""
    if not repeat:
        return 0
    batch = connection.execute(_BATCH, {"account": account_id, "named": name}).one_or_none()
    return int(batch.repeat_id) if batch is not None and batch.repeat_open else NEW_REPEAT


def resolve(
    connection: Connection, stage: Stage, repeat_id: int, hashes: Hashes, *, are_appended: bool = False
) -> list[InvalidRow]:
    """Match each staged row to an existing item, and invalid rows to those that a person has dropped.

    Args:
        connection: The stage's connection, in a transaction; only the stage is written.
        stage: The staged rows.
        repeat_id: As ``current_repeat_id`` returns it.
        hashes: Hashes of files.
        are_appended: The rows were appended, so that one that cannot be compared is an item of its own.

    Returns:
        The rows that are invalid after all: their file is gone, and they match no item that was begun; or they, or an
        item, could not be read for the comparison that tells whether they are the same.
    """
    rows = resolve_rows(connection, stage, repeat_id, hashes)
    lacking = [_without_a_match(row, unread) for row, unread in rows if unread is None or not are_appended]
    stage.refuse(lacking)
    _find_dropped(connection)
    return lacking


def was_begun(
    connection: Connection, account_id: int | None, accounts: Mapping[str, int] = NOTHING
) -> Callable[[str, str, str | None], bool]:
    """Make the predicate that an item of a conversation, path and account was begun, so that its file may be gone.

    Args:
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


def close_repeat(connection: Connection, batch_id: int, repeat_id: int) -> None:
    """Mark a batch's repeat as complete, so that the next ``--repeat`` makes new items again.

    Args:
        repeat_id: The repeat that is complete: one that has begun since stays open, as does a load that is not at its
            end.
    """
    connection.execute(_CLOSE_REPEAT, {"of_batch": batch_id, "complete": repeat_id})


def former_accounts(connection: Connection, account_id: int, name: str) -> set[int]:
    """Return the ids of the accounts of what the earlier loads of a batch have left in the ledger."""
    batch = connection.execute(_BATCH, {"account": account_id, "named": name}).one_or_none()
    # most ledgers have one account, and need no look at all rows
    if batch is None or connection.execute(_COUNT_ACCOUNTS).scalar_one() == 1:
        return set()
    return set(connection.execute(_FORMER_ACCOUNTS, {"batch": batch.id}).scalars())


def save_rules(connection: Connection, account_id: int, *, limit: int, holds: bool) -> None:
    """Store the settings that are facts of the account: those of the run that began last hold for all its workers.

    Args:
        connection: A connection in a transaction, before ``activate_batch``.
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


def _without_a_match(row: Row, unread: Unread | None) -> InvalidRow:
    """Make the invalid row of a row that cannot be matched: its file is gone, or a file was not read."""
    remedy = (
        "the file is gone, and the item that was begun with it is another row's: bring it back or leave the row out"
        if unread is None
        else unread.value
    )
    problem = Problem(row.line, "audioPath", shown(row.audio_path), remedy)
    given = {**row.parameters, **({"contentType": row.content_type} if row.content_type else {})}
    is_gone = row.signature is None
    return InvalidRow(
        row.line, row.conversation_id, row.audio_path, row.extras, [problem], given=given, is_file_gone=is_gone
    )
