"""Keeps an account's limit of concurrent jobs, as settings and 429s state it, and counts its slots."""

from typing import Any

from sqlalchemy import Connection, Row, bindparam, case, func, or_, select, true, update

from uploader.ledger.leases import IS_OPEN
from uploader.ledger.schema import IS_UNFINISHED, accounts, batches, is_in_state, items, lanes, loads, workers
from uploader.model import SLOTTED, LimitFacts, SlotHolder, State
from uploader.policy.limits import LearnedLimit, Refusal, learn, limit_in_force, live_by_others, rises_at

# the limit of an account as it is stored
_ACCOUNT = select(
    *accounts.c["configured_limit", "stated_limit", "stated_at", "observed_limit", "observed_at"],
    *accounts.c["step_seconds", "steps_before_raise", "typical_job_seconds", "no_ahead_until", "no_ahead_reason"],
).where(accounts.c.id == bindparam("account_id"))

# the same, with the row locked: refusals of two workers add up, one after the other
_ACCOUNT_LOCKED = _ACCOUNT.with_for_update()

# the account of an item
ACCOUNT_OF_ITEM = select(items.c.account_id).where(items.c.id == bindparam("item"))

_OF_DOUBT = case((items.c.state == State.IN_DOUBT, func.coalesce(items.c.slot_until, 0.0)))

_IS_SENDING = items.c.state == State.SENDING

# the taken slots of an account, the attempts that are sent towards one, the slots of items in doubt, and when the first
# and the last of these expire
_TAKEN = (
    select(
        func.count(case((_IS_SENDING, None), else_=1)).label("slots"),
        func.count(case((_IS_SENDING, 1))).label("sending"),
        func.count(_OF_DOUBT).label("doubtful"),
        func.max(_OF_DOUBT).label("doubtful_until"),
        func.min(items.c.slot_until).label("expires_at"),
    )
    .select_from(items)
    .where(
        IS_UNFINISHED,
        items.c.account_id == bindparam("account_id"),
        is_in_state(items.c.state, [State.SENDING, *SLOTTED]),
        or_(items.c.slot_until.is_(None), items.c.slot_until > bindparam("now")),
    )
)

# the number of an account's workers that have not ended
_OPEN_WORKERS = (
    select(func.count())
    .select_from(workers)
    .where(IS_OPEN, workers.c.account_id == bindparam("account_id"))
    .scalar_subquery()
)

# all in one row: each claim and each admission asks for them
_TAKEN_NOW = _TAKEN.subquery("taken")
_ACCOUNT_AND_TAKEN = _ACCOUNT.add_columns(*_TAKEN_NOW.c, _OPEN_WORKERS.label("workers")).join_from(
    accounts, _TAKEN_NOW, true()
)

# the items that take the account's slots now, by batch and line
_HOLDERS = (
    select(
        batches.c.name.label("batch"),
        *items.c["line", "state", "job_id"],
        items.c.slot_until.label("until"),
        lanes.c.conversation_id,
    )
    .join_from(items, lanes, lanes.c.id == items.c.lane_id)
    .join(loads, loads.c.id == items.c.load_id)
    .join(batches, batches.c.id == loads.c.batch_id)
    .where(
        IS_UNFINISHED,
        items.c.account_id == bindparam("account_id"),
        is_in_state(items.c.state, SLOTTED),
        or_(items.c.slot_until.is_(None), items.c.slot_until > bindparam("now")),
    )
    .order_by(batches.c.name, items.c.line)
)

# store the learned limit of an account
_SAVE_LEARNED = (
    update(accounts)
    .where(accounts.c.id == bindparam("account_id"))
    .values(
        stated_limit=bindparam("stated"),
        stated_at=bindparam("stated_when"),
        observed_limit=bindparam("observed"),
        observed_at=bindparam("observed_when"),
        step_seconds=bindparam("step"),
        steps_before_raise=bindparam("steps_to_wait"),
    )
)


def limit_facts(connection: Connection, account_id: int, configured: int | None, now: float) -> LimitFacts:
    """Read the account's limit, and count its slots that are taken now.

    Args:
        configured: The limit of the settings; None takes that of the account's last run.
    """
    facts = connection.execute(_ACCOUNT_AND_TAKEN, {"account_id": account_id, "now": now}).one()
    configured = configured or facts.configured_limit or 1
    learned = _learned(facts)
    needs_slot_first = facts.no_ahead_until > now
    return LimitFacts(
        configured=configured,
        stated=learned.stated,
        in_force=limit_in_force(configured, learned, now),
        live=facts.slots + (facts.sending if needs_slot_first else 0),
        sending=facts.sending,
        workers=facts.workers,
        needs_slot_first=needs_slot_first,
        slot_first_until=facts.no_ahead_until if needs_slot_first else None,
        slot_first_reason=facts.no_ahead_reason if needs_slot_first else None,
        others=live_by_others(learned, now),
        rises_at=rises_at(configured, learned, now),
        doubtful=facts.doubtful,
        doubtful_until=facts.doubtful_until or None,
        expires_at=facts.expires_at,
    )


def slot_holders(connection: Connection, account_id: int, now: float) -> list[SlotHolder]:
    """Return the items that hold the account's slots now; never many more than its limit."""
    found = connection.execute(_HOLDERS, {"account_id": account_id, "now": now}).mappings()
    return [SlotHolder(**{**row, "state": State(row["state"])}) for row in found]


def save_refusal(
    connection: Connection, item_id: int, refusal: Refusal, now: float, *, counts_uploads: bool = False
) -> None:
    """Lower the learned limit after a 429, once the refused item has given its slot back.

    Args:
        item_id: The refused item.
        counts_uploads: The 429 came before the last chunk: the service counts uploads as jobs.
    """
    account_id = connection.execute(ACCOUNT_OF_ITEM, {"item": item_id}).scalar_one()
    account = connection.execute(_ACCOUNT_LOCKED, {"account_id": account_id}).one()
    taken = connection.execute(_TAKEN, {"account_id": account_id, "now": now}).one()
    # where uploads count, those that were under way beside the refused one were live, too
    live: int = taken.slots + (taken.sending if counts_uploads or account.no_ahead_until > now else 0)
    learned = learn(_learned(account), refusal, live, account.typical_job_seconds, now)
    connection.execute(_SAVE_LEARNED, {"account_id": account_id, **_columns(learned)})


def _learned(account: Row[Any]) -> LearnedLimit:
    return LearnedLimit(
        stated=account.stated_limit,
        stated_at=account.stated_at,
        observed=account.observed_limit,
        observed_at=account.observed_at,
        step_seconds=account.step_seconds,
        steps_before_raise=account.steps_before_raise,
    )


def _columns(learned: LearnedLimit) -> dict[str, Any]:
    return {
        "stated": learned.stated,
        "stated_when": learned.stated_at,
        "observed": learned.observed,
        "observed_when": learned.observed_at,
        "step": learned.step_seconds,
        "steps_to_wait": learned.steps_before_raise,
    }
