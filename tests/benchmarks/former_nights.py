"""Makes a ledger of former nights by set-based inserts: what the real commands leave of nights that went well."""

from pathlib import Path
from typing import Any

from sqlalchemy import (
    JSON,
    Column,
    Connection,
    Integer,
    MetaData,
    String,
    Table,
    case,
    cast,
    insert,
    literal,
    or_,
    select,
    text,
    true,
)
from sqlalchemy.sql.elements import ColumnElement

from uploader.ledger import Ledger
from uploader.ledger.loading import account
from uploader.ledger.schema import POSITIONS_PER_LOAD, attempts, batches, items, lanes, loads, rows
from uploader.model import Outcome, State

DAILY = "daily"
"""The conversation that each night's first item is appended to; every other item has one of its own."""
FIRST_CONVERSATION = 5815170000000000
FIRST_NIGHT = 1_000_000_000.0
NIGHT_SECONDS = 86_400.0
JOB_SECONDS = 2.0
ITEM_BYTES = 32_044

_numbers = Table("numbers", MetaData(), Column("n", Integer, primary_key=True), prefixes=["TEMPORARY"])
_n = _numbers.c.n


def fill(path: Path, base_url: str, nights: int, items_a_night: int) -> None:
    """Make a ledger whose items all completed.

    Args:
        path: The ledger's file, which does not exist yet.
        base_url: The service of its one account.
        nights: How many batches, named ``night-1.csv`` and so on.
        items_a_night: Items of each.
    """
    with Ledger.open_for_run(f"sqlite:///{path}") as ledger, ledger.writing() as connection:
        indexes = _drop_indexes(connection)
        _insert(connection, account(connection, base_url), nights, items_a_night)
        for index in indexes:  # one sort each is far quicker than a million insertions
            connection.execute(text(index))


def conversation(night: int, number: int, items_a_night: int) -> str:
    """The conversation of an item of a night, both counted from 1."""
    return DAILY if number == 1 else str(FIRST_CONVERSATION + (night - 1) * items_a_night + number)


def _drop_indexes(connection: Connection) -> list[str]:
    """Drop the indexes that are no part of a table; the statements that make them again are returned."""
    found = connection.execute(
        text("SELECT name, sql FROM sqlite_master WHERE type = 'index' AND sql IS NOT NULL")
    ).all()
    for name, _ in found:
        connection.execute(text(f'DROP INDEX "{name}"'))
    return [sql for _, sql in found]


def _insert(connection: Connection, account_id: int, nights: int, items_a_night: int) -> None:
    _numbers.create(connection)
    up_to = "WITH RECURSIVE up(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM up WHERE n < :count) SELECT n FROM up"
    connection.execute(text(f"INSERT INTO numbers {up_to}"), {"count": nights * items_a_night})
    night, number = (_n - 1) // items_a_night + 1, (_n - 1) % items_a_night + 1
    begun = FIRST_NIGHT + (night - 1) * NIGHT_SECONDS + number
    lane = case((number == 1, 1), else_=_n)
    named = case((number == 1, DAILY), else_=cast(FIRST_CONVERSATION + _n, String))
    wav, line, job = cast(_n, String) + ".wav", number + 1, "job-" + cast(_n, String)
    loaded_at = FIRST_NIGHT + (_n - 1) * NIGHT_SECONDS
    nothing: dict[str, Any] = {"extras": literal({}, JSON), "columns": literal([], JSON)}
    for table, which, values in (
        (
            batches,
            _n <= nights,
            {
                "id": _n,
                "account_id": account_id,
                "name": "night-" + cast(_n, String) + ".csv",
                "manifest": "/nights/manifest.csv",
                "results": "/nights/manifest.results.csv",
                "extra_columns": nothing["columns"],
                "repeat_id": 0,
                "ran_at": loaded_at,
            },
        ),
        (loads, _n <= nights, {"id": _n, "batch_id": _n, "loaded_at": loaded_at}),
        (lanes, or_(_n == 1, number > 1), {"id": _n, "account_id": account_id, "conversation_id": named}),
        (
            items,
            true(),
            {
                "id": _n,
                "account_id": account_id,
                "lane_id": lane,
                "first_batch_id": night,
                "load_id": night,
                "line": line,
                "position": night * POSITIONS_PER_LOAD + line,
                "repeat_id": 0,
                "path": "/nights/" + wav,
                "size": ITEM_BYTES + _n % 1000,
                "change": wav,
                "content_hash": "hash-" + wav,
                "content_type": "audio/wav",
                "parameters": nothing["extras"],
                "duration_seconds": 1.0,
                "channels": 1,
                "billed_seconds": 1.0,
                "state": State.COMPLETED.value,
                "attempts": 1,
                "http_status": 201,
                "job_id": job,
                "accepted_at": begun + 1.0,
                "finished_at": begun + 1.0 + JOB_SECONDS,
                "job_seconds": JOB_SECONDS,
            },
        ),
        (
            attempts,
            true(),
            {
                "item_id": _n,
                "number": 1,
                "started_at": begun,
                "admitted_at": begun,
                "ended_at": begun + 1.0,
                "outcome": Outcome.APPLIED.value,
                "http_status": 201,
                "bytes_sent": ITEM_BYTES + _n % 1000,
                "job_id": job,
            },
        ),
        (
            rows,
            true(),
            {
                "batch_id": night,
                "line": line,
                "item_id": _n,
                "conversation_id": named,
                "audio_path": wav,
                "extras": nothing["extras"],
            },
        ),
    ):
        _fill(connection, table, which, values)
    _numbers.drop(connection)


def _fill(connection: Connection, table: Table, which: ColumnElement[bool], values: dict[str, Any]) -> None:
    """One row of a table for each number; columns that are not named take the schema's defaults."""
    told = [value if isinstance(value, ColumnElement) else literal(value) for value in values.values()]
    found = select(*(one.label(name) for name, one in zip(values, told, strict=True))).where(which).order_by(_n)
    connection.execute(insert(table).from_select(list(values), found))
