"""``Expect: 100-continue`` for long bodies: it saves bodies, and no server's behaviour makes it do harm."""

import asyncio
from collections.abc import Awaitable, Callable
from math import ceil
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
    always,
    audio,
    authority,
    clean_environment,  # noqa: F401 - a fixture
    head_of,
    hung_up_after_body,
    in_turn,
    reset_after_body,
    send,
    speaking,
)
from uploader.client import Expect
from uploader.client.upload import TICK_SECONDS
from uploader.model import Next, Outcome, Reply, State
from uploader.policy.replies import judge

SIZE = 3 * MEBIBYTE
CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"
SOON = Expect(above_bytes=1000, seconds=0.1, keeps_connections=False)
# a test that waits this long fails
LONG = Expect(above_bytes=1000, seconds=3600.0, keeps_connections=False)


def at_head(*said: bytes, then: Script = accept) -> Script:
    """Say something to the head alone, then do something else."""

    async def script(exchange: Exchange) -> None:
        for raw in said:
            await exchange.send(raw)
        await then(exchange)

    return script


def within_body(raw: bytes, then: Script = accept) -> Script:
    """Say nothing until the body comes, something then, and go on."""

    async def script(exchange: Exchange) -> None:
        await exchange.read_body(1)
        await exchange.send(raw)
        await then(exchange)

    return script


def refused(status: int, then: Script) -> Script:
    """Answer to the head alone, then do something else."""

    async def script(exchange: Exchange) -> None:
        await exchange.answer(status, {"message": "no"}, Retry_After="7")
        await then(exchange)

    return script


def if_expected(script: Script, then: Script = accept) -> Script:
    """Play one script to heads with Expect, another one to the others."""

    async def either(exchange: Exchange) -> None:
        await (script if expects_continue(exchange) else then)(exchange)

    return either


def expects_continue(exchange: Exchange) -> bool:
    """Tell whether a head has ``Expect: 100-continue``."""
    return exchange.request.all("expect") == ["100-continue"]


async def until_left(exchange: Exchange) -> None:
    """Keep the connection open and count what still comes."""
    await exchange.until_left()


async def hang_up(exchange: Exchange) -> None:
    """Close the connection."""
    exchange.hang_up()


async def reset(exchange: Exchange) -> None:
    """Reset the connection."""
    exchange.reset()


async def nothing(exchange: Exchange) -> None:
    """Read nothing until the test is over."""
    await exchange.server.let_go.wait()


async def sent(
    server: Server, path: Path, times: int, expect: Expect, admission: RecordingAdmission | None = None
) -> list[Reply]:
    """Upload a file so many times, one after the other, by one client; then see every connection to its end."""
    async with speaking(server.base_url, stall=5.0, expect=expect) as client:
        replies = [await send(client, path, admission) for _ in range(times)]
    server.let_go.set()
    await server.settled()
    return replies


def expected(server: Server) -> list[bool]:
    """Tell for each PUT whether its head had ``Expect: 100-continue``."""
    return [put.all("expect") == ["100-continue"] for put in server.puts()]


@pytest.mark.parametrize("tls", [False, True])
@pytest.mark.parametrize("said", [[CONTINUE], [CONTINUE, CONTINUE], [head_of(103, {"Link": "</a>"}), CONTINUE]])
async def test_100_continue_is_used(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, said: list[bytes], tls: bool
) -> None:
    """A server that sends 100 Continue, once or twice, gets one PUT with the whole body, and Expect every time."""
    unknown = authority(tmp_path)
    monkeypatch.setenv("SSL_CERT_FILE", str(unknown.bundle))
    path = audio(tmp_path, SIZE)
    async with Server(at_head(*said), tls=unknown.tls() if tls else None) as server:
        replies = await sent(server, path, 3, LONG)
        assert [bytes(put.body) for put in server.puts()] == [path.read_bytes()] * 3
        assert expected(server) == [True] * 3
        assert server.connections == 3 + len(server.token_requests())
    assert [(reply.status, reply.last_chunk_left, reply.bytes_sent) for reply in replies] == [(201, True, SIZE)] * 3


