"""SQL statements that a process compiles once: by itself, each engine of SQLAlchemy compiles its own."""

from typing import Any

import sqlalchemy
from sqlalchemy import Engine
from sqlalchemy.schema import CreateIndex, CreateTable

from uploader.ledger import postgres_connection, sqlite

# more than the tests of a process ever execute
STATEMENTS = 5000

# by their addresses, the engines whose dialect and compiled statements others share
_FIRST: dict[str, Engine] = {}


def create_engine(url: str, **options: Any) -> Engine:
    """Make an engine as SQLAlchemy does, which finds the statements that others of its database have compiled."""
    made = sqlalchemy.create_engine(url, query_cache_size=STATEMENTS, **options)
    first = _FIRST.setdefault(url, made)
    # a dialect is part of the key of a compiled statement, and is set up by its engine's first connection
    if first.dialect.server_version_info is None:
        _FIRST[url] = made
    else:
        made.dialect, made._compiled_cache = first.dialect, first._compiled_cache
    return made


_of_postgres: list[Engine] = []


def create_postgres_engine(url: str, **options: Any) -> Engine:
    """Make an engine for PostgreSQL, which finds the statements that the first one and others have compiled."""
    made = sqlalchemy.create_engine(url, query_cache_size=STATEMENTS, **options)
    if not _of_postgres:
        made.connect().close()  # sets up the dialect
        _of_postgres.append(made)
    made.dialect, made._compiled_cache = _of_postgres[0].dialect, _of_postgres[0]._compiled_cache
    return made


def _compile_definitions_once(kind: type[CreateTable | CreateIndex]) -> None:
    """Keep what a definition of a table or an index is compiled to; SQLAlchemy compiles it anew each time."""
    compiling, known = kind.compile, dict[tuple[object, ...], Any]()

    def compile_definition(definition: Any, bind: Any = None, dialect: Any = None, **options: Any) -> Any:
        constraints = getattr(definition, "include_foreign_key_constraints", None)
        key = (
            definition.element,
            definition.if_not_exists,
            None if constraints is None else tuple(constraints),
            dialect,
            repr(options),
        )
        if key not in known:
            known[key] = compiling(definition, bind, dialect, **options)
        return known[key]

    kind.compile = compile_definition  # type: ignore[assignment] # the same, by keywords


def compile_once() -> None:
    """Let the ledgers that this process opens from now on share their compiled statements."""
    for kind in (CreateTable, CreateIndex):
        _compile_definitions_once(kind)
    for module in (sqlite, postgres_connection):
        module.create_engine = create_engine  # type: ignore[attr-defined] # the name that it imports
