"""Servers by hand, over real TCP on loopback: what they saw is the judge of what a client did."""

import asyncio
import json
import os
import random
import socket
import ssl
import struct
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import pytest
import trustme

from uploader.audio import open_source
from uploader.client import Client, Credentials, CredentialsSource, Expect, TimeLimits, UploadRequest
from uploader.client.expectation import NEVER
from uploader.model import Reply
from uploader.policy.ahead import SILENCE_SECONDS

READ_BYTES = 64 * 1024
LONGEST_HEAD = 64 * 1024
# a condition that does not come true by then never will: the test fails in place of hanging
GUARD_SECONDS = 60.0
MEBIBYTE = 1024 * 1024
CREDENTIALS = Credentials(app_id="the-app-id", app_secret="the-app-secret")
TOKEN_PATH = "/oauth2/token:generate"
DONE = {"conversationId": "c", "jobId": "job-1"}


@dataclass
class Request:
    """One request as it came: its head byte for byte, and what has arrived of its body."""

    head: bytes
    body: bytearray = field(default_factory=bytearray)
    received: int = 0
    connection: int = 0

    @property
    def line(self) -> str:
        """Return the request line."""
        return self.head.split(b"\r\n", 1)[0].decode("latin-1")

    @property
    def method(self) -> str:
        """Return the method."""
        return self.line.split(" ")[0]

    @property
    def target(self) -> str:
        """Return the request's target, as it came."""
        return self.line.split(" ")[1]

    @property
    def fields(self) -> list[tuple[str, str]]:
        """List all header fields: names in lower case, values as they came."""
        lines = self.head.decode("latin-1").split("\r\n")[1:-2]
        return [(name.lower(), value.strip(" ")) for name, _, value in (line.partition(":") for line in lines)]

    def all(self, name: str) -> list[str]:
        """List all values of a header field."""
        return [value for key, value in self.fields if key == name]

    @property
    def length(self) -> int:
        """Return the announced length of the body."""
        return int((self.all("content-length") or ["0"])[0])

    @property
    def whole(self) -> bool:
        """Tell whether all of the body has arrived."""
        return self.received == self.length


