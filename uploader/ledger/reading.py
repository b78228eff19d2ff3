"""What the ledger says to people: counts, results, live jobs, what needs a person."""

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

from sqlalchemy import Connection, Select, and_, bindparam, case, func, literal, or_, select
from sqlalchemy.sql.elements import ColumnElement

from uploader.ledger.former import is_former
from uploader.ledger.lanes import IS_CARRIED, is_held, waiting_lanes
from uploader.ledger.schema import accounts, attempts, batches, items, lanes, loads, rows, settlements
from uploader.model import TROUBLED, LiveJob, Outcome, ResultLine, State
from uploader.policy.forecast import audio_seconds
from uploader.policy.foresight import REMEMBERED, End

REASONS_TOLD = 20
"""So many reasons are told one by one."""

_LIVE_JOBS = (
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
        (lanes.c.wanted_until >= items.c.position).label("in_scope"),
    )
    .join(lanes, lanes.c.id == items.c.lane_id)
    .join(loads, loads.c.id == items.c.load_id)
    .join(batches, batches.c.id == loads.c.batch_id)
    .where(items.c.account_id == bindparam("account"), items.c.state == State.ACCEPTED)
)

_LATEST_ENDS = (
    select(items.c.size, items.c.duration_seconds, items.c.job_seconds)
    .where(items.c.account_id == bindparam("account"), items.c.job_seconds.is_not(None))
    .order_by(items.c.finished_at.desc())
    .limit(bindparam("most"))
)


@dataclass(frozen=True, slots=True)
class BatchFacts:
    """A batch as the ledger knows it. ``ran_at``: seconds since the epoch."""

    batch_id: int
    name: str
    account_id: int
    base_url: str
    manifest: str | None
    results: str | None
    extra_columns: Sequence[str]
    ran_at: float


@dataclass(frozen=True, slots=True)
class Trouble:
    """Items of a batch that need a person, for the same reason. ``lines`` are the first few."""

    state: State
    reason: str
    items: int
    lines: Sequence[int]


@dataclass(frozen=True, slots=True)
class Standing:
    """How a batch stands. ``unknown_lengths``: items of which it is not known what will be billed."""

    counts: Mapping[State, int]
    billed_seconds: Mapping[State, float]
    unknown_lengths: int
    overdue: int
    bytes_done: int
    bytes_all: int
    attempts: int

    @property
    def billed_minutes(self) -> Mapping[State, float]:
        """What is, or would be, billed of the items of each state, in minutes."""
        return {state: round(seconds / 60, 2) for state, seconds in self.billed_seconds.items() if seconds}

    @property
    def items(self) -> int:
        """All items of the batch."""
        return sum(self.counts.values())


def find_batches(connection: Connection, name: str | None = None) -> list[BatchFacts]:
    """The batches of the ledger, the one that ran last first."""
    found = select(
        batches.c.id.label("batch_id"),
        batches.c.name,
        batches.c.account_id,
        accounts.c.base_url,
        batches.c.manifest,
        batches.c.results,
        batches.c.extra_columns,
        batches.c.ran_at,
    ).join(accounts, accounts.c.id == batches.c.account_id)
    if name is not None:
        found = found.where(batches.c.name == name)
    newest = found.order_by(batches.c.ran_at.desc(), batches.c.id.desc())
    return [BatchFacts(**row) for row in connection.execute(newest).mappings()]


def find_account(connection: Connection, base_url: str, name: str = "default") -> int | None:
    """The account of this base URL and name, None where the ledger has none."""
    found: int | None = connection.execute(
        select(accounts.c.id).where(accounts.c.base_url == base_url, accounts.c.name == name)
    ).scalar_one_or_none()
    return found


