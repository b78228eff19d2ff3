"""The manifest's format: CSV or JSON Lines in, rows and what is wrong with them out."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from uploader.errors import UsageError
from uploader.manifest import Format, Manifest, WasBegun, format_of
from uploader.model import InvalidRow, Row

HEADER = "conversationId,audioPath\n"
FORMATS: list[Format] = ["csv", "jsonl"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with one recording in it, a.wav."""
    made = tmp_path_factory.mktemp("manifest")
    (made / "a.wav").write_bytes(b"RIFF")
    return made


def never(conversation_id: str, path: str, account: str | None) -> bool:
    """No item was begun before."""
    return False


def manifest(folder: Path, form: Format = "csv", was_begun: WasBegun = never, *, confined: bool = False) -> Manifest:
    """A manifest in this folder, to be written by the test."""
    return Manifest(folder / f"m.{form}", f"m.{form}", form, folder, confined, was_begun)


def read(folder: Path, text: str | bytes, form: Format = "csv") -> list[Row | InvalidRow]:
    """Read a manifest of this text."""
    opened = manifest(folder, form)
    opened.path.write_bytes(text if isinstance(text, bytes) else text.encode())
    rows = list(opened.read())
    if opened.header_problems:  # as a run does, once it has read the rows
        raise UsageError("\n".join(map(str, opened.header_problems)))
    return rows


def read_json(folder: Path, *rows: Any) -> list[Row | InvalidRow]:
    """Read a JSON Lines manifest of these values."""
    return read(folder, "".join(json.dumps(row) + "\n" for row in rows), "jsonl")


def only(rows: Sequence[Row | InvalidRow]) -> Row:
    """The one row there is, which is valid."""
    (row,) = rows
    assert isinstance(row, Row), row
    return row


def problems(rows: Sequence[Row | InvalidRow]) -> list[tuple[int, str]]:
    """Line and column of everything that is wrong."""
    return [(problem.line, problem.column) for row in rows if isinstance(row, InvalidRow) for problem in row.problems]


def told(rows: Sequence[Row | InvalidRow]) -> str:
    """Everything that is wrong, in words."""
    return "\n".join(str(problem) for row in rows if isinstance(row, InvalidRow) for problem in row.problems)


def test_a_csv_row_is_read(folder: Path) -> None:
    """Columns by their names, in any order; extras as they are; the file's size beside them."""
    text = "x-id,audioPath,name,conversationId,contentType\n7,a.wav,Q1,c,audio/wav\n"
    row = only(read(folder, text))
    assert (row.line, row.conversation_id, row.audio_path, row.path) == (2, "c", "a.wav", str(folder / "a.wav"))
    assert (row.content_type, row.parameters, row.extras) == ("audio/wav", {"name": "Q1"}, {"x-id": "7"})
    assert row.signature is not None
    assert row.signature.size == 4


def test_a_json_row_is_read(folder: Path) -> None:
    """JSON Lines has the same names; extras keep their types, null is not set."""
    row = only(
        read_json(folder, {"conversationId": "c", "audioPath": "a.wav", "name": None, "x-id": 7, "x-b": [1, None]})
    )
    assert (row.line, row.parameters, row.extras) == (1, {}, {"x-id": 7, "x-b": [1, None]})


@pytest.mark.parametrize("newline", ["\n", "\r\n"])
@pytest.mark.parametrize("mark", ["", "\ufeff"])
def test_a_byte_order_mark_and_either_newline_are_nothing(folder: Path, mark: str, newline: str) -> None:
    """A byte order mark and either newline are no part of the text, in both formats."""
    text = mark + f"conversationId,audioPath{newline}c,a.wav{newline}"
    assert only(read(folder, text)).conversation_id == "c"
    text = mark + json.dumps({"conversationId": "c", "audioPath": "a.wav"}) + newline
    assert only(read(folder, text, "jsonl")).conversation_id == "c"


def test_the_last_line_needs_no_end(folder: Path) -> None:
    """A file that stops without a newline has all its rows."""
    assert only(read(folder, HEADER + "c,a.wav")).audio_path == "a.wav"
    assert only(read(folder, '{"conversationId":"c","audioPath":"a.wav"}', "jsonl")).audio_path == "a.wav"


