"""The ledger in a PostgreSQL database, which many hosts reach."""

import re
import time
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager, nullcontext, suppress
from functools import partial
from math import inf
from pathlib import Path
from secrets import token_hex
from typing import Any, Self, TypeVar

from sqlalchemy import (
    ARRAY,
    BigInteger,
    Connection,
    Engine,
    bindparam,
    case,
    create_engine,
    delete,
    func,
    insert,
    select,
    text,
    true,
    update,
)
from sqlalchemy.exc import DBAPIError, OperationalError, ProgrammingError
from sqlalchemy.pool import QueuePool

from uploader import logs
from uploader.errors import LedgerAwayError, LedgerBusyError, LedgerUnavailableError, UsageError
from uploader.ledger import schema
from uploader.ledger.clock import steady_seconds
from uploader.ledger.database import Accounts, Doubted, Examination, Ledger, driver, has_batch, read_loads, read_mark
from uploader.ledger.migrations import MARK, STEPS, migrate, stamp
from uploader.ledger.processes import is_dead, own_process
from uploader.ledger.sqlite import KEY_BYTES
from uploader.secrets import without_login

try:
    import psycopg
    from psycopg.abc import RV, PQGen
    from psycopg.conninfo import conninfo_to_dict
except ImportError as error:
    raise UsageError(
        f"ledger: postgresql:// needs its driver ({error}): pip install 'uploader[postgres]'. Nothing was sent"
    ) from error

log = logs.get_logger()
T = TypeVar("T")

CONNECT_SECONDS = 5
# a server that swallows everything is noticed within seconds (libpq's keywords; in seconds, and milliseconds)
_LIVELINESS: dict[str, Any] = {
    "keepalives_idle": 10,
    "keepalives_interval": 5,
    "keepalives_count": 3,
    "tcp_user_timeout": 25_000,
}
# a server, or the way to it, that brings nothing for so many seconds counts as away. A writer may have to wait for a
# lock until the role's idle_in_transaction_session_timeout takes it from a client that stands still
WRITER_SILENCE_SECONDS = 25.0
READER_SILENCE_SECONDS = 60.0
# the key of the advisory lock of whoever makes or migrates the tables
SCHEMA_LOCK = 0x75706C64_736368

# the key of the advisory lock of those who have a ledger open for a run: shared until their workers have begun, and
# exclusive for a command that needs the ledger for itself
RUN_LOCK = 0x75706C64_72756E73

# the server's words for an address that it was reached at and will never take
_REFUSED = re.compile(
    r"authentication failed|no password supplied|no pg_hba\.conf entry|(?:role|user|database) \".*\" does not exist"
    r"|permission denied for database|is not permitted to log in"
)

# conditions of a server that pass: connection lost, transaction rolled back, lack of resources, lock not available,
# intervention of an operator, error of the system (classes of SQLSTATE)
PASSING_CLASSES = ("08", "40", "53", "55", "57", "58")
# a standby that is not yet promoted, and a transaction of ours that stood still for too long
PASSING_STATES = ("25006", "25P03")

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

# a step of a load looks up the few lines or lanes that it is of: plans that read whole tables seem cheaper to the
# planner where the tables are small, or were so when they were last counted, and cost each step more as they grow
_LOOK_UP = text(
    "SELECT " + ", ".join(f"set_config('enable_{plan}', 'off', true)" for plan in ("seqscan", "hashjoin", "mergejoin"))
)

# what the server has to promise: nothing committed is lost, and a client that stands still gives its locks back
_PROMISES = text(
    "SELECT current_setting('fsync') = 'on', current_setting('full_page_writes') = 'on', "
    "current_setting('idle_in_transaction_session_timeout') <> '0', current_user, "
    # a standby, which may take the server's place, has all that a COMMIT has reported
    "current_setting('synchronous_standby_names') <> '' AND current_setting('synchronous_commit') <> 'local' "
    "OR NOT EXISTS (SELECT 1 FROM pg_stat_replication)"
)

# the version that the table of a ledger is marked with, and whether it is
_MARKED = text("SELECT to_regclass('ledger') IS NOT NULL, obj_description(to_regclass('ledger'), 'pg_class')")

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

# the server's clock, in seconds since the epoch
_CLOCK = text("SELECT extract(epoch FROM clock_timestamp())::float8")


_UNREAD = "reached, and of this schema; its files are the server's to check: pg_amcheck, and data_checksums on"


