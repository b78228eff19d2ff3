"""The tables of the ledger, and the version of their schema."""

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
    bindparam,
    cast,
    event,
    exists,
    func,
    literal,
    literal_column,
    or_,
    select,
    text,
)

from uploader.model import OVER, State
from uploader.policy.limits import JOB_SECONDS

# an older ledger is migrated (migrations.py), a newer one refused
VERSION = 4

# an item's position is its load times this, plus its line: later loads stand behind earlier ones
POSITIONS_PER_LOAD = 2**32

# an item's id is the load that made it times this, plus its line: no two loads meet, whoever they run beside
ITEMS_PER_LOAD = 10**9

# a number that the database gives; SQLite gives one to columns of this one type alone, and has 64 bits in any
ID = BigInteger().with_variant(Integer, "sqlite")

metadata = MetaData()

ledger = Table(
    "ledger",
    metadata,
    Column("version", Integer, nullable=False),
    # the boot id of the machine at the last run, and the wall clock's offset from the monotonic clock
    Column("boot_id", String),
    Column("clock_offset", Float),
    # the key that signs the tokens of webhookUrls, so that a guessed token costs no look-up
    Column("webhook_key", String, nullable=False),
    # how many runs have used it
    Column("runs", Integer, nullable=False, server_default=text("0")),
    # true while a run holds it, and after a run that ended without closing it
    Column("in_use", Boolean, nullable=False, server_default=text("false")),
)

accounts = Table(
    "accounts",
    metadata,
    Column("id", ID, primary_key=True),
    Column("base_url", String, nullable=False),
    Column("name", String, nullable=False),
    # of the settings of the run that began last: the limit, and whether trouble holds the rest of a lane
    Column("configured_limit", Integer),
    Column("holds", Boolean, nullable=False, default=True, server_default=text("true")),
    Column("stated_limit", Integer),
    Column("stated_at", Float),
    # the fields of policy.limits.LearnedLimit; observed_limit is None where nothing observed is in force
    Column("observed_limit", Integer),
    Column("observed_at", Float, nullable=False, default=0.0),
    Column("step_seconds", Float, nullable=False, default=JOB_SECONDS),
    Column("steps_before_raise", Integer, nullable=False, default=1),
    Column("typical_job_seconds", Float, nullable=False, default=JOB_SECONDS),
    # until when an attempt needs its slot before its first byte, and why: the service, or a gateway, refused a body
    # that was sent ahead
    Column("no_ahead_until", Float, nullable=False, default=0.0, server_default=text("0")),
    Column("no_ahead_reason", String),
    UniqueConstraint("base_url", "name"),
)

batches = Table(
    "batches",
    metadata,
    Column("id", ID, primary_key=True),
    Column("account_id", ForeignKey("accounts.id"), nullable=False),
    Column("name", String, nullable=False),
    Column("manifest", String),
    Column("results", String),
    # the manifest's x- columns, in its order
    Column("extra_columns", JSON, nullable=False),
    # 0, or the load of the --repeat whose items this batch names
    Column("repeat_id", ID, nullable=False),
    # a --repeat that is incomplete: the same command carries it on
    Column("repeat_open", Boolean, nullable=False, default=False),
    Column("ran_at", Float, nullable=False),
    # the count by state of its rows that are over (standing.keep_counts), so that status need not count them
    Column("counted", JSON(none_as_null=True)),
    # what held its latest run back, and what that run waits for (policy.held_back, as JSON)
    Column("held_back", JSON(none_as_null=True)),
    UniqueConstraint("account_id", "name"),
    Index("batches_name", "name"),
    Index("batches_ran_at", "ran_at"),
)

# processes that carry items; one that has no end has a lease, by the ledger's clock
workers = Table(
    "workers",
    metadata,
    Column("id", ID, primary_key=True),
    Column("account_id", ForeignKey("accounts.id"), nullable=False),
    # the batch that it wants to be carried, None: every batch of the account
    Column("batch_id", ForeignKey("batches.id")),
    # of its batch it wants nothing pending behind this position (--first); None: all
    Column("until_position", BigInteger),
    Column("host", String, nullable=False),
    # the process as its host knows it (Ledger.process), so that its death is seen before its lease is over
    Column("process", String, nullable=False),
    Column("version", String, nullable=False),
    Column("begun_at", Float, nullable=False),
    Column("lease_until", Float, nullable=False),
    # by itself, or by a worker that found its lease over: it admits nothing any more
    Column("ended_at", Float),
    Index("workers_ended", "ended_at"),
)

loads = Table(
    "loads",
    metadata,
    Column("id", ID, primary_key=True),
    Column("batch_id", ForeignKey("batches.id"), nullable=False),
    Column("loaded_at", Float, nullable=False),
    Index("loads_batch", "batch_id"),
)

