"""The steps of `run` and `plan` before the first request: open and check the manifest, check the results path."""

import shlex
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from itertools import chain
from pathlib import Path
from tempfile import NamedTemporaryFile
from typing import Any, NamedTuple

from uploader import audio, parameters, pipes, results
from uploader.errors import UsageError
from uploader.ledger import Connection, Ledger
from uploader.ledger.alike import became_the_same, case_twins, comparable, repeats, rounded
from uploader.ledger.amounts import ToSend
from uploader.ledger.reading import BatchFacts, unknown_conversations, unknown_job_ids
from uploader.ledger.staging import CHUNK, Stage, chunks
from uploader.manifest import Format, Manifest, WasBegun, check_file, format_of, spoilt
from uploader.model import InvalidRow, Row
from uploader.policy.billing import SEPARATE
from uploader.results import rfc3339
from uploader.run.findings import Findings
from uploader.settings import Settings
from uploader.status.formatting import config_option, format_count, format_leftover, ledger_option

STANDARD_INPUT = "-"


class ManifestFile(NamedTuple):
    """The manifest that the command line names. ``path`` can be read more than once."""

    name: str
    path: Path
    format: Format
    # the manifest came from standard input or a pipe; ``path`` is a copy
    is_piped: bool = False

    def reader(self, settings: Settings, was_begun: WasBegun, *, check_files: bool = True) -> Manifest:
        """Make a reader of the rows by the settings; ``check_files``: look for the audio files."""
        folder = settings.audio_root
        if folder is None:
            folder = Path() if self.is_piped else Path(self.name).parent
        elif not folder.is_dir():
            raise UsageError(f"audio root {folder}: this is no folder: name the one where relative paths start")
        return Manifest(
            self.path,
            self.name,
            self.format,
            folder,
            settings.audio_root is not None,
            was_begun,
            delimiter=settings.delimiter,
            defaults=config_parameters(settings),
            summary_is_served=settings.summary_is_served,
            check_files=check_files,
            examine=audio.examine if check_files else None,
            accounts=settings.accounts,
        )


@dataclass(slots=True)
class ManifestCheck:
    """Counts and findings of a manifest. ``gone`` is 0 where no file was looked for."""

    rows: int = 0
    invalid: int = 0
    # the header of CSV has problems, so that nothing is sent even where invalid rows are left out
    is_header_wrong: bool = False
    gone: int = 0
    files_checked: bool = True
    # the number of conversations, where they are counted
    conversations: int = 0
    problems: Findings = field(default_factory=Findings)
    warnings: Findings = field(default_factory=lambda: Findings(folded=True))
    # hints of rows whose items are not over; nothing can be done about the others any more
    hints: Findings = field(default_factory=lambda: Findings(folded=True))

    @property
    def valid(self) -> int:
        """The number of rows that can be sent, or were."""
        return self.rows - self.invalid


class HeaderError(UsageError):
    """A CSV header that is wrong; the findings in the rows are counted, as far as they can be read."""


@contextmanager
def manifest_file(
    argument: str, settings: Settings, check_stop: Callable[[], None] = lambda: None
) -> Iterator[ManifestFile]:
    """Open the manifest; copy standard input or a pipe into a file, because it is read twice.

    Args:
        argument: The manifest's path, or ``-`` for standard input.
        check_stop: Raises where the copying is to stop; called again and again.

    Raises:
        UsageError: The manifest cannot be read, or its format is unknown.
    """
    path = Path(argument)
    if argument == STANDARD_INPUT:
        if settings.format is None:
            raise UsageError("manifest -: for standard input say --format csv or --format jsonl")
        if sys.stdin is None:
            raise UsageError("manifest -: standard input is closed: name a file, or feed it")
        form, copy = settings.format, partial(pipes.transfer, sys.stdin.fileno())
    elif path.is_fifo():
        form = settings.format or format_of(path)
        copy = partial(pipes.copy, path)
    else:
        if path.exists() and not path.is_dir() and not path.is_file():
            raise UsageError(f"manifest {argument}: this is neither a file nor a pipe: name one")
        check_file(path, argument)
        form = settings.format or format_of(path)
        # /dev/stdin may be a file, but relative paths do not start beside it
        yield ManifestFile(argument, path, form, is_piped=argument.startswith("/dev/"))
        return
    with NamedTemporaryFile(suffix=f".{form}") as kept:
        try:
            copy(kept, check_stop)
            kept.flush()
        except OSError as error:
            raise UsageError(f"manifest {argument}: {error.strerror}: name one that can be read and kept") from error
        yield ManifestFile(argument, Path(kept.name), form, is_piped=True)


def batch_name(settings: Settings, manifest: str | None) -> str:
    """Return the batch's name: the one that is set, else the manifest's file name; empty where there is neither."""
    return settings.batch or ("" if manifest in (None, STANDARD_INPUT) else Path(manifest or "").name)


