"""Looks for what a crash, a copy or a restore may have done to a ledger."""

from pathlib import Path
from typing import NamedTuple

from sqlalchemy import Connection, select
from sqlalchemy.exc import DBAPIError

from uploader.ledger import schema
from uploader.ledger.sidecars import RunCount
from uploader.ledger.sqlite import HOW_TO_MEND, log_path


class Mark(NamedTuple):
    """What a ledger says of itself: how many runs it has seen, and whether the last of them has closed it."""

    runs: int
    in_use: bool


class Examination(NamedTuple):
    """What an examination of a ledger found; ``damage`` and ``doubt`` are empty where there is none."""

    mark: Mark
    busy: bool
    damage: str
    doubt: str


def read_mark(connection: Connection) -> Mark:
    """Read the ledger's mark."""
    return Mark(*connection.execute(select(schema.ledger.c.runs, schema.ledger.c.in_use)).one())


def damage(connection: Connection, *, whole: bool) -> str:
    """Tell what is damaged in the database; empty where nothing is.

    Args:
        connection: A connection in a transaction.
        whole: Whether indexes are held against their tables and references are followed, too.
    """
    try:
        found = [text for (text,) in connection.exec_driver_sql(f"PRAGMA {'integrity' if whole else 'quick'}_check(3)")]
        broken = connection.exec_driver_sql("PRAGMA foreign_key_check").first() if whole else None
    except DBAPIError as error:
        return str(error.orig)
    if broken is not None:
        found.append(f"a row of table {broken[0]} points nowhere")
    return "; ".join(text for text in found if text != "ok")


def doubt(path: Path, mark: Mark, noted: RunCount, *, has_log: bool) -> str:
    """Tell why a ledger may not know all that was appended; empty where nothing speaks for it.

    Args:
        path: The ledger.
        mark: What it says of itself.
        noted: What the last run noted beside it.
        has_log: Whether its write-ahead log stood beside it before it was opened.
    """
    # a run on a full disk may have folded the log without a mark that it is closed
    if mark.in_use and not has_log and noted != RunCount(mark.runs, closed=True):
        return (
            f"its last run did not end, and {log_path(path).name}, where SQLite keeps the latest changes, is not "
            "beside it: it was copied without that file, or the file was deleted. What was appended last is not known "
            f"here, and would be appended again. Put the file back, or {HOW_TO_MEND}"
        )
    if noted.runs > mark.runs:
        return (
            f"it has seen {mark.runs} runs, and the ledger that was here last had seen {noted.runs}: this is an older "
            "copy. What was appended since is not known here, and would be appended again. Put the newer ledger back; "
            "or take what was appended since from the results with `uploader ledger adopt RESULTS`, then "
            "`uploader ledger check --accept`"
        )
    return ""
