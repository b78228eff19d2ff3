"""Writes the results file: a snapshot of the ledger, replaced whole."""

import csv
import errno
import json
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path
from tempfile import NamedTemporaryFile
from typing import IO, Any, NamedTuple, TypeVar

from uploader.errors import ResultsUnavailableError, UsageError, describe
from uploader.model import ResultLine, State
from uploader.text import printable, storable

COLUMNS = (
    "conversationId",
    "audioPath",
    "jobId",
    "status",
    "attempts",
    "httpStatus",
    "error",
    "bytes",
    "durationSeconds",
    "channels",
    "billedSeconds",
    "acceptedAt",
    "finishedAt",
    "batch",
    "line",
)
T = TypeVar("T")

ENDINGS = (".csv", ".jsonl")
# first characters of a cell that a spreadsheet may take for a formula; some take the full-width forms, too
FORMULA_STARTS = tuple("=+-@\t\r\n\uff1d\uff0b\uff0d\uff20")
_TEXTS = ("conversationId", "audioPath", "jobId", "error", "batch")
_MOST = 2**63 - 1
# a longer name leaves no room for the rest of a temporary one, which then begins with so many of its characters
_LONG_NAME_BYTES, _SHORT_NAME = 200, 40
# columns whose text comes from the service
_FROM_SERVICE = ("jobId", "error")
_ERROR = COLUMNS.index("error")
# states of rows that may have been appended, or shall not be, although no jobId is known
_APPENDED = frozenset({State.SENT, State.IN_DOUBT, State.ACCEPTED, State.COMPLETED, State.FAILED, State.DROPPED})

_UMASK = os.umask(0o077)
os.umask(_UMASK)  # it cannot be read without being set


def default_path(manifest: Path, *, jsonl: bool, sandbox: bool) -> Path:
    """Return the default results file of a manifest: beside it, a sandbox's under a name of its own."""
    ending = ".results.jsonl" if jsonl else ".results.csv"
    inner = manifest.with_suffix("") if manifest.suffix.lower() == ".gz" else manifest
    return manifest.with_name(inner.stem + (".sandbox" if sandbox else "") + ending)


_NO_RESULTS = "this file holds no results of the uploader"


def check_path(path: Path) -> None:
    """Check, before anything is sent, that results can be written to a path.

    Raises:
        UsageError: They cannot; the text says what to do.
    """
    if path.suffix.lower() not in ENDINGS:
        raise UsageError(f"results {path}: its ending tells no format: end it with .csv or .jsonl")
    try:
        path.lstat()
    except OSError as error:
        if error.errno == errno.ENAMETOOLONG:
            raise UsageError(f"results {path}: {error.strerror}: name another with --results") from error
    folder = path.parent
    if storable(str(path.resolve())) != str(path.resolve()):  # the ledger keeps where they are
        raise UsageError(f"results {path}: this leads to a folder whose name is not UTF-8: name another")
    if not folder.is_dir():
        raise UsageError(f"results {path}: its folder {folder} does not exist: make it or name another")
    if path.exists() and not path.is_file():
        raise UsageError(f"results {path}: this is no file: name another with --results")
    if not os.access(folder, os.W_OK | os.X_OK, effective_ids=os.access in os.supports_effective_ids):
        raise UsageError(f"results {path}: its folder {folder} is not writable: make it so or name another")


def job_ids(path: Path) -> Iterator[str]:
    """Read the jobIds in an existing results file.

    Raises:
        UsageError: The file has no results of the uploader, and must not be replaced.
    """
    return (row.job_id for row in appended_rows(path) if row.job_id)


class AppendedRow(NamedTuple):
    """A row of which something was, or may have been, appended: with a jobId, or in such a state."""

    # empty where there is none
    job_id: str
    conversation_id: str


def appended_rows(path: Path) -> Iterator[AppendedRow]:
    """Read the rows of an existing results file of which something was, or may have been, appended.

    Raises:
        UsageError: The file has no results of the uploader, and must not be replaced.
    """
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:  # an editor may have added a byte order mark
            for line in _read(path, file):
                if (job_id := line.get("jobId")) or line.get("status") in _APPENDED:
                    yield AppendedRow(str(job_id or ""), str(line.get("conversationId")))
    except OSError as error:
        raise UsageError(f"results {path}: {error.strerror}: name a file that can be read and replaced") from error
    except (ValueError, csv.Error, RecursionError) as error:
        raise _not_ours(path, " with --results") from error