def config_parameters(settings: Settings) -> dict[str, Any]:
    """Read the parameters that hold for every row which does not set them itself.

    Raises:
        UsageError: The settings name one that there is not, or a value that does not fit.
    """
    return parameters.check_config(settings.parameters, settings.extra_parameters, settings.file)


def are_channels_separate(settings: Settings) -> bool:
    """Return True where channels are recognised, and billed, separately by default."""
    return bool(config_parameters(settings).get(SEPARATE))


def counted_rows(
    manifest: Manifest,
    check: ManifestCheck,
    *,
    refuse: bool = False,
    check_stop: Callable[[], None] = lambda: None,
) -> Iterator[Row | InvalidRow]:
    """Yield the rows of a manifest, while counting them and their findings in ``check``.

    Args:
        check: The counts and findings to add to.
        refuse: The first problem refuses the manifest: all rows are counted, but none is yielded after it.
        check_stop: Raises where the load is to stop; called now and then.

    Raises:
        HeaderError: Its header is wrong; raised behind the last row, and no row is yielded.
        UsageError: The manifest cannot be read at all.
    """
    check.files_checked = manifest.check_files
    return chain.from_iterable(_counted_chunks(manifest, check, check_stop, refuse=refuse))


def _counted_chunks(
    manifest: Manifest, check: ManifestCheck, check_stop: Callable[[], None], *, refuse: bool
) -> Iterator[Sequence[Row | InvalidRow]]:
    for rows in chain(manifest.read_chunks(), [()]):
        check_stop()
        if manifest.header_problems and not check.is_header_wrong:
            check.is_header_wrong = True
            check.problems.add(manifest.header_problems)
        check.rows += len(rows)
        for row in rows:
            _count(check, row)
        if not check.is_header_wrong and not (refuse and check.problems.count):
            yield rows
    if check.is_header_wrong:
        raise HeaderError(_refusal(check, manifest.name), check.problems.first)


def _count(check: ManifestCheck, row: Row | InvalidRow) -> None:
    if isinstance(row, InvalidRow):
        # a row that only lacks a column has the header's problem
        check.invalid += bool(row.problems)
        check.problems.add(row.problems)
    elif row.signature is None and check.files_checked:
        check.gone += 1
    if row.warnings:
        check.warnings.add(row.warnings)


def add_lacking(check: ManifestCheck, lacking: Iterable[InvalidRow]) -> None:
    """Count rows as invalid that were valid until they were matched to the ledger's items."""
    for row in lacking:
        check.invalid += 1
        check.gone -= row.is_file_gone
        check.problems.add(row.problems)


def add_alike(check: ManifestCheck, connection: Connection, stage: Stage) -> None:
    """Add the findings that only a comparison of staged rows shows."""
    with comparable(connection) as rows:
        if not stage.paths_ascend:
            check.warnings.add(repeats(rows))
        if not stage.ids_are_numbers:
            check.warnings.add(case_twins(rows))
        check.warnings.add(rounded(rows))
        if any(column == "conversationId" for column, _ in check.warnings.kinds):
            check.warnings.add(became_the_same(rows, spoilt))


def refuse_cost(settings: Settings, name: str, sending: ToSend) -> None:
    """Refuse a run that would cost more than allowed.

    Raises:
        UsageError: The run would cost more.
    """
    if refusal := format_cost_refusal(settings, name, sending):
        raise UsageError(refusal)


def format_cost_refusal(settings: Settings, name: str, sending: ToSend) -> str:
    """Explain why a run would cost more than allowed; empty where it would not.

    Args:
        name: The manifest's name, for the message.
        sending: The items that the run would send, leftovers of other batches included.
    """
    amount = sending.all
    most, minutes = settings.max_billed_minutes, amount.billed_seconds / 60
    if most is None or minutes <= most:
        return ""
    unknown = (
        f", and {format_count(amount.unknown_lengths, 'file')} of unknown length" if amount.unknown_lengths else ""
    )
    others = "; ".join(map(format_leftover, sending.leftovers))
    leftovers = f" (leftovers of other batches among them: {others})" if others else ""
    return (
        f"manifest {name}: {_format_above(minutes, most)} billed minutes are still to be appended{unknown}{leftovers}: "
        f"that is more than --max-billed-minutes {most:g}: raise it, or take rows out. Nothing was sent"
    )


def _format_above(minutes: float, most: float) -> str:
    """Format minutes with as many digits as show that they are above the most."""
    return next((text for digits in (1, 2, 3) if float(text := f"{minutes:.{digits}f}") > most), f"{minutes:g}")


def refuse_invalid(check: ManifestCheck, name: str) -> None:
    """Refuse a manifest with invalid rows.

    Raises:
        UsageError: The manifest has invalid rows; the text counts all problems, and lists the first.
    """
    if check.problems.count:
        raise UsageError(_refusal(check, name), check.problems.first)


