"""Opens, makes and migrates a ledger's SQLite database."""

import os
import shutil
import sqlite3
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from secrets import token_hex
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

from sqlalchemy import Connection, Engine, create_engine, event, insert
from sqlalchemy.exc import DBAPIError
from sqlalchemy.pool import NullPool, QueuePool

from uploader import logs
from uploader.errors import LedgerUnavailableError, UsageError, describe
from uploader.ledger import schema
from uploader.ledger.copying import UNFINISHED, copy_beside, new_file
from uploader.ledger.migrations import APPLICATION_ID, OLDEST, STEPS, migrate, stamp

log = logs.get_logger()

BUSY_SECONDS = 30.0
BUSY_POLL_SECONDS = 0.002
# begins a transaction that locks the file from its start
AT_ONCE = "BEGIN IMMEDIATE"
KEY_BYTES = 32
DAMAGED = ("SQLITE_CORRUPT", "SQLITE_NOTADB")
HOW_TO_MEND = (
    "restore a copy (`uploader ledger backup` makes them), take what was appended since from the results with "
    "`uploader ledger adopt RESULTS`, then `uploader ledger check --accept`"
)


def unavailable(path: Path, error: BaseException) -> LedgerUnavailableError:
    """Turn an error of the database or its disk into a LedgerUnavailableError with the remedy."""
    original = getattr(error, "orig", None) or error
    if isinstance(original, LedgerUnavailableError):
        return original
    if getattr(original, "sqlite_errorname", "").startswith(DAMAGED):
        return LedgerUnavailableError(f"ledger {path}: {original}: it is damaged: nothing more is sent; {HOW_TO_MEND}")
    return LedgerUnavailableError(
        f"ledger {path}: {_cause(path, original)}: nothing more is sent; see to its disk (room, permissions), then run "
        "the same command again"
    )


def _cause(path: Path, error: BaseException) -> str:
    """Describe why a database cannot be used, by opening the file where SQLite gives no reason."""
    if isinstance(error, OSError):
        return describe(error)
    if getattr(error, "sqlite_errorname", "").startswith("SQLITE_CANTOPEN"):
        # a ledger that is to be made is missing, and the reason is its folder's
        for tried in (path, path.parent):
            try:
                os.close(os.open(tried, os.O_RDONLY | os.O_CLOEXEC))
            except FileNotFoundError:
                continue
            except OSError as reason:
                return describe(reason)
    return str(error)


@contextmanager
def translate_errors(path: Path) -> Iterator[None]:
    """Turn errors of the database or its disk in the block into a LedgerUnavailableError."""
    try:
        yield
    except (DBAPIError, sqlite3.Error, OSError) as error:
        raise unavailable(path, error) from error


def log_path(path: Path) -> Path:
    """Return the write-ahead log's file of a database."""
    return path.with_name(path.name + "-wal")


def has_log(path: Path) -> bool:
    """Return True where a database has a write-ahead log with content; a reader may leave an empty one."""
    try:
        return log_path(path).stat().st_size > 0
    except (FileNotFoundError, NotADirectoryError):
        return False


def connect(path: Path, mode: str, more: str = "") -> sqlite3.Connection:
    """Connect to an existing database."""
    return sqlite3.connect(
        f"{path.as_uri()}?mode={mode}{more}", uri=True, timeout=BUSY_SECONDS, check_same_thread=False
    )


def connect_for_reading(path: Path) -> sqlite3.Connection:
    """Connect for reading, and leave the ledger's files as they are, also in a folder that is not writable."""
    wal = log_path(path)
    if os.access(path.parent, os.W_OK, effective_ids=True):
        # read-only, so that closing does not fold the log of a run that died: a missing log must remain a sign of loss
        return connect(path, "ro" if wal.exists() else "rw")
    # SQLite cannot make an index of the log here: read the file alone where there is no log, else a copy
    if not wal.exists() or not wal.stat().st_size:
        return connect(path, "ro", "&immutable=1")
    if path.with_name(path.name + "-shm").exists():
        return connect(path, "ro")
    with TemporaryDirectory(prefix="uploader-ledger-") as folder:
        copy = Path(shutil.copy(path, folder))
        shutil.copy(wal, folder)
        connection = connect(copy, "rw")
        connection.execute("SELECT count(*) FROM sqlite_master").fetchone()  # opens all files before they are unlinked
        return connection


