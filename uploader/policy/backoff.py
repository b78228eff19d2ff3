"""The pause after a failure: longer with each failure in a row, and never shorter than a Retry-After."""

from typing import NamedTuple

from uploader.policy.waits import full_jitter, retry_after_seconds


class Backoff(NamedTuple):
    """One pause of all requests of a kind."""

    # seconds on the caller's clock
    until: float = 0.0
    # in a row, without a success between them; those within one pause count as one
    failures: int = 0

    def is_on(self, now: float) -> bool:
        """Return True where requests pause."""
        return now < self.until


def after_failure(
    backoff: Backoff, now: float, *, base: float, cap: float, jitter: float = 1.0, retry_after: str | None = None
) -> Backoff:
    """Return the backoff after a failure: a pause begins, or, where one is on, goes on.

    A Retry-After is kept in any case, as far as it is believed.

    Args:
        backoff: The backoff before.
        base: The longest pause after the first failure, in seconds.
        cap: The longest pause without a Retry-After, in seconds.
        jitter: A number from 0 to 1, drawn evenly; 1 where nobody else waits for the same.
        retry_after: The answer's Retry-After header.
    """
    told = retry_after_seconds(retry_after, now) or 0.0
    if backoff.is_on(now):
        return backoff._replace(until=max(backoff.until, now + told))
    return Backoff(now + max(full_jitter(backoff.failures, base, cap, jitter), told), backoff.failures + 1)


def after_success(backoff: Backoff, now: float) -> Backoff:
    """Return the backoff after a success: the next pause is a short one, but one that is on goes on."""
    return backoff if backoff.is_on(now) else Backoff()
