"""Whether a recording fits its row: errors, warnings and hints, without a file."""

from collections.abc import Mapping, Sequence
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from uploader.model import ENDINGS, AudioFacts, AudioFormat
from uploader.policy.recordings import NAMED_AS, UNDOCUMENTED, Finding, Severity, findings

CALL = AudioFacts("audio/wav", 60.0, 2, 8000, AudioFormat.WAV)
MEETING = AudioFacts("audio/wav", 60.0, 1, 48000, AudioFormat.WAV)
MP3 = AudioFacts("audio/mpeg", 60.0, 2, 44100, AudioFormat.MP3)
FLAC = AudioFacts(None, 60.0, 2, 44100, AudioFormat.FLAC)
RATHER_UNKNOWN = AudioFacts(format=AudioFormat.AAC)
PHONE = {"mode": "phone"}


def speakers(*channels: Any) -> Mapping[str, Any]:
    """Return the parameters of a row whose channels have speakers."""
    metadata = [{"channel": channel, "speaker": {"name": "A"}} for channel in channels]
    return {"enableSeparateRecognitionPerChannel": True, "channelMetadata": metadata, "mode": "phone"}


def brief(found: Sequence[Finding]) -> list[tuple[str, str, str]]:
    """Return severity, column and value of each finding."""
    return [(finding.severity.value, finding.column, finding.value) for finding in found]


CASES: list[tuple[AudioFacts, str, str | None, Mapping[str, Any], list[tuple[str, str, str]]]] = [
    # content against name
    (CALL, "a.wav", None, PHONE, []),
    (CALL, "a.WAVE", None, PHONE, []),
    (CALL, "a", None, PHONE, []),
    (CALL, "a.2026-11-22", None, PHONE, []),
    (MP3, "a.wav", None, {}, [("warning", "audioPath", "a.wav")]),
    (CALL, "a.mp3", None, PHONE, [("warning", "audioPath", "a.mp3")]),
    (FLAC, "a.wav", None, {}, [("warning", "audioPath", "a.wav")]),
    (AudioFacts(format=AudioFormat.OPUS), "a.ogg", None, {}, []),
    (AudioFacts(format=AudioFormat.RF64), "a.wav", None, {}, []),
    (AudioFacts(format=AudioFormat.WAV_MP3), "a.wav", None, {}, [("warning", "audioPath", "a.wav")]),
    (AudioFacts(format=AudioFormat.WAV_MP3), "a.wav", "audio/wav", {}, []),
    (AudioFacts(format=AudioFormat.TEXT), "a.wav", None, {}, [("warning", "audioPath", "a.wav")]),
    (AudioFacts(), "a.wav", None, {}, [("warning", "audioPath", "a.wav")]),
    (AudioFacts("audio/mpeg"), "a.mp3", "audio/mp3", {}, [("warning", "audioPath", "a.mp3")]),
    # content against column
    (MP3, "a.mp3", "audio/mp3", {}, []),
    (CALL, "a.wav", "audio/wave", PHONE, []),
    (MP3, "a.mp3", "audio/wav", {}, [("warning", "contentType", "audio/wav")]),
    (FLAC, "a.flac", "audio/wav", {}, [("warning", "contentType", "audio/wav")]),
    (
        MP3,
        "a.wav",
        "audio/wav",
        {},
        [("warning", "audioPath", "a.wav"), ("warning", "contentType", "audio/wav")],
    ),
    # length
    (AudioFacts("audio/wav", 4 * 3600.0, 1, 16000, AudioFormat.WAV), "a.wav", None, {}, []),
    (
        AudioFacts("audio/wav", 4 * 3600.1, 1, 16000, AudioFormat.WAV),
        "a.wav",
        None,
        {},
        [("warning", "audioPath", "a.wav")],
    ),
    (
        AudioFacts("audio/wav", None, 1, 16000, AudioFormat.WAV, is_cut_off=True),
        "a.wav",
        None,
        {},
        [("warning", "audioPath", "a.wav")],
    ),
    # channels
    (CALL, "a.wav", None, speakers(1, 2), []),
    (CALL, "a.wav", None, speakers(3), [("error", "channelMetadata", "3")]),
    (CALL, "a.wav", None, speakers(4, 2, 0, 4), [("error", "channelMetadata", "0, 4")]),
    (RATHER_UNKNOWN, "a.aac", None, speakers(7), []),
    (CALL, "a.wav", None, speakers("1", None, True), []),
    (CALL, "a.wav", None, PHONE | {"channelMetadata": "no list"}, []),
    (CALL, "a.wav", None, PHONE | {"channelMetadata": ["no object", 3]}, []),
    (
        MEETING,
        "a.wav",
        None,
        {"enableSeparateRecognitionPerChannel": True},
        [("warning", "enableSeparateRecognitionPerChannel", "true")],
    ),
    (MEETING, "a.wav", None, {"enableSeparateRecognitionPerChannel": False}, []),
    # mode
    (MEETING, "a.wav", None, PHONE, [("hint", "mode", "phone")]),
    (MEETING, "a.wav", None, {"mode": "default"}, []),
    (CALL, "a.wav", None, {"mode": "default"}, [("hint", "mode", "default")]),
    (CALL, "a.wav", None, {}, [("hint", "mode", "")]),
    (AudioFacts("audio/wav", 1.0, 1, 11025, AudioFormat.WAV), "a.wav", None, {}, []),
    (AudioFacts("audio/wav", 1.0, 1, 11025, AudioFormat.WAV), "a.wav", None, PHONE, []),
    (AudioFacts("audio/wav", 1.0, 1, 16000, AudioFormat.WAV), "a.wav", None, PHONE, [("hint", "mode", "phone")]),
]


