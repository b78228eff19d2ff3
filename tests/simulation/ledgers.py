"""A ledger in memory, fresh for every schedule, made from a template; a world's processes share it."""

import sqlite3
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

from sqlalchemy import Connection, Engine, event, insert
from sqlalchemy.dialects import registry
from sqlalchemy.dialects.sqlite.pysqlite import SQLiteDialect_pysqlite
from sqlalchemy.pool import StaticPool

from tests.simulation.prepared import PreparedConnection
from tests.statements import create_engine
from uploader.ledger import postgres, schema
from uploader.ledger.database import driver


class SimulatedDialect(SQLiteDialect_pysqlite):
    """SQLite, whose transactions begin with the first statement of the program; an event for that is dear."""

    supports_statement_cache = True
    # the next transaction begins with its first write
    begins_late = False

    def do_begin(self, dbapi_connection: Any) -> None:
        """Begin a transaction."""
        if not self.begins_late:
            dbapi_connection.execute("BEGIN")


registry.register("sqlite.simulated", __name__, "SimulatedDialect")


class MemoryLedger:
    """One SQLAlchemy engine over one connection in memory, which ``fresh`` empties."""

    def __init__(self) -> None:
        self.engine = create_engine("sqlite+simulated://", poolclass=StaticPool, pool_reset_on_return=None)
        self.engine._connection_cls = PreparedConnection
        event.listen(self.engine, "connect", _configure)
        with self.engine.begin() as connection:
            schema.metadata.create_all(connection)
            connection.execute(insert(schema.ledger).values(version=schema.VERSION, webhook_key="key"))
        self._template = sqlite3.connect(":memory:")
        self._raw().backup(self._template)

    def fresh(self) -> Engine:
        """Return the engine over an empty ledger."""
        # not by ``deserialize``, under which SQLite has crashed: this raises where a statement is half read
        self._template.backup(self._raw())
        return self.engine

    def _raw(self) -> sqlite3.Connection:
        connection: Any = self.engine.raw_connection().driver_connection
        return connection  # type: ignore[no-any-return]


class SharedLedger:
    """The writing transactions of all processes of a world.

    One that locks the accounts first, as on a server, has the ledger for itself. Without that lock others may commit
    between what it reads and what it writes.

    Args:
        engine: The engine.
        others_go_on: Lets the other processes go on while this one stands still.
    """

    def __init__(self, engine: Engine, others_go_on: Callable[[Any], None]) -> None:
        self._engine = engine
        # for transactions that lock: they are never two at a time
        self._locking = engine.connect()
        self._others_go_on = others_go_on
        # the process that reads without a lock
        self._reading: Any = None

    def connecting(self) -> Connection:
        """Give a connection whose transactions are begun by whoever has it."""
        return self._engine.connect()

    @contextmanager
    def writing(self, process: Any) -> Iterator[Connection]:
        """Give a connection in a transaction of a process."""
        if postgres._LOCK_SOME._for_update_arg is not None or self._reading is not None:
            with self._locking.begin():
                yield self._locking
            return
        dialect: Any = self._engine.dialect
        with ExitStack() as transaction:
            dialect.begins_late = True
            try:
                connection = transaction.enter_context(self._engine.begin())
            finally:
                dialect.begins_late = False
            event.listen(connection, "before_cursor_execute", self._before_statement)
            self._reading = process
            try:
                yield connection
            finally:
                self._reading = None

    def _before_statement(self, connection: Connection, *statement: Any) -> None:
        context, raw = statement[3], driver(connection)
        if (context.isinsert or context.isupdate or context.isdelete) and not raw.in_transaction:
            self._others_go_on(self._reading)
            raw.execute("BEGIN")


def _configure(connection: sqlite3.Connection, _: object) -> None:
    connection.isolation_level = None
    connection.execute("PRAGMA foreign_keys=ON")
