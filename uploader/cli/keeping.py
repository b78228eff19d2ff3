"""`uploader ledger`: checks, copies and migrates the ledger, and adopts results files."""

import os
import time
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from uploader import audio, results
from uploader.cli.printing import print_json, print_lines
from uploader.errors import ExitCode, UsageError
from uploader.ledger import Ledger
from uploader.ledger.adopting import Adoption, adopt, was_begun
from uploader.ledger.database import Doubted, Examination
from uploader.ledger.loading import account, begin_load, load_rows
from uploader.ledger.schema import VERSION
from uploader.ledger.sqlite_ledger import ledger_path
from uploader.model import AudioFacts, FileSignature, Row
from uploader.sandbox import JOB_ID_PREFIX
from uploader.secrets import has_password, without_login
from uploader.settings import DEFAULT_ACCOUNT, POSTGRESQL, Settings, is_loopback
from uploader.status.formatting import format_bytes, format_count, format_rows
from uploader.urls import is_remote


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


@dataclass(slots=True)
class _ResultsToAdopt:
    """A results file on its way into the ledger, with counts of its rows and of their audio files."""

    path: Path
    folder: Path
    # the name of the account of all rows; None: the one above all tables
    account: str | None
    rows: int = 0
    # rows of which nothing was appended
    left: int = 0
    gone: int = 0
    changed: int = 0

    def to_load(self) -> Iterator[Row]:
        """Yield the rows of which something was, or may have been, appended, as manifest rows."""
        for line in results.read_lines(self.path):
            self.rows += 1
            if not was_begun(line):
                self.left += 1
                continue
            is_local = not is_remote(line.audio_path)
            path = os.path.normpath(self.folder.absolute() / line.audio_path) if is_local else line.audio_path
            yield Row(
                line=line.line,
                conversation_id=line.conversation_id,
                audio_path=line.audio_path,
                path=path,
                extras=line.extras,
                signature=self._signature(path, line.size),
                facts=AudioFacts(duration_seconds=line.duration_seconds, channels=line.channels),
                account=self.account,
            )

    def _signature(self, path: str, size: int | None) -> FileSignature:
        """Read the file's signature; where the file is gone or changed, keep the recorded size alone."""
        try:
            found = audio.signature(path)
        except ValueError:
            self.gone += 1
            return FileSignature(size or 0, "")
        if found.size == size:
            return found
        self.changed += 1
        return FileSignature(size or 0, "")

    def format_lines(self, adoption: Adoption, account: str) -> Iterator[str]:
        """Format the outcome of the adoption as lines of text."""
        counts = f"{adoption.adopted} adopted, {adoption.known} known already, {self.left} not appended"
        yield f"{self.path}: {format_count(self.rows, 'row')}: {counts}, for {account}"
        for count, what in (
            (self.gone, "gone: known by path and size alone; under another path they would be appended again"),
            (self.changed, "of another size than was appended: the file is another recording now"),
        ):
            if count:
                yield f"  {format_count(count, 'file')} {what}"
        yield from (f"  {line}" for line in adoption.contrary)


def adopt_results(settings: Settings, path: Path, account_name: str | None) -> ExitCode:
    """Record the appends that a results file lists, so that no run appends them again.

    Args:
        settings: The settings.
        path: The results file.
        account_name: The account of all its rows; None: the one above all tables.
    """
    own = _settings_of(settings, account_name or DEFAULT_ACCOUNT)
    is_service = not is_loopback(urlsplit(own.base_url).hostname or "")
    if is_service and any((line.job_id or "").startswith(JOB_ID_PREFIX) for line in results.read_lines(path)):
        raise UsageError(f"results {path}: these are a rehearsal's, which appended nothing to {own.base_url}")
    taken = _ResultsToAdopt(path, settings.audio_root or path.parent, own.account or None)
    now = time.time()
    opened = Ledger.open_for_run(settings.ledger, on_container=settings.new_ledger, doubted=Doubted.MENDED, alone=True)
    with opened as ledger, ledger.writing() as connection:
        load = begin_load(
            connection,
            account(connection, settings.base_url),
            settings.batch or path.name,
            manifest=str(path.absolute()),
            results=path.resolve(),
            extra_columns=[],
            now=now,
            repeat=False,
        )
        accounts = {own.account: account(connection, own.base_url, own.account)} if own.account else {}
        load_rows(
            connection, load, taken.to_load(), content_hash=audio.content_hash, probe=audio.probe, accounts=accounts
        )
        adoption = adopt(
            connection,
            load.batch_id,
            results.read_lines(path),
            content_hash=_hash_of_size,
            now=now,
            doubt_seconds=settings.doubt_seconds,
        )
    print_lines(taken.format_lines(adoption, f"{own.account} of {own.base_url}" if own.account else own.base_url))
    return ExitCode.NEEDS_PERSON if adoption.contrary else ExitCode.DONE


def _settings_of(settings: Settings, name: str) -> Settings:
    """Return the settings of an account by its name.

    Raises:
        UsageError: The settings do not have it.
    """
    if name != DEFAULT_ACCOUNT and name not in settings.accounts:
        known = ", ".join(settings.accounts) or "none"
        raise UsageError(
            f"--account {name}: the settings do not have it: name the config file (--config) that has its "
            f"[accounts.{name}]; the accounts are: {known}"
        )
    return settings.of_account(name)


def _hash_of_size(path: str, size: int | None) -> str | None:
    """Hash a file if it still has this size; None otherwise."""
    try:
        found = audio.signature(path).size
    except ValueError:
        return None
    return audio.content_hash(path) if found == size else None


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
