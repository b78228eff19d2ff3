"""Reads a whole manifest: parses its file and checks the rows, many at once."""

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path
from typing import Any

from uploader.audio import RemoteFiles
from uploader.errors import UsageError
from uploader.manifest.ahead import chunks, read_ahead
from uploader.manifest.files import Format, lines
from uploader.manifest.formats import RawRow, read_csv, read_jsonl
from uploader.manifest.rules import Examine, RowRules, WasBegun
from uploader.model import InvalidRow, Problem, Row


@dataclass(frozen=True)
class Manifest:
    """A manifest's location and the rules for its rows.

    ``name`` is for messages, ``delimiter`` separates CSV cells. The other fields are those of ``RowRules``.
    """

    path: Path
    name: str
    format: Format
    folder: Path
    confined: bool
    was_begun: WasBegun
    delimiter: str = ","
    defaults: Mapping[str, Any] = field(default_factory=dict)
    summary_is_served: bool = True
    check_files: bool = True
    examine: Examine | None = None
    accounts: Collection[str] = ()
    # the ``x-`` columns seen so far, in order
    extra_columns: dict[str, None] = field(default_factory=dict)
    # the problems of a CSV header, which stand before those of the rows
    header_problems: list[Problem] = field(default_factory=list)

    def read(self) -> Iterator[Row | InvalidRow]:
        """Yield the checked rows in order; see ``read_chunks``."""
        return chain.from_iterable(self.read_chunks())

    def read_chunks(self) -> Iterator[Sequence[Row | InvalidRow]]:
        """Yield the checked rows in order, many at once.

        Raises:
            UsageError: The file cannot be read at all.
        """
        is_empty = True
        raw_rows = self._raw_rows()
        with RemoteFiles() as remote:
            rules = self._rules(remote)
            examines = self.examine is not None and self.check_files
            for raws in read_ahead(raw_rows, rules.warm) if examines else chunks(raw_rows):
                is_empty = False
                # remote audio is waited for: who takes the rows may want to stop between two of them
                for some in ([raw] for raw in raws) if rules.begin_remote(raws) else [raws]:
                    rows = rules.check_all(some)
                    self._note_columns(rows)
                    yield rows
        if is_empty and not self.header_problems:
            raise UsageError(f"manifest {self.name}: it has no rows: write one per audio file")

    def _note_columns(self, rows: Sequence[Row | InvalidRow]) -> None:
        for row in rows:
            if row.extras:
                self.extra_columns.update(dict.fromkeys(row.extras))

    def _rules(self, remote: RemoteFiles) -> RowRules:
        return RowRules(
            self.folder,
            self.confined,
            self.was_begun,
            self.defaults,
            self.summary_is_served,
            self.check_files,
            self.examine,
            remote,
            self.accounts,
        )

    def _raw_rows(self) -> Iterator[RawRow]:
        found = lines(self.path, self.name)
        if self.format == "jsonl":
            return read_jsonl(found, self.name)
        return read_csv(found, self.name, self.delimiter, self.header_problems)
