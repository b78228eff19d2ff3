"""Claims and admissions: the items that begin next, and the attempts that may send their last chunk."""

from collections.abc import Callable, Mapping, Sequence
from functools import cache
from typing import Any, NamedTuple

from sqlalchemy import (
    ColumnElement,
    Connection,
    RowMapping,
    Select,
    and_,
    bindparam,
    func,
    insert,
    or_,
    select,
    update,
)

from uploader.errors import WorkerEndedError
from uploader.ledger.lanes import recompute_ready
from uploader.ledger.leases import holdings
from uploader.ledger.limit import limit_facts
from uploader.ledger.schema import account_holds, accounts, attempts, batches, is_in_state, items, lanes, loads, workers
from uploader.model import TROUBLED, Claim, LimitFacts, Order, State
from uploader.policy.callbacks import token_hash
from uploader.policy.forecast import audio_seconds
from uploader.policy.sharing import Holding, Share, share_of

# the most bodies of an item that are sent ahead and then cut
WAITS_IN_VAIN = 3
# so many times as many lanes are looked at where the first ones may not go ahead
FURTHER = 8

# Every statement is built once: building one costs more than running it.

# how often the first item of a lane has waited in vain; by a value, as PostgreSQL might answer an EXISTS for all lanes
_WAITED = (
    select(items.c.unadmitted)
    .where(
        items.c.lane_id == lanes.c.id,
        items.c.state == State.PENDING,
        items.c.position == lanes.c.ready_position,
    )
    .limit(1)
    .correlate(lanes)
    .scalar_subquery()
)

# the lanes whose first item may begin: its turn has come, or the job before it is foreseen to end in time
_READY_LANES = (
    select(*lanes.c["id", "conversation_id", "is_busy", "ready_position", "work_left"])
    .where(
        lanes.c.account_id == bindparam("account_id"),
        lanes.c.ready_position.is_not(None),
        or_(
            lanes.c.is_busy.is_(False),
            # an item that waited in vain again and again waits for its turn before it begins
            and_(lanes.c.id.in_(bindparam("due_lanes", expanding=True)), _WAITED < WAITS_IN_VAIN),
        ),
        # the sum keeps planners on the index of the order: by that of the waits they would sort all ready lanes
        lanes.c.not_before.op("+")(0.0) <= bindparam("now"),
    )
    .limit(bindparam("room"))
)


def _first_items(*, by_work: bool) -> Select[Any]:
    """Build the statement of the items that begin next, in the order in which lanes go."""

    def order(lane: Any) -> list[ColumnElement[Any]]:
        return [lane.c.work_left.desc(), lane.c.ready_position] if by_work else [lane.c.ready_position]

    # few lanes first: PostgreSQL's planner would join all ready lanes with their items, and then sort them
    ready = _READY_LANES.order_by(*order(lanes)).cte("ready")
    return (
        select(
            *items.c["id", "lane_id", "line", "path", "size", "change", "content_hash", "content_type", "parameters"],
            *items.c["duration_seconds", "attempts", "cut_offs", "unadmitted"],
            *ready.c["conversation_id", "is_busy"],
            batches.c.name.label("batch"),
        )
        .join_from(
            ready,
            items,
            and_(
                items.c.lane_id == ready.c.id,
                items.c.state == State.PENDING,
                items.c.position == ready.c.ready_position,
            ),
        )
        .join(loads, loads.c.id == items.c.load_id)
        .join(batches, batches.c.id == loads.c.batch_id)
        .order_by(*order(ready))
    )


_READY = {Order.MANIFEST: _first_items(by_work=False), Order.LONGEST_LANE_FIRST: _first_items(by_work=True)}

# a lane whose turn has come, or comes after a wait
_WAITING = (
    select(lanes.c.id)
    .where(
        lanes.c.account_id == bindparam("account_id"),
        lanes.c.ready_position.is_not(None),
        lanes.c.is_busy.is_(False),
    )
    # in the order of an index, or PostgreSQL's planner would look through the table for the first
    .order_by(lanes.c.ready_position)
    .limit(1)
)

