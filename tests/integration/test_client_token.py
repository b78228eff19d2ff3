"""The access token: fetched once, renewed in time and after a 401, and never shown."""

import asyncio
import json
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.integration.servers import (
    CREDENTIALS,
    TOKEN_PATH,
    Exchange,
    RecordingAdmission,
    Script,
    Server,
    accept,
    always,
    audio,
    clean_environment,  # noqa: F401 - a fixture
    hung_up_after_body,
    in_turn,
    issue,
    send,
    speaking,
)
from uploader.client import Client, Credentials, Expect
from uploader.errors import CredentialsError, GaveUpError, UploaderError
from uploader.model import Outcome, Reply
from uploader.policy.replies import judge

READY = Credentials(access_token="the-ready-token")
LONG = Expect(above_bytes=1000, seconds=0.1)
BOTH = Credentials("the-app-id", "the-app-secret", "the-ready-token")
SECRETS = ("the-app-secret", "the-app-id", "the-ready-token", "issued-token")


@dataclass
class Clock:
    """A clock that a test sets."""

    seconds: float = 1000.0

    def __call__(self) -> float:
        """Return the time."""
        return self.seconds


def bearers(server: Server) -> list[str]:
    """List the tokens of the PUTs, in order."""
    return [value.removeprefix("Bearer ") for put in server.puts() for value in put.all("authorization")]


async def refused(exchange: Exchange) -> None:
    """Take the file, and refuse the token."""
    await always(401, {"message": "Unauthorized. Please generate a new access token."})(exchange)


async def test_the_token_is_asked_for_as_documented(tmp_path: Path) -> None:
    """One POST of the application's credentials as JSON, without an Authorization of its own."""
    async with Server() as server:
        async with speaking(server.base_url) as client:
            await send(client, audio(tmp_path, 10))
        [request] = server.token_requests()
    wanted = {"type": "application", "appId": "the-app-id", "appSecret": "the-app-secret"}
    assert json.loads(bytes(request.body)) == wanted
    assert request.line == f"POST {TOKEN_PATH} HTTP/1.1"
    assert request.all("content-type") == ["application/json"]
    assert request.all("authorization") == []


async def test_one_token_serves_uploads_at_once(tmp_path: Path) -> None:
    """Twenty uploads that begin together wait for one token, and all use it."""
    path = audio(tmp_path, 1000)
    arrived = asyncio.Event()

    async def issue_late(exchange: Exchange) -> None:
        await arrived.wait()
        await issue("t")(exchange)

    async with Server(token=issue_late) as server, speaking(server.base_url) as client:
        uploads = asyncio.gather(*(send(client, path) for _ in range(20)))
        await server.until(lambda: len(server.token_requests()) == 1)
        arrived.set()
        replies = await uploads
        assert len(server.token_requests()) == 1
        assert bearers(server) == ["t"] * 20
    assert {reply.status for reply in replies} == {201}


@pytest.mark.parametrize(
    ("lifetime", "fresh", "nearly_over"), [(86400, 80000, 86399), (600, 300, 599), (10, 5, 9.9), (2, 1, 1.99)]
)
async def test_a_token_is_renewed_before_it_ends(
    tmp_path: Path, lifetime: float, fresh: float, nearly_over: float
) -> None:
    """As long as there is time left the token stays; shortly before its end an upload gets a new one."""
    path, clock = audio(tmp_path, 10), Clock()
    token = in_turn(issue("first", lifetime), issue("second", lifetime))
    async with Server(token=token) as server, speaking(server.base_url, now=clock) as client:
        for passed in (0, fresh, nearly_over, nearly_over + fresh):
            clock.seconds = 1000.0 + passed
            await send(client, path)
        assert bearers(server) == ["first", "first", "second", "second"]
        assert len(server.token_requests()) == 2


@pytest.mark.parametrize(
    ("seconds", "passed", "size", "used"),
    [
        (86400, 0, 5000, ["first", "first"]),
        (86400, 85000, 5000, ["first", "first"]),
        (86400, 86000, 5000, ["first", "second"]),
        (86400, 86000, 1000, ["first", "first"]),
        (500, 100, 5000, ["first", "first"]),
        (500, 499, 5000, ["first", "second"]),
    ],
)
async def test_a_long_body_begins_with_a_token_that_lasts(
    tmp_path: Path, seconds: float, passed: float, size: int, used: list[str]
) -> None:
    """Ten minutes are left before a long body begins, where the service's tokens live longer than that."""
    path, clock = audio(tmp_path, size), Clock()
    token = in_turn(issue("first", seconds), issue("second", seconds))
    async with Server(token=token) as server, speaking(server.base_url, now=clock, expect=LONG) as client:
        for after in (0, passed):
            clock.seconds = 1000.0 + after
            await send(client, path)
        assert bearers(server) == used


