"""Which moment a time of day means."""

from datetime import datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from uploader.policy.hours import next_time_of_day

EVENING = datetime(2026, 11, 22, 22, 30)  # noqa: DTZ001 - a clock on a wall has no time zone


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("22:31", datetime(2026, 11, 22, 22, 31)),  # noqa: DTZ001
        ("23:59", datetime(2026, 11, 22, 23, 59)),  # noqa: DTZ001
        ("06:00", datetime(2026, 11, 23, 6, 0)),  # noqa: DTZ001
        ("00:00", datetime(2026, 11, 23, 0, 0)),  # noqa: DTZ001
        ("22:30", datetime(2026, 11, 23, 22, 30)),  # noqa: DTZ001
    ],
)
def test_the_next_moment_is_meant(text: str, expected: datetime) -> None:
    """A time that is past, or just now, is tomorrow's."""
    assert next_time_of_day(text, EVENING) == expected


@given(now=st.datetimes(datetime(2000, 1, 1), datetime(2100, 1, 1)), at=st.times())  # noqa: DTZ001
def test_it_is_ahead_by_at_most_a_day(now: datetime, at: datetime) -> None:
    """It is always ahead, never by more than a day, and shows that time."""
    found = next_time_of_day(f"{at:%H:%M}", now)
    assert 0 < (found - now).total_seconds() <= 86400
    assert f"{found:%H:%M}" == f"{at:%H:%M}"
