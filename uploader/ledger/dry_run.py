"""Loads staged rows into temporary copies of the tables, so that a plan runs the same statements as a run.

The copies have the names of the ledger's tables and hide them on their connection; the ledger itself is only read.
"""

from pathlib import Path
from typing import Any

from sqlalchemy import Connection, Table, TableClause, case, column, insert, select, table
from sqlalchemy.schema import CreateIndex, CreateTable

from uploader.ledger.loading import account, begin_load, merge
from uploader.ledger.schema import accounts, batches, items, lanes, loads, rows
from uploader.ledger.staging import found, staged
from uploader.model import OVER, Load, State

_COPIED = (accounts, batches, loads, lanes, items, rows)
_AS_COPIES = {"schema_translate_map": {None: "temp"}}
# rows are looked up by item, items by lane or by what is not over; a load looks for nothing else
_INDEXED = {"items_lane_state", "items_unfinished", "items_invalid", "rows_item", "lanes_active"}


def _named(copied: Table, schema: str) -> TableClause:
    """Name one of the ledger's tables (``main``), which its copy hides, or that copy (``temp``)."""
    columns = (column(one.name, one.type) for one in copied.columns)
    return table(copied.name, *columns, schema=schema)


_accounts, _batches, _loads, _lanes, _items = (_named(one, "main") for one in (accounts, batches, loads, lanes, items))
_copied_batches, _copied_loads, _copied_items = (_named(one, "temp") for one in (batches, loads, items))
_touched = select(staged.c.lane_id).where(staged.c.lane_id.is_not(None))


def make_copies(connection: Connection) -> None:
    """Make empty copies; a plan without a ledger loads into them."""
    for copied in _COPIED:
        made = CreateTable(copied, include_foreign_key_constraints=[])
        connection.execute(made, execution_options=_AS_COPIES)
        for index in copied.indexes:
            if index.name in _INDEXED:
                connection.execute(CreateIndex(index), execution_options=_AS_COPIES)


def copy_tables(connection: Connection, name: str, *, is_run_on: bool) -> None:
    """Hide the ledger's tables behind copies of the rows that a load of the staged rows may touch.

    Args:
        connection: The stage's connection, in a transaction; every staged row has its lane, where there is one.
        name: The batch's name.
        is_run_on: A run holds the ledger, so that its attempts under way are not in doubt.
    """
    make_copies(connection)
    # attempts under way as the next run's recovery will leave them
    recovered = {State.SENDING: State.PENDING} | ({} if is_run_on else {State.SENT: State.IN_DOUBT})
    state = case(*((_items.c.state == left, becomes) for left, becomes in recovered.items()), else_=_items.c.state)
    _copy(connection, accounts, _accounts)
    _copy(connection, lanes, _lanes, _lanes.c.id.in_(_touched))
    _copy(connection, items, _items, _items.c.lane_id.in_(_touched), _items.c.state.not_in(OVER), state=state)
    # of the items that are over only those that rows name, which keep their ids: others are neither sent nor in the way
    _copy(connection, items, _items, _items.c.id.in_(select(found.c.item_id)), _items.c.state.in_(OVER))
    # few, and each by its id: a join might read all loads
    for load_id in connection.execute(select(_copied_items.c.load_id).distinct()).scalars().all():
        _copy(connection, loads, _loads, _loads.c.id == load_id)
    _copy(connection, batches, _batches, _batches.c.name == name)
    known = select(_copied_batches.c.id)
    missing = select(_copied_loads.c.batch_id).where(_copied_loads.c.batch_id.not_in(known)).distinct()
    for batch_id in connection.execute(missing).scalars().all():
        _copy(connection, batches, _batches, _batches.c.id == batch_id)


def load_copies(connection: Connection, base_url: str, name: str, now: float, *, repeat: bool) -> Load:
    """Load the staged rows into the copies as a run would load them into the ledger.

    Args:
        connection: As for ``copy_tables``; the rows are resolved.
        base_url: The account's base URL.
        name: The batch's name.
        now: Seconds since the epoch.
        repeat: Make new items of all rows.
    """
    account_id = account(connection, base_url)
    load = begin_load(
        connection, account_id, name, manifest="", results=Path(), extra_columns=(), now=now, repeat=repeat
    )
    merge(connection, load)
    return load


def _copy(connection: Connection, copied: Table, source: TableClause, *conditions: Any, **instead: Any) -> None:
    """Copy rows of one of the ledger's tables; ``instead`` has values in place of some columns."""
    names = [one.name for one in copied.columns if one.computed is None]
    values = [instead.get(name, source.c[name]) for name in names]
    connection.execute(insert(copied).from_select(names, select(*values).where(*conditions)))
