"""Ends of jobs are seen soon and for few requests: whole nights over a corpus whose jobs are known."""

import random
from collections import defaultdict
from collections.abc import Callable, Iterable
from dataclasses import dataclass

import pytest
from sqlalchemy import select

from tests.simulation import process, schedule
from tests.simulation.judge import Judge
from tests.simulation.ledgers import MemoryLedger
from tests.simulation.process import SimulatedClient
from tests.simulation.run import quiet
from tests.simulation.schedule import Plan, World, counts
from tests.simulation.world import Put, content_hash
from uploader.client import JobAnswer
from uploader.ledger.schema import attempts, items
from uploader.model import State
from uploader.policy import ahead

pytestmark = pytest.mark.timeout(0)

SLOTS, FILES, CONVERSATIONS = 10, 300, 60
# a file's mean size: a thousandth of the benchmark's, for the simulated disk is kept in memory
BYTES = 126
# what a job takes in any case, and for each byte (40 s for a mebibyte of the benchmark's): most take 1 to 70 s
SECONDS, SECONDS_PER_BYTE, SCATTER = 0.6, 0.038, 0.2
# of the logarithms of the sizes, and of how often a conversation comes
SIZES_SIGMA, LANES_SIGMA = 1.2, 0.5

# by what a job's seconds per byte are off: 1 is not at all
Scattered = Callable[[random.Random], float]


def normally(rng: random.Random) -> float:
    """Draw a factor with a standard deviation of 20 %."""
    return rng.lognormvariate(0.0, SCATTER)


def evenly(rng: random.Random) -> float:
    """Draw a factor up to 20 % to either side."""
    return rng.uniform(1.0 - SCATTER, 1.0 + SCATTER)


@dataclass(frozen=True)
class Night:
    """A night's figures. ``late``, ``sent``, ``idle``: what of the slots' time went by beside the jobs themselves.

    ``late`` is the time between a job's end and the look that saw it, ``sent`` that of uploads, ``idle`` that of slots
    that nobody held; all as shares of the jobs' seconds.
    """

    over_bound: float
    looks: float
    late: float
    sent: float
    idle: float


@pytest.fixture(autouse=True)
def near_service(monkeypatch: pytest.MonkeyPatch, no_log: None) -> None:
    """Provide a service that answers as one over loopback does: what the wire takes is not what is measured. No log."""
    monkeypatch.setattr(process, "LATENCY_SECONDS", 0.005)
    # looks for bodies to send ahead: every 0.02 s of jobs of some 10 s they are most of the simulation's work
    monkeypatch.setattr(ahead, "MIN_CHECK_SECONDS", 0.1)
    monkeypatch.setattr(schedule, "PUTS_PER_SECOND", 10.0)


# the jobId of a status request, and when it was made
Asked = tuple[str, float]


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[Asked]:
    """Record every status request."""
    seen: list[Asked] = []
    job = SimulatedClient.job

    async def noted(client: SimulatedClient, job_id: str) -> JobAnswer:
        seen.append((job_id, client._service.time.now))
        return await job(client, job_id)

    monkeypatch.setattr(SimulatedClient, "job", noted)
    return seen


