"""Formats the evidence on items that need a person, as JSON and as text."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from uploader.ledger.resolving import OpenItem, Resolution, fits
from uploader.model import TROUBLED, ConversationSnapshot, Decision, State
from uploader.policy.resolving import proves_append
from uploader.results import rfc3339
from uploader.status.formatting import format_bytes, format_count, format_state, resolve_command, run_command

_OFFERED = {
    "--appended [JOBID]": Decision.APPENDED,
    "--not-appended (in doubt)": Decision.NOT_APPENDED,
    "--retry (refused, failed)": Decision.RETRY,
    "--drop": Decision.DROP,
}
_SENT_AGAIN = "sent once a manifest names them again: put their rows into one, and run it"


class Evidence(NamedTuple):
    """An open item with its history, the conversation's current snapshot and the decision just recorded."""

    item: OpenItem
    snapshot: ConversationSnapshot | None
    past: Sequence[Resolution]
    settled: State | None
    # the number of held items behind this one that its resolution releases
    released: int = 0
    # the command that resolves an item which was selected but not resolved
    command: str = ""

    def as_json(self) -> dict[str, Any]:
        """Return the item's object in ``--json``."""
        item = self.item
        return {
            "item": item.item_id,
            "batch": item.batch,
            "ofThisBatch": item.own,
            "baseUrl": item.base_url,
            "account": item.account,
            "former": item.orphan,
            "line": item.line,
            "conversationId": item.conversation_id,
            "audioPath": item.audio_path,
            "status": item.shown_state.value,
            "overdue": item.overdue,
            "error": item.error,
            "httpStatus": item.http_status,
            "jobId": item.job_id,
            "bytes": item.size,
            "bytesSent": item.bytes_sent,
            "attempts": item.attempts,
            "attemptedAt": rfc3339(item.attempted_at),
            "endedAt": rfc3339(item.ended_at),
            "before": _snapshot_json(item.before),
            "now": _snapshot_json(self.snapshot),
            "history": [_resolution_json(before) for before in self.past],
            "settledAs": self.settled.value if self.settled is not None else None,
            "releases": self.released,
            "settleWith": self.command or None,
        }

    def as_lines(self, *, with_snapshot: bool, with_batch: bool) -> list[str]:
        """Format the item as lines of text; ``with_batch``: name its batch in each line."""
        item = self.item
        row_name = f"item {item.item_id}, line {item.line} of {item.batch}" if with_batch else f"line {item.line}"
        state = format_state(item.shown_state) + (", its job never ended" if item.overdue else "")
        which = row_name if item.own else f"item {item.item_id} (line {item.line} of {format_origin(item)})"
        job = f", job {item.job_id}" if item.job_id else ""
        lines = [f"  {which}  {item.conversation_id}  {item.audio_path}  {state}{job}{self._format_resolved()}"]
        if self.command:
            lines.append(f"      not settled: {self.command}")
        if item.attempted_at is not None:
            when = rfc3339(item.ended_at or item.attempted_at)
            lines.append(f"      attempt {item.attempts} until {when}, {_format_sent(item)}")
        if item.error:
            lines.append(f"      {item.error}")
        lines += [f"      {_format_resolution(before)}" for before in self.past]
        return [*lines, f"      {_format_snapshot(item, self.snapshot)}"] if with_snapshot else lines

    def _format_resolved(self) -> str:
        if self.settled is None:
            return ""
        go = "goes on" if self.released == 1 else "go on"
        items = format_count(self.released, "item")
        released = f"; {items} behind it in its conversation {go}" if self.released else ""
        return f" -> {self.settled.value}{released}"


def as_lines(
    batch: str | None, ledger: str, evidence: Sequence[Evidence], *, config: Path | None, with_snapshot: bool
) -> list[str]:
    """Format all items as text, followed by the commands to type next.

    Args:
        batch: The named batch, None for all batches.
        ledger: The ledger's path, for the commands.
        evidence: The items.
        config: The config file, for the commands; None: there is none.
        with_snapshot: Add a line on the conversation as it is now.
    """
    names = dict.fromkeys(entry.item.batch for entry in evidence)
    heading = batch or (next(iter(names)) if len(names) == 1 else "all batches")
    lines = [f"{heading}: {_format_heading(evidence)}"]
    for entry in evidence:
        lines += entry.as_lines(with_snapshot=with_snapshot, with_batch=batch is None and len(names) > 1)
    if any(entry.settled is not None for entry in evidence):
        return lines + list(_format_next(batch, ledger, evidence, config))
    return lines + list(_format_choices(batch, ledger, [entry.item for entry in evidence], config))


def format_line(batch: str, line: int, state: State | None) -> str:
    """Explain why a named line of the manifest is not among the items to resolve."""
    if state is None:
        return f"line {line} is none of {batch}'s rows"
    unselected = state in (*TROUBLED, State.PENDING, State.HELD)
    why = "the other options do not select it" if unselected else "it needs nobody"
    return f"line {line} of {batch} is {format_state(state)}: {why}"


