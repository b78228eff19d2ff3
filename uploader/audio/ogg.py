"""The duration of Ogg files, by their first and last page.

Written by hand because tinytag reads every page, which takes seconds for an hour of audio.
"""

import struct
from collections.abc import Iterator
from typing import NamedTuple

from uploader.audio.positioned import PositionedReader

_BEGINNING_BYTES = 64 * 1024
# the longest page (RFC 3533, 6)
_PAGE_BYTES = 27 + 255 + 255 * 255
_FIRST_PAGE_SECONDS = 5.0
# the rate of Opus granules, whatever rate was recorded (RFC 7845, 4)
_OPUS_RATE = 48000


class OggFacts(NamedTuple):
    """Facts from the pages of an Ogg file."""

    channels: int | None = None
    sample_rate: int | None = None
    duration_seconds: float | None = None


class _Page(NamedTuple):
    granule: int
    serial: int
    content: bytes


class _Stream(NamedTuple):
    """A stream's header: ``rate`` of its granules, ``recorded_rate``, and ``skipped`` samples at the start."""

    channels: int
    rate: int
    recorded_rate: int | None
    skipped: int = 0


def read_ogg(file: PositionedReader, size: int) -> OggFacts:
    """Read an Ogg file's first and last page; only Vorbis and Opus are known."""
    file.seek(0)
    pages = list(_pages(file.read(_BEGINNING_BYTES)))
    if not pages:
        return OggFacts()
    stream = _stream(pages[0].content)
    if stream is None:
        return OggFacts()
    file.seek(max(0, size - _PAGE_BYTES))
    last = _last_page(file.read(_PAGE_BYTES))
    begun = next((page.granule for page in pages if page.granule > 0), None)
    # a recording of a broadcast counts from the broadcast's beginning; a joined file has another serial at its end
    if last is None or last.serial != pages[0].serial or begun is None or begun > stream.rate * _FIRST_PAGE_SECONDS:
        return OggFacts(stream.channels, stream.recorded_rate)
    seconds = (last.granule - stream.skipped) / stream.rate
    return OggFacts(stream.channels, stream.recorded_rate, seconds if seconds > 0 else None)


def _stream(content: bytes) -> _Stream | None:
    if content[:7] == b"\x01vorbis" and len(content) >= 16:
        channels, rate = struct.unpack_from("<BI", content, 11)
        return _Stream(channels, rate, rate) if channels and rate else None
    if content[:8] == b"OpusHead" and len(content) >= 16:
        channels, skipped, recorded = struct.unpack_from("<BHI", content, 9)
        return _Stream(channels, _OPUS_RATE, recorded or None, skipped) if channels else None
    return None


def _pages(part: bytes) -> Iterator[_Page]:
    at = 0
    while part[at : at + 4] == b"OggS" and at + 27 <= len(part):
        body = at + 27 + part[at + 26]
        end = body + sum(part[at + 27 : body])
        yield _page(part, at, part[body:end])
        at = end


def _last_page(part: bytes) -> _Page | None:
    at = part.rfind(b"OggS")
    while at >= 0:
        if at + 27 <= len(part):
            page = _page(part, at, b"")
            if page.granule > 0:
                return page
        at = part.rfind(b"OggS", 0, at)
    return None


def _page(part: bytes, at: int, content: bytes) -> _Page:
    granule, serial = struct.unpack_from("<qI", part, at + 6)
    return _Page(granule, serial, content)