def standing(connection: Connection, batch_id: int, *, hold: bool) -> Standing:
    """Count the items of a batch by state, held ones apart; invalid rows count as refused."""
    state = _shown_state(hold=hold)
    found = connection.execute(
        select(
            state.label("state"),
            func.count().label("items"),
            func.coalesce(func.sum(items.c.size), 0).label("bytes"),
            func.coalesce(func.sum(items.c.attempts), 0).label("attempts"),
            func.coalesce(func.sum(items.c.billed_seconds), 0.0).label("billed_seconds"),
            func.coalesce(func.sum(case((_is_of_unknown_length(), 1), else_=0)), 0).label("unknown_lengths"),
            func.coalesce(func.sum(case((items.c.overdue, 1), else_=0)), 0).label("overdue"),
        )
        .select_from(rows.outerjoin(items, items.c.id == rows.c.item_id))
        .where(rows.c.batch_id == batch_id)
        .group_by(state)
    ).all()
    done = (State.ACCEPTED, State.COMPLETED, State.FAILED)
    return Standing(
        counts={one: sum(row.items for row in found if row.state == one) for one in State},
        billed_seconds={State(row.state): row.billed_seconds for row in found},
        unknown_lengths=sum(row.unknown_lengths for row in found),
        overdue=sum(row.overdue for row in found),
        bytes_done=sum(row.bytes for row in found if row.state in done),
        bytes_all=sum(row.bytes for row in found),
        attempts=sum(row.attempts for row in found),
    )


def result_lines(connection: Connection, batch_id: int, *, hold: bool) -> Iterator[ResultLine]:
    """Every row of a batch in manifest order, with what became of it."""
    found = connection.execution_options(yield_per=1000).execute(_results(hold=hold), {"batch": batch_id})
    for line, batch, conversation_id, audio_path, job_id, state, *rest in found:
        yield ResultLine(line, batch, conversation_id, audio_path, job_id, State(state), *rest)


@cache
def _results(*, hold: bool) -> Select[Any]:
    first = batches.alias("first")
    return (
        select(
            # in the order of ResultLine's fields
            rows.c.line,
            func.coalesce(first.c.name, batches.c.name).label("batch"),
            rows.c.conversation_id,
            rows.c.audio_path,
            items.c.job_id,
            _shown_state(hold=hold).label("state"),
            func.coalesce(items.c.attempts, 0).label("attempts"),
            items.c.http_status,
            _told_error().label("error"),
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


@dataclass(frozen=True, slots=True)
class OpenRow:
    """A row that is refused, failed or held. ``cells`` are columns and values, as a manifest has them."""

    line: int
    invalid: bool
    cells: Mapping[str, Any]


def open_rows(connection: Connection, batch_id: int, *, hold: bool) -> Iterator[OpenRow]:
    """The rows of a batch that are refused, failed or held."""
    wanted = (State.REFUSED, State.FAILED, State.HELD)
    state = _shown_state(hold=hold)
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
        )
        .select_from(rows.outerjoin(items, items.c.id == rows.c.item_id))
        .where(rows.c.batch_id == batch_id, state.in_(wanted))
        .order_by(rows.c.line)
    )
    for row in found:
        named = {"conversationId": row.conversation_id, "audioPath": row.audio_path}
        given = {"contentType": row.content_type} if row.content_type else {}
        cells = named | given | (row.parameters or {}) | (row.given or {}) | row.extras
        yield OpenRow(row.line, row.invalid_batch_id is not None, cells)


def live_jobs(connection: Connection, account_id: int) -> list[LiveJob]:
    """The jobs that the service may be at work on, overdue ones too: they may have ended since."""
    found = connection.execute(_LIVE_JOBS, {"account": account_id}).mappings()
    return [_live_job(**row) for row in found]


def _live_job(*, in_scope: object, size: int, duration_seconds: float | None, **row: Any) -> LiveJob:
    work = audio_seconds(size, duration_seconds)
    return LiveJob(**row, size=size, in_scope=bool(in_scope), work=work, watched=False)


def latest_ends(connection: Connection, account_id: int, most: int = REMEMBERED) -> list[End]:
    """The latest of an account's completed jobs that were followed from their beginning, the last of them last.

    Args:
        connection: A connection in a transaction.
        account_id: The account.
        most: How many at most.
    """
    found = connection.execute(_LATEST_ENDS, {"account": account_id, "most": most}).all()
    return [End(audio_seconds(row.size, row.duration_seconds), row.job_seconds) for row in reversed(found)]


