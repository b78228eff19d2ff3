"""The ledger in a PostgreSQL database, which many hosts reach."""

from collections.abc import Callable, Collection, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from math import inf
from pathlib import Path
from typing import Self

from sqlalchemy import (
    ARRAY,
    BigInteger,
    Connection,
    bindparam,
    case,
    delete,
    func,
    select,
    text,
    true,
    update,
)
from sqlalchemy.exc import DBAPIError, OperationalError, SQLAlchemyError

from uploader.errors import LedgerAwayError, LedgerBusyError, LedgerUnavailableError, UsageError
from uploader.ledger import schema
from uploader.ledger.clock import ServerClock
from uploader.ledger.database import (
    Accounts,
    Doubted,
    Examination,
    Ledger,
    Patience,
    driver,
    has_batch,
    read_loads,
    read_mark,
)
from uploader.ledger.leases import read_server_clock
from uploader.ledger.postgres_connection import (
    READER_SILENCE_SECONDS,
    WRITER_SILENCE_SECONDS,
    PostgresConnection,
    check_address,
    make_engine,
    translated_errors,
)
from uploader.ledger.postgres_tables import (
    SCHEMA_LOCK,
    check_current,
    check_promises,
    make,
    marked_version,
    prepare,
)
from uploader.ledger.processes import is_dead, own_process
from uploader.secrets import without_login

# the key of the advisory lock of those who have a ledger open for a run: shared until their workers have begun, and
# exclusive for a command that needs the ledger for itself
RUN_LOCK = 0x75706C64_72756E73

# the SQLSTATE of a lock that somebody has for longer than it is waited for
_LOCK_NOT_AVAILABLE = "55P03"

# a transaction that is reported as committed has to be on the disk, whatever the server's default is
_IS_DURABLE = case(
    (func.current_setting("synchronous_commit") == "off", func.set_config("synchronous_commit", "on", true()))
)

# lock the accounts, always in the same order, so that no two transactions wait for each other
_LOCK_ACCOUNTS = (
    select(schema.accounts.c.id, _IS_DURABLE).order_by(schema.accounts.c.id).with_for_update(key_share=True)
)

# lock some accounts, in the same order
_LOCK_SOME = _LOCK_ACCOUNTS.where(schema.accounts.c.id == func.any(bindparam("among", type_=ARRAY(BigInteger))))

# so many dead rows of a table do no harm
FEW_DEAD_ROWS = 1000
# so long a run waits until they are gone
VACUUM_SECONDS = 4.0

# a step of a load looks up the few lines or lanes that it is of: plans that read whole tables seem cheaper to the
# planner where the tables are small, or were so when they were last counted, and cost each step more as they grow
_LOOK_UP = text(
    "SELECT " + ", ".join(f"set_config('enable_{plan}', 'off', true)" for plan in ("seqscan", "hashjoin", "mergejoin"))
)

# the workers whose lease is not over
_WORKERS = text(
    "SELECT process FROM workers WHERE ended_at IS NULL AND lease_until >= extract(epoch FROM clock_timestamp())"
)

# somebody has the lock of runs
_IS_OPENED = text(
    "SELECT EXISTS (SELECT 1 FROM pg_locks JOIN pg_database ON pg_database.oid = pg_locks.database WHERE granted "
    "AND locktype = 'advisory' AND datname = current_database() AND classid = :key >> 32 AND objid = :key & 4294967295)"
).bindparams(key=RUN_LOCK)

# so long a run waits for a command that has the ledger for itself; nothing ends a transaction that only has a lock
_WAIT_FOR_LOCK = text(
    "SELECT set_config('lock_timeout', '5s', true), set_config('idle_in_transaction_session_timeout', '0', true)"
)

# the tables of which a large part is dead rows, by the server's count
_REWRITTEN = text(
    "SELECT relname FROM pg_stat_user_tables WHERE relid = to_regclass(relname) AND n_dead_tup > :few + n_live_tup / 10"
)


_UNREAD = "reached, and of this schema; its files are the server's to check: pg_amcheck, and data_checksums on"


