"""Checks of settings: each converts a given value, or raises UnfitError with the remedy."""

import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Literal, TypeVar

# converts the value of a flag, a variable or the config file; raises UnfitError where it does not fit
Check = Callable[[Any], Any]

AUTO = "auto"
"""The value of a number that follows the account."""

_TRUE = frozenset({"1", "on", "t", "true", "y", "yes"})
_FALSE = frozenset({"0", "off", "f", "false", "n", "no"})


N = TypeVar("N", int, float)


def unless_auto(value: N | Literal["auto"]) -> N | None:
    """Return a number that a person has set; None where it follows the account."""
    return None if isinstance(value, str) else value


class UnfitError(ValueError):
    """A value that does not fit, with its remedy."""

    def __init__(self, remedy: str, value: Any) -> None:
        super().__init__(remedy)
        self.value = value


class Secret:
    """A text that its repr hides."""

    __slots__ = ("_text",)

    def __init__(self, text: str) -> None:
        self._text = text

    def get_secret_value(self) -> str:
        """Return the text."""
        return self._text

    def __repr__(self) -> str:
        """Return asterisks in place of the text."""
        return "Secret('**********')"


def text(value: Any) -> str:
    """Check a text, which may be empty."""
    if not isinstance(value, str):
        raise UnfitError("write it as text, in quotes", value)
    return value


def some_text(value: Any) -> str:
    """Check a text of at least one character."""
    if not text(value):
        raise UnfitError("it is empty: write at least 1 character", value)
    return str(value)


def path(value: Any) -> Path:
    """Convert the path of a file or folder."""
    if not isinstance(value, (str, Path)):
        raise UnfitError("write a path as text, in quotes", value)
    return Path(value)


def secret(value: Any) -> Secret:
    """Convert a secret."""
    return value if isinstance(value, Secret) else Secret(text(value))


def secret_as(read: Callable[[str], str]) -> Check:
    """Make a check that converts a secret by a function, whose ValueError has the remedy and not the secret."""

    def check(value: Any) -> Secret:
        try:
            return Secret(read(secret(value).get_secret_value()))
        except UnfitError:
            raise
        except ValueError as error:
            raise UnfitError(str(error), "") from None

    return check


def switch(value: Any) -> bool:
    """Convert a truth value, which the environment gives as a word."""
    word = value.lower() if isinstance(value, str) else str(value) if value in (0, 1) else ""
    if isinstance(value, bool) or word in _TRUE | _FALSE:
        return value is True or word in _TRUE
    raise UnfitError("write true or false", value)


def mapping(value: Any) -> Mapping[str, Any]:
    """Check a table with any keys."""
    if not isinstance(value, Mapping):
        raise UnfitError("write a table of keys and values", value)
    return value


def number(*, above: float = -math.inf, least: float = -math.inf, most: float = math.inf) -> Check:
    """Make a check of a finite number within these bounds."""
    return _number(float, "write a number", above, least, most)


def whole_number(*, least: float = -math.inf, most: float = math.inf) -> Check:
    """Make a check of a whole number within these inclusive bounds."""
    return _number(_whole, "write a whole number", -math.inf, least, most)


def choice(*choices: str | int) -> Check:
    """Make a check for one of these values."""
    quoted = [repr(option) for option in choices]
    remedy = f"write {', '.join(quoted[:-1])} or {quoted[-1]}"

    def check(value: Any) -> Any:
        if isinstance(value, bool) or not isinstance(value, (str, int)) or value not in choices:
            raise UnfitError(remedy, value)
        return value

    return check


def auto_or(check: Check) -> Check:
    """Accept the word auto, or what another check accepts."""

    def check_auto(value: Any) -> Any:
        if isinstance(value, str) and value.strip().lower() == AUTO:
            return AUTO
        try:
            return check(value)
        except UnfitError as error:
            raise UnfitError(f"{error}, or auto", value) from error

    return check_auto


def listing(entry: Check) -> Check:
    """Make a check of a list, with this check for each entry."""

    def check(value: Any) -> tuple[Any, ...]:
        if not isinstance(value, (list, tuple)):
            raise UnfitError("write a list, in brackets", value)
        return tuple(entry(element) for element in value)

    return check


def text_as(read: Callable[[str], str]) -> Check:
    """Make a check that converts a text by a function, whose ValueError has the remedy."""

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
