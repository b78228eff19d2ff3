"""Keeps the workers of a ledger: their leases, their ends, and the work that they leave to each other."""

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from math import inf
from typing import NamedTuple

from sqlalchemy import Connection, and_, bindparam, insert, or_, select, update

from uploader import logs
from uploader.errors import WorkerEndedError
from uploader.ledger.database import Ledger
from uploader.ledger.dialects import analyze
from uploader.ledger.lanes import (
    WANTS_NOTHING,
    are_wanted_as_whole,
    deactivate_unwanted,
    deactivate_unwanted_lanes,
    touch_active_lanes,
)
from uploader.ledger.leases import (
    IS_OPEN,
    LEASE_SECONDS,
    LOOKING_SECONDS,
    OpenWorker,
    choose_part,
    open_workers,
    read_clock,
)
from uploader.ledger.reading import LIVE_JOBS, is_batch_over, make_live_job
from uploader.ledger.recovery import recover
from uploader.ledger.schema import IS_UNFINISHED, attempts, is_in_state, items, workers
from uploader.ledger.staging import make_touched, touched
from uploader.ledger.steps import Steps
from uploader.model import LiveJob, State

log = logs.get_logger()

# a worker whose own lease has less than this left has renewed it late: what kept it from the ledger may have kept the
# others, too, and it ends none of them
SPARE_SECONDS = 10.0
# a lease that is longer by this is another number, and no other lease
MARK_SECONDS = 1e-5

# add a worker
_BEGIN = insert(workers).returning(workers.c.id)

# renew the lease of a worker
_RENEW = update(workers).where(workers.c.id == bindparam("worker"), IS_OPEN).values(lease_until=bindparam("until"))

# prolong the lease of a worker by next to nothing, as the transaction's last statement: the value, unlike any before,
# is the mark of it
_LEAVE_MARK = (
    update(workers)
    .where(workers.c.id == bindparam("worker"))
    .values(lease_until=workers.c.lease_until + MARK_SECONDS)
    .returning(workers.c.lease_until)
)

# a worker's lease, read once the transaction that may have prolonged it is over
_READ_LEASE = select(*workers.c["lease_until", "ended_at"]).where(workers.c.id == bindparam("worker")).with_for_update()

# a worker's batch
_BATCH_OF = select(workers.c.batch_id).where(workers.c.id == bindparam("worker"))

# end a worker
_END = update(workers).where(workers.c.id == bindparam("worker"), IS_OPEN).values(ended_at=bindparam("now"))

# the live jobs that nobody follows: the worker of their attempt has ended, or there is none
_UNFOLLOWED = (
    LIVE_JOBS.add_columns(attempts.c.id.label("attempt_id"))
    .join(attempts, and_(attempts.c.item_id == items.c.id, attempts.c.number == items.c.attempts))
    .outerjoin(workers, workers.c.id == attempts.c.worker_id)
    .where(
        or_(attempts.c.worker_id.is_(None), workers.c.ended_at.is_not(None)),
        or_(items.c.overdue.is_(False), bindparam("overdue_too")),
    )
)

# follow the job of an attempt
_FOLLOW = update(attempts).where(attempts.c.id == bindparam("attempt")).values(worker_id=bindparam("worker"))

# a slot of the account that becomes free by itself; an upload may take one before its admission, where uploads count
_MOVING = (
    select(items.c.id)
    .where(
        IS_UNFINISHED,
        items.c.account_id == bindparam("account"),
        is_in_state(items.c.state, [State.SENDING, State.SENT, State.ACCEPTED]),
        or_(items.c.state != State.ACCEPTED, items.c.overdue.is_(False)),
    )
    .limit(1)
)


class Identity(NamedTuple):
    """The place of a worker's process."""

    host: str
    # as ``Ledger.process`` names it
    process: str
    # of the uploader
    version: str


class Commit(NamedTuple):
    """The fate of a transaction whose COMMIT was not answered."""

    # it is in the ledger as a whole; else nothing of it is
    is_done: bool
    # another worker has ended the one that wrote it
    is_worker_ended: bool


class Beat(NamedTuple):
    """The result of a renewal."""

    # the other workers of the account whose lease is not over
    others: int
    # the workers that this one has ended
    ended: int
    # live jobs that this worker follows from now on
    jobs: Sequence[LiveJob]
    # the items of workers that it has ended: pending again, and in doubt
    pending: int
    doubtful: int
    # nothing of the worker's batch can move any more; looked at where there are others
    is_batch_over: bool


