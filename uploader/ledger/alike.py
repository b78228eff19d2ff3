"""Finds staged rows that are likely mistakes when they are compared: repeats, and ids that are nearly the same."""

import re
import unicodedata
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from sqlalchemy import Connection, case, func, select
from sqlalchemy.schema import CreateTable
from sqlalchemy.sql.functions import GenericFunction

from uploader.ledger.database import driver
from uploader.ledger.dialects import execute_bulk
from uploader.ledger.sqlite import without_ledger
from uploader.ledger.staging import CHUNK, staged
from uploader.model import Problem
from uploader.urls import shown

_MAX_LINES = 5
# an id of fewer characters may be a program's text for a missing value
_SHORT = 10


class _folded(GenericFunction[str]):  # noqa: N801 - the name of an SQL function
    """The SQL function that folds letter case and Unicode form of an id."""

    inherit_cache = True
    name = "uploader_folded"


_is_plain = staged.c.conversation_id.op("NOT GLOB")("*[^ -~]*")
_fold = case((_is_plain, func.lower(staged.c.conversation_id)), else_=_folded(staged.c.conversation_id))
_lines = func.group_concat(staged.c.line).label("lines")
_has_case = staged.c.conversation_id.op("GLOB")("*[^0-9]*")

# files that a conversation has more than once; grouped by path first, which differs in most rows
# (SQLite takes a bare column beside min() from the row of the minimum)
_REPEATS = (
    select(staged.c.audio_path, func.min(staged.c.line), _lines)
    .where(staged.c.path.is_not(None))
    .group_by(staged.c.path, staged.c.conversation_id)
    .having(func.count() > 1)
)

# groups of ids that differ in letter case or Unicode form: the least and the greatest differ
_TWINS = (
    select(
        func.min(staged.c.conversation_id).label("least"),
        func.max(staged.c.conversation_id).label("greatest"),
        func.min(staged.c.line).label("line"),
    )
    .where(_has_case)
    .group_by(_fold)
    .having(func.min(staged.c.conversation_id) != func.max(staged.c.conversation_id))
)

# numbers of more digits than a spreadsheet keeps: from the 16th on it writes zeros
_ROUNDED = re.compile("[0-9]{15}0+")
# fewer ids may end in zeros by chance
_LEAST_ROUNDED = 3
_FIRST = select(staged.c.conversation_id, staged.c.line).limit(1000)
_long = func.length(staged.c.conversation_id) > 15
_EXACT = select(staged.c.line).where(
    _long,
    staged.c.conversation_id.op("NOT GLOB")("*[^0-9]*"),
    func.substr(staged.c.conversation_id, 16).op("GLOB")("*[1-9]*"),
)

# ids of several rows that a program may have spoilt: short, with odd characters, or in exponent notation
_SHARED = (
    select(staged.c.conversation_id, _lines)
    .where(
        (func.length(staged.c.conversation_id) < _SHORT)
        | staged.c.conversation_id.op("GLOB")("*[^0-9A-Za-z_-]*")
        | staged.c.conversation_id.op("GLOB")("*[eE][-+]*")
    )
    .group_by(staged.c.conversation_id)
    .having(func.count() > 1)
)


@contextmanager
def comparable(connection: Connection) -> Iterator[Connection]:
    """Give the staged rows in SQLite, whose functions compare them; rows that are staged elsewhere are copied."""
    if connection.dialect.name == "sqlite":
        yield connection
        return
    names = ("line", "conversation_id", "audio_path", "path")
    with without_ledger() as copy, copy.begin():
        copy.execute(CreateTable(staged))
        found = connection.execute(select(*staged.c[names]), execution_options={"yield_per": CHUNK})
        for chunk in found.partitions():
            execute_bulk(copy, staged, names, [tuple(row) for row in chunk])
        yield copy


def repeats(connection: Connection) -> Iterator[Problem]:
    """Yield a problem for each file that a conversation has more than once; each such row is an item all the same."""
    for audio_path, _, lines in connection.execute(_REPEATS):
        first, listed = _format_lines(lines)
        remedy = f"lines {listed} append the same file to the same conversation: leave out what stands there by mistake"
        yield Problem(first, "audioPath", shown(audio_path), remedy)


def case_twins(connection: Connection) -> Iterator[Problem]:
    """Yield a problem for each id that differs from another one by letter case or Unicode form alone."""
    driver(connection).create_function("uploader_folded", 1, _fold_text, deterministic=True)
    for least, greatest, line in connection.execute(_TWINS):
        what = "letter case" if least.lower() == greatest.lower() else "Unicode form or letter case"
        remedy = f"this id and {greatest} differ by {what} alone: write the one that the service gave"
        yield Problem(line, "conversationId", least, remedy)


def became_the_same(connection: Connection, is_spoilt: Callable[[str], object]) -> Iterator[Problem]:
    """Yield a problem for each spoilt id that several rows share: they may have had different ids.

    Args:
        connection: The stage's connection.
        is_spoilt: Returns a true value for an id that looks spoilt.
    """
    for conversation_id, lines in connection.execute(_SHARED):
        if is_spoilt(conversation_id):
            first, listed = _format_lines(lines)
            remedy = f"lines {listed} have become the same conversation: take their ids from their source again"
            yield Problem(first, "conversationId", conversation_id, remedy)


def rounded(connection: Connection) -> Iterator[Problem]:
    """Yield a problem where all long numbers among the ids end in zeros, as a spreadsheet rounds them to 15 digits."""
    found: dict[str, int] = {}
    for conversation_id, line in connection.execute(_FIRST):
        if _ROUNDED.fullmatch(conversation_id):
            found.setdefault(conversation_id, line)
    if len(found) < _LEAST_ROUNDED or connection.execute(_EXACT.limit(1)).first() is not None:
        return
    remedy = (
        "all ids of more than 15 digits end in zeros, as where a spreadsheet rounded them: format the column as text, "
        "and take the ids from their source again"
    )
    conversation_id, line = next(iter(found.items()))
    yield Problem(line, "conversationId", conversation_id, remedy)


def _format_lines(lines: str) -> tuple[int, str]:
    """Return the first line number, and the first few as text."""
    numbers = sorted(map(int, lines.split(",")))
    more = f" and {len(numbers) - _MAX_LINES} more" if len(numbers) > _MAX_LINES else ""
    return numbers[0], ", ".join(map(str, numbers[:_MAX_LINES])) + more


def _fold_text(text: str) -> str:
    return unicodedata.normalize("NFC", unicodedata.normalize("NFC", text).casefold())
