"""`uploader resolve`: lists items that need a person, and records the person's decision."""

import getpass
import os
import shlex
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from http import HTTPStatus
from itertools import chain
from operator import attrgetter
from typing import Any

from uploader.cli.evidence import Evidence, as_lines, format_line, format_origin
from uploader.cli.inspecting import named_batch, service_of
from uploader.cli.printing import print_error, print_json, print_lines
from uploader.errors import ExitCode, LedgerBusyError, UsageError
from uploader.ledger import Connection, Ledger
from uploader.ledger.reading import BatchFacts, line_states
from uploader.ledger.resolving import (
    OpenItem,
    Resolution,
    Selection,
    fits,
    held_items,
    histories,
    open_items,
    resolve,
)
from uploader.ledger.workers import take_over
from uploader.model import ConversationSnapshot, Decision, State
from uploader.policy.resolving import proves_append
from uploader.settings import DEFAULT_ACCOUNT, Settings
from uploader.status.formatting import format_count, ledger_option, resolve_command

# the options that select items
CRITERIA = ("lines", "items", "conversations", "states", "reply", "since", "until")


@dataclass(frozen=True, slots=True)
class ResolveRequest:
    """A selection of items, and a decision on them or None."""

    selection: Selection
    decision: Decision | None
    job_id: str | None
    note: str | None
    with_snapshots: bool


@dataclass(frozen=True, slots=True)
class ResolveSnapshot:
    """The ledger's state before any decision. ``held``: held items and their lanes, of the selected items' lanes."""

    # the named batch, else the one that ran last
    latest: BatchFacts
    # the named batch; None where all are listed
    batch_id: int | None
    found: Sequence[OpenItem]
    past: Mapping[int, Sequence[Resolution]]
    held: Mapping[int, int]
    # messages on named lines that select no item
    lines: Sequence[str]


def resolve_items(settings: Settings, request: ResolveRequest, *, as_json: bool) -> ExitCode:
    """List the items that need a person, with their evidence, or record a decision on them."""
    with _ledger(settings) as ledger:
        snapshot = _read_snapshot(settings, ledger, request)
        snapshots = _read_snapshots(settings, snapshot) if request.with_snapshots else {}
        if request.job_id is not None:
            _check_job(settings, snapshot, request.job_id)
        if request.decision is not None:
            resolved = _settle(ledger, snapshot, request.decision, request)
        else:
            resolved = _settle_by_look(settings, ledger, snapshot.found, snapshots)
        with ledger.reading() as connection:
            left = _open(connection, settings, snapshot.batch_id, Selection())
            still_held = held_items(connection, {item.lane_id for item in snapshot.found})
            elsewhere = list(_format_elsewhere(connection, settings, ledger.address))
    evidence = _evidence(snapshot, request, ledger.address, snapshots, resolved, still_held)
    name = snapshot.latest.name if snapshot.batch_id is not None else None
    report_lines = (
        as_lines(name, ledger.address, evidence, config=settings.config, with_snapshot=request.with_snapshots)
        if evidence or not snapshot.lines
        else []
    )
    if as_json:
        print_json([entry.as_json() for entry in evidence])
        if elsewhere:
            print_error("\n".join(elsewhere))
    else:
        print_lines([*snapshot.lines, *report_lines, *elsewhere])
    return ExitCode.NEEDS_PERSON if left else ExitCode.DONE


def _read_snapshot(settings: Settings, ledger: Ledger, request: ResolveRequest) -> ResolveSnapshot:
    """Read the selected items with their history and the held items behind them."""
    with ledger.reading() as connection:
        latest = named_batch(connection, settings, ledger.address, service_of(settings))
        batch_id = latest.batch_id if settings.batch is not None else None
        found = _open(connection, settings, batch_id, request.selection)
        return ResolveSnapshot(
            latest,
            batch_id,
            found,
            past=histories(connection, [item.item_id for item in found]),
            held=held_items(connection, {item.lane_id for item in found}),
            lines=_describe_lines(connection, settings, latest, request, found, ledger.address),
        )


def _open(connection: Connection, settings: Settings, batch_id: int | None, chosen: Selection) -> list[OpenItem]:
    return open_items(connection, batch_id, chosen, base_url=service_of(settings))


def _format_elsewhere(connection: Connection, settings: Settings, ledger: str) -> Iterator[str]:
    """Name the services that a base URL leaves out although they have items that need a person."""
    chosen = service_of(settings)
    if chosen is None:
        return
    found = open_items(connection, None, Selection())
    counts = Counter(item.base_url for item in found if item.base_url != chosen)
    if counts:
        yield f"only items of {chosen} were looked at ({settings.source('base_url')}); others need a person, too:"
    for base_url, count in sorted(counts.items()):
        command = ["uploader", "resolve", "--base-url", base_url, *ledger_option(ledger)]
        yield f"  {format_count(count, 'item')} of {base_url}: {shlex.join(command)}"


