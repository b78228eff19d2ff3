"""`uploader ledger adopt`: takes the jobIds of a results file back, each row for its own account."""

import os
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlsplit

from uploader import audio, results
from uploader.cli.printing import print_lines
from uploader.errors import ExitCode, UsageError
from uploader.ledger import Connection, Ledger
from uploader.ledger.adopting import Adoption, adopt, was_begun
from uploader.ledger.database import Doubted
from uploader.ledger.loading import account, begin_load, load_rows
from uploader.ledger.reading import find_accounts
from uploader.model import AudioFacts, FileSignature, ResultLine, Row
from uploader.run.preparing import manifest_file
from uploader.sandbox import JOB_ID_PREFIX
from uploader.settings import DEFAULT_ACCOUNT, Settings, is_loopback
from uploader.status.formatting import format_count
from uploader.urls import is_remote

# the name of the account of a row
NameAccount = Callable[[ResultLine], str]


@dataclass(slots=True)
class _ResultsToAdopt:
    """A results file on its way into the ledger, with counts of its rows and of their audio files."""

    path: Path
    folder: Path
    name_account: NameAccount
    rows: int = 0
    # rows of which nothing was appended
    left: int = 0
    gone: int = 0
    changed: int = 0
    # the others by the names of their accounts
    accounts: Counter[str] = field(default_factory=Counter)

    def begun(self) -> Iterator[tuple[ResultLine, str]]:
        """Yield the rows of which something was, or may have been, appended, with the names of their accounts."""
        for line in results.read_lines(self.path):
            if was_begun(line):
                yield line, self.name_account(line)

    def to_load(self) -> Iterator[Row]:
        """Yield the rows of which something was, or may have been, appended, as manifest rows."""
        for line, name in self.begun():
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
                account=None if name == DEFAULT_ACCOUNT else name,
            )

    def check(self, settings: Settings) -> None:
        """Count the rows, and refuse those that were not appended to the service of their account.

        Raises:
            UsageError: A row's account is not in the settings, a sandbox has made its job, or two rows have one line.
        """
        lines: set[int] = set()
        for line in results.read_lines(self.path):
            if line.line in lines:
                raise UsageError(
                    f"results {self.path}: two rows have the line {line.line}: they were put together of several "
                    "files, or edited: adopt each file as it was written"
                )
            lines.add(line.line)
            self.rows += 1
            self.left += not was_begun(line)
        for line, name in self.begun():
            if name not in self.accounts:
                _settings_of(settings, name)
            self.accounts[name] += 1
            base_url = settings.of_account(name).base_url
            is_service = not is_loopback(urlsplit(base_url).hostname or "")
            if is_service and (line.job_id or "").startswith(JOB_ID_PREFIX):
                raise UsageError(
                    f"results {self.path}: these are a rehearsal's, which appended nothing to {base_url}; where a "
                    "sandbox of your own has taken them, name it: with --base-url, or by its account with --account"
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

    def format_lines(self, adoption: Adoption, settings: Settings) -> Iterator[str]:
        """Format the outcome of the adoption as lines of text."""
        counts = f"{adoption.adopted} adopted, {adoption.known} known already, {self.left} not appended"
        names = [*self.accounts] or [DEFAULT_ACCOUNT]
        several = len(names) > 1
        accounts = ", ".join(
            (f"{self.accounts[name]} " if several else "") + _format_account(settings.of_account(name))
            for name in names
        )
        yield f"{self.path}: {format_count(self.rows, 'row')}: {counts}, for {accounts}"
        for count, what in (
            (self.gone, "gone: known by path and size alone; a row of that size with another path is refused"),
            (self.changed, "of another size than was appended: the file is another recording now"),
        ):
            if count:
                yield f"  {format_count(count, 'file')} {what}"
        yield from (f"  {line}" for line in adoption.contrary)


def adopt_results(settings: Settings, path: Path, account_name: str | None, manifest: str | None) -> ExitCode:
    """Record the appends that a results file lists, so that no run appends them again.

    Args:
        path: The results file.
        account_name: The account of all its rows; None: each row's own, or the only one.
        manifest: The manifest of the results, whose rows name their accounts; None: none is named.
    """
    folder = settings.audio_root or (path if manifest is None else Path(manifest)).parent
    taken = _ResultsToAdopt(path, folder, _name_account(settings, path, account_name, manifest))
    taken.check(settings)
    opened = Ledger.open_for_run(settings.ledger, on_container=settings.new_ledger, doubted=Doubted.MENDED, alone=True)
    with opened as ledger, ledger.writing() as connection:
        if account_name is None and manifest is None:
            _refuse_unnamed(path, _named_accounts(connection))
        now = ledger.read_clock(connection)
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
        accounts = {
            name: account(connection, settings.of_account(name).base_url, name)
            for name in taken.accounts
            if name != DEFAULT_ACCOUNT
        }
        load_rows(
            connection,
            load,
            taken.to_load(),
            content_hash=audio.content_hash,
            probe=audio.probe,
            accounts=accounts,
            are_appended=True,
        )
        adoption = adopt(
            connection,
            load.batch_id,
            results.read_lines(path),
            content_hash=_hash_of_size,
            now=now,
            doubt_seconds=settings.doubt_seconds,
        )
    print_lines(taken.format_lines(adoption, settings))
    return ExitCode.NEEDS_PERSON if adoption.contrary else ExitCode.DONE


def _name_account(settings: Settings, path: Path, account_name: str | None, manifest: str | None) -> NameAccount:
    """Return the function that names the account of a row.

    Raises:
        UsageError: The account is not in the settings, or is not named where there are several.
    """
    if manifest is not None:
        if account_name is not None:
            raise UsageError("--account and --manifest: name one of them")
        return _name_by_manifest(path, manifest, _manifest_accounts(settings, manifest))
    if account_name is None:
        _refuse_unnamed(path, settings.accounts)
    name = account_name or DEFAULT_ACCOUNT
    _settings_of(settings, name)
    found = _manifest_beside(settings, path)
    if found is None:
        return lambda _: name
    beside, rows = found

    def name_checked(line: ResultLine) -> str:
        # a row that the manifest does not have any more proves nothing
        named = rows.get(_place(line.line, line.conversation_id, line.audio_path), name)
        if named != name:
            raise UsageError(
                f"results {path}: line {line.line} is of the account {named or 'that its row names'} by the manifest "
                f"{beside}, not of {name}: for the wrong account it would be appended again. Name the manifest in "
                f"place of an account, with the config file (--config) that has its accounts: --manifest {beside}"
            )
        return name

    return name_checked


def _place(line: int, conversation_id: str, audio_path: str) -> tuple[int, str, str]:
    """Return what identifies a row both in a manifest and in its results."""
    return line, conversation_id, audio_path


def _name_by_manifest(path: Path, manifest: str, rows: Mapping[tuple[int, str, str], str]) -> NameAccount:
    def name(line: ResultLine) -> str:
        found = rows.get(_place(line.line, line.conversation_id, line.audio_path))
        if found is None:
            raise UsageError(
                f"results {path}: the manifest {manifest} has no such row at line {line.line} (conversation "
                f"{line.conversation_id}): name the manifest as it was, or give each account's rows as a file of its "
                "own, with --account"
            )
        return found

    return name


def _manifest_accounts(settings: Settings, manifest: str) -> dict[tuple[int, str, str], str]:
    """Read the names of the accounts of a manifest's rows; empty for one that the settings do not have."""
    with manifest_file(manifest, settings) as file:
        # files that were sent may be archived by now
        reader = file.reader(settings, lambda *_: True, check_files=False)
        return {
            _place(row.line, row.conversation_id, row.audio_path): DEFAULT_ACCOUNT
            if row.account is None
            else row.account
            for row in reader.read()
        }


def _manifest_beside(settings: Settings, path: Path) -> tuple[Path, Mapping[tuple[int, str, str], str]] | None:
    """Find the manifest that a results file is named after, where its rows name accounts."""
    stem, _, ending = path.name.rpartition(".results.")
    for name in (f"{stem}.{ending}{packed}" for packed in ("", ".gz")):
        beside = path.with_name(name)
        if not stem or not beside.is_file():
            continue
        try:
            rows = _manifest_accounts(settings, str(beside))
        except UsageError:
            continue  # it is another file
        if any(account != DEFAULT_ACCOUNT for account in rows.values()):
            return beside, rows
    return None


def _refuse_unnamed(path: Path, names: Iterable[str]) -> None:
    """Refuse results whose rows may be of several accounts.

    Raises:
        UsageError: There are accounts with names.
    """
    if names := list(names):
        raise UsageError(
            f"results {path}: they do not name accounts, and there are several ({', '.join(names)}, and "
            f"{DEFAULT_ACCOUNT}, which is the one above all tables): for the wrong account they would be appended "
            "again. Name the manifest, whose rows do, with --manifest MANIFEST, or the account of all rows with "
            "--account NAME"
        )


def _named_accounts(connection: Connection) -> list[str]:
    """List the accounts of the ledger with names of their own."""
    return sorted({found.name for found in find_accounts(connection).values()} - {DEFAULT_ACCOUNT})


def _format_account(own: Settings) -> str:
    return f"{own.account} of {own.base_url}" if own.account else own.base_url


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
