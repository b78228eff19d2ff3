"""`uploader run`: load the manifest, run the engine, write the results, tell how it ended."""

import asyncio
import json
import os
import random
import signal
import sys
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import ExitStack, asynccontextmanager, contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import structlog

from uploader import audio, results
from uploader.attempt import Rules
from uploader.cli.hours import local_time, until_time
from uploader.cli.preparing import (
    STANDARD_INPUT,
    ManifestFile,
    check,
    check_known_results,
    config_parameters,
    manifest_file,
    refuse_cost,
    refuse_invalid,
    results_path,
)
from uploader.cli.target import credentials
from uploader.cli.watching import SlotWatch
from uploader.client import Client, Credentials, CredentialsSource, TimeLimits
from uploader.engine import Engine, Pool, steady_clock
from uploader.errors import ExitCode, ResultsUnavailableError, UploaderError, UsageError
from uploader.ledger import Ledger, LedgerThread
from uploader.ledger.claiming import limit_facts
from uploader.ledger.lanes import enter_scope
from uploader.ledger.loading import account, begin_load, close_repeat, load_rows, note_limit, note_run, was_begun
from uploader.ledger.reading import (
    BatchFacts,
    Standing,
    find_batches,
    is_lane_ready,
    leftovers,
    result_lines,
    standing,
    troubles,
)
from uploader.ledger.recovery import boot_clock, rebase_deadlines, recover
from uploader.model import State
from uploader.policy.billing import SEPARATE
from uploader.policy.endings import ending
from uploader.sandbox import Sandbox, SandboxSettings
from uploader.settings import Settings
from uploader.status import Summary, View

log = structlog.get_logger()

SIGNALS = {signal.SIGINT: ExitCode.INTERRUPTED, signal.SIGTERM: ExitCode.TERMINATED}


@dataclass(frozen=True, slots=True)
class Target:
    """Whom to send to: the service, or the sandbox inside."""

    base_url: str
    credentials: CredentialsSource


def run_batch(settings: Settings, manifest: str | None, *, as_json: bool) -> ExitCode:
    """Run a batch to its end; standard output gets the closing summary and nothing else."""
    if manifest is None and settings.batch is None:
        raise UsageError("name a MANIFEST to append, or --batch NAME to carry on a batch that was loaded before")
    if manifest is None and (settings.sandbox or settings.repeat):
        raise UsageError("--sandbox and --repeat need a MANIFEST")
    summary = asyncio.run(_run(settings, manifest))
    print(json.dumps(summary.as_json()) if as_json else summary.as_text())  # noqa: T201 - what it is for
    return summary.exit_code


async def _run(settings: Settings, manifest: str | None) -> Summary:
    until = until_time(settings, local_time())
    async with _target(settings) as target:
        with ExitStack() as stack:
            ledger = stack.enter_context(_ledger(settings))
            _forget_summary(settings)
            now = steady_clock(time.time, time.monotonic)
            batch = _prepare(settings, manifest, ledger, target, now)
            night = _Night(settings, ledger, target, batch, now, until.timestamp() if until else None)
            return await night.pass_()


@asynccontextmanager
async def _target(settings: Settings) -> AsyncIterator[Target]:
    if not settings.sandbox:
        yield Target(settings.base_url, credentials(settings))
        return
    made_up = SandboxSettings(limit=settings.limit, allowed_parameters=frozenset(settings.extra_parameters))
    async with Sandbox(made_up) as sandbox:
        yield Target(sandbox.base_url, Credentials(made_up.app_id, made_up.app_secret))


@contextmanager
def _ledger(settings: Settings) -> Iterator[Ledger]:
    """The ledger of the settings; for the sandbox one that is thrown away."""
    with TemporaryDirectory(prefix="uploader-sandbox-") if settings.sandbox else nullcontext() as folder:
        url = f"sqlite:///{folder}/ledger.db" if folder else settings.ledger
        with Ledger.open_for_run(url) as ledger:
            yield ledger


def _prepare(
    settings: Settings, manifest: str | None, ledger: Ledger, target: Target, now: Callable[[], float]
) -> BatchFacts:
    """Everything that comes before the first byte, in one transaction where it writes."""
    config_parameters(settings)
    with ledger.writing() as connection:
        rebase_deadlines(connection, *boot_clock())
        unsent, doubtful = recover(connection, now(), settings.doubt_seconds)
    if unsent or doubtful:
        log.warning("an earlier run ended early", pendingAgain=unsent, inDoubt=doubtful)
    if manifest is None:
        batch = _carry_on(settings, ledger, target, now())
    else:
        with manifest_file(manifest, settings) as file:
            batch = _load(settings, file, ledger, target, now())
    with ledger.writing() as connection:
        enter_scope(connection, batch.batch_id, hold=settings.lanes.hold, first=settings.first)
        note_limit(connection, batch.account_id, settings.limit)
    return batch


