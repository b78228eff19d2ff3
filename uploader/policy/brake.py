"""Decides when sending stops before it does harm, and when it may go on (promise 5)."""

from dataclasses import dataclass, replace
from enum import Enum

from uploader.model import Next, Outcome, Reply, Verdict
from uploader.policy.replies import NOTHING_TAKEN, loggable_reason
from uploader.policy.waits import full_jitter

TROUBLED_LANES = 5
"""So many lanes in a row in doubt or met by 5xx pause the account's sending."""
MARKS_AHEAD = 27
"""So many last chunks at most are marked before their turn: with those that are out, a crash leaves them in doubt."""
SAME_REFUSALS = 20
"""So many first answers that are all the same refusal end the run."""
PROBE_BASE_SECONDS = 2.0
PROBE_CAP_SECONDS = 60.0


class Phase(Enum):
    """How far the brake is on."""

    OFF = "sending"
    PROBING = "paused; a GET asks whether the service answers"
    TRIAL = "one PUT tries whether the service takes uploads again"


@dataclass(frozen=True, slots=True)
class Brake:
    """What the brake has seen. Times are seconds on the caller's clock.

    ``troubled`` are the lanes that had trouble since the last good answer; ``since`` and ``latest`` are the
    first and the last time of it. ``refusal`` counts as long as every answer was the same refusal (None:
    one was not). ``unanswered`` is how many last chunks may be out without an answer where all goes well.
    """

    phase: Phase = Phase.OFF
    troubled: frozenset[int] = frozenset()
    since: float | None = None
    latest: float = 0.0
    probes: int = 0
    probe_at: float = 0.0
    refusal: tuple[int, int] | None = (0, 0)
    unanswered: int = TROUBLED_LANES
    cause: str = ""
    """What the latest trouble was: host, proxy, and what came, in words that the log may have."""

    @property
    def unanswered_allowed(self) -> int:
        """How many last chunks may be out without an answer: so many items at most come into doubt."""
        if self.phase is Phase.PROBING:
            return 0
        return 1 if self.phase is Phase.TRIAL else max(1, self.unanswered - len(self.troubled))

    def attempts_allowed(self, wanted: int) -> int:
        """How many attempts may be under way, of ``wanted``."""
        if self.phase is Phase.PROBING:
            return 0
        if self.phase is Phase.TRIAL:
            return min(wanted, 1)
        if self.refusal is not None:
            # While nothing has gone well yet, no more may be under way than may still be refused.
            return min(wanted, SAME_REFUSALS - self.refusal[1])
        return wanted


def after_attempt(brake: Brake, verdict: Verdict, reply: Reply, lane: int, now: float, jitter: float) -> Brake:
    """Tell what an attempt's verdict does to the brake.

    Args:
        brake: The brake before.
        verdict: What the reply means.
        reply: The reply itself.
        lane: The lane of the item.
        now: The time, in seconds.
        jitter: A number from 0 to 1, drawn evenly.
    """
    if reply.withheld or reply.source_failure:
        return brake  # our own doing: it says nothing of the service
    if _is_trouble(verdict, reply):
        return _more_trouble(replace(brake, refusal=None, cause=loggable_reason(verdict, reply)), lane, now, jitter)
    after = Brake(refusal=_refusals(brake, verdict, reply), unanswered=brake.unanswered)
    if verdict.next is Next.COOL_DOWN:
        # the service is there, so sending goes on; whether the time without a good answer does, ``after_429`` says
        return replace(after, since=brake.since, latest=brake.latest, cause=brake.cause)
    return after


def after_429(brake: Brake, *, alone: bool) -> Brake:
    """Tell what a 429 is: no good answer while nothing of ours is live (``alone``), else one: the limit is at work."""
    return brake if alone else replace(brake, since=brake.latest if brake.troubled else None)


def marks_ahead(brake: Brake, mark_seconds: float, answer_seconds: float) -> int:
    """How many last chunks may be marked before their turn: as many as go out while a mark is being committed.

    A service that answers more slowly than the disk commits needs none.

    Args:
        brake: The brake; while it sees trouble, nothing is marked ahead.
        mark_seconds: What a mark takes to be committed.
        answer_seconds: What an answer takes to come.
    """
    if brake.troubled or brake.refusal is not None or not answer_seconds:
        return 0
    return min(int(brake.unanswered_allowed * mark_seconds / answer_seconds), MARKS_AHEAD)


def after_probe(brake: Brake, *, good: bool, now: float, jitter: float) -> Brake:
    """Tell what the answer to a probe (a GET) does to the brake."""
    if good:
        return replace(brake, phase=Phase.TRIAL)
    return _pause(replace(brake, latest=now), now, jitter)


def reason_to_give_up(brake: Brake, give_up_seconds: float) -> str | None:
    """Tell why the run should end now, None where it should not."""
    if brake.refusal is not None and brake.refusal[1] >= SAME_REFUSALS:
        return (
            f"the first {SAME_REFUSALS} answers were all the same refusal (HTTP {brake.refusal[0]}): check the "
            "base URL and the conversationIds, then run again"
        )
    if brake.since is not None and brake.latest - brake.since >= give_up_seconds:
        return (
            f"the service gave no good answer for {brake.latest - brake.since:.0f} s (give_up_seconds is "
            f"{give_up_seconds:g}); the last: {brake.cause}: nothing is lost; run the same command again when it is "
            "back"
        )
    return None


def _is_trouble(verdict: Verdict, reply: Reply) -> bool:
    no_answer = reply.status is None or reply.status >= 500 or reply.status in NOTHING_TAKEN
    return verdict.outcome is Outcome.IN_DOUBT or no_answer


def _more_trouble(brake: Brake, lane: int, now: float, jitter: float) -> Brake:
    since = now if brake.since is None else brake.since
    seen = replace(brake, troubled=brake.troubled | {lane}, since=since, latest=now)
    if brake.phase is Phase.PROBING:
        return seen  # an upload that was already out when the brake came on
    if brake.phase is Phase.TRIAL or len(seen.troubled) >= TROUBLED_LANES:
        return _pause(seen, now, jitter)
    return seen


def _pause(brake: Brake, now: float, jitter: float) -> Brake:
    wait = full_jitter(brake.probes, PROBE_BASE_SECONDS, PROBE_CAP_SECONDS, jitter)
    return replace(brake, phase=Phase.PROBING, probes=brake.probes + 1, probe_at=now + wait)


def _refusals(brake: Brake, verdict: Verdict, reply: Reply) -> tuple[int, int] | None:
    if brake.refusal is None or verdict.outcome is not Outcome.REFUSED or reply.status is None:
        return None
    status, count = brake.refusal
    return (reply.status, count + 1) if count == 0 or status == reply.status else None
