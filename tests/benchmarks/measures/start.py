"""What a command costs before and beside its work: CPU seconds, beside an interpreter that does nothing."""

import csv
import sys
import wave
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from statistics import median

from tests.benchmarks.bench import PEERS, UPLOADER, Bench, Server
from tests.benchmarks.table import Must, Row, at_most

TURNS, QUICK_TURNS = 9, 1
INTERPRETER = "python -c pass"
INTERPRETER_SECONDS = 0.011
"""What the interpreter took where the goals in seconds were set; a slower machine is given as much more."""
HELP_SECONDS, SHOW_SECONDS, RUN_SECONDS = 0.08, 0.30, 0.45
Command = tuple[str | Path, ...]


def rows(bench: Bench) -> Iterator[Row]:
    """Each command in turn, turn after turn, so that what else the machine does meets all of them; the medians."""
    place = bench.place("start")
    with bench.sandbox(place, "--job-seconds", "0.1", "--job-seconds-per-mebibyte", "0") as server:
        _row_of_audio(place, "first")
        bench.uploader(place, "run", "first.csv", server=server).check()
        turns = range(QUICK_TURNS if bench.quick else TURNS)
        took = [_turn(bench, place, server, turn) for turn in turns]
    seconds = {name: median(one[name] for one in took) for name in took[0]}
    ours = {name: goal for name, (_, goal) in _ours(0).items()}
    for name, value in seconds.items():
        yield Row(
            figure="CPU seconds of a command",
            of=name,
            value=value,
            unit="s",
            beside=INTERPRETER if name in ours else "",
            ratio=value / seconds[INTERPRETER] if name in ours else None,
            must=_must(ours[name]) if name in ours else None,
            remarks=f"{ours[name]:.2f} s where the interpreter takes {INTERPRETER_SECONDS} s" if name in ours else "",
        )


def _must(goal: float) -> Must:
    return at_most(round(goal / INTERPRETER_SECONDS, 1))


def _peers() -> Mapping[str, Command]:
    return {
        INTERPRETER: (sys.executable, "-c", "pass"),
        "a bare click --help": (sys.executable, PEERS / "click_help.py", "--help"),
        "curl --version": ("curl", "--version"),
    }


def _ours(turn: int) -> Mapping[str, tuple[Command, float]]:
    """What is measured of ours, and the goal of each in seconds; every turn has a manifest of its own, as nights do."""
    return {
        "--version": (("--version",), HELP_SECONDS),
        "--help": (("--help",), HELP_SECONDS),
        "run --help": (("run", "--help"), HELP_SECONDS),
        "status": (("status",), SHOW_SECONDS),
        "results": (("results",), SHOW_SECONDS),
        "resolve": (("resolve",), SHOW_SECONDS),
        "plan of a row": (("plan", "first.csv"), SHOW_SECONDS),
        "run of a row, to its end": (("run", f"turn-{turn}.csv"), RUN_SECONDS),
    }


def _turn(bench: Bench, place: Path, server: Server, turn: int) -> dict[str, float]:
    _row_of_audio(place, f"turn-{turn}")

    def cpu(command: Sequence[str | Path]) -> float:
        return bench.run(place, "turn", *command, server=server).check().cpu_seconds

    peers = {name: cpu(command) for name, command in _peers().items()}
    return peers | {name: cpu((*UPLOADER, *words)) for name, (words, _) in _ours(turn).items()}


def _row_of_audio(place: Path, name: str) -> None:
    """A manifest of one row: a second of silence."""
    with wave.open(str(place / f"{name}.wav"), "wb") as recording:
        recording.setparams((1, 2, 8000, 0, "NONE", ""))
        recording.writeframes(bytes(16000))
    with (place / f"{name}.csv").open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([("conversationId", "audioPath"), (name, f"{name}.wav")])
