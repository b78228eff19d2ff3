"""The inbox: which files in it are whole manifests, and where each goes once it is taken, done or failed."""

import fcntl
import filecmp
import os
import stat
import time
from itertools import chain
from pathlib import Path
from types import TracebackType
from typing import NamedTuple, Self

from uploader import results
from uploader.errors import FolderBusyError, UsageError
from uploader.manifest import ENDINGS, SPREADSHEETS

RUNNING, DONE, FAILED = "running", "done", "failed"
LOCK = ".uploader.lock"
# the end of the name of the text beside a manifest that failed
ERROR = ".error.txt"
# a longer name, in bytes, leaves no room for those of its results and its text
LONGEST_NAME = 240
# a workbook is refused, with words, in place of lying there
MANIFESTS = (*ENDINGS, *SPREADSHEETS)
# the endings of files that a program is still writing
TEMPORARY = (".tmp", ".temp", ".part", ".partial", ".crdownload", ".filepart", ".swp", "~")


class _Look(NamedTuple):
    """A file as it was at a look: what a writer changes, and since when nothing of it has changed."""

    signature: tuple[int, int, int]
    since: float


class Inbox:
    """A folder that people and programs drop manifests into; held by one process.

    Args:
        folder: The inbox.
        settle_seconds: The time for which a file has to be unchanged before it counts as whole.
    """

    def __init__(self, folder: Path, settle_seconds: float) -> None:
        self.folder = folder
        self._settle_seconds = settle_seconds
        self._seen: dict[str, _Look] = {}
        # entries that are passed over for good, by name
        self.passed_over: set[str] = set()
        self._lock: int | None = None

    def __enter__(self) -> Self:
        """Make the folders, and hold the inbox.

        Raises:
            UsageError: The inbox is no folder that can be written.
            FolderBusyError: Another process holds it.
        """
        if not self.folder.is_dir():
            raise UsageError(f"inbox {self.folder}: this is no folder: name one, or make it")
        try:
            for name in (RUNNING, DONE, FAILED):
                place = self.folder / name
                place.mkdir(exist_ok=True)
                if not stat.S_ISDIR(place.lstat().st_mode):
                    raise UsageError(f"inbox {place}: this is no folder of its own: move it away")
            self._lock = os.open(self.folder / LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        except OSError as error:
            raise UsageError(f"inbox {self.folder}: {error.strerror}: name a folder that can be written to") from error
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            os.close(self._lock)
            raise FolderBusyError(f"inbox {self.folder}: another `uploader serve` watches it: name another") from error
        self._sweep()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Let go of the inbox."""
        if self._lock is not None:
            os.close(self._lock)

    def _sweep(self) -> None:
        """Remove unfinished files of a process that was killed."""
        for unfinished in chain((self.folder / RUNNING).glob(".*"), (self.folder / FAILED).glob(f".*{ERROR}.*")):
            unfinished.unlink(missing_ok=True)

    def taken(self) -> list[Path]:
        """List the manifests that were taken and are not over, as a process left them that died, the oldest first."""
        found = [path for path in (self.folder / RUNNING).iterdir() if _is_wanted(path.name)]
        return sorted(found, key=lambda path: (path.lstat().st_mtime, path.name))

    def take(self) -> Path | None:
        """Move the oldest manifest that is whole to those that are taken; None where there is none."""
        for name in self._whole():
            place = self.folder / RUNNING / name
            if not place.exists():  # else the one before it of that name goes first
                (self.folder / name).rename(place)
                return place
        return None

    def place(self, taken: Path, *, is_done: bool) -> Path:
        """Return the place of a manifest that is over.

        The same manifest once more takes the place of the one before; another one of its name gets a number.
        """
        filecmp.clear_cache()  # it knows files by size and time alone
        place = free = self.folder / (DONE if is_done else FAILED) / taken.name
        number = 1
        while free.exists() and not filecmp.cmp(free, taken, shallow=False):
            number += 1
            stem, dot, ending = place.name.partition(".")
            free = place.with_name(f"{stem}.{number}{dot}{ending}")
        return free

    def finish(self, taken: Path, place: Path, failure: str | None = None) -> None:
        """Move a manifest that is over to its place, with its results, and with the text of a failure beside it.

        The manifest goes last: where it stands, all else does.
        """
        found = results_of(taken)
        if found.exists():
            found.rename(results_of(place))
        if failure is None:
            self._forget_failure(taken.name)
        else:
            results.write_text(place.with_name(f"{place.name}{ERROR}"), failure)
        taken.rename(place)

    def _forget_failure(self, name: str) -> None:
        """Remove what stands in ``failed/`` of a manifest that was moved back from there, and is done by now."""
        failed = self.folder / FAILED / name
        if not failed.exists():
            failed.with_name(f"{name}{ERROR}").unlink(missing_ok=True)
            results_of(failed).unlink(missing_ok=True)

    def _whole(self) -> list[str]:
        found = []
        with os.scandir(self.folder) as entries:
            there = {entry.name: entry for entry in entries if _is_wanted(entry.name)}
        self._seen = {name: look for name, look in self._seen.items() if name in there}
        for name, entry in there.items():
            try:
                status = entry.stat(follow_symlinks=False)
            except FileNotFoundError:
                continue  # taken back since the look
            # a link may lead anywhere, and whatever else is no file has no end
            if not stat.S_ISREG(status.st_mode) or len(os.fsencode(name)) > LONGEST_NAME:
                self.passed_over.add(name)
            elif self._is_settled(name, status):
                found.append((status.st_mtime, name))
        return [name for _, name in sorted(found)]

    def _is_settled(self, name: str, status: os.stat_result) -> bool:
        """Return True where a file was not written to for long enough: by its own time, or since it was seen first."""
        signature, now = (status.st_ino, status.st_size, status.st_mtime_ns), time.monotonic()
        look = self._seen.get(name)
        if look is None or look.signature != signature:
            look = self._seen[name] = _Look(signature, now)
        # the clock of a file server may be ahead: then what was seen here counts
        age = max(time.time() - status.st_mtime, now - look.since)
        return age >= self._settle_seconds


def results_of(manifest: Path) -> Path:
    """Return the path of a manifest's results, beside it; two manifests never have the same."""
    kind = manifest.suffix.lower()
    stem = manifest.stem if kind in results.ENDINGS else manifest.name
    inner = manifest.with_suffix("") if kind == ".gz" else manifest
    return manifest.with_name(f"{stem}.results{'.csv' if inner.suffix.lower() == '.csv' else '.jsonl'}")


def _is_wanted(name: str) -> bool:
    """Return True for the name of a manifest, or of a workbook in its place, that nobody is still writing."""
    lowered = name.lower()
    inner = Path(lowered.removesuffix(".gz"))
    is_ours = inner.stem.endswith(".results")
    return not (name.startswith(".") or lowered.endswith(TEMPORARY) or is_ours) and inner.suffix in MANIFESTS
