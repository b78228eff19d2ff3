"""Takes the jobIds and states of a results file back into a ledger that lost them."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from sqlalchemy import Connection, RowMapping, bindparam, select, update

from uploader.ledger.dialects import insert_or_ignore
from uploader.ledger.schema import attempts, items, rows
from uploader.ledger.staging import chunks
from uploader.model import Outcome, ResultLine, State

# one statement looks up so many rows
CHUNK = 500

# the state that an item takes by the state of its row, of rows that were, may have been, or shall not be appended
MADE_OF: Mapping[State, State] = {
    State.COMPLETED: State.COMPLETED,
    State.FAILED: State.FAILED,
    State.DROPPED: State.DROPPED,
    State.ACCEPTED: State.ACCEPTED,
    State.IN_DOUBT: State.IN_DOUBT,
    # the file was written while these were under way
    State.SENT: State.IN_DOUBT,
    State.SENDING: State.IN_DOUBT,
}

# how certain the fate of an item in a state is: an item never takes a less certain one
_CERTAINTY = {
    State.PENDING: 0,
    State.REFUSED: 0,
    State.SENDING: 0,
    State.SENT: 1,
    State.IN_DOUBT: 1,
    State.ACCEPTED: 2,
    State.COMPLETED: 3,
    State.FAILED: 3,
    State.DROPPED: 3,
}

# the items of some rows of a batch
_FOUND = (
    select(rows.c.line, *items.c["id", "path", "state", "job_id", "content_hash"])
    .join_from(rows, items, items.c.id == rows.c.item_id)
    .where(rows.c.batch_id == bindparam("batch"), rows.c.line.in_(bindparam("lines", expanding=True)))
)

# columns that an item takes from its row
_TAKEN = (
    "state",
    "job_id",
    "attempts",
    "http_status",
    "error",
    "duration_seconds",
    "channels",
    "billed_seconds",
    "accepted_at",
    "finished_at",
    "slot_until",
    "content_hash",
)

# give an item the columns of its row
_TAKE = (
    update(items)
    .where(items.c.id == bindparam("item"))
    .values({name: bindparam(f"new_{name}", type_=items.c[name].type) for name in _TAKEN})
)

# add an attempt unless the item has one of its number
_ADD_ATTEMPT = insert_or_ignore(attempts)


@dataclass(slots=True)
class Adoption:
    """The counts of an adoption."""

    adopted: int = 0
    # rows of which the ledger knew as much already
    known: int = 0
    # descriptions of rows whose item has another job in the ledger, and is left as it is
    contrary: list[str] = field(default_factory=list)


def was_begun(line: ResultLine) -> bool:
    """Return True where a row was appended, may have been, or shall not be."""
    return line.state in MADE_OF


def adopt(
    connection: Connection,
    batch_id: int,
    lines: Iterable[ResultLine],
    *,
    content_hash: Callable[[str, int | None], str | None],
    now: float,
    doubt_seconds: float,
) -> Adoption:
    """Set the items of a batch, whose rows were loaded, to the states and jobIds of a results file.

    Args:
        batch_id: The batch that the rows were loaded as.
        lines: The rows.
        content_hash: Hashes the file at a path if it has this size; None where it is gone or has another.
        doubt_seconds: How long an item in doubt keeps its slot.
    """
    adoption = Adoption()
    for chunk in chunks((line for line in lines if was_begun(line)), CHUNK):
        known = _found(connection, batch_id, chunk)
        taken = [(line, known[line.line]) for line in chunk if _is_news(line, known[line.line], adoption)]
        if not taken:
            continue
        connection.execute(_TAKE, [_values(line, item, content_hash, now + doubt_seconds) for line, item in taken])
        begun = [_attempt(line, item, now) for line, item in taken if line.state is not State.DROPPED]
        if begun:
            connection.execute(_ADD_ATTEMPT, begun)
    return adoption


def _found(connection: Connection, batch_id: int, chunk: Sequence[ResultLine]) -> Mapping[int, RowMapping]:
    """Return the items of some rows, by line."""
    found = connection.execute(_FOUND, {"batch": batch_id, "lines": [line.line for line in chunk]})
    return {item["line"]: item for item in found.mappings()}


def _is_news(line: ResultLine, item: RowMapping, adoption: Adoption) -> bool:
    """Return True where a row is more certain of its item than the ledger is; count the row in ``adoption``."""
    before = State(item["state"])
    certain = _CERTAINTY[MADE_OF[line.state]] > _CERTAINTY[before]
    if line.job_id and item["job_id"] and line.job_id != item["job_id"]:
        adoption.contrary.append(
            f"line {line.line}: the results say job {line.job_id}, the ledger {item['job_id']} ({before.value})"
        )
        return False
    adoption.adopted += certain
    adoption.known += not certain
    return certain


def _values(
    line: ResultLine, item: RowMapping, content_hash: Callable[[str, int | None], str | None], until: float
) -> dict[str, Any]:
    state = MADE_OF[line.state]
    taken: dict[str, Any] = {name: getattr(line, name, None) for name in _TAKEN}
    taken |= {
        "state": state,
        "attempts": max(line.attempts, int(state is not State.DROPPED)),
        "slot_until": until if state is State.IN_DOUBT else None,
        "content_hash": item["content_hash"] or content_hash(item["path"], line.size),
    }
    return {"item": item["id"]} | {f"new_{name}": value for name, value in taken.items()}


def _attempt(line: ResultLine, item: RowMapping, now: float) -> dict[str, Any]:
    """Return the columns of the attempt that made the job, as far as the results have them."""
    at = line.accepted_at or line.finished_at or now
    return {
        "item_id": item["id"],
        "number": max(line.attempts, 1),
        "started_at": at,
        "admitted_at": at,
        "ended_at": at,
        "outcome": Outcome.IN_DOUBT if MADE_OF[line.state] is State.IN_DOUBT else Outcome.APPLIED,
        "http_status": line.http_status,
        "reason": "taken from a results file",
        "bytes_sent": line.size,
        "job_id": line.job_id,
    }
