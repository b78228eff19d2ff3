"""The closing summary of a run, as text and as JSON."""

import shlex
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

from uploader.errors import ExitCode
from uploader.ledger.amounts import Leftover
from uploader.ledger.orphans import Orphans
from uploader.ledger.reading import Anomaly, Trouble
from uploader.ledger.standing import Standing
from uploader.model import TROUBLED, LimitFacts, State
from uploader.policy.held_back import HeldBack
from uploader.status.formatting import (
    ORPHANS_REMEDY,
    anomaly_json,
    counts_json,
    format_anomalies,
    format_billed,
    format_bytes,
    format_count,
    format_counts,
    format_held_back,
    format_ledger_away,
    format_leftover,
    format_limit,
    format_orphans,
    format_rows,
    format_slot_first,
    format_trouble,
    from_here,
    held_back_json,
    leftover_json,
    limit_json,
    orphans_json,
    resolve_command,
    trouble_json,
)

# the most kinds of the manifest's warnings in the text
WARNINGS_SHOWN = 5
# the least share of the run's time from which a wait for slots is reported
LEAST_REPORTED_SHARE = 0.1
# the documentation's advice for more concurrent jobs (put-audio.md, API Limit Error)
LIMIT_REMEDY = "support@symbl.ai can raise what the account may have"

WEBHOOK_SILENT = "no call has come, all jobs were polled: see that the service reaches --webhook-url"


class ManifestWarning(NamedTuple):
    """A probable mistake of several rows: the first row's line, the column, the remedy and the number of rows."""

    line: int
    column: str
    remedy: str
    rows: int


class AccountLimit(NamedTuple):
    """The limit and slots of one of several accounts."""

    name: str
    base_url: str
    limit: LimitFacts


