"""Decides the meaning of a reply for its item: the table that keeps "at most once"."""

import re
from collections.abc import Collection
from http import HTTPStatus
from typing import Any

from uploader.model import Next, Outcome, Reply, State, Verdict
from uploader.policy.limits import refusal_in

# the documentation's texts of the statuses (put-audio.md, Example API Call)
DOCUMENTED = {
    400: "Bad Request! Please refer docs for correct input fields.",
    401: "Unauthorized. Please generate a new access token.",
    404: "The conversation and/or it's metadata you asked could not be found, please check the input provided",
    429: "Maximum number of concurrent jobs reached. Please wait for some requests to complete.",
    500: "Something went wrong! Please contact support@symbl.ai",
}
# statuses of a request that was not processed, however much of it was received (RFC 9110, 15.5.9; RFC 8470, 5.2)
NOTHING_TAKEN = (HTTPStatus.REQUEST_TIMEOUT, HTTPStatus.TOO_EARLY)
# the times ``max_attempts`` that an item is tried whose remote recording cannot be reached
SOURCE_PATIENCE = 6
# of blanks alone, or what an address cannot hold: no job could be asked for
_NO_ID = ("", ".", "..")
_UUID = re.compile(r"[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}", re.IGNORECASE)


def judge(reply: Reply, conversation_id: str, proves_not_appended: Collection[int] = ()) -> Verdict:
    """Judge a reply: only what provably was not appended is tried again; what cannot be known is in doubt.

    Args:
        reply: The reply to one attempt.
        conversation_id: The conversation that was appended to; an answer that names another is not trusted.
        proves_not_appended: Statuses that the operator vouches for as "nothing was appended".

    Returns:
        The outcome, the item's new state, the next step, and the reason in words.
    """
    if reply.source_failure and not reply.last_chunk_left:
        return _without_source(reply)
    if reply.status is None:
        return _without_status(reply)
    if is_success(reply.status):
        return _success(reply, conversation_id)
    if 300 <= reply.status < 500:
        return _client_error(reply, reply.status)
    return _server_error(reply, reply.status, proves_not_appended)


def refuse_after_cut_offs(verdict: Verdict, reply: Reply, cut_offs: int, most: int) -> Verdict:
    """Refuse an item whose uploads are cut off again and again, as by a proxy with a size limit.

    Args:
        verdict: The verdict on this reply alone.
        cut_offs: How many uploads of the item were cut off before.
        most: How many may be (``max_attempts``).
    """
    if reply.source_is_away:
        # an outage of a store is no fault of its recordings: they are tried for about half an hour
        most *= SOURCE_PATIENCE
    if not counts_against_file(verdict, reply) or cut_offs + 1 < most:
        return verdict
    what = "cut off before its last chunk" if reply.status is None else "answered as not taken"
    reason = f"{what} {cut_offs + 1} times (max_attempts); the last time: {verdict.reason}"
    return Verdict(Outcome.REFUSED, State.REFUSED, Next.SETTLE, reason)


def excuse_early_429(verdict: Verdict, reply: Reply) -> Verdict:
    """Let a body that was sent ahead be tried again where a 429 came before its last chunk: it came too early."""
    if reply.status != 429 or reply.last_chunk_left or refusal_in(reply.message) is None:
        return verdict
    return _again(Outcome.NOT_SENT, f"sent before its slot was free: {describe(reply)}")


def counts_against_file(verdict: Verdict, reply: Reply) -> bool:
    """Return True where a reply counts towards the uploads that a file may lose (``max_attempts``)."""
    if verdict.outcome is Outcome.NOT_SENT:
        return reply.status in NOTHING_TAKEN
    # an early 5xx is the service's trouble, not this file's: promise 5 sees to it
    return verdict.outcome is Outcome.CUT_OFF and not reply.withheld and reply.status is None


def distrust(verdict: Verdict) -> Verdict:
    """Put in doubt an upload that was answered with the jobId of another item: one job cannot be both."""
    return _in_doubt(f"{verdict.reason}: its jobId {verdict.job_id} is that of another item", verdict.job_id)


def is_success(status: int | None) -> bool:
    """Return True for 2xx; None, no status, is no success."""
    return status is not None and 200 <= status < 300


def job_id(reply: Reply) -> str | None:
    """Return the jobId of an answer (put-audio.md, Response); None where it has none that can be used."""
    found = id_in((reply.answer or {}).get("jobId"))
    return None if found is None or found.strip() in _NO_ID else found


def id_in(value: Any) -> str | None:
    """Return an id as text, also one written as a JSON number; None where it is neither string nor number."""
    if isinstance(value, int | float) and not isinstance(value, bool):
        return str(value)
    return value if isinstance(value, str) and value else None


def describe(reply: Reply) -> str:
    """Describe a reply in words: the status's meaning, the service's message, and the target of a redirect."""
    if reply.status is None:
        failure = reply.failure or "nothing came back"
        return f"{reply.unreadable}: {reply.message}: {failure}" if reply.unreadable else failure
    meaning, said = _meaning(reply.status), reply.message
    words = [f"HTTP {reply.status}", meaning, said if said != meaning else "", reply.failure, _target(reply)]
    return ": ".join(text for text in words if text)


