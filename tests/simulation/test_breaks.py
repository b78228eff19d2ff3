"""The proof can fail: with a safeguard taken away, the simulation finds the harm."""

from typing import Any

import pytest

from tests.simulation.breaks import SIMULATED
from tests.simulation.run import fault_of
from tests.simulation.world import Weather

PLANS: dict[str, dict[str, Any]] = {
    "outcome_not_shielded": {"signals": True, "rows": 12, "conversations": 9, "weather": Weather()}
}
"""What a break needs to show itself soon."""
ENOUGH = 400
"""So many schedules are tried at most before a break counts as not caught."""


@pytest.mark.parametrize("name", SIMULATED)
def test_a_break_is_caught(name: str) -> None:
    """A deliberate break of this kind does not get past the judge."""
    with SIMULATED[name]():
        plans = PLANS.get(name, {})
        found = next((fault for seed in range(ENOUGH) if (fault := fault_of(seed, **plans)) is not None), None)
    assert found is not None
