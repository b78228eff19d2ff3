"""`uploader status` and `results`: what the ledger holds."""

import shlex
from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path

from uploader import results
from uploader.cli import terminal
from uploader.cli.printing import print_json, print_lines
from uploader.errors import ExitCode, StoppedError, UsageError
from uploader.ledger import Connection, Ledger
from uploader.ledger.leases import worker_facts
from uploader.ledger.limit import limit_facts, slot_holders
from uploader.ledger.orphans import find_orphans
from uploader.ledger.reading import (
    AccountFacts,
    BatchFacts,
    OpenRow,
    anomalies,
    find_accounts,
    find_batches,
    find_used_accounts,
    live_jobs,
    open_rows,
    result_lines,
    troubles,
)
from uploader.ledger.standing import standings, unfinished
from uploader.policy.waiting import are_held_in_vain
from uploader.settings import Settings
from uploader.status.formatting import format_count
from uploader.status.overview import Overview
from uploader.urls import is_remote

LINES_SHOWN = 20
NAMES_SHOWN = 10


def show_status(settings: Settings, *, as_json: bool, watch: bool = False) -> ExitCode:
    """Show what the ledger holds, and exit as `run` would for all batches, or for the named one.

    Args:
        watch: Redraw a few lines as long as a run is on, where a terminal shows them.
    """
    if watch and terminal.can_redraw():
        from uploader.cli.watching import watch_run  # noqa: PLC0415 - rich is for terminals

        try:
            watch_run(settings)
        except StoppedError as stopped:
            return stopped.exit_code
    with Ledger.open_for_reading(settings.ledger) as ledger, ledger.reading() as connection:
        now = ledger.read_clock(connection)
        latest = named_batch(connection, settings, ledger.address)
        named = latest.batch_id if settings.batch is not None else None
        services = find_accounts(connection)
        used = find_used_accounts(connection) or services
        left = unfinished(connection)
        orphans = [item for account_id in services for item in find_orphans(connection, account_id)]
        orphans = [group for group in orphans if named in (None, group.batch_id)]
        not_over = {*left, *(group.batch_id for group in orphans)}
        shown = _shown(connection, not_over, settings.last) if named is None else [latest]
        counted = standings(connection, [batch.batch_id for batch in shown], left)
        limits = {account_id: limit_facts(connection, account_id, None, now) for account_id in _first(latest, used)}
        overview = Overview(
            ledger=ledger.address,
            busy=ledger.held_by_run,
            workers=[
                (worker, worker.lease_until >= now and not ledger.is_gone(worker.process))
                for worker in worker_facts(connection)
            ],
            no_wait=settings.no_wait,
            config=settings.config,
            batch=latest,
            batches=[(batch, counted[batch.batch_id]) for batch in shown],
            limits=[(services[account_id], limit) for account_id, limit in limits.items()],
            jobs=[job for account_id in limits for job in live_jobs(connection, account_id)],
            troubles=troubles(connection, named),
            anomalies=anomalies(connection, *counted),
            orphans=orphans,
            stuck=[
                account_id
                for account_id, limit in limits.items()
                if are_held_in_vain(limit, slot_holders(connection, account_id, now), now)
            ],
        )
    if as_json:
        print_json(overview.as_json())
    else:
        print_lines(overview.as_lines())
    return overview.exit_code


def _shown(connection: Connection, not_over: Collection[int], last: int) -> list[BatchFacts]:
    """List the batches that are not over, then the latest of the others."""
    latest = find_batches(connection, most=last)
    return [*find_batches(connection, ids=not_over), *(batch for batch in latest if batch.batch_id not in not_over)]


def _first(latest: BatchFacts, services: Mapping[int, AccountFacts]) -> list[int]:
    """Sort the accounts, that of the latest batch first."""
    return sorted(services, key=lambda account_id: (account_id != latest.account_id, account_id))


def write_results(settings: Settings) -> ExitCode:
    """Write the results file of a batch from the ledger."""
    with Ledger.open_for_reading(settings.ledger) as ledger, ledger.reading() as connection:
        batch = batch_with_rows(connection, settings, ledger.address)
        path = settings.results or Path(batch.results or "")
        results.check_path(path)
        if path.exists():
            for _ in results.job_ids(path):
                break  # it is ours to replace
        results.write(path, result_lines(connection, batch.batch_id), batch.extra_columns)
    print_lines([str(path)])
    return ExitCode.DONE


