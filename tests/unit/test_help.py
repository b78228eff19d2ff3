"""`uploader help`: every guide is a file of the package, listed with its title, and shown as it is."""

import re
import shlex
from pathlib import Path

import click
import pytest
from click.testing import CliRunner

from uploader.cli.commands import cli
from uploader.cli.guides import FOLDER, render, topics

ROOT = Path(__file__).parents[2]
GUIDES = {path.stem: path.read_text(encoding="utf-8") for path in sorted(FOLDER.glob("*.md"))}
PAGES = {"README": (ROOT / "README.md").read_text(encoding="utf-8"), **GUIDES}


def shown(*words: str) -> str:
    """Return what `uploader help WORDS` prints."""
    ended = CliRunner().invoke(cli, ["help", *words])
    assert ended.exit_code == 0, ended.output
    return ended.output


def test_the_topics_are_listed_with_a_line_each() -> None:
    """Every guide is there, by the name that `help` takes, with its title."""
    lines = [line.split(maxsplit=1) for line in shown().splitlines() if line.startswith("  ")]
    assert lines == [[topic, text.splitlines()[0].removeprefix("# ")] for topic, text in GUIDES.items()]
    assert topics().keys() == GUIDES.keys()


def test_the_list_fits_a_terminal() -> None:
    """80 columns are enough for it."""
    assert [line for line in shown().splitlines() if len(line) > 100] == []


@pytest.mark.parametrize("topic", GUIDES)
def test_a_guide_is_shown_as_it_is(topic: str) -> None:
    """Where no terminal reads it, the file's own text comes out."""
    assert shown(topic) == GUIDES[topic]


@pytest.mark.parametrize("topic", GUIDES)
def test_a_guide_is_rendered_for_a_terminal(topic: str) -> None:
    """No line is wider than can be read, and no mark of Markdown's is left of a heading or a table."""
    lines = click.unstyle(render(GUIDES[topic], 80)).splitlines()
    assert [line for line in lines if len(line) > 80] == []
    assert [line for line in lines if line.startswith(("# ", "|---"))] == []


@pytest.mark.parametrize("words", [["run"], ["ledger", "check"]])
def test_a_commands_help_is_shown(words: list[str]) -> None:
    """`help run` is `run --help`."""
    assert shown(*words) == CliRunner().invoke(cli, [*words, "--help"], prog_name="uploader").output


def every_command() -> list[list[str]]:
    """List the words of every command."""
    inner = {name: command.commands for name, command in cli.commands.items() if isinstance(command, click.Group)}
    return [[name] for name in cli.commands if name not in inner] + [
        [name, own] for name in inner for own in inner[name]
    ]


@pytest.mark.parametrize("words", every_command(), ids=" ".join)
def test_the_help_of_each_command_has_an_example_that_can_be_read(words: list[str]) -> None:
    """It is a line of that command, with options that it has."""
    told = CliRunner().invoke(cli, [*words, "--help"]).output
    example = re.search(rf"^ +Examples?\b.*:\n +uploader {' '.join(words)} ?(.*)$", told, re.MULTILINE)
    assert example is not None
    command = cli.commands[words[0]]
    command = command.commands[words[1]] if isinstance(command, click.Group) else command
    command.make_parser(click.Context(command)).parse_args(shlex.split(example[1]))


def test_the_options_that_matter_stand_first_in_the_help_of_a_run() -> None:
    """Ten of them, and the rest below headings."""
    told = CliRunner().invoke(cli, ["run", "--help"]).output
    first = re.findall(r"^  (?:-h, )?--([a-z-]+)", told.partition("Options:\n")[2].partition("\n\n")[0], re.MULTILINE)
    wanted = "config ledger batch results base-url limit audio-root on-invalid first sandbox json help"
    assert first == wanted.split()
    headings = re.findall(r"^([A-Z][a-z ,]+):$", told, re.MULTILINE)
    assert headings.index("Options") == 0
    assert headings.index("Pace and connections") > 0


def test_an_unknown_topic_is_told_with_those_that_there_are() -> None:
    """Exit 2, and the list."""
    ended = CliRunner().invoke(cli, ["help", "no-such-thing"])
    assert ended.exit_code == 2
    assert all(topic in ended.output for topic in GUIDES)


@pytest.mark.parametrize("page", PAGES)
def test_every_link_leads_somewhere(page: str) -> None:
    """A link between README and guides names a file that is there."""
    folder = ROOT if page == "README" else FOLDER
    linked = re.findall(r"\]\(([^)#]+)", PAGES[page])
    assert [link for link in linked if not link.startswith("https://") and not (folder / link).exists()] == []


def test_the_readme_links_every_guide() -> None:
    """With the topic that `uploader help` takes."""
    linked = re.findall(r"\(uploader/docs/([\w-]+)\.md\) \(`uploader help ([\w-]+)`\)", PAGES["README"])
    assert [topic for topic, _ in linked] == [topic for _, topic in linked] == [*GUIDES]


def test_the_readme_is_short() -> None:
    """All else is in the guides."""
    assert len(PAGES["README"].splitlines()) <= 160


def commands() -> list[tuple[str, str]]:
    """Return every command line of uploader that README and guides show, with the page."""
    blocks = [
        (page, block) for page, text in PAGES.items() for block in re.findall(r"```console\n(.*?)```", text, re.DOTALL)
    ]
    joined = [(page, line) for page, block in blocks for line in block.replace("\\\n", " ").splitlines()]
    nightly = [
        (page, line.split(maxsplit=5)[5])
        for page, text in PAGES.items()
        for block in re.findall(r"```crontab\n(.*?)```", text, re.DOTALL)
        for line in block.splitlines()
        if line[0].isdigit()
    ]
    assert nightly
    typed = nightly + [(page, line.removeprefix("$ ").split(" #")[0]) for page, line in joined if line.startswith("$ ")]
    parts = [(page, part.strip()) for page, line in typed for part in re.split(r"&&|;", line)]
    return [(page, part) for page, part in parts if re.match(r"(\S+/)?uploader ", part)]


@pytest.mark.parametrize(("page", "command"), commands())
def test_every_command_that_is_shown_can_be_typed(page: str, command: str) -> None:
    """Its words are taken as the command line takes them: commands, options and their arguments are there."""
    words = shlex.split(re.sub(r"\$\(.*?\)", "x", command))[1:]
    assert words, page
    group: click.Command = cli
    context = click.Context(cli, info_name="uploader")
    while isinstance(group, click.Group):
        name = words.pop(0)
        found = group.get_command(context, name)
        assert found is not None, f"{page}: {command}: no command {name}"
        group = found
    group.make_context(group.name, words, parent=context)


def test_commands_are_found() -> None:
    """The search that finds no wrong one finds those that there are."""
    assert len(commands()) > 15
