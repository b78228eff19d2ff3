"""The body of one PUT: its chunks, the wait for the last one's admission, and the watch over its progress."""

import asyncio
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import AbstractAsyncContextManager
from typing import Any, Protocol

from uploader.audio import PIECE_BYTES, Source
from uploader.client.connection import layers, unacknowledged
from uploader.client.expectation import NEVER, ContinueSupport, ContinueWait
from uploader.errors import SourceAwayError, SourceError

# the last chunk is small, so that it arrives at once when its slot is free, on a slow line too
TAIL_BYTES = 1024
# unacknowledged bytes allowed before the last chunk: waiting for all of a short body would cost a round trip
UNACKNOWLEDGED_BYTES = 16 * 1024
# between two checks of the progress
TICK_SECONDS = 0.25
FLUSH_POLL_SECONDS, MAX_FLUSH_POLL_SECONDS = 0.005, 0.05


class Admission(Protocol):
    """The admission of an upload's last chunk, and the reasons to end the upload early."""

    def ask(self, content_hash: str) -> "asyncio.Future[str]":
        """Ask for slot and turn; the future's result is the reason to withhold the last chunk, or empty."""
        ...

    def silence_seconds(self) -> float:
        """Return the longest time without a byte while the last chunk waits for the answer."""
        ...

    def withdraw(self) -> None:
        """End the wait for the answer."""
        ...

    def interruptible(self) -> AbstractAsyncContextManager[None]:
        """Build a scope before anything is sent, which a stop ends with a TimeoutError."""
        ...

    def moved(self, count: int) -> None:
        """Count bytes that were handed to the connection."""
        ...

    def is_stopping(self) -> bool:
        """Return True where no body begins any more."""
        ...

    def must_cut(self) -> bool:
        """Return True where an upload whose last chunk has not left ends now."""
        ...

    def reason_to_withhold(self) -> str:
        """Return the reason why an admitted last chunk does not leave after all; empty where it does."""
        ...

    def reason_not_to_wait(self) -> str:
        """Return the reason to end the wait for an answer; empty where it goes on."""
        ...


class WithheldError(Exception):
    """The last chunk was withheld: the service cannot have the whole file."""


