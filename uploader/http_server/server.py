"""The HTTP server: its limits, how it listens, and how it stops."""

import asyncio
import logging
import os
import resource
from collections.abc import Awaitable, Callable
from contextlib import closing
from types import TracebackType
from typing import Any, Self

from aiohttp import web
from aiohttp.web_protocol import RequestHandler

from uploader.errors import UsageError
from uploader.http_server.connections import Connections

# the connections of a server
Callers = Connections[RequestHandler]
# answers one request of a server
Answer = Callable[[web.BaseRequest, Callers], Awaitable[web.StreamResponse]]

# the most connections that are not being answered
MOST_IDLE = 256
# idle connections may take one in so many of the process's file descriptors; a run needs the others
SHARE_OF_FILES = 8
LEAST_IDLE = 16
# the most connections accepted in one step of the event loop, before any of them is counted
TAKEN_AT_ONCE = 16
# the kernel's accept backlog; it drops further connections, and their callers retry a second later
WAITING = 512
# the most bytes in a line of a request's head
MOST_FIELD_BYTES = 4096
MOST_FIELDS = 64
# the time for which an unwanted body is read, so that its sender receives the answer
LINGER_SECONDS = 2.0
# the time for which an idle connection is kept, and the time for a request's head
KEPT_SECONDS = 15.0
# the time that a stop waits for answers under way
STOP_SECONDS = 2.0
# aiohttp's own log could show an address with its token
_SILENT = logging.getLogger(f"{__name__}.silent")
_SILENT.disabled = True


class _Server(web.Server):
    """aiohttp's server with a bound on connections; by itself it accepts every one."""

    def __init__(self, handler: Callable[[web.BaseRequest], Any], most: int) -> None:
        super().__init__(
            handler,
            access_log=None,
            logger=_SILENT,
            keepalive_timeout=KEPT_SECONDS,
            lingering_time=LINGER_SECONDS,
            max_line_size=MOST_FIELD_BYTES,
            max_field_size=MOST_FIELD_BYTES,
            max_headers=MOST_FIELDS,
        )
        self.callers: Callers = Connections(most)

    def connection_made(self, handler: RequestHandler, transport: asyncio.Transport) -> None:
        """Count a connection, and close the one that gives way for it."""
        super().connection_made(handler, transport)
        abort(self.callers.come(handler))

    def connection_lost(self, handler: RequestHandler, exc: BaseException | None = None) -> None:
        """Forget a connection."""
        self.callers.go(handler)
        super().connection_lost(handler, exc)

    def pre_shutdown(self) -> None:
        """Close idle connections; a stop waits for answers under way, and for no body."""
        for connection in self.callers.idle:
            abort(connection)
        super().pre_shutdown()


class HttpServer:
    """An HTTP server that strangers cannot block: silent connections give way, heads and waits have bounds.

    Args:
        host: The host to listen on.
        port: The port to listen on.
        answer: Answers a request.
        option: The option that names host and port, for messages.
    """

    def __init__(self, host: str, port: int, answer: Answer, *, option: str) -> None:
        self._host = host
        self._port = port
        self._option = option

        async def handle(request: web.BaseRequest) -> web.StreamResponse:
            return await answer(request, self._server.callers)

        self._server = _Server(handle, most_idle(resource.getrlimit(resource.RLIMIT_NOFILE)[0]))
        self._accepting: asyncio.Server | None = None
        self._runner: web.ServerRunner | None = None

    async def __aenter__(self) -> Self:
        """Listen.

        Raises:
            UsageError: The address cannot be listened on.
        """
        self._runner = web.ServerRunner(self._server, shutdown_timeout=STOP_SECONDS)
        await self._runner.setup()
        try:
            await self._accept()
        except OSError as error:
            await self._runner.cleanup()
            where = f"[{self._host}]:{self._port}" if ":" in self._host else f"{self._host}:{self._port}"
            why = os.strerror(error.errno) if error.errno else error.strerror
            raise UsageError(
                f"{self._option} {where}: {why}: name an address of this machine and a port that is free"
            ) from error
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Stop listening, once answers under way are finished."""
        if self._accepting is not None:
            self._accepting.close()
        if self._runner is not None:
            await self._runner.cleanup()

    async def _accept(self) -> None:
        loop = asyncio.get_running_loop()
        self._accepting = await loop.create_server(self._server, self._host, self._port, backlog=TAKEN_AT_ONCE)
        for sock in self._accepting.sockets:
            with closing(sock.dup()) as same:
                same.listen(WAITING)  # asyncio takes as many at once as may wait


def most_idle(open_files: int) -> int:
    """Compute the most idle connections.

    Args:
        open_files: The process's limit of open files; negative: unlimited.
    """
    return MOST_IDLE if open_files < 0 else max(LEAST_IDLE, min(MOST_IDLE, open_files // SHARE_OF_FILES))


def abort(caller: RequestHandler | None) -> None:
    """Close a connection at once, whatever input is unread."""
    if caller is not None and caller.transport is not None:
        caller.transport.abort()
