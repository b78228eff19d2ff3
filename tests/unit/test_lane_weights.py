"""What an item counts for beside its audio in the order of the lanes, and when that order is made anew."""

import random
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from uploader.policy.durations import MIN_JOBS_FOR_CONSTANT, CompletedJob, DurationHistory
from uploader.policy.lane_weights import MAX_ITEM_SECONDS, LaneWeights, item_seconds, reweigh

ENDS = st.lists(st.builds(CompletedJob, st.floats(1e-4, 1e5), st.floats(1e-3, 1e5)), max_size=200)


def shown_by(takes: Callable[[float], float], jobs: int = 64, scatter: float = 0.0, seed: int = 0) -> DurationHistory:
    """Return the history of so many jobs of heavy-tailed audio; ``takes``: a job's seconds by its seconds of audio."""
    rng, durations = random.Random(seed), DurationHistory()
    for work in (60.0 * rng.lognormvariate(0.0, 1.2) for _ in range(jobs)):
        durations.add([CompletedJob(work, takes(work) * rng.lognormvariate(0.0, scatter))])
    return durations


@pytest.mark.parametrize(
    ("takes", "counts_for"),
    [
        (lambda work: 0.2 * work, 0.0),
        (lambda work: 20.0 + 0.2 * work, 100.0),
        (lambda work: 4.0 + 0.5 * work, 8.0),
        (lambda _: 30.0, MAX_ITEM_SECONDS),
    ],
    ids=["audio alone", "mostly constant", "both", "audio does not matter"],
)
def test_an_item_counts_for_what_every_job_takes(takes: Callable[[float], float], counts_for: float) -> None:
    """An item's weight is a job's constant time, in seconds of audio; it is bounded where audio does not matter."""
    model = shown_by(takes).model
    assert model is not None
    assert item_seconds(model) == pytest.approx(counts_for, rel=0.02, abs=0.01)


@pytest.mark.parametrize("jobs", [0, 1, MIN_JOBS_FOR_CONSTANT - 1])
def test_too_few_jobs_change_nothing(jobs: int) -> None:
    """Before the constant is known, lanes are ordered by their audio."""
    assert reweigh(LaneWeights(), shown_by(lambda work: 20.0 + 0.2 * work, jobs)) is None


@pytest.mark.parametrize(
    ("in_force", "anew"),
    [(0.0, True), (10.0, True), (80.0, False), (100.0, False), (130.0, False), (1000.0, True), (1e4, True)],
)
def test_the_order_changes_where_that_is_material(in_force: float, anew: bool) -> None:
    """Weights that are nearly right stay in force."""
    found = reweigh(LaneWeights(in_force), shown_by(lambda work: 20.0 + 0.2 * work))
    assert (found is not None) is anew


def test_an_order_stands_until_twice_as_many_jobs_have_ended() -> None:
    """New weights cost a write for every lane: even wrong ones are changed only as often as the jobs double."""
    durations = shown_by(lambda work: 20.0 + 0.2 * work)
    assert reweigh(LaneWeights(0.0, completed=33), durations) is None
    found = reweigh(LaneWeights(0.0, completed=32), durations)
    assert found is not None
    assert found.item_seconds == pytest.approx(100.0, rel=0.02)
    assert found.completed == 64


@given(ENDS, st.floats(0.0, MAX_ITEM_SECONDS))
def test_what_is_decided_stands_by_the_same_knowledge(completed: list[CompletedJob], in_force: float) -> None:
    """Weights are within their bounds, and without new jobs they are not decided again."""
    durations = DurationHistory()
    durations.add(completed)
    found = reweigh(LaneWeights(in_force), durations)
    if found is not None:
        assert 0.0 <= found.item_seconds <= MAX_ITEM_SECONDS
        assert reweigh(found, durations) is None
        assert reweigh(LaneWeights(found.item_seconds), durations) is None


@pytest.mark.seeds(1, nightly=3)
@pytest.mark.parametrize("constant", [0.0, 1.0, 8.0, 20.0, 200.0])
def test_a_long_night_has_a_handful_of_orders(constant: float, seed: int) -> None:
    """With ten thousand jobs that scatter widely, the lanes are ordered anew a few times only."""
    rng, durations, in_force, times = random.Random(seed), DurationHistory(), LaneWeights(), 0
    for work in (60.0 * rng.lognormvariate(0.0, 1.2) for _ in range(10_000)):
        durations.add([CompletedJob(work, (constant + 0.2 * work) * rng.lognormvariate(0.0, 0.4))])
        anew = reweigh(in_force, durations)
        times, in_force = times + (anew is not None), anew or in_force
    assert times <= 8
