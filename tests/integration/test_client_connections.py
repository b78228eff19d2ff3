"""Connections that are used again: only with 100 Continue, and whatever the server does with them meanwhile."""

import asyncio
import gc
from asyncio.sslproto import SSLProtocol
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path

import pytest

from tests.integration.servers import (
    MEBIBYTE,
    Exchange,
    RecordingAdmission,
    Script,
    Server,
    accept,
    audio,
    authority,
    clean_environment,  # noqa: F401 - a fixture
    hung_up_after_body,
    in_turn,
    reset_after_body,
    send,
    speaking,
)
from uploader.client import Expect
from uploader.client.expectation import NEVER, TIMEOUTS_IN_A_ROW
from uploader.model import Outcome, Reply, State
from uploader.policy.replies import judge

CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"
# whoever waits this long in a test fails it
LONG = Expect(above_bytes=MEBIBYTE, seconds=3600.0)
SOON = Expect(above_bytes=MEBIBYTE, seconds=0.1)
SIZES = [20_000, 300_000, 2 * MEBIBYTE]


def with_continue(then: Script = accept) -> Script:
    """Send 100 Continue, then do something else."""

    async def script(exchange: Exchange) -> None:
        await exchange.send(CONTINUE)
        await then(exchange)

    return script


async def hang_up(exchange: Exchange) -> None:
    """Close the connection at the head."""
    exchange.hang_up()


async def reset(exchange: Exchange) -> None:
    """Reset the connection at the head."""
    exchange.reset()


async def say_nothing(exchange: Exchange) -> None:
    """Send neither 100 Continue nor an answer, and count what comes."""
    await exchange.until_left()


async def time_out(exchange: Exchange) -> None:
    """Answer to the head as some servers do when they close a connection that was idle for too long."""
    await exchange.answer(408, {"message": "idle for too long"}, Connection="close")
    exchange.hang_up()


async def sent(
    server: Server, paths: Sequence[Path], expect: Expect = LONG, admission: RecordingAdmission | None = None
) -> list[Reply]:
    """Upload files one after the other by one client; then see every connection to its end."""
    async with speaking(server.base_url, stall=5.0, expect=expect) as client:
        replies = [await send(client, path, admission) for path in paths]
    server.let_go.set()
    await server.settled()
    return replies


def recordings(folder: Path, size: int, count: int = 3) -> list[Path]:
    """Write so many files, each with another content."""
    return [audio(folder, size, name=f"{number}.wav", seed=number) for number in range(count)]


def whole(server: Server) -> list[bytes]:
    """List the complete bodies, in order."""
    return [bytes(put.body) for put in server.puts() if put.whole]


def connections_of_puts(server: Server) -> list[int]:
    """Each PUT's connection."""
    return [put.connection for put in server.puts()]


@pytest.mark.parametrize("tls", [False, True])
@pytest.mark.parametrize("size", SIZES)
async def test_with_100_continue_uploads_share_a_connection(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, size: int, tls: bool
) -> None:
    """A service that sends 100 Continue gets all uploads on one connection, short ones too; each expects it."""
    unknown = authority(tmp_path)
    monkeypatch.setenv("SSL_CERT_FILE", str(unknown.bundle))
    paths = recordings(tmp_path, size)
    async with Server(with_continue(), tls=unknown.tls() if tls else None) as server:
        replies = await sent(server, paths)
        assert whole(server) == [path.read_bytes() for path in paths]
        assert [put.all("expect") for put in server.puts()] == [["100-continue"]] * 3
        assert len(set(connections_of_puts(server))) == 1
    assert [(reply.status, reply.last_chunk_left, reply.bytes_sent) for reply in replies] == [(201, True, size)] * 3


@pytest.mark.parametrize("expect", [SOON, Expect(above_bytes=MEBIBYTE, seconds=3600.0, keeps_connections=False)])
async def test_without_100_continue_each_upload_has_its_own_connection(tmp_path: Path, expect: Expect) -> None:
    """A service that gives none is tried once at most, and a connection never carries a second upload."""
    paths = recordings(tmp_path, 20_000)
    async with Server(accept) as server:
        replies = await sent(server, paths, expect)
        assert whole(server) == [path.read_bytes() for path in paths]
        assert [bool(put.all("expect")) for put in server.puts()] == [expect is SOON, False, False]
        assert len(set(connections_of_puts(server))) == 3
    assert [reply.status for reply in replies] == [201] * 3


