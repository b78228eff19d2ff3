"""The duration of WAV files, by the bytes that the file really holds.

Written by hand because tinytag believes the header's size of the data, reads no RF64, and reports neither a file
that is cut off nor a header that was never finished.
"""

import struct
from dataclasses import dataclass
from functools import lru_cache
from typing import NamedTuple

from uploader.audio.positioned import PositionedReader
from uploader.model import Flaw

MP3_TAG = 0x55
_EXTENSIBLE = 0xFFFE
# PCM, floating point, A-law, µ-law: a block is one sample of each channel
_SAMPLE_TAGS = (0x01, 0x03, 0x06, 0x07)
# Microsoft's and IMA's ADPCM, and GSM: the header has the samples of a block
_BLOCK_TAGS = (0x02, 0x11, 0x31)
# a data size of nearly 2 or 4 GiB is the placeholder of a program that wrote to a pipe
_NOT_FINISHED = 0x7FFFF000
_MOST_CHUNKS = 64
_AGREEING = 0.02
# the commonest header: RIFF, WAVE, 16 bytes of format, then the data
_PLAIN = struct.Struct("<4sI32sI")
_PLAIN_BYTES = _PLAIN.size
# its part between the two sizes
_PLAIN_FORM = struct.Struct("<8sIHHIIHH4s")
_KINDS_KEPT = 256
# the most bytes behind the data that are not taken for sound which the header lacks
_SLACK_BYTES = 64
# the most zeros behind the data that are taken for the padding of a disk sector
_SECTOR_BYTES = 64 * 1024
_TAGS = (b"TAG", b"ID3", b"APE")


class WaveFacts(NamedTuple):
    """Facts from a WAV header, checked against the file's size."""

    format_tag: int = 0
    channels: int | None = None
    sample_rate: int | None = None
    duration_seconds: float | None = None
    is_cut_off: bool = False
    flaw: Flaw | None = None


@dataclass(slots=True)
class _Chunks:
    """The chunks that describe a recording. ``data_at``: the offset of the data (None: there is none)."""

    size: int
    # the file's size in the RIFF header
    announced: int = 0
    form: bytes = b""
    samples: int = 0
    long_data: int | None = None
    data_at: int | None = None
    data: int = 0


def read_wave(file: PositionedReader, size: int) -> WaveFacts:
    """Read the header of a RIFF or RF64 file.

    Args:
        file: The open file, at any position.
        size: The file's size in bytes.
    """
    chunks = _read_chunks(file, size)
    if len(chunks.form) < 16:
        return WaveFacts()
    tag, channels, rate, byte_rate, block, bits = struct.unpack_from("<HHIIHH", chunks.form)
    if tag == _EXTENSIBLE and len(chunks.form) >= 26:
        (tag,) = struct.unpack_from("<H", chunks.form, 24)
    there, is_cut_off = (0, False) if chunks.data_at is None else _data_bytes(chunks, chunks.data_at)
    flaw = _flaw(file, chunks, there)
    if flaw is not None or is_cut_off or not channels or not rate:
        return WaveFacts(tag, channels or None, rate or None, None, is_cut_off, flaw)
    if tag in _SAMPLE_TAGS:
        duration = there / (block * rate) if block and block * 8 == channels * _whole_bytes(bits) else None
    elif tag in _BLOCK_TAGS:
        duration = _block_seconds(there, block, chunks, rate) if block else None
    else:
        duration = _compressed_seconds(there, byte_rate, chunks.samples / rate)
    return WaveFacts(tag, channels, rate, duration)


def plain_wave(head: bytes, size: int) -> tuple[int, int, float] | None:
    """Read the header of a WAV file of the commonest kind: PCM, whole, with nothing before the data.

    A quick way for most files: on None ``read_wave`` is asked, which gives the same answer for such files.

    Args:
        head: The file's first bytes.
        size: The file's size in bytes.

    Returns:
        Channels, sample rate and duration in seconds.
    """
    if len(head) < _PLAIN_BYTES:
        return None
    riff, _, form, data = _PLAIN.unpack_from(head)
    if riff != b"RIFF" or not 0 < data <= size - _PLAIN_BYTES <= data + _SLACK_BYTES:
        return None
    plain = _plain_format(form)
    return plain and (plain[0], plain[1], data / plain[2])