def _carry_on(settings: Settings, ledger: Ledger, target: Target, now: float) -> BatchFacts:
    with ledger.writing() as connection:
        known = find_batches(connection, settings.batch)
        found = [one for one in known if one.base_url == target.base_url]
        if not found:
            elsewhere = f" (it was loaded for {known[0].base_url})" if known else ""
            raise UsageError(
                f"batch {settings.batch}: the ledger has none{elsewhere}: `uploader run MANIFEST` loads it"
            )
        path = settings.results or Path(found[0].results or "")
        results.check_path(path)
        note_run(connection, found[0].batch_id, path.resolve(), now)
        known = find_batches(connection, settings.batch)
        batch = next(one for one in known if one.batch_id == found[0].batch_id)
    check_known_results(path, ledger, sandbox=False)
    return batch


def _load(settings: Settings, file: ManifestFile, ledger: Ledger, target: Target, now: float) -> BatchFacts:
    path = results_path(settings, file)
    check_known_results(path, ledger, sandbox=settings.sandbox)
    if settings.batch is None and file.name == STANDARD_INPUT:
        raise UsageError("manifest -: for standard input say which batch it is with --batch NAME")
    name = settings.batch or Path(file.name).name
    with ledger.writing() as connection:
        account_id = account(connection, target.base_url)
        begun = lambda conversation_id, path: was_begun(connection, account_id, conversation_id, path)  # noqa: E731
        reader = file.reader(settings, begun)
        checked = check(reader)
        if settings.on_invalid == "refuse":
            refuse_invalid(checked, file.name)
        if checked.warnings.count:
            log.warning(
                "the manifest has warnings: `uploader plan` tells them", batch=name, count=checked.warnings.count
            )
        for problem in checked.problems.first:  # what stands there may be a path: the results tell it, the log does not
            log.warning("row left out", batch=name, line=problem.line, column=problem.column)
        load = begin_load(
            connection,
            account_id,
            name,
            manifest=file.name if file.name == "-" else str(Path(file.name).absolute()),
            results=path.resolve(),
            extra_columns=list(reader.extra_columns),
            now=now,
            repeat=settings.repeat,
        )
        load_rows(
            connection,
            load,
            reader.read(),
            content_hash=audio.content_hash,
            probe=audio.probe,
            separate=bool(settings.parameters.get(SEPARATE)),
        )
        found = standing(connection, load.batch_id, hold=settings.lanes.hold)
        left = sum(found.billed_seconds.get(state, 0.0) for state in (State.PENDING, State.HELD))
        refuse_cost(settings, file.name, left, found.unknown_lengths)
        known = find_batches(connection, name)
        return next(one for one in known if one.batch_id == load.batch_id)


def _forget_summary(settings: Settings) -> None:
    """A summary that stands there would say that the results are final."""
    if settings.summary is None:
        return
    try:
        settings.summary.unlink(missing_ok=True)
    except OSError as error:
        raise UsageError(f"summary {settings.summary}: {error.strerror}: name a file that can be written") from error
    if not settings.summary.parent.is_dir():
        raise UsageError(f"summary {settings.summary}: its folder does not exist: make it or name another")


