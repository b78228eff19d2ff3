"""An audio file's signature, its hash, and its bytes while it is sent."""

import asyncio
import os
import stat
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from io import FileIO
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol, Self

from blake3 import blake3

from uploader.audio.opening import WITHOUT_WAITING, lies_in, open_cached, open_without_waiting
from uploader.errors import TOO_MANY_FILES, GaveUpError, SourceError, SourceMissingError, describe
from uploader.model import FileSignature
from uploader.urls import is_remote

if TYPE_CHECKING:
    from uploader.audio.fetching import Fetchers

READ_BYTES = 1024 * 1024
# the most bytes read from the page cache, or handed to the connection, in one step of the event loop. Reading, hashing,
# encrypting and sending them takes about half a millisecond. Half as many cost 25 microseconds a step more, twice as
# many exceed the processor's cache; TLS keeps up to two encrypted copies of them.
PIECE_BYTES = 512 * 1024
# the largest file, in bytes, that is read whole in the thread that opens it, where a thread is needed
SMALL_BYTES = 128 * 1024
MOST_FOLDERS = 1024
CHECK_AGAIN = "run its manifest again, and it is checked anew"
# the flag of a read from the page cache alone; None where the system has none (macOS)
NOWAIT: int | None = getattr(os, "RWF_NOWAIT", None)


def signature(path: str | Path) -> FileSignature:
    """Read the signature of a file that can be sent.

    Raises:
        ValueError: The file cannot be sent; the text says why, and gives the remedy.
    """
    try:
        found = os.stat(path)  # noqa: PTH116 - costs less for a million
    except OSError as error:
        raise ValueError(f"the file cannot be found ({error.strerror}): correct the path or bring it back") from error
    checked = sendable(found)
    if not os.access(path, os.R_OK, effective_ids=os.access in os.supports_effective_ids):
        raise ValueError("the file cannot be read: give this user leave to read it")
    return checked


def sendable(found: os.stat_result) -> FileSignature:
    """Build the signature from a file's status, if the file can be sent.

    Raises:
        ValueError: The file cannot be sent; the text says why, and gives the remedy.
    """
    if not stat.S_ISREG(found.st_mode):
        raise ValueError("this is no regular file: name an audio file")
    if found.st_size == 0:
        raise ValueError("the file is empty: record or copy it anew, or leave the row out")
    return _signature(found)


def content_hash(path: str | Path) -> str | None:
    """Compute the BLAKE3 hash of a file's content in hexadecimal; None where it cannot be read."""
    digest = blake3()
    try:
        descriptor = os.open(path, os.O_RDONLY | WITHOUT_WAITING)
        try:
            most = min(os.fstat(descriptor).st_size + 1, READ_BYTES)
            while chunk := os.read(descriptor, most):
                digest.update(chunk)
                if len(chunk) < most:
                    break  # the end: most files are read at once, and need no second read to tell
        finally:
            os.close(descriptor)
    except OSError:
        return None
    return digest.hexdigest()


class AudioFile(FileIO):
    """An open file, read once from its beginning, whose BLAKE3 hash is taken as it is read.

    Args:
        opener: Opens the file without blocking on the file system.
    """

    def __init__(self, path: str | Path, opener: Callable[[str, int], int]) -> None:
        super().__init__(path, "rb", opener=opener)
        # the file system can read from the page cache alone, as far as is known
        self.is_nowait = NOWAIT is not None
        self._digest = blake3()
        self._offset = 0

    @property
    def content_hash(self) -> str:
        """The hash of all bytes read so far, in hexadecimal."""
        return self._digest.hexdigest()

    def read_cached(self, buffer: memoryview) -> int:
        """Fill as much of a buffer as the page cache holds, without waiting for the disk; return the bytes."""
        count = self._read_nowait(buffer)
        self._take(buffer[:count])
        return count

    def readinto(self, buffer: Any, /) -> int:
        """Fill a buffer, or as much of it as the file has left, waiting for the disk; return the bytes."""
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
            # network, FUSE, overlay and memory file systems lack this read; a disk error comes back at the next read
            self.is_nowait = False
            return 0

    def _take(self, view: memoryview) -> None:
        self._digest.update(view)
        self._offset += len(view)


class Source(Protocol):
    """Open audio, of a file or remote, of which exactly ``size`` bytes are to be sent."""

    @property
    def size(self) -> int:
        """The size in bytes."""
        ...

    def chunks(self, chunk_bytes: int) -> AsyncIterator[memoryview]:
        """Yield the content in chunks; each is valid until the next one is asked for.

        Raises:
            SourceError: The content cannot be read, or is not of this size.
        """
        ...

    def verified_hash(self) -> str:
        """Return the BLAKE3 hash of the whole content in hexadecimal, once all of it was read.

        Raises:
            SourceError: The content changed since it was opened.
        """
        ...


class FileSource(NamedTuple):
    """An open audio file of which exactly ``size`` bytes are to be sent. ``whole``: its content, if read already."""

    audio: AudioFile
    opened: FileSignature
    whole: memoryview | None = None

    @property
    def size(self) -> int:
        """The size in bytes."""
        return self.opened.size

    async def chunks(self, chunk_bytes: int) -> AsyncIterator[memoryview]:
        """Yield the file's content in chunks; each is valid until the next one is asked for.

        Bytes in the page cache are read and hashed on the event loop, a piece at a time, and other tasks run between
        pieces. Other bytes are read in a thread of aiofiles', a whole chunk at a time, since the hop costs more than
        the piece.

        Raises:
            SourceError: The file shrank, or cannot be read.
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
        """Return the BLAKE3 hash of the whole content in hexadecimal, once all of it was read.

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
        """Close the file, in a thread where the file system may block."""
        if self.audio.is_nowait:
            self.audio.close()
        else:
            await _in_threads(self.audio).close()

    async def _fill(self, buffer: memoryview) -> None:
        try:
            filled = await _in_threads(self.audio).readinto(buffer)
        except OSError as error:
            raise _unreadable(error) from error
        if filled < len(buffer):
            raise _shrank(self.size)