def loggable_reason(verdict: Verdict, reply: Reply) -> str:
    """Return the reason without the service's own words."""
    # the service may repeat a parameter's value, which no log shall have; the results have it
    reason = verdict.reason
    for said in (f": {reply.message}", reply.location):
        reason = reason.replace(said, "") if said.strip(": ") else reason
    return reason


def _meaning(status: int) -> str:
    """Return the documentation's text of a status, else the standard's; empty for a success."""
    if is_success(status):
        return ""
    return DOCUMENTED.get(status) or phrase_of(status)


def phrase_of(status: int) -> str:
    """Return the standard's phrase for an HTTP status; empty where it has none."""
    return HTTPStatus(status).phrase if status in set(HTTPStatus) else ""


def _target(reply: Reply) -> str:
    return f"it leads to {reply.location}, which is not followed" if reply.location else ""


def _again(outcome: Outcome, reason: str) -> Verdict:
    return Verdict(outcome, State.PENDING, Next.AGAIN, reason)


def _in_doubt(reason: str, job: str | None = None) -> Verdict:
    return Verdict(Outcome.IN_DOUBT, State.IN_DOUBT, Next.SETTLE, reason, job)


def _without_source(reply: Reply) -> Verdict:
    if reply.source_is_elsewhere:
        # however often that is: it says nothing of the recording
        return _again(Outcome.NOT_SENT, f"not on this host: {reply.source_failure}")
    if reply.source_is_away:
        return _again(Outcome.CUT_OFF, reply.source_failure)
    return Verdict(Outcome.REFUSED, State.REFUSED, Next.SETTLE, reply.source_failure)


def _without_status(reply: Reply) -> Verdict:
    if reply.last_chunk_left:
        came = "an answer that cannot be read came" if reply.unreadable else "no answer"
        return _in_doubt(f"{came} after the last chunk: {describe(reply)}")
    if not reply.connected:
        return _again(Outcome.NOT_SENT, f"not connected: {describe(reply)}")
    if reply.withheld:
        return _again(Outcome.CUT_OFF, f"cut by the uploader before the last chunk: {reply.failure}")
    return _again(Outcome.CUT_OFF, f"cut off before the last chunk left: {describe(reply)}")


def _success(reply: Reply, conversation_id: str) -> Verdict:
    job = job_id(reply)
    if job is None:
        if not reply.last_chunk_left:
            return _again(Outcome.CUT_OFF, f"{describe(reply)}, without a jobId, before the last chunk left")
        return _in_doubt(f"{describe(reply)}, but no jobId could be read in the answer")
    answered = (reply.answer or {}).get("conversationId")
    if answered is not None and not _is_same(answered, conversation_id):
        return _in_doubt(f"{describe(reply)}, but for another conversationId, '{str(answered)[:80]}'", job)
    if not reply.last_chunk_left:
        # the service made a job of a part of the file: neither "applied" nor "not appended" would be true
        return _in_doubt(f"{describe(reply)} with a jobId before the last chunk left", job)
    if reply.failure:
        return _in_doubt(f"{describe(reply)}; it names job {job}", job)
    return Verdict(Outcome.APPLIED, State.ACCEPTED, Next.FOLLOW, describe(reply), job)


def _is_same(answered: Any, conversation_id: str) -> bool:
    """Compare an answered conversationId with ours: a UUID in any of its forms, a number as a JSON number."""
    if isinstance(answered, float) and answered.is_integer():
        answered = int(answered)
    found = str(answered)
    return found == conversation_id or (
        _UUID.fullmatch(conversation_id) is not None and _digits(found) == _digits(conversation_id)
    )


def _digits(uuid: str) -> str:
    """Return a UUID's digits: services write it in either letter case, in braces, as a URN, or without hyphens."""
    return uuid.lower().removeprefix("urn:uuid:").strip("{}").replace("-", "")


def _client_error(reply: Reply, status: int) -> Verdict:
    if status == 401:
        return Verdict(Outcome.NOT_SENT, State.PENDING, Next.RENEW_TOKEN, describe(reply))
    if status == 429:
        return Verdict(Outcome.THROTTLED, State.PENDING, Next.COOL_DOWN, describe(reply))
    if status in NOTHING_TAKEN:
        return _again(Outcome.NOT_SENT, describe(reply))
    return Verdict(Outcome.REFUSED, State.REFUSED, Next.SETTLE, describe(reply))


def _server_error(reply: Reply, status: int, proves_not_appended: Collection[int]) -> Verdict:
    if not reply.last_chunk_left:
        return _again(Outcome.CUT_OFF, f"answered before the last chunk left: {describe(reply)}")
    if status in proves_not_appended:
        return _again(Outcome.NOT_SENT, f"{describe(reply)}; the settings say that {status} appends nothing")
    return _in_doubt(f"{describe(reply)}, after the last chunk: it may have been appended")
