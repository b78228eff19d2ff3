"""Reads TOML of people, and refuses what could not be told or computed with: numbers and nesting without bounds."""

from typing import Any

DEEPEST = 64
_WIDEST_BITS = 14_000
"""A whole number of more, some four thousand digits, cannot be shown: Python writes it no more than it reads it."""


def read(text: str) -> dict[str, Any]:
    """Read TOML.

    Raises:
        ValueError: It is none; the text says why.
    """
    import tomllib  # noqa: PLC0415 - of use where there is a file

    try:
        table = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise ValueError(f"no TOML: {error}") from error
    except ValueError as error:  # Python reads no number of thousands of digits
        raise ValueError("no TOML: a number in it has too many digits") from error
    except RecursionError as error:
        raise ValueError("no TOML: nested too deep") from error
    check_bounds(table)
    return table


def check_bounds(value: Any) -> None:
    """See that no number in a value has thousands of digits, and that its nesting ends.

    Raises:
        ValueError: It has; the text says which.
    """
    layer = [value]
    for _ in range(DEEPEST):
        if not layer:
            return
        if any(isinstance(entry, int) and entry.bit_length() > _WIDEST_BITS for entry in layer):
            raise ValueError("a number in it has too many digits")
        lists = [
            list(entry.values()) if isinstance(entry, dict) else entry
            for entry in layer
            if isinstance(entry, (dict, list))
        ]
        layer = [entry for entries in lists for entry in entries]
    if layer:
        raise ValueError(f"nested deeper than {DEEPEST} levels")
