"""`serve`: takes manifests from an inbox, runs each as a batch, several at once, and puts it where it belongs."""

import asyncio
import os
import random
import time
from collections import deque
from collections.abc import AsyncIterator, Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager, suppress
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from uploader import logs
from uploader.engine import run_concurrently
from uploader.errors import (
    STOPPED,
    BatchRefusedError,
    ExitCode,
    LedgerBusyError,
    StoppedError,
    UploaderError,
    UsageError,
    describe,
)
from uploader.ledger import Ledger
from uploader.model import State
from uploader.policy.backoff import Backoff, after_failure
from uploader.run.batch import FAULT_REASON, check_addresses, run_batch
from uploader.run.listening import has_listeners, listeners
from uploader.run.reporting import WATCH_SECONDS
from uploader.run.shared import Shared
from uploader.run.stopping import Stop
from uploader.run.target import credentials
from uploader.run.threads import in_thread
from uploader.serve.inbox import Inbox, results_of
from uploader.settings import Settings
from uploader.status.progress import Progress, together
from uploader.status.summary import Summary

if TYPE_CHECKING:  # a server
    from uploader.serve.board import Board

log = logs.get_logger()

# the most batches at once: each has its writer of the ledger, its connections, and 16 MiB at most for chunks
BATCHES = 8
# each batch counts, writes results and reads files beside the loop: none waits for a thread until another one is done
THREADS = 8 * BATCHES

# how often the inbox is looked into
LOOK_SECONDS = 1.0
# the pause after a batch that could not go on, twice as long after each in a row
PAUSE_BASE_SECONDS = 5.0
PAUSE_CAP_SECONDS = 300.0
# settings that belong to one batch
OF_ONE_BATCH = ("batch", "results", "summary", "format", "first", "until", "repeat", "sandbox")
NOT_OVER = (ExitCode.GAVE_UP, ExitCode.NOT_NOW)


