"""The life of an attempt in the ledger: claim, mark, outcome, end of its job, and what a crash left."""

import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from sqlalchemy import Connection, RowMapping, and_, bindparam, func, insert, literal, or_, select, update

from uploader.ledger.lanes import refresh
from uploader.ledger.schema import accounts, attempts, batches, items, lanes, ledger, loads
from uploader.model import (
    SLOTTED,
    Claim,
    JobStatus,
    LimitFacts,
    LiveJob,
    Outcome,
    Reply,
    State,
    Verdict,
)
from uploader.policy.limits import limit_in_force
from uploader.policy.waits import doubt_slot_seconds

# What every claim and outcome says to the ledger is built once: putting a statement together costs more than
# running it.

_READY = (
    select(
        *items.c["id", "lane_id", "line", "path", "size", "cut_offs", "content_hash", "content_type", "parameters"],
        items.c.attempts,
        lanes.c.conversation_id,
        batches.c.name.label("batch"),
    )
    .join_from(
        lanes,
        items,
        and_(
            items.c.lane_id == lanes.c.id,
            items.c.state == State.PENDING,
            items.c.position == lanes.c.ready_position,
        ),
    )
    .join(loads, loads.c.id == items.c.load_id)
    .join(batches, batches.c.id == loads.c.batch_id)
    .where(
        lanes.c.account_id == bindparam("account_id"),
        lanes.c.ready_position.is_not(None),
        lanes.c.not_before <= bindparam("now"),
    )
    .order_by(lanes.c.ready_position)
    .limit(bindparam("room"))
)

_LIMIT = select(accounts.c.configured_limit, accounts.c.stated_limit, accounts.c.stated_at).where(
    accounts.c.id == bindparam("account_id")
)

_LIVE = (
    select(func.count())
    .select_from(items)
    .where(
        items.c.account_id == bindparam("account_id"),
        items.c.state.in_(SLOTTED),
        or_(items.c.slot_until.is_(None), items.c.slot_until > bindparam("now")),
    )
)

_WAITING = (
    select(lanes.c.id)
    .where(lanes.c.account_id == bindparam("account_id"), lanes.c.ready_position.is_not(None))
    .limit(1)
)

_BEGIN = (
    update(items)
    .where(items.c.id.in_(bindparam("ids", expanding=True)))
    .values(state=State.SENDING, attempts=items.c.attempts + 1, slot_until=None, finished_at=None)
)

_TAKE_LANES = update(lanes).where(lanes.c.id.in_(bindparam("ids", expanding=True))).values(ready_position=None)

_BEGIN_ATTEMPTS = insert(attempts).returning(attempts.c.id, sort_by_parameter_order=True)

_MARK = (
    update(items)
    .where(
        items.c.id == bindparam("item"),
        items.c.state == State.SENDING,
        items.c.attempts == bindparam("number"),
    )
    .values(state=State.SENT, content_hash=bindparam("hash"))
)

_MARK_ATTEMPT = update(attempts).where(attempts.c.id == bindparam("attempt")).values(marked_at=bindparam("now"))


@dataclass(frozen=True, slots=True)
class Claimed:
    """The answer to a claim.

    ``waiting`` says that some lane has an item that may go, now or later, for want of time or a slot;
    ``wake_at`` is when that may be, in seconds since the epoch (None: not before something else happens).
    """

    claims: Sequence[Claim]
    limit: LimitFacts
    waiting: bool
    wake_at: float | None = None


@dataclass(frozen=True, slots=True)
class Ended:
    """An item whose state changed for good, as told to the log. ``job_seconds`` is the job's whole life."""

    item_id: int
    state: State
    job_seconds: float = field(default=0.0)


def claim(connection: Connection, account_id: int, wanted: int, configured_limit: int, now: float) -> Claimed:
    """Decide who is next, and commit the intent: slot free, lane order, item, attempt, in one transaction.

    Its cost depends on the limit and on ``wanted``, never on how many items the ledger holds.

    Args:
        connection: A connection in a transaction.
        account_id: The account whose slots are taken.
        wanted: The most attempts to begin; 0 only looks.
        configured_limit: The limit of the settings.
        now: The time, in seconds since the epoch.
    """
    limit = limit_facts(connection, account_id, configured_limit, now)
    room = min(wanted, limit.in_force - limit.live)
    claims = _begin(connection, _ready(connection, account_id, room, now), now) if room > 0 else []
    waiting = _is_waiting(connection, account_id)
    wake_at = None
    if waiting and wanted > 0:
        full = limit.live + len(claims) >= limit.in_force
        wake_at = (_slot_frees_at if full else _wait_ends_at)(connection, account_id, now)
    return Claimed(claims, limit, waiting, wake_at)


