"""A file of audio: what the file system says of it, its hash, and its bytes while it is sent."""

import asyncio
import errno
import os
import stat
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from io import FileIO
from pathlib import Path
from typing import Any, NamedTuple

import aiofiles.os
from aiofiles.threadpool import wrap
from blake3 import blake3

from uploader.audio.opening import WITHOUT_WAITING, lies_in, open_cached, open_without_waiting
from uploader.errors import GaveUpError, SourceError
from uploader.model import FileSignature

READ_BYTES = 1024 * 1024
PIECE_BYTES = 512 * 1024
"""The most that is read from the page cache, or handed to the connection, in one step of the event loop.

Reading, hashing, encrypting and sending it takes about half a millisecond. Half as much costs 25 microseconds a step
more, twice as much is more than the processor's cache holds; TLS keeps up to two copies of it, encrypted.
"""
SMALL_BYTES = 128 * 1024
"""A file up to this size is read in the thread that opens it, where it needs one."""
MOST_FOLDERS = 1024
CHECK_AGAIN = "run its manifest again, and it is checked anew"
NOWAIT: int | None = getattr(os, "RWF_NOWAIT", None)
"""The flag of a read from the page cache alone; None where the system has none (macOS)."""


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
    """An open file that is read once, from its beginning, and whose BLAKE3 hash is taken by whoever reads.

    Args:
        path: Where it is.
        opener: Opens it; the file system must not keep the caller waiting.
    """

    def __init__(self, path: Path, opener: Callable[[str, int], int]) -> None:
        super().__init__(path, "rb", opener=opener)
        self.is_nowait = NOWAIT is not None
        """Whether the file system can read from the page cache alone, as far as is known."""
        self._digest = blake3()
        self._offset = 0

    @property
    def content_hash(self) -> str:
        """The hash of all that was read, in hexadecimal."""
        return self._digest.hexdigest()

    def read_cached(self, buffer: memoryview) -> int:
        """Fill as much of a buffer as the page cache holds, without waiting for the disk; returns bytes."""
        count = self._read_nowait(buffer)
        self._take(buffer[:count])
        return count

    def readinto(self, buffer: Any, /) -> int:
        """Fill a buffer, or as much of it as the file has left, and wait for the disk; returns bytes."""
        view, filled = memoryview(buffer), 0
        self.seek(self._offset)
        while filled < len(view) and (count := super().readinto(view[filled:])):
            filled += count
        self._take(view[:filled])
        return filled

    def try_nowait(self) -> None:
        """Find out whether the file system can read from the page cache alone."""
        self._read_nowait(memoryview(bytearray(1)))

    def _read_nowait(self, buffer: memoryview) -> int:
        if not self.is_nowait or NOWAIT is None:
            return 0
        try:
            return os.preadv(self.fileno(), [buffer], self._offset, NOWAIT)
        except BlockingIOError:
            return 0  # nothing of it is in memory
        except OSError:
            # network, FUSE, overlay and memory file systems know no such read; a fault of the disk tells the next one
            self.is_nowait = False
            return 0

    def _take(self, view: memoryview) -> None:
        self._digest.update(view)
        self._offset += len(view)


class Source(NamedTuple):
    """An open audio file of which exactly ``size`` bytes are to be sent. ``whole``: its content, if already read."""

    audio: AudioFile
    opened: FileSignature
    whole: memoryview | None = None

    @property
    def size(self) -> int:
        """Bytes."""
        return self.opened.size

    async def chunks(self, chunk_bytes: int) -> AsyncIterator[memoryview]:
        """Read the file in chunks, to its end; each is good until the next one is asked for, which takes its place.

        What is in the page cache is read and hashed on the event loop, a piece at a time, and other tasks have their
        turn between pieces; what is not, in a thread of aiofiles' and a whole chunk at a time, since the hop costs more
        than the piece.

        Raises:
            SourceError: It shrank, or cannot be read.
        """
        if self.whole is not None:
            for start in range(0, self.size, chunk_bytes):
                yield self.whole[start : start + chunk_bytes]
            return
        buffer = memoryview(bytearray(min(chunk_bytes, PIECE_BYTES, self.size)))
        left = self.size
        while left:
            chunk = buffer[: min(left, PIECE_BYTES)]
            filled = self.audio.read_cached(chunk)
            if filled == len(chunk):
                await asyncio.sleep(0)
            else:
                buffer = _enlarged(buffer, filled, min(chunk_bytes, self.size))
                chunk = buffer[:left]
                await self._fill(chunk[filled:])
            left -= len(chunk)
            yield chunk

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

    async def close(self) -> None:
        """Close the file: in a thread where the file system may take its time."""
        if self.audio.is_nowait:
            self.audio.close()
        else:
            await wrap(self.audio).close()

    async def _fill(self, buffer: memoryview) -> None:
        try:
            filled = await wrap(self.audio).readinto(buffer)
        except OSError as error:
            raise _unreadable(error) from error
        if filled < len(buffer):
            raise _shrank(self.size)


