"""Reads files at ``https://`` addresses by aiohttp."""

import re
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager
from http import HTTPStatus

import aiohttp
from yarl import URL

from uploader.audio.remote import (
    CONNECT_SECONDS,
    READ_SECONDS,
    STREAM_BYTES,
    Beginning,
    RemoteError,
    Stream,
    Trouble,
    change_of,
    is_changed,
    strong_etag,
)
from uploader.certificates import ssl_context
from uploader.errors import TOO_MANY_FILES, GaveUpError, describe
from uploader.urls import check, is_loopback

MOST_REDIRECTS = 5
_CONTENT_RANGE = re.compile(r"bytes (?:(\d+)-(\d+)|\*)/(\d+)")
_REDIRECTS = (301, 302, 303, 307, 308)
# errors that may pass, the particular ones first
_WORDS = (
    (aiohttp.ClientProxyConnectionError, "no connection to the proxy"),
    (
        (aiohttp.ClientConnectorCertificateError, aiohttp.ClientConnectorSSLError),
        "its server's certificate is not trusted",
    ),
    (TimeoutError, "its server does not answer in time"),
    (
        (aiohttp.ClientPayloadError, aiohttp.ServerDisconnectedError, ConnectionResetError, BrokenPipeError),
        "the connection was cut",
    ),
    (OSError, "no connection to its server"),
)
# the recording as it is: neither packed nor unpacked on the way
_PLAIN = {"Accept-Encoding": "identity"}


class WebFiles:
    """The client of web servers: proxies and logins (``~/.netrc``) as the environment names them."""

    def __init__(self) -> None:
        # by whether its servers are on this machine
        self._sessions: dict[bool, aiohttp.ClientSession] = {}

    async def begin(self, address: str, count: int) -> Beginning:
        """Read a file's facts and first bytes, in one round trip."""
        async with self._get(address, {"Range": f"bytes=0-{count - 1}"}) as response:
            size = _size(response)
            if size == 0:
                raise RemoteError(Trouble.EMPTY)
            is_part = response.status == HTTPStatus.PARTIAL_CONTENT and _start(response) == 0
            if response.status == HTTPStatus.PARTIAL_CONTENT and not is_part:
                raise RemoteError(Trouble.UNUSABLE, "its server sends another part than it is asked for")
            content = await _read(response, min(count, size))
            return Beginning(size, _change(response), content, is_part)

    async def read(self, address: str, start: int, end: int, change: str) -> bytes:
        """Read a part of a file, of this version."""
        async with self._get(address, {"Range": f"bytes={start}-{end - 1}", **_guard(change)}) as response:
            if _start(response) != start or is_changed(change, _change(response)):
                raise RemoteError(Trouble.CHANGED, "its server has another version of it")
            return await _read(response, end - start)

    @asynccontextmanager
    async def stream(self, address: str, change: str) -> AsyncIterator[Stream]:
        """Open a file to be read from its beginning."""
        async with self._get(address, _guard(change)) as response:
            size = _size(response)
            yield Stream(size, _change(response), _pieces(response, size))

    async def close(self) -> None:
        """Close the connections."""
        for session in self._sessions.values():
            await session.close()
        self._sessions.clear()

    @asynccontextmanager
    async def _get(self, address: str, headers: Mapping[str, str]) -> AsyncIterator[aiohttp.ClientResponse]:
        """Ask for a file, and follow redirects to where an address may lead."""
        # a signature is of the address as it is written; letters beyond ASCII have to be encoded all the same
        url = URL(address, encoded=address.isascii())
        for _ in range(MOST_REDIRECTS + 1):
            with _translating():
                response = await self._open(url).get(url, headers={**_PLAIN, **headers}, allow_redirects=False)
            try:
                target = response.headers.get("Location")
                if response.status in _REDIRECTS and target:
                    url = _followed(url, target)
                    continue
                _check_status(response)
                yield response
                return
            finally:
                # what has not been read is not wanted: a connection with it on it serves nobody
                if response.content.at_eof():
                    response.release()
                else:
                    response.close()
        raise RemoteError(Trouble.UNUSABLE, f"more than {MOST_REDIRECTS} redirects")

    def _open(self, url: URL) -> aiohttp.ClientSession:
        is_local = is_loopback(url.host or "")
        if is_local not in self._sessions:
            self._sessions[is_local] = aiohttp.ClientSession(
                connector=aiohttp.TCPConnector(limit=0, ssl=ssl_context("https://")),
                timeout=aiohttp.ClientTimeout(total=None, sock_connect=CONNECT_SECONDS, sock_read=READ_SECONDS),
                cookie_jar=aiohttp.DummyCookieJar(),
                auto_decompress=False,
                read_bufsize=STREAM_BYTES,
                # a proxy would take this machine for itself
                trust_env=not is_local,
            )
        return self._sessions[is_local]


