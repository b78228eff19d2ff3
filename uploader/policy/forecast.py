"""Foresees when a batch ends: by the order in which the claim takes its items, and what its jobs take."""

import heapq
from array import array
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from statistics import median

from uploader.model import Order

END_OF_LANE = -1
BYTES_PER_AUDIO_SECOND = 16000.0
"""What a second of audio is taken to hold where nothing better is known: telephone quality, 8 kHz and 16 bits."""


def audio_seconds(size: int | None, duration_seconds: float | None) -> float:
    """How long a recording is, as far as can be said.

    Args:
        size: Its bytes, None where they are unknown.
        duration_seconds: Its length, None where it is unknown.
    """
    return (size or 0) / BYTES_PER_AUDIO_SECOND if duration_seconds is None else duration_seconds


class Lanes:
    """The items that are still to be appended, in manifest order, behind the jobs that live.

    Kept as numbers side by side: a million items take some 20 MiB.
    """

    def __init__(self) -> None:
        self.seconds = array("d")
        """Of each item the seconds that its job takes; of audio until ``jobs_take`` has said."""
        self.unknown_lengths = 0
        """How many items' audio is of unknown length."""
        self.following = array("q")
        """Of each item the place of the next one in its lane, ``END_OF_LANE`` where there is none."""
        self.heads: list[int] = []
        """The first item of each lane that waits for no live job."""
        self.awaited: set[int] = set()
        """The live jobs that are waited for, by their place."""
        self._live: dict[int, float] = {}
        """Of each live job, by its place, its age in seconds."""
        self._live_in: dict[int, int] = {}
        """The place of a conversation's live job."""
        self._last: dict[int, int] = {}
        self._known_bytes, self._known_seconds = 0, 0.0

    @property
    def live(self) -> Iterable[int]:
        """The places of the live jobs: they hold their slots from the begin."""
        return self._live

    def begin_with(self, conversation: int, audio_seconds: float, age: float) -> None:
        """Take note of a live job, before any item is added: what is added to its lane follows it.

        Args:
            conversation: As for ``add``.
            audio_seconds: How long its audio is, as far as can be said.
            age: For how many seconds it has lived.
        """
        self._last[conversation] = self._live_in[conversation] = len(self.seconds)
        self._live[len(self.seconds)] = age
        self.seconds.append(audio_seconds)
        self.following.append(END_OF_LANE)

    def wait_for(self, conversation: int) -> None:
        """Have the live job of a conversation waited for, though nothing may follow it."""
        if conversation in self._live_in:
            self.awaited.add(self._live_in[conversation])

    def add(self, conversation: int, size: int, audio_seconds: float | None) -> None:
        """Add the next item.

        Args:
            conversation: What tells its conversation from the others: a hash of the id.
            size: Its bytes.
            audio_seconds: How long its audio is, None where that is unknown.
        """
        place = len(self.seconds)
        if audio_seconds is None:
            self.unknown_lengths += 1
            self.seconds.append(-float(size))
        else:
            self._known_bytes += size
            self._known_seconds += audio_seconds
            self.seconds.append(audio_seconds)
        self.following.append(END_OF_LANE)
        before = self._last.get(conversation)
        if before is None:
            self.heads.append(place)
        else:
            self.following[before] = place
        self._last[conversation] = place

    def jobs_take(self, seconds_per_audio_second: float, assumed_bytes_per_second: float) -> None:
        """Turn seconds of audio into seconds of jobs; call it once, when all items are added.

        Args:
            seconds_per_audio_second: What a job takes for a second of audio.
            assumed_bytes_per_second: What a second of audio has, for items of unknown length, where no item of
                this batch has a known one.
        """
        bytes_per_second = assumed_bytes_per_second
        if self._known_bytes and self._known_seconds:
            bytes_per_second = self._known_bytes / self._known_seconds
        for place, audio in enumerate(self.seconds):
            known = audio if audio >= 0 else -audio / bytes_per_second
            self.seconds[place] = max(known * seconds_per_audio_second - self._live.get(place, 0.0), 0.0)

    def ranks(self, order: Order) -> Sequence[float]:
        """Of each item what the claim sorts by: the least goes first, of equal ones the first in the manifest."""
        if order is Order.MANIFEST:
            return range(len(self.seconds))
        left = array("d", self.seconds)
        for place in reversed(range(len(left))):
            following = self.following[place]
            if following != END_OF_LANE:
                left[place] += left[following]
        return array("d", (-seconds for seconds in left))

    def longest(self) -> tuple[int, float]:
        """The lane whose jobs take longest: how many items, and how many seconds they take one after the other."""
        return max(map(self._whole, self._begins()), key=lambda lane: lane[1], default=(0, 0.0))

    @property
    def count(self) -> int:
        """How many lanes have something to append."""
        return sum(1 for _ in self._begins())

    def _begins(self) -> Iterator[int]:
        """The first item of each lane."""
        yield from self.heads
        yield from (self.following[place] for place in self._live if self.following[place] != END_OF_LANE)

    def _whole(self, place: int) -> tuple[int, float]:
        count, seconds = 0, 0.0
        while place != END_OF_LANE:
            count, seconds, place = count + 1, seconds + self.seconds[place], self.following[place]
        return count, seconds


@dataclass(frozen=True, slots=True)
class Forecast:
    """How a batch goes at one limit: when its last job ends, and how many jobs begin in the time there is.

    Live jobs of other batches count as far as they hold slots, and their conversations.

    ``seconds`` are from its begin. ``begun`` counts the items whose job begins before the time is over, and
    ``begun_end_seconds`` is when the last of these ends.
    """

    limit: int
    seconds: float
    begun: int
    begun_end_seconds: float


def foresee(
    lanes: Lanes,
    limit: int,
    per_second: float,
    within_seconds: float = float("inf"),
    order: Order = Order.MANIFEST,
) -> Forecast:
    """Go through the schedule that the engine follows.

    The time that uploads take is part of what their jobs take: a slot is held from the first byte.

    Args:
        lanes: What is to be appended.
        limit: The account's concurrent jobs.
        per_second: How many uploads may begin in a second.
        within_seconds: When nothing new begins any more.
        order: Which of the lanes that may go goes first.
    """
    rank = lanes.ranks(order)
    ready = [(rank[place], place) for place in lanes.heads]
    heapq.heapify(ready)
    running = [(lanes.seconds[place], place) for place in lanes.live]
    heapq.heapify(running)
    last = max((lanes.seconds[place] for place in lanes.awaited), default=0.0)
    now, may_begin_at, begun, begun_end = 0.0, 0.0, 0, 0.0
    while ready or running:
        if ready and len(running) < limit and (not running or may_begin_at <= running[0][0]):
            _, place = heapq.heappop(ready)
            now = max(now, may_begin_at)
            may_begin_at = now + 1.0 / per_second
            end = now + lanes.seconds[place]
            last = max(last, end)
            heapq.heappush(running, (end, place))
            if now < within_seconds:
                begun, begun_end = begun + 1, max(begun_end, end)
        else:
            now, place = heapq.heappop(running)
            following = lanes.following[place]
            if following != END_OF_LANE:
                heapq.heappush(ready, (rank[following], following))
    return Forecast(limit, last, begun, begun_end)


def pace_of(jobs: Iterable[tuple[float, float]]) -> float | None:
    """The seconds that a job takes for a second of audio, as the account's jobs have shown; None where none did.

    Args:
        jobs: Of each job the seconds from its upload's begin to its end, and the seconds of its audio.
    """
    shown = [taken / audio for taken, audio in jobs if audio > 0 and taken > 0]
    return median(shown) if shown else None
