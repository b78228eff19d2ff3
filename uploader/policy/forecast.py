"""Forecasts the end of a batch, by the order in which the claim takes its items and the expected time of its jobs."""

import heapq
from array import array
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import NamedTuple

from uploader.model import Order
from uploader.policy.held_back import HeldBack, SlotUse

END_OF_LANE = -1
_PART = 1 << 16
# the assumed size of a second of audio where nothing better is known: telephone quality, 8 kHz and 16 bits
BYTES_PER_AUDIO_SECOND = 16000.0


def audio_seconds(size: int | None, duration_seconds: float | None) -> float:
    """Return a recording's length in seconds, estimated from its size where it is unknown.

    Args:
        size: Its bytes; None where they are unknown.
        duration_seconds: Its length; None where it is unknown.
    """
    return (size or 0) / BYTES_PER_AUDIO_SECOND if duration_seconds is None else duration_seconds


class Lanes:
    """The lanes of the items that are still to be appended, in manifest order, behind the live jobs.

    An item is known by its place in parallel arrays: a million items take some 20 MiB.
    """

    def __init__(self) -> None:
        # the job's seconds by item; the audio's seconds until ``set_job_seconds`` was called
        self.seconds = array("d")
        # the number of items whose audio is of unknown length
        self.unknown_lengths = 0
        # the place of the next item in the lane by item, ``END_OF_LANE`` where there is none
        self.following = array("i")
        # 1 for the first item of a lane that waits for no live job
        self.is_head = bytearray()
        # the places of the live jobs that the batch waits for
        self.awaited: set[int] = set()
        # the age in seconds by live job
        self._live: dict[int, float] = {}
        # the place of the live job by conversation
        self._live_in: dict[int, int] = {}
        # the place of the last item by conversation
        self._last = array("i")
        self._turns: dict[Order, Sequence[int]] = {}
        self._known_bytes, self._known_seconds = 0, 0.0

    @property
    def live(self) -> Iterable[int]:
        """The places of the live jobs, which hold slots from the start."""
        return self._live

    def begin_with(self, conversation: int, audio_seconds: float, age: float) -> None:
        """Add a live job at the head of its lane; all are added before the first item.

        Args:
            conversation: As for ``add``.
            audio_seconds: The known or estimated length of its audio.
            age: Seconds since it was accepted.
        """
        self._live_in[conversation] = len(self.seconds)
        self._live[len(self.seconds)] = age
        self._put_last(conversation)
        self._append(audio_seconds, is_head=False)

    def wait_for(self, conversation: int) -> None:
        """Count the end of a conversation's live job as part of the batch, though no item may follow it."""
        if conversation in self._live_in:
            self.awaited.add(self._live_in[conversation])

    def add(self, conversation: int, size: int, audio_seconds: float | None) -> None:
        """Add the next item.

        Args:
            conversation: The number of its conversation, from 0; an array is kept up to the largest.
            size: Its bytes.
            audio_seconds: The length of its audio; None where that is unknown.
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
        """Make the next item the last of its conversation; return the place of the one before it."""
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

    def set_job_seconds(self, seconds_per_audio_second: float, assumed_bytes_per_second: float) -> None:
        """Turn seconds of audio into seconds of jobs; called once, when all items are added.

        Args:
            seconds_per_audio_second: A job's seconds for a second of audio.
            assumed_bytes_per_second: The size of a second of audio, for items of unknown length where no item of
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
        """Return the places of all items as the claim sorts them; equal items in the manifest's order."""
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
        # sort in parts and merge them: a million numbers as objects at once take 70 MiB
        parts = (range(begin, min(begin + _PART, len(left))) for begin in range(0, len(left), _PART))
        in_order = [array("i", sorted(part, key=left.__getitem__, reverse=True)) for part in parts]
        return array("i", heapq.merge(*in_order, key=lambda place: -left[place]))

    def longest(self) -> tuple[int, float]:
        """Return the items and the summed seconds of the lane whose jobs take longest."""
        return max(map(self._whole, self._begins()), key=lambda lane: lane[1], default=(0, 0.0))

    @property
    def count(self) -> int:
        """The number of lanes with an item to append."""
        return sum(1 for _ in self._begins())

    def _begins(self) -> Iterator[int]:
        """Yield the first item of each lane."""
        yield from (place for place, is_head in enumerate(self.is_head) if is_head)
        yield from (self.following[place] for place in self._live if self.following[place] != END_OF_LANE)

    def _whole(self, place: int) -> tuple[int, float]:
        count, seconds = 0, 0.0
        while place != END_OF_LANE:
            count, seconds, place = count + 1, seconds + self.seconds[place], self.following[place]
        return count, seconds


