"""The log's lines: JSON for machines, words for people, and no harm where they cannot be written."""

import io
import json
import os
import re
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import structlog

from uploader import logs
from uploader.errors import UsageError


@pytest.fixture(autouse=True)
def as_before(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Restore the logging afterwards."""
    before = structlog.get_config()
    monkeypatch.setattr(logs, "_log", logs._Log())
    yield
    structlog.configure(**before)


def test_a_machine_gets_a_line_of_json_for_each_event(capsys: pytest.CaptureFixture[str]) -> None:
    """A JSON line has fields, name, level and the time in UTC; values that are not JSON are written by their repr."""
    logs.configure("auto", "info")
    logs.get_logger().warning("attempt", line=7, jobId=None, note="gr\u00fc\u00df\ndich", path=Path("x"))
    [line] = capsys.readouterr().err.splitlines()
    report = json.loads(line)
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z", report.pop("timestamp"))
    assert report.pop("path").endswith("('x')")
    assert report == {"line": 7, "jobId": None, "note": "gr\u00fc\u00df\ndich", "event": "attempt", "level": "warning"}


def test_a_person_gets_a_line_of_words(capsys: pytest.CaptureFixture[str]) -> None:
    """Unknown fields are left out; values with blanks are quoted."""
    logs.configure("text", "info")
    logs.get_logger().info("attempt", jobId=None, line=7, error="not sent", batch="m.csv")
    result = capsys.readouterr().err
    assert re.fullmatch(r"\d\d:\d\d:\d\d \[info *\] attempt +line=7 error='not sent' batch=m.csv\n", result), result


@pytest.mark.parametrize(("level", "events"), [("debug", 4), ("info", 3), ("warning", 2), ("error", 1)])
def test_what_is_below_the_level_is_not_written(capsys: pytest.CaptureFixture[str], level: str, events: int) -> None:
    """A level includes the levels above it."""
    logs.configure("json", level)
    log = logs.get_logger()
    for write in (log.debug, log.info, log.warning, log.error):
        write("event")
    assert capsys.readouterr().err.count("\n") == events


@pytest.mark.parametrize("form", ["json", "text"])
def test_a_fault_is_told_with_its_traceback_and_no_local_variable(
    capsys: pytest.CaptureFixture[str], form: str
) -> None:
    """A traceback shows no local variables: paths, parameters and secrets are among them."""
    logs.configure("json" if form == "json" else "text", "info")
    private = "a secret"
    try:
        private[100]
    except IndexError:
        logs.get_logger().exception("fault", jobId="job-1")
    text = capsys.readouterr().err
    if form == "json":
        [line] = text.splitlines()
        report = json.loads(line)
        assert (report["event"], report["level"], report["jobId"]) == ("fault", "error", "job-1")
        assert [frame["exc_type"] for frame in report["exception"]] == ["IndexError"]
    assert "test_logs.py" in text
    assert "IndexError" in text
    assert private not in text


def test_a_log_that_cannot_be_written_does_no_harm(monkeypatch: pytest.MonkeyPatch) -> None:
    """A full disk costs lines of the log, and no item."""

    class Full(io.StringIO):
        def write(self, _text: str) -> int:
            raise OSError(28, "no space left on device")

    monkeypatch.setattr(sys, "stderr", Full())
    logs.configure("json", "info")
    logs.get_logger().info("attempt")


def test_a_log_file_that_is_a_pipe_without_a_reader_is_told(tmp_path: Path) -> None:
    """It is refused by its name, and not waited for for ever."""
    os.mkfifo(tmp_path / "log")
    with pytest.raises(UsageError, match=r"log file .*log: it cannot be written .*: name another"):
        logs.configure("json", "info", tmp_path / "log")
