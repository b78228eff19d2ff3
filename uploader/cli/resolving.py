"""`uploader resolve`: what needs a person, the evidence, and the person's decision."""

import asyncio
import getpass
import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from uploader.cli.evidence import Evidence, as_text
from uploader.cli.inspecting import at_service, named_batch
from uploader.cli.target import credentials
from uploader.client import Client, JobAnswer, TimeLimits
from uploader.errors import ExitCode, LedgerBusyError, UsageError
from uploader.ledger import Ledger
from uploader.ledger.reading import BatchFacts, find_batches
from uploader.ledger.recovery import boot_clock, rebase_deadlines, recover
from uploader.ledger.resolving import Open, Selection, histories, open_items, resolve
from uploader.model import Decision, Sight, State
from uploader.policy.settling import proves_append
from uploader.settings import Settings


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
            batch = named_batch(at_service(find_batches(connection), settings, ledger.path), settings, ledger.path)
            found = open_items(connection, batch.batch_id, asked.selection, hold=settings.lanes.hold)
            past = histories(connection, [one.item_id for one in found])
        sights = _look(settings, batch, found) if asked.look else {}
        if asked.job_id is not None:
            _check_job(settings, batch, asked.job_id)
        if asked.decision is not None:
            told = _settle(settings, ledger, found, asked.decision, asked)
        else:
            told = _settle_by_look(settings, ledger, found, sights)
        with ledger.reading() as connection:
            left = open_items(connection, batch.batch_id, Selection(), hold=settings.lanes.hold)
    evidence = [
        Evidence(one, sights.get(one.conversation_id), past.get(one.item_id, ()), told.get(one.item_id))
        for one in found
    ]
    print(json.dumps([one.as_json() for one in evidence]) if as_json else as_text(batch, evidence, looked=asked.look))  # noqa: T201
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
    found = _meant(found, asked.selection)
    if not found:
        raise UsageError("no item that needs a person is selected: `uploader resolve` lists those that do")
    if asked.job_id is not None and len(found) > 1:
        raise UsageError(f"--appended {asked.job_id}: {len(found)} items are selected, a job belongs to one")
    with ledger.writing() as connection:
        how = _record(settings, asked.job_id, asked.note)
        return {one.item_id: resolve(connection, one, decision, **how) for one in found}


def _meant(found: Sequence[Open], chosen: Selection) -> Sequence[Open]:
    """What a decision is about: another batch's item only where its conversation is named.

    Raises:
        UsageError: Nothing but other batches' items was selected.
    """
    meant = [one for one in found if one.own or chosen.conversations]
    if found and not meant:
        batches = ", ".join(sorted({one.batch for one in found}))
        raise UsageError(
            f"the items that are selected are those of {batches}: settle them with --batch, or by --conversation"
        )
    return meant


def _settle_by_look(
    settings: Settings, ledger: Ledger, found: Sequence[Open], sights: Mapping[str, Sight | None]
) -> dict[int, State]:
    """Settle what the look proves, where the settings leave that to it; never guess from the rest."""
    if settings.doubt.settle != "look":
        return {}
    proved = [
        one
        for one in found
        if one.state is State.IN_DOUBT and proves_append(one.before, sights.get(one.conversation_id), alone=one.alone)
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
