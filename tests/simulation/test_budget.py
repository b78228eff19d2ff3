"""The budget of status requests: kept however many jobs live, and shared out so that nobody starves."""

import asyncio
import random
from collections import defaultdict
from collections.abc import Callable
from email.utils import formatdate
from typing import Any, cast

import pytest

from tests.simulation.clock import Time, VirtualLoop
from tests.simulation.schedule import scaled_down
from tests.simulation.scheduler import run_alone
from uploader.client import JobAnswer
from uploader.client.service import JOB_SECONDS
from uploader.jobs import MOST_ENDED_EARLY, JobPoller
from uploader.ledger.outcomes import JobEnd
from uploader.ledger.thread import Writer
from uploader.model import JobStatus, LiveJob
from uploader.pace import Pace
from uploader.policy.durations import CompletedJob
from uploader.policy.polling import polls_at_once
from uploader.settings import Settings
from uploader.settings.tables import Jobs

pytestmark = pytest.mark.timeout(0)

JOBS, PER_SECOND, SECONDS = 1000, 30.0, 600.0


BEGIN = 1_000_000.0


class Endless:
    """A service whose jobs do not end, and that notes when it is asked for which.

    ``latency``: seconds until it answers. ``silent``: so many of the first requests get no answer.
    """

    def __init__(self, time: Time, *, latency: float = 0.0, silent: int = 0) -> None:
        self.asked: list[tuple[float, str]] = []
        self._time = time
        self._latency = latency
        self._silent = silent

    async def job(self, job_id: str) -> JobAnswer:
        """Return that the job runs."""
        self.asked.append((self._time.now, job_id))
        if len(self.asked) <= self._silent:
            await asyncio.sleep(JOB_SECONDS)
            return JobAnswer(None, "no answer")
        if self._latency:
            await asyncio.sleep(self._latency)
        return self.answer()

    def answer(self) -> JobAnswer:
        """Return the service's answer about any job."""
        return JobAnswer(JobStatus.IN_PROGRESS)


class Busy(Endless):
    """It wants no status requests until some time, and says so in a way of its own."""

    def __init__(self, time: Time, until: float, refusal: JobAnswer) -> None:
        super().__init__(time, latency=0.01)
        self._until = until
        self._refusal = refusal

    def answer(self) -> JobAnswer:
        """Answer that the service is unavailable."""
        return self._refusal if self._time.now < self._until else super().answer()


class NoLedger:
    """A writer that is asked for nothing."""

    async def call(self, _function: Callable[..., Any], *_: Any, **__: Any) -> None:
        """Fail: no job ends here."""


def live(number: int, now: float, seconds: float) -> LiveJob:
    """Return a job that begins now and is to take so long: a second for a second of audio."""
    return LiveJob(number, number, f"job-{number}", "b", number, "c", 1, 1, now, is_active=True, work=seconds)


def looked_at(
    service: Endless, time: Time, *, learned: bool = False, jobs: int = JOBS, seconds: float = SECONDS
) -> None:
    """Follow jobs of all lengths for some time."""
    rng, loop = random.Random(1), VirtualLoop(time)

    async def look() -> None:
        poller = JobPoller(
            client=service,
            writer=cast("Writer", NoLedger()),
            pace=Pace(PER_SECOND),
            now=loop.time,
            settings=Settings(job_timeout_seconds=600_000.0, jobs=Jobs(polls_per_second=PER_SECOND)),
            on_job_ended=lambda: None,
            on_job_removed=lambda: None,
        )
        if learned:
            poller.learn(CompletedJob(work, work * rng.lognormvariate(0.0, 0.2)) for work in range(1, 60))
        for number in range(jobs):
            poller.add(live(number, loop.time(), rng.uniform(1.0, 120.0)))
        works = [poller.dispatch(), *(poller.poll_jobs() for _ in range(polls_at_once(PER_SECOND)))]
        pollers = [loop.create_task(work) for work in works]
        end: Any = loop.create_future()
        loop.call_later(seconds, end.set_result, None)
        await end
        for poller_task in pollers:
            poller_task.cancel()

    with scaled_down():
        run_alone(loop, time, look())


