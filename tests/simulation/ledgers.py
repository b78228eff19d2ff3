"""A ledger in memory, fresh for every schedule, made from a template."""

import sqlite3
from typing import Any

from sqlalchemy import Engine, event, insert
from sqlalchemy.pool import StaticPool

from tests.statements import create_engine
from uploader.ledger import schema


class MemoryLedger:
    """One SQLAlchemy engine over one connection in memory, which ``fresh`` empties."""

    def __init__(self) -> None:
        self.engine = create_engine("sqlite://", poolclass=StaticPool)
        _begin_by_hand(self.engine)
        with self.engine.begin() as connection:
            schema.metadata.create_all(connection)
            connection.execute(insert(schema.ledger).values(version=schema.VERSION, webhook_key="key"))
        self._template = self._raw().serialize()

    def fresh(self) -> Engine:
        """Return the engine over an empty ledger."""
        self._raw().deserialize(self._template)
        return self.engine

    def _raw(self) -> sqlite3.Connection:
        connection: Any = self.engine.raw_connection().driver_connection
        return connection  # type: ignore[no-any-return]


def _begin_by_hand(engine: Engine) -> None:
    @event.listens_for(engine, "connect")
    def configure(connection: sqlite3.Connection, _: object) -> None:
        connection.isolation_level = None
        connection.execute("PRAGMA foreign_keys=ON")

    @event.listens_for(engine, "begin")
    def start(connection: Any) -> None:
        connection.exec_driver_sql("BEGIN")
