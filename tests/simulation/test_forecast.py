"""The plan's forecast is the engine's result."""

import random

import pytest

from tests.simulation.judge import Judge
from tests.simulation.ledgers import MemoryLedger
from tests.simulation.run import quiet
from tests.simulation.schedule import PUTS_PER_SECOND, Plan, World, counts
from tests.simulation.world import content_hash
from uploader.model import Order, State
from uploader.policy.forecast import Lanes, forecast_batch

# uploads take time, and an end is seen at the next look: a tenth of a job's age later
LATE_SHARE = 0.15


@pytest.mark.parametrize(
    ("limit", "order"),
    [
        pytest.param(limit, order, marks=() if limit == 3 or order is Order.MANIFEST else pytest.mark.nightly)
        for limit in (1, 3, 10)
        for order in Order
    ],
)
@pytest.mark.seeds(1, nightly=3)
def test_the_engine_ends_when_the_forecast_says(seed: int, limit: int, order: Order) -> None:
    """The real engine and ledger over jobs of known length: never before the forecast, and soon after it."""
    plan = Plan(seed, conversations=12, rows=60, limit=limit, service_limit=limit, order=order)
    world = World(quiet(plan), MemoryLedger())
    Judge(world)
    rng, lanes, numbers = random.Random(seed), Lanes(), dict[str, int]()
    for conversation, path in world.manifest:
        content = content_hash(world.disk.files[path].content)
        seconds = world.service.job_seconds.setdefault(content, rng.uniform(5.0, 90.0))
        lanes.add(numbers.setdefault(conversation, len(numbers)), 1, seconds)
    begun = world.time.now
    world._night(bad=False)
    assert counts(world)[State.COMPLETED] == plan.rows
    took = max(job.ends_at for job in world.service.jobs.values()) - begun
    foreseen = forecast_batch(lanes, limit, PUTS_PER_SECOND, order=order).seconds
    assert foreseen <= took <= foreseen * (1 + LATE_SHARE)
