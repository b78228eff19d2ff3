"""Begins a run on its ledger, and carries that on where the ledger's server was away in the middle of it."""

import time
from collections.abc import Callable
from contextlib import suppress
from typing import TypeVar

from uploader.errors import LedgerAwayError, LedgerUnavailableError
from uploader.ledger import Connection, Ledger
from uploader.ledger.outage import Outage

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
        self._outage = Outage(away_seconds)
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
        self._outage.begin(error)
        while True:
            self.check_stop()
            time.sleep(self._outage.wait_seconds(error))
            try:
                self.ledger.hold_again()
                self._end()
            except LedgerAwayError as again:
                error = again
                continue
            self._outage.end()
            return

    def _give_up(self, error: BaseException) -> None:
        """End what the last try has left; where the ledger is away, another run ends it."""
        if self._outage.is_on or isinstance(error, LedgerAwayError):
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
