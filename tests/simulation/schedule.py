"""One schedule, drawn from a seed: nights of a world in which things go wrong, then a good one."""

import asyncio
import random
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from dataclasses import dataclass, field, replace
from functools import partial
from math import inf
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest.mock import patch

import asyncio_throttle.throttler
from sqlalchemy import Connection, Engine, bindparam, or_, select

from tests.simulation.calls import Calls, Habits, draw_habits
from tests.simulation.clock import Time, VirtualLoop
from tests.simulation.ledgers import MemoryLedger, SharedLedger
from tests.simulation.process import (
    ADMITTED,
    ANSWER,
    BODY,
    FOLLOWED,
    STEPS,
    Process,
    SimulatedClient,
    Troubles,
    opener,
)
from tests.simulation.scheduler import Scheduler
from tests.simulation.world import BEFORE, EARLY, LATE, Disk, Service, Weather, content_hash
from tests.simulation.writer import ReachedLedger, SimulatedWriter
from uploader import engine as engine_module
from uploader.client import upload as upload_module
from uploader.engine import Engine as UploadEngine
from uploader.errors import GaveUpError, LedgerUnavailableError, SlotsHeldError, UploaderError, WorkerEndedError
from uploader.ledger import steps as steps_module
from uploader.ledger import workers as workers_module
from uploader.ledger.callbacks import CallbackResult, apply_callback
from uploader.ledger.clock import any_open_worker, rebase_deadlines, steady_clock
from uploader.ledger.lanes import activate_account, activate_batch
from uploader.ledger.leases import OpenWorker, open_workers
from uploader.ledger.loading import account, begin_load, load_rows, save_rules
from uploader.ledger.reading import result_lines
from uploader.ledger.resolving import Selection, open_items, resolve
from uploader.ledger.schema import IS_JOB_UNCERTAIN, attempts, items, lanes, resolutions, rows, workers
from uploader.ledger.standing import standing
from uploader.ledger.workers import Identity, begin_worker, end_worker, end_workers, mark_ended, release_lanes
from uploader.model import (
    LIVE,
    OVER,
    TROUBLED,
    AudioFacts,
    Decision,
    FileSignature,
    Order,
    Outcome,
    ResultLine,
    Row,
    State,
)
from uploader.policy.facts import Callback
from uploader.settings import Settings
from uploader.settings.tables import Jobs, Lanes, Schedule

TAIL_BYTES = 8
AHEAD_SECONDS, ANSWER_SECONDS = 20.0, 60.0
JOB_TIMEOUT_SECONDS = 400.0
DOUBT_SECONDS = 150.0
# in so many a batch is to be complete: what a person settles in one goes in the next, item by item of a lane
MOST_GOOD_NIGHTS = 40
# a person drops what was refused or failed so often
ENOUGH_ATTEMPTS = 8
# what is in none of these was appended, may have been, or shall not be: its content is what it was
UNBEGUN = (State.PENDING, State.SENDING, State.REFUSED)
PUTS_PER_SECOND = 20.0
# hosts whose clocks are wrong by more, as a share, are broken
MOST_DRIFT = 5e-4
# the longest way of a message to a ledger on a server, in seconds
LEDGER_SECONDS = 0.05
# how long a stopped worker stands still: not as long as a lease, somewhat longer, much longer
PAUSES = (5.0, 33.0, 45.0, 90.0)
# the steps of an attempt after which workers are stopped
PAUSED_AT = (*STEPS.values(), BODY, ANSWER, FOLLOWED)
# how far the clocks of hosts may be apart after a long night
SKEW_SECONDS = 5.0
# the most workers that take the place of others in a night
MOST_REPLACED = 4
# an item that may need a person
_ANY_TROUBLE = select(items.c.id).where(or_(items.c.state.in_(TROUBLED), IS_JOB_UNCERTAIN)).limit(1)
# the repeat of each item, and the items that have not begun
_REPEATS = select(items.c.repeat_id)
_WAITING = (
    select(items.c.repeat_id, lanes.c.conversation_id, items.c.path)
    .join(lanes, lanes.c.id == items.c.lane_id)
    .where(items.c.state.in_(UNBEGUN))
)
# the attempts that a worker carries
_CARRIED = select(attempts).where(attempts.c.worker_id == bindparam("worker"), attempts.c.ended_at.is_(None))
# the items of rows that nothing keeps from being sent
_OTHERS = items.alias("others")
_MAY_GO = select(items).where(
    items.c.id.in_(select(rows.c.item_id)),
    items.c.state == State.PENDING,
    ~select(_OTHERS.c.id)
    .where(
        _OTHERS.c.lane_id == items.c.lane_id,
        or_(
            (_OTHERS.c.position < items.c.position) & _OTHERS.c.state.not_in(OVER),
            _OTHERS.c.state.in_([*LIVE, State.SENDING, State.IN_DOUBT]),
        ),
    )
    .exists(),
)
BASE_URL = "https://simulated"
WEBHOOK_URL = "https://listener.simulated/jobs"


