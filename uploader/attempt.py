"""Runs one attempt: opens the source, sends it, judges the reply, records the outcome."""

import asyncio
import random
from collections.abc import Callable, Mapping
from contextlib import AbstractAsyncContextManager, AsyncExitStack, nullcontext
from math import inf
from typing import Any, NamedTuple, Protocol

from uploader import logs, parameters
from uploader.audio import Source, open_source
from uploader.client import Admission, UploadRequest
from uploader.errors import (
    CredentialsError,
    GaveUpError,
    LedgerAwayError,
    LedgerUnavailableError,
    SourceAwayError,
    SourceError,
    SourceMissingError,
)
from uploader.flow import FlowControl
from uploader.ledger.conversations import save_snapshot
from uploader.ledger.outcomes import ReplyRecord, ReplyResult, record_reply
from uploader.ledger.thread import Writer
from uploader.model import Claim, ConversationSnapshot, Next, Reply, State, Verdict
from uploader.pace import Pace
from uploader.policy.callbacks import address_of
from uploader.policy.flow import AttemptEnded
from uploader.policy.limits import Refusal, refusal_in
from uploader.policy.replies import excuse_early_429, judge, loggable_reason, refuse_after_cut_offs
from uploader.policy.waits import retry_seconds
from uploader.settings import Settings
from uploader.urls import is_remote

log = logs.get_logger()

# the waits, in seconds, before an outcome that could not be written is written again
RETRY_WRITE_SECONDS = (0.2, 0.5, 1.0, 2.0)


class Uploads(Protocol):
    """The upload calls of the service: the client's, or a simulation's."""

    async def snapshot(self, conversation_id: str) -> ConversationSnapshot | None:
        """Take a snapshot of a conversation; None where that fails."""
        ...

    async def upload(self, request: UploadRequest, source: Source, admission: Admission) -> Reply:
        """Append a file to a conversation."""
        ...


# the longest wait for an answer, in seconds, after a callback has named the attempt's job
ANSWER_AFTER_CALLBACK_SECONDS = 5.0

# opens the file at a path or address, of this size in bytes and this ``FileSignature.change`` (None: not known)
OpenSource = Callable[[str, int, str | None], AbstractAsyncContextManager[Source]]


class AttemptResult(NamedTuple):
    """The result of one attempt."""

    claim: Claim
    reply: Reply
    # from the attempt's beginning to its reply
    seconds: float
    # of these, the seconds of the upload and its answer, without those in which it waited for slot and turn
    upload_seconds: float
    # the outcome: by the reply alone until it is in the ledger
    recorded: ReplyResult

    @property
    def verdict(self) -> Verdict:
        """The meaning of the reply, and of what callbacks have said of its job."""
        return self.recorded.verdict

    @property
    def refusal(self) -> Refusal | None:
        """The 429 about the limit of concurrent jobs, if there was one."""
        return refusal_in(self.reply.message) if self.verdict.next is Next.COOL_DOWN else None


