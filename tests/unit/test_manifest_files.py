"""The files that a manifest names: which can be sent, and where they may lie."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest

from uploader.manifest import Manifest, WasBegun
from uploader.model import InvalidRow, Row

NOBODY = 65534


def row(
    root: Path, audio_path: str, *, confined: bool = False, was_begun: WasBegun = lambda *_: False
) -> Row | InvalidRow:
    """Check a row with this path in a manifest beside the folder ``root``."""
    path = root.parent / "m.csv"
    path.write_text(f'conversationId,audioPath\nc,"{audio_path}"\n', encoding="utf-8")
    (checked,) = Manifest(path, "m.csv", "csv", root, confined, was_begun).read()
    return checked


def remedy(checked: Row | InvalidRow) -> str:
    """Return the remedy of the only problem of a row's file."""
    assert isinstance(checked, InvalidRow), checked
    (problem,) = checked.problems
    assert problem.column == "audioPath"
    return problem.remedy


@contextmanager
def ordinary_user() -> Iterator[None]:
    """Root may read everything: be someone else for a while."""
    if os.geteuid() != 0:
        yield
        return
    os.seteuid(NOBODY)
    try:
        yield
    finally:
        os.seteuid(0)


@contextmanager
def sealed_file() -> Iterator[Path]:
    """A file in a folder that everybody may enter, and that nobody may read."""
    with TemporaryDirectory() as made:
        root = Path(made) / "audio"
        root.mkdir()
        Path(made).chmod(0o777)
        root.chmod(0o755)
        sealed = root / "sealed.wav"
        sealed.write_bytes(b"RIFF")
        sealed.chmod(0)
        yield sealed


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """The audio root, with one recording in it; another lies outside."""
    made = tmp_path / "audio"
    made.mkdir()
    (made / "a.wav").write_bytes(b"RIFF")
    (tmp_path / "outside.wav").write_bytes(b"RIFF")
    return made


def test_relative_paths_start_in_the_folder(root: Path) -> None:
    """A relative path is looked for in the folder, an absolute one where it says."""
    for audio_path in ("a.wav", "./a.wav", "x/../a.wav", str(root / "a.wav")):
        checked = row(root, audio_path)
        assert isinstance(checked, Row)
        assert (checked.path, checked.audio_path) == (str(root / "a.wav"), audio_path)


def test_without_an_audio_root_a_path_may_lead_anywhere(root: Path) -> None:
    """The manifest's own folder is where paths start, not where they end."""
    assert isinstance(row(root, "../outside.wav"), Row)
    assert isinstance(row(root, str(root.parent / "outside.wav")), Row)


@pytest.mark.parametrize("audio_path", ["../outside.wav", "../audio2/a.wav", "x/../../outside.wav", "/etc/hostname"])
def test_no_path_leads_out_of_the_audio_root(root: Path, audio_path: str) -> None:
    """With an audio root, dots and absolute paths that leave it are invalid, existing or not."""
    assert "outside the audio root" in remedy(row(root, audio_path, confined=True))


def test_no_link_leads_out_of_the_audio_root(root: Path) -> None:
    """A symbolic link is judged by where it leads: a file's, a folder's, and a link that dangles."""
    (root / "link.wav").symlink_to(root.parent / "outside.wav")
    (root / "folder").symlink_to(root.parent)
    (root / "dangling.wav").symlink_to(root.parent / "nowhere.wav")
    for audio_path in ("link.wav", "folder/outside.wav", "dangling.wav"):
        assert "outside the audio root" in remedy(row(root, audio_path, confined=True))


def test_links_within_the_audio_root_are_followed(root: Path) -> None:
    """A link that stays inside is a way to name a file; the audio root may be a link itself."""
    (root / "link.wav").symlink_to("a.wav")
    (root.parent / "root").symlink_to(root)
    for folder in (root, root.parent / "root"):
        for audio_path in ("link.wav", "a.wav", str(folder / "a.wav")):
            assert isinstance(row(folder, audio_path, confined=True), Row)


@pytest.mark.parametrize("confined", [False, True])
def test_links_that_go_round_in_a_circle_are_invalid(root: Path, confined: bool) -> None:
    """A loop of links is a file that cannot be found, not a fault."""
    (root / "one").symlink_to("two")
    (root / "two").symlink_to("one")
    assert remedy(row(root, "one", confined=confined))


@pytest.mark.parametrize("audio_path", ["none.wav", "a.wav/b.wav", "x" * 5000, "no/such/folder.wav"])
@pytest.mark.parametrize("confined", [False, True])
def test_a_missing_file_is_invalid(root: Path, audio_path: str, confined: bool) -> None:
    """A path without a file behind it is told with a remedy."""
    assert "cannot be found" in remedy(row(root, audio_path, confined=confined))


def test_an_empty_file_is_invalid(root: Path) -> None:
    """An empty file must not be sent at all."""
    (root / "empty.wav").touch()
    assert "is empty" in remedy(row(root, "empty.wav"))


def test_what_is_no_regular_file_is_invalid(root: Path) -> None:
    """Folders and FIFOs are told at once: opening a FIFO would wait for ever."""
    os.mkfifo(root / "fifo.wav")
    (root / "folder.wav").mkdir()
    for audio_path in ("fifo.wav", "folder.wav", "."):
        assert "no regular file" in remedy(row(root, audio_path))


def test_an_unreadable_file_is_invalid() -> None:
    """A file that this user may not read is told before anything is sent."""
    with sealed_file() as sealed, ordinary_user():
        assert "cannot be read" in remedy(row(sealed.parent, sealed.name))


def test_a_nul_in_a_path_is_invalid(root: Path) -> None:
    """A NUL cannot be part of a path."""
    assert "NUL" in remedy(row(root, "a\0.wav"))


def test_a_file_that_is_gone_is_right_where_its_item_was_begun(root: Path) -> None:
    """People archive what was sent: the row is valid, without a signature, and is asked for by its full path."""
    asked: list[tuple[str, str]] = []

    def was_begun(conversation_id: str, path: str, account: str | None) -> bool:
        asked.append((conversation_id, path))
        return True

    checked = row(root, "sub/../gone.wav", was_begun=was_begun)
    assert isinstance(checked, Row)
    assert (checked.signature, checked.path) == (None, str(root / "gone.wav"))
    assert asked == [("c", str(root / "gone.wav"))]


def test_a_file_that_is_there_is_not_asked_for(root: Path) -> None:
    """An earlier beginning of the item matters only where its file is gone."""

    def was_begun(conversation_id: str, path: str, account: str | None) -> bool:
        raise AssertionError

    assert isinstance(row(root, "a.wav", was_begun=was_begun), Row)


@pytest.mark.parametrize("left", ["emptied", "folder", "fifo"])
def test_what_an_archiver_leaves_in_place_of_a_begun_file_is_right(root: Path, left: str) -> None:
    """Empty or no regular file: invalid only for an item that was not yet begun (design.md, chapter 4)."""
    path = root / "sent.wav"
    if left == "folder":
        path.mkdir()
    elif left == "fifo":
        os.mkfifo(path)
    else:
        path.touch()
    checked = row(root, "sent.wav", was_begun=lambda *_: True)
    assert isinstance(checked, Row)
    assert checked.signature is None


def test_a_begun_file_that_cannot_be_read_any_more_is_right() -> None:
    """Unreadable: invalid only for an item that was not yet begun (design.md, chapter 4)."""
    with sealed_file() as sealed, ordinary_user():
        checked = row(sealed.parent, sealed.name, was_begun=lambda *_: True)
    assert isinstance(checked, Row)
    assert checked.signature is None
