"""The ledger in an SQLite file: opened by the one run that writes, beside a run, or for reading."""

import errno
import glob
import os
import sqlite3
import time
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from pathlib import Path
from typing import Self

from sqlalchemy import Connection, Engine, select, update
from sqlalchemy.exc import DBAPIError

from uploader import logs
from uploader.errors import LedgerBusyError, LedgerUnavailableError, UsageError
from uploader.ledger import schema
from uploader.ledger.checking import damage, doubt
from uploader.ledger.clock import any_open_worker, boot_clock, rebase_deadlines, steady_clock, steady_seconds
from uploader.ledger.copying import copy_beside, copy_ledger
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
from uploader.ledger.place import check_outlives_container, check_place
from uploader.ledger.sidecars import (
    RunCount,
    begin_presence,
    end_presence,
    forget_dead_runs,
    give_back,
    is_present,
    lock_again,
    present_runs,
    read_count,
    read_count_beside,
    release_lock,
    save_count,
    save_folded,
    set_aside,
    take_lock,
)
from uploader.ledger.sqlite import (
    AT_ONCE,
    BUSY_POLL_SECONDS,
    HOW_TO_MEND,
    connect,
    connect_for_reading,
    engine,
    has_log,
    make,
    marked_version,
    migrate_file,
    translate_errors,
)
from uploader.settings import default_ledger

log = logs.get_logger()

# the ending of a ledger's copy that a run keeps where the file was taken from under it
RESCUED = ".rescued"
# of a load's log, at 4 KiB each, before it is copied into the file
LOG_PAGES = 16_000

_LATER = "the next nights use the room; the same command gives it back to the disk while no run is at work"

# errors of a path at which no file will ever be made: the remedy is another path
_NO_PLACE = frozenset(
    {
        errno.ENOENT,
        errno.ENOTDIR,
        errno.EISDIR,
        errno.EACCES,
        errno.EPERM,
        errno.EROFS,
        errno.ENAMETOOLONG,
        errno.EINVAL,
    }
)


