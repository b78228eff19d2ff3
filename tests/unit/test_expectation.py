"""What is remembered of a service's way with ``Expect: 100-continue``."""

from collections.abc import Callable
from operator import methodcaller

import pytest

from uploader.client import expectation
from uploader.client.expectation import Expect, Expectation

SIZE, NOW, MINUTE = 1001, 5000.0, 60.0
HONOURED, REFUSED, OVER = Expectation.honoured, Expectation.refused, Expectation.over
MISSED, TRIED = methodcaller("missed", NOW), methodcaller("tried", NOW)


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
    """One that never gave leave is asked once; one that did, until three waits in a row were in vain; 417 ends it.

    As far as the same moment goes; what comes later is told below.
    """
    known = Expectation(Expect(above_bytes=1000, seconds=1.0))
    for see in seen:
        see(known)
    assert known.is_worth_asking(SIZE, NOW) is is_worth_asking


@pytest.mark.parametrize(("size", "is_worth_asking"), [(0, False), (1000, False), (1001, True)])
def test_short_bodies_do_not_ask(size: int, is_worth_asking: bool) -> None:
    """The size itself is short as yet; so it is where connections are not kept."""
    fresh = Expect(above_bytes=1000, seconds=1.0, keeps_connections=False)
    assert Expectation(fresh).is_worth_asking(size, NOW) is is_worth_asking


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
    assert known.is_worth_asking(1000, NOW) is is_worth_asking


def test_a_wait_that_could_not_be_ended_never_begins(monkeypatch: pytest.MonkeyPatch) -> None:
    """With an aiohttp that keeps its wait for the 100 elsewhere nobody is asked."""
    monkeypatch.setattr(expectation, "CAN_GO_ON", False)
    assert not Expectation(Expect(above_bytes=1000, seconds=1.0)).is_worth_asking(SIZE, NOW)


@pytest.mark.parametrize("seen", [[MISSED], [MISSED, MISSED], [HONOURED, MISSED, MISSED, MISSED]])
def test_who_gave_no_leave_is_asked_again_now_and_then(seen: list[Callable[[Expectation], None]]) -> None:
    """By one upload after a minute, and, where that is in vain, after two more, and four: few waits in a night."""
    known, asked = Expectation(Expect(above_bytes=1000, seconds=1.0)), []
    for see in seen:
        see(known)
    for second in range(8 * 3600):
        now = NOW + second
        if known.is_worth_asking(SIZE, now):
            known.tried(now)
            assert not known.is_worth_asking(SIZE, now)
            known.missed(now)
            known.over()
            asked.append(second)
    assert asked[:4] == [MINUTE, 3 * MINUTE, 7 * MINUTE, 15 * MINUTE]
    assert len(asked) < 16


def test_a_leave_that_comes_again_is_found() -> None:
    """One slow leave is no reason to send a night's bodies in vain: the next one that comes in time has all ask."""
    known = Expectation(Expect(above_bytes=1000, seconds=1.0))
    known.missed(NOW)
    known.tried(NOW + MINUTE)
    assert not known.is_worth_asking(SIZE, NOW + MINUTE)
    known.honoured()
    assert known.is_worth_asking(SIZE, NOW + MINUTE)
    for _ in range(3):
        known.missed(NOW + MINUTE)
    assert not known.is_worth_asking(SIZE, NOW + 2 * MINUTE - 1.0)
    assert known.is_worth_asking(SIZE, NOW + 2 * MINUTE)


def test_who_refused_the_question_is_not_asked_again() -> None:
    """A 417 says what the service thinks of it: no time changes that."""
    known = Expectation(Expect(above_bytes=1000, seconds=1.0))
    known.missed(NOW)
    known.refused()
    assert not known.is_worth_asking(SIZE, NOW + 24 * 3600.0)


@pytest.mark.parametrize(("keeps_connections", "is_worth_asking"), [(True, True), (False, False)])
def test_short_bodies_ask_again_for_connections_alone(keeps_connections: bool, is_worth_asking: bool) -> None:
    """As with the first question of all."""
    known = Expectation(Expect(above_bytes=1000, seconds=1.0, keeps_connections=keeps_connections))
    known.missed(NOW)
    assert known.is_worth_asking(1000, NOW + MINUTE) is is_worth_asking


def test_the_aiohttp_that_is_installed_can_go_on() -> None:
    """Where this fails, no upload asks leave any more: find where aiohttp waits for the 100 now."""
    assert expectation.CAN_GO_ON
