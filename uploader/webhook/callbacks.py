"""Answers the HTTP requests of callbacks, with limits on time and size."""

import asyncio
from collections.abc import Callable
from http import HTTPStatus
from typing import Any

from aiohttp import web
from aiohttp.web_protocol import RequestHandler

from uploader import logs
from uploader.errors import LedgerUnavailableError
from uploader.http_server import Callers
from uploader.http_server.server import abort
from uploader.ledger.callbacks import CallbackResult, apply_callback
from uploader.ledger.thread import Writer
from uploader.policy.callbacks import is_signed, read_callback, token_hash
from uploader.policy.facts import Callback, CallbackEffect
from uploader.text import Sanitizer, read_json

log = logs.get_logger()

# the largest body, in bytes; a callback has two short fields
MOST_BYTES = 64 * 1024
# the most callbacks that wait for the ledger; the service repeats those that are turned away
MOST_CALLS = 64
# the time for a callback's body
BODY_SECONDS = 10.0


class Callbacks:
    """The answers to callbacks, behind every ``webhookUrl``.

    The last segment of the path is the token; a stranger learns nothing from the answers.

    Args:
        key: The key that signs the ledger's tokens.
        now: Returns the time in seconds since the epoch, never running backwards.
        applied: Receives the result of every recorded callback.
        ending: Called when the end of a job is in line for the ledger.
    """

    def __init__(
        self,
        *,
        key: str,
        writer: Writer,
        now: Callable[[], float],
        applied: Callable[[CallbackResult], None],
        ending: Callable[[], None] = lambda: None,
    ) -> None:
        self._key = key
        self._writer = writer
        self._now = now
        self._applied = applied
        self._ending = ending
        self._since = now()
        self._calls = 0
        self._has_logged_unknown = False

    async def answer(self, request: web.BaseRequest, callers: Callers) -> web.StreamResponse:
        """Answer one request; ``callers``: the server's connections."""
        return _status(await self._take(request, callers))

    async def _take(self, request: web.BaseRequest, callers: Callers) -> HTTPStatus:
        if request.method != "POST":
            return HTTPStatus.METHOD_NOT_ALLOWED
        token = request.rel_url.raw_path.rpartition("/")[2]
        if not is_signed(token, self._key):
            return HTTPStatus.NOT_FOUND  # for a stranger neither a body nor the ledger is read
        callers.show_token(request.protocol)
        return await self._take_call(request, token, callers)

    async def _take_call(self, request: web.BaseRequest, token: str, callers: Callers) -> HTTPStatus:
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
        return await self._take_turn(request.protocol, token, Callback(job_id, status), callers)

    def _log_unknown_status(self, job_id: str) -> None:
        """Log the first callback with an unknown status; the job endpoint may explain it."""
        if not self._has_logged_unknown:
            self._has_logged_unknown = True
            log.warning("callback.status_unknown", jobId=job_id)

    async def _take_turn(self, caller: RequestHandler, token: str, callback: Callback, callers: Callers) -> HTTPStatus:
        """Record a callback, unless too many wait for the ledger."""
        if self._calls >= MOST_CALLS:
            return HTTPStatus.SERVICE_UNAVAILABLE
        self._calls += 1
        callers.begin_answer(caller)
        try:
            return await self._record(token, callback)
        finally:
            self._calls -= 1
            abort(callers.end_answer(caller))

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
            self._writer.call(apply_callback, hashed, callback, self._now(), listening_since=self._since)
        )
        if callback.status.ended:
            # the callback is in line for the ledger after this: an admission that takes its slot goes with it
            await asyncio.sleep(0)
            self._ending()
        result = await written
        self._applied(result)
        return result


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
