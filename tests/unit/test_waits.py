"""How long to wait: between tries, after a 429, for a slot in doubt."""

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from math import inf

import pytest
from hypothesis import given
from hypothesis import strategies as st

from uploader.policy.durations import CompletedJob
from uploader.policy.waits import (
    COOLDOWN_CAP_SECONDS,
    RETRY_AFTER_CAP_SECONDS,
    RETRY_CAP_SECONDS,
    cooldown_seconds,
    doubt_slot_seconds,
    full_jitter,
    retry_after_seconds,
    retry_seconds,
)

JITTER = st.floats(0, 1)
TRIES = st.integers(0, 10_000)
NOW = 784_111_777.0
"""Sun, 06 Nov 1994 08:49:37 GMT, the date of RFC 9110."""


@contextmanager
def time_zone(name: str) -> Iterator[None]:
    """Change this process's time zone during the test."""
    before = os.environ.get("TZ")
    os.environ["TZ"] = name
    time.tzset()
    try:
        yield
    finally:
        if before is None:
            del os.environ["TZ"]
        else:
            os.environ["TZ"] = before
        time.tzset()


@given(TRIES, st.floats(0.01, 100), st.floats(0.01, 1000), JITTER)
def test_backoff_stays_within_its_bounds(tries: int, base: float, cap: float, jitter: float) -> None:
    """A wait is above 0, and never above the cap nor above base x 2^tries."""
    wait = full_jitter(tries, base, cap, jitter)
    assert 0 < wait <= cap
    assert wait <= base * 2.0 ** min(tries, 1000)


@given(TRIES, JITTER, JITTER)
def test_the_whole_range_below_the_longest_wait_is_used(tries: int, jitter: float, other: float) -> None:
    """Full jitter: more jitter waits longer, and jitter 1 waits the longest."""
    low, high = sorted((jitter, other))
    assert full_jitter(tries, 1.0, 60.0, low) <= full_jitter(tries, 1.0, 60.0, high)
    assert full_jitter(tries, 1.0, 60.0, 1.0) == min(60.0, 2.0 ** min(tries, 100))


def test_backoff_doubles_up_to_its_cap() -> None:
    """The longest waits are 1, 2, 4 ... and then the cap."""
    assert [full_jitter(tries, 1.0, 10.0, 1.0) for tries in range(6)] == [1, 2, 4, 8, 10, 10]


@given(st.integers(1, 10_000), JITTER)
def test_a_retry_never_waits_beyond_its_cap(attempts: int, jitter: float) -> None:
    """An item waits up to a minute, after the first attempt at most a second."""
    assert 0 < retry_seconds(attempts, jitter) <= RETRY_CAP_SECONDS
    assert retry_seconds(1, jitter) <= 1.0


@pytest.mark.parametrize(
    ("header", "seconds"),
    [
        ("0", 0.0),
        ("120", 120.0),
        (" 7 ", 7.0),
        ("3600", 3600.0),
        ("3601", RETRY_AFTER_CAP_SECONDS),
        ("9" * 5000, RETRY_AFTER_CAP_SECONDS),
        ("Sun, 06 Nov 1994 08:50:37 GMT", 60.0),
        ("Sunday, 06-Nov-94 08:50:37 GMT", 60.0),
        ("Sun, 06 Nov 1994 08:48:37 GMT", 0.0),
        ("Sun, 06 Nov 2094 08:49:37 GMT", RETRY_AFTER_CAP_SECONDS),
    ],
)
def test_retry_after_is_read_in_both_forms(header: str, seconds: float) -> None:
    """Seconds and HTTP dates are honoured up to an hour; a date that has passed means now."""
    assert retry_after_seconds(header, NOW) == seconds


@pytest.mark.parametrize("zone", ["UTC", "America/New_York", "Asia/Kolkata"])
@pytest.mark.parametrize("header", ["Sun Nov  6 08:50:37 1994", "Sun, 06 Nov 1994 08:50:37 -0000"])
def test_an_http_date_is_in_utc_wherever_we_are(zone: str, header: str) -> None:
    """RFC 9110 5.6.7: an HTTP date is in UTC, in the obsolete asctime form too, whatever the local time is."""
    with time_zone(zone):
        assert retry_after_seconds(header, NOW) == 60.0


@pytest.mark.parametrize(
    ("header", "seconds"),
    [
        ("2.5", 3.0),
        ("1e3", 1000.0),
        ("+3", 3.0),
        ("-1", 0.0),
        ("٣", 3.0),
        ("3s", 3.0),
        ("2.5 s", 3.0),
        ("2,120", 120.0),
        ("3, 120", 120.0),
        ("0x10", 10.0),
        ("in 2 minutes or 90 seconds", 90.0),
        ("inf", RETRY_AFTER_CAP_SECONDS),
        ("1994-11-06T08:50:37Z", 60.0),
        ("1994-11-06T08:50:37", 60.0),
        ("Sun, 99 Nov 1994 08:49:37 GMT", 1994.0),
    ],
)
def test_what_is_not_quite_a_retry_after_is_taken_for_the_wait_that_it_names(header: str, seconds: float) -> None:
    """Fractions are rounded up, dates of other standards read; in any other text the largest number counts."""
    assert retry_after_seconds(header, NOW) == seconds


