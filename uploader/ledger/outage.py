"""The outages of a ledger's server: the waits between two tries, and when it has been away for too long."""

import time
from collections.abc import Callable
from math import inf

from uploader import logs
from uploader.errors import LedgerAwayError

log = logs.get_logger()

# the waits, in seconds, between two tries while the server is away
FIRST_WAIT_SECONDS, LONGEST_WAIT_SECONDS = 0.05, 1.0


class Outage:
    """The outages of a server, one after the other.

    Args:
        most_seconds: For how long the server may be away at a time.
        clock: The host's steady clock.
    """

    def __init__(self, most_seconds: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._most_seconds = most_seconds
        self._clock = clock
        # by the clock: since when the server is away; None: it can be reached
        self._since: float | None = None
        self._wait = FIRST_WAIT_SECONDS

    @property
    def is_on(self) -> bool:
        """True while the server cannot be reached."""
        return self._since is not None

    def begin(self, error: LedgerAwayError) -> float:
        """Log that the server is away, unless that is known; return since when it is, by the clock."""
        if self._since is None:
            self._since, self._wait = self._clock(), FIRST_WAIT_SECONDS
            log.warning("ledger.away", reason=error.reason, seconds=self._most_seconds)
        return self._since

    def wait_seconds(self, error: LedgerAwayError, until: float = inf) -> float:
        """Return the seconds to wait before the next try.

        Args:
            error: The failure of the latest try.
            until: When the server is waited for no longer, by the clock, however short it was away.

        Raises:
            LedgerAwayError: The server has been away for too long.
        """
        since, now = self.begin(error), self._clock()
        if now >= min(since + self._most_seconds, until):
            raise LedgerAwayError(f"{error} (it was away for {now - since:.0f} s)", error.reason) from error
        wait, self._wait = self._wait, min(2 * self._wait, LONGEST_WAIT_SECONDS)
        return wait

    def end(self) -> None:
        """Log that the server is back, where it was away."""
        if self._since is not None:
            log.warning("ledger.back", seconds=round(self._clock() - self._since, 3))
            self._since = None
