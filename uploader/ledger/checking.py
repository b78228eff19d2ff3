"""Checks a ledger for damage, and for signs that a crash, a copy or a restore has lost a part of it."""

from pathlib import Path

from sqlalchemy import Connection
from sqlalchemy.exc import DBAPIError

from uploader.ledger.database import Mark
from uploader.ledger.sidecars import RunCount
from uploader.ledger.sqlite import HOW_TO_MEND, log_path


def damage(connection: Connection, *, whole: bool) -> str:
    """Describe the damage of the database; empty where there is none.

    Args:
        whole: Compare indexes with their tables and check foreign keys, too.
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
    """Return the reason why a ledger may not know all that was appended; empty where there is none.

    Args:
        path: The ledger.
        noted: The count that the last run saved beside it.
        has_log: Its write-ahead log stood beside it before it was opened.
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
