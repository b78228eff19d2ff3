"""A sandbox that is far away: what the way adds is in the journal's own times, and nothing else changes."""

import asyncio
import contextlib
import hashlib
import ssl
from pathlib import Path
from typing import Any

import pytest
import trustme

from tests.integration.by_hand import AUDIO, Client, playing, read_answer
from uploader.errors import UsageError
from uploader.sandbox import Faults, PutFaults, Sandbox, SandboxSettings

ROUND_TRIP = 0.1


async def test_a_connection_costs_a_round_trip_and_each_byte_half_of_one() -> None:
    """Two requests one after the other, each on a connection of its own, cost two round trips each."""
    async with playing(round_trip=ROUND_TRIP) as client:
        now = asyncio.get_running_loop().time
        begun = now()
        await client.get("/v1/job/none")
        await client.get("/v1/job/none")
        assert now() - begun >= 4 * ROUND_TRIP
        first, second = (entry.at for entry in client.sandbox.journal.polls("none"))
        assert second - first >= 2 * ROUND_TRIP


async def test_a_kept_connection_costs_one_round_trip_a_request() -> None:
    """A second request arrives a round trip after the first one, not earlier."""
    async with playing(round_trip=ROUND_TRIP) as client:
        reader, writer = await client.open()
        for name in ("1", "2"):
            writer.write(client.head("GET", f"/v1/job/{name}", {"Connection": "keep-alive"}))
            await reader.readuntil(b'not found"}')
        first, second = (client.sandbox.journal.polls(name)[0].at for name in ("1", "2"))
        assert second - first >= ROUND_TRIP


async def test_leave_for_a_body_costs_a_round_trip() -> None:
    """A client that waits for 100 sends its body a round trip after its head arrived."""
    async with playing(round_trip=ROUND_TRIP) as client:
        reader, writer = await client.open()
        headers: dict[str, str | None] = {"Content-Length": str(len(AUDIO)), "Expect": "100-continue"}
        writer.write(client.head("PUT", "/v1/process/audio/c", headers))
        await reader.readuntil(b"\r\n\r\n")
        writer.write(AUDIO)
        assert read_answer(await reader.read()).status == 201
        (begun,), (put,) = client.sandbox.journal.begun_puts(), client.sandbox.journal.puts()
        assert put.at - begun.at >= ROUND_TRIP


async def test_what_is_delayed_is_not_throttled() -> None:
    """Many bytes are on their way at once: a body of many pieces arrives whole, each byte in its place."""
    body = bytes(range(256)) * (1 << 16)
    async with playing(round_trip=ROUND_TRIP) as client:
        assert (await client.put(body=body)).status == 201
        (put,) = client.sandbox.journal.puts()
        assert (put.bytes, put.sha256) == (len(body), hashlib.sha256(body).hexdigest())


async def test_an_uplink_carries_so_many_bytes_a_second() -> None:
    """A body takes its bytes over the bandwidth, counted from its head's arrival to its last byte's."""
    body = bytes(50_000)
    async with playing(uplink=100_000) as client:
        assert (await client.put(body=body)).status == 201
        (begun,), (put,) = client.sandbox.journal.begun_puts(), client.sandbox.journal.puts()
        pieces = 100_000 * 0.05
        assert put.at - begun.at >= (len(body) - pieces) / 100_000
        assert put.sha256 == hashlib.sha256(body).hexdigest()


async def test_each_connection_has_an_uplink_of_its_own() -> None:
    """Uploads side by side are all under way before the first of them has arrived."""
    async with playing(uplink=100_000) as client:
        await asyncio.gather(*(client.put(name, bytes(50_000)) for name in "abcd"))
        events = [entry.event for entry in client.sandbox.journal.entries if entry.event in ("put-begun", "put")]
        assert events == ["put-begun"] * 4 + ["put"] * 4


async def test_the_way_carries_tls_too(tmp_path: Path) -> None:
    """The relay passes bytes on as they are; a handshake costs its round trips before the first request."""
    authority = trustme.CA()
    certificate = tmp_path / "server.pem"
    authority.issue_cert("127.0.0.1").private_key_and_cert_chain_pem.write_to_path(str(certificate))
    tls = ssl.create_default_context()
    authority.configure_trust(tls)
    async with playing(tls=tls, certificate_path=certificate, round_trip=ROUND_TRIP) as client:
        assert (await client.put()).status == 201


