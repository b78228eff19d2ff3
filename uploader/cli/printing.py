"""Prints text to the terminal, with control characters escaped."""

import json
import sys
from collections.abc import Iterable
from typing import Any

from uploader.text import printable


def print_lines(lines: Iterable[str], *, is_aside: bool = False) -> None:
    """Print lines, each with control characters and inner line ends escaped.

    Args:
        is_aside: Print to standard error, because standard output has something else.
    """
    stream = sys.stderr if is_aside else sys.stdout
    stream.writelines(f"{printable(line)}\n" for line in lines)


def print_json(value: Any, *, is_aside: bool = False) -> None:
    """Print a value as one line of ASCII JSON; ``is_aside``: to standard error."""
    (sys.stderr if is_aside else sys.stdout).write(json.dumps(value) + "\n")


def print_error(text: str) -> None:
    """Print a text to standard error, each of its lines escaped."""
    sys.stderr.write("".join(f"{printable(line)}\n" for line in text.split("\n")))
