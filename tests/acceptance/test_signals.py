"""Signals: a run that is told to end does so, whatever it waits for."""

import json
import os
import pty
import signal
import subprocess
import sys
from contextlib import suppress

import pytest

from tests.acceptance.batches import make_rows, read_results, write_manifest
from tests.acceptance.place import Place, until

HOUR = "3600"
# the first module of the command line's own that is imported sends the signal
EARLY = """
import os, sys, importlib.abc
class Early(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path, target=None):
        if name == "uploader.cli":
            sys.meta_path.remove(self)
            os.kill(os.getpid(), {number})
sys.meta_path.insert(0, Early())
from uploader.__main__ import main
main()
"""


@pytest.mark.parametrize(
    ("number", "code"),
    [pytest.param(signal.SIGTERM, 143, marks=pytest.mark.real_start), (signal.SIGINT, 130), (signal.SIGHUP, 129)],
)
@pytest.mark.parametrize(("limit", "accepted"), [(4, 4), (1, 1)])
def test_a_signal_ends_a_run_that_only_waits(
    place: Place, number: signal.Signals, code: int, limit: int, accepted: int
) -> None:
    """Nothing is under way but jobs that take an hour: no container has to be killed, and the results are final."""
    rows = make_rows(place, 4, 4)
    write_manifest(place, "m.csv", rows)
    server = place.serve("--limit", "4", "--job-seconds", HOUR)
    place.use(server)
    running = place.start("run", "m.csv", "--limit", str(limit), "--summary", "s.json")
    until(lambda: len(server.journal.appended()) == accepted, "all is accepted that may be")
    until(lambda: running.err.read_text("utf-8").count('"event": "attempt.ended"') == accepted, "every answer has come")
    assert running.stop(number).code == code
    states = [line["status"] for line in read_results(place.path("m.results.csv"))]
    assert sorted(states) == ["accepted"] * accepted + ["pending"] * (4 - accepted)
    assert place.path("s.json").exists()


@pytest.mark.real_start
@pytest.mark.parametrize(("detached", "code"), [(False, 129), (True, 0)])
def test_a_terminal_that_is_closed_stops_a_run_unless_it_was_detached(
    place: Place, *, detached: bool, code: int
) -> None:
    """SIGHUP stops as SIGTERM does and the results are final, though nobody can be told; `nohup` outlives it."""
    write_manifest(place, "m.csv", make_rows(place, 4, 2))
    server = place.serve("--limit", "4", "--job-seconds", "1" if detached else HOUR)
    place.use(server)
    closed, terminal = pty.openpty()
    before = ("nohup",) if detached else ()
    command = [*before, sys.executable, "-m", "uploader", "run", "m.csv", "--limit", "2", "--summary", "s.json"]
    # a session of its own, whose terminal this one is: its end is then a hangup for who runs in it
    leads = "import fcntl, os, sys, termios; os.setsid(); fcntl.ioctl(0, termios.TIOCSCTTY, 0); "
    started = subprocess.Popen(
        [sys.executable, "-c", leads + "os.execvp(sys.argv[1], sys.argv[1:])", *command],
        cwd=place.folder,
        env=place.environment,
        stdin=terminal,
        stdout=terminal,
        stderr=terminal,
    )
    os.close(terminal)
    until(lambda: len(server.journal.appended()) == 2, "the slots are full")
    os.close(closed)
    assert started.wait(60) == code
    states = [line["status"] for line in read_results(place.path("m.results.csv"))]
    assert states.count("completed" if detached else "pending") == (4 if detached else 2)
    assert place.path("s.json").exists()


@pytest.mark.real_start
@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130), (signal.SIGHUP, 129)])
@pytest.mark.parametrize("command", ["run", "plan"])
def test_a_signal_at_the_very_start_ends_a_command_as_one_later(
    place: Place, command: str, number: signal.Signals, code: int
) -> None:
    """While modules are still imported: its code, one object on standard output, `run.ended`, and no traceback."""
    write_manifest(place, "m.csv", make_rows(place, 1, 1))
    ended = subprocess.run(
        [sys.executable, "-c", EARLY.format(number=int(number)), command, "m.csv", "--json"],
        cwd=place.folder,
        env=place.environment,
        capture_output=True,
        check=False,
        text=True,
    )
    assert ended.returncode == code, ended.stderr
    shown = json.loads(ended.stdout)
    assert shown["exitCode"] == code
    assert "stopped before anything was sent" in shown["reason"]
    assert "Traceback" not in ended.stderr
    if command == "run":
        assert shown["heldBackBy"] == {}
        assert json.loads(ended.stderr.splitlines()[-1])["event"] == "run.ended"


@pytest.mark.real_start
@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_second_signal_ends_a_command_whose_end_nobody_reads(place: Place, number: signal.Signals, code: int) -> None:
    """The object for standard output finds no room; a second signal ends the command at once, without a traceback."""
    write_manifest(place, "m.csv", make_rows(place, 1, 1))
    reading, printing = os.pipe()
    os.set_blocking(printing, False)
    with suppress(BlockingIOError):
        while True:
            os.write(printing, b"\n")
    os.set_blocking(printing, True)
    log = place.path("err")
    with log.open("wb") as logging:
        started = subprocess.Popen(
            [sys.executable, "-c", EARLY.format(number=int(signal.SIGHUP)), "run", "m.csv", "--json"],
            cwd=place.folder,
            env=place.environment,
            stdout=printing,
            stderr=logging,
        )
    try:
        # logged before the object is printed
        until(lambda: '"event": "run.ended"' in log.read_text("utf-8"), "the first signal's end is being reported")
        assert started.poll() is None
        started.send_signal(number)
        assert started.wait(60) == code
    finally:
        started.kill()
        started.wait()
        os.close(printing)
        os.close(reading)
    assert "Traceback" not in log.read_text("utf-8")
