"""Decides what the account's limit of concurrent jobs is."""

import re
from collections.abc import Callable, Iterable
from functools import reduce
from typing import NamedTuple

from uploader.model import LimitFacts

STATED_LIMIT_BELIEVED_SECONDS = 24 * 3600.0
# a job's assumed time before any job of the account has ended
JOB_SECONDS = 60.0
LEAST_STEP_SECONDS = 1.0
# however often a raise was refused, it is tried again after so many steps
MAX_STEPS_BEFORE_RAISE = 8
# the same where the stated limit leaves room above the observed one: other users' jobs will end
MAX_STEPS_BEFORE_RAISE_WITH_OTHERS = 4
# a share of a step: a caller that wakes at the very moment of a raise shall find it in force
ROUNDING = 1e-6

_NUMBER = r"(?<![\d,.])(\d{1,3}(?:,\d{3})+|\d{1,6})(?![\d,.]\d)"
_STATED = re.compile(rf"{_NUMBER}\D{{0,16}}number of concurrent jobs")
_LIMIT_OF = re.compile(rf"limit of (?:maximum of )?\D{{0,3}}{_NUMBER}")
_RATE = re.compile(r"\btoo (?:quickly|fast|often)\b|\brate\b|\bper (?:second|minute|hour)\b", re.IGNORECASE)
_CONCURRENT = re.compile(r"\bconcurren", re.IGNORECASE)


class Refusal(NamedTuple):
    """A 429 that is about the number of concurrent jobs."""

    # the limit X in its text; None where it has none
    stated: int | None = None


class LearnedLimit(NamedTuple):
    """An account's limit as its 429s have shown it; times are seconds since the epoch."""

    # the limit X of the latest 429 that stated one
    stated: int | None = None
    stated_at: float | None = None
    # how many jobs of ours were live when one more was refused; None where nothing observed is in force
    observed: int | None = None
    observed_at: float = 0.0
    # a typical job's time
    step_seconds: float = JOB_SECONDS
    # the observed limit rises by one after so many steps without a 429, and by one in each step after them
    steps_before_raise: int = 1


def stated_limit(message: str) -> int | None:
    """Read the limit X out of a 429's text (put-audio.md, API Limit Error); None where it states none."""
    found = _STATED.search(message)
    if found is None and _CONCURRENT.search(message):  # a limit of anything else is none of jobs
        found = _LIMIT_OF.search(message)
    stated = int(found[1].replace(",", "")) if found is not None else 0
    return stated if stated > 0 else None


def refusal_in(message: str) -> Refusal | None:
    """Read a 429's text as a refusal about concurrent jobs; None: it is about the rate of requests (facts.md)."""
    stated = stated_limit(message)
    # a text that says neither is taken for the limit: a slot too few costs less than bytes in vain
    about_rate = stated is None and _RATE.search(message) and not _CONCURRENT.search(message)
    return None if about_rate else Refusal(stated)


def limit_in_force(configured: int, learned: LearnedLimit, now: float) -> int:
    """Return the smallest of the configured, the stated and the observed limit.

    Args:
        configured: The limit of the settings.
        learned: The account's limit as its 429s have shown it.
    """
    limits = (configured, stated_in_force(learned, now), observed_limit(learned, now))
    return min(limit for limit in limits if limit is not None)


def stated_in_force(learned: LearnedLimit, now: float) -> int | None:
    """Return the limit that a 429 stated; None where none did or a day has passed since."""
    if learned.stated is None or learned.stated_at is None:
        return None
    return learned.stated if now - learned.stated_at <= STATED_LIMIT_BELIEVED_SECONDS else None


def observed_limit(learned: LearnedLimit, now: float) -> int | None:
    """Return the observed limit with the raises since its last 429; None where nothing was observed."""
    if learned.observed is None:
        return None
    steps = int(max(now - learned.observed_at, 0.0) / learned.step_seconds + ROUNDING)
    return learned.observed + max(0, steps - learned.steps_before_raise + 1)


def rises_at(configured: int, learned: LearnedLimit, now: float) -> float | None:
    """Return the time of the next raise, in seconds since the epoch; None where another limit is reached already."""
    level = observed_limit(learned, now)
    if (
        level is None
        or learned.observed is None
        or level >= (stated_in_force(learned, now) or configured)
        or level >= configured
    ):
        return None
    return learned.observed_at + (level - learned.observed + learned.steps_before_raise) * learned.step_seconds


def live_by_others(learned: LearnedLimit, now: float) -> int | None:
    """Estimate how many jobs other users have live: the stated limit less the observed one; None where unknown."""
    stated, level = stated_in_force(learned, now), observed_limit(learned, now)
    if stated is None or level is None or level >= stated:
        return None
    return stated - level


def learn(learned: LearnedLimit, refusal: Refusal, live: int, job_seconds: float, now: float) -> LearnedLimit:
    """Lower the learned limit by one more refusal.

    Args:
        learned: The limit as it was known before.
        live: How many slots of ours were taken beside the one that was refused.
        job_seconds: A typical job's time.
    """
    if refusal.stated is not None:
        learned = learned._replace(stated=refusal.stated, stated_at=now)
    stated, level = stated_in_force(learned, now), observed_limit(learned, now)
    # more of ours under way than the limit allows (it has just fallen) says nothing below the limit itself
    observed = max(1, min(limit for limit in (live, stated, level) if limit is not None))
    if stated is not None and observed >= stated:
        return learned._replace(observed=None, steps_before_raise=1)
    return learned._replace(
        observed=observed,
        observed_at=now,
        step_seconds=max(job_seconds, LEAST_STEP_SECONDS),
        steps_before_raise=_steps_before_raise(
            learned, observed, level, MAX_STEPS_BEFORE_RAISE if stated is None else MAX_STEPS_BEFORE_RAISE_WITH_OTHERS
        ),
    )


def _steps_before_raise(learned: LearnedLimit, observed: int, level: int | None, most: int) -> int:
    """Double the wait after a raise that was refused at once; begin anew where the limit has moved elsewhere."""
    if learned.observed is None or level is None or observed != learned.observed or level > observed + 1:
        return 1
    return min(2 * learned.steps_before_raise, most) if level == observed + 1 else learned.steps_before_raise


def add_limits(limits: Iterable[LimitFacts]) -> LimitFacts:
    """Add up the limits and slots of accounts."""
    found = list(limits)
    return reduce(_both, found) if found else LimitFacts(0, None, 0, 0)


def _both(one: LimitFacts, other: LimitFacts) -> LimitFacts:
    """Add up the limits and slots of two accounts; a time is the earlier one, and the last one of doubts."""
    return LimitFacts(
        configured=one.configured + other.configured,
        stated=None if one.stated is None and other.stated is None else one.in_force + other.in_force,
        in_force=one.in_force + other.in_force,
        live=one.live + other.live,
        others=None if one.others is None or other.others is None else one.others + other.others,
        rises_at=_of(min, one.rises_at, other.rises_at),
        doubtful=one.doubtful + other.doubtful,
        doubtful_until=_of(max, one.doubtful_until, other.doubtful_until),
        expires_at=_of(min, one.expires_at, other.expires_at),
        sending=one.sending + other.sending,
        needs_slot_first=one.needs_slot_first or other.needs_slot_first,
        slot_first_until=_of(max, one.slot_first_until, other.slot_first_until),
        slot_first_reason=one.slot_first_reason or other.slot_first_reason,
    )


def _of(choose: Callable[[float, float], float], one: float | None, other: float | None) -> float | None:
    if one is None or other is None:
        return one if other is None else other
    return choose(one, other)
