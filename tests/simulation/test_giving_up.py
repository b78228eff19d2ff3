"""A run gives up where nothing good came for too long, and not where the limit alone was at work (promise 5)."""

import asyncio
from typing import Any

import pytest

from tests.simulation import schedule
from tests.simulation.ledgers import MemoryLedger
from tests.simulation.process import SimulatedClient
from tests.simulation.run import quiet
from tests.simulation.schedule import Plan, World, counts
from tests.simulation.world import Weather, content_hash
from uploader.model import Reply, State

LIMIT_MET = "Maximum number of concurrent jobs reached. Please wait for some requests to complete."
RESET = Reply(connected=True, failure="connection reset")
# longer than give_up_seconds
FULL_SECONDS = 2400.0


@pytest.mark.parametrize("ours", [True, False])
def test_429s_beside_a_live_job_of_ours_are_no_time_without_a_good_answer(
    monkeypatch: pytest.MonkeyPatch, *, ours: bool
) -> None:
    """A connection breaks before and after the account was full for long: with our own job the run goes on."""
    world = World(quiet(Plan(1, conversations=2, rows=2, limit=2, service_limit=2, weather=Weather())), MemoryLedger())
    first, paths = "c1", [path for _, path in world.manifest]
    world.manifest = list(zip([first, "c2"], paths, strict=True))
    world.service.job_seconds[content_hash(world.disk.files[paths[0]].content)] = FULL_SECONDS + 600.0
    begun, met = world.time.now, list[float]()

    class Scripted(SimulatedClient):
        """A service that accepts one conversation, and answers the other by a cut, 429s, and a cut."""

        async def upload(self, request: Any, source: Any, gate: Any) -> Reply:
            if request.conversation_id == first and ours:
                return await super().upload(request, source, gate)
            met.append(asyncio.get_running_loop().time() - begun)
            if len(met) == 1:
                await asyncio.sleep(10.0)  # the first conversation's is accepted meanwhile
                return RESET
            if met[-1] < FULL_SECONDS:
                return Reply(connected=True, status=429, answer={"message": LIMIT_MET}, retry_after="60")
            if met[-2] < FULL_SECONDS:
                return RESET
            return await super().upload(request, source, gate)

    monkeypatch.setattr(schedule, "SimulatedClient", Scripted)
    monkeypatch.setattr(schedule, "JOB_TIMEOUT_SECONDS", 7200.0)
    world._night(bad=False)
    assert len(met) > 3
    assert (counts(world).get(State.COMPLETED, 0) == 2) is ours
    assert (met[-1] >= FULL_SECONDS) is ours
