"""Remote audio: what its servers can be asked, and what goes wrong, in the words of local files."""

from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager
from enum import StrEnum
from typing import NamedTuple, Protocol
from uuid import uuid4

from uploader.errors import SourceAwayError, SourceError

# the most seconds for a connection, and for the next bytes of a file; less than an upload may stand still
# (``stall_seconds``), so that a source that does is not taken for trouble of the service
CONNECT_SECONDS = 10.0
READ_SECONDS = 20.0
# the bytes handed on at once from a stream
STREAM_BYTES = 256 * 1024
# the beginning of a change that equals no other
_UNVERSIONED = "unversioned:"
CHECK_AGAIN = "run its manifest again, and it is checked anew"


class Trouble(StrEnum):
    """The kinds of trouble with remote audio; a value is the text for people, at load."""

    MISSING = "the file cannot be found ({}): correct the path or bring it back"
    DENIED = "the file cannot be read ({}): give these credentials leave to read it"
    EMPTY = "the file is empty: record or copy it anew, or leave the row out"
    CHANGED = "the file changed while it was examined ({}): run again when it is complete"
    UNSIZED = "the server does not say how long the file is ({}): copy it to a store that does, or to this machine"
    UNUSABLE = "the file cannot be read ({})"
    AWAY = "the file cannot be reached ({}): run again when it can"


class RemoteError(Exception):
    """A remote file cannot be read; ``detail`` has neither address nor secret in it."""

    def __init__(self, trouble: Trouble, detail: str = "") -> None:
        super().__init__(trouble.value.format(detail))
        self.trouble = trouble
        self.detail = detail


class Beginning(NamedTuple):
    """The facts of a remote file, and its first bytes."""

    size: int
    # as in ``FileSignature``: its ETag, else its time of modification
    change: str
    content: bytes
    # parts of the file can be read
    has_ranges: bool = True


class Fetcher(Protocol):
    """A client of a kind of servers. Each method raises ``RemoteError``."""

    async def begin(self, address: str, count: int) -> Beginning:
        """Read a file's facts and its first bytes, in one round trip."""
        ...

    async def read(self, address: str, start: int, end: int, change: str) -> bytes:
        """Read a part of the file, of this version."""
        ...

    def stream(self, address: str, change: str) -> "AbstractAsyncContextManager[Stream]":
        """Open a file, of this version where ``change`` is not empty, to be read from its beginning."""
        ...

    async def close(self) -> None:
        """Close all connections."""
        ...


class Stream(NamedTuple):
    """An open remote file. ``pieces`` raises ``RemoteError``, also where it ends before all bytes have come."""

    size: int
    change: str
    pieces: AsyncIterator[bytes]


def change_of(etag: str | None, modified: str | None) -> str:
    """Build a file's ``FileSignature.change`` from what its server says of its version."""
    if etag:
        return etag
    # without a version no two looks at the file are known to be of the same content: each has its own
    return f"modified:{modified}" if modified else f"{_UNVERSIONED}{uuid4().hex}"


def strong_etag(change: str) -> str | None:
    """Return the ETag in a ``FileSignature.change`` that If-Match can be asked for; None where there is none."""
    return change if change.startswith('"') else None


def is_changed(expected: str | None, found: str) -> bool:
    """Return True where the version of a file is known to be another one than expected."""
    return bool(expected) and not (expected or "").startswith(_UNVERSIONED) and expected != found


def check_unchanged(size: int, change: str | None, found: Stream) -> None:
    """Compare an open file with the ledger's facts.

    Raises:
        SourceError: It is another one.
    """
    if found.size != size:
        sizes = f"it had {size} bytes, now it has {found.size}"
        raise SourceError(f"the file changed since its manifest was checked ({sizes}): {CHECK_AGAIN}")
    if is_changed(change, found.change):
        raise SourceError(f"the file changed since its manifest was checked: {CHECK_AGAIN}")


def source_error(error: RemoteError, *, is_open: bool) -> SourceError:
    """Translate trouble at the opening of a source, or while it is read (``is_open``)."""
    if error.trouble is Trouble.CHANGED and not is_open:
        return SourceError(f"the file changed since its manifest was checked: {CHECK_AGAIN}")
    kind = SourceAwayError if error.trouble is Trouble.AWAY else SourceError
    return kind(f"the file could not be {'read' if is_open else 'opened'}: {error.detail or error}")
