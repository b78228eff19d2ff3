"""A ledger in memory, fresh for every schedule, made from a template; a world's processes share it."""

import sqlite3
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from sqlalchemy import Connection, Engine, event, insert
from sqlalchemy.pool import StaticPool

from tests.statements import create_engine
from uploader.ledger import postgres, schema
from uploader.ledger.database import driver


class MemoryLedger:
    """One SQLAlchemy engine over one connection in memory, which ``fresh`` empties."""

    def __init__(self) -> None:
        self.engine = create_engine("sqlite://", poolclass=StaticPool)
        _begin_by_hand(self.engine)
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
        self._unlocked = engine.execution_options(is_unlocked=True)
        self._others_go_on = others_go_on
        # the process that reads without a lock
        self._reading: Any = None

    @contextmanager
    def writing(self, process: Any) -> Iterator[Connection]:
        """Give a connection in a transaction of a process."""
        if postgres._LOCK_SOME._for_update_arg is not None or self._reading is not None:
            with self._engine.begin() as connection:
                yield connection
            return
        with self._unlocked.begin() as connection:
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


def _begin_by_hand(engine: Engine) -> None:
    @event.listens_for(engine, "connect")
    def configure(connection: sqlite3.Connection, _: object) -> None:
        connection.isolation_level = None
        connection.execute("PRAGMA foreign_keys=ON")

    @event.listens_for(engine, "begin")
    def start(connection: Any) -> None:
        if not connection.get_execution_options().get("is_unlocked"):
            connection.exec_driver_sql("BEGIN")
