"""The columns of a manifest, and suggestions for unknown ones."""

import re
from collections.abc import Iterator, Sequence
from functools import lru_cache

from uploader import parameters
from uploader.model import Problem

REQUIRED = ("conversationId", "audioPath")
OWN_COLUMNS = (*REQUIRED, "contentType", "account")
EXTRA_PREFIX = "x-"
# the most characters of a wrong column's name in a message
NAME_MOST = 80
KNOWN_COLUMNS = (*OWN_COLUMNS, *parameters.TABLE)

_KNOWN = frozenset(KNOWN_COLUMNS)
# delimiters in common use, each with its spelling for ``--delimiter``
_DELIMITERS = {";": "';'", "\t": "tab", "|": "'|'", ",": ","}
# the line before the header in which Excel names the delimiter
_SEPARATOR = re.compile(r" *sep=(.?)\s*", re.IGNORECASE | re.DOTALL)
# an id or a path: no column's name is a number or has a path's characters
_DATA = re.compile(r"[/\\.]|^[0-9]+$")


def is_known(column: str) -> bool:
    """Return True where a manifest may have this column."""
    return column in _KNOWN or is_extra(column)


def is_extra(column: str) -> bool:
    """Return True where a column is the operator's own (``x-``), which the results repeat unchanged."""
    return column.startswith(EXTRA_PREFIX) and column != EXTRA_PREFIX


def shown(column: str) -> str:
    """Format a column's name for a message, shortened and escaped."""
    return (column if column.isprintable() else ascii(column)[1:-1])[:NAME_MOST]


@lru_cache(maxsize=1024)
def unknown(column: str) -> str:
    """Explain why a column is unknown, with the name that was most likely meant."""
    small = EXTRA_PREFIX + column[len(EXTRA_PREFIX) :]
    if column.startswith(EXTRA_PREFIX.upper()) and is_extra(small):
        return f"unknown column: did you mean {shown(small)}? columns of your own begin with a small {EXTRA_PREFIX}"
    import difflib  # noqa: PLC0415 - of use where something is wrong

    close = difflib.get_close_matches(column[:100], KNOWN_COLUMNS, n=1, cutoff=0.5)
    meant = f"did you mean {close[0]}?" if close else f"known are {', '.join(KNOWN_COLUMNS)};"
    return f"unknown column: {meant} columns of your own begin with {EXTRA_PREFIX}"


def header_problems(columns: Sequence[str], delimiter: str, line: int) -> Iterator[Problem]:
    """List the problems of a CSV header."""
    if remedy := _other_separator(columns, delimiter) or _missing_header(columns, delimiter):
        yield Problem(line, "", shown(columns[0]), remedy)
        return
    for number, column in enumerate(columns, start=1):
        if not column:
            yield Problem(line, f"column {number}", "", _nameless(number, len(columns)))
        elif not is_known(column):
            yield Problem(line, shown(column), "", unknown(column))
    for column in REQUIRED:
        if column not in columns:
            yield Problem(line, column, "", f"the column {column} is missing: add it")
    for column in sorted({column for column in columns if column and columns.count(column) > 1}):
        yield Problem(line, shown(column), "", "the column stands there twice: keep one")


def separator_line(cell: str, delimiter: str) -> str:
    """Explain that a line with this first cell only names the delimiter, as Excel's do; empty where it does not."""
    separator = _SEPARATOR.fullmatch(cell)
    if separator is None:
        return ""
    named = separator[1] or delimiter
    return f"this line is a spreadsheet's own: take it out, and say --delimiter {_DELIMITERS.get(named, repr(named))}"


def _missing_header(columns: Sequence[str], delimiter: str) -> str:
    """Explain that the first line is a row, not a header; empty where it names a known column or has no id or path."""
    is_named = any(is_known(column) or "did you mean" in unknown(column) for column in columns)
    if is_named or not any(_DATA.search(column) for column in columns):
        return ""
    return f"the header is missing: put the line {delimiter.join(REQUIRED)} with the names of all columns above it"


def _other_separator(columns: Sequence[str], delimiter: str) -> str:
    """Explain that the delimiter is another one."""
    other = _delimiter_of(columns, delimiter)
    if other is None:
        return ""
    return f"the columns are not separated by {delimiter!r}: say --delimiter {_DELIMITERS[other]}"


def _nameless(number: int, count: int) -> str:
    """Explain that a column has no name."""
    if number == 1:
        return "it has no name: are these a program's row numbers (pandas: index=False)? take the column out"
    likely = "a separator at the end of the line makes one: " if number == count else ""
    return f"it has no name: {likely}take the column out of all lines, or give it a name with {EXTRA_PREFIX}"


def _delimiter_of(columns: Sequence[str], delimiter: str) -> str | None:
    """Find the delimiter that would make these columns a header; None where the one in use does as well."""
    if any(column in columns for column in REQUIRED):
        return None
    text = delimiter.join(columns)
    for other in _DELIMITERS:
        cells = [cell.strip(" \"'") for cell in text.split(other)]
        if other != delimiter and any(column in cells for column in REQUIRED):
            return other
    return None
