"""The client's way to the service: certificates, proxies, and the environment."""

import asyncio
import base64
import contextlib
import socket
from pathlib import Path
from types import TracebackType
from typing import Any, Self
from urllib.parse import urlsplit

import pytest

from tests.integration.servers import (
    MEBIBYTE,
    Authority,
    Exchange,
    RecordingAdmission,
    Script,
    Server,
    accept,
    audio,
    authority,
    clean_environment,  # noqa: F401 - a fixture
    free_port,
    hung_up_after_body,
    issue,
    send,
    speaking,
)
from uploader.client import Credentials
from uploader.errors import CredentialsError, UsageError
from uploader.model import Outcome, State
from uploader.policy.replies import judge

# a host that no name server knows; the proxy does
NAME = "api.uploads.invalid"
READY = Credentials(access_token="ready")
VARIABLES = ["SSL_CERT_FILE", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE"]


@pytest.fixture
def unknown(tmp_path: Path) -> Authority:
    """Make a certificate authority that is not trusted."""
    return authority(tmp_path)


@pytest.fixture
def known(unknown: Authority, monkeypatch: pytest.MonkeyPatch) -> Authority:
    """Trust the authority by the environment."""
    monkeypatch.setenv("SSL_CERT_FILE", str(unknown.bundle))
    return unknown


class Proxy:
    """A proxy on loopback that knows one host; ``heads`` has the head of every request to it."""

    def __init__(self, port: int, *, refusal: bytes = b"") -> None:
        self.heads: list[bytes] = []
        self.port = 0
        self._target = port
        self._refusal = refusal
        self._tasks: set[asyncio.Task[None]] = set()
        self._server: asyncio.Server | None = None

    @property
    def url(self) -> str:
        """Return the proxy's address, as the environment names it."""
        return f"http://127.0.0.1:{self.port}"

    @property
    def lines(self) -> list[str]:
        """List the request lines."""
        return [head.split(b"\r\n")[0].decode() for head in self.heads]

    async def __aenter__(self) -> Self:
        """Listen."""
        self._server = await asyncio.start_server(self._connected, "127.0.0.1", 0)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close everything."""
        if self._server is not None:
            self._server.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        if task is not None:
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)
        with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError, asyncio.CancelledError):
            await self._serve(reader, writer)
        writer.transport.abort()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.heads.append(await reader.readuntil(b"\r\n\r\n"))
        if self._refusal:
            writer.write(self._refusal)
            await writer.drain()
            await reader.read()
            return
        there = await asyncio.open_connection("127.0.0.1", self._target)
        writer.write(b"HTTP/1.1 200 Connection established\r\n\r\n")
        try:
            await asyncio.gather(_pass_on(reader, there[1]), _pass_on(there[0], writer))
        finally:
            there[1].transport.abort()


async def _pass_on(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while piece := await reader.read(64 * 1024):
        writer.write(piece)
        await writer.drain()
    writer.close()


def resolve_by_hand(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the made-up host stand for this machine, without asking any name server."""
    ask = socket.getaddrinfo

    def answer(host: Any, *args: Any, **kwargs: Any) -> Any:
        return ask("127.0.0.1" if host == NAME else host, *args, **kwargs)

    monkeypatch.setattr(socket, "getaddrinfo", answer)


async def test_a_certificate_of_an_unknown_authority_is_not_connected(tmp_path: Path, unknown: Authority) -> None:
    """Neither token nor audio goes to a server that cannot prove who it is."""
    admission = RecordingAdmission()
    async with Server(tls=unknown.tls()) as server:
        async with speaking(server.base_url, READY) as client:
            reply = await send(client, audio(tmp_path, 1000), admission)
        assert server.requests == []
    assert (reply.connected, reply.last_chunk_left, reply.status) == (False, False, None)
    assert "certificate" in reply.failure.lower()
    assert (admission.hashes, admission.moved_bytes) == ([], 0)
    assert judge(reply, "c").outcome is Outcome.NOT_SENT


async def test_the_secret_stays_with_an_unknown_authority(tmp_path: Path, unknown: Authority) -> None:
    """The application's secret is not sent to a server that cannot prove who it is."""
    async with Server(tls=unknown.tls()) as server:
        async with speaking(server.base_url) as client:
            reply = await send(client, audio(tmp_path, 1000))
        assert server.requests == []
    assert (reply.connected, reply.status) == (False, None)
    assert "certificate" in reply.failure.lower()


async def test_a_certificate_for_another_host_is_not_connected(tmp_path: Path, known: Authority) -> None:
    """A known authority is not enough: the certificate has to name the host."""
    async with Server(tls=known.tls("elsewhere.invalid")) as server:
        async with speaking(server.base_url, READY) as client:
            reply = await send(client, audio(tmp_path, 1000))
        assert server.requests == []
    assert (reply.connected, reply.status) == (False, None)


@pytest.mark.parametrize("variable", VARIABLES)
@pytest.mark.parametrize("size", [1, 100_000, 3 * MEBIBYTE])
async def test_the_environment_names_the_authority(
    tmp_path: Path, unknown: Authority, monkeypatch: pytest.MonkeyPatch, variable: str, size: int
) -> None:
    """A CA bundle that a usual variable names is believed, and a file goes over TLS byte for byte."""
    monkeypatch.setenv(variable, str(unknown.bundle))
    path = audio(tmp_path, size)
    async with Server(tls=unknown.tls()) as server:
        async with speaking(server.base_url) as client:
            reply = await send(client, path)
        assert [bytes(put.body) for put in server.puts()] == [path.read_bytes()]
    assert (reply.status, reply.last_chunk_left, reply.bytes_sent) == (201, True, size)


@pytest.mark.parametrize("end", ["hang up", "reset"])
async def test_a_lost_answer_over_tls_is_in_doubt(tmp_path: Path, known: Authority, end: str) -> None:
    """Over TLS as without it: a server that takes the file and ends the connection gets one PUT."""

    async def take_and_end(exchange: Exchange) -> None:
        await exchange.read_body()
        exchange.hang_up() if end == "hang up" else exchange.writer.transport.abort()

    path = audio(tmp_path, MEBIBYTE)
    async with Server(take_and_end, tls=known.tls()) as server:
        async with speaking(server.base_url) as client:
            reply = await send(client, path)
        await server.settled()
        assert [put.whole for put in server.puts()] == [True]
    assert (reply.connected, reply.last_chunk_left, reply.status) == (True, True, None)
    assert judge(reply, "c").state is State.IN_DOUBT


@pytest.mark.parametrize("variable", ["HTTPS_PROXY", "https_proxy", "ALL_PROXY", "all_proxy"])
async def test_the_service_is_reached_through_the_proxy(
    tmp_path: Path, known: Authority, monkeypatch: pytest.MonkeyPatch, variable: str
) -> None:
    """Token, upload and poll go through a tunnel; the proxy learns the host and nothing else."""
    path = audio(tmp_path, 3 * MEBIBYTE)
    async with Server(tls=known.tls(NAME), token=issue("the-token")) as server, Proxy(server.port) as proxy:
        monkeypatch.setenv(variable, proxy.url)
        async with speaking(f"https://{NAME}") as client:
            reply = await send(client, path)
            there = await client.ping("x")
        assert [bytes(put.body) for put in server.puts()] == [path.read_bytes()]
        assert (len(server.token_requests()), len(server.gets())) == (1, 1)
        assert {value for request in server.requests for value in request.all("host")} == {NAME}
    assert (reply.status, there) == (201, True)
    assert set(proxy.lines) == {f"CONNECT {NAME}:443 HTTP/1.1"}
    assert b"the-token" not in b"".join(proxy.heads)


@pytest.mark.parametrize("written", ["{url}", "127.0.0.1:{port}"])
async def test_a_proxy_without_a_scheme_is_one_over_http(
    tmp_path: Path, known: Authority, monkeypatch: pytest.MonkeyPatch, written: str
) -> None:
    """A proxy may be named as HOST:PORT, as other programs take it."""
    async with Server(tls=known.tls(NAME)) as server, Proxy(server.port) as proxy:
        monkeypatch.setenv("HTTPS_PROXY", written.format(url=proxy.url, port=proxy.port))
        async with speaking(f"https://{NAME}") as client:
            reply = await send(client, audio(tmp_path, 1000))
        assert len(server.puts()) == 1
    assert reply.status == 201


async def test_the_proxy_gets_its_login_and_the_service_does_not(
    tmp_path: Path, known: Authority, monkeypatch: pytest.MonkeyPatch
) -> None:
    """User and password of the proxy's URL, percent-decoded, go to the proxy alone."""
    async with Server(tls=known.tls(NAME)) as server, Proxy(server.port) as proxy:
        login = f"http://us%40er:pass%3A%2Fword@{urlsplit(proxy.url).netloc}"
        monkeypatch.setenv("HTTPS_PROXY", login)
        async with speaking(f"https://{NAME}") as client:
            reply = await send(client, audio(tmp_path, 1000))
        assert reply.status == 201
        assert [value for request in server.requests for value in request.all("proxy-authorization")] == []
        assert [value for request in server.puts() for value in request.all("authorization")] == ["Bearer token-1"]
    expected = b"Proxy-Authorization: Basic " + base64.b64encode(b"us@er:pass:/word")
    assert all(expected in head for head in proxy.heads)
    assert proxy.heads


LOGIN = b"HTTP/1.1 407 Proxy Authentication Required\r\nContent-Length: 0\r\n\r\n"
REFUSALS = {
    "forbidden": b"HTTP/1.1 403 Forbidden\r\nContent-Length: 9\r\n\r\nforbidden",
    "gateway": b"HTTP/1.1 502 Bad Gateway\r\nContent-Length: 0\r\n\r\n",
    "moved": b"HTTP/1.1 302 Found\r\nLocation: http://127.0.0.1:9/\r\nContent-Length: 0\r\n\r\n",
}


@pytest.mark.parametrize("refusal", REFUSALS)
@pytest.mark.parametrize("credentials", [READY, Credentials("the-app-id", "the-app-secret")])
async def test_what_the_proxy_refuses_was_not_sent(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, refusal: str, credentials: Credentials
) -> None:
    """A tunnel that does not come about: not connected, so nothing was appended, and no answer of the service."""
    async with Server() as server, Proxy(server.port, refusal=REFUSALS[refusal]) as proxy:
        monkeypatch.setenv("HTTPS_PROXY", proxy.url)
        async with speaking(f"https://{NAME}", credentials) as client:
            reply = await send(client, audio(tmp_path, 1000))
            assert not await client.ping("x")
        assert server.requests == []
    assert (reply.connected, reply.last_chunk_left, reply.status) == (False, False, None)
    assert judge(reply, "c").outcome is Outcome.NOT_SENT
    status = REFUSALS[refusal].split()[1].decode()
    assert [word in reply.failure for word in (status, NAME, f"the proxy 127.0.0.1:{proxy.port}")] == [True] * 3


@pytest.mark.parametrize("credentials", [READY, Credentials("the-app-id", "the-app-secret")])
async def test_a_proxy_that_wants_another_login_ends_like_wrong_credentials(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, credentials: Credentials
) -> None:
    """407: no later try would go better, so the run ends, and says which proxy it was and where its login stands."""
    async with Server() as server, Proxy(server.port, refusal=LOGIN) as proxy:
        monkeypatch.setenv("HTTPS_PROXY", proxy.url.replace("://", "://joe:wrong-pass@"))
        async with speaking(f"https://{NAME}", credentials) as client:
            for act in (lambda: send(client, audio(tmp_path, 1000)), lambda: client.job("x")):
                with pytest.raises(CredentialsError, match=f"the proxy 127.0.0.1:{proxy.port} .*407") as caught:
                    await act()
                assert "wrong-pass" not in str(caught.value)
        assert server.requests == []


async def test_a_proxy_that_is_not_there_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No good answer: host, proxy and cause are told, since each of them may be at fault."""
    port = free_port()
    monkeypatch.setenv("HTTPS_PROXY", f"http://127.0.0.1:{port}")
    async with speaking(f"https://{NAME}", READY) as client:
        reply = await send(client, audio(tmp_path, 1000))
    assert judge(reply, "c").outcome is Outcome.NOT_SENT
    for word in (NAME, f"the proxy 127.0.0.1:{port}", "refused"):
        assert word in reply.failure


@pytest.mark.parametrize("script", [hung_up_after_body])
async def test_a_lost_answer_through_the_proxy_is_in_doubt(
    tmp_path: Path, known: Authority, monkeypatch: pytest.MonkeyPatch, script: Script
) -> None:
    """Through a proxy as without one: one PUT, whose answer is lost."""
    async with Server(script, tls=known.tls(NAME)) as server, Proxy(server.port) as proxy:
        monkeypatch.setenv("HTTPS_PROXY", proxy.url)
        async with speaking(f"https://{NAME}", READY) as client:
            reply = await send(client, audio(tmp_path, 300_000))
        await server.settled()
        assert [put.whole for put in server.puts()] == [True]
    assert (reply.connected, reply.last_chunk_left, reply.status) == (True, True, None)
    assert len(proxy.heads) == 1


@pytest.mark.parametrize("exception", [NAME, ".uploads.invalid", "other.invalid, uploads.invalid", "*", f"{NAME}:{{}}"])
@pytest.mark.parametrize("variable", ["NO_PROXY", "no_proxy"])
async def test_no_proxy_is_respected(
    tmp_path: Path, known: Authority, monkeypatch: pytest.MonkeyPatch, exception: str, variable: str
) -> None:
    """A host that NO_PROXY names, alone, by its domain or by the star, is reached without the proxy."""
    resolve_by_hand(monkeypatch)
    async with Server(tls=known.tls(NAME)) as server, Proxy(server.port) as proxy:
        monkeypatch.setenv("HTTPS_PROXY", proxy.url)
        monkeypatch.setenv(variable, exception.format(server.port))
        async with speaking(f"https://{NAME}:{server.port}") as client:
            reply = await send(client, audio(tmp_path, 1000))
        assert len(server.puts()) == 1
    assert (reply.status, proxy.heads) == (201, [])


async def test_another_hosts_exception_changes_nothing(
    tmp_path: Path, known: Authority, monkeypatch: pytest.MonkeyPatch
) -> None:
    """NO_PROXY for somebody else leaves the proxy in the way."""
    async with Server(tls=known.tls(NAME)) as server, Proxy(server.port) as proxy:
        monkeypatch.setenv("HTTPS_PROXY", proxy.url)
        monkeypatch.setenv("NO_PROXY", "other.invalid,invalid.uploads,127.0.0.1")
        async with speaking(f"https://{NAME}") as client:
            reply = await send(client, audio(tmp_path, 1000))
    assert reply.status == 201
    assert len(proxy.heads) == 2


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost"])
@pytest.mark.parametrize("tls", [False, True])
async def test_this_machine_is_never_reached_through_a_proxy(
    tmp_path: Path, known: Authority, monkeypatch: pytest.MonkeyPatch, host: str, tls: bool
) -> None:
    """Loopback is not the proxy's business, whatever the environment says."""
    async with Server(tls=known.tls(host) if tls else None) as server, Proxy(server.port) as proxy:
        for variable in ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "http_proxy", "https_proxy", "all_proxy"):
            monkeypatch.setenv(variable, proxy.url)
        async with speaking(f"http{'s' * tls}://{host}:{server.port}") as client:
            reply = await send(client, audio(tmp_path, 1000))
        assert len(server.puts()) == 1
    assert (reply.status, proxy.heads) == (201, [])


