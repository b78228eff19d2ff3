"""`uploader manifest FOLDER`: the pattern, the order, and what is left out, each with its remedy."""

import csv
import io
import json
import os
from collections.abc import Mapping
from pathlib import Path

import pytest

from tests.unit.recordings import HTML, recording
from uploader.cli.listing import Listing, write_folder_manifest
from uploader.cli.planning import PlanOptions, plan_manifest
from uploader.errors import UsageError
from uploader.manifest.folder import natural_key
from uploader.manifest.pattern import PathPattern
from uploader.settings import Settings
from uploader.settings.loading import load

MATCHES: list[tuple[str, str, Mapping[str, str] | None]] = [
    ("{conversationId}/**", "42/a.wav", {"conversationId": "42"}),
    ("{conversationId}/**", "42/deep/down/a.wav", {"conversationId": "42"}),
    ("{conversationId}/**", "a.wav", None),
    ("{conversationId}/{}.wav", "42/a.wav", {"conversationId": "42"}),
    ("{conversationId}/{}.wav", "42/.wav", None),
    ("{conversationId}/*.wav", "42/.wav", {"conversationId": "42"}),
    ("{conversationId}/{}.wav", "42/b/a.wav", None),
    ("{conversationId}/{}.wav", "42/a.mp3", None),
    ("{conversationId}/{}.wav", "42/axwav", None),
    ("**/{conversationId}.wav", "42.wav", {"conversationId": "42"}),
    ("**/{conversationId}.wav", "2026/11/42.wav", {"conversationId": "42"}),
    ("{}_{conversationId}_{}.wav", "mon_42_1_of_2.wav", {"conversationId": "42"}),
    ("{conversationId}-{x-part}.wav", "42-1-2.wav", {"conversationId": "42", "x-part": "1-2"}),
    ("{conversationId:[0-9]{4}}{}.wav", "4242-a.wav", {"conversationId": "4242"}),
    ("{conversationId:[0-9]{4}}{}.wav", "42-a.wav", None),
    ("{:[a-z]+}/{conversationId}/*", "ab/42/a.wav", {"conversationId": "42"}),
    ("{conversationId}/{conversationId}_*", "42/42_a.wav", {"conversationId": "42"}),
    ("{conversationId}/{conversationId}_*", "42/43_a.wav", None),
    ("{languageCode}/{conversationId}.wav", "en-US/42.wav", {"languageCode": "en-US", "conversationId": "42"}),
    ("(x)/{conversationId}.wav", "(x)/42.wav", {"conversationId": "42"}),
]


@pytest.mark.parametrize(("pattern", "path", "columns"), MATCHES)
def test_a_pattern_names_the_columns_of_a_path(pattern: str, path: str, columns: Mapping[str, str] | None) -> None:
    """Placeholders take as little as they can, stay within a name, and mean the same text where they stand twice."""
    assert PathPattern(pattern).match(path) == columns


@pytest.mark.parametrize(
    ("pattern", "remedy"),
    [
        ("*.wav", "{conversationId} is missing in it"),
        ("{conversationId}/{part}.wav", "columns of your own begin with x-"),
        ("{conversationid}/*", "did you mean conversationId?"),
        ("{conversationId/*", "a { is not closed"),
        ("{conversationId:[}/*", "is no regular expression"),
        ("{conversationId:(a|b)}/*", "write its groups as (?:…)"),
    ],
)
def test_a_wrong_pattern_is_told_with_its_remedy(pattern: str, remedy: str) -> None:
    """Exit 2, before any file is looked at."""
    with pytest.raises(UsageError) as told:
        PathPattern(pattern)
    assert remedy in str(told.value)


def test_parts_are_in_the_order_in_which_people_count() -> None:
    """Part 2 before part 10, whatever the case of letters; folders before what differs in them."""
    ordered = ["1/Part 1.wav", "1/part 2.wav", "1/part 10.wav", "2/part 1.wav", "10/part 1.wav", "a/b.wav", "B/a.wav"]
    assert sorted({*ordered}, key=natural_key) == ordered
    assert sorted(["a02", "a2", "a1"], key=natural_key) == ["a1", "a02", "a2"]


