"""Holds the service's journal against ledger and results: the promises, each as a check."""

from collections import Counter

from sqlalchemy import bindparam, or_, select

from tests.simulation.schedule import AHEAD_SECONDS, ANSWER_SECONDS, World
from tests.simulation.world import CUT_TAKEN, Job, Put, content_hash
from uploader.ledger.lanes import _is_busy, _ready_position
from uploader.ledger.schema import attempts, items, lanes, resolutions, workers
from uploader.model import SLOTTED, UNDER_WAY, ResultLine, State
from uploader.policy.facts import CallbackEffect
from uploader.policy.forecast import audio_seconds

# a doubt that stands in the open beside a job that is known
MAY_HAVE_APPENDED = "may have appended it once too often"
# the longest outage, twice what a run waits for good answers, and jobs that do not end, come to less
LONGEST_NIGHT_SECONDS = 20_000.0
NOT_APPENDED = (State.PENDING, State.SENDING, State.REFUSED, State.HELD)

_WITH_LANES = select(items.c.id).join(lanes, lanes.c.id == items.c.lane_id)
_IS_LATEST = (attempts.c.item_id == items.c.id) & (attempts.c.number == items.c.attempts)

# the attempt, with its worker, whose last chunk may leave
_ADMITTED = (
    _WITH_LANES.add_columns(workers.c.ended_at, workers.c.process)
    .join(attempts, _IS_LATEST)
    .join(workers, workers.c.id == attempts.c.worker_id)
    .where(
        lanes.c.conversation_id == bindparam("conversation"),
        items.c.content_hash == bindparam("content"),
        items.c.state == State.SENT,
    )
)

# the items that hold a slot
_SLOTS = _WITH_LANES.where(
    items.c.state.in_(SLOTTED), or_(items.c.slot_until.is_(None), items.c.slot_until > bindparam("now"))
)

# the items whose slot has expired
_OUTLIVED = (
    select(lanes.c.conversation_id, items.c.content_hash)
    .join(lanes, lanes.c.id == items.c.lane_id)
    .where(items.c.state.in_([State.IN_DOUBT, State.ACCEPTED]), items.c.slot_until <= bindparam("now"))
)

# an item that has another job than this one, of which a person is told
_ONE_TOO_MANY = _WITH_LANES.where(
    lanes.c.conversation_id == bindparam("conversation"),
    items.c.content_hash == bindparam("content"),
    items.c.job_id != bindparam("job"),
    items.c.anomaly.contains(MAY_HAVE_APPENDED),
)

# the jobs of a conversation that are followed
_FOLLOWED = (
    select(items.c.job_id)
    .join(lanes, lanes.c.id == items.c.lane_id)
    .where(
        lanes.c.conversation_id == bindparam("conversation"),
        items.c.state == State.ACCEPTED,
        items.c.overdue.is_(False),
    )
)

# the item of each attempt
_ATTEMPTS = select(attempts.c.item_id)

# each item that was begun, with its latest attempt and whoever carries that
_LATEST = (
    select(*items.c["id", "state", "attempts"], attempts.c.ended_at, workers.c.ended_at.label("worker_ended"))
    .join(attempts, _IS_LATEST)
    .outerjoin(workers, workers.c.id == attempts.c.worker_id)
)

# the active lanes, as they are and as they follow from their items
_LANES = select(
    *lanes.c["id", "ready_position", "is_busy"], _ready_position().label("ready"), _is_busy().label("busy")
).where(lanes.c.active_until > 0)

_ALL_LANES = select(lanes)
_PENDING = select(items).where(items.c.state == State.PENDING)
_ANOMALIES = select(items.c.anomaly).where(items.c.anomaly.is_not(None))
_UNAPPLIED = select(attempts.c.callback_job_id).where(attempts.c.callback_pending)

