"""Lets last chunks out, no more without an answer than the brake allows, and ends what waits where a run ends."""

import asyncio
from collections import deque
from collections.abc import Callable
from types import TracebackType

from uploader.policy.brake import TROUBLED_LANES, Brake, Phase, marks_ahead

WEIGHT = 1 / 16
"""A new measurement's share in the mean of them."""
NEVER = float("inf")


class WayOut:
    """The way out for last chunks, shared by all uploads: the brake and the signals stand at it.

    No more last chunks are out without an answer than the brake allows, so that a gateway that dies
    takes no more items into doubt than that. ``to_mark`` is the leave to mark one, ``to_go`` the leave to send it.

    Args:
        unanswered: How many that is where all goes well.
    """

    def __init__(self, unanswered: int = TROUBLED_LANES) -> None:
        self.brake = Brake(unanswered=unanswered)
        self.bytes_moved = 0
        self.to_mark = Leave(self._may_mark, lambda: self.closed)
        self.to_go = Leave(self._may_go, lambda: self.closed)
        self._mark_seconds = 0.0
        self._answer_seconds = 0.0
        self._cut_at = NEVER
        self._end_at = NEVER
        self._waits: set[asyncio.Timeout] = set()
        self._beginning: set[asyncio.Timeout] = set()

    def marked(self, seconds: float) -> None:
        """Take note that a mark was committed, and of how long that took."""
        self._mark_seconds += (seconds - self._mark_seconds) * WEIGHT

    def answered(self, brake: Brake, held: "Leave | None", seconds: float) -> None:
        """Take note of a reply: what it does to the brake counts before the next last chunk is let out.

        Args:
            brake: The brake, after it.
            held: The leave that its last chunk had, which it gives back.
            seconds: How long it was waited for, where the last chunk was out.
        """
        if held is self.to_go:
            self._answer_seconds += (seconds - self._answer_seconds) * WEIGHT
        if held is not None:
            held.taken -= 1
        self.set_brake(brake)

    def set_brake(self, brake: Brake) -> None:
        """Put the brake into a new state."""
        self.brake = brake
        self._look()

    def close_after(self, cut_seconds: float, end_seconds: float) -> None:
        """Cut uploads after ``cut_seconds``, and wait for no answer after ``end_seconds``, from now on."""
        now = asyncio.get_running_loop().time()
        self._cut_at = min(self._cut_at, now + cut_seconds)
        self._end_at = min(self._end_at, now + end_seconds)
        self._look()
        for wait in self._waits:
            wait.reschedule(now)

    def until_stopped(self) -> "Wait":
        """A wait before anything was sent; a stop ends it with a TimeoutError."""
        return Wait(self._waits, is_over=self.is_stopping)

    def until_held_back(self) -> "Wait":
        """A wait before anything was sent; a stop, or a 429 that another attempt meets, ends it with a TimeoutError."""
        return Wait(self._waits, self._beginning, is_over=self.is_stopping)

    def hold_back(self) -> None:
        """Let nothing begin that was claimed by now and has not begun: it would be refused, too."""
        now = asyncio.get_running_loop().time()
        for wait in self._beginning:
            wait.reschedule(now)

    @property
    def closed(self) -> bool:
        """Whether no last chunk may leave at all now."""
        return self.brake.phase is Phase.PROBING or self.must_cut

    @property
    def is_stopping(self) -> bool:
        """Whether a time to cut uploads is set, be it now or to come."""
        return self._cut_at < NEVER

    @property
    def must_cut(self) -> bool:
        """Whether uploads are to be cut now."""
        return self._cut_at < NEVER and asyncio.get_running_loop().time() >= self._cut_at

    @property
    def must_not_wait(self) -> bool:
        """Whether answers are not to be waited for now."""
        return self._end_at < NEVER and asyncio.get_running_loop().time() >= self._end_at

    def _may_mark(self) -> bool:
        ahead = marks_ahead(self.brake, self._mark_seconds, self._answer_seconds)
        return self.to_mark.taken + self.to_go.taken < self.brake.unanswered_allowed + ahead

    def _may_go(self) -> bool:
        return self.to_go.taken < self.brake.unanswered_allowed

    def _look(self) -> None:
        self.to_go.look()
        self.to_mark.look()


class Leave:
    """Leave that so many may have at once, first come, first served. ``taken``: so many have it.

    Args:
        is_free: Whether one more may have it now.
        is_closed: Whether nobody is to wait for it now.
    """

    def __init__(self, is_free: Callable[[], bool], is_closed: Callable[[], bool]) -> None:
        self.taken = 0
        self._is_free = is_free
        self._is_closed = is_closed
        self._waiting: deque[asyncio.Future[bool]] = deque()

    async def take(self) -> bool:
        """Wait for leave; False where none is given any more."""
        if self._is_closed():
            return False
        if not self._waiting and self._is_free():
            self.taken += 1
            return True
        turn: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
        self._waiting.append(turn)
        try:
            return await turn
        except asyncio.CancelledError:
            self._forget(turn)
            raise

    def look(self) -> None:
        """Give leave to those whose turn has come."""
        while self._waiting and (self._is_closed() or self._is_free()):
            turn = self._waiting.popleft()
            if not turn.done():
                given = not self._is_closed()
                self.taken += given
                turn.set_result(given)

    def _forget(self, turn: "asyncio.Future[bool]") -> None:
        """Who does not wait any longer takes no turn with it."""
        if turn in self._waiting:
            self._waiting.remove(turn)
        elif not turn.cancelled() and turn.result():
            self.taken -= 1
            self.look()


class Wait:
    """A wait that whoever holds one of the sets can end, with a TimeoutError."""

    def __init__(self, *sets: "set[asyncio.Timeout]", is_over: bool) -> None:
        self._sets = sets
        self._is_over = is_over

    async def __aenter__(self) -> None:
        """Begin to wait, unless the time for it is over."""
        now = asyncio.get_running_loop().time()
        self._timeout = await asyncio.timeout_at(now if self._is_over else None).__aenter__()
        for one in self._sets:
            one.add(self._timeout)

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """End the wait."""
        for one in self._sets:
            one.discard(self._timeout)
        await self._timeout.__aexit__(kind, error, trace)