def unsent(connection: Connection, account_id: int, *, hold: bool) -> bool:
    """Whether some lane of this run still has an item that waits behind a live one, or may go."""
    found = connection.execute(
        select(items.c.id)
        .join(lanes, lanes.c.id == items.c.lane_id)
        .where(
            items.c.account_id == account_id,
            IS_CARRIED,
            ~is_held(hold=hold),
        )
        .limit(1)
    )
    return found.first() is not None


def last_doubt(connection: Connection, account_id: int) -> float | None:
    """When the latest of this run's items that are in doubt, and that a call may settle, came to be so."""
    found: float | None = connection.execute(
        select(func.max(attempts.c.ended_at))
        .select_from(items)
        .join(attempts, and_(attempts.c.item_id == items.c.id, attempts.c.number == items.c.attempts))
        .join(lanes, lanes.c.id == items.c.lane_id)
        .where(
            items.c.account_id == account_id,
            items.c.state == State.IN_DOUBT,
            items.c.position <= lanes.c.wanted_until,
            attempts.c.token_hash.is_not(None),
        )
    ).scalar_one()
    return found


def is_lane_ready(connection: Connection, account_id: int, now: float) -> bool:
    """Whether some lane has an item that could go now, were there a slot."""
    found = connection.execute(
        select(lanes.c.id)
        .where(lanes.c.account_id == account_id, lanes.c.ready_position.is_not(None), lanes.c.not_before <= now)
        .limit(1)
    )
    return found.first() is not None


def troubles(connection: Connection, batch_id: int, examples: int = 3) -> list[Trouble]:
    """What needs a person, by state and reason, the most frequent first; other batches' items in the way, too."""
    shown = func.coalesce(items.c.error, rows.c.error, "")
    state = case((items.c.id.is_(None), literal(State.REFUSED.value)), else_=items.c.state)
    # an accepted item has an error where its job is overdue, or where the service gives it no status that we know
    is_odd = and_(items.c.state == State.ACCEPTED, or_(items.c.overdue, items.c.error.is_not(None)))
    needs = or_(items.c.id.is_(None), items.c.state.in_(TROUBLED), is_odd)
    own = (
        select(
            state.label("state"),
            shown.label("reason"),
            func.count().label("items"),
            func.sum(func.count()).over().label("all_items"),
        )
        .select_from(rows.outerjoin(items, items.c.id == rows.c.item_id))
        .where(rows.c.batch_id == batch_id, needs)
        .group_by(state, shown)
        .order_by(func.count().desc(), func.min(rows.c.line))
        .limit(REASONS_TOLD)
    )
    found = connection.execute(own).all()
    told = [
        Trouble(State(row.state), row.reason, row.items, _lines(connection, batch_id, state, shown, row, examples))
        for row in found
    ]
    more = int(found[0].all_items) - sum(row.items for row in found) if found else 0
    if more:
        told.append(Trouble(State(found[-1].state), "and more, for further reasons: the results tell each", more, []))
    return told + _in_the_way(connection, batch_id)


def _in_the_way(connection: Connection, batch_id: int) -> list[Trouble]:
    """Items of other batches that hold items of this one."""
    named = rows.alias("named")
    is_unnamed = is_former().label("former")
    found = connection.execute(
        select(items.c.state, batches.c.name, is_unnamed, func.count().label("items"))
        .join(loads, loads.c.id == items.c.load_id)
        .join(batches, batches.c.id == loads.c.batch_id)
        .where(items.c.lane_id.in_(waiting_lanes(batch_id)), items.c.state.in_(TROUBLED))
        .where(~select(named.c.line).where(named.c.item_id == items.c.id, named.c.batch_id == batch_id).exists())
        .group_by(items.c.state, batches.c.name, is_unnamed)
        .limit(20)
    ).all()
    return [
        Trouble(
            State(row.state), f"{_told_of(row.name, former=row.former)}, in the way of this one's items", row.items, []
        )
        for row in found
    ]


def _told_of(batch: str, *, former: bool) -> str:
    return f"of what {batch} held before and holds no more" if former else f"of batch {batch}"


@dataclass(frozen=True, slots=True)
class Remark:
    """What is to be said in the open of the item of a line, whatever became of it: an append too many, say."""

    line: int
    conversation_id: str
    said: str


