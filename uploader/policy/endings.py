"""Decides the exit code of a run that has ended."""

from collections.abc import Mapping

from uploader.errors import ExitCode
from uploader.model import State


def ending(counts: Mapping[State, int], *, overdue: int, no_wait: bool, unfinished: ExitCode) -> ExitCode:
    """Return the exit code of a batch (design: exit codes).

    Args:
        counts: Items by state, held ones apart from pending ones.
        overdue: Accepted items whose job did not end within ``job_timeout_seconds``.
        no_wait: Take an accepted item as over.
        unfinished: The code where items are still pending or their jobs running.
    """
    running = counts.get(State.ACCEPTED, 0) - overdue if not no_wait else 0
    waiting = sum(counts.get(state, 0) for state in (State.PENDING, State.SENDING, State.SENT))
    if waiting or running > 0:
        return unfinished
    if counts.get(State.IN_DOUBT, 0) or overdue:
        return ExitCode.IN_DOUBT
    if any(counts.get(state, 0) for state in (State.REFUSED, State.FAILED, State.HELD)):
        return ExitCode.NEEDS_PERSON
    return ExitCode.DONE
