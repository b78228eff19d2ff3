"""No slot idles while a lane may go: an attempt that waits for its own lane takes none from the others."""

from itertools import pairwise

import pytest

from tests.simulation.judge import Judge
from tests.simulation.ledgers import MemoryLedger
from tests.simulation.run import quiet
from tests.simulation.schedule import Plan, World, counts
from tests.simulation.world import content_hash
from uploader.model import State

pytestmark = pytest.mark.timeout(0)

JOB_SECONDS, OUTLIER_SECONDS = 8.0, 100.0
# so many jobs have ended when the outlier begins
OUTLIER = 10


def _world(seed: int, limit: int, conversations: int) -> World:
    plan = Plan(seed, conversations=conversations, rows=0, limit=limit, service_limit=limit, auto=True)
    world = World(quiet(plan), MemoryLedger())
    Judge(world)
    return world


def _add(world: World, number: int, conversation: str, size: int, seconds: float) -> None:
    path = f"/audio/{number}.wav"
    world.disk.write(path, f"{number:0{size}}".encode())
    world.manifest.append((conversation, path))
    world.service.job_seconds[content_hash(world.disk.files[path].content)] = seconds


@pytest.mark.parametrize("seed", range(3))
def test_a_lane_that_waits_for_its_own_job_takes_no_slot_from_another(seed: int) -> None:
    """While a job lasts far longer than foreseen, its lane's next file waits, and the other lane goes on."""
    world = _world(seed, limit=2, conversations=2)
    for number in range(OUTLIER + 30):
        conversation = "c1" if number % 2 or number > OUTLIER + 4 else "c0"
        _add(world, number, conversation, 100, OUTLIER_SECONDS if number == OUTLIER else JOB_SECONDS)
    world._night(bad=False)
    assert counts(world)[State.COMPLETED] == len(world.manifest)
    jobs = world.service.jobs.values()
    outlier = next(job for job in jobs if job.ends_at - job.begun_at == OUTLIER_SECONDS)
    beside = sorted(
        (job.begun_at, job.ends_at)
        for job in jobs
        if job.conversation == "c1" and job.ends_at > outlier.begun_at and job.begun_at < outlier.ends_at
    )
    idle = [begun - ended for (_, ended), (begun, _) in pairwise(beside)]
    assert idle
    assert max(idle) < JOB_SECONDS / 2, idle


@pytest.mark.parametrize("seed", range(3))
def test_a_job_that_has_ended_is_not_foreseen_to_end(seed: int) -> None:
    """The end that frees the one slot lets one body begin, and no second one that would wait in vain."""
    world = _world(seed, limit=1, conversations=8)
    for number in range(24):
        _add(world, number, f"c{number % 8}", 2000, 60.0)
    world._night(bad=False)
    assert counts(world)[State.COMPLETED] == len(world.manifest)
    in_vain = [put for put in world.service.puts if not put.received]
    # before the first jobs have shown how long they take, a body or two begin too early
    assert len(in_vain) <= 2, in_vain