def read_lines(path: Path) -> Iterator[ResultLine]:
    """Read a results file back, row by row.

    Raises:
        UsageError: It cannot be read, or has no results of the uploader.
    """
    if path.exists() and not path.is_file():
        raise UsageError(f"results {path}: this is no file: name one")  # they are read more than once
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:  # an editor may have added a byte order mark
            for line in _read(path, file):
                yield _result_line(line)
    except OSError as error:
        raise UsageError(f"results {path}: {error.strerror}: name a file that can be read") from error
    except (ValueError, KeyError, TypeError, AttributeError, OverflowError, csv.Error, RecursionError) as error:
        raise _not_ours(path) from error


def _result_line(line: Mapping[str, Any]) -> ResultLine:
    """Read a row as it was written; an empty cell is unknown."""
    given: dict[str, Any] = {name: None if value == "" else value for name, value in line.items()}
    for name in _TEXTS:
        if not isinstance(given[name], str | None):
            raise TypeError(f"{name} is no text")
    if given["conversationId"] is None:
        raise TypeError("conversationId is missing")
    return ResultLine(
        line=_whole(given["line"]),
        batch=given["batch"] or "",
        conversation_id=given["conversationId"],
        audio_path=given["audioPath"],
        job_id=given["jobId"],
        state=State(given["status"]),
        attempts=_whole(given["attempts"] or 0),
        http_status=_number(given["httpStatus"], _whole),
        error=given["error"],
        size=_number(given["bytes"], _whole),
        duration_seconds=_number(given["durationSeconds"], float),
        channels=_number(given["channels"], _whole),
        billed_seconds=_number(given["billedSeconds"], float),
        accepted_at=_seconds(given["acceptedAt"]),
        finished_at=_seconds(given["finishedAt"]),
        extras={name: value for name, value in given.items() if name.startswith("x-") and value is not None},
    )


def _whole(value: Any) -> int:
    found = int(value)
    if abs(found) > _MOST:
        raise ValueError("no number that the ledger holds")
    return found


def _number(value: Any, kind: Callable[[Any], T]) -> T | None:
    return None if value is None else kind(value)


def _seconds(time: str | None) -> float | None:
    return None if time is None else datetime.fromisoformat(time).timestamp()


def write(path: Path, lines: Iterable[ResultLine], extra_columns: Sequence[str]) -> None:
    """Replace the results file by a new snapshot, atomically.

    Args:
        path: The file, CSV or JSON Lines by its extension.
        lines: The rows, in order.
        extra_columns: The ``x-`` columns of the manifest.

    Raises:
        ResultsUnavailableError: It cannot be written now; the old snapshot stands.
    """
    with _replacing(path) as file:
        if path.suffix.lower() == ".csv":
            _write_csv(file, lines, extra_columns)
        else:
            for line in lines:
                text = json.dumps(_public(line, extra_columns), ensure_ascii=False)
                is_plain = f"{line.job_id}{line.error}".isascii()
                file.write(f"{text if is_plain else printable(text)}\n")


def write_manifest(path: Path, rows: Sequence[Mapping[str, Any]], form: str, delimiter: str = ",") -> None:
    """Write rows as a manifest, atomically.

    Args:
        rows: Columns and values of each row.
        form: ``csv`` or ``jsonl``.
        delimiter: The delimiter of CSV.

    Raises:
        ResultsUnavailableError: It cannot be written now.
    """
    with _replacing(path) as file:
        write_rows(file, rows, form, delimiter)


def write_rows(file: IO[str], rows: Sequence[Mapping[str, Any]], form: str, delimiter: str = ",") -> None:
    """Write rows as a manifest; see ``write_manifest``."""
    if form == "csv":
        columns = dict.fromkeys(("conversationId", "audioPath")) | dict.fromkeys(name for row in rows for name in row)
        writer = csv.DictWriter(_Lines(file), list(columns), restval="", delimiter=delimiter)
        writer.writeheader()
        writer.writerows({name: _cell(value) for name, value in row.items()} for row in rows)
    else:
        file.writelines(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)


def write_json(path: Path, value: Mapping[str, Any]) -> None:
    """Write a JSON object, atomically.

    Raises:
        ResultsUnavailableError: It cannot be written now.
    """
    with _replacing(path) as file:
        # a path in it may be no UTF-8
        file.write(storable(json.dumps(value, ensure_ascii=False, indent=2)) + "\n")


def write_text(path: Path, text: str) -> None:
    """Write a text, atomically.

    Raises:
        ResultsUnavailableError: It cannot be written now.
    """
    with _replacing(path) as file:
        file.write(storable(text))  # a path in it may be no UTF-8


def rfc3339(seconds: float | None) -> str | None:
    """Format a time in seconds since the epoch as RFC 3339 in UTC; None stays None."""
    if seconds is None:
        return None
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


