"""`uploader plan`, `status` and `results`: what can be told without sending anything."""

import json
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from uploader import results
from uploader.cli.findings import json_lines, spooled
from uploader.cli.preparing import Checked, check, config_parameters, manifest_file, told_problems
from uploader.errors import ExitCode, UsageError
from uploader.ledger import Ledger
from uploader.ledger.claiming import limit_facts
from uploader.ledger.loading import was_begun
from uploader.ledger.reading import BatchFacts, find_account, find_batches, open_rows, result_lines, standing, troubles
from uploader.manifest import HeaderError, WasBegun, row_schema
from uploader.policy.endings import ending
from uploader.settings import Settings
from uploader.status import Overview, told_bytes, told_count


@dataclass(frozen=True, slots=True)
class PlanAsked:
    """How to plan. ``look``: look for the audio files; ``show_all``: tell all problems, not the first alone."""

    as_json: bool
    look: bool = True
    show_all: bool = False


def plan_manifest(settings: Settings, manifest: str, asked: PlanAsked) -> ExitCode:
    """Check a manifest as `run` would, and say what is to be sent."""
    with ExitStack() as stack:
        checked = Checked()
        if asked.show_all:
            checked.problems.spool = stack.enter_context(spooled())
            checked.warnings.spool = stack.enter_context(spooled())
        file = stack.enter_context(manifest_file(manifest, settings))
        reader = file.reader(settings, _was_begun(settings), look=asked.look)
        refused = False
        try:
            check(reader, checked)
        except HeaderError as error:
            if not asked.as_json:
                raise
            checked.problems.add(error.problems)
            refused = True
        refused = refused or bool(checked.problems.count and settings.on_invalid == "refuse")
        code = ExitCode.USAGE if refused else ExitCode.NEEDS_PERSON if checked.problems.count else ExitCode.DONE
        if asked.as_json:
            lists = {"problems": checked.problems, "warnings": checked.warnings}
            sys.stdout.writelines(json_lines(_plan_json(manifest, checked, code), lists))
        else:
            sys.stdout.writelines(f"{line}\n" for line in _plan_text(manifest, checked))
    return code


def show_schema(settings: Settings) -> ExitCode:
    """Show the JSON Schema of a manifest's row."""
    print(json.dumps(row_schema(config_parameters(settings)), indent=2, ensure_ascii=False))  # noqa: T201
    return ExitCode.DONE


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
    results.write_manifest(path, rows, _audio_folder(settings, batch))
    print(f"{path}: {told_count(len(rows), 'row')}")  # noqa: T201 - what it is for
    return ExitCode.DONE


def _audio_folder(settings: Settings, batch: BatchFacts) -> Path:
    """Where the batch's relative audio paths start."""
    return settings.audio_root or Path(batch.manifest or "").parent


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


def _was_begun(settings: Settings) -> WasBegun:
    """Whom to ask for items that were begun: the ledger where there is one, else nobody."""
    path = Path(settings.ledger.removeprefix("sqlite:///"))
    if not path.is_file():
        return lambda _conversation_id, _path: False
    ledger = Ledger.open_for_reading(settings.ledger)

    def ask(conversation_id: str, audio: Path) -> bool:
        with ledger.reading() as connection:
            account_id = find_account(connection, settings.base_url)
            return account_id is not None and was_begun(connection, account_id, conversation_id, audio)

    return ask


def _plan_text(manifest: str, checked: Checked) -> Iterator[str]:
    yield f"{manifest}: {told_count(checked.rows, 'row')}, {checked.invalid} invalid"
    conversations = told_count(len(checked.conversations), "conversation")
    if checked.looked:
        files = told_count(checked.valid - checked.gone, "file")
        yield f"  {files}, {told_bytes(checked.size)}, {conversations}"
    else:
        yield f"  {conversations}; the files were not looked at"
    if checked.gone:
        yield f"  {told_count(checked.gone, 'file')} gone since their items were begun: not sent again"
    yield from told_problems(checked, manifest)
    if checked.warnings.count:
        yield f"manifest {manifest}: {told_count(checked.warnings.count, 'warning')}, which keep no row from being sent"
        yield from checked.warnings.table()


def _plan_json(manifest: str, checked: Checked, code: ExitCode) -> dict[str, object]:
    return {
        "manifest": manifest,
        "exitCode": int(code),
        "rows": checked.rows,
        "invalid": checked.invalid,
        "files": checked.valid - checked.gone if checked.looked else None,
        "bytes": checked.size if checked.looked else None,
        "conversations": len(checked.conversations),
        "problemCount": checked.problems.count,
        "warningCount": checked.warnings.count,
    }
