"""Decides what each slot of the account does, and why it idles; adds that up over a run."""

from collections import Counter
from collections.abc import Mapping
from enum import StrEnum
from operator import itemgetter
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:  # commands that only show the causes have no flow
    from uploader.policy.flow import Flow


class SlotUse(StrEnum):
    """A slot's use: busy, or the cause that holds it back."""

    # a job of ours lives, or a last chunk is out
    BUSY = "busy"
    # held for an item in doubt
    DOUBT = "doubt"
    # no conversation may go
    LANES = "lanes"
    # left to the account's other workers, as their part
    OTHER_WORKERS = "otherWorkers"
    # a conversation waits for its next attempt, after one that failed
    RETRY = "retry"
    # the body of an attempt whose turn has come is under way
    UPLINK = "uplink"
    # as many last chunks are out as may be: the number follows the account, or a person has set it
    ANSWERS = "answers"
    UNANSWERED = "unanswered"
    # as many attempts are under way as may be
    UPLOADS = "uploads"
    # as many PUTs begin in a second as may
    RATE = "rate"
    # a claim, an admission or a job's end is being written, or waits for a ledger that does not answer
    LEDGER = "ledger"
    # the pause after a 429
    BACKOFF = "backoff"
    BREAKER = "breaker"


class SlotFacts(NamedTuple):
    """All that decides what the account's slots do at a moment, beside its flow."""

    in_force: int
    # slots taken by jobs and by last chunks without an answer, and those held for items in doubt
    busy: int
    doubtful: int = 0
    # attempts whose turn has come and that wait for their admission
    due: int = 0
    # last chunks that are out
    unanswered: int = 0
    # attempts whose turn has come: those that wait for the rate, and those whose body has not gone out
    paced: int = 0
    travelling: int = 0
    # lanes that wait for their next attempt after one that failed
    retrying: int = 0
    # a lane may go that has no attempt
    is_lane_ready: bool = False
    # slots that the last claim left to other workers
    left_to_others: int = 0
    # attempts that may begin, by the cap on uploads, and by all that is known of the service
    uploads_free: int = 0
    hands_free: int = 0
    # a claim is due, or being written
    is_claiming: bool = False
    # slots whose job has ended, which the ledger does not know yet
    unwritten: int = 0
    # the ledger does not answer: nothing can be admitted
    is_ledger_away: bool = False


def slot_uses(flow: "Flow", facts: SlotFacts, now: float) -> Mapping[SlotUse, int]:
    """Count the slots by their use: as many as the limit in force.

    Args:
        flow: The account's flow.
        facts: The slots and attempts.
    """
    may_go = flow.admissions_allowed(facts.unanswered, now) if facts.due else 0
    # what stands nearest to a slot explains it first
    claims: list[tuple[SlotUse, int]] = [
        (SlotUse.DOUBT, facts.doubtful),
        (SlotUse.BUSY, max(facts.busy - facts.unwritten, 0)),
        (SlotUse.LEDGER, facts.in_force if facts.is_ledger_away else facts.unwritten),
        (SlotUse.BREAKER, 0 if flow.breaker.is_closed else facts.in_force),
        (SlotUse.BACKOFF, facts.in_force if flow.throttle.backoff.is_on(now) else 0),
        (SlotUse.LEDGER, min(facts.due, may_go)),
        (SlotUse.UNANSWERED if flow.unanswered_is_fixed else SlotUse.ANSWERS, max(facts.due - may_go, 0)),
        (SlotUse.RATE, facts.paced),
        (SlotUse.UPLINK, facts.travelling),
        (SlotUse.RETRY, facts.retrying),
        (SlotUse.OTHER_WORKERS, facts.left_to_others if facts.is_lane_ready else 0),
        (_not_begun(facts), facts.in_force),
    ]
    uses: Counter[SlotUse] = Counter()
    left = facts.in_force
    for use, slots in claims:
        if taken := min(slots, left):
            uses[use] += taken
            left -= taken
    return uses


def _not_begun(facts: SlotFacts) -> SlotUse:
    """Return why no attempt has begun for a slot."""
    if not facts.is_lane_ready:
        return SlotUse.LANES
    if not facts.uploads_free:
        return SlotUse.UPLOADS
    if not facts.hands_free:
        # until the first good answer few attempts are under way
        return SlotUse.ANSWERS
    return SlotUse.LEDGER if facts.is_claiming else SlotUse.LANES


class HeldBack(NamedTuple):
    """Shares of the slots' time while something was left to send: busy, and idle by cause."""

    busy: float
    # by the causes' names; together with ``busy`` they are 1
    causes: Mapping[str, float]


def shares_of(seconds_by_use: Mapping[SlotUse, float]) -> HeldBack | None:
    """Return the shares of slots' seconds by their use; None where there are none."""
    total = sum(seconds_by_use.values())
    if not total:
        return None
    shares = {use.value: seconds / total for use, seconds in seconds_by_use.items() if seconds}
    busy = shares.pop(SlotUse.BUSY.value, 0.0)
    return HeldBack(busy, dict(sorted(shares.items(), key=itemgetter(1), reverse=True)))


class SlotMeter:
    """The sum over time of what the account's slots did."""

    def __init__(self) -> None:
        # seconds in which no slot was idle, and an attempt or a lane waited for one
        self.full_seconds = 0.0
        self._seconds = dict.fromkeys(SlotUse, 0.0)
        self._uses: Mapping[SlotUse, int] = {}
        self._is_full = False
        self._since = 0.0

    def update(self, uses: Mapping[SlotUse, int], now: float, *, waits: bool) -> None:
        """Count the time up to now, and take what holds from now on.

        Args:
            uses: The slots by their use; none where nothing is left to send.
            now: The time, in seconds; never running backwards.
            waits: An attempt, or a lane, waits for a slot.
        """
        seconds = now - self._since
        for use, slots in self._uses.items():
            self._seconds[use] += slots * seconds
        if self._is_full:
            self.full_seconds += seconds
        self._uses, self._since = uses, now
        self._is_full = waits and not uses.keys() - {SlotUse.BUSY, SlotUse.DOUBT}

    @property
    def seconds(self) -> Mapping[SlotUse, float]:
        """The slots' seconds by their use, up to the last update."""
        return dict(self._seconds)

    def held_back(self) -> HeldBack | None:
        """Return the shares up to the last update; None before any time was counted."""
        return shares_of(self._seconds)
