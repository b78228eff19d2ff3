"""Names processes so that others on the same host can tell whether they are dead."""

import os
from pathlib import Path

_PROC = Path("/proc")


def own_process() -> str:
    """Name this process by its boot, its process namespace, its id and its start; empty where there is no /proc."""
    place = _place()
    begun = _begun(os.getpid())
    return f"{place} {os.getpid()}:{begun}" if place and begun else ""


def is_dead(process: str) -> bool:
    """Return True where a process that ``own_process`` named was one of this host and namespace, and is dead."""
    place, _, pid_and_begin = process.rpartition(" ")
    pid, _, begun = pid_and_begin.partition(":")
    return bool(place) and place == _place() and _begun(int(pid)) != begun


def _place() -> str:
    """Name the boot of this host and the namespace of its process ids, which containers have of their own."""
    try:
        boot = (_PROC / "sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
        return f"{boot}:{(_PROC / 'self/ns/pid').stat().st_ino}"
    except OSError:
        return ""


def _begun(pid: int) -> str:
    """Read when a process began, in ticks since the boot; empty where there is none, or a dead one."""
    try:
        text = (_PROC / str(pid) / "stat").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""
    # the name of the command, in parentheses, may have blanks
    fields = text.rpartition(")")[2].split()
    return "" if fields[0] in "ZX" else fields[19]