@pytest.mark.parametrize(("facts", "path", "content_type", "parameters", "expected"), CASES)
def test_what_does_not_fit_is_found(
    facts: AudioFacts,
    path: str,
    content_type: str | None,
    parameters: Mapping[str, Any],
    expected: list[tuple[str, str, str]],
) -> None:
    """Content against name and column, length, channels and mode: this, and nothing else."""
    assert brief(findings(facts, path, content_type, parameters)) == expected


@pytest.mark.parametrize(
    ("facts", "path", "content_type", "parameters", "words"),
    [
        (MP3, "a.wav", None, {}, ["holds MP3", "not WAV", "sent as audio/mpeg"]),
        (FLAC, "a.mp3", None, {}, ["holds FLAC", "not MP3", "without a Content-Type"]),
        (MP3, "a.mp3", "audio/wav", {}, ["holds MP3", "sent as audio/wav", "leave it empty"]),
        (AudioFacts(format=AudioFormat.TEXT), "a.mp3", None, {}, ["text", "error page"]),
        (CALL, "a.wav", None, speakers(3), ["channels 1 to 2"]),
        (MEETING, "a.wav", None, speakers(2), ["one channel"]),
        (AudioFacts(duration_seconds=18000.0, format=AudioFormat.AMR), "a.amr", None, {}, ["5.00 hours", "four"]),
        (CALL, "a.wav", None, {}, ["8000 Hz", "phone"]),
        (MEETING, "a.wav", None, PHONE, ["48000 Hz", "default"]),
    ],
)
def test_a_finding_names_what_is_and_what_should_be(
    facts: AudioFacts, path: str, content_type: str | None, parameters: Mapping[str, Any], words: Sequence[str]
) -> None:
    """Whoever reads it knows what the file holds, what was said of it, and what to do."""
    result = findings(facts, path, content_type, parameters)[0].remedy
    assert [word for word in words if word not in result] == []


def facts_of() -> st.SearchStrategy[AudioFacts]:
    """Draw any facts that a probe may find."""
    return st.builds(
        AudioFacts,
        media_type=st.sampled_from([None, "audio/wav", "audio/mpeg"]),
        duration_seconds=st.none() | st.floats(0.001, 10**6),
        channels=st.none() | st.integers(1, 64),
        sample_rate=st.none() | st.integers(1, 400_000),
        format=st.sampled_from([None, *AudioFormat]),
        is_cut_off=st.booleans(),
    )


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=5,
)
CHANNELS = st.lists(st.integers(-2, 70), max_size=5)
PATHS = st.builds("a{}".format, st.sampled_from([*ENDINGS, "", ".doc", ".WAV"]))
TYPES = st.sampled_from([None, *NAMED_AS])


@given(facts_of(), PATHS, TYPES, CHANNELS)
def test_a_row_is_refused_for_channels_alone(
    facts: AudioFacts, path: str, content_type: str | None, channels: list[int]
) -> None:
    """An error there is exactly where the file's channels are known, and a named one is none of them."""
    found = findings(facts, path, content_type, speakers(*channels))
    errors = [finding for finding in found if finding.severity is Severity.ERROR]
    lacking = {finding for finding in channels if facts.channels is not None and not 1 <= finding <= facts.channels}
    assert [finding.column for finding in errors] == ["channelMetadata"] * bool(lacking)
    assert not errors or {int(name) for name in errors[0].value.split(", ")} == lacking


@given(facts_of(), st.text(), st.none() | st.text(max_size=20), st.dictionaries(st.text(max_size=9), JSON, max_size=3))
def test_every_finding_says_where_and_what_to_do(
    facts: AudioFacts, path: str, content_type: str | None, parameters: Mapping[str, Any]
) -> None:
    """Whatever a row says, each finding has a column and a remedy, and there is one hint at most."""
    odd = {"channelMetadata": parameters, "mode": content_type}
    for values in (parameters, odd, odd | {"channelMetadata": [parameters]}):
        found = findings(facts, path, content_type, values)
        assert all(finding.column and finding.remedy for finding in found)
        assert len([finding for finding in found if finding.severity is Severity.HINT]) <= 1


@given(facts_of(), PATHS, TYPES)
def test_a_file_that_is_what_it_is_called_is_not_warned_of(
    facts: AudioFacts, path: str, content_type: str | None
) -> None:
    """Of the content nothing is told where the name and the column agree with it."""
    found = findings(facts, path, content_type, {})
    ending = ENDINGS.get(path.removeprefix("a").lower())
    fits_name = ending is None or facts.format in ending
    fits_column = content_type is None or facts.format in NAMED_AS[content_type]
    is_plain = facts.format not in {None, AudioFormat.TEXT, AudioFormat.WAV_MP3, *UNDOCUMENTED}
    is_plain = is_plain and facts.flaw is None and not facts.is_cut_off
    if fits_name and fits_column and is_plain and (facts.duration_seconds or 0) <= 4 * 3600:
        assert [finding for finding in found if finding.severity is not Severity.HINT] == []
