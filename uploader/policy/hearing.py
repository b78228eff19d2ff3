"""Decides what a call to the webhook means: what it settles, and what it must not change."""

import hmac
from base64 import urlsafe_b64encode
from collections.abc import Mapping, Sequence
from enum import StrEnum
from hashlib import sha256
from typing import Any, NamedTuple
from urllib.parse import urlsplit, urlunsplit

from uploader.model import JobStatus, Next, Outcome, State, Verdict
from uploader.policy.replies import id_in

_RANKS = {JobStatus.SCHEDULED: 0, JobStatus.IN_PROGRESS: 1, JobStatus.COMPLETED: 2, JobStatus.FAILED: 2}
WITH_JOB = (State.ACCEPTED, State.COMPLETED, State.FAILED, State.DROPPED)
"""States in which the item's jobId is that of its append; elsewhere it may be that of an answer not trusted."""
MOST_JOB_ID_CHARACTERS = 1000
SILENT_JOBS = 10
"""So many jobs that were to call, and ended without a single call, are no chance."""
SIGNATURE_BYTES = 12
SIGNATURE_CHARACTERS = 16


class Meaning(StrEnum):
    """What a call means."""

    FORGED = "no attempt has this token"
    NOTHING = "nothing new"
    NOTED = "kept with its attempt"
    ACCEPTED = "its item is accepted"
    ENDED = "its job has ended"
    SURPLUS = "an append too many"
    DISTRUSTED = "it contradicts what is known"


class Call(NamedTuple):
    """What a call says (put-audio.md, Using Webhook)."""

    job_id: str
    status: JobStatus


class Known(NamedTuple):
    """What the ledger knows when a call comes for an attempt, and of its item.

    ``job_id`` is the job that the attempt is known by, by its answer or by a call before, and ``heard`` what a call
    said of that. ``waits``: that waits for the item's outcome. ``is_anothers``: the call's job is another item's.
    """

    is_open: bool
    job_id: str | None
    heard: JobStatus | None
    waits: bool
    state: State
    items_job_id: str | None
    is_anothers: bool = False


def meaning(known: Known, call: Call) -> Meaning:
    """Tell what a call means.

    The first call for an attempt says which job it became; from then on only the end of that very job counts.
    """
    if known.is_anothers or known.job_id not in (None, call.job_id):
        return Meaning.DISTRUSTED
    if known.state in WITH_JOB and known.items_job_id == call.job_id:
        ends = known.state is State.ACCEPTED and call.status.ended
        return Meaning.ENDED if ends else Meaning.NOTHING
    if known.job_id is not None:
        return Meaning.NOTED if known.waits and _is_news(known.heard, call.status) else Meaning.NOTHING
    if known.is_open or known.state in (State.SENDING, State.SENT):
        return Meaning.NOTED  # what is under way comes to its end first: it has a slot, and its lane waits for it
    return _of_a_closed_attempt(known)


class Earlier(NamedTuple):
    """An earlier attempt that turned out, while a later one was out, to have become a job.

    ``outcome``: so far. ``status``: the job's, as far as was heard.
    """

    job_id: str
    number: int
    outcome: Outcome
    status: JobStatus = JobStatus.SCHEDULED


def after_hearing(verdict: Verdict, own: Call | None, earlier: Earlier | None) -> Verdict:
    """Tell what a reply means for its item once calls have been heard.

    Args:
        verdict: What the reply means by itself.
        own: What a call said of this attempt.
        earlier: An earlier attempt of the item that became a job.
    """
    heard = own or earlier
    if heard is None or verdict.state is State.ACCEPTED:
        return verdict
    reason = f"{verdict.reason}; the webhook named its job"
    return Verdict(Outcome.APPLIED, State.ACCEPTED, Next.FOLLOW, reason, heard.job_id)


def remark_on_verdict(
    verdict: Verdict, number: int, own: Call | None, earlier: Earlier | None, before: Sequence[Earlier] = ()
) -> str | None:
    """Tell what must be said in the open of an attempt, None where nothing is out of order.

    Args:
        verdict: What its reply means by itself.
        number: The attempt's number.
        own: What a call said of it.
        earlier: The latest of the earlier attempts of the item that became a job.
        before: Those before that one: one job too many each.
    """
    said = _remark_on_latest(verdict, number, own, earlier)
    by = after_hearing(verdict, own, earlier).job_id
    more = [surplus_remark(one.job_id, one.number, State.ACCEPTED, by) for one in before if one.job_id != by]
    return "; ".join([said, *more] if said is not None else more) or None


