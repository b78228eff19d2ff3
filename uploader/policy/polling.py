"""Status requests: the reading of their answers, their concurrency, and the pause of all of them."""

import json
from math import ceil
from typing import NamedTuple

from uploader.model import Answer, JobStatus
from uploader.policy.replies import id_in, is_success, phrase_of

# answers up to this slow leave the whole rate usable
LATENCY_SECONDS = 3.0
MIN_POLLS_AT_ONCE = 4
# a session has a hundred connections; some are left for tokens
MAX_POLLS_AT_ONCE = 90
# a job whose answers have no known status is polled after 2, 4, 8, … seconds
UNKNOWN_STATUS_BASE_SECONDS, UNKNOWN_STATUS_CAP_SECONDS = 2.0, 300.0
# so many answers in a row about another job put the item in doubt
OTHER_JOB_ANSWERS = 3
WORD_CHARACTERS = 80
# a shorter ``id`` in an answer numbers a record; it names no job
LEAST_ID_CHARACTERS = 4
PAUSE_BASE_SECONDS = 0.5
PAUSE_CAP_SECONDS = 60.0


class NoStatus(NamedTuple):
    """An answer of the job endpoint without a known status."""

    reason: str
    names_other_job: bool = False


def read_job_answer(answer: Answer, job_id: str) -> JobStatus | NoStatus:
    """Read an answer of the job endpoint (facts.md, Job).

    Args:
        job_id: The job that was asked for; an answer about another one is not believed.
    """
    if answer.status is None:
        return NoStatus(answer.failure)
    members = answer.body if isinstance(answer.body, dict) else {}
    word = members.get("status")
    if not is_success(answer.status) or answer.failure or not isinstance(word, str):
        said = members.get("message")
        is_other = word is not None and not isinstance(word, str)
        without = f"the unknown status {json.dumps(word, ensure_ascii=False)}" if is_other else "no status in it"
        words = said if isinstance(said, str) else answer.failure or without
        return NoStatus(f"HTTP {answer.status} {phrase_of(answer.status)}: {words}"[: 2 * WORD_CHARACTERS])
    named = [name for name in map(id_in, (members.get("id"), members.get("jobId"))) if name is not None]
    others = [name for name in named if len(name) >= LEAST_ID_CHARACTERS]
    if others and job_id.lower() not in map(str.lower, named):
        return NoStatus(f"an answer about another job, '{others[0][:WORD_CHARACTERS]}'", names_other_job=True)
    return JobStatus.read(word) or NoStatus(f"the unknown status '{word[:WORD_CHARACTERS]}'")


def unknown_status_seconds(in_a_row: int) -> float:
    """Return the seconds to the next poll after so many answers in a row without a known status."""
    return min(UNKNOWN_STATUS_CAP_SECONDS, UNKNOWN_STATUS_BASE_SECONDS * 2.0 ** min(in_a_row - 1, 30))


def polls_at_once(per_second: float | None) -> int:
    """Count the status requests that may be under way at once, so that slow answers leave the whole rate usable.

    Args:
        per_second: The rate; None where it follows the account.
    """
    if per_second is None:
        return MAX_POLLS_AT_ONCE
    return min(max(ceil(per_second * LATENCY_SECONDS), MIN_POLLS_AT_ONCE), MAX_POLLS_AT_ONCE)


def wants_pause(http_status: int | None, retry_after: str | None) -> bool:
    """Return True where an answer without a status asks for fewer requests, or shows a failure of the service.

    Args:
        http_status: The answer's, None where none came.
        retry_after: Its Retry-After header.
    """
    return http_status is None or http_status == 429 or http_status >= 500 or retry_after is not None