# the leases under which batches are loaded: nobody else loads the batch, or adds items to the account, meanwhile
load_leases = Table(
    "load_leases",
    metadata,
    Column("account_id", ForeignKey("accounts.id"), primary_key=True),
    # the name of the batch; empty: the lease is for adding items to the account
    Column("batch", String, primary_key=True),
    # identifies what is loaded: the manifest's content, and the settings that its rows are read by
    Column("digest", String, nullable=False),
    # a ledger.load_leases.Progress
    Column("progress", String, nullable=False),
    # the process of the run that loads, as its host knows it, and its secret; None: nobody loads any more
    Column("process", String, nullable=False),
    Column("token", String),
    # by the clock of the workers' leases
    Column("lease_until", Float, nullable=False),
    Index("load_leases_token", "token", sqlite_where=text("token IS NOT NULL")),
)

lanes = Table(
    "lanes",
    metadata,
    Column("id", ID, primary_key=True),
    Column("account_id", ForeignKey("accounts.id"), nullable=False),
    Column("conversation_id", String, nullable=False),
    # the last position of the active batches' items; 0: the lane is inactive
    Column("active_until", BigInteger, nullable=False, default=0),
    # the position of the item whose attempt may begin now, None where none may: it makes the claim's cost flat
    Column("ready_position", BigInteger),
    # an item of the lane is admitted or its job lives: the next one may be sent ahead, and is not admitted yet
    Column("is_busy", Boolean, nullable=False, default=False, server_default=text("false")),
    Column("not_before", Float, nullable=False, default=0.0),
    # the backlog, active items that are pending: seconds of audio, and items
    Column("audio_left", Float, nullable=False, default=0.0),
    Column("items_left", Integer, nullable=False, default=0),
    # the weight of an item beside its audio, in seconds of audio; the same in all active lanes
    Column("item_seconds", Float, nullable=False, default=0.0),
    # the lane with the most goes first
    Column("work_left", Float, Computed("audio_left + items_left * item_seconds", persisted=True), nullable=False),
    UniqueConstraint("account_id", "conversation_id"),
    # partial like those below: a planner that has counted many lanes without a ready item would rather scan them all
    Index(
        "lanes_ready",
        "account_id",
        "ready_position",
        sqlite_where=text("ready_position IS NOT NULL"),
    ),
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

# of a lane: it is active; spelt as the partial index is, or SQLite would not use that
IS_ACTIVE = and_(lanes.c.active_until != literal_column("0"), lanes.c.active_until > literal_column("0"))

# of a lane: it is active, and of the account bound as ``account``
# the sum keeps SQLite on the index of active lanes: by account it would read all lanes that there ever were
IS_ACTIVE_OF_ACCOUNT = and_(IS_ACTIVE, lanes.c.account_id.op("+")(0) == bindparam("account"))


def account_holds(table: Table) -> ColumnElement[bool]:
    """Build the condition that in a row's account trouble holds the rest of a lane (``[lanes] on_trouble``)."""
    return select(accounts.c.holds).where(accounts.c.id == table.c.account_id).correlate(table).scalar_subquery()


_UNFINISHED = f"state NOT IN ({', '.join(repr(state.value) for state in OVER)})"

items = Table(
    "items",
    metadata,
    Column("id", ID, primary_key=True),
    Column("account_id", ForeignKey("accounts.id"), nullable=False),
    Column("lane_id", ForeignKey("lanes.id"), nullable=False),
    Column("first_batch_id", ForeignKey("batches.id"), nullable=False),
    Column("load_id", ForeignKey("loads.id"), nullable=False),
    Column("line", Integer, nullable=False),
    Column("position", BigInteger, nullable=False),
    Column("repeat_id", ID, nullable=False),
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
    # how many of its attempts were cut by us, or by a crash, before their admission: they do not count
    Column("unadmitted", Integer, nullable=False, default=0, server_default=text("0")),
    Column("http_status", Integer),
    Column("error", String),
    Column("job_id", String),
    Column("accepted_at", Float),
    Column("finished_at", Float),
    # the estimated lifetime of its job; finished_at is when a poll saw the end
    Column("job_seconds", Float),
    Column("slot_until", Float),
    # the job did not end within job_timeout_seconds
    Column("overdue", Boolean, nullable=False, default=False),
    # an anomaly that is reported whatever the item's state, such as a second append
    Column("anomaly", String),
    Index("items_lane_state", "lane_id", "state", "position"),
    # partial on purpose: with a full index and statistics SQLite's planner would scan the table instead
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
        "items_anomaly",
        "anomaly",
        sqlite_where=text("anomaly IS NOT NULL"),
    ),
    Index("items_job", "job_id", sqlite_where=text("job_id IS NOT NULL")),
    # partial on purpose: with a full index SQLite's planner would use it for IS NULL
    Index(
        "items_invalid",
        "invalid_batch_id",
        sqlite_where=text("invalid_batch_id IS NOT NULL"),
    ),
)


