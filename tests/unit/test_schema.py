"""The schema as each database is given it."""

import re
from typing import Any

import pytest
from sqlalchemy import create_mock_engine

from uploader.ledger import schema


@pytest.mark.parametrize("url", ["postgresql+psycopg://", "sqlite://"])
def test_partial_indexes_are_partial_on_every_database(url: str) -> None:
    """Both databases have the same partial indexes: a full one would be slower, or mislead the planner."""
    made: list[Any] = []
    engine = create_mock_engine(url, lambda sql, *_: made.append(sql))
    schema.metadata.create_all(engine, checkfirst=False)
    statements = [str(sql.compile(dialect=engine.dialect)) for sql in made]
    found = [re.search(r"INDEX (\w+) .* WHERE (.+)", statement, re.DOTALL) for statement in statements]
    partial = {index[1]: index[2] for index in found if index is not None}
    assert partial["lanes_waiting"].strip() == "ready_position IS NOT NULL"
    assert partial.keys() == {
        index.name
        for table in schema.metadata.tables.values()
        for index in table.indexes
        if index.dialect_options["sqlite"]["where"] is not None
    }
