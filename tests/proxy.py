"""A TCP proxy on loopback whose network the test cuts, silences or delays, also at the answer to a COMMIT."""

import asyncio
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from enum import Enum, auto
from typing import TypeVar
from urllib.parse import urlencode, urlsplit

from psycopg.conninfo import conninfo_to_dict

T = TypeVar("T")

CHUNK_BYTES = 1 << 16
# a COMMIT as psycopg sends it, and as a server answers it
COMMIT, COMMITTED = b"COMMIT\x00", b"COMMIT\x00"


class Network(Enum):
    """The ways in which the network behaves."""

    GOOD = auto()
    # connections are reset, and new ones end at once
    CUT = auto()
    # bytes are taken, and none arrives
    SILENT = auto()


class Loss(Enum):
    """The ways in which a COMMIT is not answered."""

    # it never comes to the server
    BEFORE = auto()
    # the server carries it out
    AFTER = auto()
    # the server carries it out, and the connection stands and is silent from then on
    SILENT_AFTER = auto()


class Proxy:
    """A proxy to one server, in a thread of its own."""

    def __init__(self, host: str, port: int) -> None:
        self._host = host
        self._target = port
        # by direction: what is to come of it
        self._network = Network.GOOD
        self._delay_seconds = 0.0
        # which of the coming COMMITs are lost, and how; None: it is answered
        self._losses: list[Loss | None] = []
        # the network after each loss, where it changes
        self._then: Network | None = None
        # the COMMITs that were lost so far
        self.lost = 0
        self._connections: set[_Connection] = set()
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="proxy", daemon=True)
        self._thread.start()
        self._server: asyncio.Server = self._in_loop(lambda: asyncio.start_server(self._connected, "127.0.0.1", 0))
        self.port: int = self._server.sockets[0].getsockname()[1]

    def _in_loop(self, begin: Callable[[], "asyncio.Future[T] | object"]) -> T:
        async def run() -> T:
            found = begin()
            if asyncio.iscoroutine(found) or isinstance(found, asyncio.Future):
                found = await found
            return found  # type: ignore[return-value] # awaited, or no awaitable

        return asyncio.run_coroutine_threadsafe(run(), self._loop).result(30.0)

    def behave(self, network: Network, *, delay_seconds: float = 0.0) -> None:
        """Change the network; a cut one resets what is connected."""

        def change() -> None:
            self._network, self._delay_seconds = network, delay_seconds
            if network is Network.CUT:
                self.reset()

        self._in_loop(change)

    def lose_commits(self, *losses: Loss | None, then: Network | None = None) -> None:
        """Lose the next COMMITs in these ways, one after the other; the network may be another one after each."""
        self._losses, self._then = list(losses), then

    def next_loss(self) -> Loss | None:
        """Take the fate of a COMMIT."""
        return self._losses.pop(0) if self._losses else None

    def count_loss(self) -> None:
        """Take note that a COMMIT is lost."""
        self.lost += 1
        self._network = self._then or self._network

    def reset(self) -> None:
        """Reset all connections; called in the proxy's loop."""
        for connection in list(self._connections):
            connection.close()

    @property
    def is_silent(self) -> bool:
        """True where bytes are taken, and none arrives."""
        return self._network is Network.SILENT

    @property
    def delay_seconds(self) -> float:
        """How long each piece is on its way."""
        return self._delay_seconds

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if self._network is Network.CUT:
            writer.transport.abort()
            return
        try:
            if self._host.startswith("/"):
                far = await asyncio.open_unix_connection(f"{self._host}/.s.PGSQL.{self._target}")
            else:
                far = await asyncio.open_connection(self._host, self._target)
        except OSError:
            writer.transport.abort()
            return
        connection = _Connection(self, (reader, writer), far)
        self._connections.add(connection)
        try:
            with suppress(asyncio.CancelledError):  # the proxy ends
                await connection.run()
        finally:
            self._connections.discard(connection)
            connection.close()

    def close(self) -> None:
        """End the proxy."""

        async def end() -> None:
            self._server.close()
            self.reset()
            others = asyncio.all_tasks() - {asyncio.current_task()}
            for task in others:
                task.cancel()
            await asyncio.gather(*others, return_exceptions=True)

        self._in_loop(end)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()


class _Connection:
    """One connection through the proxy."""

    def __init__(
        self,
        proxy: Proxy,
        near: tuple[asyncio.StreamReader, asyncio.StreamWriter],
        far: tuple[asyncio.StreamReader, asyncio.StreamWriter],
    ) -> None:
        self._proxy = proxy
        self._near = near
        self._far = far
        self._loss: Loss | None = None

    async def run(self) -> None:
        """Carry bytes both ways until either side closes."""
        ways = [
            asyncio.ensure_future(self._carry(self._near[0], self._far[1], self._sent)),
            asyncio.ensure_future(self._carry(self._far[0], self._near[1], self._answered)),
        ]
        await asyncio.wait(ways, return_when=asyncio.FIRST_COMPLETED)
        for way in ways:
            way.cancel()
        await asyncio.gather(*ways, return_exceptions=True)

    async def _carry(
        self, source: asyncio.StreamReader, target: asyncio.StreamWriter, passes: Callable[[bytes], bool]
    ) -> None:
        with suppress(OSError):
            while data := await source.read(CHUNK_BYTES):
                if self._proxy.delay_seconds:
                    await asyncio.sleep(self._proxy.delay_seconds)
                if self._proxy.is_silent:
                    continue
                if passes(data):
                    target.write(data)
                    await target.drain()

    def _sent(self, data: bytes) -> bool:
        """Return True where bytes of the client go on to the server."""
        if COMMIT not in data:
            return True
        self._loss = self._proxy.next_loss()
        if self._loss is Loss.BEFORE:
            self._proxy.count_loss()
            self.close()
        return self._loss is not Loss.BEFORE

    def _answered(self, data: bytes) -> bool:
        """Return True where bytes of the server go on to the client."""
        if self._loss is None:
            return True
        if COMMITTED in data:
            self._proxy.count_loss()
            if self._loss is Loss.AFTER:
                self.close()
        return False

    def close(self) -> None:
        """Reset both sides."""
        for _, writer in (self._near, self._far):
            writer.transport.abort()


@contextmanager
def proxied(url: str) -> Iterator[tuple[Proxy, str]]:
    """Give a proxy to a PostgreSQL server, and the address through it."""
    parts = conninfo_to_dict(url)
    proxy = Proxy(str(parts.get("host") or "127.0.0.1"), int(parts.get("port") or 5432))
    user, password = parts.get("user") or "postgres", parts.get("password")
    login = f"{user}:{password}" if password else str(user)
    plain = urlencode({"sslmode": "disable", "gssencmode": "disable"})
    try:
        yield proxy, f"postgresql://{login}@127.0.0.1:{proxy.port}{urlsplit(url).path}?{plain}"
    finally:
        proxy.close()