class AttemptAdmission:
    """The admission of one attempt, in the form that the client asks for."""

    def __init__(self, claim: Claim, flow: FlowControl, now: Callable[[], float]) -> None:
        self.lane_id = claim.lane_id
        self._claim = claim
        self._flow = flow
        self._now = now
        self._begun_at = now()
        # the time at which the request may begin
        self._upload_begun_at: float | None = None
        # the times of the request for admission and of the end of that wait
        self._asked_at: float | None = None
        self._waited_until: float | None = None
        self._silence_seconds = 0.0
        self._answer: asyncio.Future[str] | None = None
        self._callback_at = inf

    def ask(self, content_hash: str) -> "asyncio.Future[str]":
        """Ask for slot and turn; the future's result is the reason to withhold the last chunk, or empty.

        Raises:
            SourceError: The content is not the one that was planned.
        """
        if self._claim.content_hash not in (None, content_hash):
            raise SourceError("the file's content changed after its manifest was loaded")
        self._asked_at = self._now()
        self._silence_seconds = self._flow.silence_seconds()
        self._answer = self._flow.ask(self._claim, content_hash)
        return self._answer

    def silence_seconds(self) -> float:
        """Return the longest time without a byte during that wait."""
        return self._silence_seconds

    def withdraw(self) -> None:
        """End the wait for the answer."""
        self._flow.withdraw(self._claim)
        self._waited_until = self._now()

    @property
    def has_asked(self) -> bool:
        """Return True where all but the last chunk has gone out."""
        return self._asked_at is not None

    @property
    def failure(self) -> BaseException | None:
        """The error of the ledger that prevented the admission, if there was one."""
        return self._answer.exception() if self._answer is not None and self._is_answered else None

    @property
    def _is_answered(self) -> bool:
        return self._answer is not None and self._answer.done() and not self._answer.cancelled()

    @property
    def _is_admitted(self) -> bool:
        return self._answer is not None and self._is_answered and not self.failure and not self._answer.result()

    @property
    def upload_seconds(self) -> float:
        """The seconds of the upload and of its answer so far, without those in which it waited for slot and turn."""
        if self._upload_begun_at is None:
            return 0.0
        return max(self._now() - self._upload_begun_at - self._waited_seconds(self._now()), 0.0)

    def upload_begins(self) -> None:
        """Record that nothing of ours stands before the request any more."""
        self._upload_begun_at = self._now()

    def _waited_seconds(self, now: float) -> float:
        # a connection that breaks is known before the body, which is cancelled for that, has left the gate
        until = now if self._waited_until is None else self._waited_until
        return 0.0 if self._asked_at is None else until - self._asked_at

    def interruptible(self) -> AbstractAsyncContextManager[None]:
        """Build a scope that a stop ends, for the time before anything is sent."""
        return self._flow.interruptible()

    def moved(self, count: int) -> None:
        """Count bytes that were handed to the connection."""
        self._flow.bytes_moved += count

    def is_stopping(self) -> bool:
        """Return True where no body begins any more."""
        return self._flow.state.is_stopping()

    def must_cut(self) -> bool:
        """Return True where an upload whose last chunk has not left ends now."""
        return self._flow.state.must_cut(self._now())

    def reason_to_withhold(self) -> str:
        """Return the reason why an admitted last chunk does not leave after all; empty where it does.

        A process that was stopped after its admission may have been ended meanwhile, and its item put in doubt.
        """
        return "" if self._flow.has_lease() else "the worker's lease was over before the last chunk left"

    def reason_not_to_wait(self) -> str:
        """Return the reason to end the wait for an answer: the end of the run, or a callback that has named the job."""
        now = self._now()
        if self._flow.state.must_not_wait(now):
            return "the uploader was stopped before an answer came"
        return "no answer came" if now - self._callback_at >= ANSWER_AFTER_CALLBACK_SECONDS else ""

    def callback_received(self) -> None:
        """Record that a callback has named the attempt's job."""
        self._callback_at = min(self._callback_at, self._now())

    def report(self, result: "AttemptResult", jitter: float) -> None:
        """Report the attempt's end to the flow, so that it counts before the next admission."""
        now, asked_at = self._now(), self._asked_at
        waited_until = now if self._waited_until is None else self._waited_until
        self._flow.ended(
            AttemptEnded(
                attempt_id=self._claim.attempt_id,
                lane_id=self._claim.lane_id,
                verdict=result.verdict,
                reply=result.reply,
                jitter=jitter,
                is_about_limit=result.reply.status == 429 and refusal_in(result.reply.message) is not None,
                was_ahead=self._claim.is_ahead,
                sent_seconds=0.0 if asked_at is None else asked_at - self._begun_at,
                waited_seconds=self._waited_seconds(now),
                silence_seconds=min(self._waited_seconds(now), self._silence_seconds),
                answer_seconds=now - waited_until if self._is_admitted else 0.0,
                unanswered_wanted=self._flow.unanswered_wanted,
            )
        )


