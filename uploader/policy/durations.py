"""Models how long the account's jobs take, by those that have completed, and schedules the polls of a live job.

A poll costs a request, and a poll that comes late costs a slot's time. With the hazard of an end at an age (its
likelihood in the next moment, given that the job still lives), the sum of both costs is least where every interval
between polls, times the root of the hazard, is the same: polls begin shortly before the earliest plausible end, stand
closest where most jobs end, and grow apart where few are left.
"""

from bisect import bisect_left
from collections.abc import Iterable, Sequence
from functools import cache
from itertools import accumulate, pairwise
from math import erfc, exp, hypot, inf, log, pi, sqrt
from typing import NamedTuple

# the shortest interval between polls of a job: a request costs more than the slot's time that it would save
MIN_POLL_SECONDS = 0.08
# the same where the budget of polls follows the account
MIN_POLL_SECONDS_AUTO = 0.02
# the longest interval: a service that has become faster is noticed after so long
MAX_POLL_SECONDS = 300.0
# the interval as a share of the job's age, where no model exists or the job has outlived the model's range
POLL_SHARE_OF_AGE = 0.15
# the longest interval of a job that is late, as a share of the time by which it is
POLL_SHARE_OF_LATENESS = 0.5
# where no model exists and more jobs than these live, each is polled less often: the first end tells of all of them
MANY_JOBS = 50
MAX_POLL_SHARE_OF_AGE = 0.5
# the cost of a poll, as a share of the time that a typical job holds its slot
POLL_COST = 0.0012
# the most polls within one scatter of the expected end, however long a job is
MAX_POLLS_PER_SCATTER = 16.0

# the model is fitted to so many of the latest completed jobs
HISTORY_SIZE = 64
# a job weighs half as much as one that completed so many jobs later: services change their speed in the night
HALF_LIFE_JOBS = 24.0
# the model is fitted anew once one of so many jobs is new
REFIT_FRACTION = 8
# fewer jobs cannot tell the constant part of a job's time from the part that grows with its audio
MIN_JOBS_FOR_CONSTANT = 8
FIT_ITERATIONS = 4
# a job that is off by more than this share weighs less, the farther it is off (Huber's weights)
HUBER_THRESHOLD = 0.5
# the scatter before any job has completed: it counts as one job, and the less, the more jobs than these are known
PRIOR_SCATTER = 0.4
PRIOR_FADES_AFTER_JOBS = 8.0
MIN_SCATTER, MAX_SCATTER = 0.01, 1.0
# a log error of more than so many median absolute deviations is clipped to them; they are no smaller than this, or
# jobs of which half take the same time would seem to scatter by nothing
OUTLIER_MADS, MIN_MAD = 3.0, 0.05
# the share of jobs that follow no model
OUTLIER_FRACTION = 0.02
# the range of plausible ends, in scatters to either side
RANGE_SCATTERS = 4.0
# a job that ends within so many scatters of its expected end surprises nobody
PLAUSIBLE_SCATTERS = 2.0
# the first poll comes so many scatters, at most this share of the expected seconds, before the expected end at the
# latest: of a job that has ended by then nobody knows how long it took; those that scatter more are polled that early
FIRST_POLL_SCATTERS = 2.5
FIRST_POLL_SHARE = 0.05
GRID_INTERVALS = 120


class CompletedJob(NamedTuple):
    """A job that completed, as the model is fitted to it."""

    # seconds of audio, as far as is known
    work: float
    # seconds from its acceptance to its end
    seconds: float


class DurationModel(NamedTuple):
    """A log-normal model of an account's jobs: ``constant + per_audio_second * work`` seconds, and a scatter."""

    # seconds that every job takes
    constant: float
    # seconds more for each second of audio
    per_audio_second: float
    # standard deviation of the logarithm of a job's seconds
    scatter: float
    # seconds that a typical job takes, and its seconds of audio
    typical_seconds: float
    typical_work: float
    # fitted to too few jobs to tell the constant, which is 0
    is_preliminary: bool = False

    def expected(self, work: float) -> tuple[float, float]:
        """Return the expected seconds of a job with so many seconds of audio, and the scatter of their logarithm."""
        grown = self.constant + self.per_audio_second * work
        # a job's time may grow with its audio, or not: as long as neither is known, expect the middle between the two
        apart = log(grown / self.typical_seconds) / 2.0 if self.is_preliminary else 0.0
        return grown * exp(-apart), min(hypot(self.scatter, apart), MAX_SCATTER)

    def lifetime(self, work: float) -> "Lifetime":
        """Return the lifetime of a job with so many seconds of audio."""
        expected, scatter = self.expected(work)
        grown = exp(PLAUSIBLE_SCATTERS * scatter)
        earliest = expected * exp(-RANGE_SCATTERS * scatter)
        return Lifetime(expected, scatter, earliest, (expected / grown, expected * grown))


