"""Recovery of attempts that ended workers left under way."""

from collections.abc import Sequence
from math import inf
from typing import Any

from sqlalchemy import ColumnElement, Connection, Row, Select, and_, bindparam, case, or_, select, update

from uploader.ledger.clock import any_open_worker
from uploader.ledger.facts import accept_item, apply_callbacks, pending_callbacks
from uploader.ledger.lanes import add_to_backlog, recompute_ready
from uploader.ledger.outcomes import slot_until
from uploader.ledger.schema import ANY_ACCOUNT, IS_UNFINISHED, accounts, attempts, is_in_state, items, workers
from uploader.model import SLOTTED, Next, Outcome, State, Verdict
from uploader.policy.facts import WITH_JOB, AttemptFacts, ItemFacts, resolve_item

# the verdict on an attempt that was admitted
SENT = Verdict(
    Outcome.IN_DOUBT,
    State.IN_DOUBT,
    Next.SETTLE,
    "the run ended after the last chunk left and before an answer came",
)
# the verdict on an attempt that was not
UNSENT = Verdict(Outcome.CUT_OFF, State.PENDING, Next.AGAIN, "the run ended before the last chunk left")


def _left(of_accounts: ColumnElement[bool]) -> Select[Any]:
    """Build the statement of the items in this state whose attempt no worker carries any more."""
    return (
        select(*items.c["id", "attempts", "lane_id"])
        .outerjoin(attempts, and_(attempts.c.item_id == items.c.id, attempts.c.number == items.c.attempts))
        .outerjoin(workers, workers.c.id == attempts.c.worker_id)
        .where(
            IS_UNFINISHED,
            of_accounts,
            items.c.state == bindparam("left_as"),
            or_(workers.c.id.is_(None), workers.c.ended_at.is_not(None)),
        )
    )


_LEFT, _LEFT_IN_ACCOUNT = _left(ANY_ACCOUNT), _left(items.c.account_id == bindparam("of_account"))

# the item's state after its attempt was cut by the end of a run
_RECOVER = (
    update(items)
    .where(items.c.id == bindparam("item"), or_(items.c.state == State.SENDING, items.c.state == State.SENT))
    .values(
        state=bindparam("becomes"),
        error=bindparam("because"),
        slot_until=bindparam("keeps_slot_until"),
        unadmitted=items.c.unadmitted + bindparam("withdrawn"),
    )
)

# the outcome of the item's open attempt
_CLOSE_ATTEMPT = (
    update(attempts)
    .where(attempts.c.item_id == bindparam("item"), attempts.c.ended_at.is_(None))
    .values(
        outcome=bindparam("outcome_is"),
        reason=bindparam("because"),
        ended_at=bindparam("now"),
        job_id=bindparam("job"),
        callback_pending=False,
    )
)

# no doubt keeps its slot for longer than one of now would
_NO_FUTURE_SLOTS = (
    update(items)
    .where(IS_UNFINISHED, ANY_ACCOUNT, is_in_state(items.c.state, SLOTTED), items.c.slot_until > bindparam("last"))
    .values(slot_until=bindparam("last"))
)

# limits that seem to be learned in the future count as learned now
_NO_FUTURE_LIMITS = update(accounts).values(
    stated_at=case((accounts.c.stated_at > bindparam("now"), bindparam("now")), else_=accounts.c.stated_at),
    observed_at=case((accounts.c.observed_at > bindparam("now"), bindparam("now")), else_=accounts.c.observed_at),
)


def recover(
    connection: Connection,
    now: float,
    doubt_seconds: float,
    job_timeout_seconds: float = inf,
    *,
    account_id: int | None = None,
) -> tuple[int, int]:
    """Resolve what ended workers left under way: pending again before the admission, in doubt after it.

    An item whose job a callback has named is accepted. Where no worker is left, times of a clock that was ahead become
    now: else they would be believed, or waited for, until they have come.

    Args:
        connection: A connection in a transaction.
        now: Seconds since the epoch.
        doubt_seconds: How long an item in doubt keeps its slot as long as no job has ended.
        job_timeout_seconds: The longest time that a job takes.
        account_id: The one account whose items are resolved; None: all.

    Returns:
        The number of items that are pending again, and of those in doubt.
    """
    if not any_open_worker(connection):
        if job_timeout_seconds < inf:
            connection.execute(_NO_FUTURE_SLOTS, {"last": now + max(job_timeout_seconds, doubt_seconds)})
        connection.execute(_NO_FUTURE_LIMITS, {"now": now})
    keeps = (doubt_seconds, job_timeout_seconds)
    states = []
    for left_as, verdict in ((State.SENT, SENT), (State.SENDING, UNSENT)):
        which = {"left_as": left_as}
        if account_id is None:
            left = connection.execute(_LEFT, which).all()
        else:
            left = connection.execute(_LEFT_IN_ACCOUNT, {**which, "of_account": account_id}).all()
        pending = pending_callbacks(connection, [item.id for item in left])
        states += [_recover_item(connection, item, verdict, pending.get(item.id, ()), now, keeps) for item in left]
        recompute_ready(connection, [item.lane_id for item in left])
    return states.count(State.PENDING), states.count(State.IN_DOUBT)


def _recover_item(
    connection: Connection,
    item: Row[Any],
    verdict: Verdict,
    pending: Sequence[AttemptFacts],
    now: float,
    keeps: tuple[float, float],
) -> State:
    """Write the outcome of an attempt that no worker carries any more, and return its item's state."""
    resolved = resolve_item(ItemFacts.after(verdict, item.attempts, pending))
    state = resolved.state
    if resolved.state in WITH_JOB:
        # an end that is known is left to the next poll, which logs it
        state = State.ACCEPTED
        accept_item(connection, item.id, resolved.job_id, now)
    else:
        until = slot_until(connection, item.id, now, *keeps) if state is State.IN_DOUBT else None
        values = {
            "becomes": state,
            "because": verdict.reason,
            "keeps_slot_until": until,
            "withdrawn": int(verdict is UNSENT),
        }
        if connection.execute(_RECOVER, {"item": item.id, **values}).rowcount != 1:
            raise RuntimeError(f"item {item.id} is no longer as its worker left it")
    if state is State.PENDING:
        add_to_backlog(connection, item.id)
    own = resolved.attempt_verdict or verdict
    closed = {"outcome_is": own.outcome, "because": own.reason, "now": now, "job": own.job_id}
    connection.execute(_CLOSE_ATTEMPT, {"item": item.id, **closed})
    apply_callbacks(connection, item.id, resolved)
    return state
