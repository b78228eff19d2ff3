"""The PUT's query parameters: their types, rules and encoding."""

import datetime as dt
import math
from typing import Any

import pytest

from uploader.errors import UsageError
from uploader.parameters import TABLE, check_config, conflicts, doubts, encode, query

SWITCHES = [name for name, parameter in TABLE.items() if parameter.documented == "Boolean"]
ENTITY = {"customType": "identify_colour", "text": "blue"}
TRACKER = {"name": "Budget", "vocabulary": ["price"]}
CHANNEL = {"channel": 1, "speaker": {"name": "Robert", "email": "r@example.com"}}

BAD_SWITCHES: list[Any] = ["true", 1, 0, None, []]

# parameter, the text of a cell, the value that it stands for
RIGHT: list[tuple[str, Any, Any]] = [
    ("name", "17", "17"),
    ("name", '"quoted"', '"quoted"'),
    ("name", " Ä & = ", " Ä & = "),
    ("webhookUrl", "https://example.com/jobs?a=b&c=d#e", "https://example.com/jobs?a=b&c=d#e"),
    ("webhookUrl", "HTTP://[::1]:8080", "HTTP://[::1]:8080"),
    ("customVocabulary", '["Platform", "Ä"]', ["Platform", "Ä"]),
    ("customVocabulary", "[]", []),
    ("confidenceThreshold", "0.5", 0.5),
    ("confidenceThreshold", "1", 1.0),
    ("entities", '[{"customType":"t","text":"x","category":"c"}]', [{"customType": "t", "text": "x", "category": "c"}]),
    ("channelMetadata", '[{"channel":1,"speaker":{}}]', [{"channel": 1, "speaker": {}}]),
    ("languageCode", "en-US", "en-US"),
    ("languageCode", "es", "es"),
    ("mode", "phone", "phone"),
    ("mode", "default", "default"),
    ("trackers", '[{"id":"7","name":"n","vocabulary":["v"]}]', [{"id": "7", "name": "n", "vocabulary": ["v"]}]),
    ("diarizationSpeakerCount", "2", 2),
    ("diarizationSpeakerCount", '"2"', 2),
    ("diarizationSpeakerCount", "2.0", 2),
    *(
        (name, text, text.strip().lower() == "true")
        for name in SWITCHES
        for text in ("true", "TRUE", "False", " true ")
    ),
]

WRONG_NATIVE: list[tuple[str, Any]] = [
    ("name", 7),
    ("name", None),
    ("name", ""),
    ("webhookUrl", "example.com/jobs"),
    ("webhookUrl", "ftp://example.com"),
    ("webhookUrl", "https://"),
    ("webhookUrl", "https://:80"),
    ("webhookUrl", "https://example.com:port"),
    ("webhookUrl", "https://exa mple.com"),
    ("customVocabulary", "Platform"),
    ("customVocabulary", [1]),
    ("customVocabulary", [""]),
    ("confidenceThreshold", 0.4999),
    ("confidenceThreshold", 1.0001),
    ("confidenceThreshold", math.nan),
    ("confidenceThreshold", math.inf),
    ("confidenceThreshold", True),
    ("confidenceThreshold", "0.6"),
    ("entities", ENTITY),
    ("entities", [{"customType": "t"}]),
    ("entities", [{**ENTITY, "text": 7}]),
    ("channelMetadata", [{"channel": 1}]),
    ("channelMetadata", [{"channel": "1", "speaker": {}}]),
    ("channelMetadata", [{"channel": 0, "speaker": {}}]),
    ("channelMetadata", [{"channel": True, "speaker": {}}]),
    ("channelMetadata", [{"channel": 1, "speaker": "Robert"}]),
    ("channelMetadata", [{"channel": 1, "speaker": {"nmae": "Robert"}}]),
    ("channelMetadata", [{"channel": 1, "speaker": {"name": None}}]),
    ("channelMetadata", [CHANNEL, CHANNEL]),
    ("languageCode", "English"),
    ("languageCode", "en_US"),
    ("mode", "Phone"),
    ("mode", "meeting"),
    ("trackers", ["Budget"]),
    ("trackers", [{"name": "Budget", "vocabulary": "price"}]),
    ("trackers", [{"name": "Budget", "vocabulary": []}]),
    ("trackers", [{"vocabulary": ["price"]}]),
    ("diarizationSpeakerCount", 0),
    ("diarizationSpeakerCount", -1),
    ("diarizationSpeakerCount", 2.5),
    ("diarizationSpeakerCount", "two"),
    ("diarizationSpeakerCount", "0"),
    ("diarizationSpeakerCount", True),
    *((name, value) for name in SWITCHES for value in BAD_SWITCHES),
]

