"""Decides what is billed of a recording (put-audio.md, Billing for Speaker Separated Channels)."""

SEPARATE = "enableSeparateRecognitionPerChannel"
"""The parameter that has each channel recognised, and billed, by itself."""


def billed_seconds(duration_seconds: float | None, channels: int | None, *, separate: bool) -> float | None:
    """Return the seconds billed of a recording: its duration, times its channels where each is recognised by itself.

    Args:
        duration_seconds: The recording's length, None where it is unknown.
        channels: How many channels it has, None where that is unknown.
        separate: Whether channels are recognised separately.

    Returns:
        Seconds; None where they cannot be known.
    """
    if duration_seconds is None or not separate:
        return duration_seconds
    return None if channels is None else duration_seconds * channels
