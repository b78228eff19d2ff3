"""Recording of the first bytes that a connection receives: aiohttp discards an answer that it cannot parse."""

import re
from contextvars import ContextVar

from aiohttp.client_proto import ResponseHandler

# the most that is kept of an answer; long enough that a secret in it is complete, and can be masked
FIRST_BYTES = 16 * 1024
# answers before the final one: 100 Continue and the like
_INTERIM = re.compile(rb"(?:HTTP/1\.\d 1\d\d[^\r\n]*\r?\n(?:[^\r\n]+\r?\n)*\r?\n)+")
_STATUS_LINE = re.compile(rb"HTTP/\d(?:\.\d)? (\d{3})\b[^\r\n]*\r?\n?")


class Received:
    """The bytes received for one request: their number, and the first of them."""

    def __init__(self) -> None:
        self._first = b""
        self._size = 0

    def add(self, data: bytes) -> None:
        """Count received bytes, and keep the first."""
        self._size += len(data)
        if len(self._first) < FIRST_BYTES:
            self._first += data[: FIRST_BYTES - len(self._first)]

    def describe(self) -> tuple[str, str]:
        """Return status and size in words, and the first bytes; both empty where no final answer came."""
        interim = _INTERIM.match(self._first)
        start = interim.end() if interim else 0
        size = self._size - start
        if size <= 0:
            return "", ""
        line = _STATUS_LINE.match(self._first, start)
        head, _, body = self._first[start:].partition(b"\r\n\r\n")
        status = f"HTTP {line[1].decode()}, " if line else ""
        return f"{status}{size} bytes", (body or head).decode("utf-8", "backslashreplace")


# the record of the present request's connection
receiving: ContextVar[Received | None] = ContextVar("receiving", default=None)


class RecordingProtocol(ResponseHandler):
    """aiohttp's protocol of answers, which also records the first bytes."""

    received: Received | None = None

    def data_received(self, data: bytes) -> None:
        """Record, then parse."""
        if self.received is not None:
            self.received.add(data)
        super().data_received(data)
