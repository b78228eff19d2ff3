"""The PUT's query parameters: their types, rules and encoding."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from pydantic import TypeAdapter, ValidationError

from uploader.errors import UsageError

CONTENT_TYPES = ("audio/wav", "audio/wave", "audio/mpeg", "audio/mp3")
"""The media types that the Content-Type header may name (put-audio.md, Request Headers)."""


@dataclass(frozen=True)
class Parameter:
    """One query parameter of the PUT (put-audio.md, Query Parameters).

    ``type`` is a Python type with its constraints, as pydantic reads it; ``remedy`` ends the sentence that
    refuses a wrong value.
    """

    name: str
    type: Any
    meaning: str
    remedy: str

    @cached_property
    def _adapter(self) -> TypeAdapter[Any]:
        return TypeAdapter(self.type)

    def parse(self, value: Any) -> Any:
        """Read a value as the manifest or the config gives it.

        Args:
            value: Text from a CSV cell (JSON text for anything but text), or a native JSON or TOML value.

        Returns:
            The value in its own type.

        Raises:
            ValueError: The value does not fit; the text says what would.
        """
        try:
            if self.type is not str and isinstance(value, str):
                return self._adapter.validate_json(value, strict=True)
            return self._adapter.validate_python(value, strict=True)
        except ValidationError as error:
            raise ValueError(self.remedy) from error

    @staticmethod
    def encode(value: Any) -> str:
        """Write a value as the query carries it: text as it is, everything else as compact JSON text."""
        if isinstance(value, str):
            return value
        return json.dumps(value, ensure_ascii=False, separators=(",", ":"))


TABLE: Mapping[str, Parameter] = {
    parameter.name: parameter
    for parameter in (
        Parameter(
            name="name",
            type=str,
            meaning="the meeting's name; the service takes the conversationId where it is not set",
            remedy="write the meeting's name as text",
        ),
    )
}
"""Every parameter that a manifest's column or the config's [parameters] may set."""


def check_defaults(defaults: Mapping[str, Any], source: str) -> dict[str, Any]:
    """Read the config's ``[parameters]``.

    Args:
        defaults: The table as the config file has it.
        source: What to call the file in an error.

    Raises:
        UsageError: A key that is no parameter, or a value that does not fit.
    """
    checked: dict[str, Any] = {}
    for name, value in defaults.items():
        parameter = TABLE.get(name)
        if parameter is None:
            raise UsageError(f"{source}: [parameters] {name}: no such parameter; known are: {', '.join(TABLE)}")
        try:
            checked[name] = parameter.parse(value)
        except ValueError as error:
            raise UsageError(f"{source}: [parameters] {name} = {value!r}: {error}") from error
    return checked


def query(values: Mapping[str, Any], defaults: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Put a row's parameters over the config's and encode them, in the table's order."""
    merged = {**defaults, **values}
    return [(name, TABLE[name].encode(merged[name])) for name in TABLE if name in merged]
