"""Formats of figures and facts, as text and as JSON."""

import shlex
from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

from uploader import secrets
from uploader.ledger.amounts import Amount, Leftover
from uploader.ledger.orphans import Orphans
from uploader.ledger.reading import Anomaly, Trouble
from uploader.ledger.standing import Standing
from uploader.model import LimitFacts, State
from uploader.policy.held_back import HeldBack, SlotUse
from uploader.results import rfc3339

# the remedy for items that no batch references any more
ORPHANS_REMEDY = (
    "no run sends these for themselves: put their rows back and run again, or settle or drop them; a job every night "
    "needs a name for each night (--batch, or a dated file name)"
)
# the least share of the slots' time that is worth a person's attention
LEAST_SHARE = 0.01
CAUSES = {
    SlotUse.DOUBT: "items in doubt",
    SlotUse.LANES: "lack of conversations that may go",
    SlotUse.OTHER_WORKERS: "the parts of other workers",
    SlotUse.RETRY: "waits before another attempt",
    SlotUse.UPLINK: "the uplink",
    SlotUse.ANSWERS: "answers",
    SlotUse.UNANSWERED: "the cap unanswered",
    SlotUse.UPLOADS: "the cap uploads",
    SlotUse.RATE: "the cap rate",
    SlotUse.LEDGER: "the ledger",
    SlotUse.BACKOFF: "pauses after 429s",
    SlotUse.BREAKER: "the circuit breaker",
}
# the most anomalies in the text report
ANOMALIES_SHOWN = 20


def format_rows(rows: Iterable[tuple[str, str]]) -> Iterator[str]:
    """Format pairs of label and text as an indented table, without pairs whose text is empty."""
    return (f"  {label:<9} {text}" for label, text in rows if text)


def limit_json(limit: LimitFacts) -> dict[str, int | str | None]:
    """Return the limit as JSON."""
    return {
        "configured": limit.configured,
        "stated": limit.stated,
        "inForce": limit.in_force,
        "live": limit.live,
        "liveByOthers": limit.others,
        "heldForDoubt": limit.doubtful,
        "heldForDoubtUntil": rfc3339(limit.doubtful_until) if limit.doubtful_until is not None else None,
        "needsSlotFirst": limit.needs_slot_first,
        "needsSlotFirstUntil": rfc3339(limit.slot_first_until) if limit.slot_first_until is not None else None,
        "needsSlotFirstReason": limit.slot_first_reason,
    }


def held_back_json(found: HeldBack | None) -> dict[str, Any]:
    """Return the shares of the slots' time as JSON, their keys those of every report."""
    return {
        "slotsBusy": None if found is None else round(found.busy, 4),
        "heldBackBy": {} if found is None else {cause: round(share, 4) for cause, share in found.causes.items()},
    }


def format_held_back(shown: Mapping[str, Any], busy: str = "were busy") -> str:
    """Format shares as ``held_back_json`` returns them; empty where none are known."""
    if shown["slotsBusy"] is None:
        return ""
    causes = [
        f"{share:.0%} by {CAUSES[SlotUse(cause)]}".replace("%", " %")
        for cause, share in shown["heldBackBy"].items()
        if share >= LEAST_SHARE
    ]
    share = f"{shown['slotsBusy']:.0%}".replace("%", " %")
    return f"{', '.join(causes) or 'by the limit alone'}; slots {busy} {share} of the time"


def format_ledger_away(seconds: float) -> str:
    """Format the time for which the ledger was away; empty where it never was."""
    return f"it was away for {seconds:.1f} s: nothing was admitted meanwhile" if seconds else ""


def counts_json(counts: Mapping[State, int]) -> dict[str, int]:
    """Return the items by state as JSON."""
    return {state.value: count for state, count in counts.items()}


def trouble_json(trouble: Trouble) -> dict[str, Any]:
    """Return a group of items that need a person as JSON."""
    return {
        "batch": trouble.batch,
        "state": trouble.state.value,
        "reason": trouble.reason,
        "items": trouble.items,
        "lines": list(trouble.lines),
        "jobIds": list(trouble.job_ids),
    }


