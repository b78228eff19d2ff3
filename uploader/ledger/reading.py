"""Reads the ledger for people and for the run: batches, results, live jobs, troubles, anomalies."""

from collections.abc import Collection, Iterator, Mapping, Sequence
from functools import cache
from itertools import groupby
from operator import attrgetter
from typing import Any, NamedTuple

from sqlalchemy import (
    CompoundSelect,
    Connection,
    Select,
    and_,
    bindparam,
    case,
    exists,
    false,
    func,
    literal,
    null,
    or_,
    select,
    union_all,
)
from sqlalchemy.sql.elements import ColumnElement

from uploader.ledger.held import is_held
from uploader.ledger.load_leases import Progress
from uploader.ledger.orphans import is_orphan
from uploader.ledger.schema import (
    ANY_ACCOUNT,
    IS_JOB_UNCERTAIN,
    IS_UNFINISHED,
    accounts,
    attempts,
    batches,
    is_in_state,
    items,
    lanes,
    load_leases,
    loads,
    resolutions,
    rows,
)
from uploader.ledger.standing import shown_state
from uploader.model import TROUBLED, LiveJob, Outcome, ResultLine, State
from uploader.policy.durations import HISTORY_SIZE, CompletedJob
from uploader.policy.forecast import audio_seconds
from uploader.settings import DEFAULT_ACCOUNT

# the most reasons that are listed one by one
MAX_REASONS = 20
# the most jobs that a forecast is made by
JOBS_SEEN = 1000

# the accepted items of an account, as live jobs
LIVE_JOBS = (
    select(
        items.c.id.label("item_id"),
        items.c.lane_id,
        items.c.job_id,
        batches.c.name.label("batch"),
        items.c.line,
        lanes.c.conversation_id,
        items.c.attempts.label("attempt"),
        items.c.size,
        items.c.duration_seconds,
        items.c.accepted_at,
        (lanes.c.active_until >= items.c.position).label("is_active"),
    )
    .join(lanes, lanes.c.id == items.c.lane_id)
    .join(loads, loads.c.id == items.c.load_id)
    .join(batches, batches.c.id == loads.c.batch_id)
    .where(IS_UNFINISHED, items.c.account_id == bindparam("account"), items.c.state == State.ACCEPTED)
)

# the latest jobs of an account that were followed from their acceptance
_LATEST_COMPLETED_JOBS = (
    select(items.c.size, items.c.duration_seconds, items.c.job_seconds)
    .where(items.c.account_id == bindparam("account"), items.c.job_seconds.is_not(None))
    .order_by(items.c.finished_at.desc())
    .limit(bindparam("most"))
)


class BatchFacts(NamedTuple):
    """A batch of the ledger."""

    batch_id: int
    name: str
    account_id: int
    base_url: str
    manifest: str | None
    results: str | None
    extra_columns: Sequence[str]
    # seconds since the epoch
    ran_at: float
    # what held its latest run back, as JSON; None where that is not known
    held_back: Mapping[str, Any] | None = None
    # when its rows were forgotten (ledger.pruning); None: they are there
    pruned_at: float | None = None
    # of its newest load (``--repeat``); 0: it was none
    repeat_id: int = 0
    # all rows of its newest load are there; else a run loads it, or was interrupted as it did
    is_loaded: bool = True


class Trouble(NamedTuple):
    """Rows of a batch that need a person, for the same reason."""

    batch: str
    state: State
    reason: str
    items: int
    # the first few lines, and their jobIds where they are known
    lines: Sequence[int] = ()
    job_ids: Sequence[str | None] = ()