def _refusal(check: ManifestCheck, name: str) -> str:
    counted, *table = format_problems(check, name)
    return "\n".join([f"{counted}: nothing was sent", *table])


def format_problems(check: ManifestCheck, name: str) -> Iterator[str]:
    """Format a manifest's problems: a sentence, then a table."""
    if check.problems.count:
        rows = [f"{check.invalid} of {format_count(check.rows, 'row')}"] if check.invalid else []
        places = " and ".join(["the header"] * check.is_header_wrong + rows)
        yield f"manifest {name}: {format_count(check.problems.count, 'problem')} in {places}"
        yield from check.problems.table()


def refuse_pruned(batch: BatchFacts) -> None:
    """Refuse a command that needs the rows of a batch.

    Raises:
        UsageError: Its rows were forgotten.
    """
    if batch.pruned_at is not None:
        kept = f"; its results, as its last run wrote them, were {batch.results}" if batch.results else ""
        raise UsageError(
            f"batch {batch.name}: its rows were forgotten by `uploader ledger prune` at {rfc3339(batch.pruned_at)}, "
            f"and nothing of it is left to do: its items are still known, and are never appended again{kept}. Nothing "
            "was written or sent"
        )


def results_path(settings: Settings, manifest: ManifestFile) -> Path:
    """Return the path of the results, checked before anything is sent.

    Raises:
        UsageError: The results cannot be written there.
    """
    if settings.results is not None:
        path = settings.results
    elif manifest.is_piped:
        raise UsageError(
            f"manifest {manifest.name}: for standard input or a pipe say where the results go with --results FILE"
        )
    else:
        path = results.default_path(Path(manifest.name), jsonl=manifest.format == "jsonl", sandbox=settings.sandbox)
    results.check_path(path)
    if path.exists() and path.samefile(manifest.path):
        raise UsageError(f"results {path}: this is the manifest itself: name another file with --results")
    return path


def check_known_results(settings: Settings, path: Path, ledger: Ledger, manifest: str | None) -> None:
    """Refuse to overwrite results whose jobIds the ledger lacks: a lost ledger's items would be appended again.

    Args:
        path: The results.
        manifest: The manifest of the batch; None where it is not a file.

    Raises:
        UsageError: The results have jobIds that the ledger does not know.
    """
    if not path.exists():
        return
    found = results.appended_rows(path)
    if settings.sandbox:
        from uploader.sandbox import JOB_ID_PREFIX  # noqa: PLC0415 - a server is nothing to have without need

        # a rehearsal's ledger is thrown away, with its doubts
        found = (row for row in found if row.job_id and not row.job_id.startswith(JOB_ID_PREFIX))
    with ledger.reading() as connection:
        for some in chunks(found, CHUNK):
            unknown = unknown_job_ids(connection, {row.job_id for row in some if row.job_id})
            if unknown:
                what = f"its jobIds ({min(unknown)}, …)"
                raise UsageError(_format_lost_ledger(settings, path, ledger.address, manifest, what))
            # the lost answer of an item in doubt named no job, and appended it perhaps
            unknown = unknown_conversations(connection, {row.conversation_id for row in some if not row.job_id})
            if unknown:
                what = f"what it did with these conversations ({min(unknown)}, …)"
                raise UsageError(_format_lost_ledger(settings, path, ledger.address, manifest, what))


def _format_lost_ledger(settings: Settings, path: Path, ledger: str, manifest: str | None, unknown: str) -> str:
    adopt = _adopt_command(settings, path, ledger, manifest)
    return (
        f"results {path}: the ledger {ledger} does not know {unknown}: these rows were appended "
        f"under another ledger, and would be appended again. Name that ledger with --ledger; if it is lost, `{adopt}` "
        "takes them back; or, if these results are of no concern to this run, name other results with --results or "
        "move the file away. Nothing was sent"
    )


def _adopt_command(settings: Settings, path: Path, ledger: str, manifest: str | None) -> str:
    """Format the command that takes results back, by which each row gets its own account and path again."""
    words = ["uploader", "ledger", "adopt", str(path)]
    # a batch that was adopted has its results for a manifest
    is_there = manifest is not None and Path(manifest).absolute() != path.absolute()
    if (
        manifest is not None
        and is_there
        and (settings.accounts or Path(manifest).absolute().parent != path.absolute().parent)
    ):
        words += ["--manifest", manifest]
        words += ["--format", settings.format] if settings.format is not None else []
        words += ["--delimiter", settings.delimiter] if "delimiter" in settings.given else []
    elif settings.accounts:
        words += ["--account", "NAME"]
    # the paths of standard input start at the current folder
    root = Path() if settings.audio_root is None and manifest is None else settings.audio_root
    if root is not None and root.absolute() != path.absolute().parent:
        words += ["--audio-root", str(root.absolute())]
    words += [*config_option(settings.config), "--base-url", settings.base_url, *ledger_option(ledger)]
    return shlex.join(words)