class PostgresLedger(Ledger):
    """An open ledger in a PostgreSQL database."""

    is_remote = True

    def __init__(self, url: str) -> None:
        super().__init__(without_login(url), _engine(url))
        self._url = url
        self._check_address()
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

    @classmethod
    def for_run(cls, url: str, *, must_exist: bool, on_container: bool, doubted: Doubted, alone: bool) -> Self:
        """Open the ledger for a run; make missing tables, migrate older ones."""
        del on_container, doubted  # of files
        opened = cls(url)
        try:
            with opened.translated_errors():
                opened.is_new = not opened._prepare(must_exist=must_exist)
                opened._begin_run(alone=alone)
                opened._check_promises()
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
                opened._check_current(_marked_version(connection))
        except BaseException:
            opened.close()
            raise
        opened._was_taken = True
        return opened

    @classmethod
    def is_there(cls, url: str) -> bool:
        """Return True where there is a ledger that holds a batch."""
        opened = cls(url)
        try:
            with opened.translated_errors(), opened.begin_reading() as connection:
                version = _marked_version(connection)
                return version is not None and (version < schema.VERSION or has_batch(connection))
        finally:
            opened.close()

    def beside(self) -> "PostgresLedger":
        """Open the same ledger once more, for reading while a run writes; it is closed with this one."""
        reader = PostgresLedger(self._url)
        reader._was_taken = self._was_taken
        self._readers.append(reader)
        return reader

    @contextmanager
    def translated_errors(self) -> Iterator[None]:
        """Turn errors of the database in the block into a LedgerUnavailableError."""
        try:
            yield
        except (DBAPIError, psycopg.Error) as error:
            raise self._unavailable(error) from error

    @contextmanager
    def begin_writing(self, accounts: Accounts | None = None) -> Iterator[Connection]:
        """Begin a transaction with these accounts locked, or all."""
        with self._engine.begin() as connection:
            self._expect_answers(connection, WRITER_SILENCE_SECONDS)
            if accounts is None:
                connection.execute(_LOCK_ACCOUNTS)
            else:
                connection.execute(_LOCK_SOME, {"among": list(accounts(connection))})
            yield connection

    @contextmanager
    def staging(self) -> Iterator[Connection]:
        """Give a connection whose transactions lock nothing until they write; its temporary tables end with it."""
        with super().staging() as connection:
            self._expect_answers(connection, inf)  # a load is one statement
            own: _Connection = driver(connection)
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
        own: _Connection = driver(connection)
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
            version = _marked_version(connection)
            if version is None:
                self._make(connection)
            else:
                self._check_current(version)
                if has_batch(connection):
                    raise UsageError(f"ledger {self.address}: it is in use: name an empty database. Nothing was moved")
            for table in reversed(schema.metadata.sorted_tables):
                connection.execute(delete(table))
            yield connection

    def rows_of(self, webhook_key: str) -> dict[str, int] | None:
        """Count the rows of each table of the ledger with this key; None where another one is here, or none."""
        with self.reading() as connection:
            if _marked_version(connection) is None:
                return None
            if connection.execute(select(schema.ledger.c.webhook_key)).scalar_one() != webhook_key:
                return None
            tables = schema.metadata.sorted_tables
            return {
                table.name: connection.execute(select(func.count()).select_from(table)).scalar_one() for table in tables
            }

    def analyze(self) -> None:
        """Let the planner know what a load has added, before the server finds the time by itself."""
        names = ", ".join(table.name for table in schema.metadata.sorted_tables)
        with self._plain.connect() as connection:
            connection.exec_driver_sql(f"ANALYZE (SKIP_LOCKED) {names}")

    @property
    def held_by_run(self) -> bool:
        """True where a worker's lease is not over and its process not known to be dead, or a run is about to begin."""
        with self.reading() as connection:
            return self._has_worker(connection) or bool(connection.execute(_IS_OPENED).scalar_one())

    def _has_worker(self, connection: Connection) -> bool:
        return any(not self.is_gone(process) for process in connection.execute(_WORKERS).scalars())

    def workers_have_begun(self) -> None:
        """Release the lock of runs: the leases of this process's workers take its place."""
        opening, self._opening = self._opening, None
        if opening is not None:
            with suppress(DBAPIError):  # a connection that the server has ended has no lock any more
                opening.close()

    def clock(self, connection: Connection) -> Callable[[], float]:
        """Return the server's clock, as it goes on by the host's steady one."""
        offset: float = connection.execute(_CLOCK).scalar_one() - steady_seconds()
        return lambda: offset + steady_seconds()

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
            connection.exec_driver_sql("VACUUM (ANALYZE, SKIP_LOCKED) rows, items, attempts")
        return "the room is used again; the server's disk gets it back by VACUUM FULL, while no run is at work"

    def hurry(self, seconds: float) -> None:
        """Wait for no answer of the server for longer than so many seconds."""
        self._hurried_seconds = seconds
        for reader in self._readers:
            reader.hurry(seconds)

    def _expect_answers(self, connection: Connection, seconds: float) -> None:
        """Close a connection once a statement brings nothing for so many seconds."""
        own: _Connection = driver(connection)
        own.silence_limit = lambda: min(seconds, self._hurried_seconds)

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

    def _check_address(self) -> None:
        """Check the address before the driver's own words show a part of it, which may be of the password.

        Raises:
            UsageError: It is none.
        """
        try:
            parts = conninfo_to_dict(self._url)
        except psycopg.ProgrammingError:
            parts = {"port": "none"}
        shown = f"{parts.get('host')}{parts.get('dbname')}"
        if re.fullmatch("[0-9,]*", str(parts.get("port", ""))) is None or "@" in shown:
            raise UsageError(
                f"ledger {self.address}: this is no address of a database: write postgresql://USER:PASSWORD@HOST/"
                "DATABASE, and in the password %XX for each character that is neither letter nor digit"
            )

    def _prepare(self, *, must_exist: bool) -> bool:
        """Make missing tables, migrate older ones while others wait; return True where the ledger holds a batch."""
        with self._engine.begin() as connection:
            connection.execute(select(func.pg_advisory_xact_lock(SCHEMA_LOCK)))
            version = _marked_version(connection)
            if version is None:
                self._check_making(must_exist=must_exist)
                self._make(connection)
                return False
            self._check_known(version)
            for target in range(version + 1, schema.VERSION + 1):
                migrate(connection, target)
            if version < schema.VERSION:
                log.warning("ledger.migrated", fromVersion=version, toVersion=schema.VERSION)
            if not has_batch(connection):
                self._check_making(must_exist=must_exist)
                return False
        return True

    def _check_making(self, *, must_exist: bool) -> None:
        if must_exist:
            raise UsageError(
                f"ledger {self.address}: there is none, and --ledger-must-exist forbids to make one: restore it, or "
                "leave that option out for the first night. Nothing was sent"
            )

    def _make(self, connection: Connection) -> None:
        """Make the tables of a new ledger."""
        try:
            schema.metadata.create_all(connection, checkfirst=False)
        except ProgrammingError as error:
            raise UsageError(
                f"ledger {self.address}: its tables cannot be made ({_reason(error)}): give the ledger a database of "
                "its own, in which its user may create tables"
            ) from error
        connection.execute(insert(schema.ledger).values(version=schema.VERSION, webhook_key=token_hex(KEY_BYTES)))
        stamp(connection)

    def _begin_run(self, *, alone: bool) -> None:
        """Count this run, and mark the ledger as in use.

        Raises:
            LedgerBusyError: A run uses the ledger, and this one is to be alone.
        """
        self._lock_runs(alone=alone)
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
        connection.execute(_WAIT_FOR_LOCK)
        if alone:
            self._take_alone(connection)
            return
        try:
            connection.execute(select(func.pg_advisory_xact_lock_shared(RUN_LOCK)))
        except OperationalError as error:
            if isinstance(error.orig, psycopg.errors.LockNotAvailable):
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

    def _check_promises(self) -> None:
        """Warn of settings of the server under which a crash, or a client that stands still, does harm."""
        with self._plain.connect() as connection:
            is_synced, has_pages, has_timeout, user, has_copy = connection.execute(_PROMISES).one()
        lacking = {"fsync": is_synced, "full_page_writes": has_pages}
        if off := [name for name, is_on in lacking.items() if not is_on]:
            log.warning(
                "ledger.server_unsafe",
                reason=f"{' and '.join(off)} off: a crash of the server may lose what was committed, and then "
                "something is appended twice",
                remedy=f"set {' and '.join(off)} to on at the server",
            )
        if not has_copy:
            log.warning(
                "ledger.server_unsafe",
                reason="no standby is synchronous: a failover to one may lose what was committed, and then something "
                "is appended twice",
                remedy="name the standby in synchronous_standby_names at the server, with synchronous_commit = on",
            )
        if not has_timeout:
            log.warning(
                "ledger.server_unsafe",
                reason="a client that stands still inside a transaction holds up all others",
                remedy=f"ALTER ROLE {user} SET idle_in_transaction_session_timeout = '10s'",
            )

    def _check_known(self, version: int) -> None:
        if version > schema.VERSION:
            raise UsageError(
                f"ledger {self.address}: it has schema version {version}, this uploader knows {schema.VERSION}: use "
                "the newer uploader that wrote it"
            )
        if version < min(STEPS) - 1:
            raise UsageError(f"ledger {self.address}: it has schema version {version}, which cannot be migrated")

    def _check_current(self, version: int | None) -> None:
        if version is None:
            raise UsageError(f"ledger {self.address}: there is none yet: `uploader run MANIFEST` makes it")
        self._check_known(version)
        if version < schema.VERSION:
            raise UsageError(
                f"ledger {self.address}: it has schema version {version}, this uploader reads {schema.VERSION}: "
                "`uploader ledger upgrade` migrates it, and so does the next `uploader run`"
            )

    def _unavailable(self, error: BaseException) -> UsageError | LedgerUnavailableError:
        """Return the error for people, without the address's login."""
        reason = _reason(error)
        if _REFUSED.search(reason) and not self._was_taken:
            return UsageError(
                f"ledger {self.address}: {reason}: correct user, password and database in UPLOADER_LEDGER. Nothing was "
                "sent"
            )
        told = (
            f"ledger {self.address}: {reason}: nothing more is sent; see to the server and the way to it, then run the "
            "same command again"
        )
        return LedgerAwayError(told, reason) if _is_passing(error) else LedgerUnavailableError(told)


