"""What is billed of a recording."""

import pytest

from uploader.policy.billing import billed_seconds


@pytest.mark.parametrize(
    ("duration", "channels", "separate", "expected"),
    [
        (120.0, 3, True, 360.0),  # the documentation's own example: 6 minutes
        (120.0, 3, False, 120.0),
        (120.0, 1, True, 120.0),
        (120.0, None, False, 120.0),
        (120.0, None, True, None),
        (None, 2, True, None),
        (None, 2, False, None),
    ],
)
def test_channels_are_billed_where_each_is_recognised(
    duration: float | None, channels: int | None, separate: bool, expected: float | None
) -> None:
    """put-audio.md, Billing: duration times channels where they are separated; what is unknown stays unknown."""
    assert billed_seconds(duration, channels, separate=separate) == expected
