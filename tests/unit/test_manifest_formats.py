"""What a manifest's file may be: packed or not, with this or that delimiter, and where its errors are."""

import gzip
import json
from pathlib import Path

import pytest

from uploader.errors import UsageError
from uploader.manifest import Format, Manifest, files
from uploader.model import InvalidRow, Problem, Row

CSV = 'conversationId,audioPath,x-note\nc,a.wav,"one\ntwo"\n,a.wav,\nd,a.wav,\n'
JSONL = '{"conversationId":"c","audioPath":"a.wav","x-note":"one\\ntwo"}\n\n{"audioPath":"a.wav"}\n'


def manifest_of(path: Path, content: bytes, form: Format = "csv", delimiter: str = ",") -> Manifest:
    """Write a manifest with this content, whose files are not looked for."""
    path.write_bytes(content)
    return Manifest(path, path.name, form, path.parent, False, lambda *_: False, delimiter=delimiter, check_files=False)


def read(path: Path, content: bytes, form: Format = "csv", delimiter: str = ",") -> list[Row | InvalidRow]:
    """The rows of a manifest with this content."""
    return list(manifest_of(path, content, form, delimiter).read())


def header_problems(path: Path, content: bytes, delimiter: str = ",") -> list[Problem]:
    """The problems of the header of a manifest by which no row can be read."""
    manifest = manifest_of(path, content, delimiter=delimiter)
    assert list(manifest.read()) == []
    return manifest.header_problems


def lines(rows: list[Row | InvalidRow]) -> list[tuple[int, bool]]:
    """The line of each row, and whether it is valid."""
    return [(row.line, isinstance(row, Row)) for row in rows]


@pytest.mark.parametrize("name", ["m.csv.gz", "M.CSV.GZ", "m.csv", "stdin"])
def test_a_packed_manifest_is_read_as_any_other(tmp_path: Path, name: str) -> None:
    """Packed by its ending or by its content (standard input has no ending): the same rows, the same lines."""
    found = read(tmp_path / name, gzip.compress(CSV.encode("utf-8-sig")))
    assert lines(found) == [(2, True), (4, False), (5, True)]
    assert found[0].extras == {"x-note": "one\ntwo"}


@pytest.mark.parametrize("ending", ["\n", "\r\n", ""])
@pytest.mark.parametrize(
    ("broken", "character"), [('{"conversationId":', 19), ('{"conversationId": "c"', 23), ("{", 2)]
)
def test_broken_json_is_told_by_the_files_line_alone(tmp_path: Path, broken: str, character: int, ending: str) -> None:
    """A JSON error gives the character within the line, not a line number within the text."""
    whole = '{"conversationId":"c","audioPath":"a"}\n'
    found = read(tmp_path / "m.jsonl", f"{whole}\n{broken}{ending}".encode(), "jsonl")
    assert isinstance(found[1], InvalidRow)
    (result,) = [str(problem) for problem in found[1].problems if not problem.column]
    assert result.startswith("line 3: ")
    assert f" at character {character}: mend the line" in result
    assert result.count("line ") == 1


@pytest.mark.parametrize("form", ["csv", "jsonl"])
def test_an_own_column_with_a_capital_is_told_what_it_should_be(tmp_path: Path, form: Format) -> None:
    """X-Ticket is meant to be the operator's own: no parameter of the service is proposed."""
    csv, jsonl = "conversationId,audioPath,X-Ticket\nc,a,1\n", '{"conversationId":"c","audioPath":"a","X-Ticket":"1"}\n'
    manifest = manifest_of(tmp_path / f"m.{form}", (csv if form == "csv" else jsonl).encode(), form)
    (row,) = manifest.read()
    message = str(row.problems if isinstance(row, InvalidRow) else manifest.header_problems)
    assert "did you mean x-Ticket?" in message
    assert "small x-" in message


def test_packed_json_lines_are_read(tmp_path: Path) -> None:
    """Either format may be packed."""
    found = read(tmp_path / "m.jsonl.gz", gzip.compress(JSONL.encode()), "jsonl")
    assert lines(found) == [(1, True), (3, False)]


@pytest.mark.parametrize(
    "content", [gzip.compress(CSV.encode())[:-9], b"hello", gzip.compress(b"x")[:5]], ids=["cut", "no gzip", "head"]
)
def test_a_broken_gzip_file_is_told(tmp_path: Path, content: bytes) -> None:
    """Cut off, or none at all: an error that says so."""
    with pytest.raises(UsageError, match=r"manifest m\.csv\.gz.*: this gzip file is broken"):
        read(tmp_path / "m.csv.gz", content)


def test_a_gzip_file_that_was_changed_is_told_with_how_far_it_was_read(tmp_path: Path) -> None:
    """A wrong checksum is found at the end: no row of such a file is trusted."""
    packed = bytearray(gzip.compress(CSV.encode()))
    packed[-8] ^= 1
    with pytest.raises(UsageError, match=r"after line 5: this gzip file is broken"):
        read(tmp_path / "m.csv.gz", bytes(packed))


