"""`uploader report`: a night that is over, as one file."""

import time
from pathlib import Path

from uploader import results
from uploader.cli.inspecting import batch_with_rows
from uploader.cli.printing import print_json, print_lines
from uploader.errors import ExitCode, UsageError
from uploader.ledger import Ledger
from uploader.settings import Settings
from uploader.status.report import read_report, render_report

# so a report begins: no other file is replaced
BEGIN = '<!doctype html>\n<html lang="en" data-of="uploader">'


def write_report(settings: Settings, path: Path | None, *, as_json: bool) -> ExitCode:
    """Write the report of a batch as HTML, or print it as JSON.

    Raises:
        UsageError: There is another file, or no batch.
        ResultsUnavailableError: The file cannot be written.
    """
    if path is not None:
        _check(path)
    with Ledger.open_for_reading(settings.ledger) as ledger, ledger.reading() as connection:
        batch = batch_with_rows(connection, settings, ledger.address)
        report = read_report(connection, batch, ledger=ledger.address, is_running=ledger.held_by_run, now=time.time())
    if path is not None:
        results.write_text(path, render_report(report))
    if as_json:
        print_json(report)
    elif path is not None:
        print_lines([str(path)])
    return ExitCode.DONE


def _check(path: Path) -> None:
    """Refuse to replace what is no report."""
    try:
        if path.is_dir():
            raise UsageError(f"html {path}: this is a folder: name a file in it")
        if not path.parent.is_dir():
            raise UsageError(f"html {path}: its folder does not exist: make it, or name a file in another")
        if path.exists():
            with path.open(encoding="utf-8", errors="replace") as file:
                if file.read(len(BEGIN)) not in ("", BEGIN):
                    raise UsageError(f"html {path}: this is no report of the uploader: name another file")
    except OSError as error:
        raise UsageError(f"html {path}: {error.strerror}: name a file that can be written") from error
