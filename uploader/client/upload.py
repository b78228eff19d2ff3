"""One PUT's body under way: chunks, the wait before the last one, and the watch over its progress."""

import asyncio
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import AbstractAsyncContextManager
from typing import Any, Protocol

from uploader.audio import PIECE_BYTES, Source
from uploader.client.connection import layers, unacknowledged
from uploader.client.expectation import NEVER, Expectation, Leave
from uploader.errors import SourceError

TAIL_BYTES = 1024
"""The last chunk is small: on a slow line, too, it arrives at once when its slot is free."""
UNACKNOWLEDGED_BYTES = 16 * 1024
"""The rest has arrived but for so much: the peer's acknowledgement of a whole short body would cost a round trip."""
TICK_SECONDS = 0.25
KEEP_ALIVE_SECONDS = 4.0
"""A body that waits for its admission sends a byte so often: gateways end a request of which nothing comes (nginx and
AWS's load balancers after 60 s, hardened ones after 10 s), or whose body is not there in 20 s (Apache, by default)."""
FLUSH_POLL_SECONDS, MAX_FLUSH_POLL_SECONDS = 0.005, 0.05


class Admission(Protocol):
    """The admission of an upload's last chunk, and the reasons to end the upload early."""

    def ask(self, content_hash: str) -> "asyncio.Future[str]":
        """Ask for slot and turn; the answer is why the last chunk must not leave, empty where it may."""
        ...

    def withdraw(self) -> None:
        """Note that nobody waits for the answer any longer."""
        ...

    def interruptible(self) -> AbstractAsyncContextManager[None]:
        """Build a scope before anything is sent, which a stop ends with a TimeoutError."""
        ...

    def moved(self, count: int) -> None:
        """Count bytes that were handed to the connection."""
        ...

    def is_stopping(self) -> bool:
        """Tell whether an upload whose body has not begun is not to begin it."""
        ...

    def must_cut(self) -> bool:
        """Tell whether an upload whose last chunk has not left is to be cut now."""
        ...

    def why_not_to_wait(self) -> str:
        """Return why an answer is not to be waited for any longer; empty where it is."""
        ...


class WithheldError(Exception):
    """The last chunk was withheld: the service cannot have the whole file."""


