"""A command that is forked from a warm interpreter is the command that a new interpreter runs."""

import re
import signal
from dataclasses import replace
from pathlib import Path

import pytest

from tests.acceptance.place import Place, base_environment
from tests.acceptance.starting import Forked, ForkServer, NewInterpreter, Start


@pytest.fixture
def places(tmp_path: Path, starts: Start) -> tuple[Place, Place]:
    """Two places with equal files: one forks its commands, the other starts new interpreters."""
    if not isinstance(starts, ForkServer):
        pytest.skip("every command is a new interpreter here")
    made = []
    for name, how in (("forked", starts), ("new", NewInterpreter)):
        tmp_path.joinpath(name).mkdir()
        place = Place(tmp_path / name, starts=how)
        place.environment.update(HOME="/nowhere", XDG_STATE_HOME="/nowhere/state")
        place.write("m.csv", "conversationId,audioPath\none,missing.wav\n")
        made.append(place)
    return made[0], made[1]


@pytest.mark.parametrize(
    "arguments",
    [("--version",), ("run", "--help"), ("plan", "m.csv"), ("plan", "-"), ("run",), ("status",)],
    ids=" ".join,
)
def test_both_say_and_answer_the_same(places: tuple[Place, Place], arguments: tuple[str, ...]) -> None:
    """The same code, output and errors: arguments, folder, environment and standard input are the command's own."""
    stdin = b"conversationId,audioPath\none,\n"
    forked, new = (place.run(*arguments, stdin=stdin, environment={"COLUMNS": "100"}) for place in places)
    own = re.compile(r'"(run|timestamp)": "[^"]+"')  # of each run another
    assert replace(forked, err=own.sub("", forked.err)) == replace(new, err=own.sub("", new.err))


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL, signal.SIGHUP])
def test_both_end_the_same_by_a_signal(places: tuple[Place, Place], number: signal.Signals) -> None:
    """A signal has the same effect and exit code for a forked and for a newly started command."""
    codes = []
    for place in places:
        server = place.serve()
        server.running.pause()
        server.running.go_on()
        codes.append(server.running.stop(number).code)
    assert codes[0] == codes[1]


def test_what_an_interpreter_reads_at_its_start_needs_a_new_one(tmp_path: Path, starts: Start) -> None:
    """A variable that a fork would not see any more, or a wrapper before the command, is never forked."""
    if not isinstance(starts, ForkServer):
        pytest.skip("every command is a new interpreter here")
    place = Place(tmp_path, starts=starts)
    base = base_environment()
    kinds = [
        type(place.start("--version", environment=more, before=before).process)
        for more, before in [({}, ()), ({"PYTHONUTF8": "0"}, ()), ({"LANG": "C"}, ()), ({}, ("env",)), (base, ())]
    ]
    place.close()
    assert kinds == [Forked, NewInterpreter, NewInterpreter, NewInterpreter, Forked]
