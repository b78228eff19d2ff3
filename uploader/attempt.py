"""Carries one item once."""

import asyncio
import random
from collections.abc import Callable, Collection, Mapping
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol

from uploader import logs, parameters
from uploader.audio import Source, open_source
from uploader.client import Gate, UploadRequest
from uploader.errors import CredentialsError, GaveUpError, LedgerUnavailableError, SourceError
from uploader.ledger.claiming import Mark, RetryStoppedError, mark
from uploader.ledger.conversations import save_snapshot
from uploader.ledger.outcomes import JobEnd, ReplyRecord, ReplyResult, record_reply
from uploader.ledger.thread import Writer
from uploader.model import Claim, ConversationSnapshot, Next, Reply, Verdict
from uploader.pace import Pace
from uploader.policy.brake import after_attempt
from uploader.policy.callbacks import address_of
from uploader.policy.limits import Refusal, refusal_in
from uploader.policy.replies import judge, loggable_reason, refuse_after_cut_offs
from uploader.policy.waits import retry_seconds
from uploader.way_out import NEVER, Leave, WayOut

log = logs.get_logger()

WRITE_AGAIN_SECONDS = (0.2, 0.5, 1.0, 2.0)
"""How often, after what waits, an outcome that could not be written is written again."""


class Uploads(Protocol):
    """Who can send one PUT: the client, or what a simulation puts in its place."""

    async def sight(self, conversation_id: str) -> ConversationSnapshot | None:
        """Look at what a conversation holds now."""
        ...

    async def upload(self, request: UploadRequest, source: Source, gate: Gate) -> Reply:
        """Append a file to a conversation."""
        ...


CALLED_SECONDS = 5.0
"""How long an answer is still waited for once a call to the webhook has named the attempt's job."""

OpenSource = Callable[[Path, int, str | None], AbstractAsyncContextManager[Source]]
"""Opens the file at a path, of this size in bytes and this ``FileSignature.change`` (None: not known)."""


@dataclass(frozen=True, slots=True)
class Rules:
    """What the settings say of attempts. ``defaults``: the config's parameters."""

    defaults: Mapping[str, Any]
    proves_not_appended: Collection[int]
    max_attempts: int
    doubt_seconds: float
    job_timeout_seconds: float
    hold: bool
    look_before: bool = False
    until: float | None = None
    """Seconds since the epoch: nothing new starts after it (None: there is no such time)."""
    webhook_url: str | None = None
    """The public address of the listener, None where there is none."""


@dataclass(frozen=True, slots=True)
class Carried:
    """What came of an attempt. ``seconds``: from its beginning to its reply."""

    claim: Claim
    reply: Reply
    verdict: Verdict
    seconds: float
    has_callback: bool = False
    """Whether a call to the webhook told of its job already."""
    ended: JobEnd | None = None
    """The end of its job, where a call told of that, too."""
    anomaly: str | None = None
    """What is to be said of it in the open."""

    @property
    def refusal(self) -> Refusal | None:
        """The 429 that it met, where that is about the limit of concurrent jobs."""
        return refusal_in(self.reply.message) if self.verdict.next is Next.COOL_DOWN else None


