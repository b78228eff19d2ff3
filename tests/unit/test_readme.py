"""README and guides name what there is, and nothing else."""

import re
from pathlib import Path

import click
import pytest
from click.testing import CliRunner

from tests.benchmarks.__main__ import main as benchmarks
from tests.unit.test_architecture import ROWS
from uploader import parameters, results
from uploader.cli.commands import cli
from uploader.errors import ExitCode
from uploader.manifest import Manifest, columns
from uploader.model import Row, State
from uploader.policy.held_back import SlotUse
from uploader.sandbox import faults_file
from uploader.sandbox.faults import Faults

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")
GUIDES = {path.stem: path.read_text(encoding="utf-8") for path in sorted((ROOT / "uploader" / "docs").glob("*.md"))}
PAGES = "\n".join([README, *GUIDES.values()])
# flags of other programs that the README shows: docker's, curl's and the tests' own
OTHERS = {
    "--rm",
    "--user",
    "--read-only",
    "--tmpfs",
    "--cap-drop",
    "--build",
    "--build-arg",
    "--file",
    "--profile",
    "--filename",
    "--from-file",
    "--time",
    "--help",
    "--schedules",
    "--seed",
    "--count",
    "--processes",
    "--kills",
    "--nightly",
    "--real-start",
    "--parallel",
    "--retry",
}
BENCHMARKS = {name for option in benchmarks.params for name in option.opts}
GROUPS = {name: command for name, command in cli.commands.items() if isinstance(command, click.Group)}
# every command by its words, those of groups too
COMMANDS = {**cli.commands} | {
    f"{group} {name}": command for group, members in GROUPS.items() for name, command in members.commands.items()
}
OPTIONS = {name for command in COMMANDS.values() for option in command.params for name in option.opts}


@pytest.mark.parametrize("command", sorted(COMMANDS))
def test_every_command_is_shown(command: str) -> None:
    """README or guides show every command."""
    assert f"uploader {command}" in PAGES


def test_every_flag_that_is_shown_exists() -> None:
    """A flag in README and guides is one that some command takes."""
    shown = set(re.findall(r"(?<![\w-])--[a-z][a-z-]+", PAGES))
    assert shown - OPTIONS - BENCHMARKS - OTHERS == set()


@pytest.mark.parametrize("command", sorted(COMMANDS))
def test_every_option_explains_itself(command: str) -> None:
    """`--help` is complete: no option without a word on what it does."""
    options = [option for option in COMMANDS[command].params if isinstance(option, click.Option)]
    silent = [option.name for option in options if not option.help]
    assert silent == []


@pytest.mark.parametrize("command", COMMANDS)
def test_help_shows_its_examples_as_they_are_typed(command: str) -> None:
    """An example stands on a line of its own, and no mark of the help's writer is shown."""
    shown = CliRunner().invoke(cli, [*command.split(), "--help"]).output
    assert "\\b" not in shown
    assert not re.search(r"uploader \w.*  uploader ", shown)


def test_the_guide_has_every_parameter() -> None:
    """The guide's table says of each parameter what the one table says: name, rule and meaning, in its order."""
    shown = re.findall(
        r"^\| `(\w+)` \| (.+) \| (.+) \|$", GUIDES["manifest"].partition("| parameter |")[2], re.MULTILINE
    )
    expected = [(parameter.name, parameter.rule, parameter.meaning) for parameter in parameters.TABLE.values()]
    assert shown[: len(expected)] == expected


def test_the_guide_has_every_column() -> None:
    """And what stands beside them in a manifest."""
    shown = re.findall(r"^\| `(\S+)` \|", GUIDES["manifest"].partition("| parameter |")[0], re.MULTILINE)
    assert shown == [*columns.OWN_COLUMNS, "x-…"]


@pytest.mark.parametrize("command", ["run", "plan"])
def test_help_tells_every_column_of_a_manifest(command: str) -> None:
    """The help has each column of a manifest with its rule."""
    output = " ".join(CliRunner().invoke(cli, [command, "--help"], terminal_width=300).output.split())
    assert [name for name in columns.KNOWN_COLUMNS if name not in output] == []
    assert [
        parameter.name
        for parameter in parameters.TABLE.values()
        if f"{parameter.meaning} [{parameter.rule}]" not in output
    ] == []


