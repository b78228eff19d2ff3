"""Detects a recording's format, duration and channels, by content first and name second, in one opening."""

import errno
import os
from collections.abc import Callable, Mapping
from pathlib import Path, PurePath
from typing import BinaryIO

from uploader.audio.mp3 import Mp3Facts, read_mp3
from uploader.audio.ogg import read_ogg
from uploader.audio.opening import WITHOUT_WAITING
from uploader.audio.positioned import PositionedReader
from uploader.audio.sniffing import HEAD_BYTES, id3_bytes, sniff
from uploader.audio.source import sendable, signature
from uploader.audio.wave import MP3_TAG, WaveFacts, plain_wave, read_wave
from uploader.audio.whole import is_whole, mpeg_4_flaw
from uploader.model import ENDINGS, AudioFacts, AudioFormat, FileSignature, Flaw

# the media types of the formats that the Content-Type header may name (put-audio.md, Request Headers)
MEDIA_TYPES = {AudioFormat.MP3: "audio/mpeg", AudioFormat.WAV: "audio/wav"}
# the commonest format: a look-up of an enum's member costs as much as a call
_WAVE, _WAVE_TYPE = AudioFormat.WAV, MEDIA_TYPES[AudioFormat.WAV]
_FOLLOWING = os.O_RDONLY | WITHOUT_WAITING
_NOT_FOLLOWING = _FOLLOWING | os.O_NOFOLLOW


def probe(path: str | Path) -> AudioFacts:
    """Detect a file's format and duration from its head; what is not certain stays unknown."""
    try:
        descriptor = os.open(path, _FOLLOWING)
    except OSError:
        return AudioFacts()
    try:
        return _read(descriptor, os.fstat(descriptor).st_size, path)
    finally:
        os.close(descriptor)


def examine(path: str, *, follow: bool = True) -> tuple[FileSignature, AudioFacts]:
    """Open a file once, and read its signature and its audio facts.

    Args:
        follow: Follow a symbolic link as the last part of the path.

    Raises:
        OSError: The file is a link that is not to be followed.
        ValueError: The file cannot be sent; the text says why, and what to do.
    """
    try:
        descriptor = os.open(path, _FOLLOWING if follow else _NOT_FOLLOWING)
    except OSError as error:
        if not follow and error.errno == errno.ELOOP:
            raise
        return signature(path), AudioFacts()  # says in words why it cannot be opened
    try:
        checked = sendable(os.fstat(descriptor))
        return checked, _read(descriptor, checked[0], path)
    finally:
        os.close(descriptor)


def _read(descriptor: int, size: int, path: str | Path) -> AudioFacts:
    try:
        head = os.pread(descriptor, HEAD_BYTES, 0)
        plain = plain_wave(head, size)
        if plain is not None:
            channels, rate, seconds = plain
            # a third of the cost of AudioFacts(...), for a million files
            facts = (_WAVE_TYPE, round(seconds, 3) or None, channels, rate, _WAVE, False, None)
            return tuple.__new__(AudioFacts, facts)
        return facts_of(PositionedReader(descriptor, size, head), path)
    except OSError:
        return AudioFacts()


def facts_of(file: PositionedReader, name: str | Path) -> AudioFacts:
    """Read a recording's facts from an open file; the ending of ``name`` tells the format that it should have."""
    try:
        kind = sniff(file.head[:HEAD_BYTES], _after_tag(file))
        if kind in _BY_TINYTAG:
            with file.whole() as whole:
                return _by_tinytag(whole, file.size, kind)
        reader = _READERS.get(kind) if kind is not None else None
        return _format_alone(kind, name) if reader is None or kind is None else reader(file, file.size, kind)
    except OSError:
        return AudioFacts()


def format_of(head: bytes, name: str | Path) -> AudioFacts:
    """Detect a recording's format by its first bytes, where no more can be read."""
    tag = id3_bytes(head)
    return _format_alone(sniff(head[:HEAD_BYTES], head[tag : tag + HEAD_BYTES] if tag else b""), name)


