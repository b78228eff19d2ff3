"""This process as a worker of an account: keeps its lease, and takes over what ended workers leave."""

import asyncio
from collections.abc import Callable, Sequence
from contextlib import suppress

from uploader import logs
from uploader.ledger.leases import LEASE_SECONDS
from uploader.ledger.thread import Writer
from uploader.ledger.workers import SPARE_SECONDS, beat
from uploader.model import LiveJob
from uploader.settings import Settings

log = logs.get_logger()

# seconds between two renewals of the lease
RENEW_SECONDS = 10.0
# seconds between two looks at the ledger while other workers change it
LOOK_SECONDS = 1.0


class Worker:
    """A worker of an account.

    Args:
        worker_id: The worker's id in the ledger.
        batch_id: Its batch; None: every batch.
        now: Seconds since the epoch, never running backwards and never jumping.
        is_gone: Returns True where the process of a worker is known to be dead.
        looks_for_work: Returns True where this worker would begin an attempt, had the account a slot for it.
        on_beat: Called after each look at the ledger, with the jobs that this worker follows from now on, and whether
            the ledger may have changed.
    """

    def __init__(
        self,
        *,
        writer: Writer,
        worker_id: int,
        account_id: int,
        batch_id: int | None,
        settings: Settings,
        now: Callable[[], float],
        is_gone: Callable[[str], bool],
        looks_for_work: Callable[[], bool],
        on_beat: Callable[[Sequence[LiveJob], bool], None],
    ) -> None:
        self.worker_id = worker_id
        self.batch_id = batch_id
        # other workers of the account are alive, as the latest look has found
        self.has_others = False
        # with them, nothing of the batch can move any more
        self.is_batch_over = False
        self._writer = writer
        self._account_id = account_id
        self._settings = settings
        self._now = now
        self._is_gone = is_gone
        self._looks_for_work = looks_for_work
        self._on_beat = on_beat
        self._lease_until = now() + LEASE_SECONDS
        # from then on this worker ends those whose lease is over: a long load, a suspended host, or a ledger that was
        # away keeps all workers from their renewals, and the first to come back is not to end the others
        self._ends_others_from = self._lease_until
        self._woken = asyncio.Event()

    def has_lease(self) -> bool:
        """Return True where no other worker can have ended this one: a last chunk may leave."""
        return self._now() < self._lease_until

    async def keep_lease(self) -> None:
        """Renew the lease, and look at what the others have left, until cancelled.

        Raises:
            WorkerEndedError: Another worker has ended this one.
            LedgerUnavailableError: The ledger cannot be written now.
        """
        while True:
            self._woken.clear()
            await self.look()
            with suppress(TimeoutError):
                async with asyncio.timeout(LOOK_SECONDS if self.has_others or self.batch_id is None else RENEW_SECONDS):
                    await self._woken.wait()

    def look_soon(self) -> None:
        """Look at the ledger without waiting for the next renewal: another worker has begun or ended."""
        self._woken.set()

    def _heed_lateness(self) -> None:
        """End nobody for a while where this worker's own renewal is late: the others' may be, too."""
        if self._now() >= self._lease_until - SPARE_SECONDS:
            self._ends_others_from = self._now() + LEASE_SECONDS

    async def look(self) -> None:
        """Renew the lease once, and take over what ended workers have left.

        Raises:
            WorkerEndedError: Another worker has ended this one.
            LedgerUnavailableError: The ledger cannot be written now: nothing else may tell a worker that waits.
        """
        begun, settings = self._now(), self._settings
        self._heed_lateness()
        found = await self._writer.call(
            beat,
            self.worker_id,
            self._account_id,
            self.batch_id,
            begun,
            settings.doubt_seconds,
            settings.job_timeout_seconds,
            no_wait=settings.no_wait,
            is_gone=self._is_gone,
            may_end=begun >= self._ends_others_from,
            looks=self._looks_for_work(),
        )
        self._heed_lateness()  # the ledger may have been away meanwhile
        self._lease_until = begun + LEASE_SECONDS
        had_others = self.has_others
        self.has_others, self.is_batch_over = found.others > 0, found.is_batch_over
        if found.ended:
            log.warning("run.recovered", pendingAgain=found.pending, inDoubt=found.doubtful, jobs=len(found.jobs))
        # what an ended worker has left, or another one changed, may let this one go on
        is_news = bool(found.others or had_others or found.jobs or found.pending or found.doubtful)
        self._on_beat(found.jobs, is_news or self.batch_id is None)
