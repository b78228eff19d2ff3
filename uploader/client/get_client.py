"""Sends GETs over a connector's connections: half the cost of a session's, of which a job's status needs little."""

import asyncio
from collections.abc import Mapping
from typing import Any, NamedTuple

import aiohttp
from aiohttp.client_reqrep import ClientRequest
from aiohttp.connector import Connection
from aiohttp.helpers import TimerNoop
from aiohttp.http import HttpProcessingError
from yarl import URL

from uploader.client.answers import Body, join_retry_after, read_body
from uploader.text import Sanitizer


class GetAnswer(NamedTuple):
    """The answer to a GET."""

    status: int
    body: Body
    # header fields
    retry_after: str | None
    location: str
    date: str | None


class GetClient:
    """The client of the requests that may be repeated; redirects are not followed, cookies not kept.

    Args:
        base_url: The service's base URL.
        proxy: The proxy, as keyword arguments of a request.
        connector: The connections.
        timeout: The time limits; the total is the caller's.
        sanitizer: Masks secrets in answers, and makes their text storable.
    """

    def __init__(
        self,
        base_url: str,
        proxy: Mapping[str, Any],
        connector: aiohttp.BaseConnector,
        timeout: aiohttp.ClientTimeout,
        sanitizer: Sanitizer,
    ) -> None:
        self._connector = connector
        self._timeout = timeout
        self._sanitizer = sanitizer
        # shows the connector where to connect, and aiohttp's own header fields; it is never sent itself
        self._request = ClientRequest("GET", URL(base_url), loop=asyncio.get_running_loop(), **proxy)
        self._base_path = self._request.url.raw_path.rstrip("/")
        self._fields = "".join(f"{name}: {value}\r\n" for name, value in self._request.headers.items())

    async def get(self, path: str, token: str, max_bytes: int) -> GetAnswer:
        """Send a GET; once more where its connection ends without an answer, as a reused one may at any time.

        Args:
            path: The percent-encoded path.
            token: The access token.
            max_bytes: The longest body that the service may send.
        """
        head = f"GET {self._base_path}{path} HTTP/1.1\r\n{self._fields}Authorization: Bearer {token}\r\n\r\n".encode()
        try:
            return await self._exchange(head, max_bytes)
        except aiohttp.ClientConnectorError:
            raise
        except (aiohttp.ClientOSError, aiohttp.ServerDisconnectedError):
            return await self._exchange(head, max_bytes)

    async def _exchange(self, head: bytes, max_bytes: int) -> GetAnswer:
        connection = await self._connector.connect(self._request, [], self._timeout)
        try:
            answer = await self._answer(connection, head, max_bytes)
        except BaseException:
            connection.close()
            raise
        # the connector closes it where the answer has not come to its end
        connection.release()
        return answer

    async def _answer(self, connection: Connection, head: bytes, max_bytes: int) -> GetAnswer:
        protocol, transport = connection.protocol, connection.transport
        if protocol is None or transport is None:
            raise aiohttp.ServerDisconnectedError
        protocol.set_response_params(timer=TimerNoop())
        transport.write(head)
        try:
            while True:
                message, content = await protocol.read()
                # 1xx answers come before the final one, but for 101
                if message.code >= 200 or message.code == 101:
                    break
        except HttpProcessingError as error:
            raise aiohttp.ClientPayloadError("the answer is no HTTP") from error
        headers = message.headers
        return GetAnswer(
            message.code,
            await read_body(content, max_bytes, self._sanitizer),
            join_retry_after(headers.getall("Retry-After", ())),
            headers.get("Location", ""),
            headers.get("Date"),
        )