@pytest.mark.parametrize(("size", "is_expected"), [(1, False), (1000, False), (1001, True)])
async def test_only_longer_bodies_expect_100_continue(tmp_path: Path, size: int, is_expected: bool) -> None:
    """A body of exactly this size goes out at once; one byte more waits for 100 Continue."""
    async with Server(if_expected(at_head(CONTINUE))) as server:
        replies = await sent(server, audio(tmp_path, size), 1, LONG)
        assert expected(server) == [is_expected]
        assert [put.whole for put in server.puts()] == [True]
    assert [reply.status for reply in replies] == [201]


@pytest.mark.parametrize("then", [until_left, hang_up, reset])
@pytest.mark.parametrize("status", [307, 400, 401, 404, 429, 500, 503])
async def test_a_refusal_to_the_head_costs_no_byte(tmp_path: Path, status: int, then: Script) -> None:
    """An answer to the head alone, whatever becomes of the connection: one PUT, and no byte of the body.

    A connection that is reset may lose the answer: then the upload counts as cut off.
    """
    admission = RecordingAdmission()
    async with Server(refused(status, then)) as server:
        replies = await sent(server, audio(tmp_path, SIZE), 3, LONG, admission)
        assert [put.received for put in server.puts()] == [0] * 3
        assert expected(server) == [True] * 3
    for reply in replies:
        assert (reply.connected, reply.last_chunk_left, reply.bytes_sent, reply.withheld) == (True, False, 0, False)
        assert (reply.status, reply.retry_after) in [(status, "7"), *([(None, None)] if then is reset else [])]
    assert (admission.moved_bytes, admission.hashes) == (0, [])


async def test_nothing_leaves_while_an_answer_is_read(tmp_path: Path) -> None:
    """Once the answer's head is there no body follows it, however long the rest of the answer takes."""
    whole = b'{"message": "no"}'

    async def answer_slowly(exchange: Exchange) -> None:
        await exchange.send(head_of(429, {"Content-Length": str(len(whole))}))
        await admission.wait_for_checks(ceil(3 * SOON.seconds / TICK_SECONDS) + 2)
        await exchange.send(whole)
        await exchange.until_left()

    admission = RecordingAdmission()
    async with Server(answer_slowly) as server:
        replies = await sent(server, audio(tmp_path, SIZE), 1, SOON, admission)
        assert [put.received for put in server.puts()] == [0]
    assert [(reply.status, reply.message, reply.bytes_sent) for reply in replies] == [(429, "no", 0)]


async def test_without_100_continue_the_same_request_goes_on(tmp_path: Path) -> None:
    """A server that sends no 100 gets the body after the timeout, in the same PUT, and no Expect again."""
    path = audio(tmp_path, SIZE)
    async with Server(accept) as server:
        replies = await sent(server, path, 3, SOON)
        assert [bytes(put.body) for put in server.puts()] == [path.read_bytes()] * 3
        assert expected(server) == [True, False, False]
        assert server.connections == 3 + len(server.token_requests())
    assert [(reply.status, reply.last_chunk_left, reply.bytes_sent) for reply in replies] == [(201, True, SIZE)] * 3


@pytest.mark.parametrize("said", [CONTINUE, CONTINUE + CONTINUE])
async def test_a_late_100_continue_changes_nothing(tmp_path: Path, said: bytes) -> None:
    """A 100 that comes when the body is on its way is no answer: one PUT, whole, and its own answer counts."""
    path = audio(tmp_path, SIZE)
    async with Server(if_expected(within_body(said))) as server:
        replies = await sent(server, path, 2, SOON)
        assert [bytes(put.body) for put in server.puts()] == [path.read_bytes()] * 2
        assert expected(server) == [True, False]
    assert [(reply.status, reply.answer) for reply in replies] == [(201, DONE)] * 2


@pytest.mark.parametrize("then", [hang_up, reset])
@pytest.mark.parametrize("said", [[], [CONTINUE]])
async def test_a_server_that_leaves_cuts_the_upload_off(tmp_path: Path, said: list[bytes], then: Script) -> None:
    """A connection that ends in place of a 100, or right after it: one PUT, cut off, never in doubt."""
    async with Server(at_head(*said, then=then)) as server:
        replies = await sent(server, audio(tmp_path, SIZE), 1, LONG)
        assert len(server.puts()) == server.connections - len(server.token_requests()) == 1
        assert said or server.puts()[0].received == 0
    for reply in replies:
        assert (reply.connected, reply.last_chunk_left, reply.status, reply.withheld) == (True, False, None, False)
        assert reply.failure
        assert said or reply.bytes_sent == 0
        assert judge(reply, "c").outcome is Outcome.CUT_OFF


