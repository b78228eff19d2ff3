"""The last chunk: it leaves only once admitted, after the whole content is known, and never of a changed file."""

import asyncio
import os
import socket
import ssl
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from aiohttp.connector import Connection
from blake3 import blake3

from tests.integration.servers import (
    MEBIBYTE,
    Exchange,
    RecordingAdmission,
    Server,
    accept,
    audio,
    clean_environment,  # noqa: F401 - a fixture
    send,
    send_once,
    size_of,
    speaking,
)
from tests.integration.servers import asking as ask
from uploader.audio import PIECE_BYTES, open_source
from uploader.client.connection import UploadConnector
from uploader.errors import SourceError
from uploader.model import Outcome, Reply, State
from uploader.policy.replies import judge

SIZES = [
    *(1, 2, 3),
    *(16 * 1024 - 1, 16 * 1024, 16 * 1024 + 1),
    *(128 * 1024 - 1, 128 * 1024, 128 * 1024 + 1),
    *(256 * 1024 - 1, 256 * 1024, 256 * 1024 + 1),
    *(MEBIBYTE + 1, 3 * MEBIBYTE),
]
SMALL, LARGE = 20_000, MEBIBYTE


@pytest.mark.parametrize("size", SIZES)
async def test_the_last_chunk_waits_for_its_admission(
    tmp_path: Path, tls_context: ssl.SSLContext | None, size: int
) -> None:
    """Admission is asked for once, with the hash of the whole content; before it the server lacks some of the body."""
    path = audio(tmp_path, size)
    before_admission: list[int] = []

    async def admit() -> str:
        await server.until(lambda: sum(put.received for put in server.puts()) == admission.moved_bytes)
        await client.ping("x")  # there and back again: what was on its way has arrived
        before_admission.append(sum(put.received for put in server.puts()))
        return ""

    admission = RecordingAdmission(admit)
    async with Server(tls=tls_context) as server, speaking(server.base_url) as client:
        reply = await send(client, path, admission)
        assert [bytes(put.body) for put in server.puts()] == [path.read_bytes()]
    assert admission.hashes == [blake3(path.read_bytes()).hexdigest()]
    assert len(before_admission) == 1
    assert before_admission[0] < size
    assert (reply.status, reply.last_chunk_left, admission.moved_bytes) == (201, True, size)


async def test_what_the_connection_still_holds_is_not_overwritten(
    tmp_path: Path, tls_context: ssl.SSLContext | None
) -> None:
    """A server that reads in fits and starts gets the file as it is, though its chunks share one place in memory."""

    async def read_in_fits(exchange: Exchange) -> None:
        for _ in range(8):
            await admission.wait_for_checks(1)
            await exchange.read_body(exchange.request.received + MEBIBYTE)
        await accept(exchange)

    path, admission = audio(tmp_path, 16 * MEBIBYTE + 70_000), RecordingAdmission()
    async with Server(read_in_fits, tls=tls_context) as server:
        reply = await send_once(server, path, admission)
        assert [blake3(put.body).hexdigest() for put in server.puts()] == admission.hashes
    assert admission.hashes == [blake3(path.read_bytes()).hexdigest()]
    assert reply.status == 201


async def test_admission_is_asked_for_once_the_buffers_are_empty(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tls_context: ssl.SSLContext | None
) -> None:
    """As long as the kernel takes no more of what goes before the last chunk, no admission is asked for."""
    asked_too_early: list[bool] = []
    connect = UploadConnector.connect

    async def connect_narrowly(*arguments: Any, **more: Any) -> Connection:
        connection = await connect(*arguments, **more)
        assert connection.transport is not None
        connection.transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 16 * 1024)
        return connection

    async def read_late(exchange: Exchange) -> None:
        await admission.wait_for_checks(2)
        asked_too_early.append(bool(admission.hashes))
        await accept(exchange)

    monkeypatch.setattr(UploadConnector, "connect", connect_narrowly)
    admission = RecordingAdmission()
    # more than narrow buffers take, and no more than is written at once
    path = audio(tmp_path, PIECE_BYTES)
    async with Server(read_late, tls=tls_context, kernel_bytes=16 * 1024) as server:
        reply = await send_once(server, path, admission)
    assert asked_too_early == [False]
    assert (reply.status, len(admission.hashes)) == (201, 1)