@pytest.fixture
def place(bare_place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Provide the current folder, with recordings of two conversations in calls/."""
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    for name in ("41/part 10.wav", "41/part 2.wav", "42/a.wav"):
        give(tmp_path / "calls" / name)
    return tmp_path


def give(path: Path, content: bytes = recording(0.1)) -> None:
    """Write a file, and the folders above it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)


def listed(settings: Settings, capsys: pytest.CaptureFixture[str]) -> tuple[int, list[dict[str, str]], str]:
    """Write the manifest of calls/ to standard output; return code, rows and report."""
    code = write_folder_manifest(settings, Listing(Path("calls")))
    out, err = capsys.readouterr()
    return int(code), list(csv.DictReader(io.StringIO(out))), err


def test_a_folder_becomes_a_manifest(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """All recordings in natural order, on standard output alone; the report is beside it."""
    del place
    code, rows, report = listed(load({}, None), capsys)
    assert code == 0
    assert [(row["conversationId"], row["audioPath"]) for row in rows] == [
        ("41", "calls/41/part 2.wav"),
        ("41", "calls/41/part 10.wav"),
        ("42", "calls/42/a.wav"),
    ]
    assert report.startswith("standard output: 3 recordings of 2 conversations, ")


# what is put beside the recordings; the code, and what is told
FINDINGS: dict[str, tuple[str, bytes | str, int, str]] = {
    "a note": ("42/notes.txt", b"hello", 0, "left out: 1 file: no recording, by its content and its name"),
    "a recording of no usual ending": ("42/b.data", recording(0.1), 0, "4 recordings of 2 conversations"),
    "a hidden file": ("42/._a.wav", b"\0\5\26\7", 0, "hidden files and folders are left out: rename it"),
    "a hidden folder": (".trash/a.wav", recording(0.1), 0, "hidden files and folders are left out: rename it"),
    "a path that does not match": ("loose.wav", recording(0.1), 1, "does not match the pattern: move it, or correct"),
    "an error page": ("42/b.wav", HTML, 1, "was an error page saved in its place? get the recording again"),
    "an empty file": ("42/b.wav", b"", 1, "audioPath 'calls/42/b.wav': the file is empty"),
    "an id with a blank": ("4 3/b.wav", recording(0.1), 1, "a blank (U+0020) stands at place 2: take it out of the id"),
    "a symbolic link": ("42/link.wav", "a.wav", 1, "a symbolic link, which is not followed: say --follow-links"),
    "a name that is not UTF-8": (os.fsdecode(b"42/\xff.wav"), recording(0.1), 1, "not UTF-8, which a manifest cannot"),
    "a spoilt id": ("5.8E+15/b.wav", recording(0.1), 0, "this looks like an id that a spreadsheet rounded"),
}


@pytest.mark.parametrize("finding", FINDINGS)
def test_what_is_left_out_is_told_with_its_remedy(
    place: Path, capsys: pytest.CaptureFixture[str], finding: str
) -> None:
    """Exit 1 where a recording is missing in the manifest, 0 where none is; the other rows are written all the same."""
    name, content, expected, text = FINDINGS[finding]
    path = place / "calls" / name
    if isinstance(content, str):
        path.symlink_to(content)
    else:
        give(path, content)
    code, rows, report = listed(load({}, None), capsys)
    assert (code, text in report) == (expected, True), report
    assert {"calls/41/part 2.wav", "calls/41/part 10.wav"} < {row["audioPath"] for row in rows}


def test_letters_of_another_case_are_told(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Recorders write .WAV and .wav: a pattern that knows one of them says so of the other."""
    give(place / "calls/42/B.WAV")
    code, rows, report = listed(load({"pattern": "{conversationId}/*.wav"}, None), capsys)
    assert (code, len(rows)) == (1, 3)
    assert "but for small and capital letters" in report


def test_links_are_followed_when_asked_for_and_end(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A link to a file and one to a folder are followed; one to a folder above does not go round for ever."""
    (place / "calls/42/link.wav").symlink_to("a.wav")
    (place / "calls/42/up").symlink_to("..")
    give(place / "elsewhere/b.wav")
    (place / "calls/43").symlink_to(place / "elsewhere")
    code = write_folder_manifest(load({}, None), Listing(Path("calls"), follow_links=True))
    out, err = capsys.readouterr()
    assert code == 0
    assert [row["audioPath"] for row in csv.DictReader(io.StringIO(out))][2:] == [
        "calls/42/a.wav",
        "calls/42/link.wav",
        "calls/43/b.wav",
    ]
    assert "seen already, by a symbolic link" in err


def test_a_manifest_that_exists_is_not_replaced_unless_told(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Exit 2 with the remedy; with --replace it is written anew, and is no part of itself."""
    target = place / "calls" / "m.csv"
    target.write_text("mine")
    with pytest.raises(UsageError, match="say --replace"):
        write_folder_manifest(load({}, None), Listing(Path("calls"), target))
    assert target.read_text() == "mine"
    assert write_folder_manifest(load({}, None), Listing(Path("calls"), target, replaces=True, as_json=True)) == 0
    report = json.loads(capsys.readouterr().out)
    assert (report["rows"], report["conversations"], report["leftOut"]) == (3, 2, [])
    assert "41,41/part 2.wav\n" in target.read_text()


@pytest.mark.parametrize("name", ["m.xlsx", "m.csv.gz", "gone/m.csv"])
def test_a_manifest_of_no_known_ending_or_place_is_refused(place: Path, name: str) -> None:
    """Nothing is written."""
    with pytest.raises(UsageError):
        write_folder_manifest(load({}, None), Listing(Path("calls"), place / name))
    assert not (place / name).exists()


def test_where_nothing_matches_nothing_is_written(place: Path) -> None:
    """An empty manifest would be a night without a recording that nobody notices: exit 2, with what was left out."""
    with pytest.raises(UsageError) as told:
        write_folder_manifest(load({"pattern": "x/{conversationId}"}, None), Listing(Path("calls"), place / "m.csv"))
    assert "left out: 3 files: a recording whose path does not match the pattern" in str(told.value)
    assert not (place / "m.csv").exists()


def test_paths_outside_the_manifests_folder_are_absolute(place: Path) -> None:
    """So that `run` finds them from anywhere; outside an audio root they are refused."""
    (place / "out").mkdir()
    target = place / "out" / "m.jsonl"
    write_folder_manifest(load({}, None), Listing(Path("calls"), target))
    assert json.loads(target.read_text().splitlines()[0])["audioPath"] == str(place / "calls/41/part 2.wav")
    with pytest.raises(UsageError, match="outside the audio root"):
        write_folder_manifest(load({"audio_root": place / "out"}, None), Listing(Path("calls")))


@pytest.mark.parametrize("form", ["csv", "jsonl"])
@pytest.mark.parametrize("root", [False, True])
def test_plan_takes_what_was_written(place: Path, capsys: pytest.CaptureFixture[str], form: str, *, root: bool) -> None:
    """Every row is valid, parameters that the path tells included, with an audio root and without one."""
    give(place / "calls/en-US/0.75_43_last one.wav")
    given = {"pattern": "{languageCode}/{confidenceThreshold}_{conversationId}_{name}.wav", "delimiter": ";"}
    settings = load({**given, **({"audio_root": place} if root else {})}, None)
    target = place / "calls" / f"m.{form}"
    assert write_folder_manifest(settings, Listing(Path("calls"), target)) == 1, "other patterns' recordings are told"
    capsys.readouterr()
    assert plan_manifest(settings, str(target), PlanOptions(as_json=True, check_files=True, show_all=False)) == 0
    report = json.loads(capsys.readouterr().out)
    assert (report["rows"], report["invalid"]) == (1, 0)
