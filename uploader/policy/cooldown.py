"""Decides how the whole account pauses after a 429, and what ends the pause before its time."""

from dataclasses import dataclass, replace
from math import inf

from uploader.policy.waits import cooldown_seconds, retry_after_seconds


@dataclass(frozen=True, slots=True)
class Cooldown:
    """The account's one cooldown.

    ``until`` is in seconds on the caller's clock. ``in_a_row`` counts cooldowns without an accepted upload between
    them. ``may_probe``: room ends it, because all its 429s were about the limit, and none said how long to wait.
    ``room``: there was a sign of room that no upload has tried yet. ``probe`` is the attempt that tries it.
    ``alone_since``: since when nothing but 429s has come while nothing of ours was live, None where that is not so.
    """

    until: float = 0.0
    in_a_row: int = 0
    may_probe: bool = False
    room: bool = False
    probe: int | None = None
    alone_since: float | None = None

    def is_on(self, now: float) -> bool:
        """Whether sending pauses."""
        return now < self.until

    def attempts_allowed(self, wanted: int, now: float) -> int:
        """How many attempts may begin, of ``wanted``: while it is on, one to try the room that there may be."""
        if not self.is_on(now):
            return wanted
        return min(wanted, 1) if self.room and self.probe is None else 0


def after_throttle(
    cooldown: Cooldown, retry_after: str | None, now: float, jitter: float, *, about_limit: bool
) -> Cooldown:
    """Tell what a 429 does: it begins a cooldown, or, where one is on, lets that go on, for as long as it asks itself.

    Args:
        cooldown: The cooldown before.
        retry_after: The 429's Retry-After header.
        now: The time, in seconds.
        jitter: A number from 0 to 1, drawn evenly.
        about_limit: Whether it was about concurrent jobs, and not about the rate of requests.
    """
    may_probe = about_limit and retry_after is None
    if cooldown.is_on(now):
        may_probe = may_probe and cooldown.may_probe
        until = max(cooldown.until, now + (retry_after_seconds(retry_after, now) or 0.0))
        return replace(cooldown, until=until, may_probe=may_probe, room=cooldown.room and may_probe, probe=None)
    wait = cooldown_seconds(cooldown.in_a_row, retry_after, now, jitter)
    return Cooldown(now + wait, cooldown.in_a_row + 1, may_probe, alone_since=cooldown.alone_since)


def note_alone(cooldown: Cooldown, now: float, *, alone: bool) -> Cooldown:
    """Tell what a 429 means where nothing of ours is live (``alone``): it is no good answer.

    A 429 beside a job of ours, or an item in doubt that may be one, is the limit at work.
    """
    since = now if cooldown.alone_since is None else cooldown.alone_since
    return replace(cooldown, alone_since=since if alone else None)


def gives_up_at(cooldown: Cooldown, give_up_seconds: float) -> float:
    """When 429s have been all that came for too long, in seconds since the epoch; infinite where they are explained."""
    return inf if cooldown.alone_since is None else cooldown.alone_since + give_up_seconds


def after_end_of_job(cooldown: Cooldown) -> Cooldown:
    """Tell what the end of a job of ours does: it is a sign of room."""
    return replace(cooldown, room=cooldown.may_probe)


def after_claim(cooldown: Cooldown, attempt: int, now: float) -> Cooldown:
    """Tell what the beginning of an attempt does: while the cooldown is on, it is the one that tries the room."""
    return replace(cooldown, room=False, probe=attempt) if cooldown.is_on(now) else cooldown


def after_accepted(cooldown: Cooldown, attempt: int) -> Cooldown:
    """Tell what an accepted upload does: the one that tried the room ends the cooldown."""
    return Cooldown() if attempt == cooldown.probe else replace(cooldown, in_a_row=0, alone_since=None)


def after_other_ending(cooldown: Cooldown, attempt: int) -> Cooldown:
    """Tell what any other ending of an attempt does: where it was to try the room, that has not been tried yet."""
    return replace(cooldown, room=cooldown.may_probe, probe=None) if attempt == cooldown.probe else cooldown