def find_batches(
    connection: Connection,
    name: str | None = None,
    *,
    base_url: str | None = None,
    ids: Collection[int] | None = None,
    most: int | None = None,
) -> list[BatchFacts]:
    """Find batches, the one that ran last first.

    Args:
        name: Only batches of this name; several accounts may have one each.
        base_url: Only batches of this service.
        ids: Only batches with these ids.
        most: The most batches to return.
    """
    if ids is not None and not ids:
        return []
    found = select(
        batches.c.id.label("batch_id"),
        batches.c.name,
        batches.c.account_id,
        accounts.c.base_url,
        batches.c.manifest,
        batches.c.results,
        batches.c.extra_columns,
        batches.c.ran_at,
        batches.c.held_back,
        batches.c.repeat_id,
        batches.c.counted,
        select(func.max(loads.c.id)).where(loads.c.batch_id == batches.c.id).scalar_subquery().label("load_id"),
        select(load_leases.c.progress)
        .where(load_leases.c.account_id == batches.c.account_id, load_leases.c.batch == batches.c.name)
        .scalar_subquery()
        .label("progress"),
    ).join(accounts, accounts.c.id == batches.c.account_id)
    if name is not None:
        found = found.where(batches.c.name == name)
    if base_url is not None:
        found = found.where(accounts.c.base_url == base_url)
    if ids is not None:
        found = found.where(batches.c.id.in_(ids))
    newest = found.order_by(batches.c.ran_at.desc(), batches.c.id.desc()).limit(most)
    return [_batch(**row) for row in connection.execute(newest).mappings()]


def _batch(*, counted: Mapping[str, Any] | None, load_id: int | None, progress: str | None, **facts: Any) -> BatchFacts:
    """Make the facts of a batch; a later load than the one that was pruned has given it rows again."""
    is_as_counted = counted is not None and counted["load"] == load_id
    pruned_at = counted.get("prunedAt") if counted and is_as_counted else None
    return BatchFacts(**facts, pruned_at=pruned_at, is_loaded=progress != Progress.MERGING)


class AccountFacts(NamedTuple):
    """An account of the ledger."""

    account_id: int
    base_url: str
    name: str

    def __str__(self) -> str:
        """Return the base URL, behind the name where the account has one of its own."""
        return self.base_url if self.name == DEFAULT_ACCOUNT else f"{self.name} ({self.base_url})"


def accounts_of_batch(connection: Connection, batch_id: int, is_meant: ColumnElement[bool]) -> list[AccountFacts]:
    """List the accounts with an item of a batch that meets the condition."""
    # by the account first, as few items are unfinished
    of_account = (
        select(items.c.id)
        .join(rows, rows.c.item_id == items.c.id)
        .where(is_meant, items.c.account_id == accounts.c.id, rows.c.batch_id == bindparam("batch"))
        .correlate(accounts)
        .exists()
    )
    found = connection.execute(
        select(accounts.c.id, accounts.c.base_url, accounts.c.name).where(of_account).order_by(accounts.c.id),
        {"batch": batch_id},
    )
    return [AccountFacts(*row) for row in found]


def unfinished_accounts(connection: Connection, batch_id: int) -> list[AccountFacts]:
    """List the accounts of a batch's items that are not over."""
    return accounts_of_batch(connection, batch_id, IS_UNFINISHED)


def find_accounts(connection: Connection) -> Mapping[int, AccountFacts]:
    """Return all accounts by their ids."""
    found = connection.execute(select(accounts.c.id, accounts.c.base_url, accounts.c.name))
    return {row.id: AccountFacts(*row) for row in found}


def find_used_accounts(connection: Connection) -> Mapping[int, AccountFacts]:
    """Return the accounts that a run has sent to, or that have a lane, by their ids.

    The others are there for the sake of a batch alone, all of whose rows name accounts.
    """
    has_lanes = select(lanes.c.id).where(lanes.c.account_id == accounts.c.id).correlate(accounts).exists()
    found = connection.execute(
        select(accounts.c.id, accounts.c.base_url, accounts.c.name).where(
            or_(accounts.c.configured_limit.is_not(None), has_lanes)
        )
    )
    return {row.id: AccountFacts(*row) for row in found}


