"""The report of `uploader plan`: what is to append, what it costs, when it ends."""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any

from uploader.ledger.amounts import Amount, ToSend
from uploader.model import LimitFacts, Order, State
from uploader.policy.forecast import Forecast, Lanes, forecast_batch
from uploader.settings import Settings
from uploader.status.formatting import (
    amount_json,
    format_amount,
    format_count,
    format_counts,
    format_duration,
    format_held_back,
    format_leftover,
    format_rows,
    held_back_json,
    leftover_json,
    limit_json,
)

# the finish is forecast at these limits too, to show the worth of a higher one
LIMITS = (1, 2, 5, 10, 20, 50)


@dataclass(slots=True)
class Work:
    """The manifest's amount, its items by state in the ledger, and the items that a run would send."""

    all: Amount = field(default_factory=Amount)
    known: Counter[State] = field(default_factory=Counter)
    sending: ToSend = field(default_factory=ToSend)
    lanes: Lanes = field(default_factory=Lanes)
    # the --first that the run would have
    first: int | None = None


@dataclass(frozen=True, slots=True)
class PlanReport:
    """The forecast of a run.

    ``now`` is local time, ``pace`` in job seconds for a second of audio; ``seen``: this account's jobs showed it.
    The forecast takes the limit in force.
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
    def sending(self) -> ToSend:
        """The items that the run would send."""
        return self.work.sending

    @property
    def _own(self) -> Forecast:
        return next(forecast for forecast in self.forecasts if forecast.limit == self.limit.in_force)

    @property
    def seconds(self) -> float:
        """The forecast time of the run at the limit in force, in seconds."""
        return self._own.seconds

    def as_json(self) -> dict[str, Any]:
        """Return the report as the JSON object of ``--json``."""
        sending = self.work.sending
        files, seconds = self.work.lanes.longest()
        return {
            **amount_json(self.work.all),
            "toAppend": amount_json(sending.all),
            "leftovers": [leftover_json(leftover) for leftover in sending.leftovers],
            "ledgerHolds": {state.value: count for state, count in self.work.known.items()},
            "held": sending.held,
            "later": sending.later,
            "lanes": self.work.lanes.count,
            "longestLane": {"files": files, "jobSeconds": round(seconds, 3)},
            "jobSecondsPerAudioSecond": round(self.pace, 4),
            "jobSecondsAreAssumed": not self.seen,
            "limit": self.limit.in_force,
            "limitKnown": {**limit_json(self.limit), "by": self._limit_by},
            "seconds": round(self._own.seconds, 3),
            "finish": self._at(self._own.seconds).isoformat(timespec="seconds"),
            **held_back_json(self._own.held_back),
            "forecasts": [self._forecast_json(forecast) for forecast in self.forecasts],
            "until": self._until_json(),
        }

    def as_lines(self) -> Iterator[str]:
        """Format the report as lines of text."""
        yield from format_rows(self._figures())
        if self.work.sending.all.files:
            yield from self._table()

    def _figures(self) -> Iterator[tuple[str, str]]:
        """Yield labels and texts."""
        sending, known = self.work.sending, self.work.known
        yield "all", format_amount(self.work.all)
        if known:
            yield "ledger", f"it holds {format_counts(known)} of these rows"
        if sending.held:
            yield "held", f"{format_count(sending.held, 'row')} behind one that needs a person first: not foreseen"
        if sending.later:
            yield "later", f"{format_count(sending.later, 'row')} behind the first {self.work.first} stay pending"
        for leftover in sending.leftovers:
            yield "leftover", f"{format_leftover(leftover)}: sent first, they stand before these rows"
        if known or sending.held or sending.later or sending.leftovers:
            yield "left", format_amount(sending.all)
        if not sending.all.files:
            live = f"; the live jobs end in {format_duration(self._own.seconds)}" if self.work.lanes.awaited else ""
            yield "finish", f"nothing is left to append{live}"
            return
        files, seconds = self.work.lanes.longest()
        lanes = format_count(self.work.lanes.count, "conversation")
        longest = f"the longest has {format_count(files, 'file')} and takes {format_duration(seconds)} alone"
        yield "lanes", f"{lanes}; {longest}"
        end, takes = self._at(self._own.seconds), format_duration(self._own.seconds)
        limit = f"the limit of {self.limit.in_force}{self._format_limit_reason()}"
        yield "finish", f"{end:%a %Y-%m-%d %H:%M}, in {takes}, at {limit}"
        yield "held back", format_held_back(held_back_json(self._own.held_back), "are busy")
        if self.until is not None:
            yield "until", f"{self.until:%a %H:%M}: {self._format_until()}"
        yield "jobs", self._format_pace()

    @property
    def _limit_by(self) -> str:
        if self.limit.in_force == self.limit.configured:
            return "configured"
        return "stated" if self.limit.in_force == self.limit.stated else "taught"

    def _format_limit_reason(self) -> str:
        """Explain a limit in force that is not the configured one; empty where it is."""
        whys = {"stated": "as a 429 stated", "taught": "as 429s have taught"}
        why = whys.get(self._limit_by)
        return f", {why} (configured {self.limit.configured})" if why else ""

    def _table(self) -> Iterator[str]:
        yield "  limit     takes    ends"
        for forecast in self.forecasts:
            mark = "*" if forecast.limit == self.limit.in_force else " "
            takes = format_duration(forecast.seconds)
            yield f"  {forecast.limit:>5}{mark}{takes:>9}    {self._at(forecast.seconds):%a %H:%M}"

    def _at(self, seconds: float) -> datetime:
        return (self.now + timedelta(seconds=seconds)).astimezone()

    def _format_until(self) -> str:
        own, files = self._own, self.work.sending.all.files
        last = f"; the last of them ends at {self._at(own.begun_end_seconds):%H:%M}" if own.begun else ""
        return f"{own.begun} of {format_count(files, 'file')} begin before it{last}"

    def _format_pace(self) -> str:
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

    def _forecast_json(self, forecast: Forecast) -> dict[str, Any]:
        return {
            "limit": forecast.limit,
            "seconds": round(forecast.seconds, 3),
            "finish": self._at(forecast.seconds).isoformat(timespec="seconds"),
        }

    def _until_json(self) -> Mapping[str, Any] | None:
        if self.until is None:
            return None
        return {
            "time": self.until.astimezone().isoformat(timespec="seconds"),
            "rows": self._own.begun,
            "finish": self._at(self._own.begun_end_seconds).isoformat(timespec="seconds"),
        }


@dataclass(frozen=True, slots=True)
class AccountsReport:
    """The forecast of a run that sends to several accounts, each with its own report, by their names."""

    reports: Mapping[str, PlanReport]

    @property
    def sending(self) -> ToSend:
        """The items that the run would send, of all accounts."""
        return sum((report.sending for report in self.reports.values()), ToSend())

    def as_json(self) -> dict[str, Any]:
        """Return the sums over all accounts, and the report of each, as the JSON object of ``--json``."""
        sending, known = self.sending, Counter[State]()
        for report in self.reports.values():
            known.update(report.work.known)
        return {
            **amount_json(self._all),
            "toAppend": amount_json(sending.all),
            "leftovers": [leftover_json(leftover) for leftover in sending.leftovers],
            "ledgerHolds": {state.value: count for state, count in known.items()},
            "held": sending.held,
            "later": sending.later,
            "lanes": sum(report.work.lanes.count for report in self.reports.values()),
            "limit": sum(report.limit.in_force for report in self.reports.values()),
            "seconds": round(max((report.seconds for report in self.reports.values()), default=0.0), 3),
            "finish": max((report.as_json()["finish"] for report in self.reports.values()), default=None),
            "accounts": [{"account": name, **report.as_json()} for name, report in self.reports.items()],
        }

    def as_lines(self) -> Iterator[str]:
        """Format the sum over all accounts, then the report of each, as lines of text."""
        yield from format_rows([("all", format_amount(self._all))])
        for name, report in self.reports.items():
            yield f"  account {name}:"
            yield from (f"  {line}" for line in report.as_lines())

    @property
    def _all(self) -> Amount:
        return sum((report.work.all for report in self.reports.values()), Amount())


def forecast_plan(
    work: Work, pace: float | None, limit: LimitFacts, settings: Settings, now: datetime, until: datetime | None
) -> PlanReport:
    """Forecast the duration of a run.

    Args:
        work: The work left; its seconds of audio are converted to job seconds here.
        pace: Job seconds for a second of audio as seen of this account's jobs, None where no job was seen.
        limit: The account's limit.
        settings: The rate and the assumptions of the schedule.
        now: The local time.
        until: The time from which nothing new starts.
    """
    assumed = settings.schedule
    took = assumed.job_seconds_per_audio_second if pace is None else pace
    work.lanes.set_job_seconds(took, assumed.audio_bytes_per_second)
    within = float("inf") if until is None else (until - now).total_seconds()
    return PlanReport(
        work=work,
        pace=took,
        seen=pace is not None,
        assumed_bytes_per_second=assumed.audio_bytes_per_second,
        forecasts=[
            forecast_batch(work.lanes, count, settings.puts_per_second, within, Order(assumed.order))
            for count in sorted({*LIMITS, settings.limit, limit.in_force})
        ],
        limit=limit,
        now=now,
        until=until,
    )
