"""Taken slots and bytes a second over a night, in buckets whose number has a bound."""

from collections.abc import Iterable
from copy import deepcopy
from typing import Any, Self

from uploader.ledger.history import AttemptSpan
from uploader.results import rfc3339

# the most buckets; where a night has more, each two become one
MOST_BUCKETS = 240
# the length of a bucket at the begin of a night, in seconds
FIRST_STEP = 1.0
# a pause of this length ends a night: what comes after it is another one
PAUSE_SECONDS = 6 * 3600.0


class Timeline:
    """The slots and bytes of a night by time; its memory does not grow with the night.

    Args:
        begin: The begin of the night, in seconds since the epoch.
    """

    def __init__(self, begin: float) -> None:
        self.begin = begin
        self.end = begin
        self._step = FIRST_STEP
        # by bucket: the seconds of all slots, and bytes
        self._slot_seconds = [0.0]
        self._bytes = [0.0]

    def add(self, span: AttemptSpan, now: float) -> None:
        """Add an attempt, up to now where it is not over."""
        answered_at = min(now if span.ended_at is None else span.ended_at, now)
        freed_at = min(now if span.freed_at is None else span.freed_at, now)
        self.reach(answered_at if span.admitted_at is None else max(answered_at, freed_at))
        if span.bytes_sent:
            seconds = max(answered_at - span.started_at, 0.001)
            self._spread(self._bytes, span.started_at, seconds, span.bytes_sent / seconds)
        if span.admitted_at is not None:
            self._spread(self._slot_seconds, span.admitted_at, freed_at - span.admitted_at, 1.0)

    def reach(self, time: float) -> None:
        """Make the night last until this time at least."""
        self.end = max(self.end, time)
        while (needed := int((self.end - self.begin) / self._step) + 1) > MOST_BUCKETS:
            self._step *= 2
            self._slot_seconds, self._bytes = _paired(self._slot_seconds), _paired(self._bytes)
        for buckets in (self._slot_seconds, self._bytes):
            buckets.extend([0.0] * (needed - len(buckets)))

    def with_open(self, spans: Iterable[AttemptSpan], now: float) -> Self:
        """Return a copy with attempts that are not over, up to now."""
        copy = deepcopy(self)
        for span in spans:
            copy.add(span, now)
        copy.reach(now)
        return copy

    def as_json(self) -> dict[str, Any]:
        """Return the mean number of taken slots, and the bytes a second, by bucket, as JSON."""
        # the last bucket is shorter: its mean is that of its own seconds
        last = max(self.end - self.begin - (len(self._bytes) - 1) * self._step, 0.2 * self._step)
        seconds = [self._step] * (len(self._bytes) - 1) + [last]
        return {
            "from": rfc3339(self.begin),
            "until": rfc3339(self.end),
            "stepSeconds": self._step,
            "slots": [round(found / each, 2) for found, each in zip(self._slot_seconds, seconds, strict=True)],
            "bytesPerSecond": [round(found / each) for found, each in zip(self._bytes, seconds, strict=True)],
        }

    def _spread(self, buckets: list[float], begin: float, seconds: float, per_second: float) -> None:
        """Add a rate over a time to the buckets that it touches."""
        at, end = max(begin - self.begin, 0.0), begin - self.begin + seconds
        while at < end:
            place = min(int(at / self._step), len(buckets) - 1)
            border = (place + 1) * self._step
            upto = end if place == len(buckets) - 1 else min(border, end)
            buckets[place] += (upto - at) * per_second
            at = upto


def _paired(buckets: list[float]) -> list[float]:
    """Add up each two buckets."""
    return [sum(buckets[place : place + 2]) for place in range(0, len(buckets), 2)]
