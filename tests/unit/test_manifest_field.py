"""What people really hand in: ids and paths that programs and spreadsheets have spoilt, and what these leave behind."""

import json
import unicodedata
from pathlib import Path

import pytest

from tests.unit.recordings import recording
from uploader import audio
from uploader.errors import UsageError
from uploader.manifest import Format, Manifest, format_of
from uploader.manifest.ids import problem, spoilt
from uploader.model import InvalidRow, Row

HEADER = "conversationId,audioPath\n"


def read(
    folder: Path, content: str | bytes, form: Format = "csv", *, check_files: bool = False
) -> list[Row | InvalidRow]:
    """The rows of a manifest with this content."""
    path = folder / f"m.{form}"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    examine = audio.examine if check_files else None
    manifest = Manifest(
        path, path.name, form, folder, False, lambda *_: False, check_files=check_files, examine=examine
    )
    rows = list(manifest.read())
    if manifest.header_problems:  # as a run does, once it has read the rows
        raise UsageError("\n".join([f"manifest {path.name}", *map(str, manifest.header_problems)]))
    return rows


@pytest.mark.parametrize("place", ["before", "inside", "behind"])
@pytest.mark.parametrize(
    ("character", "name"),
    [
        (" ", "U+0020"),
        ("\t", "U+0009"),
        ("\x7f", "U+007F"),
        ("\x85", "U+0085"),
        ("\u00a0", "U+00A0 (NO-BREAK SPACE)"),
        ("\u00ad", "U+00AD (SOFT HYPHEN)"),
        ("\u2003", "U+2003 (EM SPACE)"),
        ("\u200b", "U+200B (ZERO WIDTH SPACE)"),
        ("\u200f", "U+200F (RIGHT-TO-LEFT MARK)"),
        ("\u2028", "U+2028 (LINE SEPARATOR)"),
        ("\u202e", "U+202E (RIGHT-TO-LEFT OVERRIDE)"),
        ("\u2060", "U+2060 (WORD JOINER)"),
        ("\u3000", "U+3000 (IDEOGRAPHIC SPACE)"),
        ("\u3164", "U+3164 (HANGUL FILLER)"),
        ("\ufe0f", "U+FE0F (VARIATION SELECTOR-16)"),
        ("\ufeff", "a byte order mark (U+FEFF)"),
        ("\ue000", "U+E000"),
        ("\U000e0020", "U+E0020 (TAG SPACE)"),
    ],
)
def test_what_nobody_sees_in_an_id_is_an_error_that_shows_it(
    tmp_path: Path, character: str, name: str, place: str
) -> None:
    """Blanks, control and invisible characters around or in an id: named, with their place, in both formats."""
    conversation_id = {"before": f"{character}581", "inside": f"5{character}81", "behind": f"581{character}"}[place]
    (row,) = read(tmp_path, json.dumps({"conversationId": conversation_id, "audioPath": "a"}), "jsonl")
    assert isinstance(row, InvalidRow)
    (result,) = row.problems
    assert (result.column, result.value) == ("conversationId", conversation_id)
    assert name in result.remedy
    assert f"at place {conversation_id.index(character) + 1}" in result.remedy


def test_every_character_of_a_hidden_category_is_refused() -> None:
    """The law is Unicode's categories, not a list: C without the unassigned, Z whole."""
    for number in range(0x110000):
        category = unicodedata.category(chr(number))
        if category[0] in "CZ" and category != "Cn":
            assert problem(f"1{chr(number)}")


@pytest.mark.parametrize(
    "conversation_id", ["5815170693595136", "a-b_c", "äöü", "会話", "a:b", "a@b", "...", "1e15", "d.b"]
)
def test_a_plain_id_is_taken_without_a_word(conversation_id: str) -> None:
    """Letters of any language, digits and marks: nothing is wrong, and nothing looks spoilt."""
    assert (problem(conversation_id), spoilt(conversation_id)) == ("", "")


