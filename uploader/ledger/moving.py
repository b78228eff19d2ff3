"""Moves a ledger from an SQLite file to a PostgreSQL database: once, whole, and checked by counts and hashes."""

import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing
from hashlib import blake2b
from typing import Any, NamedTuple

from sqlalchemy import JSON, Connection, Select, String, Table, cast, func, select, type_coerce, update

from uploader.errors import UsageError
from uploader.ledger import schema
from uploader.ledger.database import Ledger
from uploader.ledger.dialects import execute_bulk
from uploader.ledger.postgres import PostgresLedger
from uploader.ledger.sidecars import take_lock
from uploader.ledger.sqlite import connect, read_move, translate_errors
from uploader.ledger.sqlite_ledger import ledger_path

# rows are copied and compared in chunks of so many
CHUNK = 1000
# the table that a moved SQLite ledger has beside its own: where it went, and whether the move has ended
_MAKE_MARK = "CREATE TABLE moved (address TEXT NOT NULL, finished INTEGER NOT NULL)"
_ADD_MARK = "INSERT INTO moved VALUES (?, 0)"
_FINISH = "UPDATE moved SET finished = 1"
_TRIGGERS = "SELECT name FROM sqlite_master WHERE type = 'trigger' AND name LIKE 'moved!_%' ESCAPE '!'"


class Moved(NamedTuple):
    """The result of a move: the new ledger's address as it may be shown, and the rows by table."""

    address: str
    rows: Mapping[str, int]


class _Content(NamedTuple):
    """The number of a table's rows, and the hash of them in the order of their keys."""

    rows: int
    digest: str


def move(url: str, target_url: str) -> Moved:
    """Move a ledger that no run uses; interrupted, it is where it was, or the same call finishes the move.

    Args:
        url: The address of the SQLite ledger.
        target_url: The address of the PostgreSQL database, which holds no batch.

    Raises:
        UsageError: There is no such ledger, it has been moved, or the target is in use.
        LedgerBusyError: A run holds it.
        LedgerUnavailableError: One of the two cannot be read or written now.
    """
    with closing(PostgresLedger(target_url)) as target:
        found = _finish_interrupted(url, target)
        if found is not None:
            return found
        with Ledger.open_for_run(url, must_exist=True, alone=True) as source, target.filling() as new:
            copied = _fill(source, new, target.address)
        _finish(url)
        target.analyze()
    return Moved(target.address, {table.name: content.rows for table, content in copied.items()})


def _fill(source: Ledger, new: Connection, address: str) -> Mapping[Table, _Content]:
    """Copy and compare all, and mark the source; its mark is committed before the copy is.

    At no moment are there two ledgers that may be run.
    """
    with source.writing() as old:
        # as it is while nobody uses it
        old.execute(update(schema.ledger).values(in_use=False))
        copied = {table: _copy(old, new, table) for table in schema.metadata.sorted_tables}
        _check(new, copied)
        _continue_numbers(new)
        _mark(old, address)
    return copied


def _copy(old: Connection, new: Connection, table: Table) -> _Content:
    """Copy a table's rows; return what was read."""
    names = [column.name for column in _columns(table)]
    digest, rows = blake2b(), 0
    for chunk in _chunks(old, _all(table, old)):
        execute_bulk(new, table, names, chunk)
        rows += len(chunk)
        digest.update(repr(chunk).encode())
    return _Content(rows, digest.hexdigest())


def _check(new: Connection, copied: Mapping[Table, _Content]) -> None:
    """Read the copy again, and compare it with what was read of the source."""
    for table, content in copied.items():
        digest, rows = blake2b(), 0
        for chunk in _chunks(new, _all(table, new)):
            rows += len(chunk)
            digest.update(repr(chunk).encode())
        if (rows, digest.hexdigest()) != content:
            raise RuntimeError(
                f"the copy of table {table.name} differs: {rows} rows for {content.rows}: nothing was moved"
            )


def _chunks(connection: Connection, statement: Select[Any]) -> Iterator[list[tuple[Any, ...]]]:
    found = connection.execute(statement, execution_options={"yield_per": CHUNK})
    return ([tuple(row) for row in chunk] for chunk in found.partitions())


def _all(table: Table, connection: Connection) -> Select[Any]:
    """Select a table's rows in the order of their keys, JSON as the text that is stored."""
    as_text = cast if connection.dialect.name == "postgresql" else type_coerce
    columns = [as_text(column, String) if isinstance(column.type, JSON) else column for column in _columns(table)]
    return select(*columns).order_by(*table.primary_key)


def _columns(table: Table) -> Sequence[Any]:
    return [column for column in table.columns if column.computed is None]


def _continue_numbers(new: Connection) -> None:
    """Let the database give numbers behind those of the copied rows."""
    for table in schema.metadata.sorted_tables:
        last = new.execute(select(func.max(table.c.id))).scalar() if "id" in table.columns else None
        if last is not None:
            new.execute(select(func.setval(func.pg_get_serial_sequence(table.name, "id"), last)))


def _mark(old: Connection, address: str) -> None:
    """Mark an SQLite ledger as moved; nobody writes into it any more, not even who has it open."""
    old.exec_driver_sql(_MAKE_MARK)
    old.exec_driver_sql(_ADD_MARK, (address,))
    said = f"it was moved to {address}".replace("'", "''")
    for table in schema.metadata.sorted_tables:
        for event in ("INSERT", "UPDATE", "DELETE"):
            old.exec_driver_sql(
                f"CREATE TRIGGER moved_{event}_{table.name} BEFORE {event} ON {table.name} "
                f"BEGIN SELECT RAISE(ABORT, '{said}'); END"
            )


def _finish(url: str) -> None:
    path = ledger_path(url)
    with translate_errors(path), closing(connect(path, "rw")) as connection:
        connection.execute(_FINISH)
        connection.commit()


def _finish_interrupted(url: str, target: PostgresLedger) -> Moved | None:
    """Finish a move that was interrupted between its two commits; undo it where the second one never was.

    Returns:
        The finished move; None where there is none to finish.
    """
    path = ledger_path(url)
    if not path.is_file() or not path.stat().st_size:
        return None
    with translate_errors(path):
        lock = take_lock(path)
        try:
            with closing(connect(path, "rw")) as connection:
                moved = read_move(connection)
                if moved is None:
                    return None
                if moved.is_finished or moved.address != target.address:
                    raise UsageError(moved.describe(path))
                (key,) = connection.execute("SELECT webhook_key FROM ledger").fetchone()
                rows = target.rows_of(key)
                if rows is not None:
                    connection.execute(_FINISH)
                else:
                    for (name,) in connection.execute(_TRIGGERS).fetchall():
                        connection.execute(f"DROP TRIGGER {name}")
                    connection.execute("DROP TABLE moved")
                connection.commit()
        finally:
            os.close(lock)
    return None if rows is None else Moved(target.address, rows)
