"""Forgets the rows of old batches that are over, and the paths and parameters of their items; the items stay."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from sqlalchemy import (
    ColumnElement,
    Connection,
    String,
    and_,
    bindparam,
    cast,
    delete,
    exists,
    func,
    literal_column,
    or_,
    select,
    update,
)

from uploader.ledger.database import Ledger
from uploader.ledger.orphans import find_orphans
from uploader.ledger.reading import find_accounts
from uploader.ledger.schema import attempts, batches, is_in_state, items, loads, rows, workers
from uploader.ledger.standing import Standing, keep_count, standings, unfinished
from uploader.model import OVER

# so many rows, or items, are forgotten in one transaction: runs wait no longer than it takes for the lock
STEP = 500
# a row of a table, and its entries in the indexes, take about so many bytes beside the texts
ROW_BYTES, ATTEMPT_BYTES = 60, 220


class OldBatch(NamedTuple):
    """A batch that is over, and was so before the time that prune was given."""

    batch_id: int
    name: str
    # its newest load: a later one has given the batch new rows
    load_id: int
    standing: Standing


class Prunable(NamedTuple):
    """The content of a ledger that may be forgotten."""

    batches: Sequence[OldBatch]
    # the names of batches that are as old, and not over
    not_over: Sequence[str]
    rows: int
    items: int
    attempts: int
    # about so many bytes of the database
    size: int


@dataclass(slots=True)
class Pruned:
    """The counts of what was forgotten."""

    batches: int = 0
    rows: int = 0
    items: int = 0
    attempts: int = 0


_named = rows.alias("named_still")
_later_load = loads.alias("later_load")


def _is_named(besides: ColumnElement[bool] | None = None) -> ColumnElement[bool]:
    """Build the condition that a row names an item; ``besides``: of other batches than these."""
    named = select(_named.c.line).where(_named.c.item_id == items.c.id)
    return (named if besides is None else named.where(~besides)).correlate(items).exists()


# of an item: it is over, was so before a time, and has a path to forget
# a content that was never read is known by its path alone: that one stays
_IS_OLD = and_(
    is_in_state(items.c.state, OVER),
    or_(items.c.finished_at.is_(None), items.c.finished_at < bindparam("before")),
    items.c.content_hash.is_not(None),
    items.c.path != literal_column("''"),
)

# of an attempt: its item says by itself which job it made
_IS_SUPERFLUOUS = and_(
    attempts.c.ended_at.is_not(None),
    or_(attempts.c.job_id.is_(None), attempts.c.job_id == items.c.job_id),
    or_(attempts.c.callback_job_id.is_(None), attempts.c.callback_job_id == items.c.job_id),
)

# a worker that has not ended wants the batch
_IS_WANTED = exists().where(workers.c.batch_id == batches.c.id, workers.c.ended_at.is_(None))

# the newest load of a batch
_NEWEST_LOAD = select(func.max(loads.c.id)).where(loads.c.batch_id == batches.c.id).scalar_subquery()

# the batches with rows that were loaded, and run, before a time
_OLD_BATCHES = (
    select(batches.c.id, batches.c.name, _NEWEST_LOAD.label("load_id"))
    .where(
        batches.c.ran_at < bindparam("before"),
        ~exists().where(_later_load.c.batch_id == batches.c.id, _later_load.c.loaded_at >= bindparam("before")),
        ~_IS_WANTED,
        exists().where(rows.c.batch_id == batches.c.id),
    )
    .order_by(batches.c.id)
)

# the rows of a batch, the bytes of their texts, and when the last of their items was over
_ROWS = (
    select(
        func.count(),
        func.coalesce(
            func.sum(
                func.length(rows.c.audio_path)
                + func.length(rows.c.conversation_id)
                + func.length(cast(rows.c.extras, String))
            ),
            0,
        ),
        func.max(items.c.finished_at),
    )
    .select_from(rows.outerjoin(items, items.c.id == rows.c.item_id))
    .where(rows.c.batch_id == bindparam("batch"))
)

# the old items that no rows will name
_WILL_BE_UNNAMED = ~_is_named(_named.c.batch_id.in_(bindparam("batches", expanding=True)))

# old items that no rows will name, and the bytes of their texts
_ITEMS = select(
    func.count(), func.coalesce(func.sum(func.length(items.c.path) + func.length(cast(items.c.parameters, String))), 0)
).where(_IS_OLD, _WILL_BE_UNNAMED)

# their attempts
_ATTEMPTS = (
    select(func.count())
    .select_from(attempts.join(items, items.c.id == attempts.c.item_id))
    .where(_IS_OLD, _WILL_BE_UNNAMED, _IS_SUPERFLUOUS)
)

# the batch as it was found: no later load, no run that has begun since, and no worker that wants it
_UNCHANGED = select(batches.c.id).where(
    batches.c.id == bindparam("batch"),
    bindparam("load") == _NEWEST_LOAD,
    batches.c.ran_at < bindparam("before"),
    ~_IS_WANTED,
)

_next_lines = (
    select(rows.c.line).where(rows.c.batch_id == bindparam("batch")).order_by(rows.c.line).limit(STEP).scalar_subquery()
)

# delete the first rows of a batch
_FORGET_ROWS = delete(rows).where(rows.c.batch_id == bindparam("batch"), rows.c.line.in_(_next_lines))

# the next items, by id, that no row names any more
_NEXT_ITEMS = (
    select(items.c.id).where(items.c.id > bindparam("after"), _IS_OLD, ~_is_named()).order_by(items.c.id).limit(STEP)
)

_is_listed = items.c.id.in_(bindparam("listed", expanding=True))

# delete attempts of items
_FORGET_ATTEMPTS = delete(attempts).where(
    attempts.c.item_id.in_(bindparam("listed", expanding=True)),
    exists().where(items.c.id == attempts.c.item_id, _IS_OLD, ~_is_named(), _IS_SUPERFLUOUS),
)

# forget the paths and parameters of items
_FORGET_ITEMS = (
    update(items)
    .where(_is_listed, _IS_OLD, ~_is_named())
    .values(path="", parameters={}, content_type=None, change=None, error=None)
)


def find_prunable(connection: Connection, before: float) -> Prunable:
    """Find what may be forgotten: batches that are over, and items that are over and that no other batch names.

    Args:
        before: Only what was over before this time, in seconds since the epoch.
    """
    left = unfinished(connection)
    not_over = {*left, *_batches_with_orphans(connection)}
    old = connection.execute(_OLD_BATCHES, {"before": before}).all()
    found, row_count, size = [], 0, 0
    for batch_id, name, load_id in old:
        if batch_id in not_over:
            continue
        count, bytes_of_rows, over_at = connection.execute(_ROWS, {"batch": batch_id}).one()
        if over_at is not None and over_at >= before:
            continue
        standing = standings(connection, [batch_id], left)[batch_id]
        found.append(OldBatch(batch_id, name, load_id, standing))
        row_count += count
        size += int(bytes_of_rows) + count * ROW_BYTES
    given = {"before": before, "batches": [batch.batch_id for batch in found]}
    item_count, bytes_of_items = connection.execute(_ITEMS, given).one()
    attempt_count: int = connection.execute(_ATTEMPTS, given).scalar_one()
    size += int(bytes_of_items) + attempt_count * ATTEMPT_BYTES
    unsettled = [name for batch_id, name, _ in old if batch_id in not_over]
    return Prunable(found, unsettled, row_count, item_count, attempt_count, size)


def _batches_with_orphans(connection: Connection) -> Collection[int]:
    return {
        group.batch_id for account_id in find_accounts(connection) for group in find_orphans(connection, account_id)
    }


def prune(ledger: Ledger, found: Prunable, before: float, now: float) -> Pruned:
    """Forget what was found, in steps, beside runs; interrupted, the next call carries on.

    Args:
        ledger: The ledger, open for writing.
        found: As ``find_prunable`` returned it.
        before: As it was given to that.
    """
    pruned = Pruned()
    for batch in found.batches:
        rows_of_batch = _forget_batch(ledger, batch, before, now)
        pruned.rows += rows_of_batch
        pruned.batches += rows_of_batch > 0
    _forget_items(ledger, before, pruned)
    return pruned


def _forget_batch(ledger: Ledger, batch: OldBatch, before: float, now: float) -> int:
    """Delete the rows of a batch, which keeps its count, as long as nobody loads or runs it anew; return the number."""
    given: dict[str, Any] = {"batch": batch.batch_id, "load": batch.load_id, "before": before}

    def step(connection: Connection) -> int:
        if connection.execute(_UNCHANGED, given).first() is None:
            return 0
        # with the first rows that go: no command takes the rest for the whole batch
        keep_count(connection, batch.batch_id, batch.load_id, batch.standing, pruned_at=now)
        return connection.execute(_FORGET_ROWS, given).rowcount

    forgotten = 0
    while True:
        with ledger.writing_step() as connection:
            rows_of_step = step(connection)
        if not rows_of_step:
            return forgotten
        forgotten += rows_of_step


def _forget_items(ledger: Ledger, before: float, pruned: Pruned) -> None:
    """Forget paths and parameters of the old items that no row names, and delete their attempts."""
    after = -1
    while True:
        with ledger.reading() as connection:
            listed = list(connection.execute(_NEXT_ITEMS, {"after": after, "before": before}).scalars())
        if not listed:
            return
        given = {"listed": listed, "before": before}
        after = listed[-1]
        with ledger.writing_step() as connection:
            pruned.attempts += connection.execute(_FORGET_ATTEMPTS, given).rowcount
            pruned.items += connection.execute(_FORGET_ITEMS, given).rowcount
