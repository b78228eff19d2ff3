"""A query parameter's type, encoding and remedy."""

from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from functools import cached_property, lru_cache
from typing import Any

from uploader.parameters.text import check_whole, read_json

_WORDS = {"true": True, "false": False}
_PLACES_SHOWN = 3
_CELLS_KEPT = 256


class Encoding(StrEnum):
    """The encoding of a value as text, in a CSV cell and percent-encoded in the query."""

    TEXT = "text as it is"
    WORD = "true or false"
    NUMBER = "a number"
    JSON = "JSON text"


@dataclass(frozen=True)
class Parameter:
    """A query parameter of the PUT (put-audio.md, Query Parameters).

    ``documented`` is the type's name in the documentation, ``shape`` a type of ``uploader.parameters.shapes``, imported
    where a value is checked; ``section`` is the main heading of put-audio.md about it; ``remedy`` ends the message that
    refuses a wrong value.
    """

    name: str
    documented: str
    shape: str
    rule: str
    encoding: Encoding
    section: str
    meaning: str
    remedy: str

    @property
    def type(self) -> Any:
        """The Python type that pydantic checks."""
        from uploader.parameters import shapes  # noqa: PLC0415 - most manifests set no parameter

        return getattr(shapes, self.shape)

    @cached_property
    def _validate(self) -> Callable[..., Any]:
        from pydantic import TypeAdapter  # noqa: PLC0415 - as above

        return TypeAdapter(self.type).validator.validate_python

    def read_cell(self, text: str) -> Any:
        """Parse the text of a CSV cell.

        Raises:
            ValueError: The value does not fit; the text describes a valid one.
        """
        return self.check(text) if self.encoding is Encoding.TEXT else self._read_once(text)

    @cached_property
    def _read_once(self) -> Callable[[str], Any]:
        """A cached parser of cells, because rows repeat the same texts."""
        return lru_cache(maxsize=_CELLS_KEPT)(lambda text: self.check(self._decode(text)))

    def check(self, value: Any) -> Any:
        """Check a native value from JSON or TOML.

        Returns:
            The value; a list or an object is the one that was given, with all its members.

        Raises:
            ValueError: The value does not fit; the text describes a valid one.
        """
        validate = self._validate
        try:
            checked = validate(value, strict=True)
        except ValueError as error:  # pydantic's own
            raise ValueError(self.remedy + _format_places(error)) from error
        return value if self.encoding is Encoding.JSON else checked

    def _decode(self, text: str) -> Any:
        if self.encoding is Encoding.WORD:  # table programs write TRUE
            return _WORDS.get(text.strip().lower(), text)
        try:
            value = read_json(text)
            # only an escape can spell half a character: the cell itself is UTF-8
            if "\\u" in text:
                check_whole(value)
        except ValueError as error:
            raise ValueError(f"{self.remedy} ({error})" if self.encoding is Encoding.JSON else self.remedy) from error
        return value


def _format_places(error: Any) -> str:
    """Format the places of errors in a list or an object; entries are counted from 1."""
    places = []
    for detail in error.errors(include_url=False, include_input=False):
        where = [f"entry {part + 1}" if isinstance(part, int) else _shown(part) for part in detail["loc"]]
        if where and isinstance(detail["loc"][0], int):
            places.append(f"{', '.join(where)}: {detail['msg'].removeprefix('Value error, ')}")
    more = ["…"] if len(places) > _PLACES_SHOWN else []
    return f" ({'; '.join([*places[:_PLACES_SHOWN], *more])})" if places else ""


def _shown(member: str) -> str:
    """Format a member's name for a message, shortened and escaped."""
    return member[:40] if member.isprintable() else ascii(member)[1:41]
