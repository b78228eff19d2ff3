"""Decides waiting times: between tries, after a 429, for a slot in doubt."""

import re
from collections.abc import Sequence
from datetime import UTC, datetime
from math import ceil, isinf, isnan

from uploader.policy.durations import CompletedJob

RETRY_BASE_SECONDS = 1.0
RETRY_CAP_SECONDS = 60.0
COOLDOWN_BASE_SECONDS = 1.0
COOLDOWN_CAP_SECONDS = 60.0
# a longer Retry-After is cut to this: one header shall not cost a night
RETRY_AFTER_CAP_SECONDS = 3600.0
_NUMBER = re.compile(r"\d{1,9}(?:\.\d{1,9})?")
PUT_OFF_LEAST_SECONDS = 10.0
PUT_OFF_MOST_SECONDS = 900.0
DOUBT_FACTOR = 3.0


def full_jitter(tries: int, base: float, cap: float, jitter: float) -> float:
    """Return the wait of exponential backoff with full jitter, in seconds; never below 5 % of the longest wait.

    Args:
        tries: How many tries came before, from 0.
        base: The longest wait after the first try.
        cap: The longest wait ever.
        jitter: A number from 0 to 1, drawn evenly.
    """
    longest = min(cap, base * 2.0 ** min(tries, 30))
    return longest * max(jitter, 0.05)


def retry_after_seconds(header: str | None, now: float) -> float | None:
    """Read a Retry-After header: seconds, rounded up, or a date (RFC 9110, 10.2.3), else its longest number.

    Args:
        header: The header's value; several headers are joined by commas.
        now: Seconds since the epoch, as dates in the header are.

    Returns:
        Seconds, from 0 to ``RETRY_AFTER_CAP_SECONDS``; None where the header has no number at all.
    """
    if header is None:
        return None
    text = header.strip()
    found = _seconds(text)
    if found is None:
        at = http_date(text)
        found = at - now if at is not None else _longest_number(text)
    return None if found is None else min(max(found, 0.0), RETRY_AFTER_CAP_SECONDS)


def _seconds(text: str) -> float | None:
    """Read a number of seconds, perhaps with a fraction."""
    try:
        found = float(text)
    except ValueError:
        return None
    return None if isnan(found) else found if isinf(found) else float(ceil(found))


def http_date(text: str) -> float | None:
    """Read an HTTP date or an ISO 8601 date, as seconds since the epoch."""
    from email.utils import parsedate_to_datetime  # noqa: PLC0415 - for services that name a date

    for read in (parsedate_to_datetime, datetime.fromisoformat):
        try:
            found = read(text)
            # these dates are in UTC, said or not
            return found.replace(tzinfo=found.tzinfo or UTC).timestamp()
        except (TypeError, ValueError, OverflowError):
            continue
    return None


def _longest_number(text: str) -> float | None:
    """Return the largest number in a text such as "3s" or "2, 120", rounded up."""
    return max((ceil(float(number)) for number in _NUMBER.findall(text)), default=None)


def cooldown_seconds(throttles: int, header: str | None, now: float, jitter: float) -> float:
    """Return the pause of the whole account after a 429, in seconds: its Retry-After, but at least full jitter.

    Args:
        throttles: How many 429s came in a row before this one.
        header: The Retry-After header.
        jitter: A number from 0 to 1, drawn evenly.
    """
    backoff = full_jitter(throttles, COOLDOWN_BASE_SECONDS, COOLDOWN_CAP_SECONDS, jitter)
    return max(backoff, retry_after_seconds(header, now) or 0.0)


def retry_seconds(attempts: int, jitter: float, retry_after: str | None = None, now: float = 0.0) -> float:
    """Return an item's wait after an attempt that provably appended nothing, in seconds: full jitter, or Retry-After.

    Args:
        attempts: How many attempts it had.
        jitter: A number from 0 to 1, drawn evenly.
        retry_after: The Retry-After header of the answer.
    """
    backoff = full_jitter(attempts - 1, RETRY_BASE_SECONDS, RETRY_CAP_SECONDS, jitter)
    return max(backoff, retry_after_seconds(retry_after, now) or 0.0)


def put_off_seconds(age: float) -> float:
    """Return the delay of a due poll, in seconds, where a callback is likely to report the job's end.

    Callbacks that the listener missed are made up for by that later poll.

    Args:
        age: The job's age, in seconds.
    """
    return min(PUT_OFF_MOST_SECONDS, max(PUT_OFF_LEAST_SECONDS, age))


def doubt_slot_seconds(work: float, jobs: Sequence[CompletedJob], unseen_seconds: float, most_seconds: float) -> float:
    """Return how long an item in doubt keeps its slot, in seconds (design: ``slot_until``).

    Args:
        work: The item's seconds of audio.
        jobs: Completed jobs of the account.
        unseen_seconds: The answer where there are none.
        most_seconds: The longest that any job is waited for.
    """
    if not jobs:
        return unseen_seconds
    longest, constant = max(job.seconds for job in jobs), min(job.seconds for job in jobs)
    # the time that every job takes, however short, does not grow with its audio
    growth = max(((job.seconds - constant) / job.work for job in jobs if job.work > 0), default=0.0)
    grown = growth * work if work > 0 else 0.0  # a job of next to no audio makes the growth infinite
    return min(DOUBT_FACTOR * min(constant + grown, longest), most_seconds)
