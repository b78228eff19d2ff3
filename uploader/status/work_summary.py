"""The closing summary of a worker for every batch, as text and as JSON."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from uploader.errors import ExitCode
from uploader.ledger.standing import Standing
from uploader.model import TROUBLED, LimitFacts, Outcome, State
from uploader.policy.held_back import HeldBack
from uploader.status.formatting import (
    counts_json,
    format_bytes,
    format_count,
    format_held_back,
    format_ledger_away,
    format_limit,
    format_rows,
    held_back_json,
    limit_json,
    resolve_command,
)
from uploader.status.summary import AccountLimit

LEFT = (State.PENDING, State.SENDING, State.SENT, State.ACCEPTED)


class WorkSummary(NamedTuple):
    """The work of one worker, and the items of all batches that it leaves."""

    exit_code: ExitCode
    # the worker's attempts by their outcome, and the jobs whose end it saw by the state of their items
    attempts: Mapping[Outcome, int]
    jobs_ended: Mapping[State, int]
    bytes_sent: int
    seconds: float
    # of all accounts together, and of each
    limit: LimitFacts
    accounts: Sequence[AccountLimit]
    throttled: int
    # None where nothing was to be sent
    held_back: HeldBack | None
    # the items that are not over, of all batches
    left: Standing
    ledger: str
    # the part of ``seconds`` in which the ledger was away, or did not answer
    ledger_away_seconds: float = 0.0
    reason: str = ""
    # the run's id, as in the log
    run: str | None = None

    def as_json(self) -> dict[str, Any]:
        """Return the summary as the JSON object of ``--json``."""
        return {
            "run": self.run,
            "exitCode": int(self.exit_code),
            "attempts": {outcome.value: count for outcome, count in self.attempts.items() if count},
            "completed": self.jobs_ended.get(State.COMPLETED, 0),
            "failed": self.jobs_ended.get(State.FAILED, 0),
            "bytesSent": self.bytes_sent,
            "seconds": round(self.seconds, 3),
            "ledger": self.ledger,
            "limit": limit_json(self.limit),
            "accounts": [
                {"account": account.name, "baseUrl": account.base_url, "limit": limit_json(account.limit)}
                for account in self.accounts
            ],
            "throttled": self.throttled,
            **held_back_json(self.held_back),
            "ledgerAwaySeconds": round(self.ledger_away_seconds, 3),
            "left": counts_json(self.left.counts),
            "reason": self.reason or None,
            "next": self.next_step() or None,
        }

    def as_lines(self) -> list[str]:
        """Format the summary as lines of text."""
        ended = ", ".join(f"{count} {state.value}" for state, count in self.jobs_ended.items() if count)
        jobs = format_count(sum(self.jobs_ended.values()), "job")
        return [
            f"worker: {jobs} seen to end{f': {ended}' if ended else ''}",
            *format_rows(self._figures()),
            *format_rows([("next", self.next_step())]),
            self.ending(),
        ]

    def ending(self) -> str:
        """Format the worker's ending in one sentence."""
        left = format_count(sum(self.left.counts[state] for state in LEFT), "item")
        if self.exit_code is ExitCode.DONE:
            return f"Done: nothing is left to send{self._format_needs()}."
        return f"Stopped ({self.reason}): {left} of all batches still to be sent or to end{self._format_needs()}."

    def next_step(self) -> str:
        """Return the next command to type, empty where nothing needs a person."""
        return resolve_command(None, self.ledger) if self._needing else ""

    @property
    def _needing(self) -> int:
        return sum(self.left.counts[state] for state in TROUBLED) + self.left.overdue

    def _format_needs(self) -> str:
        """Format the items that need a person, and those that are held by them; empty where there are none."""
        held = self.left.counts[State.HELD]
        behind = f", and {held} {'is' if held == 1 else 'are'} held behind them" if held else ""
        need = "needs" if self._needing == 1 else "need"
        return f"; {format_count(self._needing, 'item')} {need} a person's decision{behind}" if self._needing else ""

    def _figures(self) -> Iterator[tuple[str, str]]:
        """Yield labels and texts, a text empty where there is nothing to report."""
        attempts = format_count(sum(self.attempts.values()), "attempt")
        met = f", {self.throttled} answered with a 429" if self.throttled else ""
        yield "sent", f"{format_bytes(self.bytes_sent)} in {self.seconds:.1f} s; {attempts}{met}"
        for account in self.accounts:
            name = f"{account.name}: " if len(self.accounts) > 1 else ""
            yield "limit", f"{name}{format_limit(account.limit)}"
        yield "held back", format_held_back(held_back_json(self.held_back))
        yield "ledger", self.ledger
        yield "", format_ledger_away(self.ledger_away_seconds)
