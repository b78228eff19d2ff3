"""What `uploader insights` says at its end, to a person and to a machine."""

from collections import Counter
from pathlib import Path

import pytest

from uploader.cli.fetching import EXAMPLES, InsightsSummary
from uploader.errors import ExitCode
from uploader.insights import Report
from uploader.insights.fetching import EXAMPLES as KEPT
from uploader.ledger.conversations import Conversation


def summary(report: Report, reason: str = "") -> InsightsSummary:
    """The summary of a batch of which this came."""
    return InsightsSummary("m.csv", Path("m.insights"), report, 1.23456, ExitCode.NEEDS_PERSON, reason)


def left_out(count: int) -> Report:
    """A report of so many that were left out."""
    report = Report()
    for number in range(count):
        report.leave_out(Conversation(number, number, f"c{number}"), "HTTP 404")
    return report


def test_a_person_is_told_the_counts_the_folder_and_why() -> None:
    """A line each for what there is to tell, and none for what there is not."""
    report = Report(written=1, up_to_date=2, lacking=Counter(summary=1))
    assert summary(report, "no answer").as_lines() == [
        "m.csv: 3 conversations: 1 written, 2 up to date, 0 left out",
        "  folder    m.insights",
        "  lacking   summary in 1: the files' errors say why",
        "  stopped   no answer",
    ]


@pytest.mark.parametrize(("count", "lines", "examples"), [(1, 1, 1), (EXAMPLES, EXAMPLES, EXAMPLES), (999, 6, KEPT)])
def test_those_that_were_left_out_are_told_up_to_a_number(count: int, lines: int, examples: int) -> None:
    """All are counted; a person gets the first few, a machine more, and neither a flood."""
    result = summary(left_out(count))
    shown = [line for line in result.as_lines() if line.startswith("  left out")]
    assert (len(shown), result.as_json()["leftOut"], len(result.as_json()["leftOutExamples"])) == (
        lines,
        count,
        examples,
    )
    assert shown[0] == "  left out  c0: HTTP 404"
    assert ("more: the log names them" in shown[-1]) == (count > EXAMPLES)


def test_a_machine_gets_every_member_in_any_case() -> None:
    """The closing object has the same members whatever came; what is unknown is null."""
    assert summary(Report()).as_json() == {
        "batch": "m.csv",
        "exitCode": 1,
        "folder": "m.insights",
        "conversations": 0,
        "written": 0,
        "upToDate": 0,
        "leftOut": 0,
        "leftOutExamples": [],
        "lacking": {},
        "seconds": 1.235,
        "reason": None,
    }
