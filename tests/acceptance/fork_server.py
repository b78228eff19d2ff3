"""``python -m tests.acceptance.fork_server FD``: a warm interpreter that forks one child per command.

The server imports every module of the uploader once, runs some commands, so that their SQL statements are compiled, and
then waits for orders on the Unix socket with this file descriptor. An order is four file descriptors (standard input,
output, error, and a socket for reports) and a JSON object with the arguments, the environment and the working
directory. A child takes all of these over and runs as ``python -m uploader ARGUMENTS`` would, to the same end: threads
are waited for, exit handlers called. Little else of the test suite is imported here, and no thread may run: a forked
child would have only half of it.
"""

import atexit
import contextvars
import gc
import importlib
import json
import os
import pkgutil
import runpy
import signal
import socket
import struct
import sys
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stderr, redirect_stdout, suppress
from dataclasses import dataclass, field
from pathlib import Path
from select import select
from tempfile import TemporaryDirectory
from typing import TextIO

import uploader
from tests.statements import compile_once
from uploader.cli import commands

# the layout of a report: its kind, and a number
REPORT = struct.Struct("=ii")
# the kinds of reports; their numbers are a process id, a signal, and a return code as in ``subprocess``
STARTED, STOPPED, ENDED = range(3)
# the layout of the length before an order's JSON text
LENGTH = struct.Struct("=I")
# the file descriptors of an order that become the child's 0, 1 and 2; the next one is for reports
STREAMS = 3
# commands whose SQL statements the children find compiled: half of what a command costs once all is imported
WARMING = (
    ("run", "m.csv", "--sandbox", "--json"),
    # nobody listens at the base URL: what is pending stays in the ledger for the commands after it
    ("run", "m.csv", "--give-up-seconds", "0.01"),
    ("plan", "m.csv"),
    ("status",),
    ("results",),
    ("resolve",),
    ("resolve", "--state", "pending", "--drop"),
)


@dataclass(frozen=True, slots=True)
class Order:
    """One command to run."""

    arguments: Sequence[str]
    environment: Mapping[str, str]
    folder: str


@dataclass(slots=True)
class ForkServer:
    """The server's state: where orders come from, and the report socket of each living child."""

    orders: socket.socket
    children: dict[int, socket.socket] = field(default_factory=dict)

    def serve(self) -> Order | None:
        """Fork a child per order.

        Returns:
            In each child its order; in the server, once the client has gone, None.
        """
        waking, woken = os.pipe()
        os.set_blocking(woken, False)
        signal.signal(signal.SIGCHLD, lambda *_: None)
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        signal.set_wakeup_fd(woken, warn_on_full_buffer=False)
        while True:
            ready, _, _ = select([self.orders.fileno(), waking], [], [])
            if waking in ready:
                os.read(waking, 4096)
                self._report_changes()
            if self.orders.fileno() not in ready:
                continue
            head, descriptors, _, _ = socket.recv_fds(self.orders, LENGTH.size, STREAMS + 1)
            if not head:
                self._end_children()
                return None
            order = Order(**json.loads(self._read(LENGTH.unpack(head)[0])))
            if self._fork(descriptors):
                os.close(waking)
                os.close(woken)
                return order

    def _read(self, length: int) -> bytes:
        text = bytearray()
        while len(text) < length:
            text += self.orders.recv(length - len(text))
        return bytes(text)

    def _fork(self, descriptors: Sequence[int]) -> bool:
        """Fork; True in the child, which has left all that is the server's."""
        reports = socket.socket(fileno=descriptors[STREAMS])
        child = os.fork()
        if not child:
            signal.set_wakeup_fd(-1)
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            signal.signal(signal.SIGINT, signal.default_int_handler)
            self.orders.close()
            for other in self.children.values():
                other.close()
            for number, descriptor in enumerate(descriptors[:STREAMS]):
                os.dup2(descriptor, number)
            # only now: whoever has the process id may send signals
            reports.sendall(REPORT.pack(STARTED, os.getpid()))
            reports.close()
        else:
            self.children[child] = reports
        for descriptor in descriptors[:STREAMS]:
            os.close(descriptor)
        return not child

    def _report_changes(self) -> None:
        """Report every child that has stopped or ended since the last time."""
        while self.children:
            child, status = os.waitpid(-1, os.WNOHANG | os.WUNTRACED)
            if not child:
                return
            if os.WIFSTOPPED(status):
                self._report(self.children[child], STOPPED, os.WSTOPSIG(status))
            else:
                with self.children.pop(child) as reports:
                    self._report(reports, ENDED, os.waitstatus_to_exitcode(status))

    @staticmethod
    def _report(reports: socket.socket, kind: int, number: int) -> None:
        try:
            reports.sendall(REPORT.pack(kind, number))
        except BrokenPipeError:
            return  # nobody wants to know any more

    def _end_children(self) -> None:
        for child in self.children:
            os.kill(child, signal.SIGKILL)
        for child in self.children:
            os.waitpid(child, 0)