# a lane that has an item to send, be its turn now or after the job before it
_MORE = (
    select(lanes.c.id)
    .where(lanes.c.account_id == bindparam("account_id"), lanes.c.ready_position.is_not(None))
    .order_by(lanes.c.ready_position)
    .limit(1)
)

# the earliest end of a lane's wait for its next attempt, and how many lanes wait
_WAIT_ENDS = select(func.min(lanes.c.not_before), func.count()).where(
    lanes.c.account_id == bindparam("account_id"),
    lanes.c.ready_position.is_not(None),
    lanes.c.not_before > bindparam("now"),
)

# the worker that has not ended
_IS_ALIVE = select(workers.c.id).where(workers.c.id == bindparam("worker"), workers.c.ended_at.is_(None)).exists()

# begin the item's next attempt
_BEGIN = (
    update(items)
    .where(
        items.c.id == bindparam("item"),
        items.c.state == State.PENDING,
        items.c.attempts == bindparam("number"),
        _IS_ALIVE,
    )
    .values(state=State.SENDING, attempts=items.c.attempts + 1, slot_until=None, finished_at=None)
)

# take the item out of what its lane has left; the lane's next ready item is computed at the admission
_TAKE_FROM_LANE = (
    update(lanes)
    .where(lanes.c.id == bindparam("lane"))
    .values(ready_position=None, audio_left=lanes.c.audio_left - bindparam("work"), items_left=lanes.c.items_left - 1)
)

# the intent of each attempt, durable before its first byte; returns the ids in the order of the rows
_BEGIN_ATTEMPTS = insert(attempts).returning(attempts.c.id, sort_by_parameter_order=True)

_earlier = attempts.alias("earlier")

# an earlier attempt of the item of which a callback has said meanwhile that it became a job
_IS_APPENDED_ALREADY = (
    select(_earlier.c.id)
    .where(_earlier.c.item_id == items.c.id, _earlier.c.callback_pending, _earlier.c.number < attempts.c.number)
    .correlate(items, attempts)
    .exists()
)

# the admission of items whose latest attempt is this one, with the hash of the content that is appended
_ADMIT = (
    update(items)
    .where(
        items.c.id == bindparam("item"),
        items.c.state == State.SENDING,
        items.c.attempts == bindparam("number"),
    )
    .values(state=State.SENT, content_hash=bindparam("hash"))
)

# the time of the admission
_ADMIT_ATTEMPT = (
    update(attempts)
    .where(attempts.c.id == bindparam("attempt"), attempts.c.admitted_at.is_(None), attempts.c.ended_at.is_(None))
    .values(admitted_at=bindparam("now"))
)

# the service or a gateway does not bear a body that is sent ahead
_NEED_SLOT_FIRST = (
    update(accounts)
    .where(accounts.c.id == bindparam("account"))
    .values(no_ahead_until=bindparam("until"), no_ahead_reason=bindparam("because"))
)


class Ahead(NamedTuple):
    """The slots and lanes that are predicted to be free by the time that a body has been sent."""

    # slots, beside those that are free now
    slots: int = 0
    # lanes whose live job is predicted to have ended
    lanes: Sequence[int] = ()


NOTHING_AHEAD = Ahead()


class ClaimResult(NamedTuple):
    """The attempts that begin, and the prospect of further ones."""

    claims: Sequence[Claim]
    limit: LimitFacts
    # some lane has an item whose turn has come, or comes after a wait; not looked for where as many began as wanted
    waiting: bool
    # when that may be, in seconds since the epoch; None: not before something else happens
    wake_at: float | None = None
    # more might have begun, had more lanes had an item that may
    lacks_lanes: bool = False
    # some lane has an item left to begin, be its turn now or after the job before it
    has_more: bool = True
    # how many lanes wait, until ``wake_at`` or longer, for their next attempt after one that failed
    retrying: int = 0
    # the slots that are this worker's as long as the others look for work, too; None: all
    part: int | None = None
    # the free slots that are left to the others
    left_to_others: int = 0


