"""The report of a night that is over: the page of its batch as one file, with its slots, its bill and its decisions."""

import json
import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from uploader.ledger import Connection
from uploader.ledger.history import DecisionFacts, SlotSpan, accounts_of_batch, attempts_of_batch, decisions, slot_spans
from uploader.ledger.reading import BatchFacts, result_lines, troubles
from uploader.ledger.standing import standing
from uploader.model import ResultLine, State
from uploader.results import rfc3339
from uploader.status.listener import page_and_policy, policy_of
from uploader.status.night import night_json, nights, with_bounded_slots
from uploader.status.snapshot import (
    LANES_SHOWN,
    LINES_SHOWN,
    NO_HISTORY,
    accounts_json,
    going,
    held_back_of,
    needs_json,
    progress_json,
    run_json,
    shown_json,
)
from uploader.status.timeline import Timeline

DECISIONS_SHOWN = 200
# the most columns of people's own, and the most values of each, in the bill
COLUMNS_SHOWN = 5
VALUES_SHOWN = 30
# billed, as far as is known: a job was made of it
BILLED = (State.COMPLETED, State.ACCEPTED, State.FAILED)
KEPT = '<script type="application/json" id="kept">'


def read_report(
    connection: Connection, batch: BatchFacts, *, ledger: str, is_running: bool, now: float
) -> dict[str, Any]:
    """Read all that the report of a batch shows, as JSON.

    Args:
        ledger: The ledger's address, as it is shown.
        is_running: A run holds the ledger.
    """
    found = standing(connection, batch.batch_id)
    known = attempts_of_batch(connection, batch.batch_id)
    account_ids = accounts_of_batch(connection, batch.batch_id) or [batch.account_id]
    spans = list(slot_spans(connection, account_ids, *known)) if known is not None else []
    spans = with_bounded_slots(spans)
    night = max(nights(spans, now), key=len, default=[])
    decided = decisions(connection, batch.batch_id, DECISIONS_SHOWN + 1)
    report = {
        "now": now,
        "run": run_json([batch], ledger, is_running=is_running),
        "going": going(found, [batch], is_running=is_running),
        "needs": needs_json(troubles(connection, batch.batch_id, LINES_SHOWN), found, ledger),
        "progress": progress_json(found),
        "accounts": accounts_json(connection, account_ids, now),
        "heldBack": held_back_of([batch]),
        "history": _history_json(night, now),
        "lanes": _lanes_json(night, now),
        "night": night_json(night, now, len(spans) - len(night)),
        "bill": bill_json(result_lines(connection, batch.batch_id), batch.extra_columns),
        "decisions": {
            "decisions": [_decision_json(decision) for decision in decided[:DECISIONS_SHOWN]],
            "more": len(decided) > DECISIONS_SHOWN,
        },
    }
    shown: dict[str, Any] = shown_json(report)
    return shown


def render_report(report: Mapping[str, Any]) -> str:
    """Return the report as one HTML file, which fetches nothing."""
    page, _ = page_and_policy()
    # neither an end of the script nor a comment can stand in it
    text = json.dumps(report, separators=(",", ":")).replace("<", r"\u003c").replace(">", r"\u003e")
    # a policy in the page itself has no frame-ancestors
    policy = re.sub("; frame-ancestors 'none'", "", policy_of(page))
    head = f'<meta charset="utf-8">\n<meta http-equiv="Content-Security-Policy" content="{policy}">'
    page = page.replace('<meta charset="utf-8">', head, 1)
    return page.replace("<script>", f"{KEPT}{text}</script>\n<script>", 1)


def bill_json(lines: Iterable[ResultLine], columns: Sequence[str]) -> list[dict[str, Any]]:
    """Return the bill as JSON: a table by state, and one by each of people's own columns.

    Args:
        lines: The batch's result lines.
        columns: The names of the columns.
    """
    names = ["state", *columns[:COLUMNS_SHOWN]]
    tables: list[defaultdict[str, Counter[str]]] = [defaultdict(Counter) for _ in names]
    for line in lines:
        values = [line.state.value, *(str(line.extras.get(name) or "") for name in names[1:])]
        billed = (line.billed_seconds or 0.0) if line.state in BILLED else 0.0
        for table, value in zip(tables, values, strict=True):
            counted = table[value]
            counted["items"] += 1
            counted["completed"] += line.state is State.COMPLETED
            counted["seconds"] += billed  # type: ignore[assignment]
    return [_table_json(name, table) for name, table in zip(names, tables, strict=True)]


def _table_json(column: str, counted: Mapping[str, Counter[str]]) -> dict[str, Any]:
    ordered = sorted(counted.items(), key=lambda entry: (-entry[1]["seconds"], -entry[1]["items"], entry[0]))
    return {
        "column": column,
        "rows": [
            {
                "value": value,
                "items": found["items"],
                "completed": found["completed"],
                "billedMinutes": round(found["seconds"] / 60, 2),
            }
            for value, found in ordered[:VALUES_SHOWN]
        ],
        "more": max(len(ordered) - VALUES_SHOWN, 0),
    }


def _history_json(night: Sequence[SlotSpan], now: float) -> Mapping[str, Any]:
    if not night:
        return NO_HISTORY
    timeline = Timeline(min(span.attempt.started_at for span in night))
    for span in night:
        timeline.add(span.attempt, now)
    return timeline.as_json()


def _lanes_json(night: Sequence[SlotSpan], now: float) -> dict[str, Any]:
    """Return the conversations whose jobs and uploads took the longest, as JSON."""
    seconds: Counter[str] = Counter()
    items: defaultdict[str, set[tuple[str, int]]] = defaultdict(set)
    for span in night:
        attempt = span.attempt
        end = now if attempt.is_open_at(now) else max(attempt.freed_at or 0.0, attempt.ended_at or 0.0)
        seconds[span.conversation_id] += end - attempt.started_at  # type: ignore[assignment]
        items[span.conversation_id].add((span.batch, span.line))
    longest = seconds.most_common(LANES_SHOWN)
    lanes = [
        {"conversationId": name, "items": len(items[name]), "busySeconds": round(took, 1)} for name, took in longest
    ]
    return {"lanes": lanes, "more": len(seconds) - len(longest)}


def _decision_json(decision: DecisionFacts) -> dict[str, Any]:
    return {
        "at": rfc3339(decision.resolved_at),
        "by": decision.resolved_by,
        "decision": decision.decision.value,
        "from": decision.from_state.value,
        "line": decision.line,
        "conversationId": decision.conversation_id,
        "jobId": decision.job_id,
        "note": decision.note,
    }
