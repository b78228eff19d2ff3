"""Examines and opens remote audio: many files at once at load, and one as a source of bytes for an upload."""

import asyncio
import importlib
from collections import Counter, OrderedDict
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import AbstractContextManager, AsyncExitStack, asynccontextmanager, nullcontext
from functools import cached_property
from threading import Lock, Thread
from types import TracebackType
from typing import TYPE_CHECKING, Any, BinaryIO, NamedTuple, Self, TypeVar, cast

from blake3 import blake3

from uploader.audio.positioned import PositionedReader
from uploader.audio.probing import facts_of, format_of
from uploader.audio.remote import (
    Beginning,
    Fetcher,
    RemoteError,
    Stream,
    Trouble,
    check_unchanged,
    source_error,
)
from uploader.errors import SourceError
from uploader.model import AudioFacts, FileSignature
from uploader.urls import WEB, check, server_of, shown

if TYPE_CHECKING:  # most recordings are files
    from concurrent.futures import Future

# files that are examined at once
AT_ONCE = 32
# examined files whose facts are kept for their rows: more than rows are taken ahead
KEPT = 1024
# the first bytes of a file: most headers stand in them, and they come in one round trip
HEAD_BYTES = 16 * 1024
# the least bytes of any other part, and the most parts and bytes that are read of one file
PART_BYTES = 64 * 1024
MOST_PARTS = 24
MOST_BYTES = 8 * 1024 * 1024
# the waits, in seconds, before a file that cannot be reached is asked for again
RETRY_SECONDS = (0.2, 1.0)
T = TypeVar("T")

_EXTRAS = {"uploader.audio.objects": "pip install 'uploader[cloud]'"}


class RangedReader(PositionedReader):
    """A file object over the parts of a remote file that were fetched; it notes the part that is lacking."""

    __slots__ = ("_parts", "lacking")

    def __init__(self, size: int, head: bytes) -> None:
        super().__init__(-1, size, head)
        self._parts = [(0, head)]
        # start and end of the part to be fetched next
        self.lacking: tuple[int, int] | None = None

    def seek(self, at: int, whence: int = 0) -> int:
        """Set the position: from the beginning, the position, or the end; return it."""
        self._at = max((0, self._at, self.size)[whence] + at, 0)
        return self._at

    def read(self, count: int = -1) -> bytes:
        """Read bytes from the position; fewer at the end of the file."""
        return super().read(self.size if count < 0 else count)

    def read_at(self, at: int, count: int) -> bytes:
        """Read bytes from a place; fewer at the end of the file.

        Raises:
            OSError: They were not fetched yet.
        """
        end = min(at + count, self.size)
        if end <= at:
            return b""
        for start, part in self._parts:
            if start <= at and end <= start + len(part):
                return part[at - start : end - start]
        self.lacking = at, min(max(end, at + PART_BYTES), self.size)
        raise OSError("this part of the file was not fetched yet")

    def add(self, start: int, part: bytes) -> None:
        """Add a part that was fetched."""
        self._parts.append((start, part))

    def whole(self) -> AbstractContextManager[BinaryIO]:
        """Return the whole file as a file object."""
        return nullcontext(cast("BinaryIO", self))


class Fetchers:
    """The clients of all kinds of servers, each made for the first address of its kind."""

    def __init__(self) -> None:
        self._made: dict[str, Fetcher] = {}

    def of(self, address: str) -> Fetcher:
        """Return the client for an address.

        Raises:
            RemoteError: The address is none, or what reads it is not installed.
        """
        try:
            check(address)
        except ValueError as error:
            raise RemoteError(Trouble.UNUSABLE, str(error)) from None
        is_web = address.partition("://")[0].lower() in WEB
        module, name = ("uploader.audio.web", "WebFiles") if is_web else ("uploader.audio.objects", "Objects")
        if name not in self._made:
            try:
                self._made[name] = getattr(importlib.import_module(module), name)()
            except ImportError as error:
                remedy = _EXTRAS.get(module, "")
                raise RemoteError(Trouble.UNUSABLE, f"its library is not installed ({error}): {remedy}") from error
        return self._made[name]

    async def close(self) -> None:
        """Close all connections."""
        for fetcher in self._made.values():
            await fetcher.close()
        self._made.clear()


async def examine(fetchers: Fetchers, address: str) -> tuple[FileSignature, AudioFacts]:
    """Read a remote file's signature and audio facts from a few parts of it.

    Raises:
        RemoteError: The file cannot be read.
    """
    fetcher = fetchers.of(address)
    begun = await fetcher.begin(address, HEAD_BYTES)
    if begun.size == 0:
        raise RemoteError(Trouble.EMPTY)
    return FileSignature(begun.size, begun.change), await _probe(fetcher, address, begun)


async def _probe(fetcher: Fetcher, address: str, begun: Beginning) -> AudioFacts:
    """Read a remote file's audio facts: what the reader lacks is fetched, and it begins anew."""
    reader, name = RangedReader(begun.size, begun.content), shown(address).removesuffix("?…")
    fetched = 0
    for _ in range(MOST_PARTS):
        reader.lacking = None
        facts = facts_of(reader, name)
        if reader.lacking is None:
            return facts
        start, end = reader.lacking
        fetched += end - start
        if not begun.has_ranges or fetched > MOST_BYTES:
            break
        reader.add(start, await fetcher.read(address, start, end, begun.change))
    return format_of(begun.content, name)


