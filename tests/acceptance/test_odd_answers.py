"""What a service answers oddly: the outcome is what it says, a person reads it, and nothing of ours is repeated."""

import asyncio
import json
from collections import Counter
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import pytest

from tests.acceptance.batches import make_rows, read_results, write_manifest
from tests.acceptance.place import Ending, Place
from tests.integration.servers import Exchange, Script, Server, issue

TOKEN = "the-token-of-this-night"
HALF = "caf\ud83d\x00"
NASTY = "\x1b]0;PWNED\x07\x1b[2J\x9b31mred\r\nuploader: all done \u202egnp.exe"
GIVEN = {"UPLOADER_APP_ID": "the-app-id-of-ours", "UPLOADER_APP_SECRET": "the-app-secret-of-ours"}


def conversation_of(exchange: Exchange) -> str:
    """The conversation that a PUT is for."""
    return unquote(exchange.request.target.rpartition("/")[2].partition("?")[0])


def number_of(exchange: Exchange) -> int:
    """Return the number of a PUT, from 1."""
    return [put is exchange.request for put in exchange.server.puts()].index(True) + 1


def answering(status: int, **members: Any) -> Script:
    """A PUT's script: a jobId of its own for each, unless one is given."""

    async def script(exchange: Exchange) -> None:
        await exchange.read_body()
        job = f"job-{number_of(exchange)}"
        await exchange.answer(status, {"conversationId": conversation_of(exchange), "jobId": job, **members})

    return script


def saying(**members: Any) -> Script:
    """A job endpoint's script."""

    async def script(exchange: Exchange) -> None:
        await exchange.answer(200, {"status": "completed", **members})

    return script


async def run(place: Place, server: Server, *arguments: str, command: str = "run") -> Ending:
    """Runs a command against a server of this test, beside it."""
    environment = {"UPLOADER_BASE_URL": server.base_url, **GIVEN}
    words = ("m.csv",) if command in ("run", "plan") else ()
    return await asyncio.to_thread(place.run, command, *words, *arguments, environment=environment)


def told_by(place: Place, path: Path) -> list[dict[str, Any]]:
    """The results, line by line."""
    assert place.folder == path.parent
    return read_results(path)


@pytest.mark.parametrize(("status", "state", "code"), [(400, "refused", 1), (201, "completed", 0)])
async def test_half_a_character_changes_no_outcome(place: Place, status: int, state: str, code: int) -> None:
    r"""Shown as ``\ud83d`` wherever it stands; a refusal is one, and a jobId that came is not lost."""
    write_manifest(place, "m.csv", make_rows(place, 2, 2))
    script = answering(status, message=HALF)
    if status == 201:

        async def script(exchange: Exchange) -> None:
            await answering(201, message=HALF, jobId=f"real-{number_of(exchange)}-{HALF}")(exchange)

    async with Server(script, token=issue(TOKEN), get=saying()) as server:
        ending = await run(place, server, "--json")
    assert (ending.code, {line["status"] for line in read_results(place.path("m.results.csv"))}) == (code, {state})
    result = json.dumps(read_results(place.path("m.results.csv")))
    assert json.dumps("caf\\ud83d\\u0000")[1:-1] in result


async def test_a_secret_that_the_service_repeats_is_nowhere(place: Place) -> None:
    """Token, app id and app secret stand in no file, and in nothing that is printed."""
    write_manifest(place, "m.csv", make_rows(place, 1, 1))
    said = " ".join([TOKEN, *GIVEN.values()])
    async with Server(answering(400, message=f"bad: {said}"), token=issue(TOKEN)) as server:
        endings = [await run(place, server, "--log-level", "debug")]
        endings += [await run(place, server, command=command) for command in ("status", "resolve", "results")]
    shown = "".join(ending.out + ending.err for ending in endings).encode()
    for path in place.folder.rglob("*"):
        if path.is_file() and not path.name.startswith("."):
            shown += path.read_bytes()
    assert [text for text in (TOKEN, *GIVEN.values()) if text.encode() in shown] == []
    assert "bad: … … …" in read_results(place.path("m.results.csv"))[0]["error"]


