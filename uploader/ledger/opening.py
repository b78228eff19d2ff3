"""Opens the ledger's file: the kernel's lock, the checks of the place, the schema's version."""

import fcntl
import os
import sqlite3
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from itertools import count
from pathlib import Path
from secrets import token_hex
from types import TracebackType
from typing import Any, Self

import structlog
from sqlalchemy import Connection, Engine, create_engine, event, insert
from sqlalchemy.exc import DBAPIError

from uploader.errors import LedgerBusyError, LedgerUnavailableError, UsageError
from uploader.ledger import schema
from uploader.ledger.copying import copy_ledger
from uploader.ledger.migrations import APPLICATION_ID, OLDEST, STEPS, migrate, stamp
from uploader.settings import default_ledger

log = structlog.get_logger()

NETWORK_FILE_SYSTEMS = frozenset(
    [
        *("afs", "beegfs", "ceph", "cifs", "glusterfs", "gpfs", "lustre", "ncpfs", "nfs", "nfs4", "smb3", "smbfs"),
        *("fuse.ceph", "fuse.glusterfs", "fuse.rclone", "fuse.s3fs", "fuse.sshfs"),
    ]
)
"""Where SQLite's write-ahead log does not work: its index is shared memory of one machine."""

BUSY_SECONDS = 30.0
LOCK_TRIES = 3
LOCK_WAIT_SECONDS = 0.05
KEY_BYTES = 32
RESERVE_BYTES = 1024 * 1024
"""Disk space that a run sets aside, so that what came back can be written where the disk is full."""


class Ledger:
    """An open ledger. ``writing`` and ``reading`` give a connection inside a transaction."""

    def __init__(self, path: Path, engine: Engine, lock: int | None) -> None:
        self.path = path
        self._engine = engine
        self._lock = lock

    @classmethod
    def open_for_run(cls, url: str) -> Self:
        """Open the ledger for the one run that may write, making it where there is none, migrating an older one.

        Raises:
            UsageError: Its folder is missing or not writable, it lies on a network file system, it is no
                ledger, or one of a newer version.
            LedgerBusyError: Another run holds it.
            LedgerUnavailableError: It cannot be written now: a full disk, say.
        """
        path = _path(url)
        if url == default_ledger():
            _make_default_folder(path.parent)
        _check_place(path)
        lock = _lock(path)
        opened = cls(path, _engine(path, begin="BEGIN IMMEDIATE"), lock)
        try:
            version = _version(path)
            _create_file(path)
            _set_aside(path)
            if version is not None:
                _migrate(path, version)
            else:
                with opened.writing() as connection:
                    _create_schema(connection)
        except BaseException:
            opened.close()
            raise
        return opened

    @classmethod
    def open_for_reading(cls, url: str) -> Self:
        """Open an existing ledger beside a run or without one.

        Raises:
            UsageError: There is none, it is no ledger, or one of another version.
            LedgerUnavailableError: It cannot be read now.
        """
        path = _path(url)
        if not path.is_file():
            raise UsageError(f"ledger {path}: there is none yet: `uploader run MANIFEST` makes it")
        version = _version(path)
        if version is None:
            raise UsageError(f"ledger {path}: it is empty: `uploader run MANIFEST` fills it")
        if version < schema.VERSION:
            raise UsageError(
                f"ledger {path}: it has schema version {version}, this uploader reads {schema.VERSION}: "
                "`uploader ledger upgrade` migrates it, and so does the next `uploader run`; a copy is made before"
            )
        return cls(path, _engine(path, begin="BEGIN"), None)

    def beside(self) -> "Ledger":
        """A second way into the same ledger, for reading while a run writes."""
        return Ledger(self.path, _engine(self.path, begin="BEGIN"), None)

    @contextmanager
    def writing(self) -> Iterator[Connection]:
        """A connection in a transaction that is committed at the end, or rolled back by an exception."""
        with _told(self.path), self._engine.begin() as connection:
            yield connection

    reading = writing

    def connect(self) -> Connection:
        """A connection of the caller's own, who closes it."""
        return self._engine.connect()

    @property
    def held_by_run(self) -> bool:
        """Whether a run holds the ledger's lock at this moment."""
        if not _lock_path(self.path).exists():
            return False
        try:
            os.close(_lock(self.path))
        except LedgerBusyError:
            return True
        return False

    def make_room(self) -> None:
        """Give up the reserve and fold the write-ahead log: the last outcomes need room on a full disk."""
        with suppress(OSError):
            _reserve_path(self.path).unlink(missing_ok=True)
        with suppress(DBAPIError, sqlite3.Error), self._engine.connect() as connection:
            driver: Any = connection.connection.driver_connection
            driver.execute("PRAGMA wal_checkpoint(TRUNCATE)")

    def close(self) -> None:
        """Give the connections, the reserve and the lock back."""
        self._engine.dispose()
        if self._lock is not None:
            with suppress(OSError):
                _reserve_path(self.path).unlink(missing_ok=True)
            os.close(self._lock)
            self._lock = None

    def __enter__(self) -> Self:
        """Close at the end of the block."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close."""
        self.close()


