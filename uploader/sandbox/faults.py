"""The faults on request, with their shares."""

from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class PutFaults:
    """Shares (0 to 1) of the PUTs that passed every check; a PUT has one fault at most."""

    # the body is read and a job is made, and the connection is closed with no answer
    lost_answer: float = 0.0
    # the body is read, no job is made, and the connection is closed with no answer
    lost_before: float = 0.0
    # the connection is closed after about half of the body; no job is made
    cut: float = 0.0
    # the body is read and answered with 500; `taken` says whether a job is made nevertheless
    status_500: float = 0.0
    # as `status_500`, with 502
    status_502: float = 0.0
    # as `status_500`, with 503
    status_503: float = 0.0
    # the job is made at once, and the answer comes after `slow_seconds`
    slow_answer: float = 0.0
    # a 429 although there is room; no job is made
    throttled: float = 0.0
    # a 401 although the token is right; no job is made
    unauthorized: float = 0.0
    # as `cut`, and a job is made of the half: a service that breaks its word
    cut_taken: float = 0.0
    # the share of the 500, 502 and 503 that made a job nevertheless; no fault of its own
    taken: float = 0.5
    # the delay of a slow answer, in seconds; no share
    slow_seconds: float = 5.0


@dataclass(frozen=True, slots=True)
class JobFaults:
    """Shares (0 to 1) of the jobs."""

    # the job ends as failed
    failed: float = 0.0
    # the job never ends, and so never gives its slot back
    endless: float = 0.0


@dataclass(frozen=True, slots=True)
class PollFaults:
    """Shares (0 to 1) of the GETs of known jobs."""

    # answered with 500
    status_500: float = 0.0
    # the connection is closed with no answer
    lost_answer: float = 0.0


@dataclass(frozen=True, slots=True)
class CallFaults:
    """Shares (0 to 1) of the callbacks to a PUT's webhookUrl; a callback has one fault at most."""

    # the callback is not sent
    lost: float = 0.0
    # the callback is sent twice
    twice: float = 0.0
    # the callback is sent after `late_seconds`, behind those that follow it
    late: float = 0.0
    # a forged callback that says "failed" is sent as well, to a guessed address
    forged: float = 0.0
    # the callback has the job as `id`, not as `jobId`
    named_id: float = 0.0
    # the delay of a late callback, in seconds; no share
    late_seconds: float = 1.0


@dataclass(frozen=True, slots=True)
class Faults:
    """All faults of one sandbox; by default there are none."""

    # the same seed and the same PUTs bring the same faults and the same job ids
    seed: int = 0
    # refusals are answered at once, with the body unread and the connection closed
    early_answers: bool = False
    # a client that sends `Expect: 100-continue` gets neither 100 Continue nor a refusal before its body
    ignores_expect: bool = False
    # conversations that are answered with 404
    unknown_conversations: frozenset[str] = frozenset()
    # if given, every other conversation is answered with 404
    known_conversations: frozenset[str] | None = None
    put: PutFaults = field(default_factory=PutFaults)
    jobs: JobFaults = field(default_factory=JobFaults)
    poll: PollFaults = field(default_factory=PollFaults)
    calls: CallFaults = field(default_factory=CallFaults)

    def knows(self, conversation: str) -> bool:
        """Return True where the service has this conversation."""
        if conversation in self.unknown_conversations:
            return False
        return self.known_conversations is None or conversation in self.known_conversations