def test_the_list_of_commands_breaks_off_in_no_sentence() -> None:
    """On a terminal of 80 columns each command's first sentence stands there whole."""
    output = (
        CliRunner().invoke(cli, ["--help"], terminal_width=80).output.partition("Commands:")[2].strip().splitlines()
    )
    assert [line.split()[0] for line in output] == sorted(cli.commands)
    assert [line for line in output if line.endswith("...")] == []


@pytest.mark.parametrize("page", [README, GUIDES["exit-codes"]])
def test_every_exit_code_is_told(page: str) -> None:
    """The tables have each code once, in order, and none beside."""
    shown = re.findall(r"^\| ([0-9, ]+) \|", page, re.MULTILINE)
    assert [int(code) for codes in shown for code in codes.split(", ")] == [int(code) for code in ExitCode]


def test_every_cause_of_an_idle_slot_is_told() -> None:
    """The guide's table has the causes that reports name."""
    shown = re.findall(r"^\| ((?:`\w+`(?:, )?)+) \|", GUIDES["limit"].partition("| cause |")[2], re.MULTILINE)
    named = {name for cell in shown for name in re.findall(r"`(\w+)`", cell)}
    assert named == {use.value for use in SlotUse} - {SlotUse.BUSY.value}


def test_every_module_of_the_house_is_told() -> None:
    """The guide's table has the modules that there are, and no other."""
    house = GUIDES["development"].partition("## How it is tested")[0]
    shown = re.findall(r"^\| ((?:`\w+`(?:, )?)+) \|", house, re.MULTILINE)
    assert {name for cell in shown for name in re.findall(r"`(\w+)`", cell)} == set(ROWS)


def test_every_fault_is_told() -> None:
    """The sandbox's guide names each key of a faults file, and its tables no other."""
    guide = GUIDES["sandbox"].partition("## Faults")[2]
    known = set(faults_file._TOP) | {key for rules in faults_file._TABLES.values() for key in rules}
    assert {key for key in known if not re.search(rf"\b{key}\b", guide)} == set()
    cells = re.findall(r"^\| (?:`\[\w+\]` )?\| (.+?) \|", guide.partition("| table |")[2], re.MULTILINE)
    assert {name for cell in cells for name in re.findall(r"`(\w+)", cell)} <= known


def blocks(page: str, language: str) -> list[str]:
    """Return the code blocks of a guide in one language."""
    found = re.findall(rf"```{language}\n(.*?)```", GUIDES[page], re.DOTALL)
    assert found
    return found


def test_the_faults_that_are_shown_are_taken(tmp_path: Path) -> None:
    """The guide's faults file is read by the sandbox."""
    for number, text in enumerate(blocks("sandbox", "toml")):
        path = tmp_path / f"{number}.toml"
        path.write_text(text, encoding="utf-8")
        assert faults_file.load_faults(path) != Faults()


def test_the_manifest_that_is_shown_is_valid(tmp_path: Path) -> None:
    """Each row of the guide's manifest can be run."""
    for number, text in enumerate(blocks("manifest", "csv")):
        path = tmp_path / f"{number}.csv"
        path.write_text(text, encoding="utf-8")
        rows = [*Manifest(path, "m", "csv", tmp_path, False, lambda *_: False, check_files=False).read()]
        assert [row for row in rows if not isinstance(row, Row) or row.warnings] == []
        assert len(rows) > 1


def test_the_results_that_are_shown_are_results(tmp_path: Path) -> None:
    """The guide's results file is read back, and has every column."""
    (text,) = blocks("doubt", "csv")
    path = tmp_path / "r.csv"
    path.write_text(text, encoding="utf-8")
    assert [line.state for line in results.read_lines(path)] == [State.COMPLETED]
    assert text.splitlines()[0].split(",")[: len(results.COLUMNS)] == [*results.COLUMNS]


def test_every_state_is_told() -> None:
    """The guide's table has the states that results may have, held among them."""
    shown = re.findall(r"^\| ((?:`\w+`(?:, )?)+) \|", GUIDES["doubt"].partition("| status |")[2], re.MULTILINE)
    assert {name for cell in shown for name in re.findall(r"`(\w+)`", cell)} == {state.value for state in State}
