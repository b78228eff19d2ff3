"""The world outside the process: the service with its journal, the network's faults, the disk."""

import random
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass, field
from math import inf

from blake3 import blake3

from tests.simulation.clock import Time

# cut off in the middle, and a job made of what came: a service that breaks its word
CUT_TAKEN = "cut taken"
EARLY = ("early 401", "early 404", "early 429", "early 500", "early 503", "cut", "stall")
LATE = (
    "lost",
    "lost untaken",
    "500 taken",
    "500 untaken",
    "502 taken",
    "502 untaken",
    "503 taken",
    "504 taken",
    "no jobId",
    "no jobId untaken",
    "broken json",
    "other conversation",
    "no answer",
    "401",
    "404",
    "408",
    "413",
    "429",
    "429 without X",
    "302",
)
# A 429 about the rate of requests
TOO_QUICKLY = "429 too quickly"
BEFORE = ("not connected", "no token")
ENDLESS_SECONDS = 3000.0


@dataclass(frozen=True)
class Weather:
    """The faults of a world, as shares; ``outages`` are (from, to) in the world's seconds.

    ``states_limit``: a 429 about the limit states it.
    """

    put: float = 0.0
    poll: float = 0.0
    job_failed: float = 0.0
    job_endless: float = 0.0
    foreign: float = 0.0
    outages: tuple[tuple[float, float], ...] = ()
    states_limit: bool = True
    # an upload counts as a job from its head on
    counts_uploads: bool = False
    # a gateway ends a connection on which no byte of the body comes for so long, with a 408 or without an answer
    bears_seconds: float = inf
    cuts_with_408: bool = False
    kinds: tuple[str, ...] = (*BEFORE, *EARLY, *LATE)


@dataclass
class Job:
    """A job at the service. ``ends_at``: when its slot is free."""

    job_id: str
    conversation: str
    content: str
    begun_at: float
    ends_at: float
    ending: str
    process: int


@dataclass
class Put:
    """One PUT as the service saw it."""

    number: int
    process: int
    conversation: str
    content: str
    begun_at: float
    fault: str
    received: bool = False
    # when its admission was asked for, and when its last chunk came
    asked_at: float | None = None
    received_at: float | None = None
    job_id: str | None = None
    answered: int | None = None
    # the last segment of its webhookUrl's path
    token: str = ""
    # what the client got was an answer that leaves no doubt
    trusted: bool = False
    # its last chunk went into a network that let nothing through
    is_lost: bool = False


@dataclass
class Service:
    """The service: limit, jobs, journal. ``foreign`` jobs of other programs are (from, to)."""

    time: Time
    rng: random.Random
    limit: int
    weather: Weather
    puts: list[Put] = field(default_factory=list)
    jobs: dict[str, Job] = field(default_factory=dict)
    foreign: list[tuple[float, float]] = field(default_factory=list)
    uploading: dict[int, Put] = field(default_factory=dict)
    # whom to tell of a last chunk
    last_chunk_came: Callable[[Put], None] = lambda _put: None
    # whom to tell of a job that begins
    told: Callable[[Put, Job], None] = lambda _put, _job: None
    # how long the job of a content takes, where it is not drawn
    job_seconds: dict[str, float] = field(default_factory=dict)

    def begin(self, process: int, conversation: str, content: str) -> Put:
        """Begin a PUT, whose head has arrived."""
        fault = self._draw()
        if self.weather.counts_uploads and not self.has_room(
            sum(put.job_id is None for put in self.uploading.values())
        ):
            fault = "early 429"
        put = Put(len(self.puts), process, conversation, content, self.time.now, fault)
        self.puts.append(put)
        self.uploading[put.number] = put
        return put

    def over(self, put: Put) -> None:
        """End a PUT, whose connection is closed."""
        self.uploading.pop(put.number, None)

    def has_room(self, uploads: int = 0) -> bool:
        """Return True where the account has a free slot, as the service counts."""
        now = self.time.now
        foreign = sum(begin <= now < end for begin, end in self.foreign)
        return len(self.live()) + foreign + uploads < self.limit

    def live(self) -> list[Job]:
        """Return the jobs of ours that run now."""
        return [job for job in self.jobs.values() if job.ends_at > self.time.now]

    def take(self, put: Put) -> str:
        """Append a whole body as a job, and return the jobId."""
        job_id = f"job-{len(self.jobs)}"
        running = [job for job in self.jobs.values() if job.conversation == put.conversation]
        begins = max([self.time.now, *(job.ends_at for job in running if job.ending != "endless")])
        endless = self.rng.random() < self.weather.job_endless
        # the endless one says for ever that it runs, but does not fill the account for ever
        drawn = self.rng.uniform(0.5, 40.0)
        ends = begins + (ENDLESS_SECONDS if endless else self.job_seconds.get(put.content, drawn))
        failed = self.rng.random() < self.weather.job_failed
        job = Job(
            job_id,
            put.conversation,
            put.content,
            self.time.now,
            ends,
            "endless" if endless else "failed" if failed else "completed",
            put.process,
        )
        self.jobs[job_id] = job
        put.job_id = job_id
        self.told(put, job)
        return job_id

    def is_out(self) -> bool:
        """Return True where a gateway answers 502 to everything now."""
        return any(begin <= self.time.now < end for begin, end in self.weather.outages)

    def appended(self, conversation: str, content: str) -> list[Job]:
        """Return the jobs that appended this content to this conversation."""
        return [job for job in self.jobs.values() if (job.conversation, job.content) == (conversation, content)]

    def _draw(self) -> str:
        if self.is_out():
            return self.rng.choice(["502 taken", "502 untaken"])
        if self.rng.random() < self.weather.foreign:
            self.foreign.append((self.time.now, self.time.now + self.rng.uniform(1.0, 30.0)))
        if self.rng.random() < self.weather.put:
            return self.rng.choice(self.weather.kinds)
        return ""


@dataclass
class File:
    """A file: its content, and a number that every change raises."""

    content: bytes
    change: int


class Disk:
    """The files of the world, and whether the ledger's disk takes writes."""

    def __init__(self) -> None:
        self.files: dict[str, File] = {}
        self.full_from = float("inf")
        self.full_until = float("inf")
        # conversations and contents of items whose reply came, and could not be written to the ledger
        self.unwritten: set[tuple[str, str]] = set()
        # the hashes of all that a path ever held
        self.history: defaultdict[str, set[str]] = defaultdict(set)
        self._changes = 0

    def keep_out(self, conversation: str, path: str) -> None:
        """Fill the disk, so that an outcome cannot be written."""
        self.unwritten |= {(conversation, content) for content in self.history[path]}

    def write(self, path: str, content: bytes) -> None:
        """Write a file."""
        self._changes += 1
        self.files[path] = File(content, self._changes)
        self.history[path].add(content_hash(content))

    def is_full(self, now: float) -> bool:
        """Return True where a write to the ledger fails now."""
        return self.full_from <= now < self.full_until


def content_hash(content: bytes) -> str:
    """Return the hash of a content, as the ledger has it."""
    return blake3(content).hexdigest()
