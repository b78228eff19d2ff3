"""Openers that block neither on a FIFO nor on the disk, and the check that an open file lies in a folder."""

import os
from collections.abc import Callable
from functools import cache
from pathlib import Path

# the flags of an opening that a FIFO does not block
WITHOUT_WAITING = os.O_NONBLOCK | os.O_CLOEXEC
# the number of Linux's ``openat2`` system call, the same on all processors
OPENAT2 = 437
AT_FDCWD = -100
# resolve the path from the kernel's cache alone, else fail with EAGAIN
RESOLVE_CACHED = 0x20


def open_without_waiting(path: str, flags: int) -> int:
    """Open a file as an ``opener`` that a FIFO does not block."""
    return os.open(path, flags | WITHOUT_WAITING)


def open_cached(path: str, flags: int) -> int:
    """Open a file as an ``opener``, from the kernel's cache alone and not through a symlink in its place.

    Raises:
        OSError: The path is not cached, or the kernel (before Linux 5.12, or no Linux) has no such call: open it in a
            thread.
    """
    return _openat2()(os.fsencode(path), flags | WITHOUT_WAITING | os.O_NOFOLLOW)


def lies_in(root: str, descriptor: int, path: str | Path, found: os.stat_result) -> bool:
    """Return True where an open file lies in a folder, whatever links its path has.

    Args:
        root: The real path of the folder, with a slash at its end.
        descriptor: The open file.
        path: The path under which it was opened.
        found: The file's status.
    """
    try:
        real = os.readlink(f"/proc/self/fd/{descriptor}")  # noqa: PTH115 - costs less than a Path
    except OSError:  # no Linux: the links may have been changed since the opening, so compare the file, too
        real = os.path.realpath(path)
        if not os.path.samestat(found, os.lstat(real)):
            return False
    return real.startswith(root)


@cache
def _openat2() -> Callable[[bytes, int], int]:
    import ctypes  # noqa: PLC0415 - commands that send nothing do without

    class How(ctypes.Structure):
        _fields_ = (("flags", ctypes.c_uint64), ("mode", ctypes.c_uint64), ("resolve", ctypes.c_uint64))

    syscall = ctypes.CDLL(None, use_errno=True).syscall
    size = ctypes.sizeof(How)

    def call(path: bytes, flags: int) -> int:
        how = How(flags, 0, RESOLVE_CACHED)
        opened: int = syscall(OPENAT2, AT_FDCWD, path, ctypes.byref(how), size)
        if opened < 0:
            number = ctypes.get_errno()
            raise OSError(number, os.strerror(number))
        return opened

    return call
