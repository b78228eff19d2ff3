"""The HTTP server for callbacks, with its limits on time, size and connections."""

import asyncio
import logging
import os
import resource
from collections.abc import Callable
from contextlib import closing
from http import HTTPStatus
from types import TracebackType
from typing import Any, Self

from aiohttp import web
from aiohttp.web_protocol import RequestHandler

from uploader import logs
from uploader.errors import LedgerUnavailableError, UsageError
from uploader.ledger.callbacks import CallbackResult, apply_callback
from uploader.ledger.thread import Writer
from uploader.policy.callbacks import is_signed, read_callback, token_hash
from uploader.policy.facts import Callback, CallbackEffect
from uploader.text import Sanitizer, read_json
from uploader.webhook.connections import Connections

log = logs.get_logger()

# the largest body, in bytes; a callback has two short fields
MOST_BYTES = 64 * 1024
# the most callbacks that wait for the ledger; the service repeats those that are turned away
MOST_CALLS = 64
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
# the time for a callback's body
BODY_SECONDS = 10.0
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
        self.callers: Connections[RequestHandler] = Connections(most)

    def connection_made(self, handler: RequestHandler, transport: asyncio.Transport) -> None:
        """Count a connection, and close the one that gives way for it."""
        super().connection_made(handler, transport)
        _close(self.callers.come(handler))

    def connection_lost(self, handler: RequestHandler, exc: BaseException | None = None) -> None:
        """Forget a connection."""
        self.callers.go(handler)
        super().connection_lost(handler, exc)

    def pre_shutdown(self) -> None:
        """Close idle connections; a stop waits for answers under way, and for no body."""
        for connection in self.callers.idle:
            _close(connection)
        super().pre_shutdown()


class Listener:
    """The HTTP server behind every ``webhookUrl``.

    The last segment of the path is the token; a stranger learns nothing from the answers.

    Args:
        host: The host to listen on.
        port: The port to listen on.
        key: The key that signs the ledger's tokens.
        writer: The ledger's writer.
        now: Returns the time in seconds since the epoch, never running backwards.
        hold: A failure holds the rest of its lane.
        applied: Receives the result of every recorded callback.
        ending: Called when the end of a job is in line for the ledger.
    """

    def __init__(
        self,
        host: str,
        port: int,
        *,
        key: str,
        writer: Writer,
        now: Callable[[], float],
        hold: bool,
        applied: Callable[[CallbackResult], None],
        ending: Callable[[], None] = lambda: None,
    ) -> None:
        self._host = host
        self._port = port
        self._key = key
        self._writer = writer
        self._now = now
        self._hold = hold
        self._applied = applied
        self._ending = ending
        self._since = now()
        self._calls = 0
        self._has_logged_unknown = False
        self._server = _Server(self._answer, most_idle(resource.getrlimit(resource.RLIMIT_NOFILE)[0]))
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
                f"--webhook {where}: {why}: name an address of this machine and a port that is free"
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

    async def _answer(self, request: web.BaseRequest) -> web.StreamResponse:
        return _status(await self._take(request))

    async def _take(self, request: web.BaseRequest) -> HTTPStatus:
        if request.method != "POST":
            return HTTPStatus.METHOD_NOT_ALLOWED
        token = request.rel_url.raw_path.rpartition("/")[2]
        if not is_signed(token, self._key):
            return HTTPStatus.NOT_FOUND  # for a stranger neither a body nor the ledger is read
        self._server.callers.show_token(request.protocol)
        return await self._take_call(request, token)

    async def _take_call(self, request: web.BaseRequest, token: str) -> HTTPStatus:
        if request.headers.get("Expect", "").lower() == "100-continue" and request.transport is not None:
            request.transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        try:
            body = await _body(request)
        except TimeoutError:
            return HTTPStatus.REQUEST_TIMEOUT
        if body is None:
            return HTTPStatus.REQUEST_ENTITY_TOO_LARGE
        read = read_callback(_json(body))
        if read is None:
            return HTTPStatus.BAD_REQUEST
        job_id, status = read
        if status is None:
            self._log_unknown_status(job_id)
            return HTTPStatus.OK  # a word that is not documented: to have it sent again would tell no more
        return await self._take_turn(request.protocol, token, Callback(job_id, status))

    def _log_unknown_status(self, job_id: str) -> None:
        """Log the first callback with an unknown status; the job endpoint may explain it."""
        if not self._has_logged_unknown:
            self._has_logged_unknown = True
            log.warning("callback.status_unknown", jobId=job_id)

    async def _take_turn(self, caller: RequestHandler, token: str, callback: Callback) -> HTTPStatus:
        """Record a callback, unless too many wait for the ledger."""
        if self._calls >= MOST_CALLS:
            return HTTPStatus.SERVICE_UNAVAILABLE
        self._calls += 1
        self._server.callers.begin_answer(caller)
        try:
            return await self._record(token, callback)
        finally:
            self._calls -= 1
            _close(self._server.callers.end_answer(caller))

    async def _record(self, token: str, callback: Callback) -> HTTPStatus:
        hashed = token_hash(token)
        try:
            result = await asyncio.shield(self._apply(hashed, callback))
        except LedgerUnavailableError:
            fields = {"jobId": callback.job_id, "status": callback.status.value}
            log.warning("callback.unwritten", **fields)
            return HTTPStatus.SERVICE_UNAVAILABLE
        except Exception:
            log.exception("callback.failed", jobId=callback.job_id)
            return HTTPStatus.SERVICE_UNAVAILABLE
        return HTTPStatus.NOT_FOUND if result.effect is CallbackEffect.UNKNOWN_TOKEN else HTTPStatus.OK

    async def _apply(self, hashed: str, callback: Callback) -> CallbackResult:
        """Apply a callback and pass its result on, even if the caller has disconnected meanwhile."""
        written = asyncio.shield(
            self._writer.call(
                apply_callback, hashed, callback, self._now(), listening_since=self._since, hold=self._hold
            )
        )
        if callback.status.ended:
            # the callback is in line for the ledger after this: an admission that takes its slot goes with it
            await asyncio.sleep(0)
            self._ending()
        result = await written
        self._applied(result)
        return result


def most_idle(open_files: int) -> int:
    """Compute the most idle connections.

    Args:
        open_files: The process's limit of open files; negative: unlimited.
    """
    return MOST_IDLE if open_files < 0 else max(LEAST_IDLE, min(MOST_IDLE, open_files // SHARE_OF_FILES))


def _close(caller: RequestHandler | None) -> None:
    """Close a connection at once, whatever input is unread."""
    if caller is not None and caller.transport is not None:
        caller.transport.abort()


async def _body(request: web.BaseRequest) -> bytes | None:
    """Read the body; None where it is too long.

    Raises:
        TimeoutError: The body comes too slowly.
    """
    found = bytearray()
    async with asyncio.timeout(BODY_SECONDS):
        async for piece in request.content.iter_any():
            found += piece
            if len(found) > MOST_BYTES:
                return None
    return bytes(found)


def _json(body: bytes) -> Any:
    try:
        return Sanitizer().json(read_json(body))
    except (ValueError, RecursionError):
        return None


def _status(status: HTTPStatus) -> web.Response:
    response = web.Response(status=status)
    if status is not HTTPStatus.OK:
        response.force_close()
    return response
