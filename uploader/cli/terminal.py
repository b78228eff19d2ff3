"""The terminal on standard error: what it can do, and how it is left."""

import os
import sys
from contextlib import suppress

SHOW_CURSOR = b"\x1b[?25h\n"
NO_REDRAWING = ("", "dumb", "unknown")


def can_redraw() -> bool:
    """Return True where standard error is a terminal that can redraw lines in place."""
    return sys.stderr.isatty() and os.environ.get("TERM", "") not in NO_REDRAWING


def leave(text: str) -> None:
    """Write a last line before the process ends at once, whatever the live lines are doing, and show the cursor."""
    cursor = SHOW_CURSOR if os.isatty(2) else b""
    with suppress(OSError):  # the terminal may be gone
        os.write(2, cursor + text.encode() + b"\n")
