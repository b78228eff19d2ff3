"""The text of answers, storable and printable: half characters, NUL, secrets, and bytes that are not HTTP."""

import json
from base64 import b64encode
from collections.abc import Callable
from pathlib import Path
from urllib.parse import quote

import pytest

from tests.integration.servers import (
    CREDENTIALS,
    Exchange,
    Script,
    Server,
    always,
    audio,
    clean_environment,  # noqa: F401 - a fixture
    head_of,
    issue,
    send,
    speaking,
)
from uploader.client import UploadRequest
from uploader.model import Answer, Outcome, Reply
from uploader.policy.replies import judge

TOKEN = "issued-token/with+signs="
HALF = json.dumps("caf\ud83d\x00")
WHOLE = b'{"conversationId": "c", "jobId": "job-of-this-answer"}'


def raw(answer: bytes) -> Script:
    """Build a script that reads the body, sends raw bytes and hangs up."""

    async def script(exchange: Exchange) -> None:
        await exchange.read_body()
        await exchange.send(answer)
        exchange.hang_up()

    return script


async def reply_to(script: Script, tmp_path: Path) -> Reply:
    """Return the reply of an upload to a server with this script."""
    async with Server(script, token=issue(TOKEN)) as server, speaking(server.base_url) as client:
        return await send(client, audio(tmp_path, 1000))


@pytest.mark.parametrize(("status", "outcome"), [(400, Outcome.REFUSED), (201, Outcome.APPLIED)])
async def test_what_no_database_can_hold_is_shown_in_its_place(tmp_path: Path, status: int, outcome: Outcome) -> None:
    r"""Half a character is shown as ``\ud83d``: the status counts as it would, and the jobId is there."""
    body = f'{{"message": {HALF}, "jobId": {HALF}, "conversationId": "c", {HALF}: {HALF}}}'.encode()
    reply = await reply_to(always(status, body), tmp_path)
    assert reply.answer is not None
    assert (reply.message, reply.answer["jobId"]) == (r"caf\ud83d\u0000",) * 2
    assert judge(reply, "c").outcome is outcome
    repr(reply).encode()


@pytest.mark.parametrize("beside", ['"note": "Z\u00fcrich"'.encode("latin-1"), b'"cost": 1' + b"0" * 5000])
async def test_what_python_declines_to_read_hides_no_job_id(tmp_path: Path, beside: bytes) -> None:
    """A byte that is no UTF-8, or a number of thousands of digits, in a member that nobody asks for."""
    reply = await reply_to(always(201, b'{"jobId": "j-1", "conversationId": "c", %s}' % beside), tmp_path)
    assert judge(reply, "c").job_id == "j-1"
    assert judge(reply, "c").outcome is Outcome.APPLIED
    repr(reply).encode()


async def test_insights_and_jobs_pass_the_same_edge() -> None:
    """Every GET, too: nothing that cannot be stored comes out of the client."""
    script = always(200, f'{{"status": {HALF}, "messages": [{{"text": {HALF}}}]}}'.encode())
    async with Server(get=script) as server, speaking(server.base_url) as client:
        answer = await client.conversation("c", "messages")
        assert r"caf\ud83d" in (await client.job("x")).reason
    assert answer.body == {"status": r"caf\ud83d\u0000", "messages": [{"text": r"caf\ud83d\u0000"}]}


FORMS: dict[str, Callable[[str], str]] = {
    "as it is": str,
    "in a header": lambda secret: f"Authorization: Bearer {secret}",
    "percent-encoded": lambda secret: quote(secret, safe=""),
    "in base64": lambda secret: b64encode(secret.encode()).decode().rstrip("="),
}


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("kind", ["message", "page", "title", "location", "no HTTP", "nested"])
async def test_a_secret_that_the_service_repeats_comes_no_further(tmp_path: Path, form: str, kind: str) -> None:
    """Token, app id, app secret and an attempt's own secret, in whatever part of an answer: a mask in its place."""
    secrets = [TOKEN, CREDENTIALS.app_id, CREDENTIALS.app_secret, "secret-of-the-attempt"]
    said = " ".join(FORMS[form](secret) for secret in secrets)
    script = {
        "message": always(400, {"message": said}),
        "page": always(400, f"sorry: {said}".encode()),
        "title": always(400, f"<html><title>sorry: {said}</title>".encode()),
        "location": always(307, Location=f"/x?{said}"),
        "no HTTP": raw(f"sorry: {said}\r\n\r\n".encode()),
        "nested": always(201, {"conversationId": "c", "jobId": said, said: [{"x": said}]}),
    }[kind]
    server = Server(script, token=issue(TOKEN), get=always(403, {"message": said}))
    async with server, speaking(server.base_url) as client:
        request = UploadRequest("c", (), None, secret="secret-of-the-attempt")
        reply = await send(client, audio(tmp_path, 1000), request=request)
        job, other = await client.job("x"), await client.conversation("c")
    # the attempt's secret is no business of other requests
    shown = repr(reply) + repr([job, other]).replace(FORMS[form]("secret-of-the-attempt"), "")
    assert [secret for secret in secrets if FORMS[form](secret) in shown] == []
    assert "…" in repr(reply)


