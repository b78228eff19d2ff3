"""`run_worker`: one more worker on a ledger, for every batch in it, until it is stopped."""

import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack, suppress
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from uploader import __version__, logs
from uploader.client import CredentialsSource
from uploader.errors import ExitCode, LedgerUnavailableError, UploaderError, UsageError
from uploader.ledger import Connection, Ledger
from uploader.ledger.lanes import activate_account
from uploader.ledger.leases import OpenWorker
from uploader.ledger.limit import limit_facts
from uploader.ledger.loading import account, save_rules
from uploader.ledger.reading import Trouble, find_account, troubles
from uploader.ledger.standing import NOTHING, Standing, has_unfinished, keep_counts, standings, unfinished
from uploader.ledger.thread import LedgerThread
from uploader.ledger.workers import begin_worker, end_worker, release_lanes, take_over
from uploader.policy.limits import add_limits
from uploader.run.activation import identity
from uploader.run.batch import check_addresses
from uploader.run.engine_run import EngineRun
from uploader.run.engines import Engines
from uploader.run.hours import local_time, until_time
from uploader.run.preparing import config_parameters
from uploader.run.reporting import ALL_BATCHES, RunReporter
from uploader.run.shared import Shared
from uploader.run.stopping import Stop
from uploader.run.target import Account, Target
from uploader.run.threads import in_thread
from uploader.settings import Settings
from uploader.status.progress import Progress
from uploader.status.summary import AccountLimit
from uploader.status.work_summary import LEFT, WorkSummary

if TYPE_CHECKING:  # most workers have no page
    from uploader.status.listener import ReadSnapshot
    from uploader.status.snapshot import SnapshotSource

log = logs.get_logger()


async def run_worker(
    settings: Settings, *, stop: Stop, on_progress: Callable[[Progress], None] | None = None
) -> WorkSummary:
    """Work on every batch of a ledger until stopped, or until the time is over; return the closing summary.

    Args:
        stop: Stops the worker when requested.
        on_progress: Called twice a second with the progress of all batches.

    Raises:
        UploaderError: The worker could not begin: nothing was sent.
    """
    reporter = RunReporter(settings, "")
    try:
        summary = await _run(settings, reporter, stop, on_progress)
    except Exception as error:
        await reporter.fail(error)
        raise
    counts = {state.value: count for state, count in summary.left.counts.items() if count}
    logs.log_end("run.ended", summary.exit_code, reason=summary.ending(), counts=counts)
    return summary


async def _run(
    settings: Settings, reporter: RunReporter, stop: Stop, on_progress: Callable[[Progress], None] | None
) -> WorkSummary:
    reporter.begin()
    check_addresses(settings)
    config_parameters(settings)
    until = until_time(settings, local_time())
    if until is not None:
        log.info("run.until", until=until.isoformat(timespec="minutes"))
    targets = [Target(own, own.base_url) for own in settings.of_accounts]
    with ExitStack() as stack:
        with stop.before_sending(settings.grace_seconds):
            ledger = stack.enter_context(await in_thread(_open, settings, stop))
            accounts, now = await in_thread(_begin, settings, ledger, targets, stop)
            await in_thread(ledger.workers_have_begun)
        log.info("run.begun", version=__version__, baseUrl=accounts[0].target.base_url, ledger=ledger.address)
        ends_at = until.timestamp() if until else None
        run = WorkerRun(
            settings,
            ledger,
            ALL_BATCHES,
            accounts,
            None,
            now,
            ends_at,
            reporter,
            stop=stop,
            on_progress=on_progress,
            shared=Shared(),
        )
        return await run.run()


def _open(settings: Settings, stop: Stop) -> Ledger:
    """Open the ledger, which a run has made.

    Raises:
        UsageError: There is none.
    """
    if not Ledger.exists(settings.ledger, stop.patience):
        Ledger.open_for_reading(settings.ledger).close()  # raises, with the remedy
    return Ledger.open_for_run(settings.ledger, must_exist=True, patience=stop.patience)


def _begin(
    settings: Settings, ledger: Ledger, targets: Sequence[Target], stop: Stop
) -> tuple[list[Account], Callable[[], float]]:
    """Take over what dead workers left, and begin a worker for every batch of each account of the settings.

    An account that the ledger does not have yet is made, for the batches to come.

    Raises:
        UsageError: An account has no credentials.
    """
    stop.check()
    now = take_over(ledger, settings.doubt_seconds, settings.job_timeout_seconds)
    process, accounts = identity(ledger), []
    with ledger.writing() as connection:
        for target in targets:
            known = find_account(connection, target.base_url, target.name)
            credentials = _credentials(connection, settings, target, known)
            if credentials is None:
                continue
            account_id = account(connection, target.base_url, target.name)
            # the limit is the account's: a worker that is not told one takes that of the latest run
            if known is None or _has_own_limit(settings, target):
                save_rules(connection, account_id, limit=target.settings.limit, holds=settings.lanes.hold)
            activate_account(connection, account_id)
            worker_id = begin_worker(connection, account_id, None, process, now())
            accounts.append(Account(account_id, worker_id, target, credentials))
    return accounts, now


