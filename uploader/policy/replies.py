"""Decides what a reply means for the item: the table that keeps "at most once"."""

from collections.abc import Collection

from uploader.model import Next, Outcome, Reply, State, Verdict

DOCUMENTED = {
    400: "Bad Request! Please refer docs for correct input fields.",
    401: "Unauthorized. Please generate a new access token.",
    404: "The conversation and/or it's metadata you asked could not be found, please check the input provided",
    429: "Maximum number of concurrent jobs reached. Please wait for some requests to complete.",
    500: "Something went wrong! Please contact support@symbl.ai",
}
"""The documentation's words for the codes (put-audio.md, Example API Call)."""


def judge(reply: Reply, conversation_id: str, proves_not_appended: Collection[int] = ()) -> Verdict:
    """Tell what a reply means for its item.

    Only what provably was not appended is tried again; what cannot be known is in doubt, never guessed.

    Args:
        reply: What came back on the wire.
        conversation_id: The conversation that was appended to; an answer that names another is not trusted.
        proves_not_appended: Statuses that the operator vouches for as "nothing was appended".

    Returns:
        The outcome, the item's new state, what comes next, and the reason in words.
    """
    if reply.source_failure and not reply.last_chunk_left:
        return Verdict(Outcome.REFUSED, State.REFUSED, Next.SETTLE, reply.source_failure)
    if reply.status is None:
        return _without_status(reply)
    if is_success(reply.status):
        return _success(reply, conversation_id)
    if 300 <= reply.status < 500:
        return _client_error(reply, reply.status)
    return _server_error(reply, reply.status, proves_not_appended)


def refuse_after_cut_offs(verdict: Verdict, reply: Reply, cut_offs: int, most: int) -> Verdict:
    """Refuse an item whose uploads are cut off again and again: a proxy with a size limit would eat the night.

    Args:
        verdict: The verdict on this reply alone.
        reply: The reply.
        cut_offs: How often the item's uploads were cut off before.
        most: How often they may be.
    """
    # an early 5xx is the service's trouble, not this file's: promise 5 sees to it
    of_this_file = verdict.outcome is Outcome.CUT_OFF and not reply.withheld and reply.status is None
    if not of_this_file or cut_offs + 1 < most:
        return verdict
    reason = f"cut off before its last chunk {cut_offs + 1} times (max_attempts); the last time: {verdict.reason}"
    return Verdict(Outcome.REFUSED, State.REFUSED, Next.SETTLE, reason)


def is_success(status: int | None) -> bool:
    """Whether a status says that all is well; None: none came."""
    return status is not None and 200 <= status < 300


def job_id(reply: Reply) -> str | None:
    """The jobId of an answer (put-audio.md, Response), None where it has none that can be used."""
    value = (reply.answer or {}).get("jobId")
    if isinstance(value, int) and not isinstance(value, bool):
        return str(value)
    return value if isinstance(value, str) and value else None


def describe(reply: Reply) -> str:
    """Say in words what came back: the documentation's words for the code, and the service's own."""
    if reply.status is None:
        return reply.failure or "nothing came back"
    words = [f"HTTP {reply.status}"]
    documented, said = DOCUMENTED.get(reply.status, ""), reply.message
    words += [text for text in (documented, said if said != documented else "", reply.failure) if text]
    return ": ".join(words)


def _again(outcome: Outcome, reason: str) -> Verdict:
    return Verdict(outcome, State.PENDING, Next.AGAIN, reason)


def _in_doubt(reason: str, job: str | None = None) -> Verdict:
    return Verdict(Outcome.IN_DOUBT, State.IN_DOUBT, Next.SETTLE, reason, job)


def _without_status(reply: Reply) -> Verdict:
    if reply.last_chunk_left:
        return _in_doubt(f"no answer after the last chunk: {describe(reply)}")
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
    if answered is not None and str(answered) != conversation_id:
        return _in_doubt(f"{describe(reply)}, but for another conversationId, {str(answered)[:80]!r}", job)
    if not reply.last_chunk_left:
        # A job was made of a part of the file: neither "applied" nor "not appended" would be true.
        return _in_doubt(f"{describe(reply)} with a jobId before the last chunk left", job)
    return Verdict(Outcome.APPLIED, State.ACCEPTED, Next.FOLLOW, describe(reply), job)


def _client_error(reply: Reply, status: int) -> Verdict:
    if status == 401:
        return Verdict(Outcome.NOT_SENT, State.PENDING, Next.RENEW_TOKEN, describe(reply))
    if status == 429:
        return Verdict(Outcome.THROTTLED, State.PENDING, Next.COOL_DOWN, describe(reply))
    return Verdict(Outcome.REFUSED, State.REFUSED, Next.SETTLE, describe(reply))


def _server_error(reply: Reply, status: int, proves_not_appended: Collection[int]) -> Verdict:
    if not reply.last_chunk_left:
        return _again(Outcome.CUT_OFF, f"answered before the last chunk left: {describe(reply)}")
    if status in proves_not_appended:
        return _again(Outcome.NOT_SENT, f"{describe(reply)}; the settings say that {status} appends nothing")
    return _in_doubt(f"{describe(reply)}, after the last chunk: it may have been appended")
