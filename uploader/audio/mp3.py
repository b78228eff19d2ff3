"""The duration of MP3 files, by the count in the first frame, or by a constant bit rate.

Written by hand because tinytag takes the first frames' bit rate for that of the whole file, believes a count
that the file is too short for, and looks for frames in whatever follows a false beginning.
"""

import re
from functools import lru_cache
from typing import NamedTuple

from uploader.audio.positioned import PositionedReader
from uploader.audio.sniffing import id3_bytes, is_mp3
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
_LAST_TAG_BYTES = 128
_TRAILER_BYTES = 16 * 1024
_SURPLUS = 0.02
_KINDS_KEPT = 256


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
    start = id3_bytes(file.head)
    first = file.read_at(start, _FIRST_BYTES)
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
    if not frame.bit_rate:
        return None
    window = _WINDOW_FRAMES * (frame.length + 1)
    tail_at = max(start, size - _LAST_TAG_BYTES - window)
    tail = file.read_at(tail_at, size - tail_at)
    is_tagged = size - start >= _LAST_TAG_BYTES and tail[-_LAST_TAG_BYTES:].startswith(b"TAG")
    end = size - _LAST_TAG_BYTES if is_tagged else size
    last = max(start, end - window)
    frames_to_end = _frames_to_end(first[:3], frame.length)
    # the end first: of a file whose rates change, or that something else follows, nothing more is read
    if frames_to_end.search(tail, last - tail_at, end - tail_at) is None:
        return None
    for place in range(_PLACES if last > start else 0):
        if frames_to_end.search(file.read_at(start + (last - start) * place // _PLACES, window)) is None:
            return None
    return (end - start) * 8 / frame.bit_rate


@lru_cache(_KINDS_KEPT)
def _frames_to_end(header: bytes, length: int) -> re.Pattern[bytes]:
    """Build the pattern of two frames or more with such a header, the last of which may be cut off at the end.

    Args:
        header: The first three bytes of a frame.
        length: The bytes of a frame without padding.
    """
    # headers are alike if they differ in no more than their padding, which is a byte, and the bit of private use
    unpadded, padded = (
        b"[" + b"".join(re.escape(bytes([header[2] & 0xFC | bits])) for bits in pair) + b"]"
        for pair in ((0, 1), (2, 3))
    )
    sync = re.escape(header[:2])
    whole = b"(?:%b.{%d}|%b.{%d})" % (unpadded, length - 3, padded, length - 2)
    # one that is cut off: checked in one step, where a count up to the end would be tried in each length
    begun = b"(?:%b(?!.{%d})|%b(?!.{%d}))" % (unpadded, length - 3, padded, length - 2)
    parts = {b"sync": sync, b"whole": whole, b"begun": begun}
    return re.compile(
        b"%(sync)b%(whole)b(?:(?:%(sync)b%(whole)b)+(?:%(sync)b%(begun)b|.{0,2}\\Z)|%(sync)b%(begun)b)" % parts,
        re.DOTALL,
    )
