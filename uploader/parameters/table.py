"""Every parameter once: its name, type, rule, encoding, section of the documentation, meaning and remedy."""

import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from functools import cached_property, lru_cache
from typing import Any, NoReturn

from pydantic import TypeAdapter, ValidationError

from uploader.parameters import shapes

HALF_CHARACTER = re.compile("[\ud800-\udfff]")
"""JSON can spell lone surrogates; neither the ledger nor the service nor the results can hold them."""

_QUERY = "Query Parameters"
_WORDS = {"true": True, "false": False}
_PLACES_TOLD = 3
_CELLS_KEPT = 256
_DEEPEST = 64
"""What is nested deeper is nobody's parameter, and could not be written everywhere."""


class Encoding(StrEnum):
    """How a value is written as text: in a CSV cell, and percent-encoded in the query."""

    TEXT = "text as it is"
    WORD = "true or false"
    NUMBER = "a number"
    JSON = "JSON text"


@dataclass(frozen=True)
class Parameter:
    """One query parameter of the PUT (put-audio.md, Query Parameters).

    ``documented`` is the type's name in the documentation, ``type`` a Python type with its rule, as pydantic
    reads it; ``section`` is the heading of put-audio.md that tells most of it; ``remedy`` ends the sentence that
    refuses a wrong value.
    """

    name: str
    documented: str
    type: Any
    rule: str
    encoding: Encoding
    section: str
    meaning: str
    remedy: str

    @cached_property
    def _adapter(self) -> TypeAdapter[Any]:
        return TypeAdapter(self.type)

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
        try:
            checked = self._adapter.validate_python(value, strict=True)
        except ValidationError as error:
            raise ValueError(self.remedy + _told_places(error)) from error
        if self.encoding is Encoding.JSON:
            self._check_whole(self._encode(value))
            return value
        return checked  # pydantic takes no text with half a character

    def _decode(self, text: str) -> Any:
        if self.encoding is Encoding.WORD:  # table programs write TRUE
            return _WORDS.get(text.strip().lower(), text)
        try:
            return read_json(text)
        except ValueError as error:
            raise ValueError(f"{self.remedy} ({error})" if self.encoding is Encoding.JSON else self.remedy) from error

    def _encode(self, value: Any) -> str:
        try:
            return encode(value)
        except (TypeError, ValueError, RecursionError) as error:
            raise ValueError(self.remedy) from error

    @staticmethod
    def _check_whole(text: str) -> None:
        if not text.isascii() and HALF_CHARACTER.search(text):
            raise ValueError("half a character stands in it: write it whole")


def encode(value: Any) -> str:
    """Write a value as the query carries it: text as it is, everything else as compact JSON text.

    Raises:
        ValueError: It is no JSON value (not a number, infinity, a date).
    """
    if isinstance(value, str):
        return value
    return _TO_JSON.encode(value)


