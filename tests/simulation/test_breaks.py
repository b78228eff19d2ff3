"""The proof can fail: with a safeguard taken away, the simulation finds the harm."""

import pytest

from tests.simulation.breaks import SIMULATED
from tests.simulation.run import fault_of

ENOUGH = 400
"""So many schedules are tried at most before a break counts as not caught."""


@pytest.mark.parametrize("name", SIMULATED)
def test_a_break_is_caught(name: str) -> None:
    """A deliberate break of this kind does not get past the judge."""
    with SIMULATED[name]():
        found = next((fault for seed in range(ENOUGH) if (fault := fault_of(seed)) is not None), None)
    assert found is not None