@pytest.mark.parametrize("size", SIZES)
async def test_without_admission_the_last_chunk_is_withheld(tmp_path: Path, size: int) -> None:
    """Without its admission the server never has the whole body: one PUT at most, and the reason in the reply."""

    async def withhold() -> str:
        return "the time is over"

    admission = RecordingAdmission(withhold)
    async with Server() as server:
        reply = await send_once(server, audio(tmp_path, size), admission)
        assert [put.whole for put in server.puts()] in ([], [False])
    assert len(admission.hashes) == 1
    assert (reply.withheld, reply.last_chunk_left, reply.status, reply.source_failure) == (True, False, None, "")
    verdict = judge(reply, "c")
    assert (verdict.outcome, verdict.state) == (Outcome.CUT_OFF, State.PENDING)
    assert "the time is over" in verdict.reason


@pytest.mark.parametrize("size", [1, SMALL, LARGE])
async def test_an_admission_refused_for_the_file_is_the_files_fault(tmp_path: Path, size: int) -> None:
    """A content that is not the planned one: its reason becomes the reply's, and the last chunk stays."""

    class RefusingAdmission(RecordingAdmission):
        def ask(self, content_hash: str) -> "asyncio.Future[str]":
            raise SourceError(f"this is another recording: {content_hash}")

    async with Server() as server:
        reply = await send_once(server, audio(tmp_path, size), RefusingAdmission())
        assert [put.whole for put in server.puts()] in ([], [False])
    assert (reply.last_chunk_left, reply.withheld) == (False, False)
    assert reply.source_failure.startswith("this is another recording")
    assert judge(reply, "c").state is State.REFUSED


def shrink(path: Path) -> None:
    """Cut the file's end off."""
    os.truncate(path, size_of(path) - 1)


def shrink_to_nothing(path: Path) -> None:
    """Empty the file."""
    os.truncate(path, 0)


def grow(path: Path) -> None:
    """Append a byte to the file."""
    with path.open("ab") as file:
        file.write(b"x")


def rewrite(path: Path) -> None:
    """Write other bytes into the file, and leave its size."""
    found = path.stat()
    with path.open("r+b") as file:
        file.write(b"ox")
    os.utime(path, ns=(found.st_atime_ns, found.st_mtime_ns + 1))


CHANGES = [(shrink, "shrank"), (shrink_to_nothing, "shrank"), (grow, "grew"), (rewrite, "changed")]


@pytest.mark.parametrize(("change", "word"), CHANGES)
@pytest.mark.parametrize("size", [2, SMALL, LARGE])
async def test_a_file_that_changes_before_it_is_read_is_not_sent(
    tmp_path: Path, change: Callable[[Path], None], word: str, size: int
) -> None:
    """A file that is another one by the time it is read: refused with that reason, its last chunk never leaves."""
    path = audio(tmp_path, size)
    admission = RecordingAdmission()
    async with Server() as server:
        async with speaking(server.base_url) as client, open_source(path, size) as source:
            change(path)
            reply = await client.upload(ask(), source, admission)
        await server.settled()
        assert [put.whole for put in server.puts()] in ([], [False])
    assert_refused(reply, admission, word)


@pytest.mark.parametrize(("change", "word"), CHANGES)
async def test_a_file_that_changes_while_it_is_sent_is_refused(
    tmp_path: Path, change: Callable[[Path], None], word: str
) -> None:
    """A file that changes once a part of it has left: refused with that reason, its last chunk never leaves."""
    path = audio(tmp_path, LARGE)

    def change_once() -> None:
        admission.on_moved = None
        change(path)

    admission = RecordingAdmission(on_moved=change_once)
    async with Server() as server:
        reply = await send_once(server, path, admission)
        assert [put.whole for put in server.puts()] == [False]
    assert_refused(reply, admission, word)


