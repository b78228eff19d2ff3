"""Detects a file's format by its first bytes, from the signatures in the formats' specifications."""

from codecs import getincrementaldecoder
from collections.abc import Callable

from uploader.model import AudioFormat

# the bytes at a file's beginning that suffice to detect its format; with 512 the object would be too large for
# Python's own allocator, and a million of them cost half a second more
HEAD_BYTES = 448

ID3_HEADER_BYTES = 10
_ASF_HEADER = bytes.fromhex("3026b2758e66cf11a6d900aa0062ce6c")
_WHITE_SPACE = "\t\n\r\f"


def sniff(head: bytes, after_tag: bytes = b"") -> AudioFormat | None:
    """Detect a file's format by its content.

    Args:
        head: The first ``HEAD_BYTES`` bytes, or the whole of a shorter file.
        after_tag: The bytes after the ID3 tag at the beginning, where there is one: not only MP3 files have them.

    Returns:
        The format; None where no signature matches.
    """
    if id3_bytes(head):
        return _first(after_tag, _TAGGED) or AudioFormat.MP3
    return _first(head, _UNTAGGED)


def id3_bytes(head: bytes) -> int:
    """Return the length of a leading ID3v2 tag, its header included (ID3v2, 3.1); 0 without one."""
    sizes = head[6:ID3_HEADER_BYTES]
    if head[:3] != b"ID3" or head[3:4] not in (b"\2", b"\3", b"\4") or len(sizes) < 4 or max(sizes) > 0x7F:
        return 0
    length = sizes[0] << 21 | sizes[1] << 14 | sizes[2] << 7 | sizes[3]
    footer = ID3_HEADER_BYTES if head[5] & 0x10 else 0
    return ID3_HEADER_BYTES + length + footer


def is_mp3(head: bytes) -> bool:
    """Return True where this is a frame header of layer III (ISO 11172-3, 2.4.1.3); AAC has layer 00, which is none."""
    if len(head) < 4 or head[0] != 0xFF or head[1] & 0xE6 != 0xE2:
        return False
    version, bit_rate, sample_rate = head[1] >> 3 & 3, head[2] >> 4, head[2] >> 2 & 3
    return version != 1 and bit_rate != 15 and sample_rate != 3


def _is_aac(head: bytes) -> bool:
    """Return True where this is an ADTS header (ISO 13818-7, 6.2): twelve sync bits, then layer 00."""
    return len(head) > 2 and head[0] == 0xFF and head[1] & 0xF6 == 0xF0 and head[2] >> 2 & 15 < 13


def _is_ogg(head: bytes) -> bool:
    return head[:4] == b"OggS" and not _is_opus(head)


def _is_opus(head: bytes) -> bool:
    return head[:4] == b"OggS" and head[28:36] == b"OpusHead"


def _is_wave(head: bytes) -> bool:
    return head[:4] == b"RIFF" and head[8:12] == b"WAVE"


def _is_long_wave(head: bytes) -> bool:
    return head[:4] in (b"RF64", b"BW64") and head[8:12] == b"WAVE"


def _is_text(head: bytes) -> bool:
    """Return True where this is text, such as an error page saved under a recording's name."""
    try:
        # the head may end in the middle of a character
        text = getincrementaldecoder("utf-8-sig")().decode(head)
    except UnicodeDecodeError:
        return False
    return bool(text.strip()) and all(char.isprintable() or char in _WHITE_SPACE for char in text)


def _begins(sign: bytes) -> Callable[[bytes], bool]:
    return lambda head: head.startswith(sign)


# the formats with a constant prefix
_BEGINNINGS = (
    (AudioFormat.MATROSKA, b"\x1a\x45\xdf\xa3"),
    (AudioFormat.AU, b".snd"),
    (AudioFormat.CAF, b"caff"),
    (AudioFormat.RIFX, b"RIFX"),
    (AudioFormat.WAVE_64, b"riff\x2e\x91\xcf\x11"),
    (AudioFormat.APE, b"MAC "),
    (AudioFormat.WAVPACK, b"wvpk"),
    (AudioFormat.DSD, b"DSD "),
    (AudioFormat.DSD, b"FRM8"),
    (AudioFormat.REAL, b".ra\xfd"),
    (AudioFormat.REAL, b".RMF"),
    (AudioFormat.FLASH, b"FLV\1"),
    (AudioFormat.MPEG_PS, b"\0\0\1\xba"),
    (AudioFormat.MIDI, b"MThd"),
)

_Sign = tuple[AudioFormat, Callable[[bytes], bool]]
_TAGGED: tuple[_Sign, ...] = (
    (AudioFormat.MP3, is_mp3),
    (AudioFormat.AAC, _is_aac),
    (AudioFormat.FLAC, lambda head: head[:4] == b"fLaC"),
)
_UNTAGGED: tuple[_Sign, ...] = (
    (AudioFormat.WAV, _is_wave),
    (AudioFormat.RF64, _is_long_wave),
    *_TAGGED,
    (AudioFormat.OPUS, _is_opus),
    (AudioFormat.OGG, _is_ogg),
    (AudioFormat.MPEG_4, lambda head: head[4:8] == b"ftyp"),
    (AudioFormat.AMR, lambda head: head.startswith((b"#!AMR\n", b"#!AMR-WB\n"))),
    (AudioFormat.AIFF, lambda head: head[:4] == b"FORM" and head[8:12] in (b"AIFF", b"AIFC")),
    (AudioFormat.AC3, lambda head: head[:2] == b"\x0b\x77"),
    (AudioFormat.WMA, lambda head: head.startswith(_ASF_HEADER)),
    *((found, _begins(sign)) for found, sign in _BEGINNINGS),
    (AudioFormat.AVI, lambda head: head[:4] == b"RIFF" and head[8:12] == b"AVI "),
    (AudioFormat.TEXT, _is_text),
)


def _first(head: bytes, signs: tuple[_Sign, ...]) -> AudioFormat | None:
    return next((found for found, fits in signs if fits(head)), None)