UNREADABLE = {
    "no compression that we know": head_of(201, {"Content-Encoding": "br", "Content-Length": "6"})
    + b"\x0b\x02\x80{}\x03",
    "a head of 20 KB": head_of(201, {"X-H": "y" * 20000, "Content-Length": str(len(WHOLE))}) + WHOLE,
    "a broken head": b"HTTP/1.1 201 X\r\nX Bad Header\r\nContent-Length: 54\r\n\r\n" + WHOLE,
    "a length too short": head_of(201, {"Content-Length": str(len(WHOLE) - 5)}) + WHOLE,
    "a length too long": head_of(201, {"Content-Length": str(len(WHOLE) + 50)}) + WHOLE,
    "a false compression": head_of(201, {"Content-Encoding": "gzip", "Content-Length": str(len(WHOLE))}) + WHOLE,
    "another protocol": b"SSH-2.0-OpenSSH_9.6\r\n",
    "no head": WHOLE,
    "a part of a head": b"HTTP/1.1 201 Crea",
    "after a 103": b"HTTP/1.1 103 Early\r\nLink: x\r\n\r\nnonsense from a proxy\r\n",
}


@pytest.mark.parametrize("name", UNREADABLE)
async def test_an_answer_that_came_and_cannot_be_read_is_told_in_words(tmp_path: Path, name: str) -> None:
    """In doubt, with its status, size and first characters: it is never called "no answer"."""
    answer = UNREADABLE[name]
    verdict = judge(await reply_to(raw(answer), tmp_path), "c")
    assert verdict.outcome is Outcome.IN_DOUBT
    assert "no answer" not in verdict.reason
    assert "bytes" in verdict.reason
    if b" 201 X" in answer or b" 201 Whatever" in answer:
        assert "HTTP 201" in verdict.reason
    if WHOLE in answer and name != "a head of 20 KB":
        assert "job-of-this-answer" in verdict.reason
    if name == "a length too long":
        assert verdict.job_id == "job-of-this-answer"
    if name == "after a 103":
        assert "nonsense from a proxy" in verdict.reason


async def test_nothing_that_came_is_called_no_answer(tmp_path: Path) -> None:
    """Where the service hung up without a word, or after an interim answer alone."""
    for answer in (b"", b"HTTP/1.1 103 Early\r\nLink: x\r\n\r\n"):
        verdict = judge(await reply_to(raw(answer), tmp_path), "c")
        assert (verdict.outcome, "no answer" in verdict.reason) == (Outcome.IN_DOUBT, True)


async def test_every_retry_after_is_kept(tmp_path: Path) -> None:
    """A service and its gateway may each say one."""
    fields = b"Retry-After: 3\r\nRetry-After: 120\r\nContent-Length: 2\r\n\r\n{}"
    reply = await reply_to(raw(b"HTTP/1.1 429 X\r\n" + fields), tmp_path)
    assert reply.retry_after == "3, 120"


async def test_where_a_job_answer_leads_is_told_and_not_followed() -> None:
    """A redirect of a GET is followed no more than one of a PUT: it would take the token along."""
    async with Server(get=always(307, Location="/v1/job2/x")) as server, speaking(server.base_url) as client:
        answer: Answer = await client.conversation("c")
        assert "leads to /v1/job2/x" in (await client.job("x")).reason
        assert [request.target for request in server.gets()] == ["/v1/conversations/c", "/v1/job/x"]
    assert (answer.status, "leads to /v1/job2/x" in answer.failure) == (307, True)
