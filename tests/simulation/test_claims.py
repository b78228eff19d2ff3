"""When the ledger is asked for more to do: where something may have come of it, and in line with what it comes of."""

from collections.abc import Callable
from typing import Any

import pytest

from tests.simulation import process
from tests.simulation.judge import Judge
from tests.simulation.ledgers import MemoryLedger
from tests.simulation.run import quiet
from tests.simulation.schedule import Plan, World, counts
from uploader.ledger.claiming import ClaimResult, claim
from uploader.ledger.outcomes import end_job
from uploader.model import State

pytestmark = pytest.mark.timeout(0)

SLOTS, CONVERSATIONS, FILES = 6, 30, 4


@pytest.mark.parametrize("seed", range(3))
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
    apply = process.InlineWriter._apply

    def noted(self: process.InlineWriter, function: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        result = apply(self, function, *args, **kwargs)
        written.append((function, world.time.now))
        if isinstance(result, ClaimResult) and not result.claims:
            empty.append(world.time.now)
        return result

    monkeypatch.setattr(process.InlineWriter, "_apply", noted)
    world._night(bad=False)
    assert counts(world)[State.COMPLETED] == CONVERSATIONS * FILES
    ends = [at for function, at in written if function is end_job]
    claims = [at for function, at in written if function is claim]
    assert len(ends) == CONVERSATIONS * FILES
    assert set(ends) <= set(claims)
    assert len(claims) <= 1.4 * len(ends)
    # foresight asks the ledger where it has an attempt to begin
    assert len(set(empty) - set(ends)) <= 2