# all items, and the jobs that the ledger names beside theirs
_ITEMS = select(lanes.c.conversation_id, *items.c["content_hash", "state", "job_id", "anomaly"]).join(
    lanes, lanes.c.id == items.c.lane_id
)
_PAST_JOBS = (
    select(attempts.c.job_id).where(attempts.c.job_id.is_not(None)),
    select(attempts.c.callback_job_id),
    select(resolutions.c.job_id),
)

# the items in doubt that were never admitted
_UNADMITTED = select(items.c.id).where(
    items.c.state == State.IN_DOUBT,
    ~select(attempts.c.id).where(attempts.c.item_id == items.c.id, attempts.c.admitted_at.is_not(None)).exists(),
)


class Judge:
    """The judge of a world, from outside."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._take = world.service.take
        self._broken: Counter[tuple[str, str]] = Counter()
        # every last chunk and every append is checked as it comes
        world.service.take = self._taken  # type: ignore[method-assign]
        world.service.last_chunk_came = self._check_last_chunk
        self._over = world.service.over
        world.service.over = self._ended  # type: ignore[method-assign]

    def _taken(self, put: Put) -> str:
        if put.fault != CUT_TAKEN or put.received:
            self._check_lane(put)  # of a service that takes what was cut off, a body sent ahead may come out of turn
        job_id = self._take(put)
        if put.fault == CUT_TAKEN and not put.received:
            self._world.waived.add(job_id)  # nobody can know of it, as long as no call has told
            self._broken[put.conversation, put.content] += 1
        self._check_once(put)
        return job_id

    def _ended(self, put: Put) -> None:
        self._over(put)
        now = self._world.time.now
        if put.asked_at is not None and not self._world.was_paused(put.process):
            waited = (put.received_at or now) - put.asked_at
            # one whose turn has come waits for the answers to others, too
            assert waited <= AHEAD_SECONDS + ANSWER_SECONDS + 1.0, f"waited for {waited:.1f} s: {put}"

    def _check_last_chunk(self, put: Put) -> None:
        self._check_room(put)
        with self._world.ledger.connect() as connection:
            this = {"conversation": put.conversation, "content": put.content}
            admitted = connection.execute(_ADMITTED, this).first()
            slots = connection.execute(_SLOTS, {"now": self._world.ledger_now() + self._world.skew}).all()
            connection.rollback()
        assert admitted is not None, f"its admission is not in the ledger: {put}"
        assert admitted.process == str(put.process), f"the admission is another worker's: {put}"
        assert admitted.ended_at is None, f"its worker was ended: {put}"
        # a callback, or a person, may name the job of a doubt whose slot has been given to another since
        plan = self._world.plan
        assert len(slots) <= plan.limit or plan.calls is not None or plan.resolves, f"{len(slots)} slots taken: {put}"

    def _check_once(self, put: Put) -> None:
        world = self._world
        done = len(world.service.appended(put.conversation, put.content))
        allowed = world.allowed(put.conversation, put.content) + self._broken[put.conversation, put.content]
        assert done <= allowed, f"appended {done} times, {allowed} meant: {put}"

    def _check_room(self, put: Put) -> None:
        """Check that the account has a slot for a last chunk that leaves, whether the service takes it or not."""
        world = self._world
        counted = [job for job in world.service.live() if job.job_id not in world.waived]
        if len(counted) >= world.plan.limit:
            outlived = self._outlived()
            counted = [job for job in counted if (job.conversation, job.content) not in outlived]
        told = f"{put} beside {len(counted)} live jobs, the limit is {world.plan.limit}"
        assert len(counted) < world.plan.limit, told

    def _outlived(self) -> set[tuple[str, str]]:
        """Return conversation and content of items whose slot has expired: their jobs may live on uncounted."""
        world = self._world
        now = world.ledger_now() + world.skew
        with world.ledger.connect() as connection:
            found = connection.execute(_OUTLIVED, {"now": now}).all()
            connection.rollback()
        return {(row.conversation_id, row.content_hash) for row in found}

    def _check_lane(self, put: Put) -> None:
        """Check that nothing is appended to a conversation while a job of ours that nobody let go still runs."""
        world = self._world
        running = [
            job
            for job in world.service.live()
            if job.conversation == put.conversation and job.job_id not in world.waived
        ]
        if not world.plan.hold:
            known = self._known_job_ids(put.conversation)
            # what was in doubt let the next one go on; that a call named its job since does not call that back
            running = [job for job in running if job.job_id in known and not self._was_in_doubt(job)]
        running = [job for job in running if not self._may_be_one_too_many(job)]
        assert not running, f"{put} while {running} still run"

    def _may_be_one_too_many(self, job: Job) -> bool:
        """Return True where the item has another job, and the second append is reported."""
        with self._world.ledger.connect() as connection:
            this = {"conversation": job.conversation, "content": job.content, "job": job.job_id}
            found = connection.execute(_ONE_TOO_MANY, this).first()
            connection.rollback()
        return found is not None

    def _was_in_doubt(self, job: Job) -> bool:
        calls = self._world.calls
        return calls is not None and calls.effects.get(job.job_id) is CallbackEffect.ACCEPTED

    def _known_job_ids(self, conversation: str) -> set[str]:
        with self._world.ledger.connect() as connection:
            found = connection.execute(_FOLLOWED, {"conversation": conversation}).scalars()
            known = {job_id for job_id in found if job_id}
            connection.rollback()
        return known

    def check_night(self) -> None:
        """Check the world after a process has ended, however it did."""
        took = self._world.night_seconds
        assert took <= LONGEST_NIGHT_SECONDS, f"a night took {took:.0f} s: some run waited for nothing"
        lines = self._world.results()
        self._check_results(lines)
        self._check_nothing_lost()
        self._check_doubt(lines)
        self._check_order()
        self._check_told()
        self._check_work()
        self._check_attempts()
        self._check_lanes()

    def _check_attempts(self) -> None:
        """Check that an attempt is open where its item is under way, and that a living worker carries it."""
        with self._world.ledger.connect() as connection:
            numbers = connection.execute(_ATTEMPTS).scalars().all()
            found = connection.execute(_LATEST).all()
            connection.rollback()
        assert Counter(numbers) == {item.id: item.attempts for item in found}
        for item in found:
            is_under_way = item.state in UNDER_WAY
            assert (item.ended_at is None) == is_under_way, f"an attempt of {item}"
            assert item.worker_ended is None or not is_under_way, f"nobody carries {item}"

    def _check_lanes(self) -> None:
        """Check that the item of each active lane that may go, and whether a job of it lives, follow from its items."""
        with self._world.ledger.connect() as connection:
            found = connection.execute(_LANES).all()
            connection.rollback()
        for lane in found:
            assert (lane.ready_position, lane.is_busy) == (lane.ready, bool(lane.busy)), lane

    def _check_work(self) -> None:
        """Check that the backlog of each lane follows from its items."""
        with self._world.ledger.connect() as connection:
            wanted = {row.id: row for row in connection.execute(_ALL_LANES).all()}
            waiting = connection.execute(_PENDING).all()
            connection.rollback()
        carried = [item for item in waiting if item.position <= wanted[item.lane_id].active_until]
        for lane_id, lane in wanted.items():
            mine = [audio_seconds(item.size, item.duration_seconds) for item in carried if item.lane_id == lane_id]
            assert lane.items_left == len(mine), lane
            assert abs(lane.audio_left - sum(mine)) < 1e-9, lane

    def _check_told(self) -> None:
        """Check that a job of an upload thought cut off is reported, once a callback has named it."""
        calls = self._world.calls
        if calls is None:
            return
        with self._world.ledger.connect() as connection:
            anomalies = connection.execute(_ANOMALIES).scalars().all()
            waiting = set(connection.execute(_UNAPPLIED).scalars())
            connection.rollback()
        told = " ".join(f"{anomaly} " for anomaly in anomalies).replace(";", " ")
        for job_id in (calls.broken & calls.effects.keys()) - waiting:
            assert f"job {job_id} " in told, f"nobody is told of {job_id}: {told}"

    def _check_results(self, lines: list[ResultLine]) -> None:
        world = self._world
        named = [(line.conversation_id, line.audio_path) for line in lines]
        # a process that died before its manifest was loaded leaves the rows of the night before
        assert named == world.manifest or world.edited or not named, f"{named} are not the manifest's rows"
        ids = [line.job_id for line in lines if line.job_id]
        assert len(ids) == len(set(ids)), "a jobId stands in two rows"
        for line in lines:
            if line.state in (State.ACCEPTED, State.COMPLETED, State.FAILED) and line.job_id:
                job = world.service.jobs.get(line.job_id)
                assert job is not None, f"{line} names a job that the service does not have"
                assert job.conversation == line.conversation_id

    def _check_nothing_lost(self) -> None:
        """Check that the ledger knows every append of the service, as a job or as a doubt."""
        world = self._world
        with world.ledger.connect() as connection:
            rows = connection.execute(_ITEMS).all()
            past = {job_id for statement in _PAST_JOBS for job_id in connection.execute(statement).scalars()}
            connection.rollback()
        past |= self._world.calls.broken if self._world.calls is not None else set()
        open_doubt = Counter(
            (row.conversation_id, row.content_hash)
            for row in rows
            if row.state in (State.SENT, State.IN_DOUBT, State.DROPPED)
            or (row.state == State.COMPLETED and row.job_id is None)
            or MAY_HAVE_APPENDED in (row.anomaly or "")
        )
        known = past | {row.job_id for row in rows if row.job_id}
        unknown = Counter(
            (job.conversation, job.content) for job in world.service.jobs.values() if job.job_id not in known
        )
        for key, count in unknown.items():
            assert count <= open_doubt[key], f"{count} appends of {key} that the ledger takes for not made"

    def _check_doubt(self, lines: list[ResultLine]) -> None:
        """Check that an item in doubt was really undecidable from the client's side."""
        world = self._world
        with world.ledger.connect() as connection:
            unadmitted = connection.execute(_UNADMITTED).all()
            connection.rollback()
        assert not unadmitted, f"in doubt, and never admitted: {unadmitted}"
        for line in lines:
            if line.state is not State.IN_DOUBT:
                continue
            contents = world.disk.history[line.audio_path]
            puts = [
                put
                for put in world.service.puts
                if put.conversation == line.conversation_id and put.content in contents
            ]
            undecidable = [put for put in puts if put.is_lost or (put.received and not put.trusted)]
            # a body that was cut before its last chunk came was provably not appended
            broken_off = [put for put in puts if put.process in world.died or (put.received and put.answered is None)]
            unwritten = any((line.conversation_id, content) in world.disk.unwritten for content in contents)
            assert undecidable or broken_off or unwritten, f"{line} is in doubt, but its answers were clear: {puts}"

    def _check_order(self) -> None:
        """Check that without edits and decisions a conversation's appends come in the manifest's order."""
        world = self._world
        if world.edited or not world.plan.hold or world.plan.resolves:
            return
        place = {
            (conversation, content_hash(world.disk.files[path].content)): line
            for line, (conversation, path) in reversed(list(enumerate(world.manifest)))
        }
        for conversation in {conversation for conversation, _ in world.manifest}:
            jobs = [job for job in world.service.jobs.values() if job.conversation == conversation]
            if len({job.content for job in jobs}) != len(jobs):
                continue  # the same audio twice: its places cannot be told apart
            order = [place[conversation, job.content] for job in jobs]
            twice = len(set(world.manifest)) != len(world.manifest)
            assert twice or order == sorted(order), f"{conversation} was appended in the order {order}"
