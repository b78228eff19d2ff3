"""`uploader insights`: fetches the conversations' insights, one file each."""

import asyncio
import os
import random
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from uploader import logs
from uploader.cli import terminal
from uploader.cli.inspecting import batch_with_rows, service_of
from uploader.cli.printing import print_json, print_lines
from uploader.cli.signals import stop_signals
from uploader.client import Client, CredentialsSource, TimeLimits
from uploader.engine import run_concurrently
from uploader.errors import ExitCode, UploaderError, UsageError
from uploader.insights import Fetcher, Report, RetryingReader, folder_for_insights
from uploader.ledger import Ledger
from uploader.ledger.clock import steady_clock
from uploader.ledger.conversations import completed_accounts, count_conversations
from uploader.ledger.reading import AccountFacts, BatchFacts
from uploader.ledger.standing import standing
from uploader.model import LIVE, State
from uploader.pace import Pace
from uploader.policy.insights import chosen
from uploader.policy.parts import Part
from uploader.run.target import account_settings, credentials
from uploader.settings import DEFAULT_ACCOUNT, Settings
from uploader.status.formatting import format_count, format_counts, format_duration, format_rows

log = logs.get_logger()

# the number of conversations fetched at once; ``[insights] requests_per_second`` sets the rate
FETCHERS = 4
POLL_SECONDS = 0.5
# the most left-out conversations in the text summary; the JSON summary has more
EXAMPLES = 5


@dataclass(frozen=True, slots=True)
class InsightsSummary:
    """The closing summary of `uploader insights`."""

    batch: str
    folder: Path
    report: Report
    seconds: float
    exit_code: ExitCode
    reason: str
    # where no item has completed: how the batch stands
    counts: Mapping[State, int] | None = None

    def as_json(self) -> dict[str, Any]:
        """Return the summary as the JSON object of ``--json``."""
        report = self.report
        return {
            "batch": self.batch,
            "exitCode": int(self.exit_code),
            "folder": str(self.folder),
            "conversations": report.conversations,
            "written": report.written,
            "upToDate": report.up_to_date,
            "leftOut": report.left_out,
            "leftOutExamples": [
                {"conversationId": conversation.conversation_id, "reason": conversation.reason}
                for conversation in report.examples
            ],
            "lacking": dict(report.lacking),
            "seconds": round(self.seconds, 3),
            "reason": self.reason or self._format_nothing() or None,
        }

    def as_lines(self) -> list[str]:
        """Format the summary as lines of text."""
        report = self.report
        counts = f"{report.written} written, {report.up_to_date} up to date, {report.left_out} left out"
        missing = ", ".join(f"{name} in {count}" for name, count in report.lacking.items())
        rows = [("folder", str(self.folder)), ("lacking", f"{missing}: the files' errors say why" if missing else "")]
        rows += [("left out", f"{left.conversation_id}: {left.reason}") for left in report.examples[:EXAMPLES]]
        if report.left_out > EXAMPLES:
            rows.append(("left out", f"{report.left_out - EXAMPLES} more: the log names them"))
        rows += [("nothing", self._format_nothing()), ("stopped", self.reason)]
        return [f"{self.batch}: {format_count(report.conversations, 'conversation')}: {counts}", *format_rows(rows)]

    def _format_nothing(self) -> str:
        """Explain why no conversation was fetched; empty where some were."""
        if not self.counts:
            return ""
        live = " (jobs that have ended are seen by `uploader run` alone)" if self.counts.get(State.ACCEPTED) else ""
        return f"no item of the batch has completed: {format_counts(self.counts)}{live}"


def fetch_insights(
    settings: Settings, folder: Path | None, only: Sequence[str], *, again: bool, as_json: bool
) -> ExitCode:
    """Fetch the insights of all conversations in which items of a batch completed."""
    wanted = chosen([name for text in only or settings.insights.only for name in text.replace(",", " ").split()])
    with Ledger.open_for_reading(settings.ledger) as ledger:
        batch = _batch(settings, ledger)
        fetching = _Fetching(settings, ledger, batch, folder or _default_folder(batch), wanted)
        with folder_for_insights(fetching.folder):
            summary = asyncio.run(fetching.fetch(again=again))
    if as_json:
        print_json(summary.as_json())
    else:
        print_lines(summary.as_lines())
    return summary.exit_code


