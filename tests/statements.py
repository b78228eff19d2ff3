"""SQL statements that a process compiles once: by itself, each engine of SQLAlchemy compiles its own."""

from functools import cache
from typing import Any

import sqlalchemy
from sqlalchemy import Engine

from uploader.ledger import sqlite

# more than the tests of a process ever execute
STATEMENTS = 5000


@cache
def _first_engine() -> Engine:
    made = sqlalchemy.create_engine("sqlite://", query_cache_size=STATEMENTS)
    made.connect().close()  # sets up the dialect, which is part of the key of a compiled statement
    made.dispose()
    return made


def create_engine(url: str, **options: Any) -> Engine:
    """Make an engine for SQLite as SQLAlchemy does, which finds the statements that others have compiled."""
    made = sqlalchemy.create_engine(url, **options)
    made.dialect, made._compiled_cache = _first_engine().dialect, _first_engine()._compiled_cache
    return made


def compile_once() -> None:
    """Let the ledgers that this process opens from now on share their compiled statements."""
    sqlite.create_engine = create_engine  # type: ignore[attr-defined, assignment] # the name that it imports
