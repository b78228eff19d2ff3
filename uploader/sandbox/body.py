"""Reads a request's body off the connection, piece by piece."""

import asyncio
import sys
from collections.abc import Callable
from typing import Final

from aiohttp import web

PIECE_BYTES: Final = 1 << 16


async def read_body(
    request: web.BaseRequest,
    take: Callable[[bytes], object],
    most: int = sys.maxsize,
    *,
    invites: bool = True,
    idle_seconds: float = 0.0,
) -> bool:
    """Feed the body to `take` in pieces, at most `most` bytes; return False where its end was not reached.

    A client that expects 100 Continue gets it first, unless it is not to be invited.
    """
    try:
        if invites:
            await _invite(request)
        return await _read(request, take, most, idle_seconds or None)
    except TimeoutError:  # an OSError, too
        raise
    except (OSError, web.RequestPayloadError):
        # The client is gone: its bytes were read, and no answer is expected.
        return False


def expects_continue(request: web.BaseRequest) -> bool:
    """Return True where the client waits for 100 Continue before it sends the body."""
    return request.headers.get("Expect", "").lower() == "100-continue"


async def _read(
    request: web.BaseRequest, take: Callable[[bytes], object], most: int, idle_seconds: float | None
) -> bool:
    while most > 0:
        async with asyncio.timeout(idle_seconds):
            piece = await request.content.read(min(most, PIECE_BYTES))
        if not piece:
            return True
        take(piece)
        most -= len(piece)
    return False


async def _invite(request: web.BaseRequest) -> None:
    if expects_continue(request):
        await request.writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
