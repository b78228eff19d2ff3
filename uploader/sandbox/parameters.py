"""Reads the documented query parameters of a PUT, and refuses others and malformed ones."""

import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final

from uploader.sandbox.request_target import SHOWN_CHARACTERS, Pairs

# reads a parameter's text; raises a ValueError that describes a valid one
Rule = Callable[[str], Any]
Check = Callable[[Any], bool]


def read(pairs: Pairs, allowed: frozenset[str] = frozenset()) -> dict[str, Any]:
    """Read a query's parameters in their own types.

    Args:
        pairs: Names and values, decoded.
        allowed: Names beside the documented ones; their values are any text.

    Raises:
        ValueError: A parameter is unknown, repeated or malformed, or lacks another; the text names it.
    """
    values: dict[str, Any] = {}
    for name, text in pairs:
        if name in values:
            raise ValueError(f"{name[:SHOWN_CHARACTERS]} stands more than once in the query: send it once")
        values[name] = _value(name, text, allowed)
    for name, enabler in _NEEDS.items():
        if name in values and values.get(enabler) is not True:
            raise ValueError(f"{name} only works with {enabler}=true: send both or neither")
    return values


def _value(name: str, text: str, allowed: frozenset[str]) -> Any:
    rule = _RULES.get(name, _any_text if name in allowed else _unknown)
    try:
        return rule(text)
    except ValueError as error:
        raise ValueError(f"{name[:SHOWN_CHARACTERS]}: {error}") from error


def _unknown(_text: str) -> None:
    raise ValueError(f"no such query parameter; known are {', '.join(_RULES)}")


def _any_text(text: str) -> str:
    return text


def _boolean(text: str) -> bool:
    if text not in {"true", "false"}:
        raise ValueError("write true or false")
    return text == "true"


def _confidence(text: str) -> float:
    # A number as JSON writes it: Python's own reading also takes nan, 0_6 and " 0.6".
    if not re.fullmatch(r"(0|[1-9][0-9]*)(\.[0-9]+)?([eE]-?[0-9]+)?", text) or not LEAST <= float(text) <= MOST:
        raise ValueError(f"write a number from {LEAST} to {MOST}")
    return float(text)


def _count(text: str) -> int:
    if not re.fullmatch(r"[0-9]{1,99}", text) or int(text) == 0:
        raise ValueError("write the number of speakers, 1 or more")
    return int(text)


def _mode(text: str) -> str:
    if text not in {"phone", "default"}:
        raise ValueError("write phone or default")
    return text


def _address(text: str) -> str:
    if not re.fullmatch(r"https?://[^ \t\r\n/?#:][^ \t\r\n]*", text, re.IGNORECASE):
        raise ValueError("write an http:// or https:// URL")
    return text


def _is_text(value: object) -> bool:
    return isinstance(value, str)


def _is_channel(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 1


@dataclass(frozen=True, slots=True)
class _ListOf:
    """A check of a list whose entries pass another check."""

    kind: Check

    def __call__(self, value: object) -> bool:
        """Return True where a value passes."""
        return isinstance(value, list) and all(map(self.kind, value))


@dataclass(frozen=True, slots=True)
class _Object:
    """A check of an object with these members."""

    members: Mapping[str, Check]
    # the member may be missing
    optional: bool = False
    # other members are allowed
    open: bool = False

    def __call__(self, value: object) -> bool:
        """Return True where a value passes."""
        if not isinstance(value, dict):
            return False
        missing, others = self.members.keys() - value.keys(), value.keys() - self.members.keys()
        if (missing and not self.optional) or (others and not self.open):
            return False
        return all(self.members[name](value[name]) for name in self.members.keys() & value.keys())


def _json(shape: Check, example: str) -> Rule:
    def rule(text: str) -> Any:
        try:
            value = _parsed(text)
        except (ValueError, RecursionError) as error:
            raise ValueError(f"this is no JSON text: write it like {example}") from error
        if not shape(value):
            raise ValueError(f"write JSON text like {example}")
        return value

    return rule


def _parsed(text: str) -> Any:
    value = json.loads(text, object_pairs_hook=_members)
    # No JSON, though Python reads it: NaN, infinity, and halves of characters (\ud83d alone).
    json.dumps(value, ensure_ascii=False, allow_nan=False).encode()
    return value


def _members(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    if len(dict(pairs)) < len(pairs):
        raise ValueError("a member stands twice")
    return dict(pairs)


LEAST: Final = 0.5
MOST: Final = 1.0

# The members of channelMetadata are listed one by one; entities and trackers are objects of the account, shown by
# example, which may have more to them.
_SPEAKER: Final = _Object({"name": _is_text, "email": _is_text}, optional=True)
# the rule of each parameter of put-audio.md, Query Parameters
_RULES: Final[dict[str, Rule]] = {
    "name": _any_text,
    "webhookUrl": _address,
    "customVocabulary": _json(_ListOf(_is_text), '["word","some phrase"]'),
    "confidenceThreshold": _confidence,
    "detectPhrases": _boolean,
    "entities": _json(
        _ListOf(_Object({"customType": _is_text, "text": _is_text}, open=True)),
        '[{"customType":"identify_colour","text":"blue"}]',
    ),
    "detectEntities": _boolean,
    "enableSeparateRecognitionPerChannel": _boolean,
    "channelMetadata": _json(
        _ListOf(_Object({"channel": _is_channel, "speaker": _SPEAKER})),
        '[{"channel":1,"speaker":{"name":"Robert Bartheon","email":"robertbartheon@example.com"}}]',
    ),
    "languageCode": _any_text,
    "mode": _mode,
    "trackers": _json(
        _ListOf(_Object({"name": _is_text, "vocabulary": _ListOf(_is_text)}, open=True)),
        '[{"name":"Promotion","vocabulary":["promoted","new role"]}]',
    ),
    "enableAllTrackers": _boolean,
    "enableSummary": _boolean,
    "enableSpeakerDiarization": _boolean,
    "diarizationSpeakerCount": _count,
}

# parameters without effect unless another one is set
_NEEDS: Final = {
    "channelMetadata": "enableSeparateRecognitionPerChannel",
    "diarizationSpeakerCount": "enableSpeakerDiarization",
}
