"""What a plan foresees of a batch: how much there is to append, what it costs, when it ends."""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any

from uploader.model import LimitFacts, Order, State
from uploader.policy.forecast import Forecast, Lanes, foresee
from uploader.settings import Settings
from uploader.status.telling import limit_json, told_bytes, told_count

LIMITS = (1, 2, 5, 10, 20, 50)
"""The forecast is told for these limits too, so that it can be seen what a higher one would be worth."""
AHEAD = (None, State.PENDING, State.SENDING)
"""What the ledger may hold of a row that is still to be appended: what a crash left half sent is sent again."""


@dataclass(slots=True)
class Amount:
    """So many files, with all that is known of them together; files of unknown length are counted apart."""

    files: int = 0
    size: int = 0
    audio_seconds: float = 0.0
    billed_seconds: float = 0.0
    unknown_lengths: int = 0

    def add(self, size: int, audio_seconds: float | None, billed_seconds: float | None) -> None:
        """Count one more file; None is unknown."""
        self.files += 1
        self.size += size
        self.audio_seconds += audio_seconds or 0.0
        self.billed_seconds += billed_seconds or 0.0
        self.unknown_lengths += billed_seconds is None

    def as_json(self) -> dict[str, Any]:
        """The amount for a machine."""
        return {
            "files": self.files,
            "bytes": self.size,
            "audioMinutes": round(self.audio_seconds / 60, 2),
            "billedMinutes": round(self.billed_seconds / 60, 2),
            "unknownLengths": self.unknown_lengths,
        }

    def as_text(self) -> str:
        """The amount for a person."""
        minutes = f"{self.audio_seconds / 60:.1f} audio minutes, {self.billed_seconds / 60:.1f} billed"
        unknown = f", {self.unknown_lengths} of unknown length" if self.unknown_lengths else ""
        return f"{told_count(self.files, 'file')}, {told_bytes(self.size)}, {minutes}{unknown}"


@dataclass(slots=True)
class Work:
    """What a manifest names, and what of it the ledger does not hold as begun: that is still to be appended."""

    all: Amount = field(default_factory=Amount)
    left: Amount = field(default_factory=Amount)
    known: Counter[State] = field(default_factory=Counter)
    lanes: Lanes = field(default_factory=Lanes)
    held_lanes: set[int] = field(default_factory=set)
    """The numbers of the conversations of which the rest waits for a person."""
    held: int = 0
    """Rows that would wait for one."""
    first: int | None = None
    """So many of what is to be appended are wanted now; None wants all."""
    later: int = 0
    """Rows that stay pending for that."""

    def hold(self, conversation: int) -> None:
        """Take note that what comes later in a conversation waits for a person."""
        self.held_lanes.add(conversation)

    def add(
        self,
        conversation: int,
        size: int | None,
        audio_seconds: float | None,
        billed_seconds: float | None,
        state: State | None,
    ) -> None:
        """Count a valid row.

        Args:
            conversation: The number of its conversation.
            size: The bytes of its file, None where that is gone.
            audio_seconds: How long its recording is, None where that is unknown.
            billed_seconds: What is billed of it, None where that is unknown.
            state: What the ledger holds of it, None where that is nothing.
        """
        if size is not None:
            self.all.add(size, audio_seconds, billed_seconds)
        if state is not None:
            self.known[state] += 1
        if state is State.ACCEPTED:
            self.lanes.wait_for(conversation)
        if state in AHEAD and conversation in self.held_lanes:
            self.held += 1
        elif state in AHEAD and self.left.files == self.first:
            self.later += 1
        elif state in AHEAD:
            self.left.add(size or 0, audio_seconds, billed_seconds)
            self.lanes.add(conversation, size or 0, audio_seconds)