@dataclass(frozen=True)
class Several:
    """The parameters of a schedule whose nights have several workers on one ledger."""

    workers: int = 2
    # the ledger is on a server, whose clock is the ledger's, and the workers are on hosts of their own
    on_server: bool = True
    # the others know at once that a process is dead
    sees_deaths: bool = False
    # the hosts' clocks go wrong by at most this share
    drift: float = 0.0
    # workers are stopped longer than their lease, after steps of attempts and at any moment
    pauses: bool = False
    # workers are cut off from the ledger, and from the service
    cuts: bool = False
    # the share of commits whose answer is lost
    lost_commits: float = 0.0
    # workers that have ended or died are replaced in the same night
    replaces: bool = False
    # one of them is for every batch
    works: bool = False


@dataclass
class Plan:
    """The parameters of a schedule; a shrunk one has less of them."""

    seed: int
    conversations: int = 1
    rows: int = 1
    nights: int = 1
    limit: int = 2
    service_limit: int = 2
    uploads: int = 4
    hold: bool = True
    no_wait: bool = False
    kills: bool = True
    signals: bool = True
    full_disk: bool = True
    clock_jumps: bool = True
    edits: bool = True
    resolves: bool = True
    rewrites: bool = True
    repeats: bool = True
    # how the service calls the webhookUrls; None: nobody listens
    calls: Habits | None = None
    order: Order = Order.LONGEST_LANE_FIRST
    # rates and uploads follow the account
    auto: bool = False
    sends_ahead: bool = True
    # whatever may be sent ahead is, however long its turn is away
    eager: bool = False
    # None: one worker at a time
    several: Several | None = None
    weather: Weather = field(default_factory=Weather)


def draw(seed: int) -> Plan:
    """Draw a schedule; whether its runs listen, and how the service calls, from a stream of its own."""
    plan = _draw_flow(replace(_draw(seed), calls=draw_habits(seed)))
    if plan.calls is not None and plan.calls.breaks_word:
        # what was taken of a file that was cut off has no hash: no copy of it is known again
        return replace(plan, edits=False, rewrites=False, repeats=False)
    return plan


def draw_several(seed: int) -> Plan:
    """Draw a schedule of several workers on one ledger, from a stream of its own."""
    rng = random.Random(f"several {seed}")
    on_server = rng.random() < 0.7
    several = Several(
        workers=rng.choice([2, 2, 3, 4]),
        on_server=on_server,
        sees_deaths=not on_server or rng.random() < 0.3,
        drift=rng.choice([0.0, MOST_DRIFT]) if on_server else 0.0,
        pauses=rng.random() < 0.5,
        cuts=on_server and rng.random() < 0.3,
        lost_commits=rng.choice([0.0, 0.0, 0.003, 0.03]) if on_server else 0.0,
        replaces=rng.random() < 0.4,
        works=rng.random() < 0.2,
    )
    plan = draw(seed)
    return replace(
        plan,
        several=several,
        clock_jumps=plan.clock_jumps and not on_server,
        # each of them is costlier
        rows=min(plan.rows, 8),
        nights=min(plan.nights, 2),
    )


def _draw_flow(plan: Plan) -> Plan:
    """Draw the ways of the service and the gateway with bodies that are sent ahead, from a stream of their own."""
    rng = random.Random(f"flow {plan.seed}")
    weather = replace(
        plan.weather,
        counts_uploads=rng.random() < 0.15,
        bears_seconds=rng.choice([inf, inf, inf, 0.5, 0.7]),
        cuts_with_408=rng.random() < 0.5,
    )
    return replace(
        plan,
        auto=rng.random() < 0.5,
        sends_ahead=rng.random() < 0.9,
        eager=rng.random() < 0.6,
        weather=weather,
    )


def draw_surplus(seed: int) -> Plan:
    """Draw a schedule whose service often takes what was cut off, and whose calls often come too late for the retry."""
    weather = Weather(put=0.5, kinds=("cut", "lost"))
    habits = Habits(lost=0.2, twice=0.2, late=0.5, forged=0.1, breaks_word=True)
    plan = Plan(seed, conversations=3, rows=6, nights=2, limit=3, service_limit=3, weather=weather, calls=habits)
    return replace(plan, edits=False, rewrites=False, repeats=False)


