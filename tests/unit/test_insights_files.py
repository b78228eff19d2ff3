"""The files of insights: whole or not there, for their owner alone, and never in the place of another's."""

import os
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from uploader.errors import FolderBusyError, ResultsUnavailableError, UsageError
from uploader.insights import files
from uploader.insights.files import UNFINISHED, folder_for_insights
from uploader.policy.insights import Kept

SERVICE = "https://service.example"
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=10,
)
# half a character: JSON can escape it, UTF-8 cannot encode it
HALF = chr(0xD83D)


def mode(path: Path) -> int:
    """Return the permission bits of a path."""
    return stat.S_IMODE(path.stat().st_mode)


def content(**members: Any) -> dict[str, Any]:
    """Return a file's content for the conversation c."""
    return {"conversationId": "c", "service": SERVICE, **members}


@pytest.fixture
def generous() -> Iterator[None]:
    """Files of this process are for everybody, as far as it is left to the process."""
    before = os.umask(0)
    yield
    os.umask(before)


@given(JSON, st.booleans())
def test_what_was_written_is_read_back(tmp_path_factory: pytest.TempPathFactory, value: Any, half: bool) -> None:
    """Every JSON value comes back equal, half a character too; the file is UTF-8."""
    path = tmp_path_factory.mktemp("f") / "c.json"
    written = content(messages=[value, HALF] if half else value)
    files.write(path, written)
    assert files.read(path, SERVICE, "c") == written
    path.read_text(encoding="utf-8")


def test_a_person_can_read_it(tmp_path: Path) -> None:
    """A member a line, and letters of every language as they are."""
    files.write(tmp_path / "c.json", content(messages={"text": "日本"}))
    lines = (tmp_path / "c.json").read_text(encoding="utf-8").splitlines()
    assert lines == ["{", '"conversationId": "c",', f'"service": "{SERVICE}",', '"messages": {"text": "日本"}', "}"]


@pytest.mark.usefixtures("generous")
def test_the_owner_alone_can_read(tmp_path: Path) -> None:
    """0700 for the folder that is made, 0600 for a file, new or replaced, whatever the umask."""
    folder = tmp_path / "out"
    with folder_for_insights(folder):
        for _ in range(2):
            files.write(folder / "c.json", content())
            assert (mode(folder), mode(folder / "c.json")) == (0o700, 0o600)
            (folder / "c.json").chmod(0o644)


@pytest.mark.usefixtures("generous")
def test_a_folder_that_stands_is_left_as_it_is(tmp_path: Path) -> None:
    """An existing folder keeps its permissions; the files in it are for the owner alone."""
    folder = tmp_path / "out"
    folder.mkdir(0o755)
    with folder_for_insights(folder):
        files.write(folder / "c.json", content())
    assert (mode(folder), mode(folder / "c.json")) == (0o755, 0o600)


def test_what_cannot_be_written_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A full disk at the last moment: the old file stands, nothing else is left, and the words say what to do."""
    files.write(tmp_path / "c.json", content(messages=1))

    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(ResultsUnavailableError, match=r"No space left on device.*run the same command again"):
        files.write(tmp_path / "c.json", content(messages=2))
    assert [path.name for path in tmp_path.iterdir()] == ["c.json"]
    assert files.read(tmp_path / "c.json", SERVICE, "c") == content(messages=1)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{",
        "[]",
        "{}",
        "[" * 100_000,
        '{"name": "a package"}',
        '{"conversationId": "c", "service": "https://other.example"}',
        '{"conversationId": "d", "service": "https://service.example"}',
    ],
)
def test_what_is_not_ours_is_not_replaced(tmp_path: Path, text: str) -> None:
    """No JSON, another program's, another service's, another conversation's: an error that names the file."""
    (tmp_path / "c.json").write_text(text, encoding="utf-8")
    with pytest.raises(UsageError, match=r"c\.json: .* move it away, or name another folder"):
        files.read(tmp_path / "c.json", SERVICE, "c")


def test_where_nothing_stands_nothing_is_read(tmp_path: Path) -> None:
    """No file is no error; a folder in its place is."""
    assert files.read(tmp_path / "c.json", SERVICE, "c") is None
    (tmp_path / "c.json").mkdir()
    with pytest.raises(UsageError, match="Is a directory"):
        files.read(tmp_path / "c.json", SERVICE, "c")


@pytest.mark.parametrize(
    ("found", "kept"),
    [
        (None, None),
        (content(), None),
        (content(completed={}, parts=[], errors={}), None),
        (content(completed=1, parts={}, errors={}), None),
        (content(completed={}, parts={}, errors=[]), None),
        (content(completed={"items": 1}, parts={"topics": "2026"}, errors={}), Kept({"items": 1}, {"topics"})),
    ],
)
def test_what_a_file_says_of_itself(found: dict[str, Any] | None, kept: Kept | None) -> None:
    """A file that does not say what it has is fetched anew."""
    assert files.kept(found) == kept


def test_one_command_at_a_time_writes_into_a_folder(tmp_path: Path) -> None:
    """The second is told so, and may come when the first has ended."""
    with (
        folder_for_insights(tmp_path),
        pytest.raises(FolderBusyError, match="another `uploader insights`"),
        folder_for_insights(tmp_path),
    ):
        pass
    with folder_for_insights(tmp_path):
        pass


def test_what_a_killed_command_left_is_swept(tmp_path: Path) -> None:
    """Its unfinished files go; nothing else that lies in the folder does."""
    others = [".c.json.bak", "c.json", ".c.json", ".uploader-insights", "notes.json.uploader-insights"]
    for name in [*others, f".c.json.abcd1234{UNFINISHED}"]:
        (tmp_path / name).write_text("{}", encoding="utf-8")
    with folder_for_insights(tmp_path):
        assert sorted(path.name for path in tmp_path.iterdir()) == sorted(others)


def test_a_folder_that_cannot_be_had_is_told(tmp_path: Path) -> None:
    """A file in its place, or no folder to make it in: an error that names it and says what to do."""
    (tmp_path / "file").touch()
    for folder in (tmp_path / "file", tmp_path / "no" / "such"):
        with pytest.raises(UsageError, match=rf"{folder}: .*name another"), folder_for_insights(folder):
            pass
