"""The closing summary of a run."""

import shlex
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from uploader.errors import ExitCode
from uploader.ledger.orphans import Orphans
from uploader.ledger.reading import Anomaly, Trouble
from uploader.ledger.sending import Leftover
from uploader.ledger.standing import Standing
from uploader.model import TROUBLED, LimitFacts, State
from uploader.status.formatting import (
    HOW_TO_KEEP_NIGHTS_APART,
    anomaly_json,
    counts_json,
    format_anomalies,
    format_billed,
    format_bytes,
    format_count,
    format_counts,
    format_leftover,
    format_limit,
    format_orphans,
    format_trouble,
    from_here,
    leftover_json,
    limit_json,
    orphans_json,
    resolve_command,
    trouble_json,
)

SHARE_WORTH_TELLING = 0.1
"""A wait for a slot is told from this share of the run's time on."""
HOW_TO_RAISE_THE_LIMIT = "support@symbl.ai can raise what the account may have"
"""What the documentation says to who needs more concurrent jobs (put-audio.md, API Limit Error)."""

NOBODY_CALLED = "no call has come, all jobs were polled: see that the service reaches --webhook-url"


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
    troubles: Sequence[Trouble]
    remarks: Sequence[Anomaly] = ()
    """What is out of order whatever became of the item: an append too many, say."""
    former: Sequence[Orphans] = ()
    """What the account's batches held before and none holds any more."""
    # leftovers of other batches: those that the run had before it in its lanes, and those that it does not reach
    carried: Sequence[Leftover] = ()
    elsewhere: Sequence[Leftover] = ()
    slot_wait_seconds: float = 0.0
    """How long of it conversations were ready while no slot was free."""
    webhook_silent: bool = False
    """Whether jobs that were to call the webhook were polled, and no call has come."""
    rehearsal: bool = False
    """Whether it went to the sandbox inside: its ledger is gone."""
    is_new_ledger: bool = False
    """Whether the run made the ledger, which knows of nothing that was appended before."""
    reason: str = ""
    run: str | None = None
    """The run's id, which its events in the log have."""
    again: Sequence[str] = field(default=())
    """The command that carries on, word by word."""

    def as_json(self) -> dict[str, Any]:
        """The summary for a machine."""
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
            "ledger": str(self.ledger),
            "newLedger": self.is_new_ledger,
            "limit": limit_json(self.limit),
            "throttled": self.throttled,
            "slotWaitSeconds": round(self.slot_wait_seconds, 3),
            "webhookSilent": self.webhook_silent,
            "leftoversCarried": [leftover_json(leftover) for leftover in self.carried],
            "leftovers": sum(leftover.amount.files for leftover in self.elsewhere),
            "leftoversElsewhere": [leftover_json(leftover) for leftover in self.elsewhere],
            "needsPerson": [trouble_json(trouble) for trouble in self.troubles],
            "outOfOrder": [anomaly_json(anomaly) for anomaly in self.remarks],
            "former": [orphans_json(group) for group in self.former],
            "reason": self.reason or None,
            "next": self.next_step() or None,
        }

    def as_lines(self) -> list[str]:
        """The summary for a person: what happened, what needs them, what to type next."""
        lines = [f"{self.batch}: {format_count(self.standing.items, 'item')}: {format_counts(self.standing.counts)}"]
        lines.append(f"  sent      {self._format_sent()}")
        if held := self.standing.counts.get(State.HELD, 0):
            lines.append(
                f"  held      {format_count(held, 'item')}, to keep the order: each waits for one before it in its "
                "conversation that needs a person"
            )
        lines.append(f"  billed    {format_billed(self.standing)}")
        lines.append(f"  limit     {format_limit(self.limit)}")
        lines += self._format_slowness()
        if self.results:
            lines.append(f"  results   {from_here(self.results)}")
        lines += self._format_ledger()
        lines += self._format_leftovers()
        lines += self._format_orphans()
        if self.reason:
            lines.append(f"  stopped   {self.reason}")
        if self.troubles:
            lines.append("  needs a person:")
            lines += [f"    {format_trouble(trouble)}" for trouble in self.troubles]
        if self.remarks:
            lines.append("  out of order: (to be looked at; nothing is to be settled)")
            lines += [f"    {line}" for line in format_anomalies(self.remarks)]
        if step := self.next_step():
            lines.append(f"  next      {step}")
        lines.append(self.ending())
        return lines

    def ending(self) -> str:
        """Say in one sentence how the run ended."""
        counts = self.standing.counts
        if self.exit_code is ExitCode.DONE:
            return f"Done: nothing is left to do ({format_counts(counts)})."
        if self.exit_code in (ExitCode.NEEDS_PERSON, ExitCode.IN_DOUBT):
            open_items = sum(counts.get(state, 0) for state in (*TROUBLED, State.HELD)) + self.standing.overdue
            text = format_count(open_items, "item")
            return self.reason or f"The batch is over, and {text} of {self.standing.items} need a person's decision."
        left = sum(counts.get(state, 0) for state in (State.PENDING, State.SENDING, State.SENT, State.ACCEPTED))
        return f"Stopped ({self.reason}): {format_count(left, 'item')} of {self.standing.items} still to be done."

    def _format_ledger(self) -> list[str]:
        lines = ["  ledger    " + ("(the sandbox's, thrown away)" if self.rehearsal else str(self.ledger))]
        if self.is_new_ledger:
            lines.append("            a new ledger: nothing is known of earlier nights")
        return lines

    def _format_leftovers(self) -> list[str]:
        """Leftovers of other batches that this run carried, and those that wait for a run of their own."""
        lines = [
            f"  before    {format_leftover(leftover)}: left over, carried with this batch, which stands behind them"
            for leftover in self.carried
        ]
        # what no batch names any more is not reached by a run of any: it has its own lines
        unnamed = {group.batch: group.leftovers for group in self.former}
        counts = {leftover.batch: leftover.amount.files - unnamed.get(leftover.batch, 0) for leftover in self.elsewhere}
        counts = {batch: count for batch, count in counts.items() if count}
        if counts:
            text = ", ".join(f"{count} of {batch}" for batch, count in counts.items())
            items = format_count(sum(counts.values()), "item")
            lines.append(f"  leftover  {items} of other batches still wait ({text}); run their batches")
        return lines

    def _format_slowness(self) -> list[str]:
        """What kept the run from being quicker."""
        waited = self._format_wait()
        webhook = NOBODY_CALLED if self.webhook_silent else ""
        return [f"  {name:<9} {said}" for name, said in (("waited", waited), ("webhook", webhook)) if said]

    def _format_orphans(self) -> list[str]:
        """What no batch names any more, batch by batch, and the remedy."""
        if not self.former:
            return []
        text = [
            line
            for group in self.former
            for line in (
                f"    {group.batch}: {format_orphans(group)}",
                f"      {resolve_command(group.batch, self.ledger)}",
            )
        ]
        return [f"  before    {HOW_TO_KEEP_NIGHTS_APART}:", *text]

    def _format_wait(self) -> str:
        """Say that the limit was what the run waited for; where the service's own was, how that is raised."""
        if not self.throttled and self.slot_wait_seconds < SHARE_WORTH_TELLING * self.seconds:
            return ""
        text = f"{self.slot_wait_seconds:.1f} s for a free slot" + (" and after 429s" if self.throttled else "")
        is_bound = self.throttled and self.limit.stated is not None
        return f"{text}; {HOW_TO_RAISE_THE_LIMIT}" if is_bound else text

    def _format_sent(self) -> str:
        """What left in this run; that nothing had to, where all was appended before."""
        sent = f"{format_bytes(self.bytes_sent)} in {self.seconds:.1f} s"
        counts = self.standing.counts
        appended = counts.get(State.COMPLETED, 0) + counts.get(State.ACCEPTED, 0)
        if not self.bytes_sent and appended and appended == self.standing.items:
            return f"{sent}: all of it was appended before"
        met = f", {self.throttled} of this run answered with a 429" if self.throttled else ""
        return f"{sent}; {format_count(self.standing.attempts, 'attempt')} so far{met}"

    def next_step(self) -> str:
        """The next command to type, empty where all is done."""
        if self.exit_code is ExitCode.DONE:
            return ""
        if self.exit_code in (ExitCode.NEEDS_PERSON, ExitCode.IN_DOUBT):
            if self.rehearsal:
                return ""  # there is no ledger to ask any more
            return resolve_command(self.batch, self.ledger)
        return shlex.join(self.again)