def engine(connecting: Callable[[], sqlite3.Connection], *, writes: bool = True, foreign_keys: bool = True) -> Engine:
    """Make the pool of a ledger's connections.

    Args:
        connecting: Makes a connection.
        writes: The connections may write.
        foreign_keys: Enforce foreign keys.
    """
    made = create_engine(
        "sqlite://",
        creator=connecting,
        poolclass=QueuePool,
        hide_parameters=True,  # paths and parameters are among them, and errors reach the log
    )

    @event.listens_for(made, "connect")
    def configure(connection: sqlite3.Connection, _: object) -> None:
        # the driver's implicit transactions begin at the first write: reads of the claim would be outside
        connection.isolation_level = None
        if not writes:
            return
        connection.execute("PRAGMA journal_mode=WAL")
        # an intent lost in a power cut would mean a second append
        connection.execute("PRAGMA synchronous=FULL")
        connection.execute(f"PRAGMA foreign_keys={'ON' if foreign_keys else 'OFF'}")

    @event.listens_for(made, "begin")
    def start(connection: Connection) -> None:
        begin = connection.get_execution_options().get("begin", "BEGIN")
        if begin == AT_ONCE:
            _lock(connection.connection.dbapi_connection)
        else:
            connection.exec_driver_sql(begin)

    return made


def _lock(connection: Any) -> None:
    """Begin a transaction that locks the file; wait for others, ``BUSY_SECONDS`` at most."""
    # SQLite's own wait asks for the lock every 100 ms, and would miss the moments at which a load leaves it to others
    until = time.monotonic() + BUSY_SECONDS
    connection.execute("PRAGMA busy_timeout = 0")
    try:
        while True:
            try:
                connection.execute(AT_ONCE)
            except sqlite3.OperationalError as error:
                if error.sqlite_errorcode & 0xFF != sqlite3.SQLITE_BUSY or time.monotonic() >= until:
                    raise
                time.sleep(BUSY_POLL_SECONDS)
            else:
                return
    finally:
        connection.execute(f"PRAGMA busy_timeout = {int(1000 * BUSY_SECONDS)}")


@contextmanager
def without_ledger() -> Iterator[Connection]:
    """Give a connection to a database in memory, for staging rows where there is no ledger yet."""
    unkept = create_engine("sqlite://")
    with unkept.connect() as connection:
        yield connection
    unkept.dispose()


def make(path: Path) -> None:
    """Make a ledger atomically: it gets its name when it is complete and durable."""
    with translate_errors(path):
        for left in path.parent.glob(f".{path.name}.*{UNFINISHED}"):  # left by a run that died; this run has the lock
            left.unlink()
        with new_file(path, replace=True) as file:
            unfinished = create_engine("sqlite://", creator=lambda: connect(file, "rw"), poolclass=NullPool)
            with unfinished.begin() as connection:
                # else the driver commits each table by itself, and the disk is waited for as often
                connection.exec_driver_sql("BEGIN")
                schema.metadata.create_all(connection)
                connection.execute(
                    insert(schema.ledger).values(version=schema.VERSION, webhook_key=token_hex(KEY_BYTES))
                )
                stamp(connection)


def migrate_file(path: Path, version: int) -> None:
    """Migrate an older ledger to this schema, one transaction a version, after a copy of its file was made."""
    copy = _copy_before(path, version)
    # a step may drop and rename tables, which enforced foreign keys do not allow
    unenforced = engine(lambda: connect(path, "rw"), foreign_keys=False)
    try:
        for target in range(version + 1, schema.VERSION + 1):
            with translate_errors(path), unenforced.execution_options(begin=AT_ONCE).begin() as connection:
                migrate(connection, target)
                broken = connection.exec_driver_sql("PRAGMA foreign_key_check").first()
                if broken is not None:
                    raise RuntimeError(f"migration to {target}: rows of table {broken[0]} point nowhere")
    finally:
        unenforced.dispose()
    log.warning("ledger.migrated", fromVersion=version, toVersion=schema.VERSION, copy=copy.name)


