"""Insights over TCP: the real client, ledger and files, against the sandbox and against servers by hand."""

import json
import random
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import pytest

from tests.integration.by_hand import playing
from tests.integration.servers import (
    Exchange,
    Script,
    Server,
    always,
    clean_environment,  # noqa: F401 - a fixture
    hung_up_after_body,
    in_turn,
    reset_after_body,
    speaking,
)
from tests.integration.test_ledger import Book, accepted, opened
from uploader.client import Credentials
from uploader.engine import run_concurrently
from uploader.errors import CredentialsError, GaveUpError, UsageError
from uploader.insights import Fetcher, Report, RetryingReader
from uploader.ledger.reading import find_batches
from uploader.model import Answer, Load
from uploader.pace import Pace
from uploader.policy.insights import chosen
from uploader.policy.parts import PARTS

SANDBOX = Credentials("sandbox", "sandbox")
GONE = "The conversation and/or it's metadata you asked could not be found, please check the input provided"
HEAD = ["conversationId", "service", "fetchedAt", "completed", "parts", "errors", "conversation"]
MEMBERS = [part.member for part in PARTS]


@pytest.fixture
def book(tmp_path: Path) -> Iterator[Book]:
    """A new ledger, open for a run."""
    with opened(tmp_path) as made:
        yield made


def load_done(book: Book, *conversations: str) -> Load:
    """A batch in which each of these conversations has a completed item."""
    load = book.load([(conversation, "a.wav") for conversation in conversations])
    book.complete_all()
    return load


async def fetch(
    book: Book,
    base_url: str,
    *,
    only: Sequence[str] = (),
    again: bool = False,
    give_up_seconds: float = 60.0,
    credentials: Credentials | None = None,
) -> Report:
    """Fetch the insights of the batch that was loaded, as the command does, into the book's folder ``out``."""
    out = book.folder / "out"
    out.mkdir(exist_ok=True)
    rng = random.Random()
    rng.random = lambda: 0.0  # type: ignore[method-assign] # the shortest waits
    with book.ledger.beside() as ledger:
        with ledger.reading() as connection:
            batch = find_batches(connection)[0]._replace(base_url=base_url)
        async with speaking(base_url, *([credentials] if credentials else [])) as client:
            fetcher = Fetcher(
                reader=RetryingReader(client, Pace(2000.0), time.monotonic, rng, give_up_seconds),
                ledger=ledger,
                batch=batch,
                folder=out,
                wanted=chosen(only),
                again=again,
                now=lambda: book.now,
            )
            await run_concurrently([fetcher.fetch_all() for _ in range(3)])
            return fetcher.report


def written(book: Book) -> dict[str, dict[str, Any]]:
    """The files' contents, by their conversationIds."""
    found = [json.loads(path.read_text(encoding="utf-8")) for path in (book.folder / "out").glob("*.json")]
    return {name["conversationId"]: name for name in found}


def counts(report: Report) -> tuple[int, int, int]:
    """Written, up to date, left out."""
    return report.written, report.up_to_date, report.left_out


def asked(server: Server) -> Counter[str]:
    """Count the requests for conversations by path."""
    return Counter(get.target.removeprefix("/v1/conversations/") for get in server.gets())


def by_path(answers: Callable[[str], Awaitable[None] | Script]) -> Script:
    """A script that chooses another by the path under the conversation."""

    async def play(exchange: Exchange) -> None:
        chosen_script = answers(exchange.request.target.removeprefix("/v1/conversations/"))
        assert callable(chosen_script)
        await chosen_script(exchange)

    return play


async def test_the_sandbox_tells_what_was_appended(book: Book) -> None:
    """Every part in one file, each asked for once; no speech is invented, and the answers say so."""
    load_done(book, "c", "d")
    async with playing(job_seconds=0.0) as client:
        for conversation in ("c", "c", "d"):
            job = (await client.put(conversation, query="?enableSummary=true" if conversation == "d" else "")).body
            await client.until_status(job["jobId"], "completed")
        report = await fetch(book, client.sandbox.base_url, credentials=SANDBOX)
        looks = Counter((look.conversation_id, look.part) for look in client.sandbox.journal.looks())
    assert counts(report) == (2, 0, 0)
    assert looks == {
        (conversation, part): 1 for conversation in "cd" for part in (None, *(part.path for part in PARTS))
    }
    files = written(book)
    assert list(files["c"]) == HEAD + MEMBERS
    assert [len(files[conversation]["messages"]["messages"]) for conversation in "cd"] == [2, 1]
    assert all("does not transcribe" in message["text"] for message in files["c"]["messages"]["messages"])
    assert (files["c"]["topics"]["topics"], files["c"]["trackers"]) == ([], [])
    assert "invents no speech" in files["c"]["topics"]["note"]
    assert files["c"]["summary"] is None
    assert "enableSummary" in files["c"]["errors"]["summary"]
    assert "does not summarise" in files["d"]["summary"]["summary"][0]["text"]
    assert (report.lacking, files["d"]["errors"]) == ({"summary": 1}, {})


