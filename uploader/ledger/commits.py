"""Commits writes of the ledger in groups; a COMMIT that was not answered is looked up, never guessed."""

import time
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from itertools import groupby
from math import inf
from operator import attrgetter
from typing import TYPE_CHECKING, Any

from sqlalchemy import Connection
from sqlalchemy.exc import DBAPIError

from uploader import logs
from uploader.errors import LedgerAwayError, LedgerUnavailableError, WorkerEndedError
from uploader.ledger.callbacks import accounts_of, apply_callback
from uploader.ledger.claiming import admit, claim
from uploader.ledger.database import Ledger
from uploader.ledger.lanes import reweigh_lanes
from uploader.ledger.outage import Outage
from uploader.ledger.outcomes import end_job, end_jobs, record_replies, record_reply
from uploader.ledger.standing import save_held_back
from uploader.ledger.workers import beat, leave_mark, read_commit

if TYPE_CHECKING:
    import asyncio

log = logs.get_logger()

# a server that is to be hurried has so many seconds for an answer
LEAST_PATIENCE_SECONDS = 5.0

Together = Callable[[Connection, list[Any]], Sequence[Any] | None]

# the functions that every item passes, each with the function for several values at once, whose statements cost little
# more than for one; that returns a result for each value, in order, or None
TOGETHER: dict[Callable[..., Any], Together] = {
    record_reply: record_replies,
    end_job: end_jobs,
}


@dataclass(slots=True)
class Write:
    """A write that waits."""

    function: Callable[..., Any]
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    answer: "asyncio.Future[Any]"
    result: Any = None
    error: BaseException | None = None

    @property
    def turn(self) -> int:
        """Order writes so that admissions and claims see the callbacks and outcomes of their transaction."""
        return _TURNS.get(self.function, 2)

    @property
    def is_outcome(self) -> bool:
        """Return True where the write records an answer, so that it may use the last reserve of a full disk."""
        return self.function not in (admit, claim, beat, reweigh_lanes, save_held_back)

    def apply(self, connection: Connection) -> None:
        """Run the write alone."""
        self.result = self.function(connection, *self.args, **self.kwargs)


_TURNS: dict[Callable[..., Any], int] = {apply_callback: 0, admit: 3, claim: 4}