class Exchange:
    """One request and the connection that it came on, for a script to play with."""

    def __init__(
        self, server: "Server", request: Request, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        self.server = server
        self.request = request
        self.reader = reader
        self.writer = writer

    async def read_body(self, most: int | None = None) -> None:
        """Read the body to its end, or until ``most`` bytes of it are there, or until the client goes away."""
        end = self.request.length if most is None else min(most, self.request.length)
        while self.request.received < end:
            piece = await self.reader.read(min(READ_BYTES, end - self.request.received))
            if not piece:
                return
            self.request.received += len(piece)
            if self.server.keeps_bodies:
                self.request.body += piece
            await self.server.tell()

    async def answer(self, status: int, answer: Any = None, **fields: str) -> None:
        """Send a whole answer; ``answer`` is bytes as they are, or JSON."""
        body = answer if isinstance(answer, bytes) else json.dumps({} if answer is None else answer).encode()
        await self.send(head_of(status, {"Content-Length": str(len(body))} | _named(fields)) + body)

    async def send(self, raw: bytes) -> None:
        """Send bytes as they are."""
        self.writer.write(raw)
        await self.writer.drain()

    def hang_up(self) -> None:
        """Close the connection in good order."""
        self.writer.close()

    def reset(self) -> None:
        """Close the connection so that the client's kernel gets a reset."""
        connection: socket.socket = self.writer.get_extra_info("socket")
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.writer.transport.abort()

    async def until_left(self) -> None:
        """Take in, and count, whatever still comes, until the client closes the connection."""
        while piece := await self.reader.read(READ_BYTES):
            self.request.received += len(piece)
            await self.server.tell()


Script = Callable[[Exchange], Awaitable[None]]


def _named(fields: dict[str, str]) -> dict[str, str]:
    return {name.replace("_", "-"): value for name, value in fields.items()}


def head_of(status: int, fields: dict[str, str]) -> bytes:
    """Format an answer's head."""
    lines = [f"HTTP/1.1 {status} Whatever", *(f"{name}: {value}" for name, value in fields.items()), "", ""]
    return "\r\n".join(lines).encode()


async def accept(exchange: Exchange) -> None:
    """Read the whole body and answer as the service does."""
    await exchange.read_body()
    if exchange.request.whole:
        await exchange.answer(201, DONE)


def always(status: int, answer: Any = None, **fields: str) -> Script:
    """Build a script that reads the body and gives a fixed answer."""

    async def script(exchange: Exchange) -> None:
        await exchange.read_body()
        await exchange.answer(status, answer, **fields)

    return script


def in_turn(*scripts: Script) -> Script:
    """Build a script that plays one script per request, and the last one for all later requests."""
    left = list(scripts)

    async def script(exchange: Exchange) -> None:
        await (left.pop(0) if len(left) > 1 else left[0])(exchange)

    return script


def issue(token: str, seconds: float = 86400) -> Script:
    """Build a token endpoint's script that returns this token."""
    return always(200, {"accessToken": token, "expiresIn": seconds})


def hung_up_after_body(exchange: Exchange) -> Awaitable[None]:
    """Read the body and hang up without an answer."""
    return _after_body(exchange, exchange.hang_up)


def reset_after_body(exchange: Exchange) -> Awaitable[None]:
    """Read the body and reset the connection without an answer."""
    return _after_body(exchange, exchange.reset)


async def _after_body(exchange: Exchange, end: Callable[[], None]) -> None:
    await exchange.read_body()
    end()


class Server:
    """A server on loopback that plays scripts; ``requests`` has the head of everything that ever reached it.

    ``let_go`` is for scripts that wait until the test says so.

    Args:
        put: The script for PUTs.
        token: The script for the token endpoint; without one each request gets another token.
        get: The script for GETs.
        tls: What to speak TLS with.
        keeps_bodies: Whether to keep the bodies, or only to count them.
        kernel_bytes: How much the kernel takes in before the script reads it, where that is not left to the kernel.
    """

    def __init__(
        self,
        put: Script = accept,
        *,
        token: Script | None = None,
        get: Script | None = None,
        tls: ssl.SSLContext | None = None,
        keeps_bodies: bool = True,
        kernel_bytes: int | None = None,
    ) -> None:
        self._kernel_bytes = kernel_bytes
        self.requests: list[Request] = []
        self.connections = 0
        self.port = 0
        self.keeps_bodies = keeps_bodies
        self.let_go = asyncio.Event()
        self._scripts = {"PUT": put, "POST": token or self._next_token, "GET": get or always(404)}
        self._tls = tls
        self._changed = asyncio.Condition()
        self._tasks: set[asyncio.Task[None]] = set()
        self._writers: list[asyncio.StreamWriter] = []
        self._faults: list[Exception] = []
        self._server: asyncio.Server | None = None

    @property
    def base_url(self) -> str:
        """Return the server's base URL."""
        return f"{'https' if self._tls else 'http'}://127.0.0.1:{self.port}"

    def puts(self) -> list[Request]:
        """List the PUTs whose heads arrived, over all connections, in order."""
        return [request for request in self.requests if request.method == "PUT"]

    def gets(self) -> list[Request]:
        """List the GETs."""
        return [request for request in self.requests if request.method == "GET"]

    def token_requests(self) -> list[Request]:
        """List the requests to the token endpoint."""
        return [request for request in self.requests if request.method == "POST"]

    async def __aenter__(self) -> Self:
        """Listen."""
        self._server = await asyncio.start_server(self._connected, "127.0.0.1", 0, ssl=self._tls, limit=LONGEST_HEAD)
        listening = self._server.sockets[0]
        if self._kernel_bytes is not None:
            listening.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, self._kernel_bytes)
        self.port = listening.getsockname()[1]
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close everything; what went wrong in a script is raised here."""
        if self._server is not None:
            self._server.close()
            for task in self._tasks:
                task.cancel()
            await asyncio.gather(*self._tasks, return_exceptions=True)
            for writer in self._writers:
                writer.transport.abort()
            await self._server.wait_closed()
        if self._faults and error is None:
            raise self._faults[0]

    async def tell(self) -> None:
        """Say that something has changed."""
        async with self._changed:
            self._changed.notify_all()

    async def until(self, condition: Callable[[], bool]) -> None:
        """Wait until something is true of what reached this server."""
        async with asyncio.timeout(GUARD_SECONDS), self._changed:
            await self._changed.wait_for(condition)

    async def settled(self) -> None:
        """Wait until every connection that was ever opened to this server has been seen to its end."""
        tls = ssl._create_unverified_context() if self._tls else None
        async with asyncio.timeout(GUARD_SECONDS):
            # connections are taken in the order in which they were opened: after our own there is none before it
            reader, writer = await asyncio.open_connection("127.0.0.1", self.port, ssl=tls)
            self.connections -= 1
            writer.write(b"\r\n\r\n")
            await reader.read()
            writer.transport.abort()
            while self._tasks:
                await asyncio.wait(self._tasks)

    async def _next_token(self, exchange: Exchange) -> None:
        await issue(f"token-{len(self.token_requests())}")(exchange)

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        if task is not None:
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)
        self._writers.append(writer)
        self.connections += 1
        try:
            await self._talk(reader, writer, self.connections)
        except (ConnectionError, ssl.SSLError, asyncio.IncompleteReadError, asyncio.CancelledError):
            pass  # the client went away, or the test is over
        except Exception as error:  # noqa: BLE001 - raised where the server is closed
            self._faults.append(error)
        finally:
            writer.close()

    async def _talk(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, connection: int) -> None:
        while not writer.is_closing():
            request = Request(await reader.readuntil(b"\r\n\r\n"), connection=connection)
            if request.head == b"\r\n\r\n":
                return  # our own, in ``settled``
            self.requests.append(request)
            await self.tell()
            await self._scripts[request.method](Exchange(self, request, reader, writer))
            if not request.whole:
                return


@dataclass
class RecordingAdmission:
    """An admission that records its requests, and runs a test's functions meanwhile."""

    # returns why the last chunk must not leave, empty where it may
    on_admission: Callable[[], Awaitable[str]] | None = None
    on_moved: Callable[[], None] | None = None
    hashes: list[str] = field(default_factory=list)
    answer: "asyncio.Future[str] | None" = None
    moved_bytes: int = 0
    stopping: bool = False
    cut: bool = False
    not_wait: bool = False
    withheld_after_all: str = ""
    _checks_left: int = 0
    _checked: asyncio.Event = field(default_factory=asyncio.Event)

    def ask(self, content_hash: str) -> "asyncio.Future[str]":
        """Keep the hash; admit unless the test says otherwise."""
        self.hashes.append(content_hash)
        if self.on_admission is not None:
            self.answer = asyncio.ensure_future(self.on_admission())
        else:
            self.answer = asyncio.get_running_loop().create_future()
            self.answer.set_result("")
        return self.answer

    def silence_seconds(self) -> float:
        """Return the time of a run's only body that waits."""
        return SILENCE_SECONDS

    def withdraw(self) -> None:
        """Let the test's own wait end."""
        if self.answer is not None:
            self.answer.cancel()

    @asynccontextmanager
    async def interruptible(self) -> AsyncIterator[None]:
        """Interrupt no wait before the upload."""
        yield

    def moved(self, count: int) -> None:
        """Count."""
        self.moved_bytes += count
        if self.on_moved is not None:
            self.on_moved()

    def is_stopping(self) -> bool:
        """Return the test's value."""
        return self.stopping

    def must_cut(self) -> bool:
        """Return the test's value."""
        self._count_check()
        return self.cut

    def reason_to_withhold(self) -> str:
        """Return the test's value."""
        return self.withheld_after_all

    def reason_not_to_wait(self) -> str:
        """Return the test's value."""
        self._count_check()
        return "the uploader was stopped before an answer came" if self.not_wait else ""

    async def wait_for_checks(self, times: int = 3) -> None:
        """Wait until the client has checked so many times more for a reason to end the upload."""
        self._checks_left = times
        self._checked.clear()
        async with asyncio.timeout(GUARD_SECONDS):
            await self._checked.wait()

    def _count_check(self) -> None:
        self._checks_left -= 1
        if self._checks_left <= 0:
            self._checked.set()


