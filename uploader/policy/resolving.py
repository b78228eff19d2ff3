"""Decides the state that a person's decision gives an item, and what proves that an item was appended."""

from uploader.model import ConversationSnapshot, Decision, State

# the states that a decision may be about; an accepted item only where its job is uncertain, or was named by a person
RESOLVABLE: dict[Decision, frozenset[State]] = {
    Decision.APPENDED: frozenset([State.IN_DOUBT, State.ACCEPTED]),
    Decision.NOT_APPENDED: frozenset([State.IN_DOUBT]),
    Decision.RETRY: frozenset([State.REFUSED, State.FAILED]),
    Decision.DROP: frozenset([State.IN_DOUBT, State.REFUSED, State.FAILED, State.PENDING, State.ACCEPTED]),
}


def resolved_state(decision: Decision, job_id: str | None) -> State:
    """Return the state that a decision gives an item.

    Args:
        job_id: The job that the person found; None where there was none.
    """
    if decision is Decision.APPENDED:
        return State.ACCEPTED if job_id else State.COMPLETED
    return State.DROPPED if decision is Decision.DROP else State.PENDING


def proves_append(before: ConversationSnapshot | None, now: ConversationSnapshot | None, *, alone: bool) -> bool:
    """Return True where the conversation's growth proves that the item in doubt was appended.

    Args:
        before: The conversation before the attempt.
        now: The conversation now.
        alone: No other item of the lane can have been appended since.
    """
    # a conversation that did not grow proves nothing: the job may still run, or the audio be silent
    if before is None or now is None or not alone:
        return False
    return now.messages > before.messages
