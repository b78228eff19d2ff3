"""Connections to the service: proxies and CA bundles from the environment, and never a second PUT."""

import asyncio
import fcntl
import os
import ssl
import sys
import termios
from base64 import b64encode
from collections.abc import Mapping
from contextvars import ContextVar
from functools import partial
from http import HTTPStatus
from typing import Any, Protocol
from urllib.request import getproxies, proxy_bypass
from weakref import WeakSet

import aiohttp
from aiohttp.client_reqrep import ClientRequest
from aiohttp.connector import Connection
from yarl import URL

from uploader.client.recording import RecordingProtocol, receiving
from uploader.errors import CredentialsError, UsageError
from uploader.policy.replies import phrase_of
from uploader.secrets import without_login
from uploader.settings import is_loopback

# shorter than servers commonly keep an idle connection: that saves a head sent in vain
KEPT_SECONDS = 4.0


class ConnectionEndedError(Exception):
    """The end of an established connection, as an error after which aiohttp does not send again."""


class Connected(Protocol):
    """The receiver of a new request's transport."""

    def connected(self, transport: Any, continue_future: "asyncio.Future[bool] | None", *, is_reused: bool) -> None:
        """Take the transport, and aiohttp's future of the 100 Continue where it waits for one."""
        ...


# the upload of this task: aiohttp hands a connection to nobody but the connector
under_way: ContextVar[Connected | None] = ContextVar("under_way", default=None)


class ServiceConnector(aiohttp.TCPConnector):
    """A connector whose connections record what they receive, and which reports a proxy's refusal of the login."""

    def __init__(self, **how: Any) -> None:
        super().__init__(**how)
        self._factory: Any = partial(RecordingProtocol, loop=asyncio.get_running_loop())

    async def connect(self, req: ClientRequest, traces: Any, timeout: aiohttp.ClientTimeout) -> Connection:  # noqa: ASYNC109 - aiohttp's signature
        """Connect.

        Raises:
            CredentialsError: The proxy wants other credentials (HTTP 407).
        """
        try:
            connection = await super().connect(req, traces, timeout)
        except aiohttp.ClientHttpProxyError as error:
            if error.status == HTTPStatus.PROXY_AUTHENTICATION_REQUIRED:
                raise CredentialsError(
                    f"the proxy {_host_and_port(req.proxy)} does not take the login (HTTP 407): write user and "
                    "password into the proxy's address (HTTPS_PROXY=http://USER:PASSWORD@HOST:PORT), then run again"
                ) from error
            raise
        if isinstance(connection.protocol, RecordingProtocol):
            connection.protocol.received = receiving.get()
        return connection


class UploadConnector(ServiceConnector):
    """A connector that hands every upload its connection's transport.

    A kept connection that the server has closed silently would break the next PUT on it: so each upload has a new one,
    unless it waits for 100 Continue before its body.

    Args:
        ssl_context: The certificates that are trusted.
        keeps: Whether a connection is kept for further uploads.
    """

    def __init__(self, ssl_context: ssl.SSLContext | bool, *, keeps: bool) -> None:
        kept: dict[str, Any] = {"keepalive_timeout": KEPT_SECONDS} if keeps else {"force_close": True}
        super().__init__(ssl=ssl_context, limit=0, **kept)
        self._used: WeakSet[asyncio.BaseTransport] = WeakSet()

    async def connect(self, req: ClientRequest, traces: Any, timeout: aiohttp.ClientTimeout) -> Connection:  # noqa: ASYNC109 - aiohttp's signature
        """Connect, and hand the transport to the upload under way."""
        connection = await self._connect_silent(req, traces, timeout)
        upload = under_way.get()
        transport = connection.transport
        if upload is not None and transport is not None:
            # the kernel takes what is written before more is read, so that it is counted by then; with a limit of 0
            # asyncio's TLS would take an empty buffer for a full one, and pause for ever
            transport.set_write_buffer_limits(high=1, low=0)
            upload.connected(transport, getattr(req, "_continue", None), is_reused=transport in self._used)
            self._used.add(transport)
        return connection

    async def _connect_silent(self, req: ClientRequest, traces: Any, timeout: aiohttp.ClientTimeout) -> Connection:  # noqa: ASYNC109 - aiohttp's signature
        """Connect; close a kept connection on which the server has sent something unasked."""
        while True:
            connection = await super().connect(req, traces, timeout)
            if connection.protocol is None or not connection.protocol.should_close:
                return connection
            connection.close()


