"""Tells what is known of the items that need a person."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from uploader.ledger.reading import BatchFacts
from uploader.ledger.resolving import Open, Settlement
from uploader.model import Sight, State
from uploader.policy.settling import proves_append
from uploader.results import rfc3339
from uploader.status import told_bytes, told_count


@dataclass(frozen=True, slots=True)
class Evidence:
    """One item that needs a person: what is known, what a look shows now, what was decided before and just now."""

    item: Open
    sight: Sight | None
    past: Sequence[Settlement]
    settled: State | None

    def as_json(self) -> dict[str, Any]:
        """The object of ``--json``."""
        one = self.item
        return {
            "batch": one.batch,
            "ofThisBatch": one.own,
            "line": one.line,
            "conversationId": one.conversation_id,
            "audioPath": one.audio_path,
            "status": one.state.value,
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
        }

    def as_lines(self, *, looked: bool) -> list[str]:
        """What a person reads of it."""
        one = self.item
        state = one.state.value.replace("_", " ") + (", its job never ended" if one.overdue else "")
        became = f" -> {self.settled.value}" if self.settled is not None else ""
        lines = [f"  line {one.line}{_of(one)}  {one.conversation_id}  {one.audio_path}  {state}{became}"]
        if one.attempted_at is not None:
            when = rfc3339(one.ended_at or one.attempted_at)
            lines.append(f"      attempt {one.attempts} until {when}, {_told_sent(one)}")
        if one.error:
            lines.append(f"      {one.error}")
        lines += [f"      {_told_settlement(before)}" for before in self.past]
        return [*lines, f"      {_told_sight(one, self.sight)}"] if looked else lines


def as_text(batch: BatchFacts, evidence: Sequence[Evidence], *, looked: bool) -> str:
    """What a person reads of them all, and what to do next."""
    need = "needs a person" if len(evidence) == 1 else "need a person"
    settled = any(one.settled is not None for one in evidence)
    lines = [f"{batch.name}: {told_count(len(evidence), 'item')} {'selected' if settled else need}"]
    for one in evidence:
        lines += one.as_lines(looked=looked)
    if settled:
        lines.append("run the batch again: it carries on, and what was held is released")
    elif evidence:
        lines.append(
            "settle with --line N and one of --appended [JOBID], --not-appended (in doubt), --retry (refused, "
            "failed), --drop"
        )
    return "\n".join(lines)


def _of(one: Open) -> str:
    """The batch of an item that is in the way from another batch."""
    return "" if one.own else f" of {one.batch}"


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
