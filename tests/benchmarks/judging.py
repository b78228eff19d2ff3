"""What a client did, by the sandbox's journal: the judge of every makespan row."""

from collections import Counter, defaultdict
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from itertools import accumulate

from tests.benchmarks.corpus import Recording
from tests.benchmarks.schedule import Taken
from uploader.sandbox import Journal
from uploader.sandbox.entries import JobEntry, PollEntry, PutBegun, PutEntry, PutRest, TokenEntry

TOO_MANY_REQUESTS = 429


@dataclass(frozen=True, slots=True)
class Judged:
    """What the journal says of a client.

    ``seconds``: from its first request to the end of its last job. ``before_seconds``: until that request, from its
    command's start.
    """

    seconds: float
    before_seconds: float
    appended: int
    refusals: int
    bytes_in_vain: int
    bodies_in_vain: int
    status_requests: int
    out_of_order: int
    twice: int
    peak_live: int

    @property
    def status_requests_per_job(self) -> float:
        """How often a job was asked for, on average."""
        return self.status_requests / max(self.appended, 1)


def judge(journal: Journal, corpus: Sequence[Recording]) -> Judged:
    """What became of a corpus; what other clients sent to conversations of their own does not count.

    The first token that was given out tells when the client's command was started; its first request follows.
    """
    ours = {one.conversation for one in corpus}
    puts = [put for put in journal.puts() if put.conversation_id in ours]
    appended = [put for put in puts if put.job_id is not None]
    return Judged(
        seconds=_last_end(journal, ours) - begin_of(journal, ours),
        before_seconds=begin_of(journal, ours) - _start(journal),
        appended=len({(put.conversation_id, put.sha256) for put in appended}),
        refusals=sum(put.status == TOO_MANY_REQUESTS for put in puts),
        bytes_in_vain=sum(_bytes_in_vain(journal, ours).values()),
        bodies_in_vain=sum(count > 0 for count in _bytes_in_vain(journal, ours).values()),
        status_requests=_status_requests(journal, {put.job_id for put in appended}),
        out_of_order=_out_of_order(appended, corpus),
        twice=len(appended) - len({(put.conversation_id, put.sha256) for put in appended}),
        peak_live=journal.peak_live(),
    )


def taken_by_others(journal: Journal, corpus: Sequence[Recording]) -> Taken:
    """How many slots were held for conversations that are not the corpus's, from when on, since the begin."""
    ours = {one.conversation for one in corpus}
    begin = begin_of(journal, ours)
    heads = {entry.number: entry.at for entry in journal.entries if isinstance(entry, PutBegun)}
    ends = {job.job_id: job.at for job in journal.jobs() if job.event == "job-ended"}
    changes: list[tuple[float, int]] = []
    for put in journal.appended():
        if put.conversation_id not in ours:
            changes.append((heads[put.number] - begin, 1))
            changes += [(ends[job] - begin, -1) for job in (put.job_id,) if job in ends]
    changes.sort()
    counts = accumulate(step for _, step in changes)
    return [(max(at, 0.0), count) for (at, _), count in zip(changes, counts, strict=True)]


def are_over(journal: Journal) -> bool:
    """Whether every job that began has ended."""
    jobs = journal.jobs()
    return sum(job.event == "job-begun" for job in jobs) == sum(job.event == "job-ended" for job in jobs)


def begin_of(journal: Journal, ours: Collection[str]) -> float:
    """When a client's first request arrived: for a token, or the first PUT to a conversation of its own."""
    tokens = [entry.at for entry in journal.entries if isinstance(entry, TokenEntry)]
    heads = (put.at for put in journal.begun_puts() if put.conversation_id in ours)
    return min([*tokens[1:2], *heads], default=tokens[0])


def _start(journal: Journal) -> float:
    return next(entry.at for entry in journal.entries if isinstance(entry, TokenEntry))


def _last_end(journal: Journal, ours: Collection[str]) -> float:
    """When the last job ended; where one has not, when the last thing happened."""
    jobs = [job for job in journal.jobs() if job.conversation_id in ours]
    over = sum(job.event == "job-begun" for job in jobs) == sum(job.event == "job-ended" for job in jobs)
    entries: Sequence[JobEntry | PutEntry] = jobs if over and jobs else [*jobs, *journal.puts()]
    return max((entry.at for entry in entries), default=begin_of(journal, ours))


def _bytes_in_vain(journal: Journal, ours: Collection[str]) -> Counter[int]:
    """Count the bytes of each PUT whose body, or a part of it, came and was not appended."""
    counts: Counter[int] = Counter()
    for entry in journal.entries:
        is_in_vain = isinstance(entry, PutRest) or (isinstance(entry, PutEntry) and entry.job_id is None)
        if isinstance(entry, PutEntry | PutRest) and is_in_vain and entry.conversation_id in ours:
            counts[entry.number] += entry.bytes
    return counts


def _status_requests(journal: Journal, jobs: Collection[str | None]) -> int:
    return sum(isinstance(entry, PollEntry) and entry.job_id in jobs for entry in journal.entries)


def _out_of_order(appended: Sequence[PutEntry], corpus: Sequence[Recording]) -> int:
    """How many files were appended after one that stands behind them in their conversation."""
    places = {(one.conversation, one.sha256): place for place, one in enumerate(corpus)}
    furthest: dict[str, int] = defaultdict(lambda: -1)
    late = 0
    for put in appended:
        place = places.get((put.conversation_id, put.sha256 or ""), -1)
        late += place < furthest[put.conversation_id]
        furthest[put.conversation_id] = max(furthest[put.conversation_id], place)
    return late