def anomaly_json(anomaly: Anomaly) -> dict[str, Any]:
    """Return an item's anomaly as JSON."""
    return {
        "batch": anomaly.batch,
        "line": anomaly.line,
        "conversationId": anomaly.conversation_id,
        "remark": anomaly.said,
    }


def format_anomalies(found: Sequence[Anomaly]) -> list[str]:
    """Format the anomalies with their lines, the first of them and the number of the others."""
    several = len({anomaly.batch for anomaly in found}) > 1
    parts = [
        f"line {anomaly.line}{f' of {anomaly.batch}' if several else ''}, {anomaly.conversation_id}: {anomaly.said}"
        for anomaly in found[:ANOMALIES_SHOWN]
    ]
    more = len(found) - len(parts)
    return [*parts, f"and {format_count(more, 'item')} more: their `error` in the results says what"] if more else parts


def format_counts(counts: Mapping[State, int]) -> str:
    """Format the items by state, without states that have none."""
    parts = [f"{count} {state.value.replace('_', ' ')}" for state, count in counts.items() if count]
    return ", ".join(parts) or "none"


def format_state(state: State) -> str:
    """Format a state."""
    return state.value.replace("_", " ")


def format_limit(limit: LimitFacts) -> str:
    """Format the limit in force, its reasons and the slots in use."""
    doubt = f"; {format_doubt(limit)}; `uploader resolve` frees them" if limit.doubtful else ""
    jobs = limit.live - limit.doubtful
    in_force = format_count(limit.in_force, "concurrent job")
    return f"{in_force} in force ({_format_limit_reasons(limit)}); {jobs} live now{doubt}"


def format_slot_first(limit: LimitFacts) -> str:
    """Format why no body is sent before its slot is free, and until when by the local clock; empty where they are."""
    if not limit.needs_slot_first:
        return ""
    until = limit.slot_first_until
    end = f" until {datetime.fromtimestamp(until).astimezone():%a %H:%M}" if until is not None else ""
    return (
        f"uploads wait for a free slot before they begin{end}, which takes longer; nothing is to be done "
        f"(`uploader help limit`): {limit.slot_first_reason}"
    )


def _format_limit_reasons(limit: LimitFacts) -> str:
    """Format the reasons of the limit in force; a mere hint of 429s is worded as a guess."""
    configured, stated = limit.configured, limit.stated
    parts = [f"configured {configured}"]
    if stated is not None:
        # a stated limit that has expired is told in the past tense
        is_less = limit.in_force <= stated < configured
        parts.append(f"the service stated {stated}" + (f": use --limit {stated}" if is_less else ""))
    if limit.others is not None:
        seem = "seems" if limit.others == 1 else "seem"
        parts.append(f"by its 429s, about {format_count(limit.others, 'slot')} {seem} to be taken by others")
    elif limit.in_force < min(configured, configured if stated is None else stated):
        parts.append("by its 429s, others seem to use the account, too")
    return ", ".join(parts)


def format_doubt(limit: LimitFacts) -> str:
    """Format the number of slots held for doubtful items, and until when by the local clock."""
    until = ""
    if limit.doubtful_until is not None:
        until = f" until {datetime.fromtimestamp(limit.doubtful_until).astimezone():%H:%M}"
    verb = "is" if limit.doubtful == 1 else "are"
    return f"{format_count(limit.doubtful, 'slot')} {verb} held for items in doubt{until}"


def format_billed(standing: Standing) -> str:
    """Format the billed minutes by state."""
    parts = [f"{minutes:.1f} min {state.value.replace('_', ' ')}" for state, minutes in standing.billed_minutes.items()]
    unknown = (
        [f"{format_count(standing.unknown_lengths, 'file')} of unknown length"] if standing.unknown_lengths else []
    )
    return ", ".join([*parts, *unknown]) or "nothing"


def format_trouble(trouble: Trouble) -> str:
    """Format a group of items that need a person, with their lines and the reason."""
    parts = [
        f"{line}, job {job}" if job else str(line) for line, job in zip(trouble.lines, trouble.job_ids, strict=True)
    ]
    apart = "; " if any(trouble.job_ids) else ", "
    line = "lines" if len(parts) > 1 or trouble.items > len(parts) else "line"
    where = f" ({line} {apart.join([*parts, *(['…'] if trouble.items > len(parts) else [])])})" if parts else ""
    return f"{trouble.items} {trouble.state.value.replace('_', ' ')}{where}: {trouble.reason}"


