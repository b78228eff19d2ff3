"""Stages a manifest in temporary tables of one connection: read, probed and hashed without a lock on the ledger."""

import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from enum import IntEnum
from itertools import islice
from operator import lt
from typing import Any, TypeVar

from sqlalchemy import (
    JSON,
    BigInteger,
    Boolean,
    Column,
    Connection,
    Float,
    Index,
    Integer,
    MetaData,
    String,
    Table,
    and_,
    bindparam,
    case,
    delete,
    func,
    insert,
    or_,
    select,
    update,
)
from sqlalchemy.schema import CreateIndex, CreateTable
from sqlalchemy.sql.elements import ColumnElement

from uploader.ledger.dialects import analyze, execute_bulk, insert_or_ignore, is_among
from uploader.ledger.schema import ID, items, lanes, rows
from uploader.model import NOTHING, OVER, AudioFacts, InvalidRow, Problem, Row
from uploader.policy.billing import SEPARATE, billed_seconds

# one statement stages so many rows
CHUNK = 1000
AudioProbe = Callable[[str], AudioFacts]
T = TypeVar("T")
_NO_FILE = (None,) * 7

_metadata = MetaData()
_TEMPORARY = ["TEMPORARY"]

# the manifest's rows
staged = Table(
    "staged",
    _metadata,
    Column("line", Integer, primary_key=True),
    Column("conversation_id", String, nullable=False),
    Column("audio_path", String, nullable=False),
    # None: the row is invalid
    Column("path", String),
    # None: the file is gone
    Column("size", BigInteger),
    Column("change", String),
    # the type that is sent
    Column("content_type", String),
    Column("duration_seconds", Float),
    Column("channels", Integer),
    Column("billed_seconds", Float),
    # None: there is no such lane yet
    Column("lane_id", ID),
    # the type that the row names
    Column("given_type", String),
    # the account that the row names; None: that of the batch; empty: an unknown one
    Column("account", String),
    prefixes=_TEMPORARY,
)

# the accounts that rows may name
named = Table(
    "named",
    _metadata,
    Column("name", String, primary_key=True),
    Column("account_id", ID, nullable=False),
    prefixes=_TEMPORARY,
)


def _account_of_row(default: str) -> ColumnElement[int]:
    """Build the account of a row, a parameter where the row names none; NULL where it names an unknown one."""
    named_id = select(named.c.account_id).where(named.c.name == staged.c.account).correlate(staged).scalar_subquery()
    return case((staged.c.account.is_(None), bindparam(default, type_=BigInteger)), else_=named_id)


ACCOUNT = _account_of_row("account")

# of a row: it has a lane, or would have one
HAS_LANE = and_(staged.c.conversation_id != "", or_(staged.c.account.is_(None), staged.c.account != ""))

# columns that few rows have: an empty column costs a tenth of a row, a missing row of this table nothing
apart = Table(
    "apart",
    _metadata,
    Column("line", Integer, primary_key=True),
    # JSON text
    Column("parameters", JSON(none_as_null=True)),
    Column("extras", JSON(none_as_null=True)),
    Column("given", JSON(none_as_null=True)),
    Column("hints", JSON(none_as_null=True)),
    # the problems of the row; None where it is valid
    Column("error", String),
    prefixes=_TEMPORARY,
)

# the hashes of files that were read to match their rows
hashed = Table(
    "hashed",
    _metadata,
    Column("line", Integer, primary_key=True),
    Column("content_hash", String, nullable=False),
    prefixes=_TEMPORARY,
)


class Takes(IntEnum):
    """The columns that an existing item takes from the row that names it."""

    NOTHING = 0
    # parameters and place; the file is the same
    ROW = 1
    ROW_AND_FILE = 2


# the existing items that rows name; a row without an entry is a new item
found = Table(
    "found",
    _metadata,
    Column("line", Integer, primary_key=True),
    Column("item_id", ID, nullable=False, unique=True),
    # the state in which the load leaves the item
    Column("state", String, nullable=False),
    Column("takes", Integer, nullable=False),
    # the row corrects the refused item
    Column("mended", Boolean, nullable=False),
    prefixes=_TEMPORARY,
)


