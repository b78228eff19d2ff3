"""The progress line on a pseudo-terminal of 80 columns."""

import fcntl
import os
import pty
import re
import struct
import subprocess
import sys
import termios

import pytest

from uploader.status.bar import fitting

SHOWN = """
from uploader.status.bar import Bar
bar = Bar()
bar.start()
bar.show(total=123456, completed=23456, rate="999.9 KiB/s", left="101 h 22 min left", details={details!r})
bar._progress.refresh()
bar.stop()
"""
TROUBLE = [
    "48/50 jobs",
    "waits until 03:45",
    "2 slots are held for items in doubt until 03:45",
    "100000 pending",
    "12 failed",
]


@pytest.mark.parametrize("details", [[], TROUBLE, ["x" * 200]])
def test_bar_count_rate_and_time_left_stand_at_80_columns(details: list[str]) -> None:
    """Whatever the trouble: one line of 80 columns, in which these four stand; details go, the last ones first."""
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 80, 0, 0))
    environment = {"PATH": os.environ["PATH"], "TERM": "xterm", "PYTHONPATH": os.pathsep.join(sys.path)}
    command = [sys.executable, "-c", SHOWN.format(details=details)]
    subprocess.run(command, stdin=theirs, stdout=theirs, stderr=theirs, env=environment, check=True)
    os.close(theirs)
    text = ""
    try:
        while chunk := os.read(ours, 65536):
            text += chunk.decode("utf-8")
    except OSError:
        pass  # the end of a pseudo-terminal on Linux
    os.close(ours)
    lines = [re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", line) for line in re.split(r"[\r\n]+", text)]
    shown = [line for line in lines if "23456/123456" in line]
    assert shown
    for line in shown:
        assert len(line.rstrip()) <= 80
        assert "━" in line
        assert "999.9 KiB/s" in line
        assert "101 h 22 min left" in line
        assert ("48/50 jobs" in line) is (details == TROUBLE)


def test_details_are_dropped_whole_from_the_right() -> None:
    """The first ones that fit, none cut in two."""
    assert fitting(["ab", "cde", "f"], 7) == "ab, cde"
    assert fitting(["ab", "cde", "f"], 6) == "ab"
    assert fitting(["abc"], 2) == ""