def find_account(connection: Connection, base_url: str, name: str = "default") -> int | None:
    """Return the account of a base URL and a name; None where the ledger has none."""
    found: int | None = connection.execute(
        select(accounts.c.id).where(accounts.c.base_url == base_url, accounts.c.name == name)
    ).scalar_one_or_none()
    return found


def result_lines(connection: Connection, batch_id: int) -> Iterator[ResultLine]:
    """Yield the result lines of a batch in manifest order."""
    found = connection.execute(_results(), {"batch": batch_id}, execution_options={"yield_per": 1000})
    for line, batch, conversation_id, audio_path, job_id, state, *rest in found:
        yield ResultLine(line, batch, conversation_id, audio_path, job_id, State(state), *rest)


@cache
def _results() -> Select[Any]:
    """Build the statement of all rows of a batch with their items."""
    first = batches.alias("first")
    return (
        select(
            # in the order of ResultLine's fields
            rows.c.line,
            func.coalesce(first.c.name, batches.c.name).label("batch"),
            rows.c.conversation_id,
            rows.c.audio_path,
            items.c.job_id,
            shown_state().label("state"),
            func.coalesce(items.c.attempts - items.c.unadmitted, 0).label("attempts"),
            items.c.http_status,
            _error_text().label("error"),
            items.c.size,
            items.c.duration_seconds,
            items.c.channels,
            items.c.billed_seconds,
            items.c.accepted_at,
            items.c.finished_at,
            rows.c.extras,
        )
        .select_from(
            rows.join(batches, batches.c.id == rows.c.batch_id)
            .outerjoin(items, items.c.id == rows.c.item_id)
            .outerjoin(first, first.c.id == items.c.first_batch_id)
        )
        .where(rows.c.batch_id == bindparam("batch"))
        .order_by(rows.c.line)
    )


class OpenRow(NamedTuple):
    """A row that is refused, failed or held."""

    line: int
    invalid: bool
    # columns and values, as a manifest has them
    cells: Mapping[str, Any]


def open_rows(connection: Connection, batch_id: int) -> Iterator[OpenRow]:
    """Yield the rows of a batch that are refused, failed or held."""
    wanted = (State.REFUSED, State.FAILED, State.HELD)
    state = shown_state()
    found = connection.execute(
        select(
            rows.c.conversation_id,
            rows.c.audio_path,
            rows.c.extras,
            rows.c.line,
            rows.c.content_type,
            rows.c.given,
            items.c.invalid_batch_id,
            items.c.parameters,
            accounts.c.name.label("account"),
        )
        .select_from(
            rows.outerjoin(items, items.c.id == rows.c.item_id).outerjoin(accounts, accounts.c.id == items.c.account_id)
        )
        .where(rows.c.batch_id == batch_id, state.in_(wanted))
        .order_by(rows.c.line)
    )
    for row in found:
        named = {"conversationId": row.conversation_id, "audioPath": row.audio_path}
        given = {"contentType": row.content_type} if row.content_type else {}
        if row.account not in (None, DEFAULT_ACCOUNT):
            given["account"] = row.account
        cells = named | given | (row.parameters or {}) | (row.given or {}) | row.extras
        yield OpenRow(row.line, row.invalid_batch_id is not None, cells)


def live_jobs(connection: Connection, account_id: int) -> list[LiveJob]:
    """Return the account's live jobs, overdue ones too, which may have ended since."""
    found = connection.execute(LIVE_JOBS, {"account": account_id}).mappings()
    return [make_live_job(**row) for row in found]


def make_live_job(*, is_active: object, size: int, duration_seconds: float | None, **row: Any) -> LiveJob:
    """Make a live job of a row of ``LIVE_JOBS``."""
    work = audio_seconds(size, duration_seconds)
    return LiveJob(**row, size=size, is_active=bool(is_active), work=work, has_known_start=False)


