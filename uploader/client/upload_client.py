"""Sends one PUT: its body at most once, on a new connection or on one that is proved to be alive."""

import asyncio
import ssl
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple
from urllib.parse import quote, urlencode

import aiohttp
from yarl import URL

from uploader.audio import Source
from uploader.client.answers import Body, first_words, read_body, retry_after_of
from uploader.client.connection import (
    ConnectionEndedError,
    UploadConnector,
    format_error,
    send_once,
    under_way,
)
from uploader.client.expectation import ContinueSupport, Expect
from uploader.client.recording import Received, receiving
from uploader.client.token import Token
from uploader.client.upload import Admission, Upload
from uploader.model import Reply
from uploader.policy.chunks import chunk_bytes
from uploader.text import Sanitizer

# the longest answer to a PUT, or of the job endpoint, in bytes
ANSWER_MOST_BYTES = 256 * 1024
# the most that is kept of a Location header
LOCATION_CHARACTERS = 200


class TimeLimits(NamedTuple):
    """The time limits of an upload, in seconds."""

    connect: float = 30.0
    # without a byte that moves
    stall: float = 60.0
    # for the answer, after the last chunk
    answer: float = 300.0


@dataclass(frozen=True, slots=True)
class UploadRequest:
    """The head of one PUT."""

    conversation_id: str
    query: Sequence[tuple[str, str]]
    # None: the service detects the format
    content_type: str | None
    # a part of the query that must not appear in what is kept of the answer
    secret: str = field(default="", repr=False)