async def test_the_sandbox_has_no_summary_while_a_job_runs() -> None:
    """While a job runs there is none (404, with a word), and the rest is partial; an unknown conversation is 404."""
    async with playing() as client:
        await client.put("c", query="?enableSummary=true")
        running = await client.get("/v1/conversations/c/summary")
        assert (running.status, "in progress" in running.body["message"]) == (404, True)
        assert (await client.get("/v1/conversations/c/messages")).body == {"messages": []}
        assert (await client.get("/v1/conversations/c/nothing")).status == 404
        assert [look.status for look in client.sandbox.journal.looks()] == [404, 200]


async def test_what_is_up_to_date_is_not_asked_for_again(book: Book) -> None:
    """The second time nothing is asked; once something was appended, that conversation alone is fetched anew."""
    load_done(book, "c", "d")
    async with Server(get=always(200, {})) as server:
        assert counts(await fetch(book, server.base_url)) == (2, 0, 0)
        assert counts(await fetch(book, server.base_url)) == (0, 2, 0)
        assert set(asked(server).values()) == {1}
        book.load([("c", "b.wav"), ("d", "a.wav")])
        book.complete_all()
        assert counts(await fetch(book, server.base_url)) == (1, 1, 0)
        assert {path for path, times in asked(server).items() if times > 1} == {"c"} | {f"c/{p.path}" for p in PARTS}
    assert [written(book)[conversation]["completed"]["items"] for conversation in "cd"] == [2, 1]


async def test_parts_can_be_chosen_and_come_together(book: Book) -> None:
    """--only asks for those alone; what the file had stays as long as it is true; --again asks in any case."""
    load_done(book, "c")
    async with Server(get=always(200, {})) as server:
        assert counts(await fetch(book, server.base_url, only=["topics", "action-items"])) == (1, 0, 0)
        assert asked(server) == {"c": 1, "c/topics": 1, "c/action-items": 1}
        assert list(written(book)["c"]) == [*HEAD, "topics", "actionItems"]
        await fetch(book, server.base_url, only=["topics", "trackers"])
        assert asked(server) == {"c": 2, "c/topics": 1, "c/action-items": 1, "c/trackers-detected": 1}
        assert list(written(book)["c"]) == [*HEAD, "topics", "actionItems", "trackers"]
        assert counts(await fetch(book, server.base_url, only=["topics"])) == (0, 1, 0)
        assert counts(await fetch(book, server.base_url, only=["topics"], again=True)) == (1, 0, 0)
        assert asked(server)["c/topics"] == 2
        assert list(written(book)["c"]) == [*HEAD, "topics", "actionItems", "trackers"]
        book.load([("c", "b.wav")])
        book.complete_all()
        await fetch(book, server.base_url, only=["topics"])
    assert list(written(book)["c"]) == [*HEAD, "topics"], "what is older than the last append is not kept"


async def test_a_part_that_is_not_there_costs_no_file(book: Book) -> None:
    """A refusal of a part stands in the file with the service's words, in place of the part."""
    load_done(book, "c")
    script = by_path(lambda path: always(404, {"message": GONE}) if path == "c/summary" else always(200, {"x": path}))
    async with Server(get=script) as server:
        report = await fetch(book, server.base_url)
    file = written(book)["c"]
    assert (file["summary"], file["errors"]) == (None, {"summary": f"HTTP 404: {GONE}"})
    assert (file["topics"], file["conversation"]) == ({"x": "c/topics"}, {"x": "c"})
    assert (counts(report), report.lacking) == ((1, 0, 0), {"summary": 1})


async def test_a_conversation_that_the_service_does_not_know_is_left_out(book: Book) -> None:
    """Its parts are not asked for; the others are written."""
    load_done(book, "c", "d")
    script = by_path(lambda path: always(404, {"message": GONE}) if path.startswith("c") else always(200, {}))
    async with Server(get=script) as server:
        report = await fetch(book, server.base_url)
        assert [path for path in asked(server) if path.startswith("c")] == ["c"]
    assert (counts(report), list(written(book))) == ((1, 0, 1), ["d"])
    assert [(conversation.conversation_id, conversation.reason) for conversation in report.examples] == [
        ("c", f"HTTP 404: {GONE}")
    ]


async def test_trouble_on_the_way_is_asked_again(book: Book) -> None:
    """Lost answers, answers that break off, 5xx and 429 cost nothing but time: whole files in the end."""
    load_done(book, "c", "d", "e")
    trouble = [hung_up_after_body, always(500), always(200, b'{"mess'), always(429), reset_after_body, always(503)]
    async with Server(get=in_turn(*trouble, *trouble, always(200, [1]))) as server:
        report = await fetch(book, server.base_url)
    assert counts(report) == (3, 0, 0)
    assert [file["messages"] for file in written(book).values()] == [[1]] * 3


async def test_a_refused_token_is_renewed_once(book: Book) -> None:
    """A 401 in the middle is asked again with a new token, which then serves for the rest."""
    load_done(book, "c")
    async with Server(get=in_turn(always(200, {}), always(401), always(200, {}))) as server:
        assert counts(await fetch(book, server.base_url)) == (1, 0, 0)
        assert len(server.token_requests()) == 2


