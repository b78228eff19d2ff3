"""Outcomes that find their item in another state: explained by what was quicker, or an anomaly that keeps the jobId."""

from collections.abc import Iterator, MutableMapping, Sequence
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import delete, select, update
from structlog.testing import capture_logs

from tests.integration.test_ledger import CUT, DOUBT_SECONDS, LOST, NOT_FOUND, Book, accepted
from tests.integration.test_ledger_callbacks import Listening, listening_in
from uploader.ledger.outcomes import JobEnd, ReplyRecord, distrust_job, end_job, job_overdue, record_replies
from uploader.ledger.schema import attempts, items, rows
from uploader.model import Claim, Decision, JobStatus, LiveJob, Reply, State
from uploader.policy.replies import judge

pytestmark = pytest.mark.policy


@pytest.fixture
def book(tmp_path: Path, database_url: str) -> Iterator[Listening]:
    """Make a ledger whose run listens."""
    with listening_in(tmp_path, database_url) as made:
        yield made


def answered(book: Book, *replies: tuple[Claim, Reply], calls: bool = False) -> list[MutableMapping[str, Any]]:
    """Write down these replies as one group, and return the anomalies that were logged."""
    records = [
        ReplyRecord(claim, judge(reply, claim.conversation_id), reply, book.now, 0.0, DOUBT_SECONDS, listens=calls)
        for claim, reply in replies
    ]
    with capture_logs() as logged, book.ledger.writing() as connection:
        record_replies(connection, records)
    return [event for event in logged if event["event"] == "outcome.unmatched"]


def news_of(book: Book, job: LiveJob, *, kind: str = "ended") -> list[MutableMapping[str, Any]]:
    """Write down news of a job, and return the anomalies that were logged."""
    with capture_logs() as logged, book.ledger.writing() as connection:
        if kind == "ended":
            end_job(connection, JobEnd(job, JobStatus.COMPLETED, book.now))
        elif kind == "overdue":
            job_overdue(connection, job, "late", book.now, DOUBT_SECONDS)
        else:
            distrust_job(connection, job, "odd", book.now, DOUBT_SECONDS, job_timeout_seconds=9e9)
    return [event for event in logged if event["event"] == "outcome.unmatched"]


def attempt_jobs(book: Book) -> Sequence[str | None]:
    """Return the jobIds of all attempts, in their order."""
    with book.ledger.reading() as connection:
        return connection.execute(select(attempts.c.job_id).order_by(attempts.c.id)).scalars().all()


@pytest.mark.parametrize("calls", [True, False])
@pytest.mark.parametrize("reply", [accepted("j"), LOST, NOT_FOUND, CUT], ids=["accepted", "lost", "refused", "cut off"])
def test_a_callback_was_quicker_than_the_reply(book: Listening, reply: Reply, calls: bool) -> None:
    """A callback has named the job and its end: the late reply takes nothing of it back and is no anomaly."""
    load = book.load([("c", "a.wav")])
    claim = book.claim_one()
    book.admit(claim)
    book.callback(claim, "j")
    book.crash(load)
    book.callback(claim, "j", "completed")
    assert book.states(load) == "completed"
    assert answered(book, (claim, reply), calls=calls) == []
    assert book.states(load) == "completed"
    assert attempt_jobs(book) == ["j"]
    assert book.said() == []
    book.check_work()


@pytest.mark.parametrize("reply", [accepted("j"), LOST, NOT_FOUND], ids=["accepted", "lost", "refused"])
def test_an_outcome_may_be_written_twice(book: Listening, reply: Reply) -> None:
    """A commit that seemed to fail was durable: the outcome that is written once more is no anomaly."""
    load = book.load([("c", "a.wav"), ("c", "b.wav")])
    claim = book.claim_one()
    book.answer(claim, reply)
    before = book.lines(load)
    assert answered(book, (claim, reply)) == []
    assert book.lines(load) == before


def test_a_late_answer_resolves_the_doubt_of_a_takeover(book: Listening) -> None:
    """The item is in doubt by a takeover, and the answer comes all the same: a fact of its attempt, and no anomaly."""
    load = book.load([("c", "a.wav"), ("c", "b.wav")])
    claim = book.claim_one()
    book.admit(claim)
    book.crash(load)
    assert answered(book, (claim, accepted("job-late"))) == []
    assert book.states(load) == "accepted pending"
    assert attempt_jobs(book) == ["job-late"]
    assert book.said() == []
    assert book.claim() == []
    book.end("job-late")
    assert book.claim_one().path.endswith("/b.wav")
    book.check_work()


