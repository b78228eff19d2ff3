"""Names processes so that others on the same host can tell whether they are dead."""

import os
from pathlib import Path

_PROC = Path("/proc")


def own_process() -> str:
    """Name this process by its boot, its process namespace, its id and its start; empty where there is no /proc."""
    place = _place()
    try:
        begun = _begun(os.getpid())
    except OSError:
        return ""
    return f"{place} {os.getpid()}:{begun}" if place and begun else ""


def is_dead(process: str) -> bool:
    """Return True where a process that ``own_process`` named was one of this host and namespace, and is dead."""
    place, _, pid_and_begin = process.rpartition(" ")
    pid, _, begun = pid_and_begin.partition(":")
    if not place or place != _place():
        return False
    try:
        return _begun(int(pid)) != begun
    except (FileNotFoundError, ProcessLookupError):
        return _is_missing(int(pid))
    except OSError:
        return False  # what cannot be looked at is not dead for that


def _is_missing(pid: int) -> bool:
    """Return True where no process has this id; /proc may hide those of other users."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    except OSError:
        return False
    return False


def _place() -> str:
    """Name the boot of this host and the namespace of its process ids, which containers have of their own."""
    try:
        boot = (_PROC / "sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
        return f"{boot}:{(_PROC / 'self/ns/pid').stat().st_ino}"
    except OSError:
        return ""


def _begun(pid: int) -> str:
    """Read when a process began, in ticks since the boot; empty for a dead one that nobody has waited for.

    Raises:
        OSError: There is none, or it cannot be looked at.
    """
    text = (_PROC / str(pid) / "stat").read_text(encoding="utf-8", errors="replace")
    # the name of the command, in parentheses, may have blanks
    fields = text.rpartition(")")[2].split()
    return "" if fields[0] in "ZX" else fields[19]
