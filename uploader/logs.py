"""Writes the log: readable on a terminal, JSON lines elsewhere, always on standard error."""

import json
import os
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from io import TextIOWrapper
from pathlib import Path
from typing import Any, Literal

LEVELS = ("debug", "info", "warning", "error")
Writer = Callable[[str, str, Mapping[str, Any]], None]
"""Takes an event's level, its name and its facts."""

_DIM, _BOLD, _KEY, _VALUE, _PLAIN = "\x1b[2m", "\x1b[1m", "\x1b[36m", "\x1b[35m", "\x1b[0m"
_COLOURS = {"debug": "\x1b[32m", "info": "\x1b[32m", "warning": "\x1b[33m", "error": "\x1b[31m"}


class Log:
    """Takes events, each a name and its facts; the one writer of this program writes them."""

    def debug(self, event: str, **facts: Any) -> None:
        """Write what is of use where something is looked into."""
        _writer("debug", event, facts)

    def info(self, event: str, **facts: Any) -> None:
        """Write what happened."""
        _writer("info", event, facts)

    def warning(self, event: str, **facts: Any) -> None:
        """Write what somebody may have to do something about."""
        _writer("warning", event, facts)

    def error(self, event: str, **facts: Any) -> None:
        """Write what went wrong."""
        _writer("error", event, facts)

    def exception(self, event: str, **facts: Any) -> None:
        """Write what went wrong, with the traceback of the exception at hand; it shows no local variables."""
        import traceback  # noqa: PLC0415 - of use where something went wrong

        _writer("error", event, {**facts, "exception": traceback.format_exc()})


def get_logger() -> Log:
    """The log of this program."""
    return Log()


def configure(form: Literal["auto", "text", "json"], level: str) -> None:
    """Set up the log of this program.

    Args:
        form: ``text``, ``json``, or ``auto``: text where standard error is a terminal.
        level: The least level to write.
    """
    global _writer  # noqa: PLW0603 - a program has one log
    is_text = form == "text" or (form == "auto" and sys.stderr.isatty())
    render = _as_text if is_text else _as_json
    written = frozenset(LEVELS[LEVELS.index(level) :])

    def write(level: str, event: str, facts: Mapping[str, Any]) -> None:
        if level in written:
            # standard error as it is at this moment: the progress bar puts itself in its place;
            # and a log on a full disk, or that nobody reads any more, must not cost an item
            with suppress(OSError):
                sys.stderr.write(render(level, event, facts) + "\n")
                sys.stderr.flush()

    _writer = write


@contextmanager
def written_by(writer: Writer) -> Iterator[None]:
    """Have something else take the events for a while."""
    global _writer  # noqa: PLW0603 - as above
    before, _writer = _writer, writer
    try:
        yield
    finally:
        _writer = before


def _as_json(level: str, event: str, facts: Mapping[str, Any]) -> str:
    now = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
    return json.dumps({**facts, "event": event, "level": level, "timestamp": now}, ensure_ascii=False, default=repr)


def _as_text(level: str, event: str, facts: Mapping[str, Any]) -> str:
    """A line for a person, who needs no word of what is not known; a traceback stands below it."""
    paint = (lambda colour, text: f"{colour}{text}{_PLAIN}") if sys.stderr.isatty() else (lambda _, text: text)
    told = [f"{paint(_KEY, name)}={paint(_VALUE, _quoted(value))}" for name, value in _known(facts)]
    now = paint(_DIM, f"{datetime.now().astimezone():%H:%M:%S}")
    line = " ".join([now, f"[{paint(_COLOURS[level], f'{level:9}')}]", paint(_BOLD, event), *told])
    return f"{line}\n{facts['exception']}" if "exception" in facts else line


def _known(facts: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    return ((name, value) for name, value in facts.items() if value is not None and name != "exception")


def _quoted(value: Any) -> str:
    """A value, in quotes where its end could not be seen, or a terminal would obey it."""
    text = value if isinstance(value, str) else repr(value)
    is_plain = text.isprintable() and not set(text) & set(" ='\"")
    return text if is_plain or not isinstance(value, str) else repr(text)


def open_closed_streams() -> None:
    """Put something in the place of standard streams that the caller closed; what they cannot encode is escaped."""
    if sys.stderr is None:
        sys.stderr = Path(os.devnull).open("w", encoding="utf-8")  # noqa: SIM115 - until the end
    if sys.stdout is None:
        sys.stdout = Path(os.devnull).open("w", encoding="utf-8")  # noqa: SIM115 - as above
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def close() -> None:
    """Let go of streams that cannot be written, so that the interpreter's end does not fail on them."""
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except OSError:
            os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


_writer: Writer = lambda _level, _event, _facts: None  # noqa: E731 - whoever imports this as a library sets one up
