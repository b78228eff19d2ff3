"""The status page over TCP: what is answered, to whom, and that nobody holds it up."""

import asyncio
import base64
import json
import socket
import threading
from asyncio import StreamReader, StreamWriter
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Any

import pytest
from aiohttp import web

from tests.integration.servers import free_port
from tests.integration.test_webhook import until
from uploader.errors import LedgerUnavailableError
from uploader.http_server import Callers, server
from uploader.status import listener
from uploader.status.listener import MOST_WATCHERS, StatusListener

TOKEN = "a-token-of-some-length"
PATHS = ("/", "/events", "/status.json", "/metrics", "/readyz", "/no-such-path", "/%2e%2e/ledger.db")
METHODS = ("GET", "HEAD", "POST", "PUT", "DELETE", "PATCH", "OPTIONS", "TRACE")


class Ledger:
    """A snapshot that the test sets, and how often it was read."""

    def __init__(self) -> None:
        self.shown: dict[str, Any] = {"progress": {"items": 1}, "lanes": {"lanes": []}}
        self.reads = 0
        self.is_lost = False
        self.may_read = threading.Event()
        self.may_read.set()

    def read(self, *, fresh: bool = False) -> Mapping[str, Any]:
        """Read the snapshot."""
        self.may_read.wait()
        if self.is_lost:
            raise LedgerUnavailableError("gone")
        self.reads += 1
        return dict(self.shown) | ({"run": {"fresh": True}} if fresh else {})


async def metrics() -> str:
    """Return some figures."""
    return "uploader_run_active 1.0\n"


@asynccontextmanager
async def listening(
    ledger: Ledger | None = None, token: str | None = None, webhook: server.Answer | None = None
) -> AsyncIterator[int]:
    """A listener on a port of its own."""
    port = free_port()
    given = (ledger or Ledger()).read
    async with StatusListener("127.0.0.1", port, read=given, metrics=metrics, token=token, webhook=webhook):
        yield port


async def ask(port: int, path: str, *heads: str, method: str = "GET", host: str = "127.0.0.1") -> tuple[int, str, str]:
    """Ask once; return status, head and body."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    lines = [f"{method} {path} HTTP/1.1", f"Host: {host}", "Connection: close", *heads, "", ""]
    writer.write("\r\n".join(lines).encode())
    text = (await reader.read()).decode()
    writer.close()
    head, _, body = text.partition("\r\n\r\n")
    return int(head.split(" ")[1]), head, body


def bearer(token: str = TOKEN) -> str:
    """Return the header of a program."""
    return f"Authorization: Bearer {token}"


def basic(token: str = TOKEN) -> str:
    """Return the header of a browser."""
    return f"Authorization: Basic {base64.b64encode(f'any:{token}'.encode()).decode()}"


@asynccontextmanager
async def watching(port: int, *heads: str, limit: int = 1 << 16) -> AsyncIterator[StreamReader]:
    """A stream of events, after its head."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port, limit=limit)
    writer.write("\r\n".join(["GET /events HTTP/1.1", "Host: localhost", *heads, "", ""]).encode())
    try:
        await reader.readuntil(b"\r\n\r\n")
        yield reader
    finally:
        writer.transport.abort()


async def event(reader: StreamReader) -> dict[str, Any]:
    """Return the next event's data."""
    while True:
        line = (await reader.readline()).decode()
        assert line, "the stream has ended"
        if line.startswith("data: "):
            found: dict[str, Any] = json.loads(line.removeprefix("data: "))
            return found


async def test_each_path_is_answered() -> None:
    """Page, JSON, metrics and health, each with its type, and none kept by a cache."""
    async with listening() as port:
        status, head, body = await ask(port, "/")
        assert (status, "text/html" in head, "Content-Security-Policy: default-src 'none'" in head) == (200, True, True)
        assert body.startswith("<!doctype html>")
        status, head, body = await ask(port, "/status.json")
        assert (status, json.loads(body)["progress"]) == (200, {"items": 1})
        assert "Cache-Control: no-store" in head
        assert (await ask(port, "/metrics"))[::2] == (200, await metrics())
        assert [(await ask(port, path))[0] for path in ("/healthz", "/readyz", "/no-such-path")] == [200, 200, 404]


