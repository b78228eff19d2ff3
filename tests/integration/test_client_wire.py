"""The client's requests on the wire, byte for byte."""

from pathlib import Path

import pytest

from tests.integration.servers import (
    MEBIBYTE,
    Request,
    Server,
    always,
    audio,
    clean_environment,  # noqa: F401 - a fixture
    issue,
    send,
    send_once,
    speaking,
)
from tests.integration.servers import asking as ask
from uploader.client import Credentials, UploadRequest
from uploader.model import Outcome, State
from uploader.policy.replies import judge

PREFIX = "/v1/process/audio/"
SIZES = [
    *(1, 2, 3, 100),
    *(16 * 1024 - 1, 16 * 1024, 16 * 1024 + 1, 32 * 1024, 32 * 1024 + 1),
    *(256 * 1024 - 1, 256 * 1024, 256 * 1024 + 1, 272 * 1024, 512 * 1024 + 1),
    *(MEBIBYTE + 1, 5 * MEBIBYTE),
]


async def put_of(tmp_path: Path, request: UploadRequest, base_path: str = "") -> Request:
    """Return the one PUT of an upload."""
    async with Server(token=issue("the-token")) as server:
        async with speaking(server.base_url + base_path) as client:
            await send(client, audio(tmp_path, 1000), request=request)
        await server.settled()
        [put] = server.puts()
        return put


@pytest.mark.parametrize("size", SIZES)
async def test_the_body_is_the_file(tmp_path: Path, size: int) -> None:
    """Of every size, the file arrives byte for byte, with its exact length and never in chunks."""
    path = audio(tmp_path, size)
    async with Server() as server:
        reply = await send_once(server, path)
        [put] = server.puts()
    assert bytes(put.body) == path.read_bytes()
    assert put.all("content-length") == [str(size)]
    assert put.all("transfer-encoding") == []
    assert (reply.status, reply.last_chunk_left, reply.bytes_sent) == (201, True, size)
    assert judge(reply, "c").outcome is Outcome.APPLIED


async def test_the_head_says_what_is_documented_and_no_more(tmp_path: Path) -> None:
    """The token as a bearer, never as x-api-key, no media type of our own making, no cookie."""
    put = await put_of(tmp_path, ask())
    assert put.line == f"PUT {PREFIX}c HTTP/1.1"
    assert put.all("authorization") == ["Bearer the-token"]
    names = [name for name, _ in put.fields]
    assert len(names) == len(set(names))
    assert not {"x-api-key", "content-type", "content-encoding", "transfer-encoding", "cookie"} & set(names)


@pytest.mark.parametrize("kind", ["audio/wav", "audio/wave", "audio/mpeg", "audio/mp3"])
async def test_a_media_type_is_sent_as_it_was_given(tmp_path: Path, kind: str) -> None:
    """The four documented types go out once, unchanged."""
    put = await put_of(tmp_path, ask(kind=kind))
    assert put.all("content-type") == [kind]


CONVERSATIONS = {
    "5815170693595136": "5815170693595136",
    "a/b c%2F?é#": "a%2Fb%20c%252F%3F%C3%A9%23",
    "..-": "..-",
    "...": "...",
    "../../v1/job/x": "..%2F..%2Fv1%2Fjob%2Fx",
    "%2e%2e": "%252e%252e",
    "a+b": "a%2Bb",
    "~-._": "~-._",
    "a;b=c,d@e:f&g$h!i'j(k)l*m": "a%3Bb%3Dc%2Cd%40e%3Af%26g%24h%21i%27j%28k%29l%2Am",
    '\\"<>^`{|}': "%5C%22%3C%3E%5E%60%7B%7C%7D",
    "日本 🎧": "%E6%97%A5%E6%9C%AC%20%F0%9F%8E%A7",
    "a\r\nX-Api-Key: b": "a%0D%0AX-Api-Key%3A%20b",
    "c\x00\t\x7f": "c%00%09%7F",
}


@pytest.mark.parametrize("conversation", CONVERSATIONS)
@pytest.mark.parametrize("base_path", ["", "/some/base"])
async def test_the_conversation_id_is_one_segment_of_the_path(
    tmp_path: Path, conversation: str, base_path: str
) -> None:
    """Every byte of an id that could mean something else in a URL is percent-encoded, once."""
    put = await put_of(tmp_path, ask(conversation), base_path)
    assert put.line == f"PUT {base_path}{PREFIX}{CONVERSATIONS[conversation]} HTTP/1.1"


QUERIES = [
    ([], ""),
    ([("name", "Business Meeting")], "?name=Business%20Meeting"),
    ([("name", "a&b=c+d;e%20f#g?h/i")], "?name=a%26b%3Dc%2Bd%3Be%2520f%23g%3Fh%2Fi"),
    ([("name", "Größe 日本 🎧")], "?name=Gr%C3%B6%C3%9Fe%20%E6%97%A5%E6%9C%AC%20%F0%9F%8E%A7"),
    ([("name", "")], "?name="),
    ([("name", "a\r\nb")], "?name=a%0D%0Ab"),
    ([("name", "~-._*'()!")], "?name=~-._%2A%27%28%29%21"),
    (
        [("customVocabulary", '["Platform","Targets"]'), ("confidenceThreshold", "0.6")],
        "?customVocabulary=%5B%22Platform%22%2C%22Targets%22%5D&confidenceThreshold=0.6",
    ),
    ([("b", "1"), ("a", "2")], "?b=1&a=2"),
]


@pytest.mark.parametrize(("query", "encoded"), QUERIES)
async def test_the_query_is_percent_encoded(tmp_path: Path, query: list[tuple[str, str]], encoded: str) -> None:
    """Parameters go out as key=value in their order; a space is %20, and nothing is encoded twice or left bare."""
    put = await put_of(tmp_path, ask(query=query))
    assert put.line == f"PUT {PREFIX}c{encoded} HTTP/1.1"


@pytest.mark.parametrize("status", [300, 301, 302, 303, 307, 308])
async def test_no_redirect_is_followed(tmp_path: Path, status: int) -> None:
    """Neither file nor token goes where a redirect points: not to another server, not to this one."""
    async with Server() as other, Server(always(status, Location=f"{other.base_url}{PREFIX}c")) as server:
        reply = await send_once(server, audio(tmp_path, 300_000))
        await other.settled()
        assert (len(server.puts()), other.connections) == (1, 0)
    assert (reply.status, reply.last_chunk_left) == (status, True)
    assert judge(reply, "c").state is State.REFUSED


@pytest.mark.parametrize("status", [301, 302, 307, 308])
async def test_no_redirect_takes_token_or_secret_along(tmp_path: Path, status: int) -> None:
    """A redirected poll, and a redirected request for a token, end where they were sent."""
    async with Server() as other:
        elsewhere = always(status, Location=f"{other.base_url}/v1/job/x")
        async with Server(get=elsewhere) as server, speaking(server.base_url) as client:
            assert (await client.job("x")).status is None
        away = always(status, Location=f"{other.base_url}/oauth2/token:generate")
        async with Server(token=away) as server, speaking(server.base_url) as client:
            with pytest.raises(Exception, match="token:generate"):
                await client.authorise()
        assert other.connections == 0


async def test_a_ready_token_is_used_as_it_is(tmp_path: Path) -> None:
    """With an access token nothing is asked of the token endpoint."""
    async with Server() as server:
        async with speaking(server.base_url, Credentials(access_token="ready")) as client:
            await send(client, audio(tmp_path, 10))
        assert server.token_requests() == []
        assert [put.all("authorization") for put in server.puts()] == [["Bearer ready"]]
