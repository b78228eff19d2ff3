"""Promises 1 to 4: at most once, in order, never above the limit, nothing lost, whatever dies when."""

import signal

import pytest

from tests.acceptance.batches import read_results
from tests.acceptance.campaigns import DEATHS, LIMIT, RUN, killed, terminated, whole
from tests.acceptance.judging import (
    check_appended,
    check_attempts,
    check_interrupted,
    check_job_ids,
    check_limit,
    check_one_at_a_time,
)
from tests.acceptance.place import Place


def test_all_files_go_once_in_order_within_the_limit(place: Place, pytestconfig: pytest.Config) -> None:
    """200 files over 40 conversations: nothing missing, twice, out of order or above the limit, and no 429.

    Every row of the manifest has exactly one line in the results, in its order, completed and with the journal's jobId.
    Nightly 1,000 files over 200 conversations.
    """
    files = 1000 if pytestconfig.getoption("--nightly") else 200
    batch = whole(place, files)
    assert batch.ending.code == 0
    assert batch.ending.summary["counts"]["completed"] == files
    journal = batch.server.journal
    check_appended(journal, batch.rows)
    check_limit(journal, LIMIT)
    check_one_at_a_time(journal)
    assert len(journal.begun_puts()) == files
    results = read_results(place.path("m.results.csv"))
    assert [(line["conversationId"], line["audioPath"]) for line in results] == [
        (row.conversation, row.audio) for row in batch.rows
    ]
    assert {line["status"] for line in results} == {"completed"}
    check_job_ids(journal, results)


def test_killed_ten_times_appends_nothing_twice_and_doubts_only_what_had_left(place: Place) -> None:
    """After each kill -9 the same command carries on; doubt is not sent again, and holds the rest of its lane.

    One more run of the same command sends nothing and tells the same.
    """
    batch = killed(place)
    assert batch.codes == [-signal.SIGKILL] * DEATHS
    journal = batch.server.journal
    results = read_results(place.path("m.results.csv"))
    check_interrupted(journal, batch.rows, results)
    check_attempts(journal, results)
    check_limit(journal, LIMIT)
    check_one_at_a_time(journal)
    in_doubt = batch.ending.summary["counts"]["in_doubt"]
    assert in_doubt <= DEATHS * LIMIT
    assert batch.ending.code == (4 if in_doubt else 0)

    assert place.run(*RUN).code == batch.ending.code
    assert len(batch.server.journal.begun_puts()) == len(journal.begun_puts())
    assert read_results(place.path("m.results.csv")) == results


def test_terminated_ten_times_leaves_no_doubt(place: Place) -> None:
    """A SIGTERM ends the run with 143 and everything known; the last run completes the batch with 0."""
    batch = terminated(place)
    assert batch.codes == [143] * DEATHS
    assert batch.ending.code == 0
    journal = batch.server.journal
    check_appended(journal, batch.rows)
    check_limit(journal, LIMIT)
    check_one_at_a_time(journal)
    results = read_results(place.path("m.results.csv"))
    check_job_ids(journal, results)
    check_attempts(journal, results)
