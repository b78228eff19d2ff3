"""Values as text, read and written strictly."""

import json
import re
from collections.abc import Sequence
from typing import Any, NoReturn

# JSON can spell lone surrogates, which neither the ledger nor the service nor the results can hold
_HALF_CHARACTER = re.compile("[\ud800-\udfff]")

# the deepest nesting; no parameter needs more, and not every writer supports it
_DEEPEST = 64


def encode(value: Any) -> str:
    """Encode a value for the query: text unchanged, everything else as compact JSON.

    Raises:
        ValueError: The value has no JSON form (not a number, infinity, a date).
    """
    if isinstance(value, str):
        return value
    return _TO_JSON.encode(value)


def check_whole(value: Any) -> None:
    """Check that a value can be encoded and has no lone surrogate.

    Raises:
        ValueError: The value has no JSON form, or a text in it has a lone surrogate.
    """
    try:
        text = encode(value)
    except (TypeError, RecursionError) as error:
        raise ValueError("write text, a number, true, false, a list or a table of these") from error
    if not text.isascii() and _HALF_CHARACTER.search(text):
        raise ValueError("half a character stands in it: write it whole")


def read_json(text: str) -> Any:
    """Parse JSON strictly: no repeated member, no NaN, no number beyond a float, bounded nesting.

    Raises:
        ValueError: The text is no such JSON; the message says why.
    """
    try:
        value = _FROM_JSON.decode(text)
    except json.JSONDecodeError as error:
        place = "" if error.lineno == 1 else f"line {error.lineno}, "
        raise ValueError(f"no JSON: {error.msg} at {place}character {error.colno}") from error
    except RecursionError as error:
        raise ValueError("no JSON: nested too deep") from error
    if text.count("[") + text.count("{") > _DEEPEST and _is_deeper(value, _DEEPEST):
        raise ValueError(f"nested deeper than {_DEEPEST} levels")
    return value


def _is_deeper(value: Any, levels: int) -> bool:
    """Return True where lists and objects are nested deeper than that, without recursion."""
    layer = [value]
    for _ in range(levels + 1):
        inner = [
            list(entry.values()) if isinstance(entry, dict) else entry
            for entry in layer
            if isinstance(entry, (dict, list))
        ]
        layer = [entry for entries in inner for entry in entries]
    return bool(layer)


def _members(pairs: Sequence[tuple[str, Any]]) -> dict[str, Any]:
    members = dict(pairs)
    if len(members) < len(pairs):
        names = [name for name, _ in pairs]
        twice = sorted({name for name in names if names.count(name) > 1})
        raise ValueError(f"{', '.join(ascii(name)[1:-1] for name in twice)} stands there twice: keep one")
    return members


def _finite(text: str) -> float:
    number = float(text)
    if number in (float("inf"), float("-inf")):
        raise ValueError(f"{text[:40]} is too large a number")
    return number


def _whole(text: str) -> int:
    try:
        return int(text)
    except ValueError as error:  # Python reads none of thousands of digits
        raise ValueError(f"{text[:40]}… is too large a number") from error


def _no_number(word: str) -> NoReturn:
    raise ValueError(f"no JSON: {word} is no number")


_FROM_JSON = json.JSONDecoder(
    object_pairs_hook=_members, parse_float=_finite, parse_int=_whole, parse_constant=_no_number
)
_TO_JSON = json.JSONEncoder(ensure_ascii=False, separators=(",", ":"), allow_nan=False)