WRONG_CELLS = [
    ("customVocabulary", "Platform, Targets"),
    ("customVocabulary", '["Platform"'),
    ("customVocabulary", '["\\ud800"]'),
    ("trackers", '[{"name":"n","vocabulary":["v"],"x":"\\ud800"}]'),
    ("customVocabulary", "[" * 100_000),
    ("trackers", '[{"name":"n","name":"m","vocabulary":["v"]}]'),
    ("trackers", '[{"name":"n","vocabulary":["v"],"weight":NaN}]'),
    ("trackers", '[{"name":"n","vocabulary":["v"],"weight":1e999}]'),
    ("confidenceThreshold", "NaN"),
    ("confidenceThreshold", "0,6"),
    ("confidenceThreshold", "true"),
    ("diarizationSpeakerCount", "1" * 5000),
    ("diarizationSpeakerCount", "many"),
    *((name, text) for name in SWITCHES for text in ("yes", "1", "wahr", "")),
]


def test_the_table_has_every_parameter_of_the_documentation() -> None:
    """put-audio.md's Query Parameters, in its order, with its types."""
    assert {name: parameter.documented for name, parameter in TABLE.items()} == {
        "name": "String",
        "webhookUrl": "String",
        "customVocabulary": "String[]",
        "confidenceThreshold": "Double",
        "detectPhrases": "Boolean",
        "entities": "Object[]",
        "detectEntities": "Boolean",
        "enableSeparateRecognitionPerChannel": "Boolean",
        "channelMetadata": "Object[]",
        "languageCode": "String",
        "mode": "String",
        "trackers": "List",
        "enableAllTrackers": "Boolean",
        "enableSummary": "Boolean",
        "enableSpeakerDiarization": "Boolean",
        "diarizationSpeakerCount": "String",
    }


def test_the_tests_know_every_parameter() -> None:
    """No entry of the table stands there untried."""
    assert {name for name, _, _ in RIGHT} == {name for name, _ in WRONG_NATIVE} == set(TABLE)


@pytest.mark.parametrize(("name", "cell", "value"), RIGHT)
def test_a_cell_is_read_by_its_parameters_type(name: str, cell: str, value: Any) -> None:
    """Text as it is, true and false in any case, numbers, and JSON text for lists; the value is taken natively, too."""
    read = TABLE[name].read_cell(cell)
    assert (read, type(read)) == (value, type(value))
    assert TABLE[name].check(value) == value


@pytest.mark.parametrize(("name", "value"), WRONG_NATIVE)
def test_a_value_that_does_not_fit_is_told_with_the_remedy(name: str, value: Any) -> None:
    """Wrong types, shapes and figures out of range are refused in the parameter's own words."""
    with pytest.raises(ValueError, match=r"^write ") as refused:
        TABLE[name].check(value)
    assert str(refused.value).startswith(TABLE[name].remedy)


@pytest.mark.parametrize(("name", "cell"), WRONG_CELLS)
def test_a_cell_that_does_not_fit_is_told(name: str, cell: str) -> None:
    """A cell that is no JSON, or none that can be sent, is refused with its remedy."""
    with pytest.raises(ValueError, match="write "):
        TABLE[name].read_cell(cell)


def test_where_in_a_list_it_is_wrong_is_told() -> None:
    """Entry and member are named, of several wrong ones each."""
    with pytest.raises(ValueError, match=r"entry 2, vocabulary: .*; entry 3, name: "):
        TABLE["trackers"].check([TRACKER, {"name": "n"}, {"vocabulary": ["v"]}])


@pytest.mark.parametrize(
    ("value", "text"),
    [
        ("a b", "a b"),
        (True, "true"),
        (False, "false"),
        (0.6, "0.6"),
        (2, "2"),
        (["Ä", "b"], '["Ä","b"]'),
        ([CHANNEL], '[{"channel":1,"speaker":{"name":"Robert","email":"r@example.com"}}]'),
    ],
)
def test_a_value_is_encoded_as_the_query_carries_it(value: Any, text: str) -> None:
    """Booleans are true and false; a list or an object is compact JSON text in its own parameter."""
    assert encode(value) == text


def test_a_rows_value_outranks_the_configs() -> None:
    """A parameter's value is the row's, else the config's, else it is not sent."""
    assert query({"name": "row"}, {"name": "config"}) == [("name", "row")]
    assert query({}, {"name": "config"}) == [("name", "config")]
    assert query({"mode": "phone"}, {"name": "config"}) == [("name", "config"), ("mode", "phone")]
    assert query({}, {}) == []


def test_the_configs_parameters_are_checked() -> None:
    """[parameters] takes what the manifest's columns take, natively."""
    config = {"name": "Q1", "trackers": [TRACKER], "diarizationSpeakerCount": "3"}
    assert check_config(config, {}, "f.toml") == {**config, "diarizationSpeakerCount": 3}


def test_the_environments_parameters_are_read_as_cells() -> None:
    """UPLOADER_PARAMETERS__DETECTPHRASES has no case and is text; it outranks the file's detectPhrases."""
    given = {"detectphrases": "TRUE", "detectPhrases": False, "customvocabulary": '["a"]', "name": "7"}
    assert check_config(given, {}, "f.toml") == {"detectPhrases": True, "customVocabulary": ["a"], "name": "7"}