def world_of(seed: int, scattered: Scattered, *, constant: float = SECONDS) -> World:
    """Return a corpus of 300 files of heavy-tailed sizes in 60 conversations, with jobs of 1 to 70 s."""
    plan = Plan(seed, conversations=CONVERSATIONS, rows=0, limit=SLOTS, service_limit=SLOTS, uploads=16)
    world = World(quiet(plan), MemoryLedger())
    Judge(world)
    rng = random.Random(f"corpus {seed}")
    names = [f"c{number}" for number in range(CONVERSATIONS)]
    chosen = names + rng.choices(names, [rng.lognormvariate(0.0, LANES_SIGMA) for _ in names], k=FILES - len(names))
    rng.shuffle(chosen)
    weights = [rng.lognormvariate(0.0, SIZES_SIGMA) for _ in chosen]
    for number, weight in enumerate(weights):
        size = round(weight * BYTES * FILES / sum(weights))
        path, content = f"/audio/{number}.wav", (f"{number:07} ".encode() * (size // 8 + 1))[: max(size, 8)]
        world.disk.write(path, content)
        world.manifest.append((chosen[number], path))
        world.service.job_seconds[content_hash(content)] = constant + size * SECONDS_PER_BYTE * scattered(rng)
    return world


def lived(world: World, asked: list[Asked]) -> Night:
    """Run a night to its good end, and measure it."""
    begun = world.time.now
    world._night(bad=False)
    assert counts(world)[State.COMPLETED] == len(world.manifest)
    jobs, by_conversation = world.service.jobs, defaultdict[str, float](float)
    for job in jobs.values():
        by_conversation[job.conversation] += job.ends_at - job.begun_at
    total = sum(by_conversation.values())
    took = max(job.ends_at for job in jobs.values()) - begun
    held = select(items.c.job_id, items.c.finished_at, attempts.c.started_at).join(attempts)
    with world.ledger.begin() as connection:
        found = connection.execute(held).all()
    late = sum(row.finished_at - world.wall_offset - jobs[row.job_id].ends_at for row in found)
    sent = sum(jobs[row.job_id].begun_at - (row.started_at - world.wall_offset) for row in found)
    return Night(
        over_bound=took / max(total / SLOTS, *by_conversation.values()),
        looks=len(asked) / len(jobs),
        late=late / total,
        sent=sent / total,
        idle=(took * SLOTS - total - late - sent) / total,
    )


def early(world: World, asked: list[Asked], numbers: Iterable[int]) -> int:
    """Return how often these jobs were polled before a third of their time."""
    jobs = [world.service.jobs[f"job-{number}"] for number in numbers]
    thirds = {job.job_id: job.begun_at + (job.ends_at - job.begun_at) / 3 for job in jobs}
    return sum(job_id in thirds and at < thirds[job_id] for job_id, at in asked)


@pytest.mark.parametrize("scattered", [normally, pytest.param(evenly, marks=pytest.mark.nightly)])
@pytest.mark.seeds(1, nightly=4)
def test_a_night_ends_soon_after_its_bound_for_few_looks(seed: int, scattered: Scattered, asked: list[Asked]) -> None:
    """A first night with a known limit ends at most 3 % above the lower bound, for at most 12 requests a job.

    The ledger keeps job durations: the next night's first jobs are not polled before their end is plausible.
    """
    world = world_of(seed, scattered)
    night = lived(world, asked)
    assert night.over_bound <= 1.03, night
    assert night.looks <= 12.0, night
    assert night.late <= 0.025, night
    cold = early(world, asked, range(SLOTS))
    world.manifest = [(f"later {conversation}", path) for conversation, path in world.manifest[: 3 * SLOTS]]
    world._night(bad=False)
    assert counts(world)[State.COMPLETED] == len(world.manifest)
    warm = early(world, asked, range(FILES, FILES + SLOTS))
    assert warm < SLOTS < cold


@pytest.mark.seeds(1, nightly=2)
def test_the_part_that_every_job_takes_is_learned(seed: int, asked: list[Asked]) -> None:
    """Ends are seen as soon, for few more polls, where half of a typical job's time is constant."""
    night = lived(world_of(seed, normally, constant=8.0), asked)
    assert night.late <= 0.025, night
    assert night.looks <= 14.0, night


@pytest.mark.parametrize("factor", [pytest.param(0.25, marks=pytest.mark.nightly), 4.0])
def test_a_service_that_changes_its_speed_in_the_night_is_followed(factor: float, asked: list[Asked]) -> None:
    """Where all jobs become four times as slow or as fast in the night, the polls follow within few ends."""
    world = world_of(0, normally)
    take = world.service.take

    def take_at_another_speed(put: Put) -> str:
        if len(world.service.jobs) == FILES // 3:
            for content in world.service.job_seconds:
                world.service.job_seconds[content] *= factor
        return take(put)

    world.service.take = take_at_another_speed  # type: ignore[method-assign]
    night = lived(world, asked)
    assert night.over_bound <= 1.08, night
    assert night.looks <= 20.0, night
