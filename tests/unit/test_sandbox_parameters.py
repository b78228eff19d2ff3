"""The sandbox's judgement of a query: what the specification allows, and nothing else."""

import json
from typing import Any
from urllib.parse import quote, quote_plus

import pytest
from hypothesis import given
from hypothesis import strategies as st

from uploader.sandbox import parameters, request_target

# the names in put-audio.md, Query Parameters
DOCUMENTED = {
    *("name", "webhookUrl", "customVocabulary", "confidenceThreshold", "detectPhrases", "entities", "detectEntities"),
    *("enableSeparateRecognitionPerChannel", "channelMetadata", "languageCode", "mode", "trackers"),
    *("enableAllTrackers", "enableSummary", "enableSpeakerDiarization", "diarizationSpeakerCount"),
}

BOOLEANS = {name for name in DOCUMENTED if name.startswith(("enable", "detect"))}

PER_CHANNEL = ("enableSeparateRecognitionPerChannel", "true")
DIARIZED = ("enableSpeakerDiarization", "true")
TRICKY = "&=+%#?/ \"'é漢字😀\n\\"

ALLOWED: list[tuple[str, str, Any]] = [
    ("name", "", ""),
    ("name", TRICKY, TRICKY),
    ("webhookUrl", "https://example.com/jobs/callback?a=1#b", "https://example.com/jobs/callback?a=1#b"),
    ("webhookUrl", "HTTP://example.com:8080", "HTTP://example.com:8080"),
    ("webhookUrl", "http://[::1]:80/ä", "http://[::1]:80/ä"),
    ("customVocabulary", "[]", []),
    ("customVocabulary", '["Platform", "two words", "\\ud83d\\ude00"]', ["Platform", "two words", "😀"]),
    ("confidenceThreshold", "0.5", 0.5),
    ("confidenceThreshold", "0.60", 0.6),
    ("confidenceThreshold", "6e-1", 0.6),
    ("confidenceThreshold", "1", 1.0),
    ("confidenceThreshold", "1.0", 1.0),
    ("entities", '[{"customType":"c","text":"t"}]', [{"customType": "c", "text": "t"}]),
    ("entities", '[{"customType":"c","text":"t","id":[1.5]}]', [{"customType": "c", "text": "t", "id": [1.5]}]),
    ("languageCode", "en-US", "en-US"),
    ("mode", "phone", "phone"),
    ("mode", "default", "default"),
    ("trackers", '[{"name":"n","vocabulary":["a","b"]}]', [{"name": "n", "vocabulary": ["a", "b"]}]),
    ("trackers", '[{"name":"n","vocabulary":[]}]', [{"name": "n", "vocabulary": []}]),
    *((name, "true", True) for name in sorted(BOOLEANS)),
    *((name, "false", False) for name in sorted(BOOLEANS)),
]

REFUSED: dict[str, tuple[str, ...]] = {
    **dict.fromkeys(sorted(BOOLEANS), ("True", "FALSE", "1", "yes", "", " true", '"true"')),
    "confidenceThreshold": (
        *("0.4999", "1.01", "0", "-0.6", "nan", "inf", "1e999", "", "high"),
        *(" 0.6", "0.6 ", "0_6", ".6", "00.6", "0,6", "0.6\n", '"0.6"'),
    ),
    "mode": ("", "Phone", "PHONE", "video", '"phone"', "phone "),
    "webhookUrl": (
        *("", "example.com", "//example.com", "ftp://example.com/", "https://", "http:///x", "http://:80"),
        *("https://a b/", "https://a/\nb", "javascript:x"),
    ),
    "customVocabulary": (
        *("", "Platform", "Platform,Targets", "['Platform']", '"Platform"', "{}", "null", "true", "[NaN]"),
        *("[1]", "[null]", '[["a"]]', '["a",]', '["a"', '["a"] x', '["\\ud83d"]', "%5B%22a%22%5D"),
    ),
    "entities": (
        *("{}", '{"customType":"c","text":"t"}', '[{"customType":"c"}]', '["c"]', "[{}]"),
        *('[{"customType":"c","text":1}]', '[{"customType":"c","text":"t","more":NaN}]'),
        *("[{'customType': 'c', 'text': 't'}]", '[{"text":"t","text":"u","customType":"c"}]'),
    ),
    "trackers": (
        *('["n"]', '[{"name":"n"}]', '[{"vocabulary":["a"]}]', "n", '{"name":"n"}'),
        *(
            '[{"name":"n","vocabulary":"a"}]',
            '[{"name":"n","vocabulary":[],"more":1e999}]',
            '[{"name":1,"vocabulary":[]}]',
        ),
    ),
}