class PostgresLedger(Ledger):
    """An open ledger in a PostgreSQL database."""

    is_remote = True

    def __init__(self, url: str, patience: Patience = lambda: inf) -> None:
        super().__init__(without_login(url), make_engine(url, lambda: self._limited(READER_SILENCE_SECONDS)))
        self._url = url
        self._patience = patience
        check_address(url, self.address)
        # connections without transactions, and with those that read
        self._plain = self._engine.execution_options(isolation_level="AUTOCOMMIT")
        self._reader = self._engine.execution_options(isolation_level="REPEATABLE READ", postgresql_readonly=True)
        # the ledger is open for a run, and counts as in use
        self._is_run = False
        # the server has taken this address: a refusal is one of the moment
        self._was_taken = False
        # has the lock of runs, in a transaction, until the workers of this process have begun
        self._opening: Connection | None = None
        # no answer is waited for any longer than so
        self._hurried_seconds = inf
        self._readers: list[PostgresLedger] = []
        # the server's clock, once it was asked for
        self._clock: ServerClock | None = None

    @classmethod
    def for_run(
        cls, url: str, *, must_exist: bool, on_container: bool, doubted: Doubted, alone: bool, patience: Patience
    ) -> Self:
        """Open the ledger for a run; make missing tables, migrate older ones."""
        del on_container, doubted  # of files
        opened = cls(url, patience)
        try:
            with opened.translated_errors():
                with opened._engine.begin() as connection:
                    # a server that migrates, for this run or another one, is silent for as long as that takes
                    opened._expect_answers(connection, inf)
                    is_known = prepare(connection, opened.address, must_exist=must_exist)
                    # a run that has not loaded its manifest yet says itself that the ledger is new
                    opened.is_new = not is_known and not connection.execute(_IS_OPENED).scalar_one()
                    opened._lock_runs(alone=alone)
                opened._begin_run(alone=alone)
                with opened._plain.connect() as connection:
                    check_promises(connection)
        except BaseException:
            opened.close()
            raise
        opened._was_taken = True
        return opened

    @classmethod
    def beside_run(cls, url: str) -> Self:
        """Open an existing ledger for writing while a run holds it."""
        return cls.for_reading(url)

    @classmethod
    def for_reading(cls, url: str) -> Self:
        """Open an existing ledger beside a run or without one."""
        opened = cls(url)
        try:
            with opened.translated_errors(), opened.begin_reading() as connection:
                check_current(opened.address, marked_version(connection))
        except BaseException:
            opened.close()
            raise
        opened._was_taken = True
        return opened

    @classmethod
    def is_there(cls, url: str, patience: Patience) -> bool:
        """Return True where there is a ledger that holds a batch."""
        opened = cls(url, patience)
        try:
            with opened.translated_errors(), opened.begin_reading() as connection:
                version = marked_version(connection)
                return version is not None and (version < schema.VERSION or has_batch(connection))
        finally:
            opened.close()

    def beside(self) -> "PostgresLedger":
        """Open the same ledger once more, for reading while a run writes; it is closed with this one."""
        reader = PostgresLedger(self._url)
        reader._was_taken = self._was_taken
        self._readers.append(reader)
        return reader

    def translated_errors(self) -> AbstractContextManager[None]:
        """Turn errors of the database in the block into a LedgerUnavailableError."""
        return translated_errors(self.address, lambda: self._was_taken)

    @contextmanager
    def begin_writing(self, accounts: Accounts | None = None) -> Iterator[Connection]:
        """Begin a transaction with these accounts locked, or all."""
        with self._engine.begin() as connection:
            self._expect_answers(connection, WRITER_SILENCE_SECONDS)
            if accounts is None:
                connection.execute(_LOCK_ACCOUNTS)
            else:
                connection.execute(_LOCK_SOME, {"among": list(accounts(connection))})
            if self._clock is not None and self._clock.is_due:
                self._clock.follow(read_server_clock(connection))
            yield connection

    @contextmanager
    def staging(self) -> Iterator[Connection]:
        """Give a connection whose transactions lock nothing until they write; its temporary tables end with it."""
        with super().staging() as connection:
            self._expect_answers(connection, inf)  # a load is one statement
            own: PostgresConnection = driver(connection)
            # a statement that was planned for the first rows of a load would be slow for the last ones
            own.prepare_threshold = None
            with own.as_one_transaction() if own.is_pooled else nullcontext():
                # recordings are read inside its transactions, which hold no lock: the role's time limit is for others
                scope = "LOCAL" if own.is_pooled else "SESSION"
                with connection.begin():
                    connection.exec_driver_sql(f"SET {scope} idle_in_transaction_session_timeout = 0")
                yield connection

    @contextmanager
    def begin_reading(self) -> Iterator[Connection]:
        """Begin a transaction that reads one state."""
        with self._reader.begin() as connection:
            self._expect_answers(connection, READER_SILENCE_SECONDS)
            yield connection

    @contextmanager
    def locking(self, connection: Connection, account_ids: Collection[int]) -> Iterator[None]:
        """Begin a transaction with these accounts locked, on a connection that ``staging`` gave."""
        own: PostgresConnection = driver(connection)
        silence_limit = own.silence_limit
        self._expect_answers(connection, WRITER_SILENCE_SECONDS)
        try:
            with connection.begin():
                # whoever stands still with a lock is within the role's time limit again
                connection.exec_driver_sql("SET LOCAL idle_in_transaction_session_timeout TO DEFAULT")
                connection.execute(_LOOK_UP)
                connection.execute(_LOCK_SOME, {"among": list(account_ids)})
                yield
        finally:
            own.silence_limit = silence_limit

    @contextmanager
    def filling(self) -> Iterator[Connection]:
        """Begin the one transaction in which the tables of a new ledger are made and filled; they are empty.

        Raises:
            UsageError: There is a ledger in the database already that holds a batch.
            LedgerBusyError: A run is about to begin there.
        """
        with self.translated_errors(), self._engine.begin() as connection:
            connection.execute(select(func.pg_advisory_xact_lock(SCHEMA_LOCK), _IS_DURABLE))
            self._take_alone(connection)
            version = marked_version(connection)
            if version is None:
                make(connection, self.address)
            else:
                check_current(self.address, version)
                if has_batch(connection):
                    raise UsageError(f"ledger {self.address}: it is in use: name an empty database. Nothing was moved")
            for table in reversed(schema.metadata.sorted_tables):
                connection.execute(delete(table))
            yield connection

    def rows_of(self, webhook_key: str) -> dict[str, int] | None:
        """Count the rows of each table of the ledger with this key; None where another one is here, or none."""
        with self.reading() as connection:
            if marked_version(connection) is None:
                return None
            if connection.execute(select(schema.ledger.c.webhook_key)).scalar_one() != webhook_key:
                return None
            tables = schema.metadata.sorted_tables
            return {
                table.name: connection.execute(select(func.count()).select_from(table)).scalar_one() for table in tables
            }

    def analyze(self) -> None:
        """Let the planner know what a load has added, and free what it has rewritten, before the server finds the time.

        A role that does not own the tables is warned by the server, and nothing else comes of it.
        """
        names = {table.name for table in schema.metadata.sorted_tables}
        with self.translated_errors(), self._plain.connect() as connection:
            self._expect_answers(connection, inf)
            # a claim or an admission would read the dead rows of a lane again and again
            rewritten = names.intersection(connection.execute(_REWRITTEN, {"few": FEW_DEAD_ROWS}).scalars())
            connection.exec_driver_sql(f"ANALYZE (SKIP_LOCKED) {', '.join(sorted(names))}")
        if rewritten:
            # of large tables it takes minutes, in which this run's workers would not renew their leases: the server
            # goes on with it once nobody listens any more; to give room back to the disk would lock the tables
            with suppress(LedgerAwayError), self.translated_errors(), self._plain.connect() as connection:
                self._expect_answers(connection, VACUUM_SECONDS)
                tables = ", ".join(sorted(rewritten))
                connection.exec_driver_sql(f"VACUUM (SKIP_LOCKED, TRUNCATE false) {tables}")

    @property
    def held_by_run(self) -> bool:
        """True where a worker's lease is not over and its process not known to be dead, or a run is about to begin."""
        with self.reading() as connection:
            return self._has_worker(connection) or bool(connection.execute(_IS_OPENED).scalar_one())

    def _has_worker(self, connection: Connection) -> bool:
        return any(not self.is_gone(process) for process in connection.execute(_WORKERS).scalars())

    def hold_again(self) -> None:
        """Take the lock of runs again, where its connection was lost before the workers of this process have begun."""
        with self.translated_errors():
            if self._opening is not None and _is_lost(self._opening):
                lost = self._opening
                self._lock_runs(alone=False)
                lost.close()
            with self.begin_reading() as connection:
                # a command that had the ledger for itself meanwhile may have migrated it
                check_current(self.address, marked_version(connection))

    def workers_have_begun(self) -> None:
        """Release the lock of runs: the leases of this process's workers take its place."""
        opening, self._opening = self._opening, None
        if opening is not None:
            with suppress(DBAPIError):  # a connection that the server has ended has no lock any more
                opening.close()

    def clock(self, connection: Connection) -> Callable[[], float]:
        """Return the server's clock, as it goes on by the host's steady one; each write may correct it."""
        if self._clock is None:
            self._clock = ServerClock(read_server_clock(connection))
        return self._clock

    def is_gone(self, process: str) -> bool:
        """Return True where a process of this host is dead; of other hosts, and other containers, nothing is known."""
        return is_dead(process)

    def examine(self, *, whole: bool = True) -> Examination:
        """Read the ledger's mark; the server looks after its own files."""
        del whole
        busy = self.held_by_run
        with self.reading() as connection:
            loads = read_loads(connection)
            return Examination(read_mark(connection), busy, "", "", self.size(), *loads, unread=_UNREAD)

    def copy_to(self, target: Path) -> None:
        """Refuse: a server's databases are copied by its own tools."""
        raise UsageError(
            f"{target}: a ledger on a PostgreSQL server is copied by the server's own tools, beside a run or without "
            f"one: pg_dump --format=custom --file={target} --dbname={self.address}"
        )

    def size(self) -> int:
        """Return the bytes that the database takes on the server's disk."""
        with self.reading() as connection:
            found: int = connection.execute(select(func.pg_database_size(func.current_database()))).scalar_one()
        return found

    def give_back_room(self) -> str:
        """Let the server use the room of deleted rows again; its disk gets it back by a lock that stops all runs."""
        with self.translated_errors(), self._plain.connect() as connection:
            self._expect_answers(connection, inf)
            connection.exec_driver_sql("VACUUM (ANALYZE, SKIP_LOCKED) rows, items, attempts")
        return "the room is used again; the server's disk gets it back by VACUUM FULL, while no run is at work"

    def hurry(self, seconds: float) -> None:
        """Wait for no answer of the server for longer than so many seconds."""
        self._hurried_seconds = seconds
        for reader in self._readers:
            reader.hurry(seconds)

    def _expect_answers(self, connection: Connection, seconds: float) -> None:
        """Close a connection once a statement brings nothing for so many seconds."""
        own: PostgresConnection = driver(connection)
        own.silence_limit = lambda: self._limited(seconds)

    def _limited(self, seconds: float) -> float:
        return min(seconds, self._hurried_seconds, self._patience())

    def moved(self) -> LedgerUnavailableError | None:
        """Return None: a database cannot be renamed or dropped while it is used."""
        return None

    def discard_if_empty(self) -> None:
        """Do nothing: a ledger without a batch counts as none."""

    def make_room(self) -> None:
        """Do nothing: the disk is the server's."""

    def close(self) -> None:
        """Close the connections; the last of several runs marks the ledger as closed."""
        for reader in self._readers:
            reader.close()
        self.workers_have_begun()
        if self._is_run:
            with suppress(LedgerUnavailableError), self.writing() as connection:
                if not self._has_worker(connection):
                    connection.execute(update(schema.ledger).values(in_use=False))
            self._is_run = False
        self._engine.dispose()

    def _begin_run(self, *, alone: bool) -> None:
        """Count this run, and mark the ledger as in use.

        Raises:
            LedgerBusyError: A run uses the ledger, and this one is to be alone.
        """
        with self.begin_writing() as connection:
            if alone and self._has_worker(connection):
                raise self._busy()
            connection.execute(update(schema.ledger).values(runs=schema.ledger.c.runs + 1, in_use=True))
        self.process, self._is_run = own_process(), True

    def _lock_runs(self, *, alone: bool) -> None:
        """Take the lock of runs, which a run that loads its manifest has before it has a worker.

        Raises:
            LedgerBusyError: A run is at work, or about to be; or a command has the ledger for itself.
        """
        self._opening = connection = self._engine.connect()
        self._expect_answers(connection, WRITER_SILENCE_SECONDS)
        connection.execute(_WAIT_FOR_LOCK)
        if alone:
            self._take_alone(connection)
            return
        try:
            # without a parameter: the snapshot of a statement that has one is kept until the next statement, and all
            # that a load rewrites would stay on the server until the end of this transaction
            connection.exec_driver_sql(f"SELECT pg_advisory_xact_lock_shared({RUN_LOCK})")
        except OperationalError as error:
            if getattr(error.orig, "sqlstate", None) == _LOCK_NOT_AVAILABLE:
                raise LedgerBusyError(
                    f"ledger {self.address}: another command has it for itself (`ledger adopt`, `ledger check "
                    "--accept`, a migration): wait for its end"
                ) from error
            raise

    def _take_alone(self, connection: Connection) -> None:
        if not connection.execute(select(func.pg_try_advisory_xact_lock(RUN_LOCK))).scalar_one():
            raise self._busy()

    def _busy(self) -> LedgerBusyError:
        return LedgerBusyError(
            f"ledger {self.address}: a run is at work on it: wait for its end (`uploader status` shows how far it is)"
        )


def _is_lost(connection: Connection) -> bool:
    """Return True where the server has closed a connection, with the locks of its transaction."""
    try:
        connection.execute(select(true()))
    except SQLAlchemyError:  # an invalidated connection's own, too
        return True
    return False
