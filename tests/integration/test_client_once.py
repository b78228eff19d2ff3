"""The client never sends a PUT twice, and tells what it knows: whatever the server does, one head arrives."""

import asyncio
import gzip
import json
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from tests.integration.servers import (
    DONE,
    MEBIBYTE,
    Exchange,
    RecordingAdmission,
    Script,
    Server,
    accept,
    audio,
    clean_environment,  # noqa: F401 - a fixture
    head_of,
    hung_up_after_body,
    in_turn,
    reset_after_body,
    send,
    send_once,
    speaking,
)
from uploader.client import Credentials
from uploader.client.connection import ConnectionEndedError, under_way
from uploader.client.upload import TAIL_BYTES, Upload
from uploader.model import Outcome, State
from uploader.policy.replies import judge

SIZES = [1, 1000, 300 * 1024, 3 * MEBIBYTE]
# more than the kernels of both sides hold: what the server did not read, the client knows not to have left
BIG = 32 * MEBIBYTE
TRIES = 10


def said_then_ended(raw: bytes, end: Callable[[Exchange], None]) -> Script:
    """Read the body, say something, end the connection."""

    async def script(exchange: Exchange) -> None:
        await exchange.read_body()
        await exchange.send(raw)
        end(exchange)

    return script


def ended_after(most: int, end: Callable[[Exchange], None]) -> Script:
    """Read so many bytes of the body, then end the connection without an answer."""

    async def script(exchange: Exchange) -> None:
        await exchange.read_body(most)
        end(exchange)

    return script


def answered_after(most: int, status: int, then: Callable[[Exchange], Awaitable[None]]) -> Script:
    """Read so many bytes of the body, then answer, then do something else."""

    async def script(exchange: Exchange) -> None:
        await exchange.read_body(most)
        await exchange.answer(status, {"message": "early"}, Retry_After="7")
        await then(exchange)

    return script


async def hang_up(exchange: Exchange) -> None:
    """Close the connection with whatever has not been read."""
    exchange.hang_up()


async def read_nothing_more(exchange: Exchange) -> None:
    """Keep the connection open, and read nothing until the client has left it."""
    await exchange.server.let_go.wait()


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("script", [hung_up_after_body, reset_after_body])
async def test_a_body_without_an_answer_is_sent_once(tmp_path: Path, script: Script, size: int) -> None:
    """A server that takes the whole file and ends the connection gets one PUT, and the answer counts as lost."""
    path = audio(tmp_path, size)
    async with Server(script) as server:
        reply = await send_once(server, path)
        assert [bytes(put.body) for put in server.puts()] == [path.read_bytes()]
    assert (reply.connected, reply.last_chunk_left, reply.status) == (True, True, None)
    assert (reply.withheld, reply.source_failure, reply.bytes_sent) == (False, "", size)
    assert reply.failure
    assert judge(reply, "c").state is State.IN_DOUBT


@pytest.mark.parametrize("raw", [b"H", b"HTTP/1.1 201 Created\r\nContent-"])
@pytest.mark.parametrize("end", [Exchange.hang_up, Exchange.reset])
async def test_a_head_that_breaks_off_is_no_answer(tmp_path: Path, raw: bytes, end: Callable[[Exchange], None]) -> None:
    """A connection that ends within the answer's head leaves one PUT and no status."""
    async with Server(said_then_ended(raw, end)) as server:
        reply = await send_once(server, audio(tmp_path, 5000))
        assert len(server.puts()) == 1
    assert (reply.connected, reply.last_chunk_left, reply.status, reply.answer) == (True, True, None, None)
    assert judge(reply, "c").state is State.IN_DOUBT


WHOLE = json.dumps(DONE).encode()
BROKEN_BODIES = {
    "cut": head_of(201, {"Content-Length": str(len(WHOLE))}) + WHOLE[:-1],
    "empty": head_of(201, {"Content-Length": str(len(WHOLE))}),
    "truncated JSON": head_of(201, {"Content-Length": str(len(WHOLE) - 1)}) + WHOLE[:-1],
    "nothing": head_of(201, {"Content-Length": "0"}),
    "a list": head_of(201, {"Content-Length": "2"}) + b"[]",
    "not UTF-8": head_of(201, {"Content-Length": "11"}) + b'{"jobId":\xff}',
    "deep": head_of(201, {"Content-Length": "200000"}) + b"[" * 200_000,
    "chunks cut": head_of(201, {"Transfer-Encoding": "chunked"}) + b'5\r\n{"job',
    "chunks broken": head_of(201, {"Transfer-Encoding": "chunked"}) + b"zz\r\n" + WHOLE,
    "no gzip": head_of(201, {"Content-Encoding": "gzip", "Content-Length": str(len(WHOLE))}) + WHOLE,
    "gzip cut": head_of(201, {"Content-Encoding": "gzip", "Content-Length": "20"}) + gzip.compress(WHOLE)[:20],
    "unknown coding": head_of(201, {"Content-Encoding": "br", "Content-Length": str(len(WHOLE))}) + WHOLE,
}


