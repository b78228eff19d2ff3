"""Handles the files beside a ledger: the run's lock, which has the count of runs, and the reserve of disk space."""

import errno
import fcntl
import os
import time
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

from uploader.errors import LedgerBusyError, UsageError

LOCK_TRIES = 3
LOCK_WAIT_SECONDS = 0.05
# disk space that a run reserves, so that outcomes can be written where the disk is full
RESERVE_BYTES = 1024 * 1024

NOT_SUPPORTED = frozenset({errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP})
COUNT_BYTES = 32
CLOSED = "closed"


def take_lock(path: Path) -> int:
    """Take the kernel's lock of a ledger, which ends with its process.

    Returns:
        The lock's file descriptor, which the caller closes.

    Raises:
        LedgerBusyError: Another run holds it.
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
    if not _locked(descriptor):
        os.close(descriptor)
        raise LedgerBusyError(
            f"ledger {path}: another run holds it: wait for its end (`uploader status` shows how far it is), or "
            "give this run a ledger of its own only if it is for another account"
        )
    return descriptor


def is_locked(path: Path) -> bool:
    """Return True where a run holds the ledger's lock at this moment."""
    try:
        descriptor = os.open(lock_path(path), os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
    except OSError:
        return False
    try:
        return not _locked(descriptor)
    finally:
        os.close(descriptor)


def _locked(descriptor: int) -> bool:
    """Take the lock; return False where a run holds it."""
    # ``is_locked`` in another process holds it for a moment: hence several tries
    for _ in range(LOCK_TRIES):
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            time.sleep(LOCK_WAIT_SECONDS)
        else:
            return True
    return False


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
