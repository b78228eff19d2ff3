"""The duration of MP3 files, by the count in the first frame, or by a constant bit rate.

Written by hand because tinytag takes the first frames' bit rate for that of the whole file, believes a count
that the file is too short for, and looks for frames in whatever follows a false beginning.
"""

from collections.abc import Mapping
from typing import NamedTuple

from uploader.audio.positioned import PositionedReader
from uploader.audio.sniffing import HEAD_BYTES, id3_bytes, is_mp3
from uploader.model import Flaw

# kilobits a second of layer III, of MPEG-1 (3) and of MPEG-2 and 2.5 (2), by the header's index
_BIT_RATES = {
    3: (0, 32, 40, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320),
    2: (0, 8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160),
}
_SAMPLE_RATES = {3: (44100, 48000, 32000), 2: (22050, 24000, 16000), 0: (11025, 12000, 8000)}
_FIRST_BYTES = 256
_PLACES = 4
_WINDOW_FRAMES = 10
_LEAST_FRAMES = 2
_LAST_TAG_BYTES = 128
_TRAILER_BYTES = 16 * 1024
_SURPLUS = 0.02


class Mp3Facts(NamedTuple):
    """Facts from the frames of an MP3 file; the duration is exact to some hundredths of a second."""

    channels: int | None = None
    sample_rate: int | None = None
    duration_seconds: float | None = None
    is_cut_off: bool = False
    flaw: Flaw | None = None


class _Frame(NamedTuple):
    """A frame's samples, bits and samples a second (bits 0: any), and its length in bytes."""

    samples: int
    bit_rate: int
    sample_rate: int
    channels: int

    @property
    def length(self) -> int:
        """The frame's length in bytes."""
        return self.samples // 8 * self.bit_rate // self.sample_rate


def read_mp3(file: PositionedReader, size: int) -> Mp3Facts:
    """Read an MP3 file's first frame, and some others where the first has no count.

    Args:
        file: The open file, at any position.
        size: The file's size in bytes.
    """
    file.seek(0)
    start = id3_bytes(file.read(HEAD_BYTES))
    file.seek(start)
    first = file.read(_FIRST_BYTES)
    if not is_mp3(first):
        tags_alone = start and (size <= start or (size <= start + _LAST_TAG_BYTES and first.startswith(b"TAG")))
        return Mp3Facts(flaw=Flaw.NO_AUDIO if tags_alone else None)
    frame = _frame(first)
    counted = _count(first)
    if counted is None:
        duration = _by_bit_rate(file, start, size, first, frame)
        return Mp3Facts(frame.channels, frame.sample_rate, duration)
    frames, claimed = counted
    there = size - start
    if claimed - frame.length > there:  # not every encoder counts the first frame alike
        return Mp3Facts(frame.channels, frame.sample_rate, is_cut_off=True)
    # files that were joined end to end have the first one's count alone
    fits = frames and claimed and there <= claimed * (1 + _SURPLUS) + _TRAILER_BYTES
    duration = frames * frame.samples / frame.sample_rate if fits else None
    return Mp3Facts(frame.channels, frame.sample_rate, duration)


def _frame(header: bytes) -> _Frame:
    """Parse a frame's header (ISO 11172-3, 2.4.1.3) for which ``is_mp3`` holds."""
    version = header[1] >> 3 & 3
    rates = _BIT_RATES[3 if version == 3 else 2]
    return _Frame(
        samples=1152 if version == 3 else 576,
        bit_rate=rates[header[2] >> 4] * 1000,
        sample_rate=_SAMPLE_RATES[version][header[2] >> 2 & 3],
        channels=1 if header[3] >> 6 == 3 else 2,
    )


def _count(first: bytes) -> tuple[int, int] | None:
    """Read frames and bytes from a Xing, Info or VBRI header; 0 for a count that is missing."""
    at = max(first.find(sign, 4, 48) for sign in (b"Xing", b"Info"))
    if at >= 0:
        flags = int.from_bytes(first[at + 4 : at + 8], "big")  # a file may end here
        frames = int.from_bytes(first[at + 8 : at + 12], "big") if flags & 1 else 0
        after = at + 12 if flags & 1 else at + 8
        return frames, int.from_bytes(first[after : after + 4], "big") if flags & 2 else 0
    at = first.find(b"VBRI", 4, 48)
    if at >= 0:
        return int.from_bytes(first[at + 14 : at + 18], "big"), int.from_bytes(first[at + 10 : at + 14], "big")
    return None


def _by_bit_rate(file: PositionedReader, start: int, size: int, first: bytes, frame: _Frame) -> float | None:
    """Compute the duration at a constant bit rate, as far as samples of the file show it constant."""
    file.seek(max(start, size - _LAST_TAG_BYTES))
    end = size - _LAST_TAG_BYTES if file.read(3) == b"TAG" else size
    window = _WINDOW_FRAMES * (frame.length + 1)
    last = max(start, end - window)
    # headers are alike if they differ in no more than their padding, which is a byte, and the bit of private use
    lengths = {first[:2] + bytes([first[2] & 0xFC | bits]): frame.length + (bits >> 1) for bits in range(4)}
    for place in range(_PLACES + 1):
        file.seek(start + (last - start) * place // _PLACES)
        if not frame.bit_rate or not _is_all_alike(file.read(min(window, end - file.tell())), first[:2], lengths):
            return None
    return (end - start) * 8 / frame.bit_rate


def _is_all_alike(part: bytes, sync: bytes, lengths: Mapping[bytes, int]) -> bool:
    """Tell whether frames with such headers follow each other to the end of a part of the file."""
    at = part.find(sync)
    while at >= 0:
        if _chain(part, at, lengths) >= _LEAST_FRAMES:
            return True
        at = part.find(sync, at + 1)
    return False


def _chain(part: bytes, at: int, lengths: Mapping[bytes, int]) -> int:
    """Count the frames that follow each other to the end; 0 where another kind comes between.

    Args:
        part: A part of the file.
        at: Where the first of them begins.
        lengths: The length of a frame by the first bytes of its header, of all headers that are alike.
    """
    count, last = 0, len(part) - 3
    while at <= last:
        length = lengths.get(part[at : at + 3])
        if length is None:
            return 0
        at += length
        count += 1
    return count
