"""The service's calls: append audio, ask for a job, for a conversation, ask whether it is there."""

import asyncio
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Self
from urllib.parse import quote, urlencode

import aiohttp
from yarl import URL

from uploader.audio import Source
from uploader.client.connection import (
    ConnectionEndedError,
    UploadConnector,
    proxy_for,
    read_answer,
    read_json,
    send_once,
    ssl_context,
    told,
    under_way,
)
from uploader.client.expectation import Expect, Expectation
from uploader.client.token import CredentialsSource, Token, Tokens, TokenUnavailableError
from uploader.client.upload import Gate, Upload
from uploader.model import Answer, JobStatus, Reply, Sight
from uploader.policy.chunks import chunk_bytes

ANSWER_MOST_BYTES = 256 * 1024
"""An answer to a PUT, or of the job endpoint, is short."""
CONVERSATION_MOST_BYTES = 64 * 1024 * 1024
"""A long conversation has many messages."""
GET_SECONDS = 60.0
LONG_BODY_SECONDS = 600.0
"""A long body may take as long, and a gateway may look at the token only behind it."""


@dataclass(frozen=True, slots=True)
class TimeLimits:
    """Seconds to connect, for an upload of which no byte moves, and for the answer after the last chunk."""

    connect: float = 30.0
    stall: float = 60.0
    answer: float = 300.0


@dataclass(frozen=True, slots=True)
class UploadRequest:
    """What one PUT says beside its body. ``content_type`` None: the service detects the format."""

    conversation_id: str
    query: Sequence[tuple[str, str]]
    content_type: str | None


@dataclass(frozen=True, slots=True)
class JobAnswer:
    """What the job endpoint said. ``status`` None: no answer, or one without a status."""

    status: JobStatus | None
    reason: str = ""


