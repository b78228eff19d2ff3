"""Live in the terminal: what a person sees at the end of each redraw, and how the terminal is left."""

import re
import signal
import sys
from collections.abc import Sequence
from typing import IO

import pytest

from tests.acceptance.batches import make_rows, write_manifest
from tests.acceptance.place import Place, Running, Server, until
from tests.acceptance.screen import Terminal
from tests.acceptance.starting import Command, Process
from tests.acceptance.test_accounts import FILES, serve_accounts, write_rows

RUN = ("run", "m.csv", "--limit", "5")
WARNING = "a new ledger"
LABELS = ("rate", "slots", "held back", "needs you")
# a run whose live view fails at its third redraw
CRASH = """
import sys
from uploader.status.live import LiveView
show, seen = LiveView.show, []
def fail_late(view, progress):
    seen.append(1)
    if len(seen) == 3:
        raise RuntimeError("a fault in the middle of a view")
    show(view, progress)
LiveView.show = fail_late
# after the words with which a command without a fault would begin
sys.argv = ["uploader", *sys.argv[4:]]
from uploader.__main__ import main
main()
"""


def started(place: Place, columns: int, *more: str, words: Sequence[str] = RUN, before: Sequence[str] = ()) -> Terminal:
    """Start a command in a terminal."""
    environment = {"TERM": "xterm-256color", **place.environment}

    def start(end: IO[bytes]) -> Process:
        return place.starts(Command([*words, *more], environment, place.folder, (end, end, end), before))

    return Terminal(start, columns)


def block(lines: Sequence[str], total: int) -> list[str]:
    """Return the live lines, having checked that they stand once, at the end, and say the same."""
    heads = [number for number, line in enumerate(lines) if re.search(rf"\b\d+/{total}  \d+ %$", line)]
    if not heads:
        return []
    (head,) = heads
    shown = list(lines[head:])
    done, percent = map(int, re.findall(rf"(\d+)/{total}  (\d+) %", shown[0])[0])
    assert percent == done * 100 // total
    labels = [next(label for label in LABELS if line.startswith(label)) for line in shown[1:]]
    assert labels == sorted(set(labels), key=LABELS.index), lines
    assert labels[:2] == ["rate", "slots"]
    return shown


@pytest.mark.parametrize("columns", [80, 40])
def test_each_redraw_shows_how_far_the_run_is(place: Place, columns: int) -> None:
    """Whole lines, one block of them, a warning above it; the count grows; a failed item needs a person."""
    place.use(place.serve("--limit", "5", "--job-seconds", "0.3", faults="seed = 1\n[jobs]\nfailed = 0.2\n"))
    write_manifest(place, "m.csv", make_rows(place, 30, 30))
    terminal = started(place, columns)
    frames = [found for lines in terminal.redraws() if (found := block(lines, 30)) and warned(lines)]
    assert terminal.wait() == 1
    assert len(frames) > 3
    counts = [int(re.findall(r"(\d+)/30", frame[0])[0]) for frame in frames]
    assert counts == sorted(counts)
    assert len(set(counts)) > 2
    for frame in frames:
        assert all(len(line) < columns for line in frame)
    slots = [frame[2] for frame in frames]
    assert any("■■■■■  5 of 5 busy" in line for line in slots), slots
    assert all(sum(line.count(sign) for sign in "■□") == 5 for line in slots), slots
    assert any(re.fullmatch(r"needs you \d failed: uploader resolve.*", frame[-1]) for frame in frames), frames[-1]
    if columns == 80:
        assert "━" in frames[-1][0]
        assert any(re.search(r"left, ends \d\d:\d\d$", frame[1]) for frame in frames)
    assert is_clean(terminal)


def warned(lines: Sequence[str]) -> bool:
    """Return True where the warning stands above the live lines."""
    assert WARNING in " ".join(lines), lines
    return True


def is_clean(terminal: Terminal) -> bool:
    """Return True where no live line is left, and the cursor is shown."""
    left = [line for line in terminal.screen.lines if re.match(r"(rate|slots) {5}", line)]
    assert (left, terminal.screen.cursor_is_shown) == ([], True), terminal.screen.lines
    return True


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_leaves_a_clean_terminal(place: Place, number: signal.Signals) -> None:
    """The live lines are gone, the cursor is back, and the summary stands there."""
    place.use(place.serve("--limit", "5", "--job-seconds", "0.2"))
    write_manifest(place, "m.csv", make_rows(place, 40, 40))
    terminal = started(place, 80, "--grace-seconds", "1")
    for lines in terminal.redraws():
        if block(lines, 40):
            assert not terminal.screen.cursor_is_shown
            terminal.send(number)
            break
    assert terminal.wait() == 128 + number
    assert is_clean(terminal)
    assert any(line.startswith("Stopped (by SIG") for line in terminal.screen.lines)