async def content_hash(fetchers: Fetchers, address: str) -> str:
    """Compute the BLAKE3 hash of a remote file's content in hexadecimal.

    Raises:
        RemoteError: The file cannot be read.
    """
    digest = blake3()
    async with fetchers.of(address).stream(address, "") as found:
        async for piece in found.pieces:
            digest.update(piece)
    return digest.hexdigest()


class RemoteFiles:
    """The remote files of a load, examined many at once on an event loop in a thread of its own."""

    def __init__(self) -> None:
        self._lock = Lock()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread: Thread | None = None
        self._fetchers = Fetchers()
        # by server, how many files in a row could not be reached: a manifest of thousands shall not wait for each
        self._away = Counter[str]()
        self._examined: OrderedDict[str, Future[tuple[FileSignature, AudioFacts]]] = OrderedDict()

    @cached_property
    def _at_once(self) -> "asyncio.Semaphore":
        """The permits to examine a file."""
        return asyncio.Semaphore(AT_ONCE)

    def __enter__(self) -> Self:
        """Begin; nothing is started before the first remote file."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """End all that is under way, and close the connections."""
        if self._loop is None or self._thread is None:
            return
        for future in self._examined.values():
            future.cancel()
        asyncio.run_coroutine_threadsafe(self._finish(), self._loop).result()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def begin(self, address: str) -> None:
        """Begin to examine a file that will be asked for soon."""
        with self._lock:
            if address not in self._examined:
                if len(self._examined) >= KEPT:
                    self._examined.popitem(last=False)
                self._examined[address] = self._submit(self._examine(address))

    def examine(self, address: str) -> tuple[FileSignature, AudioFacts]:
        """Return a file's signature and audio facts.

        Raises:
            ValueError: The file cannot be sent; the text says why, and what to do.
        """
        self.begin(address)
        try:
            return self._examined[address].result()
        except RemoteError as error:
            raise ValueError(str(error)) from error

    def content_hash(self, address: str) -> str | None:
        """Compute the hash of a file's content; None where it cannot be read."""
        try:
            return self._submit(_with_retries(lambda: content_hash(self._fetchers, address))).result()
        except RemoteError:
            return None

    def _submit(self, coroutine: Coroutine[Any, Any, T]) -> "Future[T]":
        if self._loop is None:
            self._loop = asyncio.new_event_loop()
            self._thread = Thread(target=self._loop.run_forever, name="remote-audio", daemon=True)
            self._thread.start()
        return asyncio.run_coroutine_threadsafe(coroutine, self._loop)

    async def _examine(self, address: str) -> tuple[FileSignature, AudioFacts]:
        server = server_of(address)
        async with self._at_once:
            if self._away[server] >= AT_ONCE:
                raise RemoteError(Trouble.AWAY, "as many others of its server")
            try:
                found = await _with_retries(lambda: examine(self._fetchers, address))
            except RemoteError as error:
                self._away[server] = self._away[server] + 1 if error.trouble is Trouble.AWAY else 0
                raise
            self._away[server] = 0
            return found

    async def _finish(self) -> None:
        others = asyncio.all_tasks() - {asyncio.current_task()}
        await asyncio.gather(*others, return_exceptions=True)
        await self._fetchers.close()


async def _with_retries(read: Callable[[], Coroutine[Any, Any, T]]) -> T:
    """Read anew after a while where a file cannot be reached: one stumble of a network shall not refuse a manifest."""
    for wait in RETRY_SECONDS:
        try:
            return await read()
        except RemoteError as error:
            if error.trouble is not Trouble.AWAY:
                raise
        await asyncio.sleep(wait)
    return await read()


class RemoteSource(NamedTuple):
    """An open remote file of which exactly ``size`` bytes are to be sent."""

    stream: Stream
    digest: Any

    @property
    def size(self) -> int:
        """The size in bytes."""
        return self.stream.size

    async def chunks(self, chunk_bytes: int) -> AsyncIterator[memoryview]:
        """Yield the file's content in chunks of at most so many bytes.

        Raises:
            SourceError: The file cannot be read, or its server sends more than it has announced.
            SourceAwayError: It ended early, or its server is away.
        """
        read = 0
        try:
            async for piece in self.stream.pieces:
                read += len(piece)
                if read > self.size:
                    raise SourceError(f"the file grew while it was sent: {self.size} bytes were announced")
                self.digest.update(piece)
                for start in range(0, len(piece), chunk_bytes):
                    yield memoryview(piece)[start : start + chunk_bytes]
        except RemoteError as error:
            raise source_error(error, is_open=True) from error

    def verified_hash(self) -> str:
        """Return the BLAKE3 hash of the whole content in hexadecimal, once all of it was read."""
        return str(self.digest.hexdigest())


@asynccontextmanager
async def open_remote(fetchers: Fetchers, address: str, size: int, change: str | None) -> AsyncIterator[RemoteSource]:
    """Open an item's remote file, if it is the one that was loaded from the manifest.

    Raises:
        SourceError: It cannot be opened, or is another one.
        SourceAwayError: It cannot be reached now.
    """
    async with AsyncExitStack() as stack:
        try:
            stream = await stack.enter_async_context(fetchers.of(address).stream(address, change or ""))
        except RemoteError as error:
            raise source_error(error, is_open=False) from error
        check_unchanged(size, change, stream)
        yield RemoteSource(stream, blake3())