def remark_on_acceptance(outcome: Outcome, number: int, job_id: str) -> str | None:
    """Tell that the service took what it cannot have had whole, or said that it did not take."""
    if outcome in (Outcome.APPLIED, Outcome.IN_DOUBT):
        return None
    return f"attempt {number} was taken for {outcome.value}, and the service made job {job_id} of it"


def surplus_remark(job_id: str, number: int, state: State, items_job_id: str | None) -> str:
    """Tell of an append too many.

    Args:
        job_id: The job that it became.
        number: The number of the attempt that it came of.
        state: The item's state.
        items_job_id: The job that the item is known by.
    """
    if state is State.DROPPED and items_job_id is None:
        return f"appended as job {job_id} (attempt {number}) although it was dropped"
    return f"appended once too often: as job {job_id} (attempt {number}) beside job {items_job_id}"


def is_webhook_silent(ended: int, calls: int) -> bool:
    """Whether the listener seems out of the service's reach.

    Args:
        ended: How many jobs that were given its address were seen by polling to have ended.
        calls: How many calls of ours have come in this run.
    """
    return not calls and ended >= SILENT_JOBS


def read_call(body: Any) -> tuple[str, JobStatus | None] | None:
    """Read a call's JSON: its jobId, under either name, and its status; None where it is no such thing.

    A status that is not documented is None: there is nothing to be learned from it.
    """
    if not isinstance(body, Mapping):
        return None
    job_id = id_in(body.get("id") if body.get("jobId") is None else body["jobId"])
    if job_id is None or len(job_id) > MOST_JOB_ID_CHARACTERS or not isinstance(body.get("status"), str):
        return None
    return job_id, JobStatus.read(body["status"])


def address_of(webhook_url: str, token: str) -> str:
    """The address for the calls of one attempt: the listener's, with the token as the last segment of its path."""
    parts = urlsplit(webhook_url)
    return urlunsplit(parts._replace(path=f"{parts.path.rstrip('/')}/{token}"))


def signed_token(secret: str, key: str) -> str:
    """A token that can be told from a guess without a look into the ledger; whose it is, the ledger alone says.

    Args:
        secret: What nobody can guess.
        key: The ledger's own: who reads it can make tokens, but none that the ledger knows.
    """
    return secret + _signature(secret, key)


def is_signed(token: str, key: str) -> bool:
    """Whether somebody who has the key has made this token."""
    secret, signature = token[:-SIGNATURE_CHARACTERS], token[-SIGNATURE_CHARACTERS:]
    return hmac.compare_digest(_encoded(signature), _signature(secret, key).encode())


def token_hash(token: str) -> str:
    """What the ledger keeps of a token: who reads the ledger cannot end a job by it."""
    return sha256(token.encode()).hexdigest()


def _signature(secret: str, key: str) -> str:
    digest = hmac.digest(key.encode(), _encoded(secret), "sha256")
    return urlsafe_b64encode(digest[:SIGNATURE_BYTES]).decode()


def _encoded(text: str) -> bytes:
    """A stranger's path may hold what is no UTF-8."""
    return text.encode(errors="surrogatepass")


def _is_news(heard: JobStatus | None, status: JobStatus) -> bool:
    return heard is None or _RANKS[status] > _RANKS[heard]


def _of_a_closed_attempt(known: Known) -> Meaning:
    """The first word of an attempt that had been given up, or is in doubt."""
    if known.state in (State.PENDING, State.REFUSED, State.IN_DOUBT):
        return Meaning.ACCEPTED
    if known.state is State.COMPLETED and known.items_job_id is None:
        return Meaning.NOTED  # a person said that it was appended
    return Meaning.SURPLUS


def _remark_on_latest(verdict: Verdict, number: int, own: Call | None, earlier: Earlier | None) -> str | None:
    answered = verdict.job_id if verdict.state is State.ACCEPTED else None
    if own is not None and answered not in (None, own.job_id):
        return f"attempt {number} is job {answered} by its answer and job {own.job_id} by the webhook"
    job_id = answered or (own.job_id if own is not None else None)
    if earlier is not None and job_id not in (None, earlier.job_id):
        return surplus_remark(earlier.job_id, earlier.number, State.ACCEPTED, job_id)
    if earlier is not None and job_id is None and verdict.outcome is Outcome.IN_DOUBT:
        return f"appended as job {earlier.job_id}; attempt {number} may have appended it once too often"
    if own is not None:
        return remark_on_acceptance(verdict.outcome, number, own.job_id)
    return remark_on_acceptance(earlier.outcome, earlier.number, earlier.job_id) if earlier is not None else None
