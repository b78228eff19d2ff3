"""The budget of status requests: kept however many jobs live, and shared out so that nobody starves."""

import random
from collections import defaultdict
from collections.abc import Callable
from typing import Any, cast

import pytest

from tests.simulation.clock import Time, VirtualLoop, bury
from tests.simulation.schedule import _scaled_down
from uploader.client import JobAnswer
from uploader.jobs import LOOKERS, Follower
from uploader.ledger import Writer
from uploader.ledger.outcomes import Ended
from uploader.model import JobStatus, LiveJob, State
from uploader.pace import Pace
from uploader.policy.foresight import End

pytestmark = pytest.mark.timeout(0)

JOBS, PER_SECOND, SECONDS = 1000, 30.0, 600.0


class Endless:
    """A service whose jobs do not end, and that notes when it is asked for which."""

    def __init__(self, time: Time) -> None:
        self.asked: list[tuple[float, str]] = []
        self._time = time

    async def job(self, job_id: str) -> JobAnswer:
        """It runs."""
        self.asked.append((self._time.now, job_id))
        return JobAnswer(JobStatus.IN_PROGRESS)


class NoLedger:
    """A writer that is asked for nothing."""

    async def call(self, _function: Callable[..., Any], *_: Any, **__: Any) -> Ended:
        """Nothing ends here."""
        return Ended(0, State.COMPLETED, 0.0)


def live(number: int, now: float, seconds: float) -> LiveJob:
    """A job that begins now and is to take so long: a second for a second of audio."""
    return LiveJob(number, number, f"job-{number}", "b", number, "c", 1, 1, now, in_scope=True, work=seconds)


def looked_at(*, learned: bool) -> Endless:
    """Follow a thousand jobs of all lengths for ten minutes."""
    time, chance = Time(1_000_000.0), random.Random(1)
    loop, service = VirtualLoop(time), Endless(time)

    async def look() -> None:
        follower = Follower(
            client=service,
            writer=cast("Writer", NoLedger()),
            pace=Pace(PER_SECOND),
            now=loop.time,
            doubt_seconds=1.0,
            timeout_seconds=1e6,
            hold=True,
            ended=lambda: None,
        )
        if learned:
            follower.learn(End(work, work * chance.lognormvariate(0.0, 0.2)) for work in range(1, 60))
        for number in range(JOBS):
            follower.add(live(number, loop.time(), chance.uniform(1.0, 120.0)))
        lookers = [loop.create_task(follower.look_around()) for _ in range(LOOKERS)]
        end: Any = loop.create_future()
        loop.call_later(SECONDS, end.set_result, None)
        await end
        for one in lookers:
            one.cancel()

    try:
        with _scaled_down(loop):
            loop.run_until_complete(look())
    finally:
        bury(loop)
    return service


@pytest.mark.parametrize("learned", [False, True])
def test_the_budget_is_kept_and_used_and_nobody_starves(learned: bool) -> None:
    """A thousand live jobs that want far more looks: in no second more than the budget, and each gets its share."""
    asked = looked_at(learned=learned).asked
    times = [at for at, _ in asked]
    most = int(PER_SECOND)
    assert all(later - earlier >= 1.0 - 1e-6 for earlier, later in zip(times, times[most:], strict=False))
    assert len(asked) >= 0.75 * PER_SECOND * SECONDS
    of_job = defaultdict[str, list[float]](list)
    for at, job_id in asked:
        of_job[job_id].append(at)
    assert len(of_job) == JOBS
    begin, end = 1_000_000.0, 1_000_000.0 + SECONDS
    gaps = [max(b - a for a, b in zip([begin, *found], [*found, end], strict=False)) for found in of_job.values()]
    # all are asked for in turn once within 34 s; those that end late wait for their time, and then for their turn
    assert max(gaps) <= 200.0


def test_who_is_late_by_most_of_its_own_steps_goes_first() -> None:
    """Of two that are due the one whose looks are close together; in time the other, however it is waited for."""
    time = Time(0.0)
    follower = Follower(
        client=Endless(time),
        writer=cast("Writer", NoLedger()),
        pace=Pace(PER_SECOND),
        now=lambda: time.now,
        doubt_seconds=1.0,
        timeout_seconds=1e6,
        hold=True,
        ended=lambda: None,
    )
    follower.learn([End(10.0, 10.0)] * 20)
    follower.add(live(1, 0.0, 100.0))
    follower.add(live(2, 0.0, 10.0))
    late = follower._followed[0].job.job_id
    assert late == "job-2"
    time.now = max(one.due_at for one in follower._followed) + 1.0
    assert follower._is_any_due()
    assert follower._take_most_late().job.job_id == "job-2"
    assert follower._take_most_late().job.job_id == "job-1"
