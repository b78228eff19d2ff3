"""The units of systemd run a command that there is, and know which exit codes are no failure."""

import re
import shlex
import shutil
import subprocess
from pathlib import Path

import click
import pytest

from uploader import secrets
from uploader.cli.commands import cli
from uploader.errors import ExitCode
from uploader.settings import Settings, settings_of

CONFIG = Path(__file__).parents[2] / "config"
SERVICE, TIMER = CONFIG / "uploader.service", CONFIG / "uploader.timer"
ANALYZE = shutil.which("systemd-analyze")


def entries(path: Path) -> list[tuple[str, str]]:
    """Return the names and values of a unit, in order."""
    lines = [line for line in path.read_text(encoding="utf-8").splitlines() if re.match(r"\w+=", line)]
    return [(name, value) for name, _, value in (line.partition("=") for line in lines)]


def values(name: str) -> list[str]:
    """Return the values of a name in the service."""
    return [value for key, value in entries(SERVICE) if key == name]


def codes(name: str) -> set[ExitCode]:
    """Return the exit codes that a name in the service lists."""
    return {ExitCode(int(code)) for value in values(name) for code in value.split()}


def test_what_it_starts_can_be_typed() -> None:
    """Its words are taken by the command line, after the shell and systemd have had theirs."""
    (start,) = values("ExecStart")
    shell, flag, script = shlex.split(start)
    assert (shell, flag) == ("/bin/sh", "-c")
    words = shlex.split(re.sub(r"\$\(date \+%%F\)", "2026-11-28", script))
    assert words[:2] == ["exec", "/opt/uploader/bin/uploader"]
    command = cli.commands[words[2]]
    context = command.make_context(words[2], words[3:], parent=click.Context(cli, info_name="uploader"))
    assert context.params["manifest"] == "/data/calls-2026-11-28.csv"
    assert context.params["ledger_must_exist"] is True


def test_every_exit_code_has_its_way() -> None:
    """What is no failure, what waits for a person, and what is tried again: together all codes, each in one of them."""
    good = {ExitCode.DONE} | codes("SuccessExitStatus")
    waiting = codes("RestartPreventExitStatus")
    again = set(ExitCode) - good - waiting
    assert good == {ExitCode.DONE, ExitCode.NOT_NOW, ExitCode.TERMINATED}
    assert waiting == {ExitCode.NEEDS_PERSON, ExitCode.USAGE, ExitCode.CREDENTIALS, ExitCode.IN_DOUBT}
    assert again == {ExitCode.GAVE_UP, ExitCode.FAULT, ExitCode.HUNG_UP, ExitCode.INTERRUPTED}


def test_its_variables_and_secrets_are_those_that_are_read() -> None:
    """Each variable is a setting's, each credential a file that the secrets folder may have."""
    known = {secrets.variable(name) for name in settings_of(Settings)} | {secrets.FOLDER_VARIABLE}
    assert {value.partition("=")[0] for value in values("Environment")} <= known
    loaded = [value.partition(":")[0] for value in values("LoadCredential")]
    assert loaded == [
        secrets.variable(name).lower() for name in secrets.HIDDEN if name not in ("access_token", "status_token")
    ]


def test_the_stop_outlasts_the_grace_time() -> None:
    """A stop that kills before the uploads' grace is over would cost more than the time that it saves."""
    (seconds,) = values("TimeoutStopSec")
    assert float(seconds.removesuffix("s")) > Settings().grace_seconds + 10


@pytest.mark.skipif(ANALYZE is None, reason="systemd-analyze (Debian's package systemd) is not here")
def test_systemd_takes_the_units(tmp_path: Path) -> None:
    """Its own tool finds nothing to say about them."""
    assert ANALYZE is not None
    for path in (SERVICE, TIMER):
        # the program is not installed here
        text = path.read_text(encoding="utf-8").replace("User=uploader", "User=root")
        (tmp_path / path.name).write_text(text, encoding="utf-8")
    checked = subprocess.run(
        [ANALYZE, "verify", "--man=no", tmp_path / "uploader.timer"], capture_output=True, text=True, check=False
    )
    said = [line for line in checked.stderr.splitlines() if "uploader" in line]
    assert (checked.returncode, said) == (0, [])
