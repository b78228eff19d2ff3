"""One run of one batch: engine, results and closing summary."""

import asyncio
import shlex
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack, suppress
from itertools import chain, repeat
from math import inf
from pathlib import Path

from uploader import logs, results
from uploader.errors import ExitCode, LedgerAwayError, LedgerUnavailableError, ResultsUnavailableError, UploaderError
from uploader.ledger import Connection, Ledger
from uploader.ledger.history import accounts_of_batch
from uploader.ledger.leases import OpenWorker
from uploader.ledger.limit import limit_facts
from uploader.ledger.load_leases import is_merging
from uploader.ledger.loading import close_repeat
from uploader.ledger.orphans import find_orphans
from uploader.ledger.reading import (
    Trouble,
    anomalies,
    find_accounts,
    result_lines,
    troubles,
)
from uploader.ledger.sending import elsewhere
from uploader.ledger.standing import Standing, has_unfinished, keep_counts, save_held_back, standing
from uploader.ledger.thread import LedgerThread
from uploader.ledger.workers import end_worker, release_lanes
from uploader.model import LimitFacts, State
from uploader.policy.endings import ending
from uploader.policy.held_back import HeldBack
from uploader.policy.limits import add_limits
from uploader.results import rfc3339
from uploader.run.activation import Prepared
from uploader.run.engine_run import EngineRun
from uploader.run.engines import Engines
from uploader.run.reporting import RunReporter
from uploader.run.shared import Shared
from uploader.run.stopping import Stop
from uploader.settings import Settings
from uploader.status.formatting import held_back_json, run_command
from uploader.status.progress import Progress
from uploader.status.summary import AccountLimit, Summary

log = logs.get_logger()

# how often what holds the run back is written into the ledger
HELD_BACK_SECONDS = 10.0

# the exit codes of a run that was not cut short; the counts of batches that are over by then are stored for good
ENDED = (ExitCode.DONE, ExitCode.NEEDS_PERSON, ExitCode.IN_DOUBT, ExitCode.NOT_NOW)


