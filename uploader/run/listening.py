"""The listeners of a run: for callbacks, and for readers of the status page."""

from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from collections.abc import Set as AbstractSet
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from typing import TYPE_CHECKING, NamedTuple

from uploader.ledger.callbacks import CallbackResult
from uploader.ledger.thread import Writer
from uploader.model import LimitFacts
from uploader.run.reporting import RunReporter
from uploader.settings import Settings, host_and_port

if TYPE_CHECKING:  # most runs have no listener, which is a server
    from uploader.http_server import Answer
    from uploader.status.listener import ReadSnapshot
    from uploader.status.metrics import RunFigures
    from uploader.status.snapshot import SnapshotSource


class ListenerView(NamedTuple):
    """The answers of listeners."""

    # answers callbacks
    answer: "Answer"
    # reads the snapshot of the status page
    read: "ReadSnapshot"
    # renders the metrics
    metrics: Callable[[], Awaitable[str]]


class RunView(NamedTuple):
    """A run as its listeners know it: what they show of it, and where its callbacks go."""

    # of its batch
    name: str
    source: "SnapshotSource"
    figures: Callable[[], Awaitable["RunFigures"]]
    # the limits of its accounts by their ids
    limits: Callable[[], Mapping[int, LimitFacts]]
    # the key that signs the ledger's tokens
    key: str
    writer: Writer
    # its workers, one for each account
    worker_ids: AbstractSet[int]
    apply_callback: Callable[[CallbackResult], None]
    slot_may_be_free: Callable[[], None]


# listens, in the block, for a run
Listen = Callable[[RunView], AbstractAsyncContextManager[None]]


def has_listeners(settings: Settings) -> bool:
    """Return True where the settings ask for any listener."""
    return settings.webhook is not None or settings.status is not None


@asynccontextmanager
async def listen_to_run(
    settings: Settings,
    reporter: RunReporter,
    run: RunView,
    *,
    reads: Callable[["SnapshotSource"], "ReadSnapshot"],
) -> AsyncIterator[None]:
    """Listen for one run, with listeners of its own.

    Args:
        reporter: Renders the metrics.
        reads: Returns the function that reads the snapshots of the status page.

    Raises:
        UsageError: An address cannot be listened on.
    """
    from uploader.webhook import Callbacks  # noqa: PLC0415 - most runs have none

    async def metrics() -> str:
        return reporter.metrics(await run.figures(), is_active=run.source.is_running()).render()

    callbacks = Callbacks(
        key=run.key,
        writer=run.writer,
        now=run.source.now,
        applied=run.apply_callback,
        ending=run.slot_may_be_free,
    )
    async with listeners(settings, ListenerView(callbacks.answer, reads(run.source), metrics)):
        yield


@asynccontextmanager
async def listeners(settings: Settings, view: ListenerView) -> AsyncIterator[None]:
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