def unavailable(path: Path, error: BaseException) -> LedgerUnavailableError:
    """Say that the ledger cannot be used now, in the words of who has to mend it."""
    cause = str(getattr(error, "orig", None) or error)
    return LedgerUnavailableError(
        f"ledger {path}: {cause}: nothing more is sent; see to its disk (room, permissions), then run the same "
        "command again"
    )


@contextmanager
def _told(path: Path) -> Iterator[None]:
    try:
        yield
    except (DBAPIError, OSError) as error:
        raise unavailable(path, error) from error


def _path(url: str) -> Path:
    # by its real name: two runs that reach it by two names must meet at the same lock
    return Path(os.path.realpath(url.removeprefix("sqlite:///")))


def _make_default_folder(folder: Path) -> None:
    """Make the default's folder; any other is the operator's, and may be a volume that is not mounted."""
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        raise UsageError(f"ledger: its folder {folder} cannot be made ({error.strerror}): name one") from error


def _check_place(path: Path) -> None:
    folder = path.parent
    try:
        device = folder.stat().st_dev
    except OSError as error:
        raise UsageError(
            f"ledger {path}: its folder {folder} cannot be used ({error.strerror}): make or mount it, or name "
            "another with --ledger sqlite:////path/ledger.db"
        ) from error
    if not folder.is_dir() or not os.access(folder, os.W_OK | os.X_OK, effective_ids=True):
        raise UsageError(f"ledger {path}: its folder {folder} is not writable: make it so, or name another")
    if path.exists() and (not path.is_file() or not os.access(path, os.W_OK, effective_ids=True)):
        raise UsageError(f"ledger {path}: it is no file that can be written: name another, or give leave to write")
    kind = file_system(Path("/proc/self/mountinfo"), device)
    if kind in NETWORK_FILE_SYSTEMS:
        raise UsageError(
            f"ledger {path}: it lies on a network file system ({kind}), where SQLite's write-ahead log does not "
            "work: put it on a local disk"
        )


def file_system(mountinfo: Path, device: int) -> str | None:
    """Tell the kind of file system that a device number has, None where the kernel does not say.

    Args:
        mountinfo: The kernel's list of mounts (proc(5)).
        device: ``st_dev`` of a file on it.
    """
    try:
        lines = mountinfo.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return None  # no such list outside Linux
    wanted = f"{os.major(device)}:{os.minor(device)}"
    for line in lines:
        mount, _, source = line.partition(" - ")
        if source and mount.split()[2] == wanted:
            return source.split()[0]
    return None


def _lock_path(path: Path) -> Path:
    return path.with_name(path.name + ".lock")


