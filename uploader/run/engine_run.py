"""The part that every run has, of one batch or of all: engines, listeners, progress, metrics and a stop."""

import asyncio
import random
import secrets
import time
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator, Sequence
from contextlib import AbstractContextManager, AsyncExitStack, asynccontextmanager
from datetime import datetime
from functools import partial
from math import inf
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar

from uploader import logs
from uploader.audio import SourceOpener
from uploader.client import Client, Expect, TimeLimits
from uploader.engine import Engine
from uploader.errors import LedgerAwayError, LedgerUnavailableError, UploaderError
from uploader.ledger import Ledger
from uploader.ledger.callbacks import webhook_key
from uploader.ledger.commits import GroupCommits
from uploader.ledger.reading import Trouble
from uploader.ledger.standing import Standing
from uploader.ledger.thread import LedgerThread
from uploader.policy import caps
from uploader.policy.callbacks import signed_token
from uploader.policy.waiting import Standstill
from uploader.run.engines import AccountEngine, Engines
from uploader.run.listening import RunView, has_listeners, listen_to_run
from uploader.run.reporting import RunReporter
from uploader.run.shared import Shared
from uploader.run.stopping import Stop
from uploader.run.target import Account
from uploader.run.threads import in_thread
from uploader.settings import Settings, unless_auto
from uploader.status.progress import Progress, ProgressTracker
from uploader.status.remaining import seconds_left

if TYPE_CHECKING:  # most runs have no page, and no metrics
    from uploader.status.listener import ReadSnapshot
    from uploader.status.metrics import RunFigures
    from uploader.status.snapshot import SnapshotSource

log = logs.get_logger()

# the length of a random ``webhookUrl`` token, in bytes
TOKEN_BYTES = 32


# seconds between two looks for a ledger that is away at the end of a run
AWAY_LOOK_SECONDS = 0.5

P = ParamSpec("P")
T = TypeVar("T")


def _name_unwritten(failure: UploaderError, unwritten: int) -> UploaderError:
    """Add to the error of a ledger the remedy for outcomes that it did not take."""
    if not unwritten or not isinstance(failure, LedgerUnavailableError):
        return failure
    return type(failure)(
        f"{failure}. {unwritten} outcome{'s' * (unwritten > 1)} could not be written: the log names each as "
        "outcome.unwritten, with its jobId. The next run finds in doubt what was admitted, and `uploader resolve "
        "--line LINE` settles it by the log's outcome: applied by --appended JOBID, all but in doubt by --not-appended"
    )


def _format_wait(found: Standstill | None) -> str:
    """Format the time until which sending waits; empty where sending does not wait."""
    if found is None:
        return ""
    return f"waits until {datetime.fromtimestamp(found.until).astimezone():%H:%M}" if found.until < inf else "waits"


