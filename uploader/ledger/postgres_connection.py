"""A connection to a PostgreSQL server: through a pooler or not, and closed once the server is silent for too long."""

import logging
import re
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

from sqlalchemy import Engine, create_engine
from sqlalchemy.exc import DBAPIError
from sqlalchemy.pool import QueuePool

from uploader.errors import LedgerAwayError, LedgerUnavailableError, UsageError

try:
    import psycopg
    from psycopg.abc import RV, PQGen
    from psycopg.conninfo import conninfo_to_dict
except ImportError as error:
    raise UsageError(
        f"ledger: postgresql:// needs its driver ({error}): pip install 'uploader[postgres]'. Nothing was sent"
    ) from error

# what the driver warns of when a connection is lost is raised as well: without a handler the words would stand among
# the events of the log, on standard error
logging.getLogger("psycopg").addHandler(logging.NullHandler())

CONNECT_SECONDS = 5
# a server that swallows everything is noticed within seconds (libpq's keywords; in seconds, and milliseconds)
_LIVELINESS: dict[str, Any] = {
    "keepalives_idle": 10,
    "keepalives_interval": 5,
    "keepalives_count": 3,
    "tcp_user_timeout": 25_000,
}
# a server, or the way to it, that brings nothing for so many seconds counts as away. A writer may have to wait for a
# lock until the role's idle_in_transaction_session_timeout takes it from a client that stands still
WRITER_SILENCE_SECONDS = 25.0
READER_SILENCE_SECONDS = 60.0
# the server's words for an address that it was reached at and will never take
_REFUSED = re.compile(
    r"authentication failed|no password supplied|no pg_hba\.conf entry|(?:role|user|database) \".*\" does not exist"
    r"|permission denied for database|is not permitted to log in"
)

# conditions of a server that pass: connection lost, transaction rolled back, lack of resources, lock not available,
# intervention of an operator, error of the system (classes of SQLSTATE)
_PASSING_CLASSES = ("08", "40", "53", "55", "57", "58")
# a standby that is not yet promoted, and a transaction of ours that stood still for too long
_PASSING_STATES = ("25006", "25P03")


class PostgresConnection(psycopg.Connection[Any]):
    """A connection that is closed once the server is silent for too long."""

    # a pooler (pgbouncer, say) stands between, which may give each transaction another connection to the server
    is_pooled = False
    _is_one_transaction = False
    # the most seconds in which a statement brings no byte; a network that swallows everything brings none for ever
    silence_limit: Callable[[], float] = staticmethod(lambda: READER_SILENCE_SECONDS)

    def wait(self, gen: PQGen[RV], *args: Any, **kwargs: Any) -> RV:
        """Run a generator of the driver to its end."""
        return super().wait(self._unless_silent(gen), *args, **kwargs)

    def _unless_silent(self, gen: PQGen[RV]) -> PQGen[RV]:
        """Pass a generator on, which is told every tenth of a second that nothing has come."""
        heard_at = time.monotonic()
        try:
            wanted = next(gen)
            while True:
                ready = yield wanted
                now = time.monotonic()
                if ready:
                    heard_at = now
                elif now - heard_at > (limit := self.silence_limit()):
                    self.close()
                    raise psycopg.OperationalError(f"the server has not answered for {limit:g} s")
                wanted = gen.send(ready)
        except StopIteration as end:
            result: RV = end.value
            return result

    @contextmanager
    def as_one_transaction(self) -> Iterator[None]:
        """Make a single transaction of all that begin in the block, so that a pooler does not tear them apart."""
        self.execute("SAVEPOINT step")
        self._is_one_transaction = True
        try:
            yield
            # the pooler hands the connection to others, with what is temporary in it
            self.execute("DISCARD TEMP")
        except BaseException:
            self._is_one_transaction = False
            raise
        self._is_one_transaction = False
        self.commit()

    def commit(self) -> None:
        """Commit the transaction, or keep it as a part of the one around it."""
        if not self._is_one_transaction:
            super().commit()
            return
        self.execute("RELEASE SAVEPOINT step")
        self.execute("SAVEPOINT step")

    def rollback(self) -> None:
        """Roll the transaction back, or the part of the one around it."""
        if not self._is_one_transaction:
            super().rollback()
            return
        self.execute("ROLLBACK TO SAVEPOINT step")


def _connect(url: str, silence_limit: Callable[[], float]) -> PostgresConnection:
    """Connect to a server; behind a pooler, prepare no statements, which belong to one connection of its own."""
    connection = PostgresConnection.connect(
        url, autocommit=True, connect_timeout=CONNECT_SECONDS, application_name="uploader", **_LIVELINESS
    )
    connection.silence_limit = silence_limit
    (server_pid,) = connection.execute("SELECT pg_backend_pid()").fetchone() or (None,)
    connection.is_pooled = server_pid != connection.info.backend_pid
    if connection.is_pooled:
        connection.prepare_threshold = None
    connection.autocommit = False
    return connection


def make_engine(url: str, silence_limit: Callable[[], float]) -> Engine:
    """Make the pool of a ledger's connections.

    Args:
        url: The address.
        silence_limit: Returns a connection's ``silence_limit``, until it has another one.
    """
    return create_engine(
        "postgresql+psycopg://",
        creator=partial(_connect, url, silence_limit),
        poolclass=QueuePool,
        hide_parameters=True,  # paths and parameters are among them, and errors reach the log
    )


def _is_passing(error: BaseException) -> bool:
    """Return True where the same statements may succeed on a new connection, a moment later."""
    original = getattr(error, "orig", None) or error
    state = getattr(original, "sqlstate", None)
    if state is None:
        return isinstance(original, psycopg.OperationalError) or getattr(error, "connection_invalidated", False)
    return state[:2] in _PASSING_CLASSES or state in _PASSING_STATES


def reason_of(error: BaseException) -> str:
    """Return the first line of the driver's own words."""
    return str(getattr(error, "orig", None) or error).strip().partition("\n")[0]


def check_address(url: str, address: str) -> None:
    """Check the address before the driver's own words show a part of it, which may be of the password.

    Raises:
        UsageError: It is none.
    """
    try:
        parts = conninfo_to_dict(url)
    except psycopg.ProgrammingError:
        parts = {"port": "none"}
    shown = f"{parts.get('host')}{parts.get('dbname')}"
    if re.fullmatch("[0-9,]*", str(parts.get("port", ""))) is None or "@" in shown:
        raise UsageError(
            f"ledger {address}: this is no address of a database: write postgresql://USER:PASSWORD@HOST/"
            "DATABASE, and in the password %XX for each character that is neither letter nor digit"
        )


@contextmanager
def translated_errors(address: str, was_taken: Callable[[], bool]) -> Iterator[None]:
    """Turn errors of the database in the block into a LedgerUnavailableError, without the address's login.

    Args:
        address: The ledger's address, for the message.
        was_taken: True where the server has taken the address before: a refusal is then one of the moment.

    Raises:
        UsageError: The server will never take the address.
    """
    try:
        yield
    except (DBAPIError, psycopg.Error) as error:
        reason = reason_of(error)
        if _REFUSED.search(reason) and not was_taken():
            raise UsageError(
                f"ledger {address}: {reason}: correct user, password and database in UPLOADER_LEDGER. Nothing was sent"
            ) from error
        told = (
            f"ledger {address}: {reason}: nothing more is sent; see to the server and the way to it, then run the same "
            "command again"
        )
        raise (LedgerAwayError(told, reason) if _is_passing(error) else LedgerUnavailableError(told)) from error
