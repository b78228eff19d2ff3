"""The workers that have not ended, and the clock of their leases."""

from typing import Any, NamedTuple

from sqlalchemy import (
    ColumnElement,
    Connection,
    Float,
    Select,
    and_,
    bindparam,
    case,
    func,
    literal_column,
    or_,
    select,
    update,
)

from uploader.ledger.clock import any_open_worker
from uploader.ledger.schema import ANY_ACCOUNT, IS_UNFINISHED, accounts, attempts, batches, is_in_state, items, workers
from uploader.model import SLOTTED, State
from uploader.policy.sharing import LATE_SECONDS, Holding

# a worker that has not renewed its lease for so long may be ended by the others
LEASE_SECONDS = 30.0
# by so much the lease of a worker that looks for work is longer: for as long after its latest look it has its part of
# the account's slots; looks are a second apart
LOOKING_SECONDS = 2.5

# the clock of a PostgreSQL server, in seconds since the epoch
_SERVER_SECONDS = literal_column("extract(epoch FROM clock_timestamp())::float8", Float)
_SERVER_CLOCK = select(_SERVER_SECONDS)

# of a worker: it has not ended
IS_OPEN = workers.c.ended_at.is_(None)

# set the end of a worker's part
_CHOOSE_PART = update(workers).where(workers.c.id == bindparam("worker")).values(until_position=bindparam("until"))

# the workers that have not ended, of all accounts
_OPEN = select(*workers.c["id", "account_id", "process", "lease_until"]).where(IS_OPEN)

_IS_SENDING = items.c.state == State.SENDING

# the slots and the bodies under way of each worker that carries anything of an account; the slot of a job that is
# overdue is nobody's once it has expired, as in the account's count
_CARRIED = (
    select(
        attempts.c.worker_id,
        func.count(case((_IS_SENDING, None), else_=1)).label("slots"),
        func.count(case((_IS_SENDING, 1))).label("sending"),
        func.count(case((and_(_IS_SENDING, attempts.c.started_at < bindparam("now") - LATE_SECONDS), 1))).label("late"),
    )
    .select_from(items)
    .join(attempts, and_(attempts.c.item_id == items.c.id, attempts.c.number == items.c.attempts))
    .where(
        IS_UNFINISHED,
        items.c.account_id == bindparam("account"),
        is_in_state(items.c.state, [State.SENDING, *(state for state in SLOTTED if state is not State.IN_DOUBT)]),
        or_(items.c.slot_until.is_(None), items.c.slot_until > bindparam("now")),
    )
    .group_by(attempts.c.worker_id)
    .subquery("carried")
)


def _holdings(clock: ColumnElement[Any]) -> Select[Any]:
    """Build the statement of an account's workers that have not ended, with all that each carries."""
    return (
        select(
            workers.c.id,
            func.coalesce(_CARRIED.c.slots, 0).label("slots"),
            func.coalesce(_CARRIED.c.sending, 0).label("sending"),
            func.coalesce(_CARRIED.c.late, 0).label("late"),
            (workers.c.lease_until > clock + LEASE_SECONDS).label("looks"),
        )
        .outerjoin(_CARRIED, _CARRIED.c.worker_id == workers.c.id)
        .where(IS_OPEN, workers.c.account_id == bindparam("account"))
    )


# by the clock of leases: a server's own, else the one that is bound as ``now``
_HOLDINGS_BY_SERVER = _holdings(_SERVER_SECONDS)
_HOLDINGS = _holdings(bindparam("now"))


class OpenWorker(NamedTuple):
    """A worker that has not ended."""

    worker_id: int
    account_id: int
    process: str
    lease_until: float


class WorkerFacts(NamedTuple):
    """A worker, as people are shown it."""

    worker_id: int
    base_url: str
    # of its account
    account: str
    # None: every batch
    batch_id: int | None
    batch: str | None
    host: str
    process: str
    version: str
    # in seconds since the epoch
    begun_at: float
    lease_until: float
    # the attempts that it carries, and the jobs that it follows
    sending: int
    jobs: int


def read_clock(connection: Connection, now: float) -> float:
    """Read the clock of leases: a server's own, else the host's steady one, which is ``now``."""
    return now if connection.dialect.name == "sqlite" else read_server_clock(connection)


def read_server_clock(connection: Connection) -> float:
    """Read the clock of a PostgreSQL server, in seconds since the epoch."""
    found: float = connection.execute(_SERVER_CLOCK).scalar_one()
    return found


def choose_part(connection: Connection, worker_id: int, until_position: int | None) -> None:
    """Set the last position that a worker wants of its batch's pending items; None: all."""
    connection.execute(_CHOOSE_PART, {"worker": worker_id, "until": until_position})


def open_workers(connection: Connection) -> list[OpenWorker]:
    """Return the workers that have not ended, of all accounts."""
    return sorted(OpenWorker(*row) for row in connection.execute(_OPEN))


def holdings(connection: Connection, account_id: int, now: float, *, uploads_count: bool) -> list[Holding]:
    """Return what each worker of an account has of it.

    Args:
        now: Seconds since the epoch; a server has its own clock for leases.
        uploads_count: Uploads take a slot before their admission.
    """
    statement = _HOLDINGS if connection.dialect.name == "sqlite" else _HOLDINGS_BY_SERVER
    found = connection.execute(statement, {"account": account_id, "now": now})
    if uploads_count:
        return [Holding(row.id, row.slots + row.sending, 0, bool(row.looks)) for row in found]
    return [Holding(row.id, row.slots, row.sending, bool(row.looks), row.late) for row in found]


def worker_facts(connection: Connection) -> list[WorkerFacts]:
    """Return the workers that have not ended, with the number of attempts and jobs of each, for people."""
    # there are none between runs, and compiling the statement below costs more than this look
    if not any_open_worker(connection):
        return []
    held = (
        select(
            attempts.c.worker_id,
            func.count().filter(is_in_state(items.c.state, [State.SENDING, State.SENT])).label("sending"),
            func.count().filter(items.c.state == State.ACCEPTED).label("jobs"),
        )
        .select_from(items)
        .join(attempts, and_(attempts.c.item_id == items.c.id, attempts.c.number == items.c.attempts))
        .where(IS_UNFINISHED, ANY_ACCOUNT, is_in_state(items.c.state, [State.SENDING, State.SENT, State.ACCEPTED]))
        .group_by(attempts.c.worker_id)
        .subquery()
    )
    found = connection.execute(
        select(
            workers.c.id,
            *accounts.c["base_url", "name"],
            workers.c.batch_id,
            batches.c.name,
            *workers.c["host", "process", "version", "begun_at", "lease_until"],
            func.coalesce(held.c.sending, 0),
            func.coalesce(held.c.jobs, 0),
        )
        .join(accounts, accounts.c.id == workers.c.account_id)
        .outerjoin(batches, batches.c.id == workers.c.batch_id)
        .outerjoin(held, held.c.worker_id == workers.c.id)
        .where(IS_OPEN)
        .order_by(workers.c.id)
    )
    return [WorkerFacts._make(row) for row in found]