def format_origin(item: OpenItem) -> str:
    """Name the batch whose row an item is, or was."""
    return f"what {item.batch} held before" if item.orphan else item.batch


def _format_heading(evidence: Sequence[Evidence]) -> str:
    items = format_count(len(evidence), "item")
    settled = sum(entry.settled is not None for entry in evidence)
    if settled:
        return f"{items} selected" + (f", {settled} of them settled" if settled < len(evidence) else "")
    needing = sum(entry.item.needs_person or entry.item.orphan for entry in evidence)
    need = "needs a person" if needing == 1 else "need a person"
    if needing == len(evidence):
        return f"{items} {need}"
    return f"{items} selected, " + (
        f"{needing} of which {need}" if needing else "none of which needs a person by itself"
    )


def _format_next(batch: str | None, ledger: str, evidence: Sequence[Evidence], config: Path | None) -> Iterator[str]:
    """Format the commands that continue after items were resolved."""
    settled = [entry for entry in evidence if entry.settled is not None]
    yield "run the batch again, with the options that it had (--config, --limit and so on): it carries on"
    own = [
        _carry_on(batch or entry.item.batch, ledger, entry.item, config)
        for entry in settled
        if batch is not None or not entry.item.orphan
    ]
    others = [_carry_on(entry.item.batch, ledger, entry.item, config) for entry in settled if not entry.item.orphan]
    yield from (f"  {command}" for command in dict.fromkeys([*own, *others]))
    if any(entry.item.orphan and entry.settled is State.PENDING for entry in settled):
        yield f"items that no manifest names are {_SENT_AGAIN}"


def _carry_on(batch: str, ledger: str, item: OpenItem, config: Path | None) -> str:
    """Format the command that carries on the batch of an item."""
    return run_command(batch, item.batch_base_url, ledger, config=config, limit=item.batch_limit)


def _format_choices(batch: str | None, ledger: str, found: Sequence[OpenItem], config: Path | None) -> Iterator[str]:
    """Format the decisions that fit at least one of the items."""
    if not found:
        return
    several = batch is None and len({item.batch for item in found}) > 1
    by_line = [item.own and not several for item in found]
    names = [name for name, own in (("--line N", True), ("--item N", False)) if own in by_line]
    offered = [flag for flag, decision in _OFFERED.items() if any(fits(item, decision) for item in found)]
    if offered:
        yield f"settle with {' or '.join(names)} and {'one of ' if len(offered) > 1 else ''}{', '.join(offered)}"
    if any(item.held for item in found):
        listed = any(item.needs_person for item in found)
        before = "" if listed else f": {resolve_command(batch or found[0].batch, ledger)}"
        yield f"a held item goes on once the item before it in its conversation is settled{before}"
    if any(item.orphan and item.state is State.PENDING for item in found):
        yield f"items of an earlier manifest that are pending or held are {_SENT_AGAIN}"
    if any(item.own and item.shown_state is State.PENDING for item in found):
        for command in dict.fromkeys(
            _carry_on(batch or item.batch, ledger, item, config) for item in found if item.own
        ):
            yield f"pending items are sent by the next run: {command}"


def _format_sent(item: OpenItem) -> str:
    if item.bytes_sent is None:
        return "sent in full" if item.state is State.IN_DOUBT else "bytes unknown"
    return f"{format_bytes(item.bytes_sent)} of {format_bytes(item.size or 0)} sent"


def _resolution_json(resolution: Resolution) -> dict[str, Any]:
    return {
        "at": rfc3339(resolution.resolved_at),
        "by": resolution.resolved_by,
        "decision": resolution.decision.value,
        "from": resolution.from_state.value,
        "jobId": resolution.job_id,
        "note": resolution.note,
    }


def _format_resolution(resolution: Resolution) -> str:
    named = f" {resolution.job_id}" if resolution.job_id else ""
    because = f": {resolution.note}" if resolution.note else ""
    decided = f"{resolution.resolved_by} decided {resolution.decision.value}"
    return f"{rfc3339(resolution.resolved_at)} {decided}{named}{because}"


def _snapshot_json(snapshot: ConversationSnapshot | None) -> dict[str, Any] | None:
    return None if snapshot is None else {"messages": snapshot.messages, "lastEnd": snapshot.last_end}


def _format_snapshot(item: OpenItem, snapshot: ConversationSnapshot | None) -> str:
    if snapshot is None:
        return "the conversation's messages cannot be read"
    now = f"the conversation has {format_count(snapshot.messages, 'message')} now"
    if item.before is None:
        return f"{now}; nothing was noted before the attempt ([doubt] look_before)"
    proof = "that proves nothing"
    if proves_append(item.before, snapshot, alone=item.alone):
        proof = "that proves the append"
    elif not item.alone:
        proof = "another item of the conversation may have made the difference: that proves nothing"
    return f"{now}, {item.before.messages} before the attempt: {proof}"
