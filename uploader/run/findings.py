"""Problems and warnings of a manifest: counted, kept in bounded memory, shown as a table."""

import json
from collections.abc import Iterable, Iterator, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from itertools import chain, islice
from tempfile import SpooledTemporaryFile
from typing import IO, Any

from uploader.model import Problem

# the most findings that are shown, unless all are asked for
SHOWN = 50

# the most line numbers in a folded row of the table
_LINES_SHOWN = 3
_SPOOL_BYTES = 1024 * 1024
_VALUE_MOST = 40
_HEAD = ("line", "column", "value", "remedy")


@dataclass(slots=True)
class _Same:
    """Equal findings of several rows: their count and the first of them."""

    count: int = 0
    first: list[Problem] = field(default_factory=list)

    def add(self, problem: Problem) -> None:
        self.count += 1
        if len(self.first) < _LINES_SHOWN:
            self.first.append(problem)

    def cells(self) -> tuple[str, str, str, str]:
        line, column, value, remedy = _cells(self.first[0])
        if self.count > 1:
            more = ", …" if self.count > len(self.first) else ""
            line = f"{self.count} rows ({', '.join(str(problem.line) for problem in self.first)}{more})"
        return line, column, value, remedy


@dataclass(slots=True)
class Kind:
    """The number of rows with one kind of finding, and the first of their lines."""

    line: int
    count: int = 0


@dataclass(slots=True)
class Findings:
    """Problems or warnings in the order found: all are counted, the first are kept.

    ``spool``, a temporary file, keeps the others where all are to be shown. ``folded``: equal findings of several rows
    are shown once, unless all are to be shown.
    """

    count: int = 0
    first: list[Problem] = field(default_factory=list)
    spool: IO[str] | None = None
    folded: bool = False
    # the first kinds by (column, remedy), whatever the value; only where ``folded``
    kinds: dict[tuple[str, str], Kind] = field(default_factory=dict)
    _same: dict[tuple[str, str, str], _Same] = field(default_factory=dict)

    def add(self, found: Iterable[Problem]) -> None:
        """Count findings, and keep the first of them."""
        for problem in found:
            self.count += 1
            said = (problem.column, problem.value, problem.remedy)
            if self.folded and (said in self._same or len(self._same) < SHOWN):
                self._same.setdefault(said, _Same()).add(problem)
            kind = (problem.column, problem.remedy)
            if self.folded and (kind in self.kinds or len(self.kinds) < SHOWN):
                self.kinds.setdefault(kind, Kind(problem.line)).count += 1
            if len(self.first) < SHOWN:
                self.first.append(problem)
            elif self.spool is not None:
                self.spool.write(json.dumps([problem.line, problem.column, problem.value, problem.remedy]) + "\n")

    def __iter__(self) -> Iterator[Problem]:
        """Iterate over the kept findings in the order found."""
        yield from self.first
        if self.spool is not None:
            self.spool.seek(0)
            for text in self.spool:
                yield Problem(*json.loads(text))

    def table(self, indent: str = "  ") -> Iterator[str]:
        """Format the kept findings as a table of aligned columns, with the number of those left out."""
        if not self.count:
            return
        rows, shown = self._table_rows()
        first = list(islice(rows, SHOWN))
        widths = [max(len(row[place]) for row in [_HEAD, *first]) for place in range(len(_HEAD) - 1)]
        for cells in chain([_HEAD], first, rows):
            padded = [cell.ljust(width) for cell, width in zip(cells, widths, strict=False)]
            yield (indent + "  ".join([*padded, cells[-1]])).rstrip()
        if shown < self.count:
            yield f"{indent}… and {self.count - shown} more (`uploader plan --all` shows all)"

    def _table_rows(self) -> tuple[Iterator[tuple[str, str, str, str]], int]:
        """Return the table's rows, and the number of findings that they stand for."""
        if self.spool is not None:
            return map(_cells, iter(self)), self.count
        if self.folded:
            return (kind.cells() for kind in self._same.values()), sum(kind.count for kind in self._same.values())
        return map(_cells, self.first), len(self.first)


def spooled() -> AbstractContextManager[IO[str]]:
    """Open a temporary file for findings, in memory until it is large."""
    return SpooledTemporaryFile(_SPOOL_BYTES, mode="w+", encoding="utf-8")


def json_lines(report: Mapping[str, Any], lists: Mapping[str, Iterable[Problem]]) -> Iterator[str]:
    """Yield a JSON object in pieces, ``lists`` entry by entry, so that no list is held in memory."""
    yield json.dumps(report)[:-1]
    for name, found in lists.items():
        yield f", {json.dumps(name)}: ["
        for number, problem in enumerate(found):
            yield (", " if number else "") + json.dumps(problem._asdict())
        yield "]"
    yield "}\n"


def _cells(problem: Problem) -> tuple[str, str, str, str]:
    value = ascii(problem.value) if not problem.value.isprintable() else repr(problem.value)
    shown = "" if not problem.value else value if len(value) <= _VALUE_MOST else value[: _VALUE_MOST - 1] + "…"
    return str(problem.line), problem.column, shown, problem.remedy