def layers(transport: Any) -> tuple[Any, ...]:
    """List a connection's transports, from the one that is written to down to the socket's; one alone without TLS.

    Encrypted bytes that the kernel has not taken wait in the socket's transport, which asyncio's TLS keeps to itself
    and leaves out of its own size.
    """
    found = []
    while transport is not None:
        found.append(transport)
        transport = getattr(getattr(transport, "_ssl_protocol", None), "_transport", None)
    return tuple(found)


def unacknowledged(transport: Any) -> int:
    """Count the bytes that the kernel has taken and the peer has not acknowledged; 0 where that is unknown."""
    socket = None if transport is None or transport.is_closing() else transport.get_extra_info("socket")
    if socket is None or sys.platform != "linux":
        return 0
    try:
        return int.from_bytes(fcntl.ioctl(socket.fileno(), termios.TIOCOUTQ, bytes(4)), sys.byteorder)
    except OSError:
        return 0  # the connection has ended: the next write fails


async def send_once(request: aiohttp.ClientRequest, handler: aiohttp.ClientHandlerType) -> aiohttp.ClientResponse:
    """Keep aiohttp from sending a PUT again by itself: to it a PUT is idempotent, here it appends twice."""
    try:
        return await handler(request)
    except aiohttp.ClientConnectorError:
        raise  # not connected, so nothing was sent
    except (aiohttp.ClientOSError, aiohttp.ServerDisconnectedError) as error:
        raise ConnectionEndedError(format_error(error)) from error


def format_error(error: BaseException) -> str:
    """Format a network error in a few words, without the request's address."""
    inner: BaseException = error
    while isinstance(inner.__cause__, OSError):
        inner = inner.__cause__
    if isinstance(error, aiohttp.ClientHttpProxyError):
        return f"the proxy refused to connect (HTTP {error.status} {phrase_of(error.status)})"
    if isinstance(inner, ssl.SSLError):
        return f"TLS: {getattr(inner, 'verify_message', '') or inner.reason or inner}: check certificate and CA bundle"
    if isinstance(inner, OSError) and inner.errno is not None and inner.errno > 0:
        return os.strerror(inner.errno)
    if isinstance(inner, OSError) and inner.strerror:
        return inner.strerror
    if isinstance(error, aiohttp.ServerDisconnectedError):
        return "the server closed the connection"
    return type(error).__name__


def route_to(base_url: str, proxy: Mapping[str, Any]) -> str:
    """Name the host, and the proxy before it: a failure may be either's."""
    host = _host_and_port(URL(base_url))
    return f"{host} through the proxy {_host_and_port(proxy['proxy'])}" if proxy else host


def proxy_for(base_url: str) -> dict[str, Any]:
    """Return the proxy that the environment names for the service, as keyword arguments of a request.

    aiohttp's ``trust_env`` also reads ``~/.netrc``, and then refuses the Authorization header.

    Raises:
        UsageError: The environment names something else than an HTTP proxy.
    """
    url = URL(base_url)
    host = url.host or ""
    if is_loopback(host) or proxy_bypass(f"{host}:{url.port}"):
        return {}
    kinds = getproxies()
    kind = next((kind for kind in (url.scheme, "all") if kinds.get(kind)), None)
    if kind is None:
        return {}
    named, variable = kinds[kind], f"{kind}_proxy"
    variable = variable if variable in os.environ else variable.upper()
    proxy = _proxy(named if "://" in named else f"http://{named}", variable)
    if proxy.user is None:
        return {"proxy": proxy}
    login = b64encode(f"{proxy.user}:{proxy.password or ''}".encode()).decode("ascii")
    return {"proxy": proxy.with_user(None), "proxy_headers": {"Proxy-Authorization": f"Basic {login}"}}


def _host_and_port(url: URL | None) -> str:
    return url.authority.rpartition("@")[2] if url is not None else ""


def _proxy(named: str, variable: str) -> URL:
    """Parse a proxy's address; the error for a wrong one does not repeat the login in it."""
    wrong = UsageError(
        f"environment {variable}: {without_login(named)!r} is no proxy's address: write it as http://HOST:PORT"
    )
    try:
        proxy = URL(named)
        usable = proxy.scheme in ("http", "https") and proxy.host is not None and proxy.port is not None
    except ValueError:
        raise wrong from None
    if not usable:
        raise wrong
    return proxy
