"""Keeps what reached the sandbox, in order, in memory and on request in a file."""

import time
from collections.abc import Callable
from pathlib import Path
from typing import TextIO

from uploader.errors import UsageError
from uploader.sandbox.entries import (
    CallEntry,
    Entry,
    JobEntry,
    LookEntry,
    PollEntry,
    PutBegun,
    PutEntry,
    PutRest,
    from_json,
    to_json,
)


class Journal:
    """What happened, one entry a thing; the judge of what a client did.

    Raises:
        UsageError: The file cannot be opened for appending.
    """

    def __init__(self, path: Path | None = None, clock: Callable[[], float] = time.monotonic) -> None:
        self.entries: list[Entry] = []
        self._clock = clock
        self._started = clock()
        self._file = _open(path) if path else None

    @classmethod
    def read(cls, path: Path) -> "Journal":
        """The journal that a file holds; a line that is still being written is left out."""
        journal = cls()
        whole = path.read_text(encoding="utf-8").rpartition("\n")[0]
        journal.entries = [from_json(line) for line in whole.split("\n") if line]
        return journal

    def now(self) -> float:
        """Seconds since the sandbox started."""
        return self._clock() - self._started

    def add(self, entry: Entry) -> None:
        """Appends an entry, which has reached the file when this returns."""
        self.entries.append(entry)
        if self._file is not None:
            # One write a line: a reader beside us, or after us, finds whole lines alone.
            self._file.write(to_json(entry) + "\n")

    def close(self) -> None:
        """Closes the file; what is in memory stays readable."""
        if self._file is not None:
            self._file.close()
            self._file = None

    def puts(self) -> list[PutEntry]:
        """The PUTs that are over, in the order of their ends."""
        return [entry for entry in self.entries if isinstance(entry, PutEntry)]

    def begun_puts(self) -> list[PutBegun]:
        """The PUTs whose head arrived, in that order."""
        return [entry for entry in self.entries if isinstance(entry, PutBegun)]

    def appended(self) -> list[PutEntry]:
        """The PUTs that made a job, whatever they were answered, in the order of their jobs."""
        return [entry for entry in self.puts() if entry.job_id is not None]

    def bytes_in_vain(self) -> int:
        """The bytes of bodies that came and were not appended."""
        rests = sum(entry.bytes for entry in self.entries if isinstance(entry, PutRest))
        return rests + sum(put.bytes for put in self.puts() if put.job_id is None)

    def jobs(self) -> list[JobEntry]:
        """The beginnings and ends of jobs, in order."""
        return [entry for entry in self.entries if isinstance(entry, JobEntry)]

    def polls(self, job_id: str) -> list[PollEntry]:
        """The polls of one job, in order."""
        return [entry for entry in self.entries if isinstance(entry, PollEntry) and entry.job_id == job_id]

    def calls(self, job_id: str | None = None) -> list[CallEntry]:
        """What webhookUrls were told, of one job or of all, in the order of the answers."""
        calls = [entry for entry in self.entries if isinstance(entry, CallEntry)]
        return [entry for entry in calls if job_id in (None, entry.job_id)]

    def looks(self) -> list[LookEntry]:
        """What was asked of conversations, in order."""
        return [entry for entry in self.entries if isinstance(entry, LookEntry)]

    def peak_live(self) -> int:
        """The most slots that were ever taken at once."""
        return max((entry.live for entry in self.entries if isinstance(entry, PutBegun | JobEntry)), default=0)


def _open(path: Path) -> TextIO:
    try:
        return path.open("a", encoding="utf-8", buffering=1)
    except OSError as error:
        raise UsageError(f"journal {path} cannot be written ({error}): name a file in a folder of yours") from error