def is_listed(*conditions: ColumnElement[bool]) -> ColumnElement[bool]:
    """Build the condition that an item is in ``found``."""
    # a list of ids, because SQLite might answer a join by reading all items
    return items.c.id.in_(select(found.c.item_id).where(*conditions))


# sizes of rows that some item of their lane has which no row names yet
met = Table(
    "met",
    _metadata,
    Column("lane_id", ID, primary_key=True),
    Column("size", BigInteger, primary_key=True),
    prefixes=_TEMPORARY,
)

# rows that are compared with the items of their lane one by one
compared = Table(
    "compared",
    _metadata,
    Column("line", Integer, primary_key=True),
    Column("lane_id", ID, nullable=False),
    Column("path", String, nullable=False),
    Column("size", BigInteger),
    prefixes=_TEMPORARY,
)

# the lanes that the load concerns
touched = Table("touched", _metadata, Column("lane_id", ID, primary_key=True), prefixes=_TEMPORARY)

# the items that rows of the batch named before, and that these lines do not name any more
unnamed = Table("unnamed", _metadata, Column("item_id", ID, nullable=False), prefixes=_TEMPORARY)

# the lanes of one step of a load
LANES_OF_STEP = select(touched.c.lane_id).where(touched.c.lane_id.between(bindparam("from_lane"), bindparam("to_lane")))
IN_LANES = items.c.lane_id.in_(LANES_OF_STEP)

_INDEXES = (Index("compared_lane", compared.c.lane_id),)
_TABLES = (staged, named, apart, hashed, found, met, compared, touched, unnamed)


# the columns of a row; a chunk whose rows all lack the lane, or a type or account of their own, is staged without the
# last ones
_STAGED = tuple(staged.columns.keys())

_APART = ("line", "parameters", "extras", "given", "hints", "error")

# the id of the newest lane, 0 where there is none
_NEWEST_LANE = select(func.coalesce(func.max(lanes.c.id), 0))

_LANE = (
    select(lanes.c.id)
    # an update of ``staged`` has a column, and so a parameter, of the name ``account`` already
    .where(lanes.c.account_id == _account_of_row("of_account"), lanes.c.conversation_id == staged.c.conversation_id)
    .correlate(staged)
    .scalar_subquery()
)

# the lanes of some conversations
_LANES = select(lanes.c.conversation_id, lanes.c.id).where(
    lanes.c.account_id == bindparam("account"), is_among(lanes.c.conversation_id, "among")
)

# set the lanes that were added since their rows were staged
_PLACE = update(staged).where(staged.c.lane_id.is_(None), HAS_LANE).values(lane_id=_LANE)

# make a row invalid: it has no path
_WITHOUT_FILE = update(staged).where(staged.c.line == bindparam("of_line")).values(path=None, size=None, change=None)

# make room for the columns of a row that few rows have
_ADD_APART = insert_or_ignore(apart).values(line=bindparam("of_line"))

# set the problems of a row and the columns to be corrected
_REFUSE = (
    update(apart)
    .where(apart.c.line == bindparam("of_line"))
    .values(given=bindparam("new_given"), error=bindparam("new_error"))
)

# the number of conversations in the rows
_CONVERSATIONS = select(func.count()).select_from(
    select(staged.c.conversation_id, staged.c.account).where(staged.c.conversation_id != "").distinct().subquery()
)

# the accounts that rows name, apart from unknown ones
_NAMED = select(staged.c.account).where(staged.c.account != "").distinct()


# the lanes in which a batch has items that are not over
_TOUCH_BATCH = insert(touched).from_select(
    ["lane_id"],
    select(items.c.lane_id)
    .join(rows, rows.c.item_id == items.c.id)
    .where(rows.c.batch_id == bindparam("batch"), items.c.state.not_in(OVER))
    .distinct(),
)