class GroupCommits:
    """The commits of one writer, a group of writes in each.

    Args:
        ledger: The ledger.
        account_ids: The accounts whose items it writes, besides those that callbacks are about; none: all.
        worker_id: A worker of this process; its lease is the mark of each transaction on a server.
        away_seconds: For how long a server may be away before the writes that wait fail.
        clock: The host's steady clock.
    """

    def __init__(
        self,
        ledger: Ledger,
        account_ids: Collection[int] = (),
        *,
        worker_id: int | None = None,
        away_seconds: float = 0.0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._ledger = ledger
        self._account_ids = frozenset(account_ids)
        self._worker_id = worker_id if ledger.is_remote else None
        self._clock = clock
        self._outage = Outage(away_seconds, clock)
        # by the clock: until when the ledger may be away
        self._away_until = inf
        # the mark of a transaction whose COMMIT has not been answered
        self._mark: float | None = None
        # the error after which only answers are written: a full disk, or a server that was away for too long
        self._full: LedgerUnavailableError | None = None

    @property
    def is_away(self) -> bool:
        """True while the ledger's server cannot be reached."""
        return self._outage.is_on

    def give_up_after(self, seconds: float) -> None:
        """Wait for a ledger that is away no longer than so many seconds from now on, and hurry it."""
        self._away_until = min(self._away_until, self._clock() + seconds)
        self._ledger.hurry(max(seconds, LEAST_PATIENCE_SECONDS))

    def stop_waiting(self) -> None:
        """Wait for a ledger that is away no longer."""
        self._away_until = self._clock()

    def commit(self, group: list[Write], more: Callable[[], list[Write]] = list) -> Iterator[float]:
        """Commit a group; while the ledger is away, yield the seconds to wait before the next try.

        Args:
            group: The writes, which get their results and errors; those that come meanwhile are added.
            more: Returns the writes that have come meanwhile.

        Raises:
            LedgerAwayError: It was away for too long.
        """
        self._mark = None
        while True:
            try:
                if not self._is_committed(group):
                    self._commit(sorted(group, key=attrgetter("turn")))
            except LedgerAwayError as error:
                yield self._wait_seconds(error)
                # an outcome that has come meanwhile goes before the admission of its attempt
                if self._mark is None:
                    group += more()
                continue
            self._outage.end()
            return

    def _is_committed(self, group: list[Write]) -> bool:
        """Return True where a COMMIT that was not answered has put the group into the ledger, results and all."""
        if self._mark is None or self._worker_id is None:
            return False
        with self._writing(()) as connection:
            found = read_commit(connection, self._worker_id, self._mark)
        self._mark = None
        log.info("ledger.commit_checked", committed=found.is_done)
        if found.is_done and found.is_worker_ended:
            # what it began and admitted has been taken from it meanwhile
            fail([write for write in group if not write.is_outcome], WorkerEndedError())
        return found.is_done

    def _wait_seconds(self, error: LedgerAwayError) -> float:
        """Return the seconds to wait for a ledger that is away, before the next try.

        Raises:
            LedgerAwayError: The ledger has been away for too long; from now on answers alone are written.
        """
        try:
            return self._outage.wait_seconds(error, -inf if self._full is not None else self._away_until)
        except LedgerAwayError:
            self._full = error
            self._ledger.hurry(LEAST_PATIENCE_SECONDS)
            raise

    def _commit(self, group: list[Write]) -> None:
        """Commit a group; on a full disk only answers, from the last reserve."""
        if self._full is None and not all(write.is_outcome for write in group):
            self._full = self._ledger.moved()
        if self._full is not None:
            self._commit_outcomes(group, self._full)
            return
        error = self._try_to_commit(group)
        if error is None:
            return
        if isinstance(error, LedgerAwayError):
            raise error
        if not isinstance(error, LedgerUnavailableError):
            fail(group, error)
            return
        self._full = error
        self._ledger.make_room()
        self._commit_outcomes(group, error)

    def _commit_outcomes(self, group: list[Write], full: LedgerUnavailableError) -> None:
        """Commit the answers of a group with the reserve; fail its claims and admissions."""
        fail([write for write in group if not write.is_outcome], full)
        outcomes = [write for write in group if write.is_outcome]
        if outcomes:
            fail(outcomes, self._try_to_commit(outcomes))

    def _writing(self, group: Sequence[Write]) -> AbstractContextManager[Connection]:
        """Begin the transaction of a group: it locks the thread's accounts and those of the group's callbacks."""
        own = self._account_ids
        if not own:
            return self._ledger.writing()
        # a listener may be told of attempts of other runs, and so of other accounts
        tokens = [write.args[0] for write in group if write.function is apply_callback]
        return self._ledger.writing(lambda connection: own | accounts_of(connection, tokens))

    def _try_to_commit(self, group: list[Write]) -> Exception | None:
        for write in group:
            write.error = None
        try:
            if not self._commit_together(group):
                with self._writing(group) as connection:
                    for write in group:
                        _apply(connection, write)
                    self._leave_mark(connection)
            self._mark = None
        except LedgerAwayError as error:
            return error
        except Exception as error:  # noqa: BLE001 - raised at the callers: a dead thread would leave them waiting
            self._mark = None
            return error
        return None

    def _leave_mark(self, connection: Connection) -> None:
        """Leave the mark of a transaction on a server as its last statement."""
        if self._worker_id is not None:
            self._mark = leave_mark(connection, self._worker_id)

    def _commit_together(self, group: list[Write]) -> bool:
        """Commit a group as one; return False, with nothing written, where one write has a fault of its own."""
        try:
            with self._writing(group) as connection:
                _apply_together(connection, group)
                self._leave_mark(connection)
        except _WriteFaultError:
            return False
        return True


class _WriteFaultError(Exception):
    """The fault of a single write in a group, which is then written one by one."""


def fail(group: list[Write], error: Exception | None) -> None:
    """Fail the writes of a group that have not failed yet."""
    for write in group:
        write.error = write.error or error


def _apply_together(connection: Connection, group: list[Write]) -> None:
    """Apply all writes of a group, those of one kind in one statement.

    Raises:
        _WriteFaultError: One of them fails; applied alone, it fails again, and its error is its caller's.
    """
    try:
        for function, same in groupby(group, key=attrgetter("function")):
            _apply_same(connection, function, list(same))
    except Exception as error:
        if isinstance(error, DBAPIError) and not _is_fault_of_the_write(error):
            raise
        raise _WriteFaultError from error


def _apply_same(connection: Connection, function: Callable[..., Any], writes: list[Write]) -> None:
    of_all = TOGETHER.get(function)
    if of_all is None:
        for write in writes:
            write.apply(connection)
        return
    results = of_all(connection, [write.args[0] for write in writes])
    if results is not None:
        for write, result in zip(writes, results, strict=True):
            write.result = result


def _apply(connection: Connection, write: Write) -> None:
    """Apply one write; a fault of its own fails it alone, a fault of the disk fails the transaction."""
    try:
        with connection.begin_nested():
            write.apply(connection)
    except DBAPIError as error:
        if not _is_fault_of_the_write(error):
            raise
        write.error = error
    except Exception as error:  # noqa: BLE001 - raised at the caller
        write.error = error


def _is_fault_of_the_write(error: DBAPIError) -> bool:
    faults = ("IntegrityError", "ProgrammingError", "DataError", "InterfaceError")
    return not error.connection_invalidated and type(error).__name__ in faults
