"""The account's flow of uploads as one value: what may begin, what may be admitted, what is cut, and when that changes.

``reduce`` is the only way from one state to the next. Times are seconds on the caller's clock; jitter comes in with
the events.
"""

from math import inf
from typing import NamedTuple

from uploader.model import Next, Outcome, Reply, Verdict
from uploader.policy import breaker as breakers
from uploader.policy.ahead import Lead, after_answer
from uploader.policy.backoff import Backoff, after_failure
from uploader.policy.breaker import BreakerState, CircuitBreaker

THROTTLE_BASE_SECONDS, THROTTLE_CAP_SECONDS = 1.0, 60.0
# unanswered last chunks while answers are quick: the most items that come into doubt together
UNANSWERED = 5
# slower answers leave slots idle while last chunks wait for their turn
QUICK_ANSWER_SECONDS = 0.1
# a connection that ends after a shorter wait for admission does not count against such waits
SHORT_WAIT_SECONDS = 0.25
# bodies lost to a service or gateway that ends such waits, before none is sent ahead
CUTS_TO_REFUSE = 2


class Throttle(NamedTuple):
    """The account's pause after a 429, and the one attempt that may try whether there is room again."""

    backoff: Backoff = Backoff()
    # a job's end lifts the pause: all its 429s were about the limit, and none said how long to wait
    may_probe: bool = False
    # a job has ended, and no upload has tried the room yet
    room: bool = False
    # the attempt that tries it
    probe: int | None = None
    # since when nothing but 429s has come while nothing of ours was live
    alone_since: float | None = None


class SendAhead(NamedTuple):
    """The sending of bodies before their slot is free, and the refusals of it."""

    is_on: bool = True
    # an attempt that was sent ahead was accepted: until then one at a time tries it
    is_confirmed: bool = False
    # bodies lost while they waited, since the last one that was accepted after as long a silence
    cuts: int = 0
    # the silence, in seconds, of the latest of them
    cut_silence: float = 0.0
    # the longest silence of a body that was accepted
    borne_silence: float = 0.0
    # a body was cut by us after it had waited for too long
    was_cut: bool = False
    # why the service, or a gateway, does not bear it; empty as long as nothing shows that
    refusal: str = ""


class Flow(NamedTuple):
    """The state of an account's flow of uploads."""

    breaker: CircuitBreaker = CircuitBreaker()
    throttle: Throttle = Throttle()
    ahead: SendAhead = SendAhead()
    lead: Lead = Lead()
    # last chunks that may be out without an answer; fixed where a person set the number
    unanswered: int = UNANSWERED
    unanswered_is_fixed: bool = False
    # uploads are cut, and answers not waited for, from these times on
    cut_at: float = inf
    end_at: float = inf
    # nothing new starts from this time on (--until)
    late_at: float = inf
    # the run ends once what is under way has ended
    is_ending: bool = False

    def is_stopping(self) -> bool:
        """Return True where a time to cut uploads is set, be it now or to come."""
        return self.cut_at < inf

    def must_cut(self, now: float) -> bool:
        """Return True where uploads whose last chunk has not left are to be cut."""
        return now >= self.cut_at

    def must_not_wait(self, now: float) -> bool:
        """Return True where answers are not to be waited for."""
        return now >= self.end_at

    def is_late(self, now: float) -> bool:
        """Return True where nothing new starts any more."""
        return now >= self.late_at

    def reason_not_to_admit(self, now: float) -> str:
        """Return why no attempt is admitted at all; empty where they may be."""
        if self.must_cut(now):
            return "stopped before its last chunk"
        if self.breaker.state is BreakerState.OPEN:
            return "the service gives no good answer: nothing is sent before it does"
        return ""

    def reason_not_to_wait(self, now: float) -> str:
        """Return why no attempt waits for a slot or its turn any longer; empty where they may."""
        if self.is_stopping():
            return "stopped before its turn came"
        if self.is_ending:
            return "the run ended before its turn came"
        return "the time is over: nothing new starts" if self.is_late(now) else ""

    def attempts_allowed(self, wanted: int, unadmitted: int, now: float) -> int:
        """Count the attempts that may begin.

        Args:
            wanted: How many shall be under way, less those that are.
            unadmitted: How many of these have no admission yet, though no job is before them in their lane.
        """
        if self.is_late(now) or self.is_stopping() or self.is_ending:
            return 0
        throttle = self.throttle
        if throttle.backoff.is_on(now):
            return min(wanted, 1) if throttle.room and throttle.probe is None and not unadmitted else 0
        return wanted

    def admissions_allowed(self, unanswered: int, now: float) -> int:
        """Count the attempts that may be admitted, beside those that wait for their answer."""
        if self.reason_not_to_admit(now):
            return 0
        allowed = max(self.breaker.unanswered_allowed(self.unanswered) - unanswered, 0)
        throttle = self.throttle
        if throttle.backoff.is_on(now):
            return min(allowed, 1) if throttle.room and throttle.probe is None else 0
        return allowed

    def may_send_ahead(self) -> bool:
        """Return True where bodies may go out before their slot is free."""
        # the one upload that tries a service after an outage shall not wait for a job
        return self.ahead.is_on and not self.ahead.refusal and self.breaker.is_closed

    def gives_up_at(self, give_up_seconds: float) -> float:
        """Return when 429s, with nothing of ours live, have been all that came for too long; infinite where not."""
        since = self.throttle.alone_since
        return inf if since is None else since + give_up_seconds


