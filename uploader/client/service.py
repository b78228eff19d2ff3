"""The client of one account's service: uploads, jobs, conversations and a health probe."""

from collections.abc import Callable
from types import TracebackType
from typing import NamedTuple, Self
from urllib.parse import quote

import aiohttp
from yarl import URL

from uploader.audio import Source
from uploader.certificates import ssl_context
from uploader.client.answers import read_body, retry_after_of
from uploader.client.connection import ServiceConnector, format_error, proxy_for, route_to
from uploader.client.expectation import Expect
from uploader.client.recording import Received, receiving
from uploader.client.token import CredentialsSource, Token, Tokens, TokenUnavailableError
from uploader.client.upload import Admission
from uploader.client.upload_client import (
    ANSWER_MOST_BYTES,
    LOCATION_CHARACTERS,
    TimeLimits,
    UploadClient,
    UploadRequest,
)
from uploader.model import Answer, ConversationSnapshot, JobStatus, Reply
from uploader.policy.polling import read_job_answer
from uploader.text import Sanitizer

# a long conversation has many messages: the longest answer, in bytes
CONVERSATION_MOST_BYTES = 64 * 1024 * 1024
GET_SECONDS = 60.0
# jobs are polled again and again: no longer wait for an answer
JOB_SECONDS = 20.0
# a long body may take so long, and a gateway may check the token only after it
LONG_BODY_SECONDS = 600.0
# the id of no job
NO_JOB = "00000000-0000-0000-0000-000000000000"


class JobAnswer(NamedTuple):
    """An answer of the job endpoint."""

    # None: no answer, or none with a known status
    status: JobStatus | None
    # of an answer without a known status: a description of what came
    reason: str = ""
    # of an answer without a known status; None: no answer came
    http_status: int | None = None
    retry_after: str | None = None
    # the answer is about another job
    names_other_job: bool = False


