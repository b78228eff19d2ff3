"""Decides an item's state from the facts of its attempts: the same for a reply, a callback, a poll and a crash."""

from collections.abc import Iterator, Sequence
from enum import StrEnum
from typing import NamedTuple, Self

from uploader.model import UNDER_WAY, JobStatus, Next, Outcome, State, Verdict

_RANKS = {JobStatus.SCHEDULED: 0, JobStatus.IN_PROGRESS: 1, JobStatus.COMPLETED: 2, JobStatus.FAILED: 2}
# states that a callback resolves by naming the job; a jobId there is that of an answer not trusted
_WITHOUT_JOB = (State.PENDING, State.REFUSED, State.IN_DOUBT)
# states in which the item's jobId is that of its append
WITH_JOB = (State.ACCEPTED, State.COMPLETED, State.FAILED, State.DROPPED)


class CallbackEffect(StrEnum):
    """The effect of a callback."""

    UNKNOWN_TOKEN = "no attempt has this token"  # noqa: S105 - a sentence, not a secret
    NOTHING = "nothing new"
    DEFERRED = "kept with its attempt"
    ACCEPTED = "its item is accepted"
    ENDED = "its job has ended"
    DUPLICATE_APPEND = "an append too many"
    CONTRADICTORY = "it contradicts what is known"


class Callback(NamedTuple):
    """The content of a callback (put-audio.md, Using Webhook)."""

    job_id: str
    status: JobStatus


class AttemptFacts(NamedTuple):
    """The facts of one attempt that a callback is about."""

    attempt_id: int
    number: int
    # by its reply; None while it is out
    outcome: Outcome | None
    # the one that is pending while the item is under way, or that has just arrived
    callback: Callback
    # the job that a trusted answer, or an earlier callback, has named
    job_id: str | None = None
    # the status that is pending when another callback arrives
    pending_status: JobStatus | None = None


class ItemFacts(NamedTuple):
    """The facts of one item, with one piece of news: a verdict, a polled status, or a callback for one attempt."""

    # as the ledger has them, or by the verdict
    state: State
    job_id: str | None = None
    # the number of its latest attempt
    latest: int = 0
    # those that callbacks are about, the latest first
    attempts: Sequence[AttemptFacts] = ()
    # on the latest attempt's reply, or on a crash
    verdict: Verdict | None = None
    polled: JobStatus | None = None
    # the callback that has just arrived names a job of another item of its account
    names_other_job: bool = False

    @classmethod
    def after(cls, verdict: Verdict, latest: int, pending: Sequence[AttemptFacts]) -> Self:
        """Add a verdict on the latest attempt to the callbacks that were pending."""
        if not pending:
            return cls(verdict.state, verdict.job_id, latest, (), verdict)
        answered = verdict.job_id if verdict.state is State.ACCEPTED else None
        own = [
            attempt._replace(outcome=verdict.outcome, job_id=answered)
            for attempt in pending
            if attempt.number == latest
        ]
        others = [attempt for attempt in pending if attempt.number != latest]
        return cls(verdict.state, verdict.job_id, latest, own + others, verdict)


class ResolvedItem(NamedTuple):
    """The consequences of an item's facts."""

    state: State
    job_id: str | None
    effect: CallbackEffect
    # put by callbacks in place of the reply's verdict: for the item, and for its latest attempt
    verdict: Verdict | None = None
    attempt_verdict: Verdict | None = None
    # the other attempts that their callbacks show to be applied, by their ids
    applied: Sequence[int] = ()
    # to be reported, and kept with the item whatever becomes of it
    anomaly: str | None = None
    # the news of the item's job, None where there is none
    job_status: JobStatus | None = None
    # why a callback is contradictory
    reason: str | None = None


