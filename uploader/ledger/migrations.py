"""Numbered migrations of the schema, each a list of SQL statements that run in one transaction."""

from collections.abc import Mapping, Sequence

from sqlalchemy import Connection, update

from uploader.ledger import schema

# the oldest version that can be migrated
OLDEST = 2

# the application id in the header of an SQLite file ("upld"); ledgers have it since version 3
APPLICATION_ID = 0x75706C64

# the comment on the table ``ledger`` of a PostgreSQL database, which marks it in the same way
MARK = "ledger of the uploader"

TO_3: Sequence[str] = (
    # Changes of tables and indexes since version 2 go here, each as one statement that SQLite and PostgreSQL both
    # take, but for {key}, the type of an id, and {number}, that of a reference to one. A column that is added NOT NULL
    # needs the same server_default in schema.py.
    "ALTER TABLE ledger ADD COLUMN runs INTEGER DEFAULT 0 NOT NULL",
    "ALTER TABLE ledger ADD COLUMN in_use BOOLEAN DEFAULT false NOT NULL",
    "ALTER TABLE accounts DROP COLUMN slowest_seconds_per_byte",
    "ALTER TABLE accounts DROP COLUMN shortest_job_seconds",
    "ALTER TABLE accounts RENAME COLUMN taught_limit TO observed_limit",
    "ALTER TABLE accounts RENAME COLUMN taught_at TO observed_at",
    "ALTER TABLE accounts RENAME COLUMN patience TO steps_before_raise",
    "ALTER TABLE batches RENAME COLUMN generation TO repeat_id",
    "ALTER TABLE items RENAME COLUMN generation TO repeat_id",
    "DROP INDEX settlements_item",
    "DROP INDEX settlements_job",
    "ALTER TABLE settlements RENAME TO resolutions",
    "ALTER TABLE resolutions RENAME COLUMN settled_at TO resolved_at",
    "ALTER TABLE resolutions RENAME COLUMN settled_by TO resolved_by",
    "CREATE INDEX resolutions_item ON resolutions (item_id)",
    "CREATE INDEX resolutions_job ON resolutions (job_id)",
    "DROP INDEX attempts_heard",
    "ALTER TABLE attempts RENAME COLUMN heard_job_id TO callback_job_id",
    "ALTER TABLE attempts RENAME COLUMN heard_status TO callback_status",
    "ALTER TABLE attempts RENAME COLUMN heard_waits TO callback_pending",
    "ALTER TABLE attempts RENAME COLUMN marked_at TO admitted_at",
    "DROP INDEX items_remarked",
    "ALTER TABLE items RENAME COLUMN remark TO anomaly",
    "CREATE INDEX items_anomaly ON items (anomaly) WHERE anomaly IS NOT NULL",
    "CREATE INDEX attempts_callback ON attempts (callback_job_id) WHERE callback_job_id IS NOT NULL",
    # so that status and recovery read nothing of earlier nights
    "ALTER TABLE batches ADD COLUMN counted JSON",
    "CREATE INDEX batches_name ON batches (name)",
    "CREATE INDEX batches_ran_at ON batches (ran_at)",
    "CREATE INDEX loads_batch ON loads (batch_id)",
    "DROP INDEX lanes_wanted",
    "ALTER TABLE lanes RENAME COLUMN wanted_until TO active_until",
    "CREATE INDEX lanes_active ON lanes (active_until) WHERE active_until <> 0",
    "DROP INDEX lanes_ready",
    "CREATE INDEX lanes_ready ON lanes (account_id, ready_position) WHERE ready_position IS NOT NULL",
    "DROP INDEX items_account_state",
    (
        "CREATE INDEX items_unfinished ON items (account_id, state, slot_until) "
        "WHERE state NOT IN ('completed', 'dropped')"
    ),
    # claim and admission are two transactions
    "ALTER TABLE lanes ADD COLUMN is_busy BOOLEAN DEFAULT false NOT NULL",
    "ALTER TABLE items ADD COLUMN unadmitted INTEGER DEFAULT 0 NOT NULL",
    "ALTER TABLE accounts ADD COLUMN no_ahead_until FLOAT DEFAULT 0 NOT NULL",
    "ALTER TABLE accounts ADD COLUMN no_ahead_reason VARCHAR",
    # several workers share a ledger
    (
        "CREATE TABLE workers (id {key} NOT NULL, account_id {number} NOT NULL, batch_id {number}, "
        "until_position BIGINT, host VARCHAR NOT NULL, process VARCHAR NOT NULL, version VARCHAR NOT NULL, "
        "begun_at FLOAT NOT NULL, lease_until FLOAT NOT NULL, ended_at FLOAT, PRIMARY KEY (id), "
        "FOREIGN KEY(account_id) REFERENCES accounts (id), FOREIGN KEY(batch_id) REFERENCES batches (id))"
    ),
    "CREATE INDEX workers_ended ON workers (ended_at)",
    "ALTER TABLE attempts ADD COLUMN worker_id BIGINT",
    # [lanes] on_trouble is a fact of the account
    "ALTER TABLE accounts ADD COLUMN holds BOOLEAN DEFAULT true NOT NULL",
    # what held a batch's latest run back
    "ALTER TABLE batches ADD COLUMN held_back JSON",
)

TO_4: Sequence[str] = (
    # one run loads a batch, in steps
    (
        "CREATE TABLE load_leases (account_id {number} NOT NULL, batch VARCHAR NOT NULL, digest VARCHAR NOT NULL, "
        "progress VARCHAR NOT NULL, process VARCHAR NOT NULL, token VARCHAR, lease_until FLOAT NOT NULL, "
        "PRIMARY KEY (account_id, batch), FOREIGN KEY(account_id) REFERENCES accounts (id))"
    ),
    "CREATE INDEX load_leases_token ON load_leases (token) WHERE token IS NOT NULL",
)

# the statements that migrate a ledger to a version from the one before it; a released version's never change
STEPS: Mapping[int, Sequence[str]] = {3: TO_3, 4: TO_4}

# the types that the two databases spell in two ways
_TYPES: Mapping[str, Mapping[str, str]] = {
    "sqlite": {"key": "INTEGER", "number": "INTEGER"},
    "postgresql": {"key": "BIGSERIAL", "number": "BIGINT"},
}


def migrate(connection: Connection, version: int) -> None:
    """Migrate a ledger from the version before to ``version``, inside the caller's transaction."""
    types = _TYPES[connection.dialect.name]
    for statement in STEPS[version]:
        connection.exec_driver_sql(statement.format(**types))
    connection.execute(update(schema.ledger).values(version=version))
    stamp(connection)


def stamp(connection: Connection) -> None:
    """Mark the database as a ledger."""
    if connection.dialect.name == "sqlite":
        connection.exec_driver_sql(f"PRAGMA application_id = {APPLICATION_ID}")
    else:
        connection.exec_driver_sql(f"COMMENT ON TABLE ledger IS '{MARK}'")
