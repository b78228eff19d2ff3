"""Runs a command as a process of its own, and tells what it took."""

import contextlib
import os
import re
import signal
import subprocess
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

SAMPLE_SECONDS = 0.02


@dataclass(frozen=True, slots=True)
class Used:
    """What a command took, and what it left.

    ``cpu_seconds`` is user and system time, that of the processes that it waited for included. ``peak_bytes`` is the
    most that it had resident itself, 0 where this cannot be told. ``begun`` is on the steady clock (time.monotonic).
    ``stopped`` says that it had not ended in the time that it was given, and was killed.
    """

    code: int
    begun: float
    seconds: float
    cpu_seconds: float
    peak_bytes: int
    stopped: bool
    out: Path
    err: Path

    @property
    def is_good(self) -> bool:
        """True if the command ended by itself, and well."""
        return not self.stopped and self.code == 0

    def ending(self, appended: int, files: int) -> str:
        """Say what is missing of an end with all files appended; empty if nothing is."""
        ending = f"not ended after {self.seconds:.0f} s; " if self.stopped else ""
        if appended < files or self.code:
            ending += f"{appended} of {files} files appended, exit code {self.code}; "
        return ending

    def check(self) -> "Used":
        """Itself, if it ended well.

        Raises:
            RuntimeError: It did not; the text has the end of what it wrote to standard error.
        """
        if self.code != 0:
            said = self.err.read_text(encoding="utf-8", errors="replace")[-2000:]
            raise RuntimeError(f"{self.err}: exit code {self.code}: {said}")
        return self


def run(
    command: Sequence[str | Path],
    *,
    name: str,
    folder: Path,
    environment: Mapping[str, str],
    seconds: float = 3600.0,
) -> Used:
    """Runs a command to its end, or kills it and its children after so many ``seconds``.

    Args:
        command: The program and its arguments.
        name: What its streams are called in the folder.
        folder: Where it works.
        environment: All of its environment.
        seconds: How long it may take.
    """
    out, err = folder / f"{name}.out", folder / f"{name}.err"
    with out.open("wb") as printing, err.open("wb") as logging:
        begun = time.monotonic()
        child = subprocess.Popen(
            [str(word) for word in command],
            cwd=folder,
            env=dict(environment),
            stdin=subprocess.DEVNULL,
            stdout=printing,
            stderr=logging,
            start_new_session=True,
        )
        with _killed_after(seconds, child.pid) as killed, _peak_of(child.pid) as peak:
            _, status, usage = os.wait4(child.pid, 0)
        took = time.monotonic() - begun
    child.returncode = os.waitstatus_to_exitcode(status)
    cpu = usage.ru_utime + usage.ru_stime
    return Used(child.returncode, begun, took, cpu, max(peak), killed.is_set(), out, err)


@contextlib.contextmanager
def _killed_after(seconds: float, group: int) -> Iterator[threading.Event]:
    killed = threading.Event()

    def kill() -> None:
        killed.set()
        with contextlib.suppress(ProcessLookupError):
            os.killpg(group, signal.SIGKILL)

    timer = threading.Timer(seconds, kill)
    timer.start()
    try:
        yield killed
    finally:
        timer.cancel()


@contextlib.contextmanager
def _peak_of(number: int) -> Iterator[list[int]]:
    """Samples the high-water mark: that of ``wait4`` is handed on from whoever started the process."""
    peak, over = [0], threading.Event()

    def sample() -> None:
        while not over.wait(SAMPLE_SECONDS):
            peak.append(_resident_peak(number))
            peak[:] = [max(peak)]

    sampler = threading.Thread(target=sample)
    sampler.start()
    try:
        yield peak
    finally:
        over.set()
        sampler.join()


def _resident_peak(number: int) -> int:
    try:
        told = Path(f"/proc/{number}/status").read_text(encoding="ascii", errors="replace")
    except OSError:
        return 0
    found = re.search(r"^VmHWM:\s+(\d+) kB", told, re.MULTILINE)
    return int(found[1]) * 1024 if found else 0
