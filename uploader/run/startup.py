"""Begins a run on its ledger, and carries that on where the ledger's server was away in the middle of it."""

import time
from collections.abc import Callable
from contextlib import suppress
from typing import TypeVar

from uploader import logs
from uploader.errors import LedgerAwayError, LedgerUnavailableError
from uploader.ledger import Connection, Ledger
from uploader.ledger.commits import FIRST_AWAY_WAIT_SECONDS, LONGEST_AWAY_WAIT_SECONDS

log = logs.get_logger()
T = TypeVar("T")

# a load that has lost its server so often is what the server does not bear: a full disk, say
MOST_LOSSES = 20
# after a failure, the longest wait for an answer to what only spares the other runs a wait
TIDYING_SECONDS = 1.0


class Startup:
    """The start of a run on a ledger; what the ledger's server has interrupted begins anew once that is back.

    Args:
        ledger: The ledger, open for a run.
        away_seconds: For how long its server may be away at a time.
        check_stop: Raises where the run is to stop; called again and again.
    """

    def __init__(self, ledger: Ledger, away_seconds: float, check_stop: Callable[[], None]) -> None:
        self.ledger = ledger
        self.check_stop = check_stop
        self._away_seconds = away_seconds
        self._is_away = False
        # end what a try has left in the ledger, once it can be written
        self._ends: list[Callable[[Connection], object]] = []

    def end_later(self, end: Callable[[Connection], object]) -> None:
        """Let a function end what a failed try has left in the ledger, before the next try or at the run's end."""
        self._ends.append(end)

    def run(self, function: Callable[[], T]) -> T:
        """Call a function that uses the ledger, and call it again where it was interrupted: it has to carry on.

        Raises:
            LedgerAwayError: The server was away for too long, or again and again.
        """
        try:
            for _ in range(MOST_LOSSES):
                try:
                    return function()
                except LedgerAwayError as error:
                    self._wait(error)
            return function()
        except BaseException as error:
            self._give_up(error)
            raise

    def _wait(self, error: LedgerAwayError) -> None:
        """Wait until the server is back, and end what the interrupted try has left.

        Raises:
            LedgerAwayError: It is away for too long.
        """
        begun, wait = time.monotonic(), FIRST_AWAY_WAIT_SECONDS
        self._is_away = True
        log.warning("ledger.away", reason=error.reason, seconds=self._away_seconds)
        while True:
            self.check_stop()
            seconds = time.monotonic() - begun
            if seconds >= self._away_seconds:
                raise LedgerAwayError(f"{error} (it was away for {seconds:.0f} s)", error.reason) from error
            time.sleep(wait)
            wait = min(2 * wait, LONGEST_AWAY_WAIT_SECONDS)
            try:
                self.ledger.hold_again()
                self._end()
            except LedgerAwayError as again:
                error = again
                continue
            self._is_away = False
            log.warning("ledger.back", seconds=round(time.monotonic() - begun, 3))
            return

    def _give_up(self, error: BaseException) -> None:
        """End what the last try has left; where the ledger is away, another run ends it."""
        if self._is_away or isinstance(error, LedgerAwayError):
            # it has been waited for already
            self.ledger.hurry(TIDYING_SECONDS)
        with suppress(LedgerUnavailableError):
            self._end()

    def _end(self) -> None:
        if self._ends:
            with self.ledger.writing() as connection:
                for end in self._ends:
                    end(connection)
            self._ends.clear()
