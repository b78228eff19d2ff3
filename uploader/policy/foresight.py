"""Foresees when a job ends, by what the account's jobs have shown, and decides when to look at it next.

A look costs a request, a look that comes late costs a slot's time. With the hazard of an end at an age (how likely it
is in the next moment, where it has not come yet), both together cost least where every step from look to look, times
the root of the hazard, is the same: looks begin shortly before the earliest plausible end, stand closest where most
jobs end, and grow apart where few are left.
"""

from bisect import bisect_left
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import accumulate, pairwise
from math import erfc, exp, hypot, inf, log, pi, sqrt

LOOK_LEAST_SECONDS = 0.08
"""However short jobs are: a request costs more than the slot's time that it would save."""
LOOK_MOST_SECONDS = 300.0
"""However long a job is to take: should the service have become faster, it is seen after so long."""
LOOK_SHARE_OF_AGE = 0.15
"""Where nothing is known, or the job has outlived what is: so much of its age."""
LOOK_PRICE = 0.0008
"""What a look may cost: so much of the time that a typical job holds its slot."""
LOOKS_IN_SCATTER = 16.0
"""However long a job is, there are no more looks than this within one scatter of its end."""

REMEMBERED = 64
"""So many of the latest ends are learned from."""
HALF_LIFE = 24.0
"""An end weighs half as much as one that came so many ends later: services change their speed in the night."""
NEWS = 8
"""What is shown is worked out anew once one end of so many is new."""
ENOUGH_FOR_CONSTANT = 8
"""So many ends are needed to tell the part that every job takes from the part that grows with its audio."""
FITS = 4
FAR_OFF = 0.5
"""A job that is off by more than this share counts less, the farther it is off."""
SCATTER_ASSUMED = 0.4
"""How widely jobs scatter as long as few have shown it: this counts as one job."""
SCATTER_LEAST, SCATTER_MOST = 0.02, 1.0
OUTLIER = 3.0
"""What is off by more scatters than this is taken to be off by as many."""
STRAYS = 0.02
"""Of so many jobs nothing that was learned holds."""
PLAUSIBLE = 4.0
"""The range of plausible ends, in scatters to either side."""
GRID = 120


@dataclass(frozen=True, slots=True)
class End:
    """A job that completed: its seconds of audio, as far as is known, and the seconds that it lived."""

    work: float
    seconds: float


@dataclass(frozen=True, slots=True)
class Shown:
    """What an account's ended jobs have shown.

    A job takes ``constant`` seconds and ``per_audio_second`` more for each second of audio; the logarithm of what it
    really takes scatters by ``scatter`` around that. ``typical`` is what a job of the account takes, in seconds, and
    ``typical_work`` its seconds of audio.
    ``few``: too few have ended to tell the constant, and it is nothing.
    """

    constant: float
    per_audio_second: float
    scatter: float
    typical: float
    typical_work: float
    few: bool = False

    def expected(self, work: float) -> tuple[float, float]:
        """The seconds that a job takes for so many seconds of audio, and how widely that scatters."""
        grown = self.constant + self.per_audio_second * work
        # what a job takes may grow with its audio, or not: as long as neither is known, it is between the two
        apart = log(grown / self.typical) / 2.0 if self.few else 0.0
        return grown * exp(-apart), min(hypot(self.scatter, apart), SCATTER_MOST)


@dataclass(frozen=True, slots=True)
class Watch:
    """A live job, as the next look at it is decided.

    ``age`` is the age in seconds at which it was last known to live, 0 as long as nobody looked. ``work`` is its
    seconds of audio. ``shown`` is what the account's jobs have shown, None as long as none has ended.
    """

    age: float
    work: float
    shown: Shown | None


@dataclass(frozen=True, slots=True)
class Look:
    """The next look at a job: how long after it was last known to live, in seconds.

    ``step_seconds`` is how far the look after it is: what comes late by that is as late as any other job by its own.
    """

    wait_seconds: float
    step_seconds: float


