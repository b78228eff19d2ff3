"""Leave for a body (``Expect: 100-continue``) in the sandbox: given, refused, ignored, and what came without it."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from tests.integration.by_hand import AUDIO, Client, playing, read_answer
from uploader.sandbox import Faults
from uploader.sandbox.entries import PutRest


async def test_leave_to_send_is_given_when_it_is_asked_for() -> None:
    """A client that waits for 100 gets it, unless it is refused."""
    async with playing() as client:
        reader, writer = await client.open()
        headers: dict[str, str | None] = {"Content-Length": str(len(AUDIO)), "Expect": "100-continue"}
        writer.write(client.head("PUT", "/v1/process/audio/c", headers))
        assert await reader.readuntil(b"\r\n\r\n") == b"HTTP/1.1 100 Continue\r\n\r\n"
        writer.write(AUDIO)
        assert read_answer(await reader.read()).status == 201


# a conversation and headers that are refused by the head alone, in a sandbox that is full
REFUSED = [
    ("c", {"Authorization": None}, 401),
    ("c", {"Content-Type": "video/mp4"}, 400),
    ("gone", {}, 404),
    ("c", {}, 429),
]


@asynccontextmanager
async def full(*, early_answers: bool = False, ignores_expect: bool = False) -> AsyncIterator[Client]:
    """A sandbox whose one slot is taken."""
    gone = frozenset({"gone"})
    faults = Faults(early_answers=early_answers, ignores_expect=ignores_expect, unknown_conversations=gone)
    async with playing(faults, limit=1, counts_uploads=True) as client:
        await client.begin_put(10)
        yield client


@pytest.mark.parametrize(("conversation", "headers", "status"), REFUSED)
@pytest.mark.parametrize("early", [False, True])
async def test_a_refusal_comes_in_place_of_100(
    conversation: str, headers: dict[str, str | None], status: int, early: bool
) -> None:
    """A client that asks leave for its body gets the refusal at once; that nothing came of the body is told."""
    async with full(early_answers=early) as client:
        asked: dict[str, str | None] = {"Content-Length": "9", "Expect": "100-continue"}
        head = client.head("PUT", f"/v1/process/audio/{conversation}", asked | headers)
        assert (await client.send(head)).status == status
        assert [(put.status, put.bytes) for put in client.sandbox.journal.puts()] == [(status, 0)]
        await client.until(lambda: bool(rests(client)))
        assert rests(client) == [0]


@pytest.mark.parametrize(("conversation", "headers", "status"), REFUSED)
async def test_a_body_that_comes_without_leave_is_counted(
    conversation: str, headers: dict[str, str | None], status: int
) -> None:
    """A client that asks leave and does not wait for it sends in vain, and the journal says how much."""
    async with full() as client:
        answer = await client.put(conversation, AUDIO, headers | {"Expect": "100-continue"})
        assert answer.status == status
        await client.until(lambda: bool(rests(client)))
        assert client.sandbox.journal.bytes_in_vain() == len(AUDIO)


@pytest.mark.parametrize(("conversation", "headers", "status"), REFUSED)
async def test_who_ignores_expect_refuses_behind_the_body(
    conversation: str, headers: dict[str, str | None], status: int
) -> None:
    """On request no 100 is ever sent, and a refusal costs the whole body."""
    async with full(ignores_expect=True) as client:
        answer = await client.put(conversation, AUDIO, headers | {"Expect": "100-continue"})
        assert answer.status == status
        assert [(put.status, put.bytes) for put in client.sandbox.journal.puts()] == [(status, len(AUDIO))]
        assert (rests(client), client.sandbox.journal.bytes_in_vain()) == ([], len(AUDIO))


async def test_who_ignores_expect_never_says_100() -> None:
    """A body that is taken is answered with its own answer alone."""
    async with playing(Faults(ignores_expect=True)) as client:
        reader, writer = await client.open()
        headers: dict[str, str | None] = {"Content-Length": str(len(AUDIO)), "Expect": "100-continue"}
        writer.write(client.head("PUT", "/v1/process/audio/c", headers) + AUDIO)
        assert (await reader.readuntil(b"\r\n\r\n")).startswith(b"HTTP/1.1 201")


def rests(client: Client) -> list[int]:
    """List the bytes behind refusals that replaced 100 Continue."""
    return [entry.bytes for entry in client.sandbox.journal.entries if isinstance(entry, PutRest)]
