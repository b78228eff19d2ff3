"""Decides how many status requests are under way at once, and how all of them pause where the service wants none."""

from math import ceil
from typing import NamedTuple

from uploader.model import Answer, JobStatus
from uploader.policy.replies import id_in, is_success, phrase_of
from uploader.policy.waits import retry_after_seconds

LATENCY_SECONDS = 3.0
"""The budget can be used up as long as an answer takes no longer than this."""
LOOKS_LEAST = 4
LOOKS_MOST = 90
"""A session has a hundred connections, of which some are left for tokens."""
ODD_BASE_SECONDS, ODD_CAP_SECONDS = 2.0, 300.0
"""A job whose answers have no status that we know is asked for after 2, 4, 8, … seconds."""
ANOTHERS_IN_A_ROW = 3
"""So many answers in a row about another job, and nothing is believed of this one any more."""
WORD_CHARACTERS = 80
LEAST_ID_CHARACTERS = 4
"""What is shorter in an answer's ``id`` numbers a record; it names no job."""
PAUSE_BASE_SECONDS = 0.5
PAUSE_CAP_SECONDS = 60.0


class Pause(NamedTuple):
    """The pause of all status requests of an account.

    ``until`` is in seconds on the caller's clock. ``in_a_row`` counts pauses without a good answer between them.
    """

    until: float = 0.0
    in_a_row: int = 0

    def is_on(self, now: float) -> bool:
        """Whether nothing is asked."""
        return now < self.until


class NoStatus(NamedTuple):
    """What an answer of the job endpoint said in place of a status that we know."""

    reason: str
    is_anothers: bool = False


def job_said(answer: Answer, job_id: str) -> JobStatus | NoStatus:
    """Read an answer of the job endpoint (facts.md, Job).

    Args:
        answer: The answer.
        job_id: The job that was asked for; an answer about another one is not believed.
    """
    if answer.status is None:
        return NoStatus(answer.failure)
    members = answer.body if isinstance(answer.body, dict) else {}
    word = members.get("status")
    if not is_success(answer.status) or answer.failure or not isinstance(word, str):
        said = members.get("message")
        words = said if isinstance(said, str) else answer.failure or "no status in it"
        return NoStatus(f"HTTP {answer.status} {phrase_of(answer.status)}: {words}"[: 2 * WORD_CHARACTERS])
    named = [one for one in map(id_in, (members.get("id"), members.get("jobId"))) if one is not None]
    others = [one for one in named if len(one) >= LEAST_ID_CHARACTERS]
    if others and job_id.lower() not in map(str.lower, named):
        return NoStatus(f"an answer about another job, '{others[0][:WORD_CHARACTERS]}'", is_anothers=True)
    return JobStatus.read(word) or NoStatus(f"the unknown status '{word[:WORD_CHARACTERS]}'")


def odd_seconds(in_a_row: int) -> float:
    """How long a job waits for its next look after so many answers in a row that had no status that we know."""
    return min(ODD_CAP_SECONDS, ODD_BASE_SECONDS * 2.0 ** min(in_a_row - 1, 30))


def looks_at_once(per_second: float) -> int:
    """How many status requests may be under way at once, so that slow answers, or none, leave the budget to be used."""
    return min(max(ceil(per_second * LATENCY_SECONDS), LOOKS_LEAST), LOOKS_MOST)


def wants_pause(http_status: int | None, retry_after: str | None) -> bool:
    """Whether an answer that told nothing of its job asks for fewer requests, or shows that the service has trouble.

    Args:
        http_status: The answer's, None where none came.
        retry_after: Its Retry-After header.
    """
    return http_status is None or http_status == 429 or http_status >= 500 or retry_after is not None


def after_trouble(pause: Pause, retry_after: str | None, now: float) -> Pause:
    """Tell what such an answer does: it begins a pause, or, where one is on, lets that go on.

    A Retry-After is kept in any case, as far as it is believed. Without one, each pause in a row is twice as long as
    the one before it; no jitter is needed, because one run alone follows an account's jobs.

    Args:
        pause: The pause before.
        retry_after: The answer's Retry-After header.
        now: The time, in seconds since the epoch.
    """
    told = retry_after_seconds(retry_after, now) or 0.0
    if pause.is_on(now):
        return pause._replace(until=max(pause.until, now + told))
    backoff = min(PAUSE_CAP_SECONDS, PAUSE_BASE_SECONDS * 2.0 ** min(pause.in_a_row, 30))
    return Pause(now + max(backoff, told), pause.in_a_row + 1)


def after_good(pause: Pause, now: float) -> Pause:
    """Tell what a good answer does: the next pause is a short one, but where one is on, it goes on."""
    return pause if pause.is_on(now) else Pause()
