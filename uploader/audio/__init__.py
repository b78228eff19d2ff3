"""Opens audio files; tells their size, media type, duration and channels."""

from uploader.audio.probing import examine, probe
from uploader.audio.source import PIECE_BYTES, READ_BYTES, Source, SourceOpener, content_hash, open_source, signature

__all__ = [
    "PIECE_BYTES",
    "READ_BYTES",
    "Source",
    "SourceOpener",
    "content_hash",
    "examine",
    "open_source",
    "probe",
    "signature",
]
