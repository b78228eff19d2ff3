"""Decides what the account's limit of concurrent jobs is."""

import re
from dataclasses import dataclass, replace

STATED_LIMIT_BELIEVED_SECONDS = 24 * 3600.0
JOB_SECONDS = 60.0
"""What a job is taken to take as long as none of the account's has ended."""
LEAST_STEP_SECONDS = 1.0
MOST_PATIENCE = 8
"""A step up that is refused again and again is tried at least after so many times what a job takes."""
MOST_PATIENCE_WITH_OTHERS = 4
"""The same where a limit is stated that leaves more to be had: others will go."""
ROUNDING = 1e-6
"""A share of a step: who wakes at the very moment of a step shall find it taken."""

_NUMBER = r"(?<![\d,.])(\d{1,3}(?:,\d{3})+|\d{1,6})(?![\d,.]\d)"
_STATED = re.compile(rf"{_NUMBER}\D{{0,16}}number of concurrent jobs")
_LIMIT_OF = re.compile(rf"limit of (?:maximum of )?\D{{0,3}}{_NUMBER}")
_RATE = re.compile(r"\btoo (?:quickly|fast|often)\b|\brate\b|\bper (?:second|minute|hour)\b", re.IGNORECASE)
_CONCURRENT = re.compile(r"\bconcurren", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Refusal:
    """A 429 that is about the number of concurrent jobs. ``stated``: the X in its text, None where it has none."""

    stated: int | None = None


@dataclass(frozen=True, slots=True)
class Learned:
    """What 429s have taught of an account's limit. Times are seconds since the epoch.

    ``stated`` is the X of the latest that stated one. ``taught`` is how many jobs of ours were live when one more was
    refused, None where no such thing is in force. ``step_seconds`` is a job's time: after ``patience`` of them without
    a 429 the limit taught rises by one, and from then on by one in each.
    """

    stated: int | None = None
    stated_at: float | None = None
    taught: int | None = None
    taught_at: float = 0.0
    step_seconds: float = JOB_SECONDS
    patience: int = 1


def stated_limit(message: str) -> int | None:
    """Read the limit X out of a 429's text (put-audio.md, API Limit Error); None where it states none."""
    found = _STATED.search(message)
    if found is None and _CONCURRENT.search(message):  # a limit of anything else is none of jobs
        found = _LIMIT_OF.search(message)
    stated = int(found[1].replace(",", "")) if found is not None else 0
    return stated if stated > 0 else None


def refusal_in(message: str) -> Refusal | None:
    """Tell whether a 429 is about concurrent jobs, by its text; None: it is about the rate of requests (facts.md).

    A text that says neither is taken for the limit: a slot too few costs less than bytes in vain.
    """
    stated = stated_limit(message)
    about_rate = stated is None and _RATE.search(message) and not _CONCURRENT.search(message)
    return None if about_rate else Refusal(stated)


def limit_in_force(configured: int, learned: Learned, now: float) -> int:
    """The smallest of what is configured, what a 429 stated as long as that is believed, and what 429s taught.

    Args:
        configured: The limit of the settings.
        learned: What the account's 429s taught.
        now: The time in seconds since the epoch.
    """
    known = (configured, believed(learned, now), taught_by_now(learned, now))
    return min(one for one in known if one is not None)


def believed(learned: Learned, now: float) -> int | None:
    """The limit that a 429 stated, None where none did or a day has passed since."""
    if learned.stated is None or learned.stated_at is None:
        return None
    return learned.stated if now - learned.stated_at <= STATED_LIMIT_BELIEVED_SECONDS else None


def taught_by_now(learned: Learned, now: float) -> int | None:
    """The limit that was taught, and the steps that it has risen since; None where nothing is taught."""
    if learned.taught is None:
        return None
    quiet = int(max(now - learned.taught_at, 0.0) / learned.step_seconds + ROUNDING)
    return learned.taught + max(0, quiet - learned.patience + 1)


def rises_at(configured: int, learned: Learned, now: float) -> float | None:
    """When the next step up comes, in seconds since the epoch; None where the limit is not below what it may be."""
    level = taught_by_now(learned, now)
    if (
        level is None
        or learned.taught is None
        or level >= (believed(learned, now) or configured)
        or level >= configured
    ):
        return None
    return learned.taught_at + (level - learned.taught + learned.patience) * learned.step_seconds


def live_by_others(learned: Learned, now: float) -> int | None:
    """How many jobs others seem to have live: what was stated, less what we are let have; None where unknown."""
    stated, level = believed(learned, now), taught_by_now(learned, now)
    if stated is None or level is None or level >= stated:
        return None
    return stated - level


def learn(learned: Learned, refusal: Refusal, live: int, job_seconds: float, now: float) -> Learned:
    """Tell what one more refusal teaches.

    Args:
        learned: What was known before.
        refusal: The 429.
        live: How many slots of ours were taken beside the one that was refused.
        job_seconds: What a job of the account typically takes.
        now: The time in seconds since the epoch.
    """
    if refusal.stated is not None:
        learned = replace(learned, stated=refusal.stated, stated_at=now)
    stated, level = believed(learned, now), taught_by_now(learned, now)
    # more of ours under way than the limit allows (it has just fallen) says nothing below the limit itself
    taught = max(1, min(one for one in (live, stated, level) if one is not None))
    if stated is not None and taught >= stated:
        return replace(learned, taught=None, patience=1)
    step_seconds = max(job_seconds, LEAST_STEP_SECONDS)
    most = MOST_PATIENCE if stated is None else MOST_PATIENCE_WITH_OTHERS
    patience = _patience(learned, taught, level, most)
    return replace(learned, taught=taught, taught_at=now, step_seconds=step_seconds, patience=patience)


def _patience(learned: Learned, taught: int, level: int | None, most: int) -> int:
    """A step up that was refused at once makes the next one wait longer; what moved elsewhere begins anew."""
    if learned.taught is None or level is None or taught != learned.taught or level > taught + 1:
        return 1
    return min(2 * learned.patience, most) if level == taught + 1 else learned.patience
