"""What a plan foresees: what counts as left, at which limit, and why at that."""

from datetime import datetime

import pytest

from uploader.cli.outlook import Outlook, Work, look_out
from uploader.model import LimitFacts, State
from uploader.settings import Settings

NOW = datetime(2026, 11, 22, 22, 0)  # noqa: DTZ001 - as local time comes: without its zone


def add(work: Work, conversation_id: str, state: State | None) -> None:
    """Count a row whose audio lasts ten seconds."""
    work.add(ord(conversation_id[0]), 160_044, 10.0, 10.0, state)


def work_of(rows: list[tuple[str, State | None]], first: int | None = None) -> Work:
    """What a manifest names, where the ledger holds this of its rows."""
    work = Work(first=first)
    for conversation_id, state in rows:
        add(work, conversation_id, state)
    return work


def outlook(work: Work, limit: LimitFacts) -> Outlook:
    """The outlook where a job takes as long as its audio."""
    return look_out(work, 1.0, limit, Settings(limit=limit.configured), NOW, None)


@pytest.mark.parametrize(
    ("state", "left"),
    [
        (None, 1),
        (State.PENDING, 1),
        (State.SENDING, 1),
        (State.SENT, 0),
        (State.ACCEPTED, 0),
        (State.COMPLETED, 0),
        (State.FAILED, 0),
        (State.REFUSED, 0),
        (State.IN_DOUBT, 0),
        (State.DROPPED, 0),
    ],
)
def test_what_is_still_to_be_appended(state: State | None, left: int) -> None:
    """What a run sends: what is new or pending, and what a crash left half sent, for it is pending again."""
    work = work_of([("c", state)])
    assert (work.left.files, work.lanes.count) == (left, left)


@pytest.mark.parametrize(
    ("limit", "by", "told"),
    [
        (LimitFacts(20, None, 20, 0), "configured", "at the limit of 20"),
        (LimitFacts(20, 50, 20, 0), "configured", "at the limit of 20"),
        (LimitFacts(20, 2, 2, 0), "stated", "at the limit of 2, as a 429 stated (configured 20)"),
        (LimitFacts(20, 10, 7, 0, 3), "taught", "at the limit of 7, as 429s have taught (configured 20)"),
        (LimitFacts(20, None, 7, 0), "taught", "at the limit of 7, as 429s have taught (configured 20)"),
    ],
)
def test_the_forecast_takes_the_limit_in_force(limit: LimitFacts, by: str, told: str) -> None:
    """Promise 3: the smallest of configured, stated and taught; which it was, and why, is told."""
    found = outlook(work_of([(chr(ord("c") + number), None) for number in range(20)]), limit)
    json = found.as_json()
    seconds = {one["limit"]: one["seconds"] for one in json["forecasts"]}
    assert json["limit"] == json["limitKnown"]["inForce"] == limit.in_force
    assert (json["limitKnown"]["configured"], json["limitKnown"]["by"]) == (20, by)
    assert json["seconds"] == seconds[limit.in_force]
    assert {limit.in_force, 20} <= set(seconds)
    assert any(line.endswith(told) for line in found.as_lines())


def test_the_end_of_live_jobs_is_told_where_nothing_else_is_left() -> None:
    """All is accepted: nothing is to be appended, and the batch ends with its jobs."""
    work = Work()
    work.lanes.begin_with(ord("c"), 10.0, 4.0)
    add(work, "c", State.ACCEPTED)
    found = outlook(work, LimitFacts(2, None, 2, 1))
    assert found.as_json()["seconds"] == 6.0
    assert "  finish    nothing is left to append; the live jobs end in 6 s" in list(found.as_lines())


@pytest.mark.parametrize(("first", "left", "later"), [(None, 3, 0), (1, 1, 2), (2, 2, 1), (3, 3, 0), (9, 3, 0)])
def test_the_first_so_many_alone(first: int | None, left: int, later: int) -> None:
    """`--first N`: of what would be appended, the first N; what is done, or held, is none of them."""
    work = Work(first=first)
    work.hold(ord("h"))
    rows = [("a", State.COMPLETED), ("held", None), ("a", None), ("b", State.PENDING), ("c", None)]
    for conversation_id, state in rows:
        add(work, conversation_id, state)
    assert (work.left.files, work.left.billed_seconds, work.later, work.held) == (left, 10.0 * left, later, 1)
    told = list(outlook(work, LimitFacts(2, None, 2, 0)).as_lines())
    assert any("stay pending" in line for line in told) is (later > 0)
