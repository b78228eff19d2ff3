"""Flow control: the state of an account's flow of uploads, and the queue of attempts that wait for admission."""

import asyncio
from collections.abc import Callable, Collection
from dataclasses import dataclass
from math import inf
from types import TracebackType

from uploader.ledger.claiming import Admission, AdmissionResult, admit
from uploader.ledger.thread import Writer
from uploader.model import Claim, LimitFacts, Order
from uploader.policy.ahead import silence_seconds
from uploader.policy.flow import AttemptAdmitted, AttemptEnded, Event, Flow, reduce
from uploader.settings import Settings

# seconds between two looks at the waits while an admission is being written
CHECK_WAITS_SECONDS = 1.0


class _Repeated:
    """A timer that calls a function every so many seconds until it is closed."""

    def __init__(self, seconds: float, function: Callable[[], None]) -> None:
        self._seconds = seconds
        self._function = function
        self._begin()

    def _begin(self) -> None:
        self._timer = asyncio.get_running_loop().call_later(self._seconds, self._call)

    def _call(self) -> None:
        self._function()
        self._begin()

    def close(self) -> None:
        """Call it no more."""
        self._timer.cancel()


@dataclass(slots=True)
class _Waiting:
    """An attempt that waits for its admission."""

    admission: Admission
    # the reason not to admit it; empty: admitted
    answer: "asyncio.Future[str]"
    # the end of its wait, in seconds since the epoch
    until: float
    # by the ledger its turn has not come
    is_behind: bool = False


