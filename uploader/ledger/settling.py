"""What came of an attempt of whose item calls to the webhook may have spoken meanwhile."""

from dataclasses import dataclass, replace

from sqlalchemy import Connection, bindparam, select

from uploader.ledger.heard import Heard, add_remark, heard_of, take_effect
from uploader.ledger.limit import note_refusal
from uploader.ledger.outcomes import Ended, Settlement, change_item, close_attempt, go_on, job_ended
from uploader.ledger.schema import items
from uploader.model import Claim, Reply, State, Verdict
from uploader.policy.hearing import after_an_earlier_append, after_hearing, surplus_remark
from uploader.policy.limits import Refusal

_STANDS = select(*items.c["state", "job_id"]).where(items.c.id == bindparam("item"))


@dataclass(frozen=True, slots=True)
class Settled:
    """What was written down of an attempt. ``heard``: a call told of its job already, ``ended``: of its end."""

    verdict: Verdict
    heard: bool = False
    ended: Ended | None = None
    remark: str | None = None


def settle_heard(
    connection: Connection,
    one: Claim,
    verdict: Verdict,
    reply: Reply,
    *,
    now: float,
    wait: float,
    doubt_seconds: float,
    hold: bool,
    refusal: Refusal | None = None,
) -> Settled:
    """Write down what came of an attempt, and what calls said of it: see ``settle``.

    Returns:
        What it means in the end.
    """
    heard = heard_of(connection, one.item_id, one.number)
    by_itself = Settlement(one, verdict, reply, now, wait, doubt_seconds, hold, refusal)
    of = replace(by_itself, verdict=after_hearing(verdict, heard.own, heard.earlier))
    close_attempt(connection, by_itself if heard.own is None else of)
    if not change_item(connection, of):
        return _settle_beside(connection, of)
    remark = take_effect(connection, one.item_id, one.number, verdict, heard)
    if of.verdict.state is not State.ACCEPTED:
        go_on(connection, of)
    elif refusal is not None:
        note_refusal(connection, one.item_id, refusal, now)
    return replace(_end_heard(connection, of, heard), remark=remark)


def _settle_beside(connection: Connection, of: Settlement) -> Settled:
    """An attempt whose item a call had settled by an earlier one: should it be a job, too, that is one too many."""
    item = connection.execute(_STANDS, {"item": of.one.item_id}).one()
    job_id, state = of.verdict.job_id, State(item.state)
    if of.refusal is not None:
        note_refusal(connection, of.one.item_id, of.refusal, of.now)
    if job_id is not None and job_id == item.job_id:
        return Settled(of.verdict)  # the same outcome, written once more
    remark = surplus_remark(job_id, of.one.number, state, item.job_id) if job_id is not None else None
    if remark is not None:
        add_remark(connection, of.one.item_id, remark)
    return Settled(after_an_earlier_append(of.verdict, state), remark=remark)


def _end_heard(connection: Connection, of: Settlement, heard: Heard) -> Settled:
    """Where a call has told the job's end before its answer came, end it."""
    of_it = next((one for one in (heard.own, heard.earlier) if one is not None), None)
    if of_it is None or of_it.job_id != of.verdict.job_id:
        return Settled(of.verdict)
    job = replace(of.one.job(of_it.job_id, of.now), watched=False)
    ended = job_ended(connection, job, of_it.status, of.now, hold=of.hold) if of_it.status.ended else None
    return Settled(of.verdict, heard=True, ended=ended)
