"""The results file: a snapshot of the ledger, replaced whole."""

import csv
import json
import os
import stat
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from uploader import results
from uploader.errors import ResultsUnavailableError, UsageError
from uploader.model import ResultLine, State
from uploader.text import printable

COLUMNS = [
    *("conversationId", "audioPath", "jobId", "status", "attempts", "httpStatus", "error", "bytes"),
    *("durationSeconds", "channels", "billedSeconds", "acceptedAt", "finishedAt", "batch", "line"),
]


def line(**different: Any) -> ResultLine:
    """Return a line about a completed item, with some fields changed."""
    facts: dict[str, Any] = {
        "line": 2,
        "batch": "m.csv",
        "conversation_id": "c",
        "audio_path": "a.wav",
        "job_id": "j",
        "state": State.COMPLETED,
        "attempts": 1,
        "http_status": 201,
        "error": None,
        "size": 4,
        "duration_seconds": 1.5,
        "channels": 2,
        "billed_seconds": 1.5,
        "accepted_at": 0.0,
        "finished_at": 1.25,
        "extras": {},
    }
    return ResultLine(**facts | different)


UNKNOWN = {
    "job_id": None,
    "state": State.PENDING,
    "attempts": 0,
    "http_status": None,
    "size": None,
    "duration_seconds": None,
    "channels": None,
    "billed_seconds": None,
    "accepted_at": None,
    "finished_at": None,
}


def read_csv(path: Path) -> list[dict[str, str]]:
    """Return the lines of a results file, as any reader of CSV sees them."""
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def read_json(path: Path) -> list[dict[str, Any]]:
    """Return the lines of a results file in JSON Lines."""
    return [json.loads(text) for text in path.read_bytes().split(b"\n")[:-1]]


def test_the_columns_stand_in_their_order(tmp_path: Path) -> None:
    """The contract's columns, then the x- columns, in CSV and JSON Lines."""
    for name in ("r.csv", "r.jsonl"):
        results.write(tmp_path / name, [line(extras={"x-a": "1"})], ["x-b", "x-a"])
    assert list(read_csv(tmp_path / "r.csv")[0]) == [*COLUMNS, "x-b", "x-a"]
    assert list(read_json(tmp_path / "r.jsonl")[0]) == [*COLUMNS, "x-b", "x-a"]


def test_a_line_says_what_is_known(tmp_path: Path) -> None:
    """Numbers are numbers and times RFC 3339 in UTC; CSV has the same as text."""
    for name in ("r.csv", "r.jsonl"):
        results.write(tmp_path / name, [line()], [])
    expected = {
        "conversationId": "c",
        "audioPath": "a.wav",
        "jobId": "j",
        "status": "completed",
        "attempts": 1,
        "httpStatus": 201,
        "error": None,
        "bytes": 4,
        "durationSeconds": 1.5,
        "channels": 2,
        "billedSeconds": 1.5,
        "acceptedAt": "1970-01-01T00:00:00.000Z",
        "finishedAt": "1970-01-01T00:00:01.250Z",
        "batch": "m.csv",
        "line": 2,
    }
    assert read_json(tmp_path / "r.jsonl") == [expected]
    assert read_csv(tmp_path / "r.csv") == [{name: str(value or "") for name, value in expected.items()}]


def test_what_is_not_known_is_null_or_empty(tmp_path: Path) -> None:
    """Unknown is never a guess: null in JSON Lines, an empty cell in CSV, for a missing x- value too."""
    for name in ("r.csv", "r.jsonl"):
        results.write(tmp_path / name, [line(**UNKNOWN)], ["x-a"])
    known = {"conversationId", "audioPath", "status", "attempts", "batch", "line"}
    (public,) = read_json(tmp_path / "r.jsonl")
    assert {name for name, value in public.items() if value is not None} == known
    (cells,) = read_csv(tmp_path / "r.csv")
    assert {name for name, cell in cells.items() if cell} == known


@pytest.mark.parametrize("state", State)
def test_the_status_is_the_state(tmp_path: Path, state: State) -> None:
    """Every state is shown under its own name."""
    results.write(tmp_path / "r.csv", [line(state=state)], [])
    assert read_csv(tmp_path / "r.csv")[0]["status"] == state.value


def test_the_lines_stand_in_the_order_given(tmp_path: Path) -> None:
    """One line per row, in manifest order."""
    results.write(tmp_path / "r.csv", (line(line=number) for number in (2, 3, 5)), [])
    assert [row["line"] for row in read_csv(tmp_path / "r.csv")] == ["2", "3", "5"]


