"""Nights over a long or a slow line: their slots stay full, on a virtual clock that no other work disturbs."""

import asyncio
import heapq
from collections import Counter, deque
from statistics import mean
from typing import Any

import pytest

from tests.simulation import process, schedule
from tests.simulation.calls import Calls, Habits, _Said
from tests.simulation.judge import Judge
from tests.simulation.ledgers import MemoryLedger
from tests.simulation.process import CHUNK_BYTES, SimulatedClient, Wire
from tests.simulation.run import quiet
from tests.simulation.schedule import Plan, World, counts
from tests.simulation.world import Put, content_hash
from uploader.client import Admission, JobAnswer, UploadRequest
from uploader.client.upload import Upload
from uploader.model import Reply, State
from uploader.policy.facts import Callback

pytestmark = pytest.mark.timeout(0)

SLOTS, GENERATIONS = 20, 12
# what the service and the processor take for a request
STEP_SECONDS = 0.002


class FarClient(SimulatedClient):
    """The service behind a line: a request takes a round trip, a new connection another one, a body its travel."""

    round_trip = 0.0
    travel = 0.0
    # connections that are kept and free
    _kept = 0

    async def authorise(self) -> str:
        """Fetch a token over a new connection."""
        await asyncio.sleep(2 * self.round_trip)
        return await super().authorise()

    async def job(self, job_id: str) -> JobAnswer:
        """Ask for a job."""
        await asyncio.sleep(self.round_trip / 2)
        answer = await super().job(job_id)
        await asyncio.sleep(self.round_trip / 2)
        return answer

    async def upload(self, request: UploadRequest, source: Any, admission: Admission) -> Reply:
        """Send one PUT: the handshake where no connection is free, its head and 100 Continue, its body."""
        is_new = not self._kept
        self._kept -= not is_new
        await asyncio.sleep(self.round_trip * (1 + is_new))
        reply = await super().upload(request, source, admission)
        self._kept += 1
        return reply

    async def _body(self, upload: Upload, put: Put, wire: Wire) -> int | None:
        body: Any = upload.body()
        while True:
            piece = await self._next_piece(body, put, wire)
            if isinstance(piece, int):
                return piece
            if piece is None or upload.last_chunk_left:
                break
            # the byte that keeps a waiting connection open takes its share, and no more
            await asyncio.sleep(self.travel * len(piece) / upload._source.size)
        await asyncio.sleep(self.round_trip / 2)
        self._receive(put)
        return None

    async def _answer(self, request: UploadRequest, upload: Upload, put: Put) -> Reply:
        await asyncio.sleep(self.round_trip / 2)
        return await super()._answer(request, upload, put)


class PromptCalls(Calls):
    """Callbacks that take their way to the listener, and no longer."""

    def _put_on_its_way(self, token: str, call: Callback, at: float) -> None:
        self._said += 1
        heapq.heappush(self._on_their_way, _Said(at + FarClient.round_trip / 2 + STEP_SECONDS, self._said, token, call))
        self._wake_listeners()


@pytest.fixture(autouse=True)
def line(monkeypatch: pytest.MonkeyPatch) -> None:
    """Provide the service behind the line; each step beside it takes next to nothing."""
    monkeypatch.setattr(process, "LATENCY_SECONDS", STEP_SECONDS)
    monkeypatch.setattr(schedule, "SimulatedClient", FarClient)


def lived(*, job_seconds: float, slots: int, bytes_each: int, webhook: bool) -> World:
    """Run a night of a file in each conversation, so many jobs in each slot, to its good end."""
    habits = Habits() if webhook else None
    plan = Plan(1, conversations=1, rows=0, limit=slots, service_limit=slots, auto=True)
    plan = quiet(plan)
    plan.calls = habits
    world = World(plan, MemoryLedger())
    Judge(world)
    if habits is not None:
        world.calls = PromptCalls(habits, world.time, plan.seed)
        world.service.told = world.calls.job_begun
    for number in range(slots * GENERATIONS):
        path = f"/audio/{number}.wav"
        world.disk.write(path, f"{number:0{bytes_each}}".encode())
        world.manifest.append((f"c{number}", path))
        world.service.job_seconds[content_hash(world.disk.files[path].content)] = job_seconds
    world._night(bad=False)
    assert counts(world)[State.COMPLETED] == len(world.manifest)
    assert len(world.service.puts) == len(world.manifest), "no body was sent in vain"
    return world


def idle_seconds(world: World) -> list[float]:
    """Return how long each slot was free between two of its jobs; a job takes the one that is free the longest."""
    jobs = world.service.jobs.values()
    free, idle = deque[float](), list[float]()
    for at, is_begin in sorted([(job.begun_at, True) for job in jobs] + [(job.ends_at, False) for job in jobs]):
        if not is_begin:
            free.append(at)
        elif free:
            idle.append(at - free.popleft())
    return idle


@pytest.mark.parametrize(("webhook", "round_trips"), [(False, 1.4), (True, 1.15)], ids=["polling", "webhook"])
def test_between_two_jobs_of_a_slot_is_little_more_than_a_round_trip(
    *, webhook: bool, round_trips: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """200 ms away: the notice of an end and the next last chunk take a round trip; all else has gone out before."""
    monkeypatch.setattr(FarClient, "round_trip", 0.2)
    idle = idle_seconds(lived(job_seconds=4.0, slots=SLOTS, bytes_each=100, webhook=webhook))
    assert len(idle) >= SLOTS * (GENERATIONS - 1)
    assert mean(idle) <= round_trips * FarClient.round_trip, mean(idle)


def test_bodies_that_travel_longer_than_jobs_live_keep_the_slots_full(monkeypatch: pytest.MonkeyPatch) -> None:
    """Twice as long: from the fourth job of a slot on, which was begun by what the first one showed, little is idle."""
    monkeypatch.setattr(FarClient, "travel", 4.0)
    idle = idle_seconds(lived(job_seconds=2.0, slots=10, bytes_each=10 * CHUNK_BYTES, webhook=False))
    assert mean(idle[:30]) <= 1.2, mean(idle[:30])
    assert mean(idle[30:]) <= 0.05, mean(idle[30:])


def test_many_jobs_of_one_length_are_noticed_at_once_for_few_polls(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two hundred slots: the first end tells of all jobs, and the polls of each gather around its own."""
    monkeypatch.setattr("tests.simulation.test_far_nights.GENERATIONS", 4)
    asked = Counter[str]()
    ask = FarClient.job

    async def counted(client: FarClient, job_id: str) -> JobAnswer:
        asked[job_id] += 1
        return await ask(client, job_id)

    monkeypatch.setattr(FarClient, "job", counted)
    idle = idle_seconds(lived(job_seconds=15.0, slots=200, bytes_each=100, webhook=False))
    assert mean(idle) <= 0.15, mean(idle)
    assert mean(asked.values()) <= 8.0, mean(asked.values())
