"""Runs of one process tell each other that they begin and end."""

import asyncio
from typing import Any

from uploader.ledger.workers import Beat
from uploader.run.shared import Shared
from uploader.settings import Settings
from uploader.worker import Worker


def test_the_other_runs_look_when_one_begins_and_when_it_has_ended() -> None:
    """What it leaves in the ledger is taken over at once; itself it does not wake."""
    shared, looks = Shared(), list[str]()
    with shared.present(lambda: looks.append("a")):
        assert looks == []
        with shared.present(lambda: looks.append("b")):
            assert looks == ["a"]
        assert looks == ["a", "a"]
    assert looks == ["a", "a"]


class Writer:
    """A ledger without other workers, which counts the renewals."""

    def __init__(self) -> None:
        self.renewed = asyncio.Semaphore(0)

    async def call(self, *_arguments: Any, **_named: Any) -> Any:
        """Renew a lease."""
        self.renewed.release()
        return Beat(others=0, ended=0, jobs=(), pending=0, doubtful=0, is_batch_over=False)


async def test_a_worker_looks_at_once_when_it_is_told_so() -> None:
    """A worker without others renews its lease each ten seconds; told of another one, it does not wait for that."""
    writer: Any = Writer()
    worker = Worker(
        writer=writer,
        worker_id=1,
        account_id=1,
        batch_id=1,
        settings=Settings(),
        now=lambda: 1.0,
        is_gone=lambda _: False,
        looks_for_work=lambda: True,
        on_beat=lambda _jobs, _is_news: None,
    )
    keeping = asyncio.create_task(worker.keep_lease())
    try:
        async with asyncio.timeout(8.0):  # of the ten
            for _ in range(3):
                await writer.renewed.acquire()
                worker.look_soon()
    finally:
        keeping.cancel()
        await asyncio.gather(keeping, return_exceptions=True)