@pytest.mark.parametrize("header", [None, "", "soon", "nan", "--"])
def test_a_retry_after_without_any_number_is_none(header: str | None) -> None:
    """A Retry-After without a number counts as missing."""
    assert retry_after_seconds(header, NOW) is None


@given(st.text(), st.floats(0, 1e11))
def test_no_header_breaks_anything(header: str, now: float) -> None:
    """Of any text the wait is None or within its cap."""
    seconds = retry_after_seconds(header, now)
    assert seconds is None or 0 <= seconds <= RETRY_AFTER_CAP_SECONDS


@given(st.integers(0, 3000))
def test_a_date_ahead_is_waited_for(ahead: int) -> None:
    """A date so many seconds ahead is a wait of so many seconds."""
    header = format_datetime(datetime.fromtimestamp(NOW, UTC) + timedelta(seconds=ahead), usegmt=True)
    assert retry_after_seconds(header, NOW) == ahead


@given(TRIES, JITTER, st.none() | st.integers(0, 10_000).map(str) | st.text())
def test_a_cooldown_honours_the_header_and_never_falls_below_the_backoff(
    throttles: int, jitter: float, header: str | None
) -> None:
    """The account pauses for the longer of full jitter and Retry-After."""
    wait = cooldown_seconds(throttles, header, NOW, jitter)
    backoff = full_jitter(throttles, 1.0, COOLDOWN_CAP_SECONDS, jitter)
    assert wait == max(backoff, retry_after_seconds(header, NOW) or 0.0)
    assert 0 < wait <= max(COOLDOWN_CAP_SECONDS, RETRY_AFTER_CAP_SECONDS)


def test_as_long_as_no_job_has_ended_doubt_keeps_its_slot_for_doubt_seconds() -> None:
    """Without completed jobs a doubt keeps its slot as long as the setting says."""
    assert doubt_slot_seconds(10**9, [], 900.0, 3600.0) == 900.0


ENDS = [CompletedJob(60.0, 15.0), CompletedJob(600.0, 60.0), CompletedJob(120.0, 12.0)]
"""Jobs that take 12 s or so, and a twelfth of their audio more."""


@pytest.mark.parametrize(
    ("work", "ends", "most", "seconds"),
    [
        pytest.param(300.0, ENDS, 3600.0, 3 * (12 + 300 * 48 / 600), id="by its length, the constant part once"),
        pytest.param(0.0, ENDS, 3600.0, 36.0, id="never shorter than any job was"),
        pytest.param(36_000.0, ENDS, 3600.0, 180.0, id="no longer than three times the longest"),
        pytest.param(36_000.0, ENDS, 100.0, 100.0, id="no longer than a job is waited for"),
        pytest.param(
            7200.0, [CompletedJob(0.2, 3.0), CompletedJob(0.3, 3.1)], 21600.0, 9.3, id="long, after a few tiny ones"
        ),
        pytest.param(60.0, [CompletedJob(0.0, 5.0)], 3600.0, 15.0, id="lengths that are not known"),
    ],
)
def test_doubt_keeps_its_slot_three_times_as_long_as_the_job_may_live(
    work: float, ends: list[CompletedJob], most: float, seconds: float
) -> None:
    """A doubt keeps its slot three times as long as a job of its length takes by the completed ones."""
    assert doubt_slot_seconds(work, ends, 900.0, most) == pytest.approx(seconds)


SEEN = st.lists(st.builds(CompletedJob, st.floats(0, 1e5), st.floats(0, 1e5)), min_size=1, max_size=8)


@given(st.floats(0, 1e6), st.floats(0, 1e6), SEEN)
def test_a_longer_recording_in_doubt_never_gives_its_slot_back_earlier(
    work: float, more: float, ends: list[CompletedJob]
) -> None:
    """The wait grows with the length, and never beyond three times the longest job."""
    wait = doubt_slot_seconds(work, ends, 900.0, inf)
    assert 0 <= wait <= doubt_slot_seconds(work + more, ends, 900.0, inf) <= 3 * max(end.seconds for end in ends)


@given(st.integers(1, 100), JITTER, st.integers(0, 3600))
def test_a_retry_waits_as_long_as_it_was_asked_to(attempts: int, jitter: float, asked: int) -> None:
    """An item that was not taken waits for its Retry-After, and never less than its own backoff."""
    assert retry_seconds(attempts, jitter, str(asked), NOW) == max(retry_seconds(attempts, jitter), asked)