class Service:
    """The service over one inbox: several batches at once, for as long as nobody stops it.

    Args:
        settings: The settings of all batches.
        stop: Stops the service, and the batches that it runs.
        on_event: Takes the events of the log.
        on_progress: Takes the progress of each batch.
    """

    def __init__(
        self,
        settings: Settings,
        inbox: Path,
        stop: Stop,
        *,
        on_event: Callable[[logs.Event], None],
        on_progress: Callable[[Progress], None] | None = None,
    ) -> None:
        # a link may stand for the inbox; below it none is followed
        self._folder = inbox.resolve()
        # the metrics file is that of all batches together
        self._settings = replace(settings, audio_root=settings.audio_root or self._folder, metrics=None)
        self._reported = settings
        self._inbox = Inbox(self._folder, settings.settle_seconds)
        self._requested = stop
        # stops the batches at that request, or at the end of one that lets no other go on
        self._stop = Stop()
        self._failure: Exception | None = None
        self._on_event = on_event
        self._on_progress = on_progress
        self._woken = asyncio.Event()
        self._pause = Backoff()
        self._shared = Shared(self._renamed)
        self._board: Board | None = None
        self._told: set[str] = set()
        # manifests that stand in running/ and are to be carried
        self._waiting: deque[Path] = deque()
        # one at a time looks for a manifest, and one at a time puts one where it belongs
        self._looking, self._moving = asyncio.Lock(), asyncio.Lock()
        self._progress: dict[str, Progress] = {}

    async def run(self) -> ExitCode:
        """Serve until stopped.

        Returns:
            The exit code of the request to stop, or of what lets no batch go on.

        Raises:
            UploaderError: The inbox, the ledger or the settings cannot be used.
        """
        loop = asyncio.get_running_loop()
        loop.set_default_executor(ThreadPoolExecutor(THREADS))
        self._check_settings()
        wake = partial(loop.call_soon_threadsafe, self._woken.set)
        with self._inbox, self._requested.subscribed(self._stop_as_requested), self._stop.subscribed(wake):
            await in_thread(self._check_ledger)
            async with self._listening():
                log.info("inbox.watched")
                self._waiting.extend(self._inbox.taken())
                await run_concurrently([*(self._serve() for _ in range(BATCHES)), self._write_metrics()])
        if self._failure is not None:
            raise self._failure
        code = ExitCode.FAULT if self._stop.code is None else self._stop.code
        logs.log_end("inbox.ended", code, reason=f"by {self._stop.by}: the same command carries on")
        return code

    def _stop_as_requested(self) -> None:
        if self._requested.code is not None:
            self._stop.request(self._requested.code, self._requested.by)

    @asynccontextmanager
    async def _listening(self) -> AsyncIterator[None]:
        """Listen for as long as the service lives, whatever batches it runs."""
        if not has_listeners(self._settings) and self._reported.metrics is None:
            yield
            return
        from uploader.serve.board import Board  # noqa: PLC0415 - a server

        self._board = Board(self._reported)
        self._board.begin()
        self._shared.listen = self._board.showing
        async with listeners(self._settings, self._board.view):
            yield

    async def _write_metrics(self) -> None:
        """Replace the metrics file again and again until the service stops."""
        while self._reported.metrics is not None and self._board is not None and self._stop.code is None:
            await self._board.write()
            await self._rest(WATCH_SECONDS)

    async def _rest(self, seconds: float) -> None:
        """Wait, at most until the service stops."""
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._woken.wait()

    def _check_settings(self) -> None:
        for name in OF_ONE_BATCH:
            if name in self._settings.given:
                raise UsageError(f"{self._settings.source(name)}: {name}: this belongs to one batch, not to an inbox")
        check_addresses(self._settings)
        if not self._settings.accounts:  # else a manifest may name accounts alone that have their own
            credentials(self._settings)

    def _check_ledger(self) -> None:
        """Make the ledger where there is none, and find out now what would refuse every batch."""
        settings = self._settings
        try:
            with Ledger.open_for_run(
                settings.ledger, must_exist=settings.ledger_must_exist, on_container=settings.new_ledger
            ) as ledger:
                if ledger.is_new:
                    log.warning("ledger.made")
        except LedgerBusyError as error:
            log.warning("inbox.waits", reason=str(error))

    async def _serve(self) -> None:
        """Carry one manifest after the other until the service stops; several do so at once."""
        try:
            while (manifest := await self._next()) is not None:
                with logs.scope(self._on_event, run=os.urandom(6).hex(), batch=manifest.name):
                    code = await self._carry(manifest)
                self._progress.pop(manifest.name, None)
                if code in NOT_OVER:
                    self._waiting.append(manifest)  # behind the others
                if code is ExitCode.CREDENTIALS:
                    self._stop.request(code, by="a batch whose credentials were not taken")
                if self._board is not None:
                    await self._board.keep_end(code)
        except Exception as error:  # noqa: BLE001 - raised at the end: the other batches stop in good order
            self._failure = self._failure or error
            code = error.exit_code if isinstance(error, UploaderError) else ExitCode.FAULT
            self._stop.request(code, by="a batch whose fault every other would meet")

    async def _next(self) -> Path | None:
        """Wait for a manifest that is to be carried; return None where the service stops."""
        async with self._looking:
            while self._stop.code is None:
                manifest = None
                if not self._pause.is_on(time.time()):
                    manifest = self._waiting.popleft() if self._waiting else self._inbox.take()
                for name in self._inbox.passed_over - self._told:
                    self._told.add(name)
                    log.warning("inbox.passed_over", batch=name)
                if manifest is not None:
                    return manifest
                await self._rest(LOOK_SECONDS)
        return None

    def _show_progress(self, name: str, progress: Progress) -> None:
        """Show the progress of all batches that are on."""
        if self._on_progress is not None:
            self._progress[name] = progress
            self._on_progress(together(list(self._progress.values())))

    async def _carry(self, manifest: Path) -> ExitCode:
        """Run the batch of a manifest, and put it where it belongs; return its exit code."""
        log.info("inbox.taken")
        try:
            summary = await run_batch(
                replace(self._settings, results=results_of(manifest)),
                manifest,
                on_event=self._on_event,
                on_progress=partial(self._show_progress, manifest.name) if self._on_progress is not None else None,
                stop=self._stop,
                shared=self._shared,
            )
        except StoppedError as stopped:
            return stopped.exit_code
        except BatchRefusedError as error:
            return await self._finish(manifest, error.exit_code, str(error))
        except UploaderError as error:
            if error.exit_code not in NOT_OVER:
                raise
            return self._wait(str(error))
        except OSError as error:
            return self._wait(describe(error))
        except Exception:  # noqa: BLE001 - the run has logged its traceback; other batches may be well
            return await self._finish(manifest, ExitCode.FAULT, FAULT_REASON)
        return await self._judge(manifest, summary)

    async def _judge(self, manifest: Path, summary: Summary) -> ExitCode:
        """Put a manifest whose batch has run where it belongs; return the batch's exit code."""
        code = summary.exit_code
        if self._is_over(code, summary.standing.counts):
            return await self._finish(manifest, code, summary)
        return self._wait(summary.ending()) if code in NOT_OVER and self._stop.code is None else code

    def _is_over(self, code: ExitCode, counts: Mapping[State, int]) -> bool:
        """Return True where a batch that has ended so is not carried on."""
        if code in (*STOPPED, ExitCode.CREDENTIALS) or self._stop.code is not None:
            return False
        # a service that refuses everything would be met by the same again
        return code not in NOT_OVER or bool(counts.get(State.REFUSED) and not counts.get(State.COMPLETED))

    def _renamed(self, text: str, manifest: str | None, code: ExitCode, counts: Mapping[State, int]) -> str:
        """Name a manifest and its results in a text as they stand once its batch, which has ended so, is moved."""
        if manifest is None or not self._is_over(code, counts):
            return text
        return _moved(text, Path(manifest), self._inbox.place(Path(manifest), is_done=code is ExitCode.DONE))

    async def _finish(self, manifest: Path, code: ExitCode, told: str | Summary) -> ExitCode:
        """Move a manifest that is over; one that failed with its summary, or the reason of its refusal."""
        is_done = code is ExitCode.DONE

        def finish() -> str:
            place = self._inbox.place(manifest, is_done=is_done)
            if isinstance(told, str):
                text = f"{_moved(told, manifest, place)}\nnext: correct it"
            else:
                text = "\n".join(told._replace(results=str(results_of(place))).as_lines())
                text += "\nnext: settle what is open"
            self._inbox.finish(manifest, place, None if is_done else f"{text}, and move it back into the inbox\n")
            return text

        try:
            async with self._moving:
                text = await in_thread(finish)
        except (OSError, UploaderError) as error:
            # it is run once more, which appends nothing
            return self._wait(describe(error) if isinstance(error, OSError) else str(error))
        self._pause = Backoff()
        log.info("inbox.finished", exitCode=int(code), reason=text.partition("\n")[0])
        return code

    def _wait(self, reason: str) -> ExitCode:
        """Begin a pause, after which the batch is tried again."""
        now = time.time()
        # one pause for several that could not go on at once
        jitter = random.random()  # noqa: S311 - no secret
        self._pause = after_failure(self._pause, now, base=PAUSE_BASE_SECONDS, cap=PAUSE_CAP_SECONDS, jitter=jitter)
        log.warning("inbox.waits", seconds=round(self._pause.until - now, 1), reason=reason.partition("\n")[0])
        return ExitCode.NOT_NOW


def _moved(text: str, taken: Path, place: Path) -> str:
    """Name a manifest and its results in a text by their later places."""
    return text.replace(str(results_of(taken)), str(results_of(place))).replace(str(taken), str(place))
