"""The sandbox over TCP: what it answers, what it keeps, and what its journal says of it."""

import asyncio
import hashlib
import json
import logging
import ssl
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlsplit

import pytest
import trustme

from tests.integration.by_hand import AUDIO, FOREVER, Answer, Client, playing, read_answer
from uploader.errors import UsageError
from uploader.sandbox import (
    JOB_ID_PREFIX,
    Faults,
    JobFaults,
    Journal,
    PollFaults,
    PutFaults,
    Sandbox,
    SandboxSettings,
    serve,
)

UNAUTHORIZED = "Unauthorized. Please generate a new access token."
NOT_FOUND = "The conversation and/or it's metadata you asked could not be found, please check the input provided"


@pytest.fixture(autouse=True)
def quiet(caplog: pytest.LogCaptureFixture) -> Iterator[None]:
    """The law beside all others here: whatever happens on the wire, nothing is logged as a failure."""
    yield
    assert [each.getMessage() for each in caplog.records if each.levelno >= logging.WARNING] == []


async def test_the_token_is_cached() -> None:
    """The same token comes again with the seconds left; the journal has each request."""
    async with playing(token_seconds=3600.0) as client:
        again = await client.sign_in()
        assert again.body["accessToken"] == client.token
        assert 0 < again.body["expiresIn"] <= 3600
        assert [entry.event for entry in client.sandbox.journal.entries] == ["token", "token"]


@pytest.mark.parametrize("change", [{"appId": "x"}, {"appSecret": "x"}, {"type": "user"}])
async def test_wrong_credentials_get_no_token(change: dict[str, str]) -> None:
    """Each part of the credentials has to be right."""
    async with playing() as client:
        answer = await client.sign_in(**change)
        assert (answer.status, list(answer.body)) == (401, ["message"])


@pytest.mark.parametrize("body", [b"", b"[]", b"{", b"\xff"])
async def test_a_malformed_token_request_gets_no_token(body: bytes) -> None:
    """A body that is no JSON object is answered with 401, not with a failure."""
    async with playing() as client:
        head = client.head("POST", "/oauth2/token:generate", {"Content-Length": str(len(body))})
        assert (await client.send(head, body)).status == 401


async def test_an_ended_token_is_not_accepted() -> None:
    """A token that has ended is answered with 401, on the PUT as on the poll."""
    async with playing(token_seconds=0.0) as client:
        assert await client.put() == Answer(401, {"message": UNAUTHORIZED})
        assert await client.get("/v1/job/x") == Answer(401, {"message": UNAUTHORIZED})


async def test_an_accepted_put_is_answered_as_documented() -> None:
    """A good PUT gets 201 with its conversationId and a marked jobId."""
    async with playing() as client:
        answer = await client.put("5815170693595136")
        assert answer.status == 201
        assert set(answer.body) == {"conversationId", "jobId"}
        assert answer.body["conversationId"] == "5815170693595136"
        assert answer.body["jobId"].startswith(JOB_ID_PREFIX)


@pytest.mark.parametrize(
    "headers",
    [
        {"Authorization": None},
        {"Authorization": "Bearer other"},
        {"Authorization": "Basic other"},
        {"Authorization": None, "X-API-Key": "other"},
    ],
)
async def test_wrong_credentials_are_refused_in_the_documented_words(headers: dict[str, str | None]) -> None:
    """A PUT without a good token gets its code and text, and makes no job and takes no slot."""
    async with playing() as client:
        assert await client.put(headers=headers) == Answer(401, {"message": UNAUTHORIZED})
        entry = client.sandbox.journal.puts()[0]
        assert (entry.status, entry.job_id, entry.fault, entry.reason, entry.live) == (401, None, None, None, 0)


@pytest.mark.parametrize("kind", ["audio/wav", "audio/wave", "audio/mpeg", "audio/mp3", "Audio/WAV; x=y", None])
async def test_the_documented_media_types_pass(kind: str | None) -> None:
    """The four documented types are taken, and so is a PUT that names none."""
    async with playing() as client:
        assert (await client.put(headers={"Content-Type": kind})).status == 201


async def test_an_unknown_conversation_is_not_found() -> None:
    """PUT and GET agree on which conversations there are."""
    async with playing(Faults(unknown_conversations=frozenset({"gone"}))) as client:
        missing = Answer(404, {"message": NOT_FOUND})
        assert await client.put("gone") == missing
        assert await client.get("/v1/conversations/gone") == missing
        here = await client.get("/v1/conversations/here")
        assert (here.status, here.body["id"], here.body["members"]) == (200, "here", [])
        refused = await client.get("/v1/conversations/here", {"Authorization": None})
        assert refused == Answer(401, {"message": UNAUTHORIZED})


