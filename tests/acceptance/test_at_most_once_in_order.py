"""Promises 1 to 4: at most once, in order, never above the limit, nothing lost, whatever dies when."""

import signal

from tests.acceptance.batches import read_results
from tests.acceptance.campaigns import DEATHS, LIMIT, RUN, Campaign
from tests.acceptance.judging import (
    check_appended,
    check_attempts,
    check_interrupted,
    check_job_ids,
    check_limit,
    check_one_at_a_time,
)


def test_thousand_files_go_once_in_order_within_the_limit(thousand: Campaign) -> None:
    """1,000 files over 200 conversations: nothing missing, twice, out of order or above the limit, and no 429."""
    assert thousand.ending.code == 0
    assert thousand.ending.summary["counts"]["completed"] == 1000
    journal = thousand.server.journal
    check_appended(journal, thousand.rows)
    check_limit(journal, LIMIT)
    check_one_at_a_time(journal)
    assert len(journal.begun_puts()) == 1000


def test_the_results_of_a_thousand_files_name_the_jobs_of_the_journal(thousand: Campaign) -> None:
    """Every row of the manifest has exactly one line, in its order, completed and with the journal's jobId."""
    results = read_results(thousand.place.path("m.results.csv"))
    assert [(line["conversationId"], line["audioPath"]) for line in results] == [
        (row.conversation, row.audio) for row in thousand.rows
    ]
    assert {line["status"] for line in results} == {"completed"}
    check_job_ids(thousand.server.journal, results)


def test_killed_ten_times_appends_nothing_twice_and_doubts_only_what_had_left(killed: Campaign) -> None:
    """After each kill -9 the same command carries on; doubt is not sent again, and holds the rest of its lane."""
    assert killed.codes == [-signal.SIGKILL] * DEATHS
    journal = killed.server.journal
    results = read_results(killed.place.path("m.results.csv"))
    check_interrupted(journal, killed.rows, results)
    check_attempts(journal, results)
    check_limit(journal, LIMIT)
    check_one_at_a_time(journal)
    in_doubt = killed.ending.summary["counts"]["in_doubt"]
    assert in_doubt <= DEATHS * LIMIT
    assert killed.ending.code == (4 if in_doubt else 0)


def test_what_is_in_doubt_after_kills_stays_unsent_in_every_later_run(killed: Campaign) -> None:
    """One more run of the same command sends nothing and tells the same."""
    before = len(killed.server.journal.begun_puts())
    told = read_results(killed.place.path("m.results.csv"))
    assert killed.place.run(*RUN).code == killed.ending.code
    assert len(killed.server.journal.begun_puts()) == before
    assert read_results(killed.place.path("m.results.csv")) == told


def test_terminated_ten_times_leaves_no_doubt(terminated: Campaign) -> None:
    """A SIGTERM ends the run with 143 and everything known; the last run completes the batch with 0."""
    assert terminated.codes == [143] * DEATHS
    assert terminated.ending.code == 0
    journal = terminated.server.journal
    check_appended(journal, terminated.rows)
    check_limit(journal, LIMIT)
    check_one_at_a_time(journal)
    results = read_results(terminated.place.path("m.results.csv"))
    check_job_ids(journal, results)
    check_attempts(journal, results)