def latest_completed_jobs(connection: Connection, account_id: int, most: int = HISTORY_SIZE) -> list[CompletedJob]:
    """Return the latest completed jobs of an account that were followed from their acceptance, the latest last."""
    found = connection.execute(_LATEST_COMPLETED_JOBS, {"account": account_id, "most": most}).all()
    return [CompletedJob(audio_seconds(row.size, row.duration_seconds), row.job_seconds) for row in reversed(found)]


def is_batch_over(
    connection: Connection, account_id: int, batch_id: int, *, no_wait: bool, is_late: bool = False
) -> bool:
    """Return True where no active item of a batch can move any more, whoever carries it.

    Args:
        no_wait: Accepted items are over.
        is_late: So are pending ones, as nothing new starts.
    """
    which = {"account": account_id, "batch": batch_id}
    return connection.execute(_left(no_wait=no_wait, is_late=is_late), which).first() is None


@cache
def _left(*, no_wait: bool, is_late: bool) -> Select[Any]:
    """Build the statement of an active item of a batch that is under way, or that can go in its lane now or later."""
    live = and_(items.c.state == State.ACCEPTED, items.c.overdue.is_(False))
    under_way = is_in_state(items.c.state, [State.SENDING, State.SENT])
    before = items.alias("before_it")
    is_moving = and_(
        before.c.lane_id == items.c.lane_id,
        or_(
            is_in_state(before.c.state, [State.SENDING, State.SENT]),
            and_(before.c.state == State.ACCEPTED, before.c.overdue.is_(False)),
        ),
    )
    may_go = or_(lanes.c.ready_position.is_not(None), select(before.c.id).where(is_moving).correlate(items).exists())
    named = rows.alias("named_by_batch")
    return (
        select(items.c.id)
        .join(lanes, lanes.c.id == items.c.lane_id)
        .where(
            IS_UNFINISHED,
            items.c.account_id == bindparam("account"),
            items.c.position <= lanes.c.active_until,
            or_(
                under_way,
                false() if no_wait else live,
                false() if is_late else and_(items.c.state == State.PENDING, may_go, ~is_held()),
            ),
            select(named.c.line).where(named.c.item_id == items.c.id, named.c.batch_id == bindparam("batch")).exists(),
        )
        .limit(1)
    )


def last_doubt(connection: Connection, account_id: int) -> float | None:
    """Return when the latest active item in doubt that a callback may resolve came into doubt; None: there is none."""
    found: float | None = connection.execute(
        select(func.max(attempts.c.ended_at))
        .select_from(items)
        .join(attempts, and_(attempts.c.item_id == items.c.id, attempts.c.number == items.c.attempts))
        .join(lanes, lanes.c.id == items.c.lane_id)
        .where(
            IS_UNFINISHED,
            items.c.account_id == account_id,
            items.c.state == State.IN_DOUBT,
            items.c.position <= lanes.c.active_until,
            attempts.c.token_hash.is_not(None),
        )
    ).scalar_one()
    return found


def troubles(connection: Connection, batch_id: int | None = None, examples: int = 3) -> list[Trouble]:
    """Group the rows that need a person by batch, state and reason, the most frequent first.

    Args:
        batch_id: Only rows of this batch, and other batches' items that block its own; None: rows of any batch.
        examples: How many lines of each group are listed.
    """
    needing = _needing(batch_id).subquery()
    alike = [needing.c.batch_id, needing.c.state, needing.c.reason]
    placed = select(
        needing,
        func.count().over(partition_by=alike).label("items"),
        func.min(needing.c.line).over(partition_by=alike).label("first_line"),
        func.row_number().over(partition_by=alike, order_by=needing.c.line).label("place"),
        func.count().over().label("all_items"),
    ).subquery()
    found = connection.execute(
        select(placed, batches.c.name)
        .join(batches, batches.c.id == placed.c.batch_id)
        .where(placed.c.place <= examples)
        .order_by(placed.c["items"].desc(), placed.c.batch_id.desc(), placed.c.first_line, placed.c.state)
        .order_by(placed.c.reason, placed.c.line)
        .limit(examples * MAX_REASONS)
    ).all()
    groups = groupby(found, attrgetter("batch_id", "state", "reason"))
    listed = [_trouble(list(group)) for _, group in groups][:MAX_REASONS]
    more = found[0].all_items - sum(trouble.items for trouble in listed) if found else 0
    if more:
        last = listed[-1]
        listed.append(Trouble(last.batch, last.state, "and more, for further reasons: the results tell each", more))
    return listed if batch_id is None else listed + _blockers(connection, batch_id)


