"""Checks whether a file holds all that its header promises, because tinytag believes the header."""

import struct
from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, BinaryIO

from uploader.audio.sniffing import HEAD_BYTES, id3_bytes
from uploader.model import AudioFormat, Flaw

if TYPE_CHECKING:
    from tinytag import TinyTag

_MOST_ATOMS = 64
_ASF_FILE_PROPERTIES = bytes.fromhex("a1dcab8c47a9cf118ee400c00c205365")
_ASF_HEAD_BYTES = 16 * 1024
_FLAC_MOST_BYTES = 128 * 1024
_FLAC_TRAILER_BYTES = 4096
_UNKNOWN, _CUT_OFF, _WHOLE = None, False, True
# True: the file is whole; False: it is cut off; None: unknown, and so is the duration
Answer = bool | None


def is_whole(kind: AudioFormat, file: BinaryIO, size: int, tag: "TinyTag") -> Answer:
    """Return True where the file holds the duration that its header claims.

    Args:
        kind: The file's format.
        size: The file's size in bytes.
        tag: The header as tinytag read it.
    """
    check = _CHECKS.get(kind)
    return check(file, size, tag) if check else _UNKNOWN


def mpeg_4_flaw(file: BinaryIO, size: int) -> Flaw | None:
    """Describe an unfinished recording by its atoms: many programs write the index (moov) last."""
    names, at = set(), 0
    for _ in range(_MOST_ATOMS):
        file.seek(at)
        head = file.read(16)
        if len(head) < 8:
            break
        length = int.from_bytes(head[:4], "big")
        names.add(head[4:8])
        if length == 1:
            length = int.from_bytes(head[8:16], "big")
        at = size if length == 0 else at + max(length, 8)
    else:
        return None
    if b"moov" not in names:
        return Flaw.UNFINISHED
    return None if names & {b"mdat", b"moof"} else Flaw.NO_AUDIO


def _aiff(file: BinaryIO, size: int, tag: "TinyTag") -> Answer:
    """Compare the size in the form's header, and the samples where they are not compressed."""
    file.seek(4)
    announced = int.from_bytes(file.read(4), "big") + 8
    if announced > size:
        return _CUT_OFF
    block = (tag.channels or 0) * -(-(tag.bitdepth or 0) // 8)
    sound = (tag.duration or 0) * (tag.samplerate or 0) * block
    # some compressed kinds count packets where others count samples
    return _WHOLE if tag.is_lossless and sound <= size else _UNKNOWN


def _mpeg_4(file: BinaryIO, size: int, _tag: "TinyTag") -> Answer:
    """Check that the atoms fill the file; the header does not count fragments."""
    at = 0
    for _ in range(_MOST_ATOMS):
        if at >= size:
            return _WHOLE if at == size else _CUT_OFF
        file.seek(at)
        head = file.read(16)
        length = int.from_bytes(head[:4], "big")
        if head[4:8] == b"moof" or length == 0:
            return _UNKNOWN
        if length == 1:
            length = int.from_bytes(head[8:16], "big")
        at += max(length, 8)
    return _UNKNOWN


def _wma(file: BinaryIO, size: int, _tag: "TinyTag") -> Answer:
    """Compare the file's size in its properties (ASF, 3.2), which a broadcast leaves out."""
    file.seek(0)
    head = file.read(_ASF_HEAD_BYTES)
    at = head.find(_ASF_FILE_PROPERTIES)
    if at < 0 or len(head) < at + 92:
        return _UNKNOWN
    (announced,) = struct.unpack_from("<Q", head, at + 40)
    (flags,) = struct.unpack_from("<I", head, at + 88)
    if flags & 1:
        return _UNKNOWN
    return _CUT_OFF if announced > size else _WHOLE


def _flac(file: BinaryIO, size: int, tag: "TinyTag") -> Answer:
    """Check the header of the last frame (FLAC, 9.1): at most one block's samples may follow it."""
    file.seek(0)
    start = id3_bytes(file.read(HEAD_BYTES))
    file.seek(start + 8)
    info = file.read(34)
    block, longest = int.from_bytes(info[2:4], "big"), int.from_bytes(info[7:10], "big")
    if longest > _FLAC_MOST_BYTES:
        return _UNKNOWN
    total = round((tag.duration or 0) * (tag.samplerate or 0))
    file.seek(max(0, size - (longest or _FLAC_MOST_BYTES) - _FLAC_TRAILER_BYTES))
    frames = _flac_frames(file.read())
    begun = (number * block if is_fixed else number for number, is_fixed in frames)
    return _WHOLE if any(0 < total - sample <= block for sample in begun) else _CUT_OFF


def _flac_frames(part: bytes) -> Iterator[tuple[int, bool]]:
    """Yield frame numbers from the last on, each with True if it counts frames, False if samples."""
    at = part.rfind(b"\xff")
    while at >= 0:
        header = part[at : at + 16]
        if len(header) > 6 and header[1] & 0xFE == 0xF8:
            number = _flac_number(header)
            if number is not None:
                yield number, header[1] == 0xF8
        at = part.rfind(b"\xff", 0, at)


def _flac_number(header: bytes) -> int | None:
    """Decode a frame header's number; None where the checksum shows that there is no header."""
    more = 8 - (~header[4] & 0xFF).bit_length()  # leading ones, as in UTF-8
    number = header[4] & (0x7F >> more)
    for byte in header[5 : 4 + max(more, 1)]:
        number = number << 6 | byte & 0x3F
    block, rate = header[2] >> 4, header[2] & 15
    extra = {6: 1, 7: 2}.get(block, 0) + {12: 1, 13: 2, 14: 2}.get(rate, 0)
    end = 4 + max(more, 1) + extra
    return number if end < len(header) and _crc8(header[:end]) == header[end] else None


def _crc8(content: bytes) -> int:
    crc = 0
    for byte in content:
        crc ^= byte
        for _ in range(8):
            crc = (crc << 1 ^ 7) & 0xFF if crc & 0x80 else crc << 1
    return crc


_CHECKS: Mapping[AudioFormat, Callable[[BinaryIO, int, "TinyTag"], Answer]] = {
    AudioFormat.AIFF: _aiff,
    AudioFormat.FLAC: _flac,
    AudioFormat.MPEG_4: _mpeg_4,
    AudioFormat.WMA: _wma,
}
