"""The listeners of a run: for callbacks, and for readers of the status page."""

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from typing import TYPE_CHECKING, NamedTuple

from uploader.settings import Settings, host_and_port

if TYPE_CHECKING:  # most runs have no listener, which is a server
    from uploader.http_server import Answer
    from uploader.status.listener import ReadSnapshot


class RunView(NamedTuple):
    """What a run gives to its listeners."""

    # answers callbacks
    answer: "Answer"
    # reads the snapshot of the status page
    read: "ReadSnapshot"
    # renders the metrics
    metrics: Callable[[], Awaitable[str]]


# listens, in the block, for a run
Listen = Callable[[RunView], AbstractAsyncContextManager[None]]


def has_listeners(settings: Settings) -> bool:
    """Return True where the settings ask for any listener."""
    return settings.webhook is not None or settings.status is not None


@asynccontextmanager
async def listeners(settings: Settings, view: RunView) -> AsyncIterator[None]:
    """Listen for callbacks and for readers of the status page, as far as the settings ask for either.

    Raises:
        UsageError: An address cannot be listened on.
    """
    webhook, status = settings.webhook, settings.status
    async with AsyncExitStack() as stack:
        if status is not None:
            from uploader.status.listener import StatusListener  # noqa: PLC0415 - most runs have none

            token = settings.status_token
            listener = StatusListener(
                *host_and_port(status),
                read=view.read,
                metrics=view.metrics,
                token=None if token is None else token.get_secret_value(),
                webhook=view.answer if webhook == status else None,
            )
            await stack.enter_async_context(listener)
        if webhook is not None and webhook != status:
            from uploader.http_server import HttpServer  # noqa: PLC0415 - most runs have none

            await stack.enter_async_context(HttpServer(*host_and_port(webhook), view.answer, option="--webhook"))
        yield