class Upload:
    """The body of one PUT and all that is known of its progress."""

    def __init__(
        self,
        source: Source,
        admission: Admission,
        *,
        stall_seconds: float,
        answer_seconds: float,
        chunk_bytes: int,
        expectation: Expectation | None = None,
    ) -> None:
        self.has_begun = False
        self.last_chunk_left = False
        self.withheld = False
        self.source_failure = ""
        self.failure = ""
        self._source = source
        self._admission = admission
        self._stall_seconds = stall_seconds
        self._answer_seconds = answer_seconds
        self._chunk_bytes = chunk_bytes
        self._loop = asyncio.get_running_loop()
        self._leave = Leave(expectation or Expectation(NEVER), source.size, self._loop.time)
        self._transport: Any = None
        self._layers: tuple[Any, ...] = ()
        self._is_connected = False
        self._is_on_used = False
        self._is_over = False
        self._yielded = 0
        self._is_waiting = False
        self._progress = (-1, self._loop.time())
        self._next_look: asyncio.TimerHandle | None = None

    def connected(self, transport: Any, leave: asyncio.Future[bool] | None, *, is_used: bool = False) -> None:
        """Take note of the connection's transport, and of the wait for leave that begins now.

        ``is_used``: the connection has carried another upload before.
        """
        self._transport = transport
        self._layers = layers(transport)
        self._is_connected = True
        self._is_on_used = is_used
        self._progress = (-1, self._loop.time())
        self._leave.asked(leave, is_on_used=is_used)

    def answered(self, status: int) -> None:
        """Take note that the answer's head is there."""
        self._leave.answered(status)

    @property
    def asks_leave(self) -> bool:
        """Whether its head is sent with ``Expect: 100-continue``."""
        return self._leave.is_asked

    @property
    def met_a_closed_connection(self) -> bool:
        """Whether all that there is to tell may be the used connection's fault; nothing of the body has left, nor will.

        Servers close connections when they like, and some say 408 as they do.
        """
        return self._is_on_used and self._is_over and not self.has_begun and not self.withheld

    @property
    def is_connected(self) -> bool:
        """Whether a connection ever stood."""
        return self._is_connected

    @property
    def bytes_sent(self) -> int:
        """Bytes that the kernel took."""
        return max(self._yielded - self._buffered(self._layers), 0)

    async def body(self) -> AsyncIterator[memoryview]:
        """The file in pieces; the last one only once the rest has gone and the mark is committed."""
        if self._is_over:
            raise ConnectionResetError("the upload was over before its body began")
        self.has_begun = True
        self._leave.given()
        try:
            async for piece in self._chunks():
                yield piece
        except SourceError as error:
            self.source_failure = str(error)
            raise
        except WithheldError as error:
            self.withheld, self.failure = True, str(error)
            raise

    def watch(self, timeout: asyncio.Timeout) -> None:
        """Look at the progress now and then, and end ``timeout`` where there is none."""
        self._leave.look()
        self.failure = self._fault()
        if self.failure:
            timeout.reschedule(self._loop.time())
        else:
            self._next_look = self._loop.call_later(TICK_SECONDS, self.watch, timeout)

    def stop_watching(self) -> None:
        """The request is over, however it ended."""
        self._is_over = True
        # timers that asyncio has cancelled, and keeps for a while, know this upload: a TLS transport is large
        self._yielded, self._transport, self._layers = self.bytes_sent, None, ()
        self._leave.over()
        if self._next_look is not None:
            self._next_look.cancel()

    async def _chunks(self) -> AsyncIterator[memoryview]:
        read = 0
        async for chunk in self._source.chunks(self._chunk_bytes):
            read += len(chunk)
            if read < self._source.size:
                for piece in _pieces(chunk):
                    yield self._counted(piece)
                await self._until_flushed(self._layers[:1])  # the next chunk takes this one's place in memory
                continue
            tail = min(TAIL_BYTES, len(chunk))
            # a body of one chunk is withheld whole: its head goes ahead, with nothing
            for piece in _pieces(chunk[:-tail]) if len(chunk) > tail else (chunk[:0],):
                yield self._counted(piece)
            async for piece in self._await_admission(chunk[-tail:]):
                yield self._counted(piece)

    def _counted(self, piece: memoryview) -> memoryview:
        self._yielded += len(piece)
        self._admission.moved(len(piece))
        return piece

    async def _until_flushed(self, layers: Sequence[Any]) -> None:
        # asyncio tells the connection's protocol when its buffer is empty, and nobody else
        while self._buffered(layers):  # noqa: ASYNC110
            await asyncio.sleep(FLUSH_POLL_SECONDS)

    async def _until_acknowledged(self) -> None:
        """Wait until the peer has all but a little of what the kernel has taken: a slow line's queue is long."""
        pause = FLUSH_POLL_SECONDS
        while unacknowledged(self._transport) > UNACKNOWLEDGED_BYTES:
            await asyncio.sleep(pause)
            pause = min(2.0 * pause, MAX_FLUSH_POLL_SECONDS)

    async def _await_admission(self, tail: memoryview) -> AsyncIterator[memoryview]:
        """Yield the last chunk once it is admitted; while it waits, a byte of it now and then keeps the line open."""
        await self._until_flushed(self._layers)
        await self._until_acknowledged()
        self._check_connection()
        self._is_waiting = True
        answer = self._admission.ask(self._source.verified_hash())
        try:
            while not (await asyncio.wait({answer}, timeout=KEEP_ALIVE_SECONDS))[0]:
                # a body that is withheld whole stays whole
                if self._yielded and len(tail) > 1:
                    yield tail[:1]
                    tail = tail[1:]
        finally:
            self._admission.withdraw()
            self._is_waiting = False
            self._progress = (-1, self._loop.time())
        # aiohttp would take any other exception for a broken connection
        if reason := "the ledger could not be written" if answer.exception() else answer.result():
            raise WithheldError(reason)
        self._check_connection()
        self.last_chunk_left = True
        yield tail

    def _check_connection(self) -> None:
        if self._transport is None or self._transport.is_closing():
            raise ConnectionResetError("the connection was closed before the last chunk")

    def _buffered(self, layers: Sequence[Any]) -> int:
        if self._transport is None or self._transport.is_closing():
            return 0
        return sum(layer.get_write_buffer_size() for layer in layers)

    def _fault(self) -> str:
        """Tell why the upload is to be ended now; empty where it is not."""
        return self._stop() or self._standstill()

    def _stop(self) -> str:
        if not self.last_chunk_left and self._admission.must_cut():
            self.withheld = True
            return "stopped before its last chunk"
        if self._leave.is_awaited and self._admission.is_stopping():
            self.withheld = True
            return "stopped before its body was sent"
        return self._admission.why_not_to_wait() if self.last_chunk_left else ""

    def _standstill(self) -> str:
        if self._leave.is_lost:
            return "no leave came for the body on a connection that was used before"
        if self._transport is None or self._is_waiting or self._leave.is_awaited:
            return ""
        sent, now = self.bytes_sent, self._loop.time()
        if sent != self._progress[0]:
            self._progress = (sent, now)
        still = now - self._progress[1]
        waits_for_answer = self.last_chunk_left and not self._buffered(self._layers)
        limit = self._answer_seconds if waits_for_answer else self._stall_seconds
        if still < limit:
            return ""
        return f"no answer within {limit:g} s" if waits_for_answer else f"no byte moved for {limit:g} s"


def _pieces(chunk: memoryview) -> Iterator[memoryview]:
    return (chunk[start : start + PIECE_BYTES] for start in range(0, len(chunk), PIECE_BYTES))
