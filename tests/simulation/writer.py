"""The ledger as one process of a world reaches it, and the process's writer.

What becomes of a commit whose answer is lost is the product's own decision (``ledger.commits``).
"""

import asyncio
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from typing import Any, Concatenate, ParamSpec, TypeVar, cast

from sqlalchemy import Connection

from tests.simulation.ledgers import SharedLedger
from tests.simulation.process import STEPS, KilledError, Process
from tests.simulation.world import Disk
from uploader.errors import LedgerAwayError, LedgerUnavailableError
from uploader.ledger.commits import GroupCommits, Write, fail
from uploader.ledger.database import Ledger, driver
from uploader.ledger.outcomes import record_reply

P = ParamSpec("P")
T = TypeVar("T")

# for how long a process waits for a ledger that is away
AWAY_SECONDS = 60.0
# the share of moments between two steps in which a process dies that is to die
DEATHS = 0.2
# the turns of others between two steps
TURNS = (0, 0, 5, 50)


class ReachedLedger:
    """The ledger as one process reaches it, as far as a ``Ledger`` is asked for here.

    Args:
        process: The process.
        shared: The ledger.
        disk: The ledger's disk, which may be full.
        is_remote: The ledger is on a server.
        others_go_on: Lets the other processes go on for so many turns while this one stands still.
    """

    def __init__(
        self,
        process: Process,
        shared: SharedLedger,
        disk: Disk,
        *,
        is_remote: bool,
        others_go_on: Callable[[Process, int], None],
    ) -> None:
        self.is_remote = is_remote
        self._process = process
        self._shared = shared
        self._disk = disk
        self._others_go_on = others_go_on

    def as_ledger(self) -> Ledger:
        """Return it as the product's type."""
        return cast("Ledger", self)

    @contextmanager
    def writing(self, accounts: object = None) -> Iterator[Connection]:
        """Give a connection in a transaction, with all accounts locked."""
        del accounts
        with self._committed() as lose, self._shared.writing(self._process) as connection:
            yield connection
            lose()

    @contextmanager
    def staging(self) -> Iterator[Connection]:
        """Give a connection whose transactions lock nothing until they write."""
        self._check()
        with self._shared.connecting() as connection:
            yield connection

    @contextmanager
    def locking(self, connection: Connection, account_ids: Collection[int]) -> Iterator[None]:
        """Begin a transaction on a connection that ``staging`` gave, after others had the ledger."""
        del account_ids
        self._stand(connection)
        with self._committed() as lose, connection.begin():
            yield
            lose()

    def moved(self) -> None:
        """Return None: the ledger is where it was."""

    def make_room(self) -> None:
        """Do nothing: the disk has no reserve."""

    def hurry(self, seconds: float) -> None:
        """Do nothing: whoever is away is known to be at once."""

    def _check(self) -> None:
        """Raise where the ledger cannot be written now."""
        self._process.check()
        if self._disk.is_full(self._process.world_now()):
            raise LedgerUnavailableError("the disk is full")
        if self._process.is_without_ledger():
            raise LedgerAwayError("the ledger cannot be reached")

    @contextmanager
    def _committed(self) -> Iterator[Callable[[], None]]:
        """Perhaps lose the answer to the block's commit; give a function that perhaps loses the commit itself."""
        self._check()
        rng, share = self._process.rng, self._process.troubles.lost_commits
        is_lost = share > 0.0 and rng.random() < share

        def lose() -> None:
            if is_lost and rng.random() < 0.5:
                raise LedgerAwayError("the connection was lost before the commit")

        yield lose
        if is_lost:
            raise LedgerAwayError("the connection was lost after the commit")

    def _stand(self, connection: Connection) -> None:
        """Stand still between two steps, and perhaps die."""
        process, raw = self._process, driver(connection)
        if process.dies_at is not None and process.rng.random() < DEATHS:
            raise KilledError
        # on one connection, the temporary tables of all are the same
        is_made = raw.execute("SELECT 1 FROM sqlite_temp_master WHERE name = 'touched'").fetchone()
        touched = raw.execute("SELECT lane_id FROM touched").fetchall() if is_made else []
        self._others_go_on(process, process.rng.choice(TURNS))
        if is_made:
            raw.execute("DELETE FROM touched")
            raw.executemany("INSERT INTO touched (lane_id) VALUES (?)", touched)


class SimulatedWriter:
    """The ledger's writing thread as tasks of the process's loop: one transaction at a time, with what waits.

    Args:
        process: The process.
        ledger: The ledger as it reaches it.
        disk: Learns of outcomes that could not be written.
        worker_id: Its worker.
    """

    def __init__(self, process: Process, ledger: ReachedLedger, disk: Disk, worker_id: int) -> None:
        self._process = process
        self._disk = disk
        self._commits = GroupCommits(
            ledger.as_ledger(), worker_id=worker_id, away_seconds=AWAY_SECONDS, clock=process.loop.time
        )
        self._waiting: list[Write] = []
        self._working: asyncio.Task[None] | None = None

    async def call(self, function: Callable[Concatenate[Connection, P], T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Call a function of the ledger in the next transaction."""
        await asyncio.sleep(self._process.ledger_seconds())
        write = Write(function, args, kwargs, self._process.loop.create_future())
        self._waiting.append(write)
        if self._working is None:
            self._working = self._process.loop.create_task(self._work())
        answer: T = await write.answer
        return answer

    async def close(self) -> None:
        """Commit what waits, and wait no longer for a ledger that is away."""
        self._commits.stop_waiting()
        while self._working is not None:
            await asyncio.wait({self._working})

    async def _work(self) -> None:
        try:
            while group := self._take():
                await self._commit(group)
        finally:
            self._working = None

    async def _commit(self, group: list[Write]) -> None:
        try:
            for wait in self._commits.commit(group, self._take):
                await asyncio.sleep(wait)
        except Exception as error:  # noqa: BLE001 - raised at the callers, as the thread does
            fail(group, error)
        for write in group:
            if write.function is record_reply and isinstance(write.error, LedgerUnavailableError):
                record: Any = write.args[0]
                self._disk.keep_out(record.claim.conversation_id, record.claim.path)
            self._process.passes(STEPS.get(write.function.__name__, ""))
        await asyncio.sleep(self._process.ledger_seconds())
        for write in group:
            _answer(write)

    def _take(self) -> list[Write]:
        taken, self._waiting = self._waiting, []
        return taken


def _answer(write: Write) -> None:
    """Wake the caller, where it has not been cancelled; the write stays committed."""
    if write.answer.done():
        return
    if write.error is not None:
        write.answer.set_exception(write.error)
    else:
        write.answer.set_result(write.result)
