"""The PUT endpoint: checks the request, plans its faults, reads the body and makes the job."""

import asyncio
from collections import Counter
from http import HTTPStatus
from typing import Final

from aiohttp import web

from uploader.sandbox.entries import PutBegun, PutRest
from uploader.sandbox.fault_plan import GATEWAY_FAULTS, REFUSING_FAULTS, plan_put
from uploader.sandbox.jobs import Jobs
from uploader.sandbox.journal import Journal
from uploader.sandbox.replies import lost_answer, refusal
from uploader.sandbox.request_head import RequestHead, credentials, judge
from uploader.sandbox.settings import SandboxSettings
from uploader.sandbox.tokens import Tokens
from uploader.sandbox.upload import Upload

SILENT_FAULTS: Final = frozenset({"lost_answer", "lost_before", "cut", "cut_taken"})

CUT_FAULTS: Final = frozenset({"cut", "cut_taken"})

# the time that a client which was refused before 100 Continue may take to disconnect
LINGER_SECONDS: Final = 0.5


class PutEndpoint:
    """`PUT /v1/process/audio/{conversationId}`."""

    def __init__(self, settings: SandboxSettings, journal: Journal, tokens: Tokens, jobs: Jobs) -> None:
        self._settings = settings
        self._journal = journal
        self._tokens = tokens
        self._jobs = jobs
        self._arrived = 0
        self._passed: Counter[str] = Counter()

    async def answer(self, request: web.BaseRequest, conversation: str) -> web.StreamResponse:
        """Answer one PUT; its entry is in the journal before the answer is sent."""
        upload = self._admit(request, conversation)
        try:
            await self._receive(upload)
            self._conclude(upload)
        finally:
            self._close(upload)
        await asyncio.sleep(self._seconds_to_answer(upload))
        response = self._reply(upload)
        if upload.status is not None and upload.awaits_continue and not upload.whole:
            await self._see_to_the_end(upload, response)
        return response

    def _admit(self, request: web.BaseRequest, conversation: str) -> Upload:
        self._arrived += 1
        request_head = judge(request, self._settings.allowed_parameters)
        status, honours = self._refusal(request, conversation, request_head), not self._settings.faults.ignores_expect
        upload = Upload(request, self._arrived, conversation, request_head, status=status, honours_expect=honours)
        if upload.status is None:
            self._draw_fate(upload)
        if upload.status is None and self._settings.counts_uploads:
            self._take_slot(upload)
        upload.live = self._jobs.live
        self._journal.add(
            PutBegun(at=self._journal.now(), number=upload.number, conversation_id=conversation, live=upload.live)
        )
        return upload

    def _refusal(self, request: web.BaseRequest, conversation: str, request_head: RequestHead) -> int | None:
        if not self._tokens.accepts(credentials(request)):
            return 401
        if request_head.fault is not None:
            return 400
        if not self._settings.faults.knows(conversation):
            return 404
        return 429 if self._settings.counts_uploads and not self._jobs.has_room else None

    def _take_slot(self, upload: Upload) -> None:
        self._jobs.take_slot()
        upload.holds_slot = True
        upload.live = self._jobs.live

    def _draw_fate(self, upload: Upload) -> None:
        self._passed[upload.conversation] += 1
        number = upload.passed_number = self._passed[upload.conversation]
        upload.plan = plan_put(self._settings.faults, upload.conversation, number)
        upload.status = REFUSING_FAULTS.get(upload.plan.fault or "")

    def _throttle(self, upload: Upload) -> None:
        """Refuse an upload whose body has come to a full account."""
        upload.status, upload.plan = HTTPStatus.TOO_MANY_REQUESTS, None
        upload.live = self._jobs.live
        # A 429 more or less does not move the faults of the others, as long as none of them has come meanwhile.
        if self._passed[upload.conversation] == upload.passed_number:
            self._passed[upload.conversation] -= 1

    def _seconds_to_answer(self, upload: Upload) -> float:
        seconds = self._settings.answer_seconds if upload.whole else 0.0
        return seconds + (self._settings.faults.put.slow_seconds if upload.fault == "slow_answer" else 0.0)

    async def _receive(self, upload: Upload) -> None:
        if upload.status is not None and (self._settings.faults.early_answers or upload.awaits_continue):
            return
        if upload.fault in CUT_FAULTS:
            await upload.read((upload.request.content_length or 0) // 2, idle_seconds=self._settings.idle_cut)
        else:
            await upload.read(idle_seconds=self._settings.idle_cut)

    def _conclude(self, upload: Upload) -> None:
        is_taken = upload.whole or upload.fault == "cut_taken"
        if upload.plan is None or upload.status is not None or not is_taken:
            return
        if not upload.holds_slot:
            if not self._jobs.has_room:
                self._throttle(upload)
                return
            self._take_slot(upload)
        if upload.plan.makes_job:
            upload.job_id = upload.plan.job_id
            upload.holds_slot = False
            self._jobs.begin(upload.conversation, upload.size, upload.digest.hexdigest(), upload.plan, _webhook(upload))
        if upload.fault not in SILENT_FAULTS:
            upload.status = GATEWAY_FAULTS.get(upload.fault or "", 201)

    def _close(self, upload: Upload) -> None:
        if upload.holds_slot:
            self._jobs.give_back_slot()
        self._journal.add(upload.entry(self._journal.now(), self._settings.limit))

    async def _see_to_the_end(self, upload: Upload, response: web.Response) -> None:
        await response.prepare(upload.request)
        await response.write_eof()
        rest = await upload.read_rest(LINGER_SECONDS)
        now, conversation = self._journal.now(), upload.conversation
        self._journal.add(PutRest(at=now, number=upload.number, conversation_id=conversation, bytes=rest))

    def _reply(self, upload: Upload) -> web.Response:
        if upload.status is None:
            return lost_answer(upload.request)
        if upload.status == HTTPStatus.CREATED:
            body = {"conversationId": upload.conversation, "jobId": upload.job_id}
            return web.json_response(body, status=HTTPStatus.CREATED)
        unread = not upload.request.content.is_eof()
        return refusal(upload.status, limit=self._settings.limit, reason=upload.reason, unread=unread)


def _webhook(upload: Upload) -> str | None:
    url = upload.request_head.parameters.get("webhookUrl")
    return url if isinstance(url, str) else None
