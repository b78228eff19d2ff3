"""Nothing lost, nothing twice, in order, never above the limit: over schedules that seeds draw."""

from dataclasses import replace

import pytest
from sqlalchemy import select

from tests.simulation import schedule
from tests.simulation.calls import Habits
from tests.simulation.judge import Judge
from tests.simulation.ledgers import MemoryLedger
from tests.simulation.run import fault_in, fault_of, live, quiet, shrink
from tests.simulation.schedule import Plan, World, counts, draw, draw_several, draw_surplus
from tests.simulation.world import Weather
from uploader.engine import LISTEN_ON_SECONDS
from uploader.ledger.schema import attempts
from uploader.model import State
from uploader.policy.facts import CallbackEffect

pytestmark = pytest.mark.timeout(0)

# seeds that found a fault once, and which: of ours, or of the judge's
REGRESSIONS = {
    85: "a refused item did not hold its lane: the subquery for the first pending item looked at every lane",
    34: "a jobId that a person had named was forgotten when its failed item was tried again",
    719: "an item settled as appended kept the jobId of an answer that was not trusted, and another was given it",
    929: "an item in doubt, settled as not appended, took a new content that another item was already",
    989: "a refused item that was tried again took a new content that another item was already",
    1118: "a job of tomorrow, after the clock was set back, was asked for without a pause",
    66948: "the judge: what waits for a batch and for its repeat at one path means what is put there, each once",
    100292: "the judge: the same, the file rewritten while the repeat ran",
    240793: "the judge: an outcome that a full disk kept out is known by its content: its row has another path",
}


# the same of nights with a listener
REGRESSIONS_WITH_CALLS = {
    301868: "a retry under way gave its slot to another when a call had told the end of the attempt before it",
    4: "a peer that took no byte of a body that waited for its admission kept it waiting without an end",
    910072: "a job that a callback named while it was taken over counted twice, and the run waited for ever",
    7702693: "the judge: a body sent ahead that was cut, and taken by a service that breaks its word, is out of turn",
}


# the same of several workers on one ledger
REGRESSIONS_OF_SEVERAL = {
    1075: "an item that a worker gave back after it had been ended counted to the backlog of a lane that nobody wanted",
    1000713: "the judge: a last chunk that has left a process is on its way, though the process stops in that moment",
    700044: "a run stopped for 90 s took its batch for over, as it had been, and ended with an attempt under way",
    700109: "a renewal that had waited for the ledger ended another worker as of the time of its call",
    1206: "the judge: the clocks of two hosts differ a little in when a doubt gives its slot back",
}


# the same of nights with appends too many
REGRESSIONS_WITH_SURPLUS = {
    70: "the judge: that an attempt may have appended it once too often is a doubt that stands in the open",
    469: "the judge: what may have been appended once too often may run on while the lane goes on",
    313: "two attempts had become jobs by the time the third was over: of the first of them nobody was told",
}


@pytest.mark.parametrize("seed", REGRESSIONS_WITH_SURPLUS, ids=str)
def test_what_a_seed_with_surplus_found_once_stays_mended(seed: int) -> None:
    """Every fault that was found by what the service took without saying so is lived through again."""
    assert fault_in(draw_surplus(seed)) is None


@pytest.mark.parametrize("seed", REGRESSIONS_OF_SEVERAL, ids=str)
def test_what_a_seed_of_several_workers_found_once_stays_mended(seed: int) -> None:
    """Every fault that was found by several workers on one ledger is lived through again."""
    assert fault_in(draw_several(seed)) is None


@pytest.mark.parametrize("seed", REGRESSIONS_WITH_CALLS, ids=str)
def test_what_a_seed_with_calls_found_once_stays_mended(seed: int) -> None:
    """Every fault that was found by what the service says of jobs is lived through again."""
    assert fault_of(seed) is None


@pytest.mark.parametrize("seed", REGRESSIONS, ids=str)
def test_what_a_seed_found_once_stays_mended(seed: int) -> None:
    """Every fault that the simulation found is lived through again."""
    assert fault_of(seed, calls=None) is None


