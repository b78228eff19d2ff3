"""The checks of a setting: each turns what a source gives into the setting's value, or says what to write instead."""

import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

Check = Callable[[Any], Any]
"""Takes what a flag, a variable or the config file gives; raises UnfitError where it does not fit."""

_TRUE = frozenset({"1", "on", "t", "true", "y", "yes"})
_FALSE = frozenset({"0", "off", "f", "false", "n", "no"})


class UnfitError(ValueError):
    """A value that does not fit, and what to write instead."""

    def __init__(self, remedy: str, value: Any) -> None:
        super().__init__(remedy)
        self.value = value


class Secret:
    """A text that no repr shows."""

    __slots__ = ("_text",)

    def __init__(self, text: str) -> None:
        self._text = text

    def get_secret_value(self) -> str:
        """The text itself."""
        return self._text

    def __repr__(self) -> str:
        """Stars in its place."""
        return "Secret('**********')"


def text(value: Any) -> str:
    """Text, which may be empty."""
    if not isinstance(value, str):
        raise UnfitError("write it as text, in quotes", value)
    return value


def some_text(value: Any) -> str:
    """Text of at least one character."""
    if not text(value):
        raise UnfitError("it is empty: write at least 1 character", value)
    return str(value)


def path(value: Any) -> Path:
    """The path of a file or folder."""
    if not isinstance(value, (str, Path)):
        raise UnfitError("write a path as text, in quotes", value)
    return Path(value)


def secret(value: Any) -> Secret:
    """A secret."""
    return Secret(text(value))


def switch(value: Any) -> bool:
    """True or false; the environment has words for it."""
    word = value.lower() if isinstance(value, str) else str(value) if value in (0, 1) else ""
    if isinstance(value, bool) or word in _TRUE | _FALSE:
        return value is True or word in _TRUE
    raise UnfitError("write true or false", value)


def mapping(value: Any) -> Mapping[str, Any]:
    """A table of which any key will do."""
    if not isinstance(value, Mapping):
        raise UnfitError("write a table of keys and values", value)
    return value


def number(*, above: float = -math.inf, least: float = -math.inf, most: float = math.inf) -> Check:
    """A finite number above, at least, at most these."""
    return _number(float, "write a number", above, least, most)


def whole_number(*, least: float = -math.inf, most: float = math.inf) -> Check:
    """A whole number within these bounds, which are allowed."""
    return _number(_whole, "write a whole number", -math.inf, least, most)


def choice(*choices: str | int) -> Check:
    """One of these."""
    quoted = [repr(option) for option in choices]
    remedy = f"write {', '.join(quoted[:-1])} or {quoted[-1]}"

    def check(value: Any) -> Any:
        if isinstance(value, bool) or not isinstance(value, (str, int)) or value not in choices:
            raise UnfitError(remedy, value)
        return value

    return check


def listing(entry: Check) -> Check:
    """A list of which each entry fits."""

    def check(value: Any) -> tuple[Any, ...]:
        if not isinstance(value, (list, tuple)):
            raise UnfitError("write a list, in brackets", value)
        return tuple(entry(element) for element in value)

    return check


def text_as(read: Callable[[str], str]) -> Check:
    """A text that this function reads, or refuses with a ValueError that says what to write."""

    def check(value: Any) -> str:
        try:
            return read(text(value))
        except UnfitError:
            raise
        except ValueError as error:
            raise UnfitError(str(error), value) from error

    return check


def _number(read: Callable[[Any], float], asked: str, above: float, least: float, most: float) -> Check:
    if above > -math.inf:
        remedy = f"{asked} above {above:g}" + ("" if most == math.inf else f", {most:.0f} at most")
    else:
        remedy = f"{asked} of {least:g} or more" if most == math.inf else f"{asked} from {least:g} to {most:.0f}"

    def check(value: Any) -> float:
        try:
            found = read(value) if isinstance(value, (str, int, float)) and not isinstance(value, bool) else math.nan
        except (ValueError, OverflowError):
            found = math.nan
        if not (above < found and least <= found <= most and math.isfinite(found)):  # nan is in no order
            raise UnfitError(remedy, value)
        return found

    return check


def _whole(value: str | float) -> int:
    if isinstance(value, str):
        return int(value.strip().removesuffix(".0"))  # table programs write whole numbers so
    if value != int(value):
        raise ValueError("no whole number")
    return int(value)
