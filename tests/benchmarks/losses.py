"""Where the slots' time went that no job ran in: what a makespan above the bound is made of."""

from collections import Counter, defaultdict
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

from tests.benchmarks.corpus import Recording
from tests.benchmarks.judging import begin_of
from uploader.sandbox import Journal
from uploader.sandbox.entries import PutBegun


@dataclass(frozen=True, slots=True)
class Losses:
    """Shares of all the slots' time, from the begin to the last end, in which no job ran.

    ``start``: free, before the first upload. ``upload``: free, or taken by an upload, while a conversation's upload was
    under way. ``behind``: taken by a job that waited behind another one of its conversation. ``late``: free, while a
    conversation could have gone on. ``lack``: free, with no conversation that could go on.
    """

    start: float
    upload: float
    behind: float
    late: float
    lack: float

    def __str__(self) -> str:
        """As the remarks show it."""
        shares = (
            ("start", self.start),
            ("uploads", self.upload),
            ("jobs behind jobs", self.behind),
            ("late notice or claim", self.late),
            ("no conversation free", self.lack),
        )
        return ", ".join(f"{name} {share:.1%}" for name, share in shares if share >= 0.0005) or "nothing"


@dataclass(frozen=True, slots=True)
class _Step:
    """What changes at a time, in a conversation: uploads under way, and live jobs."""

    at: float
    conversation: str
    uploads: int
    jobs: int


def losses(journal: Journal, corpus: Sequence[Recording], limit: int) -> Losses:
    """Go through a journal, step by step; the slots of other clients are counted as taken by jobs."""
    begin = begin_of(journal, {one.conversation for one in corpus})
    steps = [replace(step, at=max(step.at, begin)) for step in sorted(_steps(journal), key=lambda step: step.at)]
    left = Counter(one.conversation for one in corpus)
    uploads, jobs = Counter[str](), Counter[str]()
    lost: defaultdict[str, float] = defaultdict(float)
    for step, following in pairwise([_Step(begin, "", 0, 0), *steps]):
        if step.conversation:
            uploads[step.conversation] += step.uploads
            jobs[step.conversation] += step.jobs
            left[step.conversation] -= step.uploads == 1
        seconds = following.at - step.at
        lost["behind"] += seconds * sum(max(0, live - 1) for live in jobs.values())
        free = limit - sum(jobs.values())
        # a lane's body that is on its way while its predecessor's job runs keeps no slot waiting
        on_the_way = min(free, sum(uploads[name] > 0 and not jobs[name] for name in uploads))
        ready = min(free - on_the_way, _ready(left, uploads, jobs))
        lost["upload"] += seconds * on_the_way
        lost["late" if step.conversation else "start"] += seconds * ready
        lost["lack"] += seconds * (free - on_the_way - ready)
    whole = limit * (steps[-1].at - begin) if steps else 1.0
    return Losses(*(lost[name] / whole for name in ("start", "upload", "behind", "late", "lack")))


def _ready(left: Counter[str], uploads: Counter[str], jobs: Counter[str]) -> int:
    """How many conversations could go on."""
    return sum(files > 0 and not uploads[name] and not jobs[name] for name, files in left.items())


def _steps(journal: Journal) -> Iterator[_Step]:
    appended = {put.number: put for put in journal.appended()}
    for entry in journal.entries:
        if isinstance(entry, PutBegun) and entry.number in appended:
            yield _Step(entry.at, entry.conversation_id, 1, 0)
    for put in appended.values():
        yield _Step(put.at, put.conversation_id, -1, 1)
    known: Collection[str | None] = {put.job_id for put in appended.values()}
    for job in journal.jobs():
        if job.event == "job-ended" and job.job_id in known:
            yield _Step(job.at, job.conversation_id, 0, -1)
