"""Reads a request's body off the connection, a piece at a time."""

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
    """Gives the body to `take` in pieces, `most` bytes of it; False where its end was not reached.

    Who asked leave for the body gets it first, unless it is not to be invited.

    Raises:
        TimeoutError: Nothing of the body came for `idle_seconds`, where these are bounded (not 0).
    """
    try:
        if invites:
            await _invite(request)
        return await _read(request, take, most, idle_seconds or None)
    except TimeoutError:  # an OSError, too
        raise
    except (OSError, web.RequestPayloadError):
        # The client is gone: what it sent until then was taken, and nobody waits for an answer.
        return False


def asks_leave(request: web.BaseRequest) -> bool:
    """Whether a client waits for leave before it sends the body."""
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
    if asks_leave(request):
        await request.writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
