"""The journal of everything that reached the sandbox, in memory and on request in a file."""

import time
from collections.abc import Callable
from pathlib import Path
from typing import TextIO

from uploader.errors import UsageError
from uploader.sandbox.entries import (
    CallEntry,
    ConversationEntry,
    Entry,
    JobEntry,
    PollEntry,
    PutBegun,
    PutEntry,
    PutRest,
    from_json,
    to_json,
)


class Journal:
    """The entries in order; the judge of a client's behaviour.

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
        """Read a journal's file, without a line that is still being written."""
        journal = cls()
        whole = path.read_text(encoding="utf-8").rpartition("\n")[0]
        journal.entries = [from_json(line) for line in whole.split("\n") if line]
        return journal

    def now(self) -> float:
        """Return the seconds since the sandbox started."""
        return self._clock() - self._started

    def add(self, entry: Entry) -> None:
        """Append an entry, and write it to the file before returning."""
        self.entries.append(entry)
        if self._file is not None:
            # One write a line: a reader beside us, or after us, finds whole lines alone.
            self._file.write(to_json(entry) + "\n")

    def close(self) -> None:
        """Close the file; the entries in memory stay readable."""
        if self._file is not None:
            self._file.close()
            self._file = None

    def puts(self) -> list[PutEntry]:
        """List the finished PUTs in the order of their ends."""
        return [entry for entry in self.entries if isinstance(entry, PutEntry)]

    def begun_puts(self) -> list[PutBegun]:
        """List the PUTs whose head arrived, in that order."""
        return [entry for entry in self.entries if isinstance(entry, PutBegun)]

    def appended(self) -> list[PutEntry]:
        """List the PUTs that made a job, whatever their answer, in the order of their jobs."""
        return [entry for entry in self.puts() if entry.job_id is not None]

    def bytes_in_vain(self) -> int:
        """Count the bytes of bodies that were received and not appended."""
        rests = sum(entry.bytes for entry in self.entries if isinstance(entry, PutRest))
        return rests + sum(put.bytes for put in self.puts() if put.job_id is None)

    def jobs(self) -> list[JobEntry]:
        """List the starts and ends of jobs in order."""
        return [entry for entry in self.entries if isinstance(entry, JobEntry)]

    def polls(self, job_id: str) -> list[PollEntry]:
        """List the polls of one job in order."""
        return [entry for entry in self.entries if isinstance(entry, PollEntry) and entry.job_id == job_id]

    def calls(self, job_id: str | None = None) -> list[CallEntry]:
        """List the callbacks, of one job or of all, in the order of the answers."""
        calls = [entry for entry in self.entries if isinstance(entry, CallEntry)]
        return [entry for entry in calls if job_id in (None, entry.job_id)]

    def looks(self) -> list[ConversationEntry]:
        """List the requests for conversations in order."""
        return [entry for entry in self.entries if isinstance(entry, ConversationEntry)]

    def peak_live(self) -> int:
        """Return the most slots that were ever taken at once."""
        return max((entry.live for entry in self.entries if isinstance(entry, PutBegun | JobEntry)), default=0)


def _open(path: Path) -> TextIO:
    try:
        return path.open("a", encoding="utf-8", buffering=1)
    except OSError as error:
        raise UsageError(f"journal {path} cannot be written ({error}): name a file in a folder of yours") from error
