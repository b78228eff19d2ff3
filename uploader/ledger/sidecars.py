"""Handles the files beside a ledger: its lock, which has the count of runs, the runs' marks, and the disk reserve."""

import errno
import fcntl
import glob
import os
import time
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

from uploader.errors import LedgerBusyError, UsageError

# who opens or closes a ledger waits for another one that does, or for a command that needs the ledger for itself
LOCK_TRIES = 100
LOCK_WAIT_SECONDS = 0.05
# disk space that a run reserves, so that outcomes can be written where the disk is full
RESERVE_BYTES = 1024 * 1024

NOT_SUPPORTED = frozenset({errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP})
COUNT_BYTES = 32
CLOSED = "closed"


def take_lock(path: Path) -> int:
    """Take the kernel's lock of a ledger, which ends with its process.

    It is held while a run opens or closes the ledger, and by a command that needs the ledger for itself.

    Returns:
        The lock's file descriptor, which the caller closes.

    Raises:
        LedgerBusyError: A command needs the ledger for itself.
        UsageError: A symbolic link stands in its place.
        OSError: Its file cannot be made.
    """
    lock = lock_path(path)
    try:
        descriptor = os.open(lock, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    except OSError as error:
        if error.errno == errno.ELOOP:
            raise UsageError(f"ledger {path}: {lock} is a symbolic link, which is not followed: remove it") from error
        raise
    try:
        lock_again(path, descriptor)
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor


def lock_again(path: Path, descriptor: int) -> None:
    """Take the lock of a ledger by its open file, once whoever has it has released it.

    Raises:
        LedgerBusyError: A command needs the ledger for itself.
    """
    for _ in range(LOCK_TRIES):
        if _is_locked_now(descriptor):
            return
        time.sleep(LOCK_WAIT_SECONDS)
    raise LedgerBusyError(
        f"ledger {path}: another command has it for itself (`ledger adopt`, `ledger check --accept`, a migration): "
        "wait for its end"
    )


def release_lock(descriptor: int) -> None:
    """Release the lock of a ledger, and keep its file open."""
    fcntl.flock(descriptor, fcntl.LOCK_UN)


def begin_presence(path: Path) -> tuple[str, int]:
    """Mark this process as a run of a ledger, by a locked file; the lock ends with its process.

    Returns:
        The name by which others know the run, and the file descriptor, which the caller closes.

    Raises:
        OSError: The file cannot be made.
    """
    name = f"{os.getpid()}-{os.urandom(4).hex()}"
    flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW
    descriptor = os.open(_presence_path(path, name), flags, 0o600)
    fcntl.flock(descriptor, fcntl.LOCK_EX)
    return name, descriptor


def end_presence(path: Path, name: str, descriptor: int) -> None:
    """Remove the mark of this process."""
    with suppress(OSError):
        _presence_path(path, name).unlink(missing_ok=True)
    os.close(descriptor)


def is_present(path: Path, name: str) -> bool:
    """Return True where a run that has marked itself by this name is alive."""
    try:
        descriptor = os.open(_presence_path(path, name), os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
    except FileNotFoundError:
        return False
    except OSError:
        return True  # it cannot be known now
    try:
        return not _is_locked_now(descriptor)
    finally:
        os.close(descriptor)


def present_runs(path: Path) -> list[str]:
    """Return the names of the runs of a ledger that are alive."""
    return [name for name in _presences(path) if is_present(path, name)]


def forget_dead_runs(path: Path) -> None:
    """Remove the marks that dead runs have left; the caller has the ledger's lock."""
    for name in _presences(path):
        if not is_present(path, name):
            with suppress(OSError):
                _presence_path(path, name).unlink(missing_ok=True)


def _presences(path: Path) -> list[str]:
    prefix = f"{path.name}.run-"
    found = path.parent.glob(f"{glob.escape(prefix)}*")
    return sorted(file.name.removeprefix(prefix) for file in found)


def _presence_path(path: Path, name: str) -> Path:
    return path.with_name(f"{path.name}.run-{name}")


def _is_locked_now(descriptor: int) -> bool:
    """Take a file's lock; return False where another process has it."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def lock_path(path: Path) -> Path:
    """Return the lock's file of a ledger."""
    return path.with_name(path.name + ".lock")


class RunCount(NamedTuple):
    """The count of runs that is saved beside a ledger."""

    runs: int = 0
    # the last run folded the write-ahead log
    closed: bool = False


def read_count(lock: int) -> RunCount:
    """Read the count that the last run saved in the lock's file."""
    runs, _, state = os.pread(lock, COUNT_BYTES, 0).decode("ascii", "replace").strip().partition(" ")
    return RunCount(int(runs), state == CLOSED) if runs.isdecimal() else RunCount()


def read_count_beside(path: Path) -> RunCount:
    """Read the count that the last run saved beside a ledger, without taking its lock."""
    try:
        descriptor = os.open(lock_path(path), os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
    except OSError:
        return RunCount()
    try:
        return read_count(descriptor)
    finally:
        os.close(descriptor)


def save_count(lock: int, count: RunCount) -> None:
    """Save the count for the next run."""
    # of constant length, so that a full disk has room for it
    text = f"{count.runs} {CLOSED if count.closed else 'open'}"
    os.pwrite(lock, f"{text:<{COUNT_BYTES - 1}}\n".encode(), 0)
    os.fsync(lock)


def save_folded(lock: int) -> None:
    """Save that the log of a run that died was folded without a mark in the ledger."""
    save_count(lock, RunCount(read_count(lock).runs, closed=True))


def reserve_path(path: Path) -> Path:
    """Return the reserve's file of a ledger."""
    return path.with_name(path.name + ".reserve")


def set_aside(path: Path) -> None:
    """Reserve disk space for the outcomes that are written when the disk is full.

    Raises:
        OSError: There is no room.
    """
    reserve = reserve_path(path)
    try:
        # a reserve left by a run that died is made anew, and a link in its place is not followed
        reserve.unlink(missing_ok=True)
        descriptor = os.open(reserve, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        try:
            _allocate(descriptor)
        finally:
            os.close(descriptor)
    except OSError:
        give_back(path)
        raise


def _allocate(descriptor: int) -> None:
    """Allocate the reserve's blocks by ``posix_fallocate``, or by writing where system or disk lacks it."""
    if hasattr(os, "posix_fallocate"):  # not on macOS
        try:
            os.posix_fallocate(descriptor, 0, RESERVE_BYTES)
        except OSError as error:
            if error.errno not in NOT_SUPPORTED:
                raise
        else:
            return
    written = 0
    while written < RESERVE_BYTES:
        written += os.pwrite(descriptor, bytes(RESERVE_BYTES - written), written)


def give_back(path: Path) -> None:
    """Free the reserve's disk space."""
    with suppress(OSError):
        reserve_path(path).unlink(missing_ok=True)