def _evidence(
    snapshot: ResolveSnapshot,
    request: ResolveRequest,
    ledger: str,
    snapshots: Mapping[int, ConversationSnapshot | None],
    resolved: Mapping[int, State],
    still_held: Mapping[int, int],
) -> list[Evidence]:
    released = _released(snapshot.found, resolved, snapshot.held, still_held)
    return [
        Evidence(
            item=item,
            snapshot=snapshots.get(item.lane_id),
            past=snapshot.past.get(item.item_id, ()),
            settled=resolved.get(item.item_id),
            released=released.get(item.item_id, 0),
            command=_command(snapshot, ledger, item, request)
            if request.decision is not None and item.item_id not in resolved
            else "",
        )
        for item in snapshot.found
    ]


def _describe_lines(
    connection: Connection,
    settings: Settings,
    batch: BatchFacts,
    request: ResolveRequest,
    found: Sequence[OpenItem],
    ledger: str,
) -> list[str]:
    """Describe named lines that select no item, taken for lines of the latest batch.

    Raises:
        UsageError: A named line is no line of the batch.
    """
    missing = set(request.selection.lines) - {item.line for item in found if item.own}
    if not missing:
        return []
    states = line_states(connection, batch.batch_id, missing)
    others = [item for item in _open(connection, settings, batch.batch_id, Selection()) if not item.own]
    lines: list[str] = []
    for line in sorted(missing):
        lines.append(format_line(batch.name, line, states.get(line)))
        lines += [
            f"  line {line} of {format_origin(item)} is item {item.item_id}: "
            f"{_command_in(batch.name, ledger, item, request)}"
            for item in others
            if item.line == line
        ]
    if missing - set(states):
        raise UsageError("\n".join(lines))
    return lines


def _released(
    found: Sequence[OpenItem], resolved: Mapping[int, State], held: Mapping[int, int], still_held: Mapping[int, int]
) -> dict[int, int]:
    """Count the released items by the last resolved item of their lane."""
    last = {item.lane_id: item.item_id for item in found if item.item_id in resolved}
    freed = [lane for item, lane in held.items() if item not in still_held and item not in resolved]
    return Counter(last[lane] for lane in freed if lane in last)


def _command(snapshot: ResolveSnapshot, ledger: str, item: OpenItem, request: ResolveRequest) -> str:
    return _command_in(snapshot.latest.name if snapshot.batch_id is not None else item.batch, ledger, item, request)


def _command_in(batch: str, ledger: str, item: OpenItem, request: ResolveRequest) -> str:
    """Format the command that resolves an item as requested, or shows it where the decision does not fit."""
    words = ["--item", str(item.item_id)]
    if request.decision is not None and fits(item, request.decision):
        words.append(f"--{request.decision.value}")
        words += [request.job_id] if request.job_id is not None else []
        words += ["--note", request.note] if request.note is not None else []
    return resolve_command(batch, ledger, *words)


def _check_job(settings: Settings, snapshot: ResolveSnapshot, job_id: str) -> None:
    """Check that the service knows the named job: a mistyped id would be polled in vain."""
    base_url, account = _service(snapshot), DEFAULT_ACCOUNT
    if snapshot.found:
        # a job is named of one item alone, and is known to the account of that item, whatever the batch's is
        base_url, account = snapshot.found[0].base_url, snapshot.found[0].account
    from uploader.run.target import account_settings  # noqa: PLC0415 - as below

    own = account_settings(settings, base_url, account)
    if own.access_token is None and (own.app_id is None or own.app_secret is None):
        return  # without credentials the service cannot be asked
    from uploader.cli.lookups import fetch_job  # noqa: PLC0415 - most decisions need no service

    answer = fetch_job(own, base_url, job_id)
    if answer.status is None and answer.http_status == HTTPStatus.NOT_FOUND:
        raise UsageError(f"--appended {job_id}: the service knows no such job (HTTP 404): check the jobId")


def _service(snapshot: ResolveSnapshot) -> str:
    """Return the one service of the items, whose credentials are used.

    Raises:
        UsageError: The items belong to several services.
    """
    # accounts of a name of their own have credentials of their own
    services = sorted({item.base_url for item in snapshot.found if item.account == DEFAULT_ACCOUNT})
    if len(services) > 1:
        raise UsageError(f"these are items of {' and '.join(services)}: narrow them with --batch or UPLOADER_BASE_URL")
    return services[0] if services else snapshot.latest.base_url


def decision(named: Sequence[str]) -> Decision | None:
    """Convert the named decision; None where there is none."""
    return Decision(named[0]) if named else None


def selection(
    *,
    lines: Sequence[Sequence[int]],
    items: Sequence[Sequence[int]],
    conversations: Sequence[str],
    states: Sequence[str],
    reply: str | None,
    since: str | None,
    until: str | None,
) -> Selection:
    """Parse the command line's selection.

    Raises:
        UsageError: A time is malformed.
    """
    return Selection(
        tuple(chain.from_iterable(lines)),
        tuple(chain.from_iterable(items)),
        tuple(conversations),
        tuple(State(state) for state in states),
        reply,
        _time("--since", since),
        _time("--until", until),
    )