async def test_a_token_that_is_handed_out_again_is_not_asked_for_with_every_body(tmp_path: Path) -> None:
    """A service that caches its token gives what is left of it: one request more, and then it is used to its end."""
    path, clock = audio(tmp_path, 5000), Clock()
    token = in_turn(issue("cached", 86400), issue("cached", 500))
    async with Server(token=token) as server, speaking(server.base_url, now=clock, expect=LONG) as client:
        for after in (0, 85900, 85950, 86000, 86300):
            clock.seconds = 1000.0 + after
            await send(client, path)
        assert bearers(server) == ["cached"] * 5
        assert len(server.token_requests()) == 2


@pytest.mark.parametrize("status", [401, 404, 429, 500])
async def test_a_token_that_cannot_be_renewed_early_serves_to_its_end(tmp_path: Path, status: int) -> None:
    """What a long body would like to have ends nothing: the token that is good as yet is used, and asked for once."""
    path, clock = audio(tmp_path, 5000), Clock()
    token = in_turn(issue("first"), always(status))
    async with Server(token=token) as server, speaking(server.base_url, now=clock, expect=LONG) as client:
        for after in (0, 86000, 86100):
            clock.seconds = 1000.0 + after
            assert (await send(client, path)).status == 201
        assert bearers(server) == ["first"] * 3
        assert len(server.token_requests()) == 2


async def test_a_token_with_no_time_left_is_waited_out(tmp_path: Path) -> None:
    """The service hands out what it has cached: one that ends at once is never used, the next one is."""
    token = in_turn(issue("over", 0), issue("good"))
    async with Server(token=token) as server, speaking(server.base_url) as client:
        reply = await send(client, audio(tmp_path, 10))
        assert bearers(server) == ["good"]
        assert len(server.token_requests()) == 2
    assert reply.status == 201


async def test_after_a_401_the_next_upload_has_a_new_token(tmp_path: Path) -> None:
    """A refused token is not used again, although it had time left; nothing was appended."""
    path = audio(tmp_path, 1000)
    async with Server(in_turn(refused, accept)) as server, speaking(server.base_url) as client:
        first, second = await send(client, path), await send(client, path)
        assert bearers(server) == ["token-1", "token-2"]
    assert (first.status, second.status) == (401, 201)
    assert judge(first, "c").outcome is Outcome.NOT_SENT


async def test_uploads_at_once_that_are_refused_cost_one_renewal(tmp_path: Path) -> None:
    """Ten uploads refused with one and the same token are one refusal: the next one goes well with a new token."""
    path = audio(tmp_path, 1000)

    async def refuse_the_first(exchange: Exchange) -> None:
        await exchange.read_body()
        # all ten are out with the first token before the first answer comes
        await exchange.server.until(lambda: len(exchange.server.puts()) >= 10)
        script = refused if exchange.request.all("authorization") == ["Bearer token-1"] else accept
        await script(exchange)

    async with Server(refuse_the_first) as server, speaking(server.base_url) as client:
        replies = await asyncio.gather(*(send(client, path) for _ in range(10)))
        last = await send(client, path)
        assert bearers(server) == ["token-1"] * 10 + ["token-2"]
    assert ({reply.status for reply in replies}, last.status) == ({401}, 201)


async def test_three_new_tokens_refused_end_it(tmp_path: Path) -> None:
    """The service gives tokens and takes none: after the third the client says so, and sends nothing more."""
    path = audio(tmp_path, 1000)
    async with Server(refused) as server, speaking(server.base_url) as client:
        replies = [await send(client, path) for _ in range(3)]
        with pytest.raises(CredentialsError, match="3 new tokens in a row"):
            await send(client, path)
        assert bearers(server) == ["token-1", "token-2", "token-3"]
    assert [reply.status for reply in replies] == [401] * 3