async def test_the_limit_is_stated_word_for_word() -> None:
    """One PUT above the limit gets the documentation's API Limit Error with the number in it."""
    async with playing(limit=2) as client:
        assert [(await client.put(each)).status for each in "ab"] == [201, 201]
        assert await client.put("c") == Answer(
            429,
            {
                "statusCode": 429,
                "message": "This API has a limit of maximum of 2 number of concurrent jobs per account. "
                "If you are looking to scale, and need more concurrent jobs than this limit, "
                "please contact us at support@symbl.ai",
            },
        )
        assert [entry.live for entry in client.sandbox.journal.puts()] == [1, 2, 2]
        assert client.sandbox.journal.peak_live() == 2


async def test_a_slot_is_taken_with_the_head_where_uploads_count() -> None:
    """Where uploads count, an upload takes a slot before its first byte, and gives it back when cut off."""
    async with playing(limit=1, counts_uploads=True) as client:
        _, writer = await client.begin_put(100)
        assert (await client.put("other")).status == 429
        writer.write(b"some")
        writer.close()
        await client.until(lambda: len(client.sandbox.journal.puts()) == 2)
        cut = client.sandbox.journal.puts()[1]
        assert (cut.number, cut.status, cut.job_id, cut.sha256) == (1, None, None, None)
        assert cut.bytes <= 4
        assert (await client.put("other")).status == 201


async def test_a_slot_is_taken_with_the_last_byte() -> None:
    """By default an upload under way is no job: the limit is held against the jobs once a body has come."""
    async with playing(limit=1) as client:
        reader, writer = await client.begin_put(100)
        assert (await client.put("other")).status == 201
        writer.write(bytes(99))
        await client.get("/")
        assert [(put.status, put.live) for put in client.sandbox.journal.puts()] == [(201, 1)]
        writer.write(bytes(1))
        assert read_answer(await reader.read()).status == 429
        late = client.sandbox.journal.puts()[1]
        assert (late.number, late.job_id, late.bytes, late.live, late.fault) == (1, None, 100, 1, None)


async def test_a_429_behind_the_body_moves_no_job() -> None:
    """A conversation's next job is drawn as if the PUTs that met a full account had not been."""
    jobs = []
    for in_vain in (0, 3):
        async with playing(limit=1) as client:
            slots = client.sandbox._jobs
            assert slots is not None
            slots.take_slot()
            assert [(await client.put("c")).status for _ in range(in_vain)] == [429] * in_vain
            slots.give_back_slot()
            jobs.append((await client.put("c")).body["jobId"])
    assert jobs[0] == jobs[1]


async def test_the_slot_comes_back_at_the_jobs_end() -> None:
    """A job keeps its slot until it has ended, and not longer."""
    async with playing(limit=1, job_seconds=0.01, job_seconds_per_mebibyte=0.0) as client:
        job = (await client.put()).body["jobId"]
        await client.until_status(job, "completed")
        assert (await client.put()).status == 201
        events = [(entry.event, entry.live) for entry in client.sandbox.journal.jobs()]
        assert events[:3] == [("job-begun", 1), ("job-ended", 0), ("job-begun", 1)]


async def test_a_job_is_scheduled_then_in_progress_then_over() -> None:
    """Statuses only ever go forward, and a poll's entry has the word that it told."""
    async with playing(job_seconds=0.05) as client:
        job = (await client.put()).body["jobId"]
        seen = await client.until_status(job, "completed")
        order = ["scheduled", "in_progress", "completed"]
        assert seen == sorted(seen, key=order.index)
        assert [entry.job for entry in client.sandbox.journal.polls(job)] == seen


async def test_an_unknown_job_is_not_found() -> None:
    """A poll for a job that is not there has a message and no status."""
    async with playing() as client:
        assert await client.get("/v1/job/none") == Answer(404, {"message": "Job with id none not found"})
        assert client.sandbox.journal.polls("none")[0].status == 404


async def test_one_conversation_has_one_job_at_a_time() -> None:
    """A second live job of a conversation is only scheduled, and burns a slot all the same."""
    async with playing(Faults(jobs=JobFaults(endless=1.0)), job_seconds=0.0) as client:
        first, second, other = [(await client.put(each)).body["jobId"] for each in ("a", "a", "b")]
        await client.until_status(other, "in_progress")
        assert await client.status(first) == "in_progress"
        assert await client.status(second) == "scheduled"
        assert client.sandbox.journal.peak_live() == 3


