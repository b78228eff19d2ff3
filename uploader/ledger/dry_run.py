"""Loads staged rows into temporary copies of the tables, so that a plan runs the same statements as a run.

The copies have the names of the ledger's tables and hide them on their connection; the ledger itself is only read.
"""

from collections.abc import Collection, Iterable, Mapping
from pathlib import Path
from typing import Any

from sqlalchemy import Connection, Table, TableClause, case, column, func, insert, select, table
from sqlalchemy.schema import CreateIndex, CreateTable

from uploader.ledger.loading import account, begin_load
from uploader.ledger.merging import merge
from uploader.ledger.schema import accounts, batches, items, lanes, loads, rows, workers
from uploader.ledger.staging import Stage, found, staged
from uploader.model import NOTHING, OVER, Load, State

# rows are made anew by the load, which no worker is to keep from its place: these copies are empty at first
_COPIED = (accounts, batches, loads, lanes, items, workers, rows)
# rows are looked up by item, items by lane or by what is not over; a load looks for nothing else
_INDEXED = {"items_lane_state", "items_unfinished", "items_invalid", "rows_item", "lanes_active", "workers_ended"}


def _named(copied: Table, schema: str) -> TableClause:
    """Name one of the ledger's tables, which its copy hides, by the schema that it is in."""
    columns = (column(one.name, one.type) for one in copied.columns)
    return table(copied.name, *columns, schema=schema)


def _schemas(connection: Connection) -> tuple[str, str]:
    """Return the names of the schemas of the ledger's tables and of temporary ones."""
    if connection.dialect.name == "sqlite":
        return "main", "temp"
    return connection.execute(select(func.current_schema())).scalar_one(), "pg_temp"


_touched = select(staged.c.lane_id).where(staged.c.lane_id.is_not(None))


def make_copies(connection: Connection) -> None:
    """Make empty copies; a plan without a ledger loads into them."""
    _, temporary = _schemas(connection)
    as_copies = {"schema_translate_map": {None: temporary}}
    for copied in _COPIED:
        connection.execute(CreateTable(copied, include_foreign_key_constraints=[]), execution_options=as_copies)
        for index in copied.indexes:
            if index.name in _INDEXED:
                connection.execute(CreateIndex(index), execution_options=as_copies)


def copy_tables(connection: Connection, name: str, *, is_run_on: bool, recovers: bool = True) -> None:
    """Hide the ledger's tables behind copies of the rows that a load of the staged rows may touch.

    Args:
        connection: The stage's connection, in a transaction; every staged row has its lane, where there is one.
        name: The batch's name.
        is_run_on: A run holds the ledger, so that its attempts under way are not in doubt.
        recovers: Show attempts under way as the next run's recovery will leave them.
    """
    schema, temporary = _schemas(connection)
    kept_accounts, kept_batches, kept_loads, kept_lanes, kept_items = (
        _named(one, schema) for one in (accounts, batches, loads, lanes, items)
    )
    copied_batches, copied_loads, copied_items = (_named(one, temporary) for one in (batches, loads, items))
    make_copies(connection)
    recovered = {State.SENDING: State.PENDING} | ({} if is_run_on else {State.SENT: State.IN_DOUBT})
    whens = [(kept_items.c.state == left, becomes) for left, becomes in recovered.items()]
    state = case(*whens, else_=kept_items.c.state) if recovers else kept_items.c.state
    _copy(connection, accounts, kept_accounts)
    _copy(connection, lanes, kept_lanes, kept_lanes.c.id.in_(_touched))
    _copy(
        connection, items, kept_items, kept_items.c.lane_id.in_(_touched), kept_items.c.state.not_in(OVER), state=state
    )
    # of the items that are over only those that rows name, which keep their ids: others are neither sent nor in the way
    _copy(connection, items, kept_items, kept_items.c.id.in_(select(found.c.item_id)), kept_items.c.state.in_(OVER))
    # few, and each by its id: a join might read all loads
    for load_id in connection.execute(select(copied_items.c.load_id).distinct()).scalars().all():
        _copy(connection, loads, kept_loads, kept_loads.c.id == load_id)
    _copy(connection, batches, kept_batches, kept_batches.c.name == name)
    known = select(copied_batches.c.id)
    missing = select(copied_loads.c.batch_id).where(copied_loads.c.batch_id.not_in(known)).distinct()
    for batch_id in connection.execute(missing).scalars().all():
        _copy(connection, batches, kept_batches, kept_batches.c.id == batch_id)
    if connection.dialect.name != "sqlite":
        _number_on(connection, [kept_accounts, kept_batches, kept_loads, kept_lanes])


def _number_on(connection: Connection, tables: Iterable[TableClause]) -> None:
    """Let the ids of copies go on behind the ledger's own, as they do by themselves on SQLite."""
    for copied in tables:
        newest = connection.execute(select(func.max(copied.c.id))).scalar_one()
        if newest is not None:
            connection.execute(select(func.setval(f"pg_temp.{copied.name}_id_seq", newest)))


def load_copies(
    connection: Connection,
    stage: Stage,
    base_url: str,
    name: str,
    now: float,
    *,
    repeat: bool,
    accounts_of: Mapping[str, str] = NOTHING,
) -> Load:
    """Load the staged rows into the copies as a run would load them into the ledger.

    Args:
        connection: As for ``copy_tables``; the rows are resolved.
        stage: The staged rows.
        base_url: The base URL of the account of rows that name none.
        name: The batch's name.
        now: Seconds since the epoch.
        repeat: Make new items of all rows.
        accounts_of: The base URLs of the accounts that rows may name, by their names.
    """
    account_id = account(connection, base_url)
    named = stage.accounts() if accounts_of else ()
    stage.name_accounts({name: account(connection, accounts_of[name], name) for name in named})
    load = begin_load(
        connection, account_id, name, manifest="", results=Path(), extra_columns=(), now=now, repeat=repeat
    )
    merge(connection, load)
    return load


def copy_workers(connection: Connection, worker_ids: Collection[int], batch_id: int) -> None:
    """Copy workers, and the rows of their batches, for the sums of what is sent: what others carry is not the run's.

    Args:
        connection: As for ``load_copies``, after it and after ``activate_batch``.
        worker_ids: The workers.
        batch_id: The batch that was loaded, whose rows stand in the copies already.
    """
    if not worker_ids:
        return
    schema, temporary = _schemas(connection)
    kept_rows, kept_workers = _named(rows, schema), _named(workers, schema)
    copied_items, copied_workers = _named(items, temporary), _named(workers, temporary)
    _copy(connection, workers, kept_workers, kept_workers.c.id.in_(worker_ids))
    _copy(
        connection,
        rows,
        kept_rows,
        kept_rows.c.item_id.in_(select(copied_items.c.id)),
        kept_rows.c.batch_id.in_(select(copied_workers.c.batch_id).where(copied_workers.c.batch_id != batch_id)),
    )


def _copy(connection: Connection, copied: Table, source: TableClause, *conditions: Any, **instead: Any) -> None:
    """Copy rows of one of the ledger's tables; ``instead`` has values in place of some columns."""
    names = [one.name for one in copied.columns if one.computed is None]
    values = [instead.get(name, source.c[name]) for name in names]
    connection.execute(insert(copied).from_select(names, select(*values).where(*conditions)))