@pytest.mark.parametrize("method", METHODS)
async def test_a_stranger_learns_nothing(method: str) -> None:
    """Without the token each path is answered alike, whether there is one or not, and the ledger is not read."""
    ledger = Ledger()
    wrong: list[list[str]] = [
        [],
        [bearer("x" * len(TOKEN))],
        [bearer("")],
        [basic("wrong")],
        ["Authorization: Basic ?"],
    ]
    async with listening(ledger, TOKEN) as port:
        answers = set()
        for path in PATHS:
            for heads in wrong:
                status, head, body = await ask(port, path, *heads, method=method)
                answers.add((status, frozenset(head.split("\r\n")[1:]) - {dated(head)}, body))
        assert {(status, body) for status, _, body in answers} == {(401, "")}
        assert len(answers) == 1
        assert ledger.reads == 0
        assert (await ask(port, "/healthz"))[::2] == (200, "ok\n")


def dated(head: str) -> str:
    """Return the line of a head that has the time."""
    return next(line for line in head.split("\r\n") if line.startswith("Date:"))


@pytest.mark.parametrize("heads", [[bearer()], [basic()]], ids=["a program", "a browser"])
async def test_the_token_opens_it(heads: list[str]) -> None:
    """As a bearer token, or as a password; under whatever name the machine has."""
    async with listening(token=TOKEN) as port:
        assert (await ask(port, "/", *heads, host="night.example.com"))[0] == 200
        async with watching(port, *heads) as reader:
            assert (await event(reader))["progress"] == {"items": 1}


@pytest.mark.parametrize("host", ["evil.example.com", "127.0.0.1.evil.example", "localhost.evil", "", "[", "10.0.0.1"])
async def test_a_name_of_the_web_that_points_here_opens_nothing(host: str) -> None:
    """DNS rebinding: a page whose name leads to this machine still asks under its own name."""
    async with listening() as port:
        assert {(await ask(port, path, host=host))[0] for path in PATHS} <= {400, 421}
        assert (await ask(port, "/", host="localhost:1"))[0] == (await ask(port, "/", host="[::1]"))[0] == 200


@pytest.mark.parametrize("token", [None, TOKEN])
async def test_nothing_is_written_over_http(token: str | None) -> None:
    """Each method but GET and HEAD is refused, on each path."""
    async with listening(token=token) as port:
        for method in METHODS[2:]:
            assert {(await ask(port, path, bearer(), method=method))[0] for path in PATHS} == {405}


async def test_an_update_has_what_has_changed_and_nothing_else() -> None:
    """The first event is whole; the next has the part that changed."""
    ledger = Ledger()
    async with listening(ledger) as port, watching(port) as reader:
        assert (await event(reader)).keys() == {"now", "progress", "lanes"}
        ledger.shown["progress"] = {"items": 2}
        assert (await event(reader)).keys() == {"now", "progress"}


async def test_all_who_watch_share_one_snapshot_and_none_is_made_for_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    """The reads of many are those of one; once all have gone there are none."""
    ledger = Ledger()
    async with listening(ledger) as port:
        assert ledger.reads == 0
        async with watching(port) as first, watching(port) as second, watching(port) as third:
            for reader in (first, second, third):
                await event(reader)
            assert ledger.reads == 1
        monkeypatch.setattr(listener, "UPDATE_SECONDS", 0.01)
        # whoever watched is noticed to have gone by the next turn at the latest
        async with watching(port) as last:
            await event(last)
        seen = -1
        while seen != ledger.reads:
            seen = ledger.reads
            await asyncio.sleep(0.2)


async def test_the_last_event_is_that_of_the_end() -> None:
    """Who watches as the run ends gets the ledger as it is then, and is told."""
    async with listening() as port:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(b"GET /events HTTP/1.1\r\nHost: localhost\r\n\r\n")
        await reader.readuntil(b"data: ")
    assert b'"fresh":true' in (told := await reader.read())
    assert b"event: end\n" in told
    writer.close()


async def test_so_many_may_watch_and_no_more(monkeypatch: pytest.MonkeyPatch) -> None:
    """The next is told to come later; once one has gone there is room."""
    monkeypatch.setattr(listener, "MOST_WATCHERS", 2)
    async with listening() as port:
        async with watching(port) as first, watching(port) as second:
            await event(first)
            await event(second)
            assert (await ask(port, "/events"))[0] == 503
        monkeypatch.setattr(listener, "MOST_WATCHERS", MOST_WATCHERS)
        async with watching(port) as third:
            await event(third)