@pytest.mark.parametrize("learned", [False, True])
def test_the_budget_is_kept_and_used_and_nobody_starves(learned: bool) -> None:
    """With a thousand live jobs the polls of no second exceed the budget, and each job gets its share."""
    time = Time(BEGIN)
    service = Endless(time)
    looked_at(service, time, learned=learned)
    asked = service.asked
    times = [at for at, _ in asked]
    most = int(PER_SECOND)
    assert all(later - earlier >= 1.0 - 1e-6 for earlier, later in zip(times, times[most:], strict=False))
    assert len(asked) >= 0.75 * PER_SECOND * SECONDS
    of_job = defaultdict[str, list[float]](list)
    for at, job_id in asked:
        of_job[job_id].append(at)
    assert len(of_job) == JOBS
    begin, end = BEGIN, BEGIN + SECONDS
    gaps = [max(b - a for a, b in zip([begin, *found], [*found, end], strict=False)) for found in of_job.values()]
    # all are asked for in turn once within 34 s; those that end late wait for their time, and then for their turn
    assert max(gaps) <= 200.0


@pytest.mark.parametrize("latency", [0.6, 2.5])
def test_slow_answers_leave_the_budget_to_be_used(latency: float) -> None:
    """Slow answers do not lower the number of status requests while hundreds of jobs are due."""
    time = Time(BEGIN)
    service = Endless(time, latency=latency)
    looked_at(service, time, seconds=30.0)
    assert len(service.asked) >= 0.9 * PER_SECOND * 30.0


def test_answers_that_do_not_come_hold_up_no_others() -> None:
    """While four requests hang until their time limit, all other jobs are polled."""
    time = Time(BEGIN)
    service = Endless(time, silent=4)
    looked_at(service, time, jobs=100, seconds=JOB_SECONDS)
    assert len({job_id for _, job_id in service.asked}) == 100
    assert len(service.asked) >= 0.9 * PER_SECOND * JOB_SECONDS


@pytest.mark.parametrize("header", ["30", formatdate(BEGIN + 30.0, usegmt=True)])
@pytest.mark.parametrize("status", [429, 503])
@pytest.mark.parametrize("jobs", [8, 200])
def test_nobody_is_asked_for_before_a_retry_after_is_over(jobs: int, status: int, header: str) -> None:
    """A Retry-After in either form, with any status, pauses all polls, not those of one job; then all go on."""
    time = Time(BEGIN)
    service = Busy(time, BEGIN + 30.0, JobAnswer(None, f"HTTP {status}", status, header))
    looked_at(service, time, jobs=jobs, seconds=60.0)
    before = [at for at, _ in service.asked if at < BEGIN + 30.0]
    # those that were under way when the first answer came
    assert 1 <= len(before) <= min(jobs, PER_SECOND)
    assert len({job_id for at, job_id in service.asked if at >= BEGIN + 30.0}) == jobs


@pytest.mark.parametrize(("reason", "status"), [("HTTP 429", 429), ("HTTP 502", 502), ("no answer", None)])
def test_pauses_grow_while_the_service_is_in_trouble(reason: str, status: int | None) -> None:
    """Without a Retry-After each pause in a row is longer, a minute at most; then polling is as before."""
    time = Time(BEGIN)
    service = Busy(time, BEGIN + 600.0, JobAnswer(None, reason, status))
    looked_at(service, time, jobs=8, seconds=720.0)
    assert len([at for at, _ in service.asked if at < BEGIN + 600.0]) <= 8 * 17
    assert len({job_id for at, job_id in service.asked if at >= BEGIN + 600.0}) == 8


def waiting_for_endless(time: Time) -> JobPoller:
    """Build a poller of jobs that never end, at this time."""
    return JobPoller(
        client=Endless(time),
        writer=cast("Writer", NoLedger()),
        pace=Pace(PER_SECOND),
        now=lambda: time.now,
        settings=Settings(job_timeout_seconds=600_000.0),
        on_job_ended=lambda: None,
        on_job_removed=lambda: None,
    )


