"""Writes the log: readable on a terminal, JSON lines elsewhere, always on standard error."""

import logging
import os
import sys
from contextlib import suppress
from pathlib import Path
from typing import Literal, TextIO

import structlog


class _StandardError:
    """Standard error as it is at the moment of writing: the progress bar puts itself in its place."""

    def write(self, text: str) -> int:
        # a log on a full disk, or that nobody reads any more, must not cost an item
        with suppress(OSError):
            sys.stderr.write(text)  # the logger flushes
        return len(text)

    def flush(self) -> None:
        with suppress(OSError):
            sys.stderr.flush()


def _without_unknown(_logger: object, _method: str, event: structlog.typing.EventDict) -> structlog.typing.EventDict:
    """A person needs no word of what is not known."""
    return {name: value for name, value in event.items() if value is not None}


def configure(form: Literal["auto", "text", "json"], level: str) -> None:
    """Set up the log of this program, once.

    Args:
        form: ``text``, ``json``, or ``auto``: text where standard error is a terminal.
        level: The least level to write.
    """
    text = form == "text" or (form == "auto" and sys.stderr.isatty())
    # a traceback never shows local variables: paths, parameters and secrets are among them
    renderers: list[structlog.typing.Processor] = [
        structlog.processors.ExceptionRenderer(structlog.tracebacks.ExceptionDictTransformer(show_locals=False)),
        structlog.processors.JSONRenderer(ensure_ascii=False),
    ]
    if text:
        plain = structlog.dev.plain_traceback
        renderers = [
            _without_unknown,
            structlog.dev.ConsoleRenderer(
                colors=sys.stderr.isatty(), exception_formatter=plain, sort_keys=False, pad_event_to=0
            ),
        ]
    stream: TextIO = _StandardError()  # type: ignore[assignment]
    structlog.configure(
        processors=[
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="%H:%M:%S" if text else "iso", utc=not text),
            *renderers,
        ],
        wrapper_class=structlog.make_filtering_bound_logger(logging.getLevelNamesMapping()[level.upper()]),
        logger_factory=structlog.WriteLoggerFactory(file=stream),
        cache_logger_on_first_use=True,
    )


def open_closed_streams() -> None:
    """Put something in the place of standard streams that the caller closed."""
    if sys.stderr is None:
        sys.stderr = Path(os.devnull).open("w", encoding="utf-8")  # noqa: SIM115 - until the end
    if sys.stdout is None:
        sys.stdout = Path(os.devnull).open("w", encoding="utf-8")  # noqa: SIM115 - as above


def close() -> None:
    """Let go of streams that cannot be written, so that the interpreter's end does not fail on them."""
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except OSError:
            os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


def fault() -> None:
    """Write the exception at hand with its traceback."""
    structlog.get_logger().exception("fault")


def warn(event: str, **facts: object) -> None:
    """Write a warning."""
    structlog.get_logger().warning(event, **facts)