class Lifetime(NamedTuple):
    """A job's lifetime by the model: ages in seconds."""

    expected: float
    # standard deviation of its logarithm
    scatter: float
    # no job ends before, but for one in thirty thousand
    earliest: float
    # the ages between which the job plausibly ends
    plausible: tuple[float, float]


class PolledJob(NamedTuple):
    """A live job, as its next poll is scheduled."""

    # age in seconds at which it was last known to live, 0 before its first poll
    age: float
    # seconds of audio
    work: float
    # None before any job of the account has completed
    model: DurationModel | None
    # the shortest interval
    min_seconds: float = MIN_POLL_SECONDS
    # jobs of the account that live, this one included
    live: int = 1
    # a number from 0 to 1 that spreads the polls of jobs that began together
    phase: float = 0.5


class NextPoll(NamedTuple):
    """The next poll of a job."""

    # seconds after the job was last known to live
    wait_seconds: float
    # seconds from this poll to the one after it: the unit in which the job's lateness is compared with others'
    step_seconds: float


def next_poll(job: PolledJob) -> NextPoll:
    """Schedule the next poll of a job that is not known to have ended."""
    age = max(job.age, 0.0)
    wait = _wait(age, job)
    return NextPoll(wait, _wait(age + wait, job))


def ends_within(age: float, lifetime: Lifetime, seconds: float) -> float:
    """Estimate how likely a job that lives ends within so many seconds.

    Args:
        age: The job's age, in seconds.
        lifetime: Its lifetime by the model.
        seconds: From now on.
    """
    # most live jobs are this young whenever the lanes are looked at: two logarithms and error functions less for each
    if age + seconds < lifetime.earliest:
        return 0.0
    alive = _survival(age / lifetime.expected, lifetime.scatter)
    return 1.0 - _survival((age + seconds) / lifetime.expected, lifetime.scatter) / alive


def lived_seconds(
    accepted_at: float, seen_live_at: float, seen_ended_at: float, lifetime: Lifetime | None = None
) -> float | None:
    """Estimate a job's lifetime in seconds: to the middle between the last poll that saw it live and the next one.

    Args:
        accepted_at: When it was accepted, in seconds since the epoch.
        seen_live_at: When it was last known to live.
        seen_ended_at: When it was first known to have ended.
        lifetime: Its lifetime by the model, if there is one.

    Returns:
        None where that middle would tell less than the model: the polls are far apart, and the expected end is
        between them.
    """
    least, most = max(seen_live_at - accepted_at, 0.0), max(seen_ended_at - accepted_at, 0.0)
    if lifetime is not None and least < lifetime.expected < most:
        earliest, latest = lifetime.plausible
        # polls that come late together, or are few, would make all jobs look short
        if most - least > latest - earliest:
            return None
    # to the poll that saw the end, every late poll would lengthen the model, and the model delay the polls
    return (least + most) / 2.0


class DurationHistory:
    """The latest completed jobs of an account, and the model that is fitted to them."""

    def __init__(self) -> None:
        # how many jobs were ever added
        self.added = 0
        self._jobs: list[CompletedJob] = []
        self._model: DurationModel | None = None
        # how many jobs were added since the model was fitted
        self._new = 0
        # how many jobs were known when ``add`` last returned True
        self._announced = 0
        # lifetimes by the model, by seconds of audio: a live job's is asked for again and again
        self._lifetimes: dict[float, Lifetime] = {}

    def add(self, jobs: Iterable[CompletedJob]) -> bool:
        """Add jobs, the latest last; return True where twice as many are known as when it last returned True."""
        usable = [job for job in jobs if job.work > 0.0 and job.seconds > 0.0]
        self._jobs = [*self._jobs, *usable][-HISTORY_SIZE:]
        self._new += len(usable)
        self.added += len(usable)
        # the more jobs are known, the less one of them changes the model
        if self._new * REFIT_FRACTION >= len(self._jobs) > 0:
            self._model, self._new = fit(self._jobs), 0
            self._lifetimes.clear()
        if len(self._jobs) < max(2 * self._announced, 1):
            return False
        self._announced = len(self._jobs)
        return True

    @property
    def model(self) -> DurationModel | None:
        """The model of the jobs; None before the first."""
        return self._model

    def lifetime(self, work: float) -> Lifetime | None:
        """Return the lifetime of a job with so many seconds of audio; None before the first job."""
        known = self._lifetimes.get(work)
        if known is None and self._model is not None:
            known = self._lifetimes[work] = self._model.lifetime(work)
        return known


