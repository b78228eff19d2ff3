"""Shows a batch: progress bar, progress lines, summary."""

import asyncio
import shlex
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

import structlog
from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeRemainingColumn
from rich.table import Column

from uploader.errors import ExitCode
from uploader.ledger.reading import BatchFacts, Standing, Trouble
from uploader.model import LimitFacts, State
from uploader.results import rfc3339

log = structlog.get_logger()

LINE_SECONDS = 60.0
LOOK_SECONDS = 0.5
SHARE_OF_TIME = 0.02
"""Counting and snapshots cost at most this share of the time."""
SHARE_WORTH_TELLING = 0.1
HOW_TO_RAISE_THE_LIMIT = "--limit says what your account may have, and support@symbl.ai is to be asked for more"
"""What the documentation says to who needs more concurrent jobs (put-audio.md, API Limit Error)."""
ENDED = (State.COMPLETED, State.FAILED, State.REFUSED, State.IN_DOUBT, State.DROPPED)


@dataclass(frozen=True, slots=True)
class Summary:
    """The closing summary of a batch. ``seconds`` is the run's time, ``bytes_sent`` what left in it."""

    batch: str
    exit_code: ExitCode
    standing: Standing
    bytes_sent: int
    seconds: float
    results: str | None
    ledger: Path
    limit: LimitFacts
    throttled: int
    leftovers: int
    troubles: Sequence[Trouble]
    slot_wait_seconds: float = 0.0
    """How long of it conversations were ready while no slot was free."""
    rehearsal: bool = False
    """Whether it went to the sandbox inside: its ledger is gone."""
    reason: str = ""
    again: Sequence[str] = field(default=())
    """The command that carries on, word by word."""

    def as_json(self) -> dict[str, Any]:
        """The summary for a machine."""
        return {
            "batch": self.batch,
            "exitCode": int(self.exit_code),
            "items": self.standing.items,
            "counts": _counts_json(self.standing.counts),
            "overdue": self.standing.overdue,
            "attempts": self.standing.attempts,
            "billedMinutes": {state.value: minutes for state, minutes in self.standing.billed_minutes.items()},
            "unknownLengths": self.standing.unknown_lengths,
            "bytesSent": self.bytes_sent,
            "seconds": round(self.seconds, 3),
            "results": self.results,
            "ledger": str(self.ledger),
            "limit": _limit_json(self.limit),
            "throttled": self.throttled,
            "slotWaitSeconds": round(self.slot_wait_seconds, 3),
            "leftovers": self.leftovers,
            "needsPerson": [_trouble_json(one) for one in self.troubles],
            "reason": self.reason or None,
            "next": self.next_step() or None,
        }

    def as_text(self) -> str:
        """The summary for a person: what happened, what needs them, what to type next."""
        lines = [f"{self.batch}: {told_count(self.standing.items, 'item')}: {_told_counts(self.standing.counts)}"]
        lines.append(
            f"  sent      {told_bytes(self.bytes_sent)} in {self.seconds:.1f} s; "
            f"{told_count(self.standing.attempts, 'attempt')} in all, {self.throttled} met the account's limit"
        )
        lines.append(f"  billed    {_told_billed(self.standing)}")
        lines.append(f"  limit     {_told_limit(self.limit)}")
        if waited := self._told_wait():
            lines.append(f"  waited    {waited}")
        if self.results:
            lines.append(f"  results   {_from_here(self.results)}")
        lines.append("  ledger    " + ("(the sandbox's, thrown away)" if self.rehearsal else str(self.ledger)))
        if self.leftovers:
            lines.append(
                f"  leftover  {told_count(self.leftovers, 'item')} of other batches still wait; run their batches "
                "(`uploader status` names them)"
            )
        if self.reason:
            lines.append(f"  stopped   {self.reason}")
        if self.troubles:
            lines.append("  needs a person:")
            lines += [f"    {_told_trouble(one)}" for one in self.troubles]
        if step := self.next_step():
            lines.append(f"  next      {step}")
        return "\n".join(lines)

    def _told_wait(self) -> str:
        """Say that the limit was what the run waited for, and how it is raised; empty where it was not."""
        if not self.throttled and self.slot_wait_seconds < SHARE_WORTH_TELLING * self.seconds:
            return ""
        after = " and after 429s" if self.throttled else ""
        return f"{self.slot_wait_seconds:.1f} s for a free slot{after}; {HOW_TO_RAISE_THE_LIMIT}"

    def next_step(self) -> str:
        """The next command to type, empty where all is done."""
        if self.exit_code is ExitCode.DONE:
            return ""
        if self.exit_code in (ExitCode.NEEDS_PERSON, ExitCode.IN_DOUBT):
            if self.rehearsal:
                return ""  # there is no ledger to ask any more
            return resolve_command(self.batch, self.ledger)
        return shlex.join(self.again)