def _trouble(group: Sequence[Any]) -> Trouble:
    first, lines, job_ids = group[0], [row.line for row in group], [row.job_id for row in group]
    return Trouble(first.name, State(first.state), first.reason, first.items, lines, job_ids)


def _needing(batch_id: int | None) -> CompoundSelect[Any]:
    """Build the statement of rows that need a person: by their unfinished item, or without an item."""
    of_items = (
        select(
            rows.c.batch_id,
            rows.c.line,
            items.c.state,
            func.coalesce(items.c.error, rows.c.error, "").label("reason"),
            items.c.job_id,
        )
        .join(rows, rows.c.item_id == items.c.id)
        # the second condition follows from the third, and lets the index of unfinished items pass over pending ones
        .where(IS_UNFINISHED, ANY_ACCOUNT, is_in_state(items.c.state, [*TROUBLED, State.ACCEPTED]))
        .where(or_(items.c.state.in_(TROUBLED), IS_JOB_UNCERTAIN))
    )
    alone = select(
        rows.c.batch_id,
        rows.c.line,
        literal(State.REFUSED.value).label("state"),
        func.coalesce(rows.c.error, "").label("reason"),
        null().label("job_id"),
    ).where(rows.c.item_id.is_(None))
    both = (of_items, alone)
    # the sum keeps SQLite from reading all rows of the batch: few items need a person
    return union_all(
        *(both if batch_id is None else (statement.where(rows.c.batch_id.op("+")(0) == batch_id) for statement in both))
    )


def _blockers(connection: Connection, batch_id: int) -> list[Trouble]:
    """Return the items of other batches that hold items of this one."""
    named, waiting, awaited = rows.alias("named"), items.alias("waiting"), rows.alias("awaited")
    is_unnamed = is_orphan().label("orphan")
    # lane by lane: few items need a person, and a batch may have many lanes
    holds = (
        select(waiting.c.id)
        .join(awaited, awaited.c.item_id == waiting.c.id)
        .where(waiting.c.lane_id == items.c.lane_id, waiting.c.state == State.PENDING)
        .where(awaited.c.batch_id.op("+")(0) == batch_id)
        .correlate(items)
        .exists()
    )
    # looked up for each group: joined, few batches would be read in the order of their names
    name = select(batches.c.name).where(batches.c.id == loads.c.batch_id).correlate(loads).scalar_subquery()
    found = connection.execute(
        select(items.c.state, name.label("name"), is_unnamed, func.count().label("items"))
        .join(loads, loads.c.id == items.c.load_id)
        .where(IS_UNFINISHED, ANY_ACCOUNT, is_in_state(items.c.state, TROUBLED), holds)
        .where(~select(named.c.line).where(named.c.item_id == items.c.id, named.c.batch_id == batch_id).exists())
        .group_by(items.c.state, loads.c.batch_id, is_unnamed)
        .limit(20)
    ).all()
    return [
        Trouble(
            row.name,
            State(row.state),
            f"{_format_batch(row.name, orphan=row.orphan)}, in the way of this one's items",
            row.items,
        )
        for row in found
    ]


def _format_batch(batch: str, *, orphan: bool) -> str:
    return f"of what {batch} held before and holds no more" if orphan else f"of batch {batch}"


class Anomaly(NamedTuple):
    """An anomaly of a line's item that is reported whatever the item's state, such as a second append."""

    batch: str
    line: int
    conversation_id: str
    said: str