def next_look(watch: Watch) -> Look:
    """Decide when to look at a job that is not known to have ended."""
    age = max(watch.age, 0.0)
    wait = _wait(age, watch)
    return Look(wait, _wait(age + wait, watch))


def lived_seconds(accepted_at: float, seen_live_at: float, seen_ended_at: float) -> float:
    """What a job is taken to have lived: to the middle between the looks that saw it live and ended.

    Taken as long as the look that saw its end, jobs would seem longer by every look that comes late, and looks would
    come later for it.

    Args:
        accepted_at: When it was accepted, in seconds since the epoch.
        seen_live_at: When it was last known to live.
        seen_ended_at: When it was first known to have ended.
    """
    return max((max(seen_live_at, accepted_at) + seen_ended_at) / 2.0 - accepted_at, 0.0)


class Experience:
    """The latest ends of an account's jobs, and what they show. ``seen`` counts all that were added."""

    def __init__(self) -> None:
        self.seen = 0
        self._ends: list[End] = []
        self._shown: Shown | None = None
        self._new = 0
        self._told = 0

    def add(self, ends: Iterable[End]) -> bool:
        """Add ends, the latest last; tells whether twice as many are known as when it last said so."""
        found = [one for one in ends if one.work > 0.0 and one.seconds > 0.0]
        self._ends = [*self._ends, *found][-REMEMBERED:]
        self._new += len(found)
        self.seen += len(found)
        # the more is known, the less one end changes
        if self._new * NEWS >= len(self._ends) > 0:
            self._shown, self._new = learn(self._ends), 0
        if len(self._ends) < max(2 * self._told, 1):
            return False
        self._told = len(self._ends)
        return True

    @property
    def shown(self) -> Shown | None:
        """What the ends show, None as long as there is none."""
        return self._shown


def learn(ends: Sequence[End]) -> Shown | None:
    """Tell what ended jobs show of those to come; None where there are none.

    Args:
        ends: Jobs with some audio that lived for some time, the latest last.
    """
    if not ends:
        return None
    weights = [0.5 ** (later / HALF_LIFE) for later in reversed(range(len(ends)))]
    rate = _middle([one.seconds / one.work for one in ends], weights)
    few = len(ends) < ENOUGH_FOR_CONSTANT
    constant, rate = (0.0, rate) if few else _line(ends, weights, rate)
    off = [log(one.seconds / (constant + rate * one.work)) for one in ends]
    shift = _middle(off, weights)
    return Shown(
        constant=constant * exp(shift),
        per_audio_second=rate * exp(shift),
        scatter=_scatter([one - shift for one in off], weights),
        typical=_typical([one.seconds for one in ends], weights),
        typical_work=_typical([one.work for one in ends], weights),
        few=few,
    )


def _line(ends: Sequence[End], weights: Sequence[float], rate: float) -> tuple[float, float]:
    """The constant and the rate that are the least off, as shares of what they foretell; neither is below nothing."""
    constant = 0.0
    for _ in range(FITS):
        count = x = y = xx = xy = 0.0
        for one, weight in zip(ends, weights, strict=True):
            foretold = constant + rate * one.work
            share = abs(one.seconds - foretold) / foretold
            counts = weight / (foretold * foretold) * min(1.0, FAR_OFF / share if share else 1.0)
            count += counts
            x += counts * one.work
            y += counts * one.seconds
            xx += counts * one.work * one.work
            xy += counts * one.work * one.seconds
        apart = count * xx - x * x
        # jobs of about one size tell nothing of the constant
        new = (y * xx - x * xy) / apart if apart > 0.01 * count * xx else constant
        constant = min(max(new, 0.0), y / count)
        rate = max((xy - constant * x) / xx, 0.0)
    return constant, rate


