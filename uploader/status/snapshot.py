"""The snapshot of batches that the page shows: one JSON object, made from the ledger alone."""

import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import reduce
from operator import attrgetter
from typing import Any, Generic, TypeVar

from uploader import __version__
from uploader.ledger import Connection
from uploader.ledger.history import (
    AttemptSpan,
    LaneLeft,
    SlotNow,
    attempt_spans,
    attempts_of_batch,
    longest_lanes,
    slots_now,
)
from uploader.ledger.limit import limit_facts
from uploader.ledger.reading import AccountFacts, BatchFacts, Trouble, find_accounts, find_batches, troubles
from uploader.ledger.standing import NOTHING, Standing, standing
from uploader.model import TROUBLED, Decision, LimitFacts, State
from uploader.policy.resolving import RESOLVABLE
from uploader.results import rfc3339
from uploader.status.formatting import (
    counts_json,
    format_held_back,
    format_limit,
    format_slot_first,
    held_back_json,
    limit_json,
    resolve_command,
    trouble_json,
)
from uploader.status.timeline import PAUSE_SECONDS, Timeline
from uploader.text import printable

T = TypeVar("T")

# the most groups of items that need a person, and the most lines of each
GROUPS_SHOWN = 50
LINES_SHOWN = 10
LANES_SHOWN = 20
# a part of the snapshot is read again once the process has used so many times its cost, or so much time has passed
SHARE_OF_PROCESS = 0.005
SHARE_OF_TIME = 0.002
# the least seconds between two readings of a part
LEAST_SECONDS = 1.0

NO_HISTORY: Mapping[str, Any] = {"from": None, "until": None, "stepSeconds": 1.0, "slots": [], "bytesPerSecond": []}
UNFINISHED = (State.PENDING, State.SENDING, State.SENT, State.ACCEPTED)


@dataclass(frozen=True, kw_only=True)
class SnapshotSource:
    """All that a snapshot is made of."""

    # gives a connection in a transaction that reads
    reading: Callable[[], AbstractContextManager[Connection]]
    account_ids: Sequence[int]
    batch_ids: Sequence[int]
    # the ledger's address, as it is shown
    ledger: str
    # seconds since the epoch
    now: Callable[[], float] = time.time
    # the forecast's seconds until the end, None where unknown
    seconds_left: Callable[[], float | None] = lambda: None
    is_running: Callable[[], bool] = lambda: True


class Paced(Generic[T]):
    """A reading that takes a small share of what the process uses, and is cheap in one that hardly works.

    Args:
        read: Reads the value.
    """

    def __init__(self, read: Callable[[Connection], T]) -> None:
        self._read = read
        self._value: T | None = None
        self._read_at = self._used = 0.0
        # of the last two readings, in seconds of a processor; the first one builds statements and fills caches
        self._costs = (0.0, 0.0)

    def __call__(self, connection: Connection, *, fresh: bool = False) -> T:
        """Return the value, read anew where that is due; ``fresh``: in any case."""
        if self._value is None or fresh or self._is_due():
            begun = time.thread_time()
            self._value = self._read(connection)
            self._costs = (self._costs[1], time.thread_time() - begun)
            self._read_at, self._used = time.monotonic(), time.process_time()
        return self._value

    def _is_due(self) -> bool:
        seconds = time.monotonic() - self._read_at
        if seconds < LEAST_SECONDS:
            return False
        used, cost = time.process_time() - self._used, min(self._costs)
        return cost <= SHARE_OF_PROCESS * used or cost <= SHARE_OF_TIME * seconds


