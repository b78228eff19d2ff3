"""Rules between parameters: conflicts, and likely mistakes."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple
from urllib.parse import urlencode

from uploader.parameters.table import NEEDS
from uploader.parameters.text import encode

# speaker diarization is for English and Spanish only (put-audio.md, Speaker Diarization Language Support)
DIARIZED_LANGUAGES = ("en", "es")

# the longest URL that gateways and servers accept, in bytes, less the part before the parameters
LONGEST_ADDRESS = 8000
# so many characters stay below that limit in any encoding: a character becomes at most twelve
_SURELY_SHORT = 600


class Conflict(NamedTuple):
    """Parameters that conflict, the one to change first in front, with the remedy."""

    names: Sequence[str]
    remedy: str


def conflicts(merged: Mapping[str, Any]) -> Iterator[Conflict]:
    """Find parameters that cannot be sent together.

    Args:
        merged: A row's parameters over the config's.
    """
    for name, needed in NEEDS.items():
        if name in merged and merged.get(needed) is not True:
            yield Conflict((name, needed), f"it works only where {needed} is true: set that, or leave this out")


def doubts(merged: Mapping[str, Any], *, summary_is_served: bool) -> Iterator[Conflict]:
    """Find parameters that can be sent, and are most likely a mistake.

    Args:
        merged: A row's parameters over the config's.
        summary_is_served: True where the base URL is the one that put-audio.md demands for enableSummary.
    """
    if merged.get("enableSpeakerDiarization") is True:
        yield from _diarization(merged)
    if "entities" in merged and merged.get("detectEntities") is not True:
        yield Conflict(("entities", "detectEntities"), "no entities are returned unless detectEntities is true: set it")
    if merged.get("enableSummary") is True and not summary_is_served:
        remedy = "summaries are made at https://api.symbl.ai only: use that base URL, or leave this out"
        yield Conflict(("enableSummary",), remedy)
    yield from _length(merged)


def _length(merged: Mapping[str, Any]) -> Iterator[Conflict]:
    if sum(len(str(value)) for value in merged.values()) <= _SURELY_SHORT:
        return
    lengths = {name: len(urlencode({name: encode(value)})) for name, value in merged.items()}
    if sum(lengths.values()) + len(lengths) > LONGEST_ADDRESS:
        remedy = "the parameters make an address of more than 8 KB, which gateways refuse: make this one shorter"
        yield Conflict((max(lengths, key=lambda name: lengths[name]),), remedy)


def _diarization(merged: Mapping[str, Any]) -> Iterator[Conflict]:
    if "diarizationSpeakerCount" not in merged:
        remedy = "the service asks for the number of speakers beside it: set diarizationSpeakerCount"
        yield Conflict(("enableSpeakerDiarization",), remedy)
    language = str(merged.get("languageCode", DIARIZED_LANGUAGES[0]))
    if language.lower().partition("-")[0] not in DIARIZED_LANGUAGES:
        remedy = "speakers are told apart in English and Spanish only: leave enableSpeakerDiarization out"
        yield Conflict(("languageCode", "enableSpeakerDiarization"), remedy)
