"""Carries bytes between clients and the server as late and as slowly as a long way would."""

import asyncio
import socket
from collections import deque
from collections.abc import Callable
from typing import Final

# a paced connection is read in pieces that its bandwidth carries in this time
QUANTUM_SECONDS: Final = 0.05
# the largest piece that is read at once
PIECE_BYTES: Final = 1 << 16
# the bytes of one direction that may be on their way at once, as a TCP window bounds them
WINDOW_BYTES: Final = 1 << 22
# the kernel's receive buffer of a paced connection: its bytes have not crossed the link yet
RECEIVE_BUFFER_BYTES: Final = 1 << 14


class Relay:
    """A TCP proxy on loopback that delays every byte, and paces those on their way to the server.

    Each connection has the whole uplink for itself. TCP's handshake costs a round trip, too: the kernel of one
    machine completes it at once, so the first bytes of a connection are held back for as long.
    """

    def __init__(self, *, round_trip: float, uplink: float) -> None:
        """Take the round trip in seconds and the uplink in bytes per second; an uplink of 0 is unbounded."""
        self._round_trip = round_trip
        self._uplink = uplink
        self._target = ("", 0)
        self._server: asyncio.Server | None = None
        self._connecting: set[asyncio.Task[None]] = set()
        self._ends: set[_End] = set()

    async def start(self, host: str, port: int, target: tuple[str, int]) -> int:
        """Listen, relay each connection to the target's host and port, and return the port that was taken.

        Raises:
            OSError: The port cannot be had.
        """
        self._target = target
        loop = asyncio.get_running_loop()
        self._server = await loop.create_server(self._accept, host, port, start_serving=False)
        listening = self._server.sockets[0]
        if self._uplink:
            # Set before `listen`: accepted sockets inherit it, and TCP offers its window by it.
            listening.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, RECEIVE_BUFFER_BYTES)
        await self._server.start_serving()
        return int(listening.getsockname()[1])

    async def stop(self) -> None:
        """Cut every connection."""
        if self._server is not None:
            self._server.close()
        for task in self._connecting:
            task.cancel()
        for end in list(self._ends):
            end.stop()
        await asyncio.gather(*self._connecting, return_exceptions=True)

    def _accept(self) -> "_End":
        near = _End(self._round_trip / 2, self._ends, handshake=self._round_trip, rate=self._uplink)
        near.block("connecting")
        task = asyncio.create_task(self._connect(near))
        self._connecting.add(task)
        task.add_done_callback(self._connecting.discard)
        return near

    async def _connect(self, near: "_End") -> None:
        far = _End(self._round_trip / 2, self._ends)
        near.other, far.other = far, near
        try:
            await asyncio.get_running_loop().create_connection(lambda: far, *self._target)
        except OSError:
            near.abort()
        near.unblock("connecting")


class _End(asyncio.BufferedProtocol):
    """One end of a relayed connection; bytes received here leave from the other end in order, after the delay."""

    def __init__(self, delay: float, ends: "set[_End]", *, handshake: float = 0.0, rate: float = 0.0) -> None:
        """Take seconds, the set of all connected ends, and bytes per second of the way from here (0: no bound)."""
        self.other: _End | None = None
        self._delay = delay
        self._ends = ends
        self._rate = rate
        self._loop = asyncio.get_running_loop()
        # When the link has carried all that it was given: a connection begins with TCP's handshake.
        self._free_at = self._loop.time() + handshake
        self._transport: asyncio.Transport | None = None
        self._buffer = bytearray(max(1, min(PIECE_BYTES, int(rate * QUANTUM_SECONDS))) if rate else PIECE_BYTES)
        self._under_way: deque[tuple[asyncio.TimerHandle, Callable[[_End], None]]] = deque()
        self._bytes_under_way = 0
        self._blocks: set[str] = set()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Begin to read, unless something is in the way."""
        assert isinstance(transport, asyncio.Transport)  # noqa: S101 - the type that asyncio passes to a stream's protocol
        self._transport = transport
        self._ends.add(self)
        if self._blocks:
            transport.pause_reading()

    def get_buffer(self, _size: int) -> bytearray:
        """Offer room for the next piece."""
        return self._buffer

    def buffer_updated(self, count: int) -> None:
        """Send a piece on its way; a paced link is read again once it has carried the piece."""
        piece = bytes(self._buffer[:count])
        self._bytes_under_way += count
        self._send_later(lambda other: self._deliver(piece, other), count)
        if self._bytes_under_way >= WINDOW_BYTES:
            self.block("window")
        if self._rate:
            self.block("pace")
            self._loop.call_at(self._free_at, self.unblock, "pace")

    def eof_received(self) -> bool:
        """Pass the end of this direction on, behind bytes on their way; the other direction stays open."""
        self._send_later(lambda other: other.finish())
        return True

    def connection_lost(self, error: Exception | None) -> None:
        """Pass the loss on, a reset as a reset, behind bytes on their way."""
        self._ends.discard(self)
        self._send_later(lambda other: other.close() if error is None else other.abort())

    def pause_writing(self) -> None:
        """Pause the other end's reading, because this end's buffer is full."""
        if self.other is not None:
            self.other.block("full")

    def resume_writing(self) -> None:
        """Resume the other end's reading."""
        if self.other is not None:
            self.other.unblock("full")

    def block(self, reason: str) -> None:
        """Read nothing as long as there is a reason."""
        self._blocks.add(reason)
        if self._transport is not None:
            self._transport.pause_reading()

    def unblock(self, reason: str) -> None:
        """Read again once no reason is left."""
        self._blocks.discard(reason)
        if not self._blocks and self._transport is not None:
            self._transport.resume_reading()

    def write(self, piece: bytes) -> None:
        """Write to this end's connection."""
        if self._transport is not None and not self._transport.is_closing():
            self._transport.write(piece)

    def finish(self) -> None:
        """Send the end of this direction to this end's connection."""
        if self._transport is not None and not self._transport.is_closing():
            self._transport.write_eof()

    def close(self) -> None:
        """Close the connection, behind the bytes written."""
        if self._transport is not None:
            self._transport.close()

    def abort(self) -> None:
        """Reset the connection."""
        if self._transport is not None:
            self._transport.abort()

    def stop(self) -> None:
        """Drop the bytes on their way, and reset the connection."""
        for timer, _ in self._under_way:
            timer.cancel()
        self.abort()

    def _deliver(self, piece: bytes, other: "_End") -> None:
        self._bytes_under_way -= len(piece)
        other.write(piece)
        self.unblock("window")

    def _send_later(self, action: "Callable[[_End], None]", count: int = 0) -> None:
        self._free_at = max(self._free_at, self._loop.time()) + (count / self._rate if self._rate else 0.0)
        # The queue, and not the timers, keeps the order: timers of the same moment may fire in any.
        self._under_way.append((self._loop.call_at(self._free_at + self._delay, self._next), action))

    def _next(self) -> None:
        _, action = self._under_way.popleft()
        if self.other is not None:
            action(self.other)
