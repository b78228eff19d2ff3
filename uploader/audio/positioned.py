"""A file object over a descriptor, with a position of its own."""

import os
from contextlib import AbstractContextManager
from typing import BinaryIO


class PositionedReader:
    """A file object that reads the file's head from memory and the rest with ``pread``."""

    __slots__ = ("_at", "_descriptor", "head", "size")

    def __init__(self, descriptor: int, size: int, head: bytes) -> None:
        """Wrap a descriptor of a file of this size whose first bytes, ``head``, were read already."""
        self._descriptor = descriptor
        self._at = 0
        self.size = size
        self.head = head

    def seek(self, at: int) -> int:
        """Set the position; return it."""
        self._at = at
        return at

    def tell(self) -> int:
        """Return the position."""
        return self._at

    def read(self, count: int) -> bytes:
        """Read bytes from the position; fewer at the end of the file."""
        part = self.read_at(self._at, count)
        self._at += len(part)
        return part

    def read_at(self, at: int, count: int) -> bytes:
        """Read bytes from a place; fewer at the end of the file."""
        end = at + count
        return self.head[at:end] if end <= len(self.head) else os.pread(self._descriptor, count, at)

    def whole(self) -> AbstractContextManager[BinaryIO]:
        """Open the whole file as a file object of the standard library's."""
        return open(self._descriptor, "rb", closefd=False)