@pytest.mark.parametrize("end", [hung_up_after_body, reset_after_body])
@pytest.mark.parametrize("said", [[], [CONTINUE]])
async def test_a_lost_answer_stays_in_doubt(
    tmp_path: Path, said: list[bytes], end: Callable[[Exchange], Awaitable[None]]
) -> None:
    """With a 100 or without: a body that was taken and not answered was sent once, and is in doubt."""
    path = audio(tmp_path, SIZE)
    async with Server(at_head(*said, then=end)) as server:
        replies = await sent(server, path, 1, LONG if said else SOON)
        assert [bytes(put.body) for put in server.puts()] == [path.read_bytes()]
    assert [(reply.last_chunk_left, reply.status, reply.bytes_sent) for reply in replies] == [(True, None, SIZE)]
    assert judge(replies[0], "c").state is State.IN_DOUBT


@pytest.mark.parametrize("then", [until_left, hang_up])
async def test_a_server_that_takes_no_expect_gets_the_file_without(tmp_path: Path, then: Script) -> None:
    """417 to the head alone: no byte was sent, the head comes once more without Expect, and no other has it again."""
    path, admission = audio(tmp_path, SIZE), RecordingAdmission()
    async with Server(if_expected(refused(417, then))) as server:
        replies = await sent(server, path, 2, LONG, admission)
        assert [put.received for put in server.puts()] == [0, SIZE, SIZE]
        assert expected(server) == [True, False, False]
    assert [(reply.status, reply.last_chunk_left, reply.bytes_sent) for reply in replies] == [(201, True, SIZE)] * 2
    assert (admission.moved_bytes, len(admission.hashes)) == (2 * SIZE, 2)


async def test_417_to_a_head_without_expect_is_a_refusal(tmp_path: Path) -> None:
    """A server that answers 417 whatever it is sent: two heads, and then the item is refused."""
    async with Server(refused(417, until_left)) as server:
        replies = await sent(server, audio(tmp_path, SIZE), 1, LONG)
        assert expected(server) == [True, False]
    assert judge(replies[0], "c").outcome is Outcome.REFUSED


async def test_417_behind_the_whole_body_is_a_refusal(tmp_path: Path) -> None:
    """Once the last chunk has left, 417 is what every other 4xx is: refused, and never sent again by itself."""
    async with Server(always(417)) as server:
        replies = await sent(server, audio(tmp_path, SIZE), 1, SOON)
        assert [put.received for put in server.puts()] == [SIZE]
    assert (replies[0].status, replies[0].last_chunk_left) == (417, True)
    assert judge(replies[0], "c").outcome is Outcome.REFUSED


@pytest.mark.parametrize("first", [at_head(CONTINUE), refused(429, until_left)])
async def test_one_timeout_after_a_100_continue_is_forgiven(tmp_path: Path, first: Script) -> None:
    """A service that has sent 100 Continue is asked again after a timeout."""
    async with Server(in_turn(first, accept, accept, at_head(CONTINUE), accept, accept, accept)) as server:
        replies = await sent(server, audio(tmp_path, SIZE), 8, SOON)
        assert expected(server) == [True] * 7 + [False]
    assert [reply.status for reply in replies[1:]] == [201] * 7


async def test_417_within_the_body_cuts_the_upload_off(tmp_path: Path) -> None:
    """417 that comes when the body is on its way: no second PUT in this attempt, the next one has no Expect."""

    async def refuse(exchange: Exchange) -> None:
        await exchange.read_body(1)
        await refused(417, nothing)(exchange)

    async with Server(if_expected(refuse)) as server:
        replies = await sent(server, audio(tmp_path, 16 * MEBIBYTE), 2, SOON)
        assert expected(server) == [True, False]
        assert [put.whole for put in server.puts()] == [False, True]
    assert (replies[0].connected, replies[0].last_chunk_left, replies[0].status) == (True, False, None)
    assert "417" in replies[0].failure
    assert judge(replies[0], "c").next is Next.AGAIN
    assert replies[1].status == 201