@asynccontextmanager
async def speaking(
    base_url: str,
    credentials: CredentialsSource = CREDENTIALS,
    *,
    connect: float = 20.0,
    stall: float = 20.0,
    answer: float = 20.0,
    now: Callable[[], float] = time.monotonic,
    expect: Expect = NEVER,
) -> AsyncIterator[Client]:
    """Open the client under test."""
    async with Client(base_url, credentials, TimeLimits(connect, stall, answer), now, expect) as client:
        yield client


def asking(conversation: str = "c", query: Sequence[tuple[str, str]] = (), kind: str | None = None) -> UploadRequest:
    """Build the head of a PUT."""
    return UploadRequest(conversation, query, kind)


async def send(
    client: Client, path: Path, admission: RecordingAdmission | None = None, request: UploadRequest | None = None
) -> Reply:
    """Upload a file as an attempt does."""
    async with open_source(path, size_of(path)) as source:
        return await client.upload(request or asking(), source, admission or RecordingAdmission())


async def send_once(
    server: Server,
    path: Path,
    admission: RecordingAdmission | None = None,
    *,
    stall: float = 20.0,
    answer: float = 20.0,
) -> Reply:
    """Upload a file with its own client, and wait until the server's journal is complete."""
    async with speaking(server.base_url, stall=stall, answer=answer) as client:
        reply = await send(client, path, admission)
    await server.settled()
    return reply