class FlowControl:
    """The flow control of one account's uploads.

    Args:
        flow: The initial state.
        now: Seconds since the epoch, never running backwards and never jumping.
        is_lane_live: Returns True where a job of a lane lives, so that its next item is not admitted yet.
        has_lease: Returns True where no other worker can have ended this one.
        measure: Called after each change of the flow.
    """

    def __init__(
        self,
        *,
        writer: Writer,
        account_id: int,
        settings: Settings,
        flow: Flow,
        now: Callable[[], float],
        is_lane_live: Callable[[int], bool],
        has_lease: Callable[[], bool] = lambda: True,
        measure: Callable[[], None] = lambda: None,
    ) -> None:
        self.state = flow
        self.bytes_moved = 0
        # the attempts whose last chunk is out, or is about to leave, by their ids, with their lanes
        self.unanswered: dict[int, int] = {}
        # what the latest claim or admission found
        self.limit = LimitFacts(settings.limit, None, settings.limit, 0)
        # a lane has an item whose attempt has not begun, as the latest claim or admission found
        self.has_more = False
        self._writer = writer
        self._account_id = account_id
        self._order = Order(settings.schedule.order)
        self._ahead_seconds = settings.ahead_seconds
        self._now = now
        self._is_lane_live = is_lane_live
        self.has_lease = has_lease
        self._measure = measure
        self._waiting: dict[int, _Waiting] = {}
        self._changed = asyncio.Event()
        # a slot may be free, as far as is known: else nobody asks the ledger
        self._may_be_free = True
        self._stoppable: set[asyncio.Timeout] = set()
        self._unstarted: set[asyncio.Timeout] = set()

    def apply(self, event: Event) -> None:
        """Apply an event to the state, and let the attempts that wait be looked through."""
        self.state = reduce(self.state, event, self._now())
        if self.state.is_stopping():
            self._end_all(self._stoppable)
        self._changed.set()

    def changed(self) -> None:
        """Let the attempts that wait be looked through, after one has gone on."""
        self._changed.set()

    def slot_may_be_free(self) -> None:
        """Let the ledger be asked again: a job or an attempt has freed a slot, and that is queued for the ledger."""
        self._may_be_free = True
        self._changed.set()

    def update_limit(self, limit: LimitFacts) -> None:
        """Take the limit as it was found; where slots are free, let the ledger be asked again."""
        self._set_limit(limit)
        if limit.free:
            self.slot_may_be_free()

    def _set_limit(self, limit: LimitFacts) -> None:
        """Take a limit; where it has fallen, end the waits beyond two for each slot, those that began last."""
        is_lower = limit.in_force < self.limit.in_force
        self.limit = limit
        if not is_lower:
            return
        # they would be long, and the longest lane, whose attempt met the 429, could not begin anew beside them; two are
        # left because a limit that is shared falls and rises again
        waiting = [attempt_id for attempt_id in sorted(self._waiting) if self._still(attempt_id) is not None]
        for attempt_id in waiting[2 * limit.in_force :]:
            self._waiting[attempt_id].answer.set_result("the account's limit is lower than it was known to be")

    @property
    def waiting(self) -> int:
        """Count the attempts that wait for their admission."""
        return len(self._waiting)

    @property
    def due(self) -> int:
        """Count the attempts that wait for their admission and whose turn has come, as far as is known."""
        return len(self._due())

    def is_turn_near(self, lane_id: int) -> bool:
        """Return True where no attempt or job of a lane is known to be before the next one."""
        return not self._is_lane_live(lane_id) and lane_id not in self.unanswered.values()

    @property
    def unanswered_wanted(self) -> int:
        """Count the last chunks that would be unanswered without a bound: one more for each free slot."""
        # those that took their slot before their first byte idle in it while they wait
        idle = self.limit.free + (self.waiting if self.limit.needs_slot_first else 0)
        return len(self.unanswered) + idle

    def ask(self, claim: Claim, content_hash: str) -> "asyncio.Future[str]":
        """Ask for slot and turn of an attempt; ``withdraw`` ends the wait.

        Returns:
            The reason to withhold the last chunk, or empty; LedgerUnavailableError where the admission could not be
            written.
        """
        answer: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        if reason := self.state.reason_not_to_admit(self._now()):
            answer.set_result(reason)
            return answer
        self._waiting[claim.attempt_id] = _Waiting(
            Admission(claim, content_hash), answer, self._now() + self._ahead_seconds
        )
        self._changed.set()
        return answer

    def silence_seconds(self) -> float:
        """Return the longest time without a byte for an attempt that begins to wait."""
        return silence_seconds(self.state.ahead.borne_silence, is_alone=not self._waiting)

    def withdraw(self, claim: Claim) -> None:
        """Withdraw an attempt that waits no longer."""
        self._waiting.pop(claim.attempt_id, None)

    def ended(self, event: AttemptEnded) -> None:
        """Take the reply of an attempt: it counts before the next last chunk is admitted."""
        self.unanswered.pop(event.attempt_id, None)
        # an admission that is being written is none of an attempt that has ended: its permit would never come back
        self._waiting.pop(event.attempt_id, None)
        self.apply(event)

    def interruptible(self) -> "Interruptible":
        """Build a scope before anything is sent, which a stop ends with a TimeoutError."""
        return Interruptible(self._stoppable, is_over=self.state.is_stopping())

    def interruptible_by_429(self) -> "Interruptible":
        """Build a scope before anything is sent, which a stop, or ``cancel_unstarted``, ends with a TimeoutError."""
        return Interruptible(self._stoppable, self._unstarted, is_over=self.state.is_stopping())

    def cancel_unstarted(self) -> None:
        """Cancel the attempts that have sent nothing yet: after a 429 they would meet one too."""
        self._end_all(self._unstarted)

    async def run(self) -> None:
        """Admit attempts as slots and turns come, until cancelled."""
        while True:
            await self._until_changed()
            self._measure()
            # attempts with a free slot and their turn wait only for answers to others, so that their wait is not ended,
            # unless a 429 pauses them all, perhaps for an hour
            is_next = self._has_room and not self.state.throttle.backoff.is_on(self._now())
            due = self._due()
            self._end_waits({admission.claim.attempt_id for admission in due} if is_next else set())
            due = [admission for admission in due if self._still(admission.claim.attempt_id) is not None]
            room = self.state.admissions_allowed(len(self.unanswered), self._now())
            if due and room > 0 and self._has_room:
                await self._admit(due, room)
                self._measure()

    @property
    def _has_room(self) -> bool:
        """Return True where a slot may be free, as far as is known; an attempt may have its slot from its claim on."""
        return self._may_be_free or self.limit.free > 0 or self.limit.needs_slot_first

    async def _until_changed(self) -> None:
        wake_at = self._wake_at()
        try:
            async with asyncio.timeout(None if wake_at == inf else max(wake_at - self._now(), 0.0)):
                await self._changed.wait()
        except TimeoutError:
            self._may_be_free = True
        self._changed.clear()

    def _wake_at(self) -> float:
        """Return the time at which, without an event, something changes for attempts that wait."""
        if not self._waiting:
            return inf
        times = [waiting.until for waiting in self._waiting.values()]
        times += [self.state.late_at, self.state.cut_at, self.state.throttle.backoff.until]
        times += [self.limit.room_at] if self.limit.room_at is not None else []
        now = self._now()
        return min((at for at in times if at > now), default=inf)

    def _end_waits(self, due: Collection[int]) -> None:
        """End the waits that have taken too long, or are pointless now, but for attempts that are due."""
        now = self._now()
        for attempt_id, waiting in self._waiting.items():
            reason = self.state.reason_not_to_admit(now)
            if attempt_id not in due or waiting.is_behind:
                reason = reason or self.state.reason_not_to_wait(now)
                if now >= waiting.until:
                    reason = reason or f"its turn did not come within {self._ahead_seconds:g} s"
            if reason and not waiting.answer.done():
                waiting.answer.set_result(reason)

    def _due(self) -> list[Admission]:
        """List the attempts that wait, without those whose lane is known to have a live job."""
        busy = set(self.unanswered.values())
        return [
            waiting.admission
            for waiting in self._waiting.values()
            if not waiting.answer.done()
            and (lane_id := waiting.admission.claim.lane_id) not in busy
            and not self._is_lane_live(lane_id)
        ]

    async def _admit(self, due: list[Admission], room: int) -> None:
        self._may_be_free = False
        # the ledger may be away for long: waits that are over meanwhile end all the same
        meanwhile = _Repeated(CHECK_WAITS_SECONDS, lambda: self._end_waits(set()))
        try:
            result = await self._writer.call(
                admit,
                self._account_id,
                due,
                room,
                self._now(),
                order=self._order,
            )
        except Exception as error:  # noqa: BLE001 - it is each waiting attempt's, and is raised there
            for admission in due:
                if (waiting := self._still(admission.claim.attempt_id)) is not None:
                    waiting.answer.set_exception(error)
            return
        finally:
            meanwhile.close()
        self._take(result)
        if len(result.admitted) < room:
            # the others lack their slot or their turn, which the ledger alone knows for sure
            self._end_waits(set())

    def _take(self, result: AdmissionResult) -> None:
        self.has_more = result.has_more
        # a stop, or an open breaker, may have come during the transaction
        reason = self.state.reason_not_to_admit(self._now())
        for attempt_id in result.admitted:
            # an attempt that has ended meanwhile, or must not go, frees its slot with its outcome
            if (waiting := self._still(attempt_id)) is not None:
                if not reason:
                    self.unanswered[attempt_id] = waiting.admission.claim.lane_id
                    self.apply(AttemptAdmitted(attempt_id))
                waiting.answer.set_result(reason)
        for attempt_id, reason in result.withdrawn.items():
            if (waiting := self._still(attempt_id)) is not None:
                waiting.answer.set_result(reason)
        self._set_limit(result.limit)
        for attempt_id, waiting in self._waiting.items():
            waiting.is_behind = attempt_id in result.behind
        # more may be admitted; after an answer without any, asking again at once would change nothing
        if result.admitted or self.state.reason_not_to_wait(self._now()):
            self._changed.set()

    def _still(self, attempt_id: int) -> _Waiting | None:
        """Return an attempt if it still waits."""
        waiting = self._waiting.get(attempt_id)
        return None if waiting is None or waiting.answer.done() else waiting

    def _end_all(self, scopes: "set[asyncio.Timeout]") -> None:
        now = asyncio.get_running_loop().time()
        for scope in scopes:
            # one that is ending already may take a while to do so
            if not scope.expired():
                scope.reschedule(now)


class Interruptible:
    """A scope that can be ended through each of its sets, with a TimeoutError."""

    def __init__(self, *sets: "set[asyncio.Timeout]", is_over: bool) -> None:
        self._sets = sets
        self._is_over = is_over

    async def __aenter__(self) -> None:
        """Enter the scope; it ends at once if ``is_over``."""
        now = asyncio.get_running_loop().time()
        self._timeout = await asyncio.timeout_at(now if self._is_over else None).__aenter__()
        for scopes in self._sets:
            scopes.add(self._timeout)

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Leave the scope."""
        for scopes in self._sets:
            scopes.discard(self._timeout)
        await self._timeout.__aexit__(kind, error, trace)
