"""`uploader run`: loads the manifest, runs the batch, writes results and summary."""

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, asynccontextmanager, contextmanager, nullcontext
from pathlib import Path
from tempfile import TemporaryDirectory
from urllib.parse import urlsplit

from uploader import __version__, audio, logs, results
from uploader.cli import summary_file
from uploader.cli.batch_run import BatchRun
from uploader.cli.hours import local_time, until_time
from uploader.cli.preparing import (
    STANDARD_INPUT,
    ManifestCheck,
    ManifestFile,
    add_alike,
    add_lacking,
    are_channels_separate,
    batch_name,
    check_known_results,
    config_parameters,
    counted_rows,
    manifest_file,
    refuse_cost,
    refuse_invalid,
    results_path,
)
from uploader.cli.printing import print_json, print_lines
from uploader.cli.reporting import RunReporter
from uploader.cli.target import Target, check_far, credentials, far_options
from uploader.client import Credentials
from uploader.engine import steady_clock
from uploader.errors import ExitCode, UsageError
from uploader.ledger import Connection, Ledger
from uploader.ledger.lanes import activate_batch
from uploader.ledger.loading import (
    account,
    begin_load,
    current_repeat_id,
    merge,
    resolve,
    save_configured_limit,
    save_run,
    was_begun,
)
from uploader.ledger.matching import Hashes
from uploader.ledger.orphans import orphaned_by_load
from uploader.ledger.reading import BatchFacts, find_batches
from uploader.ledger.recovery import boot_clock, rebase_deadlines, recover
from uploader.ledger.sending import ToSend, to_send
from uploader.ledger.staging import Stage
from uploader.manifest import Manifest
from uploader.model import InvalidRow, Row, State
from uploader.settings import Settings, is_loopback
from uploader.status.formatting import held_back_json
from uploader.status.summary import ManifestWarning, Summary

log = logs.get_logger()
# the most kinds of a manifest's warnings that a run logs
WARNINGS_LOGGED = 20


def run_batch(settings: Settings, manifest: str | None, *, as_json: bool) -> ExitCode:
    """Run a batch to its end; print nothing but the closing summary to standard output."""
    if manifest is None and settings.batch is None:
        raise UsageError("name a MANIFEST to append, or --batch NAME to carry on a batch that was loaded before")
    if manifest is None and (settings.sandbox or settings.repeat):
        raise UsageError("--sandbox and --repeat need a MANIFEST")
    batch = batch_name(settings, manifest)
    if batch:
        logs.bind(batch=batch)
    reporter = RunReporter(settings, batch)
    try:
        summary = asyncio.run(_run(settings, manifest, reporter))
    except Exception as error:
        asyncio.run(reporter.fail(error))
        raise
    counts = {state.value: count for state, count in summary.standing.counts.items() if count}
    shares = held_back_json(summary.held_back)
    log.info("run.ended", exitCode=int(summary.exit_code), reason=summary.ending(), counts=counts, **shares)
    if as_json:
        print_json(summary.as_json())
    else:
        print_lines(summary.as_lines())
    return summary.exit_code


async def _run(settings: Settings, manifest: str | None, reporter: RunReporter) -> Summary:
    reporter.begin()
    _check_webhook(settings)
    check_far(settings)
    until = until_time(settings, local_time())
    if until is not None:
        log.info("run.until", until=until.isoformat(timespec="minutes"))
    async with _target(settings) as target:
        with ExitStack() as stack:
            ledger = stack.enter_context(_ledger(settings))
            begun = {"baseUrl": target.base_url, "limit": settings.limit, "ledger": ledger.address}
            log.info("run.begun", version=__version__, **begun)
            summary_file.forget(settings)
            now = steady_clock(time.time, time.monotonic)
            batch, sending, warnings = _prepare(settings, manifest, ledger, target, now)
            if ledger.is_new and not settings.sandbox:
                log.warning("ledger.made")
            _log_leftovers(sending)
            ends_at = until.timestamp() if until else None
            batch_run = BatchRun(settings, ledger, target, batch, sending, now, ends_at, reporter, warnings)
            return await batch_run.run()


