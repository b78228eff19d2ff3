"""Keeps the first bytes of what a connection receives: aiohttp throws away an answer that it cannot parse."""

import re
from contextvars import ContextVar

from aiohttp.client_proto import ResponseHandler

FIRST_BYTES = 16 * 1024
"""So much of an answer is kept for the case that it cannot be read; a secret in it must be there whole to be masked."""
_INTERIM = re.compile(rb"(?:HTTP/1\.\d 1\d\d[^\r\n]*\r?\n(?:[^\r\n]+\r?\n)*\r?\n)+")
"""Answers before the final one: 100 Continue and the like."""
_STATUS_LINE = re.compile(rb"HTTP/\d(?:\.\d)? (\d{3})\b[^\r\n]*\r?\n?")


class Received:
    """The bytes that came on a connection for one request: how many, and the first of them."""

    def __init__(self) -> None:
        self._first = b""
        self._size = 0

    def add(self, data: bytes) -> None:
        """Count what came."""
        self._size += len(data)
        if len(self._first) < FIRST_BYTES:
            self._first += data[: FIRST_BYTES - len(self._first)]

    def describe(self) -> tuple[str, str]:
        """Status and size in words, and apart from them the first bytes; empty where nothing final came."""
        interim = _INTERIM.match(self._first)
        start = interim.end() if interim else 0
        size = self._size - start
        if size <= 0:
            return "", ""
        line = _STATUS_LINE.match(self._first, start)
        head, _, body = self._first[start:].partition(b"\r\n\r\n")
        status = f"HTTP {line[1].decode()}, " if line else ""
        return f"{status}{size} bytes", (body or head).decode("utf-8", "backslashreplace")


receiving: ContextVar[Received | None] = ContextVar("receiving", default=None)
"""Where the present request's connection is to count what comes."""


class RecordingProtocol(ResponseHandler):
    """aiohttp's reader of answers, which keeps the first bytes: it throws away what it cannot parse."""

    received: Received | None = None

    def data_received(self, data: bytes) -> None:
        """Count, then parse."""
        if self.received is not None:
            self.received.add(data)
        super().data_received(data)