def test_what_is_not_utf_8_in_a_packed_file_is_told_with_its_line(tmp_path: Path) -> None:
    """The line's number is the unpacked text's."""
    with pytest.raises(UsageError, match=r"line 6: this is not UTF-8"):
        read(tmp_path / "m.csv.gz", gzip.compress(CSV.encode() + b"\xff\n"))


@pytest.mark.parametrize("delimiter", [";", "\t", "|", " "])
def test_another_delimiter_is_taken(tmp_path: Path, delimiter: str) -> None:
    """The cells are separated by what the settings say, quoted cells are kept whole."""
    text = CSV.replace(",", delimiter).replace("two", f"two{delimiter}")
    found = read(tmp_path / "m.csv", text.encode(), delimiter=delimiter)
    assert lines(found) == [(2, True), (4, False), (5, True)]
    assert found[0].extras == {"x-note": f"one\ntwo{delimiter}"}


@pytest.mark.parametrize(
    ("written", "said", "proposed"),
    [(";", ",", "';'"), ("\t", ",", "tab"), ("|", ",", "'|'"), (",", ";", ","), (",", "\t", ",")],
)
def test_a_header_with_another_delimiter_is_told(tmp_path: Path, written: str, said: str, proposed: str) -> None:
    """The error proposes the option, and is one, not a list of unknown columns."""
    (problem,) = header_problems(tmp_path / "m.csv", CSV.replace(",", written).encode(), delimiter=said)
    assert problem.line == 1
    assert problem.remedy.endswith(f"say --delimiter {proposed}")


def test_a_column_that_stands_twice_in_a_json_row_is_invalid(tmp_path: Path) -> None:
    """JSON's last one wins in silence elsewhere; here which was meant is not guessed."""
    found = read(tmp_path / "m.jsonl", b'{"conversationId":"c","audioPath":"a","conversationId":"d"}\n', "jsonl")
    assert lines(found) == [(1, False)]
    assert isinstance(found[0], InvalidRow)
    assert "conversationId stands there twice" in str(found[0].problems[0])


@pytest.mark.parametrize("value", ["NaN", "-Infinity", "1e999", "[" * 70 + "]" * 70])
def test_json_that_could_not_be_written_again_is_invalid(tmp_path: Path, value: str) -> None:
    """No results line could hold it: it is told before anything is sent."""
    text = f'{{"conversationId":"c","audioPath":"a","x-a":{value}}}\n'
    assert lines(read(tmp_path / "m.jsonl", text.encode(), "jsonl")) == [(1, False)]


@pytest.mark.parametrize("name", ["\x1b[31mred", "two\nlines", "\ud800", "long" * 1000])
def test_what_is_told_of_a_row_can_be_printed(tmp_path: Path, name: str) -> None:
    """A stranger's column or member drives no terminal, and fills no screen."""
    channel = {"channel": 1, "speaker": {name: "x"}}
    row = {"conversationId": "c", "audioPath": "a", name: 1, "channelMetadata": [channel]}
    (found,) = read(tmp_path / "m.jsonl", json.dumps(row).encode(), "jsonl")
    assert isinstance(found, InvalidRow)
    for problem in found.problems:
        assert (problem.column + problem.remedy).isprintable()
        assert len(problem.column) <= 80
        assert len(problem.remedy) < 400


def test_half_a_character_deep_in_a_column_is_invalid(tmp_path: Path) -> None:
    """However deep: neither ledger nor results could hold it."""
    row = {"conversationId": "c", "audioPath": "a", "x-a": [{"b": "\ud800"}]}
    found = read(tmp_path / "m.jsonl", json.dumps(row).encode(), "jsonl")
    assert lines(found) == [(1, False)]


@pytest.mark.parametrize("form", ["csv", "jsonl"])
def test_a_line_without_end_is_not_read_into_memory(
    tmp_path: Path, form: Format, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A film in the manifest's place may have no line end at all."""
    monkeypatch.setattr(files, "LINE_MOST_BYTES", 100)
    with pytest.raises(UsageError, match="line 1: it is longer than 100 bytes"):
        read(tmp_path / "m", b" " * 1000, form)


@pytest.mark.parametrize(
    ("first", "is_missing"),
    [
        ("4711,call.wav", True),
        ("c1,folder/call", True),
        ("4711,call", True),
        ("id,recording", False),
        ("conversation,call.wav", False),
    ],
)
def test_a_header_that_is_missing_is_told_in_these_words(tmp_path: Path, first: str, is_missing: bool) -> None:
    """A first line of ids and paths is no header of unknown columns; a header of other names is no missing one."""
    manifest = manifest_of(tmp_path / "m.csv", f"{first}\nc2,other.wav\n".encode())
    rows = list(manifest.read())
    message = [problem.remedy for problem in manifest.header_problems]
    assert any("the header is missing" in remedy for remedy in message) == is_missing
    assert (len(message), len(rows)) == (1, 0) if is_missing else rows