class Ended(Endless):
    """A service whose jobs have all completed, and that answers all polls but the first once the end is recorded."""

    def __init__(self, time: Time) -> None:
        super().__init__(time)
        self.recorded = asyncio.Event()

    async def job(self, job_id: str) -> JobAnswer:
        """Answer that the job has completed."""
        self.asked.append((0.0, job_id))
        if len(self.asked) > 1:
            await self.recorded.wait()
        return JobAnswer(JobStatus.COMPLETED)


async def test_polls_of_a_job_that_overlap_leave_nothing_behind() -> None:
    """A poll is answered after another one has brought the job's end: one end is recorded, nothing is kept of it."""
    time = Time(BEGIN)
    poller = waiting_for_endless(time)
    service = poller._client = Ended(time)
    poller._on_job_removed = service.recorded.set
    poller.add(live(1, BEGIN, 10.0))
    entry = poller._scheduled[0]
    await asyncio.gather(poller._poll(entry), poller._poll(entry))
    assert len(service.asked) == 2
    assert (poller.live_count, poller.active_jobs) == (0, 0)
    assert (len(poller._unanswered), len(poller._ending)) == (0, 0)


def test_callbacks_of_other_workers_jobs_do_not_pile_up() -> None:
    """A bounded number of jobs is kept that ended before they were added; the latest ends are among them."""
    poller = waiting_for_endless(Time(BEGIN))
    ended = [live(number, BEGIN, 10.0) for number in range(2 * MOST_ENDED_EARLY)]
    for job in ended:
        poller.apply_callback_end(job, JobEnd(job, JobStatus.COMPLETED, BEGIN))
    assert len(poller._ended_early) == MOST_ENDED_EARLY
    poller.add(ended[-1])
    assert poller.live_count == 0, "its end is in the ledger"
    poller.add(ended[0])
    assert poller.live_count == 1, "a poll shows its end"


def test_a_job_that_is_named_while_it_is_taken_over_is_waited_for_once() -> None:
    """A callback names the job of an ended worker in the moment in which it is taken over: its end is its only one."""
    poller, job = waiting_for_endless(Time(BEGIN)), live(1, BEGIN, 10.0)
    poller.add(job, callback_received=True)
    poller.add(job, soon=True)
    assert (poller.live_count, poller.active_jobs) == (1, 1)
    poller.apply_callback_end(job, JobEnd(job, JobStatus.COMPLETED, BEGIN))
    assert (poller.live_count, poller.active_jobs) == (0, 0)


def test_a_look_that_told_nothing_has_not_seen_the_job_live() -> None:
    """Only an answer that shows the job live moves the time at which it was last known to live."""
    time = Time(BEGIN)
    poller = waiting_for_endless(time)
    poller.add(live(1, BEGIN, 100.0))
    time.now += 50.0
    told = poller._after_poll(poller._scheduled[0], JobAnswer(JobStatus.IN_PROGRESS), time.now)
    time.now += 50.0
    untold = poller._after_poll(told, JobAnswer(None, "HTTP 404", 404), time.now)
    assert (told.seen_live_at, told.is_unseen) == (BEGIN + 50.0, False)
    assert (untold.seen_live_at, untold.is_unseen) == (BEGIN + 50.0, True)
    assert untold.due_at > time.now


def test_who_is_late_by_most_of_its_own_steps_goes_first() -> None:
    """Of two due jobs the one with the shorter interval is polled first; the other is polled in time, too."""
    time = Time(0.0)
    poller = waiting_for_endless(time)
    poller.learn([CompletedJob(10.0, 10.0)] * 20)
    poller.add(live(1, 0.0, 100.0))
    poller.add(live(2, 0.0, 10.0))
    late = poller._scheduled[0].job.job_id
    assert late == "job-2"
    time.now = max(entry.due_at for entry in poller._scheduled) + 1.0
    assert poller._is_any_due()
    assert poller._pop_most_overdue().job.job_id == "job-2"
    assert poller._pop_most_overdue().job.job_id == "job-1"