@pytest.mark.parametrize("other", [accept, always(404), always(429), always(201, b"no JSON")])
async def test_only_refusals_in_a_row_count(tmp_path: Path, other: Script) -> None:
    """An answer that is no 401 shows that the token was taken: two refusals before it and two after it end nothing."""
    path = audio(tmp_path, 1000)
    async with Server(in_turn(refused, refused, other, refused, refused, accept)) as server:
        async with speaking(server.base_url) as client:
            replies = [await send(client, path) for _ in range(6)]
        assert len(server.puts()) == 6
    assert replies[-1].status == 201


@pytest.mark.parametrize("status", [400, 401, 403])
async def test_wrong_credentials_send_nothing(tmp_path: Path, status: int) -> None:
    """A token endpoint that refuses the credentials ends it before the first upload, and names what to check."""
    admission = RecordingAdmission()
    async with Server(token=always(status, {"message": "no"})) as server, speaking(server.base_url) as client:
        with pytest.raises(CredentialsError, match="UPLOADER_APP_SECRET"):
            await client.authorise()
        with pytest.raises(CredentialsError, match="UPLOADER_APP_ID"):
            await send(client, audio(tmp_path, 1000), admission)
        with pytest.raises(CredentialsError):
            await client.job("x")
        assert server.puts() == server.gets() == []
    assert admission.hashes == []


@pytest.mark.parametrize("status", [404, 405, 410, 301])
async def test_a_base_url_without_a_token_endpoint_gives_up(tmp_path: Path, status: int) -> None:
    """Whatever answers there is not the service: the run ends, and says to check the base URL."""
    async with Server(token=always(status)) as server, speaking(server.base_url) as client:
        with pytest.raises(GaveUpError, match="base-url"):
            await client.authorise()
        with pytest.raises(GaveUpError, match=f"HTTP {status}"):
            await send(client, audio(tmp_path, 1000))
        assert server.puts() == []


DEEP = b"[" * 200_000
NO_TOKENS = {
    "500": always(500),
    "503": always(503, {"message": "later"}),
    "429": always(429),
    "408": always(408),
    "hung up": hung_up_after_body,
    "no JSON": always(200, b"<html>"),
    "no UTF-8": always(200, b"\xff\xfe\x00"),
    "no object": always(200, []),
    "no token": always(200, {"expiresIn": 5}),
    "token of another type": always(200, {"accessToken": 5, "expiresIn": 5}),
    "deep": always(200, DEEP),
}


@pytest.mark.parametrize("name", NO_TOKENS)
async def test_without_a_token_nothing_was_sent(tmp_path: Path, name: str) -> None:
    """A token endpoint out of order is no fault of the file: not connected, said why, and good again later."""
    path, admission = audio(tmp_path, 1000), RecordingAdmission()
    token = in_turn(NO_TOKENS[name], NO_TOKENS[name], NO_TOKENS[name], issue("good"))
    async with Server(token=token) as server, speaking(server.base_url) as client:
        assert await client.authorise()
        reply = await send(client, path, admission)
        assert server.puts() == []
        answer = await client.job("x")
        assert server.gets() == []
        later = await send(client, path)
    assert (reply.connected, reply.last_chunk_left, reply.status) == (False, False, None)
    assert "token" in reply.failure
    assert judge(reply, "c").outcome is Outcome.NOT_SENT
    assert (answer.status, bool(answer.reason)) == (None, True)
    assert (admission.hashes, later.status) == ([], 201)


@pytest.mark.parametrize(
    "told", ["soon", None, [], True, -1, -5.0, 1e300, int("9" * 400), "2026-11-28T00:00:00Z", "missing"]
)
async def test_a_token_without_a_sensible_time_is_taken_for_a_day(tmp_path: Path, told: Any) -> None:
    """One fetch serves all uploads of a day; then it is renewed."""
    answer = {"accessToken": "t"} | ({} if told == "missing" else {"expiresIn": told})
    clock = Clock()
    async with Server(token=always(200, answer)) as server, speaking(server.base_url, now=clock) as client:
        for hours in (0.0, 23.0, 0.5):
            clock.seconds += hours * 3600.0
            assert (await send(client, audio(tmp_path, 10))).status == 201
        assert len(server.token_requests()) == 1
        clock.seconds += 3600.0
        assert (await send(client, audio(tmp_path, 10))).status == 201
        assert len(server.token_requests()) == 2


async def test_a_token_without_a_time_is_renewed_after_a_401(tmp_path: Path) -> None:
    """Taken for a day, and renewed at once where the service takes it no more."""
    token = always(200, {"accessToken": "t"})
    async with Server(in_turn(refused, accept), token=token) as server, speaking(server.base_url) as client:
        assert [(await send(client, audio(tmp_path, 10))).status for _ in range(2)] == [401, 201]
        assert len(server.token_requests()) == 2