class BatchRun(EngineRun):
    """One run of one batch, from the first claim to the closing summary."""

    def __init__(
        self,
        settings: Settings,
        ledger: Ledger,
        prepared: Prepared,
        until: float | None,
        reporter: RunReporter,
        *,
        stop: Stop,
        on_progress: Callable[[Progress], None] | None = None,
        again: Sequence[str] = (),
        shared: Shared,
    ) -> None:
        super().__init__(
            settings,
            ledger,
            prepared.batch.name,
            prepared.accounts,
            prepared.batch.batch_id,
            prepared.now,
            until,
            reporter,
            stop=stop,
            on_progress=on_progress,
            shared=shared,
        )
        self._prepared = prepared
        self._batch = prepared.batch
        self._path = Path(prepared.batch.results or "")
        self._writing = threading.Lock()
        self._is_final = False
        self._again = again

    async def run(self) -> Summary:
        """Run an engine for each account, write the final results, and return the closing summary."""
        # until its workers have ended in the ledger: what they leave is for the other runs
        with ExitStack() as presence:
            thread = self._writer()
            failure: UploaderError | None = None
            try:
                async with self._opened(thread) as engines:
                    presence.enter_context(self._shared.present(engines.look_soon))
                    failure = await self._run_batch(engines, thread)
                    await self._save_held_back(engines, thread, engines.held_back())
            finally:
                thread.close()
            failure = await self._once_back(failure, self._write_final_results) or failure or self._ledger.moved()
            summary = await self._once_back(failure, self._sum_up, engines, thread, failure)
        if self._reporter.is_wanted:
            await self._reporter.end(summary, self._figures(summary.standing, engines, thread))
        return summary

    async def _run_batch(self, engines: Engines, thread: LedgerThread) -> UploaderError | None:
        tracker = self._tracker(engines, thread, self._snapshot)

        async def keep_held_back() -> None:
            # a run that is new is asked for soon, and its shares change fast
            for seconds in chain((1.0, 1.0, 2.0, 4.0), repeat(HELD_BACK_SECONDS)):
                await asyncio.sleep(seconds)
                await self._save_held_back(engines, thread, engines.held_back_so_far())

        return await self._run_engines(engines, thread, (*tracker.helpers, keep_held_back))

    def _troubles(self) -> Sequence[Trouble]:
        with self._reader.reading() as connection:
            return troubles(connection, self._batch.batch_id)

    async def _save_held_back(self, engines: Engines, thread: LedgerThread, found: HeldBack | None) -> None:
        """Write into the ledger, for `uploader status`, what has held the run back and what it waits for."""
        wait = engines.standstill
        waits: dict[str, str | None] = {"waitsFor": None, "waitsUntil": None}
        if wait is not None:
            waits = {"waitsFor": wait.reason, "waitsUntil": rfc3339(wait.until) if wait.until < inf else None}
        try:
            await thread.call(save_held_back, self._batch.batch_id, {**held_back_json(found), **waits})
        except UploaderError:
            return  # a ledger that cannot be written now is the engine's to tell

    def _standing(self) -> Standing:
        with self._reader.reading() as connection:
            return standing(connection, self._batch.batch_id)

    def _snapshot(self) -> None:
        """Write the results as they are now; log an error and leave it to the next snapshot."""
        with self._writing:
            if self._is_final:
                return
            begun = time.monotonic()
            try:
                self._write_results(is_final=False)
            except LedgerAwayError:
                pass  # which is logged once; the next snapshot may find it back
            except UploaderError as error:
                # the path stays out of the log
                log.warning("results.unwritten", reason=getattr(error.__cause__, "strerror", None))
            self._snapshot_seconds = time.monotonic() - begun

    def _write_results(self, *, is_final: bool) -> None:
        batch = self._batch
        with self._reader.reading() as connection:
            if not is_final and is_merging(connection, batch.account_id, batch.name):
                return  # another run replaces the rows: the former snapshot stands until it has
            results.write(
                self._path,
                result_lines(connection, batch.batch_id),
                batch.extra_columns,
            )

    def _write_final_results(self) -> UploaderError | None:
        with self._writing:
            self._is_final = True
            try:
                self._write_results(is_final=True)
            except LedgerAwayError:
                raise
            except UploaderError as error:
                return error
        return None

    def _sum_up(self, engines: Engines, thread: LedgerThread, failure: UploaderError | None) -> Summary:
        with self._reader.reading() as connection:
            limits = self._limits(connection)
            found = standing(connection, self._batch.batch_id)
            # the statements of what is left, and of what needs a person, take long to build: a good night has none
            left = [account_id for account_id in limits if has_unfinished(connection, account_id)]
            summary = Summary(
                batch=self._batch.name,
                exit_code=self._exit_code(found, failure),
                standing=found,
                bytes_sent=engines.bytes_moved,
                seconds=time.monotonic() - self._begun,
                results=str(self._path),
                ledger=self._ledger.address,
                limit=add_limits(limits.values()),
                accounts=self._name_limits(connection, limits),
                throttled=engines.throttled,
                slot_wait_seconds=engines.full_seconds,
                held_back=engines.held_back(),
                ledger_away_seconds=thread.stalled_seconds,
                warnings=self._prepared.warnings,
                carried=self._prepared.sending.leftovers,
                elsewhere=[
                    leftover
                    for account_id in left
                    for leftover in elsewhere(connection, account_id, self._batch.batch_id)
                ],
                troubles=[] if found.is_over else troubles(connection, self._batch.batch_id),
                anomalies=anomalies(connection, self._batch.batch_id),
                webhook_silent=engines.is_webhook_silent,
                orphans=[group for account_id in left for group in find_orphans(connection, account_id)],
                rehearsal=self._settings.sandbox,
                is_new_ledger=self._ledger.is_new and not self._settings.sandbox,
                had_work=self._prepared.sending.own.files > 0,
                run=logs.bound().get("run"),
                reason=str(failure or "") or self._format_choice(found),
                again=self._again or self._command_again(),
            )
        with suppress(*([] if summary.exit_code in ENDED else [LedgerUnavailableError])):
            self._end_workers(summary)
        # its presence says that the results are final
        if self._settings.summary is not None and not isinstance(failure, ResultsUnavailableError):
            results.write_json(self._settings.summary, summary.as_json())
        return summary

    def _end_workers(self, summary: Summary) -> None:
        """Keep what is over for good, and end the workers; where the ledger is away, another one ends them."""
        settings = self._settings
        ending = [OpenWorker(found.worker_id, found.account_id, "", 0.0) for found in self._prepared.accounts]
        release_lanes(self._ledger, ending)
        with self._ledger.writing() as connection:
            if summary.exit_code in ENDED:
                if summary.exit_code in (ExitCode.DONE, ExitCode.NEEDS_PERSON):
                    close_repeat(connection, self._batch.batch_id, self._batch.repeat_id)
                keep_counts(connection, settings.last)
            keeps = settings.doubt_seconds, settings.job_timeout_seconds
            for account in self._prepared.accounts:
                end_worker(connection, account.worker_id, account.account_id, self._now(), *keeps, is_released=True)

    def _limits(self, connection: Connection) -> dict[int, LimitFacts]:
        """Return the limits of the run's accounts by their ids; where it sends to none, of those sent to before."""
        configured: dict[int, int | None] = {
            account.account_id: account.settings.limit for account in self._prepared.accounts
        }
        if not configured and self._settings.accounts:
            configured = dict.fromkeys(accounts_of_batch(connection, self._batch.batch_id))
        if not configured:
            configured = {self._batch.account_id: self._settings.limit}
        now = self._now()
        return {account_id: limit_facts(connection, account_id, limit, now) for account_id, limit in configured.items()}

    def _name_limits(self, connection: Connection, limits: Mapping[int, LimitFacts]) -> list[AccountLimit]:
        """Name the limits of the accounts, where the settings have several."""
        if not self._settings.accounts:
            return []
        known = find_accounts(connection)
        return [
            AccountLimit(known[account_id].name, known[account_id].base_url, limit)
            for account_id, limit in limits.items()
        ]

    def _command_again(self) -> list[str]:
        batch, settings = self._batch, self._settings
        place = batch.name, batch.base_url, self._ledger.address
        return shlex.split(run_command(*place, config=settings.config, limit=settings.limit))

    def _format_choice(self, found: Standing) -> str:
        """Explain why a part of the batch is still pending on purpose; empty where none is."""
        if self._stop.code is not None:
            return f"by {self._stop.by}: the same command carries on"
        if not found.counts[State.PENDING]:
            return ""
        if self._until is not None and self._now() >= self._until:
            return f"--until {self._settings.until}: nothing new starts after it; the rest stays pending"
        if self._settings.first is not None:
            return f"--first {self._settings.first}: the rest stays pending"
        return "another command has changed what is to be sent: the same command carries on"

    def _exit_code(self, found: Standing, failure: UploaderError | None) -> ExitCode:
        if failure is not None:
            return failure.exit_code
        if self._stop.code is not None:
            return self._stop.code
        by_choice = self._settings.first is not None or self._until is not None
        return ending(
            found.counts,
            overdue=found.overdue,
            no_wait=self._settings.no_wait,
            unfinished=ExitCode.NOT_NOW if by_choice else ExitCode.GAVE_UP,
        )
