"""Listens for what the service says of jobs, and answers once it is in the ledger."""

import asyncio
import json
import logging
import os
from collections.abc import Callable
from http import HTTPStatus
from types import TracebackType
from typing import Any, Self

import structlog
from aiohttp import web

from uploader.errors import LedgerUnavailableError, UsageError
from uploader.ledger import Writer
from uploader.ledger.hearing import Hearing, hear
from uploader.policy.hearing import Call, Meaning, read_call, token_hash

log = structlog.get_logger()

MOST_BYTES = 64 * 1024
"""A call is two short fields; more is none."""
MOST_CALLS = 64
"""So many may be under way at once: the service sends again what is turned away."""
BODY_SECONDS = 10.0
"""How long the body of a call may take."""
KEPT_SECONDS = 15.0
"""How long a connection that is idle is kept."""
STOP_SECONDS = 2.0
"""How long a stop waits for answers under way."""
_SILENT = logging.getLogger(f"{__name__}.silent")
"""aiohttp's own log would show what came: an address with its token, say."""
_SILENT.disabled = True


class Listener:
    """The server that a ``webhookUrl`` leads to.

    An address is known by its last segment, the token; a stranger learns nothing from the answers.

    Args:
        host: Where to listen.
        port: On which port.
        writer: The ledger's writer.
        now: Seconds since the epoch, never running backwards.
        hold: Whether trouble holds the rest of a lane.
        heard: Told of every call that was written down.
    """

    def __init__(
        self,
        host: str,
        port: int,
        *,
        writer: Writer,
        now: Callable[[], float],
        hold: bool,
        heard: Callable[[Hearing], None],
    ) -> None:
        self._host = host
        self._port = port
        self._writer = writer
        self._now = now
        self._hold = hold
        self._heard = heard
        self._since = now()
        self._calls = 0
        self._runner: web.ServerRunner | None = None

    async def __aenter__(self) -> Self:
        """Listen.

        Raises:
            UsageError: There is no listening at this address.
        """
        server = web.Server(
            self._answer, access_log=None, logger=_SILENT, lingering_time=0.0, keepalive_timeout=KEPT_SECONDS
        )
        self._runner = web.ServerRunner(server, shutdown_timeout=STOP_SECONDS)
        await self._runner.setup()
        try:
            await web.TCPSite(self._runner, self._host, self._port).start()
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
        """Listen no more; answers under way are finished."""
        if self._runner is not None:
            await self._runner.cleanup()

    async def _answer(self, request: web.BaseRequest) -> web.StreamResponse:
        if self._calls >= MOST_CALLS:
            return _status(HTTPStatus.SERVICE_UNAVAILABLE)
        self._calls += 1
        try:
            return _status(await self._take(request))
        finally:
            self._calls -= 1

    async def _take(self, request: web.BaseRequest) -> HTTPStatus:
        if request.method != "POST":
            return HTTPStatus.METHOD_NOT_ALLOWED
        if request.headers.get("Expect", "").lower() == "100-continue" and request.transport is not None:
            request.transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        try:
            body = await _body(request)
        except TimeoutError:
            return HTTPStatus.REQUEST_TIMEOUT
        if body is None:
            return HTTPStatus.REQUEST_ENTITY_TOO_LARGE
        read = read_call(_json(body))
        if read is None:
            return HTTPStatus.BAD_REQUEST
        job_id, status = read
        if status is None:
            return HTTPStatus.OK  # a word that is not documented: to have it sent again would tell no more
        return await self._write_down(request.rel_url.raw_path.rpartition("/")[2], Call(job_id, status))

    async def _write_down(self, token: str, call: Call) -> HTTPStatus:
        hashed = token_hash(token)
        try:
            hearing = await asyncio.shield(self._hear(hashed, call))
        except LedgerUnavailableError:
            told = {"jobId": call.job_id, "status": call.status.value}
            log.warning("a call to the webhook could not be written to the ledger", **told)
            return HTTPStatus.SERVICE_UNAVAILABLE
        except Exception:
            log.exception("fault in a call to the webhook", jobId=call.job_id)
            return HTTPStatus.SERVICE_UNAVAILABLE
        return HTTPStatus.NOT_FOUND if hearing.meaning is Meaning.FORGED else HTTPStatus.OK

    async def _hear(self, hashed: str, call: Call) -> Hearing:
        """Write a call down, and tell of it, even where the caller has gone away meanwhile."""
        hearing = await self._writer.call(hear, hashed, call, self._now(), listening_since=self._since, hold=self._hold)
        self._heard(hearing)
        return hearing


async def _body(request: web.BaseRequest) -> bytes | None:
    """The body, None where it is too long.

    Raises:
        TimeoutError: It comes too slowly.
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
        return json.loads(body)
    except (ValueError, RecursionError):
        return None


def _status(status: HTTPStatus) -> web.Response:
    response = web.Response(status=status)
    if status is not HTTPStatus.OK:
        response.force_close()
    return response