@pytest.mark.parametrize("status", [429, 503])
async def test_the_token_endpoints_retry_after_is_kept(tmp_path: Path, status: int) -> None:
    """Nobody asks before the time that it names, however many want a token; then one asks, for all."""
    clock = Clock()
    token = in_turn(always(status, **{"Retry-After": "30"}), issue("good"))
    async with Server(token=token) as server, speaking(server.base_url, now=clock) as client:
        for _ in range(3):
            reply = await send(client, audio(tmp_path, 10))
            assert (str(status) in reply.failure, reply.retry_after) == (True, "30")
        assert len(server.token_requests()) == 1
        clock.seconds += 31.0
        replies = await asyncio.gather(*(send(client, audio(tmp_path, 10)) for _ in range(5)))
        assert [reply.status for reply in replies] == [201] * 5
        assert len(server.token_requests()) == 2


async def test_a_good_token_is_announced() -> None:
    """Nothing is missing once there is a token; it is not fetched again for the first upload."""
    async with Server() as server, speaking(server.base_url) as client:
        assert await client.authorise() == ""
        assert await client.authorise() == ""
        assert len(server.token_requests()) == 1


async def test_a_ready_token_that_is_refused_ends_it(tmp_path: Path) -> None:
    """An access token alone cannot be renewed: after a 401 the client says which variables to set, and stops."""
    path = audio(tmp_path, 1000)
    async with Server(refused) as server, speaking(server.base_url, READY) as client:
        reply = await send(client, path)
        with pytest.raises(CredentialsError, match="UPLOADER_ACCESS_TOKEN") as raised:
            await send(client, path)
        with pytest.raises(CredentialsError):
            await client.job("x")
        assert len(server.puts()) == 1
        assert server.token_requests() == server.gets() == []
    assert reply.status == 401
    assert "UPLOADER_APP_ID" in str(raised.value)


@pytest.mark.parametrize("token", ["a token\n", "a\r\nX-Api-Key: b", "a\x00b"])
async def test_a_ready_token_that_no_header_can_carry_is_told(tmp_path: Path, token: str) -> None:
    """A line's end that came along with a secret, say: the credentials are at fault, not the program."""
    async with Server() as server, speaking(server.base_url, Credentials(access_token=token)) as client:
        with pytest.raises(CredentialsError):
            await send(client, audio(tmp_path, 1000))
        assert server.requests == []


async def test_an_issued_token_that_no_header_can_carry_is_none(tmp_path: Path) -> None:
    """A token endpoint out of order that hands out a line's end: nothing was sent, and it may be better later."""
    async with Server(token=issue("a\r\nX-Api-Key: b")) as server, speaking(server.base_url) as client:
        reply = await send(client, audio(tmp_path, 1000))
        assert server.puts() == []
    assert (reply.connected, reply.status, bool(reply.failure)) == (False, None, True)


async def test_a_ready_token_wins_over_the_applications_credentials(tmp_path: Path) -> None:
    """Where both are given, the ready token is used."""
    async with Server() as server, speaking(server.base_url, BOTH) as client:
        await send(client, audio(tmp_path, 10))
        assert bearers(server) == ["the-ready-token"]


@dataclass
class Changing:
    """Credentials that a test changes, as a file does; how often they were read."""

    credentials: Credentials
    may_change: bool = True
    reads: int = 0
    on_read: Callable[[int], None] = lambda _: None

    def read(self) -> Credentials:
        """Read the present credentials."""
        self.reads += 1
        self.on_read(self.reads)
        return self.credentials