def size_of(path: Path) -> int:
    """Return a file's size."""
    return path.stat().st_size


def audio(folder: Path, size: int, name: str = "a.wav", seed: int = 1) -> Path:
    """Write a file of this size, without two equal stretches."""
    path = folder / name
    path.write_bytes(_drawn(seed, size))
    return path


@lru_cache(maxsize=4)
def _drawn(seed: int, size: int) -> bytes:
    """Draw bytes; the tests ask for some of many mebibytes again and again."""
    return random.Random(seed).randbytes(size)


@dataclass(frozen=True)
class Authority:
    """A certificate authority that nobody knows, and its certificate as a file."""

    authority: trustme.CA
    bundle: Path

    def tls(self, *names: str) -> ssl.SSLContext:
        """Build the TLS context of a server of these names."""
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        self.authority.issue_cert(*(names or ("127.0.0.1",))).configure_cert(context)
        return context


def authority(folder: Path) -> Authority:
    """Make an authority."""
    made = trustme.CA()
    bundle = folder / "authority.pem"
    made.cert_pem.write_to_path(str(bundle))
    return Authority(made, bundle)


@pytest.fixture(autouse=True)
def clean_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever proxies and CA bundles the machine has: a test begins without them (and reads none, which is fast)."""
    for name in ("http_proxy", "https_proxy", "all_proxy", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)
    for name in ("SSL_CERT_DIR", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("SSL_CERT_FILE", os.devnull)


def free_port() -> int:
    """Return a free port of loopback."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def count_bodies(certificate: str) -> None:
    """Be a server in a process of its own that counts bodies; its first line tells where it listens.

    Args:
        certificate: A PEM file with certificate and key; empty for plain HTTP.
    """
    asyncio.run(_count_bodies(certificate))


async def _count_bodies(certificate: str) -> None:
    tls = None
    if certificate:
        tls = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        tls.load_cert_chain(certificate)

    async def count(exchange: Exchange) -> None:
        await exchange.read_body()
        await exchange.answer(201, {"conversationId": "c", "jobId": str(exchange.request.received)})

    async with Server(count, tls=tls, keeps_bodies=False) as server:
        sys.stdout.write(f"{server.base_url}\n")
        sys.stdout.flush()
        await asyncio.to_thread(sys.stdin.read)  # until the test closes it


def upload_and_measure(base_url: str, small: str, large: str) -> None:
    """Upload a small file, then a large one, and print both answers and by how many KiB the peak memory rose."""
    asyncio.run(_upload_and_measure(base_url, Path(small), Path(large)))


async def _upload_and_measure(base_url: str, small: Path, large: Path) -> None:
    async with speaking(base_url) as client:
        first = await send(client, small)
        before = peak_kibibytes()
        second = await send(client, large)
        rise = peak_kibibytes() - before
    told = {"jobs": [(reply.answer or {}).get("jobId") for reply in (first, second)], "rise": rise}
    sys.stdout.write(json.dumps(told) + "\n")


def peak_kibibytes() -> int:
    """Return the peak resident memory of this process.

    Not ``ru_maxrss``: it is handed on from the process that started this one, so a big test run would hide a rise.
    """
    status = Path("/proc/self/status").read_text(encoding="ascii")
    return int(next(line.split()[1] for line in status.splitlines() if line.startswith("VmHWM:")))