class Admission(NamedTuple):
    """An attempt whose body has gone out but for its last chunk."""

    claim: Claim
    # of the whole content, in hexadecimal
    content_hash: str


class AdmissionResult(NamedTuple):
    """The result for the attempts that waited, by their ids."""

    # they may send their last chunk now
    admitted: frozenset[int]
    # they never may, with the reason
    withdrawn: Mapping[int, str]
    # the item before them in their lane has not completed
    behind: frozenset[int]
    limit: LimitFacts
    # some lane has an item left to begin
    has_more: bool = True


def claim(
    connection: Connection,
    account_id: int,
    wanted: int,
    now: float,
    order: Order = Order.MANIFEST,
    new_token: Callable[[], str] | None = None,
    ahead: Ahead = NOTHING_AHEAD,
    *,
    worker_id: int,
) -> ClaimResult:
    """Choose the items that begin next, and commit an attempt for each, in one transaction. No slot is taken.

    The cost depends on the limit and on ``wanted``, never on how many items the ledger holds.

    Args:
        wanted: The most attempts to begin; 0 only looks.
        order: Which lane goes first.
        new_token: Draws the secret for the webhookUrl of an attempt whose row has none; None: there is no listener.
        ahead: The prediction; of no effect where attempts need their slot first.
        worker_id: The worker that carries the attempts.

    Raises:
        WorkerEndedError: Another worker has ended this one.
    """
    limit = limit_facts(connection, account_id, None, now)
    if limit.needs_slot_first:
        ahead = NOTHING_AHEAD
    own, share = _share(connection, account_id, worker_id, limit, now)
    free = share.room - own.sending
    room = min(wanted, free + ahead.slots)
    ready: Sequence[RowMapping] = []
    # where items that have waited in vain too often fill the first places, those behind them may go ahead
    for most in (room, FURTHER * room) if room > 0 else ():
        found = _ready(connection, account_id, most, now, order, ahead.lanes)
        fit = [item for place, item in enumerate(found) if place < free or item["unadmitted"] < WAITS_IN_VAIN]
        ready = fit[:room]
        if len(ready) == room or len(found) < most:
            break
    claims = _begin(connection, ready, [_token(item, new_token) for item in ready], free, now, worker_id)
    part, left_to_others = share.part, max(limit.in_force - limit.live - share.room, 0)
    if len(claims) == wanted > 0:
        return ClaimResult(claims, limit, waiting=True, part=part, left_to_others=left_to_others)
    waiting = connection.execute(_WAITING, {"account_id": account_id}).first() is not None
    wake_at, retrying = None, 0
    if wanted > 0:
        full = len(claims) >= free
        if waiting and full:
            wake_at = limit.room_at
        elif not full:
            wake_at, retrying = connection.execute(_WAIT_ENDS, {"account_id": account_id, "now": now}).one()
    has_more = waiting or _has_more(connection, account_id)
    lacks = len(claims) < room
    return ClaimResult(claims, limit, waiting, wake_at, lacks, has_more, retrying, part, left_to_others)


def _share(
    connection: Connection, account_id: int, worker_id: int, limit: LimitFacts, now: float
) -> tuple[Holding, Share]:
    """Return what a worker has of the account, and its share of the slots."""
    # where uploads count as jobs, all of them are among the live ones
    sending = 0 if limit.needs_slot_first else limit.sending
    alone = Holding(worker_id, limit.live, sending, looks=True)
    found = [alone]
    if limit.workers > 1:
        found = holdings(connection, account_id, now, uploads_count=limit.needs_slot_first)
    own = next((held for held in found if held.worker_id == worker_id), None)
    if own is None:
        raise WorkerEndedError
    return own, share_of(worker_id, found, limit.in_force, limit.live, sending)


