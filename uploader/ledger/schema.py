"""The tables, and the version that they have."""

from collections.abc import Iterable
from typing import Any

from sqlalchemy import (
    JSON,
    BigInteger,
    Boolean,
    Column,
    ColumnElement,
    Computed,
    Float,
    ForeignKey,
    Index,
    Integer,
    MetaData,
    String,
    Table,
    UniqueConstraint,
    and_,
    event,
    exists,
    func,
    literal,
    literal_column,
    or_,
    text,
)

from uploader.model import OVER, State
from uploader.policy.limits import JOB_SECONDS

VERSION = 3
"""The version of this schema: an older ledger is migrated (migrations.py), a newer one refused."""

POSITIONS_PER_LOAD = 2**32
"""An item's position is its load times this, plus its line: later loads stand behind earlier ones."""

metadata = MetaData()

ledger = Table(
    "ledger",
    metadata,
    Column("version", Integer, nullable=False),
    # which boot of the machine the last run saw, and how far the wall clock was ahead of its steady clock
    Column("boot_id", String),
    Column("clock_offset", Float),
    # what the tokens of webhookUrls are signed with, so that a guess is told without a look at the attempts
    Column("webhook_key", String, nullable=False),
    # how many runs it has seen, and whether one holds it, or ended without closing it
    Column("runs", Integer, nullable=False, server_default=text("0")),
    Column("in_use", Boolean, nullable=False, server_default=text("false")),
)

accounts = Table(
    "accounts",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("base_url", String, nullable=False),
    Column("name", String, nullable=False),
    Column("configured_limit", Integer),
    Column("stated_limit", Integer),
    Column("stated_at", Float),
    # what 429s taught of the limit (policy.limits.Learned); taught_limit is None where nothing of it is in force
    Column("observed_limit", Integer),
    Column("observed_at", Float, nullable=False, default=0.0),
    Column("step_seconds", Float, nullable=False, default=JOB_SECONDS),
    Column("steps_before_raise", Integer, nullable=False, default=1),
    Column("typical_job_seconds", Float, nullable=False, default=JOB_SECONDS),
    UniqueConstraint("base_url", "name"),
)

batches = Table(
    "batches",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("account_id", ForeignKey("accounts.id"), nullable=False),
    Column("name", String, nullable=False),
    Column("manifest", String),
    Column("results", String),
    # the manifest's x- columns, in its order
    Column("extra_columns", JSON, nullable=False),
    # 0, or the load of the --repeat whose items this batch names
    Column("repeat_id", Integer, nullable=False),
    # a --repeat that has not come to its end: the same command carries it on
    Column("repeat_open", Boolean, nullable=False, default=False),
    Column("ran_at", Float, nullable=False),
    # its rows that are over, counted by state (standing.keep_counts): what status need not count anew
    Column("counted", JSON(none_as_null=True)),
    UniqueConstraint("account_id", "name"),
    Index("batches_name", "name"),
    Index("batches_ran_at", "ran_at"),
)

loads = Table(
    "loads",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("batch_id", ForeignKey("batches.id"), nullable=False),
    Column("loaded_at", Float, nullable=False),
    Index("loads_batch", "batch_id"),
)

lanes = Table(
    "lanes",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("account_id", ForeignKey("accounts.id"), nullable=False),
    Column("conversation_id", String, nullable=False),
    # the last position that the present run carries; 0: this lane is none of its business
    Column("active_until", BigInteger, nullable=False, default=0),
    # the position of the item that may go now, None where none may: what makes the claim's cost flat
    Column("ready_position", BigInteger),
    Column("not_before", Float, nullable=False, default=0.0),
    # what the present run still has to append here: seconds of audio, and items
    Column("audio_left", Float, nullable=False, default=0.0),
    Column("items_left", Integer, nullable=False, default=0),
    # what an item counts for beside its audio, in seconds of audio: of all lanes that the run carries the same
    Column("item_seconds", Float, nullable=False, default=0.0),
    # the lane with the most goes first
    Column("work_left", Float, Computed("audio_left + items_left * item_seconds", persisted=True), nullable=False),
    UniqueConstraint("account_id", "conversation_id"),
    Index("lanes_ready", "account_id", "ready_position"),
    Index(
        "lanes_waiting",
        "account_id",
        "not_before",
        sqlite_where=text("ready_position IS NOT NULL"),
    ),
    Index(
        "lanes_by_work",
        "account_id",
        text("work_left DESC"),
        "ready_position",
        sqlite_where=text("ready_position IS NOT NULL"),
    ),
    Index(
        "lanes_active",
        "active_until",
        sqlite_where=text("active_until <> 0"),
    ),
)