class SqliteLedger(Ledger):
    """An open ledger in an SQLite file."""

    def __init__(self, path: Path, pool: Engine) -> None:
        super().__init__(str(path), pool)
        self.path = path
        self._writer = pool.execution_options(begin=AT_ONCE)
        # the mark of this process as a run; None where the ledger is not open for a run
        self._presence: int | None = None
        # the file of the ledger's lock, which a run holds while it opens or closes the ledger
        self._lock: int | None = None
        # a descriptor that is given up at the closing, where too many files may be open
        self._spare: int | None = None
        self._is_alone = False
        self._had_log = False
        # a connection that a run keeps open: closing the last one folds the log, and a missing log means doubt
        self._kept: Connection | None = None
        # the number of this run; None where the ledger is not open for a run
        self._runs: int | None = None
        # the least count of runs saved beside it, so that it is doubted until a person accepts it
        self._owed = 0
        self._identity = _identity(path)
        self._readers: list[SqliteLedger] = []
        self._is_discarded = False

    @classmethod
    def for_run(
        cls, url: str, *, must_exist: bool, on_container: bool, doubted: Doubted, alone: bool, patience: Patience
    ) -> Self:
        """Open the ledger for a run; make a missing one, migrate an older one where no other run uses it."""
        del patience  # a file is never silent
        path = ledger_path(url)
        if url == default_ledger():
            _make_default_folder(path.parent)
        check_place(path)
        with translate_errors(path):
            lock = take_lock(path)
        try:
            others = present_runs(path)
            if alone:
                _check_alone(path, others)
            opened = (
                cls._join(path, lock)
                if others
                else cls._open_first(
                    path, lock, must_exist=must_exist, on_container=on_container, doubted=doubted, alone=alone
                )
            )
        except BaseException:
            os.close(lock)
            raise
        return opened

    def _keep_lock(self, lock: int, *, alone: bool) -> None:
        """Keep the file of the lock; only a command that needs the ledger for itself keeps the lock, too."""
        self._lock, self._spare, self._is_alone = lock, os.dup(lock), alone
        if not alone:
            release_lock(lock)

    @classmethod
    def _open_first(
        cls, path: Path, lock: int, *, must_exist: bool, on_container: bool, doubted: Doubted, alone: bool
    ) -> Self:
        """Open the ledger where no other run has it open."""
        forget_dead_runs(path)
        try:
            had_log = has_log(path)
            is_new = _prepare(path, must_exist=must_exist, on_container=on_container)
            opened = cls(path, engine(lambda: connect(path, "rw")))
        except BaseException:
            give_back(path)
            raise
        opened.is_new = is_new
        try:
            opened._begin_presence()
            opened._check_whole(lock, has_log=had_log, doubted=Doubted.ACCEPTED if is_new else doubted)
            opened._count_run(lock)
        except BaseException:
            opened._close(lock)
            raise
        opened._keep_lock(lock, alone=alone)
        return opened

    @classmethod
    def _join(cls, path: Path, lock: int) -> Self:
        """Open the ledger beside other runs, which have checked that it is whole."""
        _existing(f"sqlite:///{path}")
        opened = cls(path, engine(lambda: connect(path, "rw")))
        try:
            opened._begin_presence()
            opened._count_run(lock)
        except BaseException:
            opened._close(lock)
            raise
        opened._keep_lock(lock, alone=False)
        return opened

    def _begin_presence(self) -> None:
        with translate_errors(self.path):
            self.process, self._presence = begin_presence(self.path)

    def is_gone(self, process: str) -> bool:
        """Return True where a run's process is known to be dead: the kernel has ended the lock of its mark."""
        return not is_present(self.path, process)

    def clock(self, connection: Connection) -> Callable[[], float]:
        """Return the clock of the ledger's times, which all its runs on this host share.

        It follows the host's steady clock from where the first of them has begun: a jump of the wall clock moves no
        deadline. Where no worker is left, it begins anew from the wall clock.
        """
        boot_id, offset = boot_clock()
        if not boot_id:
            return steady_clock(time.time, time.monotonic)
        known = connection.execute(select(schema.ledger.c.boot_id, schema.ledger.c.clock_offset)).one()
        if known.boot_id != boot_id or not any_open_worker(connection):
            rebase_deadlines(connection, boot_id, offset)
            offset = connection.execute(select(schema.ledger.c.clock_offset)).scalar_one()
        else:
            offset = known.clock_offset
        return lambda: offset + steady_seconds()

    def read_clock(self, connection: Connection) -> float:
        """Return the time by the clock of the ledger's workers; where no worker is left, that of the wall clock."""
        known = connection.execute(select(schema.ledger.c.boot_id, schema.ledger.c.clock_offset)).one()
        if known.boot_id and known.boot_id == boot_clock()[0] and any_open_worker(connection):
            return float(known.clock_offset) + steady_seconds()
        return time.time()

    @classmethod
    def is_there(cls, url: str, patience: Patience) -> bool:
        """Return True where there is a ledger; an empty file is none."""
        del patience  # as above
        return marked_version(ledger_path(url)) is not None

    @classmethod
    def beside_run(cls, url: str) -> Self:
        """Open an existing ledger for writing while a run holds it."""
        path = _existing(url)
        return cls(path, engine(lambda: connect(path, "rw")))

    @classmethod
    def for_reading(cls, url: str) -> Self:
        """Open an existing ledger beside a run or without one; its folder may be mounted read-only."""
        had_log = has_log(ledger_path(url))
        path = _existing(url)
        opened = cls(path, engine(lambda: connect_for_reading(path), writes=False))
        opened._had_log = had_log
        return opened

    def beside(self) -> "SqliteLedger":
        """Open the same ledger once more, for reading while a run writes; it is closed with this one."""
        reader = SqliteLedger(self.path, engine(self._connect_unmoved))
        self._readers.append(reader)
        return reader

    def translated_errors(self) -> AbstractContextManager[None]:
        """Turn errors of the database or its disk in the block into a LedgerUnavailableError."""
        return translate_errors(self.path)

    def begin_writing(self, accounts: Accounts | None = None) -> AbstractContextManager[Connection]:
        """Begin a transaction that locks the whole file from its start."""
        del accounts
        return self._writer.begin()

    def begin_reading(self) -> AbstractContextManager[Connection]:
        """Begin a transaction that reads one state."""
        return self._engine.begin()

    @contextmanager
    def locking(self, connection: Connection, account_ids: Collection[int]) -> Iterator[None]:
        """Begin a transaction that locks the whole file from its start, on a connection that ``staging`` gave."""
        del account_ids
        with connection.execution_options(begin=AT_ONCE).begin():
            yield
        connection.execution_options(begin="BEGIN")
        self.give_way()

    def give_way(self) -> None:
        """Leave the lock for as long as whoever waits takes to ask for it again: it knows no queue."""
        time.sleep(2 * BUSY_POLL_SECONDS)

    def analyze(self) -> None:
        """Do nothing: the planner goes by the indexes alone."""

    @contextmanager
    def staging(self) -> Iterator[Connection]:
        """Give a connection whose transactions lock nothing until they write; its temporary tables end with it."""
        with super().staging() as connection:
            # a load writes ids alone that it has read in the same transaction: looking up each of ten a row again would
            # cost a tenth of the load
            driver(connection).execute("PRAGMA foreign_keys=OFF")
            # the steps of a load write the same pages again and again
            driver(connection).execute(f"PRAGMA wal_autocheckpoint={LOG_PAGES}")
            yield connection

    @property
    def held_by_run(self) -> bool:
        """True where a run has the ledger open at this moment."""
        return bool(present_runs(self.path))

    def examine(self, *, whole: bool = True) -> Examination:
        """Examine a ledger that is open for reading, for damage and for signs of a lost part."""
        busy = self.held_by_run
        with translate_errors(self.path), self._engine.connect() as connection:  # a damaged one may not commit
            mark = read_mark(connection)
            is_read = whole or (mark.in_use and not busy)
            broken = damage(connection, whole=whole) if is_read else ""
            loads = (None, None) if broken else read_loads(connection)
        reason = "" if busy else doubt(self.path, mark, read_count_beside(self.path), has_log=self._had_log)
        return Examination(mark, busy, broken, reason, self.size(), *loads)

    def copy_to(self, target: Path) -> None:
        """Copy the ledger while others use it."""
        with translate_errors(self.path), self._engine.connect() as connection:
            try:
                copy_ledger(driver(connection), target)
            except FileExistsError as error:
                raise UsageError(f"{target}: it exists: name a new file, or move that one away") from error
            except OSError as error:
                message = f"{target}: the ledger could not be copied there ({error.strerror})"
                if error.errno in _NO_PLACE:
                    raise UsageError(
                        f"{message}: name a new file in a folder that exists and can be written"
                    ) from error
                raise LedgerUnavailableError(message) from error
            except sqlite3.Error as error:
                raise LedgerUnavailableError(f"{target}: the ledger could not be copied there ({error})") from error

    def size(self) -> int:
        """Return the bytes of the file."""
        return self.path.stat().st_size

    def give_back_room(self) -> str:
        """Rewrite the file without its free pages, where no run has it open."""
        try:
            lock = take_lock(self.path)
        except LedgerBusyError:
            return _LATER
        try:
            if present_runs(self.path):
                return _LATER
            with self._engine.connect() as connection:
                driver(connection).execute("VACUUM")
        except sqlite3.Error as error:
            return f"{_LATER} ({error})"
        finally:
            os.close(lock)
        return ""

    def moved(self) -> LedgerUnavailableError | None:
        """Return the error where the open file is no longer the one at the ledger's path; None where it is."""
        if _identity(self.path) == self._identity:
            return None
        return LedgerUnavailableError(
            f"ledger {self.path}: it was deleted, renamed or replaced while this run used it: nothing more is sent; "
            f"what this run knows is kept beside it as {self._rescue_path.name}: put that back in its place (mv), "
            "then run the same command again"
        )

    def discard_if_empty(self) -> None:
        """Remove the ledger at its closing where this run made it and it holds no batch."""
        with self.reading() as connection:
            self._is_discarded = self.is_new and not has_batch(connection)

    def make_room(self) -> None:
        """Free the reserve and fold the write-ahead log, so that the last outcomes have room on a full disk."""
        give_back(self.path)
        with suppress(DBAPIError, sqlite3.Error), self._engine.connect() as connection:
            driver(connection).execute("PRAGMA wal_checkpoint(TRUNCATE)")

    def close(self) -> None:
        """Close the connections, and release the reserve and the lock."""
        for reader in self._readers:
            reader.close()
        lock, self._lock = self._lock, None
        if lock is None:
            if self._close_connections():
                self._save_folded_beside()
            return
        if self._spare is not None:
            os.close(self._spare)
        try:
            if not self._is_alone:
                lock_again(self.path, lock)
            self._close(lock)
        except LedgerBusyError:
            # the ledger is then as after a crash
            self._close_connections()
            self._end_presence()
        finally:
            os.close(lock)

    def _close(self, lock: int) -> None:
        """Close the connections of a run; the last of several runs marks the ledger as closed."""
        is_last = not set(present_runs(self.path)) - {self.process}
        if self._runs is not None:
            self._end_run(is_last=is_last)
        is_folded = self._close_connections()
        if is_last:
            give_back(self.path)
            with suppress(OSError):
                self._save_end(lock, is_folded=is_folded)
            if self._is_discarded:
                self._remove(lock)
        self._runs = None
        self._end_presence()

    def _close_connections(self) -> bool:
        """Close the connections; return True where that has folded the write-ahead log."""
        had_log = has_log(self.path) and self.moved() is None
        if self._kept is not None:
            self._kept.close()
            self._kept = None
        self._engine.dispose()
        return had_log and not has_log(self.path)

    def _end_presence(self) -> None:
        if self._presence is not None:
            end_presence(self.path, self.process, self._presence)
            self._presence = None

    def _remove(self, lock: int) -> None:
        # the lock's file stays: another run may have opened it, and would hold a lock that nobody else sees
        with suppress(OSError):
            for suffix in ("", "-wal", "-shm"):
                self.path.with_name(self.path.name + suffix).unlink(missing_ok=True)
            os.ftruncate(lock, 0)

    def _save_end(self, lock: int, *, is_folded: bool) -> None:
        """Save for the next run that a missing log is no sign of loss."""
        if self._runs is None:
            if is_folded:
                save_folded(lock)
        elif not has_log(self.path):
            save_count(lock, RunCount(max(self._runs, self._owed), closed=True))

    def _save_folded_beside(self) -> None:
        """Save, unless a run holds the ledger, that this connection folded the log of a run that died."""
        with suppress(LedgerBusyError, UsageError, OSError):
            lock = take_lock(self.path)
            try:
                if not has_log(self.path) and not present_runs(self.path):
                    save_folded(lock)
            finally:
                os.close(lock)

    @property
    def _rescue_path(self) -> Path:
        return self.path.with_name(self.path.name + RESCUED)

    def _connect_unmoved(self) -> sqlite3.Connection:
        moved = self.moved()
        if moved is not None:
            raise moved
        return connect(self.path, "rw")

    def _check_whole(self, lock: int, *, has_log: bool, doubted: Doubted) -> None:
        """Check the ledger for the effects of a copy, a restore or a crash since its last run.

        Args:
            lock: The lock's file, which has the count of runs.
            has_log: Its write-ahead log stood beside it before it was opened.
            doubted: The way to open it where it may not know all that was appended.
        """
        with translate_errors(self.path), self._engine.connect() as connection:  # a damaged one may not commit
            mark = read_mark(connection)
            broken = damage(connection, whole=False) if mark.in_use else ""
        if broken:
            raise UsageError(f"ledger {self.path}: it is damaged ({broken}): {HOW_TO_MEND}. Nothing was sent")
        noted = read_count(lock)
        reason = doubt(self.path, mark, noted, has_log=has_log)
        if reason and doubted is Doubted.REFUSED:
            raise UsageError(f"ledger {self.path}: {reason}. Nothing was sent")
        if reason and doubted is Doubted.MENDED:
            self._owed = max(noted.runs, mark.runs + 1) + 1

    def _count_run(self, lock: int) -> None:
        """Count this run, and mark the ledger as in use until it is closed."""
        self._kept = self._engine.connect()
        with self.writing() as connection:
            self._runs = connection.execute(
                update(schema.ledger).values(runs=schema.ledger.c.runs + 1, in_use=True).returning(schema.ledger.c.runs)
            ).scalar_one()
        with translate_errors(self.path), self._engine.connect() as connection:
            # write the mark into the file itself, so that a copy of that file alone has it; not TRUNCATE, which
            # would leave no log whose absence shows a loss
            driver(connection).execute("PRAGMA wal_checkpoint(PASSIVE)")
            save_count(lock, RunCount(max(self._runs or 0, self._owed)))

    def _end_run(self, *, is_last: bool) -> None:
        """Mark the ledger as closed by its last run; where its file is gone, save a copy of it beside."""
        if self.moved() is None:
            if is_last:
                with suppress(LedgerUnavailableError), self.writing() as connection:
                    connection.execute(update(schema.ledger).values(in_use=False))
            return
        try:
            # by the connection that the run has kept: no new one can be opened to a file that is gone
            with nullcontext(self._kept) if self._kept is not None else self._engine.connect() as connection:
                rescued = copy_beside(driver(connection), self._rescue_path)
        except (DBAPIError, sqlite3.Error, OSError) as error:
            log.error("ledger.lost", reason=str(error))  # noqa: TRY400 - no fault of ours
        else:
            log.error("ledger.kept", file=rescued.name)


