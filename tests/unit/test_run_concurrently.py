"""Several works at once: all of them are done, or the first failure ends the others."""

import asyncio

import pytest

from uploader.engine import run_concurrently
from uploader.errors import GaveUpError


async def test_all_are_done_at_once() -> None:
    """Works that wait for each other come to their end."""
    meet = asyncio.Barrier(3)

    async def wait() -> None:
        await meet.wait()

    await run_concurrently([wait() for _ in range(3)])
    assert meet.n_waiting == 0


async def test_the_first_failure_ends_the_others_and_is_raised() -> None:
    """As it is, without a group around it; what was under way is cancelled and over by then."""
    ended: list[str] = []

    async def fail() -> None:
        raise GaveUpError("no answer")

    async def go_on() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            ended.append("cancelled")

    with pytest.raises(GaveUpError, match="no answer"):
        await run_concurrently([go_on(), fail(), go_on()])
    assert ended == ["cancelled"] * 2