def _check_webhook(settings: Settings) -> None:
    """Refuse a listener without a public address, and an address without a listener."""
    for given, name, lacking, other in (
        (settings.webhook, "webhook", settings.webhook_url, "webhook-url URL"),
        (settings.webhook_url, "webhook_url", settings.webhook, "webhook HOST:PORT"),
    ):
        if given is not None and lacking is None:
            raise UsageError(
                f"{settings.source(name)}: {name} = {given!r}: say --{other} as well: where to listen, and how that is "
                "reached"
            )
    if settings.webhook_url is None:
        return
    if "webhookUrl" in config_parameters(settings):
        log.warning("webhook.overridden")
    if settings.webhook_url.startswith("http:") and not is_loopback(urlsplit(settings.webhook_url).hostname or ""):
        log.warning("webhook.plain_http")


@asynccontextmanager
async def _target(settings: Settings) -> AsyncIterator[Target]:
    if not settings.sandbox:
        yield Target(settings.base_url, credentials(settings))
        return
    from uploader.sandbox import Sandbox, SandboxSettings  # noqa: PLC0415 - a run of the service has no use for them

    made_up = SandboxSettings(
        limit=settings.limit, allowed_parameters=frozenset(settings.extra_parameters), **far_options(settings)
    )
    async with Sandbox(made_up) as sandbox:
        yield Target(sandbox.base_url, Credentials(made_up.app_id, made_up.app_secret))


@contextmanager
def _ledger(settings: Settings) -> Iterator[Ledger]:
    """Open the ledger of the settings, or a temporary one for the sandbox."""
    with TemporaryDirectory(prefix="uploader-sandbox-") if settings.sandbox else nullcontext() as folder:
        url = f"sqlite:///{folder}/ledger.db" if folder else settings.ledger
        making = settings.new_ledger or settings.sandbox
        must_exist = settings.ledger_must_exist and not settings.sandbox
        with Ledger.open_for_run(url, must_exist=must_exist, on_container=making) as ledger:
            try:
                yield ledger
            except UsageError:
                ledger.discard_if_empty()
                raise


def _prepare(
    settings: Settings, manifest: str | None, ledger: Ledger, target: Target, now: Callable[[], float]
) -> tuple[BatchFacts, ToSend, Sequence[ManifestWarning]]:
    """Recover after a crash, then load the manifest or the named batch, before any byte is sent."""
    config_parameters(settings)
    with ledger.writing() as connection:
        rebase_deadlines(connection, *boot_clock())
        unsent, doubtful = recover(connection, now(), settings.doubt_seconds, settings.job_timeout_seconds)
    if unsent or doubtful:
        log.warning("run.recovered", pendingAgain=unsent, inDoubt=doubtful)
    if manifest is None:
        return *_carry_on(settings, ledger, target, now()), ()
    check = ManifestCheck()
    with manifest_file(manifest, settings) as file:
        batch, sending = _load(settings, file, ledger, target, now(), check)
    kinds = check.warnings.kinds
    return batch, sending, [ManifestWarning(kind.line, *told, kind.count) for told, kind in kinds.items()]


def _enter_scope(settings: Settings, connection: Connection, batch_id: int, account_id: int, name: str) -> ToSend:
    """Activate the batch; raise where it would cost too much, which undoes the load."""
    activate_batch(connection, batch_id, hold=settings.lanes.hold, first=settings.first)
    save_configured_limit(connection, account_id, settings.limit)
    sending = to_send(connection, account_id, batch_id, hold=settings.lanes.hold)
    refuse_cost(settings, name, sending)
    if settings.max_billed_minutes is not None and sending.all.unknown_lengths:
        log.warning("manifest.unknown_lengths", files=sending.all.unknown_lengths)
    return sending


def _log_leftovers(sending: ToSend) -> None:
    """Log the leftovers of other batches that this run sends with its own items."""
    if sending.leftovers:
        log.warning(
            "leftovers.carried",
            items=sum(leftover.amount.files for leftover in sending.leftovers),
            billedMinutes=round(sum(leftover.amount.billed_seconds for leftover in sending.leftovers) / 60, 2),
            batches={leftover.batch: leftover.amount.files for leftover in sending.leftovers},
        )


