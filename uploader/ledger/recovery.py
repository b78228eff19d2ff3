"""What a run that died left behind, and a wall clock that jumped meanwhile."""

import time
from pathlib import Path

from sqlalchemy import Connection, bindparam, select, update

from uploader.ledger.outcomes import slot_until
from uploader.ledger.schema import accounts, attempts, items, ledger
from uploader.model import SLOTTED, Outcome, State

_LEFT = select(items.c.id).where(items.c.state == bindparam("left_as"))

_RECOVER = (
    update(items)
    .where(items.c.id == bindparam("item"))
    .values(state=bindparam("becomes"), error=bindparam("because"), slot_until=bindparam("keeps_slot_until"))
)

_CLOSE_ATTEMPT = (
    update(attempts)
    .where(attempts.c.item_id == bindparam("item"), attempts.c.ended_at.is_(None))
    .values(outcome=bindparam("outcome_is"), reason=bindparam("because"), ended_at=bindparam("now"))
)

_CLOCK = select(ledger.c.boot_id, ledger.c.clock_offset)

_NOTE_CLOCK = update(ledger).values(boot_id=bindparam("boot"), clock_offset=bindparam("offset"))

_MOVE_SLOTS = (
    update(items)
    .where(items.c.state.in_(SLOTTED), items.c.slot_until.is_not(None))
    .values(slot_until=items.c.slot_until + bindparam("jumped"))
)

_MOVE_JOBS = (
    update(items).where(items.c.state == State.ACCEPTED).values(accepted_at=items.c.accepted_at + bindparam("jumped"))
)

_MOVE_LIMITS = update(accounts).values(
    stated_at=accounts.c.stated_at + bindparam("jumped"), taught_at=accounts.c.taught_at + bindparam("jumped")
)


def recover(connection: Connection, now: float, doubt_seconds: float) -> tuple[int, int]:
    """Settle what a run that died left behind: before the mark it is pending again, after it in doubt.

    Returns:
        How many items are pending again, and how many are in doubt.
    """
    doubtful = connection.execute(_LEFT, {"left_as": State.SENT}).scalars().all()
    for item_id in doubtful:
        until = slot_until(connection, item_id, now, doubt_seconds)
        _write_down(connection, item_id, State.IN_DOUBT, now, until)
    unsent = connection.execute(_LEFT, {"left_as": State.SENDING}).scalars().all()
    for item_id in unsent:
        _write_down(connection, item_id, State.PENDING, now, None)
    return len(unsent), len(doubtful)


def boot_clock() -> tuple[str, float]:
    """Which boot of the machine this is, and how far the wall clock is ahead of its steady clock, in seconds."""
    try:
        boot_id = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
    except OSError:
        return "", 0.0  # no such thing outside Linux: then the wall clock is believed
    return boot_id, time.time() - time.clock_gettime(time.CLOCK_BOOTTIME)


def rebase_deadlines(connection: Connection, boot_id: str, clock_offset: float) -> None:
    """Move what is still waited for by how far the wall clock jumped since the last run on this boot.

    Deadlines of slots stay as far ahead, and live jobs and what was learned of the limit as old, as they are.

    Args:
        connection: A connection in a transaction.
        boot_id: Which boot of the machine this is.
        clock_offset: Wall clock less steady clock, in seconds, now.
    """
    known = connection.execute(_CLOCK).one()
    if boot_id and known.boot_id == boot_id and known.clock_offset is not None:
        jumped = clock_offset - known.clock_offset
        connection.execute(_MOVE_SLOTS, {"jumped": jumped})
        connection.execute(_MOVE_JOBS, {"jumped": jumped})
        connection.execute(_MOVE_LIMITS, {"jumped": jumped})
    connection.execute(_NOTE_CLOCK, {"boot": boot_id, "offset": clock_offset})


def _write_down(connection: Connection, item_id: int, becomes: State, now: float, until: float | None) -> None:
    marked = becomes is State.IN_DOUBT
    reason = (
        "the run ended after the last chunk left and before an answer came"
        if marked
        else "the run ended before the last chunk left"
    )
    connection.execute(_RECOVER, {"item": item_id, "becomes": becomes, "because": reason, "keeps_slot_until": until})
    outcome = Outcome.IN_DOUBT if marked else Outcome.CUT_OFF
    connection.execute(_CLOSE_ATTEMPT, {"item": item_id, "outcome_is": outcome, "because": reason, "now": now})
