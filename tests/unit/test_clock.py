"""A server's clock, as it goes on by the host's steady one between two looks at it."""

import pytest

from uploader.ledger.clock import MOST_DRIFT, READ_CLOCK_SECONDS, ServerClock

NIGHT = 8 * 3600.0


class Host:
    """A host's steady clock."""

    def __init__(self) -> None:
        self.seconds = 500.0

    def __call__(self) -> float:
        """Return its seconds."""
        return self.seconds


@pytest.mark.parametrize("drift", [-2e-4, 2e-4])
def test_a_host_whose_clock_drifts_keeps_the_servers_time(drift: float) -> None:
    """Over a night it would be seconds away; looked at each ten seconds, it never is by a hundredth of one."""
    host, server = Host(), 1_000_000.0
    clock = ServerClock(server, host)
    while host.seconds < NIGHT:
        host.seconds += READ_CLOCK_SECONDS
        server += READ_CLOCK_SECONDS * (1.0 + drift)
        assert clock.is_due
        clock.follow(server)
        assert abs(clock() - server) < 0.01
        assert not clock.is_due


@pytest.mark.parametrize("jump", [-3600.0, 3600.0])
def test_a_jump_of_the_servers_clock_moves_no_deadline(jump: float) -> None:
    """It is followed as slowly as clocks drift, and the time never runs backwards."""
    host = Host()
    clock = ServerClock(1_000_000.0, host)
    times = [clock()]
    for number in range(1, 91):
        host.seconds += READ_CLOCK_SECONDS
        clock.follow(1_000_000.0 + 10.0 * number + jump)
        times += [clock()]
    assert times == sorted(times)
    assert abs(times[-1] - times[0] - 900.0) <= 900.0 * MOST_DRIFT + 1e-6
