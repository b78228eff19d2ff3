"""A ledger moves from its file to a PostgreSQL database: once, whole, and never to two places."""

import gzip
import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import JSON, Connection, String, cast, select

from tests.acceptance.nights import LEDGERS
from tests.postgres import Database
from uploader.errors import LedgerUnavailableError, UsageError
from uploader.ledger import Ledger, dialects, moving, schema
from uploader.ledger.loading import account
from uploader.ledger.moving import move
from uploader.ledger.postgres import PostgresLedger


class StoppedHereError(Exception):
    """The end of the process, at a place of the test's choice."""


@pytest.fixture
def source(tmp_path: Path) -> str:
    """The ledger of several nights, with items in every state, and a resolution."""
    path = tmp_path / "ledger.db"
    with closing(sqlite3.connect(path)) as connection:
        connection.executescript(gzip.decompress((LEDGERS / "version-2.sql.gz").read_bytes()).decode("utf-8"))
    url = f"sqlite:///{path}"
    Ledger.open_for_run(url).close()  # migrates it
    return url


def content(url: str) -> dict[str, list[tuple[Any, ...]]]:
    """Read all tables; JSON as its text, since NULL and the word null differ."""
    with Ledger.open_for_reading(url) as ledger, ledger.reading() as connection:
        return {table.name: rows_of(connection, table) for table in schema.metadata.sorted_tables}


def rows_of(connection: Connection, table: Any) -> list[tuple[Any, ...]]:
    """Read a table in the order of its keys, computed columns too."""
    columns = [cast(column, String) if isinstance(column.type, JSON) else column for column in table.columns]
    return [tuple(row) for row in connection.execute(select(*columns).order_by(*table.primary_key))]


def is_empty(database: Database) -> bool:
    """Return True where a database has no table."""
    with closing(database.connect()) as connection:
        found = connection.execute("SELECT count(*) FROM pg_tables WHERE schemaname = 'public'").fetchone()
    return found == (0,)


def test_every_table_arrives_as_it_was(source: str, new_database: Database) -> None:
    """Counts and contents, of what the file knows and of what the database computes; new rows get numbers behind."""
    before = content(source)
    assert len(before["items"]) > 10
    assert before["attempts"]
    moved = move(source, new_database.url)
    after = content(new_database.url)
    # a move is a run, which the ledger counts
    assert [row[:-2] for row in after.pop("ledger")] == [row[:-2] for row in before["ledger"]]
    assert moved.rows == {name: len(rows) for name, rows in before.items()}
    del before["ledger"]
    assert after == before
    with Ledger.open_for_run(new_database.url, must_exist=True) as ledger, ledger.writing() as connection:
        last = max(row[0] for row in before["accounts"])
        assert account(connection, "https://another.example") > last


def test_the_file_refuses_everything_from_then_on(source: str, new_database: Database, tmp_path: Path) -> None:
    """Whoever opens it is told where it went, without a login; who has it open already cannot write."""
    with Ledger.open_beside_run(source) as open_before:
        address = move(source, new_database.url).address
        assert "@" not in address.replace("…@", "")
        with pytest.raises(LedgerUnavailableError, match="it was moved to"), open_before.writing() as connection:
            connection.execute(schema.items.update().values(state="pending"))
    for opening in (Ledger.open_for_run, Ledger.open_beside_run, Ledger.open_for_reading, Ledger.exists):
        with pytest.raises(UsageError, match="it was moved to postgresql://") as raised:
            opening(source)
        assert address in str(raised.value)
    with pytest.raises(UsageError, match="it was moved to"):
        move(source, new_database.url)
    # a copy of the file knows it, too
    copy = tmp_path / "copy.db"
    copy.write_bytes((tmp_path / "ledger.db").read_bytes())
    with pytest.raises(UsageError, match="it was moved to"):
        Ledger.open_for_run(f"sqlite:///{copy}")