def write_open_rows(settings: Settings, path: Path) -> ExitCode:
    """Write the rows that are refused, failed or held as a manifest to correct and run."""
    if path.suffix.lower() not in results.ENDINGS:
        raise UsageError(f"manifest {path}: its ending tells no format: end it with .csv or .jsonl")
    if path.exists():
        raise UsageError(f"manifest {path}: it exists: name a new file, or move that one away")
    with Ledger.open_for_reading(settings.ledger) as ledger, ledger.reading() as connection:
        batch = batch_with_rows(connection, settings, ledger.address)
        rows = list(open_rows(connection, batch.batch_id))
    # relative paths start at another folder in the new manifest
    folder = settings.audio_root or Path(batch.manifest or "").parent
    placed = [dict(row.cells) | {"audioPath": _placed(folder, row.cells["audioPath"])} for row in rows]
    results.write_manifest(path, placed, path.suffix.lower().removeprefix("."))
    print_lines(_format_open_rows(path, batch, rows))
    return ExitCode.DONE


def _placed(folder: Path, audio_path: str) -> str:
    return audio_path if is_remote(audio_path) else str(folder / audio_path)


def _format_open_rows(path: Path, batch: BatchFacts, rows: Sequence[OpenRow]) -> Iterator[str]:
    """Format the number of rows written and the steps to take with them."""
    yield f"{path}: {format_count(len(rows), 'row')}"
    if not rows:
        return
    yield "  correct it: a refused item is sent again once its row or its file has changed"
    invalid = [row.line for row in rows if row.invalid]
    if invalid:
        lines = " ".join(f"--line {line}" for line in invalid[:LINES_SHOWN])
        more = f" (and {len(invalid) - LINES_SHOWN} more)" if len(invalid) > LINES_SHOWN else ""
        yield "  invalid rows hold their conversations until they are dropped (a corrected row is another item):"
        yield f"    uploader resolve --batch {shlex.quote(batch.name)} {lines} --drop{more}"
    yield "  failed items need `uploader resolve --retry` or --drop"
    yield f"  uploader run {shlex.quote(str(path))}"


def named_batch(connection: Connection, settings: Settings, ledger: str, base_url: str | None = None) -> BatchFacts:
    """Find the batch that the settings name, else the one that ran last.

    Args:
        ledger: The ledger's file, for the message.
        base_url: Only a batch of this service; None: of any.

    Raises:
        UsageError: The ledger has none such.
    """
    found = find_batches(connection, settings.batch, base_url=base_url, most=1)
    if found:
        return found[0]
    services = sorted({account.base_url for account in find_accounts(connection).values()})
    if base_url is not None and services and base_url not in services:
        elsewhere = ", ".join(services)
        raise UsageError(f"ledger {ledger}: no batch of {base_url} (--base-url) in it; it has batches of {elsewhere}")
    known = find_batches(connection, base_url=base_url, most=NAMES_SHOWN)
    twice = {name for name, count in Counter(batch.name for batch in known).items() if count > 1}
    names = ", ".join(f"{batch.name} of {batch.base_url}" if batch.name in twice else batch.name for batch in known)
    names = names or "none"
    raise UsageError(f"ledger {ledger}: no batch {settings.batch or ''} in it; it has: {names}")


def batch_with_rows(connection: Connection, settings: Settings, ledger: str, base_url: str | None = None) -> BatchFacts:
    """Find the batch as ``named_batch`` does, for a command that needs its rows.

    Raises:
        UsageError: The ledger has none such, or not all of its rows.
    """
    batch = named_batch(connection, settings, ledger, base_url)
    if batch.pruned_at is not None:
        from uploader.run.preparing import refuse_pruned  # noqa: PLC0415 - for a batch that was pruned

        refuse_pruned(batch)
    if not batch.is_loaded:
        raise UsageError(
            f"batch {batch.name}: its manifest is loaded in part only: where no run is loading it (`uploader status`), "
            "the load was interrupted: run the same command again. Nothing was written"
        )
    return batch


def service_of(settings: Settings) -> str | None:
    """Return the base URL that narrows the batches, where one is set: no other service gets its credentials."""
    return settings.base_url if "base_url" in settings.given else None
