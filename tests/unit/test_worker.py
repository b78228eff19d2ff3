"""A worker ends others by their leases only where its own renewals show that nothing keeps all from the ledger."""

from collections.abc import Sequence
from typing import Any

import pytest

from uploader.errors import LedgerUnavailableError
from uploader.ledger.leases import LEASE_SECONDS
from uploader.ledger.workers import Beat, beat
from uploader.model import LiveJob
from uploader.settings import Settings
from uploader.worker import Worker


class Ledger:
    """A ledger's writer that notes what each renewal was allowed to do, and the clock."""

    def __init__(self) -> None:
        self.now = 1000.0
        self.may_end: list[bool] = []
        self.failure: LedgerUnavailableError | None = None
        # a ledger that is away answers so many seconds later
        self.away_seconds = 0.0
        self.beats: list[tuple[Sequence[LiveJob], bool]] = []

    async def call(self, function: Any, *args: Any, **kwargs: Any) -> Any:
        """Renew a lease."""
        assert (function, args[:3]) == (beat, (1, 1, 1))
        self.may_end.append(kwargs["may_end"])
        self.now += self.away_seconds
        if self.failure is not None:
            raise self.failure
        return Beat(1, 0, (), 0, 0, is_batch_over=False)

    def worker(self) -> Worker:
        """Return a worker that begins now."""
        return Worker(
            writer=self,
            worker_id=1,
            account_id=1,
            batch_id=1,
            settings=Settings(),
            now=lambda: self.now,
            is_gone=lambda _: False,
            looks_for_work=lambda: True,
            on_beat=lambda jobs, is_news: self.beats.append((jobs, is_news)),
        )


async def test_who_begins_ends_nobody_for_a_lease() -> None:
    """After a long load that locked the ledger the others' renewals still wait: they are given the time."""
    ledger = Ledger()
    worker = ledger.worker()
    await worker.look()
    ledger.now += LEASE_SECONDS / 2
    await worker.look()
    ledger.now += LEASE_SECONDS / 2
    await worker.look()
    assert ledger.may_end == [False, False, True]


async def test_who_was_late_itself_ends_nobody_for_a_lease() -> None:
    """After a suspend of the host, or a ledger that was away, all are late: the first to come back ends none."""
    ledger = Ledger()
    worker = ledger.worker()
    for seconds in (LEASE_SECONDS / 2, LEASE_SECONDS / 2, 3 * LEASE_SECONDS, 1.0, LEASE_SECONDS / 2, LEASE_SECONDS / 2):
        ledger.now += seconds
        await worker.look()
    assert ledger.may_end == [False, True, False, False, False, True]


async def test_who_has_waited_for_the_ledger_ends_nobody_for_a_lease() -> None:
    """A ledger that was away for less than a lease: whoever renewed last before is back first, and others are not."""
    ledger = Ledger()
    worker = ledger.worker()
    for _ in range(3):
        ledger.now += LEASE_SECONDS / 2
        await worker.look()
    ledger.away_seconds = LEASE_SECONDS - 5.0
    await worker.look()
    ledger.away_seconds = 0.0
    for _ in range(3):
        ledger.now += 1.0
        await worker.look()
    ledger.now += LEASE_SECONDS / 2
    await worker.look()
    ledger.now += LEASE_SECONDS / 2
    await worker.look()
    assert ledger.may_end == [False, True, True, True, False, False, False, False, True]


async def test_a_ledger_that_cannot_be_written_ends_a_worker_that_waits() -> None:
    """A worker that has nothing of its own writes nothing else: its renewal alone meets the error."""
    ledger = Ledger()
    worker = ledger.worker()
    ledger.failure = LedgerUnavailableError("away")
    with pytest.raises(LedgerUnavailableError, match="away"):
        await worker.look()
    assert not ledger.beats
