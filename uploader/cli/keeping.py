"""`uploader ledger`: checks, copies and migrates the ledger, and adopts results files."""

from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

from uploader.cli.printing import print_json, print_lines
from uploader.errors import ExitCode, UsageError
from uploader.ledger import Ledger
from uploader.ledger.database import Doubted, Examination
from uploader.ledger.schema import VERSION
from uploader.ledger.sqlite_ledger import ledger_path
from uploader.secrets import has_password, without_login
from uploader.settings import POSTGRESQL, Settings
from uploader.status.formatting import format_bytes, format_count, format_rows


def check_ledger(settings: Settings, *, accept: bool, as_json: bool) -> ExitCode:
    """Check the whole ledger and print the findings; ``accept``: trust its present state from now on."""
    if accept:
        _must_exist(settings)
        Ledger.open_for_run(settings.ledger, doubted=Doubted.ACCEPTED, alone=True).close()
    with Ledger.open_for_reading(settings.ledger) as ledger:
        found = ledger.examine()
        code = ExitCode.NEEDS_PERSON if found.damage or found.doubt else ExitCode.DONE
        if as_json:
            print_json(_examination_json(ledger.address, found, code))
        else:
            print_lines(_format_examination(ledger.address, found))
    return code


def back_up_ledger(settings: Settings, target: Path) -> ExitCode:
    """Copy the ledger to a new file, beside a run or without one."""
    with Ledger.open_for_reading(settings.ledger) as ledger:
        ledger.copy_to(target.absolute())
    print_lines([str(target)])
    return ExitCode.DONE


def upgrade_ledger(settings: Settings) -> ExitCode:
    """Migrate the ledger to this version's schema, as the next run would."""
    _must_exist(settings)
    with closing(Ledger.open_for_run(settings.ledger, alone=True)) as ledger:
        print_lines([f"ledger {ledger.address}: schema version {VERSION}"])
    return ExitCode.DONE


def move_ledger(settings: Settings, target: str, *, as_json: bool) -> ExitCode:
    """Move the ledger from its SQLite file to a PostgreSQL database."""
    if settings.ledger.startswith(POSTGRESQL):
        raise UsageError(f"ledger {without_login(settings.ledger)}: it is on a PostgreSQL server already")
    if not target.startswith(POSTGRESQL):
        raise UsageError(f"--to {without_login(target)}: write postgresql://USER@HOST/DATABASE")
    if has_password(target):
        raise UsageError(
            f"--to {without_login(target)}: everybody on this machine sees a password in a command: leave it out, and "
            "put it into ~/.pgpass or PGPASSWORD"
        )
    _must_exist(settings)
    from uploader.ledger.moving import move  # noqa: PLC0415 - its driver takes time

    moved = move(settings.ledger, target)
    counts = {name: moved.rows[name] for name in ("batches", "items", "attempts")}
    if as_json:
        print_json({"ledger": moved.address, "movedFrom": str(ledger_path(settings.ledger)), "rows": dict(moved.rows)})
    else:
        listed = ", ".join(f"{count:,} {name}" for name, count in counts.items())
        print_lines(
            [
                f"{ledger_path(settings.ledger)}: moved to {moved.address}: {listed}",
                "  name that with --ledger or UPLOADER_LEDGER from now on; this file refuses to run, and may be kept",
            ]
        )
    return ExitCode.DONE


def _must_exist(settings: Settings) -> None:
    if not Ledger.exists(settings.ledger):
        raise UsageError(f"ledger {settings.ledger}: there is none yet: `uploader run MANIFEST` makes it")


def _examination_json(address: str, found: Examination, code: ExitCode) -> dict[str, Any]:
    return {
        "ledger": address,
        "exitCode": int(code),
        "schemaVersion": VERSION,
        "bytes": found.size,
        "runs": found.mark.runs,
        "running": found.busy,
        "lastRunEnded": found.busy or not found.mark.in_use,
        "damage": found.damage or None,
        # the reason why the database itself was not read
        "unread": found.unread or None,
        "doubt": found.doubt or None,
    }


def _format_examination(address: str, found: Examination) -> Iterator[str]:
    yield f"ledger {address}"
    run = "none; the last run closed the ledger"
    if found.busy:
        run = "a run is at work on it"
    elif found.mark.in_use:
        run = "the last run did not end: the next one recovers its items"
    remedy = (
        "restore a copy, then adopt the later appends from the results: `uploader ledger adopt RESULTS`, "
        "`uploader ledger check --accept`"
    )
    yield from format_rows(
        [
            ("schema", f"version {VERSION}"),
            ("size", f"{format_bytes(found.size)}, {format_count(found.mark.runs, 'run')} so far"),
            ("database", found.damage or found.unread or "whole"),
            ("run", run),
            ("doubt", found.doubt or ""),
            ("remedy", remedy if found.damage else ""),
        ]
    )