class AttemptRunner:
    """The runner of attempts of one account.

    Args:
        pace: The rate of requests.
        flow: The account's flow of uploads.
        defaults: The parameters of rows that do not set them.
        now: Seconds since the epoch.
        rng: The random source of jitter.
        sources: Opens the audio files.
        leaves_missing: An item whose file cannot be opened here stays pending, for other hosts; else it is refused.
    """

    def __init__(
        self,
        *,
        client: Uploads,
        writer: Writer,
        pace: Pace,
        flow: FlowControl,
        settings: Settings,
        defaults: Mapping[str, Any],
        now: Callable[[], float],
        rng: random.Random,
        sources: OpenSource = open_source,
        leaves_missing: bool = False,
    ) -> None:
        self._open_source = sources
        self._leaves_missing = leaves_missing
        self._is_missing_logged = False
        self._client = client
        self._writer = writer
        self._pace = pace
        self._flow = flow
        self._settings = settings
        self._defaults = defaults
        self._now = now
        self._rng = rng
        # attempts that wait for the rate of requests
        self.paced = 0
        # outcomes that could not be written to the ledger: the log names each
        self.unwritten = 0
        self._under_way: dict[int, AttemptAdmission] = {}

    def travelling(self) -> list[int]:
        """List the lanes of the attempts whose body has not gone out, those that wait for the rate included."""
        return [admission.lane_id for admission in self._under_way.values() if not admission.has_asked]

    def callback_received(self, attempt_id: int) -> None:
        """Record that a callback has named the job of an attempt, if that is under way."""
        if attempt_id in self._under_way:
            self._under_way[attempt_id].callback_received()

    async def run(self, claim: Claim) -> AttemptResult:
        """Run an attempt that is committed to the ledger, and record its outcome.

        Raises:
            CredentialsError: The service does not take the credentials; the item is pending again.
            LedgerUnavailableError: The outcome, or the admission, could not be written.
        """
        begun = self._now()
        admission = self._under_way[claim.attempt_id] = AttemptAdmission(claim, self._flow, self._now)
        failure: BaseException | None = None
        try:
            reply = await self._send(claim, admission)
        except (CredentialsError, GaveUpError) as error:
            failure, reply = error, Reply(failure=str(error), withheld=True)
        finally:
            del self._under_way[claim.attempt_id]
        outcome = ReplyResult(self._judge(claim, reply))
        result = AttemptResult(claim, reply, self._now() - begun, admission.upload_seconds, outcome)
        admission.report(result, self._rng.random())
        result = result._replace(recorded=await asyncio.shield(self._record_with_retries(result)))
        _log_result(result)
        failure = failure or admission.failure
        if failure is not None:
            raise failure
        return result

    async def _send(self, claim: Claim, admission: AttemptAdmission) -> Reply:
        try:
            async with self._flow.interruptible_by_429():
                await self._await_pace()
                await self._save_snapshot(claim)
        except TimeoutError:
            why = "stopped" if self._flow.state.must_cut(self._now()) else "the account's limit was met"
            return Reply(failure=f"{why} before it was sent", withheld=True)
        if self._flow.state.is_late(self._now()):
            return Reply(failure="the time is over: nothing new starts", withheld=True)
        query = parameters.query(claim.parameters, {**self._defaults, **self._webhook(claim)})
        request = UploadRequest(claim.conversation_id, query, claim.content_type, claim.token or "")
        try:
            async with AsyncExitStack() as opened:
                try:
                    async with self._opening(claim):
                        source = await opened.enter_async_context(
                            self._open_source(claim.path, claim.size, claim.change)
                        )
                except TimeoutError:
                    return Reply(failure="stopped before it was sent", withheld=True)
                admission.upload_begins()
                return await self._client.upload(request, source, admission)
        except SourceMissingError as error:
            if self._leaves_missing:
                self._log_missing(claim)
            return Reply(source_failure=str(error), source_is_elsewhere=self._leaves_missing)
        except SourceError as error:
            return Reply(source_failure=str(error), source_is_away=isinstance(error, SourceAwayError))

    def _log_missing(self, claim: Claim) -> None:
        """Log once that recordings are not on this host."""
        if not self._is_missing_logged:
            self._is_missing_logged = True
            log.warning(
                "recording.elsewhere",
                batch=claim.batch,
                line=claim.line,
                conversationId=claim.conversation_id,
                remedy="mount the recordings here under the paths of their manifest; `uploader run` refuses those that "
                "are gone",
            )

    def _opening(self, claim: Claim) -> AbstractAsyncContextManager[None]:
        """Build the scope in which a source is opened, which a stop ends where a server may keep it waiting."""
        return self._flow.interruptible() if is_remote(claim.path) else nullcontext()

    async def _await_pace(self) -> None:
        begun = self._now()
        self.paced += 1
        try:
            await self._pace.wait()
        finally:
            self.paced -= 1
        if self._now() > begun:
            self._flow.changed()

    def _webhook(self, claim: Claim) -> dict[str, str]:
        if claim.token is None or self._settings.webhook_url is None:
            return {}
        return {"webhookUrl": address_of(self._settings.webhook_url, claim.token)}

    async def _save_snapshot(self, claim: Claim) -> None:
        """Save a snapshot of the conversation, as evidence should the attempt end in doubt."""
        if self._settings.doubt.look_before:
            snapshot = await self._client.snapshot(claim.conversation_id)
            if snapshot is not None:
                await self._writer.call(save_snapshot, claim.attempt_id, snapshot)

    def _judge(self, claim: Claim, reply: Reply) -> Verdict:
        verdict = judge(reply, claim.conversation_id, self._settings.replies.proves_not_appended)
        if claim.is_ahead:
            verdict = excuse_early_429(verdict, reply)
        return refuse_after_cut_offs(verdict, reply, claim.cut_offs, self._settings.max_attempts)

    async def _record_with_retries(self, result: AttemptResult) -> ReplyResult:
        """Record the outcome, with retries: an answer that came must not be lost."""
        waits = list(RETRY_WRITE_SECONDS)
        is_logged = False
        while True:
            try:
                return await self._record(result)
            except Exception as error:
                if not is_logged:  # at once: this process may end before a later try
                    _log_unwritten(result)
                    is_logged = True
                # the writer has waited for a server that was away for as long as it may
                if not waits or isinstance(error, LedgerAwayError) or not isinstance(error, LedgerUnavailableError):
                    self.unwritten += 1
                    raise
                await asyncio.sleep(waits.pop(0))

    async def _record(self, result: AttemptResult) -> ReplyResult:
        claim, verdict, now = result.claim, result.verdict, self._now()
        wait = 0.0
        if verdict.next is Next.AGAIN and not result.reply.withheld:
            wait = retry_seconds(claim.number - claim.unadmitted, self._rng.random(), result.reply.retry_after, now)
        settings = self._settings
        record = ReplyRecord(
            claim,
            verdict,
            result.reply,
            now,
            wait,
            settings.doubt_seconds,
            result.refusal,
            settings.job_timeout_seconds,
            listens=settings.webhook_url is not None,
        )
        return await self._writer.call(record_reply, record)


def _event(result: AttemptResult) -> dict[str, Any]:
    claim = result.claim
    return {
        "batch": claim.batch,
        "line": claim.line,
        "conversationId": claim.conversation_id,
        "attempt": claim.number,
        "jobId": result.verdict.job_id,
        "outcome": result.verdict.outcome.value,
        "state": result.verdict.state.value,
        "httpStatus": result.reply.status,
        "bytes": result.reply.bytes_sent,
        "seconds": round(result.seconds, 3),
    }


def _log_result(result: AttemptResult) -> None:
    event = _event(result)
    if result.recorded.anomaly is not None:
        log.error("append.anomaly", **event, remark=result.recorded.anomaly)
    if result.verdict.next is Next.FOLLOW:
        log.info("attempt.ended", **event)
        return
    # one that is tried again is no news over a terminal's bar: in an outage there are hundreds
    write = log.info if result.verdict.state is State.PENDING else log.warning
    write("attempt.ended", **event, reason=loggable_reason(result.verdict, result.reply))


def _log_unwritten(result: AttemptResult) -> None:
    log.error("outcome.unwritten", **_event(result), reason=loggable_reason(result.verdict, result.reply))
