"""Tells what is known of the items that need a person."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from uploader.ledger.resolving import Open, Settlement, fits
from uploader.model import TROUBLED, Decision, Sight, State
from uploader.policy.settling import proves_append
from uploader.results import rfc3339
from uploader.status.telling import resolve_command, run_command, told_bytes, told_count, told_state

_OFFERED = {
    "--appended [JOBID]": Decision.APPENDED,
    "--not-appended (in doubt)": Decision.NOT_APPENDED,
    "--retry (refused, failed)": Decision.RETRY,
    "--drop": Decision.DROP,
}
_SENT_AGAIN = "sent once a manifest names it again: put its row into one, and run that"


@dataclass(frozen=True, slots=True)
class Evidence:
    """One item that needs a person: what is known, what a look shows now, what was decided before and just now."""

    item: Open
    sight: Sight | None
    past: Sequence[Settlement]
    settled: State | None
    released: int = 0
    """How many items behind it in its conversation go on, now that it is settled."""
    command: str = ""
    """What settles it, where it was selected and is not settled."""

    def as_json(self) -> dict[str, Any]:
        """The object of ``--json``."""
        one = self.item
        return {
            "item": one.item_id,
            "batch": one.batch,
            "ofThisBatch": one.own,
            "baseUrl": one.base_url,
            "former": one.former,
            "line": one.line,
            "conversationId": one.conversation_id,
            "audioPath": one.audio_path,
            "status": one.shown_state.value,
            "overdue": one.overdue,
            "error": one.error,
            "httpStatus": one.http_status,
            "jobId": one.job_id,
            "bytes": one.size,
            "bytesSent": one.bytes_sent,
            "attempts": one.attempts,
            "attemptedAt": rfc3339(one.attempted_at),
            "endedAt": rfc3339(one.ended_at),
            "before": _sight_json(one.before),
            "now": _sight_json(self.sight),
            "history": [_settlement_json(before) for before in self.past],
            "settledAs": self.settled.value if self.settled is not None else None,
            "releases": self.released,
            "settleWith": self.command or None,
        }

    def as_lines(self, *, looked: bool, with_batch: bool) -> list[str]:
        """What a person reads of it. ``with_batch``: its batch stands in no heading."""
        one = self.item
        told_row = f"item {one.item_id}, line {one.line} of {one.batch}" if with_batch else f"line {one.line}"
        state = told_state(one.shown_state) + (", its job never ended" if one.overdue else "")
        which = told_row if one.own else f"item {one.item_id} (line {one.line} of {told_origin(one)})"
        job = f", job {one.job_id}" if one.job_id else ""
        lines = [f"  {which}  {one.conversation_id}  {one.audio_path}  {state}{job}{self._told_settled()}"]
        if self.command:
            lines.append(f"      not settled: {self.command}")
        if one.attempted_at is not None:
            when = rfc3339(one.ended_at or one.attempted_at)
            lines.append(f"      attempt {one.attempts} until {when}, {_told_sent(one)}")
        if one.error:
            lines.append(f"      {one.error}")
        lines += [f"      {_told_settlement(before)}" for before in self.past]
        return [*lines, f"      {_told_sight(one, self.sight)}"] if looked else lines

    def _told_settled(self) -> str:
        if self.settled is None:
            return ""
        go = "goes on" if self.released == 1 else "go on"
        items = told_count(self.released, "item")
        released = f"; {items} behind it in its conversation {go}" if self.released else ""
        return f" -> {self.settled.value}{released}"


def as_lines(batch: str | None, ledger: Path, evidence: Sequence[Evidence], *, looked: bool) -> list[str]:
    """What a person reads of them all, and what to do next.

    Args:
        batch: The batch that is looked at, None for all.
        ledger: Where the ledger is.
        evidence: The items.
        looked: Whether the conversations were looked at.
    """
    names = dict.fromkeys(one.item.batch for one in evidence)
    heading = batch or (next(iter(names)) if len(names) == 1 else "all batches")
    lines = [f"{heading}: {_told_heading(evidence)}"]
    for one in evidence:
        lines += one.as_lines(looked=looked, with_batch=batch is None and len(names) > 1)
    if any(one.settled is not None for one in evidence):
        return lines + list(_told_next(batch, ledger, evidence))
    return lines + list(_told_choices(batch, ledger, [one.item for one in evidence]))


def told_line(batch: str, line: int, state: State | None) -> str:
    """What is to be said of a line that was named and that nothing is to be settled of."""
    if state is None:
        return f"line {line} is none of {batch}'s rows"
    unselected = state in (*TROUBLED, State.PENDING, State.HELD)
    why = "the other options do not select it" if unselected else "it needs nobody"
    return f"line {line} of {batch} is {told_state(state)}: {why}"


def told_origin(one: Open) -> str:
    """Whose row an item is, or was."""
    return f"what {one.batch} held before" if one.former else one.batch


def _told_heading(evidence: Sequence[Evidence]) -> str:
    items = told_count(len(evidence), "item")
    settled = sum(one.settled is not None for one in evidence)
    if settled:
        return f"{items} selected" + (f", {settled} of them settled" if settled < len(evidence) else "")
    needing = sum(one.item.needs_person or one.item.former for one in evidence)
    need = "needs a person" if needing == 1 else "need a person"
    if needing == len(evidence):
        return f"{items} {need}"
    return f"{items} selected, " + (
        f"{needing} of which {need}" if needing else "none of which needs a person by itself"
    )


def _told_next(batch: str | None, ledger: Path, evidence: Sequence[Evidence]) -> Iterator[str]:
    """What to do after items were settled."""
    settled = [one for one in evidence if one.settled is not None]
    yield "run the batch again, with the options that it had (--config, --limit and so on): it carries on"
    own = [(batch or one.item.batch, one.item.base_url) for one in settled if batch is not None or not one.item.former]
    others = [(one.item.batch, one.item.base_url) for one in settled if not one.item.former]
    for name, base_url in dict.fromkeys([*own, *others]):
        yield f"  {run_command(name, base_url, ledger)}"
    if any(one.item.former and one.settled is State.PENDING for one in settled):
        yield f"what no manifest names is {_SENT_AGAIN}"


def _told_choices(batch: str | None, ledger: Path, found: Sequence[Open]) -> Iterator[str]:
    """What can be decided of items: no more than what fits some of them."""
    if not found:
        return
    several = batch is None and len({one.batch for one in found}) > 1
    by_line = [one.own and not several for one in found]
    names = [name for name, own in (("--line N", True), ("--item N", False)) if own in by_line]
    offered = [told for told, decision in _OFFERED.items() if any(fits(one, decision) for one in found)]
    if offered:
        yield f"settle with {' or '.join(names)} and {'one of ' if len(offered) > 1 else ''}{', '.join(offered)}"
    if any(one.held for one in found):
        listed = any(one.needs_person for one in found)
        before = "" if listed else f": {resolve_command(batch or found[0].batch, ledger)}"
        yield f"what is held goes on once what stands before it in its conversation is settled{before}"
    if any(one.former and one.state is State.PENDING for one in found):
        yield f"what a manifest held before and is pending or held is {_SENT_AGAIN}"
    if any(one.own and one.shown_state is State.PENDING for one in found):
        for name, base_url in dict.fromkeys((batch or one.batch, one.base_url) for one in found if one.own):
            yield f"what is pending is sent by the next run: {run_command(name, base_url, ledger)}"


def _told_sent(one: Open) -> str:
    if one.bytes_sent is None:
        return "sent in full" if one.state is State.IN_DOUBT else "bytes unknown"
    return f"{told_bytes(one.bytes_sent)} of {told_bytes(one.size or 0)} sent"


def _settlement_json(one: Settlement) -> dict[str, Any]:
    return {
        "at": rfc3339(one.settled_at),
        "by": one.settled_by,
        "decision": one.decision.value,
        "from": one.from_state.value,
        "jobId": one.job_id,
        "note": one.note,
    }


def _told_settlement(one: Settlement) -> str:
    named = f" {one.job_id}" if one.job_id else ""
    because = f": {one.note}" if one.note else ""
    return f"{rfc3339(one.settled_at)} {one.settled_by} decided {one.decision.value}{named}{because}"


def _sight_json(sight: Sight | None) -> dict[str, Any] | None:
    return None if sight is None else {"messages": sight.messages, "lastEnd": sight.last_end}


def _told_sight(one: Open, sight: Sight | None) -> str:
    if sight is None:
        return "the conversation's messages cannot be read"
    now = f"the conversation has {told_count(sight.messages, 'message')} now"
    if one.before is None:
        return f"{now}; nothing was noted before the attempt ([doubt] look_before)"
    proof = "that proves nothing"
    if proves_append(one.before, sight, alone=one.alone):
        proof = "that proves the append"
    elif not one.alone:
        proof = "another item of the conversation may have made the difference: that proves nothing"
    return f"{now}, {one.before.messages} before the attempt: {proof}"