@pytest.mark.parametrize("name", BROKEN_BODIES)
async def test_an_answer_that_cannot_be_read_is_in_doubt(tmp_path: Path, name: str) -> None:
    """Whatever stands in place of the documented JSON object: one PUT, no exception, and doubt."""
    async with Server(said_then_ended(BROKEN_BODIES[name], Exchange.hang_up)) as server:
        reply = await send_once(server, audio(tmp_path, 5000))
        assert len(server.puts()) == 1
    assert (reply.connected, reply.last_chunk_left, reply.answer) == (True, True, None)
    assert reply.status in (201, None)
    assert reply.failure
    assert judge(reply, "c").state is State.IN_DOUBT


async def test_an_answer_without_end_is_not_read_for_ever(tmp_path: Path) -> None:
    """A server that never stops answering is left at some point: the answer is none, and in doubt."""

    async def never_stop(exchange: Exchange) -> None:
        await exchange.read_body()
        await exchange.send(head_of(201, {"Connection": "close"}))
        while True:
            await exchange.send(b"1" * MEBIBYTE)

    async with Server(never_stop) as server:
        reply = await send_once(server, audio(tmp_path, 5000))
        assert len(server.puts()) == 1
    assert (reply.last_chunk_left, reply.status, reply.answer) == (True, 201, None)
    assert judge(reply, "c").state is State.IN_DOUBT


ODD_HEADS = {
    "no HTTP": b"hello\r\n\r\n",
    "old HTTP": b"<html></html>",
    "no status": b"HTTP/1.1 abc Created\r\n\r\n",
    "long status": b"HTTP/1.1 2010 Created\r\nContent-Length: 0\r\n\r\n",
    "two lengths": b"HTTP/1.1 201 Created\r\nContent-Length: 2\r\nContent-Length: 3\r\n\r\n{}",
    "negative length": b"HTTP/1.1 201 Created\r\nContent-Length: -1\r\n\r\n",
    "long field": b"HTTP/1.1 201 Created\r\nX: " + b"x" * 100_000 + b"\r\n\r\n",
    "interim only": b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\n\r\n",
    "switching": b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\nConnection: upgrade\r\n\r\n",
    "HTTP/2": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
}


@pytest.mark.parametrize("name", ODD_HEADS)
async def test_what_is_no_answer_at_all_is_in_doubt(tmp_path: Path, name: str) -> None:
    """Bytes that are no HTTP answer raise nothing: one PUT, no success, and doubt."""
    async with Server(said_then_ended(ODD_HEADS[name], Exchange.hang_up)) as server:
        reply = await send_once(server, audio(tmp_path, 5000))
        assert len(server.puts()) == 1
    assert (reply.connected, reply.last_chunk_left, reply.answer) == (True, True, None)
    assert judge(reply, "c").state is State.IN_DOUBT


async def test_interim_answers_come_before_the_answer(tmp_path: Path) -> None:
    """A 100 and a 103 are not the answer: the 201 after them is."""
    interim = b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\n"
    whole = interim + head_of(201, {"Content-Length": str(len(WHOLE))}) + WHOLE
    async with Server(said_then_ended(whole, Exchange.hang_up)) as server:
        reply = await send_once(server, audio(tmp_path, 5000))
    assert (reply.status, reply.answer, reply.failure) == (201, DONE, "")


@pytest.mark.parametrize(
    "body",
    [
        head_of(201, {"Content-Type": "text/plain", "Content-Length": str(len(WHOLE))}) + WHOLE,
        head_of(200, {"Connection": "close"}) + WHOLE,
        head_of(201, {"Transfer-Encoding": "chunked"}) + b"%x\r\n%s\r\n0\r\n\r\n" % (len(WHOLE), WHOLE),
        head_of(201, {"Content-Encoding": "gzip", "Content-Length": str(len(gzip.compress(WHOLE)))})
        + gzip.compress(WHOLE),
        head_of(201, {"Content-Length": str(len(WHOLE) + 3)}) + b"\xef\xbb\xbf" + WHOLE,
    ],
)
async def test_an_answer_is_read_however_it_is_wrapped(tmp_path: Path, body: bytes) -> None:
    """Media type, end by closing, chunks, compression, a byte order mark: the JSON object counts."""
    async with Server(said_then_ended(body, Exchange.hang_up)) as server:
        reply = await send_once(server, audio(tmp_path, 5000))
    assert (reply.answer, reply.failure, reply.last_chunk_left) == (DONE, "", True)
    assert judge(reply, "c").outcome is Outcome.APPLIED


