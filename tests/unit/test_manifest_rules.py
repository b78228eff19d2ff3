"""What a row is held against beside its form: parameters that need one another, merged with the config's."""

import json
from pathlib import Path
from typing import Any

import pytest

from uploader import audio
from uploader.manifest import Manifest
from uploader.model import AudioFacts, AudioFormat, FileSignature, InvalidRow, Problem, Row

CHANNELS = [{"channel": 1, "speaker": {"name": "R"}}]
ENTITIES = [{"customType": "t", "text": "x"}]


def check(tmp_path: Path, values: dict[str, Any], defaults: dict[str, Any], **options: Any) -> Row | InvalidRow:
    """Check a JSON row with these parameters over the config's."""
    path = tmp_path / "m.jsonl"
    path.write_text(json.dumps({"conversationId": "c", "audioPath": "a.wav"} | values), encoding="utf-8")
    manifest = Manifest(
        path,
        "m.jsonl",
        "jsonl",
        tmp_path,
        False,
        lambda *_: False,
        defaults=defaults,
        **{"check_files": False, **options},
    )
    (row,) = manifest.read()
    return row


def problems(row: Row | InvalidRow) -> list[Problem]:
    """All that is wrong with a row."""
    return list(row.problems) if isinstance(row, InvalidRow) else []


@pytest.mark.parametrize(
    ("values", "defaults", "column", "value"),
    [
        ({"channelMetadata": CHANNELS}, {}, "channelMetadata", json.dumps(CHANNELS)),
        ({"diarizationSpeakerCount": "2"}, {}, "diarizationSpeakerCount", "2"),
        (
            {"enableSpeakerDiarization": False},
            {"diarizationSpeakerCount": 2, "enableSpeakerDiarization": True},
            "enableSpeakerDiarization",
            "false",
        ),
        ({}, {"diarizationSpeakerCount": 2}, "diarizationSpeakerCount", "2"),
        (
            {"diarizationSpeakerCount": 3, "enableSpeakerDiarization": False},
            {"enableSpeakerDiarization": True},
            "diarizationSpeakerCount",
            "3",
        ),
    ],
    ids=["row alone", "a text that is a number", "row's switch against the config", "config alone", "both"],
)
def test_what_does_not_go_together_is_told_by_the_rows_column(
    tmp_path: Path, values: dict[str, Any], defaults: dict[str, Any], column: str, value: str
) -> None:
    """The rules hold for what would be sent; the column is the row's where it has one of the two."""
    (problem,) = problems(check(tmp_path, values, defaults))
    assert (problem.line, problem.column, problem.value) == (1, column, value)
    assert ("[parameters]" in problem.remedy) == (not values or column == "enableSpeakerDiarization")


@pytest.mark.parametrize(
    ("values", "defaults"),
    [
        ({"diarizationSpeakerCount": 2}, {"enableSpeakerDiarization": True}),
        ({"enableSpeakerDiarization": True}, {"diarizationSpeakerCount": 2}),
        ({"channelMetadata": CHANNELS, "enableSeparateRecognitionPerChannel": True}, {}),
        ({}, {"channelMetadata": CHANNELS, "enableSeparateRecognitionPerChannel": True}),
    ],
)
def test_row_and_config_complete_each_other(tmp_path: Path, values: dict[str, Any], defaults: dict[str, Any]) -> None:
    """A row need not set what the config sets."""
    row = check(tmp_path, values, defaults)
    assert problems(row) == []
    assert isinstance(row, Row)
    assert row.parameters == values


def test_what_a_broken_value_may_have_caused_is_not_told(tmp_path: Path) -> None:
    """A switch that cannot be read is one problem, not two."""
    row = check(tmp_path, {"diarizationSpeakerCount": 2, "enableSpeakerDiarization": "ja"}, {})
    assert [problem.column for problem in problems(row)] == ["enableSpeakerDiarization"]


def test_all_rules_are_checked_at_once(tmp_path: Path) -> None:
    """Form, types and what goes together: every violation of a row, in its columns' order."""
    values = {"conversationId": "..", "mode": "loud", "confidenceThreshold": 2, "channelMetadata": CHANNELS, "nmae": 1}
    columns = [problem.column for problem in problems(check(tmp_path, values, {}))]
    assert columns == ["nmae", "conversationId", "mode", "confidenceThreshold", "channelMetadata"]


@pytest.mark.parametrize(
    ("values", "column"),
    [
        ({"enableSpeakerDiarization": True}, "enableSpeakerDiarization"),
        (
            {"enableSpeakerDiarization": True, "diarizationSpeakerCount": 2, "languageCode": "fr-FR"},
            "languageCode",
        ),
        ({"entities": ENTITIES}, "entities"),
        ({"enableSummary": True}, "enableSummary"),
    ],
)
def test_a_warning_does_not_invalidate(tmp_path: Path, values: dict[str, Any], column: str) -> None:
    """A likely mistake is a warning of a valid row."""
    row = check(tmp_path, values, {}, summary_is_served=False)
    assert isinstance(row, Row)
    assert [(warning.line, warning.column) for warning in row.warnings] == [(1, column)]


def test_an_invalid_row_has_its_warnings_too(tmp_path: Path) -> None:
    """An invalid row has its warnings, so that all is mended at once."""
    row = check(tmp_path, {"mode": "loud", "entities": ENTITIES}, {})
    assert isinstance(row, InvalidRow)
    assert [warning.column for warning in row.warnings] == ["entities"]


def test_a_recording_is_held_against_its_row(tmp_path: Path) -> None:
    """A recording's facts make errors, warnings and hints of its row, over the config's parameters."""
    (tmp_path / "a.wav").write_bytes(b"RIFF")
    facts = AudioFacts(duration_seconds=5 * 3600.0, channels=1, sample_rate=8000, format=AudioFormat.WAV)

    def shown(path: str, *, follow: bool = True) -> tuple[FileSignature, AudioFacts]:
        return audio.examine(path, follow=follow)[0], facts

    defaults = {"channelMetadata": [{"channel": 2, "speaker": {}}], "enableSeparateRecognitionPerChannel": True}
    wrong = check(tmp_path, {"mode": "default"}, defaults, check_files=True, examine=shown)
    assert [problem.column for problem in problems(wrong)] == ["channelMetadata"]
    assert [warning.column for warning in wrong.warnings] == ["audioPath", "enableSeparateRecognitionPerChannel"]
    right = check(tmp_path, {"mode": "default"}, {}, check_files=True, examine=shown)
    assert isinstance(right, Row)
    assert right.facts == facts
    assert [(warning.line, warning.column) for warning in right.warnings] == [(1, "audioPath")]
    assert [column for column, _, _ in right.hints] == ["mode"]


def test_a_recording_is_looked_at_where_that_is_asked_for(tmp_path: Path) -> None:
    """A file that is not there is told; without a look at the files nothing is asked of it."""

    def unasked(path: str, *, follow: bool = True) -> tuple[FileSignature, AudioFacts]:
        raise AssertionError(path, follow)

    missing = problems(check(tmp_path, {}, {}, check_files=True, examine=audio.examine))
    assert [problem.column for problem in missing] == ["audioPath"]
    assert problems(check(tmp_path, {}, {}, check_files=False, examine=unasked)) == []