def mark(connection: Connection, one: Claim, content_hash: str, now: float) -> None:
    """Commit that the last chunk is about to leave: from now on a crash means doubt.

    Args:
        connection: A connection in a transaction.
        one: The attempt.
        content_hash: The hash of the whole content, in hexadecimal.
        now: The time, in seconds since the epoch.
    """
    changed = connection.execute(_MARK, {"item": one.item_id, "number": one.number, "hash": content_hash})
    if changed.rowcount != 1:
        raise RuntimeError(f"item {one.item_id} is not being sent by attempt {one.number}: its mark is refused")
    connection.execute(_MARK_ATTEMPT, {"attempt": one.attempt_id, "now": now})


def settle(
    connection: Connection,
    one: Claim,
    verdict: Verdict,
    reply: Reply,
    *,
    now: float,
    wait: float,
    doubt_seconds: float,
    hold: bool,
) -> None:
    """Write down what came of an attempt.

    Args:
        connection: A connection in a transaction.
        one: The attempt.
        verdict: What its reply means.
        reply: The reply.
        now: The time, in seconds since the epoch.
        wait: How long the lane waits before it is tried again, in seconds.
        doubt_seconds: How long doubt keeps a slot as long as no job has ended.
        hold: Whether trouble holds the rest of a lane.
    """
    connection.execute(
        update(attempts)
        .where(attempts.c.id == one.attempt_id)
        .values(
            ended_at=now,
            outcome=verdict.outcome,
            http_status=reply.status,
            reason=verdict.reason,
            bytes_sent=reply.bytes_sent,
            job_id=verdict.job_id,
        )
    )
    values: dict[str, Any] = {
        "state": verdict.state,
        "error": verdict.reason,
        "job_id": verdict.job_id,
        "http_status": reply.status,
    }
    if verdict.outcome is Outcome.CUT_OFF and not reply.withheld and reply.status is None:
        values["cut_offs"] = items.c.cut_offs + 1
    if verdict.state is State.ACCEPTED:
        values |= {"accepted_at": now, "error": None}
    elif verdict.state is State.IN_DOUBT:
        values["slot_until"] = now + _doubt(connection, one.item_id, doubt_seconds)
    elif verdict.state is State.REFUSED:
        values["finished_at"] = now
    connection.execute(update(items).where(items.c.id == one.item_id, items.c.attempts == one.number).values(values))
    if wait:
        connection.execute(update(lanes).where(lanes.c.id == one.lane_id).values(not_before=now + wait))
    refresh(connection, [one.lane_id], hold=hold)


def note_stated_limit(connection: Connection, account_id: int, stated: int, now: float) -> None:
    """Keep the limit that a 429 stated; it is believed for a day."""
    connection.execute(update(accounts).where(accounts.c.id == account_id).values(stated_limit=stated, stated_at=now))


def job_ended(connection: Connection, job: LiveJob, status: JobStatus, now: float, *, hold: bool) -> Ended:
    """Write down the end of a job, give its slot back, and learn from it how long jobs take."""
    state = State.COMPLETED if status is JobStatus.COMPLETED else State.FAILED
    error = None if state is State.COMPLETED else "the job ended as failed; the service states no reason"
    seconds = max(now - job.accepted_at, 0.0)
    connection.execute(
        update(items)
        .where(items.c.id == job.item_id, items.c.state == State.ACCEPTED)
        .values(state=state, finished_at=now, error=error, slot_until=None, overdue=False)
    )
    if job.watched:
        _learn(connection, job, seconds)
    refresh(connection, [job.lane_id], hold=hold)
    return Ended(job.item_id, state, seconds)


def job_overdue(connection: Connection, job: LiveJob, reason: str, now: float, doubt_seconds: float) -> None:
    """Write down that a job did not end in time: it keeps its lane, its slot goes back as one in doubt."""
    connection.execute(
        update(items)
        .where(items.c.id == job.item_id, items.c.state == State.ACCEPTED, items.c.overdue.is_(False))
        .values(overdue=True, error=reason, slot_until=now + _doubt(connection, job.item_id, doubt_seconds))
    )