@pytest.fixture
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Shorten the waits for a rotation, not their number."""
    monkeypatch.setattr("uploader.client.token.ROTATION_SECONDS", (0.01,) * 4)


def only(secret: str) -> Script:
    """Build a token endpoint that takes one secret and returns a token of its name."""

    async def script(exchange: Exchange) -> None:
        await exchange.read_body()
        given = json.loads(bytes(exchange.request.body))["appSecret"]
        answer = issue(f"for-{secret}") if given == secret else always(401)
        await answer(exchange)

    return script


async def test_a_rotated_secret_is_taken_up(tmp_path: Path) -> None:
    """The secret is read again for the token that follows a 401: a run goes on over a rotation."""
    source = Changing(Credentials("the-app-id", "old"))
    put = in_turn(accept, refused, accept)
    async with Server(put, token=in_turn(only("old"), only("new"))) as server:
        async with speaking(server.base_url, source) as client:
            await send(client, audio(tmp_path, 10))
            source.credentials = Credentials("the-app-id", "new")
            replies = [await send(client, audio(tmp_path, 10)) for _ in range(2)]
        assert bearers(server) == ["for-old", "for-old", "for-new"]
    assert [reply.status for reply in replies] == [401, 201]


@pytest.mark.parametrize("ready", [True, False])
@pytest.mark.usefixtures("_quick")
async def test_a_rotation_that_is_under_way_is_waited_for(tmp_path: Path, ready: bool) -> None:
    """The service knows the new secret a moment before the file does: the file is given that moment."""

    def secret(word: str) -> Credentials:
        return Credentials(access_token=word) if ready else Credentials("the-app-id", word)

    source = Changing(secret("old"))
    put = in_turn(accept, refused, accept)
    async with Server(put, token=in_turn(only("old"), only("new"))) as server:
        async with speaking(server.base_url, source) as client:
            for _ in range(2):
                await send(client, audio(tmp_path, 10))
            late = source.reads + 3

            def change(reads: int) -> None:
                if reads == late:
                    source.credentials = secret("new")

            source.on_read = change
            reply = await send(client, audio(tmp_path, 10))
        assert bearers(server)[-1] == ("new" if ready else "for-new")
    assert reply.status == 201


@pytest.mark.usefixtures("_quick")
async def test_a_file_that_is_being_written_is_waited_for(tmp_path: Path) -> None:
    """For a moment it is empty or gone: that ends no run that had good credentials; where it stays so, that is told."""
    source = Changing(Credentials(access_token="old"))

    def fail(reads: int) -> None:
        if gone(reads):
            raise CredentialsError("the file is empty")

    source.on_read = fail
    gone: Callable[[int], bool] = lambda _: False  # noqa: E731
    async with Server(in_turn(accept, refused, accept, refused)) as server:
        async with speaking(server.base_url, source) as client:
            for _ in range(2):
                await send(client, audio(tmp_path, 10))
            source.credentials, late = Credentials(access_token="new"), source.reads + 2
            gone = lambda reads: reads <= late  # noqa: E731
            assert (await send(client, audio(tmp_path, 10))).status == 201
            assert (await send(client, audio(tmp_path, 10))).status == 401
            gone = lambda _: True  # noqa: E731
            with pytest.raises(CredentialsError, match="the file is empty"):
                await send(client, audio(tmp_path, 10))
        assert bearers(server) == ["old", "old", "new", "new"]


@pytest.mark.usefixtures("_quick")
async def test_a_rotation_that_does_not_come_ends_it_once(tmp_path: Path) -> None:
    """Credentials that stay refused end it, and nobody after the first waits for others; new ones still count."""
    source = Changing(Credentials(access_token="old"))
    async with Server(in_turn(accept, refused, accept)) as server, speaking(server.base_url, source) as client:
        for _ in range(2):
            await send(client, audio(tmp_path, 10))
        with pytest.raises(CredentialsError, match="UPLOADER_ACCESS_TOKEN"):
            await send(client, audio(tmp_path, 10))
        reads = source.reads
        for _ in range(3):
            with pytest.raises(CredentialsError):
                await client.job("x")
        assert source.reads == reads + 3
        source.credentials = Credentials(access_token="new")
        assert (await send(client, audio(tmp_path, 10))).status == 201


async def test_credentials_that_never_were_good_are_not_waited_for(tmp_path: Path) -> None:
    """Whoever starts with a wrong secret learns it at once."""
    source = Changing(Credentials("the-app-id", "wrong"))
    async with Server(token=only("right")) as server, speaking(server.base_url, source) as client:
        with pytest.raises(CredentialsError):
            await client.authorise()
        assert (source.reads, len(server.token_requests())) == (1, 1)


async def test_who_may_ask_and_not_upload_sends_no_file_for_ever(tmp_path: Path) -> None:
    """Polls that go well say nothing of uploads: three refused in a row end it, however many polls are between."""
    async with Server(refused, get=always(200, {"id": "x", "status": "in_progress"})) as server:
        async with speaking(server.base_url) as client:
            for _ in range(2):
                assert (await send(client, audio(tmp_path, 10))).status == 401
                assert (await client.job("x")).status is not None
            assert (await send(client, audio(tmp_path, 10))).status == 401
            with pytest.raises(CredentialsError, match="3 new tokens"):
                await send(client, audio(tmp_path, 10))
        assert len(server.puts()) == 3


async def test_an_upload_that_outlasts_its_token_does_not_vouch_for_it(tmp_path: Path) -> None:
    """An upload that was let in before its token ended goes well; the refusal of the token stands all the same."""
    path = audio(tmp_path, 1000)

    async def slow_first(exchange: Exchange) -> None:
        if len(exchange.server.puts()) > 1:
            await refused(exchange)
            return
        await exchange.read_body()
        await exchange.server.let_go.wait()
        await exchange.answer(201, {"conversationId": "c", "jobId": "j"})

    async with Server(slow_first) as server, speaking(server.base_url, READY) as client:
        first = asyncio.create_task(send(client, path))
        await server.until(lambda: len(server.puts()) == 1)
        assert (await send(client, path)).status == 401
        server.let_go.set()
        assert (await first).status == 201
        with pytest.raises(CredentialsError):
            await send(client, path)
        assert len(server.puts()) == 2


@pytest.mark.parametrize("left", [0, 0.4])
async def test_a_server_that_always_hands_out_seconds_is_not_asked_in_a_hot_loop(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, left: float
) -> None:
    """A cache that never renews: each upload asks twice at most, a second or more apart, and goes out all the same."""
    waits: list[float] = []
    sleep = asyncio.sleep

    async def note(seconds: float) -> None:
        waits.append(seconds)
        await sleep(0)

    monkeypatch.setattr("uploader.client.token.asyncio.sleep", note)
    clock = Clock()
    async with Server(token=issue("nearly-over", left)) as server, speaking(server.base_url, now=clock) as client:
        for _ in range(3):
            assert (await send(client, audio(tmp_path, 10))).status == 201
            clock.seconds += 1.0
        assert len(server.token_requests()) == 6
    assert len([wait for wait in waits if wait >= 1.0]) == 3


@pytest.mark.parametrize(("credentials", "words"), [(READY, "in its place"), (BOTH, "are set too")])
async def test_a_refused_ready_token_says_what_would_be_used_without_it(
    tmp_path: Path, credentials: Credentials, words: str
) -> None:
    """A ready token wins over id and secret; once refused, the message says whether these are there."""
    async with Server(refused) as server, speaking(server.base_url, credentials) as client:
        await send(client, audio(tmp_path, 10))
        with pytest.raises(CredentialsError, match=words):
            await send(client, audio(tmp_path, 10))


FAILING: dict[str, tuple[Credentials, Script, Script]] = {
    "wrong secret": (CREDENTIALS, accept, always(401, {"message": "no"})),
    "no endpoint": (CREDENTIALS, accept, always(404)),
    "no JSON": (CREDENTIALS, accept, always(200, b"issued-token")),
    "said again": (CREDENTIALS, always(400, {"message": "bad issued-token"}), issue("issued-token")),
    "tokens refused": (CREDENTIALS, refused, issue("issued-token")),
    "ready token refused": (READY, refused, issue("issued-token")),
    "lost answers": (CREDENTIALS, hung_up_after_body, issue("issued-token")),
    "redirected": (CREDENTIALS, always(307, Location="/elsewhere"), issue("issued-token")),
}


@pytest.mark.parametrize("name", FAILING)
async def test_no_secret_is_ever_shown(
    tmp_path: Path, name: str, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    """Neither a reply nor an error, its causes and traceback, nor a repr, nor a log line has a secret in it."""
    credentials, put, token = FAILING[name]
    caplog.set_level("DEBUG")
    shown: list[str] = []
    async with Server(put, token=token) as server, speaking(server.base_url, credentials) as client:
        shown += [repr(client), repr(credentials), str(credentials), repr(vars(client))]
        for _ in range(5):
            shown += await shown_by_an_upload(client, audio(tmp_path, 1000))
        shown += [repr(vars(client)), repr(vars(client._tokens))]
    shown += [caplog.text, *capfd.readouterr()]
    assert [(secret, text) for text in shown for secret in SECRETS if secret in text] == []


async def shown_by_an_upload(client: Client, path: Path) -> list[str]:
    """Collect the output of an upload and a poll."""
    try:
        reply: Reply = await send(client, path)
        answer = await client.job("x")
    except UploaderError as error:
        return [repr(error), *traceback.format_exception(error)]
    return [repr(reply), repr(answer)]