def touch_batch(connection: Connection, batch_id: int) -> None:
    """Find the lanes that a batch concerns which was loaded before: those with items that are not over.

    Args:
        connection: As ``Ledger.staging`` gave it, in a transaction.
    """
    make_touched(connection)
    connection.execute(_TOUCH_BATCH, {"batch": batch_id})
    analyze(connection, touched)


def make_touched(connection: Connection) -> None:
    """Make the table of the lanes that are concerned, or empty the existing one."""
    connection.execute(CreateTable(touched, if_not_exists=True))
    connection.execute(delete(touched))


class Stage:
    """A manifest's rows in temporary tables of a connection, which alone sees them; they go when it closes."""

    def __init__(self, connection: Connection, account_id: int | None, accounts: Mapping[str, int] = NOTHING) -> None:
        """Make the tables, or empty the existing ones.

        Args:
            account_id: The account of rows that name none; None where the ledger has none.
            accounts: The ids of the accounts that rows may name, as far as the ledger has them.
        """
        # a row stands in a lane that the ledger has
        self.meets_lanes = False
        # each row's path is greater than that of the row before: no path is there twice
        self.paths_ascend = True
        # all ids are numbers: none differs from another one by letter case
        self.ids_are_numbers = True
        self._last_path = ""
        self._connection = connection
        self._account_id = account_id
        self._accounts = dict(accounts)
        for table in _TABLES:
            connection.execute(CreateTable(table, if_not_exists=True))
            connection.execute(delete(table))
        for index in _INDEXES:
            connection.execute(CreateIndex(index, if_not_exists=True))
        self.name_accounts(accounts)
        self._newest_lane = self._lanes_until()

    def name_accounts(self, accounts: Mapping[str, int]) -> None:
        """Set the ids of the accounts that rows may name."""
        self._accounts = dict(accounts)
        self._connection.execute(delete(named))
        execute_bulk(self._connection, named, ("name", "account_id"), list(accounts.items()))

    def accounts(self) -> set[str]:
        """Return the names of the accounts that rows name."""
        return set(self._connection.execute(_NAMED).scalars())

    def add(
        self, manifest: Iterable[Row | InvalidRow], probe: AudioProbe, *, separate: bool, hints: bool = False
    ) -> None:
        """Stage rows in chunks, so that few of them are in memory.

        Args:
            manifest: The rows.
            probe: Reads a recording whose facts the row does not have.
            separate: Channels are recognised, and billed, separately where a row does not say.
            hints: Stage the rows' hints, too.
        """
        for chunk in chunks(manifest, CHUNK):
            in_lanes = {name: self._lanes(name, chunk) for name in {row.account for row in chunk}}
            is_any_in_lane = any(in_lanes.values())
            self.meets_lanes = self.meets_lanes or is_any_in_lane
            values: list[tuple[Any, ...]] = []
            more: list[tuple[Any, ...]] = []
            has_types = False
            for row in chunk:
                if isinstance(row, Row):
                    values.append(_values(row, probe, separate=separate))
                    has_types = has_types or row.content_type is not None
                    if row.parameters or row.extras or (hints and row.hints):
                        more.append(_more(row, hints=hints))
                else:
                    values.append((row.line, row.conversation_id, row.audio_path, *_NO_FILE))
                    more.append(_wrong(row))
            if has_types or in_lanes.keys() != {None}:
                values = [
                    (*value, in_lanes[row.account].get(value[1]), getattr(row, "content_type", None), row.account)
                    for value, row in zip(values, chunk, strict=True)
                ]
            elif is_any_in_lane:
                values = [(*value, in_lanes[None].get(value[1])) for value in values]
            self._note_order(chunk)
            execute_bulk(self._connection, staged, _STAGED[: len(values[0])], values)
            execute_bulk(self._connection, apart, _APART, more)

    def _note_order(self, chunk: Sequence[Row | InvalidRow]) -> None:
        """Find out whether the paths ascend and the ids are numbers, so that nobody need compare the rows."""
        if self.paths_ascend:
            paths = [self._last_path, *(row.path for row in chunk if isinstance(row, Row))]
            self.paths_ascend = all(map(lt, paths, paths[1:]))
            self._last_path = paths[-1]
        if self.ids_are_numbers:
            ids = "".join([row.conversation_id for row in chunk])
            self.ids_are_numbers = ids.isascii() and ids.isdigit()

    def place(self) -> None:
        """Set the lanes of rows that had none when they were staged, where lanes were added since."""
        # compared with the time of the staging: what an earlier call has placed may have been rolled back
        if self._lanes_until() != self._newest_lane:
            self._connection.execute(_PLACE, {"of_account": self._account_id})
            self.meets_lanes = True

    def refuse(self, lacking: Iterable[InvalidRow]) -> None:
        """Make rows invalid that were staged as valid."""
        refused = [
            {"of_line": row.line, "new_error": format_problems(row), "new_given": dict(row.given)} for row in lacking
        ]
        if refused:
            self._connection.execute(_ADD_APART, [{"of_line": row["of_line"]} for row in refused])
            self._connection.execute(_REFUSE, refused)
            self._connection.execute(_WITHOUT_FILE, [{"of_line": row["of_line"]} for row in refused])

    def keep_hashes(self, hashes: Sequence[tuple[int, str]]) -> None:
        """Keep hashes of rows' files, each with the row's line."""
        execute_bulk(self._connection, hashed, hashed.columns.keys(), hashes)

    def count_conversations(self) -> int:
        """Count the conversations of the rows."""
        count: int = self._connection.execute(_CONVERSATIONS).scalar_one()
        return count

    def _lanes_until(self) -> int:
        is_any_known = self._account_id is not None or self._accounts
        newest: int = self._connection.execute(_NEWEST_LANE).scalar_one() if is_any_known else 0
        return newest

    def _lanes(self, name: str | None, chunk: Iterable[Row | InvalidRow]) -> Mapping[str, int]:
        """Find the lanes of the rows that name this account, by conversationId."""
        account_id = self._account_id if name is None else self._accounts.get(name)
        if not self._newest_lane or account_id is None:
            return {}
        among = list(dict.fromkeys([row.conversation_id for row in chunk if row.account == name]))
        found = self._connection.execute(_LANES, {"account": account_id, "among": among})
        return dict(found.all())


