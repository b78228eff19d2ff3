"""`uploader manifest FOLDER`: writes a manifest of a folder of recordings."""

import os
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from io import StringIO
from pathlib import Path
from typing import Any

from uploader import audio, results
from uploader.cli.printing import print_json, print_lines
from uploader.errors import ExitCode, UsageError
from uploader.manifest import Format, format_of
from uploader.manifest.folder import LeftOut, Listed, Reason, list_folder
from uploader.manifest.pattern import PathPattern
from uploader.manifest.rules import RowRules
from uploader.run.findings import Findings
from uploader.run.preparing import config_parameters
from uploader.settings import Settings
from uploader.status.formatting import format_bytes, format_count

# how many of the files that were left out for one reason are named
NAMED = 5


@dataclass(slots=True)
class ManifestReport:
    """The counts of a new manifest, and all that was left out."""

    rows: int = 0
    size: int = 0
    conversations: set[str] = field(default_factory=set)
    left_out: dict[tuple[Reason, str], list[str]] = field(default_factory=dict)
    warnings: Findings = field(default_factory=lambda: Findings(folded=True))

    def add(self, found: Listed | LeftOut) -> None:
        """Count a row, or a file that was left out."""
        if isinstance(found, LeftOut):
            self.left_out.setdefault((found.reason, found.remedy), []).append(found.path)
            return
        self.rows += 1
        self.size += found.row.signature.size if found.row.signature is not None else 0
        self.conversations.add(found.row.conversation_id)
        self.warnings.add(found.row.warnings)

    @property
    def exit_code(self) -> ExitCode:
        """0, or 1 where a recording is missing in the manifest."""
        is_whole = all(reason.is_harmless for reason, _ in self.left_out)
        return ExitCode.DONE if is_whole else ExitCode.NEEDS_PERSON

    def as_json(self, target: Path | None) -> dict[str, Any]:
        """Return the report as JSON."""
        return {
            "exitCode": int(self.exit_code),
            "manifest": None if target is None else str(target),
            "rows": self.rows,
            "conversations": len(self.conversations),
            "bytes": self.size,
            "leftOut": [
                {"reason": reason.name.lower(), "remedy": remedy, "files": len(paths), "paths": paths}
                for (reason, remedy), paths in self.left_out.items()
            ],
            "warnings": self.warnings.count,
        }

    def as_lines(self, target: Path | None) -> Iterator[str]:
        """Format the report as text."""
        name = "standard output" if target is None else str(target)
        conversations = format_count(len(self.conversations), "conversation")
        yield f"{name}: {format_count(self.rows, 'recording')} of {conversations}, {format_bytes(self.size)}"
        yield from self.left_out_lines()
        if self.warnings.count:
            yield f"  {format_count(self.warnings.count, 'warning')}:"
            yield from self.warnings.table()

    def left_out_lines(self) -> Iterator[str]:
        """Format what was left out, with the remedies; the harmless last."""
        for (_, remedy), paths in sorted(self.left_out.items(), key=lambda group: group[0][0].is_harmless):
            yield f"  left out: {format_count(len(paths), 'file')}: {remedy}"
            yield from (f"    {path}" for path in paths[:NAMED])
            if len(paths) > NAMED:
                yield f"    and {len(paths) - NAMED} more"


@dataclass(frozen=True, slots=True)
class Listing:
    """The options of `uploader manifest`."""

    folder: Path
    # None: standard output
    target: Path | None = None
    replaces: bool = False
    follow_links: bool = False
    as_json: bool = False


def write_folder_manifest(settings: Settings, listing: Listing) -> ExitCode:
    """Write a manifest of the recordings in a folder, and report what was left out."""
    if not listing.folder.is_dir():
        raise UsageError(f"folder {listing.folder}: this is no folder: name the one that has the recordings")
    form = _check_target(settings, listing)
    pattern = PathPattern(settings.pattern)
    base, prefix = _place(settings, listing)
    rules = RowRules(
        base,
        settings.audio_root is not None,
        lambda *_: False,
        defaults=config_parameters(settings),
        summary_is_served=settings.summary_is_served,
        examine=audio.examine,
    )
    report, rows = ManifestReport(), []
    # a manifest that is replaced stands in the folder, perhaps
    without = None if listing.target is None else listing.target.absolute()
    for found in list_folder(
        listing.folder, pattern, rules, prefix, follow_links=listing.follow_links, without=without
    ):
        report.add(found)
        if isinstance(found, Listed):
            rows.append({**found.cells, **(found.row.parameters if form == "jsonl" else {})})
    if not rows:
        wrong = (
            f"folder {listing.folder}: no recording in it matches the pattern {settings.pattern!r}: correct the "
            "pattern, or name another folder; nothing was written"
        )
        raise UsageError("\n".join([wrong, *report.left_out_lines()]))
    _write(listing, rows, form, settings.delimiter)
    _show(report, listing)
    return report.exit_code


def _check_target(settings: Settings, listing: Listing) -> Format:
    """Return the manifest's format; raise where it must not be written there."""
    target = listing.target
    if target is None:
        return settings.format or "csv"
    if target.exists() and not (listing.replaces and target.is_file()):
        raise UsageError(f"manifest {target}: it exists: name a new file, or say --replace")
    if not target.parent.is_dir():
        raise UsageError(f"manifest {target}: its folder {target.parent} does not exist: make it or name another")
    if target.suffix.lower() == ".gz":
        raise UsageError(f"manifest {target}: it is written unpacked: end its name with .csv or .jsonl")
    return settings.format or format_of(target)


def _place(settings: Settings, listing: Listing) -> tuple[Path, str]:
    """Return the folder where a run starts relative paths, and what stands before each path in the manifest.

    Paths are relative where the recordings lie below that folder, else absolute.
    """
    base = settings.audio_root or (Path() if listing.target is None else listing.target.parent)
    folder, above = (os.path.abspath(path) for path in (listing.folder, base))  # noqa: PTH100 - links and all
    if folder == above:
        return base, ""
    if Path(folder).is_relative_to(above):
        return base, f"{Path(folder).relative_to(above)}/"
    if settings.audio_root is not None:
        raise UsageError(f"folder {listing.folder}: it lies outside the audio root {base}: name one inside")
    return base, f"{folder}/"


def _write(listing: Listing, rows: Sequence[dict[str, Any]], form: Format, delimiter: str) -> None:
    if listing.target is not None:
        results.write_manifest(listing.target, rows, form, delimiter)
    elif sys.stdout.isatty():
        shown = StringIO()
        results.write_rows(shown, rows, form, delimiter)
        print_lines(shown.getvalue().splitlines())  # a file's name may hold what a terminal obeys
    else:
        results.write_rows(sys.stdout, rows, form, delimiter)


def _show(report: ManifestReport, listing: Listing) -> None:
    """Show the report: on standard error where the manifest goes to standard output."""
    is_aside = listing.target is None
    if listing.as_json:
        print_json(report.as_json(listing.target), is_aside=is_aside)
    else:
        print_lines(report.as_lines(listing.target), is_aside=is_aside)
