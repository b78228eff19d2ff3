"""The live view of a run: a progress bar on a terminal, elsewhere a log line a minute."""

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
UPDATE_SECONDS = 0.5
# the largest share of the time that counting and snapshots may take
SHARE_OF_TIME = 0.01
# the assumed time to write a line of results, until a snapshot has been timed
SECONDS_A_LINE = 20e-6
ENDED = (State.COMPLETED, State.FAILED, State.REFUSED, State.IN_DOUBT, State.DROPPED)


class View:
    """The live view of a run: a progress bar on a terminal, elsewhere a log line a minute.

    Args:
        read: Counts the batch's items; called in a thread.
        limit: Returns the account's limit as it is now.
        bytes_moved: Returns the bytes sent so far.
        snapshot: Writes the results; called in a thread.
        seconds_left: Forecasts the seconds that the run still takes, None where unknown; called in a thread.
        waits: Describes the wait of all sending, empty where there is none.
        bar: Show the bar.
        lines: Log progress lines.
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
        """Show the bar."""
        if self._bar is not None:
            self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        """Remove the bar."""
        if self._bar is not None:
            self._bar.stop()

    @property
    def helpers(self) -> Sequence[Callable[[], Coroutine[Any, Any, None]]]:
        """The view's loops, to run in the background of the engine."""
        return self.update_bar, self.recompute_forecast, self.save_results

    async def update_bar(self) -> None:
        """Count the items and update the bar, or log a progress line, until cancelled."""
        while True:
            begun = time.monotonic()
            standing = await asyncio.to_thread(self._read)
            self._items = standing.items
            self._counted.set()
            self._show(standing)
            least = UPDATE_SECONDS if self._bar is not None else LINE_SECONDS
            await asyncio.sleep(max(least, (time.monotonic() - begun) / SHARE_OF_TIME))

    async def recompute_forecast(self) -> None:
        """Forecast the end until cancelled; in between, the time is counted down."""
        least = UPDATE_SECONDS if self._bar is not None else LINE_SECONDS
        if self._bar is None:
            await asyncio.sleep(least)  # a short run has no use for it
        while self._bar is not None or self._lines:
            begun = time.monotonic()
            seconds = await asyncio.to_thread(self._seconds_left)
            self._ends_at = None if seconds is None else begun + seconds
            await asyncio.sleep(max(least, (time.monotonic() - begun) / SHARE_OF_TIME))

    async def save_results(self) -> None:
        """Write snapshots of the results until cancelled, the first once its cost is a small share of the time."""
        await self._counted.wait()
        cost = self._items * SECONDS_A_LINE
        while True:
            await asyncio.sleep(max(UPDATE_SECONDS, cost / SHARE_OF_TIME))
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
    """Return the log fields on slots held for doubtful items, with the remedy where they block sending."""
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