def test_a_second_signal_leaves_the_cursor(place: Place) -> None:
    """The process ends at once, and the terminal can be typed into."""
    place.use(place.serve("--limit", "5", "--job-seconds", "60"))
    write_manifest(place, "m.csv", make_rows(place, 40, 40))
    terminal = started(place, 80, "--grace-seconds", "60")
    signals = 0
    for lines in terminal.redraws():
        if block(lines, 40) and (not signals or (signals == 1 and "run.stopping" in terminal.text)):
            terminal.send(signal.SIGINT)
            signals += 1
    assert terminal.wait() == 130
    assert terminal.screen.cursor_is_shown
    assert terminal.screen.lines[-1].startswith("uploader: ended at once; run the same command again")


def test_a_fault_leaves_a_clean_terminal(place: Place) -> None:
    """Exit 70 with its traceback, no live line, and the cursor."""
    place.use(place.serve("--limit", "5", "--job-seconds", "60"))
    write_manifest(place, "m.csv", make_rows(place, 40, 40))
    words = ("run", "m.csv", "--grace-seconds", "1")
    terminal = started(place, 100, words=words, before=(sys.executable, "-c", CRASH))
    assert terminal.wait() == 70
    assert is_clean(terminal)
    assert any("a fault in the middle of a view" in line for line in terminal.screen.lines)


def test_a_terminal_that_cannot_redraw_gets_no_sequence(place: Place) -> None:
    """TERM=dumb, or --progress off: the summary and the warnings alone."""
    place.use(place.serve("--limit", "5"))
    for number, (variable, more) in enumerate([({"TERM": "dumb"}, ()), ({}, ("--progress", "off"))]):
        write_manifest(place, f"{number}.csv", make_rows(place, 3, 3))
        place.environment.update(variable)
        terminal = started(place, 80, f"{number}.csv", *more, words=("run",))
        assert terminal.wait() == 0
        assert not re.search(r"\x1b\[(\?25|\d*[AK])", terminal.text)
        place.environment.pop("TERM", None)


def watched(run: Running, terminal: Terminal, servers: Sequence[Server], total: int) -> list[list[str]]:
    """Return the blocks that a terminal shows of a run, whose services stand still until two are drawn."""
    frames: list[list[str]] = []
    for lines in terminal.redraws():
        if found := block(lines, total):
            frames.append(found)
            if len(frames) == 2:
                for server in servers:
                    server.running.go_on()
    assert terminal.wait() == run.wait().code == 0
    return frames


def stand_still(servers: Sequence[Server]) -> None:
    """Stop each service with a job that has begun: a slow machine would else end the run before it is watched."""
    until(lambda: all(server.journal.appended() for server in servers), "each service has a job")
    for server in servers:
        server.running.pause()


def test_another_terminal_watches_a_run(place: Place) -> None:
    """`status --watch` draws the same lines from the ledger, until the run ends; then the status stands there."""
    server = place.serve("--limit", "5", "--job-seconds", "0.5")
    place.use(server)
    write_manifest(place, "m.csv", make_rows(place, 30, 30))
    run = place.start("run", "m.csv", "--limit", "5")
    stand_still([server])
    terminal = started(place, 80, words=("status", "--watch"))
    frames = watched(run, terminal, [server], 30)
    assert any(" of 5 busy" in frame[2] and "■" in frame[2] for frame in frames), frames
    assert is_clean(terminal)
    assert any("m.csv: 30 items: 30 completed" in line for line in terminal.screen.lines)


def test_a_run_of_several_accounts_shows_their_slots_together(place: Place) -> None:
    """Limits of 3 and 7 are ten cells, for the run itself and for who watches it."""
    write_rows(place)
    servers = list(serve_accounts(place).values())
    run = place.start("run", "m.csv", "--config", "nightly.toml")
    stand_still(servers)
    terminal = started(place, 80, words=("status", "--watch", "--config", "nightly.toml"))
    frames = watched(run, terminal, servers, 2 * FILES)
    assert any(re.match(r"slots     [■□]{10}  \d+ of 10 busy", frame[2]) for frame in frames), frames
