"""Tells the outside how a run goes: the metrics file, and notifications."""

import asyncio
import os
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from uploader import __version__, logs
from uploader.errors import STOPPED, ExitCode, LedgerAwayError, LedgerBusyError, UploaderError
from uploader.ledger.reading import Trouble
from uploader.model import TROUBLED, State
from uploader.settings import Settings
from uploader.status.formatting import counts_json, format_counts, format_trouble, trouble_json

if TYPE_CHECKING:  # a run without metrics does not import them
    from uploader.status.metrics import Metrics, RunFigures
    from uploader.status.summary import Summary
    from uploader.status.work_summary import WorkSummary

log = logs.get_logger()

# how often the metrics file is replaced, and items that need a person are looked for
WATCH_SECONDS = 10.0
# the largest share of the time that the counting for them may take
SHARE_OF_TIME = 0.01
# the most groups of items that need a person in a notification's text
GROUPS_TOLD = 5
# in place of a batch's name, for people
ALL_BATCHES = "all batches"


# takes a text, and a run's manifest, exit code and items by state
Renamed = Callable[[str, str | None, ExitCode, Mapping[State, int]], str]


def as_it_is(text: str, *_: object) -> str:
    """Return a text that names a run's files where they stand: nobody moves them."""
    return text


class RunReporter:
    """The reports of one run to the outside, as far as the settings ask for any.

    Args:
        batch: The batch's name, empty where none is known, or for a worker for every batch.
        manifest: The manifest, where there is one.
        renamed: Names the run's files in a text as they stand once the run is over.
    """

    def __init__(
        self, settings: Settings, batch: str, manifest: str | None = None, renamed: Renamed = as_it_is
    ) -> None:
        self._settings = settings
        self._batch = batch
        self._manifest = manifest
        self._renamed = renamed
        self._begun_at = time.time()
        # of the runs before, None until the metrics file was read
        self._kept: Mapping[str, float] | None = None
        # the items that needed a person as the run began, or when those that came later were settled
        self._needed_before: int | None = None
        self._is_need_told = False

    @property
    def is_wanted(self) -> bool:
        """True where the settings ask for any report."""
        return self._settings.metrics is not None or self._settings.notify is not None

    def begin(self) -> None:
        """Check that metrics can be written.

        Raises:
            UsageError: They cannot.
        """
        if self._settings.metrics is not None:
            from uploader.status.metrics_file import read_kept  # noqa: PLC0415 - for runs with metrics

            self._kept = read_kept(self._settings.metrics)

    async def watch(
        self, figures: Callable[[], Awaitable["RunFigures"]], troubles: Callable[[], Awaitable[Sequence[Trouble]]]
    ) -> None:
        """Replace the metrics file, and notify once something needs a person, until cancelled.

        Args:
            figures: Reads the run's figures.
            troubles: Reads the items that need a person.
        """
        while True:
            begun = time.monotonic()
            with suppress(LedgerAwayError):  # the next look may find it back
                found = await figures()
                await self._write(found)
                await self._notify_need(found, troubles)
            await asyncio.sleep(max(WATCH_SECONDS, (time.monotonic() - begun) / SHARE_OF_TIME))

    def metrics(
        self,
        figures: "RunFigures | None",
        exit_code: ExitCode | None = None,
        *,
        batch: str | None = None,
        is_active: bool = True,
    ) -> "Metrics":
        """Return the metrics of a run, or of several.

        Args:
            figures: The figures; None where there are none.
            exit_code: The exit code; None while the run goes on, or where it is not known yet.
            batch: The names of several batches in place of the run's.
            is_active: A run goes on.
        """
        from uploader.status.metrics import Metrics  # noqa: PLC0415 - see begin

        return Metrics(
            now=time.time(),
            begun_at=self._begun_at,
            version=__version__,
            run=logs.bound().get("run") or "",
            batch=self._batch if batch is None else batch,
            kept=self._kept or {},
            exit_code=exit_code,
            figures=figures,
            is_active=is_active,
        )

    def keep_end(self, exit_code: ExitCode) -> None:
        """Keep the end of one of several runs, for the metrics."""
        self._kept = self.metrics(None, exit_code).ended()

    async def end(self, summary: "Summary", figures: "RunFigures") -> None:
        """Report the end of a run."""
        await self._write(figures, summary.exit_code)
        code, counts = summary.exit_code, summary.standing.counts
        if summary.results is not None:
            results = await asyncio.to_thread(self._renamed, summary.results, self._manifest, code, counts)
            summary = summary._replace(results=results)
        told = [f"{summary.batch}: {format_counts(counts)}", summary.ending()]
        told += [format_trouble(trouble) for trouble in summary.troubles[:GROUPS_TOLD]]
        if step := summary.next_step():
            told.append(f"next: {step}")
        await self._notify(told, {"event": "ended", **summary.as_json()}, is_stopped=summary.exit_code in STOPPED)

    async def end_worker(self, summary: "WorkSummary", figures: "RunFigures") -> None:
        """Report the end of a worker for every batch."""
        await self._write(figures, summary.exit_code)
        told = [f"worker for {ALL_BATCHES}", summary.ending()]
        await self._notify(told, {"event": "ended", **summary.as_json()}, is_stopped=summary.exit_code in STOPPED)

    async def fail(self, error: Exception) -> None:
        """Report a run that could not begin, or that a fault of the uploader ended."""
        code = error.exit_code if isinstance(error, UploaderError) else ExitCode.FAULT
        reason = str(error).partition("\n")[0] if isinstance(error, UploaderError) else "a fault of the uploader itself"
        reason = await asyncio.to_thread(self._renamed, reason, self._manifest, code, {})
        # the file is that of the command which holds the ledger
        if not isinstance(error, LedgerBusyError):
            await self._write(None, code)
        payload = {"event": "ended", "batch": self._batch or None, "exitCode": int(code), "reason": reason}
        await self._notify([f"{self._batch or 'run'}: exit {int(code)}: {reason}"], payload, is_stopped=code in STOPPED)

    async def _write(self, figures: "RunFigures | None", exit_code: ExitCode | None = None) -> None:
        if self._settings.metrics is not None:
            await self.write(self.metrics(figures, exit_code))

    async def write(self, metrics: "Metrics") -> None:
        """Replace the metrics file, where there is one."""
        if self._settings.metrics is None or self._kept is None:
            return
        from uploader.status import metrics_file  # noqa: PLC0415 - see begin

        try:
            await asyncio.to_thread(metrics_file.write, self._settings.metrics, metrics)
        except UploaderError as error:
            # the path stays out of the log
            log.warning("metrics.unwritten", reason=getattr(error.__cause__, "strerror", None))

    async def _notify_need(self, figures: "RunFigures", troubles: Callable[[], Awaitable[Sequence[Trouble]]]) -> None:
        """Notify once that items need a person which did not before; once more where those were settled meanwhile."""
        needing = figures.items.of(*TROUBLED).items
        if self._needed_before is None or needing <= self._needed_before:
            self._needed_before, self._is_need_told = needing, False
        if self._settings.notify is None or self._is_need_told or needing <= self._needed_before:
            return
        self._is_need_told = True
        found = await troubles()
        told = [f"{self._batch or ALL_BATCHES}: something needs a person; the run goes on"]
        told += [format_trouble(trouble) for trouble in found[:GROUPS_TOLD]]
        payload = {
            "event": "needs_person",
            "run": logs.bound().get("run"),
            "batch": self._batch or None,
            "counts": counts_json(figures.items.counts),
            "needsPerson": [trouble_json(trouble) for trouble in found],
        }
        await self._notify(told, payload, is_stopped=False)

    async def _notify(self, told: Sequence[str], payload: Mapping[str, Any], *, is_stopped: bool) -> None:
        if self._settings.notify is None:
            return
        from uploader.notify import HURRIED_SECONDS, NOTIFY_SECONDS, notify  # noqa: PLC0415 - for runs that notify

        rehearsal = " (a rehearsal)" if self._settings.sandbox else ""
        text = "\n".join([f"uploader on {os.uname().nodename}{rehearsal}: {told[0]}", *told[1:]])
        seconds = HURRIED_SECONDS if is_stopped else NOTIFY_SECONDS
        await notify(self._settings.notify, {"text": text, **payload}, seconds)
