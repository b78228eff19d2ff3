"""The listener over TCP: what it answers, to whom, and when."""

import asyncio
import logging
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import pytest
from aiohttp.web import BaseRequest, StreamResponse

from tests.integration.servers import free_port
from uploader.errors import LedgerUnavailableError, UsageError
from uploader.http_server import Callers, HttpServer
from uploader.ledger.callbacks import CallbackResult
from uploader.policy.callbacks import signed_token, token_hash
from uploader.policy.facts import Callback, CallbackEffect
from uploader.webhook import MOST_BYTES, MOST_CALLS, Callbacks

KEY = "k"
TOKEN = signed_token("t" * 43, KEY)
GOOD = b'{"jobId": "j", "status": "completed"}'


@dataclass
class Ledger:
    """A ledger that knows one token, and is as slow or as full as the test says."""

    token: str = TOKEN
    callbacks: list[Callback] = field(default_factory=list)
    told: list[CallbackResult] = field(default_factory=list)
    is_full: bool = False
    fault: Exception | None = None
    may_commit: asyncio.Event = field(default_factory=asyncio.Event)
    waiting: int = 0

    async def call(self, _function: Callable[..., Any], hashed: str, call: Callback, _now: float, **_: Any) -> Any:
        """Write a call down, once that may be."""
        self.waiting += 1
        await self.may_commit.wait()
        if self.is_full:
            raise LedgerUnavailableError("the disk is full")
        if self.fault is not None:
            raise self.fault
        if hashed != token_hash(self.token):
            return CallbackResult(CallbackEffect.UNKNOWN_TOKEN)
        self.callbacks.append(call)
        return CallbackResult(CallbackEffect.ENDED)


@asynccontextmanager
async def listening(ledger: Ledger | None = None) -> AsyncIterator[tuple[Ledger, int]]:
    """A listener before a ledger that commits at once, unless one is given."""
    if ledger is None:
        ledger = Ledger()
        ledger.may_commit.set()
    port = free_port()
    writer: Any = ledger
    callbacks = Callbacks(key=KEY, writer=writer, now=lambda: 1.0, applied=ledger.told.append)
    async with HttpServer("127.0.0.1", port, callbacks.answer, option="--webhook"):
        yield ledger, port


async def send(port: int, text: bytes) -> bytes:
    """Send bytes, and read what comes back until the connection is closed."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        writer.write(text)
        await writer.drain()
        return await reader.read()
    finally:
        writer.close()


async def post(port: int, target: str, body: bytes = GOOD, method: str = "POST") -> int:
    """A call by hand: its status."""
    head = f"{method} {target} HTTP/1.1\r\nHost: h\r\nConnection: close\r\nContent-Length: {len(body)}\r\n\r\n"
    answer = await send(port, head.encode() + body)
    return int(answer.split(b" ")[1])


async def until(condition: Callable[[], bool]) -> None:
    """Wait for a condition of this process."""
    while not condition():  # noqa: ASYNC110 - the condition is the test's own
        await asyncio.sleep(0.005)


@pytest.mark.parametrize(
    ("target", "body", "status", "written"),
    [
        ("/jobs/TOKEN", GOOD, 200, 1),
        ("/TOKEN", GOOD, 200, 1),
        ("/a/long/way/TOKEN?of=night", b'{"id": "j", "status": "scheduled"}', 200, 1),
        ("/jobs/TOKEN", b'{"jobId": "j", "status": "paused"}', 200, 0),
        ("/jobs/TOKEN", b'{"jobId": "j"}', 400, 0),
        ("/jobs/TOKEN", b"completed", 400, 0),
        ("/jobs/TOKEN", b"", 400, 0),
        ("/jobs/TOKEN", b"\xff\xfe", 400, 0),
        ("/jobs/TOKEN", b"[" * 60_000, 400, 0),
        ("/jobs/TOKEN", b" " * MOST_BYTES + GOOD, 413, 0),
        ("/jobs/" + "x" * 43, GOOD, 404, 0),
        ("/jobs/" + signed_token("another", KEY), GOOD, 404, 0),
        ("/jobs/" + signed_token("t" * 43, "another key"), GOOD, 404, 0),
        ("/jobs/", GOOD, 404, 0),
        ("/jobs/%74TOKEN", GOOD, 404, 0),
    ],
)
async def test_the_table_of_answers(target: str, body: bytes, status: int, written: int) -> None:
    """A recorded callback and one with an unknown status get 200; all others are told apart by their kind alone."""
    async with listening() as (ledger, port):
        assert await post(port, target.replace("TOKEN", ledger.token), body) == status
        ended = [result for result in ledger.told if result.effect is CallbackEffect.ENDED]
        assert (len(ledger.callbacks), len(ended)) == (written, written)


@pytest.mark.parametrize("token", ["", "x", "x" * 43, TOKEN[:-1], TOKEN + "x", "x" + TOKEN[1:], "\udcff" * 60])
async def test_a_guess_does_not_reach_the_ledger(token: str) -> None:
    """Whoever floods the listener with guesses takes no turn of the ledger's writer, and none of its body is read."""
    async with listening() as (ledger, port):
        head = f"POST /{token} HTTP/1.1\r\nHost: h\r\nContent-Length: 60000\r\n\r\n"
        answer = await send(port, head.encode(errors="surrogateescape"))
        assert answer.split(b" ")[1] in (b"404", b"400")
        assert ledger.waiting == 0