def test_quoted_cells_keep_their_commas_quotes_and_newlines(folder: Path) -> None:
    """A quoted cell is text as written, over several lines too."""
    row = only(read(folder, 'conversationId,audioPath,x-note\nc,a.wav,"one, ""two""\r\nthree"\n'))
    assert row.extras == {"x-note": 'one, "two"\r\nthree'}


def test_a_row_is_told_by_the_line_where_it_begins(folder: Path) -> None:
    """Blank lines and cells over several lines do not shift the numbers that an editor shows."""
    text = 'conversationId,audioPath,x-note\n\nc,a.wav,"1\n2\n3"\nd,a.wav,\n\n\ne,a.wav,"\n"\nf,a.wav,4\n'
    assert [row.line for row in read(folder, text)] == [3, 6, 9, 11]
    rows = read(folder, '\n{"conversationId":"c","audioPath":"a.wav"}\n\n[]\n', "jsonl")
    assert [row.line for row in rows] == [2, 4]


@pytest.mark.parametrize("form", FORMATS)
def test_a_wrong_column_is_named_with_the_one_that_was_meant(folder: Path, form: Format) -> None:
    """An unknown column is an error that says which one is close, and which there are."""
    if form == "csv":
        with pytest.raises(UsageError) as refused:
            read(folder, "conversationID,audioPath,x-\nc,a.wav,1\n")
        message = str(refused.value)
        assert "conversationId is missing" in message
        assert "x-: unknown column" in message
    else:
        message = told(read_json(folder, {"conversationID": "c", "audioPath": "a.wav"}))
    assert "conversationID" in message
    assert "did you mean conversationId?" in message


def test_all_that_is_wrong_with_a_header_is_told_at_once(folder: Path) -> None:
    """Unknown, missing and duplicate columns come in one message."""
    with pytest.raises(UsageError) as refused:
        read(folder, "audioPath,audioPath,colour\na.wav,a.wav,red\n")
    assert "conversationId is missing" in str(refused.value)
    assert "audioPath: the column stands there twice" in str(refused.value)
    assert "colour: unknown column" in str(refused.value)


@pytest.mark.parametrize(("cells", "number"), [("c", "1 cell"), ("c,a.wav,Q1,more", "4 cells")])
def test_a_row_of_the_wrong_width_is_invalid(folder: Path, cells: str, number: str) -> None:
    """Short and long rows are told with both widths, once, and keep the conversation that they name."""
    (row,) = read(folder, f"conversationId,audioPath,name\n{cells}\n")
    assert isinstance(row, InvalidRow)
    assert [str(problem) for problem in row.problems] == [
        f"line 2: the row has {number}, the header 3: give each column one"
    ]
    assert row.conversation_id == "c"


def test_an_empty_cell_means_not_set(folder: Path) -> None:
    """Empty parameter cells are not sent; an operator's own column comes back as it was."""
    row = only(read(folder, "conversationId,audioPath,name,contentType,x-id\nc,a.wav,,,\n"))
    assert (row.parameters, row.content_type, row.extras) == ({}, None, {"x-id": ""})


@pytest.mark.parametrize(("cells", "column"), [(",a.wav", "conversationId"), ("c,", "audioPath")])
def test_an_empty_cell_that_every_row_needs_is_invalid(folder: Path, cells: str, column: str) -> None:
    """The two columns that every row needs are never empty."""
    assert problems(read(folder, f"{HEADER}{cells}\n")) == [(2, column)]


@pytest.mark.parametrize("value", [7, ["c"], {"a": 1}, True])
@pytest.mark.parametrize("column", ["conversationId", "audioPath"])
def test_what_is_no_text_is_told_with_its_column(folder: Path, column: str, value: Any) -> None:
    """In JSON an id that is a number is not turned into text by guessing."""
    row = {"conversationId": "c", "audioPath": "a.wav"} | {column: value}
    assert (1, column) in problems(read_json(folder, row))