class _Connection(psycopg.Connection[Any]):
    """A connection that is closed once the server is silent for too long."""

    # a pooler (pgbouncer, say) stands between, which may give each transaction another connection to the server
    is_pooled = False
    _is_one_transaction = False
    # the most seconds in which a statement brings no byte; a network that swallows everything brings none for ever
    silence_limit: Callable[[], float] = staticmethod(lambda: READER_SILENCE_SECONDS)

    def wait(self, gen: PQGen[RV], *args: Any, **kwargs: Any) -> RV:
        """Run a generator of the driver to its end."""
        return super().wait(self._unless_silent(gen), *args, **kwargs)

    def _unless_silent(self, gen: PQGen[RV]) -> PQGen[RV]:
        """Pass a generator on, which is told every tenth of a second that nothing has come."""
        heard_at = time.monotonic()
        try:
            wanted = next(gen)
            while True:
                ready = yield wanted
                now = time.monotonic()
                if ready:
                    heard_at = now
                elif now - heard_at > (limit := self.silence_limit()):
                    self.close()
                    raise psycopg.OperationalError(f"the server has not answered for {limit:g} s")
                wanted = gen.send(ready)
        except StopIteration as end:
            result: RV = end.value
            return result

    @contextmanager
    def as_one_transaction(self) -> Iterator[None]:
        """Make a single transaction of all that begin in the block, so that a pooler does not tear them apart."""
        self.execute("SAVEPOINT step")
        self._is_one_transaction = True
        try:
            yield
            # the pooler hands the connection to others, with what is temporary in it
            self.execute("DISCARD TEMP")
        except BaseException:
            self._is_one_transaction = False
            raise
        self._is_one_transaction = False
        self.commit()

    def commit(self) -> None:
        """Commit the transaction, or keep it as a part of the one around it."""
        if not self._is_one_transaction:
            super().commit()
            return
        self.execute("RELEASE SAVEPOINT step")
        self.execute("SAVEPOINT step")

    def rollback(self) -> None:
        """Roll the transaction back, or the part of the one around it."""
        if not self._is_one_transaction:
            super().rollback()
            return
        self.execute("ROLLBACK TO SAVEPOINT step")


