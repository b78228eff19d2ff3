"""What a plan foresees: what counts as left, at which limit, and why at that."""

from dataclasses import replace
from datetime import datetime

import pytest

from uploader.cli.plan_report import PlanReport, Work, forecast_plan
from uploader.ledger.amounts import Amount, Leftover, ToSend
from uploader.model import LimitFacts
from uploader.settings import Settings

NOW = datetime(2026, 11, 22, 22, 0)  # noqa: DTZ001 - as local time comes: without its zone


def work_of(files: int, live: bool = False) -> Work:
    """New files of ten seconds each in conversations of their own; behind a job that lives for four seconds."""
    work = Work(sending=ToSend(Amount(files, 160_044 * files, 10.0 * files, 10.0 * files)))
    if live:
        work.lanes.begin_with(0, 10.0, 4.0)
        work.lanes.wait_for(0)
    for conversation in range(1, files + 1):
        work.lanes.add(conversation, 160_044, 10.0)
    return work


def outlook(work: Work, limit: LimitFacts) -> PlanReport:
    """The outlook where a job takes as long as its audio."""
    return forecast_plan(work, 1.0, limit, Settings(limit=limit.configured), NOW, None)


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
    found = outlook(work_of(20), limit)
    json = found.as_json()
    seconds = {forecast["limit"]: forecast["seconds"] for forecast in json["forecasts"]}
    assert json["limit"] == json["limitKnown"]["inForce"] == limit.in_force
    assert (json["limitKnown"]["configured"], json["limitKnown"]["by"]) == (20, by)
    assert json["seconds"] == seconds[limit.in_force]
    assert {limit.in_force, 20} <= set(seconds)
    assert any(line.endswith(told) for line in found.as_lines())


def test_the_end_of_live_jobs_is_told_where_nothing_else_is_left() -> None:
    """All is accepted: nothing is to be appended, and the batch ends with its jobs."""
    found = outlook(work_of(0, live=True), LimitFacts(2, None, 2, 1))
    assert found.as_json()["seconds"] == 6.0
    assert "  finish    nothing is left to append; the live jobs end in 6 s" in list(found.as_lines())


def test_leftovers_are_counted_named_and_billed() -> None:
    """Leftovers of other batches before these rows are part of what the run sends, and are listed apart."""
    work = work_of(2)
    work.sending = replace(work.sending, leftovers=[Leftover("monday.csv", Amount(1, 320_044, 20.0, 40.0))])
    found = outlook(work, LimitFacts(2, None, 2, 0))
    json = found.as_json()
    assert (json["toAppend"]["files"], json["toAppend"]["billedMinutes"]) == (3, 1.0)
    assert [(leftover["batch"], leftover["files"], leftover["billedMinutes"]) for leftover in json["leftovers"]] == [
        ("monday.csv", 1, 0.67)
    ]
    assert any(line.startswith("  leftover  monday.csv: 1 file,") for line in found.as_lines())
