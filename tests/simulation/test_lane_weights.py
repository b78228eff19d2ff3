"""Critical path first, by what jobs have shown to take: whole nights in which every job takes a while in any case."""

import random
from collections import defaultdict

import pytest

from tests.simulation import process
from tests.simulation.judge import Judge
from tests.simulation.ledgers import MemoryLedger
from tests.simulation.run import quiet
from tests.simulation.schedule import Plan, World, counts
from tests.simulation.world import content_hash
from uploader import engine
from uploader.model import State
from uploader.policy import ahead

pytestmark = pytest.mark.timeout(0)

SLOTS, CONVERSATIONS = 10, 20
# what a job takes in any case, and for each byte: about 1 s more for a short file, and 24 s for a long one
CONSTANT, SECONDS_PER_BYTE, SCATTER = 20.0, 0.04, 0.2
# mean bytes of a file; half of the conversations have some ten short ones, half one to three long ones
SHORT, LONG = 40, 600


@pytest.fixture(autouse=True)
def near_service(monkeypatch: pytest.MonkeyPatch, no_log: None) -> None:
    """Provide a service that answers at once: what the wire takes is not what is measured. No log."""
    monkeypatch.setattr(process, "LATENCY_SECONDS", 0.005)
    # looks for bodies to send ahead: every 0.02 s of jobs of 20 s they are most of the simulation's work
    monkeypatch.setattr(ahead, "MIN_CHECK_SECONDS", 0.1)


def world_of(seed: int) -> World:
    """Make a world with conversations of many short files, and of a few long ones with more audio."""
    plan = Plan(seed, conversations=CONVERSATIONS, rows=0, limit=SLOTS, service_limit=SLOTS, uploads=SLOTS)
    world = World(quiet(plan), MemoryLedger())
    Judge(world)
    rng, sizes = random.Random(f"mixed {seed}"), list[tuple[str, int]]()
    for number in range(CONVERSATIONS):
        files, usual = (rng.randint(6, 20), SHORT) if number % 2 else (rng.randint(1, 3), LONG)
        mean = usual * rng.lognormvariate(0.0, 0.5)
        sizes += [(f"c{number}", max(round(mean * rng.lognormvariate(0.0, 0.6)), 8)) for _ in range(files)]
    rng.shuffle(sizes)
    for number, (conversation, size) in enumerate(sizes):
        path, content = f"/audio/{number}.wav", (f"{number:07} ".encode() * (size // 8 + 1))[:size]
        world.disk.write(path, content)
        world.manifest.append((conversation, path))
        takes = CONSTANT + size * SECONDS_PER_BYTE * rng.lognormvariate(0.0, SCATTER)
        world.service.job_seconds[content_hash(content)] = takes
    return world


def over_bound(world: World) -> float:
    """Run a night; return its makespan over the lower bound of all schedules."""
    begun, before = world.time.now, set(world.service.jobs)
    world._night(bad=False)
    assert counts(world)[State.COMPLETED] == len(world.manifest)
    jobs = [job for name, job in world.service.jobs.items() if name not in before]
    lanes = defaultdict[str, float](float)
    for job in jobs:
        lanes[job.conversation] += job.ends_at - job.begun_at
    bound = max(sum(lanes.values()) / SLOTS, *lanes.values())
    return (max(job.ends_at for job in jobs) - begun) / bound


def first_of_short_files(world: World) -> int:
    """Return how many of a night's first jobs are of conversations of short files."""
    begun = [job.conversation for job in list(world.service.jobs.values())[-len(world.manifest) :]]
    return sum(int(conversation.rpartition("c")[2]) % 2 for conversation in begun[:SLOTS])


@pytest.mark.seeds(1, nightly=2)
def test_many_short_files_do_not_wait_for_few_long_ones(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """The first night learns the constant in time to end near its bound; by audio alone it ends far later.

    The ledger keeps job durations: the next night's first claim takes the conversations with the most jobs.
    """
    world = world_of(seed)
    assert over_bound(world) <= 1.04
    cold = first_of_short_files(world)
    world.manifest = [(f"later c{conversation[1:]}", path) for conversation, path in world.manifest]
    assert over_bound(world) <= 1.04
    assert cold < SLOTS / 2 < first_of_short_files(world)
    monkeypatch.setattr(engine, "reweigh", lambda *_: None)
    assert over_bound(world_of(seed)) > 1.04
