"""The ledger on a PostgreSQL server: who may use it, what its transactions lock, and what a claim reads."""

import asyncio
import gzip
import json
import re
import threading
from collections.abc import Callable, Collection, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, closing, contextmanager
from pathlib import Path
from typing import Any
from unittest import mock

import psycopg
import pytest
from sqlalchemy import Connection, event, text, update

from tests.acceptance.nights import LEDGERS
from tests.acceptance.place import until
from tests.integration.test_ledger import BASE_URL, IDENTITY, Book, opened
from tests.postgres import Database
from uploader.errors import LedgerBusyError, LedgerUnavailableError, UsageError, WorkerEndedError
from uploader.ledger import Ledger, migrations, postgres, schema
from uploader.ledger.callbacks import accounts_of, apply_callback
from uploader.ledger.claiming import Ahead, claim
from uploader.ledger.commits import GroupCommits
from uploader.ledger.database import Accounts
from uploader.ledger.loading import account
from uploader.ledger.migrations import MARK, OLDEST
from uploader.ledger.schema import VERSION
from uploader.ledger.thread import LedgerThread
from uploader.ledger.workers import begin_worker
from uploader.model import JobStatus, Order
from uploader.policy.facts import Callback

LANES = 20_000
# what a claim of 16 may read of the server's pages, and how many rows any part of its plan may give
MOST_PAGES, MOST_ROWS = 1_000, 64


def test_one_of_several_runs_makes_the_tables_and_the_others_wait(new_database: Database) -> None:
    """Several runs begin at the same moment on an empty database: one makes the tables, and all have them."""
    barrier = threading.Barrier(4)

    def begin(_: int) -> str:
        barrier.wait()
        Ledger.open_for_run(new_database.url).close()
        return "run"

    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(begin, range(4))) == ["run"] * 4
    with Ledger.open_for_reading(new_database.url) as ledger:
        assert ledger.examine().mark == (4, False)