def fit(jobs: Sequence[CompletedJob]) -> DurationModel | None:
    """Fit a model to completed jobs; None where there are none.

    Args:
        jobs: Jobs whose audio and lifetime are above 0 seconds, the latest last.
    """
    if not jobs:
        return None
    weights = [0.5 ** (later / HALF_LIFE_JOBS) for later in reversed(range(len(jobs)))]
    rate = _median([job.seconds / job.work for job in jobs], weights)
    is_preliminary = len(jobs) < MIN_JOBS_FOR_CONSTANT
    constant, rate = (0.0, rate) if is_preliminary else _fit_line(jobs, weights, rate)
    errors = [log(job.seconds / (constant + rate * job.work)) for job in jobs]
    shift = _median(errors, weights)
    return DurationModel(
        constant=constant * exp(shift),
        per_audio_second=rate * exp(shift),
        scatter=_scatter([error - shift for error in errors], weights),
        typical_seconds=_typical([job.seconds for job in jobs], weights),
        typical_work=_typical([job.work for job in jobs], weights),
        is_preliminary=is_preliminary,
    )


def _fit_line(jobs: Sequence[CompletedJob], weights: Sequence[float], rate: float) -> tuple[float, float]:
    """Fit constant and rate by iteratively reweighted least squares of the relative errors; neither is below 0."""
    constant = 0.0
    for _ in range(FIT_ITERATIONS):
        count = x = y = xx = xy = 0.0
        for job, weight in zip(jobs, weights, strict=True):
            expected = constant + rate * job.work
            error = abs(job.seconds - expected) / expected
            counts = weight / (expected * expected) * min(1.0, HUBER_THRESHOLD / error if error else 1.0)
            count += counts
            x += counts * job.work
            y += counts * job.seconds
            xx += counts * job.work * job.work
            xy += counts * job.work * job.seconds
        apart = count * xx - x * x
        # jobs of about one size tell nothing of the constant
        new = (y * xx - x * xy) / apart if apart > 0.01 * count * xx else constant
        constant = min(max(new, 0.0), y / count)
        rate = max((xy - constant * x) / xx, 0.0)
    return constant, rate


def _scatter(errors: Sequence[float], weights: Sequence[float]) -> float:
    """Return the RMS of the log errors, outliers clipped at three MADs, with one prior observation that fades."""
    most = OUTLIER_MADS * max(1.48 * _median([abs(error) for error in errors], weights), MIN_MAD)
    squares = sum(weight * min(abs(error), most) ** 2 for error, weight in zip(errors, weights, strict=True))
    # a whole observation for ever would be most of the scatter of jobs that all take the same time
    prior = min(PRIOR_FADES_AFTER_JOBS / len(errors), 1.0) ** 2
    scatter = sqrt((prior * PRIOR_SCATTER**2 + squares) / (prior + sum(weights)))
    return min(max(scatter, MIN_SCATTER), MAX_SCATTER)


def _mean(values: Sequence[float], weights: Sequence[float]) -> float:
    return sum(value * weight for value, weight in zip(values, weights, strict=True)) / sum(weights)


def _typical(values: Sequence[float], weights: Sequence[float]) -> float:
    """Return the square of the mean of the roots: long jobs count for more, but not in proportion."""
    root = _mean([sqrt(value) for value in values], weights)
    return root * root


