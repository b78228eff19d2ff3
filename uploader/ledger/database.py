"""The ledger's database, SQLite for one host or PostgreSQL for many: opens it and gives its transactions."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Iterator
from contextlib import AbstractContextManager, contextmanager
from enum import Enum
from math import inf
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple, Self, TypeVar

from sqlalchemy import Connection, Engine, select

from uploader.errors import LedgerUnavailableError
from uploader.ledger import schema
from uploader.ledger.leases import open_workers
from uploader.settings import POSTGRESQL

T = TypeVar("T")
# returns the most seconds in which a silent server is waited for
Patience = Callable[[], float]
# finds the ids of the accounts that a transaction is to lock, by facts that never change
Accounts = Callable[[Connection], Collection[int]]


class Doubted(Enum):
    """The ways to open a ledger that may not know all that was appended."""

    # an error
    REFUSED = "refused"
    # opened to adopt results; the next run refuses it until a person has accepted it
    MENDED = "mended"
    # opened as if it knew all
    ACCEPTED = "accepted"


class Mark(NamedTuple):
    """The mark of its use in a ledger."""

    # how many runs have used it
    runs: int
    # the last run has not closed it
    in_use: bool


class Examination(NamedTuple):
    """The result of an examination of a ledger."""

    mark: Mark
    # a run has it open
    busy: bool
    # empty where there is none
    damage: str
    # the reason to doubt that it knows all that was appended; empty where there is none
    doubt: str
    # in bytes
    size: int
    # when its first and its latest manifest were loaded; None: none was
    first_load_at: float | None
    last_load_at: float | None
    # why the database itself was not read, and how that is done; empty where it was
    unread: str = ""


class Ledger(ABC):
    """An open ledger. ``writing`` and ``reading`` give a connection inside a transaction."""

    # on a server: the answer to a COMMIT may be lost, and the server may be away for a while (LedgerAwayError)
    is_remote = False

    def __init__(self, address: str, engine: Engine) -> None:
        # as people are shown it, without a password
        self.address = address
        # this process, open for a run, as ``is_gone`` knows it
        self.process = ""
        # it knew nothing of earlier nights when it was opened
        self.is_new = False
        self._engine = engine

    @staticmethod
    def open_for_run(
        url: str,
        *,
        must_exist: bool = False,
        on_container: bool = True,
        doubted: Doubted = Doubted.REFUSED,
        alone: bool = False,
        patience: Patience = lambda: inf,
    ) -> "Ledger":
        """Open the ledger for a run; make a missing one, migrate an older one where no run uses it.

        Args:
            url: Its address, ``sqlite:////path`` or ``postgresql://…``.
            must_exist: Refuse to make one where there is none.
            on_container: Make one even on a container's own file system, which is deleted with the container.
            doubted: The way to open one that may be an older copy, or may lack the content of its ``-wal``.
            alone: No other run may use it meanwhile.
            patience: Bounds each wait for an answer of its server, from the first one on.

        Raises:
            UsageError: Its folder is missing or not writable, it lies on a network file system, it is no
                ledger, one of a newer version, damaged or incomplete; or there is none and none may be made.
            LedgerBusyError: A run uses it that is to be alone, or a command has it for itself.
            LedgerUnavailableError: It cannot be reached or written now: a full disk, say.
        """
        return _kind(url).for_run(
            url, must_exist=must_exist, on_container=on_container, doubted=doubted, alone=alone, patience=patience
        )

    @staticmethod
    def open_beside_run(url: str) -> "Ledger":
        """Open an existing ledger for writing while runs use it.

        Raises:
            UsageError: There is none, it is no ledger, or one of another version.
            LedgerUnavailableError: It cannot be read now.
        """
        return _kind(url).beside_run(url)

    @staticmethod
    def open_for_reading(url: str) -> "Ledger":
        """Open an existing ledger beside a run or without one; its folder may be mounted read-only.

        Raises:
            UsageError: There is none, it is no ledger, or one of another version.
            LedgerUnavailableError: It cannot be read now.
        """
        return _kind(url).for_reading(url)

    @staticmethod
    def exists(url: str, patience: Patience = lambda: inf) -> bool:
        """Return True where there is a ledger; an empty file is none.

        Args:
            patience: As ``open_for_run`` takes it.

        Raises:
            UsageError: Something else is there.
            LedgerUnavailableError: It cannot be read now.
        """
        return _kind(url).is_there(url, patience)

    @classmethod
    @abstractmethod
    def for_run(
        cls, url: str, *, must_exist: bool, on_container: bool, doubted: Doubted, alone: bool, patience: Patience
    ) -> Self:
        """Open a ledger of this kind; see ``open_for_run``."""

    @classmethod
    @abstractmethod
    def beside_run(cls, url: str) -> Self:
        """Open a ledger of this kind; see ``open_beside_run``."""

    @classmethod
    @abstractmethod
    def for_reading(cls, url: str) -> Self:
        """Open a ledger of this kind; see ``open_for_reading``."""

    @classmethod
    @abstractmethod
    def is_there(cls, url: str, patience: Patience) -> bool:
        """Return True where there is a ledger of this kind; see ``exists``."""

    @abstractmethod
    def beside(self) -> "Ledger":
        """Open the same ledger once more, for reading while a run writes; it is closed with this one."""

    @contextmanager
    def writing(self, accounts: Accounts | None = None) -> Iterator[Connection]:
        """Give a connection in a transaction that is committed at the end, or rolled back by an exception.

        Accounts are locked before it reads anything else: what it reads of them stays true until its end.

        Args:
            accounts: Returns the ids of the accounts that the transaction reads and writes; None: all.
        """
        with self.translated_errors(), self.begin_writing(accounts) as connection:
            yield connection

    @contextmanager
    def writing_step(self) -> Iterator[Connection]:
        """Give a connection as ``writing`` does, for one of many steps: whoever waits for the ledger is next."""
        with self.writing() as connection:
            yield connection
        self.give_way()

    def give_way(self) -> None:
        """Let those who wait for the lock have it next, where it has no queue."""
        return

    @contextmanager
    def reading(self) -> Iterator[Connection]:
        """Give a connection in a transaction that reads one state of the ledger."""
        with self.translated_errors(), self.begin_reading() as connection:
            yield connection

    @contextmanager
    def staging(self) -> Iterator[Connection]:
        """Give a connection whose transactions lock nothing until they write; its temporary tables end with it."""
        with self.translated_errors(), self._engine.connect() as connection:
            connection.detach()
            yield connection

    @abstractmethod
    def translated_errors(self) -> AbstractContextManager[None]:
        """Turn errors of the database in the block into a LedgerUnavailableError."""

    @abstractmethod
    def begin_writing(self, accounts: Accounts | None = None) -> AbstractContextManager[Connection]:
        """Begin a transaction that writes, with these accounts locked, or all."""

    @abstractmethod
    def begin_reading(self) -> AbstractContextManager[Connection]:
        """Begin a transaction that reads one state."""

    @abstractmethod
    def locking(self, connection: Connection, account_ids: Collection[int]) -> AbstractContextManager[object]:
        """Begin a transaction that writes, with these accounts locked, on a connection that ``staging`` gave.

        Whoever else waits for the ledger gets it before the next such transaction.
        """

    @abstractmethod
    def analyze(self) -> None:
        """Let the database's planner know what a load has added, and free what it has rewritten, where needed."""

    @abstractmethod
    def clock(self, connection: Connection) -> Callable[[], float]:
        """Return the clock of the ledger's times, in seconds since the epoch, which all its workers share.

        Args:
            connection: A connection in a transaction that may write, after the dead workers were ended.
        """

    def read_clock(self, connection: Connection) -> float:
        """Return the time by the clock of the ledger's workers, as ``clock`` does, without a write."""
        return self.clock(connection)()

    def living_workers(self, connection: Connection) -> list[int]:
        """Return the ids of the workers that are at work, as far as their leases and this host know."""
        found = open_workers(connection)
        now = self.read_clock(connection) if found else 0.0
        return [one.worker_id for one in found if one.lease_until >= now and not self.is_gone(one.process)]

    @abstractmethod
    def is_gone(self, process: str) -> bool:
        """Return True where a worker's process is known to be dead; its lease need not be over.

        A process of which nothing is known may live: its worker is ended once its lease is over.
        """

    def hold_again(self) -> None:
        """Hold what a run holds of the ledger, where its server has lost that with a connection.

        Raises:
            LedgerBusyError: A command has the ledger for itself meanwhile.
            LedgerAwayError: The server is still away.
        """
        return

    def workers_have_begun(self) -> None:
        """Let the leases of this process's workers show from now on that a run is at work."""
        return

    @property
    @abstractmethod
    def held_by_run(self) -> bool:
        """True where a run has the ledger open at this moment."""

    @abstractmethod
    def examine(self, *, whole: bool = True) -> Examination:
        """Examine a ledger that is open for reading, for damage and for signs of a lost part.

        Args:
            whole: Read the whole database; else as a run does, which does so where the last run did not close it.
        """

    @abstractmethod
    def copy_to(self, target: Path) -> None:
        """Copy the ledger while others use it.

        Raises:
            UsageError: The target exists.
            LedgerUnavailableError: It cannot be read or written now.
        """

    @abstractmethod
    def size(self) -> int:
        """Return the bytes that the database takes on its disk."""

    @abstractmethod
    def give_back_room(self) -> str:
        """Give the room of deleted rows back to the disk; return how to do that by hand, empty where it is done."""

    def hurry(self, seconds: float) -> None:
        """Let no statement under way, or to come, wait for a silent server for longer than so many seconds."""
        del seconds  # a file is never silent

    @abstractmethod
    def moved(self) -> LedgerUnavailableError | None:
        """Return the error where the open database is no longer the one at the ledger's address; None where it is."""

    @abstractmethod
    def discard_if_empty(self) -> None:
        """Remove the ledger at its closing where this run made it and it holds no batch."""

    @abstractmethod
    def make_room(self) -> None:
        """Free what was reserved for the last outcomes on a full disk."""

    @abstractmethod
    def close(self) -> None:
        """Close the connections, and release what the run holds."""

    def __enter__(self) -> Self:
        """Return the ledger, which is closed at the end of the block."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close the ledger."""
        self.close()


