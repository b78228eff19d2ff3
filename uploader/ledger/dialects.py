"""Statements that SQLite and PostgreSQL spell in two ways, behind one name each."""

from collections.abc import Iterable, Sequence
from functools import lru_cache
from itertools import chain
from typing import Any

from sqlalchemy import (
    JSON,
    Column,
    ColumnElement,
    Connection,
    Dialect,
    Insert,
    String,
    Table,
    bindparam,
    literal_column,
    select,
)
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.sql.functions import GenericFunction

from uploader.ledger.database import driver

# one statement of SQLite inserts so many rows, at two thirds of the cost of a row each
_TOGETHER = 20


class _InsertOrIgnore(Insert):
    inherit_cache = True


def insert_or_ignore(table: Table) -> Insert:
    """Build an insert that leaves out rows which a unique key has already; it returns nothing."""
    return _InsertOrIgnore(table).inline()


@compiles(_InsertOrIgnore)
def _compile(statement: Insert, compiler: Any, **options: Any) -> str:
    # SQLAlchemy has a construct of its own for each database; both take these words
    return f"{compiler.visit_insert(statement, **options)} ON CONFLICT DO NOTHING"


class _Unindexed(GenericFunction[Any]):
    """A column by whose index SQLite, which has no statistics, is not to look rows up."""

    inherit_cache = True
    name = "unindexed"


@compiles(_Unindexed)
def _compile_unindexed(function: _Unindexed, compiler: Any, **options: Any) -> str:
    return str(compiler.process(function.clauses, **options))


@compiles(_Unindexed, "sqlite")
def _compile_unindexed_sqlite(function: _Unindexed, compiler: Any, **options: Any) -> str:
    return f"+{compiler.process(function.clauses, **options)}"


def unindexed(column: ColumnElement[Any]) -> ColumnElement[Any]:
    """Build a column that SQLite does not look up in an index; PostgreSQL decides by its statistics."""
    return _Unindexed(column)


class _JsonTexts(GenericFunction[str]):
    """The table of the texts of a JSON array, with the column ``value``."""

    inherit_cache = True
    name = "json_array_elements_text"


@compiles(_JsonTexts, "sqlite")
def _compile_texts(function: _JsonTexts, compiler: Any, **options: Any) -> str:
    return f"json_each{compiler.process(function.clause_expr, **options)}"


def is_among(column: Column[str], name: str) -> ColumnElement[bool]:
    """Build the condition that a column is one of the texts of a JSON array, which is a parameter of this name.

    SQLAlchemy would write a parameter for each text into every statement, and cost more than the look-up.
    """
    return column.in_(select(literal_column("value", String)).select_from(_JsonTexts(bindparam(name, type_=JSON))))


def analyze(connection: Connection, *tables: Table) -> None:
    """Let PostgreSQL's planner know what temporary tables hold, which the server never finds out by itself."""
    if connection.dialect.name != "sqlite":
        connection.exec_driver_sql("ANALYZE " + ", ".join(table.name for table in tables))


def execute_bulk(connection: Connection, table: Table, names: Iterable[str], rows: Sequence[tuple[Any, ...]]) -> None:
    """Insert many tuples of a table's columns by the driver, which takes the values as they are."""
    # SQLAlchemy would make a dictionary of each, and cost more than the database
    if not rows:
        return
    if connection.dialect.name == "sqlite":
        names, whole = tuple(names), len(rows) - len(rows) % _TOGETHER
        if whole:
            flat = [tuple(chain.from_iterable(rows[at : at + _TOGETHER])) for at in range(0, whole, _TOGETHER)]
            connection.exec_driver_sql(_insert_text(table, names, connection.dialect, _TOGETHER), flat)
        if rest := list(rows[whole:]):
            connection.exec_driver_sql(_insert_text(table, names, connection.dialect, 1), rest)
        return
    copying = _copy_text(table, tuple(names), connection.dialect)
    with driver(connection).cursor() as cursor, cursor.copy(copying) as copy:
        for row in rows:
            copy.write_row(row)


@lru_cache
def _insert_text(table: Table, names: tuple[str, ...], dialect: Dialect, rows: int) -> str:
    marks = ", ".join(["(" + ", ".join("?" * len(names)) + ")"] * rows)
    return f"INSERT INTO {table.name} ({_listed(names, dialect)}) VALUES {marks}"  # noqa: S608 - names of ours


@lru_cache
def _copy_text(table: Table, names: tuple[str, ...], dialect: Dialect) -> str:
    return f"COPY {table.name} ({_listed(names, dialect)}) FROM STDIN"


def _listed(names: Iterable[str], dialect: Dialect) -> str:
    return ", ".join(map(dialect.identifier_preparer.quote, names))
