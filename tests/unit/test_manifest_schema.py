"""The JSON Schema of a row says what the manifest's reader says."""

import json
from pathlib import Path
from typing import Any

import pytest
from jsonschema import Draft202012Validator

from tests.unit.test_parameters import RIGHT, WRONG_NATIVE
from uploader.manifest import Manifest
from uploader.manifest.schema import row_schema
from uploader.model import Row
from uploader.parameters import NEEDS, TABLE

GOOD = {"conversationId": "c", "audioPath": "a.wav"}
SWITCHES_ON = dict.fromkeys(NEEDS.values(), True)
# URLs whose fault no pattern of a bearable length would find
BEYOND_A_SCHEMA = ("https://example.com:port", "https://:80")


def reader_takes(tmp_path: Path, row: Any, defaults: dict[str, Any]) -> bool:
    """Tell whether a JSON Lines manifest with this row is valid."""
    path = tmp_path / "m.jsonl"
    path.write_text(json.dumps(row) + "\n", encoding="utf-8")
    manifest = Manifest(path, "m", "jsonl", tmp_path, False, lambda *_: False, defaults=defaults, check_files=False)
    return all(isinstance(row, Row) for row in manifest.read())


def schema_takes(row: Any, defaults: dict[str, Any]) -> bool:
    """Tell whether the row is valid by the schema."""
    return bool(Draft202012Validator(row_schema(defaults)).is_valid(row))


def test_the_schema_is_one() -> None:
    """It is a JSON Schema, with every column of the table and each one's meaning."""
    schema = row_schema({})
    Draft202012Validator.check_schema(schema)
    meanings = {name: schema["properties"][name]["description"] for name in TABLE}
    assert meanings == {name: parameter.meaning for name, parameter in TABLE.items()}


@pytest.mark.parametrize(("name", "cell", "value"), RIGHT)
def test_the_schema_takes_what_the_reader_takes(tmp_path: Path, name: str, cell: str, value: Any) -> None:
    """Every value that is right, in a row where it may stand."""
    row = GOOD | SWITCHES_ON | {name: value}
    assert reader_takes(tmp_path, row, {}) is True
    assert schema_takes(row, {}) is True


@pytest.mark.parametrize(
    ("name", "value"),
    [
        case
        for case in WRONG_NATIVE
        if case[1] is not None and case[1] not in BEYOND_A_SCHEMA and "NaN" not in repr(case[1])
    ],
)
def test_the_schema_refuses_what_the_reader_refuses(tmp_path: Path, name: str, value: Any) -> None:
    """Every value that is wrong; what no schema can say is left out (a channel named twice, NaN)."""
    row = GOOD | SWITCHES_ON | {name: value}
    assert reader_takes(tmp_path, row, {}) is False
    try:
        json.dumps(value, allow_nan=False)
    except ValueError:
        return
    if name != "channelMetadata" or len(value) == 1:
        assert schema_takes(row, {}) is False


ROWS: list[tuple[Any, bool]] = [
    (GOOD, True),
    (GOOD | {"x-id": [1, {"a": None}], "contentType": "audio/wav", "name": None, "x-": 1}, False),
    (GOOD | {"x-id": [1, {"a": None}], "contentType": "audio/wav", "name": None}, True),
    (GOOD | {"contentType": "audio/ogg"}, False),
    (GOOD | {"nmae": "x"}, False),
    ({"conversationId": "c"}, False),
    ({"audioPath": "a.wav"}, False),
    (GOOD | {"conversationId": ""}, False),
    (GOOD | {"conversationId": ".."}, False),
    (GOOD | {"conversationId": "..."}, True),
    (GOOD | {"conversationId": "a\tb"}, False),
    (GOOD | {"conversationId": 7}, False),
    (GOOD | {"conversationId": None}, False),
    (GOOD | {"audioPath": ""}, False),
    (GOOD | {"audioPath": "a\0"}, False),
    ([], False),
    ("text", False),
]


@pytest.mark.parametrize(("row", "valid"), ROWS)
def test_the_schema_and_the_reader_agree_on_rows(tmp_path: Path, row: Any, valid: bool) -> None:
    """Columns that every row has, unknown ones, the operator's own, and what is no row."""
    assert (reader_takes(tmp_path, row, {}), schema_takes(row, {})) == (valid, valid)


@pytest.mark.parametrize("default", [None, True, False])
@pytest.mark.parametrize("switch", ["unset", None, True, False])
@pytest.mark.parametrize("count", ["unset", None, 2])
@pytest.mark.parametrize("count_by_config", [False, True])
def test_the_schema_and_the_reader_agree_on_what_needs_another(
    tmp_path: Path, default: bool | None, switch: Any, count: Any, count_by_config: bool
) -> None:
    """In the row, in the config, in both or in neither: one rule."""
    row = GOOD | {
        name: value
        for name, value in (("enableSpeakerDiarization", switch), ("diarizationSpeakerCount", count))
        if value != "unset"
    }
    defaults: dict[str, Any] = {} if default is None else {"enableSpeakerDiarization": default}
    defaults |= {"diarizationSpeakerCount": 3} if count_by_config else {}
    assert reader_takes(tmp_path, row, defaults) == schema_takes(row, defaults)