def read_json(text: str) -> Any:
    """Read JSON text, strictly: no member twice, no NaN, no number beyond a float, nothing nested without end.

    Raises:
        ValueError: It is no JSON; the text says why.
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
    """Whether lists and objects are nested deeper than that, without recursion."""
    layer = [value]
    for _ in range(levels + 1):
        inner = [list(one.values()) if isinstance(one, dict) else one for one in layer if isinstance(one, (dict, list))]
        layer = [one for some in inner for one in some]
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


def _no_number(word: str) -> NoReturn:
    raise ValueError(f"no JSON: {word} is no number")


_FROM_JSON = json.JSONDecoder(object_pairs_hook=_members, parse_float=_finite, parse_constant=_no_number)
_TO_JSON = json.JSONEncoder(ensure_ascii=False, separators=(",", ":"), allow_nan=False)


def _told_places(error: ValidationError) -> str:
    """Where in a list or an object it is wrong; entries are counted from 1."""
    places = []
    for one in error.errors(include_url=False, include_input=False):
        where = [f"entry {part + 1}" if isinstance(part, int) else str(part) for part in one["loc"]]
        if where and isinstance(one["loc"][0], int):
            places.append(f"{', '.join(where)}: {one['msg'].removeprefix('Value error, ')}")
    more = ["…"] if len(places) > _PLACES_TOLD else []
    return f" ({'; '.join([*places[:_PLACES_TOLD], *more])})" if places else ""


def _switch(name: str, meaning: str, section: str = _QUERY) -> Parameter:
    return Parameter(
        name=name,
        documented="Boolean",
        type=bool,
        rule="true or false",
        encoding=Encoding.WORD,
        section=section,
        meaning=meaning,
        remedy="write true or false",
    )


_ENTRIES = (
    Parameter(
        name="name",
        documented="String",
        type=shapes.Text,
        rule="not empty",
        encoding=Encoding.TEXT,
        section=_QUERY,
        meaning="the meeting's name; the service takes the conversationId where it is not set",
        remedy="write the meeting's name as text, or leave it out",
    ),
    Parameter(
        name="webhookUrl",
        documented="String",
        type=shapes.Url,
        rule="an http or https URL",
        encoding=Encoding.TEXT,
        section="Using Webhook",
        meaning="where the service posts every change of the job's status",
        remedy="write a URL that begins with https:// or http://",
    ),
    Parameter(
        name="customVocabulary",
        documented="String[]",
        type=shapes.Words,
        rule="a list of texts",
        encoding=Encoding.JSON,
        section=_QUERY,
        meaning="words and phrases that are hints to the speech recognition",
        remedy='write a list of texts: ["Platform", "Targets"]',
    ),
    Parameter(
        name="confidenceThreshold",
        documented="Double",
        type=shapes.Confidence,
        rule="0.5 to 1.0",
        encoding=Encoding.NUMBER,
        section=_QUERY,
        meaning="the least confidence of an insight; 0.5 where it is not set",
        remedy="write a number from 0.5 to 1.0",
    ),
    _switch("detectPhrases", "show the actionable phrases of each sentence"),
    Parameter(
        name="entities",
        documented="Object[]",
        type=shapes.Entities,
        rule="a list of objects with customType and text",
        encoding=Encoding.JSON,
        section="Custom Entity",
        meaning="custom entities to detect; needs detectEntities",
        remedy='write a list of objects: [{"customType": "identify_colour", "text": "blue"}]',
    ),
    _switch("detectEntities", "detect entities; without it none are returned"),
    _switch(
        "enableSeparateRecognitionPerChannel",
        "recognise each channel apart; billed by duration times channels",
        "Speaker Separation",
    ),
    Parameter(
        name="channelMetadata",
        documented="Object[]",
        type=shapes.Channels,
        rule="a list of objects with channel and speaker",
        encoding=Encoding.JSON,
        section="Channel Metadata",
        meaning="who speaks on which channel; needs enableSeparateRecognitionPerChannel",
        remedy='write a list of objects, each channel once: [{"channel": 1, "speaker": {"name": "…", "email": "…"}}]',
    ),
    Parameter(
        name="languageCode",
        documented="String",
        type=shapes.LanguageCode,
        rule="a language code",
        encoding=Encoding.TEXT,
        section=_QUERY,
        meaning="the language of the recording",
        remedy="write a language code such as en-US",
    ),
    Parameter(
        name="mode",
        documented="String",
        type=shapes.Mode,
        rule="phone or default",
        encoding=Encoding.TEXT,
        section=_QUERY,
        meaning="phone for telephone calls (8 kHz), default for meetings (16 kHz and more)",
        remedy="write phone or default",
    ),
    Parameter(
        name="trackers",
        documented="List",
        type=shapes.Trackers,
        rule="a list of objects with name and vocabulary",
        encoding=Encoding.JSON,
        section=_QUERY,
        meaning="trackers: names, each with the words and phrases to look for",
        remedy='write a list of objects: [{"name": "Budget", "vocabulary": ["price", "too dear"]}]',
    ),
    _switch("enableAllTrackers", "detect all trackers that are kept for the account"),
    _switch("enableSummary", "make a summary; only at the base URL https://api.symbl.ai"),
    _switch(
        "enableSpeakerDiarization",
        "tell the speakers of one channel apart; English and Spanish only",
        "Speaker Separation",
    ),
    Parameter(
        name="diarizationSpeakerCount",
        documented="String",
        type=shapes.SpeakerCount,
        rule="1 or more",
        encoding=Encoding.NUMBER,
        section="Speaker Separation",
        meaning="the number of speakers; needs enableSpeakerDiarization",
        remedy="write the number of speakers: 1 or more",
    ),
)

TABLE: Mapping[str, Parameter] = {parameter.name: parameter for parameter in _ENTRIES}
"""Every parameter that a manifest's column or the config's [parameters] may set, in the documentation's order."""

NEEDS: Mapping[str, str] = {
    "channelMetadata": "enableSeparateRecognitionPerChannel",
    "diarizationSpeakerCount": "enableSpeakerDiarization",
}
"""Parameters that work only where another one is true (put-audio.md, Channel Metadata, Speaker Separation)."""
