"""Idle time of a slot between two of its jobs, while a lane could have gone on: counted from the server's journal."""

from collections import Counter, deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from tests.benchmarks.corpus import Recording
from uploader.sandbox import Journal
from uploader.sandbox.entries import PutBegun


@dataclass
class _Slots:
    """The account's slots as time goes by, those that are free in the order in which they became so."""

    never_used: int
    left: Counter[str]
    live: Counter[str] = field(default_factory=Counter)
    free: deque[float] = field(default_factory=deque)
    """The idle seconds of each free slot that had a job before."""
    handed_over: list[float] = field(default_factory=list)
    """Idle seconds of each slot when its next job began."""

    def pass_time(self, seconds: float) -> None:
        """Let slots idle: as many as there are lanes that could go on, those first that are free the longest."""
        ready = sum(files > 0 and not self.live[lane] for lane, files in self.left.items())
        for place in range(min(len(self.free), max(0, ready - self.never_used))):
            self.free[place] += seconds

    def begin(self, lane: str) -> None:
        """Give a job the slot that is free the longest."""
        self.left[lane] -= 1
        self.live[lane] += 1
        if self.never_used:
            self.never_used -= 1
        elif self.free:
            self.handed_over.append(self.free.popleft())

    def end(self, lane: str) -> None:
        """Free a job's slot."""
        self.live[lane] -= 1
        self.free.append(0.0)


def idle_seconds(journal: Journal, corpus: Sequence[Recording], limit: int, *, counts_uploads: bool = False) -> float:
    """Return the mean idle seconds of a slot between a job's end and the next job in it, 0 where no slot had two.

    Slots are matched as intervals: a job takes the one that is free the longest, a slot that had none first. A slot
    idles only while there is a lane for it: one that has files left and no live job.

    Args:
        journal: The server's.
        corpus: What was appended.
        limit: The account's slots.
        counts_uploads: A slot is taken with the head of an upload, not with its job's begin.
    """
    # Each conversation that goes on has one slot: of more slots than lanes the rest is never used.
    left = Counter(one.conversation for one in corpus)
    slots = _Slots(min(limit, len(left)), left)
    now = 0.0
    for at, is_begin, lane in sorted(_events(journal, counts_uploads=counts_uploads)):
        slots.pass_time(at - now)
        now = at
        if is_begin:
            slots.begin(lane)
        else:
            slots.end(lane)
    return sum(slots.handed_over) / max(1, len(slots.handed_over))


def _events(journal: Journal, *, counts_uploads: bool) -> Iterator[tuple[float, bool, str]]:
    """Yield when slots are taken and freed, and by which lane; ends come before begins of the same moment."""
    appended = {put.number for put in journal.appended()}
    for job in journal.jobs():
        if job.event == "job-ended":
            yield job.at, False, job.conversation_id
        elif not counts_uploads:
            yield job.at, True, job.conversation_id
    for entry in journal.entries:
        if counts_uploads and isinstance(entry, PutBegun) and entry.number in appended:
            yield entry.at, True, entry.conversation_id
