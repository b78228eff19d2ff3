"""Reads a manifest: CSV or JSON Lines in, rows and what is wrong with them out."""

import csv
import difflib
import json
import os
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO, Literal

from uploader import audio, parameters
from uploader.errors import UsageError
from uploader.model import FileSignature, InvalidRow, Problem, Row

REQUIRED = ("conversationId", "audioPath")
OWN_COLUMNS = (*REQUIRED, "contentType")
EXTRA_PREFIX = "x-"
KNOWN_COLUMNS = (*OWN_COLUMNS, *parameters.TABLE)

_HALF_CHARACTER = re.compile("[\ud800-\udfff]")
"""JSON can spell lone surrogates; neither the ledger nor the service nor the results can hold them."""

Format = Literal["csv", "jsonl"]
WasBegun = Callable[[str, Path], bool]
"""Whether an item of this conversation and path was begun before: its file may be gone by now."""


@dataclass(frozen=True)
class Manifest:
    """Where a manifest is and how its rows are to be read.

    ``folder`` is where relative paths start; ``confined`` says that no path may lead out of it.
    ``name`` is what to call the manifest in an error.
    """

    path: Path
    name: str
    format: Format
    folder: Path
    confined: bool
    was_begun: WasBegun
    extra_columns: dict[str, None] = field(default_factory=dict)
    """The ``x-`` columns that were read so far, in their order."""

    def read(self) -> Iterator[Row | InvalidRow]:
        """Read the rows one by one, in order.

        Raises:
            UsageError: The file cannot be read at all, or its header is wrong.
        """
        rows = 0
        check_file(self.path, self.name)
        with _open(self.path, self.name) as file:
            for raw in (_read_csv if self.format == "csv" else _read_jsonl)(file, self.name):
                rows += 1
                yield self._check(raw)
        if not rows:
            raise UsageError(f"manifest {self.name}: it has no rows: write one per audio file")

    def _check(self, raw: "_RawRow") -> Row | InvalidRow:
        problems = list(raw.problems)
        conversation_id = _text(raw, "conversationId", problems)
        audio_path = _text(raw, "audioPath", problems)
        problems += _check_conversation_id(raw.line, conversation_id)
        content_type = _check_content_type(raw, problems)
        values = _check_parameters(raw, problems)
        path, signature = self._check_audio(raw.line, conversation_id, audio_path, problems)
        extras = {name: value for name, value in raw.values.items() if name.startswith(EXTRA_PREFIX)}
        self.extra_columns.update(dict.fromkeys(extras))
        if problems or path is None:
            return InvalidRow(raw.line, conversation_id, audio_path, extras, problems)
        return Row(raw.line, conversation_id, audio_path, path, content_type, values, extras, signature)

    def _check_audio(
        self, line: int, conversation_id: str, audio_path: str, problems: list[Problem]
    ) -> tuple[Path | None, FileSignature | None]:
        """Find the row's file; one that is gone is right where its item was begun before."""
        if not audio_path:
            return None, None  # told already
        path = None
        try:
            path = self._resolve(audio_path)
            return path, audio.signature(path)
        except ValueError as error:
            if path is not None and conversation_id and self.was_begun(conversation_id, path):
                return path, None  # people archive what was sent, and leave all kinds of things in its place
            problems.append(Problem(line, "audioPath", audio_path, str(error)))
            return None, None

    def _resolve(self, audio_path: str) -> Path:
        if "\0" in audio_path:
            raise ValueError("a path cannot hold a NUL character: correct the path")
        # the name that the manifest gives is kept, links and all; only the check looks behind them
        path = Path(os.path.abspath(self.folder / audio_path))  # noqa: PTH100
        if self.confined and not Path(os.path.realpath(path)).is_relative_to(self.folder.resolve()):
            raise ValueError(f"the path leads outside the audio root {self.folder}: move the file or the root")
        return path


@dataclass(frozen=True, slots=True)
class _RawRow:
    line: int
    values: Mapping[str, Any]
    problems: Sequence[Problem]


def format_of(path: Path) -> Format:
    """Tell a manifest's format by its ending.

    Raises:
        UsageError: The ending says nothing.
    """
    ending = path.suffix.lower()
    if ending == ".csv":
        return "csv"
    if ending in (".jsonl", ".ndjson"):
        return "jsonl"
    raise UsageError(f"manifest {path}: its ending {ending!r} tells no format: say --format csv or --format jsonl")


def check_file(path: Path, name: str) -> None:
    """See that there is a manifest at all.

    Raises:
        UsageError: There is none, or it is no file that can be read.
    """
    if path.is_dir():
        raise UsageError(f"manifest {name}: this is a folder: name the CSV or JSON Lines file in it")
    with _open(path, name):
        return


def _open(path: Path, name: str) -> BinaryIO:
    try:
        return path.open("rb")
    except OSError as error:
        raise UsageError(f"manifest {name}: {error.strerror}: name a file that can be read") from error


def _lines(file: BinaryIO, name: str) -> Iterator[str]:
    for number, line in enumerate(file, start=1):
        try:
            text = line.decode("utf-8")
        except UnicodeDecodeError as error:
            raise UsageError(
                f"manifest {name}, line {number}: this is not UTF-8 (byte {line[error.start]:#04x} at place "
                f"{error.start + 1}): save the manifest as UTF-8"
            ) from error
        yield text.removeprefix("\ufeff") if number == 1 else text


