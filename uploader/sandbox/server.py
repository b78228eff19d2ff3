"""The sandbox's server on loopback, with its routes."""

import asyncio
import ssl
from collections.abc import Awaitable, Callable
from types import TracebackType
from typing import Final, Self

from aiohttp import web

from uploader.errors import UsageError
from uploader.sandbox.body import read_body
from uploader.sandbox.calls import Calls
from uploader.sandbox.endpoints import ConversationEndpoint, JobEndpoint, TokenEndpoint
from uploader.sandbox.jobs import Jobs
from uploader.sandbox.journal import Journal
from uploader.sandbox.put import PutEndpoint
from uploader.sandbox.relay import Relay
from uploader.sandbox.replies import message
from uploader.sandbox.request_target import decoded
from uploader.sandbox.settings import SandboxSettings
from uploader.sandbox.tokens import Tokens

Answer = Callable[[web.BaseRequest, str], Awaitable[web.StreamResponse]]

TOKEN_PATH: Final = "/oauth2/token:generate"  # noqa: S105 - a path
CONVERSATIONS: Final = "/v1/conversations/"
# the time that a stop waits for requests under way
STOP_SECONDS: Final = 0.1
# the longest request line, in bytes; a long vocabulary in the query is valid
LONGEST_LINE: Final = 1 << 20


class Sandbox:
    """A server that plays the service; `base_url` and `journal` are there once it was started."""

    def __init__(self, settings: SandboxSettings) -> None:
        self._settings = settings
        self._journal: Journal | None = None
        self._jobs: Jobs | None = None
        self._calls: Calls | None = None
        self._runner: web.ServerRunner | None = None
        self._relay: Relay | None = None
        self._port = 0
        self._token_endpoint: TokenEndpoint | None = None
        self._conversations: ConversationEndpoint | None = None
        self._routes: dict[tuple[str, str], Answer] = {}

    @property
    def settings(self) -> SandboxSettings:
        """The settings."""
        return self._settings

    @property
    def base_url(self) -> str:
        """The base URL, without a slash at the end.

        Raises:
            RuntimeError: The sandbox was not started.
        """
        if not self._port:
            raise RuntimeError("the sandbox has no address yet: start it first")
        host = f"[{self._settings.host}]" if ":" in self._settings.host else self._settings.host
        return f"{self._settings.scheme}://{host}:{self._port}"

    @property
    def journal(self) -> Journal:
        """The journal since the start; readable after the stop, too.

        Raises:
            RuntimeError: The sandbox was not started.
        """
        if self._journal is None:
            raise RuntimeError("the sandbox has no journal yet: start it first")
        return self._journal

    async def start(self) -> None:
        """Start listening.

        Raises:
            UsageError: The port, the certificate or the journal's file cannot be used.
        """
        tls = self._settings.tls()
        self._put_together()
        self._runner = web.ServerRunner(self._server(), shutdown_timeout=STOP_SECONDS)
        await self._runner.setup()
        try:
            await self._listen(self._runner, tls)
        except OSError as error:
            await self.stop()
            where = f"{self._settings.host}:{self._settings.port}"
            raise UsageError(f"the sandbox cannot listen on {where} ({error}): use another port") from error

    async def stop(self) -> None:
        """Close every connection and freeze all jobs."""
        if self._relay is not None:
            await self._relay.stop()
            self._relay = None
        if self._runner is not None:
            await self._runner.cleanup()
            self._runner = None
        if self._jobs is not None:
            self._jobs.stop()
        if self._calls is not None:
            await self._calls.stop()
        if self._journal is not None:
            self._journal.close()

    async def __aenter__(self) -> Self:
        """Start the sandbox."""
        await self.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Stop the sandbox."""
        await self.stop()

    def _put_together(self) -> None:
        clock = asyncio.get_running_loop().time
        journal = self._journal = Journal(self._settings.journal_path, clock)
        calls = self._calls = Calls(self._settings, journal)
        jobs = self._jobs = Jobs(self._settings, journal, calls)
        tokens = Tokens(self._settings, clock)
        self._token_endpoint = TokenEndpoint(self._settings, journal, tokens)
        self._routes = {
            ("PUT", "/v1/process/audio/"): PutEndpoint(self._settings, journal, tokens, jobs).answer,
            ("GET", "/v1/job/"): JobEndpoint(self._settings, journal, tokens, jobs).answer,
        }
        self._conversations = ConversationEndpoint(self._settings, journal, tokens, jobs)

    def _server(self) -> web.Server:
        return web.Server(
            self._answer,
            access_log=None,
            lingering_time=0.0,
            auto_decompress=False,
            max_line_size=LONGEST_LINE,
            max_field_size=LONGEST_LINE,
        )

    async def _listen(self, runner: web.ServerRunner, tls: ssl.SSLContext | None) -> None:
        # One socket: with a free port of its own for each address of localhost, half of them would be wrong.
        host = "127.0.0.1" if self._settings.host == "localhost" else self._settings.host
        port = 0 if self._settings.is_far else self._settings.port
        await web.TCPSite(runner, host, port, ssl_context=tls).start()
        self._port = runner.addresses[0][1]
        if self._settings.is_far:
            self._relay = Relay(round_trip=self._settings.round_trip, uplink=self._settings.uplink)
            self._port = await self._relay.start(host, self._settings.port, (host, self._port))

    async def _answer(self, request: web.BaseRequest) -> web.StreamResponse:
        # The path as it came: a slash that was percent-encoded belongs to the id.
        path = request.rel_url.raw_path
        if (request.method, path) == ("POST", TOKEN_PATH) and self._token_endpoint is not None:
            return await self._token_endpoint.answer(request)
        if request.method == "GET" and path.startswith(CONVERSATIONS) and self._conversations is not None:
            conversation, _, part = path.removeprefix(CONVERSATIONS).partition("/")
            if conversation and part in ConversationEndpoint.parts:
                return await self._conversations.answer(request, decoded(conversation), part)
        folder, _, name = path.rpartition("/")
        route = self._routes.get((request.method, f"{folder}/"))
        if route is None or not name:
            return await self._nothing_here(request)
        return await route(request, decoded(name))

    async def _nothing_here(self, request: web.BaseRequest) -> web.StreamResponse:
        response = message(404, f"There is no {request.method} {request.rel_url.path} here.")
        if self._settings.faults.early_answers:
            response.force_close()
        else:
            await read_body(request, len)
        return response


async def serve(settings: SandboxSettings, announce: Callable[[Sandbox], None], stop: asyncio.Event) -> None:
    """Run a sandbox until `stop` is set; call `announce` once it listens."""
    async with Sandbox(settings) as sandbox:
        announce(sandbox)
        await stop.wait()