def from_here(path: str) -> str:
    """Shorten a path to one relative to the current folder, where it is inside."""
    here = Path.cwd()
    return str(Path(path).relative_to(here)) if Path(path).is_relative_to(here) else path


def ledger_option(ledger: str) -> list[str]:
    """Return the words that name a ledger in a command; none where its address has a login, which is not shown."""
    if ledger.startswith("/"):
        return ["--ledger", f"sqlite:///{ledger}"]
    return [] if secrets.is_without_login(ledger) else ["--ledger", ledger]


def config_option(config: Path | None) -> list[str]:
    """Return the words that name the config file in a command; none where there is none."""
    return ["--config", str(config.absolute())] if config is not None else []


def resolve_command(batch: str | None, ledger: str, *words: str) -> str:
    """Format the command that resolves items of a batch, or of all. ``words``: the selection and the decision."""
    named = ["--batch", batch] if batch is not None else []
    return shlex.join(["uploader", "resolve", *named, *ledger_option(ledger), *words])


def orphans_json(group: Orphans) -> dict[str, Any]:
    """Return a batch's orphans as JSON."""
    return {"batch": group.batch, "items": group.items, "counts": counts_json(group.counts)}


def format_orphans(group: Orphans) -> str:
    """Format a batch's orphans by state."""
    items = format_count(group.items, "item")
    return f"{items} that a manifest of this name held before and holds no more: {format_counts(group.counts)}"


def run_command(batch: str, base_url: str, ledger: str, *, config: Path | None = None, limit: int | None = None) -> str:
    """Format the command that carries on a batch, to which its other options are added.

    Args:
        batch: The batch's name.
        base_url: The batch's own, as the ledger has it; its items may be of accounts with others.
        ledger: The ledger's address.
        config: The config file of the settings, which may have accounts of the batch.
        limit: The limit of the account above all tables; None: none is named.
    """
    words = ["uploader", "run", "--batch", batch, *config_option(config), "--base-url", base_url]
    words += ledger_option(ledger)
    return shlex.join([*words, *(["--limit", str(limit)] if limit is not None else [])])


def format_count(count: int, word: str) -> str:
    """Format a number with its noun in singular or plural."""
    return f"{count} {word}" + ("" if count == 1 else "s")


def format_bytes(count: int) -> str:
    """Format a size in binary units."""
    size = float(count)
    for unit in ("B", "KiB", "MiB"):
        if size < 1024:
            return f"{size:.0f} {unit}" if unit == "B" else f"{size:.1f} {unit}"
        size /= 1024
    return f"{size:.2f} GiB"


def amount_json(amount: Amount) -> dict[str, int | float]:
    """Return an amount of audio as JSON."""
    return {
        "files": amount.files,
        "bytes": amount.size,
        "audioMinutes": round(amount.audio_seconds / 60, 2),
        "billedMinutes": round(amount.billed_seconds / 60, 2),
        "unknownLengths": amount.unknown_lengths,
    }


def format_amount(amount: Amount) -> str:
    """Format an amount of audio."""
    minutes = f"{amount.audio_seconds / 60:.1f} audio minutes, {amount.billed_seconds / 60:.1f} billed"
    unknown = f", {amount.unknown_lengths} of unknown length" if amount.unknown_lengths else ""
    return f"{format_count(amount.files, 'file')}, {format_bytes(amount.size)}, {minutes}{unknown}"


def leftover_json(leftover: Leftover) -> dict[str, Any]:
    """Return a batch's leftovers as JSON."""
    return {"batch": leftover.batch, **amount_json(leftover.amount)}


def format_leftover(leftover: Leftover) -> str:
    """Format a batch's leftovers."""
    return f"{leftover.batch}: {format_amount(leftover.amount)}"


def format_duration(seconds: float) -> str:
    """Format a duration as hours and minutes, minutes and seconds, or seconds."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours} h {minutes:02} min"
    return f"{minutes} min {rest:02} s" if minutes else f"{rest} s"
