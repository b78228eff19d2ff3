"""Loads staged rows into temporary copies of the tables, so that a plan runs the same statements as a run.

The copies have the names of the ledger's tables and hide them on their connection; the ledger itself is only read.
"""

from collections.abc import Collection, Iterable, Mapping
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from sqlalchemy import Connection, Table, TableClause, and_, case, column, func, insert, literal, select, table
from sqlalchemy.schema import CreateIndex, CreateTable

from uploader.ledger.amounts import ToSend
from uploader.ledger.lanes import INACTIVE
from uploader.ledger.loading import account, begin_load
from uploader.ledger.merging import merge
from uploader.ledger.reading import unfinished_accounts
from uploader.ledger.schema import accounts, attempts, batches, items, lanes, loads, rows, workers
from uploader.ledger.sending import begin_sending
from uploader.ledger.staging import Stage, found, staged
from uploader.model import OVER, Load, State
from uploader.settings import DEFAULT_ACCOUNT, Settings

# rows are made anew by the load, which no worker is to keep from its place: these copies are empty at first
_COPIED = (accounts, batches, loads, lanes, items, workers, rows)
# rows are looked up by item, items by lane or by what is not over; a load looks for nothing else
_INDEXED = {"items_lane_state", "items_unfinished", "items_invalid", "rows_item", "lanes_active", "workers_ended"}

# lanes are copied without what is active for the workers of the ledger
_INACTIVE = {name: literal(value, lanes.c[name].type) for name, value in INACTIVE.items()}


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


def make_tables(connection: Connection, schema: str | None = None) -> None:
    """Make empty tables for a load: copies in a schema, or those that a plan without a ledger has in their place."""
    in_schema = {"schema_translate_map": {None: schema}} if schema else {}
    for copied in (*_COPIED, *(() if schema else (attempts,))):
        connection.execute(CreateTable(copied, include_foreign_key_constraints=[]), execution_options=in_schema)
        for index in copied.indexes:
            if index.name in _INDEXED:
                connection.execute(CreateIndex(index), execution_options=in_schema)


class DryRun(NamedTuple):
    """A run of a batch, as far as it is foreseen on copies of the tables."""

    # the accounts that it sends to, by their ids
    names: Mapping[int, str]
    sending: Mapping[int, ToSend]


def dry_run(
    connection: Connection,
    stage: Stage,
    settings: Settings,
    base_urls: Mapping[str, str],
    name: str,
    now: float,
    alive: Collection[int],
) -> DryRun:
    """Load the staged rows into copies of the tables as a run would into the ledger, and sum up what it would send.

    Args:
        connection: The stage's connection, in a transaction that is rolled back; the rows are resolved.
        stage: The staged rows.
        base_urls: The base URLs of all accounts by their names.
        alive: The workers at work now: what they carry, and want of other batches, is none of the run's.
    """
    _copy_tables(connection, name, alive)
    load = _load_copies(connection, stage, base_urls, name, now, repeat=settings.repeat)
    # most manifests have one account, which rows need not be asked for
    found = unfinished_accounts(connection, load.batch_id) if settings.accounts else ()
    names = {account.account_id: account.name for account in found} or {load.account_id: DEFAULT_ACCOUNT}
    own_settings = {account_id: settings.of_account(account) for account_id, account in names.items()}

    # what others want stays inactive in the copies, as they come after the batch is active
    copy_workers = partial(_copy_workers, connection, alive, load.batch_id)
    sending = begin_sending(connection, load.batch_id, own_settings, settings.first, copy_workers)
    return DryRun(names, sending)


def _copy_tables(connection: Connection, name: str, alive: Collection[int]) -> None:
    """Hide the ledger's tables behind copies of the rows that a load of the staged rows may touch.

    Lanes are inactive in the copies, and attempts that no living worker carries are as the next run's recovery will
    leave them.
    """
    schema, temporary = _schemas(connection)
    kept_accounts, kept_batches, kept_loads, kept_lanes, kept_items = (
        _named(one, schema) for one in (accounts, batches, loads, lanes, items)
    )
    copied_batches, copied_loads, copied_items = (_named(one, temporary) for one in (batches, loads, items))
    make_tables(connection, temporary)
    is_carried = (
        select(attempts.c.id)
        .where(
            attempts.c.item_id == kept_items.c.id,
            attempts.c.number == kept_items.c.attempts,
            attempts.c.worker_id.in_(alive),
        )
        .exists()
    )
    recovered = {State.SENDING: State.PENDING, State.SENT: State.IN_DOUBT}
    whens = [(and_(kept_items.c.state == left, ~is_carried), becomes) for left, becomes in recovered.items()]
    state = case(*whens, else_=kept_items.c.state)
    _copy(connection, accounts, kept_accounts)
    _copy(connection, lanes, kept_lanes, kept_lanes.c.id.in_(_touched), **_INACTIVE)
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


def _load_copies(
    connection: Connection, stage: Stage, base_urls: Mapping[str, str], name: str, now: float, *, repeat: bool
) -> Load:
    """Load the staged rows into the copies as a run would load them into the ledger."""
    account_id = account(connection, base_urls[DEFAULT_ACCOUNT])
    named = stage.accounts() if len(base_urls) > 1 else ()
    stage.name_accounts({name: account(connection, base_urls[name], name) for name in named})
    load = begin_load(
        connection, account_id, name, manifest="", results=Path(), extra_columns=(), now=now, repeat=repeat
    )
    merge(connection, load)
    return load


def _copy_workers(connection: Connection, worker_ids: Collection[int], batch_id: int) -> None:
    """Copy workers, and the rows of their batches other than the one that was loaded, whose rows are there already."""
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