def test_a_run_that_has_no_worker_yet_keeps_off_who_needs_the_ledger_alone(
    postgres_url: str, new_database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    """From its opening to its workers' begin a run counts as one: adopt is busy, and a move fills no database of it."""
    with Ledger.open_for_run(postgres_url) as run, Ledger.open_for_reading(postgres_url) as reader:
        assert reader.held_by_run
        with pytest.raises(LedgerBusyError, match="a run is at work on it"):
            Ledger.open_for_run(postgres_url, alone=True)
        run.workers_have_begun()
        assert not reader.held_by_run
        with Ledger.open_for_run(postgres_url, alone=True):
            monkeypatch.setattr(postgres, "_WAIT_FOR_LOCK", text("SELECT set_config('lock_timeout', '20ms', true)"))
            with pytest.raises(LedgerBusyError, match="has it for itself"):
                Ledger.open_for_run(postgres_url)
        Ledger.open_for_run(postgres_url).close()
    with (
        Ledger.open_for_run(new_database.url),
        closing(postgres.PostgresLedger(new_database.url)) as target,
        pytest.raises(LedgerBusyError),
        target.filling(),
    ):
        pass


def test_a_ledger_is_new_until_it_holds_a_batch(new_database: Database, tmp_path: Path) -> None:
    """A run that was refused before its load leaves nothing that --ledger-must-exist would take for a ledger."""
    with pytest.raises(UsageError, match="--ledger-must-exist forbids"):
        Ledger.open_for_run(new_database.url, must_exist=True)
    for _ in range(2):
        with Ledger.open_for_run(new_database.url) as ledger:
            assert ledger.is_new
        assert not Ledger.exists(new_database.url)
        with pytest.raises(UsageError, match="--ledger-must-exist forbids"):
            Ledger.open_for_run(new_database.url, must_exist=True)
    with opened(tmp_path, new_database.url) as book:
        book.load([("c", "a.wav")])
    assert Ledger.exists(new_database.url)
    with Ledger.open_for_run(new_database.url, must_exist=True) as ledger:
        assert not ledger.is_new


@pytest.mark.parametrize(
    ("made", "said"),
    [
        ("CREATE TABLE ledger (version int)", "not the uploader's"),
        ("CREATE TABLE items (id int)", "a database of its own"),
        ("CREATE TABLE ledger (version int); COMMENT ON TABLE ledger IS 'ledger of the uploader'", "99"),
    ],
    ids=["its name", "another name", "newer"],
)
def test_a_database_of_another_program_or_a_newer_one_is_left_as_it_is(
    new_database: Database, made: str, said: str
) -> None:
    """A ledger is known by its mark and its version, never by its tables."""
    with closing(new_database.connect()) as connection:
        connection.execute(made)
        if said == "99":
            connection.execute("INSERT INTO ledger VALUES (99)")
        before = connection.execute("SELECT count(*) FROM pg_class").fetchone()
        with pytest.raises(UsageError, match=said):
            Ledger.open_for_run(new_database.url)
        assert connection.execute("SELECT count(*) FROM pg_class").fetchone() == before


def test_a_worker_that_was_ended_can_admit_nothing_whatever_became_of_its_session(
    tmp_path: Path, postgres_url: str
) -> None:
    """The server has ended its connections, and another worker has ended it: what it sends is withdrawn."""
    with opened(tmp_path, postgres_url) as book:
        load = book.load([("c", "a.wav")])
        claimed = book.claim_one()
        with closing(psycopg.connect(postgres_url, autocommit=True)) as admin:
            admin.execute(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
                " WHERE datname = current_database() AND application_name = 'uploader'"
            )
        with opened(tmp_path, postgres_url) as other:
            other.worker_id = book.worker_id
            assert other.crash(load) == (1, 0)
            with pytest.raises(LedgerUnavailableError):  # the first one finds its connection closed
                book.ask(claimed)
            assert list(book.ask(claimed).withdrawn) == [claimed.attempt_id]
            with pytest.raises(WorkerEndedError):
                book.claim()
            assert other.states(load) == "pending"


def test_two_claims_beside_each_other_never_take_more_slots_than_the_limit(tmp_path: Path, postgres_url: str) -> None:
    """The accounts are locked before anything is read: the second claim counts what the first one took."""
    with opened(tmp_path, postgres_url) as book, Ledger.open_beside_run(postgres_url) as beside:
        book.load([(f"c{number}", book.file(f"{number}.wav").name) for number in range(20)])
        book.limit = 3
        ledgers = [book.ledger, beside] * 8

        def take(ledger: Ledger) -> int:
            with ledger.writing() as connection:
                return len(claim(connection, 1, 20, book.now, Order.MANIFEST, worker_id=book.worker_id).claims)

        with ThreadPoolExecutor(8) as pool:
            assert sum(pool.map(take, ledgers)) == 3
        assert book.limit_facts().sending == 3


@pytest.mark.parametrize("number", [0, 1])
def test_one_accounts_writes_wait_for_no_other_account(tmp_path: Path, postgres_url: str, number: int) -> None:
    """A transaction locks its own accounts: another account's go on beside it, its own and those of all wait."""
    with opened(tmp_path, postgres_url) as book, Ledger.open_beside_run(postgres_url) as beside:
        event.listen(beside._engine, "begin", lambda connection: connection.exec_driver_sql("SET LOCAL lock_timeout=1"))
        with book.ledger.writing() as connection:
            ids = [account(connection, BASE_URL), account(connection, BASE_URL, "north")]
        own, other = ids[number], ids[1 - number]
        with book.ledger.writing(lambda _: [own]):
            with beside.writing(lambda _: [other]) as connection:
                assert connection.execute(text("SELECT 1")).scalar_one() == 1
            for among in (lambda _: [own], lambda _: ids, None):
                writing = beside.writing(among)
                with pytest.raises(LedgerUnavailableError, match="lock timeout"):
                    writing.__enter__()


def test_accounts_are_locked_in_one_order_whatever_order_they_are_named_in(tmp_path: Path, postgres_url: str) -> None:
    """Transactions that share accounts wait for each other in turn, and never each for the other."""
    with opened(tmp_path, postgres_url) as book, Ledger.open_beside_run(postgres_url) as beside:
        with book.ledger.writing() as connection:
            ids = [account(connection, BASE_URL, name) for name in "abcd"]

        def write(number: int) -> int:
            some = ids if number % 2 else ids[::-1]
            with (book.ledger, beside)[number % 2].writing(lambda _: some) as connection:
                # each in an order of its own: without the locks two of them would wait for each other
                for account_id in some:
                    accounts = schema.accounts
                    changed = update(accounts).where(accounts.c.id == account_id).values(step_seconds=number)
                    assert connection.execute(changed).rowcount == 1
            return 1

        with ThreadPoolExecutor(8) as pool:
            assert sum(pool.map(write, range(64))) == 64


def test_a_callback_locks_the_account_of_its_attempt(tmp_path: Path, postgres_url: str) -> None:
    """A listener is told of an attempt of another account than its run's: that account is locked with its own."""
    with opened(tmp_path, postgres_url) as book:
        book.load([("c", "a.wav")])
        book.claim_one()
        with book.ledger.writing() as connection:
            connection.execute(update(schema.attempts).values(token_hash="hashed"))
            assert accounts_of(connection, []) == frozenset()
            assert accounts_of(connection, ["none", "hashed"]) == {1}
        thread = LedgerThread(GroupCommits(book.ledger, [account_of_another := 2]))
        locked: list[Collection[int]] = []
        writing = book.ledger.writing

        def watched(among: Accounts | None = None) -> AbstractContextManager[Connection]:
            assert among is not None
            with book.ledger.reading() as reader:
                locked.append(set(among(reader)))
            return writing(among)

        with mock.patch.object(book.ledger, "writing", watched):
            done = Callback("job", JobStatus.COMPLETED)
            asyncio.run(thread.call(apply_callback, "hashed", done, 5.0, listening_since=0.0))
            thread.close()
        assert locked == [{1, account_of_another}]


def test_a_reader_sees_one_state_and_writes_nothing(tmp_path: Path, postgres_url: str) -> None:
    """What is shown fits together, whatever a run writes meanwhile."""
    with opened(tmp_path, postgres_url) as book, Ledger.open_for_reading(postgres_url) as reader:
        load = book.load([("c", "a.wav")])
        with reader.reading() as connection:
            before = connection.execute(text("SELECT state FROM items")).scalar_one()
            book.complete(book.claim_one())
            assert connection.execute(text("SELECT state FROM items")).scalar_one() == before == "pending"
        with pytest.raises(LedgerUnavailableError, match="read-only"), reader.reading() as connection:
            connection.execute(text("DELETE FROM attempts"))
        assert book.states(load) == "completed"


# lanes with two items each, of which the first is ready, as a load and its activation leave them
FILL = f"""
INSERT INTO batches (account_id, name, extra_columns, repeat_id, repeat_open, ran_at)
    VALUES (1, 'm', '[]', 0, false, 1);
INSERT INTO loads (batch_id, loaded_at) VALUES (1, 1);
INSERT INTO lanes (account_id, conversation_id, active_until, ready_position, not_before, audio_left, items_left,
                   item_seconds)
    SELECT 1, 'c' || n, 1e9, n, 0, n, 2, 1 FROM generate_series(1, {LANES}) AS n;
INSERT INTO items (id, account_id, lane_id, first_batch_id, load_id, line, position, repeat_id, path, parameters, state,
                   attempts, cut_offs, overdue, size)
    SELECT n + k * 1000000, 1, n, 1, 1, n, n + k * 1000000, 0, '/' || n, '{{}}', 'pending', 0, 0, false, 1
    FROM generate_series(1, {LANES}) AS n, generate_series(0, 1) AS k;
ANALYZE;
"""


def _parts(plan: dict[str, Any]) -> list[dict[str, Any]]:
    """Return all parts of a plan."""
    return [plan, *(part for child in plan.get("Plans", ()) for part in _parts(child))]


@pytest.mark.parametrize("order", Order)
def test_a_claim_and_an_admission_read_few_rows_of_many_lanes(tmp_path: Path, postgres_url: str, order: Order) -> None:
    """Of 20,000 ready lanes neither reads lanes, items or attempts in sequence: they cost what they cost with few."""
    with opened(tmp_path, postgres_url) as book:
        book.order, book.limit = order, 100
        with book.ledger.writing() as connection:
            connection.exec_driver_sql(FILL)
            book.worker_id = begin_worker(connection, 1, 1, IDENTITY, book.now)
        plans: list[tuple[str, dict[str, Any]]] = []

        def explain(_: object, cursor: Any, statement: str, parameters: Any, __: object, many: bool) -> None:
            if many or not statement.startswith(("SELECT", "WITH")) or "FOR NO KEY" in statement:
                return
            with cursor.connection.cursor() as beside:
                beside.execute(f"EXPLAIN (ANALYZE, BUFFERS, FORMAT JSON) {statement}", parameters)
                (found,) = beside.fetchone()
                plans.append((statement, (found if isinstance(found, list) else json.loads(found))[0]["Plan"]))

        event.listen(book.ledger._engine, "before_cursor_execute", explain)
        claims = book.claim(16)
        book.claim(4, ahead=Ahead(4, [one.lane_id for one in claims[:2]]))
        assert len(book.ask(*claims).admitted) == 16
        event.remove(book.ledger._engine, "before_cursor_execute", explain)
        assert len(plans) > 8
        for statement, plan in plans:
            for part in _parts(plan):
                where = f"{part['Node Type']} of {part.get('Relation Name')}: {statement}"
                if part.get("Relation Name") in ("lanes", "items"):
                    assert part["Node Type"] != "Seq Scan", where
                assert part["Actual Rows"] * part["Actual Loops"] <= MOST_ROWS, where
                assert part.get("Rows Removed by Filter", 0) * part["Actual Loops"] <= 10 * MOST_ROWS, where
            assert plan["Shared Hit Blocks"] + plan["Shared Read Blocks"] <= MOST_PAGES, statement


def test_the_tables_have_ids_of_64_bits(postgres_url: str) -> None:
    """A ledger of many nights outgrows 32 bits: an item's id has that of its load in it."""
    with closing(psycopg.connect(postgres_url)) as connection:
        found = connection.execute(
            "SELECT table_name, column_name, data_type FROM information_schema.columns"
            " WHERE table_schema = current_schema() AND (column_name = 'id' OR column_name LIKE '%_id')"
            " AND data_type NOT IN ('bigint', 'character varying')"
        ).fetchall()
    assert found == []


def test_a_fault_of_one_write_leaves_the_others_of_its_group(tmp_path: Path, postgres_url: str) -> None:
    """A statement that fails ends the server's transaction: the rest is written again, one by one."""
    with opened(tmp_path, postgres_url) as book, book.ledger.writing() as connection:
        with pytest.raises(Exception, match="division by zero"), connection.begin_nested():
            connection.execute(text("SELECT 1 / 0"))
        assert account(connection, BASE_URL) == 1


def _shape(database: Database) -> tuple[list[Any], list[Any]]:
    """Return the columns of a ledger's tables, and its indexes without those of primary keys."""
    with closing(database.connect()) as connection:
        columns = connection.execute(
            "SELECT table_name, column_name, data_type, is_nullable, is_generated, generation_expression,"
            " CASE WHEN column_default NOT LIKE 'nextval%' THEN column_default END"
            " FROM information_schema.columns WHERE table_schema = 'public' ORDER BY 1, 2"
        ).fetchall()
        indexes = connection.execute(
            "SELECT indexname, indexdef FROM pg_indexes WHERE schemaname = 'public' AND indexname NOT LIKE '%_pkey'"
            " ORDER BY 1"
        ).fetchall()
    return columns, indexes


@pytest.mark.parametrize("version", range(OLDEST, VERSION))
def test_a_migrated_ledger_has_the_schema_of_a_new_one(
    new_database: Database, postgres_server: str, version: int
) -> None:
    """The same numbered steps migrate both databases, and a ledger comes to the same tables in either way."""
    with gzip.open(LEDGERS / f"version-{version}.sql.gz", "rt", encoding="utf-8") as file:
        made = re.findall(r"^CREATE (?:TABLE|INDEX|UNIQUE INDEX) [^;]+;", file.read(), re.MULTILINE)
    # the dump has them by name: a table behind those that it refers to
    names = [*enumerate(("accounts", "batches", "loads", "lanes", "items"), 1)]
    made.sort(key=lambda text: (" INDEX " in text, max(at * (f"REFERENCES {name} " in text) for at, name in names)))
    statements = re.sub(r"\bid INTEGER NOT NULL", "id BIGSERIAL NOT NULL", "".join(made))
    # load ids, which version 2 names a generation
    statements = re.sub(r"\b(\w+_id|generation) INTEGER", r"\1 BIGINT", statements)
    with closing(new_database.connect()) as connection:
        connection.execute(statements)
        connection.execute("INSERT INTO ledger (version, webhook_key) VALUES (%s, 'key')", [version])
        connection.execute(f"COMMENT ON TABLE ledger IS '{MARK}'")
    with pytest.raises(UsageError, match=f"it has schema version {version}"):
        Ledger.open_for_reading(new_database.url)
    Ledger.open_for_run(new_database.url).close()
    fresh = Database(postgres_server)
    try:
        Ledger.open_for_run(fresh.url).close()
        assert _shape(new_database) == _shape(fresh)
    finally:
        fresh.drop()


def test_a_migration_may_take_longer_than_a_server_may_be_silent(
    new_database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A statement of a migration that says nothing for long is no sign of a server that is away, for those who wait."""
    Ledger.open_for_run(new_database.url).close()
    with closing(new_database.connect()) as connection:
        connection.execute("UPDATE ledger SET version = %s", [VERSION - 1])
    monkeypatch.setitem(migrations.STEPS, VERSION, ["SELECT pg_sleep(0.6)"])
    monkeypatch.setattr(postgres, "READER_SILENCE_SECONDS", 0.3)
    with ThreadPoolExecutor(2) as pool:
        for ledger in pool.map(Ledger.open_for_run, [new_database.url] * 2):
            ledger.close()
    with Ledger.open_for_reading(new_database.url):
        pass  # it has the version of this uploader


@contextmanager
def rewritten_lanes(folder: Path, database: Database) -> Iterator[tuple[Book, Callable[[], object]]]:
    """Open a ledger with 20 dead rows of lanes; give the function that returns how many the server has counted."""
    with opened(folder, database.url) as book, closing(database.connect()) as reader:
        book.load([(f"c{number}", "a.wav") for number in range(20)], run=False)
        with closing(database.connect()) as writer:
            writer.execute("UPDATE lanes SET not_before = 1")

        def dead() -> object:
            return reader.execute("SELECT n_dead_tup FROM pg_stat_user_tables WHERE relname = 'lanes'").fetchone()

        until(lambda: dead() == (20,), "the server has counted")
        yield book, dead


def test_what_a_load_has_rewritten_is_freed_at_once(
    tmp_path: Path, new_database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Dead rows of a table go without the server's autovacuum, which is off here; a table without them is let alone."""
    monkeypatch.setattr(postgres, "FEW_DEAD_ROWS", 1)
    vacuumed = "SELECT string_agg(relname, ' ') FROM pg_stat_user_tables WHERE vacuum_count > 0"
    with rewritten_lanes(tmp_path, new_database) as (book, dead), closing(new_database.connect()) as reader:
        book.ledger.analyze()
        until(lambda: dead() == (0,), "it is free")
        assert reader.execute(vacuumed).fetchone() == ("lanes",)


def test_a_run_does_not_wait_until_large_tables_are_freed(
    tmp_path: Path, new_database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A load's workers are to renew their leases: the server goes on freeing what the load has rewritten, beside it."""
    monkeypatch.setattr(postgres, "FEW_DEAD_ROWS", 1)
    monkeypatch.setattr(postgres, "VACUUM_SECONDS", 0.2)
    with closing(new_database.connect()) as writer:
        # a page takes longer than a run would wait
        for setting in ("vacuum_cost_delay = 100", "vacuum_cost_limit = 1"):
            writer.execute(f'ALTER DATABASE "{new_database.name}" SET {setting}')
    with rewritten_lanes(tmp_path, new_database) as (book, dead), closing(new_database.connect()) as reader:
        book.ledger.analyze()
        assert reader.execute("SELECT count(*) FROM pg_stat_progress_vacuum").fetchone() == (1,)
        until(lambda: dead() == (0,), "it is free")


def test_a_transaction_is_durable_whatever_the_servers_default_is(tmp_path: Path, new_database: Database) -> None:
    """Where the server has synchronous_commit off, what a run writes is on its disk before it counts as committed."""
    with opened(tmp_path, new_database.url) as book, book.ledger.writing() as connection:
        account(connection, BASE_URL)
    with psycopg.connect(new_database.url) as other:
        assert other.execute("SHOW synchronous_commit").fetchone() == ("off",)
    with opened(tmp_path, new_database.url) as book, book.ledger.writing() as connection:
        assert connection.execute(text("SHOW synchronous_commit")).scalar_one() == "on"
