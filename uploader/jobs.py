"""Follows live jobs to their end, by polling."""

import asyncio
import heapq
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Protocol

import structlog

from uploader.client import JobAnswer
from uploader.ledger import Writer
from uploader.ledger.outcomes import job_ended, job_overdue
from uploader.model import JobStatus, LiveJob
from uploader.pace import Pace
from uploader.policy.waits import next_look_seconds

log = structlog.get_logger()

LOOKERS = 4
"""So many status requests may be under way at once."""


class Jobs(Protocol):
    """Who can be asked for a job: the client, or what a simulation puts in its place."""

    async def job(self, job_id: str) -> JobAnswer:
        """Ask how a job is."""
        ...


@dataclass(order=True)
class _Due:
    at: float
    job: LiveJob = field(compare=False)


class Follower:
    """Looks at live jobs when they are due, and writes down their ends.

    ``in_scope`` counts the jobs that the present run waits for; ``overdue`` those that did not end in time.
    """

    def __init__(
        self,
        *,
        client: Jobs,
        writer: Writer,
        pace: Pace,
        now: Callable[[], float],
        doubt_seconds: float,
        timeout_seconds: float,
        hold: bool,
        ended: Callable[[], None],
    ) -> None:
        self.in_scope = 0
        self._client = client
        self._writer = writer
        self._pace = pace
        self._now = now
        self._doubt_seconds = doubt_seconds
        self._timeout_seconds = timeout_seconds
        self._hold = hold
        self._ended = ended
        self._due: list[_Due] = []
        self._told_unknown: set[str] = set()
        self._changed = asyncio.Event()
        # one looker waits for what comes due, the others for their turn
        self._turn = asyncio.Lock()

    @property
    def example(self) -> str | None:
        """The jobId of some live job, None where none is known."""
        return self._due[0].job.job_id if self._due else None

    def add(self, job: LiveJob, *, soon: bool = False) -> None:
        """Follow one more job; ``soon``: it may have ended long ago."""
        self.in_scope += job.in_scope
        # a clock that was set back would make a job of tomorrow, looked at without a pause
        job = replace(job, accepted_at=min(job.accepted_at, self._now()))
        self._look_at(self._now() if soon else self._later(job), job)

    async def look_around(self) -> None:
        """Look at one job after the other, as they come due; runs until it is cancelled."""
        while True:
            job = await self._next()
            await self._pace.wait()
            await self._look(job)

    async def _next(self) -> LiveJob:
        async with self._turn:
            while not self._due or self._due[0].at > self._now():
                await self._until_due()
            return heapq.heappop(self._due).job

    async def _until_due(self) -> None:
        self._changed.clear()
        wait = self._due[0].at - self._now() if self._due else None
        try:
            async with asyncio.timeout(wait):
                await self._changed.wait()
        except TimeoutError:
            return

    async def _look(self, job: LiveJob) -> None:
        answer = await self._client.job(job.job_id)
        if answer.status is not None and answer.status.ended:
            await self._write_end(job, answer.status)
        elif self._now() - job.accepted_at >= self._timeout_seconds:
            await self._write_overdue(job, answer)
        else:
            self._tell_unknown(job, answer)
            self._look_at(self._later(job), job)

    def _tell_unknown(self, job: LiveJob, answer: JobAnswer) -> None:
        """A job that the service does not know may come to be known, or never end: say so, once."""
        if answer.reason == "HTTP 404" and job.job_id not in self._told_unknown:
            self._told_unknown.add(job.job_id)
            log.warning("the service does not know the job: it is asked for again", **_event(job))

    def _later(self, job: LiveJob) -> float:
        now = self._now()
        return now + next_look_seconds(now - job.accepted_at)

    def _look_at(self, when: float, job: LiveJob) -> None:
        heapq.heappush(self._due, _Due(when, job))
        self._changed.set()

    async def _write_end(self, job: LiveJob, status: JobStatus) -> None:
        ended = await asyncio.shield(self._writer.call(job_ended, job, status, self._now(), hold=self._hold))
        level = log.info if status is JobStatus.COMPLETED else log.warning
        level("job", **_event(job), status=status.value, seconds=round(ended.job_seconds, 3))
        self._over(job)

    async def _write_overdue(self, job: LiveJob, answer: JobAnswer) -> None:
        reason = (
            f"the job did not end within {self._timeout_seconds:g} s (job_timeout_seconds); last seen as "
            f"{answer.status.value if answer.status else answer.reason or 'unknown'}"
        )
        await asyncio.shield(self._writer.call(job_overdue, job, reason, self._now(), self._doubt_seconds))
        log.warning("job", **_event(job), status="overdue", reason=reason)
        self._over(job)

    def _over(self, job: LiveJob) -> None:
        self.in_scope -= job.in_scope
        self._told_unknown.discard(job.job_id)
        self._ended()


def _event(job: LiveJob) -> dict[str, object]:
    return {
        "batch": job.batch,
        "line": job.line,
        "conversationId": job.conversation_id,
        "attempt": job.attempt,
        "jobId": job.job_id,
    }
