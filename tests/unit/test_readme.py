"""The README names what there is, and nothing else."""

import re
from pathlib import Path

import click
import pytest

from uploader.cli.commands import cli

README = (Path(__file__).parents[2] / "README.md").read_text(encoding="utf-8")
OTHERS = {"--rm", "--schedules", "--seed", "--kills"}
"""Flags of other programs that the README shows: docker's and the tests' own."""
OPTIONS = {name for command in cli.commands.values() for option in command.params for name in option.opts}


@pytest.mark.parametrize("command", sorted(cli.commands))
def test_every_command_is_shown(command: str) -> None:
    """Who reads the README alone gets to know every command."""
    assert f"uploader {command}" in README


def test_every_flag_that_is_shown_exists() -> None:
    """A flag in the README is one that some command takes."""
    shown = set(re.findall(r"(?<![\w-])--[a-z][a-z-]+", README))
    assert shown - OPTIONS - OTHERS == set()


@pytest.mark.parametrize("command", sorted(cli.commands))
def test_every_option_explains_itself(command: str) -> None:
    """`--help` is complete: no option without a word on what it does."""
    options = [option for option in cli.commands[command].params if isinstance(option, click.Option)]
    silent = [option.name for option in options if not option.help]
    assert silent == []