class Client:
    """The client of one account's service, a context manager.

    Args:
        base_url: The service's base URL.
        credentials: The source of id and secret, or of a ready token.
        limits: The time limits of uploads.
        now: Seconds since the epoch.
        expect: The use of ``Expect: 100-continue``.
        uploads: The most uploads at once; they share the memory for chunks.
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
        self._uploads = uploads
        self._now = now
        self._sanitizer = Sanitizer()
        self._timeouts = {
            seconds: aiohttp.ClientTimeout(total=seconds, connect=limits.connect)
            for seconds in (GET_SECONDS, JOB_SECONDS)
        }

    async def __aenter__(self) -> Self:
        """Open the sessions: for uploads, and for requests that may be repeated."""
        context = ssl_context(self._base_url)
        self._proxy = proxy_for(self._base_url)
        self._route = route_to(self._base_url, self._proxy)
        self._session = aiohttp.ClientSession(
            connector=ServiceConnector(ssl=context),
            timeout=self._timeouts[GET_SECONDS],
            cookie_jar=aiohttp.DummyCookieJar(),
        )
        self._upload_client = UploadClient(
            self._base_url,
            self._proxy,
            context,
            self._limits,
            self._expect,
            self._uploads,
            self._sanitizer,
            self._route,
        )
        self._tokens = Tokens(
            self._session, self._base_url, self._credentials, self._proxy, self._now, self._sanitizer, self._route
        )
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close the sessions."""
        await self._upload_client.close()
        await self._session.close()

    async def authorise(self) -> str:
        """Fetch the first token, so that wrong credentials are reported before anything is sent.

        Returns:
            The reason that there is none yet; empty where there is one.

        Raises:
            CredentialsError: The service does not take the credentials.
        """
        try:
            await self._tokens.get()
        except TokenUnavailableError as error:
            return str(error)
        return ""

    async def upload(self, request: UploadRequest, source: Source, admission: Admission) -> Reply:
        """Append a file to a conversation: one PUT (put-audio.md, API Endpoint), its body sent at most once.

        Args:
            request: The conversation and the parameters.
            source: The open file.
            admission: The admission of the last chunk.

        Raises:
            CredentialsError: The service does not take the credentials; nothing was sent.
        """
        try:
            async with admission.interruptible():
                token = await self._tokens.get(LONG_BODY_SECONDS if self._upload_client.is_long(source.size) else 0.0)
        except TokenUnavailableError as error:
            return Reply(failure=str(error), retry_after=error.retry_after)
        except TimeoutError:
            return Reply(failure="stopped before it was sent", withheld=True)
        reply = await self._upload_client.send(request, source, admission, token)
        if reply.status == 401:
            self._tokens.refused(token, "PUT")
        elif reply.status is not None:
            self._tokens.accepted(token, "PUT")
        return reply

    async def job(self, job_id: str) -> JobAnswer:
        """Fetch the status of a job (the job endpoint).

        Raises:
            CredentialsError: The service does not take the credentials.
        """
        answer = await self._get(_job_path(job_id), ANSWER_MOST_BYTES, JOB_SECONDS)
        status = read_job_answer(answer, job_id)
        if isinstance(status, JobStatus):
            return JobAnswer(status)
        return JobAnswer(None, status.reason, answer.status, answer.retry_after, status.names_other_job)

    async def snapshot(self, conversation_id: str) -> ConversationSnapshot | None:
        """Take a snapshot of a conversation's messages; None where that fails.

        Raises:
            CredentialsError: The service does not take the credentials.
        """
        answer = await self.conversation(conversation_id, "messages")
        messages = answer.body.get("messages") if isinstance(answer.body, dict) else None
        if answer.status != 200 or answer.failure or not isinstance(messages, list):
            return None
        ends = [message.get("endTime") for message in messages if isinstance(message, dict)]
        return ConversationSnapshot(len(messages), max((end for end in ends if isinstance(end, str)), default=None))

    async def conversation(self, conversation_id: str, part: str = "") -> Answer:
        """Fetch a conversation, or one part of its results.

        Args:
            part: The last segment of the path (``messages``, ``trackers-detected``); empty: the conversation itself.

        Raises:
            CredentialsError: The service does not take the credentials.
        """
        path = f"/v1/conversations/{quote(conversation_id, safe='')}" + (f"/{part}" if part else "")
        return await self._get(path, CONVERSATION_MOST_BYTES)

    async def ping(self, job_id: str) -> bool:
        """Probe the service with a GET; any answer below 500 counts.

        Raises:
            CredentialsError: The service does not take the credentials.
        """
        answer = await self._get(_job_path(job_id), ANSWER_MOST_BYTES)
        return answer.status is not None and answer.status < 500

    async def probe(self) -> Answer:
        """Fetch the status of a job that does not exist: any answer but a 401 shows that the token is taken.

        Raises:
            CredentialsError: The service does not take the credentials.
        """
        return await self._get(_job_path(NO_JOB), ANSWER_MOST_BYTES, JOB_SECONDS)

    async def _get(self, path: str, max_bytes: int, seconds: float = GET_SECONDS) -> Answer:
        """Send a GET with a token; after a 401 once more with a new one."""
        answer, received = Answer(), Received()
        receiving.set(received)
        try:
            for _ in range(2):
                token = await self._tokens.get()
                answer = await self._get_once(path, token, max_bytes, seconds)
                if answer.status != 401:
                    self._tokens.accepted(token, "GET")
                    break
                self._tokens.refused(token, "GET")
        except TokenUnavailableError as error:
            return Answer(failure=str(error))
        except (aiohttp.ClientError, OSError, TimeoutError) as error:
            came, _ = received.describe()
            cause = f"an answer that cannot be read: {came}" if came else format_error(error)
            return Answer(failure=f"{cause} ({self._route})")
        return answer

    async def _get_once(self, path: str, token: Token, max_bytes: int, seconds: float) -> Answer:
        async with self._session.get(
            URL(self._base_url + path, encoded=True),
            headers={"Authorization": f"Bearer {token.value}"},
            allow_redirects=False,
            timeout=self._timeouts[seconds],
            **self._proxy,
        ) as response:
            body = await read_body(response, max_bytes, self._sanitizer)
            location = self._format_location(response) if response.status >= 300 else ""
            failure = ": ".join(part for part in (body.failure, body.words, location) if part)
            return Answer(response.status, body.value, retry_after_of(response), failure, response.headers.get("Date"))

    def _format_location(self, response: aiohttp.ClientResponse) -> str:
        location = self._sanitizer.text(response.headers.get("Location", ""))[:LOCATION_CHARACTERS]
        return f"it leads to {location}, which is not followed" if location else ""


def _job_path(job_id: str) -> str:
    return f"/v1/job/{quote(job_id, safe='')}"
