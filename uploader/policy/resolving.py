"""Decides what a person's decision makes of an item, and what evidence proves."""

from uploader.model import ConversationSnapshot, Decision, State

RESOLVABLE: dict[Decision, frozenset[State]] = {
    Decision.APPENDED: frozenset([State.IN_DOUBT, State.ACCEPTED]),
    Decision.NOT_APPENDED: frozenset([State.IN_DOUBT]),
    Decision.RETRY: frozenset([State.REFUSED, State.FAILED]),
    Decision.DROP: frozenset([State.IN_DOUBT, State.REFUSED, State.FAILED, State.PENDING, State.ACCEPTED]),
}
"""Which states a decision may be about; an accepted item only where its job is uncertain, or was named by a person."""


def resolved_state(decision: Decision, job_id: str | None) -> State:
    """Tell the state that a decision gives an item.

    Args:
        decision: The decision.
        job_id: The job that was found, None where none was.
    """
    if decision is Decision.APPENDED:
        return State.ACCEPTED if job_id else State.COMPLETED
    return State.DROPPED if decision is Decision.DROP else State.PENDING


def proves_append(before: ConversationSnapshot | None, now: ConversationSnapshot | None, *, alone: bool) -> bool:
    """Whether a conversation that grew proves that the item in doubt was appended.

    That it did not grow proves nothing: the job may still run, or the audio be silent.

    Args:
        before: What was seen before the attempt.
        now: What is seen now.
        alone: Whether nothing else of ours can have made it grow since.
    """
    if before is None or now is None or not alone:
        return False
    return now.messages > before.messages