FORMULAS = ["=1+1", "+1", "-1", "@SUM(A1)", "\t=1", "\r=1", "\n=1", "\uff1d1", "'=1", "''=1"]


@pytest.mark.parametrize("text", FORMULAS)
def test_what_a_stranger_writes_is_defused(tmp_path: Path, text: str) -> None:
    """The service writes `error` and `jobId`: a table program shall not run them. The operator's own cells stay."""
    record = line(error=text, conversation_id=text, audio_path=text, job_id=text, batch=text, extras={"x-id": text})
    results.write(tmp_path / "r.csv", [record], ["x-id"])
    (cells,) = read_csv(tmp_path / "r.csv")
    assert cells["jobId"] == "'" + text
    assert cells["error"] == ("'" + text if text.isprintable() else printable(text))
    for column in ("conversationId", "audioPath", "batch", "x-id"):
        assert cells[column] == text


@pytest.mark.parametrize("text", [*FORMULAS, "'", "'a", "a=1", "5815170693595136"])
def test_a_job_id_that_was_defused_joins_as_it_was(tmp_path: Path, text: str) -> None:
    """Whoever reads the results back, to adopt them or to know its ledger again, finds the service's own id."""
    results.write(tmp_path / "r.csv", [line(job_id=text, error=text)], [])
    assert list(results.job_ids(tmp_path / "r.csv")) == [text]
    (back,) = results.read_lines(tmp_path / "r.csv")
    assert (back.job_id, back.error) == (text, printable(text))


@pytest.mark.parametrize("name", ["r.csv", "r.jsonl"])
def test_an_error_moves_no_cursor_and_fakes_no_line(tmp_path: Path, name: str) -> None:
    """A row is a line, and no terminal obeys it: control characters, line ends and bidi marks are escaped."""
    nasty = "red \x1b[31m\x9b31m\r\n5815,a.wav\u2028\u202e\x85"
    results.write(tmp_path / name, [line(error=nasty)], [])
    content = (tmp_path / name).read_text("utf-8")
    assert printable(content.replace("\n", "")) == content.replace("\n", "")
    assert len(content.splitlines()) == (2 if name == "r.csv" else 1)


def test_json_lines_are_not_defused(tmp_path: Path) -> None:
    """JSON is no table program's: the error stands as it came."""
    results.write(tmp_path / "r.jsonl", [line(error="=1+1")], [])
    assert read_json(tmp_path / "r.jsonl")[0]["error"] == "=1+1"


def test_an_ordinary_error_stays_as_it_is(tmp_path: Path) -> None:
    """A text that is no formula gets no apostrophe."""
    results.write(tmp_path / "r.csv", [line(error="HTTP 404: a=b")], [])
    assert read_csv(tmp_path / "r.csv")[0]["error"] == "HTTP 404: a=b"


TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=10)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Provide a folder for results that are written again and again."""
    return tmp_path_factory.mktemp("results")


@given(st.lists(st.builds(line, audio_path=TEXT, error=TEXT, extras=st.fixed_dictionaries({"x-a": TEXT})), max_size=3))
def test_any_text_is_read_back_equal(folder: Path, lines: list[ResultLine]) -> None:
    """Commas, quotes, newlines and any script survive both formats."""
    for name in ("r.csv", "r.jsonl"):
        results.write(folder / name, lines, ["x-a"])
    texts = [(record.audio_path, record.error, record.extras["x-a"]) for record in lines]
    assert [(record["audioPath"], record["error"], record["x-a"]) for record in read_json(folder / "r.jsonl")] == texts
    assert [(record["audioPath"], record["x-a"]) for record in read_csv(folder / "r.csv")] == [
        (path, extra) for path, _, extra in texts
    ]


@pytest.mark.parametrize("value", [7, 1.5, True, ["ä", 1], {"a": None}])
def test_an_extra_that_is_no_text_is_json_in_csv(tmp_path: Path, value: Any) -> None:
    """An x- value of a JSON manifest comes back as it was; in CSV as its JSON text."""
    for name in ("r.csv", "r.jsonl"):
        results.write(tmp_path / name, [line(extras={"x-a": value})], ["x-a"])
    assert read_json(tmp_path / "r.jsonl")[0]["x-a"] == value
    assert read_csv(tmp_path / "r.csv")[0]["x-a"] == json.dumps(value, ensure_ascii=False)


@given(st.lists(st.none() | TEXT.filter(bool)), st.sampled_from(["r.csv", "r.jsonl"]))
def test_the_job_ids_are_read_back(folder: Path, ids: list[str | None], name: str) -> None:
    """Whatever jobIds were written, all of them are found again, and nothing else."""
    results.write(folder / name, [line(job_id=job_id, error="=x\n") for job_id in ids], [])
    assert list(results.job_ids(folder / name)) == [job_id for job_id in ids if job_id]


@pytest.mark.parametrize("name", ["r.csv", "r.jsonl"])
def test_results_that_were_saved_with_a_byte_order_mark_are_read(tmp_path: Path, name: str) -> None:
    """A spreadsheet writes one: the jobIds in the file are still those of a lost ledger, and can be adopted."""
    results.write(tmp_path / name, [line(job_id="j-1")], [])
    (tmp_path / name).write_bytes(b"\xef\xbb\xbf" + (tmp_path / name).read_bytes())
    assert list(results.job_ids(tmp_path / name)) == ["j-1"]
    assert [found.job_id for found in results.read_lines(tmp_path / name)] == ["j-1"]


@pytest.mark.parametrize("name", ["r.csv", "r.jsonl"])
def test_an_empty_results_file_holds_no_job_ids(tmp_path: Path, name: str) -> None:
    """A file that was touched beforehand is nobody's."""
    (tmp_path / name).touch()
    assert list(results.job_ids(tmp_path / name)) == []


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("r.csv", b"conversationId,audioPath\nc,a.wav\n"),
        ("r.csv", b"some text\n"),
        ("r.csv", b"\xff\xfe\x00"),
        ("r.csv", b'conversationId,jobId,status\nc,"' + b"j" * 200_000 + b'",completed\n'),
        ("r.jsonl", b'{"conversationId":"c","audioPath":"a.wav"}\n'),
        ("r.jsonl", b"[]\n"),
        ("r.jsonl", b"some text\n"),
        ("r.jsonl", b"\xff\n"),
        ("r.jsonl", b'{"jobId":' + b"1" * 5000 + b"}\n"),
        ("r.jsonl", b"[" * 100_000),
    ],
)
def test_a_file_of_someone_elses_is_refused(tmp_path: Path, name: str, content: bytes) -> None:
    """A file that holds no results is never replaced: exit 2."""
    (tmp_path / name).write_bytes(content)
    with pytest.raises(UsageError, match=r"holds no results of the uploader: .*--results"):
        list(results.job_ids(tmp_path / name))


def test_results_that_cannot_be_read_are_refused(tmp_path: Path) -> None:
    """A results file that cannot be looked into is a usage error."""
    with pytest.raises(UsageError, match="name a file that can be read"):
        list(results.job_ids(tmp_path / "none.csv"))


def interrupted(error: BaseException) -> Iterator[ResultLine]:
    """Yield lines, and raise an exception midway."""
    yield line()
    raise error


@pytest.mark.parametrize("error", [RuntimeError("x"), KeyboardInterrupt(), OSError(5, "I/O error")])
@pytest.mark.parametrize("name", ["r.csv", "r.jsonl"])
def test_an_exception_midway_leaves_the_old_file(tmp_path: Path, name: str, error: BaseException) -> None:
    """Nobody ever reads half a file: the old one stands, and no temporary file is left."""
    path = tmp_path / name
    results.write(path, [line()], [])
    before = path.read_bytes()
    with pytest.raises((type(error), ResultsUnavailableError)):
        results.write(path, interrupted(error), [])
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


def test_the_file_is_replaced_not_rewritten(tmp_path: Path) -> None:
    """Whoever has the old snapshot open goes on reading the old one, whole."""
    path = tmp_path / "r.csv"
    results.write(path, [line(job_id="old")], [])
    with path.open(encoding="utf-8") as opened:
        results.write(path, [line(job_id="new")], [])
        assert "old" in opened.read()
    assert list(results.job_ids(path)) == ["new"]


def test_the_file_is_on_the_disk_before_it_has_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Content, fsync, rename, and then the folder's fsync: a power cut leaves the old file or the new one."""
    done: list[str] = []
    replace, fsync = Path.replace, os.fsync

    def note_fsync(descriptor: int) -> None:
        done.append("folder" if stat.S_ISDIR(os.fstat(descriptor).st_mode) else "file")
        fsync(descriptor)

    def note_replace(path: Path, target: Path) -> Path:
        done.append("rename")
        assert list(results.job_ids(path.rename(path.with_suffix(".csv")))) == ["j"]
        return replace(path.with_suffix(".csv"), target)

    monkeypatch.setattr(os, "fsync", note_fsync)
    monkeypatch.setattr(Path, "replace", note_replace)
    results.write(tmp_path / "r.csv", [line()], [])
    assert done == ["file", "rename", "folder"]


