"""Decides how many status requests are under way at once, and how all of them pause where the service wants none."""

from dataclasses import dataclass, replace
from math import ceil

from uploader.policy.waits import retry_after_seconds

LATENCY_SECONDS = 3.0
"""The budget can be used up as long as an answer takes no longer than this."""
LOOKS_LEAST = 4
LOOKS_MOST = 90
"""A session has a hundred connections, of which some are left for tokens."""
PAUSE_BASE_SECONDS = 0.5
PAUSE_CAP_SECONDS = 60.0


@dataclass(frozen=True, slots=True)
class Pause:
    """The pause of all status requests of an account.

    ``until`` is in seconds on the caller's clock. ``in_a_row`` counts pauses without a good answer between them.
    """

    until: float = 0.0
    in_a_row: int = 0

    def is_on(self, now: float) -> bool:
        """Whether nothing is asked."""
        return now < self.until


def looks_at_once(per_second: float) -> int:
    """How many status requests may be under way at once, so that slow answers, or none, leave the budget to be used."""
    return min(max(ceil(per_second * LATENCY_SECONDS), LOOKS_LEAST), LOOKS_MOST)


def wants_pause(http_status: int | None, retry_after: str | None) -> bool:
    """Whether an answer that told nothing of its job asks for fewer requests, or shows that the service has trouble.

    Args:
        http_status: The answer's, None where none came.
        retry_after: Its Retry-After header.
    """
    return http_status is None or http_status == 429 or http_status >= 500 or retry_after is not None


def after_trouble(pause: Pause, retry_after: str | None, now: float) -> Pause:
    """Tell what such an answer does: it begins a pause, or, where one is on, lets that go on.

    A Retry-After is kept in any case, as far as it is believed. Without one, each pause in a row is twice as long as
    the one before it; no jitter is needed, because one run alone follows an account's jobs.

    Args:
        pause: The pause before.
        retry_after: The answer's Retry-After header.
        now: The time, in seconds since the epoch.
    """
    told = retry_after_seconds(retry_after, now) or 0.0
    if pause.is_on(now):
        return replace(pause, until=max(pause.until, now + told))
    backoff = min(PAUSE_CAP_SECONDS, PAUSE_BASE_SECONDS * 2.0 ** min(pause.in_a_row, 30))
    return Pause(now + max(backoff, told), pause.in_a_row + 1)


def after_good(pause: Pause, now: float) -> Pause:
    """Tell what a good answer does: the next pause is a short one, but where one is on, it goes on."""
    return pause if pause.is_on(now) else Pause()
