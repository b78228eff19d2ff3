"""The endpoints other than the PUT: tokens, jobs, conversations."""

import json
from collections import Counter
from http import HTTPStatus
from typing import Any

from aiohttp import web

from uploader.sandbox import insights
from uploader.sandbox.body import read_body
from uploader.sandbox.entries import ConversationEntry, JobStatus, PollEntry, TokenEntry
from uploader.sandbox.fault_plan import poll_fault
from uploader.sandbox.jobs import Jobs
from uploader.sandbox.journal import Journal
from uploader.sandbox.replies import lost_answer, message, refusal
from uploader.sandbox.request_head import deprecated
from uploader.sandbox.settings import SandboxSettings
from uploader.sandbox.tokens import Tokens


class TokenEndpoint:
    """`POST /oauth2/token:generate`."""

    def __init__(self, settings: SandboxSettings, journal: Journal, tokens: Tokens) -> None:
        self._settings = settings
        self._journal = journal
        self._tokens = tokens

    async def answer(self, request: web.BaseRequest) -> web.StreamResponse:
        """Issue the token to a request with valid credentials."""
        pieces: list[bytes] = []
        await read_body(request, pieces.append)
        body = _json(b"".join(pieces))
        known = isinstance(body, dict) and all(body.get(name) == text for name, text in self._wanted().items())
        status = 200 if known else 401
        self._journal.add(TokenEntry(at=self._journal.now(), status=status, deprecated=deprecated(request)))
        if not known:
            return message(401, "Unauthorized. The type, appId or appSecret is not correct.")
        token, left = self._tokens.issue()
        return web.json_response({"accessToken": token, "expiresIn": left})

    def _wanted(self) -> dict[str, str]:
        return {"type": "application", "appId": self._settings.app_id, "appSecret": self._settings.secret()}


class JobEndpoint:
    """`GET /v1/job/{jobId}`."""

    def __init__(self, settings: SandboxSettings, journal: Journal, tokens: Tokens, jobs: Jobs) -> None:
        self._settings = settings
        self._journal = journal
        self._tokens = tokens
        self._jobs = jobs
        self._polled: Counter[str] = Counter()

    async def answer(self, request: web.BaseRequest, job_id: str) -> web.StreamResponse:
        """Answer with a job's status."""
        status, word = self._decide(request, job_id)
        answer = word if status == HTTPStatus.OK else None
        now, old = self._journal.now(), deprecated(request)
        self._journal.add(PollEntry(at=now, job_id=job_id, status=status, job=answer, deprecated=old))
        if status is None:
            return lost_answer(request)
        if status == HTTPStatus.OK:
            return web.json_response({"id": job_id, "status": answer})
        if status == HTTPStatus.NOT_FOUND:
            return message(status, f"Job with id {job_id} not found")
        return refusal(status, limit=self._settings.limit)

    def _decide(self, request: web.BaseRequest, job_id: str) -> tuple[int | None, JobStatus | None]:
        if not self._tokens.accepts(request.headers.get("Authorization")):
            return 401, None
        word = self._jobs.status(job_id)
        if word is None:
            return 404, None
        self._polled[job_id] += 1
        fault = poll_fault(self._settings.faults, job_id, self._polled[job_id])
        if fault == "lost_answer":
            return None, word
        return (500 if fault == "status_500" else 200), word


class ConversationEndpoint:
    """`GET /v1/conversations/{conversationId}`, and the paths below it."""

    # the conversation itself, and its parts
    parts = insights.PARTS.keys()

    def __init__(self, settings: SandboxSettings, journal: Journal, tokens: Tokens, jobs: Jobs) -> None:
        self._settings = settings
        self._journal = journal
        self._tokens = tokens
        self._jobs = jobs

    async def answer(self, request: web.BaseRequest, conversation: str, part: str) -> web.StreamResponse:
        """Answer with the conversation, or with a part made of its appended files."""
        status = self._refusal(request, conversation)
        body = None
        if status is None:
            status, body = insights.answer(conversation, part, self._jobs, self._journal)
        now, old = self._journal.now(), deprecated(request)
        self._journal.add(
            ConversationEntry(at=now, conversation_id=conversation, part=part or None, status=status, deprecated=old)
        )
        if body is None:
            return refusal(status, limit=self._settings.limit)
        return web.json_response(body, status=status)

    def _refusal(self, request: web.BaseRequest, conversation: str) -> int | None:
        if not self._tokens.accepts(request.headers.get("Authorization")):
            return 401
        return None if self._settings.faults.knows(conversation) else 404


def _json(body: bytes) -> Any:
    try:
        return json.loads(body)
    except ValueError:
        return None
