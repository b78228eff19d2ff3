"""Follows live jobs to their end, by webhook and by polling."""

import asyncio
import heapq
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field
from math import inf
from typing import Protocol

from uploader import logs
from uploader.client import JobAnswer
from uploader.errors import LedgerUnavailableError
from uploader.ledger.callbacks import CallbackResult
from uploader.ledger.outcomes import JobEnd, distrust_job, end_job, job_overdue, save_job_answer
from uploader.ledger.thread import Writer
from uploader.model import JobStatus, LiveJob, State
from uploader.pace import Pace
from uploader.policy.backoff import Backoff, after_failure, after_success
from uploader.policy.durations import (
    MIN_POLL_SECONDS,
    MIN_POLL_SECONDS_AUTO,
    CompletedJob,
    DurationHistory,
    Lifetime,
    PolledJob,
    ends_within,
    lived_seconds,
    next_poll,
)
from uploader.policy.facts import CallbackEffect
from uploader.policy.histogram import JOB_BOUNDS, Histogram
from uploader.policy.polling import (
    OTHER_JOB_ANSWERS,
    PAUSE_BASE_SECONDS,
    PAUSE_CAP_SECONDS,
    unknown_status_seconds,
    wants_pause,
)
from uploader.policy.waits import put_off_seconds
from uploader.settings import Settings

log = logs.get_logger()

# multiples of it, less their whole part, are spread evenly
GOLDEN_RATIO = 0.618034
# the weight of a new answer in the seconds that a status request takes
ANSWER_WEIGHT = 1 / 8
# so many polls of a job at most are sent before the first of them is answered
MAX_OVERLAPS = 3
# the most jobs that are kept as ended before they were added; one that was dropped costs a poll
MOST_ENDED_EARLY = 1000
# the least time between two rounds of polls, in seconds
POLL_SPACING_SECONDS = 0.01


class Jobs(Protocol):
    """The job endpoint: the client's, or a simulation's."""

    async def job(self, job_id: str) -> JobAnswer:
        """Ask for a job's status."""
        ...


@dataclass(order=True, slots=True)
class _ScheduledPoll:
    """A live job with the time of its next poll, ordered by that time; times in seconds since the epoch."""

    due_at: float
    # the interval to the poll after that
    step_seconds: float = field(compare=False)
    # the latest poll that showed the job live
    seen_live_at: float = field(compare=False)
    job: LiveJob = field(compare=False)
    # the latest poll brought no status: the job may have ended long before the poll that shows its end
    is_unseen: bool = field(compare=False, default=False)
    # the latest answers in a row without a known status
    unknown_in_a_row: int = field(compare=False, default=0)
    # the latest answers in a row about another job
    other_job_in_a_row: int = field(compare=False, default=0)