@pytest.mark.parametrize("place", ["_copy", "_check", "_continue_numbers", "_mark"])
def test_an_interruption_leaves_the_database_empty_and_the_file_in_use(
    source: str, new_database: Database, monkeypatch: pytest.MonkeyPatch, place: str
) -> None:
    """Before the last step nothing has happened, whatever step it was; the same command moves it later."""
    before = content(source)
    real = getattr(moving, place)

    def stop(*arguments: Any) -> None:
        real(*arguments)
        raise StoppedHereError

    with monkeypatch.context() as patched:
        patched.setattr(moving, place, stop)
        with pytest.raises(StoppedHereError):
            move(source, new_database.url)
    assert is_empty(new_database)
    with Ledger.open_for_run(source, must_exist=True):
        pass
    move(source, new_database.url)
    after = content(new_database.url)
    del before["ledger"], after["ledger"]  # it counts its runs
    assert after == before


def test_between_the_two_commits_neither_may_be_run(
    source: str, new_database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The copy was never committed: the file says what to do, and the same command begins anew."""
    real = PostgresLedger.filling

    @contextmanager
    def stop(ledger: PostgresLedger) -> Iterator[Connection]:
        with real(ledger) as connection:
            yield connection
            raise StoppedHereError

    with monkeypatch.context() as patched:
        patched.setattr(PostgresLedger, "filling", stop)
        with pytest.raises(StoppedHereError):
            move(source, new_database.url)
    assert is_empty(new_database)
    with pytest.raises(UsageError, match="was interrupted at the last step: `uploader ledger move --to"):
        Ledger.open_for_run(source)
    with pytest.raises(UsageError, match="was interrupted"):
        move(source, new_database.url.replace("/uploader_test", "/another"))
    moved = move(source, new_database.url)
    assert moved.rows["items"] == len(content(new_database.url)["items"])
    with pytest.raises(UsageError, match="it was moved to"):
        Ledger.open_for_run(source)


def test_after_both_commits_the_same_command_finishes_the_move(
    source: str, new_database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The copy is whole, and may have been used since: it is taken as it is, never filled again."""
    with monkeypatch.context() as patched:
        patched.setattr(moving, "_finish", lambda _: (_ for _ in ()).throw(StoppedHereError))
        with pytest.raises(StoppedHereError):
            move(source, new_database.url)
    with pytest.raises(UsageError, match="was interrupted"):
        Ledger.open_for_run(source)
    with Ledger.open_for_run(new_database.url, must_exist=True) as ledger, ledger.writing() as connection:
        account(connection, "https://since.example")
    moved = move(source, new_database.url)
    assert moved.rows["accounts"] == len(content(new_database.url)["accounts"])
    with pytest.raises(UsageError, match="it was moved to"):
        Ledger.open_for_run(source)


def test_a_copy_that_differs_is_noticed(source: str, new_database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    """One changed character in one row: nothing is moved."""
    real = dialects.execute_bulk

    def spoil(connection: Any, table: Any, names: Any, rows: Any) -> None:
        if table is schema.items:
            at = list(names).index("path")
            rows = [(*row[:at], row[at] + "x", *row[at + 1 :]) for row in rows[:1]] + rows[1:]
        real(connection, table, names, rows)

    with monkeypatch.context() as patched:
        patched.setattr(moving, "execute_bulk", spoil)
        with pytest.raises(RuntimeError, match="the copy of table items differs"):
            move(source, new_database.url)
    assert is_empty(new_database)
    with Ledger.open_for_run(source, must_exist=True):
        pass


def test_a_database_that_is_in_use_is_not_filled(source: str, postgres_url: str, tmp_path: Path) -> None:
    """A ledger with a batch stays what it is; one that never had any is as good as none."""
    with Ledger.open_for_run(postgres_url) as used, used.writing() as connection:
        number = account(connection, "https://used.example")
        connection.execute(
            schema.batches.insert().values(account_id=number, name="b", extra_columns=[], repeat_id=0, ran_at=0.0)
        )
    with pytest.raises(UsageError, match="it is in use: name an empty database"):
        move(source, postgres_url)
    with Ledger.open_for_run(source, must_exist=True):
        pass
    with Ledger.open_for_run(postgres_url) as used, used.writing() as connection:
        connection.execute(schema.batches.delete())
    move(source, postgres_url)
    assert len(content(postgres_url)["batches"]) > 0