def ledger_path(url: str) -> Path:
    """Return the ledger's file by its real path: two runs that reach it by two names must meet at the same lock.

    Raises:
        UsageError: The address is empty, as there is no home folder for a default one.
    """
    if not url:
        raise UsageError(
            "ledger: there is no home folder to keep one in (no HOME, no entry in passwd): name one with --ledger "
            "sqlite:////path/ledger.db or UPLOADER_LEDGER"
        )
    return Path(os.path.realpath(url.removeprefix("sqlite:///")))


def _check_alone(path: Path, others: Sequence[str]) -> None:
    if others:
        raise LedgerBusyError(
            f"ledger {path}: a run is at work on it: wait for its end (`uploader status` shows how far it is)"
        )


def _identity(path: Path) -> tuple[int, int] | None:
    """Return device and inode of a file; None where there is none."""
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_dev, found.st_ino


def _make_default_folder(folder: Path) -> None:
    """Make the folder of the default ledger."""
    # no other folder is made: it may be a volume that is not mounted
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        raise UsageError(f"ledger: its folder {folder} cannot be made ({error.strerror}): name one") from error


def _prepare(path: Path, *, must_exist: bool, on_container: bool) -> bool:
    """Make a missing ledger, migrate an older one; return True where it was made."""
    version = marked_version(path)
    if version is None:
        _check_making(path, must_exist=must_exist, on_container=on_container)
    with translate_errors(path):
        set_aside(path)
    if version is None:
        make(path)
    elif version < schema.VERSION:
        migrate_file(path, version)
    return version is None