def _ledger(settings: Settings) -> Ledger:
    """Open the ledger, and take over what dead runs left."""
    Ledger.open_for_reading(settings.ledger).close()  # where there is none, none is made
    try:
        ledger = Ledger.open_for_run(settings.ledger)
    except LedgerBusyError:
        return Ledger.open_beside_run(settings.ledger)
    take_over(ledger, settings.doubt_seconds, settings.job_timeout_seconds)
    return ledger


def _who() -> str:
    """Return the name of the user who decides, or the uid where the system knows no name."""
    try:
        return getpass.getuser()
    except (KeyError, OSError):
        return f"uid {os.getuid()}"


def _settle(ledger: Ledger, snapshot: ResolveSnapshot, decision: Decision, request: ResolveRequest) -> dict[int, State]:
    if not request.selection.names_any:
        raise UsageError("say which items: --line, --item, --conversation, --state, --reply, --since or --until")
    meant = [item for item in snapshot.found if _is_meant(item, request.selection)]
    if snapshot.batch_id is None and request.selection.lines and decision is not Decision.DROP:
        # another batch's item on a line of that number, pending or held, can only be dropped
        meant = [item for item in meant if item.needs_person or item.item_id in request.selection.items] or meant
    if reason := _why_not(snapshot, meant, request, ledger.address):
        raise UsageError(reason)
    with ledger.writing() as connection:
        how = _record(request.job_id, request.note, ledger.read_clock(connection))
        return {item.item_id: resolve(connection, item, decision, **how) for item in meant}


def _why_not(snapshot: ResolveSnapshot, meant: Sequence[OpenItem], request: ResolveRequest, ledger: str) -> str:
    """Explain why none of the selected items is resolved; empty where some are."""
    strays = {item.item_id for item in meant if item.row_batch_id not in (None, snapshot.latest.batch_id)}
    if snapshot.batch_id is None and request.selection.lines and strays - set(request.selection.items):
        reason = "nothing was settled: batches have a line each of that number: name the batch, or the item"
        return "\n".join([reason, *(f"  {_command(snapshot, ledger, item, request)}" for item in meant)])
    if snapshot.lines:
        return "\n".join([*snapshot.lines, "nothing was settled"])
    if not snapshot.found:
        return "no item that needs a person is selected: `uploader resolve` lists those that do"
    if not meant:
        whose = f"no row of {snapshot.latest.name}" if snapshot.batch_id is not None else "no batch's row any more"
        reason = f"nothing was settled: the selected items are {whose}: settle them by number"
        return "\n".join([reason, *(f"  {_command(snapshot, ledger, item, request)}" for item in snapshot.found)])
    if request.job_id is not None and len(meant) > 1:
        return f"--appended {request.job_id}: {len(meant)} items are selected, a job belongs to one"
    return ""


def _is_meant(item: OpenItem, chosen: Selection) -> bool:
    """Return True where the decision covers an item.

    An item that is no row of the batch is covered only by its number, or by its conversation if it needs a person.
    """
    named = bool(chosen.conversations) and (item.needs_person or bool(chosen.states))
    return item.own or item.item_id in chosen.items or named


def _settle_by_look(
    settings: Settings, ledger: Ledger, found: Sequence[OpenItem], snapshots: Mapping[int, ConversationSnapshot | None]
) -> dict[int, State]:
    """Record as appended the doubtful items that snapshots prove, where ``[doubt] settle`` is "look"."""
    if settings.doubt.settle != "look":
        return {}
    proved = [
        item
        for item in found
        if item.state is State.IN_DOUBT and proves_append(item.before, snapshots.get(item.lane_id), alone=item.alone)
    ]
    note = "settled by a look: the conversation has more messages than before the attempt"
    with ledger.writing() as connection:
        how = _record(None, note, ledger.read_clock(connection))
        return {item.item_id: resolve(connection, item, Decision.APPENDED, **how) for item in proved}


def _record(job_id: str | None, note: str | None, now: float) -> dict[str, Any]:
    """Return the details kept with a decision: user, time and note."""
    return {"job_id": job_id, "note": note, "who": _who(), "now": now}


def _read_snapshots(settings: Settings, snapshot: ResolveSnapshot) -> dict[int, ConversationSnapshot | None]:
    """Read a snapshot of each lane's conversation, account by account."""
    from uploader.cli.lookups import read_snapshots  # noqa: PLC0415 - see _check_job
    from uploader.run.target import account_settings  # noqa: PLC0415 - as below

    _service(snapshot)
    read: dict[int, ConversationSnapshot | None] = {}
    for base_url, account in sorted({(item.base_url, item.account) for item in snapshot.found}):
        lanes = {
            item.lane_id: item.conversation_id
            for item in sorted(snapshot.found, key=attrgetter("conversation_id"))
            if (item.base_url, item.account) == (base_url, account)
        }
        read |= read_snapshots(account_settings(settings, base_url, account), base_url, lanes)
    return read


def _time(flag: str, text: str | None) -> float | None:
    if text is None:
        return None
    try:
        return datetime.fromisoformat(text).astimezone().timestamp()
    except (ValueError, OverflowError) as error:
        raise UsageError(f"{flag} {text!r}: this is no time: write it as 2026-11-22T03:30:00Z") from error
