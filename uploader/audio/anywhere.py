"""Questions about an audio file that may be on this machine or remote."""

from pathlib import Path

from uploader.audio import source
from uploader.audio.fetching import RemoteFiles
from uploader.model import FileSignature
from uploader.urls import is_remote


def signature(path: str | Path) -> FileSignature:
    """Read the signature of audio that can be sent.

    Raises:
        ValueError: It cannot be sent; the text says why, and gives the remedy.
    """
    if not is_remote(str(path)):
        return source.signature(path)
    with RemoteFiles() as files:
        return files.examine(str(path))[0]


def content_hash(path: str | Path) -> str | None:
    """Compute the BLAKE3 hash of the content in hexadecimal; None where it cannot be read."""
    if not is_remote(str(path)):
        return source.content_hash(path)
    with RemoteFiles() as files:
        return files.content_hash(str(path))
