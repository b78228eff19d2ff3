"""Sources: their size and hash, and that they stay what they were while they are sent."""

import asyncio
import errno
import itertools
import os
import random
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from blake3 import blake3

from tests.unit import recordings as made
from uploader import audio
from uploader.audio import Source, SourceOpener, open_source
from uploader.audio.opening import open_without_waiting
from uploader.audio.source import NOWAIT, AudioFile
from uploader.errors import SourceError

# seconds: one recording is read when it is opened, the other one in chunks
SHORT, LONG = 0.5, 20.0


def recording(path: Path, seconds: float = SHORT, *, channels: int = 2) -> Path:
    """A WAV file of silence."""
    path.write_bytes(made.recording(seconds, channels))
    return path


async def content(source: Source, chunk_bytes: int = 1000) -> bytes:
    """All that is read of a source, which is found unchanged at its end."""
    read = b"".join([bytes(chunk) async for chunk in source.chunks(chunk_bytes)])
    assert source.verified_hash() == blake3(read).hexdigest()
    return read


def test_the_hash_is_blake3_of_the_whole_content(tmp_path: Path) -> None:
    """The hash is that of all bytes, over more than one read."""
    path = tmp_path / "a.wav"
    path.write_bytes(os.urandom(audio.READ_BYTES + 17))
    assert audio.content_hash(path) == blake3(path.read_bytes()).hexdigest()


def test_what_cannot_be_read_has_no_hash(tmp_path: Path) -> None:
    """Missing files and folders have none."""
    assert audio.content_hash(tmp_path / "none.wav") is None
    assert audio.content_hash(tmp_path) is None


def test_a_signature_changes_with_every_change_of_the_file(tmp_path: Path) -> None:
    """Written to, touched, or replaced: the signature tells, without reading the file."""
    path = tmp_path / "a.wav"
    path.write_bytes(b"RIFF")
    os.utime(path, ns=(10**18, 10**18))
    seen = {audio.signature(path)}
    assert audio.signature(path) in seen
    os.utime(path, ns=(10**18, 10**18 + 1))
    seen.add(audio.signature(path))
    (tmp_path / "b.wav").write_bytes(b"RIFX")
    os.utime(tmp_path / "b.wav", ns=(10**18, 10**18))
    (tmp_path / "b.wav").replace(path)
    seen.add(audio.signature(path))
    path.write_bytes(b"RIFF!")
    seen.add(audio.signature(path))
    assert len(seen) == 4


@pytest.mark.parametrize("seconds", [SHORT, LONG])
async def test_a_source_is_read_to_its_end(tmp_path: Path, seconds: float) -> None:
    """Chunks of the size asked for, all of the file, nothing more."""
    path = recording(tmp_path / "a.wav", seconds)
    async with open_source(path, path.stat().st_size) as source:
        assert source.size == path.stat().st_size
        chunks = [len(chunk) async for chunk in source.chunks(1000)]
    assert set(chunks[:-1]) == {1000}
    assert sum(chunks) == path.stat().st_size
    async with open_source(path, path.stat().st_size) as source:
        assert await content(source) == path.read_bytes()


@pytest.mark.parametrize("seconds", [SHORT, LONG])
async def test_a_file_of_another_size_is_not_what_was_loaded(tmp_path: Path, seconds: float) -> None:
    """A file that changed its size after the load is refused before a byte of it is sent."""
    path = recording(tmp_path / "a.wav", seconds)
    with pytest.raises(SourceError, match="changed since its manifest was checked"):
        async with open_source(path, path.stat().st_size + 1):
            pass


def rewrite(path: Path) -> None:
    """Other content of the same size, with the modification time put back."""
    before = path.stat()
    path.write_bytes(bytes(before.st_size))
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


def put_another_in_its_place(path: Path) -> None:
    """Another file of the same size and modification time."""
    before, other = path.stat(), path.with_name("other.wav")
    other.write_bytes(bytes(before.st_size))
    os.utime(other, ns=(before.st_atime_ns, before.st_mtime_ns))
    other.replace(path)