@pytest.mark.parametrize("method", ["GET", "PUT", "DELETE", "OPTIONS"])
async def test_only_a_post_is_a_call(method: str) -> None:
    """A browser that was given the address changes nothing."""
    async with listening() as (ledger, port):
        assert await post(port, f"/{ledger.token}", GOOD, method) == 405
        assert ledger.callbacks == []


async def test_a_call_is_answered_once_it_is_in_the_ledger() -> None:
    """200 says that it need not come again: not before the commit."""
    async with listening(Ledger()) as (ledger, port):
        call = asyncio.create_task(post(port, f"/{ledger.token}"))
        await until(lambda: ledger.waiting == 1)
        assert not call.done()
        ledger.may_commit.set()
        assert await call == 200
        assert ledger.callbacks == [Callback("j", "completed")]  # type: ignore[arg-type] # a StrEnum equals its text


async def test_what_could_not_be_written_is_to_come_again() -> None:
    """A full disk: 503, and the next try is good."""
    async with listening() as (ledger, port):
        ledger.is_full = True
        assert await post(port, f"/{ledger.token}") == 503
        ledger.is_full = False
        assert await post(port, f"/{ledger.token}") == 200


async def test_a_fault_of_ours_is_no_200(capsys: pytest.CaptureFixture[str]) -> None:
    """It is told in the log, and the call is to come again."""
    async with listening() as (ledger, port):
        ledger.fault = RuntimeError("a fault")
        assert await post(port, f"/{ledger.token}") == 503
        assert "a fault" in "".join(capsys.readouterr())


async def test_a_caller_that_goes_away_is_heard_all_the_same() -> None:
    """A committed callback reaches the engine even if its caller has disconnected."""
    async with listening(Ledger()) as (ledger, port):
        _, writer = await asyncio.open_connection("127.0.0.1", port)
        head = f"POST /{ledger.token} HTTP/1.1\r\nHost: h\r\nContent-Length: {len(GOOD)}\r\n\r\n"
        writer.write(head.encode() + GOOD)
        await until(lambda: ledger.waiting == 1)
        writer.transport.abort()
        ledger.may_commit.set()
        await until(lambda: bool(ledger.told))
        assert [call.job_id for call in ledger.callbacks] == ["j"]


async def test_more_calls_than_can_be_taken_are_to_come_again() -> None:
    """Whoever floods the listener gets 503, and does not fill the memory."""
    async with listening(Ledger()) as (ledger, port):
        calls = [asyncio.create_task(post(port, f"/{ledger.token}")) for _ in range(MOST_CALLS)]
        await until(lambda: ledger.waiting == MOST_CALLS)
        assert await post(port, f"/{ledger.token}") == 503
        ledger.may_commit.set()
        assert set(await asyncio.gather(*calls)) == {200}


async def test_what_is_no_http_shows_nowhere(
    caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    """Not even what a broken request repeats of an address."""
    with caplog.at_level(logging.DEBUG):
        async with listening() as (ledger, port):
            for text in (
                b"POST /%b\x00 HTTP/1.1\r\n\r\n",
                b"POST /%b HTTP/9.9 x\r\n\r\n",
                b"POST /%b HTTP/1.1\r\n: x\r\n\r\n",
            ):
                await send(port, text % ledger.token.encode())
    assert ledger.token not in caplog.text + "".join(capfd.readouterr())


async def test_a_stop_lets_answers_under_way_come_to_their_end() -> None:
    """Callbacks being recorded when the run ends are answered; afterwards nothing listens."""
    ledger = Ledger()
    async with listening(ledger) as (_, port):
        call = asyncio.create_task(post(port, f"/{ledger.token}"))
        await until(lambda: ledger.waiting == 1)
        asyncio.get_running_loop().call_later(0.05, ledger.may_commit.set)
    assert await call == 200
    with pytest.raises(ConnectionError):
        await post(port, f"/{ledger.token}")


@pytest.mark.parametrize("host", ["127.0.0.1", "192.0.2.1", "nowhere.invalid"])
async def test_where_it_cannot_listen_is_told(host: str) -> None:
    """A port that is taken, an address of another machine, a name that is none."""
    async with listening() as (_, port):
        with pytest.raises(UsageError, match=r"--webhook .*a port that is free"):
            await HttpServer(host, port, unasked, option="--webhook").__aenter__()


async def unasked(_request: BaseRequest, _callers: Callers) -> StreamResponse:
    """An answer that nobody asks for."""
    raise AssertionError