async def test_jobs_of_a_conversation_end_in_order() -> None:
    """The service works through a conversation in the order of its PUTs."""
    async with playing(job_seconds=0.01) as client:
        jobs = [(await client.put("a", body)).body["jobId"] for body in (AUDIO, b"short", b"x")]
        await client.until_status(jobs[-1], "completed")
        ended = [entry.job_id for entry in client.sandbox.journal.jobs() if entry.event == "job-ended"]
        assert ended == jobs


async def test_the_journal_has_what_reached_the_service() -> None:
    """A PUT's entry has its size, hash, headers and query, and withholds the credentials."""
    async with playing(limit=3) as client:
        answer = await client.put(
            headers={"Content-Type": "audio/wav", "X-Own": "1"},
            query="?name=Business%20Meeting&customVocabulary=%5B%22a%22%5D&languageCode=",
        )
        entry = client.sandbox.journal.appended()[0]
        assert (entry.number, entry.status, entry.job_id) == (1, 201, answer.body["jobId"])
        assert entry.bytes == entry.content_length == len(AUDIO)
        assert entry.sha256 == hashlib.sha256(AUDIO).hexdigest()
        assert (entry.live, entry.limit, entry.fault) == (1, 3, None)
        assert entry.headers["authorization"] == "(withheld)"
        assert (entry.headers["content-type"], entry.headers["x-own"]) == ("audio/wav", "1")
        assert entry.query == (("name", "Business Meeting"), ("customVocabulary", '["a"]'), ("languageCode", ""))
        assert entry.parameters == {"name": "Business Meeting", "customVocabulary": ["a"], "languageCode": ""}
        assert (entry.reason, entry.deprecated) == (None, ())


@pytest.mark.parametrize("conversation", ["a/b c%2F", "ä?#&=+", "..", "a;b:c@d"])
async def test_a_conversation_id_survives_its_encoding(conversation: str) -> None:
    """Whatever characters an id has, the one that was meant is the one that is appended to."""
    async with playing() as client:
        assert (await client.put(conversation)).body["conversationId"] == conversation
        assert client.sandbox.journal.appended()[0].conversation_id == conversation


async def test_the_journal_file_holds_what_the_journal_holds(tmp_path: Path) -> None:
    """Each entry is in the file at once, so that it outlives everything."""
    path = tmp_path / "journal.jsonl"
    async with playing(Faults(jobs=JobFaults(failed=1.0)), journal_path=path, job_seconds=0.0) as client:
        job = (await client.put(query="?name=%C3%A4")).body["jobId"]
        assert Journal.read(path).appended() == client.sandbox.journal.appended()
        await client.until_status(job, "failed")
        assert Journal.read(path).entries == client.sandbox.journal.entries
    names = json.loads(path.read_text(encoding="utf-8").splitlines()[3])
    assert {"event", "conversationId", "jobId", "contentLength", "sha256"} <= set(names)


async def test_a_line_half_written_is_not_read(tmp_path: Path) -> None:
    """A journal that was cut off in a line is read up to it."""
    path = tmp_path / "journal.jsonl"
    async with playing(journal_path=path) as client:
        await client.put()
    whole = Journal.read(path).entries
    path.write_text(path.read_text(encoding="utf-8") + '{"event": "put', encoding="utf-8")
    assert Journal.read(path).entries == whole