def test_schedules(seeds: range) -> None:
    """Whatever goes wrong and whenever the process dies, the service's journal keeps the promises."""
    for seed in seeds:
        fault = fault_of(seed)
        assert fault is None, (
            f"seed {seed}: {fault}\nshrunk: {shrink(draw(seed))}\n"
            f"replay: python -m tests.simulation single --seed {seed} --count 1"
        )


def test_schedules_of_several_workers(seeds_of_several: range) -> None:
    """Whichever of several workers dies, stands still or is cut off, the journal keeps the promises for all of them."""
    for seed in seeds_of_several:
        fault = fault_in(draw_several(seed))
        assert fault is None, (
            f"seed {seed}: {fault}\nshrunk: {shrink(draw_several(seed))}\n"
            f"replay: python -m tests.simulation several --seed {seed} --count 1"
        )


@pytest.mark.seeds(1, nightly=5)
def test_a_gateway_that_is_down_for_ten_minutes_costs_at_most_six_items(
    seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """502 to everything for ten minutes: at most six items in doubt, and the night goes on by itself to its end."""
    monkeypatch.setattr(schedule, "JOB_TIMEOUT_SECONDS", 21600.0)  # the default: longer than the outage
    # slots are no reason to wait: only the breaker is
    plan = Plan(seed, conversations=1000, rows=120, limit=100, service_limit=100, uploads=8)
    world = World(quiet(replace(plan, weather=Weather(outages=((3.0, 603.0),)))), MemoryLedger())
    Judge(world)
    world._night(bad=True)
    found = counts(world)
    assert found[State.IN_DOUBT] <= 6
    assert found[State.IN_DOUBT] + found[State.HELD] + found[State.COMPLETED] == plan.rows
    assert sum(put.answered == 502 for put in world.service.puts) >= 5
    assert found[State.HELD] <= found[State.IN_DOUBT]  # nearly every conversation has one file alone


@pytest.mark.seeds(1, nightly=5)
def test_nothing_new_starts_after_the_time_that_was_set(seed: int) -> None:
    """`--until`: no attempt begins after it, what is under way ends well, and the rest stays pending for next time."""
    plan = Plan(seed, conversations=9, rows=40, limit=3, service_limit=3, weather=Weather(put=0.2, poll=0.1))
    world = World(quiet(plan), MemoryLedger())
    Judge(world)
    world.until_seconds = 100.0
    until = world.wall() + world.until_seconds
    world._night(bad=True)
    found = counts(world)
    with world.ledger.begin() as connection:
        begun = connection.execute(select(attempts.c.started_at)).scalars().all()
    assert max(begun) < until
    assert found[State.PENDING] > 0
    assert found[State.SENDING] + found[State.SENT] + found[State.ACCEPTED] == 0
    world.until_seconds = None
    world.live_through()


def test_a_doubt_of_a_clock_that_was_set_back_is_listened_for_no_longer_than_another() -> None:
    """With a listener, a run waits for callbacks about the latest doubt of an earlier night by its own clock."""
    weather = Weather(put=1.0, kinds=("500 untaken",))
    plan = Plan(1, conversations=1, rows=1, weather=weather, calls=Habits())
    world = World(quiet(plan), MemoryLedger())
    Judge(world)
    world._night(bad=True)
    assert counts(world)[State.IN_DOUBT] == 1
    world.wall_offset -= 100_000.0
    ends: list[float] = []
    world.watchers.append(lambda world: ends.append(world.time.now))
    begun = world.time.now
    world._night(bad=True)
    assert LISTEN_ON_SECONDS - 1.0 <= ends[-1] - begun <= LISTEN_ON_SECONDS + 1.0


def test_a_service_that_takes_what_was_cut_off_is_told_of(pytestconfig: pytest.Config) -> None:
    """Calls stop the retry, or come too late for it: then the append too many stands in the open (the judge looks)."""
    wanted = {CallbackEffect.ACCEPTED, CallbackEffect.DUPLICATE_APPEND, CallbackEffect.DEFERRED}
    effects: set[CallbackEffect] = set()
    for seed in range(21, 100):
        world = live(draw_surplus(seed))
        assert world.calls is not None
        effects |= set(world.calls.effects.values())
        if effects >= wanted and not pytestconfig.getoption("--nightly"):
            break
    assert effects >= wanted