class SourceOpener:
    """Opens the audio of items to be sent, a context manager that closes the connections to its servers.

    A file is opened on the event loop where the disk is not waited for, else in a thread.

    Args:
        root: The folder in which every file must lie, whatever links its path has, and no audio is remote; None: any
            folder, or server.
    """

    def __init__(self, root: Path | None = None) -> None:
        self._root = None if root is None else os.path.join(os.path.realpath(root), "")  # noqa: PTH118 - ends with a slash
        # folders on file systems that can read from the page cache alone: local disks, where opening a cached path does
        # not wait, either
        self._folders: set[str] = set()
        self._fetchers: Fetchers | None = None

    async def __aenter__(self) -> Self:
        """Begin; no connection is made before it is needed."""
        return self

    async def __aexit__(self, *_: object) -> None:
        """Close the connections to the servers of remote audio."""
        if self._fetchers is not None:
            await self._fetchers.close()

    @asynccontextmanager
    async def open(self, path: str | Path, size: int, change: str | None = None) -> AsyncIterator[Source]:
        """Open an item's file; a small one that needs a thread is read there at once, too.

        Args:
            path: The file's path, or the address of remote audio.
            size: The size in the ledger, in bytes; a file of another size is not the one that was checked.
            change: The ``FileSignature.change`` in the ledger; None or empty: times and inode are not known.

        Raises:
            SourceError: The file cannot be opened, or is not the one that was loaded from the manifest.
            SourceAwayError: The server of remote audio cannot be reached now.
            SourceMissingError: The file cannot be opened on this host, or lies outside the root.
            GaveUpError: No more files can be open at once, which is no fault of this file.
        """
        if is_remote(str(path)):
            async with self._open_remote(str(path), size, change) as remote:
                yield remote
            return
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

    def _open_remote(self, address: str, size: int, change: str | None) -> AbstractAsyncContextManager[Source]:
        from uploader.audio.fetching import Fetchers, open_remote  # noqa: PLC0415 - most recordings are files

        if self._root is not None:
            raise SourceMissingError(
                "remote audio lies outside the audio root: leave --audio-root out, or copy the file into it"
            )
        self._fetchers = self._fetchers or Fetchers()
        return open_remote(self._fetchers, address, size, change)

    def _learn(self, folder: str, audio: AudioFile) -> None:
        if len(self._folders) >= MOST_FOLDERS:
            self._folders.clear()
        if audio.is_nowait:
            self._folders.add(folder)


open_source = SourceOpener().open


class _Expected(NamedTuple):
    """The size and change that the ledger has of a file, and the real path of the folder that it must lie in."""

    size: int
    change: str | None
    root: str | None


def _open_cached(path: str | Path, checked: _Expected) -> FileSource | None:
    try:
        audio = AudioFile(path, open_cached)
    except OSError:
        return None  # a thread examines the file
    return _source(audio, path, checked)


def _in_threads(audio: AudioFile) -> Any:
    """Wrap an open file so that its methods run in aiofiles' threads."""
    from aiofiles.threadpool import wrap  # noqa: PLC0415 - a plan opens no file to be sent

    return wrap(audio)


async def _open_in_thread(path: str | Path, checked: _Expected) -> FileSource:
    """Open a file in one of aiofiles' threads, compare it with the ledger's facts, and read it if it is small."""
    from aiofiles.os import wrap  # noqa: PLC0415 - as above

    source: FileSource = await wrap(_open)(path, checked)
    return source


def _open(path: str | Path, checked: _Expected) -> FileSource:
    try:
        # a FIFO put in the file's place would block the opening for ever
        audio = AudioFile(path, open_without_waiting)
    except OSError as error:
        if error.errno in TOO_MANY_FILES:
            raise GaveUpError(f"{describe(error)}, or lower --uploads") from error
        raise SourceMissingError(f"the file could not be opened: {error.strerror}") from error
    source = _source(audio, path, checked)
    try:
        audio.try_nowait()
        return source if source.size > SMALL_BYTES else source._replace(whole=_whole(audio, source.size))
    except BaseException:
        audio.close()
        raise


def _source(audio: AudioFile, path: str | Path, checked: _Expected) -> FileSource:
    """Compare an open file with the ledger's facts; close it if it is another one."""
    try:
        return FileSource(audio, _unchanged(audio.fileno(), path, checked))
    except BaseException:
        audio.close()
        raise


def _enlarged(buffer: memoryview, filled: int, size: int) -> memoryview:
    """Return a buffer of at least so many bytes, with the filled part of another one."""
    if len(buffer) >= size:
        return buffer
    larger = memoryview(bytearray(size))
    larger[:filled] = buffer[:filled]
    return larger


def _unchanged(descriptor: int, path: str | Path, checked: _Expected) -> FileSignature:
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
        raise SourceMissingError(f"the path leads outside the audio root since its manifest was checked: {CHECK_AGAIN}")
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
    # a third of the cost of FileSignature(...), for a million files
    return tuple.__new__(FileSignature, (found.st_size, f"{found.st_mtime_ns}:{found.st_ctime_ns}:{found.st_ino}"))


def _modified(signature: FileSignature) -> tuple[int, str]:
    return signature.size, signature.change.partition(":")[0]