async def test_credentials_that_are_not_taken_end_it(book: Book) -> None:
    """A 401 that stays a 401 is the credentials' fault; nothing is written."""
    load_done(book, "c")
    async with Server(get=always(401)) as server:
        with pytest.raises(CredentialsError):
            await fetch(book, server.base_url)
    assert written(book) == {}


async def test_a_service_without_a_good_answer_is_given_up(book: Book) -> None:
    """Files written before stay, and the same command goes on from there."""
    load_done(book, "c")
    async with Server(get=always(200, {})) as server:
        await fetch(book, server.base_url)
        book.load([("c", "a.wav"), ("d", "a.wav")])
        book.complete_all()
        server._scripts["GET"] = always(502)
        with pytest.raises(GaveUpError, match="HTTP 502"):
            await fetch(book, server.base_url, give_up_seconds=0.01)
        assert list(written(book)) == ["c"]
        server._scripts["GET"] = always(200, {})
        assert counts(await fetch(book, server.base_url)) == (1, 1, 0)


async def test_live_jobs_leave_a_conversation_out(book: Book) -> None:
    """Nothing is asked of a conversation whose job may still run: its insights would not be whole."""
    book.load([("c", "a.wav"), ("c", "b.wav"), ("d", "a.wav")])
    for claim in book.claim():
        book.complete(claim)
    book.answer(book.claim_one(), accepted("running"))
    async with Server(get=always(200, {})) as server:
        report = await fetch(book, server.base_url)
        assert {path.partition("/")[0] for path in asked(server)} == {"d"}
        assert (counts(report), list(written(book))) == ((1, 0, 1), ["d"])
        assert "a job that may still run" in report.examples[0].reason
        book.end("running")
        assert counts(await fetch(book, server.base_url)) == (1, 1, 0)


async def test_what_is_appended_meanwhile_leaves_a_conversation_out(book: Book) -> None:
    """A run beside it may begin a job while it is fetched: what came is not whole, and is not written."""
    load_done(book, "c")
    book.load([("c", "a.wav"), ("c", "b.wav")])

    async def begin(exchange: Exchange) -> None:
        book.admit(book.claim_one())
        await exchange.answer(200, {})

    async with Server(get=in_turn(always(200, {}), begin, always(200, {}))) as server:
        report = await fetch(book, server.base_url)
    assert (counts(report), written(book)) == ((0, 0, 1), {})
    assert "appended to while it was fetched" in report.examples[0].reason


async def test_a_file_of_another_service_is_not_replaced(book: Book) -> None:
    """The same folder for two services: an error, and the file stands."""
    load_done(book, "c")
    async with Server(get=always(200, {})) as server, Server(get=always(200, {})) as other:
        await fetch(book, server.base_url)
        with pytest.raises(UsageError, match="name another folder"):
            await fetch(book, other.base_url)
        assert other.gets() == []
    assert written(book)["c"]["service"] == server.base_url


async def test_a_file_that_does_not_say_what_it_has_is_fetched_anew(book: Book) -> None:
    """Somebody changed it: nothing of it is believed, and nothing breaks."""
    load_done(book, "c")
    async with Server(get=always(200, {})) as server:
        await fetch(book, server.base_url)
        path = book.folder / "out" / "c.json"
        path.write_text(json.dumps(written(book)["c"] | {"parts": ["topics"], "errors": None}), encoding="utf-8")
        assert counts(await fetch(book, server.base_url, only=["topics"])) == (1, 0, 0)
    assert list(written(book)["c"]) == [*HEAD, "topics"]


async def test_ids_of_every_kind_are_asked_for_as_they_are(book: Book) -> None:
    """Slashes, dots, spaces, capitals: the service is asked for exactly that, and each has a file in the folder."""
    ids = ["a/b", "../../etc/passwd", "..%2F", "A", "a", "é 日", "?x=1#y", "x" * 3000]
    load_done(book, *ids)
    async with Server(get=always(200, {})) as server:
        assert counts(await fetch(book, server.base_url, only=["summary"])) == (len(ids), 0, 0)
        paths = set(asked(server))
    assert {unquote(path) for path in paths if path.count("/") == 0} == set(ids)
    assert set(written(book)) == set(ids)
    assert {path.parent for path in book.folder.rglob("*.json")} == {book.folder / "out"}


async def test_what_the_service_said_is_told_as_it_is() -> None:
    """An array, an object, no JSON, a Retry-After: the client adds and takes away nothing."""
    script = in_turn(
        always(200, [{"name": "x"}]),
        always(404, {"message": "no"}),
        always(503, b"<html>", **{"Retry-After": "7"}),
    )
    async with Server(get=script) as server, speaking(server.base_url) as client:
        answers = [await client.conversation("c", "trackers-detected") for _ in range(3)]
    assert answers == [
        Answer(200, [{"name": "x"}]),
        Answer(404, {"message": "no"}),
        Answer(503, None, "7", "the answer is no JSON (6 bytes): it begins with '<html>'"),
    ]