def chunks(iterable: Iterable[T], size: int) -> Iterator[list[T]]:
    """Split rows into lists of this size."""
    iterator = iter(iterable)
    while chunk := list(islice(iterator, size)):
        yield chunk


def format_problems(row: InvalidRow) -> str:
    """Format the problems of a row for its ``error`` in the results."""
    return "; ".join(str(problem) for problem in row.problems)


def read_hints(text: Any, line: int) -> Iterator[Problem]:
    """Read the hints of a row as they were staged."""
    return (Problem(line, *hint) for hint in text or ())


def _values(row: Row, probe: AudioProbe, *, separate: bool) -> tuple[Any, ...]:
    """Return a valid row in the order of the columns of ``staged``, without its lane and what it names."""
    line, conversation_id, audio_path, path, given_type, parameters, _, signature, _, _, facts, _ = row
    if signature is None:
        return line, conversation_id, audio_path, path, None, None, given_type, None, None, None
    size, change = signature
    media_type, duration, channels, *_ = facts or probe(path)
    if parameters:
        separate = parameters.get(SEPARATE, separate)
    billed = billed_seconds(duration, channels, separate=separate)
    return line, conversation_id, audio_path, path, size, change, given_type or media_type, duration, channels, billed


def _more(row: Row, *, hints: bool) -> tuple[Any, ...]:
    """Return the columns that few valid rows have, in the order of ``_APART``."""
    text = json.dumps(row.hints) if hints and row.hints else None
    return row.line, _text(row.parameters), _text(row.extras), None, text, None


def _wrong(row: InvalidRow) -> tuple[Any, ...]:
    """Return the columns of an invalid row, in the order of ``_APART``."""
    return row.line, None, _text(row.extras), json.dumps(dict(row.given)), None, format_problems(row)


def _text(values: Mapping[str, Any]) -> str | None:
    return json.dumps(dict(values)) if values else None