def test_extra_parameters_are_sent_as_they_are() -> None:
    """Parameters that the service adds later can be sent at once, behind the known ones and encoded alike."""
    extra = {"newThing": "a b", "flag": True, "list": [1, {"a": None}]}
    merged = check_config({"name": "Q1"}, extra, "f.toml")
    assert query({}, merged) == [("name", "Q1"), ("newThing", "a b"), ("flag", "true"), ("list", '[1,{"a":null}]')]


@pytest.mark.parametrize(
    ("defaults", "extra", "words"),
    [
        ({"nam": "Q1"}, {}, ["f.toml", "[parameters] nam", "no such parameter (did you mean name?)", "known are"]),
        ({"name": 7}, {}, ["f.toml", "[parameters] name", "7", "write the meeting's name as text"]),
        ({"x": 1, "mode": "fast"}, {}, ["[parameters] x: no such parameter", "[parameters] mode = 'fast'"]),
        ({}, {"detectPhrases": True}, ["[extra_parameters] detectPhrases", "write detectPhrases into [parameters]"]),
        ({}, {"DETECTPHRASES": True}, ["write detectPhrases into [parameters]"]),
        ({}, {"a": math.nan}, ["[extra_parameters] 'a' = nan", "JSON"]),
        ({}, {"a": "\ud800"}, ["[extra_parameters] 'a'", "half a character"]),
        ({"entities": [{**ENTITY, "weight": math.nan}]}, {}, ["[parameters] entities"]),
        ({"entities": [{**ENTITY, "x": "\ud800"}]}, {}, ["[parameters] entities", "half a character"]),
        ({}, {"a": dt.date(2026, 11, 22)}, ["[extra_parameters] 'a'", "write text, a number"]),
        ({"name": "\ud800"}, {}, ["[parameters] name", "as text"]),
    ],
)
def test_a_wrong_parameter_of_the_config_is_told(
    defaults: dict[str, Any], extra: dict[str, Any], words: list[str]
) -> None:
    """An unknown key, one in the wrong table and a wrong value name file, key, value and remedy, all at once."""
    with pytest.raises(UsageError) as refused:
        check_config(defaults, extra, "f.toml")
    assert [word for word in words if word not in str(refused.value)] == []
    assert str(refused.value).isprintable() or "\n" in str(refused.value)


@pytest.mark.parametrize(
    ("merged", "names"),
    [
        ({"channelMetadata": [CHANNEL]}, ["channelMetadata"]),
        ({"channelMetadata": [CHANNEL], "enableSeparateRecognitionPerChannel": False}, ["channelMetadata"]),
        ({"channelMetadata": [CHANNEL], "enableSeparateRecognitionPerChannel": True}, []),
        ({"diarizationSpeakerCount": 2}, ["diarizationSpeakerCount"]),
        ({"diarizationSpeakerCount": 2, "enableSpeakerDiarization": False}, ["diarizationSpeakerCount"]),
        ({"diarizationSpeakerCount": 2, "enableSpeakerDiarization": True}, []),
        ({"channelMetadata": [CHANNEL], "diarizationSpeakerCount": 2}, ["channelMetadata", "diarizationSpeakerCount"]),
    ],
)
def test_what_works_only_with_another_needs_it(merged: dict[str, Any], names: list[str]) -> None:
    """A parameter that put-audio.md ties to a switch is wrong without it, such as channelMetadata."""
    assert [conflict.names[0] for conflict in conflicts(merged)] == names


@pytest.mark.parametrize(
    ("merged", "names"),
    [
        ({"enableSpeakerDiarization": True}, ["enableSpeakerDiarization"]),
        ({"enableSpeakerDiarization": False}, []),
        ({"enableSpeakerDiarization": True, "diarizationSpeakerCount": 2}, []),
        ({"enableSpeakerDiarization": True, "diarizationSpeakerCount": 2, "languageCode": "es-MX"}, []),
        ({"enableSpeakerDiarization": True, "diarizationSpeakerCount": 2, "languageCode": "de-DE"}, ["languageCode"]),
        ({"entities": [ENTITY]}, ["entities"]),
        ({"entities": [ENTITY], "detectEntities": False}, ["entities"]),
        ({"entities": [ENTITY], "detectEntities": True}, []),
        ({"enableSummary": True}, ["enableSummary"]),
        ({"enableSummary": False}, []),
    ],
)
def test_what_is_likely_a_mistake_is_warned_of(merged: dict[str, Any], names: list[str]) -> None:
    """Diarization without a count or in another language, entities that are not detected, summaries elsewhere."""
    assert [doubt.names[0] for doubt in doubts(merged, summary_is_served=False)] == names


def test_a_summary_at_the_documented_base_url_is_not_warned_of() -> None:
    """put-audio.md asks for https://api.symbl.ai/ with enableSummary."""
    assert list(doubts({"enableSummary": True}, summary_is_served=True)) == []
