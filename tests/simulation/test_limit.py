"""The limit is learned: what that costs in refusals and in time, over whole nights."""

import random
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from statistics import median
from typing import Any

import pytest

from tests.simulation import process, schedule
from tests.simulation.judge import Judge
from tests.simulation.ledgers import MemoryLedger
from tests.simulation.run import quiet
from tests.simulation.schedule import Plan, World, counts
from tests.simulation.world import TOO_QUICKLY, Weather, content_hash
from tests.simulation.writer import SimulatedWriter
from uploader.ledger.claiming import AdmissionResult, ClaimResult
from uploader.model import Order, State
from uploader.policy import ahead, flow
from uploader.policy.backoff import Backoff

pytestmark = [pytest.mark.timeout(0), pytest.mark.usefixtures("no_log")]

REAL, UPLOADS = 10, 16
# so many slots are held by another client, for so long out of twice as long
FOREIGN, PHASE_SECONDS = 3, 60.0
QUIET = Weather()
MUTE = Weather(states_limit=False)


@dataclass(frozen=True)
class Night:
    """A night's figures. ``over_bound``: its makespan over the lower bound, with all slots that others leave."""

    over_bound: float
    refusals: int
    seconds: float


@pytest.fixture(autouse=True)
def claims(monkeypatch: pytest.MonkeyPatch) -> list[ClaimResult]:
    """Check that no more is live after an admission than the limit in force by then."""
    seen: list[ClaimResult] = []

    class Checking(SimulatedWriter):
        async def call(self, function: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
            found = await super().call(function, *args, **kwargs)
            if isinstance(found, ClaimResult):
                seen.append(found)
            if isinstance(found, AdmissionResult):
                assert not found.admitted or found.limit.live <= found.limit.in_force
            return found

    monkeypatch.setattr(schedule, "SimulatedWriter", Checking)
    monkeypatch.setattr(schedule, "PUTS_PER_SECOND", 10.0)
    # looks for bodies to send ahead: every 0.02 s of jobs of some 10 s they are most of the simulation's work
    monkeypatch.setattr(ahead, "MIN_CHECK_SECONDS", 0.1)
    return seen


def world_of(seed: int, configured: int, weather: Weather, *, real: int = REAL, rows: int = 0) -> World:
    """Return a world in which nothing goes wrong but what the weather says; jobs of 1 to 70 s, most of them short."""
    # the first seed, all that a default run draws, is a night that half as many rows show as well
    rows = rows or (300 if seed else 150)
    plan = Plan(
        seed,
        conversations=rows // 5,
        rows=rows,
        limit=configured,
        service_limit=real,
        uploads=UPLOADS,
        weather=weather,
        order=Order.LONGEST_LANE_FIRST,
    )
    world = World(quiet(plan), MemoryLedger())
    Judge(world)
    rng = random.Random(seed)
    for _, path in world.manifest:
        drawn = min(70.0, max(1.0, rng.lognormvariate(2.3, 1.0)))
        world.service.job_seconds.setdefault(content_hash(world.disk.files[path].content), drawn)
    return world


def share(world: World) -> None:
    """Let another client hold its slots for half of the time."""
    begin = world.time.now + PHASE_SECONDS / 2
    for _ in range(50):
        world.service.foreign += [(begin, begin + PHASE_SECONDS)] * FOREIGN
        begin += 2 * PHASE_SECONDS


def lived(world: World, slots: float = REAL) -> Night:
    """Run a night to its good end, and measure it."""
    begun = world.time.now
    world._night(bad=False)
    assert counts(world)[State.COMPLETED] == world.plan.rows
    by_conversation: dict[str, float] = defaultdict(float)
    for conversation, path in world.manifest:
        by_conversation[conversation] += world.service.job_seconds[content_hash(world.disk.files[path].content)]
    bound = max(sum(by_conversation.values()) / slots, *by_conversation.values())
    took = max(job.ends_at for job in world.service.jobs.values()) - begun
    return Night(took / bound, sum(put.answered == 429 for put in world.service.puts), took)


def pausing(seconds: float) -> Callable[..., Backoff]:
    """Make pauses of so many seconds, which go on where one is on."""

    def pause(backoff: Backoff, now: float, **_: Any) -> Backoff:
        return backoff if backoff.is_on(now) else Backoff(now + seconds, backoff.failures + 1)

    return pause


@cache
def informed_night(seed: int, *, rows: int = 0) -> Night:
    """Run a night whose configured limit is the true one, without other users."""
    return lived(world_of(seed, REAL, QUIET, rows=rows))


def nights_of(draw: int) -> list[tuple[int, int]]:
    """Return the seeds and rows of three nights: one alone may be late by luck, where a long conversation is its last.

    A draw but the first is of whole nights.
    """
    return [(seed, 300 if draw else 75) for seed in range(3 * draw + 4, 3 * draw + 7)]


@pytest.mark.parametrize(
    ("latency", "at_most"),
    [pytest.param(0.02, 12, id="quick", marks=pytest.mark.nightly), pytest.param(0.4, UPLOADS, id="slow")],
)
@pytest.mark.seeds(1, nightly=3)
def test_a_limit_that_is_stated_is_learned_from_what_was_under_way(
    seed: int, latency: float, at_most: int, claims: list[ClaimResult], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Configured 50, stated 10: only uploads under way are refused, and the night is as long as with 10."""
    told = informed_night(seed)
    assert told.refusals == 0
    monkeypatch.setattr(process, "LATENCY_SECONDS", latency)
    learned = lived(world_of(seed, 50, QUIET))
    assert 0 < learned.refusals <= at_most
    assert learned.over_bound <= 1.06 * told.over_bound
    assert (claims[-1].limit.configured, claims[-1].limit.stated, claims[-1].limit.in_force) == (50, REAL, REAL)


@pytest.mark.seeds(1, nightly=3)
def test_a_limit_that_is_never_stated_is_learned_all_the_same(seed: int) -> None:
    """Configured 50, true 10, never stated: the first refusals find it, and few raises are refused."""
    ratios = []
    for night, rows in nights_of(seed):
        learned = lived(world_of(night, 50, MUTE, rows=rows))
        assert 0 < learned.refusals <= UPLOADS + 6
        ratios.append(learned.over_bound / informed_night(night, rows=rows).over_bound)
    assert median(ratios) <= 1.06


@pytest.mark.parametrize(
    ("weather", "at_most"),
    [
        pytest.param(QUIET, 1.2, id="stated"),
        pytest.param(MUTE, 1.25, id="never stated", marks=pytest.mark.nightly),
    ],
)
@pytest.mark.seeds(1, nightly=3)
def test_an_account_that_is_shared_is_kept_full(
    seed: int, weather: Weather, at_most: float, claims: list[ClaimResult]
) -> None:
    """Where another client holds 3 of 10 slots half of the time, the free slots are used at few refusals."""
    ratios = []
    for night, rows in nights_of(seed):
        world = world_of(night, REAL, weather, rows=rows)
        share(world)
        shared = lived(world, slots=REAL - FOREIGN / 2)
        assert 0 < shared.refusals <= 30
        ratios.append(shared.over_bound / informed_night(night, rows=rows).over_bound)
    assert median(ratios) <= at_most
    estimated = {claim.limit.others for claim in claims} - {None}
    assert bool(estimated) is weather.states_limit


@pytest.mark.seeds(1, nightly=3)
def test_the_end_of_a_job_comes_before_the_timer(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """However long the pause is, an upload tries the room that a job has left, and where it is taken all goes on."""
    monkeypatch.setattr(flow, "after_failure", pausing(100_000.0))
    for weather in (QUIET, MUTE):
        night = lived(world_of(seed, 12, weather, rows=60))
        assert night.refusals > 0
        assert night.seconds < 1000.0


@pytest.mark.seeds(1, nightly=3)
def test_a_429_about_the_rate_slows_and_lowers_nothing(
    seed: int, claims: list[ClaimResult], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The limit in force stays; the pause is waited for, whatever ends meanwhile."""
    monkeypatch.setattr(flow, "after_failure", pausing(500.0))
    world = world_of(seed, REAL, Weather(put=0.2, kinds=(TOO_QUICKLY,)), rows=60)
    night = lived(world)
    assert night.refusals > 0
    assert {claim.limit.in_force for claim in claims} == {REAL}
    assert night.seconds >= 500.0
    begun = [put.begun_at for put in world.service.puts]
    first = next(put for put in world.service.puts if put.answered == 429)
    assert not any(first.begun_at + 5.0 < at < first.begun_at + 490.0 for at in begun)
