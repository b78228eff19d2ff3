"""The only thread that writes the ledger during a run: all waiting writes share one transaction.

While the ledger's server is away, the thread keeps the writes and tries again: their callers wait, so that nothing is
claimed, admitted or concluded. After a COMMIT whose answer was lost, the thread reads whether it was carried out.
"""

import asyncio
import threading
import time
from collections import deque
from collections.abc import Callable, Collection, Sequence
from contextlib import AbstractContextManager
from contextvars import copy_context
from dataclasses import dataclass
from itertools import groupby
from math import inf
from operator import attrgetter
from typing import Any, Concatenate, ParamSpec, Protocol, TypeVar

from sqlalchemy import Connection
from sqlalchemy.exc import DBAPIError

from uploader import logs
from uploader.errors import LedgerAwayError, LedgerUnavailableError, WorkerEndedError
from uploader.ledger.callbacks import accounts_of, apply_callback
from uploader.ledger.claiming import admit, claim
from uploader.ledger.database import Ledger
from uploader.ledger.lanes import reweigh_lanes
from uploader.ledger.outcomes import end_job, end_jobs, record_replies, record_reply
from uploader.ledger.standing import save_held_back
from uploader.ledger.workers import beat, leave_mark, read_commit
from uploader.policy.histogram import WRITE_BOUNDS, Histogram

log = logs.get_logger()

P = ParamSpec("P")
T = TypeVar("T")

# the most writes in one transaction
GROUP = 256
# the least mean of the seconds between the begins of two transactions, so that fewer commits carry many writes
COMMIT_SPACING_SECONDS = 0.01
# after a pause so many seconds of that spacing are left out: the steps of an item follow each other at once in a slow
# night, and at the end of a run
BURST_SECONDS = 0.25
# where transactions are long, more writes share one: the thread leaves the rest of a core to the event loop, which
# holds the interpreter's lock with it, as long as no write waits for more than so many seconds
CORE_SHARE = 0.06
MAX_COMMIT_SPACING_SECONDS = 0.025

# the waits, in seconds, between two tries while the ledger is away
FIRST_AWAY_WAIT_SECONDS, LONGEST_AWAY_WAIT_SECONDS = 0.05, 1.0
# a transaction that takes longer waits for a ledger that does not answer, or is away
STALLED_SECONDS = 2.0
# a server that is to be hurried has so many seconds for an answer
LEAST_PATIENCE_SECONDS = 5.0

Together = Callable[[Connection, list[Any]], Sequence[Any] | None]

# the functions that every item passes, each with the function for several values at once, whose statements cost little
# more than for one; that returns a result for each value, in order, or None
TOGETHER: dict[Callable[..., Any], Together] = {
    record_reply: record_replies,
    end_job: end_jobs,
}


