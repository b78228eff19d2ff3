"""The local clock, and the time from which a run starts nothing new."""

from datetime import datetime

from uploader.policy.hours import next_time_of_day
from uploader.settings import Settings


def local_time() -> datetime:
    """Return the local time, naive."""
    return datetime.now().astimezone().replace(tzinfo=None)


def until_time(settings: Settings, now: datetime) -> datetime | None:
    """Return the local time from which nothing new starts, None where the settings name none."""
    return None if settings.until is None else next_time_of_day(settings.until, now)
