"""The listener among callers that keep it waiting: genuine callbacks are recorded all the same."""

import asyncio
from asyncio import StreamReader, StreamWriter
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager

import pytest

from tests.integration.test_webhook import GOOD, TOKEN, Ledger, listening, post, until
from uploader.http_server import server
from uploader.webhook import callbacks

MOST = 20
MANY = 100
HEAD = f"POST /{TOKEN} HTTP/1.1\r\nHost: h\r\nContent-Length: {len(GOOD)}\r\n\r\n".encode()
SILENT = {
    "nothing": b"",
    "half a head": HEAD[:30],
    "a guess without its body": HEAD.replace(TOKEN.encode(), b"guess"),
    "a head alone": HEAD,
    "half a body": HEAD + GOOD[:10],
}


@pytest.fixture(autouse=True)
def few(monkeypatch: pytest.MonkeyPatch) -> None:
    """A listener that bears few connections, and is as patient as can be."""
    monkeypatch.setattr(server, "MOST_IDLE", MOST)
    monkeypatch.setattr(callbacks, "BODY_SECONDS", 3600.0)
    for name in ("KEPT_SECONDS", "LINGER_SECONDS", "STOP_SECONDS"):
        monkeypatch.setattr(server, name, 3600.0)


@asynccontextmanager
async def crowd(port: int, text: bytes, size: int = MANY) -> AsyncIterator[list["asyncio.Task[bytes]"]]:
    """So many connections, each of which says this and no more; what each gets to read until it is closed."""
    writers: list[StreamWriter] = []
    ends: list[asyncio.Task[bytes]] = []
    try:
        for _ in range(size):
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.write(text)
            writers.append(writer)
            ends.append(asyncio.create_task(until_closed(reader)))
        yield ends
    finally:
        for writer in writers:
            writer.transport.abort()
        await asyncio.gather(*ends)


async def until_closed(reader: StreamReader) -> bytes:
    """Read until the listener closes the connection, in whatever way."""
    found = b""
    try:
        while piece := await reader.read(1000):
            found += piece
    except ConnectionError:
        pass
    return found


def closed(ends: list["asyncio.Task[bytes]"]) -> int:
    """Count the connections that the listener has closed."""
    return sum(end.done() for end in ends)


@pytest.mark.parametrize("text", SILENT.values(), ids=SILENT.keys())
async def test_real_calls_are_heard_in_a_crowd(text: bytes) -> None:
    """However many keep silent, and wherever: no more of them stand than may, and a call is answered."""
    async with listening() as (ledger, port):
        async with crowd(port, text) as ends:
            for _ in range(3):
                assert await post(port, f"/{TOKEN}") == 200
            await until(lambda: closed(ends) >= MANY - MOST)
            assert await post(port, f"/{TOKEN}") == 200
        assert len(ledger.callbacks) == 4


async def test_a_crowd_that_comes_while_calls_are_answered_drives_out_none_of_them() -> None:
    """A callback that waits for the ledger is answered, whatever else connects meanwhile."""
    async with listening(Ledger()) as (ledger, port):
        calls = [asyncio.create_task(post(port, f"/{TOKEN}")) for _ in range(MOST)]
        await until(lambda: ledger.waiting == MOST)
        async with crowd(port, b"") as ends:
            await until(lambda: closed(ends) >= MANY - MOST)
            ledger.may_commit.set()
            assert set(await asyncio.gather(*calls)) == {200}


async def test_a_connection_that_is_known_outlives_strangers() -> None:
    """A reverse proxy that keeps its connection for the next call finds it open."""
    async with listening() as (ledger, port):
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        for size in (1, MANY):
            writer.write(HEAD + GOOD)
            assert b" 200 " in await reader.readuntil(b"\r\n\r\n")
            async with crowd(port, HEAD[:30], size) as ends:
                await until(lambda ends=ends, least=size - MOST: closed(ends) >= least)  # type: ignore[misc]
        writer.write(HEAD + GOOD)
        assert b" 200 " in await reader.readuntil(b"\r\n\r\n")
        writer.close()
        assert len(ledger.callbacks) == 3


@pytest.mark.parametrize(
    ("limit", "name", "answer"),
    [
        ("KEPT_SECONDS", "nothing", b""),
        ("KEPT_SECONDS", "half a head", b""),
        ("BODY_SECONDS", "a head alone", b"408"),
        ("BODY_SECONDS", "half a body", b"408"),
        ("LINGER_SECONDS", "a guess without its body", b"404"),
    ],
)
async def test_who_keeps_it_waiting_is_waited_for_so_long(
    limit: str, name: str, answer: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each wait has its end, in a crowd that is small enough to stay."""
    monkeypatch.setattr(callbacks if limit == "BODY_SECONDS" else server, limit, 0.05)
    if limit == "BODY_SECONDS":
        monkeypatch.setattr(server, "LINGER_SECONDS", 0.05)
    async with listening() as (_, port), crowd(port, SILENT[name], 3) as ends:
        assert [end.split(b" ")[1:2] for end in await asyncio.gather(*ends)] == [[answer] if answer else []] * 3


async def test_a_body_that_drips_has_no_longer_than_one_that_stops(monkeypatch: pytest.MonkeyPatch) -> None:
    """The time for a body is that for all of it."""
    monkeypatch.setattr(callbacks, "BODY_SECONDS", 0.2)
    monkeypatch.setattr(server, "LINGER_SECONDS", 0.05)
    async with listening() as (_, port):
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(HEAD.replace(str(len(GOOD)).encode(), b"60000"))
        end = asyncio.create_task(until_closed(reader))
        while not end.done():
            writer.write(b" ")
            await asyncio.wait([end], timeout=0.005)
        assert b" 408 " in await end
        writer.close()


@asynccontextmanager
async def crowded_stop(text: bytes) -> AsyncIterator[list["asyncio.Task[bytes]"]]:
    """A listener that has stopped while a crowd stood."""
    async with AsyncExitStack() as stack:
        async with listening() as (_, port):
            ends = await stack.enter_async_context(crowd(port, text, 3))
            assert await post(port, f"/{TOKEN}") == 200
        yield ends


@pytest.mark.parametrize("text", SILENT.values(), ids=SILENT.keys())
async def test_a_stop_waits_for_no_stranger(text: bytes) -> None:
    """The run ends, however patient the listener is with what is still coming."""
    async with crowded_stop(text) as ends:
        await asyncio.gather(*ends)