def _carry_on(settings: Settings, ledger: Ledger, target: Target, now: float) -> tuple[BatchFacts, ToSend]:
    with ledger.writing() as connection:
        known = find_batches(connection, settings.batch)
        found = [batch for batch in known if batch.base_url == target.base_url]
        if not found:
            elsewhere = f" (it was loaded for {known[0].base_url})" if known else ""
            raise UsageError(
                f"batch {settings.batch}: the ledger has none{elsewhere}: `uploader run MANIFEST` loads it"
            )
        path = settings.results or Path(found[0].results or "")
        results.check_path(path)
        summary_file.check_apart(settings, path)
        save_run(connection, found[0].batch_id, path.resolve(), now)
        known = find_batches(connection, settings.batch)
        batch = next(batch for batch in known if batch.batch_id == found[0].batch_id)
        sending = _enter_scope(settings, connection, batch.batch_id, batch.account_id, batch.name)
    check_known_results(path, ledger, sandbox=False)
    return batch, sending


def _load(
    settings: Settings, file: ManifestFile, ledger: Ledger, target: Target, now: float, check: ManifestCheck
) -> tuple[BatchFacts, ToSend]:
    path = results_path(settings, file)
    summary_file.check_apart(settings, path)
    check_known_results(path, ledger, sandbox=settings.sandbox)
    if settings.batch is None and file.is_piped:
        raise UsageError(f"manifest {file.name}: for standard input or a pipe say which batch it is with --batch NAME")
    name = batch_name(settings, file.name)
    with ledger.writing() as connection:
        account_id = account(connection, target.base_url)
    with ledger.staging() as connection:
        with connection.begin():
            reader = file.reader(settings, was_begun(connection, account_id))
            stage = Stage(connection, account_id)
            rows = _wanted_rows(settings, reader, check)
            stage.add(rows, audio.probe, separate=are_channels_separate(settings))
        if settings.on_invalid == "refuse":
            refuse_invalid(check, file.name)
        with connection.begin():
            add_alike(check, connection, stage)
        hashes = Hashes(audio.content_hash)

        def load() -> tuple[BatchFacts, ToSend]:
            repeat_id = current_repeat_id(connection, account_id, name, repeat=settings.repeat)
            lacking = resolve(connection, stage, repeat_id, hashes)
            if lacking and settings.on_invalid == "refuse":
                add_lacking(check, lacking)
                refuse_invalid(check, file.name)
            begun = begin_load(
                connection,
                account_id,
                name,
                manifest=STANDARD_INPUT if file.is_piped else str(Path(file.name).absolute()),
                results=path.resolve(),
                extra_columns=list(reader.extra_columns),
                now=now,
                repeat=settings.repeat,
            )
            merge(connection, begun)
            add_lacking(check, lacking)
            _log_findings(check, name)
            _log_orphans(name, orphaned_by_load(connection, begun, hold=settings.lanes.hold))
            sending = _enter_scope(settings, connection, begun.batch_id, account_id, file.name)
            (batch,) = find_batches(connection, name, ids=[begun.batch_id])
            return batch, sending

        def match() -> None:
            """Match the rows once, so that the files to compare are read before anything is locked."""
            repeat_id = current_repeat_id(connection, account_id, name, repeat=settings.repeat)
            resolve(connection, stage, repeat_id, hashes)

        return ledger.written_together(connection, load, match)


def _wanted_rows(settings: Settings, reader: Manifest, check: ManifestCheck) -> Iterator[Row | InvalidRow]:
    """Yield the rows to load; none after the first problem that refuses the manifest, but check them all."""
    for row in counted_rows(reader, check):
        if not check.problems.count or settings.on_invalid != "refuse":
            yield row


def _log_findings(check: ManifestCheck, batch: str) -> None:
    for number, ((column, remedy), kind) in enumerate(check.warnings.kinds.items()):
        if number == WARNINGS_LOGGED:
            log.warning("manifest.warned", batch=batch, remedy="more warnings: `uploader plan` tells them")
            break
        log.warning("manifest.warned", batch=batch, line=kind.line, column=column, count=kind.count, remedy=remedy)
    for problem in check.problems.first:  # the value may be a path, which the results may show and the log may not
        log.warning("row.left_out", batch=batch, line=problem.line, column=problem.column)


def _log_orphans(batch: str, left: Mapping[State, int]) -> None:
    """Log items that a reused batch name leaves without a row, which would hide their outcome."""
    counts = {state.value: count for state, count in left.items() if count}
    if counts:
        log.warning(
            "rows.orphaned",
            batch=batch,
            items=sum(counts.values()),
            counts=counts,
            remedy="put them back and run, or settle them (`uploader resolve` lists them); for a job every night, "
            "give each night a name (--batch)",
        )