@pytest.mark.parametrize("name", ["x" * 251 + ".csv", "\u00fc" * 125 + ".csv"])
def test_a_name_may_be_as_long_as_the_file_system_allows(tmp_path: Path, name: str) -> None:
    """The temporary file's name is no longer than that."""
    results.check_path(tmp_path / name)
    results.write(tmp_path / name, [line(job_id="j")], [])
    assert list(results.job_ids(tmp_path / name)) == ["j"]
    assert [path.name for path in tmp_path.iterdir()] == [name]


def test_a_name_that_is_too_long_is_refused_before_anything_is_sent(tmp_path: Path) -> None:
    """A manifest's name may be so long that its results have none: exit 2, not results that are never written."""
    with pytest.raises(UsageError, match=r"results .*: File name too long: name another with --results"):
        results.check_path(tmp_path / ("x" * 252 + ".csv"))


def test_a_folder_that_is_gone_is_told_with_the_remedy(tmp_path: Path) -> None:
    """Results that cannot be written now end with 5: the ledger has everything."""
    with pytest.raises(ResultsUnavailableError, match="the ledger has everything") as failed:
        results.write(tmp_path / "none" / "r.csv", [line()], [])
    assert failed.value.exit_code == 5


def test_the_file_has_the_rights_of_any_other_file(tmp_path: Path) -> None:
    """A results file is for others to read, as far as the umask allows; a temporary file's 0600 does not stay."""
    path = tmp_path / "r.csv"
    results.write(path, [line()], [])
    (tmp_path / "other").touch()
    assert path.stat().st_mode == (tmp_path / "other").stat().st_mode


def test_a_json_object_is_written_whole(tmp_path: Path) -> None:
    """The summary's file is valid JSON in UTF-8, and nothing stands beside it."""
    results.write_json(tmp_path / "s.json", {"batch": "ä", "exitCode": 0})
    assert json.loads((tmp_path / "s.json").read_text(encoding="utf-8")) == {"batch": "ä", "exitCode": 0}
    assert [path.name for path in tmp_path.iterdir()] == ["s.json"]


@pytest.mark.parametrize(
    ("manifest", "how", "expected"),
    [
        ("/in/m.csv", {"jsonl": False, "sandbox": False}, "/in/m.results.csv"),
        ("/in/m.jsonl", {"jsonl": True, "sandbox": False}, "/in/m.results.jsonl"),
        ("/in/m.csv", {"jsonl": False, "sandbox": True}, "/in/m.sandbox.results.csv"),
        ("/in/m.v2.csv", {"jsonl": False, "sandbox": False}, "/in/m.v2.results.csv"),
        ("/in/m.csv.gz", {"jsonl": False, "sandbox": False}, "/in/m.results.csv"),
        ("/in/m.v2.jsonl.GZ", {"jsonl": True, "sandbox": True}, "/in/m.v2.sandbox.results.jsonl"),
    ],
)
def test_results_go_beside_their_manifest(manifest: str, how: Mapping[str, bool], expected: str) -> None:
    """MANIFEST without its endings + .results.csv or .jsonl; a sandbox's are never taken for real ones."""
    assert results.default_path(Path(manifest), jsonl=how["jsonl"], sandbox=how["sandbox"]) == Path(expected)


def test_a_place_that_bears_results_is_right(tmp_path: Path) -> None:
    """A new file, or one to replace, in a folder that is there."""
    results.check_path(tmp_path / "r.CSV")
    (tmp_path / "r.jsonl").touch()
    results.check_path(tmp_path / "r.jsonl")


@pytest.mark.parametrize(
    ("name", "words"),
    [("r.txt", "ending"), ("r", "ending"), ("none/r.csv", "does not exist"), ("folder.csv", "this is no file")],
)
def test_a_place_that_bears_no_results_is_told_before_anything_is_sent(tmp_path: Path, name: str, words: str) -> None:
    """A wrong ending, a missing folder and a folder in the file's place are usage errors."""
    (tmp_path / "folder.csv").mkdir()
    with pytest.raises(UsageError, match=words):
        results.check_path(tmp_path / name)


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(None, None), (0.0, "1970-01-01T00:00:00.000Z"), (1e9 + 0.25, "2001-09-09T01:46:40.250Z")],
)
def test_times_are_rfc_3339_in_utc(seconds: float | None, text: str | None) -> None:
    """A time is told in UTC with milliseconds; unknown stays unknown."""
    assert results.rfc3339(seconds) == text


def test_results_to_adopt_that_are_no_file_are_refused(tmp_path: Path) -> None:
    """A pipe can be read once alone, and might never be written."""
    os.mkfifo(tmp_path / "r.csv")
    with pytest.raises(UsageError, match=r"results .*r\.csv: this is no file: name one"):
        list(results.read_lines(tmp_path / "r.csv"))