def recover(connection: Connection, now: float, doubt_seconds: float) -> tuple[int, int]:
    """Settle what a run that died left behind: before the mark it is pending again, after it in doubt.

    Returns:
        How many items are pending again, and how many are in doubt.
    """
    doubtful = connection.execute(select(items.c.id).where(items.c.state == State.SENT)).scalars().all()
    for item_id in doubtful:
        reason = "the run ended after the last chunk left and before an answer came"
        values = {"slot_until": now + _doubt(connection, item_id, doubt_seconds), "error": reason}
        connection.execute(update(items).where(items.c.id == item_id).values(state=State.IN_DOUBT, **values))
        _close_attempt(connection, item_id, Outcome.IN_DOUBT, reason, now)
    unsent = connection.execute(select(items.c.id).where(items.c.state == State.SENDING)).scalars().all()
    for item_id in unsent:
        connection.execute(update(items).where(items.c.id == item_id).values(state=State.PENDING))
        reason = "the run ended before the last chunk left"
        _close_attempt(connection, item_id, Outcome.CUT_OFF, reason, now)
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

    Deadlines of slots stay as far ahead, and live jobs as old, as they are.

    Args:
        connection: A connection in a transaction.
        boot_id: Which boot of the machine this is.
        clock_offset: Wall clock less steady clock, in seconds, now.
    """
    known = connection.execute(select(ledger.c.boot_id, ledger.c.clock_offset)).one()
    if boot_id and known.boot_id == boot_id and known.clock_offset is not None:
        jumped = clock_offset - known.clock_offset
        connection.execute(
            update(items)
            .where(items.c.state.in_(SLOTTED), items.c.slot_until.is_not(None))
            .values(slot_until=items.c.slot_until + jumped)
        )
        connection.execute(
            update(items).where(items.c.state == State.ACCEPTED).values(accepted_at=items.c.accepted_at + jumped)
        )
    connection.execute(update(ledger).values(boot_id=boot_id, clock_offset=clock_offset))


def limit_facts(connection: Connection, account_id: int, configured: int | None, now: float) -> LimitFacts:
    """What is known of the account's limit, and how many of its slots are taken now.

    Args:
        connection: A connection in a transaction.
        account_id: The account.
        configured: The limit of the settings; None takes that of the account's last run.
        now: The time, in seconds since the epoch.
    """
    account = connection.execute(_LIMIT, {"account_id": account_id}).one()
    configured = configured or account.configured_limit or 1
    live = connection.execute(_LIVE, {"account_id": account_id, "now": now}).scalar_one()
    in_force = limit_in_force(configured, account.stated_limit, account.stated_at, now)
    return LimitFacts(configured, account.stated_limit, in_force, live)


def _ready(connection: Connection, account_id: int, room: int, now: float) -> Sequence[RowMapping]:
    found = connection.execute(_READY, {"account_id": account_id, "room": room, "now": now})
    return found.mappings().all()


def _begin(connection: Connection, ready: Sequence[RowMapping], now: float) -> list[Claim]:
    if not ready:
        return []
    connection.execute(_BEGIN, {"ids": [item["id"] for item in ready]})
    connection.execute(_TAKE_LANES, {"ids": [item["lane_id"] for item in ready]})
    begun = connection.execute(
        _BEGIN_ATTEMPTS,
        [{"item_id": item["id"], "number": item["attempts"] + 1, "started_at": now} for item in ready],
    )
    return [_claim(item, attempt.id) for item, attempt in zip(ready, begun.all(), strict=True)]


def _claim(item: RowMapping, attempt_id: int) -> Claim:
    return Claim(
        attempt_id=attempt_id,
        item_id=item["id"],
        lane_id=item["lane_id"],
        number=item["attempts"] + 1,
        batch=item["batch"],
        line=item["line"],
        conversation_id=item["conversation_id"],
        path=Path(item["path"]),
        size=item["size"],
        cut_offs=item["cut_offs"],
        content_hash=item["content_hash"],
        content_type=item["content_type"],
        parameters=item["parameters"],
    )


def _is_waiting(connection: Connection, account_id: int) -> bool:
    return connection.execute(_WAITING, {"account_id": account_id}).first() is not None


def _wait_ends_at(connection: Connection, account_id: int, now: float) -> float | None:
    ends: float | None = connection.execute(
        select(func.min(lanes.c.not_before)).where(
            lanes.c.account_id == account_id, lanes.c.ready_position.is_not(None), lanes.c.not_before > now
        )
    ).scalar_one()
    return ends


def _slot_frees_at(connection: Connection, account_id: int, now: float) -> float | None:
    freed: float | None = connection.execute(
        select(func.min(items.c.slot_until)).where(
            items.c.account_id == account_id, items.c.state.in_(SLOTTED), items.c.slot_until > now
        )
    ).scalar_one()
    return freed


def _doubt(connection: Connection, item_id: int, doubt_seconds: float) -> float:
    known = connection.execute(
        select(items.c.size, accounts.c.slowest_seconds_per_byte, accounts.c.shortest_job_seconds)
        .join_from(items, accounts, accounts.c.id == items.c.account_id)
        .where(items.c.id == item_id)
    ).one()
    return doubt_slot_seconds(
        known.size or 0, known.slowest_seconds_per_byte, known.shortest_job_seconds, doubt_seconds
    )


def _learn(connection: Connection, job: LiveJob, seconds: float) -> None:
    account_id = select(items.c.account_id).where(items.c.id == job.item_id).scalar_subquery()
    slowest, shortest = accounts.c.slowest_seconds_per_byte, accounts.c.shortest_job_seconds
    rate = literal(seconds / max(job.size, 1))
    connection.execute(
        update(accounts)
        .where(accounts.c.id == account_id, or_(slowest.is_(None), slowest < rate))
        .values(slowest_seconds_per_byte=rate)
    )
    connection.execute(
        update(accounts)
        .where(accounts.c.id == account_id, or_(shortest.is_(None), shortest > seconds))
        .values(shortest_job_seconds=seconds)
    )


def _close_attempt(connection: Connection, item_id: int, outcome: Outcome, reason: str, now: float) -> None:
    connection.execute(
        update(attempts)
        .where(attempts.c.item_id == item_id, attempts.c.ended_at.is_(None))
        .values(outcome=outcome, reason=reason, ended_at=now)
    )
