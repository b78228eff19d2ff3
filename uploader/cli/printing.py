"""Prints what a command says: the one place where text meets a terminal, so the one where it is escaped."""

import json
import sys
from collections.abc import Iterable
from typing import Any

from uploader.text import printable


def print_lines(lines: Iterable[str]) -> None:
    """Print lines for a person; what a terminal would obey, a line end in the middle of one too, is escaped."""
    sys.stdout.writelines(f"{printable(line)}\n" for line in lines)


def print_json(value: Any) -> None:
    """Print a JSON value for a machine, in ASCII."""
    sys.stdout.write(json.dumps(value) + "\n")


def print_error(text: str) -> None:
    """Print why a command failed; its lines are those that the program itself made."""
    sys.stderr.write("".join(f"{printable(line)}\n" for line in f"uploader: {text}".split("\n")))
