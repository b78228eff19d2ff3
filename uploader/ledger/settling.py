"""What came of an attempt of whose item calls to the webhook may have spoken meanwhile."""

from dataclasses import dataclass, replace

from sqlalchemy import Connection

from uploader.ledger.heard import Heard, heard_of, take_effect
from uploader.ledger.limit import note_refusal
from uploader.ledger.outcomes import Ended, Settlement, change_item, close_attempt, go_on, job_ended
from uploader.model import State, Verdict
from uploader.policy.hearing import after_hearing


@dataclass(frozen=True, slots=True)
class Settled:
    """What was written down of an attempt. ``heard``: a call told of its job already, ``ended``: of its end."""

    verdict: Verdict
    heard: bool = False
    ended: Ended | None = None
    remark: str | None = None


def settle_heard(connection: Connection, by_itself: Settlement) -> Settled:
    """Write down what came of an attempt, and what calls said of it: see ``settle``.

    Args:
        connection: A connection in a transaction.
        by_itself: What came of it, were there no calls.

    Returns:
        What it means in the end.
    """
    one, verdict = by_itself.one, by_itself.verdict
    heard = heard_of(connection, one.item_id, one.number)
    of = replace(by_itself, verdict=after_hearing(verdict, heard.own, heard.earlier))
    close_attempt(connection, by_itself if heard.own is None else of)
    change_item(connection, of)
    remark = take_effect(connection, one.item_id, one.number, verdict, heard)
    if of.verdict.state is not State.ACCEPTED:
        go_on(connection, of)
    elif of.refusal is not None:
        note_refusal(connection, one.item_id, of.refusal, of.now)
    return replace(_end_heard(connection, of, heard), remark=remark)


def _end_heard(connection: Connection, of: Settlement, heard: Heard) -> Settled:
    """Where a call has told the job's end before its answer came, end it."""
    of_it = heard.own or heard.earlier
    if of_it is None or of_it.job_id != of.verdict.job_id:
        return Settled(of.verdict)
    job = replace(of.one.job(of_it.job_id, of.now), watched=False)
    ended = job_ended(connection, job, of_it.status, of.now, hold=of.hold) if of_it.status.ended else None
    return Settled(of.verdict, heard=True, ended=ended)
