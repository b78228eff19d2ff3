"""`uploader resolve`: what needs a person, the evidence, and the person's decision."""

import asyncio
import getpass
import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from uploader.cli.inspecting import named_batch
from uploader.cli.target import credentials
from uploader.client import Client, JobAnswer, TimeLimits
from uploader.errors import ExitCode, LedgerBusyError, UsageError
from uploader.ledger import Ledger
from uploader.ledger.reading import BatchFacts, find_batches
from uploader.ledger.recovery import boot_clock, rebase_deadlines, recover
from uploader.ledger.resolving import Open, Selection, open_items, resolve
from uploader.model import Decision, Sight, State
from uploader.policy.settling import proves_append
from uploader.results import rfc3339
from uploader.settings import Settings
from uploader.status import told_bytes, told_count


@dataclass(frozen=True, slots=True)
class Asked:
    """What the command line asks of `resolve`."""

    selection: Selection
    decision: Decision | None
    job_id: str | None
    note: str | None
    look: bool


def resolve_items(settings: Settings, asked: Asked, *, as_json: bool) -> ExitCode:
    """List what needs a person, look at the evidence, or settle as decided."""
    with _ledger(settings) as ledger:
        with ledger.reading() as connection:
            batch = named_batch(find_batches(connection), settings, ledger.path)
            found = open_items(connection, batch.batch_id, asked.selection, hold=settings.lanes.hold)
        sights = _look(settings, batch, found) if asked.look else {}
        if asked.job_id is not None:
            _check_job(settings, batch, asked.job_id)
        if asked.decision is not None:
            told = _settle(settings, ledger, found, asked.decision, asked)
        else:
            told = _settle_by_look(settings, ledger, found, sights)
        with ledger.reading() as connection:
            left = open_items(connection, batch.batch_id, Selection(), hold=settings.lanes.hold)
    if as_json:
        print(json.dumps([_as_json(one, sights.get(one.conversation_id), told.get(one.item_id)) for one in found]))  # noqa: T201
    else:
        print(_as_text(batch, found, sights, told, asked))  # noqa: T201 - what it is for
    return ExitCode.NEEDS_PERSON if left else ExitCode.DONE


def _check_job(settings: Settings, batch: BatchFacts, job_id: str) -> None:
    """Ask the service for a job that a person named: a mistyped one would be waited for in vain."""
    if settings.access_token is None and (settings.app_id is None or settings.app_secret is None):
        return  # without credentials nobody can be asked
    answer = asyncio.run(_ask_for(settings, batch, job_id))
    if answer.status is None and answer.reason == "HTTP 404":
        raise UsageError(f"--appended {job_id}: the service knows no such job (HTTP 404): check the jobId")


async def _ask_for(settings: Settings, batch: BatchFacts, job_id: str) -> JobAnswer:
    limits = TimeLimits(connect=settings.connect_seconds)
    async with Client(batch.base_url, credentials(settings), limits, time.time) as client:
        return await client.job(job_id)


def selection(
    *,
    lines: Sequence[int],
    conversations: Sequence[str],
    states: Sequence[str],
    reply: str | None,
    since: str | None,
    until: str | None,
) -> Selection:
    """Read the selection of the command line.

    Raises:
        UsageError: A time that is none.
    """
    return Selection(
        tuple(lines),
        tuple(conversations),
        tuple(State(state) for state in states),
        reply,
        _time("--since", since),
        _time("--until", until),
    )


def _ledger(settings: Settings) -> Ledger:
    """The ledger; where no run holds it, what a run that died left behind is settled first."""
    Ledger.open_for_reading(settings.ledger).close()  # where there is none, none is made
    try:
        ledger = Ledger.open_for_run(settings.ledger)
    except LedgerBusyError:
        return Ledger.open_for_reading(settings.ledger)
    with ledger.writing() as connection:
        rebase_deadlines(connection, *boot_clock())
        recover(connection, time.time(), settings.doubt_seconds)
    return ledger


def _settle(
    settings: Settings, ledger: Ledger, found: Sequence[Open], decision: Decision, asked: Asked
) -> dict[int, State]:
    if not asked.selection.names_any:
        raise UsageError("say which items: --line, --conversation, --state, --reply, --since or --until")
    if not found:
        raise UsageError("no item that needs a person is selected: `uploader resolve` lists those that do")
    if asked.job_id is not None and len(found) > 1:
        raise UsageError(f"--appended {asked.job_id}: {len(found)} items are selected, a job belongs to one")
    with ledger.writing() as connection:
        how = _record(settings, asked.job_id, asked.note)
        return {one.item_id: resolve(connection, one, decision, **how) for one in found}