class Summary(NamedTuple):
    """The closing summary of a batch. ``seconds``: the run's time; ``bytes_sent``: bytes sent in this run."""

    batch: str
    exit_code: ExitCode
    standing: Standing
    bytes_sent: int
    seconds: float
    results: str | None
    ledger: str
    limit: LimitFacts
    throttled: int
    troubles: Sequence[Trouble]
    # each account that the run sent to, where the settings have several
    accounts: Sequence[AccountLimit] = ()
    # anomalies to report whatever the item's outcome, such as an append too many
    anomalies: Sequence[Anomaly] = ()
    # orphans of the account's batches
    orphans: Sequence[Orphans] = ()
    # leftovers of other batches: before the run's own items in their lanes, and in other lanes
    carried: Sequence[Leftover] = ()
    elsewhere: Sequence[Leftover] = ()
    warnings: Sequence[ManifestWarning] = ()
    # the part of ``seconds`` in which conversations were ready and no slot was free
    slot_wait_seconds: float = 0.0
    # None where nothing was to be sent
    held_back: HeldBack | None = None
    # jobs with a ``webhookUrl`` had to be polled, and no callback has come
    webhook_silent: bool = False
    # the run used the internal sandbox; its ledger is gone
    rehearsal: bool = False
    # the run made the ledger, which has no record of earlier appends
    is_new_ledger: bool = False
    # the part of ``seconds`` in which the ledger was away, or did not answer
    ledger_away_seconds: float = 0.0
    reason: str = ""
    # something was to be sent as the run began
    had_work: bool = False
    # the run's id, as in the log
    run: str | None = None
    # the words of the command that carries on
    again: Sequence[str] = ()

    def as_json(self) -> dict[str, Any]:
        """Return the summary as the JSON object of ``--json``."""
        return {
            "run": self.run,
            "batch": self.batch,
            "exitCode": int(self.exit_code),
            "items": self.standing.items,
            "counts": counts_json(self.standing.counts),
            "overdue": self.standing.overdue,
            "attempts": self.standing.attempts,
            "billedMinutes": {state.value: minutes for state, minutes in self.standing.billed_minutes.items()},
            "unknownLengths": self.standing.unknown_lengths,
            "bytesSent": self.bytes_sent,
            "seconds": round(self.seconds, 3),
            "results": self.results,
            "ledger": self.ledger,
            "newLedger": self.is_new_ledger,
            "limit": limit_json(self.limit),
            "accounts": [
                {"account": account.name, "baseUrl": account.base_url, "limit": limit_json(account.limit)}
                for account in self.accounts
            ],
            "throttled": self.throttled,
            "slotWaitSeconds": round(self.slot_wait_seconds, 3),
            **held_back_json(self.held_back),
            "ledgerAwaySeconds": round(self.ledger_away_seconds, 3),
            "webhookSilent": self.webhook_silent,
            "leftoversCarried": [leftover_json(leftover) for leftover in self.carried],
            "leftovers": sum(leftover.amount.files for leftover in self.elsewhere),
            "leftoversElsewhere": [leftover_json(leftover) for leftover in self.elsewhere],
            "warnings": [warning._asdict() for warning in self.warnings],
            "needsPerson": [trouble_json(trouble) for trouble in self.troubles],
            "outOfOrder": [anomaly_json(anomaly) for anomaly in self.anomalies],
            "former": [orphans_json(group) for group in self.orphans],
            "reason": self.reason or None,
            "next": self.next_step() or None,
        }

    def as_lines(self) -> list[str]:
        """Format the summary as lines of text."""
        return [
            f"{self.batch}: {format_count(self.standing.items, 'item')}: {format_counts(self.standing.counts)}",
            *format_rows(self._figures()),
            *self._format_orphans(),
            *self._format_findings(),
            *format_rows([("next", self.next_step())]),
            self.ending(),
        ]

    def ending(self) -> str:
        """Format the run's ending in one sentence."""
        counts = self.standing.counts
        if self.exit_code is ExitCode.DONE:
            return f"Done: nothing is left to do ({format_counts(counts)})."
        if self.exit_code in (ExitCode.NEEDS_PERSON, ExitCode.IN_DOUBT):
            open_items = sum(counts.get(state, 0) for state in TROUBLED) + self.standing.overdue
            need = "needs" if open_items == 1 else "need"
            text = f"{format_count(open_items, 'item')} of {self.standing.items} {need} a person's decision"
            return self.reason or f"The batch is over, and {text}."
        left = sum(counts.get(state, 0) for state in (State.PENDING, State.SENDING, State.SENT, State.ACCEPTED))
        return f"Stopped ({self.reason}): {format_count(left, 'item')} of {self.standing.items} still to be done."

    def _figures(self) -> Iterator[tuple[str, str]]:
        """Yield labels and texts, a text empty where there is nothing to report."""
        yield "sent", self._format_sent()
        if held := self.standing.counts.get(State.HELD, 0):
            waits = "each waits for one before it in its conversation that needs a person"
            yield "held", f"{format_count(held, 'item')}, to keep the order: {waits}"
        yield "billed", format_billed(self.standing)
        for name, _, limit in self.accounts:
            yield "limit", f"{name}: {format_limit(limit)}"
            yield "", format_slot_first(limit)
        if not self.accounts:
            yield "limit", format_limit(self.limit)
            yield "", format_slot_first(self.limit)
        yield "waited", self._format_wait()
        yield "held back", format_held_back(held_back_json(self.held_back))
        yield "webhook", WEBHOOK_SILENT if self.webhook_silent else ""
        yield "results", from_here(self.results) if self.results else ""
        yield "ledger", "(the sandbox's, thrown away)" if self.rehearsal else self.ledger
        yield "", format_ledger_away(self.ledger_away_seconds)
        yield "", "a new ledger: nothing is known of earlier nights" if self.is_new_ledger else ""
        for leftover in self.carried:
            yield (
                "before",
                f"{format_leftover(leftover)}: left over, carried with this batch, which stands behind them",
            )
        yield "leftover", self._format_elsewhere()
        for warning in self.warnings[:WARNINGS_SHOWN]:
            others = f" and {format_count(warning.rows - 1, 'row')} more" if warning.rows > 1 else ""
            yield "warned", f"line {warning.line}, {warning.column}{others}: {warning.remedy}"
        if (more := len(self.warnings) - WARNINGS_SHOWN) > 0:
            yield "warned", f"{more} more: `uploader plan` shows all"

    def _format_elsewhere(self) -> str:
        """Format the leftovers of other batches that this run does not reach."""
        # no run of any batch reaches orphans, which have lines of their own
        unnamed = {group.batch: group.leftovers for group in self.orphans}
        counts = {leftover.batch: leftover.amount.files - unnamed.get(leftover.batch, 0) for leftover in self.elsewhere}
        batches = ", ".join(f"{count} of {batch}" for batch, count in counts.items() if count)
        items = format_count(sum(counts.values()), "item")
        return f"{items} of other batches still wait ({batches}); run their batches" if batches else ""

    def _format_orphans(self) -> Iterator[str]:
        """Format the orphans by batch, with the remedy."""
        if self.orphans:
            yield f"  before    {ORPHANS_REMEDY}:"
        for group in self.orphans:
            yield f"    {group.batch}: {format_orphans(group)}"
            yield f"      {resolve_command(group.batch, self.ledger)}"

    def _format_findings(self) -> Iterator[str]:
        """Format the items that need a person, and the anomalies."""
        if self.troubles:
            yield "  needs a person:"
            yield from (f"    {format_trouble(trouble)}" for trouble in self.troubles)
        if self.anomalies:
            yield "  out of order: (to be looked at; nothing is to be settled)"
            yield from (f"    {line}" for line in format_anomalies(self.anomalies))

    def _format_wait(self) -> str:
        """Format the wait for slots, with the remedy where the service's own limit caused it."""
        if not self.throttled and self.slot_wait_seconds < LEAST_REPORTED_SHARE * self.seconds:
            return ""
        text = f"{self.slot_wait_seconds:.1f} s for a free slot" + (" and after 429s" if self.throttled else "")
        is_bound = self.throttled and self.limit.stated is not None
        return f"{text}; {LIMIT_REMEDY}" if is_bound else text

    def _format_sent(self) -> str:
        """Format the bytes and attempts of this run, or that all was appended before."""
        sent = f"{format_bytes(self.bytes_sent)} in {self.seconds:.1f} s"
        counts = self.standing.counts
        appended = counts.get(State.COMPLETED, 0) + counts.get(State.ACCEPTED, 0)
        if not self.bytes_sent and appended and appended == self.standing.items:
            return f"{sent}: all of it was appended {'by another run meanwhile' if self.had_work else 'before'}"
        met = f", {self.throttled} of this run answered with a 429" if self.throttled else ""
        return f"{sent}; {format_count(self.standing.attempts, 'attempt')} so far{met}"

    def next_step(self) -> str:
        """Return the next command to type, empty where nothing is left to do."""
        if self.exit_code is ExitCode.DONE:
            return ""
        if self.exit_code in (ExitCode.NEEDS_PERSON, ExitCode.IN_DOUBT):
            if self.rehearsal:
                return ""  # there is no ledger to ask any more
            # where all that needs a person is another batch's, that one's list has it by line
            batches = {trouble.batch for trouble in self.troubles}
            return resolve_command(batches.pop() if len(batches) == 1 else self.batch, self.ledger)
        return shlex.join(self.again)
