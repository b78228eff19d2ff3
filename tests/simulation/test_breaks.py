"""The proof can fail: with a safeguard taken away, the simulation finds the harm."""

from collections.abc import Iterator
from contextlib import nullcontext, suppress
from pathlib import Path

import pytest

from tests.simulation.breaks import OF_SEVERAL, SIMULATED, TOLD_BY_CALLS, results_written_in_place
from tests.simulation.conftest import SCHEDULES
from tests.simulation.run import fault_in, fault_of
from tests.simulation.schedule import draw_several, draw_surplus
from uploader import results
from uploader.model import ResultLine

# so many schedules are tried at most before a break counts as not caught: those of a default run
ENOUGH = SCHEDULES
# tried first: schedules that show a break which few do
SHOWN_BY = {
    "intent_after_the_first_byte": (46,),
    "doubt_of_another_clock_listened_for": (910035,),
    "admission_without_the_lease": (15,),
    "last_chunk_without_the_lease": (15,),
    "lost_commit_written_anew": (19,),
    "outcome_that_matches_no_row": (16,),
    "late_surplus_not_told": (10,),
}
# the same of several workers
ENOUGH_OF_SEVERAL = 40


@pytest.mark.parametrize("name", SIMULATED)
def test_a_break_is_caught(name: str) -> None:
    """A deliberate break of this kind does not get past the judge."""
    seeds = (*SHOWN_BY.get(name, ()), *range(ENOUGH))
    with SIMULATED[name]():
        found = next((fault for seed in seeds if (fault := fault_of(seed)) is not None), None)
    assert found is not None


@pytest.mark.parametrize("name", OF_SEVERAL)
def test_a_break_of_what_keeps_several_workers_apart_is_caught(name: str) -> None:
    """The judge notices where one safeguard between the workers of a ledger is left out."""
    seeds = (*SHOWN_BY.get(name, ()), *range(ENOUGH_OF_SEVERAL))
    with OF_SEVERAL[name]():
        faults = (fault_in(draw_several(seed)) for seed in seeds)
        found = next((fault for fault in faults if fault is not None), None)
    assert found is not None


@pytest.mark.parametrize("name", TOLD_BY_CALLS)
def test_an_append_too_many_that_is_not_told_is_caught(name: str) -> None:
    """The judge notices where a second append that callbacks reveal is not reported."""
    seeds = (*SHOWN_BY.get(name, ()), *range(ENOUGH))
    with TOLD_BY_CALLS[name]():
        faults = (fault_in(draw_surplus(seed)) for seed in seeds)
        found = next((fault for fault in faults if fault is not None), "")
    assert "nobody is told of" in found


def _survives_a_death_in_the_middle(path: Path) -> bool:
    """Return True where the old snapshot stands after the process died while writing the next one."""
    results.write(path, [], [])
    before = path.read_bytes()

    def dying() -> Iterator[ResultLine]:
        raise KeyboardInterrupt
        yield

    with suppress(KeyboardInterrupt):
        results.write(path, dying(), ["x-id"])
    return path.read_bytes() == before


@pytest.mark.parametrize("broken", [False, True])
def test_results_that_are_not_renamed_into_place_are_caught(tmp_path: Path, *, broken: bool) -> None:
    """Half a results file is seen by this check, and only where the renaming is taken away."""
    with results_written_in_place() if broken else nullcontext():
        assert _survives_a_death_in_the_middle(tmp_path / "r.csv") is not broken
