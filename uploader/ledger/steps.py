"""Parts the merge of a load into steps, so that nobody waits for the ledger for long."""

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext

from sqlalchemy import Connection, func, select

from uploader.ledger.staging import touched

# a step takes about so long: whoever else writes waits no longer
STEP_SECONDS = 0.15
# rows, or lanes, of the first step
FIRST_SIZE = 500
LEAST_SIZE = 50
# the most by which one step is larger than the one before
GROWTH = 2.0
_ALL = 2**62

Transaction = Callable[[], AbstractContextManager[object]]

# the last lane of the next step: so many of those that the load concerns, after the last lane of the step before
_next = select(touched.c.lane_id).order_by(touched.c.lane_id)


class Steps:
    """The transactions of a merge: its writes in short ones, one after the other, or all in the caller's own.

    Args:
        connection: The stage's connection; in a transaction where there is but the caller's.
        locked: Begins a transaction with the accounts locked; None: all is done in the caller's transaction.
    """

    def __init__(self, connection: Connection, locked: Transaction | None = None) -> None:
        self.connection = connection
        self._locked = locked
        self._size = _ALL

    @property
    def are_short(self) -> bool:
        """True where each step is a transaction of its own."""
        return self._locked is not None

    def unlocked(self) -> AbstractContextManager[object]:
        """Begin a transaction that writes the stage alone."""
        return nullcontext() if self._locked is None else self.connection.begin()

    def locked(self) -> AbstractContextManager[object]:
        """Begin a transaction that writes the ledger."""
        return nullcontext() if self._locked is None else self._locked()

    def over_lines(self, first: int, last: int, write: Callable[[Mapping[str, int]], object]) -> None:
        """Write the ledger range by range of these lines.

        Args:
            first: The first line.
            last: The last line.
            write: Writes a range, which it is given as parameters of statements.
        """
        self._begin()
        while first <= last:
            until = min(first + self._size - 1, last)
            with self._step():
                write({"from_line": first, "to_line": until})
            first = until + 1

    def over_lanes(self, write: Callable[[Mapping[str, int]], object]) -> None:
        """Write the ledger range by range of the lanes that the load concerns, each lane as a whole.

        Args:
            write: Writes a range, which it is given as parameters of statements.
        """
        self._begin()
        last = -1
        while True:
            with self.unlocked():
                some = _next.where(touched.c.lane_id > last).limit(self._size).subquery()
                until = self.connection.execute(select(func.max(some.c.lane_id))).scalar()
            if until is None:
                return
            with self._step():
                write({"from_lane": last + 1, "to_lane": until})
            last = until

    def _begin(self) -> None:
        self._size = _ALL if self._locked is None else FIRST_SIZE

    @contextmanager
    def _step(self) -> Iterator[None]:
        """Begin a transaction that writes the ledger, and set the size of the next one by the time that it takes."""
        with self.locked():
            begun = time.monotonic()
            yield
        if self._locked is not None:
            seconds = time.monotonic() - begun
            factor = min(GROWTH, STEP_SECONDS / max(seconds, 1e-6))
            self._size = max(LEAST_SIZE, int(self._size * factor))
