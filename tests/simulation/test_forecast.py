"""What the plan foresees is what the engine does."""

import random

import pytest

from tests.simulation.judge import Judge
from tests.simulation.ledgers import MemoryLedger
from tests.simulation.run import SWITCHES
from tests.simulation.schedule import PUTS_PER_SECOND, Plan, World, counts
from tests.simulation.world import Weather, content_hash
from uploader.model import State
from uploader.policy.forecast import Lanes, foresee

LATE_SHARE = 0.15
"""Uploads take time, and an end is seen at the next look: a tenth of a job's age later."""


@pytest.mark.parametrize("limit", [1, 3, 10])
@pytest.mark.parametrize("seed", range(3))
def test_the_engine_ends_when_the_forecast_says(seed: int, limit: int) -> None:
    """The real engine and ledger over jobs of known length: never before the forecast, and soon after it."""
    quiet = dict.fromkeys(SWITCHES, False)
    plan = Plan(seed, conversations=12, rows=60, limit=limit, service_limit=limit, weather=Weather(), **quiet)
    world = World(plan, MemoryLedger())
    Judge(world)
    chance, lanes = random.Random(seed), Lanes()
    for conversation, path in world.manifest:
        content = content_hash(world.disk.files[path].content)
        seconds = world.service.job_seconds.setdefault(content, chance.uniform(5.0, 90.0))
        lanes.add(hash(conversation), 1, seconds)
    begun = world.time.now
    world._night(bad=False)
    assert counts(world)[State.COMPLETED] == plan.rows
    took = max(job.ends_at for job in world.service.jobs.values()) - begun
    foreseen = foresee(lanes, limit, PUTS_PER_SECOND).seconds
    assert foreseen <= took <= foreseen * (1 + LATE_SHARE)
