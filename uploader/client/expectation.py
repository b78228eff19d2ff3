"""Asks leave for a long body (``Expect: 100-continue``), and remembers whether the service gives it."""

import asyncio
import sys
from collections.abc import Callable
from dataclasses import dataclass

from aiohttp import ClientRequest

MISSES_IN_A_ROW = 3
"""A service that has given leave before is asked no more after so many waits in a row that came to nothing."""
CAN_GO_ON = hasattr(ClientRequest, "_continue")
"""aiohttp waits for the 100 without a limit, and keeps the wait to itself: where it cannot be ended, none begins."""


@dataclass(frozen=True, slots=True)
class Expect:
    """Bodies of more than so many bytes wait for leave, and so many seconds at most."""

    above_bytes: int = 1024 * 1024
    seconds: float = 2.0


NEVER = Expect(above_bytes=sys.maxsize)


class Expectation:
    """What is known of a service's way with ``Expect: 100-continue``, as long as its client lives.

    One that never gave leave is asked once: only the first upload pays for the wait.
    """

    def __init__(self, expect: Expect) -> None:
        self.seconds = expect.seconds
        self._above_bytes = expect.above_bytes
        self._misses_left = 1
        self._is_refused = False

    def is_long(self, size: int) -> bool:
        """Whether a body of so many bytes is one not to be sent in vain."""
        return size > self._above_bytes

    def is_worth_asking(self, size: int) -> bool:
        """Whether a body of so many bytes shall wait for leave."""
        return CAN_GO_ON and self.is_long(size) and self._misses_left > 0 and not self._is_refused

    def honoured(self) -> None:
        """The service has given leave, or answered to the head alone."""
        self._misses_left = MISSES_IN_A_ROW

    def missed(self) -> None:
        """Nothing came in time."""
        self._misses_left -= 1

    def refused(self) -> None:
        """The service will have no such question (417)."""
        self._is_refused = True


class Leave:
    """One upload's wait for ``100 Continue``.

    When it has taken too long, the body goes out all the same, in the same request (RFC 9110, 10.1.1): so no
    second PUT is ever needed, and a leave that comes late changes nothing.
    """

    def __init__(self, expectation: Expectation, size: int, now: Callable[[], float]) -> None:
        self.is_asked = expectation.is_worth_asking(size)
        self._expectation = expectation
        self._now = now
        self._came: asyncio.Future[bool] | None = None
        self._until = float("inf")

    @property
    def is_awaited(self) -> bool:
        """Whether the head has left, and nothing has come yet."""
        return self._came is not None and not self._came.done()

    def asked(self, came: "asyncio.Future[bool] | None") -> None:
        """The head is about to leave; ``came`` is what aiohttp waits on."""
        if self.is_asked:
            self._came = came
            self._until = self._now() + self._expectation.seconds

    def look(self) -> None:
        """End a wait that has taken too long: aiohttp then sends the body as if leave had come."""
        if self._came is not None and not self._came.done() and self._now() >= self._until:
            self._expectation.missed()
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