async def test_one_upload_tries_expect_before_the_others(tmp_path: Path) -> None:
    """Of short uploads that begin at once a single one asks: the others lose no time with a service that is silent."""
    paths = recordings(tmp_path, 20_000, 8)
    async with Server(accept) as server:
        async with speaking(server.base_url, expect=SOON) as client:
            replies = await asyncio.gather(*(send(client, path) for path in paths))
        await server.settled()
        assert sorted(whole(server)) == sorted(path.read_bytes() for path in paths)
        assert sum(bool(put.all("expect")) for put in server.puts()) == 1
    assert {reply.status for reply in replies} == {201}


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("end", [hang_up, reset, time_out])
async def test_a_used_connection_that_ends_at_the_head_costs_nothing(tmp_path: Path, end: Script, size: int) -> None:
    """The race with a server that closes what was idle: the head goes again on a new connection, each body once."""
    paths = recordings(tmp_path, size)
    admission = RecordingAdmission()
    async with Server(in_turn(with_continue(), end, with_continue())) as server:
        replies = await sent(server, paths, admission=admission)
        assert whole(server) == [path.read_bytes() for path in paths]
        assert [put.received for put in server.puts()] == [size, 0, size, size]
        first, again, anew, _ = connections_of_puts(server)
        assert first == again != anew
    assert [(reply.status, reply.bytes_sent) for reply in replies] == [(201, size)] * 3
    assert len(admission.hashes) == 3


async def test_no_body_leaves_on_a_used_connection_without_100_continue(tmp_path: Path) -> None:
    """A used connection on which no 100 Continue comes may be closed: no byte leaves on it, a new one follows."""
    paths = recordings(tmp_path, 20_000, 2)
    async with Server(in_turn(with_continue(), say_nothing, with_continue())) as server:
        replies = await sent(server, paths, SOON)
        assert whole(server) == [path.read_bytes() for path in paths]
        assert [put.received for put in server.puts()] == [20_000, 0, 20_000]
    assert [reply.status for reply in replies] == [201, 201]


async def test_a_service_that_stops_sending_100_continue_is_asked_no_more(tmp_path: Path) -> None:
    """After so many waits in vain every upload has a new connection, and asks no more."""
    paths = recordings(tmp_path, 20_000, TIMEOUTS_IN_A_ROW + 3)
    async with Server(in_turn(with_continue(), accept)) as server:
        replies = await sent(server, paths, SOON)
        assert sorted(whole(server)) == sorted(path.read_bytes() for path in paths)
        assert [put.all("expect") for put in server.puts()[-2:]] == [[], []]
    assert {reply.status for reply in replies} == {201}


@pytest.mark.parametrize("said", [CONTINUE, b"HTTP/1.1 408 Request Timeout\r\nContent-Length: 0\r\n\r\n"])
async def test_what_comes_unasked_on_an_idle_connection_is_nobodys_answer(tmp_path: Path, said: bytes) -> None:
    """A server that says something between two uploads: it is taken neither for a 100 nor for an answer."""
    answered, has_said = asyncio.Event(), asyncio.Event()

    async def accept_and_say(exchange: Exchange) -> None:
        await accept(exchange)
        await answered.wait()
        await exchange.send(said)
        has_said.set()

    paths = recordings(tmp_path, 20_000, 2)
    async with Server(in_turn(with_continue(accept_and_say), with_continue())) as server:
        async with speaking(server.base_url, expect=LONG) as client:
            first = await send(client, paths[0])
            answered.set()
            await has_said.wait()
            await client.ping("x")  # there and back again: what was on its way has arrived
            second = await send(client, paths[1])
        await server.settled()
        assert whole(server) == [path.read_bytes() for path in paths]
        assert len(set(connections_of_puts(server))) == 2
    assert [first.status, second.status] == [201, 201]