def begin_worker(
    connection: Connection,
    account_id: int,
    batch_id: int | None,
    identity: Identity,
    now: float,
    *,
    until_position: int | None = None,
) -> int:
    """Begin a worker, with a lease; return its id.

    Args:
        connection: A connection in a transaction; the batch's lanes are made active in it, or in later ones.
        account_id: The account.
        batch_id: The batch that it wants; None: every batch of the account.
        identity: The place of its process.
        now: Seconds since the epoch.
        until_position: The last position of the part that it wants, as ``choose`` or ``activate_batch`` returned it.
    """
    clock = read_clock(connection, now)
    values = {
        "account_id": account_id,
        "batch_id": batch_id,
        "until_position": until_position,
        **identity._asdict(),
        "begun_at": now,
        "lease_until": clock + LEASE_SECONDS,
    }
    worker_id: int = connection.execute(_BEGIN, values).scalar_one()
    return worker_id


def renew_workers(connection: Connection, worker_ids: Iterable[int], now: float) -> None:
    """Renew the leases of workers of this process that have not begun to carry anything.

    Raises:
        WorkerEndedError: Another worker has ended one of them.
    """
    until = read_clock(connection, now) + LEASE_SECONDS
    for worker_id in worker_ids:
        if connection.execute(_RENEW, {"worker": worker_id, "until": until}).rowcount != 1:
            raise WorkerEndedError


def mark_ended(connection: Connection, ended: Sequence[OpenWorker], now: float) -> None:
    """Mark workers as ended: they admit nothing any more; ``end_workers`` settles what they leave."""
    for worker in ended:
        connection.execute(_END, {"worker": worker.worker_id, "now": now})


def end_workers(
    connection: Connection,
    ended: Sequence[OpenWorker],
    now: float,
    doubt_seconds: float,
    job_timeout_seconds: float = inf,
    *,
    account_id: int | None = None,
    is_released: bool = False,
) -> tuple[int, int]:
    """End workers: what they were sending is pending again, or in doubt; nobody follows their jobs.

    What nobody carries at all, as a version without workers has left it, is treated in the same way.

    Args:
        connection: A connection in a transaction.
        ended: The workers.
        now: Seconds since the epoch.
        doubt_seconds: How long an item in doubt keeps its slot as long as no job has ended.
        job_timeout_seconds: The longest time that a job takes.
        account_id: The one account that the transaction has locked, and that all these workers are of; None: all are.
        is_released: ``release_lanes`` has made inactive what nobody else wants.

    Returns:
        The number of items that are pending again, and of those in doubt.
    """
    mark_ended(connection, ended, now)
    recovered = recover(connection, now, doubt_seconds, job_timeout_seconds, account_id=account_id)
    # an item that is pending again may be behind the part that another worker of its batch wants
    is_released = is_released and not any(recovered)
    for left_in in sorted({worker.account_id for worker in ended}):
        mine = [worker.worker_id for worker in ended if worker.account_id == left_in]
        batch_ids = {connection.execute(_BATCH_OF, {"worker": worker_id}).scalar_one() for worker_id in mine}
        # of many workers of one batch each ends without a look at all its lanes
        if not are_wanted_as_whole(connection, left_in, batch_ids):
            deactivate_unwanted(connection, left_in, is_released=is_released)
    return recovered


def release_lanes(ledger: Ledger, ended: Sequence[OpenWorker]) -> None:
    """Make inactive, in short steps, what workers want that are about to end, and nobody else does.

    They have not ended before that: where this process dies, whoever ends them does it anew.

    Args:
        ledger: The ledger.
        ended: The workers; nothing carries anything for them any more.
    """
    if not ended:
        return
    account_ids = sorted({worker.account_id for worker in ended})
    with ledger.staging() as connection:
        steps = Steps(connection, lambda: ledger.locking(connection, account_ids))
        # of two that end at once, the later one finds that neither wants anything
        with steps.locked():
            for worker in ended:
                choose_part(connection, worker.worker_id, WANTS_NOTHING)
        with steps.unlocked():
            make_touched(connection)
            for worker in ended:
                batch_id = connection.execute(_BATCH_OF, {"worker": worker.worker_id}).scalar_one()
                touch_active_lanes(connection, worker.account_id, batch_id)
            analyze(connection, touched)

        def deactivate(lanes: Mapping[str, int]) -> None:
            for account_id in account_ids:
                deactivate_unwanted_lanes(connection, account_id, lanes)

        steps.over_lanes(deactivate)


def take_over(ledger: Ledger, doubt_seconds: float, job_timeout_seconds: float) -> Callable[[], float]:
    """End the workers that are known to be dead, and take over what they left; return the ledger's clock."""
    with ledger.reading() as connection:
        gone = [worker for worker in open_workers(connection) if ledger.is_gone(worker.process)]
    release_lanes(ledger, gone)
    with ledger.writing() as connection:
        # the clock begins anew where no worker is left
        mark_ended(connection, gone, time.time())
        now = ledger.clock(connection)
        unsent, doubtful = end_workers(connection, gone, now(), doubt_seconds, job_timeout_seconds, is_released=True)
    if unsent or doubtful:
        log.warning("run.recovered", pendingAgain=unsent, inDoubt=doubtful)
    return now