def warm_up() -> None:
    """Import every module of the uploader, run commands, and lay what they made aside from garbage collection."""
    for module in pkgutil.walk_packages(uploader.__path__, "uploader."):
        if module.name == "uploader.audio.objects":
            continue  # of an extra, and its library has threads of its own
        if not module.name.endswith("__main__"):
            importlib.import_module(module.name)
    compile_once()
    with TemporaryDirectory() as folder, _apart(folder):
        Path("a.wav").write_bytes(bytes(1000))
        Path("m.csv").write_text("conversationId,audioPath\nc,a.wav\n", encoding="utf-8")
        for arguments in WARMING:
            sys.argv = ["uploader", *arguments]
            with suppress(SystemExit):
                contextvars.copy_context().run(commands.main)
    gc.collect()
    gc.freeze()
    assert threading.active_count() == 1, f"a thread runs that no child would have: {threading.enumerate()}"


@contextmanager
def _apart(folder: str) -> Iterator[None]:
    """Give commands that run in this process a folder and an environment, and take back what they change."""
    environment, arguments, before = dict(os.environ), sys.argv, Path.cwd()
    handlers = {number: signal.getsignal(number) for number in (signal.SIGHUP, signal.SIGINT, signal.SIGTERM)}
    thresholds = gc.get_threshold()
    own = {"HOME": folder, "XDG_STATE_HOME": folder, "UPLOADER_NEW_LEDGER": "true"}
    nowhere = {"UPLOADER_BASE_URL": "http://127.0.0.1:9", "UPLOADER_APP_ID": "none", "UPLOADER_APP_SECRET": "none"}
    os.environ.update(own | nowhere)
    os.chdir(folder)
    try:
        with (
            Path(os.devnull).open("w", encoding="utf-8") as nothing,
            redirect_stdout(nothing),
            redirect_stderr(nothing),
        ):
            yield
    finally:
        os.chdir(before)
        os.environ.clear()
        os.environ.update(environment)
        sys.argv = arguments
        gc.set_threshold(*thresholds)
        for number, handler in handlers.items():
            signal.signal(number, handler)


def become(order: Order) -> None:
    """Take over what a new process gets from whoever starts it."""
    os.environ.clear()
    os.environ.update(order.environment)
    os.chdir(order.folder)
    sys.path[0] = order.folder
    sys.argv = ["uploader", *order.arguments]
    sys.stdin = open(  # noqa: SIM115 - as long as the process, like the others
        0, encoding=sys.stdin.encoding, errors=sys.stdin.errors, closefd=False
    )
    sys.stdout = _opened_anew(sys.stdout, by_line=os.isatty(1))
    sys.stderr = _opened_anew(sys.stderr, by_line=True)


def _opened_anew(stream: TextIO, *, by_line: bool) -> TextIO:
    """An output stream over what its file descriptor is by now, buffered as at an interpreter's start."""
    return open(
        stream.fileno(),
        "w",
        buffering=1 if by_line else -1,
        encoding=stream.encoding,
        errors=stream.errors,
        closefd=False,
    )


def run(order: Order) -> None:
    """Run the command to its end."""
    become(order)
    try:
        runpy.run_module("uploader", run_name="__main__", alter_sys=True)
    except SystemExit as end:
        if isinstance(end.code, int):
            leave(end.code)
        raise


def leave(code: int) -> None:
    """End as the interpreter does, but take no module apart: that costs more than all else of a short command."""
    threading._shutdown()  # type: ignore[attr-defined] # waits for threads, as the interpreter does first
    atexit._run_exitfuncs()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code & 0xFF)


def main() -> None:
    """Serve; in each child, run its command."""
    warm_up()
    order = ForkServer(socket.socket(fileno=int(sys.argv[1]))).serve()
    if order is not None:
        run(order)


if __name__ == "__main__":
    main()