class _Night:
    """One run of one batch, from the first claim to the closing summary."""

    def __init__(
        self,
        settings: Settings,
        ledger: Ledger,
        target: Target,
        batch: BatchFacts,
        now: Callable[[], float],
        until: float | None,
    ) -> None:
        self._settings = settings
        self._ledger = ledger
        self._target = target
        self._batch = batch
        self._now = now
        self._path = Path(batch.results or "")
        self._reader = ledger.beside()
        self._writing = threading.Lock()
        self._is_final = False
        self._snapshot_seconds = 0.0
        self._signal: ExitCode | None = None
        self._slots: SlotWatch | None = None
        self._begun = time.monotonic()
        self._until = until

    async def pass_(self) -> Summary:
        """Run the engine, write the final results, sum up."""
        thread = LedgerThread(self._ledger)
        limits = TimeLimits(self._settings.connect_seconds, self._settings.stall_seconds, self._settings.answer_seconds)
        failure: UploaderError | None = None
        try:
            async with Client(self._target.base_url, self._target.credentials, limits, self._now) as client:
                engine = self._engine(client, thread)
                failure = await self._run_engine(engine)
        finally:
            thread.close()
        failure = await asyncio.to_thread(self._write_final_results) or failure
        return self._sum_up(engine, failure)

    def _engine(self, client: Client, thread: LedgerThread) -> Engine:
        settings = self._settings
        pool = Pool(
            limit=settings.limit,
            uploads=settings.uploads,
            rate=settings.rate,
            polls_per_second=settings.jobs.polls_per_second,
            grace_seconds=settings.grace_seconds,
            give_up_seconds=settings.give_up_seconds,
            no_wait=settings.no_wait,
            until=self._until,
        )
        rules = Rules(
            defaults=config_parameters(settings),
            proves_not_appended=settings.replies.proves_not_appended,
            max_attempts=settings.max_attempts,
            doubt_seconds=settings.doubt_seconds,
            job_timeout_seconds=settings.job_timeout_seconds,
            hold=settings.lanes.hold,
            look_before=settings.doubt.look_before,
        )
        return Engine(
            client=client,
            writer=thread,
            account_id=self._batch.account_id,
            pool=pool,
            rules=rules,
            now=self._now,
            chance=random.Random(),  # noqa: S311 - jitter, no secret
        )

    async def _run_engine(self, engine: Engine) -> UploaderError | None:
        wanted = self._settings.progress == "auto"
        view = View(
            read=self._standing,
            limit=lambda: engine.limit,
            bytes_moved=lambda: engine.way_out.bytes_moved,
            snapshot=self._snapshot,
            bar=wanted and sys.stderr.isatty(),
            lines=wanted,
        )
        self._listen(engine)
        self._slots = SlotWatch(lambda: engine.limit, self._is_lane_ready)
        try:
            with view:
                await engine.run(beside=(view.refresh_bar, view.refresh_results, self._slots.watch))
        except UploaderError as error:
            return error
        return None

    def _listen(self, engine: Engine) -> None:
        loop = asyncio.get_running_loop()

        def stop(code: ExitCode) -> None:
            if self._signal is not None:
                cursor = "\x1b[?25h\n" if sys.stderr.isatty() else ""  # the bar had hidden it
                sys.stderr.write(f"{cursor}uploader: ended at once; run the same command again, it carries on\n")
                sys.stderr.flush()
                os._exit(int(code))  # the second signal ends at once: the ledger is as after a crash
            self._signal = code
            log.warning("stopping: nothing new starts; a second signal ends at once")
            # what the last snapshot took, the final one will take, and may have to wait for one under way
            engine.stop(reserve_seconds=2 * self._snapshot_seconds)

        for number, code in SIGNALS.items():
            loop.add_signal_handler(number, stop, code)

    def _standing(self) -> Standing:
        with self._reader.reading() as connection:
            return standing(connection, self._batch.batch_id, hold=self._settings.lanes.hold)

    def _is_lane_ready(self) -> bool:
        with self._reader.reading() as connection:
            return is_lane_ready(connection, self._batch.account_id, self._now())

    def _snapshot(self) -> None:
        """Refresh the results; what fails now is told, and is tried again."""
        with self._writing:
            if self._is_final:
                return
            begun = time.monotonic()
            try:
                self._write_results()
            except UploaderError as error:
                # the path stays out of the log
                log.warning("results could not be refreshed", reason=getattr(error.__cause__, "strerror", None))
            self._snapshot_seconds = time.monotonic() - begun

    def _write_results(self) -> None:
        with self._reader.reading() as connection:
            results.write(
                self._path,
                result_lines(connection, self._batch.batch_id, hold=self._settings.lanes.hold),
                self._batch.extra_columns,
            )

    def _write_final_results(self) -> UploaderError | None:
        with self._writing:
            self._is_final = True
            try:
                self._write_results()
            except UploaderError as error:
                return error
        return None

    def _sum_up(self, engine: Engine, failure: UploaderError | None) -> Summary:
        with self._reader.reading() as connection:
            found = standing(connection, self._batch.batch_id, hold=self._settings.lanes.hold)
            summary = Summary(
                batch=self._batch.name,
                exit_code=self._exit_code(found, failure),
                standing=found,
                bytes_sent=engine.way_out.bytes_moved,
                seconds=time.monotonic() - self._begun,
                results=str(self._path),
                ledger=self._ledger.path,
                limit=limit_facts(connection, self._batch.account_id, self._settings.limit, self._now()),
                throttled=engine.throttled,
                slot_wait_seconds=self._slots.seconds if self._slots is not None else 0.0,
                leftovers=leftovers(connection, self._batch.account_id, self._batch.batch_id),
                troubles=troubles(connection, self._batch.batch_id),
                rehearsal=self._settings.sandbox,
                reason=str(failure or ""),
                again=("uploader", *sys.argv[1:]),
            )
        if summary.exit_code in (ExitCode.DONE, ExitCode.NEEDS_PERSON):
            with self._ledger.writing() as connection:
                close_repeat(connection, self._batch.batch_id)
        # its presence says that the results are final
        if self._settings.summary is not None and not isinstance(failure, ResultsUnavailableError):
            results.write_json(self._settings.summary, summary.as_json())
        return summary

    def _exit_code(self, found: Standing, failure: UploaderError | None) -> ExitCode:
        if failure is not None:
            return failure.exit_code
        if self._signal is not None:
            return self._signal
        by_choice = self._settings.first is not None or self._until is not None
        return ending(
            found.counts,
            overdue=found.overdue,
            no_wait=self._settings.no_wait,
            unfinished=ExitCode.NOT_NOW if by_choice else ExitCode.GAVE_UP,
        )