@pytest.mark.parametrize(
    ("conversation_id", "kind"),
    [
        *((value, "scientific") for value in ("5.81517E+15", "5,81517E+15", "5.8e15", "6E+15", "5.8E-3")),
        *((value, "decimals") for value in ("5815170693595136.0", "5815.00", "5815,0", "5.815.170", "5,815,170")),
        *(
            (value, "missing")
            for value in ("nan", "NaN", "None", "NULL", "n/a", "NaT", "undefined", "-", "<NA>", "nil")
        ),
        *((value, "error") for value in ("#N/A", "#REF!", "#NAME?", "########")),
        *((value, "formula") for value in ('="5815170693595136"', "=A1", "=CONCAT(A1,B1)")),
        *((value, "quotes") for value in ("'581", '"581"', "\u2019581", "`581`", "b'581'", "\u201c581\u201d", "581'")),
        *(
            (value, "address")
            for value in ("https://api.symbl.ai/v1/conversations/581", "/v1/conversations/581", "www.h")
        ),
        *((value, "percent-encoded") for value in ("a%2Fb", "581%20", "%35%38%31")),
        *((value, "ASCII") for value in ("\uff15\uff18\uff11", "\u0665\u0668", "58\u0661")),
        *((value, "which no id has") for value in ("5" * 501, "a" * 9000)),
        *((value, "placeholder") for value in ("{{id}}", "${ID}", "<conversationId>", "[id]", "%ID%")),
    ],
)
def test_an_id_that_a_program_spoilt_is_warned_of(tmp_path: Path, conversation_id: str, kind: str) -> None:
    """The row can be sent, and the warning names the kind of mistake."""
    (row,) = read(tmp_path, json.dumps({"conversationId": conversation_id, "audioPath": "a"}), "jsonl")
    assert isinstance(row, Row)
    (result,) = row.warnings
    assert (result.line, result.column, result.value) == (1, "conversationId", conversation_id)
    assert kind in result.remedy


@pytest.mark.parametrize("line", [",", ",,,", " , ", '"",""', "\t,\u00a0"])
def test_a_line_of_separators_alone_is_skipped(tmp_path: Path, line: str) -> None:
    """Spreadsheets leave such lines before the header, between the rows and at the end."""
    rows = read(tmp_path, f"{line}\n{HEADER}1,a\n{line}\n2,a\n{line}\n")
    assert [(row.line, row.conversation_id) for row in rows if isinstance(row, Row)] == [(3, "1"), (5, "2")]
    assert len(rows) == 2