@contextmanager
def _translating() -> Iterator[None]:
    try:
        yield
    except (aiohttp.ClientError, OSError, ValueError) as error:
        raise _translated(error) from None


def _translated(error: Exception) -> Exception:
    """Translate aiohttp's errors without their texts, in which addresses stand."""
    if isinstance(error, OSError) and error.errno in TOO_MANY_FILES:
        return GaveUpError(f"{describe(error)}, or lower --uploads")
    if isinstance(error, aiohttp.ClientHttpProxyError):
        return RemoteError(Trouble.AWAY, f"the proxy refused to connect, HTTP {error.status}")
    words = next((words for kind, words in _WORDS if isinstance(error, kind)), None)
    if words is None:
        return RemoteError(Trouble.UNUSABLE, "its server's answer cannot be read")
    return RemoteError(Trouble.AWAY, words)


async def _read(response: aiohttp.ClientResponse, count: int) -> bytes:
    with _translating():
        try:
            return await response.content.readexactly(count)
        except EOFError:
            raise RemoteError(Trouble.AWAY, "the connection was cut") from None


async def _pieces(response: aiohttp.ClientResponse, size: int) -> AsyncIterator[bytes]:
    read = 0
    while True:
        with _translating():
            piece = await response.content.read(STREAM_BYTES)
        if not piece:
            break
        read += len(piece)
        yield piece
    if read < size:
        raise RemoteError(Trouble.AWAY, f"it ended after {read} of {size} bytes")


def _followed(url: URL, target: str) -> URL:
    try:
        followed = url.join(URL(target, encoded=True))
        check(str(followed))
    except ValueError as error:
        raise RemoteError(Trouble.UNUSABLE, f"it is redirected to an address that is not followed: {error}") from None
    return followed


def _check_status(response: aiohttp.ClientResponse) -> None:
    status = response.status
    words = f"HTTP {status}" + (f" {HTTPStatus(status).phrase}" if status in set(HTTPStatus) else "")
    if status == HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE:
        # of an empty file no part can be asked for
        found = _CONTENT_RANGE.match(response.headers.get("Content-Range", ""))
        empty = found is None or found[3] == "0"
        raise RemoteError(Trouble.EMPTY if empty else Trouble.CHANGED, words)
    if status in (HTTPStatus.OK, HTTPStatus.PARTIAL_CONTENT):
        if response.headers.get("Content-Encoding", "identity") != "identity":
            raise RemoteError(Trouble.UNUSABLE, "its server sends it packed: serve it as it is")
        return
    troubles = {401: Trouble.DENIED, 403: Trouble.DENIED, 407: Trouble.DENIED, 412: Trouble.CHANGED}
    troubles |= {404: Trouble.MISSING, 410: Trouble.MISSING, 408: Trouble.AWAY, 425: Trouble.AWAY, 429: Trouble.AWAY}
    default = Trouble.AWAY if status >= HTTPStatus.INTERNAL_SERVER_ERROR else Trouble.UNUSABLE
    raise RemoteError(troubles.get(status, default), words)


def _size(response: aiohttp.ClientResponse) -> int:
    if response.status == HTTPStatus.PARTIAL_CONTENT:
        found = _CONTENT_RANGE.match(response.headers.get("Content-Range", ""))
        size = int(found[3]) if found is not None else None
    else:
        size = response.content_length
    if size is None:
        raise RemoteError(Trouble.UNSIZED, "no Content-Length")
    return size


def _start(response: aiohttp.ClientResponse) -> int | None:
    """Return where the part begins that an answer has; None where it has the whole file."""
    found = _CONTENT_RANGE.match(response.headers.get("Content-Range", ""))
    is_part = response.status == HTTPStatus.PARTIAL_CONTENT and found is not None and found[1] is not None
    return int(found[1]) if found is not None and is_part else None


def _change(response: aiohttp.ClientResponse) -> str:
    return change_of(response.headers.get("ETag"), response.headers.get("Last-Modified"))


def _guard(change: str) -> dict[str, str]:
    etag = strong_etag(change)
    return {} if etag is None else {"If-Match": etag}
