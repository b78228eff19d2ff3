"""Asks leave for a long body (``Expect: 100-continue``), and remembers whether the service gives it."""

import asyncio
import sys
from collections.abc import Callable
from typing import NamedTuple

from aiohttp import ClientRequest

MISSES_IN_A_ROW = 3
"""A service that has given leave before is asked by every upload until so many waits in a row came to nothing."""
AGAIN_LEAST_SECONDS, AGAIN_MOST_SECONDS = 60.0, 3600.0
"""After such waits one upload asks again, and each time that this is in vain, the next one does after twice as long."""
CAN_GO_ON = hasattr(ClientRequest, "_continue")
"""aiohttp waits for the 100 without a limit, and keeps the wait to itself: where it cannot be ended, none begins."""


class Expect(NamedTuple):
    """Bodies of more than so many bytes wait for leave, and so many seconds at most.

    ``keeps_connections``: an upload may have a connection that carried another one before, if it gets leave on it.
    """

    above_bytes: int = 1024 * 1024
    seconds: float = 2.0
    keeps_connections: bool = True


NEVER = Expect(above_bytes=sys.maxsize, keeps_connections=False)


class Expectation:
    """What is known of a service's way with ``Expect: 100-continue``, as long as its client lives.

    One that never gave leave is asked once, and then by one upload now and then: a leave that was merely slow does not
    cost a night's uploads, and a service that gives none costs few waits. Times are in seconds on the caller's clock.
    """

    def __init__(self, expect: Expect) -> None:
        self.seconds = expect.seconds
        self._above_bytes = expect.above_bytes
        self._keeps_connections = expect.keeps_connections
        self._misses_left = 1
        self._has_honoured = False
        self._is_refused = False
        self._is_tried = False
        self._again_at = 0.0
        self._again_seconds = AGAIN_LEAST_SECONDS

    def is_long(self, size: int) -> bool:
        """Whether a body of so many bytes is one not to be sent in vain."""
        return size > self._above_bytes

    def is_worth_asking(self, size: int, now: float) -> bool:
        """Whether a body of so many bytes shall wait for leave.

        A short one does for the sake of the connection; as long as the service's way is not known, one tries it.
        """
        if not CAN_GO_ON or self._is_refused:
            return False
        if self._misses_left <= 0:
            return now >= self._again_at and (self.is_long(size) or self._keeps_connections)
        return self.is_long(size) or (self._keeps_connections and (self._has_honoured or not self._is_tried))

    def tried(self, now: float) -> None:
        """A question is under way."""
        self._is_tried = True
        if self._misses_left <= 0:
            self._put_off(now)

    def over(self) -> None:
        """A question is no longer under way, whatever came of it."""
        self._is_tried = False

    def honoured(self) -> None:
        """The service has given leave, or answered to the head alone."""
        self._misses_left = MISSES_IN_A_ROW
        self._has_honoured = True
        self._again_seconds = AGAIN_LEAST_SECONDS

    def missed(self, now: float) -> None:
        """Nothing came in time."""
        self._misses_left -= 1
        if self._misses_left == 0:
            self._put_off(now)

    def refused(self) -> None:
        """The service will have no such question (417)."""
        self._is_refused = True

    def _put_off(self, now: float) -> None:
        self._again_at = now + self._again_seconds
        self._again_seconds = min(2 * self._again_seconds, AGAIN_MOST_SECONDS)


class Leave:
    """One upload's wait for ``100 Continue``.

    When it has taken too long, the body goes out all the same, in the same request (RFC 9110, 10.1.1): so no
    second PUT is ever needed, and a leave that comes late changes nothing. Not so on a connection that carried an
    upload before: the server may have closed it long since, and leave is the sign that it has not.
    """

    def __init__(self, expectation: Expectation, size: int, now: Callable[[], float]) -> None:
        self.is_asked = expectation.is_worth_asking(size, now())
        self.is_lost = False
        self._expectation = expectation
        self._now = now
        self._came: asyncio.Future[bool] | None = None
        self._until = float("inf")
        self._is_on_used = False
        if self.is_asked:
            expectation.tried(now())

    @property
    def is_awaited(self) -> bool:
        """Whether the head has left, and nothing has come yet."""
        return self._came is not None and not self._came.done()

    def asked(self, came: "asyncio.Future[bool] | None", *, is_on_used: bool) -> None:
        """The head is about to leave, perhaps on a used connection; ``came`` is what aiohttp waits on."""
        if self.is_asked:
            self._came = came
            self._is_on_used = is_on_used
            self._until = self._now() + self._expectation.seconds

    def look(self) -> None:
        """End a wait that has taken too long: aiohttp then sends the body as if leave had come, or nothing more."""
        if self._came is None or self._came.done() or self.is_lost or self._now() < self._until:
            return
        self._expectation.missed(self._now())
        if self._is_on_used:
            self.is_lost = True
            return
        self._came.set_result(True)
        self._came = None

    def given(self) -> None:
        """The body begins."""
        if self._came is not None:
            self._expectation.honoured()
            self._came = None

    def answered(self, status: int) -> None:
        """The answer came: from now on there is nothing to be waited for, and nothing to be sent."""
        # aiohttp has cancelled the wait by now: whether anything had ended it before is told by its being there
        if self._came is not None and status != 417:
            self._expectation.honoured()
        self._came = None

    def over(self) -> None:
        """The request is over, however it ended."""
        if self.is_asked:
            self._expectation.over()
