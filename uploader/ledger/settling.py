"""What came of an attempt of whose item calls to the webhook may have spoken meanwhile."""

from collections.abc import Sequence
from dataclasses import replace
from itertools import groupby
from typing import NamedTuple

from sqlalchemy import Connection

from uploader.ledger.heard import Heard, heard_items, heard_of, take_effect
from uploader.ledger.limit import save_refusal
from uploader.ledger.outcomes import (
    Ended,
    JobEnd,
    Settlement,
    change_items,
    close_attempt,
    distrust_known_jobs,
    end_job,
    go_on,
    write_all,
)
from uploader.model import State, Verdict
from uploader.policy.hearing import after_hearing


class Settled(NamedTuple):
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
    return settle_all_heard(connection, [by_itself])[0]


def settle_all_heard(connection: Connection, settlements: Sequence[Settlement]) -> list[Settled]:
    """Write down what came of several attempts, one for each item: the same as one after the other."""
    settlements = distrust_known_jobs(connection, settlements)
    heard = heard_items(connection, [of.one.item_id for of in settlements])
    settled: list[Settled] = []
    for was_heard, some in groupby(settlements, key=lambda of: of.one.item_id in heard):
        same = list(some)
        if was_heard:
            settled += [_settle_with_calls(connection, of) for of in same]
        else:
            write_all(connection, same)
            settled += [Settled(of.verdict) for of in same]
    return settled


def _settle_with_calls(connection: Connection, by_itself: Settlement) -> Settled:
    one, verdict = by_itself.one, by_itself.verdict
    heard = heard_of(connection, one.item_id, one.number)
    of = replace(by_itself, verdict=after_hearing(verdict, heard.own, heard.earlier))
    close_attempt(connection, by_itself if heard.own is None else of)
    is_changed = change_items(connection, [of])
    remark = take_effect(connection, one.item_id, one.number, verdict, heard)
    if of.verdict.state is not State.ACCEPTED:
        go_on(connection, of, is_changed=is_changed)
    elif of.refusal is not None:
        save_refusal(connection, one.item_id, of.refusal, of.now)
    return _end_heard(connection, of, heard)._replace(remark=remark)


def _end_heard(connection: Connection, of: Settlement, heard: Heard) -> Settled:
    """Where a call has told the job's end before its answer came, end it."""
    of_it = heard.own or heard.earlier
    if of_it is None or of_it.job_id != of.verdict.job_id:
        return Settled(of.verdict)
    job = replace(of.one.job(of_it.job_id, of.now), watched=False)
    ended = end_job(connection, JobEnd(job, of_it.status, of.now, of.hold)) if of_it.status.ended else None
    return Settled(of.verdict, heard=True, ended=ended)