class Client:
    """Speaks with one account's service. Use it as a context manager.

    Args:
        base_url: Where it is.
        credentials: Where id and secret, or a ready token, come from.
        limits: Seconds.
        now: Seconds since the epoch.
        expect: Which bodies wait for leave, and how long.
        uploads: How many there are to be at once: they share the memory for chunks.
    """

    def __init__(
        self,
        base_url: str,
        credentials: CredentialsSource,
        limits: TimeLimits,
        now: Callable[[], float],
        expect: Expect = Expect(),  # noqa: B008 - it is frozen
        uploads: int = 1,
    ) -> None:
        self._base_url = base_url
        self._credentials = credentials
        self._limits = limits
        self._expect = expect
        self._expectation = Expectation(expect)
        self._now = now
        self._chunk_bytes = chunk_bytes(uploads)

    async def __aenter__(self) -> Self:
        """Open the sessions: two for uploads, without and with leave, one for everything that may be asked twice."""
        context = ssl_context()
        self._proxy = proxy_for(self._base_url)
        timeout = aiohttp.ClientTimeout(total=GET_SECONDS, connect=self._limits.connect)
        self._asking = aiohttp.ClientSession(connector=aiohttp.TCPConnector(ssl=context), timeout=timeout)
        self._uploading = self._session(UploadConnector(context, keeps=False))
        self._uploading_with_leave = self._session(UploadConnector(context, keeps=self._expect.keeps_connections))
        self._tokens = Tokens(self._asking, self._base_url, self._credentials, self._proxy, self._now)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close the sessions."""
        await self._uploading.close()
        await self._uploading_with_leave.close()
        await self._asking.close()

    async def authorise(self) -> str:
        """Fetch the first token, so that wrong credentials are told before anything is sent.

        Returns:
            Why there is none yet; empty where there is one.

        Raises:
            CredentialsError: The service does not take the credentials.
        """
        try:
            await self._tokens.get()
        except TokenUnavailableError as error:
            return str(error)
        return ""

    async def upload(self, request: UploadRequest, source: Source, gate: Gate) -> Reply:
        """Append a file to a conversation: one PUT (put-audio.md, API Endpoint), its body sent at most once.

        After a 417 to a head that asked leave for its body, which has not begun, the head is sent again without; after
        a connection that was used before has come to its end, it is sent again on a new one.

        Args:
            request: The conversation and the parameters.
            source: The open file.
            gate: What stands before the last chunk.

        Raises:
            CredentialsError: The service does not take the credentials; nothing was sent.
        """
        try:
            async with gate.until_stopped():
                is_long = self._expectation.is_long(source.size)
                token = await self._tokens.get(LONG_BODY_SECONDS if is_long else 0.0)
        except TokenUnavailableError as error:
            return Reply(failure=str(error))
        except TimeoutError:
            return Reply(failure="stopped before it was sent", withheld=True)
        upload = self._begun(source, gate)
        reply = await self._put(request, source, upload, token)
        if upload.met_a_closed_connection and reply.status in (None, 408) and not gate.is_stopping():
            upload = self._begun(source, gate)
            reply = await self._put(request, source, upload, token, anew=True)
        if reply.status == 417 and upload.asks_leave and not reply.last_chunk_left:
            reply = await self._put_unasked(request, source, gate, upload, token)
        if reply.status == 401:
            self._tokens.refused(token, "PUT")
        elif reply.status is not None:
            self._tokens.taken(token, "PUT")
        return reply

    async def job(self, job_id: str) -> JobAnswer:
        """Ask how a job is (the job endpoint).

        Raises:
            CredentialsError: The service does not take the credentials.
        """
        status, answer = await self._get(f"/v1/job/{quote(job_id, safe='')}")
        word = answer.get("status")
        if status == 200 and isinstance(word, str) and word in set(JobStatus):
            return JobAnswer(JobStatus(word))
        return JobAnswer(None, f"HTTP {status}" if status else str(answer.get("failure", "")))

    async def sight(self, conversation_id: str) -> Sight | None:
        """Look at what a conversation holds now (its messages); None where that cannot be told.

        Raises:
            CredentialsError: The service does not take the credentials.
        """
        answer = await self.conversation(conversation_id, "messages")
        messages = answer.body.get("messages") if isinstance(answer.body, dict) else None
        if answer.status != 200 or not isinstance(messages, list):
            return None
        ends = [one.get("endTime") for one in messages if isinstance(one, dict)]
        return Sight(len(messages), max((end for end in ends if isinstance(end, str)), default=None))

    async def conversation(self, conversation_id: str, part: str = "") -> Answer:
        """Ask for a conversation, or for what the service made of it.

        Args:
            conversation_id: The conversation.
            part: What stands under it in the path (``messages``, ``trackers-detected``); empty for itself.

        Raises:
            CredentialsError: The service does not take the credentials.
        """
        path = f"/v1/conversations/{quote(conversation_id, safe='')}" + (f"/{part}" if part else "")
        return await self._ask(path, CONVERSATION_MOST_BYTES)

    async def is_there(self, job_id: str) -> bool:
        """Ask anything that changes nothing: whether the service itself answers, whatever it says.

        Raises:
            CredentialsError: The service does not take the credentials.
        """
        status, _ = await self._get(f"/v1/job/{quote(job_id, safe='')}")
        return status is not None and status < 500

    def _session(self, connector: UploadConnector) -> aiohttp.ClientSession:
        return aiohttp.ClientSession(
            connector=connector,
            timeout=aiohttp.ClientTimeout(total=None, connect=self._limits.connect),
            middlewares=(send_once,),
            cookie_jar=aiohttp.DummyCookieJar(),
            auto_decompress=True,
        )

    def _begun(self, source: Source, gate: Gate) -> Upload:
        limits = self._limits
        return Upload(
            source,
            gate,
            stall_seconds=limits.stall,
            answer_seconds=limits.answer,
            chunk_bytes=self._chunk_bytes,
            expectation=self._expectation,
        )

    async def _put_unasked(
        self, request: UploadRequest, source: Source, gate: Gate, refused: Upload, token: Token
    ) -> Reply:
        """Send without Expect what was refused for it, if of its body provably nothing has left."""
        self._expectation.refused()
        refused.withheld = gate.is_stopping()
        if refused.has_begun or refused.withheld:
            return _without_answer(refused, "the service takes no Expect: 100-continue (HTTP 417)")
        return await self._put(request, source, self._begun(source, gate), token)

    async def _put(
        self, request: UploadRequest, source: Source, upload: Upload, token: Token, *, anew: bool = False
    ) -> Reply:
        """Send a head, and then perhaps a body; ``anew``: on a new connection, whatever it asks."""
        session = self._uploading_with_leave if upload.asks_leave and not anew else self._uploading
        marker = under_way.set(upload)
        try:
            async with asyncio.timeout(None) as timeout:
                upload.watch(timeout)
                async with session.put(
                    self._url(request),
                    data=upload.body(),
                    headers=_headers(request, source.size, token),
                    skip_auto_headers=["Content-Type"],
                    allow_redirects=False,
                    expect100=upload.asks_leave,
                    **self._proxy,
                ) as response:
                    upload.answered(response.status)
                    answer, broken = await read_answer(response, ANSWER_MOST_BYTES)
                    return _reply(upload, response, answer, broken)
        except (aiohttp.ClientError, ConnectionEndedError, OSError, TimeoutError) as error:
            failure = upload.failure or told_end(error)
            return _without_answer(upload, failure)
        finally:
            upload.stop_watching()
            under_way.reset(marker)

    def _url(self, request: UploadRequest) -> URL:
        path = f"/v1/process/audio/{quote(request.conversation_id, safe='')}"
        query = "?" + urlencode(request.query, quote_via=quote, safe="") if request.query else ""
        return URL(self._base_url + path + query, encoded=True)

    async def _get(self, path: str) -> tuple[int | None, Mapping[str, Any]]:
        """GET a short JSON object."""
        answer = await self._ask(path, ANSWER_MOST_BYTES)
        if answer.status is None:
            return None, {"failure": answer.failure}
        return answer.status, answer.body if isinstance(answer.body, dict) else {}

    async def _ask(self, path: str, most_bytes: int) -> Answer:
        """GET with a token; after a 401 once more with a new one."""
        answer = Answer()
        try:
            for _ in range(2):
                token = await self._tokens.get()
                answer = await self._ask_once(path, token, most_bytes)
                if answer.status != 401:
                    self._tokens.taken(token, "GET")
                    break
                self._tokens.refused(token, "GET")
        except TokenUnavailableError as error:
            return Answer(failure=str(error))
        except (aiohttp.ClientError, OSError, TimeoutError) as error:
            return Answer(failure=told(error))
        return answer

    async def _ask_once(self, path: str, token: Token, most_bytes: int) -> Answer:
        async with self._asking.get(
            URL(self._base_url + path, encoded=True),
            headers={"Authorization": f"Bearer {token.value}"},
            allow_redirects=False,
            **self._proxy,
        ) as response:
            body, broken = await read_json(response, most_bytes)
            return Answer(response.status, body, response.headers.get("Retry-After"), broken)


def told_end(error: BaseException) -> str:
    """Say how a connection ended, from the error that it ended with."""
    return str(error) if isinstance(error, ConnectionEndedError) else told(error)


def _headers(request: UploadRequest, size: int, token: Token) -> dict[str, str]:
    headers = {"Authorization": f"Bearer {token.value}", "Content-Length": str(size)}
    if request.content_type is not None:
        headers["Content-Type"] = request.content_type
    return headers


def _reply(upload: Upload, response: aiohttp.ClientResponse, answer: Mapping[str, Any] | None, broken: str) -> Reply:
    return Reply(
        connected=True,
        last_chunk_left=upload.last_chunk_left,
        status=response.status,
        answer=answer,
        retry_after=response.headers.get("Retry-After"),
        failure=broken,
        bytes_sent=upload.bytes_sent,
    )


def _without_answer(upload: Upload, failure: str) -> Reply:
    return Reply(
        connected=upload.is_connected,
        last_chunk_left=upload.last_chunk_left,
        failure=failure,
        source_failure=upload.source_failure,
        withheld=upload.withheld,
        bytes_sent=upload.bytes_sent,
    )
