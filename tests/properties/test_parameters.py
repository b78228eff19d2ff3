"""What a row says reaches the service as it was written."""

import csv
import io
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given, settings

from tests.properties.manifests import IDS, VALUES, parameters, read
from uploader.client import UploadRequest
from uploader.client.upload_client import url_of
from uploader.model import Row
from uploader.parameters import TABLE, Encoding, query
from uploader.sandbox import parameters as judge
from uploader.sandbox import request_target

EVERYTHING = "Ä 😀 &=#%+;?/\\\"'\r\n\t\0"


def asked(row: Row) -> str:
    """Return the target of the PUT for a row, as the client writes it."""
    request = UploadRequest(row.conversation_id, query(row.parameters, {}), None)
    return str(url_of("https://example.com", request)).removeprefix("https://example.com")


def conversation_of(row: Row) -> str:
    """Return the conversation that the service is asked for."""
    return request_target.decoded(asked(row).partition("?")[0].removeprefix("/v1/process/audio/"))


def decoded(row: Row) -> dict[str, Any]:
    """Decode a query with the sandbox's own reader, which refuses undocumented encodings."""
    request_target.check(asked(row))
    return judge.read(request_target.query(asked(row)))


def as_jsonl(path: Path, conversation_id: str, values: dict[str, Any]) -> Row:
    """Return the row of a JSON Lines manifest."""
    path.write_text(
        json.dumps({"conversationId": conversation_id, "audioPath": "a.wav"} | values, ensure_ascii=False) + "\n",
        encoding="utf-8",
    )
    (row,) = read(path, "jsonl")
    assert isinstance(row, Row), row
    return row


def as_csv(path: Path, conversation_id: str, values: dict[str, Any]) -> Row:
    """Return the row of a CSV manifest: JSON in the cells of whatever is no text."""
    text = io.StringIO(newline="")
    cells = {name: value if isinstance(value, str) else json.dumps(value) for name, value in values.items()}
    writer = csv.DictWriter(text, ["conversationId", "audioPath", *TABLE], restval="")
    writer.writeheader()
    writer.writerow({"conversationId": conversation_id, "audioPath": "a.wav"} | cells)
    path.write_bytes(text.getvalue().encode())
    (row,) = read(path, "csv")
    assert isinstance(row, Row), row
    return row


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the manifest's path."""
    return tmp_path_factory.mktemp("drawn") / "m"


@given(conversation_id=IDS, values=parameters())
@example(conversation_id="c", values={"channelMetadata": [], "enableSeparateRecognitionPerChannel": True})
@settings(deadline=None)
def test_every_row_survives_the_way_to_the_service(path: Path, conversation_id: str, values: dict[str, Any]) -> None:
    """Manifest of either format, query, URL, and back: each value equal, nothing added, nothing lost."""
    for write in (as_jsonl, as_csv):
        row = write(path, conversation_id, values)
        assert decoded(row) == values
        assert conversation_of(row) == conversation_id


def test_the_strategies_know_every_parameter() -> None:
    """A parameter that is added to the table is drawn, too."""
    assert set(VALUES) == set(TABLE)


def test_a_row_with_every_parameter_and_every_kind_of_character_survives(path: Path) -> None:
    """Reserved and non-ASCII characters, quotes and line ends, everywhere at once."""
    speaker = {"name": EVERYTHING, "email": EVERYTHING}
    values = {
        "name": EVERYTHING,
        "webhookUrl": "https://example.com/ä?a=b&c=%20#d",
        "customVocabulary": [EVERYTHING],
        "confidenceThreshold": 0.6,
        "entities": [{"customType": EVERYTHING, "text": EVERYTHING, EVERYTHING: [EVERYTHING]}],
        "channelMetadata": [{"channel": 1, "speaker": speaker}],
        "languageCode": "en-US",
        "mode": "phone",
        "trackers": [{"name": EVERYTHING, "vocabulary": [EVERYTHING]}],
        "diarizationSpeakerCount": 2,
        **{name: True for name, parameter in TABLE.items() if parameter.encoding is Encoding.WORD},
    }
    assert set(values) == set(TABLE)
    assert decoded(as_jsonl(path, "ä/b?c", values)) == values
    assert decoded(as_csv(path, "ä/b?c", values)) == values