def admit(
    connection: Connection,
    account_id: int,
    waiting: Sequence[Admission],
    room: int,
    now: float,
    *,
    order: Order,
) -> AdmissionResult:
    """Take slot and turn for as many of the waiting attempts as may go: from now on a crash means doubt.

    An attempt is admitted where it is still the item's latest, its worker has not been ended, no earlier attempt turned
    out to be a job, the item before it in its lane has completed, and a slot is free; the lane with the most work left
    goes first.

    Args:
        account_id: The account of all of them.
        waiting: The attempts that wait.
        room: The most to admit.
        order: Which lane goes first.
    """
    limit = limit_facts(connection, account_id, None, now)
    # where uploads count, those that wait have a slot since their claim, but for those that were sent ahead before
    admitted_before = limit.live - (limit.sending if limit.needs_slot_first else 0)
    room = min(room, limit.in_force - admitted_before)
    asked = {admission.claim.attempt_id: admission for admission in waiting}
    found = {row.id: row for row in connection.execute(_waiting_attempts(), {"attempts": list(asked)})}
    reasons = {attempt_id: _reason_to_withdraw(found.get(attempt_id)) for attempt_id in asked}
    withdrawn = {attempt_id: reason for attempt_id, reason in reasons.items() if reason is not None}
    due = [attempt_id for attempt_id in asked.keys() - withdrawn.keys() if is_turn_due(found[attempt_id])]
    due.sort(key=lambda attempt_id: _rank(found[attempt_id], order))
    admitted = due[: max(room, 0)]
    _take_slots(connection, [asked[attempt_id] for attempt_id in admitted], now)
    taken = len(admitted) * (not limit.needs_slot_first)
    return AdmissionResult(
        frozenset(admitted),
        withdrawn,
        frozenset(asked) - withdrawn.keys() - set(due),
        limit._replace(live=limit.live + taken, sending=max(limit.sending - len(admitted), 0)),
        _has_more(connection, account_id),
    )


def need_slot_first(connection: Connection, account_id: int, until: float, reason: str) -> None:
    """Save that attempts of an account take their slot before their first byte.

    Args:
        until: Until when, in seconds since the epoch.
        reason: The answer that showed it.
    """
    connection.execute(_NEED_SLOT_FIRST, {"account": account_id, "until": until, "because": reason})


@cache
def _waiting_attempts() -> Select[Any]:
    """Select attempts that wait for their admission, and all that decides on it."""
    return (
        select(
            attempts.c.id,
            items.c.position,
            lanes.c.is_busy,
            lanes.c.work_left,
            # a worker that was ended admits nothing any more
            and_(
                items.c.state == State.SENDING, items.c.attempts == attempts.c.number, workers.c.ended_at.is_(None)
            ).label("is_open"),
            _IS_APPENDED_ALREADY.label("is_appended_already"),
            or_(_is_any_before([State.PENDING]), and_(_is_any_before(TROUBLED), account_holds(items))).label("is_held"),
        )
        .join(items, items.c.id == attempts.c.item_id)
        .join(lanes, lanes.c.id == items.c.lane_id)
        .join(workers, workers.c.id == attempts.c.worker_id)
        .where(attempts.c.id.in_(bindparam("attempts", expanding=True)))
    )


def _is_any_before(states: Sequence[State]) -> Any:
    """Build the condition that an item before this one in its lane is in one of these states."""
    before = items.alias("before")
    return (
        select(before.c.id)
        .where(
            before.c.lane_id == items.c.lane_id,
            is_in_state(before.c.state, states),
            before.c.position < items.c.position,
        )
        .correlate(items)
        .exists()
    )


def _has_more(connection: Connection, account_id: int) -> bool:
    return connection.execute(_MORE, {"account_id": account_id}).first() is not None


def _reason_to_withdraw(row: Any) -> str | None:
    if row is None or not row.is_open:
        return "the ledger does not have it as being sent any more"
    if row.is_appended_already:
        return "the webhook named the job of an earlier attempt"
    return "an item before it in its conversation needs a person, or is to be sent first" if row.is_held else None


def is_turn_due(row: Any) -> bool:
    """Return True where the item before a waiting one in its lane has completed."""
    return not row.is_busy