class AttemptAdmitted(NamedTuple):
    """An attempt has its slot."""

    attempt_id: int


class AttemptEnded(NamedTuple):
    """An attempt has its reply."""

    attempt_id: int
    lane_id: int
    verdict: Verdict
    reply: Reply
    jitter: float
    # a 429 about concurrent jobs, and not about the rate of requests
    is_about_limit: bool = False
    # it began before a slot, or its turn, was free
    was_ahead: bool = False
    # seconds from its claim to its last chunk, then to its admission (and from then to its answer)
    sent_seconds: float = 0.0
    waited_seconds: float = 0.0
    # the longest time without a byte during that wait
    silence_seconds: float = 0.0
    answer_seconds: float = 0.0
    # last chunks that would have been out without an answer, had nothing but slots and lanes held them back
    unanswered_wanted: int = 0


class LimitMet(NamedTuple):
    """A 429 was looked into: whether nothing of ours was live."""

    alone: bool


class JobEnded(NamedTuple):
    """A job of ours has ended, which is a sign of room."""


class ProbeAnswered(NamedTuple):
    """The GET of an open breaker has come back."""

    good: bool
    jitter: float


class StopAsked(NamedTuple):
    """The run is to end: by a signal, or because it cannot go on."""

    cut_at: float
    end_at: float


class RunEnds(NamedTuple):
    """Nothing new starts, and what is under way comes to its end."""


Event = AttemptAdmitted | AttemptEnded | LimitMet | JobEnded | ProbeAnswered | StopAsked | RunEnds


def reduce(  # noqa: PLR0911, C901 - one branch for each kind of event
    flow: Flow, event: Event, now: float
) -> Flow:
    """Return the flow after an event.

    Args:
        flow: The flow before.
        event: What happened.
        now: The time, in seconds.
    """
    throttle = flow.throttle
    match event:
        case AttemptAdmitted(attempt_id):
            if not throttle.backoff.is_on(now):
                return flow
            return flow._replace(throttle=throttle._replace(room=False, probe=attempt_id))
        case AttemptEnded():
            return _after_attempt(flow, event, now)
        case LimitMet(alone):
            since = now if throttle.alone_since is None else throttle.alone_since
            return flow._replace(
                throttle=throttle._replace(alone_since=since if alone else None),
                breaker=breakers.after_429(flow.breaker, alone=alone),
            )
        case JobEnded():
            return flow._replace(throttle=throttle._replace(room=throttle.may_probe))
        case ProbeAnswered(good, jitter):
            return flow._replace(breaker=breakers.after_probe(flow.breaker, good=good, now=now, jitter=jitter))
        case RunEnds():
            return flow._replace(is_ending=True)
        case StopAsked(cut_at, end_at):
            return flow._replace(cut_at=min(flow.cut_at, cut_at), end_at=min(flow.end_at, end_at))


def _after_attempt(flow: Flow, event: AttemptEnded, now: float) -> Flow:
    ahead = _after_sent_ahead(flow.ahead, event)
    is_learned = bool(ahead.refusal and not flow.ahead.refusal)
    if (is_learned or (event.was_ahead and _refusal_of_wait(event))) and event.verdict.next is not Next.COOL_DOWN:
        # the answer says that the body came too early, and nothing of the limit or of the service's health
        throttle = _after_other_ending(flow.throttle, event.attempt_id)
        return flow._replace(ahead=ahead, throttle=throttle)
    breaker = breakers.after_attempt(flow.breaker, event.verdict, event.reply, event.lane_id, now, event.jitter)
    return flow._replace(
        ahead=ahead,
        lead=_lead(flow.lead, event),
        breaker=breaker,
        throttle=_after_reply(flow.throttle, event, now),
        unanswered=_unanswered(flow, event),
    )