CHANNELS_ALLOWED: list[list[dict[str, Any]]] = [
    [],
    [{"channel": 1, "speaker": {}}],
    [{"channel": 2, "speaker": {"name": TRICKY}}],
    [
        {"channel": 1, "speaker": {"name": "Robert Bartheon", "email": "robertbartheon@example.com"}},
        {"channel": 2, "speaker": {"email": "aryastark@example.com"}},
    ],
]
CHANNELS_REFUSED: list[Any] = [
    {"channel": 1, "speaker": {"name": "n"}},
    [{"channel": 1}],
    [{"speaker": {"name": "n"}}],
    [{"channel": "1", "speaker": {"name": "n"}}],
    [{"channel": True, "speaker": {"name": "n"}}],
    [{"channel": 1.0, "speaker": {"name": "n"}}],
    [{"channel": 0, "speaker": {"name": "n"}}],
    [{"channel": 1, "speaker": "n"}],
    [{"channel": 1, "speaker": {"name": 1}}],
    [{"channel": 1, "speaker": {"name": None}}],
    [{"channel": 1, "speaker": {"phone": "n"}}],
    [{"channel": 1, "speaker": {"name": "n"}, "more": 1}],
]


@pytest.mark.parametrize(("name", "text", "value"), ALLOWED)
def test_what_is_documented_is_read(name: str, text: str, value: Any) -> None:
    """A documented parameter of the documented form is taken, in its own type."""
    assert parameters.read(((name, text),)) == {name: value}


@pytest.mark.parametrize(("name", "text"), [(name, text) for name, texts in REFUSED.items() for text in texts])
def test_what_is_not_documented_is_refused(name: str, text: str) -> None:
    """Any other form is refused, and the text names the parameter and what should stand there."""
    with pytest.raises(ValueError, match=rf"^{name}: .*write"):
        parameters.read(((name, text),))


@pytest.mark.parametrize("text", ["[" * 100_000, f"[{'1' * 5000}]"], ids=["nested", "digits"])
def test_json_that_cannot_be_read_is_refused(text: str) -> None:
    """JSON that Python's own reader gives up on is refused, too."""
    with pytest.raises(ValueError, match="customVocabulary: this is no JSON text"):
        parameters.read((("customVocabulary", text),))


def test_every_documented_parameter_is_judged() -> None:
    """The tables of forms have every documented name, those that need another one apart; any text is a name."""
    needing = {"channelMetadata", "diarizationSpeakerCount"}
    assert {name for name, _, _ in ALLOWED} == DOCUMENTED - needing
    assert {*REFUSED} == DOCUMENTED - needing - {"name", "languageCode"}


@pytest.mark.parametrize("name", ["Name", "NAME", "conversationId", "x-name", "", "detectPhrase", "name "])
def test_an_unknown_parameter_is_refused_by_name(name: str) -> None:
    """A name that is not documented is refused; the text has it, and all that could have been meant."""
    with pytest.raises(ValueError, match=rf"^{name}: no such query parameter") as refused:
        parameters.read(((name, "true"),))
    assert all(known in str(refused.value) for known in DOCUMENTED)


def test_a_refusal_repeats_no_more_than_a_line_of_what_is_wrong() -> None:
    """A name without end is told by its beginning."""
    with pytest.raises(ValueError, match=rf"^{'x' * 80}: no such"):
        parameters.read((("x" * 100_000, ""),))


@pytest.mark.parametrize("second", ["true", "false"])
def test_a_repeated_parameter_is_refused(second: str) -> None:
    """A list in more than one parameter is not how the service takes it: a name stands once, whatever its values."""
    with pytest.raises(ValueError, match="detectPhrases stands more than once"):
        parameters.read((("detectPhrases", "true"), ("detectPhrases", second)))


