"""`uploader status` and `results`: what the ledger has to tell."""

import json
import shlex
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

from uploader import results
from uploader.errors import ExitCode, UsageError
from uploader.ledger import Ledger
from uploader.ledger.former import former
from uploader.ledger.limit import limit_facts
from uploader.ledger.reading import (
    BatchFacts,
    OpenRow,
    find_batches,
    open_rows,
    remarks,
    result_lines,
    standing,
    troubles,
)
from uploader.policy.endings import ending
from uploader.settings import Settings
from uploader.status.overview import Overview
from uploader.status.telling import told_count

LINES_SHOWN = 20


def show_status(settings: Settings, *, as_json: bool) -> ExitCode:
    """Show what the ledger holds, and exit as `run` would."""
    with Ledger.open_for_reading(settings.ledger) as ledger, ledger.reading() as connection:
        known = find_batches(connection)
        batch = named_batch(known, settings, ledger.path)
        busy = ledger.held_by_run
        found = standing(connection, batch.batch_id, hold=settings.lanes.hold)
        overview = Overview(
            ledger=ledger.path,
            busy=busy,
            limit=limit_facts(connection, batch.account_id, None, time.time()),
            batch=batch,
            troubles=troubles(connection, batch.batch_id),
            remarks=remarks(connection, batch.batch_id),
            former=[
                one
                for account_id in sorted({one.account_id for one in known})
                for one in former(connection, account_id, hold=settings.lanes.hold)
            ],
            batches=[(one, standing(connection, one.batch_id, hold=settings.lanes.hold)) for one in known],
            exit_code=ending(
                found.counts,
                overdue=found.overdue,
                no_wait=settings.no_wait,
                unfinished=ExitCode.NOT_NOW if busy else ExitCode.GAVE_UP,
            ),
        )
    print(json.dumps(overview.as_json()) if as_json else overview.as_text())  # noqa: T201 - what it is for
    return overview.exit_code


def write_results(settings: Settings) -> ExitCode:
    """Write the results file of a batch from the ledger."""
    with Ledger.open_for_reading(settings.ledger) as ledger, ledger.reading() as connection:
        batch = named_batch(find_batches(connection), settings, ledger.path)
        path = settings.results or Path(batch.results or "")
        results.check_path(path)
        if path.exists():
            for _ in results.job_ids(path):
                break  # it is ours to replace
        results.write(path, result_lines(connection, batch.batch_id, hold=settings.lanes.hold), batch.extra_columns)
    print(path)  # noqa: T201 - what it is for
    return ExitCode.DONE


def write_open_rows(settings: Settings, path: Path) -> ExitCode:
    """Write the rows that are refused, failed or held as a manifest, ready to correct and run."""
    if path.suffix.lower() not in results.ENDINGS:
        raise UsageError(f"manifest {path}: its ending tells no format: end it with .csv or .jsonl")
    if path.exists():
        raise UsageError(f"manifest {path}: it exists: name a new file, or move that one away")
    with Ledger.open_for_reading(settings.ledger) as ledger, ledger.reading() as connection:
        batch = named_batch(find_batches(connection), settings, ledger.path)
        rows = list(open_rows(connection, batch.batch_id, hold=settings.lanes.hold))
    results.write_manifest(path, [row.cells for row in rows], _audio_folder(settings, batch))
    print("\n".join(_told_open(path, batch, rows)))  # noqa: T201 - what it is for
    return ExitCode.DONE


def _told_open(path: Path, batch: BatchFacts, rows: Sequence[OpenRow]) -> Iterator[str]:
    """How many rows were written, and what to do with them, step by step."""
    yield f"{path}: {told_count(len(rows), 'row')}"
    if not rows:
        return
    yield "  correct it: what was refused goes again where its row, or its file, is another"
    invalid = [row.line for row in rows if row.invalid]
    if invalid:
        lines = " ".join(f"--line {line}" for line in invalid[:LINES_SHOWN])
        more = f" (and {len(invalid) - LINES_SHOWN} more)" if len(invalid) > LINES_SHOWN else ""
        yield "  rows that were invalid hold their conversations until they are dropped (corrected, they are others):"
        yield f"    uploader resolve --batch {shlex.quote(batch.name)} {lines} --drop{more}"
    yield "  what failed needs `uploader resolve --retry` or --drop"
    yield f"  uploader run {shlex.quote(str(path))}"


def _audio_folder(settings: Settings, batch: BatchFacts) -> Path:
    """Where the batch's relative audio paths start."""
    return settings.audio_root or Path(batch.manifest or "").parent


def at_service(known: list[BatchFacts], settings: Settings, ledger: Path) -> list[BatchFacts]:
    """The batches; where a base URL is set, those of that service: no other gets its credentials.

    Raises:
        UsageError: There is none of that service.
    """
    here = [one for one in known if one.base_url == settings.base_url or "base_url" not in settings.given]
    if known and not here:
        elsewhere = ", ".join(sorted({one.base_url for one in known}))
        raise UsageError(
            f"ledger {ledger}: no batch of {settings.base_url} (--base-url) in it; it has batches of {elsewhere}"
        )
    return here


def named_batch(known: list[BatchFacts], settings: Settings, ledger: Path) -> BatchFacts:
    """The batch that the settings name, else the one that ran last.

    Raises:
        UsageError: The ledger has none such.
    """
    found = [one for one in known if settings.batch in (None, one.name)]
    if found:
        return found[0]
    names = ", ".join(one.name for one in known[:10]) or "none"
    raise UsageError(f"ledger {ledger}: no batch {settings.batch or ''} in it; it has: {names}")
