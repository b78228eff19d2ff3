"""What is seen of a run while it goes on: a bar on a terminal, elsewhere a line a minute."""

import asyncio
import time
from collections.abc import Callable, Coroutine, Sequence
from typing import TYPE_CHECKING, Any, Self

from uploader import logs
from uploader.ledger.standing import Standing
from uploader.model import LimitFacts, State
from uploader.results import rfc3339
from uploader.status.formatting import (
    format_bytes,
    format_doubt,
    format_duration,
)

if TYPE_CHECKING:
    from uploader.status.bar import Bar

log = logs.get_logger()

LINE_SECONDS = 60.0
LOOK_SECONDS = 0.5
SHARE_OF_TIME = 0.01
"""Counting and snapshots cost at most this share of the time."""
SECONDS_A_LINE = 20e-6
"""What a line of the results takes to write, as long as that was not measured."""
ENDED = (State.COMPLETED, State.FAILED, State.REFUSED, State.IN_DOUBT, State.DROPPED)


class View:
    """Shows a run while it goes on: a bar on a terminal, elsewhere a line a minute.

    Args:
        read: Counts the batch's items; it is called in a thread.
        limit: What is known of the limit now.
        bytes_moved: Bytes sent so far.
        snapshot: Writes the results; called in the same thread, now and then.
        seconds_left: Forecasts how long the run still takes, None where that is not known; called in a thread.
        waits: What sending waits for, empty where it does not.
        bar: Whether to show the bar.
        lines: Whether to log progress lines.
    """

    def __init__(
        self,
        *,
        read: Callable[[], Standing],
        limit: Callable[[], LimitFacts],
        bytes_moved: Callable[[], int],
        snapshot: Callable[[], None],
        bar: bool,
        lines: bool,
        seconds_left: Callable[[], float | None] = lambda: None,
        waits: Callable[[], str] = lambda: "",
    ) -> None:
        self._read = read
        self._limit = limit
        self._bytes_moved = bytes_moved
        self._snapshot = snapshot
        self._seconds_left = seconds_left
        self._waits = waits
        self._ends_at: float | None = None
        self._lines = lines
        self._last_bytes = (time.monotonic(), 0)
        self._items = 0
        self._counted = asyncio.Event()
        self._bar = _bar() if bar else None

    def __enter__(self) -> Self:
        """Put the bar on the terminal."""
        if self._bar is not None:
            self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        """Take it away."""
        if self._bar is not None:
            self._bar.stop()

    @property
    def helpers(self) -> Sequence[Callable[[], Coroutine[Any, Any, None]]]:
        """All that runs beside the engine."""
        return self.update_bar, self.recompute_forecast, self.save_results

    async def update_bar(self) -> None:
        """Count and show, again and again, until cancelled."""
        while True:
            begun = time.monotonic()
            standing = await asyncio.to_thread(self._read)
            self._items = standing.items
            self._counted.set()
            self._show(standing)
            least = LOOK_SECONDS if self._bar is not None else LINE_SECONDS
            await asyncio.sleep(max(least, (time.monotonic() - begun) / SHARE_OF_TIME))

    async def recompute_forecast(self) -> None:
        """Forecast the end, again and again, until cancelled; between two forecasts the time is counted down."""
        least = LOOK_SECONDS if self._bar is not None else LINE_SECONDS
        if self._bar is None:
            await asyncio.sleep(least)  # a short run has no use for it
        while self._bar is not None or self._lines:
            begun = time.monotonic()
            seconds = await asyncio.to_thread(self._seconds_left)
            self._ends_at = None if seconds is None else begun + seconds
            await asyncio.sleep(max(least, (time.monotonic() - begun) / SHARE_OF_TIME))

    async def save_results(self) -> None:
        """Write a snapshot of the results, again and again, until cancelled; the first one once it costs its share."""
        await self._counted.wait()
        cost = self._items * SECONDS_A_LINE
        while True:
            await asyncio.sleep(max(LOOK_SECONDS, cost / SHARE_OF_TIME))
            begun = time.monotonic()
            await asyncio.to_thread(self._snapshot)
            cost = time.monotonic() - begun

    def _show(self, standing: Standing) -> None:
        done = sum(standing.counts[state] for state in ENDED)
        speed = self._speed()
        limit = self._limit()
        left = None if self._ends_at is None else max(self._ends_at - time.monotonic(), 0.0)
        if self._bar is not None:
            waits = self._waits()
            states = [f"{count} {state.value.replace('_', ' ')}" for state, count in standing.counts.items() if count]
            self._bar.show(
                total=standing.items,
                completed=done,
                rate=f"{format_bytes(speed)}/s",
                left="" if left is None else f"{format_duration(left)} left",
                details=[
                    f"{limit.live - limit.doubtful}/{limit.in_force} jobs",
                    *([waits] if waits else []),
                    *([format_doubt(limit)] if limit.doubtful else []),
                    *states,
                ],
            )
        elif self._lines:
            counts = {state.value: count for state, count in standing.counts.items() if count}
            log.info(
                "run.progress",
                items=standing.items,
                counts=counts,
                live=limit.live,
                limit=limit.in_force,
                **_doubt_in_the_way(standing, limit),
                bytesPerSecond=speed,
                secondsLeft=None if left is None else round(left),
            )

    def _speed(self) -> int:
        then, before = self._last_bytes
        now, moved = time.monotonic(), self._bytes_moved()
        self._last_bytes = (now, moved)
        return int((moved - before) / max(now - then, 0.001))


def _doubt_in_the_way(standing: Standing, limit: LimitFacts) -> dict[str, int | str]:
    """The slots that are held for items in doubt; what frees them, where nothing can be sent because of them."""
    if not limit.doubtful:
        return {}
    fields: dict[str, int | str] = {"heldForDoubt": limit.doubtful}
    if limit.doubtful_until is not None:
        fields["heldForDoubtUntil"] = rfc3339(limit.doubtful_until) or ""
    if standing.counts.get(State.PENDING, 0) and limit.live >= limit.in_force:
        fields["waitsFor"] = "slots that are held for items in doubt: `uploader resolve` frees them"
    return fields


def _bar() -> "Bar":
    from uploader.status.bar import Bar  # noqa: PLC0415 - rich is for terminals

    return Bar()
