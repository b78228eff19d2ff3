"""The status page over HTTP: the page, its events, its JSON, metrics and health; for reading alone."""

import asyncio
import hashlib
import hmac
import json
import re
import time
from base64 import b64decode, b64encode
from binascii import Error as Base64Error
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from functools import cache, partial
from http import HTTPStatus
from pathlib import Path
from types import TracebackType
from typing import Any, Protocol, Self
from urllib.parse import urlsplit

from aiohttp import ClientError, web

from uploader.errors import UploaderError
from uploader.http_server import Answer, Callers, HttpServer
from uploader.settings import is_loopback

# the most streams of events at once
MOST_WATCHERS = 32
# the least seconds between two snapshots, and between two renderings of the metrics
UPDATE_SECONDS = 1.0
# a stream without news says so after this time, so that a proxy keeps it and a closed one is noticed
QUIET_SECONDS = 15.0
# the time that a reader may take to take what was written
WRITE_SECONDS = 10.0
# the share of the time that rendering metrics may take
SHARE_OF_TIME = 0.005
PAGE = Path(__file__).with_name("page.html")
HEADERS = {
    "Cache-Control": "no-store",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
}
TEXT = "text/plain; charset=utf-8"
# a reader is told after so many seconds that the ledger does not answer
ANSWER_SECONDS = 5.0


class ReadSnapshot(Protocol):
    """Reads the snapshot, in a thread."""

    def __call__(self, *, fresh: bool) -> Mapping[str, Any]:
        """Return the snapshot's parts as JSON; ``fresh``: as they are now, whatever that costs."""
        ...


class Feed:
    """The latest snapshot, shared by all who watch; none is made while nobody does.

    Args:
        read: Reads the snapshot.
    """

    def __init__(self, read: ReadSnapshot) -> None:
        self._read = read
        self._lock = asyncio.Lock()
        # the reading under way, which goes on when those who wait for it give up
        self._reading: asyncio.Future[Mapping[str, Any]] | None = None
        self._due_at = 0.0
        self._is_final = False
        # by part: the number of its version, and its JSON
        self.parts: dict[str, tuple[int, str]] = {}

    async def refresh(self, *, final: bool = False) -> None:
        """Read the snapshot where it is due; ``final``: once more, for good.

        Raises:
            UploaderError: The ledger cannot be read.
        """
        async with self._lock:
            if self._is_final or (not final and time.monotonic() < self._due_at):
                return
            # of a ledger that does not answer there is one reading, not one for each reader; the last snapshot is one
            # that began after the end
            if self._reading is None or self._reading.done() or final:
                read = partial(self._read, fresh=final)
                self._reading = asyncio.get_running_loop().run_in_executor(None, read)
            found = await asyncio.shield(self._reading)
            self._due_at = time.monotonic() + UPDATE_SECONDS
            self._is_final = final
            self._keep(found)

    def _keep(self, found: Mapping[str, Any]) -> None:
        """Keep the parts that differ, as text."""
        for name, value in found.items():
            text = json.dumps(value, separators=(",", ":"))
            version, known = self.parts.get(name, (0, None))
            if text != known:
                self.parts[name] = (version + 1, text)

    def changed(self, seen: dict[str, int]) -> str:
        """Return the JSON object of the parts that a reader has not seen, empty where there is none; note them."""
        news = {name: text for name, (version, text) in self.parts.items() if seen.get(name) != version}
        seen.update((name, version) for name, (version, _) in self.parts.items())
        if not news:
            return ""
        # a reader's own clock may be wrong
        told = [f'"now":{time.time():.3f}', *(f'"{name}":{text}' for name, text in news.items())]
        return "{" + ",".join(told) + "}"


