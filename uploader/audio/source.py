"""A file of audio: what the file system says of it, its hash, and its bytes while it is sent."""

import errno
import os
import stat
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from io import FileIO
from pathlib import Path
from typing import Any

import aiofiles.os
from aiofiles.threadpool import wrap
from aiofiles.threadpool.binary import AsyncFileIO
from blake3 import blake3

from uploader.errors import GaveUpError, SourceError
from uploader.model import FileSignature

READ_BYTES = 1024 * 1024
WITHOUT_WAITING = os.O_NONBLOCK | os.O_CLOEXEC
"""How a file is opened: a FIFO in its place does not block."""
SMALL_BYTES = 128 * 1024
"""A file up to this size is read when it is opened, in one piece."""


def signature(path: str | Path) -> FileSignature:
    """Tell what the file system says of a file that can be sent.

    Raises:
        ValueError: It cannot be sent; the text says why, and what to do.
    """
    try:
        found = Path(path).stat()
    except OSError as error:
        raise ValueError(f"the file cannot be found ({error.strerror}): correct the path or bring it back") from error
    checked = sendable(found)
    if not os.access(path, os.R_OK, effective_ids=os.access in os.supports_effective_ids):
        raise ValueError("the file cannot be read: give this user leave to read it")
    return checked


def sendable(found: os.stat_result) -> FileSignature:
    """Tell what the file system says of a file, if it is one that can be sent.

    Raises:
        ValueError: It is none; the text says why, and what to do.
    """
    if not stat.S_ISREG(found.st_mode):
        raise ValueError("this is no regular file: name an audio file")
    if found.st_size == 0:
        raise ValueError("the file is empty: record or copy it anew, or leave the row out")
    return _signature(found)


def content_hash(path: str | Path) -> str | None:
    """The BLAKE3 hash of a file's content in hexadecimal, None where it cannot be read."""
    digest = blake3()
    try:
        descriptor = os.open(path, os.O_RDONLY | WITHOUT_WAITING)
        try:
            most = min(os.fstat(descriptor).st_size + 1, READ_BYTES)
            while chunk := os.read(descriptor, most):
                digest.update(chunk)
        finally:
            os.close(descriptor)
    except OSError:
        return None
    return digest.hexdigest()


class AudioFile(FileIO):
    """An open file whose BLAKE3 hash is taken as it is read: where the reading waits for the disk, not on the loop."""

    def __init__(self, path: Path) -> None:
        # a FIFO put in the file's place would block the opening for ever
        super().__init__(path, "rb", opener=open_without_waiting)
        self._digest = blake3()

    @property
    def content_hash(self) -> str:
        """The hash of all that was read, in hexadecimal."""
        return self._digest.hexdigest()

    def readinto(self, buffer: Any, /) -> int:
        """Fill a buffer, or as much of it as the file has left; returns bytes."""
        view, filled = memoryview(buffer), 0
        while filled < len(view) and (count := super().readinto(view[filled:])):
            filled += count
        self._digest.update(view[:filled])
        return filled


@dataclass(frozen=True, slots=True)
class Source:
    """An open audio file of which exactly ``size`` bytes are to be sent. ``whole``: what a small file holds."""

    file: AsyncFileIO
    audio: AudioFile
    opened: FileSignature
    whole: memoryview | None

    @property
    def size(self) -> int:
        """Bytes."""
        return self.opened.size

    async def chunks(self, chunk_bytes: int) -> AsyncIterator[memoryview]:
        """Read the file in chunks, to its end; each is good until the next one is asked for, which takes its place.

        Raises:
            SourceError: It shrank, or cannot be read.
        """
        buffer = memoryview(bytearray(min(chunk_bytes, self.size))) if self.whole is None else None
        for start in range(0, self.size, chunk_bytes):
            end = min(start + chunk_bytes, self.size)
            if buffer is not None:
                await self._fill(buffer[: end - start])
                yield buffer[: end - start]
            elif self.whole is not None:
                yield self.whole[start:end]

    def verified_hash(self) -> str:
        """The BLAKE3 hash in hexadecimal of the whole content, once all of it was read.

        Raises:
            SourceError: The file shrank, grew or changed since it was opened.
        """
        now = _signature(os.fstat(self.audio.fileno()))
        if now.size < self.size:
            raise _shrank(self.size)
        if now.size > self.size:
            raise SourceError(f"the file grew while it was sent, from {self.size} to {now.size} bytes")
        if _modified(now) != _modified(self.opened):
            raise SourceError("the file changed while it was sent")
        return self.audio.content_hash

    async def _fill(self, buffer: memoryview) -> None:
        try:
            filled = await self.file.readinto(buffer)
        except OSError as error:
            raise SourceError(f"the file could not be read while it was sent: {error.strerror}") from error
        if filled is None or filled < len(buffer):
            raise _shrank(self.size)


@asynccontextmanager
async def open_source(path: Path, expected_bytes: int) -> AsyncIterator[Source]:
    """Open the file of an item to be sent; a small one is read at once, so that it costs one wait for the disk.

    Args:
        path: Where it is.
        expected_bytes: The size that the ledger knows; a file of another size is not what was planned.

    Raises:
        SourceError: It cannot be opened, or is not what was loaded from the manifest.
        GaveUpError: No more files can be open at once, which says nothing of this one.
    """
    audio, opened, whole = await _open(path, expected_bytes)
    source = Source(wrap(audio), audio, opened, whole)
    try:
        yield source
    finally:
        if whole is None:
            await source.file.close()
        else:
            audio.close()


@aiofiles.os.wrap
def _open(path: Path, expected_bytes: int) -> tuple[AudioFile, FileSignature, memoryview | None]:
    """Open a file, hold it against what was planned, and read it if it is small, in one of aiofiles' threads."""
    try:
        audio = AudioFile(path)
    except OSError as error:
        if error.errno in (errno.EMFILE, errno.ENFILE):
            raise GaveUpError(
                f"{error.strerror}: raise the limit of open files (ulimit -n), or lower --uploads"
            ) from error
        raise SourceError(f"the file could not be opened: {error.strerror}") from error
    try:
        opened = _planned(os.fstat(audio.fileno()), expected_bytes)
        return audio, opened, _whole(audio, opened.size)
    except BaseException:
        audio.close()
        raise


def _planned(found: os.stat_result, expected_bytes: int) -> FileSignature:
    if not stat.S_ISREG(found.st_mode):
        raise SourceError("this is no regular file any more")
    if found.st_size != expected_bytes:
        raise SourceError(
            f"the file changed after its manifest was loaded: it had {expected_bytes} bytes, now it has {found.st_size}"
        )
    return _signature(found)


def _whole(audio: AudioFile, size: int) -> memoryview | None:
    if size > SMALL_BYTES:
        return None
    content = memoryview(bytearray(size))
    try:
        filled = audio.readinto(content)
    except OSError as error:
        raise SourceError(f"the file could not be read: {error.strerror}") from error
    if filled < size:
        raise _shrank(size)
    return content


def _shrank(size: int) -> SourceError:
    return SourceError(f"the file shrank while it was sent: {size} bytes were announced")


def open_without_waiting(path: str, flags: int) -> int:
    """Open a file (an ``opener``): a FIFO in its place does not block."""
    return os.open(path, flags | WITHOUT_WAITING)


def _signature(found: os.stat_result) -> FileSignature:
    return FileSignature(found.st_size, f"{found.st_mtime_ns}:{found.st_ctime_ns}:{found.st_ino}")


def _modified(one: FileSignature) -> tuple[int, str]:
    return one.size, one.change.partition(":")[0]