async def test_an_answer_that_takes_its_time_comes_behind_its_job() -> None:
    """With `answer_seconds` the job begins with the last byte; a client that asks meanwhile sees it at work."""
    async with playing(answer_seconds=0.2) as client:
        reader, writer = await client.begin_put(1)
        writer.write(b"x")
        await client.until(lambda: bool(client.sandbox.journal.jobs()))
        (job,) = client.sandbox.journal.jobs()
        assert await client.status(job.job_id) in ("scheduled", "in_progress")
        assert read_answer(await reader.read()).body["jobId"] == job.job_id
        assert client.sandbox.journal.now() - job.at >= 0.2


async def test_a_refusal_of_the_head_comes_at_once() -> None:
    """`answer_seconds` count from the last byte of a body that came whole: what is refused before waits for nothing."""
    async with playing(Faults(early_answers=True, put=PutFaults(throttled=1.0)), answer_seconds=3600.0) as client:
        reader, _ = await client.begin_put(10**9)
        assert read_answer(await reader.read()).status == 429


@pytest.mark.parametrize("sent", [b"", b"some"])
async def test_a_gateway_cuts_what_idles_in_the_middle_of_a_body(sent: bytes) -> None:
    """With `idle_cut` a body that stands still ends its connection without an answer, and makes no job."""
    async with playing(idle_cut=0.05) as client:
        reader, writer = await client.begin_put(100)
        writer.write(sent)
        with contextlib.suppress(ConnectionError):
            assert await reader.read() == b""
        (put,) = client.sandbox.journal.puts()
        assert (put.status, put.fault, put.job_id, put.bytes, put.sha256) == (None, "idle_cut", None, len(sent), None)
        (begun,) = client.sandbox.journal.begun_puts()
        assert put.at - begun.at >= 0.05


async def test_what_moves_is_not_cut() -> None:
    """A body that comes slowly, and never stands still for so long, is taken; so is what follows on its connection."""
    async with playing(idle_cut=0.5, uplink=20_000) as client:
        assert (await client.put(body=bytes(20_000))).status == 201
        (begun,), (put,) = client.sandbox.journal.begun_puts(), client.sandbox.journal.puts()
        assert put.at - begun.at > 0.5


async def test_a_lost_answer_is_lost_on_the_way_too() -> None:
    """A connection that the server closes is closed for the client, behind the bytes on their way."""
    async with playing(Faults(put=PutFaults(lost_answer=1.0)), round_trip=ROUND_TRIP) as client:
        assert (await client.put()).status is None
        assert len(client.sandbox.journal.appended()) == 1


async def test_a_client_that_leaves_is_seen_to_leave() -> None:
    """An upload that its client cuts off ends at the server, and gives back what it held."""
    async with playing(round_trip=ROUND_TRIP, limit=1, counts_uploads=True) as client:
        _, writer = await client.begin_put(100)
        writer.write(b"some")
        writer.close()
        await client.until(lambda: bool(client.sandbox.journal.puts()))
        (cut,) = client.sandbox.journal.puts()
        assert (cut.status, cut.bytes, cut.job_id) == (None, 4, None)
        assert (await client.put("other")).status == 201


async def test_a_far_sandbox_stops_with_bytes_on_their_way() -> None:
    """A stop cuts every connection, and drops what is on its way."""
    async with Sandbox(SandboxSettings(round_trip=3600.0)) as sandbox:
        client = Client(sandbox)
        reader, writer = await client.open()
        writer.write(client.head("GET", "/v1/job/none", {}))
        await writer.drain()
    with pytest.raises(ConnectionError):
        await reader.readexactly(1)
    writer.close()


async def test_a_port_that_is_taken_is_told() -> None:
    """The relay listens where the sandbox was to listen."""
    async with Sandbox(SandboxSettings(round_trip=0.001)) as first:
        taken = int(first.base_url.rpartition(":")[2])
        with pytest.raises(UsageError, match="use another port"):
            await Sandbox(SandboxSettings(round_trip=0.001, port=taken)).start()


@pytest.mark.parametrize("name", ["round_trip", "uplink", "answer_seconds", "idle_cut"])
def test_a_way_of_less_than_nothing_is_refused(name: str) -> None:
    """Seconds and bytes per second are 0 or more."""
    wrong: dict[str, Any] = {name: -1.0}
    with pytest.raises(UsageError, match="negative"):
        SandboxSettings(**wrong)
