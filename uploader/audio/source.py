"""A file of audio: what the file system says of it, its hash, and its bytes while it is sent."""

import os
import stat
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import aiofiles
from aiofiles.threadpool.binary import AsyncBufferedReader
from blake3 import blake3

from uploader.errors import SourceError
from uploader.model import FileSignature

READ_BYTES = 1024 * 1024


def signature(path: Path) -> FileSignature:
    """Tell what the file system says of a file that can be sent.

    Raises:
        ValueError: It cannot be sent; the text says why, and what to do.
    """
    try:
        found = path.stat()
    except OSError as error:
        raise ValueError(f"the file cannot be found ({error.strerror}): correct the path or bring it back") from error
    if not stat.S_ISREG(found.st_mode):
        raise ValueError("this is no regular file: name an audio file")
    if found.st_size == 0:
        raise ValueError("the file is empty: record or copy it anew, or leave the row out")
    if not os.access(path, os.R_OK, effective_ids=os.access in os.supports_effective_ids):
        raise ValueError("the file cannot be read: give this user leave to read it")
    return _signature(found)


def content_hash(path: Path) -> str | None:
    """The BLAKE3 hash of a file's content in hexadecimal, None where it cannot be read."""
    digest = blake3()
    try:
        with path.open("rb") as file:
            while chunk := file.read(READ_BYTES):
                digest.update(chunk)
    except OSError:
        return None
    return digest.hexdigest()


@dataclass(frozen=True, slots=True)
class Source:
    """An open audio file of which exactly ``size`` bytes are to be sent."""

    file: AsyncBufferedReader
    opened: FileSignature

    @property
    def size(self) -> int:
        """Bytes."""
        return self.opened.size

    async def chunks(self, chunk_bytes: int) -> AsyncIterator[bytes]:
        """Read the file in chunks, to its end.

        Raises:
            SourceError: It shrank, grew or changed since it was opened, or cannot be read.
        """
        left = self.size
        while left:
            chunk = await self._read(min(chunk_bytes, left))
            left -= len(chunk)
            if not left:
                self._check_unchanged()
            yield chunk

    async def _read(self, wanted: int) -> bytes:
        try:
            chunk = await self.file.read(wanted)
        except OSError as error:
            raise SourceError(f"the file could not be read while it was sent: {error.strerror}") from error
        if len(chunk) < wanted:
            raise SourceError(f"the file shrank while it was sent: {self.size} bytes were announced")
        return chunk

    def _check_unchanged(self) -> None:
        now = _signature(os.fstat(self.file.fileno()))
        if now.size > self.size:
            raise SourceError(f"the file grew while it was sent, from {self.size} to {now.size} bytes")
        if _modified(now) != _modified(self.opened):
            raise SourceError("the file changed while it was sent")


@asynccontextmanager
async def open_source(path: Path, expected_bytes: int) -> AsyncIterator[Source]:
    """Open the file of an item to be sent.

    Args:
        path: Where it is.
        expected_bytes: The size that the ledger knows; a file of another size is not what was planned.

    Raises:
        SourceError: It cannot be opened, or is not what was loaded from the manifest.
    """
    try:
        # a FIFO put in the file's place would block the opening for ever
        file = await aiofiles.open(path, "rb", opener=open_without_waiting)
    except OSError as error:
        raise SourceError(f"the file could not be opened: {error.strerror}") from error
    try:
        found = os.fstat(file.fileno())
        if not stat.S_ISREG(found.st_mode):
            raise SourceError("this is no regular file any more")
        if found.st_size != expected_bytes:
            raise SourceError(
                f"the file changed after its manifest was loaded: it had {expected_bytes} bytes, now it has "
                f"{found.st_size}"
            )
        yield Source(file, _signature(found))
    finally:
        await file.close()


def open_without_waiting(path: str, flags: int) -> int:
    """Open a file (an ``opener``): a FIFO in its place does not block."""
    return os.open(path, flags | os.O_NONBLOCK | os.O_CLOEXEC)


def _signature(found: os.stat_result) -> FileSignature:
    return FileSignature(found.st_size, f"{found.st_mtime_ns}:{found.st_ctime_ns}:{found.st_ino}")


def _modified(one: FileSignature) -> tuple[int, str]:
    return one.size, one.change.partition(":")[0]