def _copy_before(path: Path, version: int) -> Path:
    """Copy a ledger beside itself; earlier copies are kept."""
    try:
        with closing(connect(path, "ro")) as connection:
            return copy_beside(connection, path.with_name(f"{path.name}.version-{version}"))
    except (sqlite3.Error, OSError) as error:
        raise LedgerUnavailableError(
            f"ledger {path}: it could not be copied before its migration ({error}): nothing was changed or sent; "
            "see to its disk (room, permissions), then run the same command again"
        ) from error


def marked_version(path: Path) -> int | None:
    """Read the schema version of a ledger without changing anything; None where there is no ledger yet.

    Raises:
        UsageError: The file is something else, a ledger that this uploader can neither use nor migrate, or one that was
            moved.
        LedgerUnavailableError: It cannot be read now.
    """
    try:
        if not path.exists() or path.stat().st_size == 0:
            return None
        with closing(connect_for_reading(path)) as connection:
            if _is_empty(connection):
                return None
            version, moved = _read_version(connection), read_move(connection)
    except (sqlite3.OperationalError, OSError) as error:
        raise unavailable(path, error) from error
    except sqlite3.DatabaseError:
        version = moved = None
    if moved is not None:
        raise UsageError(moved.describe(path))
    return _check_version(path, version)


def _check_version(path: Path, version: int | None) -> int:
    if version is None:
        raise UsageError(
            f"ledger {path}: this file is no ledger of the uploader, or a damaged one: name another with --ledger, or "
            "restore a copy"
        )
    if version > schema.VERSION:
        raise UsageError(
            f"ledger {path}: it has schema version {version}, this uploader knows {schema.VERSION}: use the newer "
            "uploader that wrote it"
        )
    if version < OLDEST:
        raise UsageError(
            f"ledger {path}: it has schema version {version}, which is older than the first version that can be "
            f"migrated ({OLDEST}): finish its batches with the uploader that wrote it; then begin a new ledger, and "
            "`uploader ledger adopt RESULTS` for each of its results files, so that nothing is appended again"
        )
    return version


class Move(NamedTuple):
    """The mark of a ledger that was moved to a PostgreSQL database, whose address it has as it may be shown."""

    address: str
    is_finished: bool

    def describe(self, path: Path) -> str:
        """Explain that a ledger was moved, or that its move was interrupted between its two commits."""
        if self.is_finished:
            return (
                f"ledger {path}: it was moved to {self.address}: name that with --ledger or UPLOADER_LEDGER; this file "
                "is what it was at the move. Nothing was sent"
            )
        return (
            f"ledger {path}: its move to {self.address} was interrupted at the last step: `uploader ledger move --to "
            "URL` with that address finishes it. Nothing was sent"
        )


def read_move(connection: sqlite3.Connection) -> Move | None:
    """Read the mark that ``uploader ledger move`` leaves; None where the ledger was not moved."""
    if connection.execute("SELECT 1 FROM sqlite_master WHERE type = 'table' AND name = 'moved'").fetchone() is None:
        return None
    address, finished = connection.execute("SELECT address, finished FROM moved").fetchone()
    return Move(address, bool(finished))


def _is_empty(connection: sqlite3.Connection) -> bool:
    """Return True where a database has neither mark nor tables, as a run leaves it that dies while making it."""
    (application,) = connection.execute("PRAGMA application_id").fetchone()
    (objects,) = connection.execute("SELECT count(*) FROM sqlite_master").fetchone()
    return not application and not objects


def _read_version(connection: sqlite3.Connection) -> int | None:
    """Read the version that a ledger is marked with; None where the database has no mark of the uploader."""
    (application,) = connection.execute("PRAGMA application_id").fetchone()
    columns = {name for _, name, *_ in connection.execute("PRAGMA table_info(ledger)")}
    if application not in (0, APPLICATION_ID) or "version" not in columns:
        return None
    version = (connection.execute("SELECT version FROM ledger").fetchone() or (None,))[0]
    if not isinstance(version, int):
        return None
    # before version 3 the row of the table was the only mark
    return version if application == APPLICATION_ID or version < min(STEPS) else None
