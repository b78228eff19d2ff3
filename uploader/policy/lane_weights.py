"""Decides how much an item weighs beside its audio, where lanes are ordered by the work that they have left."""

from typing import NamedTuple

from uploader.policy.durations import DurationHistory, DurationModel

# the longest audio that the service takes: where audio hardly matters, items are counted
MAX_ITEM_SECONDS = 4 * 3600.0
# lanes are ordered anew where an item's constant share of its typical weight is off by more than this
REWEIGH_THRESHOLD = 0.2


class LaneWeights(NamedTuple):
    """The weights by which lanes are ordered: their seconds of audio, and a constant for each of their items."""

    # the weight of an item beside its audio, in seconds of audio
    item_seconds: float = 0.0
    # how many jobs had completed when the weights were decided
    completed: int = 0


def reweigh(in_force: LaneWeights, durations: DurationHistory) -> LaneWeights | None:
    """Decide the weights that lanes are ordered by from now on; None keeps those in force.

    Args:
        in_force: The weights that lanes are ordered by.
        durations: The latest completed jobs of the account.
    """
    model = durations.model
    # new weights cost a write for every lane: not before twice as many jobs have completed as at the last decision
    if model is None or model.is_preliminary or durations.added < 2 * in_force.completed:
        return None
    weight, audio = item_seconds(model), model.typical_work
    off = abs(weight / (weight + audio) - in_force.item_seconds / (in_force.item_seconds + audio))
    return LaneWeights(weight, durations.added) if off > REWEIGH_THRESHOLD else None


def item_seconds(model: DurationModel) -> float:
    """Return the seconds of audio that take as long as the constant part of a job, ``MAX_ITEM_SECONDS`` at most."""
    constant, rate = model.constant, model.per_audio_second
    return constant / rate if constant < rate * MAX_ITEM_SECONDS else MAX_ITEM_SECONDS