@lru_cache(_KINDS_KEPT)
def _plain_format(form: bytes) -> tuple[int, int, int] | None:
    """Parse the constant part of the commonest header: channels, sample rate and bytes a second; None if it is another.

    Cached, because the recordings of one system differ in their sizes alone.
    """
    kind, length, tag, channels, rate, _, block, bits, name = _PLAIN_FORM.unpack(form)
    is_plain = kind == b"WAVEfmt " and length == 16 and name == b"data" and tag == 1
    if not is_plain or not block * rate or block * 8 != channels * _whole_bytes(bits):
        return None
    return channels, rate, block * rate


def _block_seconds(there: int, block: int, chunks: _Chunks, rate: int) -> float:
    """Compute the duration by the number of blocks, and by the fact chunk for the last block."""
    a_block = int.from_bytes(chunks.form[18:20], "little")
    samples = -(-there // block) * a_block
    return (chunks.samples if 0 <= samples - chunks.samples < a_block else samples) / rate


def _whole_bytes(bits: int) -> int:
    return (bits + 7) // 8 * 8


def _compressed_seconds(there: int, byte_rate: int, by_samples: float) -> float | None:
    """Return the duration in the fact chunk of a compressed recording, where the byte rate agrees."""
    if not byte_rate or not by_samples:
        return None
    by_rate = there / byte_rate
    return by_samples if abs(by_samples - by_rate) <= _AGREEING * by_rate + 1 / 8 else None


def _flaw(file: PositionedReader, chunks: _Chunks, there: int) -> Flaw | None:
    """Describe a flaw of a recording with so many bytes of sound; None without one."""
    end = (chunks.data_at or 0) + there
    surplus = chunks.size - end
    if chunks.data_at is not None and surplus > _SLACK_BYTES:
        file.seek(end)
        behind = file.read(9)
        is_filled = not any(behind) and surplus <= _SECTOR_BYTES
        if not is_filled and not _is_chunk(behind[there % 2 :], surplus) and not behind.startswith(_TAGS):
            return Flaw.SURPLUS
    return None if there else Flaw.NO_AUDIO


def _is_chunk(head: bytes, most: int) -> bool:
    """Return True where a chunk of at most so many bytes begins at an offset."""
    return _is_name(head[:4]) and int.from_bytes(head[4:8], "little") <= most


def _is_name(name: bytes) -> bool:
    return len(name) == 4 and all(0x20 <= byte <= 0x7E for byte in name)


def _data_bytes(chunks: _Chunks, data_at: int) -> tuple[int, bool]:
    """Return the bytes of sound, and whether the header promises more."""
    there = chunks.size - data_at
    promised = chunks.data if chunks.long_data is None else chunks.long_data
    if promised == 0 and chunks.announced != chunks.size:
        return there, False  # a recorder that ended before it wrote the sizes
    if promised <= there:
        return promised, False
    return there, not (chunks.long_data is None and promised >= _NOT_FINISHED)


def _read_chunks(file: PositionedReader, size: int) -> _Chunks:
    """Read the headers of the chunks, up to that of the data."""
    chunks, at = _Chunks(size), 12
    file.seek(4)
    chunks.announced = int.from_bytes(file.read(4), "little") + 8
    for _ in range(_MOST_CHUNKS):
        file.seek(at)
        head = file.read(8)
        if len(head) < 8:
            break
        name, length = head[:4], int.from_bytes(head[4:], "little")
        if name == b"data":
            chunks.data_at, chunks.data = at + 8, length
            break
        _take(chunks, name, file.read(min(length, 40)))
        at += 8 + length
        if length % 2:
            file.seek(at)
            at += not _is_name(file.read(4))  # not everybody writes the byte that makes a chunk's length even
    return chunks


def _take(chunks: _Chunks, name: bytes, body: bytes) -> None:
    if name == b"fmt ":
        chunks.form = body
    elif name == b"fact" and len(body) >= 4:
        chunks.samples = int.from_bytes(body[:4], "little")
    elif name == b"ds64" and len(body) >= 16:
        chunks.announced = int.from_bytes(body[:8], "little") + 8
        chunks.long_data = int.from_bytes(body[8:16], "little")
