"""Reads a whole manifest: parses its file row by row and checks each row."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from uploader.audio import RemoteFiles
from uploader.errors import UsageError
from uploader.manifest.ahead import read_ahead
from uploader.manifest.files import Format, lines
from uploader.manifest.formats import HeaderError, RawRow, read_csv, read_jsonl
from uploader.manifest.rules import Examine, RowRules, WasBegun
from uploader.model import InvalidRow, Row

__all__ = ["HeaderError", "Manifest"]


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
    # the ``x-`` columns seen so far, in order
    extra_columns: dict[str, None] = field(default_factory=dict)

    def read(self) -> Iterator[Row | InvalidRow]:
        """Yield the checked rows in order.

        Raises:
            HeaderError: The header of CSV is wrong.
            UsageError: The file cannot be read at all.
        """
        rows = 0
        with RemoteFiles() as remote:
            rules = self._rules(remote)
            raw_rows = self._raw_rows()
            if self.examine and self.check_files:
                raw_rows = read_ahead(raw_rows, rules.warm, rules.begin_remote)
            for raw in raw_rows:
                rows += 1
                row = rules.check(raw)
                if row.extras:
                    self.extra_columns.update(dict.fromkeys(row.extras))
                yield row
        if not rows:
            raise UsageError(f"manifest {self.name}: it has no rows: write one per audio file")

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
        )

    def _raw_rows(self) -> Iterator[RawRow]:
        found = lines(self.path, self.name)
        return read_csv(found, self.name, self.delimiter) if self.format == "csv" else read_jsonl(found, self.name)
