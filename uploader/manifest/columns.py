"""Which columns a manifest may have, and which one was most likely meant."""

import difflib
import re
from collections.abc import Iterator, Sequence
from functools import lru_cache

from uploader import parameters
from uploader.model import Problem

REQUIRED = ("conversationId", "audioPath")
OWN_COLUMNS = (*REQUIRED, "contentType")
EXTRA_PREFIX = "x-"
NAME_MOST = 80
"""So much of a wrong column's name is told."""
KNOWN_COLUMNS = (*OWN_COLUMNS, *parameters.TABLE)

_KNOWN = frozenset(KNOWN_COLUMNS)
_DELIMITERS = {";": "';'", "\t": "tab", "|": "'|'", ",": ","}
"""What lists are separated by in practice, each as the command line takes it."""
_SEPARATOR = re.compile("sep=(.?)", re.IGNORECASE | re.DOTALL)
"""How Excel is told the separator, in a line before the header."""


def is_known(column: str) -> bool:
    """Whether a manifest may have this column."""
    return column in _KNOWN or is_extra(column)


def is_extra(column: str) -> bool:
    """Whether a column is the operator's own: it goes into the results unchanged."""
    return column.startswith(EXTRA_PREFIX) and column != EXTRA_PREFIX


def shown(column: str) -> str:
    """A column's name as it can be printed, whatever stands in it."""
    return (column if column.isprintable() else ascii(column)[1:-1])[:NAME_MOST]


@lru_cache(maxsize=1024)
def unknown(column: str) -> str:
    """What to say of a column that is not known."""
    small = EXTRA_PREFIX + column[len(EXTRA_PREFIX) :]
    if column.startswith(EXTRA_PREFIX.upper()) and is_extra(small):
        return f"unknown column: did you mean {shown(small)}? columns of your own begin with a small {EXTRA_PREFIX}"
    close = difflib.get_close_matches(column[:100], KNOWN_COLUMNS, n=1, cutoff=0.5)
    meant = f"did you mean {close[0]}?" if close else f"known are {', '.join(KNOWN_COLUMNS)};"
    return f"unknown column: {meant} columns of your own begin with {EXTRA_PREFIX}"


def header_problems(columns: Sequence[str], delimiter: str, line: int) -> Iterator[Problem]:
    """All that is wrong with a CSV header."""
    if remedy := _other_separator(columns, delimiter):
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


def _other_separator(columns: Sequence[str], delimiter: str) -> str:
    """What to say where the columns are separated by something else, or the line only says by what they are."""
    separator = _SEPARATOR.fullmatch(columns[0])
    if separator is not None:
        return f"this line is a spreadsheet's own: take it out, and say --delimiter '{separator[1] or delimiter}'"
    other = _delimiter_of(columns, delimiter)
    if other is None:
        return ""
    return f"the columns are not separated by {delimiter!r}: say --delimiter {_DELIMITERS[other]}"


def _nameless(number: int, count: int) -> str:
    """What to say of a column without a name."""
    if number == 1:
        return "it has no name: are these a program's row numbers (pandas: index=False)? take the column out"
    likely = "a separator at the end of the line makes one: " if number == count else ""
    return f"it has no name: {likely}take the column out of all lines, or give it a name with {EXTRA_PREFIX}"


def _delimiter_of(columns: Sequence[str], delimiter: str) -> str | None:
    """The delimiter that would make a header of these columns, None where the one in use does as well."""
    if any(column in columns for column in REQUIRED):
        return None
    text = delimiter.join(columns)
    for other in _DELIMITERS:
        cells = [cell.strip(" \"'") for cell in text.split(other)]
        if other != delimiter and any(column in cells for column in REQUIRED):
            return other
    return None
