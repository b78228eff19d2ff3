"""The one listener of a service: which run gets a callback, and what the figures of several runs add up to."""

from collections.abc import AsyncIterator, Callable
from contextlib import AbstractContextManager, asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

from prometheus_client.parser import text_string_to_metric_families

from tests.integration.servers import free_port
from tests.integration.test_webhook import KEY, TOKEN, post
from tests.unit.test_metrics import figures
from uploader.errors import ExitCode, LedgerUnavailableError
from uploader.http_server import HttpServer
from uploader.ledger import Connection
from uploader.ledger.callbacks import CallbackResult
from uploader.policy.facts import CallbackEffect
from uploader.run.listening import RunView
from uploader.serve.board import Board
from uploader.settings import Settings
from uploader.status.metrics import RunFigures
from uploader.status.snapshot import SnapshotSource


def unreadable() -> AbstractContextManager[Connection]:
    """Read no ledger: the page is not looked at here."""
    raise LedgerUnavailableError("there is none")


@dataclass
class Run:
    """A run of one worker, and a writer whose ledger says that an attempt is the second worker's."""

    worker_id: int
    passed_on: list[CallbackResult] = field(default_factory=list)
    written: int = 0

    async def call(self, _function: Callable[..., Any], *_arguments: Any, **_named: Any) -> Any:
        """Write a callback."""
        self.written += 1
        return CallbackResult(CallbackEffect.ENDED, worker_id=2)

    async def figures(self) -> RunFigures:
        """Read its figures."""
        return figures()

    @property
    def view(self) -> RunView:
        """The run as its listener knows it."""
        writer: Any = self
        source = SnapshotSource(
            reading=unreadable, account_ids=[1], batch_ids=[self.worker_id], ledger="l", now=lambda: 1.0
        )
        return RunView(
            name=f"{self.worker_id}.csv",
            source=source,
            figures=self.figures,
            limits=lambda: {1: figures().limit},
            key=KEY,
            writer=writer,
            worker_ids={self.worker_id},
            apply_callback=self.passed_on.append,
            slot_may_be_free=lambda: None,
        )


@asynccontextmanager
async def listening(board: Board) -> AsyncIterator[int]:
    """Listen for callbacks."""
    port = free_port()
    async with HttpServer("127.0.0.1", port, board.view.answer, option="--webhook"):
        yield port


async def test_a_callback_reaches_the_run_that_follows_the_job() -> None:
    """Whichever run writes it; once that run has ended, another one hears of it; with none it is to come again."""
    board, first, second = Board(Settings()), Run(1), Run(2)
    async with listening(board) as port:
        async with board.showing(first.view):
            async with board.showing(second.view):
                assert await post(port, f"/jobs/{TOKEN}") == 200
                assert (len(first.passed_on), len(second.passed_on)) == (0, 1)
            assert await post(port, f"/jobs/{TOKEN}") == 200
            assert (len(first.passed_on), len(second.passed_on)) == (1, 1)
        assert await post(port, f"/jobs/{TOKEN}") == 503
    assert first.written + second.written == 2


def samples(text: str) -> dict[tuple[str, ...], float]:
    """Return the values of the metrics by name and labels."""
    found = text_string_to_metric_families(text)
    return {(sample.name, *sample.labels.values()): sample.value for family in found for sample in family.samples}


async def test_counters_never_fall_as_runs_come_and_go() -> None:
    """They count from the service's begin; slots' seconds, which each run measures for its account, count once."""
    board = Board(Settings())
    async with board.showing(Run(1).view):
        async with board.showing(Run(2).view):
            both = samples(await board.view.metrics())
        one = samples(await board.view.metrics())
    await board.keep_end(ExitCode.NEEDS_PERSON)
    none = samples(await board.view.metrics())
    names = [("uploader_sent_bytes_total",), ("uploader_slot_busy_seconds_total",), ("uploader_items", "completed")]
    assert [both[name] for name in names] == [2468.0, 40.0, 6.0]
    assert [one[name] for name in names] == [2468.0, 40.0, 3.0]
    assert [none[name] for name in names] == [2468.0, 40.0, 3.0]
    assert both["uploader_limit", "in_force"] == one["uploader_limit", "in_force"] == 5.0
    assert (both["uploader_run_active",], none["uploader_run_active",]) == (1.0, 0.0)
    assert none["uploader_last_run_exit_code",] == 1.0
