"""What an answer of the job endpoint means, and how soon it is asked again: tables."""

from typing import Any

import pytest

from uploader.model import Answer, JobStatus
from uploader.policy.polling import UNKNOWN_STATUS_CAP_SECONDS, NoStatus, read_job_answer, unknown_status_seconds

JOB = "9b1deb4d-3b7d-4bad-9bdd-2b0d7b3dcb6d"


@pytest.mark.parametrize("word", ["completed", "COMPLETED", "Completed", " completed\t", "completed\u00a0"])
@pytest.mark.parametrize("named", [{}, {"id": JOB}, {"id": JOB.upper()}, {"jobId": JOB}, {"id": 7}, {"id": None}])
def test_letter_case_and_blanks_of_a_status_do_not_matter(word: str, named: dict[str, Any]) -> None:
    """One of the four words, however it is written, in an answer about this job or about none."""
    assert read_job_answer(Answer(200, {**named, "status": word}), JOB) is JobStatus.COMPLETED


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (Answer(200, {"status": "cancelled"}), "'cancelled'"),
        (Answer(200, {"status": "success"}), "'success'"),
        (Answer(200, {"status": 3}), "the unknown status 3"),
        (Answer(200, {"status": ["completed"]}), 'the unknown status ["completed"]'),
        (Answer(200, {"status": None}), "no status in it"),
        (Answer(404, {"status": "completed"}), "no status in it"),
        (Answer(200, {"job": {"status": "completed"}}), "no status in it"),
        (Answer(200, [{"status": "completed"}]), "no status in it"),
        (Answer(403, {"message": "not yours", "status": "completed"}), "HTTP 403 Forbidden: not yours"),
        (Answer(204, None, failure="the answer is no JSON (0 bytes)"), "HTTP 204 No Content: the answer is no JSON"),
        (Answer(307, None, failure="it leads to /v1/job2/x, which is not followed"), "HTTP 307 Temporary Redirect: it"),
        (Answer(200, None, failure="the answer is no JSON (90 bytes): a page, 'Sign in'"), "a page, 'Sign in'"),
        (Answer(failure="Connection refused (host)"), "Connection refused (host)"),
        (Answer(200, {"status": "completed"}, failure="the answer broke off"), "the answer broke off"),
    ],
)
def test_an_answer_without_a_known_status_says_what_it_had_in_its_place(answer: Answer, words: str) -> None:
    """Any other word, or none: the word itself, or the status's meaning and what the service says."""
    said = read_job_answer(answer, JOB)
    assert isinstance(said, NoStatus)
    assert words in said.reason
    assert not said.names_other_job


@pytest.mark.parametrize("named", [{"id": "someone-else"}, {"jobId": JOB[:-1]}, {"id": 1001}])
@pytest.mark.parametrize("status", ["completed", "failed", "in_progress"])
def test_an_answer_about_another_job_is_not_believed(named: dict[str, Any], status: str) -> None:
    """Whatever it says of the other job, it says nothing of this one."""
    said = read_job_answer(Answer(200, {**named, "status": status}), JOB)
    assert isinstance(said, NoStatus)
    assert said.names_other_job
    assert str(next(iter(named.values()))) in said.reason


@pytest.mark.parametrize(
    "named", [{"id": 100001, "jobId": JOB}, {"id": JOB.upper()}, {"id": "a-record", "jobId": JOB}, {"id": 7}]
)
def test_an_answer_that_names_the_job_is_believed_whatever_else_it_names(named: dict[str, Any]) -> None:
    """A gateway's record may have an id of its own beside the jobId; a job is not distrusted for that."""
    assert read_job_answer(Answer(200, {**named, "status": "completed"}), JOB) is JobStatus.COMPLETED


def test_a_job_of_which_nothing_is_learned_is_asked_for_less_and_less() -> None:
    """The waits double up to a cap: no job is forgotten, and none is polled as closely as a live one."""
    assert [unknown_status_seconds(count) for count in (1, 2, 3)] == [2.0, 4.0, 8.0]
    assert unknown_status_seconds(1000) == UNKNOWN_STATUS_CAP_SECONDS
