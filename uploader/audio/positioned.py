"""Reads a file by its descriptor, at a position of its own."""

import os


class PositionedReader:
    """A file that is read in places: its beginning once, the rest where it is asked for."""

    __slots__ = ("_at", "_descriptor", "head", "size")

    def __init__(self, descriptor: int, size: int, head: bytes) -> None:
        """Read a file of this size whose first bytes, ``head``, were read already."""
        self._descriptor = descriptor
        self._at = 0
        self.size = size
        self.head = head

    def seek(self, at: int) -> None:
        """Read on from this byte."""
        self._at = at

    def tell(self) -> int:
        """Return where the next read begins."""
        return self._at

    def read(self, count: int) -> bytes:
        """Read so many bytes, or as many as there are."""
        at, end = self._at, self._at + count
        part = self.head[at:end] if end <= len(self.head) else os.pread(self._descriptor, count, at)
        self._at = at + len(part)
        return part