class LastChunk:
    """What stands before the last chunk of one attempt (a ``Gate``)."""

    def __init__(self, claim: Claim, way_out: WayOut, writer: Writer, now: Callable[[], float]) -> None:
        self.failure: Exception | None = None
        self._claim = claim
        self._way_out = way_out
        self._writer = writer
        self._now = now
        self._clock = asyncio.get_running_loop().time
        self._held: Leave | None = None
        self._left_at = 0.0
        self._called_at = NEVER

    async def may_leave(self, content_hash: str) -> bool:
        """Wait for leave, with the mark committed; a content that is not the one that was planned is refused."""
        if self._claim.content_hash not in (None, content_hash):
            raise SourceError("the file's content changed after its manifest was loaded")
        return await self._mark(content_hash) and await self._go()

    async def _mark(self, content_hash: str) -> bool:
        if not await self._way_out.to_mark.take():
            return False
        self._held, begun = self._way_out.to_mark, self._clock()
        try:
            await self._writer.call(mark, Mark(self._claim, content_hash, self._now()))
        except RetryStoppedError:
            return False
        except Exception as error:  # noqa: BLE001 - aiohttp would turn it into a broken connection
            self.failure = error
            return False
        self._way_out.marked(self._clock() - begun)
        return True

    async def _go(self) -> bool:
        if not await self._way_out.to_go.take():
            return False
        self._way_out.to_mark.taken -= 1
        self._held, self._left_at = self._way_out.to_go, self._clock()
        return True

    def until_stopped(self) -> AbstractAsyncContextManager[None]:
        """A wait before anything is sent."""
        return self._way_out.until_stopped()

    def moved(self, count: int) -> None:
        """Count bytes."""
        self._way_out.bytes_moved += count

    def is_stopping(self) -> bool:
        """Whether nothing new is to start."""
        return self._way_out.is_stopping

    def must_cut(self) -> bool:
        """Whether the run ends."""
        return self._way_out.must_cut

    def why_not_to_wait(self) -> str:
        """The run ends at once, or there is nothing left that an answer could tell."""
        if self._way_out.must_not_wait:
            return "the uploader was stopped before an answer came"
        return "no answer came" if self._clock() - self._called_at >= CALLED_SECONDS else ""

    def called(self) -> None:
        """A call to the webhook has named the attempt's job."""
        self._called_at = min(self._called_at, self._clock())

    def over(self, verdict: Verdict, reply: Reply, jitter: float) -> None:
        """The attempt has its reply, and the reply its meaning."""
        brake = after_attempt(self._way_out.brake, verdict, reply, self._claim.lane_id, self._now(), jitter)
        self._way_out.answered(brake, self._held, self._clock() - self._left_at)


