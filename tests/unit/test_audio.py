"""Sources: their size, media type, duration and channels, and that they stay what they were."""

import os
import wave
from pathlib import Path

import pytest
from blake3 import blake3

from uploader import audio
from uploader.audio import Source, open_source
from uploader.errors import SourceError
from uploader.model import AudioFacts


def recording(path: Path, *, seconds: float = 2.0, channels: int = 2, rate: int = 8000) -> Path:
    """A WAV file of silence."""
    with wave.open(str(path), "wb") as file:
        file.setnchannels(channels)
        file.setsampwidth(2)
        file.setframerate(rate)
        file.writeframes(bytes(int(seconds * rate) * channels * 2))
    return path


async def content(source: Source, chunk_bytes: int = 1000) -> bytes:
    """All that is read of a source."""
    return b"".join([chunk async for chunk in source.chunks(chunk_bytes)])


def test_a_wav_files_header_is_read(tmp_path: Path) -> None:
    """Media type, duration and channels come from the recording's own header."""
    assert audio.probe(recording(tmp_path / "a.wav")) == AudioFacts("audio/wav", 2.0, 2)
    assert audio.probe(recording(tmp_path / "b", channels=1, seconds=0.5)) == AudioFacts("audio/wav", 0.5, 1)


def test_a_cut_off_recording_has_no_known_duration(tmp_path: Path) -> None:
    """The header of a file that was cut off promises more than is there: unknown is better than wrong."""
    path = recording(tmp_path / "a.wav")
    path.write_bytes(path.read_bytes()[:-10_000])
    assert audio.probe(path) == AudioFacts("audio/wav", None, 2)


@pytest.mark.parametrize("head", [b"ID3\x04", b"\xff\xfb\x90\x00", b"\xff\xf3\x40\x00", b"\xff\xe3\x40\x00"])
def test_an_mp3_is_known_by_its_first_bytes(tmp_path: Path, head: bytes) -> None:
    """A tag or a frame's sync word is enough, whatever the file is called."""
    path = tmp_path / "a.bin"
    path.write_bytes(head + bytes(100))
    assert audio.probe(path).media_type == "audio/mpeg"


@pytest.mark.parametrize("name", ["a.mp3", "A.MP3"])
def test_an_mp3_is_known_by_its_ending_otherwise(tmp_path: Path, name: str) -> None:
    """Where the first bytes say nothing, the ending does."""
    path = tmp_path / name
    path.write_bytes(bytes(100))
    assert audio.probe(path).media_type == "audio/mpeg"


@pytest.mark.parametrize(
    ("name", "head"),
    [
        ("a.ogg", b"OggS"),
        ("a.flac", b"fLaC"),
        ("a.aac", b"\xff\xf1\x50\x80"),
        ("a.wav", b"RF64\xff\xff\xff\xffWAVE"),
        ("a.wav", b"x"),
        ("a", b""),
    ],
)
def test_any_other_format_has_no_media_type(tmp_path: Path, name: str, head: bytes) -> None:
    """Content-Type is sent for the four documented types only: for others the service looks itself."""
    path = tmp_path / name
    path.write_bytes(head)
    assert audio.probe(path) == AudioFacts()


@pytest.mark.parametrize("body", [b"", b"\0" * 100, b"fmt \xff\xff\xff\xff", b"fmt \x10\0\0\0" + bytes(16)])
def test_a_broken_header_leaves_the_facts_unknown(tmp_path: Path, body: bytes) -> None:
    """A WAV file that only begins as one is sent all the same, without a guess about it."""
    path = tmp_path / "a.wav"
    path.write_bytes(b"RIFF\0\0\0\0WAVE" + body)
    facts = audio.probe(path)
    assert (facts.media_type, facts.duration_seconds) == ("audio/wav", None)


def test_a_missing_file_has_no_facts(tmp_path: Path) -> None:
    """A file that is gone is no reason to end."""
    assert audio.probe(tmp_path / "none.wav") == AudioFacts()


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


async def test_a_source_is_read_to_its_end(tmp_path: Path) -> None:
    """Chunks of the size asked for, all of the file, nothing more."""
    path = recording(tmp_path / "a.wav")
    async with open_source(path, path.stat().st_size) as source:
        assert source.size == path.stat().st_size
        chunks = [len(chunk) async for chunk in source.chunks(1000)]
    assert set(chunks[:-1]) == {1000}
    assert sum(chunks) == path.stat().st_size
    async with open_source(path, path.stat().st_size) as source:
        assert await content(source) == path.read_bytes()


async def test_a_file_of_another_size_is_not_what_was_loaded(tmp_path: Path) -> None:
    """A file that changed its size after the load is refused before a byte of it is sent."""
    path = recording(tmp_path / "a.wav")
    with pytest.raises(SourceError, match="changed after its manifest was loaded"):
        async with open_source(path, path.stat().st_size + 1):
            pass


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


async def test_a_file_that_shrinks_while_it_is_sent_is_refused(tmp_path: Path) -> None:
    """Fewer bytes than announced end the upload with the reason, before its last chunk."""
    path = recording(tmp_path / "a.wav")
    async with open_source(path, path.stat().st_size) as source:
        os.truncate(path, 500)
        with pytest.raises(SourceError, match="shrank while it was sent"):
            await content(source)


async def test_a_file_that_grows_while_it_is_sent_is_refused(tmp_path: Path) -> None:
    """More bytes than announced: the recording is not over."""
    path = recording(tmp_path / "a.wav")
    async with open_source(path, path.stat().st_size) as source:
        with path.open("ab") as file:
            file.write(b"more")
        with pytest.raises(SourceError, match="grew while it was sent"):
            await content(source)


async def test_a_file_that_is_rewritten_while_it_is_sent_is_refused(tmp_path: Path) -> None:
    """The same size with another modification time is another content: its last chunk never leaves."""
    path = recording(tmp_path / "a.wav")
    size = path.stat().st_size
    async with open_source(path, size) as source:
        chunks = source.chunks(size // 2)
        assert len(await anext(chunks)) == size // 2
        os.utime(path, ns=(10**18, 10**18))
        with pytest.raises(SourceError, match="changed while it was sent"):
            await anext(chunks)


async def test_a_file_that_is_archived_while_it_is_sent_is_sent(tmp_path: Path) -> None:
    """Renamed or removed: what is open is read to its end."""
    path = recording(tmp_path / "a.wav")
    size = path.stat().st_size
    async with open_source(path, size) as source:
        path.rename(tmp_path / "archived.wav")
        (tmp_path / "archived.wav").unlink()
        assert len(await content(source)) == size


async def test_a_file_that_another_takes_the_place_of_is_sent_as_it_was(tmp_path: Path) -> None:
    """A new file under the old name does not mix into the one that is being sent."""
    path = recording(tmp_path / "a.wav")
    before = path.read_bytes()
    async with open_source(path, len(before)) as source:
        recording(tmp_path / "b.wav", channels=1).replace(path)
        assert await content(source) == before