@pytest.mark.parametrize("status", [401, 404, 408, 429, 503])
async def test_a_refusal_to_the_head_is_told(tmp_path: Path, status: int) -> None:
    """On a used connection as on a new one it costs no byte, and nothing follows on that connection.

    408 on a used connection alone is no refusal: it is what some servers say to a connection that was idle.
    """
    paths = recordings(tmp_path, 20_000, 3)
    async with Server(in_turn(with_continue(), always_at_head(status), with_continue())) as server:
        replies = await sent(server, paths)
        assert [put.received for put in server.puts() if not put.whole] == [0]
        first, refused, *others = connections_of_puts(server)
        assert first == refused
        assert refused not in others
    assert [reply.status for reply in replies] == [201, 201 if status == 408 else status, 201]


async def test_408_on_a_new_connection_took_nothing(tmp_path: Path) -> None:
    """It is sent once by itself; that nothing was taken is said, so it may go again later."""
    async with Server(always_at_head(408)) as server:
        replies = await sent(server, recordings(tmp_path, 20_000, 1))
        assert len(server.puts()) == 1
    assert judge(replies[0], "c").outcome is Outcome.NOT_SENT


@pytest.mark.parametrize("end", [hung_up_after_body, reset_after_body])
@pytest.mark.parametrize("size", SIZES)
async def test_a_lost_answer_on_a_used_connection_is_in_doubt(
    tmp_path: Path, end: Callable[[Exchange], Awaitable[None]], size: int
) -> None:
    """Once the body has left the used connection is as any other: sent once, never again, in doubt."""
    paths = recordings(tmp_path, size, 2)
    async with Server(in_turn(with_continue(), with_continue(end))) as server:
        replies = await sent(server, paths)
        assert whole(server) == [path.read_bytes() for path in paths]
        assert len(server.puts()) == 2
        assert len(set(connections_of_puts(server))) == 1
    assert [reply.status for reply in replies] == [201, None]
    assert judge(replies[1], "c").state is State.IN_DOUBT


async def test_a_connection_that_ends_after_100_continue_cuts_the_upload_off(tmp_path: Path) -> None:
    """A 100, and then the end: the body has begun, so that nothing is sent again within this attempt."""
    paths = recordings(tmp_path, 8 * MEBIBYTE, 2)
    async with Server(in_turn(with_continue(), with_continue(reset))) as server:
        replies = await sent(server, paths)
        assert len(server.puts()) == 2
    assert judge(replies[1], "c").outcome is Outcome.CUT_OFF


async def test_after_a_stop_nothing_goes_again(tmp_path: Path) -> None:
    """A stop, then a used connection that ends at the head: no head follows, and the item is pending."""
    admission = RecordingAdmission()

    async def stop_then_end(exchange: Exchange) -> None:
        admission.stopping = True
        exchange.hang_up()

    async with Server(in_turn(with_continue(), stop_then_end)) as server:
        replies = await sent(server, recordings(tmp_path, 20_000, 2), admission=admission)
        assert len(server.puts()) == 2
    assert judge(replies[1], "c").state is State.PENDING


async def test_a_connection_that_is_over_takes_no_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A TLS connection is large, and its cancelled timers stay for a while: what they know of must not be it."""
    unknown = authority(tmp_path)
    monkeypatch.setenv("SSL_CERT_FILE", str(unknown.bundle))
    path = recordings(tmp_path, 20_000, 1)[0]
    gc.collect()
    gc.disable()  # what is freed by itself is what counts
    try:
        async with Server(accept, tls=unknown.tls()) as server:
            await sent(server, [path] * 20, NEVER)
            left = [found for found in gc.get_objects() if isinstance(found, SSLProtocol) and not found._server_side]
            assert len(set(connections_of_puts(server))) == 20
    finally:
        gc.enable()
    assert len(left) < 5


def always_at_head(status: int) -> Script:
    """Answer to the head alone, and read on until the client leaves."""

    async def script(exchange: Exchange) -> None:
        await exchange.answer(status, {"message": "no"})
        await exchange.until_left()

    return script
