"""Judges a client by the journal of the server, against the rows that were to be appended."""

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from tests.acceptance.batches import Row
from uploader.sandbox import Journal
from uploader.sandbox.entries import JobEntry, PutEntry

Lanes = Mapping[str, Sequence[str]]

TOO_MANY_REQUESTS = 429


def wanted(rows: Iterable[Row]) -> Lanes:
    """The hashes of the recordings of each conversation, in the manifest's order."""
    lanes: dict[str, list[str]] = {}
    for row in rows:
        lanes.setdefault(row.conversation, []).append(row.sha256)
    return lanes


def appended(journal: Journal) -> Lanes:
    """The hashes of what was appended to each conversation, in the order of the jobs."""
    lanes: dict[str, list[str]] = {}
    for put in journal.appended():
        assert put.sha256 is not None
        lanes.setdefault(put.conversation_id, []).append(put.sha256)
    return lanes


def check_appended(journal: Journal, rows: Iterable[Row]) -> None:
    """Nothing is missing, twice, or out of order."""
    assert appended(journal) == wanted(rows)


def check_limit(journal: Journal, limit: int) -> None:
    """The account was never asked for more than its limit."""
    assert journal.peak_live() <= limit
    assert [put.number for put in journal.puts() if put.status == TOO_MANY_REQUESTS] == []


def check_one_at_a_time(journal: Journal) -> None:
    """No last chunk came in a conversation before the job before it there had ended."""
    live: dict[str, str] = {}
    for entry in journal.entries:
        if isinstance(entry, PutEntry) and entry.sha256 is not None and entry.job_id is None:
            assert entry.conversation_id not in live, f"{entry} came behind {live[entry.conversation_id]}"
        elif isinstance(entry, JobEntry) and entry.event == "job-begun":
            assert entry.conversation_id not in live, f"{entry} came behind {live[entry.conversation_id]}"
            live[entry.conversation_id] = entry.job_id
        elif isinstance(entry, JobEntry):
            del live[entry.conversation_id]


def check_job_ids(journal: Journal, results: Iterable[Mapping[str, Any]]) -> None:
    """The results name the journal's jobIds, each at its own row."""
    jobs: dict[str, list[str]] = {}
    for put in journal.appended():
        jobs.setdefault(put.conversation_id, []).append(str(put.job_id))
    named: dict[str, list[str]] = {}
    for line in results:
        named.setdefault(line["conversationId"], []).append(line["jobId"])
    assert named == jobs


def check_interrupted(journal: Journal, rows: Sequence[Row], results: Sequence[Mapping[str, Any]]) -> None:
    """After crashes: done up to the one in doubt, which was sent at most once, and nothing after it."""
    assert [line["conversationId"] for line in results] == [row.conversation for row in rows]
    found = appended(journal)
    lines: dict[str, list[Mapping[str, Any]]] = {}
    for line in results:
        lines.setdefault(line["conversationId"], []).append(line)
    for conversation, hashes in wanted(rows).items():
        statuses = [line["status"] for line in lines[conversation]]
        assert re.fullmatch(r"(completed )*(in_doubt (held )*)?", "".join(f"{line} " for line in statuses)), statuses
        sure = statuses.count("completed")
        doubtful = statuses.count("in_doubt")
        there = found.get(conversation, [])
        assert there in (hashes[:sure], hashes[: sure + doubtful])
        jobs = [put.job_id for put in journal.appended() if put.conversation_id == conversation]
        assert [line["jobId"] for line in lines[conversation][:sure]] == jobs[:sure]


def check_attempts(journal: Journal, results: Iterable[Mapping[str, Any]]) -> None:
    """Every whole PUT is an attempt that the ledger knew of before; what was cut before its admission counts not."""
    known: dict[str, int] = {}
    for line in results:
        known[line["conversationId"]] = known.get(line["conversationId"], 0) + int(line["attempts"])
    for put in journal.puts():
        known[put.conversation_id] -= put.sha256 is not None
    assert [conversation for conversation, left in known.items() if left < 0] == []