def test_a_late_answer_after_a_decision_is_an_anomaly_that_keeps_its_job(book: Listening) -> None:
    """A person has decided meanwhile, and the answer comes all the same: log, results and attempt have the job."""
    load = book.load([("c", "a.wav")])
    claim = book.claim_one()
    book.admit(claim)
    book.crash(load)
    book.resolve(Decision.DROP)
    (event,) = answered(book, (claim, accepted("job-late")))
    told = {"batch": "m.csv", "line": 2, "conversationId": "c", "attempt": 1, "jobId": "job-late", "state": "dropped"}
    assert event.items() >= (told | {"log_level": "error"}).items()
    assert book.states(load) == "dropped"
    assert attempt_jobs(book) == ["job-late"]
    (said,) = book.said()
    assert "job-late" in said
    assert "job-late" in (book.lines(load)[0].error or "")


def test_a_late_answer_of_an_earlier_attempt_is_an_anomaly(book: Listening) -> None:
    """The item is a job by its second attempt: the first one's job is told beside it, and not lost."""
    load = book.load([("c", "a.wav")])
    first = book.claim_one()
    book.crash(load)
    second = book.claim_one()
    book.answer(second, accepted("job-2"))
    (event,) = answered(book, (first, accepted("job-1")))
    assert (event["jobId"], event["attempt"], event["state"]) == ("job-1", 1, "accepted")
    assert attempt_jobs(book) == ["job-1", "job-2"]
    (said,) = book.said()
    assert "job-1" in said
    assert "job-2" in said


@pytest.mark.parametrize(("reply", "states"), [(NOT_FOUND, "refused held"), (CUT, "pending pending")])
def test_a_late_answer_that_proves_nothing_was_appended_resolves_the_doubt(
    book: Listening, reply: Reply, states: str
) -> None:
    """A late reply without a job is a fact, too, and the lane's backlog counts the item once."""
    load = book.load([("c", "a.wav"), ("c", "b.wav")])
    claim = book.claim_one()
    book.admit(claim)
    book.crash(load)
    for _ in range(2):
        assert answered(book, (claim, reply)) == []
        assert book.states(load) == states
    assert book.said() == []
    book.check_work()


def test_of_a_group_the_one_that_missed_is_told(book: Listening) -> None:
    """Many outcomes are written in one statement: the rest of them are written, and are no anomalies."""
    load = book.load([("c", "a.wav"), ("d", "a.wav"), ("e", "a.wav")])
    group = book.claim()
    for claimed in group:
        book.admit(claimed)
    with book.ledger.writing() as connection:
        connection.execute(update(items).where(items.c.id == group[1].item_id).values(state=State.DROPPED))
    (event,) = answered(book, *((claim, accepted(f"job-{claim.line}")) for claim in group))
    assert (event["line"], event["jobId"]) == (3, "job-3")
    assert book.states(load) == "accepted dropped accepted"
    assert attempt_jobs(book) == ["job-2", "job-3", "job-4"]


def test_an_outcome_of_an_item_that_is_gone_is_an_anomaly(book: Listening) -> None:
    """The log has the job of an outcome whose item is not in the ledger."""
    book.load([("c", "a.wav")])
    claim = book.claim_one()
    with book.ledger.writing() as connection:
        connection.execute(delete(attempts))
        connection.execute(delete(rows))
        connection.execute(delete(items))
    (event,) = answered(book, (claim, accepted("job-1")))
    assert (event["jobId"], event["state"], event["conversationId"]) == ("job-1", None, "c")


@pytest.mark.parametrize("kind", ["ended", "overdue", "distrusted"])
def test_a_callback_was_quicker_than_the_poll(book: Listening, kind: str) -> None:
    """The end that a callback has told stands, and what a poll says after it is no anomaly."""
    load = book.load([("c", "a.wav")])
    claim = book.claim_one()
    book.answer(claim, accepted("j"))
    (job,) = book.jobs()
    book.callback(claim, "j", "failed")
    assert news_of(book, job, kind=kind) == []
    assert book.states(load) == "failed"


@pytest.mark.parametrize("kind", ["ended", "overdue", "distrusted"])
def test_a_person_was_quicker_than_the_poll(book: Listening, kind: str) -> None:
    """An overdue job's item is dropped by a person while a run asks for the job: no anomaly, and it stays dropped."""
    load = book.load([("c", "a.wav")])
    book.answer(book.claim_one(), accepted("j"))
    (job,) = book.jobs()
    news_of(book, job, kind="overdue")
    book.resolve(Decision.DROP)
    assert news_of(book, job, kind=kind) == []
    assert book.states(load) == "dropped"


@pytest.mark.parametrize("kind", ["ended", "overdue", "distrusted"])
def test_news_of_a_job_that_its_item_does_not_have_is_an_anomaly(book: Listening, kind: str) -> None:
    """An item is not ended by another job than its own, and that one was asked for is told."""
    load = book.load([("c", "a.wav")])
    book.answer(book.claim_one(), accepted("j"))
    (job,) = book.jobs()
    with book.ledger.writing() as connection:
        connection.execute(update(items).values(job_id="another"))
    (event,) = news_of(book, job, kind=kind)
    told = {"batch": "m.csv", "line": 2, "conversationId": "c", "jobId": "j", "state": "accepted"}
    assert event.items() >= told.items()
    assert "another" in event["remark"]
    assert book.states(load) == "accepted"
