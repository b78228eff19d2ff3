"""Ways to open a file: one that a FIFO cannot block, one that no disk can; and where an open file really lies."""

import os
from collections.abc import Callable
from functools import cache
from pathlib import Path

WITHOUT_WAITING = os.O_NONBLOCK | os.O_CLOEXEC
"""How a file is opened: a FIFO in its place does not block."""
OPENAT2 = 437
"""The number of Linux's system call, which has the same one on every kind of processor."""
AT_FDCWD = -100
RESOLVE_CACHED = 0x20
"""Only what the kernel holds in memory is looked at: else the call fails with EAGAIN."""


def open_without_waiting(path: str, flags: int) -> int:
    """Open a file (an ``opener``): a FIFO in its place does not block."""
    return os.open(path, flags | WITHOUT_WAITING)


def open_cached(path: str, flags: int) -> int:
    """Open a file (an ``opener``) if the kernel finds it without the disk, and if no symlink stands in its place.

    Raises:
        OSError: It does not, or the kernel (before Linux 5.12, or no Linux) has no such call: open it in a thread.
    """
    return _openat2()(os.fsencode(path), flags | WITHOUT_WAITING | os.O_NOFOLLOW)


def lies_in(root: str, descriptor: int, path: Path, found: os.stat_result) -> bool:
    """Tell whether an open file lies in a folder, behind whatever links its path has.

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