class _Lines:
    """A file whose lines end with a line feed in place of the csv module's CR LF."""

    def __init__(self, file: IO[str]) -> None:
        # the csv module's own terminator stays CR LF: then it quotes cells that have either character
        self._file = file

    def write(self, line: str) -> int:
        return self._file.write(line.removesuffix("\r\n") + "\n")


@contextmanager
def replacing(path: Path, mode: int, suffix: str = "") -> Iterator[IO[str]]:
    """Replace a file atomically: yield a temporary one, which takes the path's place when the block ends well.

    Args:
        path: The file to replace, or to make.
        mode: Its permissions.
        suffix: The end of the temporary name, which is hidden and begins with the path's name.

    Raises:
        OSError: It cannot be written; the old file stands.
    """
    # a name may be as long as the file system allows, and the temporary one is longer
    prefix = f".{path.name if len(os.fsencode(path.name)) <= _LONG_NAME_BYTES else path.name[:_SHORT_NAME]}."
    with NamedTemporaryFile(
        "w", encoding="utf-8", newline="", dir=path.parent, prefix=prefix, suffix=suffix, delete=False
    ) as file:
        try:
            yield file
            file.flush()
            os.fchmod(file.fileno(), mode)
            os.fsync(file.fileno())
            Path(file.name).replace(path)
        except BaseException:
            with suppress(OSError):
                Path(file.name).unlink()
            raise
    _sync_folder(path.parent)


@contextmanager
def _replacing(path: Path) -> Iterator[IO[str]]:
    try:
        with replacing(path, 0o666 & ~_UMASK) as file:  # the permissions of any file of the user
            yield file
    except OSError as error:
        raise ResultsUnavailableError(
            f"{path} could not be written ({describe(error)}): the ledger has everything; make room or give leave, "
            "then run the same command again, or `uploader results`"
        ) from error


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _write_csv(file: IO[str], lines: Iterable[ResultLine], extra_columns: Sequence[str]) -> None:
    writer = csv.writer(_Lines(file))
    writer.writerow([*COLUMNS, *extra_columns])
    places = [COLUMNS.index(name) for name in _FROM_SERVICE]
    for line in lines:
        cells = [_cell(value) for value in _public(line, extra_columns).values()]
        # people read it, one row to a line; a jobId is a key, and stays as it is
        cells[_ERROR] = printable(cells[_ERROR])
        for place in places:
            cells[place] = _defused(cells[place])
        writer.writerow(cells)


def _public(line: ResultLine, extra_columns: Sequence[str]) -> dict[str, Any]:
    return {
        "conversationId": line.conversation_id,
        "audioPath": line.audio_path,
        "jobId": line.job_id,
        "status": line.state.value,
        "attempts": line.attempts,
        "httpStatus": line.http_status,
        "error": line.error,
        "bytes": line.size,
        "durationSeconds": line.duration_seconds,
        "channels": line.channels,
        "billedSeconds": line.billed_seconds,
        "acceptedAt": rfc3339(line.accepted_at),
        "finishedAt": rfc3339(line.finished_at),
        "batch": line.batch,
        "line": line.line,
    } | {name: line.extras.get(name) for name in extra_columns}


def _cell(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, str):
        return value
    # a number is the same in JSON, at a fraction of the cost: a million lines have eight million of them
    return repr(value) if type(value) in (int, float) else json.dumps(value, ensure_ascii=False)


def _defused(text: str) -> str:
    """Quote a text from the service so that no spreadsheet takes it for a formula; ``_as_it_was`` undoes it."""
    return "'" + text if text.lstrip("'").startswith(FORMULA_STARTS) else text


def _as_it_was(text: str) -> str:
    is_defused = text.startswith("'") and text.lstrip("'").startswith(FORMULA_STARTS)
    return text[1:] if is_defused else text


def _read(path: Path, file: IO[str]) -> Iterator[Mapping[str, Any]]:
    if path.suffix.lower() == ".csv":
        reader = csv.DictReader(file)
        if reader.fieldnames and not {"conversationId", "jobId", "status"} <= set(reader.fieldnames):
            raise ValueError(_NO_RESULTS)
        for row in reader:
            yield row | {name: _as_it_was(row[name]) for name in _FROM_SERVICE if row.get(name)}
        return
    for text in file:
        line = json.loads(text)
        if not isinstance(line, dict) or "jobId" not in line:
            raise ValueError(_NO_RESULTS)
        yield line


def _not_ours(path: Path, how: str = "") -> UsageError:
    return UsageError(f"results {path}: {_NO_RESULTS}: name another{how}")