def _lock(path: Path) -> int:
    """Take the kernel's lock: it ends with its owner, however that one dies."""
    try:
        descriptor = os.open(_lock_path(path), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise unavailable(path, error) from error
    if not _locked(descriptor):
        os.close(descriptor)
        raise LedgerBusyError(
            f"ledger {path}: another run holds it: wait for its end (`uploader status` shows how far it is), or "
            "give this run a ledger of its own only if it is for another account"
        )
    return descriptor


def _locked(descriptor: int) -> bool:
    """Take the lock; who only asks whether it is taken has it for a moment, and that is waited for."""
    for _ in range(LOCK_TRIES):
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            time.sleep(LOCK_WAIT_SECONDS)
        else:
            return True
    return False


def _reserve_path(path: Path) -> Path:
    return path.with_name(path.name + ".reserve")


def _set_aside(path: Path) -> None:
    try:
        descriptor = os.open(_reserve_path(path), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            os.posix_fallocate(descriptor, 0, RESERVE_BYTES)
        finally:
            os.close(descriptor)
    except OSError as error:
        with suppress(OSError):
            _reserve_path(path).unlink(missing_ok=True)
        raise unavailable(path, error) from error


def _create_file(path: Path) -> None:
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            os.fchmod(descriptor, 0o600)
        finally:
            os.close(descriptor)
    except OSError as error:
        raise unavailable(path, error) from error


def _engine(path: Path, *, begin: str, foreign_keys: bool = True) -> Engine:
    engine = create_engine(
        f"sqlite:///{path}",
        connect_args={"timeout": BUSY_SECONDS, "check_same_thread": False},
        hide_parameters=True,  # paths and parameters are among them, and errors reach the log
    )

    @event.listens_for(engine, "connect")
    def configure(connection: sqlite3.Connection, _: object) -> None:
        # the driver's own idea of when a transaction begins would leave reads of the claim outside it
        connection.isolation_level = None
        connection.execute("PRAGMA journal_mode=WAL")
        # an intent that is lost in a power cut means a second append
        connection.execute("PRAGMA synchronous=FULL")
        connection.execute(f"PRAGMA foreign_keys={'ON' if foreign_keys else 'OFF'}")

    @event.listens_for(engine, "begin")
    def start(connection: Connection) -> None:
        connection.exec_driver_sql(begin)

    return engine


def _create_schema(connection: Connection) -> None:
    schema.metadata.create_all(connection)
    connection.execute(insert(schema.ledger).values(version=schema.VERSION, webhook_key=token_hex(KEY_BYTES)))
    stamp(connection)


def _migrate(path: Path, version: int) -> None:
    """Bring an older ledger to this schema, one transaction a version, after a copy of its file was made."""
    if version == schema.VERSION:
        return
    # a table that is made anew is dropped and renamed, which enforced foreign keys do not allow
    engine = _engine(path, begin="BEGIN IMMEDIATE", foreign_keys=False)
    try:
        copy = _copy_before(path, version)
        for target in range(version + 1, schema.VERSION + 1):
            with _told(path), engine.begin() as connection:
                migrate(connection, target)
                broken = connection.exec_driver_sql("PRAGMA foreign_key_check").first()
                if broken is not None:
                    raise RuntimeError(f"migration to {target}: rows of table {broken[0]} point nowhere")
    finally:
        engine.dispose()
    log.warning("the ledger was migrated", fromVersion=version, toVersion=schema.VERSION, copy=copy.name)


def _copy_before(path: Path, version: int) -> Path:
    """Copy a ledger beside itself; a copy that stands there from before is kept."""
    for number in count(1):
        copy = path.with_name(f"{path.name}.version-{version}" + (f".{number}" if number > 1 else ""))
        try:
            copy_ledger(path, copy)
        except FileExistsError:
            continue
        except (sqlite3.Error, OSError) as error:
            raise LedgerUnavailableError(
                f"ledger {path}: it could not be copied before its migration ({error}): nothing was changed or sent; "
                "see to its disk (room, permissions), then run the same command again"
            ) from error
        return copy
    raise AssertionError


def _version(path: Path) -> int | None:
    """Read the schema's version of a ledger without changing anything, None where there is nothing yet.

    Raises:
        UsageError: There is something else, or a ledger that this uploader can neither use nor migrate.
        LedgerUnavailableError: It cannot be read now.
    """
    try:
        if not path.exists() or path.stat().st_size == 0:
            return None
        version = _marked_version(path)
    except (sqlite3.OperationalError, OSError) as error:
        raise unavailable(path, error) from error
    if version is None:
        raise UsageError(f"ledger {path}: this file is no ledger of the uploader: name another with --ledger")
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


def _marked_version(path: Path) -> int | None:
    """Read the version that a ledger is marked with, None where the file bears no mark of ours."""
    with closing(sqlite3.connect(f"{path.as_uri()}?mode=ro", uri=True, timeout=BUSY_SECONDS)) as connection:
        try:
            (application,) = connection.execute("PRAGMA application_id").fetchone()
            tables = {name for (name,) in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
            if application not in (0, APPLICATION_ID) or schema.ledger.name not in tables:
                return None
            columns = {name for _, name, *_ in connection.execute("PRAGMA table_info(ledger)")}
            found = connection.execute("SELECT version FROM ledger").fetchone() if "version" in columns else None
        except sqlite3.OperationalError:
            raise
        except sqlite3.DatabaseError:
            return None
    version = found[0] if found is not None else None
    if not isinstance(version, int):
        return None
    # before version 3 the row of the table was the only mark
    return version if application == APPLICATION_ID or version < min(STEPS) else None