def _settle_by_look(
    settings: Settings, ledger: Ledger, found: Sequence[Open], sights: Mapping[str, Sight | None]
) -> dict[int, State]:
    """Settle what the look proves, where the settings leave that to it; never guess from the rest."""
    if settings.doubt.settle != "look":
        return {}
    proved = [
        one
        for one in found
        if one.state is State.IN_DOUBT and proves_append(one.before, sights.get(one.conversation_id))
    ]
    note = "settled by a look: the conversation has more messages than before the attempt"
    how = _record(settings, None, note)
    with ledger.writing() as connection:
        return {one.item_id: resolve(connection, one, Decision.APPENDED, **how) for one in proved}


def _record(settings: Settings, job_id: str | None, note: str | None) -> dict[str, Any]:
    """What is kept with a decision: who made it, when, and why."""
    hold = settings.lanes.hold
    return {"job_id": job_id, "note": note, "who": getpass.getuser(), "now": time.time(), "hold": hold}


def _look(settings: Settings, batch: BatchFacts, found: Sequence[Open]) -> dict[str, Sight | None]:
    return asyncio.run(_look_at(settings, batch, sorted({one.conversation_id for one in found})))


async def _look_at(settings: Settings, batch: BatchFacts, conversations: Sequence[str]) -> dict[str, Sight | None]:
    limits = TimeLimits(connect=settings.connect_seconds)
    async with Client(batch.base_url, credentials(settings), limits, time.time) as client:
        return {one: await client.sight(one) for one in conversations}


def _time(flag: str, text: str | None) -> float | None:
    if text is None:
        return None
    try:
        return datetime.fromisoformat(text).astimezone().timestamp()
    except ValueError as error:
        raise UsageError(f"{flag} {text!r}: this is no time: write it as 2026-11-22T03:30:00Z") from error


def _as_json(one: Open, sight: Sight | None, settled: State | None) -> dict[str, Any]:
    return {
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
        "now": _sight_json(sight),
        "settledAs": settled.value if settled is not None else None,
    }


def _sight_json(sight: Sight | None) -> dict[str, Any] | None:
    return None if sight is None else {"messages": sight.messages, "lastEnd": sight.last_end}


def _as_text(
    batch: BatchFacts,
    found: Sequence[Open],
    sights: Mapping[str, Sight | None],
    told: Mapping[int, State],
    asked: Asked,
) -> str:
    need = "needs a person" if len(found) == 1 else "need a person"
    lines = [f"{batch.name}: {told_count(len(found), 'item')} {'selected' if told else need}"]
    for one in found:
        lines += _told(one, batch, told.get(one.item_id))
        if asked.look:
            lines.append(f"      {_told_sight(one, sights.get(one.conversation_id))}")
    if told:
        lines.append("run the batch again: it carries on, and what was held is released")
    elif found:
        lines.append(
            "settle with --line N and one of --appended [JOBID], --not-appended (in doubt), --retry (refused, "
            "failed), --drop"
        )
    return "\n".join(lines)


def _of(one: Open, batch: BatchFacts) -> str:
    """The batch of an item that is in the way from another batch."""
    return "" if one.batch == batch.name else f" of {one.batch}"


def _told(one: Open, batch: BatchFacts, settled: State | None) -> list[str]:
    state = one.state.value.replace("_", " ") + (", its job never ended" if one.overdue else "")
    became = f" -> {settled.value}" if settled is not None else ""
    lines = [f"  line {one.line}{_of(one, batch)}  {one.conversation_id}  {one.audio_path}  {state}{became}"]
    if one.attempted_at is not None:
        sent = f"{told_bytes(one.bytes_sent or 0)} of {told_bytes(one.size or 0)}"
        when = rfc3339(one.ended_at or one.attempted_at)
        lines.append(f"      attempt {one.attempts} until {when}, {sent} sent")
    if one.error:
        lines.append(f"      {one.error}")
    return lines


def _told_sight(one: Open, sight: Sight | None) -> str:
    if sight is None:
        return "the conversation's messages cannot be read"
    now = f"the conversation has {told_count(sight.messages, 'message')} now"
    if one.before is None:
        return f"{now}; nothing was noted before the attempt ([doubt] look_before)"
    proof = "that proves the append" if proves_append(one.before, sight) else "that proves nothing"
    return f"{now}, {one.before.messages} before the attempt: {proof}"