def put_a_link_in_its_place(path: Path) -> None:
    """A link to another file of the same size."""
    path.with_name("other.wav").write_bytes(bytes(path.stat().st_size))
    path.unlink()
    path.symlink_to("other.wav")


@pytest.mark.parametrize("seconds", [SHORT, LONG])
@pytest.mark.parametrize("swap", [rewrite, put_another_in_its_place, put_a_link_in_its_place, Path.touch])
async def test_what_is_opened_is_what_was_checked(tmp_path: Path, swap: Callable[[Path], None], seconds: float) -> None:
    """The same inode and times, on whichever way it is opened; another file, or a touched one, is refused."""
    path, opener = recording(tmp_path / "a.wav", seconds), SourceOpener()
    size, change = audio.signature(path)
    for _ in range(2):  # the second opening is on the event loop, where the file system allows it
        async with opener.open(path, size, change) as source:
            assert len(await content(source)) == size
    swap(path)
    with pytest.raises(SourceError, match="changed since its manifest was checked: run its manifest again"):
        async with opener.open(path, size, change):
            pass
    async with opener.open(path, *audio.signature(path)) as source:
        assert await content(source) == path.read_bytes()


@pytest.mark.parametrize("has_proc", [True, False])
async def test_what_is_opened_lies_in_the_audio_root(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, has_proc: bool
) -> None:
    """Links may stay inside the root, itself behind a link; whatever leads out, by file or by folder, is refused."""
    root, outside = tmp_path / "root", tmp_path / "root-outside"
    (root / "sub").mkdir(parents=True)
    outside.mkdir()
    (tmp_path / "link").symlink_to(root)
    inside = recording(root / "sub" / "a.wav")
    size, change = audio.signature(inside)
    (root / "link.wav").symlink_to(inside)
    (root / "folder").symlink_to("sub")
    (root / "out.wav").symlink_to(recording(outside / "b.wav"))
    opener = SourceOpener(tmp_path / "link")
    if not has_proc:
        monkeypatch.setattr(os, "readlink", without_proc(os.readlink))
    for path in ("sub/a.wav", "link.wav", "folder/a.wav"):
        async with opener.open(tmp_path / "link" / path, size, change) as source:
            assert await content(source) == inside.read_bytes()
    (root / "sub").rename(outside / "sub")
    (root / "sub").symlink_to(outside / "sub")
    for path in ("sub/a.wav", "link.wav", "folder/a.wav", "out.wav"):
        expected = audio.signature(root / path)
        with pytest.raises(SourceError, match="outside the audio root"):
            async with opener.open(tmp_path / "link" / path, *expected):
                pass


def without_proc(readlink: Callable[..., str]) -> Callable[..., str]:
    """Reads links as a system does that has no /proc."""

    def read(path: Any, **more: Any) -> str:
        if str(path).startswith("/proc/"):
            raise FileNotFoundError(errno.ENOENT, "No such file or directory", path)
        return readlink(path, **more)

    return read


@pytest.mark.parametrize("kind", ["missing", "folder", "fifo"])
async def test_what_stands_in_a_files_place_is_refused(tmp_path: Path, kind: str) -> None:
    """Gone, a folder, or a FIFO put there since, which must not block: refused with the reason."""
    path = tmp_path / "a.wav"
    if kind == "folder":
        path.mkdir()
    elif kind == "fifo":
        os.mkfifo(path)
    with pytest.raises(SourceError, match=r"could not be opened|no regular file"):
        async with open_source(path, 4):
            pass


@pytest.mark.parametrize("seconds", [SHORT, LONG])
async def test_a_file_that_shrinks_while_it_is_sent_is_refused(tmp_path: Path, seconds: float) -> None:
    """Fewer bytes than announced end the upload with the reason, before its last chunk."""
    path = recording(tmp_path / "a.wav", seconds)
    async with open_source(path, path.stat().st_size) as source:
        os.truncate(path, 500)
        with pytest.raises(SourceError, match="shrank while it was sent"):
            await content(source)


