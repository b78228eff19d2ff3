"""Says what shall go wrong, and how often."""

from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class PutFaults:
    """Shares (0 to 1) of the PUTs that passed every check; at most one of them befalls a PUT."""

    lost_answer: float = 0.0
    """The body is read and a job is made, and the connection is closed with no answer."""
    lost_before: float = 0.0
    """The body is read, no job is made, and the connection is closed with no answer."""
    cut: float = 0.0
    """The connection is closed after about half of the body; no job is made."""
    status_500: float = 0.0
    """The body is read and answered with 500; `taken` says whether a job is made nevertheless."""
    status_502: float = 0.0
    """As `status_500`, with 502."""
    status_503: float = 0.0
    """As `status_500`, with 503."""
    slow_answer: float = 0.0
    """The job is made at once, and the answer comes after `slow_seconds`."""
    throttled: float = 0.0
    """A 429 although there is room; no job is made."""
    unauthorized: float = 0.0
    """A 401 although the token is right; no job is made."""
    cut_taken: float = 0.0
    """As `cut`, and a job is made of the half: a service that breaks its word."""
    taken: float = 0.5
    """The share of the 500, 502 and 503 that made a job nevertheless; no fault of its own."""
    slow_seconds: float = 5.0
    """How long a slow answer takes, in seconds; no share."""


@dataclass(frozen=True, slots=True)
class JobFaults:
    """Shares (0 to 1) of the jobs."""

    failed: float = 0.0
    """The job ends as failed."""
    endless: float = 0.0
    """The job never ends, and so never gives its slot back."""


@dataclass(frozen=True, slots=True)
class PollFaults:
    """Shares (0 to 1) of the GETs of known jobs."""

    status_500: float = 0.0
    """Answered with 500."""
    lost_answer: float = 0.0
    """The connection is closed with no answer."""


@dataclass(frozen=True, slots=True)
class CallFaults:
    """Shares (0 to 1) of the calls to a PUT's webhookUrl; at most one of them befalls a call."""

    lost: float = 0.0
    """It is not made."""
    twice: float = 0.0
    """It is made twice."""
    late: float = 0.0
    """It is made after `late_seconds`: behind those that follow it."""
    forged: float = 0.0
    """Beside it comes one that says "failed", from somebody who guesses the address."""
    named_id: float = 0.0
    """It has the job as `id`, not as `jobId`."""
    late_seconds: float = 1.0
    """How late a late one is, in seconds; no share."""


@dataclass(frozen=True, slots=True)
class Faults:
    """What goes wrong in one sandbox; by default nothing does."""

    seed: int = 0
    """The same seed and the same PUTs bring the same faults and the same job ids."""
    early_answers: bool = False
    """Refusals are answered at once, with the body unread and the connection closed."""
    ignores_expect: bool = False
    """A client that asks leave for a body (`Expect: 100-continue`) gets none, and no refusal before its body."""
    unknown_conversations: frozenset[str] = frozenset()
    """Conversations that are answered with 404."""
    known_conversations: frozenset[str] | None = None
    """If given, every other conversation is answered with 404."""
    put: PutFaults = field(default_factory=PutFaults)
    jobs: JobFaults = field(default_factory=JobFaults)
    poll: PollFaults = field(default_factory=PollFaults)
    calls: CallFaults = field(default_factory=CallFaults)

    def knows(self, conversation: str) -> bool:
        """Whether the service has this conversation."""
        if conversation in self.unknown_conversations:
            return False
        return self.known_conversations is None or conversation in self.known_conversations