class SourceOpener:
    """Opens the files of items to be sent: on the event loop where no disk is waited for, else in a thread.

    Args:
        root: The folder that no file may lie outside of, behind whatever links; None: there is no such folder.
    """

    def __init__(self, root: Path | None = None) -> None:
        self._root = None if root is None else os.path.join(os.path.realpath(root), "")  # noqa: PTH118 - ends with a slash
        self._folders: set[str] = set()
        """Those on file systems that can read from the page cache alone: local disks, on which opening what the
        kernel has found in memory does not wait, either."""

    @asynccontextmanager
    async def open(self, path: Path, size: int, change: str | None = None) -> AsyncIterator[Source]:
        """Open the file of an item to be sent; one that needs a thread and is small is read there at once, too.

        Args:
            path: Where it is.
            size: The size that the ledger knows, in bytes; a file of another size is not what was checked.
            change: Likewise its ``FileSignature.change``; None or empty: its times and inode are not known.

        Raises:
            SourceError: It cannot be opened, or is not what was loaded from the manifest.
            GaveUpError: No more files can be open at once, which says nothing of this one.
        """
        folder = os.path.dirname(path)  # noqa: PTH120 - a tenth of what a Path costs
        checked = _Expected(size, change, self._root)
        source = _open_cached(path, checked) if folder in self._folders else None
        if source is None:
            source = await _open_in_thread(path, checked)
            self._learn(folder, source.audio)
        try:
            yield source
        finally:
            await source.close()

    def _learn(self, folder: str, audio: AudioFile) -> None:
        if len(self._folders) >= MOST_FOLDERS:
            self._folders.clear()
        if audio.is_nowait:
            self._folders.add(folder)


open_source = SourceOpener().open


class _Expected(NamedTuple):
    """What the check of the manifest found of a file, and the real path of the folder that it must lie in."""

    size: int
    change: str | None
    root: str | None


def _open_cached(path: Path, checked: _Expected) -> Source | None:
    try:
        audio = AudioFile(path, open_cached)
    except OSError:
        return None  # a thread finds out what it is
    return _source(audio, path, checked)


@aiofiles.os.wrap
def _open_in_thread(path: Path, checked: _Expected) -> Source:
    """Open a file, compare it with what was checked, and read it if it is small, in one of aiofiles' threads."""
    try:
        # a FIFO put in the file's place would block the opening for ever
        audio = AudioFile(path, open_without_waiting)
    except OSError as error:
        if error.errno in (errno.EMFILE, errno.ENFILE):
            raise GaveUpError(
                f"{error.strerror}: raise the limit of open files (ulimit -n), or lower --uploads"
            ) from error
        raise SourceError(f"the file could not be opened: {error.strerror}") from error
    source = _source(audio, path, checked)
    try:
        audio.try_nowait()
        return source if source.size > SMALL_BYTES else source._replace(whole=_whole(audio, source.size))
    except BaseException:
        audio.close()
        raise


def _source(audio: AudioFile, path: Path, checked: _Expected) -> Source:
    """Compare an open file with what was checked; it is closed if it is another one."""
    try:
        return Source(audio, _unchanged(audio.fileno(), path, checked))
    except BaseException:
        audio.close()
        raise


def _enlarged(buffer: memoryview, filled: int, size: int) -> memoryview:
    """A buffer of so many bytes at least, with what was filled of another one."""
    if len(buffer) >= size:
        return buffer
    larger = memoryview(bytearray(size))
    larger[:filled] = buffer[:filled]
    return larger


def _unchanged(descriptor: int, path: Path, checked: _Expected) -> FileSignature:
    found = os.fstat(descriptor)
    if not stat.S_ISREG(found.st_mode):
        raise SourceError("this is no regular file any more")
    opened = _signature(found)
    if opened.size != checked.size:
        sizes = f"it had {checked.size} bytes, now it has {opened.size}"
        raise SourceError(f"the file changed since its manifest was checked ({sizes}): {CHECK_AGAIN}")
    if checked.change and opened.change != checked.change:
        raise SourceError(f"the file changed since its manifest was checked: {CHECK_AGAIN}")
    if checked.root is not None and not lies_in(checked.root, descriptor, path, found):
        raise SourceError(f"the path leads outside the audio root since its manifest was checked: {CHECK_AGAIN}")
    return opened


def _whole(audio: AudioFile, size: int) -> memoryview:
    content = memoryview(bytearray(size))
    try:
        filled = audio.readinto(content)
    except OSError as error:
        raise _unreadable(error) from error
    if filled < size:
        raise _shrank(size)
    return content


def _shrank(size: int) -> SourceError:
    return SourceError(f"the file shrank while it was sent: {size} bytes were announced")


def _unreadable(error: OSError) -> SourceError:
    return SourceError(f"the file could not be read: {error.strerror}")


def _signature(found: os.stat_result) -> FileSignature:
    return FileSignature(found.st_size, f"{found.st_mtime_ns}:{found.st_ctime_ns}:{found.st_ino}")


def _modified(signature: FileSignature) -> tuple[int, str]:
    return signature.size, signature.change.partition(":")[0]