class SnapshotReader:
    """Reads snapshots; what is dear to read is read less often than what is cheap.

    Args:
        source: All that a snapshot is made of.
    """

    def __init__(self, source: SnapshotSource) -> None:
        self._source = source
        self._account = Paced(self._read_account)
        self._counts = Paced(self._read_counts)
        self._history = Paced(_HistoryReader(source).read)
        self._lanes = Paced(self._read_lanes)
        self._ends_at = Paced(self._read_end)

    def read(self, *, fresh: bool = False) -> dict[str, Any]:
        """Return the snapshot as JSON; ``fresh``: as it is now, whatever that costs."""
        source = self._source
        with source.reading() as connection:
            batches, accounts = self._account(connection, fresh=fresh)
            found, needs = self._counts(connection, fresh=fresh)
            is_running = source.is_running()
            (ends_at,) = self._ends_at(connection) if is_running and not found.is_over else (None,)
            if ends_at is not None and ends_at < source.now():
                ends_at = None  # it was a wrong one: the next is to come
            snapshot = {
                "run": run_json(batches, source.ledger, is_running=is_running),
                "going": going(found, batches, is_running=is_running, ends_at=ends_at),
                "needs": needs_json(needs, found, source.ledger),
                "progress": progress_json(found),
                "accounts": accounts,
                "heldBack": held_back_of(batches),
                "history": self._history(connection, fresh=fresh),
                "lanes": self._lanes(connection, fresh=fresh),
            }
        shown: dict[str, Any] = shown_json(snapshot)
        return shown

    def _read_account(self, connection: Connection) -> tuple[list[BatchFacts], list[dict[str, Any]]]:
        source, now = self._source, self._source.now()
        return find_batches(connection, ids=source.batch_ids), accounts_json(connection, source.account_ids, now)

    def _read_lanes(self, connection: Connection) -> dict[str, Any]:
        found = [longest_lanes(connection, account_id, LANES_SHOWN) for account_id in self._source.account_ids]
        lanes = sorted((lane for lanes, _ in found for lane in lanes), key=attrgetter("audio_seconds"), reverse=True)
        shown = lanes[:LANES_SHOWN]
        return {"lanes": [_lane_json(lane) for lane in shown], "more": sum(count for _, count in found) - len(shown)}

    def _read_counts(self, connection: Connection) -> tuple[Standing, list[Trouble]]:
        """Read the counts, and what needs a person: of one moment, so that their numbers agree."""
        batch_ids = self._source.batch_ids
        found = reduce(Standing.__add__, (standing(connection, batch_id) for batch_id in batch_ids), NOTHING)
        needs = [troubles(connection, batch_id, LINES_SHOWN) for batch_id in batch_ids]
        return found, [trouble for batch in needs for trouble in batch]

    def _read_end(self, _connection: Connection) -> tuple[float | None]:
        seconds = self._source.seconds_left()
        return (None if seconds is None else self._source.now() + seconds,)


class _HistoryReader:
    """Reads the night's timeline; an attempt that is over is read once."""

    def __init__(self, source: SnapshotSource) -> None:
        self._source = source
        self._next: int | None = None
        self._open: list[AttemptSpan] = []
        self._timeline: Timeline | None = None

    def read(self, connection: Connection) -> Mapping[str, Any]:
        """Return the timeline as JSON."""
        now = self._source.now()
        if self._next is None:
            found = (attempts_of_batch(connection, batch_id) for batch_id in self._source.batch_ids)
            self._next = min((attempts[0] for attempts in found if attempts is not None), default=None)
        if self._next is None:
            return NO_HISTORY
        open_ids = [span.attempt_id for span in self._open]
        self._open = []
        for span in attempt_spans(connection, self._source.account_ids, self._next, open_ids):
            self._next = max(self._next, span.attempt_id + 1)
            if self._timeline is None or span.started_at > self._timeline.end + PAUSE_SECONDS:
                self._timeline = Timeline(span.started_at)
            if span.is_open_at(now):
                self._open.append(span)
            else:
                self._timeline.add(span, now)
        return NO_HISTORY if self._timeline is None else self._timeline.with_open(self._open, now).as_json()


def idle_json(text: str, ledger: str = "") -> dict[str, Any]:
    """Return a snapshot of no batch, as JSON; ``text``: the sentence at its top."""
    return {
        "run": run_json([], ledger, is_running=False),
        "going": {"level": "idle", "text": text, "endsAt": None},
        "needs": needs_json([], NOTHING, ledger),
        "progress": progress_json(NOTHING),
        "accounts": [],
        "heldBack": held_back_of([]),
        "history": NO_HISTORY,
        "lanes": {"lanes": [], "more": 0},
    }


def going(
    found: Standing, batches: Sequence[BatchFacts], *, is_running: bool, ends_at: float | None = None
) -> dict[str, Any]:
    """Return how the batches go, as JSON: a level for its colour, one sentence, and the forecast's end."""
    counts = found.counts
    open_items = sum(counts[state] for state in TROUBLED) + found.overdue
    left = sum(counts[state] for state in UNFINISHED) - found.overdue
    done = f"{counts[State.COMPLETED] + counts[State.DROPPED]:,} of {_items(found.items)} done"
    waits = [(batch.held_back or {}).get("waitsFor") for batch in batches]
    wait = next(filter(None, waits), None)
    need = f"{_items(open_items)} {'needs' if open_items == 1 else 'need'} a person"
    if found.is_over:
        level, text = "done", f"Done: nothing is left to do, {done}."
    elif left <= 0:
        level, text = "needs", f"Over for now: {need}, {done}."
    elif not is_running:
        level, text = "idle", f"No run is on: {_items(left)} still to be done, {done}."
    elif wait:
        level, text = "waits", f"Sending waits for {wait}: {done}."
    elif open_items:
        level, text = "needs", f"Going on, and {need}: {done}."
    else:
        level, text = "well", f"Going well: {done}."
    return {"level": level, "text": text, "endsAt": rfc3339(_rounded(ends_at))}


