"""The standstill of a run that sends nothing: its reason, its end, and whether waiting is in vain."""

from collections.abc import Sequence
from math import inf
from typing import NamedTuple

from uploader.model import LimitFacts, SlotHolder
from uploader.policy.breaker import BreakerState
from uploader.policy.flow import Flow

HOLDERS_LISTED = 20
FOR_SLOTS = "slots that are held by items in doubt or by jobs that did not end in time"
# a longer wait, or series of waits, is logged, in seconds
LOG_AFTER_SECONDS = 60.0
# the longest wait for a slot that is held by a doubt, with nothing else to do, in seconds
SLOT_WAIT_SECONDS = 600.0


class Standstill(NamedTuple):
    """The reason that nothing is sent; times are seconds since the epoch."""

    reason: str
    # infinite where no time ends it
    until: float
    # the beginning of a series of such waits
    since: float = inf

    @property
    def is_for_slots(self) -> bool:
        """Return True where only slots are lacking."""
        return self.reason == FOR_SLOTS

    def is_in_vain(self, now: float) -> bool:
        """Return True where the run should end: no slot is freed soon."""
        return self.is_for_slots and self.until - now > SLOT_WAIT_SECONDS

    def is_worth_logging(self, now: float) -> bool:
        """Return True where the wait is long enough to be logged."""
        return self.until - now > LOG_AFTER_SECONDS or now - self.since > LOG_AFTER_SECONDS


def standstill(flow: Flow, now: float, *, full: bool, frees_at: float | None) -> Standstill | None:
    """Return the reason that no attempt begins although a lane is ready; None where only a lane's own wait delays it.

    Args:
        flow: The account's flow.
        full: All slots are taken, and by no job that is polled.
        frees_at: Earliest time a slot frees without an event, in seconds since the epoch; None where none does.
    """
    breaker, throttle = flow.breaker, flow.throttle
    if breaker.state is BreakerState.OPEN:
        reason = "the service gives no good answer: it is asked again whether it does"
        return Standstill(reason, breaker.probe_at, inf if breaker.since is None else breaker.since)
    if throttle.backoff.is_on(now):
        since = inf if throttle.alone_since is None else throttle.alone_since
        return Standstill("the pause that a 429 asked for", throttle.backoff.until, since)
    if full:
        return Standstill(FOR_SLOTS, inf if frees_at is None else frees_at)
    return None


def are_held_in_vain(limit: LimitFacts, holders: Sequence[SlotHolder], now: float) -> bool:
    """Return True where a run would end at once, because no slot is free, and none is soon.

    Args:
        limit: The account's limit.
        holders: The items that hold its slots.
    """
    full = not limit.free and bool(holders) and all(holder.until is not None for holder in holders)
    return full and Standstill(FOR_SLOTS, inf if limit.room_at is None else limit.room_at).is_in_vain(now)


def format_holders(holders: Sequence[SlotHolder], limit: int) -> str:
    """Format the message that all slots are held: line, state and job of each holder."""
    listed = [_format_holder(holder) for holder in holders[:HOLDERS_LISTED]]
    more = [f"and {len(holders) - HOLDERS_LISTED} more"] if len(holders) > HOLDERS_LISTED else []
    slots = "the only slot is" if limit == 1 else f"all {limit} slots are"
    return (
        f"{slots} held by items in doubt or by jobs that did not end in time, so that nothing more can be sent: "
        f"{'; '.join(listed + more)}: settle them (`uploader resolve`), then run the same command again"
    )


def _format_holder(holder: SlotHolder) -> str:
    job = f", job {holder.job_id}" if holder.job_id else ""
    return f"{holder.batch} line {holder.line}, {holder.conversation_id}: {holder.state.value.replace('_', ' ')}{job}"
