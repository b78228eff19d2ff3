"""Holds the signals that stop a command while its modules are still being imported, until its work can end by them."""

import os
import signal
from types import FrameType

_NUMBERS = (signal.SIGHUP, signal.SIGINT, signal.SIGTERM)
_held: list[int] = []


def hold() -> None:
    """Hold the first signal from now on; a second one ends the process at once."""
    for number in _NUMBERS:
        # nohup starts a command with SIGHUP ignored, and a shell its background jobs with SIGINT ignored
        if signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, _hold)


def held() -> int | None:
    """Return the number of the signal that is held, None where none came."""
    return _held[0] if _held else None


def release() -> None:
    """Let signals have their usual effect, the one that is held included."""
    for number in _NUMBERS:
        if signal.getsignal(number) is _hold:
            signal.signal(number, signal.default_int_handler if number is signal.SIGINT else signal.SIG_DFL)
    if _held:
        os.kill(os.getpid(), _held.pop())


def _hold(number: int, _frame: FrameType | None) -> None:
    if _held:
        os._exit(128 + number)  # nothing was begun
    _held.append(number)
