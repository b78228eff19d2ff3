"""Requests that may be repeated: a job's status, and the health probe."""

from pathlib import Path

import pytest

from tests.integration.servers import (
    MEBIBYTE,
    Exchange,
    Request,
    Script,
    Server,
    always,
    clean_environment,  # noqa: F401 - a fixture
    free_port,
    head_of,
    hung_up_after_body,
    in_turn,
    reset_after_body,
    speaking,
)
from uploader.client import Credentials, JobAnswer
from uploader.errors import CredentialsError
from uploader.model import JobStatus

READY = Credentials(access_token="ready")


async def asked(script: Script, job_id: str = "job-1") -> tuple[JobAnswer, bool, list[Request]]:
    """Return a job's status and a probe's result against a script, and the GETs that arrived."""
    async with Server(get=script) as server, speaking(server.base_url) as client:
        return await client.job(job_id), await client.ping(job_id), server.gets()


@pytest.mark.parametrize("status", JobStatus)
async def test_the_four_statuses_are_told(status: JobStatus) -> None:
    """Each documented status is told as it is, with the token and with one request."""
    answer, there, gets = await asked(always(200, {"id": "job-1", "status": status.value}))
    assert (answer, there) == (JobAnswer(status), True)
    assert [get.line for get in gets] == ["GET /v1/job/job-1 HTTP/1.1"] * 2
    assert {value for get in gets for value in get.all("authorization")} == {"Bearer token-1"}


@pytest.mark.parametrize(
    ("script", "reason"),
    [
        (always(404, {"message": "no such job"}), "HTTP 404 Not Found: no such job"),
        (always(200, {"message": "no such job"}), "HTTP 200 OK: no such job"),
        (always(200, {"id": "x", "status": "done"}), "the unknown status 'done'"),
        (always(200, {"id": "x", "status": ["completed"]}), 'HTTP 200 OK: the unknown status ["completed"]'),
        (always(200, b"completed"), "HTTP 200 OK: the answer is no JSON (9 bytes): it begins with 'completed'"),
        (always(404, {"status": "completed"}), "HTTP 404 Not Found: no status in it"),
        (always(302, {"status": "completed"}, Location="/x"), "HTTP 302 Found: it leads to /x, which is not followed"),
    ],
)
async def test_what_says_no_status_is_none(script: Script, reason: str) -> None:
    """An unknown job, an unknown word, no JSON, a redirect: no status, and the service is there all the same."""
    answer, there, gets = await asked(script)
    assert (answer.status, answer.reason, there) == (None, reason, True)
    assert len(gets) == 2


@pytest.mark.parametrize("status", [500, 502, 503, 504])
async def test_a_server_error_is_no_status(status: int) -> None:
    """A 5xx says nothing of the job, and not that the service is there."""
    answer, there, _ = await asked(always(status, {"status": "completed"}))
    assert (answer.status, answer.http_status, there) == (None, status, False)


@pytest.mark.parametrize("status", [429, 503])
async def test_when_to_ask_again_is_told(status: int) -> None:
    """Retry-After, as it came (facts.md): what to make of it is decided elsewhere."""
    answer, _, _ = await asked(always(status, {"message": "too many requests"}, **{"Retry-After": "30"}))
    assert (answer.status, answer.http_status, answer.retry_after) == (None, status, "30")


@pytest.mark.parametrize("script", [hung_up_after_body, reset_after_body])
async def test_a_lost_answer_is_no_status(script: Script) -> None:
    """A connection that ends without an answer: no status, a reason, and nobody there."""
    answer, there, _ = await asked(script)
    assert (answer.status, there) == (None, False)
    assert answer.reason


async def test_after_a_lost_answer_it_can_be_asked_again() -> None:
    """A lost answer to a poll costs nothing: the next poll is answered."""
    script = in_turn(*[hung_up_after_body] * 4, always(200, {"status": "completed"}))
    async with Server(get=script) as server, speaking(server.base_url) as client:
        answers = [await client.job("x") for _ in range(5)]
    assert answers[0].status is None
    assert answers[-1].status is JobStatus.COMPLETED


@pytest.mark.parametrize(
    "raw",
    [
        b"hello\r\n\r\n",
        head_of(200, {"Content-Length": "100"}) + b'{"status":"completed"}',
        head_of(200, {"Content-Encoding": "gzip", "Content-Length": "4"}) + b"oops",
        head_of(200, {"Content-Length": "200000"}) + b"[" * 200_000,
    ],
)
async def test_an_answer_that_cannot_be_read_is_no_status(raw: bytes) -> None:
    """Whatever stands in place of an answer raises nothing and is no status."""

    async def say(exchange: Exchange) -> None:
        await exchange.send(raw)
        exchange.hang_up()

    answer, _, _ = await asked(say)
    assert answer.status is None
    assert answer.reason


async def test_a_refused_token_is_renewed_within_the_poll() -> None:
    """A 401 on a poll is asked once more with a new token, and its answer counts."""
    script = in_turn(always(401), always(200, {"status": "in_progress"}))
    async with Server(get=script) as server, speaking(server.base_url) as client:
        assert await client.job("x") == JobAnswer(JobStatus.IN_PROGRESS)
        assert [get.all("authorization") for get in server.gets()] == [["Bearer token-1"], ["Bearer token-2"]]


async def test_tokens_that_no_poll_takes_end_it() -> None:
    """A service that refuses new tokens again and again: credentials, as with uploads."""
    async with Server(get=always(401)) as server, speaking(server.base_url) as client:
        assert (await client.job("x")).status is None
        with pytest.raises(CredentialsError):
            await client.job("x")
        assert len(server.gets()) == 3


@pytest.mark.parametrize("job_id", ["a/b", "../../oauth2", "a?b#c", "é 日", "%2F"])
async def test_a_job_id_is_one_segment_of_the_path(job_id: str) -> None:
    """Whatever the service calls a job, the request asks for exactly that."""
    expected = {
        "a/b": "a%2Fb",
        "../../oauth2": "..%2F..%2Foauth2",
        "a?b#c": "a%3Fb%23c",
        "é 日": "%C3%A9%20%E6%97%A5",
        "%2F": "%252F",
    }
    _, _, gets = await asked(always(200, {"status": "completed"}), job_id)
    assert {get.target for get in gets} == {f"/v1/job/{expected[job_id]}"}


async def test_nobody_there_is_told(tmp_path: Path) -> None:
    """A closed port: no status, a reason, and nobody there."""
    async with speaking(f"http://127.0.0.1:{free_port()}", READY) as client:
        answer, there = await client.job("x"), await client.ping("x")
    assert (answer.status, there) == (None, False)
    assert answer.reason


async def test_many_polls_use_few_connections() -> None:
    """Polls keep their connection: a hundred of them one after the other need one, with the token's."""
    async with Server(get=always(200, {"status": "scheduled"})) as server, speaking(server.base_url) as client:
        for _ in range(100):
            await client.job("x")
        assert len(server.gets()) == 100
        assert server.connections <= 2


async def test_an_endless_answer_to_a_poll_is_left() -> None:
    """A poll's answer without end is not read for ever."""

    async def never_stop(exchange: Exchange) -> None:
        await exchange.send(head_of(200, {"Connection": "close"}))
        while True:
            await exchange.send(b"1" * MEBIBYTE)

    answer, _, _ = await asked(never_stop)
    assert answer.status is None