def _format_alone(kind: AudioFormat | None, name: str | Path) -> AudioFacts:
    if kind is not None:
        return AudioFacts(MEDIA_TYPES.get(kind), format=kind)
    promised = ENDINGS.get(PurePath(name).suffix.lower(), frozenset())
    return AudioFacts("audio/mpeg" if AudioFormat.MP3 in promised else None)


def _after_tag(file: PositionedReader) -> bytes:
    tag = id3_bytes(file.head)
    if not tag:
        return b""
    return file.read_at(tag, HEAD_BYTES)


def _of_wave(file: PositionedReader, size: int, kind: AudioFormat) -> AudioFacts:
    found = read_wave(file, size)
    if kind is AudioFormat.WAV and found.format_tag == MP3_TAG:
        kind = AudioFormat.WAV_MP3  # no documented media type names both container and codec
    return _facts(found, kind)


def _of_mp3(file: PositionedReader, size: int, kind: AudioFormat) -> AudioFacts:
    return _facts(read_mp3(file, size), kind)


def _facts(found: WaveFacts | Mp3Facts, kind: AudioFormat) -> AudioFacts:
    return AudioFacts(
        MEDIA_TYPES.get(kind),
        _rounded(found.duration_seconds),
        found.channels,
        found.sample_rate,
        kind,
        found.is_cut_off,
        found.flaw,
    )


def _of_ogg(file: PositionedReader, size: int, kind: AudioFormat) -> AudioFacts:
    found = read_ogg(file, size)
    return AudioFacts(None, _rounded(found.duration_seconds), found.channels, found.sample_rate, kind)


def _of_amr(file: PositionedReader, size: int, kind: AudioFormat) -> AudioFacts:
    """Read an AMR header: one channel and one of two rates (RFC 4867, 5); the frames have no count."""
    file.seek(0)
    is_wide = file.read(9) == b"#!AMR-WB\n"
    flaw = Flaw.NO_AUDIO if size <= (9 if is_wide else 6) else None
    return AudioFacts(None, None, 1, 16000 if is_wide else 8000, kind, flaw=flaw)


def _by_tinytag(file: BinaryIO, size: int, kind: AudioFormat) -> AudioFacts:
    flaw = mpeg_4_flaw(file, size) if kind is AudioFormat.MPEG_4 else None
    if flaw is not None:
        return AudioFacts(format=kind, flaw=flaw)
    from tinytag import TinyTag, TinyTagException  # noqa: PLC0415 - most recordings are WAV or MP3

    file.seek(0)
    try:
        # by the open file, not by its name: tinytag would believe the ending
        tag = TinyTag.get(file_obj=file, tags=False)
    except (TinyTagException, OSError, ValueError, ArithmeticError):
        return AudioFacts(format=kind)
    whole = is_whole(kind, file, size, tag) if tag.duration else None
    duration = _rounded(tag.duration) if whole else None
    if kind is AudioFormat.MPEG_4:
        # encoders write 2 channels for one, and half or all of the rate; the codec's own data are right
        return AudioFacts(None, duration, format=kind, is_cut_off=whole is False)
    return AudioFacts(None, duration, tag.channels, tag.samplerate, kind, whole is False)


def _rounded(seconds: float | None) -> float | None:
    return round(seconds, 3) or None if seconds else None


_READERS: Mapping[AudioFormat, Callable[[PositionedReader, int, AudioFormat], AudioFacts]] = {
    AudioFormat.WAV: _of_wave,
    AudioFormat.RF64: _of_wave,
    AudioFormat.MP3: _of_mp3,
    AudioFormat.OGG: _of_ogg,
    AudioFormat.OPUS: _of_ogg,
    AudioFormat.AMR: _of_amr,
}
# the formats that tinytag reads; of the others no more than the format is known
_BY_TINYTAG = frozenset([AudioFormat.AIFF, AudioFormat.FLAC, AudioFormat.MPEG_4, AudioFormat.WMA])
