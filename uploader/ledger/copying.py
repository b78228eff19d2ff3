"""Copies an SQLite ledger while others use it, and puts a file in place whole, never over another."""

import errno
import os
import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from tempfile import NamedTemporaryFile

NO_HARD_LINKS = frozenset({errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK})


def copy_ledger(source: Path, target: Path) -> None:
    """Copy a ledger with SQLite's online backup; ``target`` is whole and on the disk, or does not exist.

    Raises:
        FileExistsError: Something stands at ``target`` already.
        sqlite3.Error: The ledger cannot be read, or the copy not written.
        OSError: The copy cannot be written.
    """
    with new_file(target) as unfinished, closing(sqlite3.connect(unfinished)) as copy:
        # the file is synced as a whole; a journal beside it would only be in the way
        copy.execute("PRAGMA journal_mode=OFF")
        with closing(sqlite3.connect(f"{source.as_uri()}?mode=ro", uri=True)) as ledger:
            ledger.backup(copy)


@contextmanager
def new_file(path: Path) -> Iterator[Path]:
    """Give a temporary file in the same folder, which gets the name ``path`` when the block ends well.

    Raises:
        FileExistsError: Something stands at ``path`` already.
        OSError: The file cannot be made.
    """
    with NamedTemporaryFile(dir=path.parent, prefix=f".{path.name}.", suffix=".new", delete=False) as file:
        unfinished = Path(file.name)
        try:
            yield unfinished
            os.fsync(file.fileno())
            _name(unfinished, path)
        except BaseException:
            with suppress(OSError):
                unfinished.unlink()
            raise
    sync_folder(path.parent)


def _name(unfinished: Path, path: Path) -> None:
    """Rename a file without replacing what may stand there."""
    try:
        os.link(unfinished, path, follow_symlinks=False)
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
