"""A service's support of ``Expect: 100-continue``, as its answers show it."""

from collections.abc import Callable
from operator import methodcaller

import pytest

from uploader.client import expectation
from uploader.client.expectation import ContinueSupport, Expect

SIZE, NOW, MINUTE = 1001, 5000.0, 60.0
CONFIRMED, REFUSED, ENDED = ContinueSupport.confirmed, ContinueSupport.refused, ContinueSupport.wait_ended
TIMED_OUT, BEGAN = methodcaller("timed_out", NOW), methodcaller("wait_began", NOW)


@pytest.mark.parametrize(
    ("events", "should_expect"),
    [
        ([], True),
        ([CONFIRMED], True),
        ([TIMED_OUT], False),
        ([TIMED_OUT, TIMED_OUT], False),
        ([CONFIRMED, TIMED_OUT], True),
        ([CONFIRMED, TIMED_OUT, TIMED_OUT], True),
        ([CONFIRMED, TIMED_OUT, TIMED_OUT, TIMED_OUT], False),
        ([CONFIRMED, TIMED_OUT, TIMED_OUT, CONFIRMED, TIMED_OUT, TIMED_OUT], True),
        ([TIMED_OUT, CONFIRMED], True),
        ([REFUSED], False),
        ([CONFIRMED, REFUSED], False),
        ([REFUSED, CONFIRMED], False),
    ],
)
def test_timeouts_end_the_use_of_expect(events: list[Callable[[ContinueSupport], None]], should_expect: bool) -> None:
    """A service that never sent a 100 is asked once; one that did, until three timeouts in a row; 417 ends it.

    All at the same moment: retries have tests of their own.
    """
    support = ContinueSupport(Expect(above_bytes=1000, seconds=1.0))
    for record in events:
        record(support)
    assert support.should_expect(SIZE, NOW) is should_expect


@pytest.mark.parametrize(("size", "should_expect"), [(0, False), (1000, False), (1001, True)])
def test_short_bodies_do_not_wait(size: int, should_expect: bool) -> None:
    """A body of exactly the size is short; where connections are not kept, short bodies do not wait."""
    fresh = Expect(above_bytes=1000, seconds=1.0, keeps_connections=False)
    assert ContinueSupport(fresh).should_expect(size, NOW) is should_expect


@pytest.mark.parametrize(
    ("events", "should_expect"),
    [
        ([], True),
        ([BEGAN], False),
        ([BEGAN, ENDED], True),
        ([BEGAN, CONFIRMED], True),
        ([BEGAN, CONFIRMED, BEGAN], True),
        ([BEGAN, TIMED_OUT, ENDED], False),
        ([BEGAN, CONFIRMED, TIMED_OUT, TIMED_OUT, TIMED_OUT], False),
        ([REFUSED], False),
    ],
)
def test_short_bodies_wait_where_100_continue_comes(
    events: list[Callable[[ContinueSupport], None]], should_expect: bool
) -> None:
    """Short bodies wait for the connection's sake: one tries first, the others follow once a 100 came."""
    support = ContinueSupport(Expect(above_bytes=1000, seconds=1.0))
    for record in events:
        record(support)
    assert support.should_expect(1000, NOW) is should_expect


def test_a_wait_that_could_not_be_ended_never_begins(monkeypatch: pytest.MonkeyPatch) -> None:
    """With an aiohttp that keeps its future of the 100 elsewhere, no upload waits."""
    monkeypatch.setattr(expectation, "CAN_END_WAIT", False)
    assert not ContinueSupport(Expect(above_bytes=1000, seconds=1.0)).should_expect(SIZE, NOW)


@pytest.mark.parametrize("events", [[TIMED_OUT], [TIMED_OUT, TIMED_OUT], [CONFIRMED, TIMED_OUT, TIMED_OUT, TIMED_OUT]])
def test_expect_is_retried_after_growing_times(events: list[Callable[[ContinueSupport], None]]) -> None:
    """One upload retries after a minute, and after each timeout twice as late: few waits in a night."""
    support, asked = ContinueSupport(Expect(above_bytes=1000, seconds=1.0)), []
    for record in events:
        record(support)
    for second in range(8 * 3600):
        now = NOW + second
        if support.should_expect(SIZE, now):
            support.wait_began(now)
            assert not support.should_expect(SIZE, now)
            support.timed_out(now)
            support.wait_ended()
            asked.append(second)
    assert asked[:4] == [MINUTE, 3 * MINUTE, 7 * MINUTE, 15 * MINUTE]
    assert len(asked) < 16


def test_a_100_continue_that_comes_again_restores_expect() -> None:
    """One slow 100 does not end the use of Expect: the next one in time has every upload wait again."""
    support = ContinueSupport(Expect(above_bytes=1000, seconds=1.0))
    support.timed_out(NOW)
    support.wait_began(NOW + MINUTE)
    assert not support.should_expect(SIZE, NOW + MINUTE)
    support.confirmed()
    assert support.should_expect(SIZE, NOW + MINUTE)
    for _ in range(3):
        support.timed_out(NOW + MINUTE)
    assert not support.should_expect(SIZE, NOW + 2 * MINUTE - 1.0)
    assert support.should_expect(SIZE, NOW + 2 * MINUTE)


def test_a_417_ends_expect_for_good() -> None:
    """After a 417 no upload waits again, however much time passes."""
    support = ContinueSupport(Expect(above_bytes=1000, seconds=1.0))
    support.timed_out(NOW)
    support.refused()
    assert not support.should_expect(SIZE, NOW + 24 * 3600.0)


@pytest.mark.parametrize(("keeps_connections", "should_expect"), [(True, True), (False, False)])
def test_short_bodies_retry_only_where_connections_are_kept(keeps_connections: bool, should_expect: bool) -> None:
    """Short bodies retry for the connection's sake alone, as the first one did."""
    support = ContinueSupport(Expect(above_bytes=1000, seconds=1.0, keeps_connections=keeps_connections))
    support.timed_out(NOW)
    assert support.should_expect(1000, NOW + MINUTE) is should_expect


def test_the_wait_of_the_installed_aiohttp_can_be_ended() -> None:
    """Where this fails, Expect is never used: find the future in which aiohttp waits for the 100 now."""
    assert expectation.CAN_END_WAIT
