"""Reads files that may be named pipes, without waiting for ever for a writer."""

import errno
import os
import select
import stat
from collections.abc import Callable
from contextlib import suppress
from io import BytesIO
from pathlib import Path
from typing import IO

# the time that a named pipe may lack a writer
PIPE_SECONDS = 5.0
# how often a request to stop is looked for while a pipe is silent
CHECK_SECONDS = 0.1
CHUNK_BYTES = 1024 * 1024


def copy(path: Path, kept: IO[bytes], check_stop: Callable[[], None] = lambda: None) -> None:
    """Copy the content of a file or a pipe into a file.

    Args:
        path: The file or pipe.
        kept: The file that gets the content.
        check_stop: Raises where the copying is to stop; called again and again.

    Raises:
        OSError: The pipe has no writer, it cannot be read, or the copy cannot be written.
    """
    with _open(path, kept) as source:
        transfer(source.fileno(), kept, check_stop)


def transfer(descriptor: int, kept: IO[bytes], check_stop: Callable[[], None]) -> None:
    """Copy the content of an open file or pipe into a file, as ``copy`` does."""
    asked = select.poll()
    asked.register(descriptor, select.POLLIN)
    while True:
        # the writer of a pipe may take as long as it likes
        while not asked.poll(CHECK_SECONDS * 1000):
            check_stop()
        chunk = os.read(descriptor, CHUNK_BYTES)
        if not chunk:
            return
        kept.write(chunk)
        check_stop()


def read(path: Path, most: int) -> bytes:
    """Read the content of a file or a pipe; of more than ``most`` bytes, a few more alone: a device may have no end.

    Raises:
        OSError: The pipe has no writer, or it cannot be read.
    """
    first = BytesIO()
    with _open(path, first) as source:
        return first.getvalue() + source.read(most + 1)


def _open(path: Path, first: IO[bytes]) -> IO[bytes]:
    """Open a file or a pipe; a byte that was read from a pipe meanwhile goes into ``first``."""
    # an opening that waits for a writer could wait for ever
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        if stat.S_ISFIFO(os.fstat(descriptor).st_mode):
            _wait_for_writer(descriptor, first)
        os.set_blocking(descriptor, True)
        return os.fdopen(descriptor, "rb")
    except OSError:
        os.close(descriptor)
        raise


def _wait_for_writer(descriptor: int, first: IO[bytes]) -> None:
    asked = select.poll()
    asked.register(descriptor, select.POLLIN)
    if asked.poll(PIPE_SECONDS * 1000):
        return
    with suppress(BlockingIOError):  # there is a writer that has not written yet
        begun = os.read(descriptor, 1)
        if not begun:
            raise OSError(errno.EPIPE, "this is a pipe, and nobody writes to it")
        first.write(begun)
