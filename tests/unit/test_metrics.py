"""Metrics: a Prometheus text file of these names, and alert rules over exactly these names."""

import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families

from uploader.errors import ExitCode, ResultsUnavailableError, UsageError
from uploader.ledger.standing import Standing, Tally
from uploader.model import LimitFacts, Outcome, State
from uploader.policy.facts import CallbackEffect
from uploader.policy.held_back import SlotUse
from uploader.policy.histogram import JOB_BOUNDS, UPLOAD_BOUNDS, WRITE_BOUNDS, Histogram
from uploader.status import metrics_file
from uploader.status.metrics import LAST_EXIT_CODE, LAST_RUN, LAST_SUCCESS, Metrics, RunFigures, kept_of

ROOT = Path(__file__).parents[2]
ALERTS = ROOT / "config" / "alerts.yml"
DASHBOARD = ROOT / "config" / "dashboard.json"
PROMTOOL = shutil.which("promtool")


def figures() -> RunFigures:
    """Return figures of a run in which something of each kind has happened."""
    jobs = Histogram(JOB_BOUNDS)
    for seconds in (0.5, 0.6, 7.0, 1e6):
        jobs.observe(seconds)
    return RunFigures(
        items=Standing({State.COMPLETED: Tally(items=3), State.IN_DOUBT: Tally(items=1)}),
        limit=LimitFacts(configured=10, stated=5, in_force=5, live=4, doubtful=1),
        bytes_sent=1234,
        attempts={Outcome.APPLIED: 3, Outcome.NOT_SENT: 2},
        callbacks={CallbackEffect.ENDED: 3},
        status_requests=17,
        slot_seconds={SlotUse.BUSY: 40.0, SlotUse.LANES: 2.5},
        job_seconds=jobs,
        upload_seconds=Histogram(UPLOAD_BOUNDS),
        write_seconds=Histogram(WRITE_BOUNDS),
    )


def metrics(exit_code: ExitCode | None = None, found: RunFigures | None = None, **kept: float) -> Metrics:
    """Return the metrics of a run."""
    return Metrics(2000.0, 1000.0, "0.1.0", "abc", 'night "1"', kept, exit_code, found)