IS_ACTIVE = and_(lanes.c.active_until != literal_column("0"), lanes.c.active_until > literal_column("0"))
"""Of a lane: whether the present run carries it; spelt as the partial index is, or SQLite would not use that."""

_UNFINISHED = f"state NOT IN ({', '.join(repr(state.value) for state in OVER)})"

items = Table(
    "items",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("account_id", ForeignKey("accounts.id"), nullable=False),
    Column("lane_id", ForeignKey("lanes.id"), nullable=False),
    Column("first_batch_id", ForeignKey("batches.id"), nullable=False),
    Column("load_id", ForeignKey("loads.id"), nullable=False),
    Column("line", Integer, nullable=False),
    Column("position", BigInteger, nullable=False),
    Column("repeat_id", Integer, nullable=False),
    # set where the row was invalid: the item holds its lane, and goes when its batch is loaded anew
    Column("invalid_batch_id", ForeignKey("batches.id")),
    Column("path", String, nullable=False),
    Column("size", BigInteger),
    Column("change", String),
    Column("content_hash", String),
    Column("content_type", String),
    Column("parameters", JSON, nullable=False),
    Column("duration_seconds", Float),
    Column("channels", Integer),
    Column("billed_seconds", Float),
    Column("state", String, nullable=False),
    Column("attempts", Integer, nullable=False, default=0),
    Column("cut_offs", Integer, nullable=False, default=0),
    Column("http_status", Integer),
    Column("error", String),
    Column("job_id", String),
    Column("accepted_at", Float),
    Column("finished_at", Float),
    # what its job is taken to have lived; finished_at is late by the look that saw the end
    Column("job_seconds", Float),
    Column("slot_until", Float),
    # the job did not end within job_timeout_seconds
    Column("overdue", Boolean, nullable=False, default=False),
    # what stays to be said of it in the open whatever becomes of it: an append too many, say
    Column("remark", String),
    Index("items_lane_state", "lane_id", "state", "position"),
    # partial on purpose: a planner with statistics takes a whole one to find no less than a scan of the table does
    Index(
        "items_unfinished",
        "account_id",
        "state",
        "slot_until",
        sqlite_where=text(_UNFINISHED),
    ),
    Index("items_lane_size", "lane_id", "size"),
    Index("items_lane_path", "lane_id", "path"),
    Index(
        "items_job_seconds",
        "account_id",
        "finished_at",
        sqlite_where=text("job_seconds IS NOT NULL"),
    ),
    Index(
        "items_remarked",
        "remark",
        sqlite_where=text("remark IS NOT NULL"),
    ),
    Index("items_job", "job_id", sqlite_where=text("job_id IS NOT NULL")),
    # were it whole, SQLite would take it for the way to all that is not invalid
    Index(
        "items_invalid",
        "invalid_batch_id",
        sqlite_where=text("invalid_batch_id IS NOT NULL"),
    ),
)


def is_unfinished(state: ColumnElement[str]) -> ColumnElement[bool]:
    """Build the condition that an item is not over, spelt as the partial index is, or SQLite would not use that."""
    return state.not_in([literal_column(repr(one.value)) for one in OVER])


IS_UNFINISHED = is_unfinished(items.c.state)
"""Of an item: whether it is not over."""

