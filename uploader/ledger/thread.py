"""The one thread that writes the ledger while a run is on: what is waiting goes in one transaction."""

import asyncio
import queue
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Concatenate, ParamSpec, Protocol, TypeVar

from sqlalchemy import Connection
from sqlalchemy.exc import DBAPIError

from uploader.errors import LedgerUnavailableError
from uploader.ledger.claiming import claim, mark
from uploader.ledger.opening import Ledger

P = ParamSpec("P")
T = TypeVar("T")

GROUP = 256
"""The most writes in one transaction."""


class Writer(Protocol):
    """Whoever carries out the ledger's functions, each in a transaction that is durable when it returns."""

    async def call(self, function: Callable[Concatenate[Connection, P], T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Call ``function`` with a connection and these arguments; its exceptions are the caller's."""
        ...


@dataclass(order=True)
class _Write:
    """A write that waits. Claims come after outcomes: what an outcome frees, the claim sees."""

    is_claim: bool
    is_outcome: bool = field(compare=False)
    function: Callable[[Connection], Any] = field(compare=False)
    loop: asyncio.AbstractEventLoop = field(compare=False)
    answer: "asyncio.Future[Any]" = field(compare=False)
    result: Any = field(default=None, compare=False)
    error: BaseException | None = field(default=None, compare=False)


class LedgerThread:
    """Writes the ledger in a thread of its own, in groups, and wakes the callers once all is durable."""

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger
        self._full: LedgerUnavailableError | None = None
        self._waiting: queue.SimpleQueue[_Write | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._work, name="ledger", daemon=True)
        self._thread.start()

    async def call(self, function: Callable[Concatenate[Connection, P], T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Call a function of the ledger in the next transaction.

        Raises:
            LedgerUnavailableError: The transaction could not be committed; nothing of it is in the ledger.
        """
        loop = asyncio.get_running_loop()
        bound: Callable[[Connection], T] = partial(_bound, function, args, kwargs)
        is_claim = function is claim
        write = _Write(is_claim, not is_claim and function is not mark, bound, loop, loop.create_future())
        self._waiting.put(write)
        answer: T = await write.answer
        return answer

    def close(self) -> None:
        """End the thread once everything that waits is written."""
        self._waiting.put(None)
        self._thread.join()

    def _work(self) -> None:
        open_for_more = True
        while open_for_more:
            group, open_for_more = self._gather()
            if group:
                try:
                    self._commit(sorted(group))
                except Exception as error:  # noqa: BLE001 - it is the callers': a dead thread would leave them waiting
                    _fail(group, error)
                for write in group:
                    write.loop.call_soon_threadsafe(_answer, write)

    def _gather(self) -> tuple[list[_Write], bool]:
        """Wait for a write, then take all that wait; False where the end was among them."""
        write = self._waiting.get()
        group: list[_Write] = []
        while write is not None:
            group.append(write)
            if len(group) == GROUP or self._waiting.empty():
                return group, True
            write = self._waiting.get()
        return group, False

    def _commit(self, group: list[_Write]) -> None:
        """Commit a group; where the disk is full, no new claim, but what came back with the last reserve."""
        if self._full is not None:
            self._commit_outcomes(group, self._full)
            return
        error = self._try_to_commit(group)
        if error is None:
            return
        if not isinstance(error, LedgerUnavailableError):
            _fail(group, error)
            return
        self._full = error
        self._ledger.make_room()
        self._commit_outcomes(group, error)

    def _commit_outcomes(self, group: list[_Write], full: LedgerUnavailableError) -> None:
        """The reserve is for what came back: no new attempt, and no last chunk more, may eat of it."""
        _fail([write for write in group if not write.is_outcome], full)
        outcomes = [write for write in group if write.is_outcome]
        if outcomes:
            _fail(outcomes, self._try_to_commit(outcomes))

    def _try_to_commit(self, group: list[_Write]) -> Exception | None:
        try:
            with self._ledger.writing() as connection:
                for write in group:
                    write.error = None
                    _apply(connection, write)
        except Exception as error:  # noqa: BLE001 - a thread that died of it would leave its callers waiting
            return error
        return None


def _fail(group: list[_Write], error: Exception | None) -> None:
    for write in group:
        write.error = write.error or error


def _bound(function: Callable[..., T], args: tuple[Any, ...], kwargs: dict[str, Any], connection: Connection) -> T:
    return function(connection, *args, **kwargs)


def _apply(connection: Connection, write: _Write) -> None:
    """Apply one write; a fault of its own fails it alone, a fault of the disk fails the transaction."""
    try:
        with connection.begin_nested():
            write.result = write.function(connection)
    except DBAPIError as error:
        if error.connection_invalidated or not _is_fault_of_the_write(error):
            raise
        write.error = error
    except Exception as error:  # noqa: BLE001 - it is the caller's, and is raised there
        write.error = error


def _is_fault_of_the_write(error: DBAPIError) -> bool:
    return type(error).__name__ in ("IntegrityError", "ProgrammingError", "DataError", "InterfaceError")


def _answer(write: _Write) -> None:
    if write.answer.done():
        return  # the caller was cancelled; the write stands all the same
    if write.error is not None:
        write.answer.set_exception(write.error)
    else:
        write.answer.set_result(write.result)


__all__ = ["LedgerThread", "Writer"]
