"""The caps that follow the account where no person has set them: requests a second, and uploads under way."""

from math import ceil

LEAST_PUTS_PER_SECOND = 10.0
PUTS_PER_SLOT = 2.0
"""So many PUTs may begin in the time of a job for each slot: some are refused, or cut and sent again."""
LEAST_POLLS_PER_SECOND = 30.0
POLLS_PER_JOB = 12.0
LEFT_OVER_SECONDS = 30.0
"""Jobs that an earlier run left are polled within so long, as far as the rate below allows."""
MOST_LEFT_OVER_POLLS = 300.0
UNKNOWN_SECONDS = 2.0
"""What a job is taken to take as long as none has ended."""
UPLOADS = 64
"""As many as keep the slots full within the memory that chunks may take (policy.chunks)."""


def put_rate(limit: int, job_seconds: float | None) -> float:
    """Return how many PUTs a second may begin.

    Args:
        limit: The limit in force.
        job_seconds: What a typical job of the account takes; None before the first has ended.
    """
    return max(LEAST_PUTS_PER_SECOND, PUTS_PER_SLOT * limit / max(job_seconds or UNKNOWN_SECONDS, 0.01))


def put_burst(limit: int) -> int:
    """Return how many PUTs may begin at once: slots that are free together are taken together."""
    return max(ceil(LEAST_PUTS_PER_SECOND), limit)


def poll_rate(limit: int, job_seconds: float | None, followed: int = 0) -> float:
    """Return how many status requests a second may begin.

    Args:
        limit: The limit in force.
        job_seconds: What a typical job of the account takes; None before the first has ended.
        followed: The jobs that are followed: far more than the limit are left over from runs that did not wait.
    """
    left_over = max(followed - limit, 0) / LEFT_OVER_SECONDS
    return max(
        LEAST_POLLS_PER_SECOND,
        min(left_over, MOST_LEFT_OVER_POLLS),
        POLLS_PER_JOB * limit / max(job_seconds or UNKNOWN_SECONDS, 0.01),
    )