def anomalies(connection: Connection, *batch_ids: int) -> list[Anomaly]:
    """Return the anomalies of the items of some batches."""
    with_anomaly = select(items.c.id).where(items.c.anomaly.is_not(None))
    found = connection.execute(
        select(batches.c.name.label("batch"), rows.c.line, rows.c.conversation_id, items.c.anomaly.label("said"))
        .select_from(rows)
        .join(items, items.c.id == rows.c.item_id)
        .join(batches, batches.c.id == rows.c.batch_id)
        # few items have an anomaly: the sum keeps SQLite from reading all rows of these batches instead
        .where(rows.c.item_id.in_(with_anomaly), rows.c.batch_id.op("+")(0).in_(batch_ids))
        .order_by(batches.c.id.desc(), rows.c.line)
    )
    return [Anomaly(**row) for row in found.mappings()]


def jobs_seen(connection: Connection, account_id: int) -> list[tuple[float, float]]:
    """Read the durations of an account's latest jobs that were followed from their acceptance.

    Those whose audio has no known length are left out.

    Returns:
        Seconds from the upload's begin to the job's end, and seconds of audio.
    """
    latest = (
        select(items.c.id, items.c.attempts, items.c.finished_at, items.c.duration_seconds)
        .where(items.c.account_id == account_id, items.c.job_seconds.is_not(None))
        .order_by(items.c.finished_at.desc())
        .limit(JOBS_SEEN)
        .subquery()
    )
    found = connection.execute(
        select(
            (latest.c.finished_at - func.coalesce(attempts.c.admitted_at, attempts.c.started_at)).label("took"),
            latest.c.duration_seconds,
        )
        .join(attempts, and_(attempts.c.item_id == latest.c.id, attempts.c.number == latest.c.attempts))
        .where(latest.c.duration_seconds.is_not(None), attempts.c.outcome == Outcome.APPLIED)
    )
    return [(row.took, row.duration_seconds) for row in found]


def line_states(connection: Connection, batch_id: int, lines: Collection[int]) -> dict[int, State]:
    """Return the states of those of the lines that the batch has."""
    found = connection.execute(
        select(rows.c.line, shown_state().label("state"))
        .select_from(rows.outerjoin(items, items.c.id == rows.c.item_id))
        .where(rows.c.batch_id == batch_id, rows.c.line.in_(lines))
    )
    return {row.line: State(row.state) for row in found}


def unknown_job_ids(connection: Connection, job_ids: Collection[str]) -> set[str]:
    """Return those of the jobIds that the ledger does not know."""
    known = connection.execute(select(items.c.job_id).where(items.c.job_id.in_(job_ids))).scalars()
    earlier = connection.execute(select(attempts.c.job_id).where(attempts.c.job_id.in_(job_ids))).scalars()
    resolved = connection.execute(select(resolutions.c.job_id).where(resolutions.c.job_id.in_(job_ids))).scalars()
    return set(job_ids) - set(known) - set(earlier) - set(resolved)


def unknown_conversations(connection: Connection, conversation_ids: Collection[str]) -> set[str]:
    """Return those of the conversations of which the ledger knows no item that was ever begun."""
    was_begun = exists().where(items.c.lane_id == lanes.c.id, (items.c.attempts > 0) | (items.c.state != State.PENDING))
    # of any account: with this condition lanes are found by their index, which begins with the account
    is_of_any = lanes.c.account_id.in_(select(accounts.c.id))
    known = select(lanes.c.conversation_id).where(is_of_any, lanes.c.conversation_id.in_(conversation_ids), was_begun)
    return set(conversation_ids) - set(connection.execute(known).scalars())


def _error_text() -> ColumnElement[str]:
    """Build the error of a row, joined with its item's anomaly."""
    error = func.coalesce(items.c.error, rows.c.error)
    both = case((error.is_(None), items.c.anomaly), else_=error + "; " + items.c.anomaly)
    return case((items.c.anomaly.is_(None), error), else_=both)
