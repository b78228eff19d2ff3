"""Runs the jobs, one at a time in a conversation, each in its slot until it has ended."""

import asyncio
from collections import deque
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Final, Literal

from uploader.sandbox.calls import Calls
from uploader.sandbox.entries import JobEntry, JobStatus
from uploader.sandbox.fault_plan import Ending, FaultPlan, scatter
from uploader.sandbox.journal import Journal
from uploader.sandbox.settings import SandboxSettings

# the share of its time for which even a lone job is only scheduled, so that clients see that status, too
SCHEDULED_SHARE: Final = 0.1


@dataclass(slots=True)
class Job:
    """The service's work on one upload."""

    job_id: str
    conversation: str
    seconds: float
    size: int
    ending: Ending
    webhook_url: str | None = None
    status: JobStatus = "scheduled"
    ended_at: datetime | None = None


class Jobs:
    """The account's jobs and its slots."""

    def __init__(self, settings: SandboxSettings, journal: Journal, calls: Calls) -> None:
        self.live = 0
        self._settings = settings
        self._journal = journal
        self._calls = calls
        self._jobs: dict[str, Job] = {}
        self._lines: dict[str, deque[Job]] = {}
        self._timers: dict[str, asyncio.TimerHandle] = {}

    @property
    def has_room(self) -> bool:
        """True where a slot is free."""
        return self.live < self._settings.limit

    def take_slot(self) -> None:
        """Take a slot; the caller has checked `has_room`."""
        self.live += 1

    def give_back_slot(self) -> None:
        """Release the slot of an upload without a job."""
        self.live -= 1

    def begin(self, conversation: str, size: int, sha256: str, plan: FaultPlan, webhook_url: str | None = None) -> None:
        """Make the job of an upload of `size` bytes, which takes over the upload's slot."""
        drawn = scatter(self._settings.faults.seed, conversation, sha256)
        job = Job(plan.job_id, conversation, self._settings.seconds_of_job(size, drawn), size, plan.ending, webhook_url)
        self._jobs[job.job_id] = job
        self._record("job-begun", job)
        self._notify(job)
        line = self._lines.setdefault(conversation, deque())
        line.append(job)
        if len(line) == 1:
            self._start(job)

    def status(self, job_id: str) -> JobStatus | None:
        """Return a job's status, or None where there is no such job."""
        job = self._jobs.get(job_id)
        return job.status if job else None

    def is_busy(self, conversation: str) -> bool:
        """Return True where a job of a conversation has not ended."""
        return conversation in self._lines

    def completed(self, conversation: str) -> list[Job]:
        """List the completed jobs of a conversation, in order."""
        done = [job for job in self._jobs.values() if (job.conversation, job.status) == (conversation, "completed")]
        return sorted(done, key=_end)

    def stop(self) -> None:
        """Freeze all jobs."""
        for timer in self._timers.values():
            timer.cancel()
        self._timers.clear()

    def _start(self, job: Job) -> None:
        self._after(SCHEDULED_SHARE * job.seconds, job, "in_progress")

    def _after(self, seconds: float, job: Job, status: JobStatus) -> None:
        loop = asyncio.get_running_loop()
        self._timers[job.job_id] = loop.call_later(seconds, self._turn, job, status)

    def _turn(self, job: Job, status: JobStatus) -> None:
        del self._timers[job.job_id]
        job.status = status
        self._notify(job)
        if status != "in_progress":
            self._end(job)
        elif job.ending != "endless":
            self._after((1 - SCHEDULED_SHARE) * job.seconds, job, job.ending)

    def _notify(self, job: Job) -> None:
        if job.webhook_url is not None:
            self._calls.notify(job.webhook_url, job.job_id, job.status)

    def _end(self, job: Job) -> None:
        self.live -= 1
        job.ended_at = datetime.now(UTC)
        self._record("job-ended", job)
        line = self._lines[job.conversation]
        line.popleft()
        if line:
            self._start(line[0])
        else:
            del self._lines[job.conversation]

    def _record(self, event: Literal["job-begun", "job-ended"], job: Job) -> None:
        self._journal.add(
            JobEntry(
                event=event,
                at=self._journal.now(),
                job_id=job.job_id,
                conversation_id=job.conversation,
                status=job.status,
                live=self.live,
            )
        )


def _end(job: Job) -> datetime:
    """Sort key by end; jobs that have not ended come last."""
    return job.ended_at or datetime.max.replace(tzinfo=UTC)
