"""The rate of requests: first come, first served, one waiter in the throttle at a time."""

import asyncio
from typing import cast

import pytest
from asyncio_throttle.throttler import Throttler

from uploader.pace import Pace


class Watched:
    """Stands in the throttle's place, lets one through after the other, and counts those inside."""

    def __init__(self) -> None:
        self.inside = 0
        self.most = 0

    async def acquire(self) -> None:
        """Let the others run a while before this one may go."""
        self.inside += 1
        self.most = max(self.most, self.inside)
        for _ in range(5):
            await asyncio.sleep(0)
        self.inside -= 1


async def test_who_comes_first_goes_first_and_nobody_polls_beside() -> None:
    """A hundred waiters are served in their order, and only one of them is in the polling throttle."""
    pace = Pace(10.0)
    watched = Watched()
    pace._throttle = cast("Throttler", watched)
    served: list[int] = []

    async def wait(number: int) -> None:
        await pace.wait()
        served.append(number)

    await asyncio.gather(*[wait(number) for number in range(100)])
    assert served == list(range(100))
    assert watched.most == 1


async def test_a_waiter_that_gives_up_does_not_block_the_next() -> None:
    """A cancelled wait passes its turn on."""
    pace = Pace(10.0)
    pace._throttle = cast("Throttler", Watched())
    waiters = [asyncio.ensure_future(pace.wait()) for _ in range(3)]
    await asyncio.sleep(0)
    waiters[0].cancel()
    done, _ = await asyncio.wait(waiters)
    assert [waiter.cancelled() for waiter in waiters] == [True, False, False]
    assert len(done) == 3


@pytest.mark.parametrize("per_second", [0.01, 0.5, 1.0, 1.9, 7.0, 10.0, 333.3, 100_000.0])
def test_the_throttle_is_set_to_the_rate(per_second: float) -> None:
    """Requests per period are exactly the rate; a burst is at most a second's requests."""
    throttle = Pace(per_second)._throttle
    assert throttle.rate_limit / throttle.period == pytest.approx(per_second)
    assert 1 <= throttle.rate_limit <= max(1.0, per_second)
    assert throttle.period <= max(1.0, 1.0 / per_second)