def end_worker(
    connection: Connection,
    worker_id: int,
    account_id: int,
    now: float,
    doubt_seconds: float,
    job_timeout_seconds: float = inf,
    *,
    is_released: bool = False,
) -> None:
    """End a worker at the end of its run; see ``end_workers``."""
    ended = [OpenWorker(worker_id, account_id, "", 0.0)]
    end_workers(connection, ended, now, doubt_seconds, job_timeout_seconds, is_released=is_released)


def take_jobs(connection: Connection, account_id: int, worker_id: int, *, overdue_too: bool = False) -> list[LiveJob]:
    """Let a worker follow the account's live jobs that nobody follows; return them.

    Args:
        connection: A connection in a transaction.
        account_id: The account.
        worker_id: The worker.
        overdue_too: Also jobs that are overdue, which may have ended since.
    """
    found = connection.execute(_UNFOLLOWED, {"account": account_id, "overdue_too": overdue_too}).mappings().all()
    if found:
        connection.execute(_FOLLOW, [{"attempt": row["attempt_id"], "worker": worker_id} for row in found])
    return [make_live_job(**{name: row[name] for name in row if name != "attempt_id"}) for row in found]


def beat(
    connection: Connection,
    worker_id: int,
    account_id: int,
    batch_id: int | None,
    now: float,
    doubt_seconds: float,
    job_timeout_seconds: float,
    *,
    no_wait: bool,
    is_gone: Callable[[str], bool],
    may_end: bool = True,
    looks: bool = False,
) -> Beat:
    """Renew a worker's lease, end the account's others that are dead or late, and take over what they leave.

    A late renewal is good as long as nobody has ended the worker. It ends no others then: what kept it from the
    ledger may have kept them, too.

    Args:
        connection: A connection in a transaction.
        worker_id: The worker.
        account_id: Its account.
        batch_id: Its batch, None for every batch.
        now: Seconds since the epoch.
        doubt_seconds: How long an item in doubt keeps its slot as long as no job has ended.
        job_timeout_seconds: The longest time that a job takes.
        no_wait: The batch is over once every item is accepted.
        is_gone: Returns True where a process is known to be dead (``Ledger.is_gone``).
        may_end: This worker has renewed its own lease in time for so long that whoever has not is to be ended.
        looks: This worker looks for work: it has its part of the account's slots.

    Raises:
        WorkerEndedError: Another worker has ended this one.
    """
    clock = read_clock(connection, now)
    # of its account alone, which is locked: those of other accounts have others to end them, or the next run
    found = {worker.worker_id: worker for worker in open_workers(connection) if worker.account_id == account_id}
    own = found.pop(worker_id, None)
    if own is None:
        raise WorkerEndedError
    connection.execute(_RENEW, {"worker": worker_id, "until": clock + LEASE_SECONDS + LOOKING_SECONDS * looks})
    is_sound = may_end and own.lease_until >= clock + SPARE_SECONDS
    over = [worker for worker in found.values() if worker.lease_until < clock and is_sound]
    over += [worker for worker in found.values() if worker not in over and is_gone(worker.process)]
    pending = doubtful = 0
    if over:
        # not as of the call: that may have waited for a ledger that was away, and their doubts begin with their ends
        pending, doubtful = end_workers(
            connection, over, clock, doubt_seconds, job_timeout_seconds, account_id=account_id
        )
    others = len(found) - len(over)
    is_over = bool(others) and batch_id is not None and is_batch_over(connection, account_id, batch_id, no_wait=no_wait)
    return Beat(others, len(over), take_jobs(connection, account_id, worker_id), pending, doubtful, is_over)


def leave_mark(connection: Connection, worker_id: int) -> float:
    """Leave a mark of a transaction on a PostgreSQL server, as its last statement; return it for ``read_commit``.

    Whoever has ended the worker is not contradicted: its lease is of no meaning then.
    """
    mark: float = connection.execute(_LEAVE_MARK, {"worker": worker_id}).scalar_one()
    return mark


def read_commit(connection: Connection, worker_id: int, mark: float) -> Commit:
    """Tell, after a COMMIT whose answer was lost, from a new connection, whether its transaction is in the ledger.

    The mark's row stays locked until the server has ended that transaction, which is waited for.
    """
    lease_until, ended_at = connection.execute(_READ_LEASE, {"worker": worker_id}).one()
    return Commit(lease_until == mark, ended_at is not None)


def has_moving_slots(connection: Connection, account_id: int) -> bool:
    """Return True where a slot of the account is taken by an upload or a job, whoever carries it."""
    return connection.execute(_MOVING, {"account": account_id}).first() is not None