def _rank(row: Any, order: Order) -> tuple[float, int]:
    return (-row.work_left if order is Order.LONGEST_LANE_FIRST else 0.0, row.position)


def _take_slots(connection: Connection, admitted: Sequence[Admission], now: float) -> None:
    if not admitted:
        return
    changed = connection.execute(
        _ADMIT,
        [
            {
                "item": admission.claim.item_id,
                "number": admission.claim.number,
                "hash": admission.content_hash,
            }
            for admission in admitted
        ],
    )
    timed = connection.execute(
        _ADMIT_ATTEMPT, [{"attempt": admission.claim.attempt_id, "now": now} for admission in admitted]
    )
    if changed.rowcount != len(admitted) or timed.rowcount != len(admitted):
        raise RuntimeError(f"{len(admitted)} attempts are to be admitted, and {changed.rowcount} are being sent")
    # the next items of these lanes may be sent ahead from now on
    recompute_ready(connection, [admission.claim.lane_id for admission in admitted])


def _ready(
    connection: Connection, account_id: int, room: int, now: float, order: Order, due_lanes: Sequence[int]
) -> Sequence[RowMapping]:
    found = connection.execute(
        _READY[order], {"account_id": account_id, "room": room, "now": now, "due_lanes": list(due_lanes)}
    )
    return found.mappings().all()


def _token(item: RowMapping, new_token: Callable[[], str] | None) -> str | None:
    """Draw an attempt's token; a row with a webhookUrl of its own keeps it."""
    return new_token() if new_token is not None and "webhookUrl" not in item["parameters"] else None


def _begin(
    connection: Connection,
    ready: Sequence[RowMapping],
    tokens: Sequence[str | None],
    free: int,
    now: float,
    worker_id: int,
) -> list[Claim]:
    if not ready:
        return []
    begun = connection.execute(
        _BEGIN, [{"item": item["id"], "number": item["attempts"], "worker": worker_id} for item in ready]
    )
    if not begun.rowcount and not connection.execute(select(_IS_ALIVE), {"worker": worker_id}).scalar_one():
        raise WorkerEndedError
    taken = connection.execute(_TAKE_FROM_LANE, [{"lane": item["lane_id"], "work": _work_of(item)} for item in ready])
    if begun.rowcount != len(ready) or taken.rowcount != len(ready):
        raise RuntimeError(f"{len(ready)} items are to begin: {begun.rowcount} are pending, in {taken.rowcount} lanes")
    intents = connection.execute(
        _BEGIN_ATTEMPTS, [_intent(item, token, now, worker_id) for item, token in zip(ready, tokens, strict=True)]
    )
    return [
        _claim(item, attempt.id, token, is_ahead=item["is_busy"] or place >= free)
        for place, (item, attempt, token) in enumerate(zip(ready, intents.all(), tokens, strict=True))
    ]


def _intent(item: RowMapping, token: str | None, now: float, worker_id: int) -> dict[str, Any]:
    return {
        "item_id": item["id"],
        "worker_id": worker_id,
        "number": item["attempts"] + 1,
        "started_at": now,
        "token_hash": token_hash(token) if token is not None else None,
    }


def _claim(item: RowMapping, attempt_id: int, token: str | None, *, is_ahead: bool) -> Claim:
    return Claim(
        attempt_id=attempt_id,
        token=token,
        item_id=item["id"],
        lane_id=item["lane_id"],
        number=item["attempts"] + 1,
        batch=item["batch"],
        line=item["line"],
        conversation_id=item["conversation_id"],
        path=item["path"],
        size=item["size"],
        change=item["change"],
        cut_offs=item["cut_offs"],
        work=_work_of(item),
        content_hash=item["content_hash"],
        content_type=item["content_type"],
        parameters=item["parameters"],
        unadmitted=item["unadmitted"],
        is_ahead=is_ahead,
    )


def _work_of(item: RowMapping) -> float:
    return audio_seconds(item["size"], item["duration_seconds"])
