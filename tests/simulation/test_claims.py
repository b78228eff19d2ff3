"""The engine's claims: made after events that may let one find more, and queued behind these."""

from collections.abc import Callable
from typing import Any

import pytest

from tests.simulation.judge import Judge
from tests.simulation.ledgers import MemoryLedger
from tests.simulation.run import quiet
from tests.simulation.schedule import Plan, World, counts
from tests.simulation.world import Weather
from tests.simulation.writer import SimulatedWriter
from uploader import engine
from uploader.ledger.claiming import ClaimResult, claim, need_slot_first
from uploader.ledger.outcomes import end_job
from uploader.model import State

pytestmark = pytest.mark.timeout(0)

SLOTS, CONVERSATIONS, FILES = 6, 30, 4


@pytest.mark.seeds(1, nightly=3)
def test_a_full_account_is_claimed_for_when_a_job_ends(monkeypatch: pytest.MonkeyPatch, seed: int) -> None:
    """Each end is followed by a claim in the same moment; beside that, only the foresight of ends asks for one."""
    written: list[tuple[Callable[..., Any], float]] = []
    empty: list[float] = []
    plan = Plan(seed, conversations=CONVERSATIONS, rows=0, limit=SLOTS, service_limit=SLOTS, uploads=2 * SLOTS)
    world = World(quiet(plan), MemoryLedger())
    Judge(world)
    for number in range(CONVERSATIONS * FILES):
        path = f"/audio/{number}.wav"
        world.disk.write(path, f"{number:0100}".encode())
        world.manifest.append((f"c{number % CONVERSATIONS}", path))
    call = SimulatedWriter.call

    async def noted(self: SimulatedWriter, function: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        result = await call(self, function, *args, **kwargs)
        written.append((function, world.time.now))
        if isinstance(result, ClaimResult) and not result.claims:
            empty.append(world.time.now)
        return result

    monkeypatch.setattr(SimulatedWriter, "call", noted)
    world._night(bad=False)
    assert counts(world)[State.COMPLETED] == CONVERSATIONS * FILES
    ends = [at for function, at in written if function is end_job]
    claims = [at for function, at in written if function is claim]
    assert len(ends) == CONVERSATIONS * FILES
    assert set(ends) <= set(claims)
    assert len(claims) <= 1.5 * len(ends)
    # foresight asks the ledger where it has an attempt to begin
    assert len(set(empty) - set(ends)) <= len(ends) / 20


def test_one_refusal_of_bodies_sent_ahead_counts_for_one_day(monkeypatch: pytest.MonkeyPatch) -> None:
    """A run that outlasts what was remembered of the service remembers it no second time without a new answer."""
    written: list[float] = []
    weather = Weather(counts_uploads=True)
    plan = Plan(1, conversations=12, rows=0, limit=2, service_limit=2, auto=True, eager=True, weather=weather)
    world = World(quiet(plan), MemoryLedger())
    Judge(world)
    for number in range(36):
        path = f"/audio/{number}.wav"
        world.disk.write(path, f"{number:0100}".encode())
        world.manifest.append((f"c{number % 12}", path))
    call = SimulatedWriter.call

    async def noted(self: SimulatedWriter, function: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        if function is need_slot_first:
            written.append(world.time.now)
        return await call(self, function, *args, **kwargs)

    monkeypatch.setattr(SimulatedWriter, "call", noted)
    monkeypatch.setattr(engine, "NEED_SLOT_FIRST_SECONDS", 60.0)
    begun_at = world.time.now
    world._night(bad=False)
    assert counts(world)[State.COMPLETED] == len(world.manifest)
    assert world.time.now - begun_at > 2 * 60.0
    assert len(written) == 1