async def test_a_ledger_that_cannot_be_read_is_told() -> None:
    """Not ready, and no old figures as new ones; the page and the process are there."""
    ledger = Ledger()
    ledger.is_lost = True
    async with listening(ledger) as port:
        assert [(await ask(port, path))[0] for path in ("/readyz", "/status.json", "/healthz", "/")] == [
            503,
            503,
            200,
            200,
        ]


async def test_callbacks_come_to_the_same_address() -> None:
    """A POST is the webhook's, with or without the status page's token; reads are the page's."""

    async def webhook(request: web.BaseRequest, _: Callers) -> web.StreamResponse:
        return web.Response(text=request.path)

    async with listening(token=TOKEN, webhook=webhook) as port:
        assert (await ask(port, "/jobs/t", "Content-Length: 0", method="POST"))[::2] == (200, "/jobs/t")
        assert (await ask(port, "/jobs/t"))[0] == 401
        assert (await ask(port, "/", bearer()))[0] == 200


async def test_a_huge_head_is_refused() -> None:
    """Neither a long line nor many headers are taken in."""
    async with listening() as port:
        assert (await ask(port, "/" + "x" * 10_000))[0] == 400
        assert (await ask(port, "/", *[f"X-{number}: 1" for number in range(1000)]))[0] == 400
        assert (await ask(port, "/"))[0] == 200


async def test_a_thousand_idle_connections_stop_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """The oldest give way: the page is answered, and who watches goes on."""
    monkeypatch.setattr(server, "MOST_IDLE", 50)
    ledger = Ledger()
    writers: list[StreamWriter] = []
    async with listening(ledger) as port, watching(port) as reader:
        await event(reader)
        for _ in range(1000):
            _, writer = await asyncio.open_connection("127.0.0.1", port)
            writers.append(writer)
        assert (await ask(port, "/"))[0] == 200
        ledger.shown["progress"] = {"items": 3}
        assert (await event(reader))["progress"] == {"items": 3}
    for writer in writers:
        writer.transport.abort()


async def test_a_reader_that_takes_nothing_is_left_behind(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its buffer has a bound and its wait an end; the others get their updates meanwhile."""
    monkeypatch.setattr(listener, "WRITE_SECONDS", 0.2)
    monkeypatch.setattr(listener, "UPDATE_SECONDS", 0.01)
    monkeypatch.setattr(listener, "MOST_WATCHERS", 2)
    ledger = Ledger()
    async with listening(ledger) as port:
        slow = socket.create_connection(("127.0.0.1", port))
        slow.sendall(b"GET /events HTTP/1.1\r\nHost: localhost\r\n\r\n")
        async with watching(port, limit=1 << 24) as reader:
            number, status = 0, 503
            while status == 503:
                number += 1
                ledger.shown["progress"] = {"items": number, "text": "x" * 1_000_000}
                assert (await event(reader))["progress"]["items"] <= number
                # the place of the slow one is free again
                status = (await ask(port, "/events", method="HEAD"))[0]
            assert number > 1
        slow.close()


async def test_a_slow_ledger_holds_up_no_health() -> None:
    """While a snapshot is being read, all else is answered."""
    ledger = Ledger()
    ledger.may_read.clear()
    async with listening(ledger) as port:
        waiting = asyncio.create_task(ask(port, "/status.json"))
        assert (await ask(port, "/healthz"))[0] == (await ask(port, "/"))[0] == 200
        assert not waiting.done()
        ledger.may_read.set()
        assert (await waiting)[0] == 200
        await until(lambda: ledger.reads == 1)


async def test_a_ledger_that_does_not_answer_is_told_in_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """Readers give up as they do where it is down; one reading waits for it, not one for each of them."""
    monkeypatch.setattr(listener, "ANSWER_SECONDS", 0.1)
    ledger = Ledger()
    ledger.may_read.clear()
    async with listening(ledger) as port:
        for path in ("/readyz", "/status.json", "/metrics", "/readyz"):
            assert (await ask(port, path))[0] == 503
        assert (await ask(port, "/healthz"))[0] == 200
        ledger.may_read.set()
        monkeypatch.setattr(listener, "ANSWER_SECONDS", 30.0)
        assert (await ask(port, "/readyz"))[0] == 200
        # the one that the four waited for, and one that is newer than it
        assert ledger.reads <= 2
