"""What no schedule can beat, and what an ideal one takes: no notice of an end is late, no upload takes time."""

import heapq
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

from uploader.model import Order

Taken = Sequence[tuple[float, int]]
"""How many slots others hold from a time on, in seconds since the begin; in order, none before the first."""


@dataclass(frozen=True, slots=True)
class Job:
    """What one row of the manifest takes: its conversation, and the seconds of its job."""

    conversation: str
    seconds: float


def longest_conversation(jobs: Sequence[Job]) -> float:
    """The seconds of the jobs of the conversation that takes longest: they run one after the other."""
    lanes: dict[str, float] = defaultdict(float)
    for job in jobs:
        lanes[job.conversation] += job.seconds
    return max(lanes.values())


def lower_bound(jobs: Sequence[Job], limit: int, taken: Taken = ()) -> float:
    """What no schedule can beat, in seconds: all jobs in all the slots that there are, or the longest conversation.

    Args:
        jobs: All of them.
        limit: The account's slots.
        taken: What others hold of them.
    """
    return max(_all_slots_busy(sum(job.seconds for job in jobs), limit, taken), longest_conversation(jobs))


def _all_slots_busy(work: float, limit: int, taken: Taken) -> float:
    steps = [(0.0, 0), *taken, (float("inf"), 0)]
    for (begin, others), (end, _) in pairwise(steps):
        room = limit - others
        if room and work <= room * (end - begin):
            return begin + work / room
        work -= room * (end - begin) if room else 0.0
    return float("inf")


def ideal(jobs: Sequence[Job], limit: int, order: Order) -> float:
    """What a schedule takes, in seconds, that knows all jobs and fills each slot at once.

    Args:
        jobs: In the manifest's order, which each conversation keeps to.
        limit: The account's slots.
        order: Which of the conversations that may go goes first.
    """
    lanes: dict[str, list[int]] = defaultdict(list)
    for place, job in enumerate(jobs):
        lanes[job.conversation].append(place)
    ranks = _ranks(jobs, lanes, order)
    ready = [(ranks[places[0]], conversation) for conversation, places in lanes.items()]
    heapq.heapify(ready)
    running: list[tuple[float, str]] = []
    now = 0.0
    while ready or running:
        if ready and len(running) < limit:
            _, conversation = heapq.heappop(ready)
            heapq.heappush(running, (now + jobs[lanes[conversation].pop(0)].seconds, conversation))
        else:
            now, conversation = heapq.heappop(running)
            if lanes[conversation]:
                heapq.heappush(ready, (ranks[lanes[conversation][0]], conversation))
    return now


def _ranks(jobs: Sequence[Job], lanes: dict[str, list[int]], order: Order) -> list[float]:
    if order is Order.MANIFEST:
        return [float(place) for place in range(len(jobs))]
    ranks = [0.0] * len(jobs)
    for places in lanes.values():
        left = 0.0
        for place in reversed(places):
            left += jobs[place].seconds
            ranks[place] = -left
    return ranks
