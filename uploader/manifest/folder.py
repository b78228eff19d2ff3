"""Finds the recordings of a folder, and makes a manifest's rows of them."""

import os
import re
from collections.abc import Iterator, Mapping
from enum import Enum
from pathlib import Path, PurePath
from typing import Any, NamedTuple

from uploader import audio
from uploader.manifest.formats import RawRow
from uploader.manifest.pattern import PathPattern
from uploader.manifest.rules import RowRules
from uploader.model import ENDINGS, AudioFormat, InvalidRow, Row
from uploader.text import storable

_NUMBER = re.compile("([0-9]+)")
# a manifest's first row, below the header
FIRST_LINE = 2


class Reason(Enum):
    """The reasons why a file is not in the manifest; a value is the remedy for people."""

    OTHER = "no recording, by its content and its name"
    HIDDEN = "hidden files and folders are left out: rename it if it is a recording"
    LINK = "a symbolic link, which is not followed: say --follow-links, or put the file there"
    NAME = "its name is not UTF-8, which a manifest cannot hold: rename it"
    PATTERN = "a recording whose path does not match the pattern: move it, or correct the pattern"
    CASE = "a recording whose path matches the pattern but for small and capital letters: write them alike"
    TEXT = "it holds text and no audio: was an error page saved in its place? get the recording again"
    FOLDER = "the folder cannot be read: give leave to read it"
    LOOP = "a folder that was seen already, by a symbolic link"
    INVALID = "no valid row"

    @property
    def is_harmless(self) -> bool:
        """True where nothing is missing in the manifest."""
        return self in (Reason.OTHER, Reason.HIDDEN, Reason.LOOP)


class LeftOut(NamedTuple):
    """A file, or a folder, that is not in the manifest."""

    # relative to the folder
    path: str
    reason: Reason
    remedy: str


class Listed(NamedTuple):
    """A row of the new manifest: its cells, and the row as a run reads it."""

    cells: Mapping[str, str]
    row: Row


class _Entry(NamedTuple):
    path: str
    # why it is left out, as far as its name and kind tell
    reason: Reason | None = None


def natural_key(path: str) -> list[Any]:
    """Return a key that sorts paths as people count: part 2 before part 10; letters whatever their case."""
    names = [
        [int(part) if number % 2 else part.casefold() for number, part in enumerate(_NUMBER.split(name))]
        for name in path.split("/")
    ]
    return [names, path]


def list_folder(
    folder: Path, pattern: PathPattern, rules: RowRules, prefix: str, *, follow_links: bool, without: Path | None = None
) -> Iterator[Listed | LeftOut]:
    """Yield a row for each recording below a folder, in natural order, and all that is left out.

    Args:
        pattern: The pattern of the recordings' paths.
        rules: The rules that a run checks each row by.
        prefix: Put before each path, so that a run finds the file.
        follow_links: Follow symbolic links.
        without: A file to pass over, such as the manifest itself.
    """
    entries = sorted(_walk(folder, "", {_identity(folder)}, follow_links=follow_links), key=_by_name)
    line = FIRST_LINE
    for path, reason in entries:
        if without is not None and reason is None and (folder / path).absolute() == without:
            continue
        columns = reason or _judge(folder, path, pattern)
        if isinstance(columns, Reason):
            yield LeftOut(path, columns, columns.value)
            continue
        found = _check(line, path, {**columns, "audioPath": prefix + path}, rules)
        line += isinstance(found, Listed)
        yield found


def _by_name(entry: _Entry) -> list[Any]:
    return natural_key(entry.path)


def _walk(folder: Path, prefix: str, seen: set[Any], *, follow_links: bool) -> Iterator[_Entry]:
    """Yield all files below a folder by their relative paths; ``seen``: the folders entered so far."""
    try:
        entries = list(os.scandir(folder))
    except OSError:
        yield _Entry(prefix.rstrip("/") or ".", Reason.FOLDER)
        return
    for entry in entries:
        path = prefix + entry.name
        reason = _reason_of_name(entry, follow_links=follow_links)
        if reason is not None or not entry.is_dir(follow_symlinks=follow_links):
            yield _Entry(path, reason)
        elif (identity := _identity(Path(entry.path))) in seen:
            yield _Entry(path, Reason.LOOP)
        else:
            seen.add(identity)
            yield from _walk(Path(entry.path), f"{path}/", seen, follow_links=follow_links)


def _reason_of_name(entry: "os.DirEntry[str]", *, follow_links: bool) -> Reason | None:
    if storable(entry.name) != entry.name:
        return Reason.NAME
    if entry.name.startswith("."):
        return Reason.HIDDEN
    return Reason.LINK if entry.is_symlink() and not follow_links else None


def _identity(folder: Path) -> tuple[int, int]:
    found = folder.stat()
    return found.st_dev, found.st_ino


def _judge(folder: Path, path: str, pattern: PathPattern) -> Mapping[str, str] | Reason:
    """Return the columns that a file's path tells; where it is no recording, or does not match, why."""
    kind = audio.probe(folder / path).format
    has_ending = PurePath(path).suffix.lower() in ENDINGS
    if kind is AudioFormat.TEXT and has_ending:
        return Reason.TEXT
    if kind in (None, AudioFormat.TEXT) and not has_ending:
        return Reason.OTHER
    columns = pattern.match(path)
    if columns is not None:
        return columns
    return Reason.CASE if pattern.matches_in_any_case(path) else Reason.PATTERN


def _check(line: int, path: str, cells: Mapping[str, str], rules: RowRules) -> Listed | LeftOut:
    row = rules.check(RawRow(line, cells, is_text=True))
    if isinstance(row, InvalidRow):
        remedies = "; ".join(f"{problem.column} {problem.value!r}: {problem.remedy}" for problem in row.problems)
        return LeftOut(path, Reason.INVALID, remedies)
    return Listed(cells, row)