def _after_reply(throttle: Throttle, event: AttemptEnded, now: float) -> Throttle:
    if event.verdict.next is Next.COOL_DOWN:
        return _after_429(throttle, event, now)
    if event.verdict.next is not Next.FOLLOW:
        return _after_other_ending(throttle, event.attempt_id)
    # the one that tried the room ends the pause
    if event.attempt_id == throttle.probe:
        return Throttle()
    return throttle._replace(backoff=throttle.backoff._replace(failures=0), alone_since=None)


def _after_429(throttle: Throttle, event: AttemptEnded, now: float) -> Throttle:
    """Begin a pause, or let the one that is on go on, for as long as the 429 asks itself: one for the account."""
    header = event.reply.retry_after
    may_probe = event.is_about_limit and header is None
    backoff = after_failure(
        throttle.backoff,
        now,
        base=THROTTLE_BASE_SECONDS,
        cap=THROTTLE_CAP_SECONDS,
        jitter=event.jitter,
        retry_after=header,
    )
    if throttle.backoff.is_on(now):
        may_probe = may_probe and throttle.may_probe
        return throttle._replace(backoff=backoff, may_probe=may_probe, room=throttle.room and may_probe, probe=None)
    return Throttle(backoff, may_probe, alone_since=throttle.alone_since)


def _after_other_ending(throttle: Throttle, attempt_id: int) -> Throttle:
    """Let another attempt try the room, where the one that was to try it came to nothing."""
    return throttle._replace(room=throttle.may_probe, probe=None) if attempt_id == throttle.probe else throttle


def _after_sent_ahead(ahead: SendAhead, event: AttemptEnded) -> SendAhead:
    waited = event.waited_seconds >= SHORT_WAIT_SECONDS
    if event.verdict.outcome is Outcome.APPLIED and event.was_ahead:
        has_borne = waited and event.silence_seconds >= ahead.cut_silence
        silence = max(ahead.borne_silence, event.silence_seconds)
        return ahead._replace(is_confirmed=True, cuts=0 if has_borne else ahead.cuts, borne_silence=silence)
    if event.reply.withheld:
        return ahead._replace(was_cut=ahead.was_cut or waited)
    if not ahead.is_on or ahead.refusal or not (refusal := _refusal_of_wait(event)):
        return ahead
    if event.reply.status != 429 and ahead.cuts + 1 < CUTS_TO_REFUSE:
        return ahead._replace(cuts=ahead.cuts + 1, cut_silence=event.silence_seconds)
    return ahead._replace(refusal=refusal)


def _refusal_of_wait(event: AttemptEnded) -> str:
    """Return the answer that shows that a body was sent ahead in vain; empty where none shows it."""
    reply = event.reply
    if reply.last_chunk_left:
        return ""
    if reply.status == 429:
        return "a 429 about the limit came before the last chunk" if event.is_about_limit else ""
    broke = reply.status == 408 or (reply.status is None and reply.connected and not reply.source_failure)
    if not broke or event.waited_seconds < SHORT_WAIT_SECONDS:
        return ""
    cause = f"HTTP {reply.status}" if reply.status else "the connection was closed"
    return f"{cause} while a body that was sent ahead waited for its last chunk"


def _lead(lead: Lead, event: AttemptEnded) -> Lead:
    if event.verdict.outcome is not Outcome.APPLIED:
        return lead
    return after_answer(lead, event.sent_seconds, event.waited_seconds, event.answer_seconds)


def _unanswered(flow: Flow, event: AttemptEnded) -> int:
    """Return how many last chunks may be out: more only while slow answers leave slots idle, 5 after a doubt."""
    if flow.unanswered_is_fixed:
        return flow.unanswered
    if event.verdict.outcome is Outcome.IN_DOUBT:
        return UNANSWERED
    is_good = event.verdict.outcome is Outcome.APPLIED and not flow.breaker.failing_lanes
    if not is_good:
        return flow.unanswered
    if event.answer_seconds > QUICK_ANSWER_SECONDS:
        return max(flow.unanswered, event.unanswered_wanted)
    # one slow answer among quick ones is no reason to have many in doubt for the rest of the night
    return max(flow.unanswered - 1, UNANSWERED)