def test_a_name_that_is_allowed_passes_as_text() -> None:
    """An allowed name passes with any text; a documented name keeps its rule."""
    allowed = frozenset({"later", "mode"})
    assert parameters.read((("later", "[1"),), allowed) == {"later": "[1"}
    with pytest.raises(ValueError, match="mode: write phone or default"):
        parameters.read((("mode", "video"),), allowed)
    with pytest.raises(ValueError, match="later stands more than once"):
        parameters.read((("later", "1"), ("later", "2")), allowed)


@pytest.mark.parametrize("channels", CHANNELS_ALLOWED)
def test_channel_metadata_of_the_documented_shape_is_read(channels: list[dict[str, Any]]) -> None:
    """An integer channel and a speaker object, whose members may be missing."""
    read = parameters.read((("channelMetadata", json.dumps(channels)), PER_CHANNEL))
    assert read == {"channelMetadata": channels, "enableSeparateRecognitionPerChannel": True}


@pytest.mark.parametrize("channels", CHANNELS_REFUSED)
def test_channel_metadata_of_any_other_shape_is_refused(channels: Any) -> None:
    """A member missing, too many, or of another type."""
    with pytest.raises(ValueError, match=r"^channelMetadata: write JSON text like"):
        parameters.read((("channelMetadata", json.dumps(channels)), PER_CHANNEL))


@pytest.mark.parametrize(("text", "value"), [("1", 1), ("2", 2), ("10", 10), ("02", 2)])
def test_a_speaker_count_is_a_positive_number(text: str, value: int) -> None:
    """Digits alone, above 0."""
    assert parameters.read((DIARIZED, ("diarizationSpeakerCount", text)))["diarizationSpeakerCount"] == value


@pytest.mark.parametrize("text", ["0", "00", "-1", "+2", "2.0", "two", "", " 2", "²", "٢", '"2"', "9" * 100])
def test_any_other_speaker_count_is_refused(text: str) -> None:
    """Nought, signs, fractions, words, and digits that are not ASCII's."""
    with pytest.raises(ValueError, match=r"^diarizationSpeakerCount: write the number of speakers"):
        parameters.read((DIARIZED, ("diarizationSpeakerCount", text)))


@pytest.mark.parametrize(
    ("dependent", "enabler"),
    [(("channelMetadata", "[]"), PER_CHANNEL[0]), (("diarizationSpeakerCount", "2"), DIARIZED[0])],
)
def test_a_parameter_that_works_only_with_another_is_refused_alone(dependent: tuple[str, str], enabler: str) -> None:
    """ChannelMetadata and diarizationSpeakerCount need their switch, set to true, in whatever order."""
    for pairs in ((dependent,), (dependent, (enabler, "false")), ((enabler, "false"), dependent)):
        with pytest.raises(ValueError, match=f"{dependent[0]} only works with {enabler}=true"):
            parameters.read(pairs)
    assert dependent[0] in parameters.read((dependent, (enabler, "true")))


some_text = st.text(st.characters(exclude_categories=["Cs"]))


@given(
    st.fixed_dictionaries(
        {},
        optional={
            "name": some_text,
            "customVocabulary": st.lists(some_text),
            "confidenceThreshold": st.floats(0.5, 1.0),
            "detectPhrases": st.booleans(),
            "entities": st.lists(st.fixed_dictionaries({"customType": some_text, "text": some_text})),
            "trackers": st.lists(st.fixed_dictionaries({"name": some_text, "vocabulary": st.lists(some_text)})),
            "mode": st.sampled_from(["phone", "default"]),
        },
    ),
    st.sampled_from([quote, quote_plus]),
    st.booleans(),
)
def test_whatever_is_encoded_well_is_read_back_equal(values: dict[str, Any], encode: Any, ascii_only: bool) -> None:
    """Percent-encoding, JSON text: the judge loses nothing of any value, so what differs was lost by the client."""
    written = {
        name: value if isinstance(value, str) else json.dumps(value, ensure_ascii=ascii_only)
        for name, value in values.items()
    }
    asked = "/v1/process/audio/c?" + "&".join(f"{name}={encode(text, safe='')}" for name, text in written.items())
    request_target.check(asked)
    assert request_target.query(asked) == tuple(written.items())
    assert parameters.read(request_target.query(asked)) == values