@pytest.mark.parametrize(
    ("content", "told"),
    [
        ("conversationId,audioPath,\n1,a,\n", "line 1, column 3: it has no name: a separator at the end of the line"),
        (",conversationId,audioPath\n0,1,a\n", "line 1, column 1: it has no name: are these a program's row numbers"),
        ("conversationId,,audioPath\n1,,a\n", "line 1, column 2: it has no name: take the column out"),
        ("sep=;\nconversationId;audioPath\n1;a\n", "a spreadsheet's own: take it out, and say --delimiter ';'"),
        ("SEP=\t\nconversationId\taudioPath\n1\ta\n", "a spreadsheet's own: take it out, and say --delimiter tab"),
        ("conversationId,audioPath\r1,a\r", "carriage return alone"),
        ('conversationId,audioPath\n1,"a\n2,b\n', "line 2: a quote opens here and is not closed"),
        (b"PK\x03\x04\x14\0\x06\0", "this is a workbook or a zip archive"),
        (b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1\0\0", "this is a workbook of old Excel"),
        (HEADER.encode("utf-16-le"), "UTF-16"),
        (HEADER.encode("utf-16-be"), "UTF-16"),
        (b"\xef\xbb\xbf<!DOCTYPE html><p>", "this is a web page"),
        (b"PAR1\x15\x04", "this is a Parquet file"),
        (b"%PDF-1.7", "this is a PDF"),
        (b"\xfd7zXZ\0\0", "this is packed by xz"),
    ],
)
def test_what_a_spreadsheet_leaves_behind_is_told_in_its_own_words(
    tmp_path: Path, content: str | bytes, told: str
) -> None:
    """The kind, the line, the remedy: never a list of the columns there are."""
    with pytest.raises(UsageError, match=r"m\.csv") as caught:
        read(tmp_path, content)
    assert told in str(caught.value)
    assert "known are" not in str(caught.value)


@pytest.mark.parametrize("ending", [".xlsx", ".XLS", ".ods", ".numbers"])
def test_a_workbook_is_told_by_its_ending(ending: str) -> None:
    """It is a workbook, not a file without a format."""
    with pytest.raises(UsageError, match="this is a workbook: save the sheet"):
        format_of(Path(f"m{ending}"))


@pytest.mark.parametrize("again", [HEADER, "\ufeff" + HEADER])
def test_a_header_in_the_middle_is_told(tmp_path: Path, again: str) -> None:
    """Two manifests put together have two headers, and the second may have a byte order mark."""
    first, second, third = read(tmp_path, f"{HEADER}1,a\n{again}2,a\n")
    assert isinstance(first, Row)
    assert isinstance(third, Row)
    assert isinstance(second, InvalidRow)
    assert [str(problem) for problem in second.problems if "header once more" in problem.remedy and problem.line == 3]


@pytest.mark.parametrize(
    ("text", "told"), [('\ufeff{"a": 1}', "begins with a byte order mark"), ('{"a":1}\r{"a":2}', "carriage return")]
)
def test_json_lines_of_two_files_or_of_an_old_system_are_told(tmp_path: Path, text: str, told: str) -> None:
    """A byte order mark in the middle, and lines that end with CR alone, in their own words."""
    rows = read(tmp_path, '{"conversationId": "1", "audioPath": "a"}\n' + text + "\n", "jsonl")
    assert isinstance(rows[1], InvalidRow)
    assert told in rows[1].problems[0].remedy


@pytest.mark.parametrize(
    ("audio_path", "told"),
    [
        ("~/a.wav", "~ is not expanded"),
        ("~anna/a.wav", "~ is not expanded"),
        ("$HOME/a.wav", "variables are not expanded"),
        ("%USERPROFILE%/a.wav", "variables are not expanded"),
        ("file:///data/a.wav", "this is a URI"),
        ("FILE:/data/a.wav", "this is a URI"),
        ("ftp://server/a.wav", "this is an address (ftp://)"),
        ("calls\\a.wav", "it has backslashes, as paths of Windows do"),
        ("C:\\calls\\a.wav", "it has backslashes, as paths of Windows do"),
        ("in\\there.wav", "a file is there with / in place of the backslashes"),
        ("M\u00fcller.wav", "a file is there under another Unicode form of this name (NFD)"),
        ("Jose\u0301.wav", "a file is there under another Unicode form of this name (NFC)"),
        (" there.wav", "it begins with a blank (U+0020); a file is there without the invisible characters"),
        ("there.wav\u00a0", "it ends with U+00A0 (NO-BREAK SPACE); a file is there without the invisible characters"),
        ("\ufeffthere.wav", "it begins with a byte order mark (U+FEFF)"),
        ("the\u200bre.wav", "U+200B (ZERO WIDTH SPACE) stands in it; a file is there without the invisible characters"),
        ("in%2Fthere.wav", "a file is there without the percent-encoding"),
        ("'there.wav'", "quotes became a part of the path"),
        ("THERE.WAV", "a file is there in small letters"),
        ("there.WAV", "a file is there"),
    ],
)
def test_a_path_that_leads_nowhere_is_told_what_is_likely(tmp_path: Path, audio_path: str, told: str) -> None:
    """The error says that the file is not there, and which slip of another system it looks like."""
    (tmp_path / "in").mkdir()
    for name in ("there.wav", "in/there.wav", "Mu\u0308ller.wav", "Jos\u00e9.wav"):
        (tmp_path / name).write_bytes(recording())
    row = json.dumps({"conversationId": "1", "audioPath": audio_path})
    (found,) = read(tmp_path, row, "jsonl", check_files=True)
    assert isinstance(found, InvalidRow)
    assert [problem.column for problem in found.problems] == ["audioPath"]
    assert "cannot be found" in found.problems[0].remedy
    assert told in found.problems[0].remedy


@pytest.mark.parametrize("name", [" a.wav", "a\\b.wav", "~a.wav", "a%20b.wav", "\ufeffa.wav"])
def test_a_file_of_an_odd_name_that_is_there_is_sent(tmp_path: Path, name: str) -> None:
    """Likely mistakes are reported of missing files alone."""
    (tmp_path / name).write_bytes(recording())
    (found,) = read(tmp_path, json.dumps({"conversationId": "1", "audioPath": name}), "jsonl", check_files=True)
    assert isinstance(found, Row)
    assert found.warnings == ()


@pytest.mark.parametrize(
    ("values", "column"),
    [
        ({"name": "n" * 9000}, "name"),
        ({"name": "\U0001f600" * 700}, "name"),
        ({"name": "short", "customVocabulary": ["w" * 40] * 300}, "customVocabulary"),
        ({"name": "n" * 7000}, None),
        ({"name": "n" * 100}, None),
    ],
)
def test_an_address_longer_than_gateways_take_is_warned_of(
    tmp_path: Path, values: dict[str, object], column: str | None
) -> None:
    """By the parameter that makes most of it, counted as it is encoded."""
    (row,) = read(tmp_path, json.dumps({"conversationId": "1", "audioPath": "a", **values}), "jsonl")
    assert isinstance(row, Row)
    assert [warning.column for warning in row.warnings] == ([column] if column else [])
    assert all("8 KB" in warning.remedy for warning in row.warnings)
