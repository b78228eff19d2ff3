"""Finds a key's line in a config file."""

import re
import tomllib
from collections.abc import Mapping, Sequence
from typing import Any


def line_of(text: str, location: Sequence[str]) -> int | None:
    """Find the line of a key; None where it is not certain.

    The right line is the one on which another name in the key's place takes the key out of the file. So a lookalike in
    a comment, a multi-line text or another table is not mistaken for it.

    Args:
        text: A TOML file.
        location: The names of the key's tables, then the key.
    """
    lines = text.split("\n")
    key = re.compile(rf"(?<![\w-]){re.escape(location[-1])}(?![\w-])")
    for at, line in enumerate(lines):
        renamed = key.sub(lambda found: f"{found[0]}-by-another-name", line, count=1)
        if renamed != line and not _has("\n".join([*lines[:at], renamed, *lines[at + 1 :]]), location):
            return at + 1
    return None


def _has(text: str, location: Sequence[str]) -> bool:
    try:
        found: Any = tomllib.loads(text)
    except tomllib.TOMLDecodeError:
        return True  # the line has no key, or the test is inconclusive
    for name in location:
        if not isinstance(found, Mapping) or name not in found:
            return False
        found = found[name]
    return True