@pytest.mark.parametrize("seconds", [SHORT, LONG])
async def test_a_file_that_grows_while_it_is_sent_is_refused(tmp_path: Path, seconds: float) -> None:
    """More bytes than announced: the recording is not over."""
    path = recording(tmp_path / "a.wav", seconds)
    async with open_source(path, path.stat().st_size) as source:
        with path.open("ab") as file:
            file.write(b"more")
        with pytest.raises(SourceError, match="grew while it was sent"):
            await content(source)


@pytest.mark.parametrize("seconds", [SHORT, LONG])
async def test_a_file_that_is_rewritten_while_it_is_sent_is_refused(tmp_path: Path, seconds: float) -> None:
    """The same size with another modification time is another content: its last chunk never leaves."""
    path = recording(tmp_path / "a.wav", seconds)
    size = path.stat().st_size
    async with open_source(path, size) as source:
        chunks = source.chunks(size // 2)
        assert len(await anext(chunks)) == size // 2
        os.utime(path, ns=(10**18, 10**18))
        await anext(chunks)
        with pytest.raises(SourceError, match="changed while it was sent"):
            source.verified_hash()


@pytest.mark.parametrize("seconds", [SHORT, LONG])
async def test_a_file_that_is_archived_while_it_is_sent_is_sent(tmp_path: Path, seconds: float) -> None:
    """Renamed or removed: what is open is read to its end."""
    path = recording(tmp_path / "a.wav", seconds)
    size = path.stat().st_size
    async with open_source(path, size) as source:
        path.rename(tmp_path / "archived.wav")
        (tmp_path / "archived.wav").unlink()
        assert len(await content(source)) == size


@pytest.mark.parametrize("seconds", [SHORT, LONG])
async def test_a_file_that_another_takes_the_place_of_is_sent_as_it_was(tmp_path: Path, seconds: float) -> None:
    """A new file under the old name does not mix into the one that is being sent."""
    path = recording(tmp_path / "a.wav", seconds)
    before = path.read_bytes()
    async with open_source(path, len(before)) as source:
        recording(tmp_path / "b.wav", channels=1).replace(path)
        assert await content(source) == before


Preadv = Callable[..., int]
CHANCE = random.Random(7)


def reads_from_the_page_cache_alone(folder: Path) -> bool:
    """Tell whether a folder's file system can read from the page cache alone."""
    path = folder / "probe"
    path.write_bytes(b"probe")
    with AudioFile(path, open_without_waiting) as file:
        file.try_nowait()
        return file.is_nowait


def all_cached(preadv: Preadv, *arguments: Any) -> int:
    """The page cache has it all."""
    return preadv(*arguments)


def nothing_cached(_preadv: Preadv, *_arguments: Any) -> int:
    """A cold file."""
    raise BlockingIOError(errno.EAGAIN, "not in memory")


def unsupported(_preadv: Preadv, *_arguments: Any) -> int:
    """A file system that knows no such read: FUSE, a network's."""
    raise OSError(errno.EOPNOTSUPP, "not supported")


def cached_in_part(preadv: Preadv, fd: int, buffers: list[memoryview], *more: Any) -> int:
    """The page cache has the beginning of what is asked for, some of it, or nothing."""
    if CHANCE.random() < 0.3:
        raise BlockingIOError(errno.EAGAIN, "not in memory")
    return preadv(fd, [buffers[0][: CHANCE.randint(1, len(buffers[0]))]], *more)


CACHES = [all_cached, nothing_cached, unsupported, cached_in_part]


@pytest.fixture
def waits(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Record the thread of each opening and reading that may wait for the disk."""
    seen: list[str] = []

    def watched(function: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any) -> Any:
            seen.append(threading.current_thread().name)
            return function(*arguments)

        return call

    monkeypatch.setattr(AudioFile, "readinto", watched(AudioFile.readinto))
    monkeypatch.setattr("uploader.audio.source.open_without_waiting", watched(open_without_waiting))
    return seen


@pytest.mark.skipif(NOWAIT is None, reason="the system cannot read from the page cache alone")
@pytest.mark.parametrize("seconds", [SHORT, LONG])
@pytest.mark.parametrize("cache", CACHES)
async def test_the_event_loop_never_waits_for_the_disk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, waits: list[str], cache: Callable[..., int], seconds: float
) -> None:
    """Whatever the page cache holds, all that may wait is done in a thread, and the content and its hash are whole."""
    preadv = os.preadv
    monkeypatch.setattr(os, "preadv", lambda *arguments: cache(preadv, *arguments))
    opener = SourceOpener()
    for number in range(3):
        path = recording(tmp_path / f"{number}.wav", seconds, channels=number + 1)
        async with opener.open(path, path.stat().st_size) as source:
            assert await content(source, 100_000) == path.read_bytes()
    assert waits
    assert threading.current_thread().name not in waits


@pytest.mark.skipif(NOWAIT is None, reason="the system cannot read from the page cache alone")
@pytest.mark.parametrize("seconds", [SHORT, LONG])
async def test_what_the_page_cache_holds_costs_no_thread(tmp_path: Path, waits: list[str], seconds: float) -> None:
    """Once a folder's file system is seen to read from the page cache alone, its files need no thread."""
    if not reads_from_the_page_cache_alone(tmp_path):
        pytest.skip("the file system of temporary files cannot read from the page cache alone")
    opener = SourceOpener()
    paths = [recording(tmp_path / f"{number}.wav", seconds) for number in range(3)]
    for path in paths:
        async with opener.open(path, path.stat().st_size) as source:
            assert await content(source) == path.read_bytes()
    by_first_file = len(waits)
    assert by_first_file == (2 if seconds == SHORT else 1)
    async with opener.open(paths[0], paths[0].stat().st_size) as source:
        await content(source)
    assert len(waits) == by_first_file


@pytest.mark.parametrize("kind", ["missing", "folder", "fifo", "symlink"])
async def test_what_stands_in_a_files_place_in_a_known_folder_is_seen_in_a_thread(
    tmp_path: Path, waits: list[str], kind: str
) -> None:
    """A file replaced by something else is opened in a thread, which examines it: a symlink is followed."""
    opener, path = SourceOpener(), recording(tmp_path / "a.wav")
    size = path.stat().st_size
    async with opener.open(path, size):
        path.rename(tmp_path / "b.wav")
    if kind == "folder":
        path.mkdir()
    elif kind == "fifo":
        os.mkfifo(path)
    elif kind == "symlink":
        path.symlink_to(tmp_path / "b.wav")
        async with opener.open(path, size) as source:
            assert await content(source) == (tmp_path / "b.wav").read_bytes()
    if kind != "symlink":
        with pytest.raises(SourceError, match=r"could not be opened|no regular file"):
            async with opener.open(path, size):
                pass
    assert threading.current_thread().name not in waits


async def test_other_tasks_have_their_turn_between_pieces(tmp_path: Path) -> None:
    """A long file in the page cache does not keep the event loop: each piece is a step of its own."""
    path, turns = tmp_path / "a.wav", 0
    with path.open("wb") as file:
        file.truncate(8 * audio.PIECE_BYTES)
    path.read_bytes()

    async def take_turns() -> None:
        nonlocal turns
        while True:
            turns += 1
            await asyncio.sleep(0)

    others = asyncio.create_task(take_turns())
    async with open_source(path, path.stat().st_size) as source:
        turns_before = [turns async for _ in source.chunks(audio.PIECE_BYTES)]
    others.cancel()
    assert all(later > earlier for earlier, later in itertools.pairwise(turns_before))