@pytest.mark.parametrize("what", ["stopping", "cut"])
async def test_a_stop_ends_the_wait(tmp_path: Path, what: str) -> None:
    """A stop ends the wait for 100 Continue: nothing of the body has left, nor will, and the item is pending again."""
    path, admission = audio(tmp_path, SIZE), RecordingAdmission()
    async with Server(until_left) as server:
        async with speaking(server.base_url, expect=LONG) as client:
            upload = asyncio.create_task(send(client, path, admission))
            await server.until(lambda: len(server.puts()) == 1)
            setattr(admission, what, True)
            reply = await upload
        await server.settled()
        assert [put.received for put in server.puts()] == [0]
    assert (reply.connected, reply.last_chunk_left, reply.bytes_sent, reply.withheld) == (True, False, 0, True)
    assert judge(reply, "c").state is State.PENDING


async def test_a_stop_lets_a_body_that_has_begun_go_on(tmp_path: Path) -> None:
    """A stop that ends waits for 100 Continue does not end an upload that has it: that one has its time of grace."""

    async def begin_then_stop(exchange: Exchange) -> None:
        await exchange.send(CONTINUE)
        await exchange.read_body(1)
        admission.stopping = True
        await admission.wait_for_checks()
        await accept(exchange)

    admission = RecordingAdmission()
    async with Server(begin_then_stop) as server:
        replies = await sent(server, audio(tmp_path, SIZE), 1, LONG, admission)
    assert [(reply.status, reply.withheld) for reply in replies] == [(201, False)]


async def test_after_a_stop_no_head_follows_a_417(tmp_path: Path) -> None:
    """Nothing new starts after a stop: the head that was refused is not sent again."""

    async def stop_then_refuse(exchange: Exchange) -> None:
        admission.stopping = True
        await refused(417, until_left)(exchange)

    admission = RecordingAdmission()
    async with Server(stop_then_refuse) as server:
        replies = await sent(server, audio(tmp_path, SIZE), 1, LONG, admission)
        assert len(server.puts()) == 1
    assert [(reply.withheld, reply.last_chunk_left, reply.bytes_sent) for reply in replies] == [(True, False, 0)]


async def test_the_wait_for_100_continue_is_no_stall(tmp_path: Path) -> None:
    """The watch over the body's progress begins with the body: it does not end a longer wait for 100 Continue."""

    async def continue_late(exchange: Exchange) -> None:
        await admission.wait_for_checks(ceil(2 * 0.5 / TICK_SECONDS))
        await exchange.send(CONTINUE)
        await accept(exchange)

    admission = RecordingAdmission()
    async with Server(continue_late) as server, speaking(server.base_url, stall=0.5, expect=LONG) as client:
        reply = await send(client, audio(tmp_path, SIZE), admission)
    assert (reply.status, reply.failure) == (201, "")


async def test_a_body_that_stalls_after_the_wait_ends(tmp_path: Path) -> None:
    """A body that went out after a timeout of the wait is watched."""
    async with Server(nothing) as server:
        async with speaking(server.base_url, stall=0.5, expect=SOON) as client:
            reply = await send(client, audio(tmp_path, 16 * MEBIBYTE))
        server.let_go.set()
        await server.settled()
        assert len(server.puts()) == 1
    assert (reply.connected, reply.last_chunk_left, reply.status) == (True, False, None)
    assert "no byte moved for 0.5 s" in reply.failure


async def test_uploads_at_once_each_send_their_body_once(tmp_path: Path) -> None:
    """Eight uploads whose waits time out at once: each file goes out in one PUT."""
    paths = [audio(tmp_path, 200_000 + n, name=f"{n}.wav", seed=n) for n in range(8)]
    async with Server(accept) as server:
        async with speaking(server.base_url, expect=SOON) as client:
            replies = await asyncio.gather(*(send(client, path) for path in paths))
        await server.settled()
        assert sorted(bytes(put.body) for put in server.puts()) == sorted(path.read_bytes() for path in paths)
        assert server.connections == 8 + len(server.token_requests())
    assert {reply.status for reply in replies} == {201}
