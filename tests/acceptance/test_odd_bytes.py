"""Whatever bytes and numbers a command is given, it works or ends with 2 and words: never with a fault of ours."""

import os
import subprocess
import sys

import pytest

from tests.acceptance.place import Place
from tests.unit.recordings import recording

DIGITS = "9" * 5000
DEEP = "[" * 10_000 + "]" * 10_000
HEADER = "conversationId,audioPath\n"
RESULT = (
    '{{"conversationId":{conversation},"audioPath":"a.wav","jobId":{job},"status":"completed","attempts":{number},'
    '"httpStatus":201,"error":null,"bytes":{number},"durationSeconds":1,"channels":1,"billedSeconds":1,'
    '"acceptedAt":null,"finishedAt":null,"batch":"m","line":{number}}}\n'
)


@pytest.fixture
def place(place: Place) -> Place:
    """A place with a recording, a manifest, and a folder whose name is not UTF-8."""
    place.write("a.wav", recording())
    place.write("m.csv", f"{HEADER}1,a.wav\n")
    odd = place.path("b\udcff")
    odd.mkdir()
    for name in ("m.csv", "a.wav"):
        (odd / name).write_bytes(place.path(name).read_bytes())
    place.path("link").symlink_to(odd)
    return place


@pytest.mark.parametrize(
    "words",
    [
        ["run", "--sandbox", "b\udcff/m.csv"],
        ["plan", "b\udcff/m.csv"],
        ["run", "--sandbox", "m.csv", "--results", "b\udcff.csv"],
        ["run", "--sandbox", "m.csv", "--summary", "b\udcff.json"],
        ["run", "--sandbox", "m.csv", "--batch", "b\udcff"],
        ["run", "--sandbox", "m.csv", "--audio-root", "b\udcff"],
        ["run", "--sandbox", "m.csv", "--results", "link/r.csv"],
        ["run", "--sandbox", "link/m.csv"],
        ["status", "--ledger", "sqlite:////tmp/b\udcff.db"],
        ["plan", "m.csv", "--config", "b\udcff.toml"],
    ],
)
def test_a_name_that_is_not_utf_8_is_refused_in_words(place: Place, words: list[str]) -> None:
    """The ledger, the results and the log could not hold it."""
    ending = place.run(*words)
    assert ending.code == 2, ending.err
    assert "not UTF-8" in ending.err


@pytest.mark.parametrize(
    "config",
    [
        f"limit = {DIGITS}",
        f"limit = 0x{DIGITS}",
        f"give_up_seconds = {DIGITS}.5",
        f"[parameters]\ntrackers = {DEEP}",
        b"a = '\xff'",
    ],
)
def test_a_config_file_without_bounds_is_refused_in_words(place: Place, config: str | bytes) -> None:
    """Numbers of thousands of digits, nesting of thousands of levels, bytes that are no text."""
    place.write("c.toml", config)
    ending = place.run("plan", "m.csv", "--config", "c.toml")
    assert ending.code == 2, ending.err
    assert "config file c.toml" in ending.err


@pytest.mark.parametrize(
    "words",
    [
        ["--line", "9" * 23],
        ["--item", DIGITS],
        ["--since", "0001-01-01T00:00:00+23:59"],
        ["--until", "9999-12-31T23:59:59-23:59"],
    ],
)
def test_a_number_or_time_that_no_ledger_holds_is_refused_in_words(place: Place, words: list[str]) -> None:
    """Lines, items and times beyond what can be computed with."""
    assert place.run("run", "--sandbox", "m.csv").code == 0
    ending = place.run("resolve", "--retry", *words)
    assert ending.code == 2, ending.err


@pytest.mark.parametrize(
    ("conversation", "job", "number"),
    [
        ("[[]]", '"j"', "1"),
        ("null", '"j"', "1"),
        ("5", '"j"', "1"),
        ('"1"', "1.5", "1"),
        ('"1"', '"j"', "9" * 30),
        ('"1"', '"j"', DIGITS),
        ('"1"', '"j"', "1e999"),
    ],
)
def test_results_that_hold_what_no_results_hold_are_refused_in_words(
    place: Place, conversation: str, job: str, number: str
) -> None:
    """`adopt` takes back what the uploader wrote, and nothing else."""
    place.write("r.jsonl", RESULT.format(conversation=conversation, job=job, number=number))
    ending = place.run("ledger", "adopt", "r.jsonl")
    assert ending.code == 2, ending.err
    assert "holds no results of the uploader" in ending.err


def test_a_plan_whose_reader_has_enough_ends_quietly(place: Place) -> None:
    """As with `head`: nothing on standard error, and no code of a run that gave up."""
    place.write("m.csv", HEADER + "".join(f"{number},none{number}.wav\n" for number in range(3000)))
    read, write = os.pipe()
    os.close(read)
    command = [sys.executable, "-m", "uploader", "plan", "--all", "m.csv"]
    ended = subprocess.run(
        command, cwd=place.folder, env=place.environment, stdout=write, stderr=subprocess.PIPE, check=False
    )
    os.close(write)
    assert (ended.returncode, ended.stderr) == (0, b"")