class Writer(Protocol):
    """The executor of the ledger's functions, each in a transaction that is durable when the call returns."""

    async def call(self, function: Callable[Concatenate[Connection, P], T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Call ``function`` with a connection and these arguments; its exceptions are the caller's."""
        ...


@dataclass(slots=True)
class _Write:
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


class LedgerThread:
    """The ledger's writing thread: commits writes in groups, and wakes the callers once these are durable.

    Args:
        account_ids: The accounts whose items it writes, besides those that callbacks are about; none: all.
        worker_id: A worker of this process; its lease is the mark of each transaction on a server.
        away_seconds: For how long a server may be away before the writes that wait fail.
    """

    def __init__(
        self,
        ledger: Ledger,
        account_ids: Collection[int] = (),
        *,
        worker_id: int | None = None,
        away_seconds: float = 0.0,
    ) -> None:
        # for metrics: how long the transactions took
        self.write_seconds = Histogram(WRITE_BOUNDS)
        # the seconds in which the ledger was away, or did not answer
        self.stalled_seconds = 0.0
        # by the host's steady clock: the begin of the transaction under way
        self._begun_writing_at: float | None = None
        self._ledger = ledger
        self._account_ids = frozenset(account_ids)
        self._worker_id = worker_id if ledger.is_remote else None
        self._away_seconds = away_seconds
        # by the host's steady clock: since when the ledger is away, and until when it may be
        self._away_since: float | None = None
        self._away_until = inf
        # the mark of a transaction whose COMMIT has not been answered
        self._mark: float | None = None
        # the error after which only answers are written: a full disk, or a server that was away for too long
        self._full: LedgerUnavailableError | None = None
        self._waiting: deque[_Write] = deque()
        self._woken = threading.Event()
        self._is_closing = False
        # by the host's steady clock: the begin of the next transaction, were all of them evenly spaced
        self._spaced_at = 0.0
        # in this context, so that its events have the run's fields
        self._thread = threading.Thread(target=copy_context().run, args=(self._work,), name="ledger", daemon=True)
        self._thread.start()

    async def call(self, function: Callable[Concatenate[Connection, P], T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Call a function of the ledger in the next transaction.

        Raises:
            LedgerUnavailableError: The transaction could not be committed. Nothing of it is in the ledger, unless the
                server went away as it was committed and has not come back.
        """
        loop = asyncio.get_running_loop()
        write = _Write(function, args, kwargs, loop.create_future())
        self._waiting.append(write)
        # tasks that are ready in the loop may have more to write; a thread that is woken already sees this write
        if not self._woken.is_set():
            loop.call_soon(self._woken.set)
        answer: T = await write.answer
        return answer

    @property
    def is_away(self) -> bool:
        """True while the ledger's server cannot be reached."""
        return self._away_since is not None

    @property
    def is_stalled(self) -> bool:
        """True while the ledger is away, or does not answer."""
        begun = self._begun_writing_at
        return self.is_away or (begun is not None and time.monotonic() - begun > STALLED_SECONDS)

    def give_up_after(self, seconds: float) -> None:
        """Wait for a ledger that is away no longer than so many seconds from now on: the run is to end."""
        self._away_until = min(self._away_until, time.monotonic() + seconds)
        self._ledger.hurry(max(seconds, LEAST_PATIENCE_SECONDS))

    def close(self) -> None:
        """End the thread once all waiting writes are committed, or the ledger is found to be away."""
        self._is_closing = True
        self._away_until = time.monotonic()
        self._woken.set()
        self._thread.join()

    def _work(self) -> None:
        while group := self._gather():
            begun, cpu_begun = time.monotonic(), time.thread_time()
            self._mark, self._begun_writing_at = None, begun
            try:
                self._commit_once_back(group)
            except Exception as error:  # noqa: BLE001 - raised at the callers: a dead thread would leave them waiting
                _fail(group, error)
            self._begun_writing_at = None
            seconds = time.monotonic() - begun
            self.write_seconds.observe(seconds)
            if seconds > STALLED_SECONDS:
                self.stalled_seconds += seconds
            _answer(group)
            spacing = (time.thread_time() - cpu_begun) / CORE_SHARE
            spacing = min(max(spacing, COMMIT_SPACING_SECONDS), MAX_COMMIT_SPACING_SECONDS)
            self._spaced_at = max(self._spaced_at, begun) + spacing

    def _commit_once_back(self, group: list[_Write]) -> None:
        """Commit a group; while the ledger is away, wait, and add what comes meanwhile.

        Raises:
            LedgerAwayError: It was away for too long.
        """
        wait = FIRST_AWAY_WAIT_SECONDS
        while True:
            try:
                if not self._is_committed(group):
                    self._commit(sorted(group, key=attrgetter("turn")))
            except LedgerAwayError as error:
                self._wait_for_ledger(error, wait)
                wait = min(2 * wait, LONGEST_AWAY_WAIT_SECONDS)
                # an outcome that has come meanwhile goes before the admission of its attempt
                if self._mark is None:
                    group += self._take()
                continue
            self._end_away()
            return

    def _is_committed(self, group: list[_Write]) -> bool:
        """Return True where a COMMIT that was not answered has put the group into the ledger, results and all."""
        if self._mark is None or self._worker_id is None:
            return False
        with self._writing(()) as connection:
            found = read_commit(connection, self._worker_id, self._mark)
        self._mark = None
        log.info("ledger.commit_checked", committed=found.is_done)
        if found.is_done and found.is_worker_ended:
            # what it began and admitted has been taken from it meanwhile
            _fail([write for write in group if not write.is_outcome], WorkerEndedError())
        return found.is_done

    def _wait_for_ledger(self, error: LedgerAwayError, seconds: float) -> None:
        """Wait before the next try.

        Raises:
            LedgerAwayError: The ledger has been away for too long.
        """
        now = time.monotonic()
        if self._away_since is None:
            self._away_since = now
            log.warning("ledger.away", reason=error.reason, seconds=self._away_seconds)
        if self._full is not None or now >= min(self._away_since + self._away_seconds, self._away_until):
            self._full = error
            self._ledger.hurry(LEAST_PATIENCE_SECONDS)
            raise LedgerAwayError(f"{error} (it was away for {now - self._away_since:.0f} s)", error.reason)
        time.sleep(seconds)

    def _end_away(self) -> None:
        if self._away_since is not None:
            log.warning("ledger.back", seconds=round(time.monotonic() - self._away_since, 3))
            self._away_since = None

    def _gather(self) -> list[_Write]:
        """Wait for a write, then take all that wait; return none where the thread is closing."""
        while not self._waiting:
            if self._is_closing:
                return []
            self._woken.wait()
            self._woken.clear()
        rest = self._spaced_at - BURST_SECONDS - time.monotonic()
        if rest > 0.0:
            time.sleep(rest)
        return self._take()

    def _take(self) -> list[_Write]:
        """Take the writes that wait, as many as go into one transaction."""
        return [self._waiting.popleft() for _ in range(min(len(self._waiting), GROUP))]

    def _commit(self, group: list[_Write]) -> None:
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
            _fail(group, error)
            return
        self._full = error
        self._ledger.make_room()
        self._commit_outcomes(group, error)

    def _commit_outcomes(self, group: list[_Write], full: LedgerUnavailableError) -> None:
        """Commit the answers of a group with the reserve; fail its claims and admissions."""
        _fail([write for write in group if not write.is_outcome], full)
        outcomes = [write for write in group if write.is_outcome]
        if outcomes:
            _fail(outcomes, self._try_to_commit(outcomes))

    def _writing(self, group: Sequence[_Write]) -> AbstractContextManager[Connection]:
        """Begin the transaction of a group: it locks the thread's accounts and those of the group's callbacks."""
        own = self._account_ids
        if not own:
            return self._ledger.writing()
        # a listener may be told of attempts of other runs, and so of other accounts
        tokens = [write.args[0] for write in group if write.function is apply_callback]
        return self._ledger.writing(lambda connection: own | accounts_of(connection, tokens))

    def _try_to_commit(self, group: list[_Write]) -> Exception | None:
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

    def _commit_together(self, group: list[_Write]) -> bool:
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


def _fail(group: list[_Write], error: Exception | None) -> None:
    for write in group:
        write.error = write.error or error


def _apply_together(connection: Connection, group: list[_Write]) -> None:
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


def _apply_same(connection: Connection, function: Callable[..., Any], writes: list[_Write]) -> None:
    of_all = TOGETHER.get(function)
    if of_all is None:
        for write in writes:
            write.apply(connection)
        return
    results = of_all(connection, [write.args[0] for write in writes])
    if results is not None:
        for write, result in zip(writes, results, strict=True):
            write.result = result


def _apply(connection: Connection, write: _Write) -> None:
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


def _answer(group: list[_Write]) -> None:
    """Wake the callers, those of one event loop together."""
    for loop, writes in groupby(group, key=lambda write: write.answer.get_loop()):
        loop.call_soon_threadsafe(_wake, list(writes))


def _wake(writes: list[_Write]) -> None:
    for write in writes:
        if write.answer.done():
            continue  # the caller was cancelled; the write stays committed
        if write.error is not None:
            write.answer.set_exception(write.error)
        else:
            write.answer.set_result(write.result)


__all__ = ["LedgerThread", "Writer"]