def _draw(seed: int) -> Plan:
    rng = random.Random(f"plan {seed}")
    limit = rng.choice([1, 2, 3, 5])
    outages: tuple[tuple[float, float], ...] = ()
    if rng.random() < 0.2:
        start = rng.uniform(0.0, 60.0)
        outages = ((start, start + rng.choice([20.0, 600.0, 4000.0])),)
    return Plan(
        seed=seed,
        conversations=rng.choice([1, 2, 3, 6, 9]),
        rows=rng.choice([1, 2, 4, 8, 12]),
        nights=rng.choice([1, 2, 3, 4]),
        limit=limit,
        service_limit=rng.choice([limit, limit, limit, max(1, limit - 1)]),
        uploads=rng.choice([1, 2, 8]),
        hold=rng.random() < 0.75,
        no_wait=rng.random() < 0.2,
        kills=rng.random() < 0.7,
        signals=rng.random() < 0.3,
        full_disk=rng.random() < 0.2,
        clock_jumps=rng.random() < 0.3,
        edits=rng.random() < 0.4,
        resolves=rng.random() < 0.5,
        weather=Weather(
            put=rng.choice([0.0, 0.05, 0.3, 0.6]),
            poll=rng.choice([0.0, 0.1, 0.5]),
            job_failed=rng.choice([0.0, 0.0, 0.1]),
            job_endless=rng.choice([0.0, 0.0, 0.1]),
            foreign=rng.choice([0.0, 0.0, 0.2]),
            outages=outages,
            kinds=tuple(rng.sample((*BEFORE, *EARLY, *LATE), rng.choice([2, 5, len(LATE)]))),
        ),
        rewrites=rng.random() < 0.25,
        repeats=rng.random() < 0.15,
        order=rng.choice(list(Order)),
    )