class StatusListener:
    """The HTTP server of the status page.

    Without a token every read from a browser or program that names this machine is answered; with one, those that
    bring it: as a bearer token, or as the password that a browser asks for. A stranger learns nothing, not even which
    paths there are.

    Args:
        host: The host to listen on.
        port: The port to listen on.
        read: Reads the snapshot.
        metrics: Returns the figures in Prometheus' text format.
        token: The token to ask for; None asks for none, which is for loopback alone.
        webhook: Answers POSTs, where callbacks come to the same address.
    """

    def __init__(
        self,
        host: str,
        port: int,
        *,
        read: ReadSnapshot,
        metrics: Callable[[], Awaitable[str]],
        token: str | None = None,
        webhook: Answer | None = None,
    ) -> None:
        self._server = HttpServer(host, port, self.answer, option="--status")
        self._feed = Feed(read)
        self._metrics = _SharedText(metrics)
        self._token = token
        self._webhook = webhook
        self._watchers = 0
        self._ending = asyncio.Event()

    async def __aenter__(self) -> Self:
        """Listen.

        Raises:
            UsageError: The address cannot be listened on.
        """
        await self._server.__aenter__()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Send those who watch the last snapshot, and stop listening."""
        self._ending.set()
        await self._server.__aexit__(kind, error, trace)

    async def answer(self, request: web.BaseRequest, callers: Callers) -> web.StreamResponse:
        """Answer one request."""
        if request.method == "POST" and self._webhook is not None:
            return await self._webhook(request, callers)
        path = request.rel_url.raw_path
        if path == "/healthz" and request.method in ("GET", "HEAD"):
            return await _send(request, web.Response(text="ok\n", headers=HEADERS))
        if not self._may_read(request):
            return await _send(request, self._refusal())
        callers.show_token(request.protocol)
        if request.method not in ("GET", "HEAD"):
            return await _send(request, _empty(HTTPStatus.METHOD_NOT_ALLOWED, Allow="GET, HEAD"))
        if path == "/events":
            return await self._stream(request, callers)
        try:
            async with asyncio.timeout(ANSWER_SECONDS):
                response = await self._read(path)
        except TimeoutError:
            response = _empty(HTTPStatus.SERVICE_UNAVAILABLE)
        return await _send(request, response)

    def _may_read(self, request: web.BaseRequest) -> bool:
        if self._token is not None:
            return _has_token(request.headers.get("Authorization", ""), self._token)
        # a page of the web whose name points at this machine still has its own name in the head
        return _names_loopback(request.headers.get("Host", ""))

    def _refusal(self) -> web.Response:
        """Return the one answer to strangers, whatever they ask for."""
        if self._token is None:
            return _empty(HTTPStatus.MISDIRECTED_REQUEST)
        return _empty(HTTPStatus.UNAUTHORIZED, **{"WWW-Authenticate": 'Basic realm="status", charset="UTF-8"'})

    async def _read(self, path: str) -> web.Response:
        if path == "/":
            page, policy = page_and_policy()
            headers = {**HEADERS, "Content-Security-Policy": policy}
            return web.Response(text=page, content_type="text/html", charset="utf-8", headers=headers)
        try:
            if path == "/status.json":
                await self._feed.refresh()
                return _text(self._feed.changed({}), "application/json")
            if path == "/readyz":
                await self._feed.refresh()
                return _text("ready\n", TEXT)
            if path == "/metrics":
                # where the ledger does not answer, the one reading of the snapshot finds it out
                await self._feed.refresh()
                return _text(await self._metrics.get(), "text/plain; version=0.0.4; charset=utf-8")
        except UploaderError:
            return _empty(HTTPStatus.SERVICE_UNAVAILABLE)
        return _empty(HTTPStatus.NOT_FOUND)

    async def _stream(self, request: web.BaseRequest, callers: Callers) -> web.StreamResponse:
        """Send the parts of the snapshot that have changed, until the reader goes or the run ends."""
        if self._watchers >= MOST_WATCHERS:
            return await _send(request, _empty(HTTPStatus.SERVICE_UNAVAILABLE))
        self._watchers += 1
        callers.begin_answer(request.protocol)
        # the last one keeps nginx from collecting what is to come at once
        headers = {**HEADERS, "Content-Type": "text/event-stream", "X-Accel-Buffering": "no"}
        response = web.StreamResponse(headers=headers)
        try:
            await response.prepare(request)
            if request.method == "GET":
                await self._write_events(request, response)
        except (TimeoutError, ConnectionError, ClientError):
            _abort(request)
        finally:
            self._watchers -= 1
            callers.end_answer(request.protocol)
        return response

    async def _write_events(self, request: web.BaseRequest, response: web.StreamResponse) -> None:
        seen: dict[str, int] = {}
        said_at = 0.0
        while request.transport is not None and not request.transport.is_closing():
            is_ending = self._ending.is_set()
            with suppress(UploaderError):  # the run itself tells of a ledger that cannot be read
                await self._feed.refresh(final=is_ending)
            news = self._feed.changed(seen)
            if news or time.monotonic() - said_at >= QUIET_SECONDS:
                said_at = time.monotonic()
                await _write(response, f"data: {news}\n\n" if news else ":\n\n")
            if is_ending:
                await _write(response, "event: end\ndata: {}\n\n")
                return
            with suppress(TimeoutError):
                async with asyncio.timeout(UPDATE_SECONDS):
                    await self._ending.wait()


class _SharedText:
    """A text that is made anew at most once a second, and at most for a share of the time."""

    def __init__(self, make: Callable[[], Awaitable[str]]) -> None:
        self._make = make
        self._lock = asyncio.Lock()
        self._text = ""
        self._due_at = 0.0

    async def get(self) -> str:
        """Return the text."""
        async with self._lock:
            begun = time.monotonic()
            if begun >= self._due_at:
                self._text = await self._make()
                cost = time.monotonic() - begun
                self._due_at = time.monotonic() + max(UPDATE_SECONDS, cost / SHARE_OF_TIME)
            return self._text


@cache
def page_and_policy() -> tuple[str, str]:
    """Return the page, and the Content-Security-Policy that lets it run its own script and style alone."""
    page = PAGE.read_text(encoding="utf-8")
    return page, policy_of(page, "connect-src 'self'")


def policy_of(page: str, *more: str) -> str:
    """Return the Content-Security-Policy of a page: its script and its style by their hashes, and nothing else."""
    script, style = (re.findall(rf"<{tag}>(.*?)</{tag}>", page, re.DOTALL) for tag in ("script", "style"))
    sources = [f"{kind}-src {' '.join(map(_hash, found))}" for kind, found in (("script", script), ("style", style))]
    return "; ".join(
        [
            "default-src 'none'",
            *sources,
            "img-src data:",
            *more,
            "base-uri 'none'",
            "form-action 'none'",
            "frame-ancestors 'none'",
            "require-trusted-types-for 'script'",
        ]
    )


def _hash(text: str) -> str:
    return f"'sha256-{b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"


def _has_token(authorization: str, token: str) -> bool:
    """Return True where the header brings the token, as a bearer token or as a password; in constant time."""
    scheme, _, given = authorization.strip().partition(" ")
    given = given.strip()
    if scheme.lower() == "basic":
        try:
            given = b64decode(given, validate=True).decode().partition(":")[2]
        except (Base64Error, UnicodeDecodeError):
            return False
    elif scheme.lower() != "bearer":
        return False
    return hmac.compare_digest(given.encode("utf-8", "surrogateescape"), token.encode())


def _names_loopback(host: str) -> bool:
    try:
        return is_loopback(urlsplit(f"//{host}").hostname or "")
    except ValueError:
        return False


def _empty(status: HTTPStatus, **headers: str) -> web.Response:
    response = web.Response(status=status, headers={**HEADERS, **headers})
    response.force_close()
    return response


def _text(text: str, content_type: str) -> web.Response:
    return web.Response(body=text.encode(), headers={**HEADERS, "Content-Type": content_type})


async def _send(request: web.BaseRequest, response: web.Response) -> web.Response:
    """Send a response to a reader who takes it in time, else close the connection."""
    try:
        async with asyncio.timeout(WRITE_SECONDS):
            await response.prepare(request)
            await response.write_eof()
    except (TimeoutError, ConnectionError, ClientError):
        _abort(request)
    return response


async def _write(response: web.StreamResponse, text: str) -> None:
    """Write to a stream.

    Raises:
        TimeoutError: The reader does not take it in time.
    """
    async with asyncio.timeout(WRITE_SECONDS):
        await response.write(text.encode())


def _abort(request: web.BaseRequest) -> None:
    if request.transport is not None:
        request.transport.abort()
