"""Says what a setting may be, in our own words, whatever the library that noticed a wrong value says."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, get_args

from pydantic import BaseModel
from pydantic.fields import FieldInfo

NO_WORDS = "this does not fit"
"""What is said of a kind of error that the table below lacks; a test sees to it that there is none."""


def remedy(kind: str, context: Mapping[str, Any], field: FieldInfo) -> str:
    """What may be given for a setting.

    Args:
        kind: The kind of pydantic's error.
        context: What pydantic says of it besides.
        field: The setting.
    """
    words = _WORDS.get(kind)
    return words(context, field) if words is not None else NO_WORDS


def field_at(model: type[BaseModel], location: Sequence[str]) -> FieldInfo:
    """The setting at a location: its name, in a table of its own after the table's."""
    field = model.model_fields[location[0]]
    table = field.annotation
    if len(location) > 1 and isinstance(table, type) and issubclass(table, BaseModel):
        return field_at(table, location[1:])
    return field


def _number(_: Mapping[str, Any], field: FieldInfo) -> str:
    is_whole = int in (field.annotation, *get_args(field.annotation))
    least = _bound(field, "ge")
    above = _bound(field, "gt")
    most = _bound(field, "le")
    told = "write a whole number" if is_whole else "write a number"
    if above is not None:
        return f"{told} above {above:g}" + ("" if most is None else f", {most:.0f} at most")
    if most is None:
        return f"{told} of {least:g} or more"
    return f"{told} from {least:g} to {most:.0f}"


def _bound(field: FieldInfo, name: str) -> float | None:
    return next((getattr(one, name) for one in field.metadata if hasattr(one, name)), None)


def _choice(context: Mapping[str, Any], _: FieldInfo) -> str:
    return f"write {context['expected']}"


def _own(context: Mapping[str, Any], _: FieldInfo) -> str:
    """Checks of ours say what to write themselves."""
    return str(context["error"])


def _always(words: str) -> Callable[[Mapping[str, Any], FieldInfo], str]:
    return lambda _context, _field: words


_WORDS: Mapping[str, Callable[[Mapping[str, Any], FieldInfo], str]] = {
    **dict.fromkeys(
        (
            *("int_parsing", "int_parsing_size", "int_type", "int_from_float", "float_parsing", "float_type"),
            *("finite_number", "greater_than", "greater_than_equal", "less_than_equal"),
        ),
        _number,
    ),
    **dict.fromkeys(("literal_error", "enum"), _choice),
    **dict.fromkeys(("bool_parsing", "bool_type"), _always("write true or false")),
    **dict.fromkeys(("dict_type", "model_type"), _always("write a table of keys and values")),
    "string_type": _always("write it as text, in quotes"),
    "string_too_short": _always("it is empty: write at least 1 character"),
    "path_type": _always("write a path as text, in quotes"),
    "tuple_type": _always("write a list, in brackets"),
    "value_error": _own,
}
"""The kinds of errors that the settings can meet."""
