"""`uploader plan`: the checks of `run`, and a forecast of what the run would send."""

import json
import sys
import time
from collections import defaultdict
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass

from uploader import audio
from uploader.cli.plan_report import AccountsReport, PlanReport, Work, forecast_plan
from uploader.cli.printing import print_error, print_lines
from uploader.errors import ExitCode
from uploader.ledger import Connection, Ledger
from uploader.ledger.dry_run import dry_run, make_tables
from uploader.ledger.limit import limit_facts
from uploader.ledger.loading import current_repeat_id, resolve, was_begun
from uploader.ledger.matching import NEW_REPEAT, Hashes, staged_rows
from uploader.ledger.reading import find_account, jobs_seen, live_jobs
from uploader.ledger.sending import lanes_to_send
from uploader.ledger.sqlite import without_ledger
from uploader.ledger.staging import Stage, read_hints
from uploader.model import OVER, LimitFacts, LiveJob, State
from uploader.policy.forecast import pace_of
from uploader.run.findings import json_lines, spooled
from uploader.run.hours import local_time, until_time
from uploader.run.preparing import (
    HeaderError,
    ManifestCheck,
    ManifestFile,
    add_alike,
    add_lacking,
    are_channels_separate,
    batch_name,
    config_parameters,
    counted_rows,
    format_cost_refusal,
    format_problems,
    manifest_file,
)
from uploader.settings import DEFAULT_ACCOUNT, Settings
from uploader.status.formatting import format_count


@dataclass(frozen=True, slots=True)
class PlanOptions:
    """Options of a plan. ``check_files``: look for the audio files; ``show_all``: show all findings."""

    as_json: bool
    check_files: bool = True
    show_all: bool = False


class LedgerView:
    """The ledger's state of the accounts in the settings; empty where there is no ledger yet."""

    def __init__(self, settings: Settings) -> None:
        self._ledger = Ledger.open_for_reading(settings.ledger) if Ledger.exists(settings.ledger) else None
        # the accounts that the ledger has, by name
        self.accounts: dict[str, int] = {}
        if self._ledger is None:
            return
        with self._ledger.reading() as connection:
            for own in settings.of_accounts:
                account_id = find_account(connection, own.base_url, own.account_name)
                if account_id is not None:
                    self.accounts[own.account_name] = account_id

    def close(self) -> None:
        """Close the ledger."""
        if self._ledger is not None:
            self._ledger.close()

    @contextmanager
    def staging(self) -> Iterator[Connection]:
        """Open a connection for staging rows, rolled back at the end."""
        opened = self._ledger.staging() if self._ledger is not None else without_ledger()
        with opened as connection, connection.begin() as transaction:
            if self._ledger is None:
                make_tables(connection)
            yield connection
            transaction.rollback()

    def living_workers(self, connection: Connection) -> list[int]:
        """Return the ids of the workers that are at work now."""
        return self._ledger.living_workers(connection) if self._ledger is not None else []

    def pace(self, account: str) -> float | None:
        """Return the seen job seconds for a second of audio of an account; None where no job was seen."""
        if self._ledger is None or account not in self.accounts:
            return None
        with self._ledger.reading() as connection:
            return pace_of(jobs_seen(connection, self.accounts[account]))

    def limit(self, account: str, configured: int, now: float) -> LimitFacts:
        """Return an account's limit."""
        if self._ledger is None or account not in self.accounts:
            return LimitFacts(configured, None, configured, 0)
        with self._ledger.reading() as connection:
            return limit_facts(connection, self.accounts[account], configured, now)

    def live_jobs(self, account: str) -> list[LiveJob]:
        """List an account's live jobs, which hold slots and the rest of their lanes."""
        if self._ledger is None or account not in self.accounts:
            return []
        with self._ledger.reading() as connection:
            return live_jobs(connection, self.accounts[account])


def plan_manifest(settings: Settings, manifest: str, options: PlanOptions) -> ExitCode:
    """Check a manifest as `run` would, and print what a run would append, its cost and its end."""
    with ExitStack() as stack:
        check = ManifestCheck()
        if options.show_all:
            for findings in (check.problems, check.warnings, check.hints):
                findings.spool = stack.enter_context(spooled())
        file = stack.enter_context(manifest_file(manifest, settings))
        plan_report = None
        try:
            if options.check_files:
                plan_report = _go_through(settings, file, check)
            else:
                _check_rows(settings, file, check)
        except HeaderError:
            if not options.as_json:
                raise
        cost = "" if plan_report is None else format_cost_refusal(settings, manifest, plan_report.sending)
        code = ExitCode.USAGE if cost else _code(settings, check)
        if options.as_json:
            report = _as_json(manifest, check, plan_report, code) | {"reason": cost or None}
            lists = {"problems": check.problems, "warnings": check.warnings, "hints": check.hints}
            sys.stdout.writelines(json_lines(report, lists))
        else:
            print_lines(_as_lines(manifest, check, plan_report))
    if cost:
        print_error(f"uploader: {cost}")  # the report stands on standard output already
    return code


def show_schema(settings: Settings) -> ExitCode:
    """Print the JSON Schema of a manifest row."""
    from uploader.manifest.schema import row_schema  # noqa: PLC0415 - a plan has no use for it

    print_lines(json.dumps(row_schema(config_parameters(settings)), indent=2, ensure_ascii=False).split("\n"))
    return ExitCode.DONE