@pytest.mark.parametrize("kind", ["message", "job", "status"])
async def test_what_a_terminal_would_obey_is_shown_escaped(place: Place, kind: str) -> None:
    """Summary, status, resolve, plan and the log in text: no cursor moves, and no line is faked."""
    write_manifest(place, "m.csv", make_rows(place, 1, 1))
    put = {"message": answering(400, message=NASTY), "job": answering(201, jobId=f"job {NASTY}")}
    get = saying(status=NASTY) if kind == "status" else saying(status="failed")
    async with Server(put.get(kind, answering(201)), token=issue(TOKEN), get=get) as server:
        endings = [await run(place, server, "--log-format", "text", "--job-timeout-seconds", "1")]
        endings += [await run(place, server, command=command) for command in ("status", "resolve", "plan")]
    shown = "".join(ending.out + ending.err for ending in endings)
    assert [text for text in shown if not text.isprintable() and text != "\n"] == []
    assert not [line for line in shown.split("\n") if line.startswith("uploader: all done")]
    assert "PWNED" in shown


async def test_a_status_in_capitals_is_the_same(place: Place) -> None:
    """Letter case and blanks of a job's status do not matter."""
    write_manifest(place, "m.csv", make_rows(place, 2, 2))
    async with Server(answering(201), token=issue(TOKEN), get=saying(status=" COMPLETED ")) as server:
        assert (await run(place, server)).code == 0


async def test_an_unknown_status_is_told_once_with_its_word(place: Place) -> None:
    """In the log at once, in `status`, and at the end; and the job is not asked for as often as a live one."""
    write_manifest(place, "m.csv", make_rows(place, 1, 1))
    async with Server(answering(201), token=issue(TOKEN), get=saying(status="cancelled")) as server:
        running = asyncio.create_task(run(place, server, "--job-timeout-seconds", "7"))
        await server.until(lambda: len(server.gets()) >= 2)
        assert (await run(place, server, command="status")).out.count("'cancelled'") == 1
        ending = await running
        status = await run(place, server, command="status")
        looks = len(server.gets())
    assert ending.code == 4
    events = [json.loads(line) for line in ending.err.splitlines()]
    assert ["'cancelled'" in str(event.get("said")) for event in events].count(True) == 1
    assert "'cancelled'" in ending.out
    assert "'cancelled'" in status.out
    assert looks <= 8


async def test_one_job_id_for_two_files_is_believed_once(place: Place) -> None:
    """The second is in doubt, and says that the job is another item's."""
    write_manifest(place, "m.csv", make_rows(place, 3, 3))
    async with Server(answering(201, jobId="the-only-one"), token=issue(TOKEN), get=saying()) as server:
        ending = await run(place, server, "--limit", "3")
        assert len(server.puts()) == 3
    assert ending.code == 4
    lines = read_results(place.path("m.results.csv"))
    assert Counter(line["status"] for line in lines) == {"completed": 1, "in_doubt": 2}
    assert all("another item" in line["error"] for line in lines if line["status"] == "in_doubt")


async def test_an_answer_about_another_job_ends_nothing(place: Place) -> None:
    """Neither completed nor failed: in doubt, after it was asked again, and it is said what came."""
    write_manifest(place, "m.csv", make_rows(place, 2, 2))

    async def about_another(exchange: Exchange) -> None:
        job = exchange.request.target.rpartition("/")[2]
        await saying(id="someone-else", status="completed" if job == "job-1" else "failed")(exchange)

    async with Server(answering(201), token=issue(TOKEN), get=about_another) as server:
        ending = await run(place, server)
    assert ending.code == 4
    lines = read_results(place.path("m.results.csv"))
    assert {(line["status"], line["jobId"]) for line in lines} == {("in_doubt", "job-1"), ("in_doubt", "job-2")}
    assert all("someone-else" in line["error"] for line in lines)