class Upload:
    """The body of one PUT, and its progress."""

    def __init__(
        self,
        source: Source,
        admission: Admission,
        *,
        stall_seconds: float,
        answer_seconds: float,
        chunk_bytes: int,
        support: ContinueSupport | None = None,
    ) -> None:
        self.has_begun = False
        self.last_chunk_left = False
        self.withheld = False
        self.source_failure = ""
        self.source_is_away = False
        self.failure = ""
        self._source = source
        self._admission = admission
        self._stall_seconds = stall_seconds
        self._answer_seconds = answer_seconds
        self._chunk_bytes = chunk_bytes
        self._loop = asyncio.get_running_loop()
        self._continue_wait = ContinueWait(support or ContinueSupport(NEVER), source.size, self._loop.time)
        self._transport: Any = None
        self._layers: tuple[Any, ...] = ()
        self._is_connected = False
        self._is_reused = False
        self._is_over = False
        self._yielded = 0
        self._is_waiting = False
        self._progress = (-1, self._loop.time())
        self._next_check: asyncio.TimerHandle | None = None

    def connected(
        self, transport: Any, continue_future: asyncio.Future[bool] | None, *, is_reused: bool = False
    ) -> None:
        """Take the connection's transport, and begin the wait for 100 Continue.

        Args:
            transport: The transport that is written to.
            continue_future: aiohttp's future of the 100; None where it does not wait for one.
            is_reused: The connection has carried another upload before.
        """
        self._transport = transport
        self._layers = layers(transport)
        self._is_connected = True
        self._is_reused = is_reused
        self._progress = (-1, self._loop.time())
        self._continue_wait.begin(continue_future, is_reused=is_reused)

    def answered(self, status: int) -> None:
        """Record that the answer's head has come."""
        self._continue_wait.answered(status)

    @property
    def expects_continue(self) -> bool:
        """Return True where the head is sent with ``Expect: 100-continue``."""
        return self._continue_wait.is_expected

    @property
    def may_retry_connection(self) -> bool:
        """Return True where a reused connection may have ended the upload; nothing of the body has left, nor will.

        Servers close idle connections at any time, some with a 408.
        """
        return self._is_reused and self._is_over and not self.has_begun and not self.withheld

    @property
    def is_connected(self) -> bool:
        """Return True where a connection was ever established."""
        return self._is_connected

    @property
    def bytes_sent(self) -> int:
        """Count the body's bytes that the kernel has taken."""
        return max(self._yielded - self._buffered(self._layers), 0)

    async def body(self) -> AsyncIterator[memoryview]:
        """Yield the file in pieces; the last one only once the rest has gone and the admission is committed."""
        if self._is_over:
            raise ConnectionResetError("the upload was over before its body began")
        self.has_begun = True
        self._continue_wait.body_began()
        try:
            async for piece in self._chunks():
                yield piece
        except SourceError as error:
            self.source_failure, self.source_is_away = str(error), isinstance(error, SourceAwayError)
            raise
        except WithheldError as error:
            self.withheld, self.failure = True, str(error)
            raise

    def watch(self, timeout: asyncio.Timeout) -> None:
        """Check the progress every ``TICK_SECONDS``, and expire ``timeout`` where there is none."""
        self._continue_wait.check_timeout()
        self.failure = self._fault()
        if self.failure:
            timeout.reschedule(self._loop.time())
        else:
            self._next_check = self._loop.call_later(TICK_SECONDS, self.watch, timeout)

    def stop_watching(self) -> None:
        """End the watch with its request, however that ended."""
        self._is_over = True
        # asyncio keeps cancelled timers for a while, and these refer to this upload: a TLS transport is large
        self._yielded, self._transport, self._layers = self.bytes_sent, None, ()
        self._continue_wait.close()
        if self._next_check is not None:
            self._next_check.cancel()

    async def _chunks(self) -> AsyncIterator[memoryview]:
        read = 0
        async for chunk in self._source.chunks(self._chunk_bytes):
            read += len(chunk)
            if read < self._source.size:
                for piece in _pieces(chunk):
                    yield self._counted(piece)
                await self._wait_until_flushed(self._layers[:1])  # the next chunk reuses this one's memory
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

    async def _wait_until_flushed(self, layers: Sequence[Any]) -> None:
        # only the connection's protocol is notified when the buffer is empty, so that this one polls
        while self._buffered(layers):  # noqa: ASYNC110
            await asyncio.sleep(FLUSH_POLL_SECONDS)

    async def _wait_until_acknowledged(self) -> None:
        """Wait until the peer has acknowledged all but a little: on a slow line the kernel's queue is long."""
        pause = FLUSH_POLL_SECONDS
        while unacknowledged(self._transport) > UNACKNOWLEDGED_BYTES:
            await asyncio.sleep(pause)
            pause = min(2.0 * pause, MAX_FLUSH_POLL_SECONDS)

    async def _await_admission(self, tail: memoryview) -> AsyncIterator[memoryview]:
        """Yield the last chunk once it is admitted; during the wait, single bytes of it keep the connection open."""
        await self._wait_until_flushed(self._layers)
        await self._wait_until_acknowledged()
        self._check_connection()
        answer = self._admission.ask(self._source.verified_hash())
        try:
            while not await self._is_answered(answer):
                # a body of a single chunk is withheld whole
                if self._yielded and len(tail) > 1:
                    yield tail[:1]
                    tail = tail[1:]
        finally:
            self._admission.withdraw()
        # any exception ends the connection; this one is recognised as the upload's own
        if reason := "the ledger could not be written" if answer.exception() else answer.result():
            raise WithheldError(reason)
        self._check_connection()
        if reason := self._admission.reason_to_withhold():
            raise WithheldError(reason)
        self.last_chunk_left = True
        yield tail

    async def _is_answered(self, answer: "asyncio.Future[str]") -> bool:
        # a peer that does not take the byte in between is a standstill as ever
        self._is_waiting = True
        try:
            return bool((await asyncio.wait({answer}, timeout=self._admission.silence_seconds()))[0])
        finally:
            self._is_waiting = False
            self._progress = (-1, self._loop.time())

    def _check_connection(self) -> None:
        if self._transport is None or self._transport.is_closing():
            raise ConnectionResetError("the connection was closed before the last chunk")

    def _buffered(self, layers: Sequence[Any]) -> int:
        if self._transport is None or self._transport.is_closing():
            return 0
        return sum(layer.get_write_buffer_size() for layer in layers)

    def _fault(self) -> str:
        """Return the reason to end the upload now; empty where there is none."""
        return self._stop() or self._standstill()

    def _stop(self) -> str:
        if not self.last_chunk_left and self._admission.must_cut():
            self.withheld = True
            return "stopped before its last chunk"
        if self._continue_wait.is_waiting and self._admission.is_stopping():
            self.withheld = True
            return "stopped before its body was sent"
        return self._admission.reason_not_to_wait() if self.last_chunk_left else ""

    def _standstill(self) -> str:
        if self._continue_wait.has_failed:
            return "no 100 Continue came on a connection that was used before"
        if self._transport is None or self._is_waiting or self._continue_wait.is_waiting:
            return ""
        # the kernel takes a short body at once: on a slow line it moves only as the peer acknowledges it
        moved, now = self.bytes_sent - unacknowledged(self._transport), self._loop.time()
        if moved != self._progress[0]:
            self._progress = (moved, now)
        still = now - self._progress[1]
        waits_for_answer = self.last_chunk_left and not self._buffered(self._layers)
        limit = self._answer_seconds if waits_for_answer else self._stall_seconds
        if still < limit:
            return ""
        return f"no answer within {limit:g} s" if waits_for_answer else f"no byte moved for {limit:g} s"


def _pieces(chunk: memoryview) -> Iterator[memoryview]:
    return (chunk[start : start + PIECE_BYTES] for start in range(0, len(chunk), PIECE_BYTES))