def _connect(url: str) -> _Connection:
    """Connect to a server; behind a pooler, prepare no statements, which belong to one connection of its own."""
    connection = _Connection.connect(
        url, autocommit=True, connect_timeout=CONNECT_SECONDS, application_name="uploader", **_LIVELINESS
    )
    (server_pid,) = connection.execute("SELECT pg_backend_pid()").fetchone() or (None,)
    connection.is_pooled = server_pid != connection.info.backend_pid
    if connection.is_pooled:
        connection.prepare_threshold = None
    connection.autocommit = False
    return connection


def _engine(url: str) -> Engine:
    """Make the pool of a ledger's connections."""
    return create_engine(
        "postgresql+psycopg://",
        creator=partial(_connect, url),
        poolclass=QueuePool,
        hide_parameters=True,  # paths and parameters are among them, and errors reach the log
    )


def _is_passing(error: BaseException) -> bool:
    """Return True where the same statements may succeed on a new connection, a moment later."""
    original = getattr(error, "orig", None) or error
    state = getattr(original, "sqlstate", None)
    if state is None:
        return isinstance(original, psycopg.OperationalError) or getattr(error, "connection_invalidated", False)
    return state[:2] in PASSING_CLASSES or state in PASSING_STATES


def _reason(error: BaseException) -> str:
    """Return the first line of the driver's own words."""
    return str(getattr(error, "orig", None) or error).strip().partition("\n")[0]


def _marked_version(connection: Connection) -> int | None:
    """Read the schema version of a ledger; None where there is none.

    Raises:
        UsageError: The database belongs to another program.
    """
    is_there, mark = connection.execute(_MARKED).one()
    if not is_there:
        return None
    if mark != MARK:
        raise UsageError(
            "ledger: the database has a table of that name that is not the uploader's: name another database"
        )
    version: int = connection.execute(select(schema.ledger.c.version)).scalar_one()
    return version