@pytest.mark.parametrize("most", [0, MEBIBYTE, 4 * MEBIBYTE])
@pytest.mark.parametrize("end", [Exchange.hang_up, Exchange.reset])
async def test_a_server_that_closes_within_the_body_cuts_it_off(
    tmp_path: Path, most: int, end: Callable[[Exchange], None]
) -> None:
    """A connection that ends before the last chunk left: one PUT, and the item can be sent again."""
    admission = RecordingAdmission()
    async with Server(ended_after(most, end)) as server:
        reply = await send_once(server, audio(tmp_path, BIG), admission)
        assert len(server.puts()) == 1
        assert server.puts()[0].received < BIG
    assert (reply.connected, reply.last_chunk_left, reply.status) == (True, False, None)
    assert (reply.withheld, reply.source_failure) == (False, "")
    assert reply.failure
    assert reply.bytes_sent < BIG
    assert judge(reply, "c").outcome is Outcome.CUT_OFF


@pytest.mark.parametrize("status", [401, 429, 500])
async def test_an_early_answer_is_told_or_the_upload_is_cut_off(tmp_path: Path, status: int) -> None:
    """A server that answers without reading and closes: its answer or a cut-off, one PUT each, never doubt."""
    path = audio(tmp_path, BIG)
    async with Server(answered_after(0, status, hang_up)) as server:
        replies = [await send_once(server, path) for _ in range(TRIES)]
        assert len(server.puts()) == TRIES
    for reply in replies:
        assert (reply.connected, reply.last_chunk_left) == (True, False)
        assert (reply.status, reply.retry_after) in [(status, "7"), (None, None)]
        assert judge(reply, "c").state is State.PENDING


@pytest.mark.parametrize("status", [401, 404, 429, 500, 503])
async def test_an_early_answer_on_an_open_connection_is_told(tmp_path: Path, status: int) -> None:
    """An answer while the body is still going out is read, and ends the upload before its last chunk."""
    async with Server(answered_after(100_000, status, read_nothing_more)) as server:
        async with speaking(server.base_url) as client:
            reply = await send(client, audio(tmp_path, BIG))
            server.let_go.set()
        await server.settled()
        assert len(server.puts()) == 1
    assert (reply.connected, reply.last_chunk_left, reply.status) == (True, False, status)
    assert (reply.retry_after, reply.message, reply.failure) == ("7", "early", "")


@pytest.mark.parametrize("status", [429, 500])
@pytest.mark.parametrize("size", [20_000, 300 * 1024, BIG])
async def test_the_last_chunk_never_follows_an_early_answer(tmp_path: Path, status: int, size: int) -> None:
    """What is told as cut off stays cut off: a server that answers early and reads on never gets the whole."""

    async def answer_and_read_on(exchange: Exchange) -> None:
        await exchange.read_body(100)
        await exchange.answer(status, {"message": "early"})
        await exchange.until_left()

    async with Server(answer_and_read_on) as server:
        reply = await send_once(server, audio(tmp_path, size))
        assert [put.whole for put in server.puts()] == [reply.last_chunk_left]
    assert reply.status == status
    assert not (size == BIG and reply.last_chunk_left)


async def test_an_answer_before_the_admission_ends_the_wait(tmp_path: Path) -> None:
    """A refusal during the wait for the admission is the reply at once; a later admission sends nothing."""
    path = audio(tmp_path, 300 * 1024)
    given, asked = asyncio.Event(), asyncio.Event()
    admission = RecordingAdmission()

    async def wait_for_release() -> str:
        asked.set()
        await given.wait()
        return ""

    async def early(exchange: Exchange) -> None:
        await exchange.read_body(exchange.request.length - TAIL_BYTES)
        await asked.wait()
        await exchange.answer(500)
        await exchange.until_left()

    admission.on_admission = wait_for_release
    async with Server(early) as server:
        async with speaking(server.base_url) as client:
            reply = await send(client, path, admission)
            given.set()
        await server.settled()
        assert [put.whole for put in server.puts()] == [False]
    assert (reply.status, reply.last_chunk_left) == (500, False)


@pytest.mark.parametrize("end", [Exchange.hang_up, Exchange.reset])
async def test_a_connection_that_ends_before_the_admission_is_cut_off(
    tmp_path: Path, end: Callable[[Exchange], None]
) -> None:
    """A connection that ends during the wait for the admission: nothing was appended, and nothing follows."""
    path = audio(tmp_path, 300 * 1024)
    given = asyncio.Event()
    admission = RecordingAdmission()

    async def wait_for_release() -> str:
        await server.tell()
        await given.wait()
        return ""

    async def end_before_admission(exchange: Exchange) -> None:
        await exchange.server.until(lambda: bool(admission.hashes))
        await exchange.read_body(admission.moved_bytes)
        end(exchange)

    admission.on_admission = wait_for_release
    async with Server(end_before_admission) as server:
        async with speaking(server.base_url) as client:
            reply = await send(client, path, admission)
            given.set()
        await server.settled()
        assert [put.whole for put in server.puts()] == [False]
    assert (reply.connected, reply.last_chunk_left, reply.status) == (True, False, None)
    assert judge(reply, "c").outcome is Outcome.CUT_OFF


