"""One query parameter: what it may be, how it is written, and what to say of a wrong value."""

from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from functools import cached_property, lru_cache
from typing import Any

from uploader.parameters.text import check_whole, read_json

_WORDS = {"true": True, "false": False}
_PLACES_TOLD = 3
_CELLS_KEPT = 256


class Encoding(StrEnum):
    """How a value is written as text: in a CSV cell, and percent-encoded in the query."""

    TEXT = "text as it is"
    WORD = "true or false"
    NUMBER = "a number"
    JSON = "JSON text"


@dataclass(frozen=True)
class Parameter:
    """One query parameter of the PUT (put-audio.md, Query Parameters).

    ``documented`` is the type's name in the documentation, ``shape`` that of a Python type with its rule, which is
    imported from ``uploader.parameters.shapes`` where a value is checked; ``section`` is the heading of put-audio.md
    that tells most of it; ``remedy`` ends the sentence that
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
        """The Python type, as pydantic reads it."""
        from uploader.parameters import shapes  # noqa: PLC0415 - most manifests set no parameter

        return getattr(shapes, self.shape)

    @cached_property
    def _validate(self) -> Callable[..., Any]:
        from pydantic import TypeAdapter  # noqa: PLC0415 - as above

        return TypeAdapter(self.type).validator.validate_python

    def read_cell(self, text: str) -> Any:
        """Read the text of a CSV cell.

        Raises:
            ValueError: It does not fit; the text says what would.
        """
        return self.check(text) if self.encoding is Encoding.TEXT else self._read_once(text)

    @cached_property
    def _read_once(self) -> Callable[[str], Any]:
        """Reads a cell; the same text in row after row is read once."""
        return lru_cache(maxsize=_CELLS_KEPT)(lambda text: self.check(self._decode(text)))

    def check(self, value: Any) -> Any:
        """Check a native value, as JSON or TOML give it.

        Returns:
            The value; a list or an object is the one that was given, with all its members.

        Raises:
            ValueError: It does not fit; the text says what would.
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
    """Where in a list or an object it is wrong; entries are counted from 1."""
    places = []
    for detail in error.errors(include_url=False, include_input=False):
        where = [f"entry {part + 1}" if isinstance(part, int) else _shown(part) for part in detail["loc"]]
        if where and isinstance(detail["loc"][0], int):
            places.append(f"{', '.join(where)}: {detail['msg'].removeprefix('Value error, ')}")
    more = ["…"] if len(places) > _PLACES_TOLD else []
    return f" ({'; '.join([*places[:_PLACES_TOLD], *more])})" if places else ""


def _shown(member: str) -> str:
    """A member's name as it can be printed, whatever stands in it."""
    return member[:40] if member.isprintable() else ascii(member)[1:41]
