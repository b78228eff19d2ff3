"""Runs a schedule; shrinks one that fails."""

import logging
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import cache
from typing import Any

import structlog

from tests.simulation.judge import Judge
from tests.simulation.ledgers import MemoryLedger
from tests.simulation.schedule import Plan, World, draw


@cache
def _ledger() -> MemoryLedger:
    return MemoryLedger()


def live(plan: Plan) -> World:
    """Run a schedule under the judge.

    Raises:
        AssertionError: A promise was broken.
    """
    with _quiet():
        return _live(plan)


def _live(plan: Plan) -> World:
    world = World(plan, _ledger())
    judge = Judge(world)
    night = world._night

    def judged_night(*, bad: bool) -> None:
        night(bad=bad)
        judge.check_night()

    world._night = judged_night  # type: ignore[method-assign]
    world.live_through()
    return world


def fault_of(seed: int, **changes: Any) -> str | None:
    """Return the fault of a seed's schedule, None where there is none; ``changes`` are parts of the plan."""
    return fault_in(replace(draw(seed), **changes))


def fault_in(plan: Plan) -> str | None:
    """Return the fault of a schedule; None where there is none."""
    try:
        live(plan)
    except Exception as error:  # noqa: BLE001 - whatever it is, it is the finding
        return f"{type(error).__name__}: {error}"
    return None


# parts of a plan that can be left out
SWITCHES = ("edits", "rewrites", "repeats", "clock_jumps", "full_disk", "signals", "resolves", "kills", "no_wait")


def quiet(plan: Plan) -> Plan:
    """Return the same plan with nothing of what can be left out."""
    return replace(plan, **dict.fromkeys(SWITCHES, False))  # type: ignore[arg-type] # these parts are bools


def shrink(plan: Plan) -> Plan:
    """Return the smallest plan, by leaving out one thing after the other, that still breaks a promise."""
    simpler = [
        {"several": None},
        *({name: False} for name in SWITCHES),
        *({"nights": number} for number in (1, 2, 3)),
        *({"rows": number} for number in (1, 2, 4)),
        *({"conversations": number} for number in (1, 2)),
        {"uploads": 1},
        {"calls": None},
    ]
    for change in simpler:
        smaller = replace(plan, **change)  # type: ignore[arg-type]
        if smaller != plan and _breaks(smaller):
            plan = smaller
    return plan


def _breaks(plan: Plan) -> bool:
    try:
        live(plan)
    except Exception:  # noqa: BLE001 - see fault_of
        return True
    return False


@contextmanager
def _quiet() -> Iterator[None]:
    """Silence the log, and the warnings of what dead processes leave in memory."""
    before, hook = structlog.get_config(), sys.unraisablehook
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.CRITICAL))
    sys.unraisablehook = lambda _: None
    try:
        yield
    finally:
        structlog.configure(**before)
        sys.unraisablehook = hook
