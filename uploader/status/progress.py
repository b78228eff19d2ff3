"""The progress of a run: handed to a live view twice a second, or else logged once a minute."""

import asyncio
import time
from collections.abc import Callable, Coroutine, Mapping, Sequence
from functools import reduce
from operator import attrgetter
from typing import Any, NamedTuple, TypeVar

from uploader import logs
from uploader.errors import LedgerAwayError
from uploader.ledger.standing import NOTHING, Standing
from uploader.model import LimitFacts, State
from uploader.policy.held_back import HeldBack
from uploader.results import rfc3339
from uploader.status.formatting import held_back_json

log = logs.get_logger()
T = TypeVar("T")

LINE_SECONDS = 60.0
UPDATE_SECONDS = 0.5
# the largest share of the time that counting and snapshots may take
SHARE_OF_TIME = 0.01
# of the wait for a database, this share counts as a processor's time
SHARE_OF_WAIT = 0.2
# the assumed time to write a line of results, until a snapshot has been timed
SECONDS_A_LINE = 20e-6
ENDED = (State.COMPLETED, State.FAILED, State.REFUSED, State.IN_DOUBT, State.DROPPED)


class Progress(NamedTuple):
    """The progress of a run, at one moment."""

    # seconds since the epoch
    now: float
    # each batch's name, and its items counted by state
    batches: Sequence[tuple[str, Standing]]
    # the account's limit and its live jobs
    limit: LimitFacts
    bytes_per_second: int
    # the forecast; None where nothing is known
    seconds_left: float | None
    # the wait of all sending, in words; empty where there is none
    waits: str
    # what has held the run back so far, as the JSON of every report has it
    held_back: Mapping[str, Any]

    @property
    def standing(self) -> Standing:
        """The items of all batches together."""
        return reduce(Standing.__add__, (found for _, found in self.batches), NOTHING)


def together(runs: Sequence[Progress]) -> Progress:
    """Return the progress of several runs as one; limit and slots are those of the account that they share."""
    latest = max(runs, key=attrgetter("now"))
    left = [run.seconds_left for run in runs if run.seconds_left is not None]
    return latest._replace(
        batches=[batch for run in runs for batch in run.batches],
        bytes_per_second=sum(run.bytes_per_second for run in runs),
        seconds_left=max(left, default=None),
        waits="" if any(not run.waits for run in runs) else latest.waits,
    )


def ended(found: Standing) -> int:
    """Return the number of items that have ended, well or not."""
    return sum(found.counts[state] for state in ENDED)


class ProgressTracker:
    """The loops that count a run's items, forecast its end, and write snapshots of its results.

    Args:
        read: Counts the batch's items; called in a thread.
        limit: Returns the account's limit as it is now.
        bytes_moved: Returns the bytes sent so far.
        snapshot: Writes the results; called in a thread.
        seconds_left: Forecasts the seconds that the run still takes, None where unknown; called in a thread.
        waits: Describes the wait of all sending, empty where there is none.
        show: Shows the progress, twice a second; None: the log has a line a minute.
        lines: Log progress lines where nothing else shows the progress.
        batch: The batch's name.
        held_back: Tells what has held the run back so far.
    """

    def __init__(
        self,
        *,
        read: Callable[[], Standing],
        limit: Callable[[], LimitFacts],
        bytes_moved: Callable[[], int],
        snapshot: Callable[[], None],
        lines: bool,
        show: Callable[[Progress], None] | None = None,
        seconds_left: Callable[[], float | None] = lambda: None,
        waits: Callable[[], str] = lambda: "",
        batch: str = "",
        held_back: Callable[[], HeldBack | None] = lambda: None,
    ) -> None:
        self._read = read
        self._limit = limit
        self._bytes_moved = bytes_moved
        self._snapshot = snapshot
        self._seconds_left = seconds_left
        self._waits = waits
        self._batch = batch
        self._held_back = held_back
        self._ends_at: float | None = None
        self._lines = lines
        self._last_bytes = (time.monotonic(), 0)
        self._items = 0
        self._counted = asyncio.Event()
        self._progress = show
        self._seconds = UPDATE_SECONDS if show is not None else LINE_SECONDS

    @property
    def helpers(self) -> Sequence[Callable[[], Coroutine[Any, Any, None]]]:
        """The loops, to run in the background of the engine."""
        return self.show_progress, self.recompute_forecast, self.save_results

    async def show_progress(self) -> None:
        """Count the items and show or log the progress, until cancelled."""
        standing = NOTHING
        # the first reading builds the statements of all others
        await _read_measured(self._read, standing)
        while True:
            standing, cost = await _read_measured(self._read, standing)
            self._items = standing.items
            self._counted.set()
            self._show(standing)
            await asyncio.sleep(max(self._seconds, cost / SHARE_OF_TIME))

    async def recompute_forecast(self) -> None:
        """Forecast the end until cancelled; in between, the time is counted down."""
        if self._progress is None:
            await asyncio.sleep(self._seconds)  # a short run has no use for it
        while self._progress is not None or self._lines:
            begun = time.monotonic()
            seconds, cost = await _read_measured(self._seconds_left, None)
            self._ends_at = None if seconds is None else begun + seconds
            await asyncio.sleep(max(self._seconds, cost / SHARE_OF_TIME))

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
        left = None if self._ends_at is None else max(self._ends_at - time.monotonic(), 0.0)
        progress = Progress(
            now=time.time(),
            batches=[(self._batch, standing)],
            limit=self._limit(),
            bytes_per_second=self._speed(),
            seconds_left=left,
            waits=self._waits(),
            held_back=held_back_json(self._held_back()),
        )
        if self._progress is not None:
            self._progress(progress)
        elif self._lines:
            _log_progress(progress)

    def _speed(self) -> int:
        then, before = self._last_bytes
        now, moved = time.monotonic(), self._bytes_moved()
        self._last_bytes = (now, moved)
        return int((moved - before) / max(now - then, 0.001))


def measured(read: Callable[[], T]) -> tuple[T, float]:
    """Return a value and its cost in seconds of a processor; of the wait for a database a part counts."""
    begun, used = time.monotonic(), time.thread_time()
    value = read()
    return value, max(time.thread_time() - used, SHARE_OF_WAIT * (time.monotonic() - begun))


async def _read_measured(read: Callable[[], T], former: T) -> tuple[T, float]:
    """Return a value of the ledger and its cost, as ``measured``; the former value while the ledger is away."""
    try:
        return await asyncio.to_thread(measured, read)
    except LedgerAwayError:
        return former, 0.0


def _log_progress(progress: Progress) -> None:
    standing, limit, left = progress.standing, progress.limit, progress.seconds_left
    log.info(
        "run.progress",
        items=standing.items,
        counts={state.value: count for state, count in standing.counts.items() if count},
        live=limit.live,
        limit=limit.in_force,
        **_doubt_in_the_way(standing, limit),
        bytesPerSecond=progress.bytes_per_second,
        secondsLeft=None if left is None else round(left),
    )


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