def driver(connection: Connection) -> Any:
    """Return the driver's own connection, also of a detached one."""
    return connection.connection.dbapi_connection


def read_mark(connection: Connection) -> Mark:
    """Read the ledger's mark."""
    return Mark(*connection.execute(select(schema.ledger.c.runs, schema.ledger.c.in_use)).one())


def read_loads(connection: Connection) -> tuple[float | None, float | None]:
    """Read when the first and the latest manifest were loaded, in seconds since the epoch."""
    # by the ids, which are in order: two look-ups
    loads = schema.loads.c
    ends = (select(loads.loaded_at).order_by(order).limit(1) for order in (loads.id, loads.id.desc()))
    first, last = (connection.execute(statement).scalar() for statement in ends)
    return first, last


def has_batch(connection: Connection) -> bool:
    """Return True where a ledger holds any batch."""
    return connection.execute(select(schema.batches.c.id).limit(1)).first() is not None


def _kind(url: str) -> type[Ledger]:
    """Return the class for an address; each is imported only where it is used."""
    if url.startswith(POSTGRESQL):
        from uploader.ledger.postgres import PostgresLedger  # noqa: PLC0415 - its driver and dialect take time

        return PostgresLedger
    from uploader.ledger.sqlite_ledger import SqliteLedger  # noqa: PLC0415 - as above

    return SqliteLedger