def samples(text: str) -> dict[tuple[str, ...], float]:
    """Return the values of a metrics file by name and labels."""
    return {
        (sample.name, *sample.labels.values()): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def test_the_file_has_the_figures() -> None:
    """Read back by the library's own parser: each figure, under its name and labels."""
    found = samples(metrics(ExitCode.IN_DOUBT, figures()).render())
    expected = {
        ("uploader_run_info", 'night "1"', "abc", "0.1.0"): 1,
        ("uploader_run_active",): 0,
        ("uploader_last_run_exit_code",): 4,
        ("uploader_items", "completed"): 3,
        ("uploader_items", "in_doubt"): 1,
        ("uploader_items", "pending"): 0,
        ("uploader_limit", "configured"): 10,
        ("uploader_limit", "stated"): 5,
        ("uploader_limit", "in_force"): 5,
        ("uploader_slots_in_use", "jobs"): 3,
        ("uploader_slots_in_use", "doubt"): 1,
        ("uploader_attempts_total", "applied"): 3,
        ("uploader_attempts_total", "not_sent"): 2,
        ("uploader_attempts_total", "in_doubt"): 0,
        ("uploader_callbacks_total", "ended"): 3,
        ("uploader_sent_bytes_total",): 1234,
        ("uploader_status_requests_total",): 17,
        ("uploader_slot_busy_seconds_total",): 40,
        ("uploader_slot_idle_seconds_total", "lanes"): 2.5,
        ("uploader_slot_idle_seconds_total", "doubt"): 0,
        ("uploader_job_seconds_bucket", "0.5"): 1,
        ("uploader_job_seconds_bucket", "10.0"): 3,
        ("uploader_job_seconds_bucket", "+Inf"): 4,
        ("uploader_job_seconds_count",): 4,
        ("uploader_upload_seconds_count",): 0,
        ("uploader_ledger_write_seconds_count",): 0,
    }
    assert {key: found.get(key) for key in expected} == expected


def test_what_is_known_of_earlier_runs_is_kept() -> None:
    """A bad night changes the latest end, and not the latest success; a good one both; one under way neither."""
    kept = {LAST_SUCCESS: 5.0, LAST_RUN: 6.0, LAST_EXIT_CODE: 3.0}
    assert kept_of(metrics(None, figures(), **kept).render()) == kept
    assert kept_of(metrics(ExitCode.GAVE_UP, None, **kept).render()) == {
        LAST_SUCCESS: 5.0,
        LAST_RUN: 2000.0,
        LAST_EXIT_CODE: 5.0,
    }
    assert kept_of(metrics(ExitCode.DONE, None, **kept).render()) == {
        LAST_SUCCESS: 2000.0,
        LAST_RUN: 2000.0,
        LAST_EXIT_CODE: 0.0,
    }
    assert LAST_SUCCESS not in kept_of(metrics(ExitCode.GAVE_UP).render()), "no success is made up"


def test_a_histogram_counts_what_is_not_above_each_bound() -> None:
    """A value at a bound is within it; the last bound is infinite."""
    found = Histogram((1.0, 2.0))
    for value in (0.5, 1.0, 1.5, 9.0):
        found.observe(value)
    assert [count for _, count in found.cumulative()] == [2, 3, 4]
    assert found.sum == 12.0


@pytest.mark.parametrize("content", ["conversationId,audioPath\n", "# HELP up Another exporter's.\nup 1\n"])
def test_another_file_is_not_overwritten(tmp_path: Path, content: str) -> None:
    """A manifest that is named by mistake stays; exit 2 before anything is sent."""
    path = tmp_path / "m.csv"
    path.write_text(content)
    with pytest.raises(UsageError, match="no metrics file of the uploader"):
        metrics_file.read_kept(path)
    assert path.read_text() == content


def test_a_file_is_replaced_as_a_whole_and_read_again(tmp_path: Path) -> None:
    """No other file is left beside it; a folder that is gone is told before, and later as what cannot be written."""
    path = tmp_path / "m.prom"
    assert metrics_file.read_kept(path) == {}
    for code in (ExitCode.DONE, ExitCode.GAVE_UP):
        metrics_file.write(path, metrics(code, figures(), **metrics_file.read_kept(path)))
    assert metrics_file.read_kept(path)[LAST_SUCCESS] == 2000.0
    assert [file.name for file in tmp_path.iterdir()] == ["m.prom"]
    with pytest.raises(UsageError, match="missing or not writable"):
        metrics_file.read_kept(tmp_path / "gone" / "m.prom")
    with pytest.raises(ResultsUnavailableError):
        metrics_file.write(tmp_path / "gone" / "m.prom", metrics())


def names() -> set[str]:
    """Return the names of all samples, and those of the families."""
    text = metrics(ExitCode.DONE, figures()).render()
    return {key[0] for key in samples(text)} | set(re.findall(r"^# TYPE (\S+)", text, re.MULTILINE))


def test_the_guide_has_every_metric() -> None:
    """The table of the guide has the names and types of the file, and no other."""
    guide = (ROOT / "uploader" / "docs" / "metrics.md").read_text(encoding="utf-8")
    shown = re.findall(r"^\| `(uploader_\w+)` \| (\w+) \|", guide, re.MULTILINE)
    written = re.findall(r"^# TYPE (\S+) (\w+)", metrics(ExitCode.DONE, figures()).render(), re.MULTILINE)
    assert sorted(shown) == sorted(written)


def test_the_alerts_are_over_names_that_there_are() -> None:
    """Each rule's expression names metrics of the file alone, with labels and values that it has."""
    rules = ALERTS.read_text(encoding="utf-8")
    expressions = re.findall(r"expr: (>\n(?:          .*\n)+|.*)", rules)
    assert len(expressions) == rules.count("- alert:") > 5
    named = {name for expression in expressions for name in re.findall(r"uploader_\w+", expression)}
    assert named - names() == set()
    found = {key for key in samples(metrics(ExitCode.DONE, figures()).render()) if len(key) == 2}
    for name, values in re.findall(r'(uploader_\w+)\{\w+=~?"([^"]+)"', rules):
        assert {(name, value) for value in values.split("|")} <= found


# what Prometheus sees, a value a minute; then, by alert, a minute at which it fires (False: at which it does not)
NIGHTS: list[tuple[dict[str, str], list[tuple[str, int, bool]]]] = [
    (
        {
            "uploader_last_success_timestamp_seconds": "0x2000",
            "uploader_written_timestamp_seconds": "0+60x2000",
            "uploader_last_run_exit_code": "6x10 4x1990",
            'uploader_items{state="in_doubt"}': "0x10 2x1990",
            'uploader_items{state="pending"}': "7x2000",
            "uploader_run_active": "1x2000",
            'uploader_attempts_total{outcome="applied"}': "0+1x100 100x1900",
            "uploader_job_seconds_count": "0+1x100 100x1900",
            'uploader_slots_in_use{use="doubt"}': "0x10 1x1990",
        },
        [
            ("UploaderRunFailed", 5, False),
            ("UploaderRunFailed", 20, True),
            ("UploaderNeedsPerson", 5, False),
            ("UploaderNeedsPerson", 20, True),
            ("UploaderDoubtHoldsSlots", 20, False),
            ("UploaderDoubtHoldsSlots", 50, True),
            ("UploaderStandsStill", 90, False),
            ("UploaderStandsStill", 180, True),
            ("UploaderNoGoodNight", 25 * 60, False),
            ("UploaderNoGoodNight", 27 * 60, True),
            ("UploaderRunDied", 90, False),
            ("UploaderNeverSeen", 90, False),
        ],
    ),
    (
        {"uploader_run_active": "1x100", "uploader_written_timestamp_seconds": "60x100"},
        [("UploaderRunDied", 10, False), ("UploaderRunDied", 20, True)],
    ),
    (
        {
            'uploader_ledger_write_seconds_bucket{le="0.5"}': "0+1x100",
            'uploader_ledger_write_seconds_bucket{le="1.0"}': "0+60x100",
            'uploader_ledger_write_seconds_bucket{le="+Inf"}': "0+60x100",
        },
        [("UploaderLedgerSlow", 60, True)],
    ),
    ({}, [("UploaderNeverSeen", 30, False), ("UploaderNeverSeen", 90, True)]),
]


def rule_tests() -> dict[str, Any]:
    """Return the nights in the form of promtool's tests."""
    tests = []
    for series, fires in NIGHTS:
        counted = [
            {
                "expr": f'count(ALERTS{{alertname="{alert}",alertstate="firing"}}) or vector(0)',
                "eval_time": f"{minute}m",
                "exp_samples": [{"labels": "{}", "value": int(does)}],
            }
            for alert, minute, does in fires
        ]
        given = [{"series": name, "values": values} for name, values in series.items()]
        tests.append({"interval": "1m", "input_series": given, "promql_expr_test": counted})
    return {"rule_files": [str(ALERTS)], "evaluation_interval": "1m", "tests": tests}


def test_every_alert_is_tried() -> None:
    """A night in which it fires, for each."""
    tried = {alert for _, fires in NIGHTS for alert, _, does in fires if does}
    assert tried == set(re.findall(r"- alert: (\w+)", ALERTS.read_text(encoding="utf-8")))


def test_the_dashboard_is_over_names_that_there_are() -> None:
    """Each panel asks for metrics and label values of the file alone, and each metric but the run's times is shown."""
    board = json.loads(DASHBOARD.read_text(encoding="utf-8"))
    expressions = [target["expr"] for panel in board["panels"] for target in panel["targets"]]
    named = {name for expression in expressions for name in re.findall(r"uploader_\w+", expression)}
    assert named - names() == set()
    families = set(re.findall(r"^# TYPE (\S+)", metrics(ExitCode.DONE, figures()).render(), re.MULTILINE))
    unseen = {family for family in families if not any(name.startswith(family) for name in named)}
    assert {name for name in unseen if not re.search("run|written|busy", name)} == set()
    found = {key for key in samples(metrics(ExitCode.DONE, figures()).render()) if len(key) == 2}
    for name, values in re.findall(r'(uploader_\w+)\{instance=~"\$instance",\w+=~?"([^"]+)"', " ".join(expressions)):
        assert {(name, value) for value in values.split("|")} <= found
    assert len({panel["id"] for panel in board["panels"]}) == len(board["panels"])


@pytest.mark.skipif(PROMTOOL is None, reason="promtool (Debian's package prometheus) is not here")
def test_prometheus_takes_file_and_rules(tmp_path: Path) -> None:
    """Its own tool finds no fault in file, rules and dashboard; alerts fire when they should, and not before."""
    assert PROMTOOL is not None
    text = metrics(ExitCode.DONE, figures()).render()
    checked = subprocess.run([PROMTOOL, "check", "metrics"], input=text, text=True, capture_output=True, check=False)
    assert (checked.returncode, checked.stdout + checked.stderr) == (0, "")
    subprocess.run([PROMTOOL, "check", "rules", ALERTS], check=True, capture_output=True)
    panels = json.loads(DASHBOARD.read_text(encoding="utf-8"))["panels"]
    shown = [target["expr"].replace("$instance", ".*") for panel in panels for target in panel["targets"]]
    rules = [{"record": f"shown:{number}", "expr": expression} for number, expression in enumerate(shown)]
    (tmp_path / "shown.yml").write_text(json.dumps({"groups": [{"name": "shown", "rules": rules}]}), encoding="utf-8")
    subprocess.run([PROMTOOL, "check", "rules", tmp_path / "shown.yml"], check=True, capture_output=True)
    tests = tmp_path / "tests.yml"
    tests.write_text(json.dumps(rule_tests()), encoding="utf-8")  # which is YAML, too
    tested = subprocess.run([PROMTOOL, "test", "rules", tests], capture_output=True, text=True, check=False)
    assert tested.returncode == 0, tested.stdout + tested.stderr


def test_the_counts_of_several_runs_are_added_and_items_and_limit_are_not() -> None:
    """Of the runs of one process on one account: items are a batch's own, and the account has one limit."""
    found = figures().add_counts(figures())
    assert (found.items, found.limit, found.slot_seconds) == (
        figures().items,
        figures().limit,
        figures().slot_seconds,
    )
    assert (found.bytes_sent, found.status_requests) == (2468, 34)
    assert (found.attempts, found.callbacks) == (
        {Outcome.APPLIED: 6, Outcome.NOT_SENT: 4},
        {CallbackEffect.ENDED: 6},
    )
    assert found.job_seconds.cumulative()[-1][1] == 8
