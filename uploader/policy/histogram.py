"""A histogram of observed values, as metrics show it."""

from bisect import bisect_left
from collections.abc import Sequence
from itertools import accumulate
from math import inf

# upper bounds, in seconds: of a write to a disk, of an upload, of a job
WRITE_BOUNDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5)
UPLOAD_BOUNDS = (0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0, 1800.0)
JOB_BOUNDS = (0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0, 600.0, 1800.0, 3600.0, 21600.0)


class Histogram:
    """Counts of values below upper bounds, and their sum.

    Args:
        bounds: The upper bounds, ascending; values above the last are counted, too.
    """

    def __init__(self, bounds: Sequence[float]) -> None:
        self._bounds = bounds
        self._counts = [0] * (len(bounds) + 1)
        self.sum = 0.0

    def observe(self, value: float) -> None:
        """Count a value."""
        self._counts[bisect_left(self._bounds, value)] += 1
        self.sum += value

    def __add__(self, other: "Histogram") -> "Histogram":
        """Return the histogram of both's values; the bounds are the same."""
        both = Histogram(self._bounds)
        both._counts = [mine + others for mine, others in zip(self._counts, other._counts, strict=True)]
        both.sum = self.sum + other.sum
        return both

    def cumulative(self) -> list[tuple[float, int]]:
        """Return, for each upper bound, infinity the last, the number of values not above it."""
        return list(zip((*self._bounds, inf), accumulate(self._counts), strict=True))
