"""Decides what an item counts for beside its audio, where lanes are ordered by the work that they have left."""

from dataclasses import dataclass

from uploader.policy.foresight import Experience, Shown

MOST_ITEM_SECONDS = 4 * 3600.0
"""As much as the longest audio that the service takes: where audio hardly matters, items are counted."""
MATERIAL = 0.2
"""Lanes are ordered anew where an item's share of what it counts for with typical audio is off by more than this."""


@dataclass(frozen=True, slots=True)
class Ranking:
    """An order of lanes by their seconds of audio, and by ``item_seconds`` more for each of their items.

    ``ends`` is how many jobs had ended when it was decided.
    """

    item_seconds: float = 0.0
    ends: int = 0


def ranked_anew(in_force: Ranking, experience: Experience) -> Ranking | None:
    """Decide whether lanes are to be ordered anew by what the account's jobs have shown; None where the order stands.

    That costs something for every lane: it is not done before twice as many jobs have ended as when it was last done.
    """
    shown = experience.shown
    if shown is None or shown.few or experience.seen < 2 * in_force.ends:
        return None
    anew, audio = item_seconds(shown), shown.typical_work
    off = abs(anew / (anew + audio) - in_force.item_seconds / (in_force.item_seconds + audio))
    return Ranking(anew, experience.seen) if off > MATERIAL else None


def item_seconds(shown: Shown) -> float:
    """What every job takes beside what its audio makes it take, in seconds of audio that take as long."""
    constant, rate = shown.constant, shown.per_audio_second
    return constant / rate if constant < rate * MOST_ITEM_SECONDS else MOST_ITEM_SECONDS
