"""Parsers of the two formats, from lines to raw rows with the line on which each begins."""

import csv
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from uploader import parameters
from uploader.errors import UsageError
from uploader.manifest.columns import REQUIRED, header_problems, is_extra, is_known, separator_line, shown, unknown
from uploader.manifest.ids import is_unseen, named
from uploader.model import Problem
from uploader.secrets import without_login

_TRIMMED = " \t\ufeff"
_HEADER_AGAIN = "this is the header once more, as where two manifests were put together: take the line out"


class RawRow(NamedTuple):
    """A parsed row. ``is_text``: its values are CSV cells, not native JSON values."""

    line: int
    values: Mapping[str, Any]
    problems: Sequence[Problem] = ()
    is_text: bool = False


def read_csv(lines: Iterator[str], name: str, delimiter: str, of_header: list[Problem]) -> Iterator[RawRow]:
    """Parse CSV with a header, by the columns that are known; no row of a header by which none can be read.

    Args:
        lines: The lines of the file.
        name: The manifest's name, for messages.
        delimiter: The separator of cells.
        of_header: Takes the header's problems.

    Raises:
        UsageError: The file is no CSV, or empty.
    """
    reader = csv.reader(lines, strict=True, delimiter=delimiter)
    header: _Header | None = None
    columns: Sequence[str] = ()
    count, last, line = -1, "", 1
    try:
        for cells in reader:
            # a quick way for most rows, which are whole; ``row`` gives the same answer
            if len(cells) == count and "" not in cells and cells[-1] != last and not cells[0].isspace():
                # a third of the cost of RawRow(...), for a million rows
                yield tuple.__new__(RawRow, (line, dict(zip(columns, cells, strict=True)), (), True))
            elif not cells or (not cells[0].strip() and not "".join(cells).strip()):
                pass  # a line of separators alone, as spreadsheets write it
            elif header is not None:
                yield header.row(line, cells)
            else:
                header = _Header(cells, delimiter, line)
                of_header += header.problems
                if any(not problem.column for problem in header.problems):
                    return  # it is none, or its cells are separated otherwise
                columns, count, last = header.columns, len(header.columns), header.columns[-1]
            line = reader.line_num + 1
    except csv.Error as error:
        raise UsageError(f"manifest {name}, {_describe_broken(str(error), line, reader.line_num)}") from error
    if header is None:
        raise UsageError(f"manifest {name}: it is empty: write a header and a row per audio file")


def _describe_broken(error: str, begin: int, at: int) -> str:
    """Explain a CSV error by the csv module's message and the lines of the row."""
    if "new-line character" in error:
        return f"line {begin}: it ends with a carriage return alone, as on old systems: save it with line feeds"
    if at > begin or "unexpected end of data" in error:
        return f"line {begin}: a quote opens here and is not closed where its cell ends: close it, or take it out"
    return f"line {at}: no CSV: {error}: mend the line"


def read_jsonl(lines: Iterator[str], name: str) -> Iterator[RawRow]:
    """Parse JSON Lines.

    Raises:
        UsageError: The file is empty.
    """
    number = 0
    for number, text in enumerate(lines, start=1):
        if text.strip():
            yield _jsonl_row(number, text)
    if not number:
        raise UsageError(f"manifest {name}: it is empty: write a JSON object per audio file, each on its line")


class _Header:
    """A CSV header. An empty cell means "not set"; empty ``x-`` cells are kept for the results."""

    def __init__(self, cells: list[str], delimiter: str, line: int) -> None:
        self.columns = columns = [cell.strip() for cell in cells]
        remedy = separator_line(cells[0], delimiter)
        named = [Problem(line, "", shown(cells[0]), remedy)] if remedy else []
        self.problems = named or list(header_problems(columns, delimiter, line))
        self._kept = frozenset(column for column in columns if column in REQUIRED or is_extra(column))

    def row(self, line: int, cells: Sequence[str]) -> RawRow:
        """Build any row from its cells."""
        given = zip(self.columns, cells, strict=False)
        values = {column: cell for column, cell in given if cell or column in self._kept}
        if [cell.strip(_TRIMMED) for cell in cells] == self.columns:
            return RawRow(line, {}, [Problem(line, "", cells[0], _HEADER_AGAIN)], is_text=True)
        if len(cells) == len(self.columns):
            return RawRow(line, values, (), is_text=True)
        count = "1 cell" if len(cells) == 1 else f"{len(cells)} cells"
        remedy = f"the row has {count}, the header {len(self.columns)}: give each column one"
        return RawRow(line, values, [Problem(line, "", "", remedy)], is_text=True)


def _jsonl_row(line: int, text: str) -> RawRow:
    try:
        found = parameters.read_json(text.rstrip())  # its end is no second line
    except ValueError as error:
        return RawRow(
            line, {}, [Problem(line, "", without_login(text.strip())[:80], _describe_unreadable(text, str(error)))]
        )
    if not isinstance(found, dict):
        remedy = 'write an object: {"conversationId": "…", "audioPath": "…"}'
        return RawRow(line, {}, [Problem(line, "", without_login(text.strip())[:80], remedy)])
    problems = [Problem(line, shown(column), "", unknown(column)) for column in found if not is_known(column)]
    # only an escape can spell half a character: the line itself is UTF-8
    halves = [column for column, value in found.items() if _has_half(column, value)] if "\\u" in text else []
    problems += [
        Problem(
            line,
            shown(column),
            without_login(ascii(found[column]))[:80],
            "half a character stands in it: write it whole",
        )
        for column in halves
    ]
    values = {column: value for column, value in found.items() if value is not None and column not in halves}
    return RawRow(line, values, problems)


def _describe_unreadable(text: str, error: str) -> str:
    """Explain why a line is no JSON."""
    first = next((char for char in text if is_unseen(char) and char not in " \t\r\n"), "")
    if "\r" in text.rstrip():
        return "its lines end with a carriage return alone, as on old systems: save it with line feeds"
    if first and text.lstrip(" \t").startswith(first):
        return f"it begins with {named(first)}, as where two files were put together: take it out"
    return f"{error}: mend the line"


def _has_half(column: str, value: Any) -> bool:
    try:
        parameters.check_whole([column, value])
    except ValueError:
        return True
    return False
