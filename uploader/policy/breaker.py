"""The circuit breaker: when sending stops before it does harm, and when it goes on (promise 5)."""

from enum import Enum
from typing import NamedTuple

from uploader.model import Next, Outcome, Reply, Verdict
from uploader.policy.backoff import Backoff, after_failure
from uploader.policy.replies import NOTHING_TAKEN, loggable_reason

# failing lanes in a row that open the breaker
LANES_TO_OPEN = 5
# first answers, all the same refusal, that end the run
SAME_REFUSALS = 20
PROBE_BASE_SECONDS = 2.0
PROBE_CAP_SECONDS = 60.0


class BreakerState(Enum):
    """The states of a circuit breaker; the value says each to people."""

    CLOSED = "sending"
    OPEN = "paused; a GET asks whether the service answers"
    HALF_OPEN = "one PUT tries whether the service takes uploads again"


class CircuitBreaker(NamedTuple):
    """The account's circuit breaker. Times are seconds on the caller's clock."""

    state: BreakerState = BreakerState.CLOSED
    # the lanes that failed since the last good answer
    failing_lanes: frozenset[int] = frozenset()
    # the first and the last time of a failure
    since: float | None = None
    latest: float = 0.0
    # the wait before the next probe
    probing: Backoff = Backoff()
    # the one status, and how often it came, as long as every answer was the same refusal; None: one was not
    refusal: tuple[int, int] | None = (0, 0)
    # the latest failure: host, proxy, and what came, in words that the log may have
    cause: str = ""

    @property
    def is_closed(self) -> bool:
        """True while attempts may begin as ever."""
        return self.state is BreakerState.CLOSED

    @property
    def probe_at(self) -> float:
        """The time of the next probe."""
        return self.probing.until

    def attempts_allowed(self, wanted: int) -> int:
        """Count the attempts that may be under way, of ``wanted``."""
        if self.state is BreakerState.OPEN:
            return 0
        if self.state is BreakerState.HALF_OPEN:
            return min(wanted, 1)
        if self.refusal is not None:
            # while nothing has gone well yet, no more may be under way than may still be refused
            return min(wanted, SAME_REFUSALS - self.refusal[1])
        return wanted

    def unanswered_allowed(self, cap: int) -> int:
        """Count the last chunks that may be out without an answer: so many items at most come into doubt.

        Args:
            cap: How many that are where nothing fails.
        """
        if self.state is BreakerState.OPEN:
            return 0
        if self.state is BreakerState.HALF_OPEN:
            return 1
        return max(1, cap - len(self.failing_lanes))


def after_attempt(
    breaker: CircuitBreaker, verdict: Verdict, reply: Reply, lane: int, now: float, jitter: float
) -> CircuitBreaker:
    """Return the breaker after an attempt.

    Args:
        breaker: The breaker before.
        verdict: The reply's meaning.
        lane: The lane of the item.
        now: The time, in seconds.
        jitter: A number from 0 to 1, drawn evenly.
    """
    if reply.withheld or reply.source_failure:
        return breaker  # our own doing: it says nothing of the service
    if is_failure(verdict, reply):
        return _after_failure(breaker._replace(refusal=None, cause=loggable_reason(verdict, reply)), lane, now, jitter)
    after = CircuitBreaker(refusal=_refusals(breaker, verdict, reply))
    if verdict.next is Next.COOL_DOWN:
        # the service is there, so sending goes on; ``after_429`` says whether the time without a good answer does
        return after._replace(since=breaker.since, latest=breaker.latest, cause=breaker.cause)
    return after


def after_429(breaker: CircuitBreaker, *, alone: bool) -> CircuitBreaker:
    """Return the breaker after a 429: a good answer where jobs of ours are live, none where nothing is (``alone``)."""
    return breaker if alone else breaker._replace(since=breaker.latest if breaker.failing_lanes else None)


def after_probe(breaker: CircuitBreaker, *, good: bool, now: float, jitter: float) -> CircuitBreaker:
    """Return the breaker after the answer to a probe (a GET)."""
    if good:
        return breaker._replace(state=BreakerState.HALF_OPEN)
    return _open(breaker._replace(latest=now), now, jitter)


def reason_to_give_up(breaker: CircuitBreaker, give_up_seconds: float) -> str | None:
    """Return why the run should end now, None where it should not."""
    if breaker.refusal is not None and breaker.refusal[1] >= SAME_REFUSALS:
        return (
            f"the first {SAME_REFUSALS} answers were all the same refusal (HTTP {breaker.refusal[0]}): check the "
            "base URL and the conversationIds, then run again"
        )
    if breaker.since is not None and breaker.latest - breaker.since >= give_up_seconds:
        return (
            f"the service gave no good answer for {breaker.latest - breaker.since:.0f} s (give_up_seconds is "
            f"{give_up_seconds:g}); the last: {breaker.cause}: nothing is lost; run the same command again when it is "
            "back"
        )
    return None


def is_failure(verdict: Verdict, reply: Reply) -> bool:
    """Return True where a reply is a failure of the service, or of what is between."""
    no_answer = reply.status is None or reply.status >= 500 or reply.status in NOTHING_TAKEN
    return verdict.outcome is Outcome.IN_DOUBT or no_answer


def _after_failure(breaker: CircuitBreaker, lane: int, now: float, jitter: float) -> CircuitBreaker:
    since = now if breaker.since is None else breaker.since
    failed = breaker._replace(failing_lanes=breaker.failing_lanes | {lane}, since=since, latest=now)
    if breaker.state is BreakerState.OPEN:
        return failed  # an upload that was already out when the breaker opened
    if breaker.state is BreakerState.HALF_OPEN or len(failed.failing_lanes) >= LANES_TO_OPEN:
        return _open(failed, now, jitter)
    return failed


def _open(breaker: CircuitBreaker, now: float, jitter: float) -> CircuitBreaker:
    # each probe waits anew, whatever is left of the wait before
    probing = after_failure(
        breaker.probing._replace(until=0.0), now, base=PROBE_BASE_SECONDS, cap=PROBE_CAP_SECONDS, jitter=jitter
    )
    return breaker._replace(state=BreakerState.OPEN, probing=probing)


def _refusals(breaker: CircuitBreaker, verdict: Verdict, reply: Reply) -> tuple[int, int] | None:
    if breaker.refusal is None or verdict.outcome is not Outcome.REFUSED or reply.status is None:
        return None
    status, count = breaker.refusal
    return (reply.status, count + 1) if count == 0 or status == reply.status else None