class EngineRun(ABC):
    """A run of an engine for each of some accounts.

    Args:
        ledger: The ledger, open for a run.
        name: The name of its batch, or the words in place of one.
        accounts: The accounts, with their workers.
        batch_id: The batch that is run; None: every batch.
        now: The ledger's clock, in seconds since the epoch.
        until: Nothing new starts from this time on, in seconds since the epoch.
        reporter: Reports the run to the outside.
        stop: Stops the run when requested.
        on_progress: Called twice a second with the run's progress.
        shared: The parts that the run shares with others of this loop.
    """

    def __init__(
        self,
        settings: Settings,
        ledger: Ledger,
        name: str,
        accounts: Sequence[Account],
        batch_id: int | None,
        now: Callable[[], float],
        until: float | None,
        reporter: RunReporter,
        *,
        stop: Stop,
        on_progress: Callable[[Progress], None] | None = None,
        shared: Shared,
    ) -> None:
        self._settings = settings
        self._ledger = ledger
        self._name = name
        self._accounts = accounts
        self._batch_id = batch_id
        self._now = now
        self._until = until
        self._reporter = reporter
        self._reader = ledger.beside()
        # its engines have ended
        self._is_over = False
        self._snapshot_seconds = 0.0
        self._stop = stop
        self._on_progress = on_progress
        self._shared = shared
        self._begun = time.monotonic()

    def _writer(self) -> LedgerThread:
        """Start the thread that writes the ledger."""
        commits = GroupCommits(
            self._ledger,
            {account.account_id for account in self._accounts},
            worker_id=self._accounts[0].worker_id if self._accounts else None,
            away_seconds=self._settings.ledger_away_seconds,
        )
        return LedgerThread(commits)

    async def _once_back(
        self, failure: UploaderError | None, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs
    ) -> T:
        """Run a function in a thread that uses the ledger at the end of the run; while that is away, wait for it.

        Raises:
            LedgerAwayError: It is away for too long, or the run was stopped, or has ended for that.
        """
        ends_at = time.monotonic() + self._settings.ledger_away_seconds
        while True:
            try:
                return await in_thread(function, *args, **kwargs)
            except LedgerAwayError as error:
                if isinstance(failure, LedgerAwayError):
                    raise failure from error
                if self._stop.code is not None or time.monotonic() >= ends_at:
                    raise
            await asyncio.sleep(AWAY_LOOK_SECONDS)

    @abstractmethod
    def _standing(self) -> Standing:
        """Count the items of the run; called in a thread."""

    @abstractmethod
    def _troubles(self) -> Sequence[Trouble]:
        """List the items of the run that need a person; called in a thread."""

    def _reads(self, source: "SnapshotSource") -> "ReadSnapshot":
        """Return the function that reads the snapshots of the status page."""
        from uploader.status.snapshot import SnapshotReader  # noqa: PLC0415 - most runs have no page

        return SnapshotReader(source).read

    @asynccontextmanager
    async def _opened(self, thread: LedgerThread) -> AsyncIterator[Engines]:
        """Make the engines, and listen for them in the block."""
        async with SourceOpener(self._settings.audio_root) as sources, AsyncExitStack() as stack:
            key = self._webhook_key()
            engines = Engines(
                [
                    AccountEngine(
                        account,
                        self._engine(account, await stack.enter_async_context(client), thread, key, sources),
                    )
                    for account, client in self._clients()
                ]
            )
            async with self._listening(engines, thread, key):
                yield engines

    def _clients(self) -> Iterator[tuple[Account, Client]]:
        """Make a client for each account."""
        settings = self._settings
        limits = TimeLimits(settings.connect_seconds, settings.stall_seconds, settings.answer_seconds)
        keeps = settings.connections == "kept"
        expect = Expect(settings.expect_above_bytes, settings.expect_seconds, keeps)
        uploads = unless_auto(settings.uploads) or caps.UPLOADS
        for account in self._accounts:
            base_url = account.target.base_url
            yield account, Client(base_url, account.credentials, limits, self._now, expect, uploads)

    def _webhook_key(self) -> str:
        with self._reader.reading() as connection:
            return webhook_key(connection)

    def _engine(
        self, account: Account, client: Client, thread: LedgerThread, key: str, sources: SourceOpener
    ) -> Engine:
        return Engine(
            client=client,
            writer=thread,
            account_id=account.account_id,
            worker_id=account.worker_id,
            batch_id=self._batch_id,
            is_gone=self._ledger.is_gone,
            settings=account.settings,
            until=self._until,
            now=self._now,
            rng=random.Random(),  # noqa: S311 - jitter, no secret
            new_token=lambda: signed_token(secrets.token_urlsafe(TOKEN_BYTES), key),
            sources=sources.open,
            is_ledger_away=lambda: thread.is_stalled,
            paces=self._shared.paces(self._ledger.address, account.account_id, account.settings),
        )

    @asynccontextmanager
    async def _listening(self, engines: Engines, thread: LedgerThread, key: str) -> AsyncIterator[None]:
        """Listen for callbacks and for readers of the status page, as far as the settings ask for either."""
        listen = self._shared.listen
        if listen is None:
            if not has_listeners(self._settings):
                yield
                return
            listen = partial(listen_to_run, self._settings, self._reporter, reads=self._reads)
        async with listen(self._view(engines, thread, key)):
            try:
                yield
            finally:
                self._is_over = True

    def _view(self, engines: Engines, thread: LedgerThread, key: str) -> RunView:
        from uploader.status.snapshot import SnapshotSource  # noqa: PLC0415 - most runs have none

        source = SnapshotSource(
            reading=self._reader.reading,
            account_ids=[account.account_id for account in self._accounts],
            batch_ids=[] if self._batch_id is None else [self._batch_id],
            ledger=self._ledger.address,
            now=self._now,
            seconds_left=lambda: self._seconds_left(engines),
            is_running=lambda: not self._is_over,
        )
        return RunView(
            name=self._name,
            source=source,
            figures=partial(self._read_figures, engines, thread),
            limits=lambda: engines.limits,
            key=key,
            writer=thread,
            worker_ids={account.worker_id for account in self._accounts},
            apply_callback=engines.apply_callback,
            slot_may_be_free=engines.slot_may_be_free,
        )

    def _tracker(self, engines: Engines, thread: LedgerThread, snapshot: Callable[[], None]) -> ProgressTracker:
        return ProgressTracker(
            read=self._standing,
            limit=lambda: engines.limit,
            bytes_moved=lambda: engines.bytes_moved,
            snapshot=snapshot,
            seconds_left=lambda: self._seconds_left(engines),
            waits=lambda: "waits for the ledger" if thread.is_away else _format_wait(engines.standstill),
            show=self._on_progress,
            lines=self._settings.progress == "auto",
            batch=self._name,
            held_back=engines.held_back_so_far,
        )

    async def _run_engines(
        self, engines: Engines, thread: LedgerThread, helpers: Sequence[Callable[[], Coroutine[Any, Any, None]]]
    ) -> UploaderError | None:
        """Run the engines to their end, with functions in the background; return the error that ended them early."""

        async def watch() -> None:
            figures = partial(self._read_figures, engines, thread)
            await self._reporter.watch(figures, partial(asyncio.to_thread, self._troubles))

        try:
            watches = [watch] if self._reporter.is_wanted else []
            with self._stopping(engines, thread):
                await engines.run((*helpers, *watches))
        except UploaderError as error:
            return _name_unwritten(error, engines.unwritten)
        return None

    async def _read_figures(self, engines: Engines, thread: LedgerThread) -> "RunFigures":
        engines.held_back()  # measures the slots up to now
        return self._figures(await asyncio.to_thread(self._standing), engines, thread)

    def _figures(self, standing: Standing, engines: Engines, thread: LedgerThread) -> "RunFigures":
        from uploader.status.metrics import RunFigures  # noqa: PLC0415 - as above

        return RunFigures(
            items=standing,
            limit=engines.limit,
            bytes_sent=engines.bytes_moved,
            attempts=engines.attempts,
            callbacks=engines.callbacks,
            status_requests=engines.status_requests,
            slot_seconds=engines.slot_seconds,
            job_seconds=engines.job_seconds,
            upload_seconds=engines.upload_seconds,
            write_seconds=thread.write_seconds,
        )

    def _stopping(self, engines: Engines, thread: LedgerThread) -> AbstractContextManager[None]:
        """Stop the engine at a request during the block."""
        loop = asyncio.get_running_loop()

        def stop() -> None:
            log.warning("run.stopping")
            # the final results take as long as the last snapshot, and may have to wait for a snapshot under way
            engines.stop(reserve_seconds=2 * self._snapshot_seconds)
            thread.give_up_after(self._settings.grace_seconds)

        return self._stop.subscribed(partial(loop.call_soon_threadsafe, stop))

    def _seconds_left(self, engines: Engines) -> float:
        """Forecast the seconds that the run still takes: those of the account that ends last."""
        return max((self._account_seconds_left(account, engine) for account, engine in engines.accounts), default=0.0)

    def _account_seconds_left(self, account: Account, engine: Engine) -> float:
        """Forecast the seconds that an account still takes, after the end of a standstill."""
        wait, now = engine.standstill, self._now()
        waits = wait.until - now if wait is not None and now < wait.until < inf else 0.0
        with self._reader.reading() as connection:
            return waits + seconds_left(
                connection, account.account_id, account.settings, engine.limit.in_force, self._now()
            )
