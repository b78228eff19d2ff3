"""Speaks HTTP with a sandbox by hand, byte for byte."""

import asyncio
import json
import ssl
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import quote, urlsplit

from uploader.sandbox import Faults, Sandbox, SandboxSettings

AUDIO = b"RIFF" + bytes(range(256)) * 800
FOREVER = 86400.0
CREDENTIALS = {"type": "application", "appId": "sandbox", "appSecret": "sandbox"}


@dataclass(frozen=True)
class Answer:
    """An answer as it came on the wire; a status of None: nothing came."""

    status: int | None
    body: Any = None


@dataclass
class Client:
    """Speaks HTTP by hand, so that nothing is sent again or encoded anew behind a test's back."""

    sandbox: Sandbox
    tls: ssl.SSLContext | None = None
    token: str = ""
    writers: list[asyncio.StreamWriter] = field(default_factory=list)

    async def open(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        """Open a new connection."""
        url = urlsplit(self.sandbox.base_url)
        reader, writer = await asyncio.open_connection(url.hostname, url.port, ssl=self.tls)
        self.writers.append(writer)
        return reader, writer

    def head(self, method: str, target: str, headers: dict[str, str | None]) -> bytes:
        """Return a request's head; a header of None is left out."""
        standing = {"Host": "sandbox", "Connection": "close", "Authorization": f"Bearer {self.token}"}
        lines = [f"{name}: {value}" for name, value in (standing | headers).items() if value is not None]
        return "\r\n".join([f"{method} {target} HTTP/1.1", *lines, "", ""]).encode()

    async def send(self, head: bytes, body: bytes = b"") -> Answer:
        """Send a request and read its answer to the end of the connection."""
        reader, writer = await self.open()
        try:
            writer.write(head + body)
            await writer.drain()
            return read_answer(await reader.read())
        except ConnectionError:
            return Answer(None)
        finally:
            writer.close()

    async def get(self, target: str, headers: dict[str, str | None] | None = None) -> Answer:
        """Send a GET."""
        return await self.send(self.head("GET", target, headers or {}))

    async def put(
        self,
        conversation: str = "c",
        body: bytes = AUDIO,
        headers: dict[str, str | None] | None = None,
        query: str = "",
    ) -> Answer:
        """Send a PUT with its whole body."""
        length: dict[str, str | None] = {"Content-Length": str(len(body))}
        target = f"/v1/process/audio/{quote(conversation, safe='')}{query}"
        return await self.send(self.head("PUT", target, length | (headers or {})), body)

    async def begin_put(self, size: int) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        """Send the head of a PUT, and none of its body."""
        already = len(self.sandbox.journal.begun_puts())
        reader, writer = await self.open()
        writer.write(self.head("PUT", "/v1/process/audio/c", {"Content-Length": str(size)}))
        await self.until(lambda: len(self.sandbox.journal.begun_puts()) > already)
        return reader, writer

    async def sign_in(self, **changes: str) -> Answer:
        """Request a token."""
        body = json.dumps(CREDENTIALS | changes).encode()
        length: dict[str, str | None] = {"Content-Length": str(len(body)), "Authorization": None}
        return await self.send(self.head("POST", "/oauth2/token:generate", length), body)

    async def status(self, job_id: str) -> str:
        """Return a job's status."""
        answer = await self.get(f"/v1/job/{job_id}")
        assert answer.status == 200
        return str(answer.body["status"])

    async def until_status(self, job_id: str, status: str) -> list[str]:
        """Poll until a job has a status; return all statuses seen."""
        seen = [await self.status(job_id)]
        while seen[-1] != status:
            seen.append(await self.status(job_id))
        return seen

    async def until(self, condition: Callable[[], bool]) -> None:
        """Call a probe of the sandbox until it returns a true value."""
        while not condition():
            await self.get("/")


def read_answer(raw: bytes) -> Answer:
    """Return the last answer of a connection that was read to its end."""
    head, _, body = raw.rpartition(b"\r\n\r\n")
    if not head:
        return Answer(None)
    last = head.rsplit(b"\r\n\r\n", 1)[-1]
    return Answer(int(last.split()[1]), json.loads(body))


@asynccontextmanager
async def playing(
    faults: Faults | None = None, tls: ssl.SSLContext | None = None, **settings: Any
) -> AsyncIterator[Client]:
    """Give a started sandbox with a client that has signed in; jobs last for ever unless told otherwise."""
    chosen = {"job_seconds": FOREVER} | settings
    async with Sandbox(SandboxSettings(faults=faults or Faults(), **chosen)) as sandbox:
        client = Client(sandbox, tls)
        client.token = (await client.sign_in()).body["accessToken"]
        yield client
        for writer in client.writers:
            writer.close()
