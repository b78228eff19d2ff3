"""Foresees when a batch ends: by the order in which the claim takes its items, and what its jobs take."""

import heapq
from array import array
from collections.abc import Iterable, Iterator, Sequence
from statistics import median
from typing import NamedTuple

from uploader.model import Order

END_OF_LANE = -1
_PART = 1 << 16
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
        self.following = array("i")
        """Of each item the place of the next one in its lane, ``END_OF_LANE`` where there is none."""
        self.is_head = bytearray()
        """Of each item whether it is the first one of a lane that waits for no live job."""
        self.awaited: set[int] = set()
        """The live jobs that are waited for, by their place."""
        self._live: dict[int, float] = {}
        """Of each live job, by its place, its age in seconds."""
        self._live_in: dict[int, int] = {}
        """The place of a conversation's live job."""
        self._last = array("i")
        """Of each conversation, by its number, the place of its last item."""
        self._turns: dict[Order, Sequence[int]] = {}
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
        self._live_in[conversation] = len(self.seconds)
        self._live[len(self.seconds)] = age
        self._put_last(conversation)
        self._append(audio_seconds, is_head=False)

    def wait_for(self, conversation: int) -> None:
        """Have the live job of a conversation waited for, though nothing may follow it."""
        if conversation in self._live_in:
            self.awaited.add(self._live_in[conversation])

    def add(self, conversation: int, size: int, audio_seconds: float | None) -> None:
        """Add the next item.

        Args:
            conversation: What tells its conversation from the others: a number from 0, the smaller the better.
            size: Its bytes.
            audio_seconds: How long its audio is, None where that is unknown.
        """
        place = len(self.seconds)
        if audio_seconds is None:
            self.unknown_lengths += 1
            seconds = -float(size)
        else:
            self._known_bytes += size
            self._known_seconds += audio_seconds
            seconds = audio_seconds
        before = self._put_last(conversation)
        self._append(seconds, is_head=before == END_OF_LANE)
        if before != END_OF_LANE:
            self.following[before] = place

    def _put_last(self, conversation: int) -> int:
        """Note that the next item is the last of its conversation; return the place of the one before it."""
        if conversation >= len(self._last):
            missing = conversation + 1 - len(self._last)
            self._last.extend(array("i", [END_OF_LANE]) * max(missing, len(self._last) // 8))
        before, self._last[conversation] = self._last[conversation], len(self.seconds)
        return before

    def _append(self, seconds: float, *, is_head: bool) -> None:
        self.seconds.append(seconds)
        self.following.append(END_OF_LANE)
        self.is_head.append(is_head)
        self._turns.clear()

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
        self._turns.clear()

    def turns(self, order: Order) -> Sequence[int]:
        """Return the places of all items as the claim sorts them: of equal ones the first in the manifest."""
        if order not in self._turns:
            everything = range(len(self.seconds))
            self._turns[order] = everything if order is Order.MANIFEST else self._longest_first()
        return self._turns[order]

    def _longest_first(self) -> Sequence[int]:
        left = array("d", self.seconds)
        for place in reversed(range(len(left))):
            following = self.following[place]
            if following != END_OF_LANE:
                left[place] += left[following]
        # sorted in parts that are merged: a million numbers as objects at once take 70 MiB
        parts = (range(begin, min(begin + _PART, len(left))) for begin in range(0, len(left), _PART))
        in_order = [array("i", sorted(part, key=left.__getitem__, reverse=True)) for part in parts]
        return array("i", heapq.merge(*in_order, key=lambda place: -left[place]))

    def longest(self) -> tuple[int, float]:
        """The lane whose jobs take longest: how many items, and how many seconds they take one after the other."""
        return max(map(self._whole, self._begins()), key=lambda lane: lane[1], default=(0, 0.0))

    @property
    def count(self) -> int:
        """How many lanes have something to append."""
        return sum(1 for _ in self._begins())

    def _begins(self) -> Iterator[int]:
        """The first item of each lane."""
        yield from (place for place, is_head in enumerate(self.is_head) if is_head)
        yield from (self.following[place] for place in self._live if self.following[place] != END_OF_LANE)

    def _whole(self, place: int) -> tuple[int, float]:
        count, seconds = 0, 0.0
        while place != END_OF_LANE:
            count, seconds, place = count + 1, seconds + self.seconds[place], self.following[place]
        return count, seconds


class Forecast(NamedTuple):
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
    turns = lanes.turns(order)
    turn_of: Sequence[int] = turns if isinstance(turns, range) else _inverse(turns)
    heads = (turn for turn, place in enumerate(turns) if lanes.is_head[place])
    next_head = next(heads, None)
    ready: list[int] = []  # the turns of items behind one that has ended
    running = [(lanes.seconds[place], place) for place in lanes.live]
    heapq.heapify(running)
    last = max((lanes.seconds[place] for place in lanes.awaited), default=0.0)
    now, may_begin_at, begun, begun_end = 0.0, 0.0, 0, 0.0
    while ready or running or next_head is not None:
        may_go = bool(ready) or next_head is not None
        if may_go and len(running) < limit and (not running or may_begin_at <= running[0][0]):
            if next_head is None or (ready and ready[0] < next_head):
                place = turns[heapq.heappop(ready)]
            else:
                place, next_head = turns[next_head], next(heads, None)
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
                heapq.heappush(ready, turn_of[following])
    return Forecast(limit, last, begun, begun_end)


def _inverse(turns: Sequence[int]) -> Sequence[int]:
    """Of each place its turn."""
    turn_of = array("i", bytes(4 * len(turns)))
    for turn, place in enumerate(turns):
        turn_of[place] = turn
    return turn_of


def pace_of(jobs: Iterable[tuple[float, float]]) -> float | None:
    """The seconds that a job takes for a second of audio, as the account's jobs have shown; None where none did.

    Args:
        jobs: Of each job the seconds from its upload's begin to its end, and the seconds of its audio.
    """
    shown = [taken / audio for taken, audio in jobs if audio > 0 and taken > 0]
    return median(shown) if shown else None
