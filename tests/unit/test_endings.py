"""How a run that came to its end is told: the exit codes."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from uploader.errors import ExitCode
from uploader.model import State
from uploader.policy.endings import ending

CODES = {
    "DONE": 0,
    "NEEDS_PERSON": 1,
    "USAGE": 2,
    "CREDENTIALS": 3,
    "IN_DOUBT": 4,
    "GAVE_UP": 5,
    "NOT_NOW": 6,
    "FAULT": 70,
    "HUNG_UP": 129,
    "INTERRUPTED": 130,
    "TERMINATED": 143,
}


def test_the_codes_are_those_that_scripts_depend_on() -> None:
    """Each exit code has the number of design.md's table, and there is no other."""
    assert {code.name: int(code) for code in ExitCode} == CODES


def ended(*states: State, overdue: int = 0, no_wait: bool = False) -> ExitCode:
    """Return the code of a batch whose items are in these states."""
    counts = {state: states.count(state) for state in State}
    return ending(counts, overdue=overdue, no_wait=no_wait, unfinished=ExitCode.GAVE_UP)


@pytest.mark.parametrize(
    ("states", "overdue", "no_wait", "code"),
    [
        ([], 0, False, 0),
        ([State.COMPLETED], 0, False, 0),
        ([State.DROPPED], 0, False, 0),
        ([State.COMPLETED, State.DROPPED], 0, False, 0),
        ([State.COMPLETED, State.ACCEPTED], 0, True, 0),
        ([State.COMPLETED, State.ACCEPTED], 0, False, 5),
        ([State.COMPLETED, State.REFUSED], 0, False, 1),
        ([State.COMPLETED, State.FAILED], 0, False, 1),
        ([State.COMPLETED, State.HELD], 0, False, 1),
        ([State.ACCEPTED, State.REFUSED], 0, True, 1),
        ([State.COMPLETED, State.IN_DOUBT], 0, False, 4),
        ([State.IN_DOUBT, State.REFUSED, State.HELD, State.FAILED], 0, False, 4),
        ([State.ACCEPTED, State.COMPLETED], 1, False, 4),
        ([State.ACCEPTED, State.REFUSED], 1, False, 4),
        ([State.ACCEPTED, State.ACCEPTED], 1, False, 5),
        ([State.ACCEPTED, State.ACCEPTED], 1, True, 4),
        ([State.PENDING, State.COMPLETED], 0, False, 5),
        ([State.SENDING], 0, False, 5),
        ([State.SENT], 0, True, 5),
        ([State.PENDING, State.IN_DOUBT, State.REFUSED], 0, False, 5),
    ],
)
def test_the_table_of_exit_codes(states: list[State], overdue: int, no_wait: bool, code: int) -> None:
    """0, 1 and 4 only where the batch is over; 4 outranks 1; overdue jobs count as doubt."""
    assert ended(*states, overdue=overdue, no_wait=no_wait) == code


@given(st.lists(st.sampled_from(list(State)), max_size=8), st.booleans())
def test_zero_means_that_every_item_is_over(states: list[State], no_wait: bool) -> None:
    """Exit 0 if and only if every item completed or was dropped (or was accepted, under --no-wait)."""
    over = {State.COMPLETED, State.DROPPED} | ({State.ACCEPTED} if no_wait else set())
    assert (ended(*states, no_wait=no_wait) is ExitCode.DONE) == set(states).issubset(over)