def _items(count: int) -> str:
    """Format a number of items, with separators where it is large."""
    return f"{count:,} item" + ("" if count == 1 else "s")


def _rounded(seconds: float | None) -> float | None:
    """Round to ten seconds: a forecast that moves by less is no news."""
    return None if seconds is None else round(seconds / 10) * 10.0


def needs_json(found: Sequence[Trouble], counted: Standing, ledger: str) -> dict[str, Any]:
    """Return the items that need a person as JSON: the gravest first, with the commands that settle them."""
    order = (State.IN_DOUBT, State.FAILED, State.REFUSED, State.ACCEPTED)
    sorted_ = sorted(found, key=lambda trouble: order.index(trouble.state) if trouble.state in order else len(order))
    shown = sorted_[:GROUPS_SHOWN]
    return {
        "items": sum(trouble.items for trouble in found),
        "held": counted.counts[State.HELD],
        # the commands settle the lines that are listed: fewer than the group's where it is large
        "groups": [
            {**trouble_json(trouble), "commands": commands(trouble, ledger), "settled": len(trouble.lines)}
            for trouble in shown
        ],
        "more": sum(trouble.items for trouble in sorted_[GROUPS_SHOWN:]),
    }


def commands(trouble: Trouble, ledger: str) -> list[str]:
    """Return the commands that settle the listed items of a group, one for each decision that there is."""
    if not trouble.lines:
        return [resolve_command(trouble.batch, ledger)]
    lines = ",".join(map(str, trouble.lines))
    decisions = [decision for decision in Decision if trouble.state in RESOLVABLE[decision]]
    return [resolve_command(trouble.batch, ledger, "--line", lines, f"--{decision.value}") for decision in decisions]


def progress_json(found: Standing) -> dict[str, Any]:
    """Return how far batches are as JSON."""
    return {
        "items": found.items,
        "counts": counts_json(found.counts),
        "overdue": found.overdue,
        "attempts": found.attempts,
        "bytes": found.bytes_all,
        "bytesDone": found.bytes_done,
        "billedMinutes": {state.value: minutes for state, minutes in found.billed_minutes.items()},
        "unknownLengths": found.unknown_lengths,
    }


def accounts_json(connection: Connection, account_ids: Sequence[int], now: float) -> list[dict[str, Any]]:
    """Read the slots and limits of accounts as JSON, those of the first account first."""
    known = find_accounts(connection)
    return [
        account_json(
            known[account_id],
            limit_facts(connection, account_id, None, now),
            slots_now(connection, account_id, now),
        )
        for account_id in account_ids
    ]


def account_json(account: AccountFacts, limit: LimitFacts, slots: Sequence[SlotNow]) -> dict[str, Any]:
    """Return an account's slots and its limit as JSON."""
    return {
        "key": str(account.account_id),
        "name": account.name,
        "baseUrl": account.base_url,
        "limit": limit_json(limit),
        "limitText": format_limit(limit),
        "slotFirstText": format_slot_first(limit),
        "sending": limit.sending,
        "slots": [_slot_json(slot) for slot in slots],
        "moreSlots": max(limit.live - len(slots), 0),
    }


def held_back_of(batches: Sequence[BatchFacts]) -> dict[str, Any]:
    """Return what has held the latest run of batches back as JSON."""
    found = next((batch.held_back for batch in batches if batch.held_back), None) or held_back_json(None)
    return {**found, "text": format_held_back(found)}


def _slot_json(slot: SlotNow) -> dict[str, Any]:
    return {
        "state": slot.state.value,
        "batch": slot.batch,
        "line": slot.line,
        "conversationId": slot.conversation_id,
        "jobId": slot.job_id,
        "since": rfc3339(slot.since),
        "until": rfc3339(slot.until),
        "durationSeconds": slot.duration_seconds,
    }


def _lane_json(lane: LaneLeft) -> dict[str, Any]:
    return {
        "conversationId": lane.conversation_id,
        "items": lane.items,
        "audioSeconds": round(lane.audio_seconds, 1),
        "isBusy": lane.is_busy,
    }


def run_json(batches: Sequence[BatchFacts], ledger: str, *, is_running: bool) -> dict[str, Any]:
    """Return which batches are shown, and of what, as JSON."""
    return {
        "version": __version__,
        "batches": [batch.name for batch in batches],
        "baseUrls": sorted({batch.base_url for batch in batches}),
        "ledger": ledger,
        "running": is_running,
    }


def shown_json(value: Any) -> Any:
    """Escape in every string what a browser or a terminal would obey or hide: control characters and bidi marks."""
    if isinstance(value, str):
        return printable(value)
    if isinstance(value, Mapping):
        return {name: shown_json(inner) for name, inner in value.items()}
    if isinstance(value, Sequence):
        return [shown_json(inner) for inner in value]
    return value
