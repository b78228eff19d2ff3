"""What a row says is what reaches the service, and what is the operator's own comes back unchanged."""

from tests.acceptance.batches import read_results, write_table
from tests.acceptance.place import Place, Server
from tests.acceptance.starting import ROOT
from tests.unit import recordings

TRICKY_ID = "a/b?c=é%2F#&+~"
TRICKY_NAME = 'Q3 "review" & plans = 100 % é/ü + more; #1'


def test_a_rows_conversation_type_and_name_reach_the_service(place: Place, server: Server) -> None:
    """conversationId, contentType and name arrive as written, however tricky; the length is exact, never chunked."""
    place.write("unknown.bin", b"no header that tells a format")
    wav = (ROOT / "config/sample/support-call-1.wav").read_bytes()
    place.write("call.wav", wav)
    cells = [
        {"conversationId": TRICKY_ID, "audioPath": "call.wav", "contentType": "audio/wave", "name": TRICKY_NAME},
        {"conversationId": "2", "audioPath": "call.wav", "contentType": "", "name": ""},
        {"conversationId": "3", "audioPath": "unknown.bin", "contentType": "", "name": "plain"},
    ]
    write_table(place, "m.csv", cells)
    assert place.run("run", "m.csv", "--limit", "3").code == 0
    puts = {put.conversation_id: put for put in server.journal.appended()}
    assert set(puts) == {TRICKY_ID, "2", "3"}
    assert [puts[cell["conversationId"]].headers.get("content-type") for cell in cells] == [
        "audio/wave",
        "audio/wav",
        None,
    ]
    assert [puts[cell["conversationId"]].query for cell in cells] == [
        (("name", TRICKY_NAME),),
        (),
        (("name", "plain"),),
    ]
    for put in puts.values():
        assert "transfer-encoding" not in put.headers
        assert put.content_length == put.bytes
    assert puts["2"].bytes == len(wav)
    assert [line["conversationId"] for line in read_results(place.path("m.results.csv"))] == [TRICKY_ID, "2", "3"]


def test_a_recording_is_sent_as_what_it_is(place: Place, server: Server) -> None:
    """The Content-Type is that of the content and not of the name; of other formats none is sent."""
    mp3 = (ROOT / "config/sample/interview-2.mp3").read_bytes()
    files = {
        "mp3.wav": (mp3, "audio/mpeg", "4.86"),
        "wav.mp3": (recordings.recording(2.0), "audio/wav", "2.0"),
        "cut.wav": (recordings.recording(2.0)[:-100], "audio/wav", ""),
        "flac.wav": (recordings.flac_file(), None, "2.375"),
        "aac.mp3": (recordings.aac_file(), None, ""),
        "page.wav": (recordings.HTML, None, ""),
    }
    for name, (content, _, _) in files.items():
        place.write(name, content)
    write_table(place, "m.csv", [{"conversationId": name, "audioPath": name} for name in files])
    assert place.run("run", "m.csv", "--limit", "10").code == 0
    sent = {put.conversation_id: put.headers.get("content-type") for put in server.journal.appended()}
    assert sent == {name: kind for name, (_, kind, _) in files.items()}
    result = {line["conversationId"]: line["durationSeconds"] for line in read_results(place.path("m.results.csv"))}
    assert result == {name: duration for name, (_, _, duration) in files.items()}


def test_the_operators_own_columns_come_back_unchanged(place: Place, server: Server) -> None:
    """x- columns are keys to join by: formulas, quotes, line ends, spaces and emptiness come back as they were."""
    own = ["=1+1", ' "quoted", comma; ', "two\nlines", "", "@007", "ünïcode\t"]
    cells = [
        {"x-key": text, "conversationId": str(number), "audioPath": f"{number}.wav", "x-no": f"-{number}"}
        for number, text in enumerate(own)
    ]
    for number in range(len(own)):
        place.write(f"{number}.wav", b"x" * (number + 1))
    write_table(place, "m.csv", cells)
    assert place.run("run", "m.csv", "--limit", "10").code == 0
    results = read_results(place.path("m.results.csv"))
    assert [line["x-key"] for line in results] == own
    assert [line["x-no"] for line in results] == [f"-{number}" for number in range(len(own))]
    assert list(results[0])[-2:] == ["x-key", "x-no"]
    assert [line["line"] for line in results] == ["2", "3", "4", "6", "7", "8"], "a cell with two lines takes two"
    assert len(server.journal.appended()) == len(own)