class Carrier:
    """Carries items: opens the source, sends it, judges the reply, writes down the outcome."""

    def __init__(
        self,
        *,
        client: Uploads,
        writer: Writer,
        pace: Pace,
        way_out: WayOut,
        rules: Rules,
        now: Callable[[], float],
        rng: random.Random,
        sources: OpenSource = open_source,
    ) -> None:
        self._open_source = sources
        self._client = client
        self._writer = writer
        self._pace = pace
        self._way_out = way_out
        self._rules = rules
        self._now = now
        self._rng = rng
        self._out: dict[int, LastChunk] = {}

    def hear(self, attempt_id: int) -> None:
        """Take note that a call to the webhook has named the job of an attempt that may be out."""
        if attempt_id in self._out:
            self._out[attempt_id].called()

    async def carry(self, claim: Claim) -> Carried:
        """Carry an item whose attempt is committed.

        Raises:
            CredentialsError: The service does not take the credentials; the item is pending again.
            LedgerUnavailableError: The outcome, or the mark, could not be written.
        """
        begun = self._now()
        gate = self._out[claim.attempt_id] = LastChunk(claim, self._way_out, self._writer, self._now)
        failure: Exception | None = None
        try:
            reply = await self._send(claim, gate)
        except (CredentialsError, GaveUpError) as error:
            failure, reply = error, Reply(failure=str(error), withheld=True)
        finally:
            del self._out[claim.attempt_id]
        carried = Carried(claim, reply, self._judge(claim, reply), self._now() - begun)
        gate.over(carried.verdict, reply, self._rng.random())
        recorded = await asyncio.shield(self._write_down(carried))
        carried = replace(
            carried,
            verdict=recorded.verdict,
            has_callback=recorded.has_callback,
            ended=recorded.ended,
            anomaly=recorded.anomaly,
        )
        _tell(carried)
        failure = failure or gate.failure
        if failure is not None:
            raise failure
        return carried

    async def _send(self, claim: Claim, gate: LastChunk) -> Reply:
        try:
            async with self._way_out.until_held_back():
                await self._pace.wait()
                await self._look_before(claim)
        except TimeoutError:
            why = "stopped" if self._way_out.must_cut else "the account's limit was met"
            return Reply(failure=f"{why} before it was sent", withheld=True)
        if self._rules.until is not None and self._now() >= self._rules.until:
            return Reply(failure="the time is over: nothing new starts", withheld=True)
        query = parameters.query(claim.parameters, {**self._rules.defaults, **self._webhook(claim)})
        request = UploadRequest(claim.conversation_id, query, claim.content_type, claim.token or "")
        try:
            async with self._open_source(claim.path, claim.size, claim.change) as source:
                return await self._client.upload(request, source, gate)
        except SourceError as error:
            return Reply(source_failure=str(error))

    def _webhook(self, claim: Claim) -> dict[str, str]:
        if claim.token is None or self._rules.webhook_url is None:
            return {}
        return {"webhookUrl": address_of(self._rules.webhook_url, claim.token)}

    async def _look_before(self, claim: Claim) -> None:
        """Note what the conversation holds, as evidence should the attempt end in doubt."""
        if self._rules.look_before:
            sight = await self._client.sight(claim.conversation_id)
            if sight is not None:
                await self._writer.call(save_snapshot, claim.attempt_id, sight)

    def _judge(self, claim: Claim, reply: Reply) -> Verdict:
        verdict = judge(reply, claim.conversation_id, self._rules.proves_not_appended)
        return refuse_after_cut_offs(verdict, reply, claim.cut_offs, self._rules.max_attempts)

    async def _write_down(self, carried: Carried) -> ReplyResult:
        """Write the outcome, again and again for a while: what came back must not be lost."""
        for wait in (*WRITE_AGAIN_SECONDS, None):
            try:
                return await self._record(carried)
            except Exception as error:
                _tell_unwritten(carried)
                if wait is None or not isinstance(error, LedgerUnavailableError):
                    raise
                await asyncio.sleep(wait)
        raise AssertionError("the last try returns or raises")

    async def _record(self, carried: Carried) -> ReplyResult:
        claim, verdict, now = carried.claim, carried.verdict, self._now()
        wait = 0.0
        if verdict.next is Next.AGAIN and not carried.reply.withheld:
            wait = retry_seconds(claim.number, self._rng.random(), carried.reply.retry_after, now)
        rules = self._rules
        record = ReplyRecord(
            claim,
            verdict,
            carried.reply,
            now,
            wait,
            rules.doubt_seconds,
            rules.hold,
            carried.refusal,
            rules.job_timeout_seconds,
            listens=rules.webhook_url is not None,
        )
        return await self._writer.call(record_reply, record)


def _event(carried: Carried) -> dict[str, Any]:
    claim = carried.claim
    return {
        "batch": claim.batch,
        "line": claim.line,
        "conversationId": claim.conversation_id,
        "attempt": claim.number,
        "jobId": carried.verdict.job_id,
        "outcome": carried.verdict.outcome.value,
        "state": carried.verdict.state.value,
        "httpStatus": carried.reply.status,
        "bytes": carried.reply.bytes_sent,
        "seconds": round(carried.seconds, 3),
    }


def _tell(carried: Carried) -> None:
    event = _event(carried)
    if carried.anomaly is not None:
        log.error("append.anomaly", **event, remark=carried.anomaly)
    if carried.verdict.next is Next.FOLLOW:
        log.info("attempt.ended", **event)
    else:
        log.warning("attempt.ended", **event, reason=loggable_reason(carried.verdict, carried.reply))


def _tell_unwritten(carried: Carried) -> None:
    log.error("outcome.unwritten", **_event(carried), reason=loggable_reason(carried.verdict, carried.reply))