class View:
    """Shows a run while it goes on: a bar on a terminal, elsewhere a line a minute.

    Args:
        read: Counts the batch's items; it is called in a thread.
        limit: What is known of the limit now.
        bytes_moved: Bytes sent so far.
        snapshot: Writes the results; called in the same thread, now and then.
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
    ) -> None:
        self._read = read
        self._limit = limit
        self._bytes_moved = bytes_moved
        self._snapshot = snapshot
        self._lines = lines
        self._last_bytes = (time.monotonic(), 0)
        self._bar: Progress | None = _progress() if bar else None
        self._task: TaskID | None = None

    def __enter__(self) -> Self:
        """Put the bar on the terminal."""
        if self._bar is not None:
            self._bar.start()
            self._task = self._bar.add_task("", total=None, states="", jobs="", speed="")
        return self

    def __exit__(self, *_: object) -> None:
        """Take it away."""
        if self._bar is not None:
            self._bar.stop()

    async def refresh_bar(self) -> None:
        """Count and show, again and again, until cancelled."""
        while True:
            begun = time.monotonic()
            standing = await asyncio.to_thread(self._read)
            self._show(standing)
            least = LOOK_SECONDS if self._bar is not None else LINE_SECONDS
            await asyncio.sleep(max(least, (time.monotonic() - begun) / SHARE_OF_TIME))

    async def refresh_results(self) -> None:
        """Write a snapshot of the results, again and again, until cancelled."""
        cost = 0.0
        while True:
            await asyncio.sleep(max(LOOK_SECONDS, cost / SHARE_OF_TIME))
            begun = time.monotonic()
            await asyncio.to_thread(self._snapshot)
            cost = time.monotonic() - begun

    def _show(self, standing: Standing) -> None:
        done = sum(standing.counts[state] for state in ENDED)
        speed = self._speed()
        limit = self._limit()
        if self._bar is not None and self._task is not None:
            self._bar.update(
                self._task,
                total=standing.items,
                completed=done,
                states=_told_counts(standing.counts),
                jobs=f"{limit.live}/{limit.in_force} jobs",
                speed=f"{told_bytes(speed)}/s",
            )
        elif self._lines:
            counts = {state.value: count for state, count in standing.counts.items() if count}
            log.info(
                "progress",
                items=standing.items,
                **counts,
                live=limit.live,
                limit=limit.in_force,
                bytesPerSecond=speed,
            )

    def _speed(self) -> int:
        then, before = self._last_bytes
        now, moved = time.monotonic(), self._bytes_moved()
        self._last_bytes = (now, moved)
        return int((moved - before) / max(now - then, 0.001))


@dataclass(frozen=True, slots=True)
class Overview:
    """What a ledger holds, with one batch looked at more closely. ``busy``: a run holds the ledger."""

    ledger: Path
    busy: bool
    limit: LimitFacts
    batch: BatchFacts
    troubles: Sequence[Trouble]
    batches: Sequence[tuple[BatchFacts, Standing]]
    exit_code: ExitCode

    def _where(self, facts: BatchFacts) -> str:
        """For which service a batch is, where the ledger has more than one."""
        several = len({one.base_url for one, _ in self.batches}) > 1
        return f" ({facts.base_url})" if several else ""

    def as_json(self) -> dict[str, Any]:
        """The overview for a machine."""
        return {
            "ledger": str(self.ledger),
            "running": self.busy,
            "exitCode": int(self.exit_code),
            "batch": self.batch.name,
            "limit": _limit_json(self.limit),
            "batches": [
                {
                    "batch": facts.name,
                    "baseUrl": facts.base_url,
                    "ranAt": rfc3339(facts.ran_at),
                    "results": facts.results,
                    "items": standing.items,
                    "counts": _counts_json(standing.counts),
                    "overdue": standing.overdue,
                }
                for facts, standing in self.batches
            ],
            "needsPerson": [_trouble_json(one) for one in self.troubles],
        }

    def as_text(self) -> str:
        """The overview for a person."""
        lines = [f"ledger {self.ledger}" + (": a run is on" if self.busy else "")]
        lines.append(f"limit  {_told_limit(self.limit)}")
        lines += [
            f"batch  {facts.name}{self._where(facts)}: {told_count(standing.items, 'item')}: "
            + _told_counts(standing.counts)
            for facts, standing in self.batches
        ]
        if self.troubles:
            lines.append(f"needs a person in {self.batch.name}:")
            lines += [f"  {_told_trouble(one)}" for one in self.troubles]
            lines.append(f"next   {resolve_command(self.batch.name, self.ledger)}")
        return "\n".join(lines)


def _progress() -> Progress:
    return Progress(
        BarColumn(bar_width=16),
        TextColumn("{task.completed:.0f}/{task.total}"),
        TextColumn("{task.fields[speed]}"),
        TextColumn("{task.fields[jobs]}"),
        TimeRemainingColumn(),
        TextColumn("{task.fields[states]}", table_column=Column(no_wrap=True, overflow="ellipsis", ratio=1)),
        console=Console(file=sys.stderr),
        transient=True,
    )


def _limit_json(limit: LimitFacts) -> dict[str, int | None]:
    return {
        "configured": limit.configured,
        "stated": limit.stated,
        "inForce": limit.in_force,
        "live": limit.live,
    }


def _counts_json(counts: Mapping[State, int]) -> dict[str, int]:
    return {state.value: count for state, count in counts.items()}


def _trouble_json(one: Trouble) -> dict[str, Any]:
    return {"state": one.state.value, "reason": one.reason, "items": one.items, "lines": list(one.lines)}


def _told_counts(counts: Mapping[State, int]) -> str:
    told = [f"{count} {state.value.replace('_', ' ')}" for state, count in counts.items() if count]
    return ", ".join(told) or "none"


def _told_limit(limit: LimitFacts) -> str:
    stated = f", the service stated {limit.stated}" if limit.stated is not None else ""
    return f"{limit.in_force} concurrent jobs in force (configured {limit.configured}{stated}); {limit.live} live now"


def _told_billed(standing: Standing) -> str:
    told = [f"{minutes:.1f} min {state.value.replace('_', ' ')}" for state, minutes in standing.billed_minutes.items()]
    unknown = [f"{told_count(standing.unknown_lengths, 'file')} of unknown length"] if standing.unknown_lengths else []
    return ", ".join([*told, *unknown]) or "nothing"


def _told_trouble(one: Trouble) -> str:
    lines = ", ".join(str(line) for line in one.lines) + (", …" if one.items > len(one.lines) else "")
    where = f" (line {lines})" if one.lines else ""
    return f"{one.items} {one.state.value.replace('_', ' ')}{where}: {one.reason}"


def _from_here(path: str) -> str:
    """A path as a person would type it: from the current folder, where it lies in there."""
    here = Path.cwd()
    return str(Path(path).relative_to(here)) if Path(path).is_relative_to(here) else path


def resolve_command(batch: str, ledger: Path) -> str:
    """What to type where items need a person."""
    return shlex.join(["uploader", "resolve", "--batch", batch, "--ledger", f"sqlite:///{ledger}"])


def told_count(count: int, word: str) -> str:
    """A number and its word, in the plural where it is one."""
    return f"{count} {word}" + ("" if count == 1 else "s")


def told_bytes(count: int) -> str:
    """A size as a person reads it."""
    size = float(count)
    for unit in ("B", "KiB", "MiB"):
        if size < 1024:
            return f"{size:.0f} {unit}" if unit == "B" else f"{size:.1f} {unit}"
        size /= 1024
    return f"{size:.2f} GiB"
