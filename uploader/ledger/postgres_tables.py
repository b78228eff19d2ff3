"""The tables of a ledger in a PostgreSQL database: made, migrated, known by their mark; and the server's settings."""

from secrets import token_hex

from sqlalchemy import Connection, func, insert, select, text
from sqlalchemy.exc import ProgrammingError

from uploader import logs
from uploader.errors import UsageError
from uploader.ledger import schema
from uploader.ledger.database import has_batch
from uploader.ledger.migrations import MARK, STEPS, migrate, stamp
from uploader.ledger.postgres_connection import reason_of
from uploader.ledger.sqlite import KEY_BYTES

log = logs.get_logger()

# the key of the advisory lock of whoever makes or migrates the tables
SCHEMA_LOCK = 0x75706C64_736368

# what the server has to promise: nothing committed is lost, and a client that stands still gives its locks back
_PROMISES = text(
    "SELECT current_setting('fsync') = 'on', current_setting('full_page_writes') = 'on', "
    "current_setting('idle_in_transaction_session_timeout') <> '0', current_user, "
    # a standby, which may take the server's place, has all that a COMMIT has reported
    "current_setting('synchronous_standby_names') <> '' AND current_setting('synchronous_commit') <> 'local' "
    "OR NOT EXISTS (SELECT 1 FROM pg_stat_replication)"
)

# the version that the table of a ledger is marked with, and whether it is
_MARKED = text("SELECT to_regclass('ledger') IS NOT NULL, obj_description(to_regclass('ledger'), 'pg_class')")


def marked_version(connection: Connection) -> int | None:
    """Read the schema version of a ledger; None where there is none.

    Raises:
        UsageError: The database belongs to another program.
    """
    is_there, mark = connection.execute(_MARKED).one()
    if not is_there:
        return None
    if mark != MARK:
        raise UsageError(
            "ledger: the database has a table of that name that is not the uploader's: name another database"
        )
    version: int = connection.execute(select(schema.ledger.c.version)).scalar_one()
    return version


def prepare(connection: Connection, address: str, *, must_exist: bool) -> bool:
    """Make missing tables, migrate older ones while others wait; return True where the ledger holds a batch."""
    connection.execute(select(func.pg_advisory_xact_lock(SCHEMA_LOCK)))
    version = marked_version(connection)
    if version is None:
        _check_making(address, must_exist=must_exist)
        make(connection, address)
        return False
    _check_known(address, version)
    for target in range(version + 1, schema.VERSION + 1):
        migrate(connection, target)
    if version < schema.VERSION:
        log.warning("ledger.migrated", fromVersion=version, toVersion=schema.VERSION)
    if not has_batch(connection):
        _check_making(address, must_exist=must_exist)
        return False
    return True


def _check_making(address: str, *, must_exist: bool) -> None:
    if must_exist:
        raise UsageError(
            f"ledger {address}: there is none, and --ledger-must-exist forbids to make one: restore it, or "
            "leave that option out for the first night. Nothing was sent"
        )


def make(connection: Connection, address: str) -> None:
    """Make the tables of a new ledger."""
    try:
        schema.metadata.create_all(connection, checkfirst=False)
    except ProgrammingError as error:
        raise UsageError(
            f"ledger {address}: its tables cannot be made ({reason_of(error)}): give the ledger a database of "
            "its own, in which its user may create tables"
        ) from error
    connection.execute(insert(schema.ledger).values(version=schema.VERSION, webhook_key=token_hex(KEY_BYTES)))
    stamp(connection)


def _check_known(address: str, version: int) -> None:
    if version > schema.VERSION:
        raise UsageError(
            f"ledger {address}: it has schema version {version}, this uploader knows {schema.VERSION}: use "
            "the newer uploader that wrote it"
        )
    if version < min(STEPS) - 1:
        raise UsageError(f"ledger {address}: it has schema version {version}, which cannot be migrated")


def check_current(address: str, version: int | None) -> None:
    """Refuse a ledger that is not there, or that another version of the program has written.

    Raises:
        UsageError: In words that say what to do.
    """
    if version is None:
        raise UsageError(f"ledger {address}: there is none yet: `uploader run MANIFEST` makes it")
    _check_known(address, version)
    if version < schema.VERSION:
        raise UsageError(
            f"ledger {address}: it has schema version {version}, this uploader reads {schema.VERSION}: "
            "`uploader ledger upgrade` migrates it, and so does the next `uploader run`"
        )


def check_promises(connection: Connection) -> None:
    """Warn of settings of the server under which a crash, or a client that stands still, does harm."""
    is_synced, has_pages, has_timeout, user, has_copy = connection.execute(_PROMISES).one()
    lacking = {"fsync": is_synced, "full_page_writes": has_pages}
    if off := [name for name, is_on in lacking.items() if not is_on]:
        log.warning(
            "ledger.server_unsafe",
            reason=f"{' and '.join(off)} off: a crash of the server may lose what was committed, and then "
            "something is appended twice",
            remedy=f"set {' and '.join(off)} to on at the server",
        )
    if not has_copy:
        log.warning(
            "ledger.server_unsafe",
            reason="no standby is synchronous: a failover to one may lose what was committed, and then something "
            "is appended twice",
            remedy="name the standby in synchronous_standby_names at the server, with synchronous_commit = on",
        )
    if not has_timeout:
        log.warning(
            "ledger.server_unsafe",
            reason="a client that stands still inside a transaction holds up all others",
            remedy=f"ALTER ROLE {user} SET idle_in_transaction_session_timeout = '10s'",
        )
