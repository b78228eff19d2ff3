"""`uploader resolve`: what needs a person, the evidence, and the person's decision."""

import getpass
import os
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from uploader.cli.evidence import Evidence, as_lines, told_line, told_origin
from uploader.cli.inspecting import named_batch, service_of
from uploader.cli.printing import print_json, print_lines
from uploader.errors import ExitCode, LedgerBusyError, UsageError
from uploader.ledger import Connection, Ledger
from uploader.ledger.reading import BatchFacts, line_states
from uploader.ledger.recovery import boot_clock, rebase_deadlines, recover
from uploader.ledger.resolving import (
    Open,
    Selection,
    Settlement,
    fits,
    held_items,
    histories,
    open_items,
    resolve,
)
from uploader.model import Decision, Sight, State
from uploader.policy.settling import proves_append
from uploader.settings import Settings
from uploader.status.telling import resolve_command


@dataclass(frozen=True, slots=True)
class Asked:
    """What the command line asks of `resolve`."""

    selection: Selection
    decision: Decision | None
    job_id: str | None
    note: str | None
    look: bool


@dataclass(frozen=True, slots=True)
class Seen:
    """What the ledger showed before anything was settled. ``held``: what is held in the items' lanes, by item."""

    latest: BatchFacts
    """The batch that is named, else the one that ran last."""
    batch_id: int | None
    """The batch that is named; None where all are looked at."""
    found: Sequence[Open]
    past: Mapping[int, Sequence[Settlement]]
    held: Mapping[int, int]
    lines: Sequence[str]
    """What is to be said of lines that were named and not found."""


def resolve_items(settings: Settings, asked: Asked, *, as_json: bool) -> ExitCode:
    """List what needs a person, look at the evidence, or settle as decided."""
    with _ledger(settings) as ledger:
        seen = _see(settings, ledger, asked)
        sights = _look(settings, seen) if asked.look else {}
        if asked.job_id is not None:
            _check_job(settings, seen, asked.job_id)
        if asked.decision is not None:
            told = _settle(settings, ledger, seen, asked.decision, asked)
        else:
            told = _settle_by_look(settings, ledger, seen.found, sights)
        with ledger.reading() as connection:
            left = _open(connection, settings, seen.batch_id, Selection())
            still_held = held_items(connection, {one.lane_id for one in seen.found}, hold=settings.lanes.hold)
    evidence = _evidence(seen, asked, ledger.path, sights, told, still_held)
    name = seen.latest.name if seen.batch_id is not None else None
    told_all = as_lines(name, ledger.path, evidence, looked=asked.look) if evidence or not seen.lines else []
    if as_json:
        print_json([one.as_json() for one in evidence])
    else:
        print_lines([*seen.lines, *told_all])
    return ExitCode.NEEDS_PERSON if left else ExitCode.DONE


def _see(settings: Settings, ledger: Ledger, asked: Asked) -> Seen:
    """Read what the ledger has of what is asked for."""
    hold = settings.lanes.hold
    with ledger.reading() as connection:
        latest = named_batch(connection, settings, ledger.path, service_of(settings))
        batch_id = latest.batch_id if settings.batch is not None else None
        found = _open(connection, settings, batch_id, asked.selection)
        return Seen(
            latest,
            batch_id,
            found,
            past=histories(connection, [one.item_id for one in found]),
            held=held_items(connection, {one.lane_id for one in found}, hold=hold),
            lines=_told_lines(connection, settings, latest, asked, found, ledger.path),
        )


def _open(connection: Connection, settings: Settings, batch_id: int | None, chosen: Selection) -> list[Open]:
    hold = settings.lanes.hold
    return open_items(connection, batch_id, chosen, hold=hold, base_url=service_of(settings))


def _evidence(
    seen: Seen,
    asked: Asked,
    ledger: Path,
    sights: Mapping[str, Sight | None],
    told: Mapping[int, State],
    still_held: Mapping[int, int],
) -> list[Evidence]:
    released = _released(seen.found, told, seen.held, still_held)
    return [
        Evidence(
            item=one,
            sight=sights.get(one.conversation_id),
            past=seen.past.get(one.item_id, ()),
            settled=told.get(one.item_id),
            released=released.get(one.item_id, 0),
            command=_command(seen, ledger, one, asked)
            if asked.decision is not None and one.item_id not in told
            else "",
        )
        for one in seen.found
    ]


def _told_lines(
    connection: Connection, settings: Settings, batch: BatchFacts, asked: Asked, found: Sequence[Open], ledger: Path
) -> list[str]:
    """What is to be said of lines that were named and not found: they are taken for the latest batch's.

    Raises:
        UsageError: One of them is no line of the batch.
    """
    missing = set(asked.selection.lines) - {one.line for one in found if one.own}
    if not missing:
        return []
    states = line_states(connection, batch.batch_id, missing, hold=settings.lanes.hold)
    others = [one for one in _open(connection, settings, batch.batch_id, Selection()) if not one.own]
    told: list[str] = []
    for line in sorted(missing):
        told.append(told_line(batch.name, line, states.get(line)))
        told += [
            f"  line {line} of {told_origin(one)} is item {one.item_id}: {_command_in(batch.name, ledger, one, asked)}"
            for one in others
            if one.line == line
        ]
    if missing - set(states):
        raise UsageError("\n".join(told))
    return told