@pytest.mark.parametrize(
    ("fault", "status", "made", "bytes_read"),
    [
        ("lost_answer", None, True, len(AUDIO)),
        ("lost_before", None, False, len(AUDIO)),
        ("cut", None, False, len(AUDIO) // 2),
        ("status_500", 500, True, len(AUDIO)),
        ("status_502", 502, True, len(AUDIO)),
        ("status_503", 503, True, len(AUDIO)),
        ("slow_answer", 201, True, len(AUDIO)),
        ("throttled", 429, False, len(AUDIO)),
        ("unauthorized", 401, False, len(AUDIO)),
    ],
)
async def test_each_fault_does_what_it_says(fault: str, status: int | None, made: bool, bytes_read: int) -> None:
    """The wire, the journal and the slots agree on what a fault does."""
    shares = PutFaults(**{fault: 1.0}, taken=1.0, slow_seconds=0.0)
    async with playing(Faults(put=shares)) as client:
        assert (await client.put()).status == status
        entry = client.sandbox.journal.puts()[0]
        assert (entry.fault, entry.status, entry.bytes) == (fault, status, bytes_read)
        assert (entry.job_id is not None) == made
        assert len(client.sandbox.journal.jobs()) == int(made)


async def test_a_fault_without_a_job_gives_its_slot_back() -> None:
    """A fault without a job holds no slot: the next PUT finds room."""
    faults = Faults(put=PutFaults(lost_before=0.5, status_500=0.5, taken=0.0))
    async with playing(faults, limit=1) as client:
        for _ in range(4):
            await client.put()
        assert {entry.status for entry in client.sandbox.journal.puts()} <= {None, 500}
        assert {entry.live for entry in client.sandbox.journal.puts()} == {1}


async def test_the_file_is_taken_or_not_behind_a_gateway_code() -> None:
    """With `taken` between 0 and 1 the same answer stands for both."""
    async with playing(Faults(put=PutFaults(status_502=1.0)), limit=30) as client:
        answers = [await client.put() for _ in range(20)]
        assert {answer.status for answer in answers} == {502}
        assert 0 < len(client.sandbox.journal.appended()) < 20


async def test_polls_have_faults_of_their_own() -> None:
    """A poll can fail or be lost, and the job goes on regardless."""
    async with playing(Faults(poll=PollFaults(status_500=0.4, lost_answer=0.4))) as client:
        job = (await client.put()).body["jobId"]
        seen = [(await client.get(f"/v1/job/{job}")).status for _ in range(30)]
        assert set(seen) == {200, 500, None}
        assert [entry.status for entry in client.sandbox.journal.polls(job)] == seen


async def test_a_refusal_reads_the_body_first() -> None:
    """By default a refused PUT was read to its end."""
    async with playing() as client:
        assert (await client.put(headers={"Authorization": None})).status == 401
        entry = client.sandbox.journal.puts()[0]
        assert (entry.bytes, entry.sha256) == (len(AUDIO), hashlib.sha256(AUDIO).hexdigest())


async def test_an_early_answer_leaves_the_body_unread() -> None:
    """With early answers a refusal comes while the body has not, and the connection is closed."""
    async with playing(Faults(early_answers=True, put=PutFaults(throttled=1.0))) as client:
        reader, _ = await client.begin_put(10**9)
        assert read_answer(await reader.read()).status == 429
        entry = client.sandbox.journal.puts()[0]
        assert (entry.bytes, entry.sha256, entry.content_length) == (0, None, 10**9)


@pytest.mark.parametrize(
    ("method", "target"),
    [
        ("GET", "/"),
        ("PUT", "/v1/process/audio/"),
        ("PUT", "/v1/process/audio/a/b"),
        ("PUT", "/process/audio/a"),
        ("POST", "/v1/process/audio/a"),
        ("GET", "/v1/job/a/b"),
    ],
)
async def test_anything_else_is_not_found(method: str, target: str) -> None:
    """Nothing is served but what is documented."""
    async with playing() as client:
        head = client.head(method, target, {"Content-Length": str(len(AUDIO))})
        answer = await client.send(head, AUDIO)
        assert (answer.status, list(answer.body)) == (404, ["message"])


async def test_a_long_query_is_no_reason_to_refuse() -> None:
    """A vocabulary of many words passes whole."""
    words = [f"word{number}" for number in range(10_000)]
    async with playing() as client:
        assert (await client.put(query=f"?customVocabulary={quote(json.dumps(words))}")).status == 201
        assert client.sandbox.journal.puts()[0].parameters == {"customVocabulary": words}


async def _played(together: bool) -> dict[str, list[tuple[str | None, int | None, str | None]]]:
    shares = PutFaults(lost_answer=0.2, status_500=0.2, unauthorized=0.2, lost_before=0.2)
    async with playing(Faults(seed=5, put=shares), limit=100) as client:

        async def lane(conversation: str) -> None:
            for _ in range(6):
                await client.put(conversation)

        if together:
            await asyncio.gather(*map(lane, "abc"))
        else:
            for each in "cba":
                await lane(each)
        seen: dict[str, list[tuple[str | None, int | None, str | None]]] = {each: [] for each in "abc"}
        for entry in client.sandbox.journal.puts():
            seen[entry.conversation_id].append((entry.fault, entry.status, entry.job_id))
        return seen


async def test_a_seed_replays_whatever_runs_beside() -> None:
    """The outcome of a conversation's n-th PUT is independent of concurrent PUTs of others."""
    assert await _played(together=True) == await _played(together=False)


async def test_it_speaks_tls_where_it_has_a_certificate(tmp_path: Path) -> None:
    """With a certificate the same service is at https."""
    authority = trustme.CA()
    issued = authority.issue_cert("127.0.0.1")
    issued.private_key_and_cert_chain_pem.write_to_path(tmp_path / "both.pem")
    trust = ssl.create_default_context()
    authority.configure_trust(trust)
    async with playing(tls=trust, certificate_path=tmp_path / "both.pem") as client:
        assert client.sandbox.base_url.startswith("https://127.0.0.1:")
        assert (await client.put()).status == 201


async def test_a_fault_over_tls_is_as_quiet(tmp_path: Path) -> None:
    """A lost answer is a closed connection there, too."""
    authority = trustme.CA()
    issued = authority.issue_cert("127.0.0.1")
    issued.private_key_pem.write_to_path(tmp_path / "key.pem")
    issued.cert_chain_pems[0].write_to_path(tmp_path / "certificate.pem")
    trust = ssl.create_default_context()
    authority.configure_trust(trust)
    paths = {"certificate_path": tmp_path / "certificate.pem", "key_path": tmp_path / "key.pem"}
    async with playing(Faults(put=PutFaults(lost_answer=1.0)), trust, **paths) as client:
        assert (await client.put()).status is None
        assert len(client.sandbox.journal.appended()) == 1


@pytest.mark.parametrize("host", ["0.0.0.0", "192.168.1.1", "example.com", "::", ""])
def test_only_loopback_is_listened_on(host: str) -> None:
    """A sandbox is never reachable from elsewhere."""
    with pytest.raises(UsageError, match="loopback"):
        SandboxSettings(host=host)


@pytest.mark.parametrize("host", ["127.0.0.1", "127.0.0.2", "::1", "localhost"])
def test_every_loopback_is_good(host: str) -> None:
    """All of loopback may be listened on."""
    assert SandboxSettings(host=host).host == host


@pytest.mark.parametrize(
    "settings",
    [{"limit": 0}, {"job_seconds": -1.0}, {"job_scatter": -0.1}, {"token_seconds": -1.0}, {"key_path": Path("key")}],
)
def test_settings_that_make_no_sense_are_refused(settings: dict[str, Any]) -> None:
    """Impossible settings are a usage error."""
    with pytest.raises(UsageError):
        SandboxSettings(**settings)


async def test_a_taken_port_is_told() -> None:
    """A port that is taken is a usage error that names it."""
    async with playing() as client:
        port = urlsplit(client.sandbox.base_url).port
        assert port is not None
        with pytest.raises(UsageError, match=str(port)):
            await Sandbox(SandboxSettings(port=port)).start()


@pytest.mark.parametrize("name", ["journal_path", "certificate_path"])
async def test_a_path_that_cannot_be_used_is_told(tmp_path: Path, name: str) -> None:
    """A journal or certificate that cannot be opened is a usage error that names it."""
    paths: dict[str, Any] = {name: tmp_path / "nowhere" / "file"}
    with pytest.raises(UsageError, match="nowhere"):
        await Sandbox(SandboxSettings(**paths)).start()


async def test_before_its_start_there_is_nothing_to_read() -> None:
    """Address and journal are asked for after the start."""
    sandbox = Sandbox(SandboxSettings())
    with pytest.raises(RuntimeError, match="start it first"):
        _ = sandbox.base_url
    with pytest.raises(RuntimeError, match="start it first"):
        _ = sandbox.journal


async def test_a_stop_leaves_no_timer_and_no_connection() -> None:
    """A stop ends uploads and slow answers under way, and the journal has their PUTs."""
    async with playing(Faults(put=PutFaults(slow_answer=1.0, slow_seconds=FOREVER))) as client:
        slow = asyncio.create_task(client.put("slow"))
        await client.until(lambda: len(client.sandbox.journal.appended()) == 1)
        reader, _ = await client.begin_put(100)
        await client.sandbox.stop()
        assert (await slow).status is None
        assert await reader.read() == b""
        assert [entry.status for entry in client.sandbox.journal.puts()] == [201, None]


async def test_serve_announces_and_ends_when_told() -> None:
    """The command's sandbox listens when it is announced, and no more when it has ended."""
    stop = asyncio.Event()
    announced: asyncio.Queue[Sandbox] = asyncio.Queue()
    serving = asyncio.create_task(serve(SandboxSettings(), announced.put_nowait, stop))
    client = Client(await announced.get())
    assert (await client.sign_in()).status == 200
    stop.set()
    await serving
    with pytest.raises(ConnectionError):
        await client.open()
