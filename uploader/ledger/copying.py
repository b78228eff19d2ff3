"""Copies an SQLite ledger while others use it, and makes files atomically, without replacing others."""

import errno
import os
import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from itertools import count
from pathlib import Path
from tempfile import NamedTemporaryFile

NO_HARD_LINKS = frozenset({errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK})
UNFINISHED = ".new"


def copy_beside(source: sqlite3.Connection, path: Path) -> Path:
    """Copy a ledger to ``path``, or to ``path`` with a number where that exists; return the copy's path."""
    for number in count(1):
        target = path if number == 1 else path.with_name(f"{path.name}.{number}")
        try:
            copy_ledger(source, target)
        except FileExistsError:
            continue
        return target
    raise AssertionError


def copy_ledger(source: sqlite3.Connection, target: Path) -> None:
    """Copy a ledger with SQLite's online backup; ``target`` is complete and durable, or does not exist.

    The copy is one file, and marked as closed.

    Raises:
        FileExistsError: ``target`` exists.
        sqlite3.Error: The ledger cannot be read, or the copy not written.
        OSError: The copy cannot be written.
    """
    with new_file(target) as unfinished, closing(sqlite3.connect(unfinished, isolation_level=None)) as copy:
        source.backup(copy)
        # no write-ahead log beside it until somebody opens it
        copy.execute("PRAGMA journal_mode=DELETE")
        if "in_use" in {name for _, name, *_ in copy.execute("PRAGMA table_info(ledger)")}:
            copy.execute("UPDATE ledger SET in_use = 0")


@contextmanager
def new_file(path: Path, *, replace: bool = False) -> Iterator[Path]:
    """Make a file atomically: yield a temporary one in the same folder, renamed to ``path`` when the block ends well.

    Args:
        path: The file to make.
        replace: Replace an existing file.

    Raises:
        FileExistsError: ``path`` exists and is not to be replaced.
        OSError: The file cannot be made.
    """
    with NamedTemporaryFile(dir=path.parent, prefix=f".{path.name}.", suffix=UNFINISHED, delete=False) as file:
        unfinished = Path(file.name)
        try:
            yield unfinished
            os.fsync(file.fileno())
            if replace:
                unfinished.replace(path)
            else:
                _name(unfinished, path)
        except BaseException:
            with suppress(OSError):
                unfinished.unlink()
            raise
    sync_folder(path.parent)


def _name(unfinished: Path, path: Path) -> None:
    """Rename a file without replacing another."""
    try:
        os.link(unfinished, path)
    except OSError as error:
        if error.errno not in NO_HARD_LINKS:
            raise
        os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_CLOEXEC, 0o600))
        unfinished.replace(path)
    else:
        unfinished.unlink()


def sync_folder(folder: Path) -> None:
    """Make the names in a folder durable."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
