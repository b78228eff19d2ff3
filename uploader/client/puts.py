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
    send_once,
    told,
    under_way,
)
from uploader.client.expectation import Expect, Expectation
from uploader.client.recording import Received, receiving
from uploader.client.token import Token
from uploader.client.upload import Admission, Upload
from uploader.model import Reply
from uploader.policy.chunks import chunk_bytes
from uploader.text import Sanitizer

ANSWER_MOST_BYTES = 256 * 1024
"""An answer to a PUT, or of the job endpoint, is short."""

LOCATION_CHARACTERS = 200
"""So much of an address that an answer leads to is kept."""


class TimeLimits(NamedTuple):
    """Seconds to connect, for an upload of which no byte moves, and for the answer after the last chunk."""

    connect: float = 30.0
    stall: float = 60.0
    answer: float = 300.0


@dataclass(frozen=True, slots=True)
class UploadRequest:
    """What one PUT says beside its body. ``content_type`` None: the service detects the format.

    ``secret``: what stands in the query and must not be repeated in what is kept of the answer.
    """

    conversation_id: str
    query: Sequence[tuple[str, str]]
    content_type: str | None
    secret: str = field(default="", repr=False)


class Puts:
    """Sends uploads to one service.

    Args:
        base_url: Where it is.
        proxy: The keyword arguments of a request that lead through a proxy.
        context: The certificates that are trusted.
        limits: Seconds.
        expect: Which bodies wait for leave, and how long.
        uploads: How many there are to be at once.
        sanitizer: Makes text of answers such that it can be stored.
        route: Names the host, and the proxy between, for failures.
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
        self._expectation = Expectation(expect)
        self._chunk_bytes = chunk_bytes(uploads)
        self._without = self._session(UploadConnector(context, keeps=False))
        self._with_leave = self._session(UploadConnector(context, keeps=expect.keeps_connections))

    async def close(self) -> None:
        """Close the sessions."""
        await self._without.close()
        await self._with_leave.close()

    def is_long(self, size: int) -> bool:
        """Whether a body of so many bytes is one not to be sent in vain."""
        return self._expectation.is_long(size)

    async def send(self, request: UploadRequest, source: Source, admission: Admission, token: Token) -> Reply:
        """Send a file.

        After a 417 to a head that asked leave for its body, which has not begun, the head is sent again without; after
        a connection that was used before has come to its end, it is sent again on a new one.
        """
        upload = self._begun(source, admission)
        reply = await self._put(request, source, upload, token)
        if upload.met_a_closed_connection and reply.status in (None, 408) and not admission.is_stopping():
            upload = self._begun(source, admission)
            reply = await self._put(request, source, upload, token, anew=True)
        if reply.status == 417 and upload.asks_leave and not reply.last_chunk_left:
            reply = await self._put_unasked(request, source, admission, upload, token)
        return reply

    def _session(self, connector: UploadConnector) -> aiohttp.ClientSession:
        return aiohttp.ClientSession(
            connector=connector,
            timeout=aiohttp.ClientTimeout(total=None, connect=self._limits.connect),
            middlewares=(send_once,),
            cookie_jar=aiohttp.DummyCookieJar(),
            auto_decompress=True,
        )

    def _begun(self, source: Source, admission: Admission) -> Upload:
        limits = self._limits
        return Upload(
            source,
            admission,
            stall_seconds=limits.stall,
            answer_seconds=limits.answer,
            chunk_bytes=self._chunk_bytes,
            expectation=self._expectation,
        )

    async def _put_unasked(
        self, request: UploadRequest, source: Source, admission: Admission, refused: Upload, token: Token
    ) -> Reply:
        """Send without Expect what was refused for it, if of its body provably nothing has left."""
        self._expectation.refused()
        refused.withheld = admission.is_stopping()
        if refused.has_begun or refused.withheld:
            return _without_answer(refused, "the service takes no Expect: 100-continue (HTTP 417)")
        return await self._put(request, source, self._begun(source, admission), token)

    async def _put(
        self, request: UploadRequest, source: Source, upload: Upload, token: Token, *, anew: bool = False
    ) -> Reply:
        """Send a head, and then perhaps a body; ``anew``: on a new connection, whatever it asks."""
        session = self._with_leave if upload.asks_leave and not anew else self._without
        marker = under_way.set(upload)
        received = Received()
        receiving.set(received)
        try:
            async with asyncio.timeout(None) as timeout:
                upload.watch(timeout)
                async with session.put(
                    url_of(self._base_url, request),
                    data=upload.body(),
                    headers=_headers(request, source.size, token),
                    skip_auto_headers=["Content-Type"],
                    allow_redirects=False,
                    expect100=upload.asks_leave,
                    **self._proxy,
                ) as response:
                    upload.answered(response.status)
                    body = await read_body(response, ANSWER_MOST_BYTES, self._sanitizer, request.secret)
                    return self._reply(upload, response, body, request.secret, received)
        except (aiohttp.ClientError, ConnectionEndedError, OSError, TimeoutError) as error:
            return self._without_status(upload, received, upload.failure or told_end(error), request.secret)
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
        """What is known of a request that ended without an answer that can be read."""
        came, first = received.describe()
        words = first_words(first, self._sanitizer, secret)
        return _without_answer(upload, f"{failure} ({self._route})")._replace(unreadable=came, words=words)


def url_of(base_url: str, request: UploadRequest) -> URL:
    """Where a file is PUT (put-audio.md, API Endpoint): everything in path and query percent-encoded."""
    path = f"/v1/process/audio/{quote(request.conversation_id, safe='')}"
    query = "?" + urlencode(request.query, quote_via=quote, safe="") if request.query else ""
    return URL(base_url + path + query, encoded=True)


def told_end(error: BaseException) -> str:
    """Say how a connection ended, from the error that it ended with."""
    return str(error) if isinstance(error, ConnectionEndedError) else told(error)


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
        withheld=upload.withheld,
        bytes_sent=upload.bytes_sent,
    )