def _check_rows(settings: Settings, file: ManifestFile, check: ManifestCheck) -> None:
    """Read the manifest once, without a look at the audio files and at the ledger."""
    with without_ledger() as connection, connection.begin():
        stage = Stage(connection, None)
        rows = counted_rows(file.reader(settings, lambda *_: False, check_files=False), check)
        stage.add(rows, audio.probe, separate=are_channels_separate(settings))
        add_alike(check, connection, stage)
        check.conversations = stage.count_conversations()


def _go_through(settings: Settings, file: ManifestFile, check: ManifestCheck) -> PlanReport | AccountsReport:
    """Read the manifest once; return what a run would send, and when it would end."""
    with closing(LedgerView(settings)) as known:
        works = _sum_up(settings, file, check, known)
        return _forecast(settings, works, known)


def _sum_up(settings: Settings, file: ManifestFile, check: ManifestCheck, known: LedgerView) -> Mapping[str, Work]:
    """Read the manifest, and sum up what a run would send by account."""
    works, seconds = defaultdict[str, Work](lambda: Work(first=settings.first)), time.time()
    live = {account: known.live_jobs(account) for account in known.accounts}
    name = batch_name(settings, file.name) or file.name
    account_id = known.accounts.get(DEFAULT_ACCOUNT)
    with known.staging() as connection:
        begun = was_begun(connection, account_id, known.accounts) if known.accounts else lambda *_: False
        stage = Stage(connection, account_id, known.accounts)
        rows = counted_rows(file.reader(settings, begun), check)
        stage.add(rows, audio.probe, separate=are_channels_separate(settings), hints=True)
        repeat_id = NEW_REPEAT
        if account_id is not None:
            repeat_id = current_repeat_id(connection, account_id, name, repeat=settings.repeat)
        add_lacking(check, resolve(connection, stage, repeat_id, Hashes(audio.content_hash)))
        add_alike(check, connection, stage)
        check.conversations = stage.count_conversations()
        _count_rows(connection, works, check)
        base_urls = {own.account_name: own.base_url for own in settings.of_accounts}
        found = dry_run(connection, stage, settings, base_urls, name, seconds, known.living_workers(connection))
        for account_id, account in found.names.items():
            work = works[account]
            work.sending = found.sending[account_id]
            awaited = {job.item_id for job in live_jobs(connection, account_id) if job.is_active}
            # the copies have the jobs of the lanes alone that the batch sends to
            jobs = [job._replace(is_active=job.item_id in awaited) for job in live.get(account, ())]
            work.lanes = lanes_to_send(connection, account_id, jobs, seconds, under_way=False)
    return works


def _forecast(settings: Settings, works: Mapping[str, Work], known: LedgerView) -> PlanReport | AccountsReport:
    """Foresee when a run would end, by account where the settings have several."""
    now, seconds = local_time(), time.time()
    until = until_time(settings, now)
    reports = {}
    for own in settings.of_accounts:
        if own.account_name in works or not settings.accounts:
            limit = known.limit(own.account_name, own.limit, seconds)
            work, pace = works[own.account_name], known.pace(own.account_name)
            reports[own.account_name] = forecast_plan(work, pace, limit, own, now, until)
    return AccountsReport(reports) if settings.accounts else reports[DEFAULT_ACCOUNT]


def _count_rows(connection: Connection, works: Mapping[str, Work], check: ManifestCheck) -> None:
    """Count the staged rows and their items' states by account, and collect hints of items that are not over."""
    for row in staged_rows(connection):
        work = works[row.account or DEFAULT_ACCOUNT]
        state = State(row.state) if row.state is not None else None
        if row.path is None:
            continue
        if state not in OVER:
            check.hints.add(read_hints(row.hints, row.line))
        if row.size is not None:
            work.all.add(row.size, row.duration_seconds, row.billed_seconds)
        if state is not None:
            work.known[state] += 1


def _code(settings: Settings, check: ManifestCheck) -> ExitCode:
    if check.is_header_wrong or (check.problems.count and settings.on_invalid == "refuse"):
        return ExitCode.USAGE
    return ExitCode.NEEDS_PERSON if check.problems.count else ExitCode.DONE


def _as_lines(manifest: str, check: ManifestCheck, plan_report: PlanReport | AccountsReport | None) -> Iterator[str]:
    conversations = format_count(check.conversations, "conversation")
    yield f"{manifest}: {format_count(check.rows, 'row')}, {check.invalid} invalid, {conversations}"
    if plan_report is None:
        yield "  the audio files were not looked at: nothing is foreseen"
    else:
        yield from plan_report.as_lines()
    if check.gone:
        yield f"  {format_count(check.gone, 'file')} gone since their items were begun: not sent again"
    yield from format_problems(check, manifest)
    if check.warnings.count:
        warnings = format_count(check.warnings.count, "warning")
        keep = "keeps" if check.warnings.count == 1 else "keep"
        yield f"manifest {manifest}: {warnings}, which {keep} no row from being sent"
        yield from check.warnings.table()
    if check.hints.count:
        yield f"manifest {manifest}: {format_count(check.hints.count, 'hint')}"
        yield from check.hints.table()


def _as_json(
    manifest: str, check: ManifestCheck, plan_report: PlanReport | AccountsReport | None, code: ExitCode
) -> dict[str, object]:
    return {
        "manifest": manifest,
        "exitCode": int(code),
        "rows": check.rows,
        "invalid": check.invalid,
        "conversations": check.conversations,
        "gone": check.gone,
        **({"files": None, "bytes": None} if plan_report is None else plan_report.as_json()),
        "problemCount": check.problems.count,
        "warningCount": check.warnings.count,
        "hintCount": check.hints.count,
    }
