"""Decides which moment a time of day means."""

from datetime import datetime, time, timedelta


def next_time_of_day(text: str, now: datetime) -> datetime:
    """The next moment at which clocks show this time of day; now itself is past.

    Args:
        text: ``HH:MM``, on a clock of 24 hours.
        now: The time on that clock, without a time zone; the answer is on the same clock.
    """
    at = datetime.combine(now.date(), time.fromisoformat(text))
    return at if at > now else at + timedelta(days=1)