@pytest.mark.parametrize("value", ["", None])
@pytest.mark.parametrize("column", ["conversationId", "audioPath"])
def test_a_json_row_without_what_it_needs_is_invalid(folder: Path, column: str, value: str | None) -> None:
    """Missing, null and empty are the same: told, not guessed."""
    row = {"conversationId": "c", "audioPath": "a.wav"} | {column: value}
    assert problems(read_json(folder, row)) == [(1, column)]
    del row[column]
    assert problems(read_json(folder, row)) == [(1, column)]


@pytest.mark.parametrize("conversation_id", [".", "..", "c\td", "c\0"])
def test_an_id_that_would_lead_elsewhere_is_invalid(folder: Path, conversation_id: str) -> None:
    """`.` and `..` would be another address, control characters are nobody's id."""
    row = {"conversationId": conversation_id, "audioPath": "a.wav"}
    assert problems(read_json(folder, row)) == [(1, "conversationId")]


@pytest.mark.parametrize("conversation_id", ["...", "a/b", "äb", "%2e", "';--"])
def test_an_odd_id_is_the_services_business(folder: Path, conversation_id: str) -> None:
    """Everything else is taken as it is, and percent-encoded where it is sent."""
    row = {"conversationId": conversation_id, "audioPath": "a.wav"}
    assert only(read_json(folder, row)).conversation_id == conversation_id


@pytest.mark.parametrize("value", ["audio/wav", "audio/wave", "audio/mpeg", "audio/mp3"])
def test_the_four_content_types_may_be_named(folder: Path, value: str) -> None:
    """put-audio.md accepts these four in the header."""
    assert only(read_json(folder, {"conversationId": "c", "audioPath": "a.wav", "contentType": value})).content_type


@pytest.mark.parametrize("value", ["audio/ogg", "wav", "AUDIO/WAV", 7, ["audio/wav"]])
def test_any_other_content_type_is_invalid(folder: Path, value: Any) -> None:
    """A content type that the service would refuse is refused with column and remedy."""
    rows = read_json(folder, {"conversationId": "c", "audioPath": "a.wav", "contentType": value})
    assert problems(rows) == [(1, "contentType")]
    assert "audio/mpeg" in told(rows)


def test_a_parameter_of_the_wrong_type_is_invalid(folder: Path) -> None:
    """A parameter's own rule is told with its column."""
    assert problems(read_json(folder, {"conversationId": "c", "audioPath": "a.wav", "name": 7})) == [(1, "name")]


def test_everything_that_is_wrong_is_told_not_the_first_alone(folder: Path) -> None:
    """All rows and all columns of a row are checked."""
    text = "conversationId,audioPath,contentType\n..,none.wav,x\nc,a.wav,\n,a.wav,\n"
    rows = read(folder, text)
    assert problems(rows) == [(2, "conversationId"), (2, "contentType"), (2, "audioPath"), (4, "conversationId")]
    assert isinstance(rows[1], Row)


@pytest.mark.parametrize("line", ["{", "[]", '"text"', "7", "null", "{}}", "NaN", "[" * 100_000])
def test_a_line_that_is_no_json_object_is_invalid(folder: Path, line: str) -> None:
    """Broken JSON is told with its line, and the rows around it are still checked."""
    good = '{"conversationId":"c","audioPath":"a.wav"}'
    rows = read(folder, f"{good}\n{line}\n{good}\n", "jsonl")
    assert [type(row) for row in rows] == [Row, InvalidRow, Row]
    assert {where[0] for where in problems(rows)} == {2}


def test_a_number_of_thousands_of_digits_is_invalid(folder: Path) -> None:
    """A number that Python declines to read is a wrong line, not a fault."""
    rows = read(folder, '{"conversationId":"c","audioPath":"a.wav","x-n":' + "1" * 5000 + "}\n", "jsonl")
    assert {where[0] for where in problems(rows)} == {1}
    assert f"{'1' * 40}… is too large a number: mend the line" in told(rows)


@pytest.mark.parametrize("column", ["conversationId", "audioPath", "name", "x-id"])
@pytest.mark.parametrize("half", ["\ud800", "a\udcff.wav"])
def test_half_a_character_is_invalid(folder: Path, column: str, half: str) -> None:
    r"""A lone surrogate (`"\ud800"` is JSON) is no UTF-8: it could reach neither ledger, service nor results."""
    row = {"conversationId": "c", "audioPath": "a.wav"} | {column: half}
    rows = read_json(folder, row)
    assert (1, column) in problems(rows)
    assert "codec" not in told(rows)


