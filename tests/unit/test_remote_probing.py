"""Remote audio is examined by a few parts of it, with the same result as a file of this machine."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from tests.unit.test_audio_probing import SAMPLES, WHOLE
from uploader import audio
from uploader.audio.fetching import HEAD_BYTES, Fetchers, RangedReader, examine
from uploader.audio.remote import Beginning, RemoteError, Stream, Trouble
from uploader.model import AudioFacts, AudioFormat

FILES = {name: content for name, (content, _) in WHOLE.items()} | {
    path.name: path.read_bytes() for path in SAMPLES.iterdir() if path.suffix in (".wav", ".mp3")
}


class Kept(Fetchers):
    """A fetcher of contents in memory, which counts what is read of them."""

    def __init__(self, content: bytes, *, has_ranges: bool = True) -> None:
        super().__init__()
        self.parts: list[tuple[int, int]] = []
        self._content = content
        self._has_ranges = has_ranges

    def of(self, address: str) -> "Kept":
        """Return this one for any address."""
        del address
        return self

    async def begin(self, address: str, count: int) -> Beginning:
        """Return the first bytes."""
        del address
        return Beginning(len(self._content), '"v"', self._content[:count], self._has_ranges)

    async def read(self, address: str, start: int, end: int, change: str) -> bytes:
        """Return a part, and count it."""
        assert (address, change) == ("https://host/a.bin", '"v"')
        self.parts.append((start, end))
        return self._content[start:end]

    @asynccontextmanager
    async def stream(self, address: str, change: str) -> AsyncIterator[Stream]:
        """Nothing is streamed to be examined."""
        raise AssertionError(address, change)
        yield


@pytest.mark.parametrize("name", FILES)
async def test_a_remote_recording_has_the_facts_of_a_file(tmp_path: Path, name: str) -> None:
    """Every format: what is told of the file is told of the address, by as many parts as its format needs."""
    path = tmp_path / "a.bin"
    path.write_bytes(FILES[name])
    kept = Kept(FILES[name])
    signature, facts = await examine(kept, "https://host/a.bin")
    assert facts == audio.probe(path)
    assert (signature.size, signature.change) == (len(FILES[name]), '"v"')
    assert len(kept.parts) <= 6


async def test_a_header_at_the_beginning_needs_no_second_request() -> None:
    """A large WAV file is known by its first bytes."""
    name = "planning-meeting-1.wav"
    assert len(FILES[name]) > HEAD_BYTES
    kept = Kept(FILES[name])
    _, facts = await examine(kept, "https://host/a.bin")
    assert facts.format is AudioFormat.WAV
    assert not kept.parts


async def test_without_ranges_the_media_type_is_known_by_the_beginning() -> None:
    """Where a server gives no parts, what they would tell stays unknown, and nothing wrong is said."""
    frames = FILES["interview-2.mp3"] * 20
    kept = Kept(frames, has_ranges=False)
    _, facts = await examine(kept, "https://host/a.bin")
    assert facts == AudioFacts("audio/mpeg", format=AudioFormat.MP3)
    assert not kept.parts


async def test_an_empty_file_is_told() -> None:
    """Nothing is sent of it."""
    with pytest.raises(RemoteError) as raised:
        await examine(Kept(b""), "https://host/a.bin")
    assert raised.value.trouble is Trouble.EMPTY


def test_a_reader_gives_what_was_fetched_and_notes_what_was_not() -> None:
    """A part that is lacking is asked for from where it begins, and never past the end."""
    reader = RangedReader(100_000, b"head")
    assert reader.read_at(0, 4) == b"head"
    assert reader.read_at(100_000, 10) == b""
    with pytest.raises(OSError, match="not fetched"):
        reader.read_at(2, 4)
    assert reader.lacking == (2, 65538)
    reader.add(99_990, b"0123456789")
    reader.seek(-4, 2)
    assert (reader.read(), reader.tell()) == (b"6789", 100_000)