class JobPoller:
    """The poller of an account's live jobs: polls each when it is due, and records its end.

    Args:
        client: The job endpoint.
        writer: The ledger's writer.
        pace: The rate of status requests.
        now: Seconds since the epoch, never running backwards and never jumping.
        settings: The settings.
        on_job_ended: Called once a job's end is queued for the ledger, or a slot may be free otherwise.
        on_job_removed: Called when a job is polled no more.
    """

    def __init__(
        self,
        *,
        client: Jobs,
        writer: Writer,
        pace: Pace,
        now: Callable[[], float],
        settings: Settings,
        on_job_ended: Callable[[], None],
        on_job_removed: Callable[[], None],
    ) -> None:
        # the jobs that the present run waits for
        self.active_jobs = 0
        # the jobs with our webhookUrl whose end came by polling
        self.ended_without_callback = 0
        # the first failure since the last good answer to a status request, in seconds since the epoch
        self.failing_since: float | None = None
        # the reason of that failure
        self.failure = ""
        # the durations of the account's completed jobs
        self.durations = DurationHistory()
        self._client = client
        self._writer = writer
        self._pace = pace
        self._now = now
        self._doubt_seconds = settings.doubt_seconds
        self._timeout_seconds = settings.job_timeout_seconds
        self._on_job_ended = on_job_ended
        self._on_job_removed = on_job_removed
        # for metrics: the status requests so far, and the lifetimes of the jobs whose end was seen
        self.requests = 0
        self.job_seconds = Histogram(JOB_BOUNDS)
        # the jobs whose end was seen, by the state of their items
        self.ended: Counter[State] = Counter()
        # a heap by due time
        self._scheduled: list[_ScheduledPoll] = []
        # the polls that are due and wait for a request
        self._due: list[_ScheduledPoll] = []
        self._live: dict[int, LiveJob] = {}
        # by lane, the items whose job lives and whose end is not being written
        self._lanes: dict[int, set[int]] = {}
        # by item, the time to which a poll is postponed because callbacks come; 0: from its next due time on
        self._postponed: dict[int, float] = {}
        # the jobs whose end a callback brought before their answer was recorded, the latest last; those of attempts
        # that another worker carries are never added, so that the oldest are dropped
        self._ended_early: dict[str, None] = {}
        # by item, the logged answer of its job that had no known status
        self._logged_answers: dict[int, str] = {}
        # a budget that a person has set is shared out by fewer polls of each job
        self._is_budget_auto = settings.jobs.polls_per_second == "auto"
        self._min_seconds = MIN_POLL_SECONDS_AUTO if self._is_budget_auto else MIN_POLL_SECONDS
        self._backoff = Backoff()
        # seconds that a status request takes to be answered
        self._answer_seconds = 0.0
        # how many status requests of each item's job wait for their answer
        self._unanswered: Counter[int] = Counter()
        # the items whose end is being written
        self._ending: set[int] = set()
        # the pollers that wait for a job
        self._idle_pollers: list[asyncio.Future[_ScheduledPoll]] = []
        # something may be due before the time that is waited for
        self._changed = asyncio.Event()
        self._wakes_at = 0.0
        self._dispatched_at = 0.0

    @property
    def has_live_jobs(self) -> bool:
        """Return True where any job is polled."""
        return bool(self._live)

    @property
    def any_job_id(self) -> str | None:
        """The jobId of some live job, None where there is none."""
        return next((entry.job.job_id for entry in (*self._due[:1], *self._scheduled[:1])), None)

    @property
    def live_lanes(self) -> AbstractSet[int]:
        """The lanes of the jobs that are known to live."""
        return self._lanes.keys()

    @property
    def unwritten_ends(self) -> int:
        """The number of jobs that are known to have ended, and whose end the ledger does not have yet."""
        return len(self._ending)

    @property
    def live_count(self) -> int:
        """The number of jobs that are polled."""
        return len(self._live)

    def is_lane_live(self, lane_id: int) -> bool:
        """Return True where a job of a lane is known to live."""
        return lane_id in self._lanes

    def ends_within(self, seconds: float) -> dict[int, float]:
        """Estimate for each lane with a live job how likely its job ends within so many seconds."""
        now = self._now()
        return {
            job.lane_id: ends_within(now - job.accepted_at, lifetime, seconds) for job, lifetime in self._lifetimes()
        }

    def ends_plausible_in(self, lead_seconds: float) -> float:
        """Return in how many seconds a live job is within a lead of its plausible ends; infinite where none will be."""
        now = self._now()
        waits = [inf]
        for job, lifetime in self._lifetimes():
            earliest, latest = lifetime.plausible
            age = now - job.accepted_at
            if age < latest:
                waits.append(max(earliest - lead_seconds - age, 0.0))
        return min(waits)

    def _lifetimes(self) -> Iterator[tuple[LiveJob, Lifetime]]:
        """Yield the live jobs of lanes with their lifetimes by the model; none before the first job has completed."""
        for job in self._live.values():
            lifetime = self.durations.lifetime(job.work) if job.lane_id in self._lanes else None
            if lifetime is not None:
                yield job, lifetime

    def learn(self, ends: Iterable[CompletedJob]) -> None:
        """Add completed jobs of the account, the latest last, and reschedule the polls by them."""
        if self.durations.add(ends):
            self._reschedule_all()

    def add(self, job: LiveJob, *, soon: bool = False, callback_received: bool = False) -> None:
        """Add a job; a callback may name one that is taken over from an ended worker at the same time.

        Args:
            job: The job.
            soon: Poll it at once: it may have ended long ago.
            callback_received: A callback has named it.
        """
        if job.job_id in self._ended_early:
            del self._ended_early[job.job_id]
            return
        if self.is_live(job):
            if callback_received:
                self.callback_received(job)
            return
        self.active_jobs += job.is_active
        # after a clock that was set back the job would seem to begin in the future, and be polled without a pause
        job = job._replace(accepted_at=min(job.accepted_at, self._now()))
        self._lanes.setdefault(job.lane_id, set()).add(job.item_id)
        self._live[job.item_id] = job
        if callback_received:
            self.callback_received(job)
        entry = self._schedule(job, job.accepted_at)
        if soon:
            entry.due_at = self._now()
        self._push(entry)

    def callback_received(self, job: LiveJob) -> None:
        """Record that callbacks come for a job: its end is expected by callback, too."""
        if self.is_live(job):
            self._postponed.setdefault(job.item_id, 0.0)

    def apply_callback_end(self, job: LiveJob, ended: JobEnd) -> None:
        """Remove a job whose end came by callback and is in the ledger."""
        live = self._live[job.item_id] if self.is_live(job) else job._replace(is_active=False)
        if not self.is_live(job):
            self._ended_early[job.job_id] = None
            if len(self._ended_early) > MOST_ENDED_EARLY:
                del self._ended_early[next(iter(self._ended_early))]
        if job.has_known_start and ended.state is State.COMPLETED:
            self.learn([CompletedJob(job.work, ended.seconds)])
        self._report_end(live, ended)
        self._on_job_ended()
        self._remove(live)
        self._due = [entry for entry in self._due if self.is_live(entry.job)]

    def is_live(self, job: LiveJob) -> bool:
        """Return True where a job is polled; not once a callback has brought its end."""
        live = self._live.get(job.item_id)
        return live is not None and live.job_id == job.job_id

    async def poll_jobs(self) -> None:
        """Poll one job after the other, as they are dispatched, until cancelled."""
        while True:
            assigned: asyncio.Future[_ScheduledPoll] = asyncio.get_running_loop().create_future()
            if not self._idle_pollers:
                self._changed.set()
            self._idle_pollers.append(assigned)
            await self._poll(await assigned)

    async def dispatch(self) -> None:
        """Dispatch the jobs that are due to idle pollers, until cancelled."""
        while True:
            while not self._may_poll():
                await self._wait_until_due()
            await self._pace.wait()
            # a poll that has come due during the wait for the pace may be more overdue
            if self._may_poll():
                self._dispatched_at = self._now()
                assigned = self._idle_pollers.pop()
                if not assigned.done():
                    assigned.set_result(self._pop_most_overdue())

    def _may_poll(self) -> bool:
        return self._is_any_due() and bool(self._idle_pollers) and not self._backoff.is_on(self._now())

    def _is_any_due(self) -> bool:
        now = self._now()
        while self._scheduled and self._scheduled[0].due_at <= now:
            entry = heapq.heappop(self._scheduled)
            if not self.is_live(entry.job):
                continue
            entry.due_at = self._postponed_until(entry, now)
            if entry.due_at <= now:
                self._due.append(entry)
            else:
                heapq.heappush(self._scheduled, entry)
        return bool(self._due)

    def _postponed_until(self, entry: _ScheduledPoll, now: float) -> float:
        """Return when to poll a due job: once for each poll, a job whose callbacks come is left to them."""
        until = self._postponed.get(entry.job.item_id)
        if until is None or 0.0 < until <= now:
            return entry.due_at
        self._postponed[entry.job.item_id] = until or now + put_off_seconds(now - entry.job.accepted_at)
        return self._postponed[entry.job.item_id]

    def _pop_most_overdue(self) -> _ScheduledPoll:
        """Pop the most overdue job, measured in its own intervals: a tight budget stretches all intervals alike."""
        now = self._now()
        late = [(now - entry.due_at) / entry.step_seconds for entry in self._due]
        return self._due.pop(late.index(max(late)))

    async def _wait_until_due(self) -> None:
        self._changed.clear()
        self._wakes_at = self._next_due_at()
        try:
            async with asyncio.timeout(None if self._wakes_at == inf else self._wakes_at - self._now()):
                await self._changed.wait()
        except TimeoutError:
            return

    def _next_due_at(self) -> float:
        """Return the next time to dispatch a poll; infinite where none is before an event."""
        if not self._idle_pollers or not (self._due or self._scheduled):
            return inf
        nearest = self._now() if self._due else self._scheduled[0].due_at
        # polls that are due within a few milliseconds of each other are dispatched together
        return max(nearest, self._backoff.until, self._dispatched_at + POLL_SPACING_SECONDS)

    async def _poll(self, entry: _ScheduledPoll) -> None:
        job, sent_at = entry.job, self._now()
        self._unanswered[job.item_id] += 1
        following = self._overlap(entry, sent_at)
        self.requests += 1
        answer = await self._client.job(job.job_id)
        # on its way there and back the request took as long, as far as is known: the status is of the time between
        seen_at = (sent_at + self._now()) / 2.0
        self._count_answer(job, self._now() - sent_at)
        self._back_off(answer)
        if not self.is_live(job) or job.item_id in self._ending:
            return  # a callback, or another poll of the job, was quicker
        if answer.status is not None and answer.status.ended:
            await self._write_end(entry, answer.status, seen_at)
        elif self._now() - job.accepted_at >= self._timeout_seconds:
            await self._write_overdue(job, answer)
        elif answer.names_other_job and entry.other_job_in_a_row + 1 >= OTHER_JOB_ANSWERS:
            await self._write_distrusted(job, answer)
        else:
            await self._log_unknown_status(job, answer)
            if job.item_id in self._postponed:
                self._postponed[job.item_id] = 0.0
            if following is None:
                self._push(self._after_poll(entry, answer, seen_at))
            elif answer.status is not None:
                following.seen_live_at, following.is_unseen = max(following.seen_live_at, seen_at), False

    def _count_answer(self, job: LiveJob, seconds: float) -> None:
        """Count a request of a job as answered, after so many seconds."""
        self._unanswered[job.item_id] -= 1
        # an answer may come after the job's removal: nothing of the job is kept then
        if not self._unanswered[job.item_id]:
            del self._unanswered[job.item_id]
        self._answer_seconds += (seconds - self._answer_seconds) * ANSWER_WEIGHT

    def _overlap(self, entry: _ScheduledPoll, now: float) -> _ScheduledPoll | None:
        """Let the next poll of a job be sent before this one is answered, where it is due earlier on a long line."""
        if not self._is_budget_auto or entry.is_unseen or entry.unknown_in_a_row:
            return None
        if self._unanswered[entry.job.item_id] > MAX_OVERLAPS:
            return None
        following = self._schedule(entry.job, now + self._answer_seconds / 2.0)
        if following.due_at >= now + self._answer_seconds:
            return None
        following.seen_live_at = entry.seen_live_at
        self._push(following)
        return following

    def _back_off(self, answer: JobAnswer) -> None:
        """Pause all status requests at once where the service asks for it or does not answer."""
        before, now = self._backoff, self._now()
        if answer.status is None and wants_pause(answer.http_status, answer.retry_after):
            self._backoff = after_failure(
                before, now, base=PAUSE_BASE_SECONDS, cap=PAUSE_CAP_SECONDS, retry_after=answer.retry_after
            )
            if self.failing_since is None and answer.http_status != 429:
                self.failing_since, self.failure = now, answer.reason
                self._on_job_ended()  # the run may have to give up without another event
        else:
            self._backoff = after_success(before, now)
            self.failing_since = None
        if self._backoff.is_on(now) and not before.is_on(now):
            seconds = round(self._backoff.until - now, 3)
            log.info("polls.paused", seconds=seconds, reason=answer.reason)

    def _after_poll(self, entry: _ScheduledPoll, answer: JobAnswer, seen_at: float) -> _ScheduledPoll:
        now = self._now()
        following = self._schedule(entry.job, seen_at)
        following.due_at = max(following.due_at, now + self._min_seconds)
        if answer.status is None:
            following.is_unseen = True
            following.seen_live_at = entry.seen_live_at
        if _has_unknown_status(answer):
            following.unknown_in_a_row = entry.unknown_in_a_row + 1
            following.other_job_in_a_row = entry.other_job_in_a_row + 1 if answer.names_other_job else 0
            following.step_seconds = max(following.step_seconds, unknown_status_seconds(following.unknown_in_a_row))
            overdue_at = max(entry.job.accepted_at + self._timeout_seconds, now)
            following.due_at = max(following.due_at, min(now + following.step_seconds, overdue_at))
        return following

    async def _log_unknown_status(self, job: LiveJob, answer: JobAnswer) -> None:
        """Log and save an answer without a known status once; clear it once the status is known again."""
        if _has_unknown_status(answer):
            if self._logged_answers.get(job.item_id) != answer.reason:
                self._logged_answers[job.item_id] = answer.reason
                log.warning("job.status_unknown", **_event(job), said=answer.reason)
                await asyncio.shield(self._writer.call(save_job_answer, job, f"its job: {answer.reason}"))
        elif answer.status is not None and self._logged_answers.pop(job.item_id, None) is not None:
            await asyncio.shield(self._writer.call(save_job_answer, job, None))

    def _schedule(self, job: LiveJob, seen_live_at: float) -> _ScheduledPoll:
        age, live = seen_live_at - job.accepted_at, len(self._live) if self._is_budget_auto else 1
        # on a long line as many polls may be on their way as may overlap: sent faster, the last would be waited for
        least = max(self._min_seconds, self._answer_seconds / (MAX_OVERLAPS + 1))
        phase = job.item_id * GOLDEN_RATIO % 1.0
        poll = next_poll(PolledJob(age, job.work, self.durations.model, least, live, phase))
        # the request is on its way for half of the time to its answer
        due_at = seen_live_at + poll.wait_seconds - self._answer_seconds / 2.0
        return _ScheduledPoll(due_at, poll.step_seconds, seen_live_at, job)

    def _reschedule_all(self) -> None:
        """Reschedule all polls by the present model of durations."""
        now = self._now()
        for entry in self._scheduled:
            if entry.unknown_in_a_row:
                continue  # its interval follows the answers without a status, not the model
            due = self._schedule(entry.job, entry.seen_live_at)
            # a poll that is due at once stays so
            entry.due_at = max(due.due_at, now + self._min_seconds) if entry.due_at > now else entry.due_at
            entry.step_seconds = due.step_seconds
        heapq.heapify(self._scheduled)
        self._changed.set()

    def _push(self, entry: _ScheduledPoll) -> None:
        heapq.heappush(self._scheduled, entry)
        if entry.due_at < self._wakes_at:
            self._changed.set()

    async def _write_end(self, entry: _ScheduledPoll, status: JobStatus, seen_at: float) -> None:
        job, now = entry.job, self._now()
        if entry.is_unseen:
            job = job._replace(has_known_start=False)
        lived = None
        if job.has_known_start and status is JobStatus.COMPLETED:
            lived = lived_seconds(job.accepted_at, entry.seen_live_at, seen_at, self.durations.lifetime(job.work))
        ended = JobEnd(job, status, now, lived)
        self._ending.add(job.item_id)
        written = asyncio.shield(self._writer.call(end_job, ended))
        # the end is queued for the ledger after this, so that the claim of its slot goes into the same transaction
        await asyncio.sleep(0)
        # an end that is in line is none to come: it would be foreseen beside the slot that it frees
        self._leave_lane(job)
        self._on_job_ended()
        try:
            await written
        except LedgerUnavailableError:
            _log_unwritten(ended)
            raise
        if not self.is_live(job):
            return  # a callback was quicker
        if lived is not None:
            self.learn([CompletedJob(job.work, lived)])
        self.ended_without_callback += job.calls
        self._report_end(job, ended)
        self._remove(job)

    def _report_end(self, job: LiveJob, ended: JobEnd) -> None:
        state = ended.state
        self.job_seconds.observe(ended.seconds)
        self.ended[state] += 1
        level = log.info if state is State.COMPLETED else log.warning
        level("job.ended", **_event(job), state=state.value, seconds=round(ended.seconds, 3))

    async def _write_overdue(self, job: LiveJob, answer: JobAnswer) -> None:
        reason = (
            f"the job did not end within {self._timeout_seconds:g} s (job_timeout_seconds); last seen as "
            f"{answer.status.value if answer.status else answer.reason or 'unknown'}"
        )
        keeps_slot = answer.status is not None
        timeout = self._timeout_seconds
        overdue = self._writer.call(
            job_overdue, job, reason, self._now(), self._doubt_seconds, job_timeout_seconds=timeout, is_live=keeps_slot
        )
        await asyncio.shield(overdue)
        if self.is_live(job):
            log.warning("job.overdue", **_event(job), reason=reason)
            self._on_job_ended()
            self._remove(job)

    async def _write_distrusted(self, job: LiveJob, answer: JobAnswer) -> None:
        reason = f"of its job the service gives, {OTHER_JOB_ANSWERS} times in a row, {answer.reason}"
        distrusted = self._writer.call(
            distrust_job,
            job,
            reason,
            self._now(),
            self._doubt_seconds,
            job_timeout_seconds=self._timeout_seconds,
        )
        await asyncio.shield(distrusted)
        if self.is_live(job):
            log.warning("job.distrusted", **_event(job), state=State.IN_DOUBT.value, reason=reason)
            self._on_job_ended()
            self._remove(job)

    def _remove(self, job: LiveJob) -> None:
        self.active_jobs -= job.is_active
        if self.is_live(job):
            del self._live[job.item_id]
            self._ending.discard(job.item_id)
            self._leave_lane(job)
            self._postponed.pop(job.item_id, None)
        self._logged_answers.pop(job.item_id, None)
        self._on_job_removed()

    def _leave_lane(self, job: LiveJob) -> None:
        in_lane = self._lanes.get(job.lane_id, set())
        in_lane.discard(job.item_id)
        if not in_lane:
            self._lanes.pop(job.lane_id, None)


def _has_unknown_status(answer: JobAnswer) -> bool:
    """Return True where an answer has no known status without a failure of the service that explains it."""
    return answer.status is None and not wants_pause(answer.http_status, answer.retry_after)


def log_callback(result: CallbackResult) -> None:
    """Log a callback that had an effect, or contradicts the ledger."""
    if result.job is None:
        return
    event = _event(result.job)
    if result.anomaly is not None:
        log.error("append.anomaly", **event, remark=result.anomaly)
    elif result.effect is CallbackEffect.CONTRADICTORY:
        log.warning("callback.contradictory", **event, reason=result.reason)
    elif result.effect is CallbackEffect.ACCEPTED:
        log.info("callback.named_job", **event)


def _log_unwritten(end: JobEnd) -> None:
    log.error("outcome.unwritten", **_event(end.job), outcome=end.status.value, state=end.state.value)


def _event(job: LiveJob) -> dict[str, object]:
    return {
        "batch": job.batch,
        "line": job.line,
        "conversationId": job.conversation_id,
        "attempt": job.attempt,
        "jobId": job.job_id,
    }