def _released(
    found: Sequence[Open], told: Mapping[int, State], held: Mapping[int, int], still_held: Mapping[int, int]
) -> dict[int, int]:
    """How many items go on that were held: by the last item of their lane that was settled."""
    last = {one.lane_id: one.item_id for one in found if one.item_id in told}
    freed = [lane for item, lane in held.items() if item not in still_held and item not in told]
    return Counter(last[lane] for lane in freed if lane in last)


def _command(seen: Seen, ledger: Path, one: Open, asked: Asked) -> str:
    return _command_in(seen.latest.name if seen.batch_id is not None else one.batch, ledger, one, asked)


def _command_in(batch: str, ledger: Path, one: Open, asked: Asked) -> str:
    """What to type to settle an item as was asked; where that does not fit it, to see it alone."""
    words = ["--item", str(one.item_id)]
    if asked.decision is not None and fits(one, asked.decision):
        words.append(f"--{asked.decision.value}")
        words += [asked.job_id] if asked.job_id is not None else []
        words += ["--note", asked.note] if asked.note is not None else []
    return resolve_command(batch, ledger, *words)


def _check_job(settings: Settings, seen: Seen, job_id: str) -> None:
    """Ask the service for a job that a person named: a mistyped one would be waited for in vain."""
    if settings.access_token is None and (settings.app_id is None or settings.app_secret is None):
        return  # without credentials nobody can be asked
    from uploader.cli.asking import ask_for_job  # noqa: PLC0415 - most of what is resolved needs no service

    answer = ask_for_job(settings, _service(seen), job_id)
    if answer.status is None and answer.reason == "HTTP 404":
        raise UsageError(f"--appended {job_id}: the service knows no such job (HTTP 404): check the jobId")


def _service(seen: Seen) -> str:
    """The service of the items: credentials are those of one.

    Raises:
        UsageError: There are items of several.
    """
    services = sorted({one.base_url for one in seen.found})
    if len(services) > 1:
        raise UsageError(f"these are items of {' and '.join(services)}: narrow them with --batch or UPLOADER_BASE_URL")
    return services[0] if services else seen.latest.base_url


def decision(named: Sequence[str]) -> Decision | None:
    """The decision that the command line names; None where it names none."""
    return Decision(named[0]) if named else None


def selection(
    *,
    lines: Sequence[int],
    items: Sequence[int],
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
        tuple(items),
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
        return Ledger.open_beside_run(settings.ledger)
    with ledger.writing() as connection:
        rebase_deadlines(connection, *boot_clock())
        recover(connection, time.time(), settings.doubt_seconds, settings.job_timeout_seconds)
    return ledger


def _who() -> str:
    """The user who decides; by number where the system knows no name."""
    try:
        return getpass.getuser()
    except (KeyError, OSError):
        return f"uid {os.getuid()}"


def _settle(settings: Settings, ledger: Ledger, seen: Seen, decision: Decision, asked: Asked) -> dict[int, State]:
    if not asked.selection.names_any:
        raise UsageError("say which items: --line, --item, --conversation, --state, --reply, --since or --until")
    meant = [one for one in seen.found if _is_meant(one, asked.selection)]
    if reason := _why_not(seen, meant, asked, ledger.path):
        raise UsageError(reason)
    with ledger.writing() as connection:
        how = _record(settings, asked.job_id, asked.note)
        return {one.item_id: resolve(connection, one, decision, **how) for one in meant}


def _why_not(seen: Seen, meant: Sequence[Open], asked: Asked, ledger: Path) -> str:
    """Why nothing is settled of what was selected; empty where something is."""
    strays = {one.item_id for one in meant if one.row_batch_id not in (None, seen.latest.batch_id)}
    if seen.batch_id is None and asked.selection.lines and strays - set(asked.selection.items):
        told = "nothing was settled: batches have a line each of that number: name the batch, or the item"
        return "\n".join([told, *(f"  {_command(seen, ledger, one, asked)}" for one in meant)])
    if seen.lines:
        return "\n".join([*seen.lines, "nothing was settled"])
    if not seen.found:
        return "no item that needs a person is selected: `uploader resolve` lists those that do"
    if not meant:
        whose = f"no row of {seen.latest.name}" if seen.batch_id is not None else "no batch's row any more"
        told = f"nothing was settled: what is selected is {whose}: settle it by number"
        return "\n".join([told, *(f"  {_command(seen, ledger, one, asked)}" for one in seen.found)])
    if asked.job_id is not None and len(meant) > 1:
        return f"--appended {asked.job_id}: {len(meant)} items are selected, a job belongs to one"
    return ""


def _is_meant(one: Open, chosen: Selection) -> bool:
    """Whether a decision is about an item: one that is no row of the batch is, where it is named.

    By its number, or by its conversation; that alone does not mean what only waits.
    """
    named = bool(chosen.conversations) and (one.needs_person or bool(chosen.states))
    return one.own or one.item_id in chosen.items or named


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
    return {"job_id": job_id, "note": note, "who": _who(), "now": time.time(), "hold": hold}


def _look(settings: Settings, seen: Seen) -> dict[str, Sight | None]:
    from uploader.cli.asking import look_at  # noqa: PLC0415 - see _check_job

    return look_at(settings, _service(seen), sorted({one.conversation_id for one in seen.found}))


def _time(flag: str, text: str | None) -> float | None:
    if text is None:
        return None
    try:
        return datetime.fromisoformat(text).astimezone().timestamp()
    except (ValueError, OverflowError) as error:
        raise UsageError(f"{flag} {text!r}: this is no time: write it as 2026-11-22T03:30:00Z") from error
