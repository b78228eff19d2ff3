"""Time limits: to connect, for a body of which no byte moves, and for the answer."""

import asyncio
import socket
import ssl
from math import ceil
from pathlib import Path

import pytest

from tests.integration.servers import (
    CREDENTIALS,
    MEBIBYTE,
    Exchange,
    RecordingAdmission,
    Server,
    accept,
    audio,
    clean_environment,  # noqa: F401 - a fixture
    free_port,
    head_of,
    issue,
    send,
    send_once,
    speaking,
)
from uploader.client import Credentials
from uploader.client.upload import TICK_SECONDS
from uploader.model import Outcome, State
from uploader.policy.replies import judge

LARGE = 16 * MEBIBYTE
READY = Credentials(access_token="ready")


async def stop_reading(exchange: Exchange) -> None:
    """Take in the head, and nothing of the body until the client has gone."""
    await exchange.server.let_go.wait()


async def never_answer(exchange: Exchange) -> None:
    """Take in the whole body, and say nothing."""
    await exchange.read_body()
    await exchange.until_left()


async def test_a_stalled_body_ends_before_its_last_chunk(tmp_path: Path, tls_context: ssl.SSLContext | None) -> None:
    """A server that stops reading ends the upload, as cut off: its last chunk has not left, and the reply says why."""
    admission = RecordingAdmission()
    async with Server(stop_reading, tls=tls_context) as server:
        async with speaking(server.base_url, stall=0.5) as client:
            reply = await send(client, audio(tmp_path, LARGE), admission)
        server.let_go.set()
        await server.settled()
        assert [put.whole for put in server.puts()] == [False]
    assert (reply.connected, reply.last_chunk_left, reply.status, admission.hashes) == (True, False, None, [])
    assert "no byte moved for 0.5 s" in reply.failure
    assert not reply.withheld
    assert 0 < reply.bytes_sent < LARGE
    assert judge(reply, "c").outcome is Outcome.CUT_OFF


@pytest.mark.parametrize("size", [1, 20_000, MEBIBYTE])
async def test_an_answer_that_does_not_come_is_doubt(tmp_path: Path, size: int) -> None:
    """Without an answer in time the upload ends: everything has left, one PUT, and the reply says so."""
    async with Server(never_answer) as server:
        reply = await send_once(server, audio(tmp_path, size), answer=0.5)
        assert [put.whole for put in server.puts()] == [True]
    assert (reply.connected, reply.last_chunk_left, reply.status, reply.bytes_sent) == (True, True, None, size)
    assert "no answer within 0.5 s" in reply.failure
    assert judge(reply, "c").state is State.IN_DOUBT


async def test_an_answer_that_stops_midway_is_doubt(tmp_path: Path) -> None:
    """An answer whose head came and whose body does not: the wait for it ends as well, and nothing is guessed."""

    async def half_an_answer(exchange: Exchange) -> None:
        await exchange.read_body()
        await exchange.send(head_of(201, {"Content-Length": "100"}) + b'{"jobId":')
        await exchange.until_left()

    async with Server(half_an_answer) as server:
        reply = await send_once(server, audio(tmp_path, 1000), answer=0.5)
    assert (reply.last_chunk_left, reply.answer) == (True, None)
    assert "no answer within 0.5 s" in reply.failure
    assert judge(reply, "c").state is State.IN_DOUBT


async def test_a_slow_upload_that_moves_is_no_stall(tmp_path: Path) -> None:
    """Neither limit counts for an upload that takes longer than both, as long as bytes move."""

    async def read_slowly(exchange: Exchange) -> None:
        # the rest goes at once: what the kernels hold when the last chunk leaves counts as waiting for the answer
        while exchange.request.received < LARGE // 2:
            await exchange.read_body(exchange.request.received + 128 * 1024)
            await asyncio.sleep(0.05)  # what is tested: 64 such pauses are longer than the limits
        await accept(exchange)

    async with Server(read_slowly) as server:
        reply = await send_once(server, audio(tmp_path, LARGE), stall=2.5, answer=2.5)
    assert (reply.status, reply.last_chunk_left, reply.failure) == (201, True, "")


async def test_a_slow_line_that_moves_is_no_stall(tmp_path: Path) -> None:
    """What the kernel has taken still moves while the peer takes it: a slow line may need longer than the limit."""
    size, limit = MEBIBYTE, 1.0

    async def read_slowly(exchange: Exchange) -> None:
        connection: socket.socket = exchange.writer.get_extra_info("socket")
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 16 * 1024)
        for _ in range(64):
            await exchange.read_body(exchange.request.received + size // 64)
            await asyncio.sleep(2.5 * limit / 64)  # what is tested: all these pauses are longer than the limit
        await accept(exchange)

    async with Server(read_slowly) as server:
        reply = await send_once(server, audio(tmp_path, size), stall=limit, answer=60.0)
    assert (reply.status, reply.last_chunk_left, reply.failure) == (201, True, "")


async def test_the_wait_for_the_admission_is_no_stall(tmp_path: Path) -> None:
    """However long the last chunk waits for its admission: that no byte moves then is no stall."""

    async def admit_late() -> str:
        await admission.wait_for_checks(ceil(2 * 0.5 / TICK_SECONDS))
        return ""

    admission = RecordingAdmission(admit_late)
    async with Server() as server:
        reply = await send_once(server, audio(tmp_path, MEBIBYTE), admission, stall=0.5, answer=60.0)
    assert (reply.status, reply.failure) == (201, "")


@pytest.mark.parametrize("size", [1, MEBIBYTE])
@pytest.mark.parametrize("credentials", [CREDENTIALS, READY])
async def test_a_port_where_nobody_listens_is_not_connected(
    tmp_path: Path, credentials: Credentials, size: int
) -> None:
    """A refused connection: nothing was sent, the item may be tried again, and the reply names the cause."""
    admission = RecordingAdmission()
    async with speaking(f"http://127.0.0.1:{free_port()}", credentials) as client:
        reply = await send(client, audio(tmp_path, size), admission)
    assert (reply.connected, reply.last_chunk_left, reply.status, reply.bytes_sent) == (False, False, None, 0)
    assert (admission.hashes, admission.moved_bytes) == ([], 0)
    assert "refused" in reply.failure
    assert judge(reply, "c").outcome is Outcome.NOT_SENT


async def test_a_server_that_vanishes_between_token_and_upload_is_not_connected(tmp_path: Path) -> None:
    """The token came, the server went: the upload was not sent."""
    path = audio(tmp_path, 1000)
    async with Server(token=issue("t")) as server, speaking(server.base_url) as client:
        assert await client.authorise() == ""
        await server.__aexit__(None, None, None)
        reply = await send(client, path)
    assert (reply.connected, reply.last_chunk_left, reply.status) == (False, False, None)


async def test_a_handshake_that_does_not_come_is_not_connected(tmp_path: Path) -> None:
    """The time limit to connect holds for TLS too: a server that takes the connection and says nothing."""

    async def say_nothing(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read()  # the client's part of the handshake, up to its leaving
        await reader.read()
        writer.close()

    server = await asyncio.start_server(say_nothing, "127.0.0.1", 0)
    async with server:
        base_url = f"https://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        async with speaking(base_url, READY, connect=0.5) as client:
            reply = await send(client, audio(tmp_path, 1000))
    assert (reply.connected, reply.last_chunk_left, reply.status) == (False, False, None)
    assert reply.failure
    assert judge(reply, "c").outcome is Outcome.NOT_SENT
