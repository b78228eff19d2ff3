"""Sums of the files that a run sends."""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import starmap
from typing import NamedTuple


@dataclass(slots=True)
class Amount:
    """A number of files, and their sums."""

    files: int = 0
    size: int = 0
    audio_seconds: float = 0.0
    billed_seconds: float = 0.0
    # files whose billed length is unknown
    unknown_lengths: int = 0

    def add(self, size: int, audio_seconds: float | None, billed_seconds: float | None) -> None:
        """Add a file; None is unknown."""
        self.files += 1
        self.size += size
        self.audio_seconds += audio_seconds or 0.0
        self.billed_seconds += billed_seconds or 0.0
        self.unknown_lengths += billed_seconds is None

    def __add__(self, other: "Amount") -> "Amount":
        """Add two amounts, figure by figure."""
        return Amount(
            self.files + other.files,
            self.size + other.size,
            self.audio_seconds + other.audio_seconds,
            self.billed_seconds + other.billed_seconds,
            self.unknown_lengths + other.unknown_lengths,
        )


class Leftover(NamedTuple):
    """Pending items of another batch."""

    # the name of the batch that named them last
    batch: str
    amount: Amount


@dataclass(frozen=True, slots=True)
class ToSend:
    """The items that a run sends: the batch's own, and the leftovers before them in their lanes."""

    own: Amount = field(default_factory=Amount)
    leftovers: Sequence[Leftover] = ()
    # the batch's own pending items behind one that needs a person, and those that --first leaves out
    held: int = 0
    later: int = 0

    def __add__(self, other: "ToSend") -> "ToSend":
        """Add what a run sends to another account; leftovers are added by batch."""
        leftovers = defaultdict[str, Amount](Amount)
        for batch, amount in (*self.leftovers, *other.leftovers):
            leftovers[batch] += amount
        merged = list(starmap(Leftover, leftovers.items()))
        return ToSend(self.own + other.own, merged, self.held + other.held, self.later + other.later)

    @property
    def all(self) -> Amount:
        """The sum of all that is sent, which ``--max-billed-minutes`` bounds."""
        return sum((leftover.amount for leftover in self.leftovers), self.own)
