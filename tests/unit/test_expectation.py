"""What is remembered of a service's way with ``Expect: 100-continue``."""

from collections.abc import Callable
from functools import partial

import pytest

from uploader.client import expectation
from uploader.client.expectation import Expect, Expectation

SIZE = 1001
HONOURED, MISSED, REFUSED = Expectation.honoured, Expectation.missed, Expectation.refused
TRIED, OVER = partial(Expectation.tried, is_under_way=True), partial(Expectation.tried, is_under_way=False)


@pytest.mark.parametrize(
    ("seen", "is_worth_asking"),
    [
        ([], True),
        ([HONOURED], True),
        ([MISSED], False),
        ([MISSED, MISSED], False),
        ([HONOURED, MISSED], True),
        ([HONOURED, MISSED, MISSED], True),
        ([HONOURED, MISSED, MISSED, MISSED], False),
        ([HONOURED, MISSED, MISSED, HONOURED, MISSED, MISSED], True),
        ([MISSED, HONOURED], True),
        ([REFUSED], False),
        ([HONOURED, REFUSED], False),
        ([REFUSED, HONOURED], False),
    ],
)
def test_who_is_asked_again(seen: list[Callable[[Expectation], None]], is_worth_asking: bool) -> None:
    """One that never gave leave is asked once; one that did, until three waits in a row were in vain; 417 ends it."""
    known = Expectation(Expect(above_bytes=1000, seconds=1.0))
    for see in seen:
        see(known)
    assert known.is_worth_asking(SIZE) is is_worth_asking


@pytest.mark.parametrize(("size", "is_worth_asking"), [(0, False), (1000, False), (1001, True)])
def test_short_bodies_do_not_ask(size: int, is_worth_asking: bool) -> None:
    """The size itself is short as yet; so it is where connections are not kept."""
    fresh = Expect(above_bytes=1000, seconds=1.0, keeps_connections=False)
    assert Expectation(fresh).is_worth_asking(size) is is_worth_asking


@pytest.mark.parametrize(
    ("seen", "is_worth_asking"),
    [
        ([], True),
        ([TRIED], False),
        ([TRIED, OVER], True),
        ([TRIED, HONOURED], True),
        ([TRIED, HONOURED, TRIED], True),
        ([TRIED, MISSED, OVER], False),
        ([TRIED, HONOURED, MISSED, MISSED, MISSED], False),
        ([REFUSED], False),
    ],
)
def test_short_bodies_ask_where_leave_is_given(
    seen: list[Callable[[Expectation], None]], is_worth_asking: bool
) -> None:
    """For a connection that may be used again: one tries it first, and the others follow once leave was given."""
    known = Expectation(Expect(above_bytes=1000, seconds=1.0))
    for see in seen:
        see(known)
    assert known.is_worth_asking(1000) is is_worth_asking


def test_a_wait_that_could_not_be_ended_never_begins(monkeypatch: pytest.MonkeyPatch) -> None:
    """With an aiohttp that keeps its wait for the 100 elsewhere nobody is asked."""
    monkeypatch.setattr(expectation, "CAN_GO_ON", False)
    assert not Expectation(Expect(above_bytes=1000, seconds=1.0)).is_worth_asking(SIZE)


def test_the_aiohttp_that_is_installed_can_go_on() -> None:
    """Where this fails, no upload asks leave any more: find where aiohttp waits for the 100 now."""
    assert expectation.CAN_GO_ON
