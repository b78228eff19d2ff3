"""The clock on the wall, and when a run shall start nothing new."""

from datetime import datetime

from uploader.policy.hours import next_time_of_day
from uploader.settings import Settings


def local_time() -> datetime:
    """The time of this machine's clock, without its time zone."""
    return datetime.now().astimezone().replace(tzinfo=None)


def until_time(settings: Settings, now: datetime) -> datetime | None:
    """When nothing new starts any more, None where the settings name no such time."""
    return None if settings.until is None else next_time_of_day(settings.until, now)
