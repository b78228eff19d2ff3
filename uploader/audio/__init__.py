"""Opens audio, local or remote; tells its size, media type, duration and channels."""

from uploader.audio.anywhere import content_hash, signature
from uploader.audio.fetching import RemoteFiles
from uploader.audio.probing import examine, probe
from uploader.audio.source import PIECE_BYTES, READ_BYTES, Source, SourceOpener, open_source

__all__ = [
    "PIECE_BYTES",
    "READ_BYTES",
    "RemoteFiles",
    "Source",
    "SourceOpener",
    "content_hash",
    "examine",
    "open_source",
    "probe",
    "signature",
]