class World:
    """The world of one schedule, over all its nights and processes."""

    def __init__(self, plan: Plan, ledger: MemoryLedger) -> None:
        self.plan = plan
        self.time = Time(1_000_000.0)
        self.wall_offset = 700_000_000.0
        self.rng = random.Random(f"world {plan.seed}")
        self.disk = Disk()
        self.service = Service(self.time, self.rng, plan.service_limit, plan.weather)
        if plan.weather.outages:
            moved = tuple((self.time.now + begin, self.time.now + end) for begin, end in plan.weather.outages)
            self.service.weather = replace(plan.weather, outages=moved)
        self.calls = Calls(plan.calls, self.time, plan.seed) if plan.calls is not None else None
        if self.calls is not None:
            self.service.told = self.calls.job_begun
        self.ledger: Engine = ledger.fresh()
        self.shared = SharedLedger(self.ledger, self._let_others_go_on)
        # a stream of its own, so that schedules of one worker stay what they were
        self.chance = random.Random(f"night {plan.seed}")
        self.scheduler = Scheduler(self.time, self.chance, self._on_over)
        self.manifest: list[tuple[str, str]] = []
        self.batch_id = 0
        self.account_id = 0
        self.processes = 0
        # the numbers of the processes that were killed, that were stopped for a time, and of all that are no more
        self.died: set[int] = set()
        self.paused: set[int] = set()
        self.gone: set[int] = set()
        # the ledger's clock less the world's time
        self.ledger_offset = self.wall_offset
        # how far the clocks of hosts may be apart
        self.skew = SKEW_SECONDS if plan.several is not None and plan.several.drift else 0.0
        self.edited = False
        # how long the latest night took
        self.night_seconds = 0.0
        # how long after its begin a night starts nothing new
        self.until_seconds: float | None = None
        # how often a content is meant for a conversation at most: without ``--repeat``, and by each of these
        self.meant: list[Counter[tuple[str, str]]] = [Counter()]
        self.repeat_is_open = False
        # how often a person had what failed sent once more
        self.tried_again: Counter[tuple[str, str]] = Counter()
        # jobs that a person let go, alive or not
        self.waived: set[str] = set()
        self.watchers: list[Callable[[World], None]] = []
        self._known_settings: dict[bool, Settings] = {}
        for number in range(plan.rows):
            self._add_row(number)

    def _add_row(self, number: int) -> None:
        conversation = f"c{self.rng.randrange(self.plan.conversations)}"
        if self.manifest and self.rng.random() < 0.15:
            # the same audio once more for the same conversation: meant, and a second item
            self.manifest.append(self.rng.choice(self.manifest))
            return
        path = f"/audio/{len(self.disk.files)}-{number}.wav"
        self.disk.write(path, f"{path} ".encode() * self.rng.choice([1, 1, 5, 20]))
        self.manifest.append((conversation, path))

    def live_through(self) -> None:
        """Run all bad nights, then good ones until nothing is left to do."""
        for night in range(self.plan.nights):
            if night and self.plan.edits and self.rng.random() < 0.5:
                self._edit()
            if night and self.plan.rewrites and self.rng.random() < 0.3:
                self._rewrite()
            self._night(bad=True)
            if self.plan.resolves and self.rng.random() < 0.6:
                self._resolve(all_of_them=False)
        self._calm_down()
        for _ in range(MOST_GOOD_NIGHTS):
            self._resolve(all_of_them=True)
            self._night(bad=False)
            if all(line.state in (State.COMPLETED, State.DROPPED) for line in self.results()):
                return
        told = [(line.conversation_id, line.audio_path, line.state, line.error) for line in self.results()]
        raise AssertionError(f"good nights do not complete the batch: {told}")

    def allowed(self, conversation: str, content: str) -> int:
        """Return how often a content may be appended to a conversation at most."""
        written = conversation, content
        return sum(meant[written] for meant in self.meant) + self.tried_again[written]

    def results(self) -> list[ResultLine]:
        """Return the results as the ledger has them."""
        with self.ledger.begin() as connection:
            return list(result_lines(connection, self.batch_id))

    def wall(self) -> float:
        """Return the wall clock, which may jump."""
        return self.time.now + self.wall_offset

    def _calm_down(self) -> None:
        self.service.weather = Weather()
        self.service.limit = max(self.service.limit, self.plan.limit)
        self.disk.full_from = float("inf")
        for job in self.service.jobs.values():
            job.ends_at = min(job.ends_at, self.time.now + 60.0)
            job.ending = "completed" if job.ending == "endless" else job.ending

    def _edit(self) -> None:
        """Edit the manifest as a person: order, new rows, copies under another name, archived files."""
        self.edited = True
        rows = list(self.manifest)
        if self.rng.random() < 0.3:
            self.rng.shuffle(rows)
        self.manifest = rows
        if self.rng.random() < 0.5:
            self._add_row(100 + self.processes)
        if self.rng.random() < 0.3:
            at = self.rng.randrange(len(self.manifest))
            conversation, path = self.manifest[at]
            if path in self.disk.files:
                copy = f"{path}.copy"
                self.disk.write(copy, self.disk.files[path].content)
                self.manifest = [(conversation, copy) if row == (conversation, path) else row for row in rows]

    def _rewrite(self) -> None:
        """Replace a file by another recording, perhaps of the same size."""
        self.edited = True
        _, path = self.rng.choice(self.manifest)
        old = self.disk.files[path].content
        new = f"{path} anew {self.processes} ".encode()
        self.disk.write(path, (new * len(old))[: len(old)] if self.rng.random() < 0.5 else new)
        self._mean()

    def ledger_now(self) -> float:
        """Return the time by the ledger's clock."""
        return self.time.now + self.ledger_offset

    def was_paused(self, number: int) -> bool:
        """Return True where a process stood still for a time."""
        return number in self.paused or any(
            process.was_paused for process in self.scheduler.processes if process.number == number
        )

    def _night(self, *, bad: bool) -> None:
        self.processes += 1
        number = self.processes
        dies_at = None
        if bad and self.plan.clock_jumps and self.rng.random() < 0.5:
            self.wall_offset += self.rng.choice([-100_000.0, -100.0, 100.0, 100_000.0])
        if bad and self.plan.kills and self.rng.random() < 0.7:
            dies_at = self.rng.choice([self.rng.randrange(1, 60), self.rng.randrange(1, 3000)])
        if bad and self.plan.full_disk and self.rng.random() < 0.5:
            self.disk.full_from = self.time.now + self.rng.uniform(0.0, 30.0)
            self.disk.full_until = self.disk.full_from + self.rng.choice([0.3, 100.0])
        signalled = bad and self.plan.signals and self.rng.random() < 0.5
        self._replaced = 0
        self._repeats = bad and self.plan.repeats and self.rng.random() < 0.4
        begun = self.time.now
        with scaled_down(), self._server_clock(), _eager() if self.plan.eager else nullcontext():
            self._begin(number, dies_at, bad=bad, signalled=signalled)
            if self.plan.several is not None:
                self._begin_others(self.plan.several, bad=bad)
            self.scheduler.run()
        self.night_seconds = self.time.now - begun
        self.disk.full_from = float("inf")
        self.time.now += self.rng.choice([0.0, 1.0, 30.0, 1000.0])

    def _begin(
        self, number: int, dies_at: int | None = None, *, bad: bool, signalled: bool = False, works: bool = False
    ) -> None:
        """Begin a process now."""
        several, rate, ahead, troubles = self.plan.several, 1.0, 0.0, None
        if several is not None and several.on_server:
            rate, ahead = 1.0 + self.chance.uniform(-several.drift, several.drift), self.chance.uniform(0.0, 1e4)
        if several is not None and bad:
            troubles = self._draw_troubles(several)
        rng = random.Random(f"process {self.plan.seed} {number}")
        process = Process(number, rng, VirtualLoop(self.time, rate, ahead), self.time, dies_at, troubles)
        self.scheduler.begin(process, self._process(process, bad=bad, signalled=signalled, works=works))
        if several is not None and several.pauses and bad and self.chance.random() < 0.3:
            when, seconds = self.chance.uniform(0.0, 100.0), self.chance.choice(PAUSES)
            self.scheduler.at(self.time.now + when, lambda: process.pause(seconds))

    def _begin_others(self, several: Several, *, bad: bool) -> None:
        """Begin the night's other processes, at once or later."""
        count = several.workers if bad else self.chance.choice([1, several.workers])
        for place in range(1, count):
            later = self.chance.choice([0.0, self.chance.uniform(0.0, 5.0), self.chance.uniform(0.0, 100.0)])
            works = several.works and place == 1
            self.scheduler.at(self.time.now + later, partial(self._begin_another, bad=bad, works=works))

    def _begin_another(self, *, bad: bool, works: bool = False) -> None:
        self.processes += 1
        dies_at = None
        if bad and self.plan.kills and self.chance.random() < 0.5:
            dies_at = self.chance.choice([self.chance.randrange(1, 60), self.chance.randrange(1, 3000)])
        signalled = bad and self.plan.signals and self.chance.random() < 0.3
        self._begin(self.processes, dies_at, bad=bad, signalled=signalled, works=works)

    def _draw_troubles(self, several: Several) -> Troubles:
        chance, begin = self.chance, self.time.now
        troubles = Troubles(
            ledger_seconds=chance.choice([0.0, LEDGER_SECONDS]) if several.on_server else 0.0,
            lost_commits=several.lost_commits,
        )
        if several.pauses:
            troubles.pause_share = chance.choice([0.1, 0.5])
            steps = {ADMITTED, *chance.sample(PAUSED_AT, chance.randrange(3))}
            troubles.pauses = {step: chance.choice(PAUSES) for step in sorted(steps)}
        if several.cuts and chance.random() < 0.6:
            troubles.without_ledger = _draw_cut(chance, begin)
        if several.cuts and chance.random() < 0.6:
            troubles.without_service = _draw_cut(chance, begin)
        return troubles

    def _let_others_go_on(self, process: Process) -> None:
        """Let other processes go on for a while, as this one stands in a transaction that does not lock the ledger."""
        self.scheduler.let_others_go_on(process, self.chance.choice([0, 20, 200]))

    def _on_over(self, process: Process) -> None:
        """Take note of a process that has ended or died, and perhaps begin another in its place."""
        self.gone.add(process.number)
        if process.was_paused:
            self.paused.add(process.number)
        if process.died:
            self.died.add(process.number)
            for number, put in list(self.service.uploading.items()):
                if put.process == process.number:
                    del self.service.uploading[number]
        several = self.plan.several
        is_short = process.died or isinstance(process.failure, LedgerUnavailableError | WorkerEndedError)
        if several is not None and several.replaces and is_short and self._replaced < MOST_REPLACED:
            self._replaced += 1
            later = self.chance.choice([0.0, 1.0, 20.0])
            self.scheduler.at(self.time.now + later, lambda: self._begin_another(bad=True))

    async def _process(self, process: Process, *, bad: bool, signalled: bool, works: bool) -> None:
        loop = process.loop
        ledger = self._reach(process)
        now, worker_id = self._load(process, ledger, repeat=self._repeats, works=works)
        writer = SimulatedWriter(process, ledger, self.disk, worker_id)
        if bad and self.plan.rewrites and self.rng.random() < 0.5:
            loop.call_later(self.rng.uniform(0.0, 60.0), self._rewrite)
        engine = self._engine(process, writer, worker_id, now, no_wait=self.plan.no_wait and bad, works=works)
        if signalled:
            loop.call_later(self.rng.uniform(0.0, 60.0), process.stop, engine)
        helpers = [loop.create_task(self._watch())] if self.watchers else []
        if works:
            helpers.append(loop.create_task(self._stop_last(process, engine)))
        listener = loop.create_task(self._listen(self.calls, writer, engine, now)) if self.calls else None
        try:
            await self._run_engine(process, engine, worker_id)
        finally:
            for task in (*helpers, *([listener] if listener else [])):
                task.cancel()
            if listener is not None and listener.done() and not listener.cancelled():
                listener.result()
        await writer.close()
        with suppress(LedgerUnavailableError):
            release_lanes(ledger.as_ledger(), [OpenWorker(worker_id, self.account_id, "", 0.0)])
            with ledger.writing() as connection:
                keeps = DOUBT_SECONDS, JOB_TIMEOUT_SECONDS
                end_worker(connection, worker_id, self.account_id, now(), *keeps, is_released=True)

    def _server_clock(self) -> AbstractContextManager[Any]:
        """Let the leases be by the server's clock, where the ledger is on one."""
        if self.plan.several is None or not self.plan.several.on_server:
            return nullcontext()
        return patch.object(workers_module, "read_clock", lambda *_: self.ledger_now())

    def _check_was_late(self, worker_id: int) -> None:
        """Check that a worker that was ended by another had not renewed its lease in time."""
        with self.ledger.begin() as connection:
            row = connection.execute(select(workers).where(workers.c.id == worker_id)).one()
        told = f"a worker was ended {row.lease_until - row.ended_at:.1f} s before its lease was over: {row}"
        assert row.lease_until <= row.ended_at + max(self.skew, 1.0), told

    async def _run_engine(self, process: Process, engine: UploadEngine, worker_id: int) -> None:
        try:
            await engine.run()
            if not process.is_stopped and self.until_seconds is None:
                self._check_is_done(worker_id)
        except (GaveUpError, SlotsHeldError) as error:
            # allowed: the service, the disk, jobs that never end; the next night, or a person, carries on
            process.failure = error
            if isinstance(error, WorkerEndedError):
                self._check_was_late(worker_id)
        except UploaderError as error:
            raise AssertionError(f"an ending that nothing explains: {error!r}") from error

    def _check_is_done(self, worker_id: int) -> None:
        """Check that a run which has ended by itself carries nothing, and alone leaves nothing that may be sent."""
        with self.ledger.begin() as connection:
            carried = connection.execute(_CARRIED, {"worker": worker_id}).all()
            may_go = connection.execute(_MAY_GO).all()
        assert not carried, f"a run ended by itself, and carries {carried}"
        assert not may_go or len(self.scheduler.processes) > 1, f"a run ended by itself, and may send {may_go}"

    async def _stop_last(self, process: Process, engine: UploadEngine) -> None:
        """Stop a worker for every batch once nobody else is at work."""
        while self.scheduler.processes != [process]:  # noqa: ASYNC110 - the others are on loops of their own
            await asyncio.sleep(1.0)
        process.stop(engine)

    async def _listen(
        self, calls: Calls, writer: SimulatedWriter, engine: UploadEngine, now: Callable[[], float]
    ) -> None:
        """Apply the callbacks that arrive, as the listener does."""
        since = now()

        async def apply(hashed: str, callback: Callback) -> CallbackResult:
            result = await writer.call(apply_callback, hashed, callback, now(), listening_since=since)
            engine.apply_callback(result)
            return result

        await calls.deliver(apply)

    async def _watch(self) -> None:
        while True:
            for look in self.watchers:
                look(self)
            await asyncio.sleep(1.0)

    def _engine(
        self,
        process: Process,
        writer: SimulatedWriter,
        worker_id: int,
        now: Callable[[], float],
        *,
        no_wait: bool,
        works: bool,
    ) -> UploadEngine:
        return UploadEngine(
            client=SimulatedClient(process, self.service, answer_seconds=ANSWER_SECONDS, calls=self.calls),
            writer=writer,
            account_id=self.account_id,
            worker_id=worker_id,
            batch_id=None if works else self.batch_id,
            is_gone=self._is_gone,
            settings=self._settings(no_wait=no_wait),
            until=None if self.until_seconds is None else now() + self.until_seconds,
            new_token=self.calls.draw_token if self.calls is not None else str,
            now=now,
            rng=process.rng,
            sources=opener(self.disk, process.rng),
        )

    def _settings(self, *, no_wait: bool) -> Settings:
        """Return the settings of the plan, checked once."""
        found = self._known_settings.get(no_wait)
        if found is None:
            plan = self.plan
            found = self._known_settings[no_wait] = Settings(
                limit=plan.limit,
                uploads="auto" if plan.auto else plan.uploads,
                rate="auto" if plan.auto else PUTS_PER_SECOND,
                jobs=Jobs(polls_per_second="auto" if plan.auto else 30.0),
                no_wait=no_wait,
                schedule=Schedule(order=plan.order.value),
                ahead_seconds=AHEAD_SECONDS,
                send_ahead="auto" if plan.sends_ahead else "off",
                max_attempts=10,
                doubt_seconds=DOUBT_SECONDS,
                job_timeout_seconds=JOB_TIMEOUT_SECONDS,
                lanes=Lanes(on_trouble="hold" if plan.hold else "continue"),
                webhook_url=WEBHOOK_URL if self.calls is not None else None,
            )
        return found

    def _reach(self, process: Process) -> ReachedLedger:
        """Return the ledger as a process reaches it."""
        several = self.plan.several
        is_remote = several is not None and several.on_server
        go_on = self.scheduler.let_others_go_on
        return ReachedLedger(process, self.shared, self.disk, is_remote=is_remote, others_go_on=go_on)

    def _load(
        self, process: Process, ledger: ReachedLedger, *, repeat: bool, works: bool
    ) -> tuple[Callable[[], float], int]:
        """Do what `run` does before the engine: take over, load the manifest, begin a worker; return clock and id."""
        with self.ledger.begin() as connection:
            gone = [worker for worker in open_workers(connection) if self._is_gone(worker.process)]
        # the load itself is done although the ledger is away: a world in which nobody loads shows nothing
        with suppress(LedgerUnavailableError):
            release_lanes(ledger.as_ledger(), gone)
        with self.ledger.begin() as connection:
            now = self._take_over(connection, process.loop.time, gone)
        identity = Identity("host", str(process.number), "1.0")
        if works and self.account_id:
            with self.ledger.begin() as connection:
                activate_account(connection, self.account_id)
                return now, begin_worker(connection, self.account_id, None, identity, now())
        with self.ledger.begin() as connection:
            self.account_id = account(connection, BASE_URL)
            load = begin_load(
                connection,
                self.account_id,
                "manifest.csv",
                manifest="manifest.csv",
                results=Path("results.csv"),
                extra_columns=[],
                now=now(),
                repeat=repeat,
            )
            load_rows(connection, load, self._rows(), content_hash=self._content_hash, probe=lambda _: AudioFacts())
            self.batch_id = load.batch_id
            save_rules(connection, self.account_id, limit=self.plan.limit, holds=self.plan.hold)
            activate_batch(connection, load.account_id, load.batch_id)
            worker_id = begin_worker(connection, self.account_id, load.batch_id, identity, now())
        if repeat and not self.repeat_is_open:
            self.meant.append(Counter())
        self.repeat_is_open = repeat
        self.edited |= repeat
        self._mean()
        return now, worker_id

    def _take_over(
        self, connection: Connection, steady: Callable[[], float], gone: Sequence[OpenWorker]
    ) -> Callable[[], float]:
        """End the workers that are known to be dead, and what they left; return the ledger's clock."""
        mark_ended(connection, gone, self.ledger_now())
        # as the ledger's own clocks: that of a server, or of the host, which begins anew where no worker is left
        if self.plan.several is not None and self.plan.several.on_server:
            self.ledger_offset = self.wall_offset
        elif not any_open_worker(connection):
            rebase_deadlines(connection, "boot", self.wall_offset)
            self.ledger_offset = self.wall_offset
        now = steady_clock(self.ledger_now, steady)
        end_workers(connection, gone, now(), DOUBT_SECONDS)
        return now

    def _is_gone(self, process: str) -> bool:
        """Return True where a process is known to be dead."""
        several = self.plan.several
        return int(process) in self.gone and (several is None or several.sees_deaths)

    def _rows(self) -> list[Row]:
        found = []
        for line, (conversation, path) in enumerate(self.manifest, start=2):
            file = self.disk.files.get(path)
            signature = FileSignature(len(file.content), str(file.change)) if file else None
            found.append(Row(line, conversation, path, path, signature=signature))
        return found

    def _content_hash(self, path: str) -> str | None:
        file = self.disk.files.get(path)
        return content_hash(file.content) if file else None

    def _mean(self) -> None:
        """Count the appends that the manifest asks for now, by the open load."""
        self.meant[-1 if self.repeat_is_open else 0] |= self._contents(self.manifest)
        for number, waiting in enumerate(self._waiting()):
            self.meant[number] |= self._contents(waiting)

    def _contents(self, rows: Iterable[tuple[str, str]]) -> Counter[tuple[str, str]]:
        return Counter((conversation, content_hash(self.disk.files[path].content)) for conversation, path in rows)

    def _waiting(self) -> list[list[tuple[str, str]]]:
        """Return the unbegun items of each load, as conversation and path."""
        with self.ledger.begin() as connection:
            repeat_ids = sorted({0, *connection.execute(_REPEATS).scalars()})
            waiting = connection.execute(_WAITING).all()
        return [
            [(conversation, path) for found, conversation, path in waiting if found == repeat_id]
            for repeat_id in repeat_ids
        ]

    def _resolve(self, *, all_of_them: bool) -> None:
        """Resolve items that need a person, truthfully, in either direction."""
        with self.ledger.begin() as connection:
            gone = [worker for worker in open_workers(connection) if self._is_gone(worker.process)]
            self._take_over(connection, lambda: self.time.now, gone)
            if not self.batch_id:
                return
            # what asks a person looks at much more, and most of the time there is nothing to ask
            if connection.execute(_ANY_TROUBLE).first() is None:
                return
            found = open_items(connection, self.batch_id, Selection())
            for item in (item for item in found if item.needs_person):
                if not all_of_them and self.rng.random() < 0.4:
                    continue
                self._settle(connection, item)

    def _settle(self, connection: Any, item: Any) -> None:
        sent = connection.execute(select(items.c.content_hash).where(items.c.id == item.item_id)).scalar_one()
        content = sent or content_hash(self.disk.files[item.audio_path].content)
        jobs = self.service.appended(item.conversation_id, content)
        applied = select(attempts.c.job_id).where(attempts.c.outcome == Outcome.APPLIED)
        told = select(resolutions.c.job_id)
        shown = select(items.c.job_id).where(items.c.id != item.item_id)
        known = {job_id for found in (applied, told, shown) for job_id in connection.execute(found).scalars()}
        mine = [job for job in jobs if job.job_id not in known and job.job_id not in self.waived]
        decision, job_id = Decision.DROP, None
        if item.state is State.IN_DOUBT:
            decision = Decision.APPENDED if mine else Decision.NOT_APPENDED
            if mine and (self.rng.random() < 0.5 or mine[0].ends_at > self.time.now):
                job_id = mine[0].job_id
            elif mine:
                self.waived.add(mine[0].job_id)
        elif item.state is State.ACCEPTED:
            decision = self.rng.choice([Decision.APPENDED, Decision.DROP])
            self.waived.add(item.job_id)
        elif self.rng.random() < 0.6 and item.attempts < ENOUGH_ATTEMPTS:
            decision = Decision.RETRY
            if item.state is State.FAILED:
                self.tried_again[item.conversation_id, content] += 1
        resolve(connection, item, decision, job_id=job_id, note=None, who="a person", now=self.ledger_now())


