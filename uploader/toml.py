"""Reads TOML files, and refuses numbers and nesting without bounds."""

from typing import Any

DEEPEST = 64
# the most bits of a whole number; Python neither reads nor writes one of more than some four thousand digits
_WIDEST_BITS = 14_000


def read(text: str) -> dict[str, Any]:
    """Parse TOML.

    Raises:
        ValueError: The text is no TOML; the message says why.
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
    """Check that no number in a value has thousands of digits, and that its nesting ends.

    Raises:
        ValueError: A bound is exceeded; the message says which.
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