@pytest.mark.parametrize("script", [hung_up_after_body, reset_after_body, ended_after(0, Exchange.reset)])
@pytest.mark.parametrize("body", [b"x" * 1000, b"x" * 500_000])
async def test_the_session_itself_sends_nothing_again(script: Script, body: bytes) -> None:
    """Not even a body that aiohttp could send twice is sent twice: the guard is the session's, not the body's."""
    async with Server(script) as server:
        async with speaking(server.base_url) as client:
            with pytest.raises(ConnectionEndedError):
                await client._upload_client._fresh.put(f"{server.base_url}/v1/process/audio/c", data=body)
        await server.settled()
        assert len(server.puts()) == server.connections == 1


async def test_a_server_that_closes_at_once_is_cut_off(tmp_path: Path) -> None:
    """A connection that ends before the head is taken: connected, nothing appended, and no second connection."""
    taken = 0

    async def close_at_once(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal taken
        taken += 1
        writer.transport.abort()

    listener = await asyncio.start_server(close_at_once, "127.0.0.1", 0)
    async with listener:
        base_url = f"http://127.0.0.1:{listener.sockets[0].getsockname()[1]}"
        async with speaking(base_url, Credentials(access_token="ready")) as client:
            reply = await send(client, audio(tmp_path, BIG))
        reader, writer = await asyncio.open_connection("127.0.0.1", listener.sockets[0].getsockname()[1])
        assert await reader.read() == b""  # whatever came before our own connection has been taken by now
        writer.close()
    assert taken == 2
    assert (reply.connected, reply.last_chunk_left, reply.status) == (True, False, None)
    assert judge(reply, "c").state is State.PENDING


async def test_an_admission_on_a_closed_connection_sends_nothing(tmp_path: Path) -> None:
    """An admission in the moment in which the connection ends: the last chunk has not left."""

    async def admit_at_the_end() -> str:
        upload = under_way.get()
        assert isinstance(upload, Upload)
        exchange_over.set()
        while not upload._transport.is_closing():  # noqa: ASYNC110 - the moment itself is what is tested
            await asyncio.sleep(0)
        return ""

    async def reset_before_admission(exchange: Exchange) -> None:
        await exchange_over.wait()
        exchange.reset()

    exchange_over = asyncio.Event()
    async with Server(reset_before_admission) as server:
        reply = await send_once(server, audio(tmp_path, 100_000), RecordingAdmission(admit_at_the_end))
        assert len(server.puts()) == 1
    assert (reply.connected, reply.last_chunk_left, reply.status) == (True, False, None)
    assert judge(reply, "c").outcome is Outcome.CUT_OFF


async def test_uploads_at_once_are_each_sent_once(tmp_path: Path) -> None:
    """Eight uploads at once whose answers are all lost: eight PUTs, each file one time."""
    paths = [audio(tmp_path, 200_000 + n, name=f"{n}.wav", seed=n) for n in range(8)]
    async with Server(hung_up_after_body) as server:
        async with speaking(server.base_url) as client:
            replies = await asyncio.gather(*(send(client, path) for path in paths))
        await server.settled()
        assert sorted(bytes(put.body) for put in server.puts()) == sorted(path.read_bytes() for path in paths)
    assert {(reply.last_chunk_left, reply.status) for reply in replies} == {(True, None)}


async def test_a_connection_that_was_closed_in_silence_costs_nothing(tmp_path: Path) -> None:
    """A server that answers, and ends the connection as soon as more comes on it: each upload has its own."""

    async def accept_and_end(exchange: Exchange) -> None:
        await accept(exchange)
        await exchange.reader.read(1)
        exchange.reset()

    path = audio(tmp_path, 1000)
    async with Server(accept_and_end) as server:
        async with speaking(server.base_url) as client:
            replies = [await send(client, path) for _ in range(5)]
        await server.settled()
        assert len(server.puts()) == 5
    assert [reply.status for reply in replies] == [201] * 5


async def test_after_a_lost_answer_the_client_goes_on(tmp_path: Path) -> None:
    """What became of one upload has no effect on the next one."""
    path = audio(tmp_path, 300_000)
    async with Server(in_turn(hung_up_after_body, reset_after_body, accept)) as server:
        async with speaking(server.base_url) as client:
            replies = [await send(client, path) for _ in range(3)]
        await server.settled()
        assert [put.whole for put in server.puts()] == [True] * 3
    assert [reply.status for reply in replies] == [None, None, 201]