class Forecast(NamedTuple):
    """The predicted course of a batch at one limit; times are seconds from its start."""

    limit: int
    # the end of the last job
    seconds: float
    # items whose job begins within the time allowed, and the end of the last of them
    begun: int
    begun_end_seconds: float
    # the causes that a forecast can tell; None where no time passes until the last item begins
    held_back: HeldBack | None


def forecast_batch(
    lanes: Lanes,
    limit: int,
    per_second: float,
    within_seconds: float = float("inf"),
    order: Order = Order.MANIFEST,
) -> Forecast:
    """Simulate the schedule that the engine follows.

    The time of an upload is part of its job's time: a slot is held from the first byte.

    Args:
        lanes: The items to append, and the live jobs before them.
        limit: The account's concurrent jobs.
        per_second: The most uploads that begin in a second.
        within_seconds: No item begins later.
        order: The order in which ready lanes are taken.
    """
    turns = lanes.turns(order)
    turn_of: Sequence[int] = turns if isinstance(turns, range) else _inverse(turns)
    heads = (turn for turn, place in enumerate(turns) if lanes.is_head[place])
    next_head = next(heads, None)
    ready: list[int] = []  # the turns of items whose predecessor in the lane has ended
    running = [(lanes.seconds[place], place) for place in lanes.live]
    heapq.heapify(running)
    last = max((lanes.seconds[place] for place in lanes.awaited), default=0.0)
    now, may_begin_at, begun, begun_end = 0.0, 0.0, 0, 0.0
    # items that have not begun, and the seconds that slots idle meanwhile
    left, last_begin = len(turns) - len(running), 0.0
    idle = {SlotUse.LANES: 0.0, SlotUse.RATE: 0.0}
    while ready or running or next_head is not None:
        may_go = bool(ready) or next_head is not None
        if may_go and len(running) < limit and (not running or may_begin_at <= running[0][0]):
            if next_head is None or (ready and ready[0] < next_head):
                place = turns[heapq.heappop(ready)]
            else:
                place, next_head = turns[next_head], next(heads, None)
            idle[SlotUse.RATE] += max(may_begin_at - now, 0.0) * (limit - len(running))
            left, now = left - 1, max(now, may_begin_at)
            last_begin = now
            may_begin_at = now + 1.0 / per_second
            end = now + lanes.seconds[place]
            last = max(last, end)
            heapq.heappush(running, (end, place))
            if now < within_seconds:
                begun, begun_end = begun + 1, max(begun_end, end)
        else:
            if left:
                cause = SlotUse.RATE if may_go else SlotUse.LANES
                idle[cause] += (running[0][0] - now) * max(limit - len(running), 0)
            now, place = heapq.heappop(running)
            following = lanes.following[place]
            if following != END_OF_LANE:
                heapq.heappush(ready, turn_of[following])
    return Forecast(limit, last, begun, begun_end, _held_back(idle, limit * last_begin))


def _held_back(idle: Mapping[SlotUse, float], slot_seconds: float) -> HeldBack | None:
    """Turn idle seconds into shares of all slots' seconds until the last item begins."""
    if not slot_seconds:
        return None
    causes = {cause.value: seconds / slot_seconds for cause, seconds in idle.items() if seconds}
    return HeldBack(1.0 - sum(causes.values()), causes)


def _inverse(turns: Sequence[int]) -> Sequence[int]:
    """Return the turn of each place."""
    turn_of = array("i", bytes(4 * len(turns)))
    for turn, place in enumerate(turns):
        turn_of[place] = turn
    return turn_of


def pace_of(jobs: Iterable[tuple[float, float]]) -> float | None:
    """Return the median seconds of a job for a second of audio; None where no job tells it.

    Args:
        jobs: Of each job the seconds from its upload's begin to its end, and the seconds of its audio.
    """
    paces = sorted(taken / audio for taken, audio in jobs if audio > 0 and taken > 0)
    middle = len(paces) // 2
    # statistics.median takes 3 ms to import
    return (paces[middle] + paces[~middle]) / 2 if paces else None