def _median(values: Sequence[float], weights: Sequence[float]) -> float:
    """Return the weighted median."""
    ordered = sorted(zip(values, weights, strict=True))
    half = sum(weights) / 2.0
    reached = accumulate(weight for _, weight in ordered)
    return next((value for (value, _), sum_ in zip(ordered, reached, strict=True) if sum_ >= half), ordered[-1][0])


def _wait(age: float, job: PolledJob) -> float:
    """Return the seconds from a poll at this age to the next one."""
    if job.model is None or job.work <= 0.0:
        more = max(job.live / MANY_JOBS, 1.0) if job.model is None else 1.0
        share = min(POLL_SHARE_OF_AGE * more, MAX_POLL_SHARE_OF_AGE)
        spread = 0.5 + job.phase if more > 1.0 else 1.0
        return _within_bounds(age * share * spread, job.min_seconds * more)
    expected, scatter = job.model.expected(job.work)
    steps, ratio = _steps_of(_rounded(scatter)), age / expected
    wait = steps.after(ratio, sqrt(2.0 * POLL_COST * job.model.typical_seconds / expected)) - ratio
    first = exp(-min(FIRST_POLL_SCATTERS * scatter, FIRST_POLL_SHARE))
    if ratio < first:
        wait = min(wait, first - ratio)
    elif wait == inf and ratio > 1.0:
        wait = (ratio - 1.0) * POLL_SHARE_OF_LATENESS
    least = ratio * scatter / MAX_POLLS_PER_SCATTER
    most = steps.ratios[-1] - ratio if ratio < 1.0 else ratio * POLL_SHARE_OF_AGE
    return _within_bounds(min(max(wait, least), most) * expected, job.min_seconds)


def _within_bounds(seconds: float, min_seconds: float) -> float:
    return min(max(seconds, min_seconds), MAX_POLL_SECONDS)


def _rounded(scatter: float) -> float:
    """Round a scatter to steps of about 5 %, so that the cache of ``_steps_of`` stays small."""
    return exp(round(log(scatter) * 20.0) / 20.0)


class _Steps(NamedTuple):
    """The integral of the root of the hazard over the age."""

    # ages as ratios of the expected lifetime
    ratios: Sequence[float]
    # the integral up to each of them
    reached: Sequence[float]

    def after(self, ratio: float, step: float) -> float:
        """Return the ratio at which the integral has grown by a step; infinite beyond its end."""
        if ratio >= self.ratios[-1]:
            return inf
        reached = _interpolate(self.ratios, self.reached, max(ratio, self.ratios[0])) + step
        return _interpolate(self.reached, self.ratios, reached) if reached <= self.reached[-1] else inf


def _interpolate(xs: Sequence[float], ys: Sequence[float], x: float) -> float:
    """Return the value at ``x`` on the line through the points, which are ordered by ``xs``."""
    at = min(max(bisect_left(xs, x), 1), len(xs) - 1)
    return ys[at - 1] + (x - xs[at - 1]) * (ys[at] - ys[at - 1]) / (xs[at] - xs[at - 1])


@cache
def _steps_of(scatter: float) -> _Steps:
    """Integrate the root of the hazard of a log-normal lifetime by the trapezoidal rule."""
    exponents = (2.0 * place / GRID_INTERVALS - 1.0 for place in range(GRID_INTERVALS + 1))
    ratios = [exp(scatter * RANGE_SCATTERS * exponent) for exponent in exponents]
    roots = [sqrt(_hazard(log(ratio) / scatter) / (scatter * ratio)) for ratio in ratios]
    widths = (after - before for before, after in pairwise(ratios))
    heights = ((root + following) / 2.0 for root, following in pairwise(roots))
    areas = (width * height for width, height in zip(widths, heights, strict=True))
    return _Steps(ratios, list(accumulate(areas, initial=0.0)))


def _survival(ratio: float, scatter: float) -> float:
    """Return the share of jobs that live on at a ratio of their expected seconds; a few never end."""
    alive = erfc(log(ratio) / scatter / sqrt(2.0)) / 2.0 if ratio > 0.0 else 1.0
    return alive + OUTLIER_FRACTION


def _hazard(scatters: float) -> float:
    """Return the hazard of a normal distribution from which the outliers' share never ends."""
    density = exp(-scatters * scatters / 2.0) / sqrt(2.0 * pi)
    return density / (erfc(scatters / sqrt(2.0)) / 2.0 + OUTLIER_FRACTION)
