"""The caps that follow the account where no person has set them: requests a second, and uploads under way."""

from math import ceil

LEAST_PUTS_PER_SECOND = 10.0
# PUTs for each slot in the time of a job: some are refused, or cut and sent again, and many begin ahead together
PUTS_PER_SLOT = 3.0
LEAST_POLLS_PER_SECOND = 30.0
POLLS_PER_JOB = 12.0
# seconds in which jobs that an earlier run left are polled once, as far as the rate below allows
LEFT_OVER_SECONDS = 30.0
MOST_LEFT_OVER_POLLS = 300.0
# the assumed seconds of a job before the first has ended
UNKNOWN_SECONDS = 2.0
# uploads at once: enough to keep the slots full within the memory for chunks (policy.chunks)
UPLOADS = 64


def put_rate(limit: int, job_seconds: float | None) -> float:
    """Return how many PUTs a second may begin.

    Args:
        limit: The limit in force.
        job_seconds: What a typical job of the account takes; None before the first has ended.
    """
    return max(LEAST_PUTS_PER_SECOND, _rate(PUTS_PER_SLOT, limit, job_seconds))


def put_burst(limit: int) -> int:
    """Return how many PUTs may begin at once: for slots that are free together, and for those that jobs free next."""
    return max(ceil(LEAST_PUTS_PER_SECOND), ceil(PUTS_PER_SLOT * limit))


def poll_burst(limit: int) -> int:
    """Return how many status requests may begin at once: jobs that began together end together."""
    return max(ceil(LEAST_POLLS_PER_SECOND), ceil(POLLS_PER_JOB * limit))


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
        _rate(POLLS_PER_JOB, limit, job_seconds),
    )


def _rate(per_job: float, limit: int, job_seconds: float | None) -> float:
    """Return the rate, per second, of so many requests for each job where all slots are full."""
    return per_job * limit / max(job_seconds or UNKNOWN_SECONDS, 0.01)