def _credentials(
    connection: Connection, settings: Settings, target: Target, known: int | None
) -> CredentialsSource | None:
    """Return an account's credentials; None for the account above all tables where it has none and needs none.

    Raises:
        UsageError: It needs some.
    """
    try:
        return target.credentials()
    except UsageError:
        is_needed = target.settings.account or not settings.accounts
        if is_needed or (known is not None and has_unfinished(connection, known)):
            raise
        return None


def _has_own_limit(settings: Settings, target: Target) -> bool:
    own = settings.accounts.get(target.settings.account)
    return "limit" in settings.given or (own is not None and own.limit is not None)


class WorkerRun(EngineRun):
    """One worker's run of every batch, from the first claim to the closing summary."""

    async def run(self) -> WorkSummary:
        """Run an engine for each account until a stop, and return the closing summary."""
        thread = self._writer()
        try:
            async with self._opened(thread) as engines:
                tracker = self._tracker(engines, thread, lambda: None)
                helpers = (tracker.show_progress, tracker.recompute_forecast)
                failure = await self._run_engines(engines, thread, helpers)
        finally:
            thread.close()
        failure = failure or self._ledger.moved()
        summary = await self._once_back(failure, self._sum_up, engines, thread, failure)
        if self._reporter.is_wanted:
            await self._reporter.end_worker(summary, self._figures(summary.left, engines, thread))
        return summary

    def _standing(self) -> Standing:
        """Count the items of the batches that are not over."""
        with self._reader.reading() as connection:
            left = unfinished(connection)
            return sum(standings(connection, left, left).values(), NOTHING)

    def _troubles(self) -> Sequence[Trouble]:
        with self._reader.reading() as connection:
            return troubles(connection)

    def _reads(self, source: "SnapshotSource") -> "ReadSnapshot":
        """Return the function that reads the snapshots, each of the batches that are not over then."""
        from uploader.status.snapshot import Paced, SnapshotReader, idle_json  # noqa: PLC0415 - most have no page

        not_over = Paced(lambda connection: sorted(unfinished(connection)))
        reader = SnapshotReader(source)

        def read(*, fresh: bool) -> Mapping[str, Any]:
            nonlocal source, reader
            with source.reading() as connection:
                batch_ids = not_over(connection, fresh=fresh)
            if not batch_ids:
                return idle_json("Waiting for a batch.", source.ledger)
            if batch_ids != source.batch_ids:
                source = replace(source, batch_ids=batch_ids)
                reader = SnapshotReader(source)
            return reader.read(fresh=fresh)

        return read

    def _sum_up(self, engines: Engines, thread: LedgerThread, failure: UploaderError | None) -> WorkSummary:
        """End the workers, and sum up their work."""
        with suppress(*([LedgerUnavailableError] if failure is not None else [])):
            self._end_workers()
        with self._reader.reading() as connection:
            left = sum(unfinished(connection).values(), NOTHING)
            limits = [
                AccountLimit(
                    found.target.name,
                    found.target.base_url,
                    limit_facts(connection, found.account_id, None, self._now()),
                )
                for found in self._accounts
            ]
        return WorkSummary(
            exit_code=self._exit_code(left, failure),
            attempts=engines.attempts,
            jobs_ended=engines.jobs_ended,
            bytes_sent=engines.bytes_moved,
            seconds=time.monotonic() - self._begun,
            limit=add_limits(found.limit for found in limits),
            accounts=limits,
            throttled=engines.throttled,
            held_back=engines.held_back(),
            ledger_away_seconds=thread.stalled_seconds,
            left=left,
            ledger=self._ledger.address,
            reason=self._reason(failure),
            run=logs.bound().get("run"),
        )

    def _end_workers(self) -> None:
        settings = self._settings
        ending = [OpenWorker(found.worker_id, found.account_id, "", 0.0) for found in self._accounts]
        release_lanes(self._ledger, ending)
        with self._ledger.writing() as connection:
            keep_counts(connection, settings.last)
            keeps = settings.doubt_seconds, settings.job_timeout_seconds
            for found in self._accounts:
                end_worker(connection, found.worker_id, found.account_id, self._now(), *keeps, is_released=True)

    def _exit_code(self, left: Standing, failure: UploaderError | None) -> ExitCode:
        if failure is not None:
            return failure.exit_code
        if self._stop.code is not None:
            return self._stop.code
        return ExitCode.NOT_NOW if any(left.counts[state] for state in LEFT) else ExitCode.DONE

    def _reason(self, failure: UploaderError | None) -> str:
        if failure is not None:
            return str(failure)
        if self._stop.code is not None:
            return f"by {self._stop.by}: the same command carries on"
        return f"--until {self._settings.until}: nothing new starts after it"