class _Fetching:
    """One fetch of a batch's insights: client, fetchers, live lines and signal handlers."""

    def __init__(
        self, settings: Settings, ledger: Ledger, batch: BatchFacts, folder: Path, wanted: Sequence[Part]
    ) -> None:
        self._settings = settings
        self._ledger = ledger
        self._batch = batch
        self.folder = folder
        self._wanted = wanted
        self._accounts = self._read_accounts()
        self._now = steady_clock(time.time, time.monotonic)
        self._signal: ExitCode | None = None

    async def fetch(self, *, again: bool) -> InsightsSummary:
        """Fetch until all conversations are done, an error or a signal; files already written stay."""
        begun, failure, report = time.monotonic(), None, Report()
        try:
            async with asyncio.timeout(None) as until_signal:
                self._listen(until_signal)
                over = asyncio.Event()
                await run_concurrently([self._fetch_all(report, over, again=again), self._show_progress(report, over)])
        except TimeoutError:
            log.warning("run.stopping")
        except UploaderError as error:
            failure = error
        counts = self._count_without_completed() if not report.conversations else {}
        return InsightsSummary(
            batch=self._batch.name,
            folder=self.folder,
            report=report,
            seconds=time.monotonic() - begun,
            exit_code=self._exit_code(report, failure, are_live=any(counts.get(state) for state in LIVE)),
            reason=str(failure or ""),
            counts=counts,
        )

    def _read_accounts(self) -> list[tuple[AccountFacts, CredentialsSource]]:
        """Read the accounts of the batch's completed items, with their credentials."""
        with self._ledger.reading() as connection:
            found = completed_accounts(connection, self._batch.batch_id)
        own = AccountFacts(self._batch.account_id, self._batch.base_url, DEFAULT_ACCOUNT)
        return [
            (account, credentials(account_settings(self._settings, account.base_url, account.name)))
            for account in found or [own]
        ]

    def _count_without_completed(self) -> Mapping[State, int]:
        """Count the batch's items by state; nothing where one of them has completed."""
        with self._ledger.reading() as connection:
            counts = standing(connection, self._batch.batch_id).counts
        return {} if counts[State.COMPLETED] else counts

    async def _fetch_all(self, report: Report, over: asyncio.Event, *, again: bool) -> None:
        """Fetch the conversations of one account after the other."""
        limits = TimeLimits(connect=self._settings.connect_seconds)
        try:
            for account, own_credentials in self._accounts:
                async with Client(account.base_url, own_credentials, limits, self._now) as client:
                    fetcher = self._fetcher(client, account, report, again=again)
                    await run_concurrently([fetcher.fetch_all() for _ in range(FETCHERS)])
        finally:
            over.set()

    async def _show_progress(self, report: Report, over: asyncio.Event) -> None:
        """Show the conversations done, their rate and the time left on a terminal."""
        if self._settings.progress != "auto" or not terminal.can_redraw():
            return
        from uploader.status.live import LiveView, count_lines  # noqa: PLC0415 - rich is for terminals

        with self._ledger.reading() as connection:
            total = count_conversations(connection, self._batch.batch_id)
        begun = time.monotonic()
        with LiveView() as view:
            while not over.is_set():
                done = report.conversations
                rate = done / max(time.monotonic() - begun, 0.001)
                left = [f"{format_duration((total - done) / rate)} left"] if done and total >= done else []
                details = [f"{rate:.1f}/s", *left, f"{report.written} written", f"{report.left_out} left out"]
                view.draw(partial(count_lines, self._batch.name, done, total, details))
                with suppress(TimeoutError):
                    async with asyncio.timeout(POLL_SECONDS):
                        await over.wait()

    def _fetcher(self, client: Client, account: AccountFacts, report: Report, *, again: bool) -> Fetcher:
        pace = Pace(self._settings.insights.requests_per_second)
        # the jitter needs no secret
        reader = RetryingReader(client, pace, self._now, random.Random(), self._settings.give_up_seconds)  # noqa: S311
        return Fetcher(
            reader=reader,
            ledger=self._ledger,
            batch=self._batch._replace(account_id=account.account_id, base_url=account.base_url),
            folder=self._folder_of(account),
            wanted=self._wanted,
            again=again,
            now=self._now,
            report=report,
        )

    def _folder_of(self, account: AccountFacts) -> Path:
        """Return the folder of an account's files: two accounts may have a conversation of one id."""
        if account.name == DEFAULT_ACCOUNT:
            return self.folder
        folder = self.folder / account.name
        folder.mkdir(exist_ok=True)
        return folder

    def _listen(self, until_signal: asyncio.Timeout) -> None:
        """Cancel the fetch at the first signal, which is safe because it only reads; exit at the second."""
        loop = asyncio.get_running_loop()

        def stop(code: ExitCode) -> None:
            if self._signal is not None:
                terminal.leave("uploader: ended at once; run the same command again, it carries on")
                os._exit(int(code))
            self._signal = code
            logs.leave_closed_terminal()
            until_signal.reschedule(loop.time())

        for number, code in stop_signals().items():
            loop.add_signal_handler(number, stop, code)

    def _exit_code(self, report: Report, failure: UploaderError | None, *, are_live: bool) -> ExitCode:
        if failure is not None:
            return failure.exit_code
        if self._signal is not None:
            return self._signal
        if report.gave_up:
            return ExitCode.GAVE_UP
        return ExitCode.NEEDS_PERSON if report.left_out or are_live else ExitCode.DONE


def _batch(settings: Settings, ledger: Ledger) -> BatchFacts:
    with ledger.reading() as connection:
        return batch_with_rows(connection, settings, ledger.address, service_of(settings))


def _default_folder(batch: BatchFacts) -> Path:
    """Derive the folder from the path of the batch's results."""
    if batch.results is None:
        raise UsageError(f"batch {batch.name}: it has no results file to put the folder beside: name a FOLDER")
    results, here = Path(batch.results), Path.cwd()
    folder = results.with_name(results.stem.removesuffix(".results") + ".insights")
    return folder.relative_to(here) if folder.is_relative_to(here) else folder