def resolve_item(item: ItemFacts) -> ResolvedItem:
    """Resolve an item by its facts.

    A trusted answer outranks callbacks. The first callback for an attempt says which job it became; from then on only
    the end of that very job counts.
    """
    if not item.attempts and item.polled is None:
        return ResolvedItem(item.state, item.job_id, CallbackEffect.NOTHING)
    has_arrived = item.verdict is None and item.polled is None
    contradiction = _contradiction(item, item.attempts[0]) if has_arrived else None
    if contradiction is not None:
        return ResolvedItem(item.state, item.job_id, CallbackEffect.CONTRADICTORY, reason=contradiction)
    effect = _effect_without_change(item, item.attempts[0]) if has_arrived else None
    if effect is not None:
        return ResolvedItem(item.state, item.job_id, effect)
    followed = item.attempts[0] if item.attempts and item.state in _WITHOUT_JOB else None
    state, job_id = item.state, item.job_id
    if followed is not None:
        state, job_id = State.ACCEPTED, followed.callback.job_id
    duplicates = [attempt for attempt in item.attempts if attempt.callback.job_id != job_id]
    status = next((attempt.callback.status for attempt in item.attempts if attempt not in duplicates), item.polled)
    if state is State.ACCEPTED and status is not None and status.ended:
        state = State.COMPLETED if status is JobStatus.COMPLETED else State.FAILED
    own = [attempt for attempt in item.attempts if attempt.number == item.latest and not has_arrived]
    # an append too many whose callback comes late keeps the outcome of its reply
    others = (
        [attempt for attempt in item.attempts if attempt not in own] if followed is not None or not has_arrived else []
    )
    verdict = _named_by_callback(item.verdict, job_id) if followed is not None else None
    return ResolvedItem(
        state=state,
        job_id=job_id,
        effect=_effect(followed, duplicates),
        verdict=verdict,
        attempt_verdict=verdict if own else None,
        applied=[attempt.attempt_id for attempt in others],
        anomaly="; ".join(_anomalies(item, followed, duplicates, job_id)) or None,
        job_status=status,
    )


def _contradiction(item: ItemFacts, attempt: AttemptFacts) -> str | None:
    """Return the fact that a callback contradicts, None where there is none."""
    if item.names_other_job:
        return "another item of this account has that job"
    is_known = attempt.job_id is not None and attempt.job_id != attempt.callback.job_id
    return f"its attempt is known to be job {attempt.job_id}" if is_known else None


def _effect_without_change(item: ItemFacts, attempt: AttemptFacts) -> CallbackEffect | None:
    """Return the effect of a callback that leaves its item as it is, None where the item is to be resolved anew."""
    if item.state in WITH_JOB and item.job_id == attempt.callback.job_id:
        ends = item.state is State.ACCEPTED and attempt.callback.status.ended
        return None if ends else CallbackEffect.NOTHING
    if attempt.job_id is not None:
        is_news = (
            attempt.pending_status is not None and _RANKS[attempt.callback.status] > _RANKS[attempt.pending_status]
        )
        return CallbackEffect.DEFERRED if is_news else CallbackEffect.NOTHING
    # what is under way comes to its end first: it has its turn in the lane; and of what a person said to be appended
    # nobody knows as which job
    is_settled = item.state is State.COMPLETED and item.job_id is None
    return CallbackEffect.DEFERRED if item.state in UNDER_WAY or is_settled else None


def _effect(followed: AttemptFacts | None, duplicates: Sequence[AttemptFacts]) -> CallbackEffect:
    if followed is not None:
        return CallbackEffect.ACCEPTED
    return CallbackEffect.DUPLICATE_APPEND if duplicates else CallbackEffect.ENDED


def _named_by_callback(verdict: Verdict | None, job_id: str | None) -> Verdict | None:
    if verdict is None:
        return None
    reason = f"{verdict.reason}; the webhook named its job"
    return Verdict(Outcome.APPLIED, State.ACCEPTED, Next.FOLLOW, reason, job_id)


def _anomalies(
    item: ItemFacts, followed: AttemptFacts | None, duplicates: Sequence[AttemptFacts], job_id: str | None
) -> Iterator[str]:
    """Yield a sentence for each job that the service should not have made, and for each doubt that stays."""
    # the latest attempt's own job is named beside every duplicate
    if followed is not None and not (duplicates and followed.number == item.latest):
        number, outcome = followed.number, followed.outcome
        if item.state is State.IN_DOUBT and number != item.latest:
            yield f"appended as job {job_id}; attempt {item.latest} may have appended it once too often"
        elif outcome is not None and outcome not in (Outcome.APPLIED, Outcome.IN_DOUBT):
            yield f"attempt {number} was taken for {outcome.value}, and the service made job {job_id} of it"
    for attempt in duplicates:
        other = attempt.callback.job_id
        if attempt.job_id is not None:
            yield f"attempt {attempt.number} is job {attempt.job_id} by its answer and job {other} by the webhook"
        elif item.state is State.DROPPED and job_id is None:
            yield f"appended as job {other} (attempt {attempt.number}) although it was dropped"
        else:
            yield f"appended once too often: as job {other} (attempt {attempt.number}) beside job {job_id}"
