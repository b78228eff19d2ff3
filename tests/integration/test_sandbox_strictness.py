"""The sandbox refuses over TCP what the specification does not allow, says why, and keeps it in its journal."""

import json
from pathlib import Path
from typing import Any

import pytest

from tests.integration.by_hand import AUDIO, Answer, playing
from uploader.sandbox import Faults, Journal

REFUSED: list[tuple[str, dict[str, str | None], bytes, str]] = [
    ("?nme=a", {}, AUDIO, "nme: no such query parameter"),
    ("?name=a&name=b", {}, AUDIO, "name stands more than once"),
    ("?detectPhrases=True", {}, AUDIO, "detectPhrases: write true or false"),
    ("?confidenceThreshold=0.4", {}, AUDIO, "confidenceThreshold: write a number from 0.5 to 1.0"),
    ("?customVocabulary=Platform", {}, AUDIO, "customVocabulary: this is no JSON text"),
    ("?diarizationSpeakerCount=2", {}, AUDIO, "only works with enableSpeakerDiarization=true"),
    ("?name=100%", {}, AUDIO, "write %25"),
    ("?name=a#b", {}, AUDIO, "'#' in the URL is not percent-encoded"),
    ("?name=%E9", {}, AUDIO, "no UTF-8"),
    ("?%7B%22name%22:%20%22Meeting%22%7D", {}, AUDIO, "no key=value"),
    ("", {"Content-Type": "video/mp4"}, AUDIO, "Detected MIME Type as 'video/mp4'. Accepted are audio/wav, "),
    ("", {"Content-Type": "application/octet-stream"}, AUDIO, "Detected MIME Type as 'application/octet-stream'."),
    ("", {"Content-Type": "audio/x-wav"}, AUDIO, "Detected MIME Type as 'audio/x-wav'."),
    ("", {"Content-Type": ""}, AUDIO, "Detected MIME Type as ''."),
    ("", {}, b"", "the body is empty"),
    ("", {"Content-Length": None, "Transfer-Encoding": "chunked"}, b"3\r\nabc\r\n0\r\n\r\n", "no Content-Length"),
]


@pytest.mark.parametrize(("query", "headers", "body", "reason"), REFUSED)
async def test_a_bad_request_is_told_what_is_wrong(
    query: str, headers: dict[str, str | None], body: bytes, reason: str
) -> None:
    """400 with a message that says what to mend, no job, no slot, and the same reason in the journal."""
    async with playing() as client:
        answer = await client.put(query=query, headers=headers, body=body)
        [entry] = client.sandbox.journal.puts()
    assert (answer.status, list(answer.body)) == (400, ["message"])
    assert reason in answer.body["message"]
    assert entry.reason == answer.body["message"]
    assert (entry.status, entry.job_id, entry.live, entry.parameters) == (400, None, 0, {})


@pytest.mark.parametrize("early", [False, True])
async def test_a_bad_request_is_answered_when_any_refusal_is(early: bool) -> None:
    """Behind the body as a rule, and with early answers at once."""
    async with playing(Faults(early_answers=early)) as client:
        await client.put(query="?mode=video")
        [entry] = client.sandbox.journal.puts()
        assert (entry.status, entry.bytes) == (400, 0 if early else len(AUDIO))


async def test_credentials_are_looked_at_before_the_request() -> None:
    """Without a valid token nothing is said of the query; a conversation is looked up for a valid request alone."""
    async with playing(Faults(unknown_conversations=frozenset({"gone"}))) as client:
        assert (await client.put(query="?mode=video", headers={"Authorization": None})).status == 401
        assert (await client.put("gone", query="?mode=video")).status == 400
        assert (await client.put("gone", query="?mode=phone")).status == 404
        assert [entry.reason is not None for entry in client.sandbox.journal.puts()] == [False, True, False]


@pytest.mark.parametrize("text", ["%FF", "%ED%A0%BD", "%C3", "%", "[{"])
async def test_whatever_is_encoded_wrong_is_journalled(tmp_path: Path, text: str) -> None:
    """Other charsets and broken escapes, in path and query, end neither the sandbox nor its journal's file."""
    path = tmp_path / "journal.jsonl"
    async with playing(journal_path=path) as client:
        head = client.head("PUT", f"/v1/process/audio/{text}?name={text}&{text}", {"Content-Length": "1"})
        assert (await client.send(head, b"x")).status == 400
        assert (await client.put()).status == 201
        assert Journal.read(path).entries == client.sandbox.journal.entries


async def test_an_allowed_parameter_passes_unread() -> None:
    """A name that the sandbox was told passes with any text, and stands in the journal; others still do not."""
    async with playing(allowed_parameters=frozenset({"later"})) as client:
        assert (await client.put(query="?later=%5B1&mode=phone")).status == 201
        assert (await client.put(query="?earlier=1")).status == 400
        assert client.sandbox.journal.appended()[0].parameters == {"later": "[1", "mode": "phone"}


@pytest.mark.parametrize("with_bearer", [False, True])
async def test_the_deprecated_key_is_taken_and_journalled(tmp_path: Path, with_bearer: bool) -> None:
    """x-api-key stands for a bearer's token as the documentation has it: deprecated, and its value kept nowhere."""
    path = tmp_path / "journal.jsonl"
    async with playing(journal_path=path) as client:
        headers: dict[str, str | None] = {"X-API-Key": client.token}
        answer = await client.put(headers=headers if with_bearer else headers | {"Authorization": None})
        assert answer.status == 201
        [entry] = client.sandbox.journal.puts()
        assert (entry.deprecated, entry.headers["x-api-key"]) == (("x-api-key",), "(withheld)")
        await client.get("/v1/job/x", headers)
        assert [poll.deprecated for poll in client.sandbox.journal.polls("x")] == [("x-api-key",)]
        assert client.token not in path.read_text(encoding="utf-8")
        assert Journal.read(path).entries == client.sandbox.journal.entries


async def test_a_wrong_bearer_is_not_mended_by_a_key() -> None:
    """With both headers, the one that is not deprecated counts."""
    async with playing() as client:
        answer = await client.put(headers={"Authorization": "Bearer other", "X-API-Key": client.token})
        assert answer.status == 401
        assert client.sandbox.journal.puts()[0].deprecated == ("x-api-key",)


async def test_the_journal_has_each_parameter_in_its_own_type(tmp_path: Path) -> None:
    """JSON text comes back as what it says, numbers and booleans as such, from memory and from the file."""
    query = (
        "?name=a%26b&confidenceThreshold=0.6&detectPhrases=false&enableSpeakerDiarization=true"
        "&diarizationSpeakerCount=2&customVocabulary=%5B%22%F0%9F%98%80%22%5D"
    )
    wanted: dict[str, Any] = {
        "name": "a&b",
        "confidenceThreshold": 0.6,
        "detectPhrases": False,
        "enableSpeakerDiarization": True,
        "diarizationSpeakerCount": 2,
        "customVocabulary": ["😀"],
    }
    path = tmp_path / "journal.jsonl"
    async with playing(journal_path=path) as client:
        assert await client.put(query=query) == Answer(201, {"conversationId": "c", "jobId": await _only_job(client)})
        assert client.sandbox.journal.puts()[0].parameters == wanted
    assert Journal.read(path).puts()[0].parameters == wanted
    assert json.loads(path.read_text(encoding="utf-8").splitlines()[-1])["parameters"] == wanted


async def _only_job(client: Any) -> str | None:
    [entry] = client.sandbox.journal.appended()
    job: str | None = entry.job_id
    return job
