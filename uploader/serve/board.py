"""The one listener of a service, over the batches that come and go behind it."""

import asyncio
import threading
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager, suppress
from http import HTTPStatus
from typing import Any

from aiohttp import web

from uploader.errors import UploaderError
from uploader.http_server import Callers
from uploader.run.listening import RunView
from uploader.run.reporting import RunReporter
from uploader.settings import Settings
from uploader.status.snapshot import idle_json

# a callback that comes between two runs is to be sent again: the next run polls its job in any case
RETRY_SECONDS = "5"


class Board:
    """What the listener shows: the batch that is run, else how the latest one ended.

    Args:
        settings: The service's settings.
    """

    def __init__(self, settings: Settings) -> None:
        self._reporter = RunReporter(settings, "")
        self._view: RunView | None = None
        self._lock = threading.Lock()
        self._snapshot: Mapping[str, Any] = idle_json("Waiting for a manifest.")
        self._metrics: str | None = None

    @property
    def view(self) -> RunView:
        """What the listener is given."""
        return RunView(self._answer, self._read, self._render)

    @asynccontextmanager
    async def showing(self, view: RunView) -> AsyncIterator[None]:
        """Show a run in the block, and afterwards its end."""
        self._view = view
        try:
            yield
        finally:
            with suppress(UploaderError):  # the run itself tells of a ledger that cannot be read
                self._metrics = await view.metrics()
                await asyncio.to_thread(self._end, view)
            self._view = None

    def _end(self, view: RunView) -> None:
        """Keep the last snapshot; the ledger may be closed once nobody reads it any more."""
        with self._lock:
            self._view = None
            self._snapshot = view.read(fresh=True)

    async def _answer(self, request: web.BaseRequest, callers: Callers) -> web.StreamResponse:
        if self._view is not None:
            return await self._view.answer(request, callers)
        response = web.Response(status=HTTPStatus.SERVICE_UNAVAILABLE, headers={"Retry-After": RETRY_SECONDS})
        response.force_close()
        return response

    def _read(self, *, fresh: bool) -> Mapping[str, Any]:
        with self._lock:
            return self._snapshot if self._view is None else self._view.read(fresh=fresh)

    async def _render(self) -> str:
        if self._view is not None:
            return await self._view.metrics()
        return self._metrics if self._metrics is not None else self._reporter.metrics(None, is_active=False).render()
