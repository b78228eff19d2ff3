"""Runs the jobs: one at a time in a conversation, each in its slot until it has ended."""

import asyncio
from collections import deque
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Final, Literal

from uploader.sandbox.calls import Calls
from uploader.sandbox.entries import JobEntry, JobStatus
from uploader.sandbox.fates import Ending, Fate, scatter
from uploader.sandbox.journal import Journal
from uploader.sandbox.settings import SandboxSettings

SCHEDULED_SHARE: Final = 0.1
"""The part of its time for which even a lone job is only scheduled, so that clients get to see that too."""


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
        """Whether a slot is free."""
        return self.live < self._settings.limit

    def take_slot(self) -> None:
        """Takes a slot; whoever asks has seen that there is room."""
        self.live += 1

    def give_back_slot(self) -> None:
        """Gives back the slot of an upload that no job came of."""
        self.live -= 1

    def begin(self, conversation: str, size: int, sha256: str, fate: Fate, webhook_url: str | None = None) -> None:
        """Makes the job of an upload of `size` bytes, which takes over the upload's slot."""
        drawn = scatter(self._settings.faults.seed, conversation, sha256)
        job = Job(fate.job_id, conversation, self._settings.seconds_of_job(size, drawn), size, fate.ending, webhook_url)
        self._jobs[job.job_id] = job
        self._note("job-begun", job)
        self._tell(job)
        line = self._lines.setdefault(conversation, deque())
        line.append(job)
        if len(line) == 1:
            self._start(job)

    def status(self, job_id: str) -> JobStatus | None:
        """A job's status, or None where there is no such job."""
        job = self._jobs.get(job_id)
        return job.status if job else None

    def is_busy(self, conversation: str) -> bool:
        """Whether a job of a conversation has not ended."""
        return conversation in self._lines

    def completed(self, conversation: str) -> list[Job]:
        """The completed jobs of a conversation, in order."""
        done = [job for job in self._jobs.values() if (job.conversation, job.status) == (conversation, "completed")]
        return sorted(done, key=_end)

    def stop(self) -> None:
        """Ends no job, and lets none go on."""
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
        self._tell(job)
        if status != "in_progress":
            self._end(job)
        elif job.ending != "endless":
            self._after((1 - SCHEDULED_SHARE) * job.seconds, job, job.ending)

    def _tell(self, job: Job) -> None:
        if job.webhook_url is not None:
            self._calls.tell(job.webhook_url, job.job_id, job.status)

    def _end(self, job: Job) -> None:
        self.live -= 1
        job.ended_at = datetime.now(UTC)
        self._note("job-ended", job)
        line = self._lines[job.conversation]
        line.popleft()
        if line:
            self._start(line[0])
        else:
            del self._lines[job.conversation]

    def _note(self, event: Literal["job-begun", "job-ended"], job: Job) -> None:
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
    """When a job ended; one that has not ended comes last."""
    return job.ended_at or datetime.max.replace(tzinfo=UTC)