@dataclass(frozen=True, slots=True)
class Outlook:
    """The forecast of what is left. ``now`` is local time; ``seen``: jobs of this account showed the pace.

    ``limit`` is what is known of the account's: the forecast takes the one in force.
    """

    work: Work
    pace: float
    seen: bool
    assumed_bytes_per_second: float
    forecasts: Sequence[Forecast]
    limit: LimitFacts
    now: datetime
    until: datetime | None

    @property
    def _own(self) -> Forecast:
        return next(one for one in self.forecasts if one.limit == self.limit.in_force)

    def as_json(self) -> dict[str, Any]:
        """The outlook for a machine."""
        files, seconds = self.work.lanes.longest()
        return {
            **self.work.all.as_json(),
            "toAppend": self.work.left.as_json(),
            "ledgerHolds": {state.value: count for state, count in self.work.known.items()},
            "held": self.work.held,
            "later": self.work.later,
            "lanes": self.work.lanes.count,
            "longestLane": {"files": files, "jobSeconds": round(seconds, 3)},
            "jobSecondsPerAudioSecond": round(self.pace, 4),
            "jobSecondsAreAssumed": not self.seen,
            "limit": self.limit.in_force,
            "limitKnown": {**limit_json(self.limit), "by": self._limit_by},
            "seconds": round(self._own.seconds, 3),
            "finish": self._at(self._own.seconds).isoformat(timespec="seconds"),
            "forecasts": [self._forecast_json(one) for one in self.forecasts],
            "until": self._until_json(),
        }

    def as_lines(self) -> Iterator[str]:
        """The outlook for a person."""
        yield f"  all       {self.work.all.as_text()}"
        if self.work.known:
            told = ", ".join(f"{count} {state.value.replace('_', ' ')}" for state, count in self.work.known.items())
            yield f"  ledger    it holds {told} of these rows"
        if self.work.held:
            yield f"  held      {told_count(self.work.held, 'row')} behind one that needs a person first: not foreseen"
        if self.work.later:
            yield f"  later     {told_count(self.work.later, 'row')} behind the first {self.work.first} stay pending"
        if self.work.known or self.work.held or self.work.later:
            yield f"  left      {self.work.left.as_text()}"
        if not self.work.left.files:
            live = f"; the live jobs end in {_told_time(self._own.seconds)}" if self.work.lanes.awaited else ""
            yield f"  finish    nothing is left to append{live}"
            return
        files, seconds = self.work.lanes.longest()
        lanes = told_count(self.work.lanes.count, "conversation")
        yield f"  lanes     {lanes}; the longest has {told_count(files, 'file')} and takes {_told_time(seconds)} alone"
        yield f"  finish    {self._told(self._own)} at the limit of {self.limit.in_force}{self._told_limit()}"
        if self.until is not None:
            yield f"  until     {self.until:%a %H:%M}: {self._told_until()}"
        yield f"  jobs      {self._told_pace()}"
        yield from self._table()

    @property
    def _limit_by(self) -> str:
        if self.limit.in_force == self.limit.configured:
            return "configured"
        return "stated" if self.limit.in_force == self.limit.stated else "taught"

    def _told_limit(self) -> str:
        """Why the limit is not the one that is configured."""
        whys = {"stated": "as a 429 stated", "taught": "as 429s have taught"}
        why = whys.get(self._limit_by)
        return f", {why} (configured {self.limit.configured})" if why else ""

    def _table(self) -> Iterator[str]:
        yield "  limit     takes    ends"
        for one in self.forecasts:
            mark = "*" if one.limit == self.limit.in_force else " "
            yield f"  {one.limit:>5}{mark}{_told_time(one.seconds):>9}    {self._at(one.seconds):%a %H:%M}"

    def _at(self, seconds: float) -> datetime:
        return (self.now + timedelta(seconds=seconds)).astimezone()

    def _told(self, one: Forecast) -> str:
        return f"{self._at(one.seconds):%a %Y-%m-%d %H:%M}, in {_told_time(one.seconds)},"

    def _told_until(self) -> str:
        own, files = self._own, self.work.left.files
        last = f"; the last of them ends at {self._at(own.begun_end_seconds):%H:%M}" if own.begun else ""
        return f"{own.begun} of {told_count(files, 'file')} begin before it{last}"

    def _told_pace(self) -> str:
        guessed = ""
        if self.work.lanes.unknown_lengths:
            guessed = (
                f"; files of unknown length are taken to be as long as their size suggests (else "
                f"{self.assumed_bytes_per_second:g} bytes a second, [schedule] audio_bytes_per_second)"
            )
        if self.seen:
            return f"{self.pace:.3g} s for a second of audio, as this account's jobs took{guessed}"
        return (
            f"assumed to take {self.pace:.3g} s for a second of audio ([schedule] job_seconds_per_audio_second): no "
            f"job of this account has been seen yet{guessed}"
        )

    def _forecast_json(self, one: Forecast) -> dict[str, Any]:
        return {
            "limit": one.limit,
            "seconds": round(one.seconds, 3),
            "finish": self._at(one.seconds).isoformat(timespec="seconds"),
        }

    def _until_json(self) -> Mapping[str, Any] | None:
        if self.until is None:
            return None
        return {
            "time": self.until.astimezone().isoformat(timespec="seconds"),
            "rows": self._own.begun,
            "finish": self._at(self._own.begun_end_seconds).isoformat(timespec="seconds"),
        }


def look_out(
    work: Work, pace: float | None, limit: LimitFacts, settings: Settings, now: datetime, until: datetime | None
) -> Outlook:
    """Foresee how long what is left takes.

    Args:
        work: What is left; its seconds of audio become seconds of jobs.
        pace: What this account's jobs have shown to take for a second of audio, None where none was seen.
        limit: What is known of the account's limit.
        settings: The rate, and what to assume.
        now: The local time.
        until: When nothing new starts any more.
    """
    assumed = settings.schedule
    took = assumed.job_seconds_per_audio_second if pace is None else pace
    work.lanes.jobs_take(took, assumed.audio_bytes_per_second)
    within = float("inf") if until is None else (until - now).total_seconds()
    return Outlook(
        work=work,
        pace=took,
        seen=pace is not None,
        assumed_bytes_per_second=assumed.audio_bytes_per_second,
        forecasts=[
            foresee(work.lanes, one, settings.rate, within, Order(assumed.order))
            for one in sorted({*LIMITS, settings.limit, limit.in_force})
        ],
        limit=limit,
        now=now,
        until=until,
    )


def _told_time(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours} h {minutes:02} min"
    return f"{minutes} min {rest:02} s" if minutes else f"{rest} s"
