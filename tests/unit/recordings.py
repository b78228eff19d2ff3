"""Small files of every format, byte by byte as their specifications have them."""

import struct
from collections.abc import Iterable

ASF_HEADER = bytes.fromhex("3026b2758e66cf11a6d900aa0062ce6c")
ASF_FILE_PROPERTIES = bytes.fromhex("a1dcab8c47a9cf118ee400c00c205365")
HTML = b"<!DOCTYPE html>\n<html><body>404 Not Found</body></html>\n"


def chunk(name: bytes, body: bytes, length: int | None = None) -> bytes:
    """A RIFF chunk; ``length`` is what it claims to be long, where that is not the truth."""
    return name + struct.pack("<I", len(body) if length is None else length) + body + bytes(len(body) % 2)


def form(tag: int = 1, channels: int = 1, rate: int = 8000, bits: int = 16, *, block: int | None = None) -> bytes:
    """A WAV file's fmt chunk."""
    size = channels * ((bits + 7) // 8) if block is None else block
    return chunk(b"fmt ", struct.pack("<HHIIHH", tag, channels, rate, rate * size, size, bits))


def extensible(tag: int, channels: int, rate: int, bits: int) -> bytes:
    """A fmt chunk of WAVE_FORMAT_EXTENSIBLE, its true format behind it."""
    size = channels * bits // 8
    head = struct.pack("<HHIIHHHHIH", 0xFFFE, channels, rate, rate * size, size, bits, 22, bits, 0, tag)
    return chunk(b"fmt ", head + bytes(14))


def wave_file(*chunks: bytes, name: bytes = b"RIFF", length: int | None = None) -> bytes:
    """A WAV file of these chunks."""
    body = b"WAVE" + b"".join(chunks)
    return name + struct.pack("<I", len(body) if length is None else length) + body


def recording(seconds: float = 2.0, channels: int = 1, rate: int = 8000) -> bytes:
    """A WAV file of silence."""
    return wave_file(form(1, channels, rate), chunk(b"data", bytes(int(seconds * rate) * channels * 2)))


def id3(length: int) -> bytes:
    """An ID3v2 tag of so many bytes, and its header."""
    sizes = bytes(length >> shift & 0x7F for shift in (21, 14, 7, 0))
    return b"ID3\x04\0\0" + sizes + bytes(length)


MP3_BIT_RATES = (0, 8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160)
MP3_FRAME_SECONDS = 576 / 16000


def mp3_frame(index: int = 8, body: bytes = b"", *, channels: int = 1) -> bytes:
    """A frame of MPEG-2, layer III, 16 kHz, of the bit rate with this index."""
    length = 72 * MP3_BIT_RATES[index] * 1000 // 16000
    head = bytes([0xFF, 0xF3, index << 4 | 2 << 2, 0xC0 if channels == 1 else 0x40])
    return (head + body).ljust(length, b"\x55")


def mp3_file(indexes: Iterable[int], *, counted: bytes = b"", channels: int = 1) -> bytes:
    """An MP3 file of frames of these bit rates, behind a frame with a count (``Xing``, ``Info``, ``VBRI``)."""
    frames = [mp3_frame(index, channels=channels) for index in indexes]
    sound = b"".join(frames)
    if not counted:
        return sound
    first = len(mp3_frame(8))
    if counted == b"VBRI":
        count = bytes(32) + counted + bytes(6) + struct.pack(">II", first + len(sound), len(frames))
    else:
        count = bytes(9) + counted + struct.pack(">III", 3, len(frames), first + len(sound))
    return mp3_frame(8, count, channels=channels) + sound


def aac_file(frames: int = 20) -> bytes:
    """ADTS frames: their sync word begins as an MP3 frame's does."""
    return (b"\xff\xf1\x50\x80\x10\x00\xfc" + bytes(121)) * frames


def ogg_page(granule: int, content: bytes, serial: int = 7) -> bytes:
    """A page of an Ogg file."""
    sizes = bytes([255] * (len(content) // 255) + [len(content) % 255])
    return b"OggS\0\0" + struct.pack("<qIII", granule, serial, 0, 0) + bytes([len(sizes)]) + sizes + content


def vorbis(channels: int = 2, rate: int = 8000) -> bytes:
    """The first page of Vorbis."""
    return ogg_page(0, b"\x01vorbis" + struct.pack("<IBIiiiBB", 0, channels, rate, 0, 0, 0, 0, 1))


def opus(channels: int = 1, recorded: int = 16000, skipped: int = 480) -> bytes:
    """The first page of Opus."""
    return ogg_page(0, b"OpusHead\x01" + struct.pack("<BHIhB", channels, skipped, recorded, 0, 0))


def crc8(content: bytes) -> int:
    """The checksum of a FLAC frame's header: x^8 + x^2 + x + 1."""
    remainder = int.from_bytes(content, "big") << 8
    for bit in range(remainder.bit_length() - 1, 7, -1):
        if remainder >> bit & 1:
            remainder ^= 0x107 << bit - 8
    return remainder


def flac_file(frames: int = 10, *, block: int = 4096, last: int = 1136, rate: int = 16000, longest: int = 200) -> bytes:
    """A FLAC file of fixed blocks, the last one shorter, whose frames hold nothing."""
    total = (frames - 1) * block + last
    shape = rate << 44 | 0 << 41 | 15 << 36 | total
    info = struct.pack(">HH", block, block) + bytes(3) + longest.to_bytes(3, "big") + shape.to_bytes(8, "big")
    content = b"fLaC\x80" + (34).to_bytes(3, "big") + info + bytes(16)
    for number in range(frames):
        is_last = number == frames - 1
        head = bytes([0xFF, 0xF8, 0x70 if is_last else 0xC0, 0x08]) + chr(number).encode()
        head += struct.pack(">H", last - 1) if is_last else b""
        content += head + bytes([crc8(head)]) + b"\xff\x55" * 60
    return content


def aiff_file(frames: int = 16000, *, channels: int = 1, kind: bytes = b"AIFF", compression: bytes = b"") -> bytes:
    """An AIFF file of silence at 8 kHz."""
    rate = struct.pack(">HQ", 0x3FFF + 12, 8000 << 51)
    common = struct.pack(">hLh", channels, frames, 16) + rate + compression
    sound = bytes(8 + frames * channels * 2)
    parts = b"COMM" + struct.pack(">I", len(common)) + common + b"SSND" + struct.pack(">I", len(sound)) + sound
    return b"FORM" + struct.pack(">I", len(parts) + 4) + kind + parts


def atom(name: bytes, content: bytes) -> bytes:
    """An atom of MPEG-4."""
    return struct.pack(">I", len(content) + 8) + name + content


def mpeg_4_file(seconds: float = 3.0, *, front: bool = True) -> bytes:
    """An MPEG-4 file, its header before or behind the sound."""
    header = atom(b"moov", atom(b"mvhd", bytes(12) + struct.pack(">II", 1000, int(seconds * 1000)) + bytes(80)))
    sound = atom(b"mdat", bytes(5000))
    return atom(b"ftyp", b"M4A \0\0\0\0isom") + (header + sound if front else sound + header)


def wma_file(seconds: float = 3.0, *, size: int = 3000, flags: int = 2) -> bytes:
    """An ASF file with its properties, padded to a size."""
    properties = bytes(16) + struct.pack("<QQQQQQIIII", size, 0, 1, int(seconds * 1e7), 0, 0, flags, 100, 100, 64000)
    content = ASF_HEADER + struct.pack("<QI", 30 + 24 + len(properties), 1) + b"\x01\x02"
    content += ASF_FILE_PROPERTIES + struct.pack("<Q", 24 + len(properties)) + properties
    return content.ljust(size, b"\0")