@contextmanager
def scaled_down() -> Iterator[None]:
    """Use small chunks, and a throttle that reads the clock of the process that runs."""
    with (
        patch.object(asyncio_throttle.throttler, "time", SimpleNamespace(monotonic=_running_time)),
        patch.object(upload_module, "TAIL_BYTES", TAIL_BYTES),
        patch.multiple(steps_module, FIRST_SIZE=1, LEAST_SIZE=1, GROWTH=1.0),
    ):
        yield


def _running_time() -> float:
    """Return the time of the process that runs now."""
    return asyncio.get_running_loop().time()


def _draw_cut(chance: random.Random, begin: float) -> tuple[float, float]:
    """Draw from when to when a process is cut off."""
    cut = begin + chance.uniform(0.0, 60.0)
    return cut, cut + chance.choice([0.5, 5.0, 40.0, 300.0])


@contextmanager
def _eager() -> Iterator[None]:
    """Send ahead whatever may be, so that many attempts wait for their admission."""
    with (
        patch.object(engine_module, "slots_ahead", lambda _ends, in_force, _jobs, _horizon: in_force),
        patch.object(engine_module, "blind_slots", lambda in_force, _travel, **_: in_force),
        patch.object(engine_module, "lanes_ahead", list),
    ):
        yield


def counts(world: World) -> dict[State, int]:
    """Return the batch's items by state."""
    with world.ledger.begin() as connection:
        return dict(standing(connection, world.batch_id).counts)