def _check_making(path: Path, *, must_exist: bool, on_container: bool) -> None:
    rescued = sorted(path.parent.glob(f"{glob.escape(path.name)}{RESCUED}*"))
    if rescued:
        raise UsageError(
            f"ledger {path}: it was deleted, renamed or replaced under a run, which kept what it knew as "
            f"{rescued[-1].name}: put that in its place (mv); a new one would append again what it holds. Nothing was "
            "sent"
        )
    if must_exist:
        raise UsageError(
            f"ledger {path}: there is none, and --ledger-must-exist forbids to make one: mount or restore it, or leave "
            "that option out for the first night. Nothing was sent"
        )
    if not on_container:
        check_outlives_container(path)


def _existing(url: str) -> Path:
    path = ledger_path(url)
    if not path.is_file():
        raise UsageError(f"ledger {path}: there is none yet: `uploader run MANIFEST` makes it")
    version = marked_version(path)
    if version is None:
        raise UsageError(f"ledger {path}: it is empty: `uploader run MANIFEST` fills it")
    if version < schema.VERSION:
        raise UsageError(
            f"ledger {path}: it has schema version {version}, this uploader reads {schema.VERSION}: "
            "`uploader ledger upgrade` migrates it, and so does the next `uploader run`; a copy is made before"
        )
    return path