def _read_csv(file: BinaryIO, name: str) -> Iterator[_RawRow]:
    reader = csv.reader(_lines(file, name), strict=True)
    header: list[str] | None = None
    line = 1
    try:
        for cells in reader:
            if header is None and cells:
                header = [cell.strip() for cell in cells]
                _check_header(header, name)
            elif header is not None and cells:
                yield _csv_row(line, header, cells)
            line = reader.line_num + 1
    except csv.Error as error:
        raise UsageError(f"manifest {name}, line {reader.line_num}: no CSV: {error}: mend the line") from error
    if header is None:
        raise UsageError(f"manifest {name}: it is empty: write a header and a row per audio file")


def _csv_row(line: int, header: Sequence[str], cells: Sequence[str]) -> _RawRow:
    # an empty cell means "not set", but an own column of the operator's comes back as it was
    values = {
        column: cell
        for column, cell in zip(header, cells, strict=False)
        if cell or column in REQUIRED or column.startswith(EXTRA_PREFIX)
    }
    problems = []
    if len(cells) != len(header):
        problems.append(
            Problem(
                line,
                "",
                "",
                f"the row has {len(cells)} cells, the header {len(header)}: give each column one",
            )
        )
    return _RawRow(line, values, problems)


def _check_header(columns: Sequence[str], name: str) -> None:
    where = f"manifest {name}, line 1"
    problems = [f"{where}, {column}: unknown column{_close_to(column)}" for column in columns if not _is_known(column)]
    problems += [f"{where}: the column {column} is missing: add it" for column in REQUIRED if column not in columns]
    twice = sorted({column for column in columns if columns.count(column) > 1})
    problems += [f"{where}, {column}: the column stands there twice: keep one" for column in twice]
    if problems:
        raise UsageError("\n".join(problems))


def _is_known(column: str) -> bool:
    return column in KNOWN_COLUMNS or (column.startswith(EXTRA_PREFIX) and column != EXTRA_PREFIX)


def _close_to(column: str) -> str:
    close = difflib.get_close_matches(column, KNOWN_COLUMNS, n=1, cutoff=0.5)
    meant = f": did you mean {close[0]}?" if close else ":"
    return f"{meant} Known are {', '.join(KNOWN_COLUMNS)}; columns of your own begin with {EXTRA_PREFIX}"


def _read_jsonl(file: BinaryIO, name: str) -> Iterator[_RawRow]:
    number = 0
    for number, text in enumerate(_lines(file, name), start=1):
        if text.strip():
            yield _jsonl_row(number, text)
    if not number:
        raise UsageError(f"manifest {name}: it is empty: write a JSON object per audio file, each on its line")


def _jsonl_row(line: int, text: str) -> _RawRow:
    try:
        found = json.loads(text)
    except (ValueError, RecursionError) as error:
        return _RawRow(line, {}, [Problem(line, "", text.strip()[:80], f"no JSON: {error}: mend the line")])
    if not isinstance(found, dict):
        remedy = 'write an object: {"conversationId": "…", "audioPath": "…"}'
        return _RawRow(line, {}, [Problem(line, "", text.strip()[:80], remedy)])
    problems = [
        Problem(line, column, "", f"unknown column{_close_to(column)}") for column in found if not _is_known(column)
    ]
    halves = [column for column, value in found.items() if _HALF_CHARACTER.search(f"{column}{value}")]
    problems += [
        Problem(line, ascii(column)[1:-1], ascii(found[column])[:80], "half a character stands in it: write it whole")
        for column in halves
    ]
    values = {column: value for column, value in found.items() if value is not None and column not in halves}
    return _RawRow(line, values, problems)


def _text(raw: _RawRow, column: str, problems: list[Problem]) -> str:
    value = raw.values.get(column, "")
    if not isinstance(value, str):
        problems.append(Problem(raw.line, column, json.dumps(value)[:80], "write it as text, in quotes"))
        return ""
    if not value and not raw.problems:
        problems.append(Problem(raw.line, column, "", "it is empty: every row needs one"))
    return str(value)


def _check_conversation_id(line: int, conversation_id: str) -> list[Problem]:
    if conversation_id in (".", "..") or any(ord(letter) < 32 for letter in conversation_id):
        remedy = "no conversation has this id: write the id that the first request was answered with"
        return [Problem(line, "conversationId", conversation_id, remedy)]
    return []


def _check_content_type(raw: _RawRow, problems: list[Problem]) -> str | None:
    value = raw.values.get("contentType")
    if value is None:
        return None
    if value not in parameters.CONTENT_TYPES:
        remedy = f"write one of {', '.join(parameters.CONTENT_TYPES)}, or leave it empty for other formats"
        problems.append(Problem(raw.line, "contentType", str(value)[:80], remedy))
        return None
    return str(value)


def _check_parameters(raw: _RawRow, problems: list[Problem]) -> dict[str, Any]:
    checked: dict[str, Any] = {}
    for name, parameter in parameters.TABLE.items():
        if name in raw.values:
            try:
                checked[name] = parameter.parse(raw.values[name])
            except ValueError as error:
                problems.append(Problem(raw.line, name, str(raw.values[name])[:80], str(error)))
    return checked