def remarks(connection: Connection, batch_id: int) -> list[Remark]:
    """What is to be said in the open of a batch's items."""
    found = connection.execute(
        select(rows.c.line, rows.c.conversation_id, items.c.remark.label("said"))
        .join(items, items.c.id == rows.c.item_id)
        .where(rows.c.batch_id == batch_id, items.c.remark.is_not(None))
        .order_by(rows.c.line)
    )
    return [Remark(**row) for row in found.mappings()]


def jobs_seen(connection: Connection, account_id: int, most: int = 1000) -> list[tuple[float, float]]:
    """Of an account's latest completed items, the seconds from the upload's begin to the job's end, and those of audio.

    Args:
        connection: A connection in a transaction.
        account_id: The account.
        most: How many items at most.
    """
    found = connection.execute(
        select((items.c.finished_at - attempts.c.started_at).label("took"), items.c.duration_seconds)
        .join(attempts, and_(attempts.c.item_id == items.c.id, attempts.c.number == items.c.attempts))
        .where(
            items.c.account_id == account_id,
            items.c.state == State.COMPLETED,
            items.c.duration_seconds.is_not(None),
            attempts.c.outcome == Outcome.APPLIED,
        )
        .order_by(items.c.id.desc())
        .limit(most)
    )
    return [(row.took, row.duration_seconds) for row in found]


def leftovers(connection: Connection, account_id: int, batch_id: int) -> int:
    """Items of earlier loads that wait in lanes, or at places, that a run of this batch does not reach."""
    count: int = connection.execute(
        select(func.count())
        .select_from(items)
        .join(lanes, lanes.c.id == items.c.lane_id)
        .where(
            items.c.account_id == account_id,
            items.c.state == State.PENDING,
            items.c.position > lanes.c.wanted_until,
            ~select(rows.c.line).where(rows.c.item_id == items.c.id, rows.c.batch_id == batch_id).exists(),
        )
    ).scalar_one()
    return count


def line_states(connection: Connection, batch_id: int, lines: Collection[int], *, hold: bool) -> dict[int, State]:
    """The states of some lines of a batch, as far as it has them."""
    found = connection.execute(
        select(rows.c.line, _shown_state(hold=hold).label("state"))
        .select_from(rows.outerjoin(items, items.c.id == rows.c.item_id))
        .where(rows.c.batch_id == batch_id, rows.c.line.in_(lines))
    )
    return {row.line: State(row.state) for row in found}


def unknown_job_ids(connection: Connection, job_ids: Collection[str]) -> set[str]:
    """Those of some jobIds that the ledger does not know."""
    known = connection.execute(select(items.c.job_id).where(items.c.job_id.in_(job_ids))).scalars()
    earlier = connection.execute(select(attempts.c.job_id).where(attempts.c.job_id.in_(job_ids))).scalars()
    told = connection.execute(select(settlements.c.job_id).where(settlements.c.job_id.in_(job_ids))).scalars()
    return set(job_ids) - set(known) - set(earlier) - set(told)


def _shown_state(*, hold: bool) -> ColumnElement[str]:
    return case(
        (items.c.id.is_(None), literal(State.REFUSED.value)),
        (is_held(hold=hold), literal(State.HELD.value)),
        else_=items.c.state,
    )


def _told_error() -> ColumnElement[str]:
    """What is wrong with a row, and what stays to be said of its item."""
    error = func.coalesce(items.c.error, rows.c.error)
    both = case((error.is_(None), items.c.remark), else_=error + "; " + items.c.remark)
    return case((items.c.remark.is_(None), error), else_=both)


def _is_of_unknown_length() -> ColumnElement[bool]:
    return and_(items.c.size.is_not(None), items.c.billed_seconds.is_(None))


def _lines(
    connection: Connection,
    batch_id: int,
    state: ColumnElement[str],
    reason: ColumnElement[str],
    row: Any,
    examples: int,
) -> list[int]:
    found = connection.execute(
        select(rows.c.line)
        .select_from(rows.outerjoin(items, items.c.id == rows.c.item_id))
        .where(rows.c.batch_id == batch_id, state == row.state, reason == row.reason)
        .order_by(rows.c.line)
        .limit(examples)
    )
    return list(found.scalars())
