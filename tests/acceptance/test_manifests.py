"""What a manifest may be, as people and pipelines write it, and what the config adds to it."""

import gzip
import json

from tests.acceptance.batches import read_results
from tests.acceptance.place import Place, Server
from tests.unit.recordings import recording

CHANNELS = [{"channel": 1, "speaker": {"name": "Zoë & Co", "email": "z@example.com"}}]


def _queries(server: Server) -> dict[str, dict[str, str]]:
    """Return the query of each conversation's PUT."""
    return {put.conversation_id: dict(put.query) for put in server.journal.appended()}


def test_parameters_of_row_and_config_reach_the_service(place: Place, server: Server) -> None:
    """The row's value, else the config's, else none; lists and objects as JSON text, true and false as words."""
    place.write("a.wav", b"RIFF, as good as any")
    place.write(
        "night.toml",
        '[parameters]\nname = "Night"\ndetectPhrases = true\nenableSeparateRecognitionPerChannel = true\n'
        'customVocabulary = ["Ä", "b c"]\n',
    )
    rows = [
        {"conversationId": "one", "name": "Day & more", "channelMetadata": CHANNELS, "confidenceThreshold": 0.75},
        {"conversationId": "two", "detectPhrases": False, "diarizationSpeakerCount": "3", "name": None}
        | {"enableSpeakerDiarization": True},
    ]
    place.write("m.jsonl", "".join(json.dumps({"audioPath": "a.wav"} | row) + "\n" for row in rows))
    assert place.run("run", "m.jsonl", "--config", "night.toml").code == 0
    first, two = _queries(server)["one"], _queries(server)["two"]
    assert json.loads(first.pop("channelMetadata")) == CHANNELS
    assert json.loads(first.pop("customVocabulary")) == json.loads(two.pop("customVocabulary")) == ["Ä", "b c"]
    on = {"enableSeparateRecognitionPerChannel": "true"}
    assert first == on | {"name": "Day & more", "confidenceThreshold": "0.75", "detectPhrases": "true"}
    assert two == on | {
        "name": "Night",
        "detectPhrases": "false",
        "enableSpeakerDiarization": "true",
        "diarizationSpeakerCount": "3",
    }


def test_what_the_service_adds_later_can_be_sent_at_once(place: Place) -> None:
    """[extra_parameters] goes out as it is; a rehearsal knows of it, a server that does not says so."""
    place.write("a.wav", b"RIFF, as good as any")
    place.write("m.csv", "conversationId,audioPath\none,a.wav\n")
    place.write("night.toml", '[extra_parameters]\nnewThing = ["a b"]\n')
    assert place.run("run", "m.csv", "--config", "night.toml", "--sandbox").code == 0
    server = place.serve("--allow-parameter", "newThing")
    place.use(server)
    assert place.run("run", "m.csv", "--config", "night.toml").code == 0
    assert _queries(server) == {"one": {"newThing": '["a b"]'}}


def test_a_packed_manifest_with_semicolons_is_run(place: Place, server: Server) -> None:
    """A spreadsheet's export, packed: results go beside it, without its endings, and a table program's TRUE is true."""
    place.write("a.wav", b"RIFF, as good as any")
    text = 'conversationId;audioPath;detectPhrases;customVocabulary\r\none;a.wav;TRUE;"[""a"", ""b""]"\r\n'
    place.write("m.csv.gz", gzip.compress(text.encode("utf-8-sig")))
    assert "--delimiter ';'" in place.run("run", "m.csv.gz").err
    assert place.run("run", "m.csv.gz", "--delimiter", ";").code == 0
    assert _queries(server) == {"one": {"detectPhrases": "true", "customVocabulary": '["a","b"]'}}
    assert [line["batch"] for line in read_results(place.path("m.results.csv"))] == ["m.csv.gz"]


def test_warnings_are_logged_once_and_keep_nothing_from_being_sent(place: Place, server: Server) -> None:
    """One line for each kind, without a value; `plan` tells each row."""
    place.write("a.wav", recording())
    entity = json.dumps([{"customType": "t", "text": "secret-word"}])
    rows = "".join(f'{{"conversationId":"c{number}","audioPath":"a.wav","entities":{entity}}}\n' for number in range(3))
    place.write("m.jsonl", rows)
    ending = place.run("run", "m.jsonl")
    assert ending.code == 0
    logged = ending.events("manifest.warned")
    assert [(line["line"], line["column"], line["count"]) for line in logged] == [(1, "entities", 3)]
    assert "detectEntities" in logged[0]["remedy"]
    assert "secret-word" not in ending.err
    assert len(_queries(server)) == 3
    assert "3 warnings" in place.run("plan", "m.jsonl").out


def test_rows_that_are_mistakes_beside_one_another_are_told_by_plan_and_run(place: Place, server: Server) -> None:
    """Repeats, ids that differ by case and spoilt ids that became the same: with their lines; all are sent."""
    place.write("a.wav", recording())
    place.write("b.wav", recording(1.5))
    pairs = ["one,a.wav", "one,./a.wav", "One,a.wav", "5.8E+15,a.wav", "5.8E+15,b.wav"]
    place.write("m.csv", "\n".join(["conversationId,audioPath", *pairs, ""]))
    planned = place.run("plan", "m.csv")
    ending = place.run("run", "m.csv")
    assert (planned.code, ending.code) == (0, 0)
    assert "warned    line 5, conversationId" in ending.out
    warnings = place.run("run", "m.csv", "--json").summary["warnings"]
    assert (5, "conversationId") in [(warning["line"], warning["column"]) for warning in warnings]
    events = ending.events("manifest.warned")
    logged = "\n".join(line["remedy"] for line in events)
    for words in (
        "lines 2, 3 append the same file",
        "this id and one differ by letter case alone",
        "in scientific notation",
        "lines 5, 6 have become the same conversation",
    ):
        assert words in planned.out
        assert words in logged
    assert len(events) == 4
    assert len(_queries(server)) == 3


def test_the_schema_of_a_row_needs_no_manifest(place: Place, server: Server) -> None:
    """`plan --schema` prints JSON Schema; what the config sets, a row need not."""
    place.write("night.toml", "[parameters]\nenableSpeakerDiarization = true\n")
    plain = json.loads(place.run("plan", "--schema").out)
    configured = json.loads(place.run("plan", "--schema", "--config", "night.toml").out)
    assert plain["required"] == ["conversationId", "audioPath"]
    assert plain["allOf"] != configured["allOf"]