@pytest.mark.parametrize("form", FORMATS)
def test_what_is_not_utf_8_is_refused_with_line_and_byte(folder: Path, form: Format) -> None:
    """Latin-1 is told where it stands, not read as something else."""
    start = HEADER.encode() if form == "csv" else b"\n"
    with pytest.raises(UsageError, match=r"line 2: this is not UTF-8 \(byte 0xe4 at place 2\)"):
        read(folder, start + b"x\xe4,a.wav\n", form)


def test_utf_16_is_refused(folder: Path) -> None:
    """A spreadsheet's "Unicode text" is told as what it is."""
    with pytest.raises(UsageError, match="this is UTF-16: save it as UTF-8"):
        read(folder, (HEADER + "c,a.wav\n").encode("utf-16"))


@pytest.mark.parametrize("form", FORMATS)
@pytest.mark.parametrize("text", ["", "\ufeff", "\n\n"])
def test_an_empty_manifest_is_refused(folder: Path, form: Format, text: str) -> None:
    """A manifest without rows is a mistake, not a batch that is done."""
    with pytest.raises(UsageError, match=r"is empty|has no rows"):
        read(folder, text, form)


def test_a_header_alone_is_refused(folder: Path) -> None:
    """A header without rows is told as such."""
    with pytest.raises(UsageError, match="it has no rows"):
        read(folder, HEADER)


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ('"c,a.wav\nd,a.wav\n', "line 2: a quote opens here and is not closed"),
        ('c,a.wav\nd,"a.wav\ne,"a.wav"\n', "line 3: a quote opens here and is not closed"),
        ('c,"a"wav\n', "line 2: no CSV"),
        ("c\rd,a.wav\n", "line 2: it ends with a carriage return alone"),
    ],
)
def test_broken_csv_is_refused_with_its_line(folder: Path, text: str, told: str) -> None:
    """Quotes that do not close are told by the line where they open, others where they stand; so are old line ends."""
    with pytest.raises(UsageError, match=told):
        read(folder, HEADER + text)


def test_a_folder_is_no_manifest(folder: Path) -> None:
    """A folder in the manifest's place is told as one."""
    opened = Manifest(folder, "m", "csv", folder, False, never)
    with pytest.raises(UsageError, match="this is a folder"):
        list(opened.read())


def test_a_missing_manifest_is_told(folder: Path) -> None:
    """A manifest that is not there is told with its name."""
    opened = Manifest(folder / "none.csv", "none.csv", "csv", folder, False, never)
    with pytest.raises(UsageError, match=r"none\.csv: No such file"):
        list(opened.read())


@pytest.mark.parametrize(
    ("name", "form"),
    [
        ("m.csv", "csv"),
        ("M.CSV", "csv"),
        ("m.jsonl", "jsonl"),
        ("m.ndjson", "jsonl"),
        ("a.csv.jsonl", "jsonl"),
        ("m.csv.gz", "csv"),
        ("M.JSONL.GZ", "jsonl"),
    ],
)
def test_the_ending_tells_the_format(name: str, form: Format) -> None:
    """A manifest's format is known by its ending, upper case or lower."""
    assert format_of(Path(name)) == form


@pytest.mark.parametrize("name", ["m", "m.txt", "m.gz", "m.txt.gz", "csv.gz", "-"])
def test_an_ending_that_tells_nothing_is_refused(name: str) -> None:
    """An unknown ending is told with the option that helps."""
    with pytest.raises(UsageError, match="--format"):
        format_of(Path(name))


def test_the_extra_columns_are_kept_in_their_order(folder: Path) -> None:
    """The results repeat the x- columns in the order in which they first stood there."""
    opened = manifest(folder, "jsonl")
    lines: list[dict[str, Any]] = [{"x-b": 1}, {"x-a": 2, "x-b": 3}, {}]
    opened.path.write_text(
        "\n".join(json.dumps({"conversationId": "c", "audioPath": "a.wav"} | line) for line in lines)
    )
    assert len(list(opened.read())) == 3
    assert list(opened.extra_columns) == ["x-b", "x-a"]