# an answer has its status, and an upload that was cut off too often is counted: what is left is the file's own fault
IS_REFUSED_FOR_FILE = and_(
    items.c.state == literal_column(repr(State.REFUSED.value)),
    items.c.attempts > literal_column("0"),
    items.c.http_status.is_(None),
    items.c.cut_offs == literal_column("0"),
)
"""Of an item: whether it was refused because its file could not be read or had changed."""

IS_JOB_UNCERTAIN = and_(
    items.c.state == literal_column(repr(State.ACCEPTED.value)), or_(items.c.overdue, items.c.error.is_not(None))
)
"""Of an item: whether its job is overdue, or the service gives it no status that is known (what ``error`` says)."""

attempts = Table(
    "attempts",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("item_id", ForeignKey("items.id"), nullable=False),
    Column("number", Integer, nullable=False),
    Column("started_at", Float, nullable=False),
    Column("marked_at", Float),
    Column("ended_at", Float),
    Column("outcome", String),
    Column("http_status", Integer),
    Column("reason", String),
    Column("bytes_sent", BigInteger),
    Column("job_id", String, index=True),
    # what was seen of the conversation before the attempt ([doubt] look_before)
    Column("messages_before", Integer),
    Column("last_end_before", String),
    # the hash of the token in its webhookUrl; what a call said, and whether that waits for the item's outcome
    Column("token_hash", String),
    Column("heard_job_id", String),
    Column("heard_status", String),
    Column("heard_waits", Boolean, nullable=False, default=False),
    UniqueConstraint("item_id", "number"),
    Index(
        "attempts_token",
        "token_hash",
        unique=True,
        sqlite_where=text("token_hash IS NOT NULL"),
    ),
    Index(
        "attempts_heard",
        "heard_job_id",
        sqlite_where=text("heard_job_id IS NOT NULL"),
    ),
)

resolutions = Table(
    "resolutions",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("item_id", ForeignKey("items.id"), nullable=False),
    Column("resolved_at", Float, nullable=False),
    Column("resolved_by", String, nullable=False),
    Column("decision", String, nullable=False),
    Column("from_state", String, nullable=False),
    Column("job_id", String),
    Column("note", String),
    Index("resolutions_item", "item_id"),
    Index("resolutions_job", "job_id"),
)

_later = resolutions.alias("later")

IS_CORRECTED = exists().where(
    _later.c.item_id == resolutions.c.item_id,
    _later.c.id > resolutions.c.id,
    _later.c.from_state == literal_column(repr(State.ACCEPTED.value)),
    func.coalesce(_later.c.job_id, "") != resolutions.c.job_id,
)
"""Of a resolution that names a job: whether a person has taken that back by now."""

rows = Table(
    "rows",
    metadata,
    Column("batch_id", ForeignKey("batches.id"), primary_key=True),
    Column("line", Integer, primary_key=True),
    Column("item_id", ForeignKey("items.id")),
    Column("conversation_id", String, nullable=False),
    Column("audio_path", String, nullable=False),
    Column("content_type", String),
    # what an invalid row says beside its conversation and path: it is to be corrected, not lost
    Column("given", JSON(none_as_null=True)),
    Column("extras", JSON, nullable=False),
    Column("error", String),
    Index("rows_item", "item_id"),
)


def is_in_state(column: ColumnElement[str], states: Iterable[State]) -> ColumnElement[bool]:
    """Build an IN over states that are known beforehand.

    SQLAlchemy puts the values of an ordinary ``in_`` into the statement anew at each execution, and then executes it
    for one set of parameters only.
    """
    return column.in_([literal(state) for state in states])


@event.listens_for(metadata, "before_create")
def _make_partial(_metadata: MetaData, connection: Any, **_given: Any) -> None:
    """Give PostgreSQL the conditions of the partial indexes."""
    # the tables say them for SQLite alone: naming PostgreSQL there imports its dialect into every command (30 ms)
    if connection.dialect.name != "postgresql":
        return
    for index in (index for table in metadata.tables.values() for index in table.indexes):
        index.dialect_options["postgresql"]["where"] = index.dialect_options["sqlite"]["where"]