@pytest.mark.parametrize("through_proxy", [False, True])
async def test_a_netrc_is_left_alone(
    tmp_path: Path, known: Authority, monkeypatch: pytest.MonkeyPatch, through_proxy: bool
) -> None:
    """A ~/.netrc with a login for the host, or for any: the token goes out, and no password."""
    netrc = tmp_path / ".netrc"
    netrc.write_text(f"machine {NAME} login someone password hidden\ndefault login other password hidden\n")
    netrc.chmod(0o600)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("NETRC", str(netrc))
    resolve_by_hand(monkeypatch)
    async with Server(accept, tls=known.tls(NAME)) as server, Proxy(server.port) as proxy:
        if through_proxy:
            monkeypatch.setenv("HTTPS_PROXY", proxy.url)
        base_url = f"https://{NAME}" if through_proxy else f"https://{NAME}:{server.port}"
        async with speaking(base_url) as client:
            reply = await send(client, audio(tmp_path, 1000))
        assert [put.all("authorization") for put in server.puts()] == [["Bearer token-1"]]
        assert [post.all("authorization") for post in server.token_requests()] == [[]]
        assert not any(b"Authorization" in head for head in proxy.heads)
    assert reply.status == 201


@pytest.mark.parametrize("variable", ["REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE"])
async def test_a_bundle_that_is_none_is_the_users_business(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, variable: str
) -> None:
    """A file that has no certificate in it: the variable is named, nothing is sent, and it is no fault of ours."""
    bundle = tmp_path / "bundle.pem"
    bundle.write_text("no certificate")
    monkeypatch.setenv(variable, str(bundle))
    with pytest.raises(UsageError, match=variable):
        async with speaking(f"https://{NAME}", READY):
            pass