class UploadClient:
    """The client of the upload endpoint: one PUT per call, through a session of new and one of reused connections.

    Args:
        base_url: The service's base URL.
        proxy: The proxy, as keyword arguments of a request.
        context: The trusted certificates.
        limits: The time limits.
        expect: The use of ``Expect: 100-continue``.
        uploads: The most uploads at once; they share the memory for chunks.
        sanitizer: Masks secrets in answers, and makes their text storable.
        route: The host, and the proxy before it, for messages of failures.
    """

    def __init__(
        self,
        base_url: str,
        proxy: Mapping[str, Any],
        context: ssl.SSLContext | bool,
        limits: TimeLimits,
        expect: Expect,
        uploads: int,
        sanitizer: Sanitizer,
        route: str,
    ) -> None:
        self._sanitizer = sanitizer
        self._route = route
        self._base_url = base_url
        self._proxy = proxy
        self._limits = limits
        self._continue_support = ContinueSupport(expect)
        self._chunk_bytes = chunk_bytes(uploads)
        self._fresh = self._session(UploadConnector(context, keeps=False))
        self._reusing = self._session(UploadConnector(context, keeps=expect.keeps_connections))

    async def close(self) -> None:
        """Close both sessions."""
        await self._fresh.close()
        await self._reusing.close()

    def is_long(self, size: int) -> bool:
        """Return True where a body of this size, in bytes, is too long to be sent in vain."""
        return self._continue_support.is_long(size)

    async def send(self, request: UploadRequest, source: Source, admission: Admission, token: Token) -> Reply:
        """Send a file: its body at most once.

        A head alone is sent again: without Expect after a 417, on a new connection after a reused one has ended.
        """
        upload = self._new_upload(source, admission)
        reply = await self._put(request, source, upload, token)
        if upload.may_retry_connection and reply.status in (None, 408) and not admission.is_stopping():
            upload = self._new_upload(source, admission)
            reply = await self._put(request, source, upload, token, is_fresh=True)
        if reply.status == 417 and upload.expects_continue and not reply.last_chunk_left:
            reply = await self._put_without_expect(request, source, admission, upload, token)
        return reply

    def _session(self, connector: UploadConnector) -> aiohttp.ClientSession:
        return aiohttp.ClientSession(
            connector=connector,
            timeout=aiohttp.ClientTimeout(total=None, connect=self._limits.connect),
            middlewares=(send_once,),
            cookie_jar=aiohttp.DummyCookieJar(),
            auto_decompress=True,
        )

    def _new_upload(self, source: Source, admission: Admission) -> Upload:
        limits = self._limits
        return Upload(
            source,
            admission,
            stall_seconds=limits.stall,
            answer_seconds=limits.answer,
            chunk_bytes=self._chunk_bytes,
            support=self._continue_support,
        )

    async def _put_without_expect(
        self, request: UploadRequest, source: Source, admission: Admission, refused: Upload, token: Token
    ) -> Reply:
        """Send without Expect after a 417, if provably nothing of the body has left."""
        self._continue_support.refused()
        refused.withheld = admission.is_stopping()
        if refused.has_begun or refused.withheld:
            return _without_answer(refused, "the service takes no Expect: 100-continue (HTTP 417)")
        return await self._put(request, source, self._new_upload(source, admission), token)

    async def _put(
        self, request: UploadRequest, source: Source, upload: Upload, token: Token, *, is_fresh: bool = False
    ) -> Reply:
        """Send one request; ``is_fresh``: on a new connection, even if it expects 100 Continue."""
        session = self._reusing if upload.expects_continue and not is_fresh else self._fresh
        marker = under_way.set(upload)
        received = Received()
        receiving.set(received)
        try:
            async with asyncio.timeout(None) as timeout:
                upload.watch(timeout)
                async with session.put(
                    url_of(self._base_url, request),
                    data=aiohttp.AsyncIterablePayload(upload.body()),  # type: ignore[arg-type] # it takes any buffer
                    headers=_headers(request, source.size, token),
                    skip_auto_headers=["Content-Type"],
                    allow_redirects=False,
                    expect100=upload.expects_continue,
                    **self._proxy,
                ) as response:
                    upload.answered(response.status)
                    body = await read_body(response, ANSWER_MOST_BYTES, self._sanitizer, request.secret)
                    return self._reply(upload, response, body, request.secret, received)
        except (aiohttp.ClientError, ConnectionEndedError, OSError, TimeoutError) as error:
            return self._without_status(upload, received, upload.failure or format_end(error), request.secret)
        finally:
            upload.stop_watching()
            under_way.reset(marker)

    def _reply(
        self, upload: Upload, response: aiohttp.ClientResponse, body: Body, secret: str, received: Received
    ) -> Reply:
        words = body.words
        if body.failure and body.value is None and not words:
            words = first_words(received.describe()[1], self._sanitizer, secret)
        location = response.headers.get("Location", "") if 300 <= response.status < 400 else ""
        return Reply(
            connected=True,
            last_chunk_left=upload.last_chunk_left,
            status=response.status,
            answer=body.members,
            retry_after=retry_after_of(response),
            failure=body.failure or ("" if body.members is not None else "the answer is no JSON object"),
            words=words,
            location=self._sanitizer.text(location, secret)[:LOCATION_CHARACTERS],
            bytes_sent=upload.bytes_sent,
        )

    def _without_status(self, upload: Upload, received: Received, failure: str, secret: str) -> Reply:
        """Build the reply of a request that ended without a readable answer."""
        came, first = received.describe()
        words = first_words(first, self._sanitizer, secret)
        return _without_answer(upload, f"{failure} ({self._route})")._replace(unreadable=came, words=words)


def url_of(base_url: str, request: UploadRequest) -> URL:
    """Build the address of a PUT (put-audio.md, API Endpoint): path and query percent-encoded."""
    path = f"/v1/process/audio/{quote(request.conversation_id, safe='')}"
    query = "?" + urlencode(request.query, quote_via=quote, safe="") if request.query else ""
    return URL(base_url + path + query, encoded=True)


def format_end(error: BaseException) -> str:
    """Format the error that a request ended with."""
    return str(error) if isinstance(error, ConnectionEndedError) else format_error(error)


def _headers(request: UploadRequest, size: int, token: Token) -> dict[str, str]:
    headers = {"Authorization": f"Bearer {token.value}", "Content-Length": str(size)}
    if request.content_type is not None:
        headers["Content-Type"] = request.content_type
    return headers


def _without_answer(upload: Upload, failure: str) -> Reply:
    return Reply(
        connected=upload.is_connected,
        last_chunk_left=upload.last_chunk_left,
        failure=failure,
        source_failure=upload.source_failure,
        source_is_away=upload.source_is_away,
        withheld=upload.withheld,
        bytes_sent=upload.bytes_sent,
    )