def is_unfinished(state: ColumnElement[str]) -> ColumnElement[bool]:
    """Build the condition that an item is not over."""
    # spelt as the partial index is, or SQLite would not use that
    return state.not_in([literal_column(repr(over.value)) for over in OVER])


# of an item joined to its lane: it is pending, and a run is to send it
IS_IN_BACKLOG = and_(items.c.state == State.PENDING, items.c.position <= lanes.c.active_until)

# the sum of items' sizes: PostgreSQL's own sum of 64 bits has more
TOTAL_SIZE = cast(func.coalesce(func.sum(items.c.size), 0), BigInteger)

# of an item: it is not over
IS_UNFINISHED = is_unfinished(items.c.state)

# true of every item; with a condition on the state it makes SQLite use the index by account and state
ANY_ACCOUNT = items.c.account_id.in_(select(accounts.c.id))

# of an item: it was refused because its file could not be read or had changed
# a refusal by the service has a status, one after too many cut-offs has their count
IS_REFUSED_FOR_FILE = and_(
    items.c.state == literal_column(repr(State.REFUSED.value)),
    items.c.attempts > literal_column("0"),
    items.c.http_status.is_(None),
    items.c.cut_offs == literal_column("0"),
)

# of an item: its job is overdue, or has no known status (``error`` says so)
IS_JOB_UNCERTAIN = and_(
    items.c.state == literal_column(repr(State.ACCEPTED.value)), or_(items.c.overdue, items.c.error.is_not(None))
)

attempts = Table(
    "attempts",
    metadata,
    Column("id", ID, primary_key=True),
    Column("item_id", ForeignKey("items.id"), nullable=False),
    Column("number", Integer, nullable=False),
    # who carries it, and follows its job; None: nobody
    Column("worker_id", BigInteger),
    Column("started_at", Float, nullable=False),
    Column("admitted_at", Float),
    Column("ended_at", Float),
    Column("outcome", String),
    Column("http_status", Integer),
    Column("reason", String),
    Column("bytes_sent", BigInteger),
    Column("job_id", String, index=True),
    # the conversation's snapshot before the attempt ([doubt] look_before)
    Column("messages_before", Integer),
    Column("last_end_before", String),
    # the hash of the token in its webhookUrl; its callback, pending while the item is under way
    Column("token_hash", String),
    Column("callback_job_id", String),
    Column("callback_status", String),
    Column("callback_pending", Boolean, nullable=False, default=False),
    UniqueConstraint("item_id", "number"),
    Index(
        "attempts_token",
        "token_hash",
        unique=True,
        sqlite_where=text("token_hash IS NOT NULL"),
    ),
    Index(
        "attempts_callback",
        "callback_job_id",
        sqlite_where=text("callback_job_id IS NOT NULL"),
    ),
)

resolutions = Table(
    "resolutions",
    metadata,
    Column("id", ID, primary_key=True),
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

# of a resolution that names a job: a later one of its item names another job, or none
IS_CORRECTED = exists().where(
    _later.c.item_id == resolutions.c.item_id,
    _later.c.id > resolutions.c.id,
    _later.c.from_state == literal_column(repr(State.ACCEPTED.value)),
    func.coalesce(_later.c.job_id, "") != resolutions.c.job_id,
)

rows = Table(
    "rows",
    metadata,
    Column("batch_id", ForeignKey("batches.id"), primary_key=True),
    Column("line", Integer, primary_key=True),
    Column("item_id", ForeignKey("items.id")),
    Column("conversation_id", String, nullable=False),
    Column("audio_path", String, nullable=False),
    Column("content_type", String),
    # all other columns of an invalid row, which is to be corrected
    Column("given", JSON(none_as_null=True)),
    Column("extras", JSON, nullable=False),
    Column("error", String),
    Index("rows_item", "item_id"),
)


def is_in_state(column: ColumnElement[str], states: Iterable[State]) -> ColumnElement[bool]:
    """Build an IN over constant states, as literals."""
    # the values of an ordinary in_ are expanded at each execution, which then takes one set of parameters only
    return column.in_([literal(state) for state in states])


@event.listens_for(metadata, "before_create")
def _make_partial(_metadata: MetaData, connection: Any, **_given: Any) -> None:
    """Copy the conditions of partial indexes from SQLite's options to PostgreSQL's."""
    # the tables give them for SQLite alone: naming PostgreSQL there imports its dialect into every command (30 ms)
    if connection.dialect.name != "postgresql":
        return
    for index in (index for table in metadata.tables.values() for index in table.indexes):
        index.dialect_options["postgresql"]["where"] = index.dialect_options["sqlite"]["where"]