@pytest.mark.parametrize(
    "proxy", ["http://127.0.0.1:99999", "http://proxy:port", "socks5://127.0.0.1:1080", "ftp://127.0.0.1:1"]
)
async def test_a_proxy_that_cannot_be_one_is_the_users_business(monkeypatch: pytest.MonkeyPatch, proxy: str) -> None:
    """A proxy that cannot be spoken with is told as such before anything is sent, and it is no fault of ours."""
    monkeypatch.setenv("HTTPS_PROXY", proxy)
    with pytest.raises(UsageError, match=r"(?i)proxy"):
        async with speaking(f"https://{NAME}", READY):
            pass


async def test_a_proxys_login_may_be_of_any_letters(
    tmp_path: Path, known: Authority, monkeypatch: pytest.MonkeyPatch
) -> None:
    """User and password of a proxy go out as UTF-8."""
    async with Server(tls=known.tls(NAME)) as server, Proxy(server.port) as proxy:
        monkeypatch.setenv("HTTPS_PROXY", f"http://Jörg:päss日@{urlsplit(proxy.url).netloc}")
        async with speaking(f"https://{NAME}", READY) as client:
            reply = await send(client, audio(tmp_path, 1000))
    assert reply.status == 201
    assert b"Basic " + base64.b64encode("Jörg:päss日".encode()) in proxy.heads[0]


@pytest.mark.parametrize("variable", ["SSL_CERT_FILE", "SSL_CERT_DIR"])
async def test_a_bundle_that_is_not_there_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, variable: str
) -> None:
    """Python is silent of it, and every certificate would be refused for no reason that is told."""
    monkeypatch.setenv(variable, str(tmp_path / "none"))
    with pytest.raises(UsageError, match=f"environment {variable}: .*none: there is nothing that can be read"):
        async with speaking(f"https://{NAME}", READY):
            pass
