"""The service's calls to webhookUrls: on their way, lost, late, twice, forged, and again after a crash."""

import asyncio
import heapq
import random
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field

from tests.simulation.clock import Time
from tests.simulation.world import Job, Put
from uploader.errors import LedgerUnavailableError
from uploader.ledger.callbacks import CallbackResult
from uploader.model import JobStatus
from uploader.policy.callbacks import token_hash
from uploader.policy.facts import Callback, CallbackEffect

TRIES = 4
TRY_AGAIN_SECONDS = 5.0
Apply = Callable[[str, Callback], Awaitable[CallbackResult]]


@dataclass(frozen=True)
class Habits:
    """The service's callback habits, as shares; ``breaks_word``: it may take an upload that was cut off."""

    lost: float = 0.0
    twice: float = 0.0
    late: float = 0.0
    forged: float = 0.0
    breaks_word: bool = False


@dataclass(order=True)
class _Said:
    at: float
    number: int
    token: str = field(compare=False)
    call: Callback = field(compare=False)
    tries: int = field(compare=False, default=TRIES)


class Calls:
    """All calls of one world; chance is a stream of its own."""

    def __init__(self, habits: Habits, time: Time, seed: int) -> None:
        self.habits = habits
        # jobs of what was cut off before its last chunk
        self.broken: set[str] = set()
        # jobs of which a call was answered, and what the first one meant
        self.effects: dict[str, CallbackEffect] = {}
        self._rng = random.Random(f"calls {seed}")
        self._time = time
        self._on_their_way: list[_Said] = []
        self._said = 0
        self._drawn = 0
        # those of the processes that listen: each is of the loop of its own
        self._listening: list[asyncio.Event] = []

    def draw_token(self) -> str:
        """Draw the secret of an attempt."""
        self._drawn += 1
        return f"token-{self._drawn}"

    def takes_what_is_cut(self) -> bool:
        """Return True where the service makes a job of an upload that was cut off."""
        return self.habits.breaks_word and self._rng.random() < 0.5

    def job_begun(self, put: Put, job: Job) -> None:
        """Schedule a callback for every change of the job's status."""
        if not put.token:
            return
        self._say(put.token, Callback(job.job_id, JobStatus.SCHEDULED), job.begun_at)
        going = job.begun_at if job.ending == "endless" else job.begun_at + (job.ends_at - job.begun_at) / 10
        self._say(put.token, Callback(job.job_id, JobStatus.IN_PROGRESS), going)
        if job.ending != "endless":
            self._say(put.token, Callback(job.job_id, JobStatus(job.ending)), job.ends_at)

    async def deliver(self, apply: Apply) -> None:
        """Make the calls that are due, as long as somebody listens."""
        more = asyncio.Event()
        self._listening.append(more)
        try:
            while True:
                while not self._on_their_way:
                    more.clear()
                    await more.wait()
                await self._until(self._on_their_way[0].at, more)
                # by a clock that goes wrong, a wait may end a trifle too early
                if self._on_their_way and self._on_their_way[0].at <= self._time.now + 1e-6:
                    await self._make(heapq.heappop(self._on_their_way), apply)
        finally:
            self._listening.remove(more)

    async def _until(self, at: float, more: asyncio.Event) -> None:
        more.clear()
        try:
            async with asyncio.timeout(max(at - self._time.now, 0.0)):
                await more.wait()
        except TimeoutError:
            return

    async def _make(self, said: _Said, apply: Apply) -> None:
        # whoever dies while it is answered has not answered it
        self._again(said)
        try:
            result = await apply(token_hash(said.token), said.call)
        except LedgerUnavailableError:
            return
        self._on_their_way = [waiting for waiting in self._on_their_way if waiting.number != said.number]
        heapq.heapify(self._on_their_way)
        assert (result.effect is CallbackEffect.UNKNOWN_TOKEN) == (said.token == "guessed")
        if result.effect is not CallbackEffect.UNKNOWN_TOKEN:
            self.effects.setdefault(said.call.job_id, result.effect)

    def _again(self, said: _Said) -> None:
        if said.tries:
            again = _Said(self._time.now + TRY_AGAIN_SECONDS, said.number, said.token, said.call, said.tries - 1)
            heapq.heappush(self._on_their_way, again)

    def _say(self, token: str, call: Callback, at: float) -> None:
        habits, rng = self.habits, self._rng
        if rng.random() < habits.forged:
            self._put_on_its_way("guessed", Callback(call.job_id, JobStatus.FAILED), at)
        if rng.random() < habits.lost:
            return
        late = rng.choice([30.0, 2000.0]) if rng.random() < habits.late else 0.0
        for _ in range(2 if rng.random() < habits.twice else 1):
            self._put_on_its_way(token, call, at + late)

    def _put_on_its_way(self, token: str, call: Callback, at: float) -> None:
        self._said += 1
        heapq.heappush(self._on_their_way, _Said(at + self._rng.uniform(0.0, 2.0), self._said, token, call))
        self._wake_listeners()

    def _wake_listeners(self) -> None:
        for more in self._listening:
            more.set()


def draw_habits(seed: int) -> Habits | None:
    """Draw the callback habits of a schedule; None: no run listens."""
    rng = random.Random(f"habits {seed}")
    if rng.random() < 0.5:
        return None
    return Habits(
        lost=rng.choice([0.0, 0.2, 0.9]),
        twice=rng.choice([0.0, 0.3]),
        late=rng.choice([0.0, 0.3]),
        forged=rng.choice([0.0, 0.3]),
        breaks_word=rng.random() < 0.3,
    )
