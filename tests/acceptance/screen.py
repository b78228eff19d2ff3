"""A terminal of the tests: a pseudo-terminal for a command, and the screen that a person sees of it."""

import fcntl
import os
import pty
import re
import select
import signal
import struct
import termios
import time
from collections.abc import Callable, Iterator
from typing import IO

from tests.acceptance.starting import Process

# the sequences that a program may send, text between them
_TOKENS = re.compile(r"(\x1b\[[0-9;?]*[A-Za-z]|\r|\n|\x1b)")
# so begins a redraw: the present line is left, and those of the block are overwritten
REDRAW = "\r\x1b[2K"
DEADLINE_SECONDS = 60.0


class Screen:
    """The lines of a terminal that scrolls without end; it knows the sequences of a live view, and no others."""

    def __init__(self, columns: int) -> None:
        self.columns = columns
        self.cursor_is_shown = True
        self._lines = [""]
        self._row = self._column = 0

    @property
    def lines(self) -> list[str]:
        """List the lines that have text."""
        return [line.rstrip() for line in self._lines if line.strip()]

    def feed(self, text: str) -> None:
        """Take what a program has written."""
        for token in _TOKENS.split(text):
            if token == "\r":
                self._column = 0
            elif token == "\n":
                self._go_down()
            elif token.startswith("\x1b"):
                self._obey(token)
            else:
                self._put(token)

    def _obey(self, token: str) -> None:
        number = int(re.sub(r"\D", "", token) or 1)
        if token in ("\x1b[?25l", "\x1b[?25h"):
            self.cursor_is_shown = token.endswith("h")
        elif token.endswith("A"):
            self._row = max(self._row - number, 0)
        elif token == "\x1b[2K":
            self._lines[self._row] = ""
        elif not token.endswith("m"):
            raise AssertionError(f"this terminal does not know {token!r}")

    def _put(self, text: str) -> None:
        for character in text:
            assert character.isprintable(), repr(character)
            if self._column == self.columns:
                self._go_down()
                self._column = 0
            line = self._lines[self._row].ljust(self._column)
            self._lines[self._row] = line[: self._column] + character + line[self._column + 1 :]
            self._column += 1

    def _go_down(self) -> None:
        self._row += 1
        if self._row == len(self._lines):
            self._lines.append("")


class Terminal:
    """A command whose standard streams are a terminal of so many columns.

    Args:
        start: Starts the command with its end of the terminal.
        columns: The terminal's width.
    """

    def __init__(self, start: Callable[[IO[bytes]], Process], columns: int) -> None:
        self.screen = Screen(columns)
        self._ours, theirs = pty.openpty()
        fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))
        with os.fdopen(theirs, "r+b", buffering=0) as end:
            self.process = start(end)
        self.text = ""
        self._fed = 0

    def redraws(self) -> Iterator[list[str]]:
        """Yield the screen's lines as each redraw has left them, until the command ends."""
        while self._read():
            # what stands before the latest beginning of a redraw is whole
            while (at := self.text.find(REDRAW, self._fed + 1)) >= 0:
                self.screen.feed(self.text[self._fed : at])
                self._fed = at
                yield self.screen.lines
        self.screen.feed(self.text[self._fed :])
        self._fed = len(self.text)

    def wait(self) -> int:
        """Wait for the command's end, and return its exit code."""
        for _ in self.redraws():
            pass
        os.close(self._ours)
        return self.process.wait()

    def send(self, number: signal.Signals) -> None:
        """Send a signal to the command."""
        self.process.send_signal(number)

    def _read(self) -> bool:
        deadline = time.monotonic() + DEADLINE_SECONDS
        while not select.select([self._ours], [], [], 0.1)[0]:
            assert time.monotonic() < deadline, f"nothing came for {DEADLINE_SECONDS:g} s after {self.text!r}"
        try:
            chunk = os.read(self._ours, 65536)
        except OSError:  # the end of a pseudo-terminal on Linux
            return False
        # the terminal's own line discipline has made each line end a return and a line feed
        self.text += chunk.decode("utf-8").replace("\r\n", "\n\r")
        return bool(chunk)
