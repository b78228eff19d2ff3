"""Starts the command: as a new interpreter, or as a child that a warm one forks."""

import json
import os
import selectors
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Protocol

from tests.acceptance.fork_server import ENDED, LENGTH, REPORT, STARTED, STOPPED

ROOT = Path(__file__).parents[2]
COMMAND = (sys.executable, "-m", "uploader")
# beginnings of environment variables that an interpreter, or a library as it is imported, reads once
NEEDS_NEW_INTERPRETER = ("PYTHON", "LANG", "LC_", "TZ", "SSL_CERT_", "OPENSSL_", "MALLOC_", "LD_")
END_SECONDS = 10.0


class Process(Protocol):
    """What ``subprocess.Popen`` offers, as far as tests use it, and waiting for a stop."""

    pid: int
    returncode: int | None

    def poll(self) -> int | None:
        """The return code; None while it runs."""
        ...

    def wait(self, timeout: float | None = None) -> int:
        """Waits for its end."""
        ...

    def send_signal(self, sig: int) -> None:
        """Sends it a signal, unless it has ended."""
        ...

    def kill(self) -> None:
        """Sends it SIGKILL, unless it has ended."""
        ...

    def wait_until_stopped(self) -> None:
        """Waits until a SIGSTOP has stopped it."""
        ...


@dataclass(frozen=True, slots=True)
class Command:
    """One command to start: its arguments, and what it is to find around it."""

    arguments: Sequence[str]
    environment: Mapping[str, str]
    folder: Path
    streams: Sequence[IO[bytes]]
    before: Sequence[str] = ()


Start = Callable[[Command], Process]


class NewInterpreter(subprocess.Popen[bytes]):
    """The command in an interpreter of its own."""

    def __init__(self, command: Command) -> None:
        stdin, stdout, stderr = command.streams
        super().__init__(
            [*command.before, *COMMAND, *command.arguments],
            cwd=command.folder,
            env=command.environment,
            stdin=stdin,
            stdout=stdout,
            stderr=stderr,
        )

    def wait_until_stopped(self) -> None:
        """Waits until a SIGSTOP has stopped it."""
        _, status = os.waitpid(self.pid, os.WUNTRACED)
        assert os.WIFSTOPPED(status)


@dataclass(slots=True)
class Forked:
    """The command in a child of the fork server, which reports what becomes of it."""

    reports: socket.socket
    pid: int = 0
    returncode: int | None = None
    stops: int = 0

    def __post_init__(self) -> None:
        """Waits until it runs."""
        kind, self.pid = self._read()
        assert kind == STARTED

    def poll(self) -> int | None:
        """The return code; None while it runs."""
        while self._is_reported(0):
            self._take()
        return self.returncode

    def wait(self, timeout: float | None = None) -> int:
        """Waits for its end."""
        deadline = None if timeout is None else time.monotonic() + timeout
        while self.returncode is None:
            left = None if deadline is None else deadline - time.monotonic()
            if not self._is_reported(left):
                raise subprocess.TimeoutExpired("uploader", timeout or 0)
            self._take()
        return self.returncode

    def send_signal(self, sig: int) -> None:
        """Sends it a signal, unless it has ended."""
        if self.poll() is None:
            os.kill(self.pid, sig)

    def kill(self) -> None:
        """Sends it SIGKILL, unless it has ended."""
        self.send_signal(signal.SIGKILL)

    def wait_until_stopped(self) -> None:
        """Waits until a SIGSTOP has stopped it."""
        while not self.stops:
            assert self.returncode is None, "it has ended in place of stopping"
            self._take()
        self.stops -= 1

    def _is_reported(self, seconds: float | None) -> bool:
        """Wait for a report for so many seconds; none follows the end's report."""
        if self.returncode is not None:
            return False
        with selectors.DefaultSelector() as selector:
            selector.register(self.reports, selectors.EVENT_READ)
            return bool(selector.select(None if seconds is None else max(seconds, 0)))

    def _take(self) -> None:
        kind, number = self._read()
        if kind == STOPPED:
            self.stops += 1
        elif kind == ENDED:
            self.returncode = number
            self.reports.close()

    def _read(self) -> tuple[int, int]:
        report = self.reports.recv(REPORT.size, socket.MSG_WAITALL)
        assert report, "the fork server has ended"
        kind, number = REPORT.unpack(report)
        return kind, number


@dataclass(slots=True)
class ForkServer:
    """A warm interpreter; called with a command, it starts the command in a child."""

    # what every command finds, as the interpreter itself does at its start
    environment: Mapping[str, str]
    _orders: socket.socket = field(init=False)
    _process: "subprocess.Popen[bytes]" = field(init=False)
    _one_at_a_time: threading.Lock = field(default_factory=threading.Lock)

    def __post_init__(self) -> None:
        """Starts it."""
        self._orders, theirs = socket.socketpair()
        with theirs:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "tests.acceptance.fork_server", str(theirs.fileno())],
                cwd=ROOT,
                env=self.environment,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                pass_fds=[theirs.fileno()],
            )

    def __call__(self, command: Command) -> Process:
        """Starts a command: in a child, or where a forked one would differ, in an interpreter of its own."""
        if command.before or self._needs_new_interpreter(command.environment):
            return NewInterpreter(command)
        order = {
            "arguments": command.arguments,
            "environment": command.environment,
            "folder": str(command.folder),
        }
        text = json.dumps(order).encode()
        ours, theirs = socket.socketpair()
        with theirs, self._one_at_a_time:
            given = [*(stream.fileno() for stream in command.streams), theirs.fileno()]
            socket.send_fds(self._orders, [LENGTH.pack(len(text))], given)
            self._orders.sendall(text)
        return Forked(ours)

    def close(self) -> None:
        """Ends it, and what it started."""
        self._orders.close()
        self._process.wait(END_SECONDS)

    def _needs_new_interpreter(self, environment: Mapping[str, str]) -> bool:
        differing = dict(environment.items() ^ self.environment.items())
        return any(name.startswith(NEEDS_NEW_INTERPRETER) for name in differing)