def _scatter(off: Sequence[float], weights: Sequence[float]) -> float:
    """The scatter around nothing, by which an outlier counts as no more than one."""
    most = OUTLIER * max(1.48 * _middle([abs(one) for one in off], weights), SCATTER_LEAST)
    squares = sum(weight * min(abs(one), most) ** 2 for one, weight in zip(off, weights, strict=True))
    return min(max(sqrt((SCATTER_ASSUMED**2 + squares) / (1.0 + sum(weights))), SCATTER_LEAST), SCATTER_MOST)


def _mean(values: Sequence[float], weights: Sequence[float]) -> float:
    return sum(value * weight for value, weight in zip(values, weights, strict=True)) / sum(weights)


def _typical(values: Sequence[float], weights: Sequence[float]) -> float:
    """The square of the mean of the roots: what is long counts, but not as much as it is."""
    root = _mean([sqrt(one) for one in values], weights)
    return root * root


def _middle(values: Sequence[float], weights: Sequence[float]) -> float:
    """The weighted median."""
    ordered = sorted(zip(values, weights, strict=True))
    half = sum(weights) / 2.0
    reached = accumulate(weight for _, weight in ordered)
    return next((value for (value, _), sum_ in zip(ordered, reached, strict=True) if sum_ >= half), ordered[-1][0])


def _wait(age: float, watch: Watch) -> float:
    if watch.shown is None or watch.work <= 0.0:
        return _within_bounds(age * LOOK_SHARE_OF_AGE)
    expected, scatter = watch.shown.expected(watch.work)
    steps, ratio = _steps_of(_rounded(scatter)), age / expected
    wait = steps.after(ratio, sqrt(2.0 * LOOK_PRICE * watch.shown.typical / expected)) - ratio
    least = ratio * scatter / LOOKS_IN_SCATTER
    most = steps.ratios[-1] - ratio if ratio < 1.0 else ratio * LOOK_SHARE_OF_AGE
    return _within_bounds(min(max(wait, least), most) * expected)


def _within_bounds(seconds: float) -> float:
    return min(max(seconds, LOOK_LEAST_SECONDS), LOOK_MOST_SECONDS)


def _rounded(scatter: float) -> float:
    """One of a few scatters, about five in the hundred apart: what follows from each is worked out once."""
    return exp(round(log(scatter) * 20.0) / 20.0)


@dataclass(frozen=True, slots=True)
class _Steps:
    """The integral of the root of the hazard, by the age as a ratio of the expected one."""

    ratios: Sequence[float]
    reached: Sequence[float]

    def after(self, ratio: float, step: float) -> float:
        """The ratio at which the integral is a step farther than at this one; infinite where it never is."""
        if ratio >= self.ratios[-1]:
            return inf
        reached = _between(self.ratios, self.reached, max(ratio, self.ratios[0])) + step
        return _between(self.reached, self.ratios, reached) if reached <= self.reached[-1] else inf


def _between(xs: Sequence[float], ys: Sequence[float], x: float) -> float:
    """The value at ``x`` on the line through the points."""
    at = min(max(bisect_left(xs, x), 1), len(xs) - 1)
    return ys[at - 1] + (x - xs[at - 1]) * (ys[at] - ys[at - 1]) / (xs[at] - xs[at - 1])


@cache
def _steps_of(scatter: float) -> _Steps:
    ratios = [exp(scatter * PLAUSIBLE * (2.0 * place / GRID - 1.0)) for place in range(GRID + 1)]
    roots = [sqrt(_hazard(log(ratio) / scatter) / (scatter * ratio)) for ratio in ratios]
    widths = (after - before for before, after in pairwise(ratios))
    heights = ((root + following) / 2.0 for root, following in pairwise(roots))
    areas = (width * height for width, height in zip(widths, heights, strict=True))
    return _Steps(ratios, list(accumulate(areas, initial=0.0)))


def _hazard(scatters: float) -> float:
    """The hazard of a normal distribution, of which a few never end."""
    density = exp(-scatters * scatters / 2.0) / sqrt(2.0 * pi)
    return density / (erfc(scatters / sqrt(2.0)) / 2.0 + STRAYS)
