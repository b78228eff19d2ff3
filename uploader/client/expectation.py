"""``Expect: 100-continue``: one upload's wait for it, and what earlier waits have shown of the service."""

import asyncio
import sys
from collections.abc import Callable
from math import inf
from typing import NamedTuple

from aiohttp import ClientRequest

# so many timeouts in a row before a service that has sent 100 Continue is no longer asked by every upload
TIMEOUTS_IN_A_ROW = 3
# then one upload asks again after the first of these times, in seconds, and after twice as long with each timeout
MIN_RETRY_SECONDS, MAX_RETRY_SECONDS = 60.0, 3600.0
# aiohttp waits for the 100 without a limit, in a private future: without access to it no wait could be ended
CAN_END_WAIT = hasattr(ClientRequest, "_continue")


class Expect(NamedTuple):
    """The settings of ``Expect: 100-continue``."""

    # longer bodies wait for 100 Continue
    above_bytes: int = 1024 * 1024
    # the longest wait
    seconds: float = 2.0
    # an upload may reuse a connection, if 100 Continue comes on it
    keeps_connections: bool = True


NEVER = Expect(above_bytes=sys.maxsize, keeps_connections=False)


class ContinueSupport:
    """A service's support of ``Expect: 100-continue``, as far as its client has seen it.

    A service that never sent 100 Continue is asked once, and then by one upload now and then: one slow 100 does not
    end the use of it for a night, and a service that sends none costs few waits. Times are seconds on the caller's
    clock.
    """

    def __init__(self, expect: Expect) -> None:
        self.seconds = expect.seconds
        self._above_bytes = expect.above_bytes
        self._keeps_connections = expect.keeps_connections
        self._timeouts_left = 1
        self._is_confirmed = False
        self._is_refused = False
        # a wait is under way
        self._is_tried = False
        self._retry_at = 0.0
        self._retry_seconds = MIN_RETRY_SECONDS

    def is_long(self, size: int) -> bool:
        """Return True where a body of this size, in bytes, is too long to be sent in vain."""
        return size > self._above_bytes

    def should_expect(self, size: int, now: float) -> bool:
        """Return True where a body of this size, in bytes, waits for 100 Continue.

        A short body waits for the sake of the connection; one upload tries before the others do.
        """
        if not CAN_END_WAIT or self._is_refused:
            return False
        if self._timeouts_left <= 0:
            return now >= self._retry_at and (self.is_long(size) or self._keeps_connections)
        return self.is_long(size) or (self._keeps_connections and (self._is_confirmed or not self._is_tried))

    def wait_began(self, now: float) -> None:
        """Count a wait as under way."""
        self._is_tried = True
        if self._timeouts_left <= 0:
            self._postpone_retry(now)

    def wait_ended(self) -> None:
        """Count a wait as over, whatever its result."""
        self._is_tried = False

    def confirmed(self) -> None:
        """Record a 100 Continue, or a final answer to the head alone."""
        self._timeouts_left = TIMEOUTS_IN_A_ROW
        self._is_confirmed = True
        self._retry_seconds = MIN_RETRY_SECONDS

    def timed_out(self, now: float) -> None:
        """Record that nothing came in time."""
        self._timeouts_left -= 1
        if self._timeouts_left == 0:
            self._postpone_retry(now)

    def refused(self) -> None:
        """Record a 417: the service is not asked again."""
        self._is_refused = True

    def _postpone_retry(self, now: float) -> None:
        self._retry_at = now + self._retry_seconds
        self._retry_seconds = min(2 * self._retry_seconds, MAX_RETRY_SECONDS)


class ContinueWait:
    """One upload's wait for ``100 Continue``.

    After a timeout the body goes out in the same request (RFC 9110, 10.1.1): no second PUT is needed, and a late 100
    changes nothing. On a reused connection the upload ends instead: the server may have closed that connection
    already, and only a 100 shows that it has not.
    """

    def __init__(self, support: ContinueSupport, size: int, now: Callable[[], float]) -> None:
        self.is_expected = support.should_expect(size, now())
        # the wait timed out on a reused connection
        self.has_failed = False
        self._support = support
        self._now = now
        # aiohttp's future of the 100, as long as it is waited for
        self._continue: asyncio.Future[bool] | None = None
        self._until = inf
        self._is_reused = False
        if self.is_expected:
            support.wait_began(now())

    @property
    def is_waiting(self) -> bool:
        """Return True where the head has left and nothing has come yet."""
        return self._continue is not None and not self._continue.done()

    def begin(self, continue_future: "asyncio.Future[bool] | None", *, is_reused: bool) -> None:
        """Begin the wait: the head is about to leave.

        Args:
            continue_future: aiohttp's future of the 100.
            is_reused: The connection has carried another upload before.
        """
        if self.is_expected:
            self._continue = continue_future
            self._is_reused = is_reused
            self._until = self._now() + self._support.seconds

    def check_timeout(self) -> None:
        """End a wait that has timed out."""
        if self._continue is None or self._continue.done() or self.has_failed or self._now() < self._until:
            return
        self._support.timed_out(self._now())
        if self._is_reused:
            self.has_failed = True
            return
        # aiohttp sends the body as if the 100 had come
        self._continue.set_result(True)
        self._continue = None

    def body_began(self) -> None:
        """Record that the body begins: the 100 has come, unless the wait had timed out."""
        self._confirm()

    def answered(self, status: int) -> None:
        """Record a final answer; aiohttp has ended the wait, and sends nothing more."""
        if status == 417:
            self._continue = None
        self._confirm()

    def _confirm(self) -> None:
        if self._continue is not None:
            self._support.confirmed()
            self._continue = None

    def close(self) -> None:
        """End the wait with its request."""
        if self.is_expected:
            self._support.wait_ended()
