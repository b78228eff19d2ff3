"""The listener and the metrics file of a service, over the batches that come and go behind them."""

import asyncio
import threading
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager, suppress
from dataclasses import replace
from functools import reduce
from http import HTTPStatus
from typing import Any, Concatenate, ParamSpec, TypeVar

from aiohttp import web

from uploader.errors import ExitCode, LedgerUnavailableError, UploaderError
from uploader.http_server import Callers
from uploader.ledger import Connection
from uploader.ledger.callbacks import CallbackResult
from uploader.ledger.standing import NOTHING, Standing
from uploader.policy.held_back import SlotUse
from uploader.policy.limits import add_limits
from uploader.run.listening import ListenerView, RunView
from uploader.run.reporting import RunReporter
from uploader.settings import Settings
from uploader.status.metrics import Metrics, RunFigures
from uploader.status.snapshot import SnapshotReader, SnapshotSource, idle_json
from uploader.webhook import Callbacks

P = ParamSpec("P")
T = TypeVar("T")

# a callback that comes between two runs is to be sent again: the next run polls its job in any case
RETRY_SECONDS = "5"


class Board:
    """The view of all runs of a service as one: those that are on, else how the latest one ended.

    It is a writer of the ledger, too, by that of a run: a callback is written by any run, and passed on to the one that
    follows its job.

    Args:
        settings: The service's settings.
    """

    def __init__(self, settings: Settings) -> None:
        self._reporter = RunReporter(settings, "")
        # the runs that are on, the one that began first first; replaced as a whole, by a thread that has the lock
        self._runs: tuple[RunView, ...] = ()
        self._reader: SnapshotReader | None = None
        self._lock = threading.Lock()
        self._snapshot: Mapping[str, Any] = idle_json("Waiting for a manifest.")
        self._callbacks: Callbacks | None = None
        # no run ends while figures are read
        self._turn = asyncio.Lock()
        # the counts of the runs that have ended, and items and limit of the latest of them
        self._ended: RunFigures | None = None
        # of the latest runs
        self._names = ""
        # the slots' seconds since the service began, and those that each run had measured at the last reading
        self._slot_seconds = dict.fromkeys(SlotUse, 0.0)
        self._measured: dict[int, Mapping[SlotUse, float]] = {}

    @property
    def view(self) -> ListenerView:
        """The answers of the listener."""
        return ListenerView(self._answer, self._read, self._render)

    def begin(self) -> None:
        """Check that metrics can be written.

        Raises:
            UsageError: They cannot.
        """
        self._reporter.begin()

    @asynccontextmanager
    async def showing(self, run: RunView) -> AsyncIterator[None]:
        """Show a run in the block, and afterwards its end."""
        if not self._runs:
            self._callbacks = Callbacks(
                key=run.key, writer=self, now=run.source.now, applied=self._apply_callback, ending=self._look_for_slots
            )
        await asyncio.to_thread(self._show, run)
        try:
            yield
        finally:
            async with self._turn:
                with suppress(UploaderError):  # the run itself tells of a ledger that cannot be read
                    found, ended = await self._figures(), await run.figures()
                    counts = ended if self._ended is None else ended.add_counts(self._ended)
                    self._ended = replace(counts, items=found.items, limit=found.limit, slot_seconds=found.slot_seconds)
                self._measured.pop(id(run), None)
                await asyncio.to_thread(self._end, run)

    def _show(self, run: RunView) -> None:
        with self._lock:
            self._replace((*self._runs, run))

    def _end(self, run: RunView) -> None:
        """Keep the snapshot of the last run; its ledger may be closed once nobody reads it any more."""
        with self._lock:
            left = tuple(other for other in self._runs if other is not run)
            if not left and self._reader is not None:
                with suppress(UploaderError):  # see showing
                    self._snapshot = self._reader.read(fresh=True)
            self._replace(left)

    def _replace(self, runs: tuple[RunView, ...]) -> None:
        self._runs, self._reader = runs, None
        if not runs:
            return
        self._names = ", ".join(sorted(run.name for run in runs))
        sources = [run.source for run in runs]
        source = SnapshotSource(
            reading=sources[0].reading,
            account_ids=sorted({account_id for source in sources for account_id in source.account_ids}),
            batch_ids=[batch_id for source in sources for batch_id in source.batch_ids],
            ledger=sources[0].ledger,
            now=sources[0].now,
            seconds_left=lambda: _longest(sources),
            is_running=lambda: any(source.is_running() for source in sources),
        )
        self._reader = SnapshotReader(source)

    async def call(self, function: Callable[Concatenate[Connection, P], T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Call a function of the ledger by the writer of a run that is on.

        Raises:
            LedgerUnavailableError: There is none, or the transaction could not be committed.
        """
        if not self._runs:
            raise LedgerUnavailableError("no run is on: the next one polls")
        return await self._runs[0].writer.call(function, *args, **kwargs)

    async def _answer(self, request: web.BaseRequest, callers: Callers) -> web.StreamResponse:
        if self._runs and self._callbacks is not None:
            return await self._callbacks.answer(request, callers)
        response = web.Response(status=HTTPStatus.SERVICE_UNAVAILABLE, headers={"Retry-After": RETRY_SECONDS})
        response.force_close()
        return response

    def _apply_callback(self, result: CallbackResult) -> None:
        """Pass a callback on to the run that follows its job."""
        following = [run for run in self._runs if result.worker_id in run.worker_ids]
        for run in (following or self._runs)[:1]:
            run.apply_callback(result)

    def _look_for_slots(self) -> None:
        for run in self._runs:
            run.slot_may_be_free()

    def _read(self, *, fresh: bool) -> Mapping[str, Any]:
        with self._lock:
            return self._snapshot if self._reader is None else self._reader.read(fresh=fresh)

    async def _render(self) -> str:
        return (await self._metrics()).render()

    async def keep_end(self, exit_code: ExitCode) -> None:
        """Keep the exit code of a batch that has ended, and replace the metrics file."""
        self._reporter.keep_end(exit_code)
        await self.write()

    async def write(self) -> None:
        """Replace the metrics file."""
        with suppress(UploaderError):  # see showing
            await self._reporter.write(await self._metrics())

    async def _metrics(self) -> Metrics:
        async with self._turn:
            found = await self._figures() if self._runs else self._ended
            is_active = any(run.source.is_running() for run in self._runs)
            return self._reporter.metrics(found, batch=self._names, is_active=is_active)

    async def _figures(self) -> RunFigures:
        """Read items and limit of the runs that are on, and the counts of all since the service began."""
        runs = self._runs
        figures = [await run.figures() for run in runs]
        limits = {account_id: limit for run in runs for account_id, limit in run.limits().items()}
        before = [] if self._ended is None else [self._ended]
        return replace(
            reduce(RunFigures.add_counts, [*figures, *before]),
            items=reduce(Standing.__add__, (found.items for found in figures), NOTHING),
            limit=add_limits(limits.values()),
            slot_seconds=self._add_slot_seconds(dict(zip(map(id, runs), figures, strict=True))),
        )

    def _add_slot_seconds(self, figures: Mapping[int, RunFigures]) -> Mapping[SlotUse, float]:
        """Add up the slots' seconds: each run measures all slots of its account, so those of one alone are added."""
        passed = [
            {use: seconds - self._measured.get(run, {}).get(use, 0.0) for use, seconds in found.slot_seconds.items()}
            for run, found in figures.items()
        ]
        for use in SlotUse:
            self._slot_seconds[use] += max(seconds.get(use, 0.0) for seconds in passed)
        self._measured = {run: found.slot_seconds for run, found in figures.items()}
        return dict(self._slot_seconds)


def _longest(sources: list[SnapshotSource]) -> float | None:
    """Return the seconds until the end of the run that ends last, None where nothing is known."""
    found = [seconds for source in sources if (seconds := source.seconds_left()) is not None]
    return max(found, default=None)
