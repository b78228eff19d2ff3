"""One ledger of so many rows, and what an item costs in it: `python -m tests.benchmarks.crowd ROWS ITEMS`.

The service is simulated and answers at once; the ledger is a real one, on the disk of the folder where it is started.
It prints a JSON object: seconds of wall clock and of CPU a row, or an item, by phase.
"""

import asyncio
import json
import random
import resource
import sys
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median

from uploader import logs, results
from uploader.audio import Source
from uploader.client import Admission, JobAnswer, UploadRequest
from uploader.engine import Engine
from uploader.ledger import Ledger
from uploader.ledger.clock import steady_clock
from uploader.ledger.commits import GroupCommits
from uploader.ledger.lanes import activate_batch
from uploader.ledger.loading import account, begin_load, load_rows, save_rules
from uploader.ledger.outcomes import JobEnd, end_job
from uploader.ledger.reading import live_jobs, result_lines
from uploader.ledger.standing import standing
from uploader.ledger.thread import LedgerThread
from uploader.ledger.workers import Identity, begin_worker
from uploader.model import AudioFacts, ConversationSnapshot, FileSignature, JobStatus, Load, Reply, Row
from uploader.settings import Settings
from uploader.settings.tables import Jobs

UPLOADS = 64
ROUNDS = 3
SIZE = 20 * 1024


@dataclass
class Costs:
    """What the phases took; one that came several times tells its median."""

    taken: dict[str, list[tuple[float, float]]] = field(default_factory=dict)

    @contextmanager
    def phase(self, name: str, count: int) -> Iterator[None]:
        """Measure a phase of so many rows or items."""
        begun = (time.perf_counter(), time.process_time())
        yield
        wall, cpu = time.perf_counter() - begun[0], time.process_time() - begun[1]
        self.taken.setdefault(name, []).append((wall / count, cpu / count))

    def told(self) -> dict[str, dict[str, float]]:
        """Seconds a row or item."""
        return {
            name: {"wall": median(wall for wall, _ in all_), "cpu": median(cpu for _, cpu in all_)}
            for name, all_ in self.taken.items()
        }


@dataclass(frozen=True)
class Recording:
    """A file that nobody reads."""

    size: int


@asynccontextmanager
async def recording(_path: str, size: int, _change: str | None) -> AsyncIterator[Source]:
    """Open it."""
    yield Recording(size)  # type: ignore[misc] # the service that is simulated reads its size alone


class Service:
    """Takes every item at once, and has the engine stopped after so many."""

    def __init__(self, items: int) -> None:
        self.stop: Callable[[], None] = lambda: None
        self._left = items

    async def authorise(self) -> str:
        """There is a token."""
        return ""

    async def ping(self, _: str) -> bool:
        """It answers."""
        return True

    async def snapshot(self, _: str) -> ConversationSnapshot | None:
        """It shows nothing."""
        return None

    async def job(self, _: str) -> JobAnswer:
        """Its jobs are at work."""
        return JobAnswer(JobStatus.IN_PROGRESS)

    async def upload(self, request: UploadRequest, source: Source, admission: Admission) -> Reply:
        """Append."""
        reason = await admission.ask(f"{request.conversation_id:0>64}")
        admission.withdraw()
        if reason:
            return Reply(connected=True, withheld=True, failure=reason)
        self._left -= 1
        if not self._left:
            self.stop()
        admission.moved(source.size)
        answer = {"conversationId": request.conversation_id, "jobId": f"job-of-{request.conversation_id}"}
        return Reply(connected=True, last_chunk_left=True, status=201, answer=answer, bytes_sent=source.size)


def manifest(count: int) -> Iterator[Row]:
    """The rows: a conversation each."""
    for line in range(2, count + 2):
        name = f"{line}.wav"
        signature = FileSignature(SIZE, f"{line}:{line}:{line}")
        facts = AudioFacts("audio/wav", 1.28, 1)
        yield Row(line, str(5815170693000000 + line), name, f"/audio/2026/11/{name}", signature=signature, facts=facts)


def loaded(ledger: Ledger, count: int, items: int, costs: Costs) -> Load:
    """Load the manifest, and begin its run."""
    with costs.phase("load", count), ledger.writing() as connection:
        account_id = account(connection, "https://service.example")
        load = begin_load(
            connection,
            account_id,
            "crowd",
            manifest="crowd.csv",
            results=Path("r.csv"),
            extra_columns=[],
            now=1.0,
            repeat=False,
        )
        load_rows(connection, load, manifest(count), content_hash=lambda _: None, probe=lambda _: AudioFacts())
        save_rules(connection, account_id, limit=2 * items, holds=True)
        activate_batch(connection, account_id, load.batch_id)
        begin_worker(connection, account_id, load.batch_id, Identity("host", ledger.process, "1.0"), time.time())
    return load


async def carry(ledger: Ledger, account_id: int, items: int, costs: Costs) -> None:
    """Claim, admit and settle so many items; then end their jobs."""
    service, now, thread = Service(items), steady_clock(time.time, time.monotonic), LedgerThread(GroupCommits(ledger))
    settings = Settings(
        limit=2 * items,
        uploads=UPLOADS,
        rate=1e5,
        jobs=Jobs(polls_per_second=1.0),
        no_wait=True,
        job_timeout_seconds=6e5,
    )
    engine = Engine(
        client=service,
        writer=thread,
        account_id=account_id,
        worker_id=1,
        batch_id=1,
        settings=settings,
        now=now,
        rng=random.Random(1),
        new_token=str,
        sources=recording,
    )
    service.stop = engine.stop
    with costs.phase("claim to outcome", items):
        await engine.run()
    jobs = await thread.call(live_jobs, account_id)
    with costs.phase("end of job", len(jobs)):
        ends = [thread.call(end_job, JobEnd(job, JobStatus.COMPLETED, now())) for job in jobs]
        await asyncio.gather(*ends)
    thread.close()


def show(ledger: Ledger, load: Load, count: int, costs: Costs) -> None:
    """Count the batch, and write its results."""
    with ledger.beside() as reader, reader.reading() as connection:
        with costs.phase("count", count):
            standing(connection, load.batch_id)
        with costs.phase("results", count):
            results.write(Path("results.csv"), result_lines(connection, load.batch_id), [])


def main(count: int, items: int) -> None:
    """Go through all phases, and tell."""
    logs.configure("json", "info")
    costs = Costs()
    with Ledger.open_for_run(f"sqlite:///{Path.cwd()}/ledger.db") as ledger:
        load = loaded(ledger, count, items, costs)
        for _ in range(ROUNDS):
            asyncio.run(carry(ledger, load.account_id, items, costs))
        show(ledger, load, count, costs)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    sys.stdout.write(json.dumps({"costs": costs.told(), "mebibytes": peak}) + "\n")


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]))
