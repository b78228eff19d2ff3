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


@pytest.mark.parametrize(
    "data",
    [
        b"conversationId,audioPath\n1,a.wav\n",
        b'\xef\xbb\xbf"conversationId";"audioPath"\n',
        b'{"conversationId": "1", "audioPath": "a.wav", "x-event": "e"}\n',
        b"SQLite format 3\0" + bytes(100),
        b"RIFF\x24\0\0\0WAVEfmt ",
    ],
)
def test_no_line_of_a_log_is_added_to_a_manifest_a_ledger_or_a_recording(tmp_path: Path, data: bytes) -> None:
    """A slip in `--log-file` is refused, and the file stays as it was, byte for byte."""
    (tmp_path / "data").write_bytes(data)
    with pytest.raises(UsageError, match=r"log file .*data: this is no log.*: name another"):
        logs.configure("json", "info", tmp_path / "data")
    assert (tmp_path / "data").read_bytes() == data


@pytest.mark.parametrize(
    "kept",
    [
        "",
        "the nightly backup begins\n",
        '{"run": "1", "conversationId": "1", "event": "attempt.ended"}\n',
        "{",
        bytes(9000).decode() + "cut and carried on\n",
    ],
)
def test_a_log_that_stands_there_is_carried_on(tmp_path: Path, kept: str) -> None:
    """Lines are added to a log of earlier nights, also to one with lines of other programs."""
    (tmp_path / "night.log").write_text(kept)
    logs.configure("json", "info", tmp_path / "night.log")
    logs.get_logger().info("run.begun")
    config = logs._log.config
    assert config is not None
    assert config.file is not None
    config.file.close()
    written = (tmp_path / "night.log").read_text()
    assert written.startswith(kept)
    assert '"event": "run.begun"' in written.removeprefix(kept)