def assert_refused(reply: Reply, admission: RecordingAdmission, word: str) -> None:
    """Check that the file's change is the reply's reason, and that no admission was asked for."""
    assert word in reply.source_failure
    assert (reply.last_chunk_left, reply.status, admission.hashes) == (False, None, [])
    assert judge(reply, "c").state is State.REFUSED


async def test_a_file_that_is_archived_while_it_is_sent_is_sent(tmp_path: Path) -> None:
    """A file that is renamed, or loses its name, is the same content: it arrives whole."""
    path = audio(tmp_path, LARGE)
    content = path.read_bytes()

    def archive_once() -> None:
        admission.on_moved = None
        path.rename(tmp_path / "archived.wav").unlink()

    admission = RecordingAdmission(on_moved=archive_once)
    async with Server() as server:
        reply = await send_once(server, path, admission)
        assert [bytes(put.body) for put in server.puts()] == [content]
    assert (reply.status, reply.source_failure) == (201, "")


async def test_an_upload_is_cut_on_request(tmp_path: Path) -> None:
    """A stop while the server takes its time: the upload ends before its last chunk, as withheld."""

    async def stop_reading(exchange: Exchange) -> None:
        await exchange.read_body(100_000)
        admission.cut = True
        await exchange.server.let_go.wait()

    admission = RecordingAdmission()
    async with Server(stop_reading) as server:
        async with speaking(server.base_url) as client:
            reply = await send(client, audio(tmp_path, 16 * MEBIBYTE), admission)
            server.let_go.set()
        await server.settled()
        assert [put.whole for put in server.puts()] == [False]
    assert (reply.connected, reply.withheld, reply.last_chunk_left, reply.status) == (True, True, False, None)
    assert judge(reply, "c").state is State.PENDING


async def test_an_upload_is_cut_while_it_waits_for_its_admission(tmp_path: Path) -> None:
    """A stop ends the wait for an admission; an admission that comes later sends nothing."""
    given = asyncio.Event()

    async def wait_for_release() -> str:
        admission.cut = True
        await given.wait()
        return ""

    admission = RecordingAdmission(wait_for_release)
    async with Server() as server:
        async with speaking(server.base_url) as client:
            reply = await send(client, audio(tmp_path, LARGE), admission)
            given.set()
        await server.settled()
        assert [put.whole for put in server.puts()] == [False]
    assert (reply.withheld, reply.last_chunk_left) == (True, False)


async def test_after_the_last_chunk_a_stop_waits_for_the_answer(tmp_path: Path) -> None:
    """What has left cannot be cut: the answer to it is waited for, and is the reply."""

    async def answer_late(exchange: Exchange) -> None:
        await exchange.read_body()
        admission.cut = True
        await admission.wait_for_checks()
        await accept(exchange)

    admission = RecordingAdmission()
    async with Server(answer_late) as server:
        reply = await send_once(server, audio(tmp_path, LARGE), admission)
    assert (reply.status, reply.withheld, reply.last_chunk_left) == (201, False, True)


async def test_no_answer_is_waited_for_at_the_very_end(tmp_path: Path) -> None:
    """When the grace time is over the wait for an answer ends: in doubt, and the reply says why."""

    async def never_answer(exchange: Exchange) -> None:
        await exchange.read_body()
        admission.not_wait = True
        await exchange.until_left()

    admission = RecordingAdmission()
    async with Server(never_answer) as server:
        reply = await send_once(server, audio(tmp_path, LARGE), admission)
        assert [put.whole for put in server.puts()] == [True]
    assert (reply.status, reply.withheld, reply.last_chunk_left) == (None, False, True)
    assert "stopped" in reply.failure
    assert judge(reply, "c").state is State.IN_DOUBT
