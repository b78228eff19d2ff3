"""Writes the log, by structlog: readable on a terminal, JSON lines elsewhere, always on standard error."""

import json
import os
import sys
from contextlib import suppress
from io import StringIO, TextIOWrapper
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TextIO

if TYPE_CHECKING:  # a command that logs nothing does not import it
    import structlog

Form = Literal["auto", "text", "json"]
LEVELS = {"debug": 10, "info": 20, "warning": 30, "error": 40}


class _Log:
    """structlog's logger, which is imported and set up at the first event that is written."""

    def __init__(self) -> None:
        self.wanted: tuple[Form, str] | None = None
        """What the program asked for; None in a program that sets up structlog itself, or leaves it as it is."""
        self._logger: structlog.typing.FilteringBoundLogger | None = None

    def configure(self, form: Form, level: str) -> None:
        """Have it set up so, at its next event."""
        self.wanted, self._logger = (form, level), None

    def __getattr__(self, name: str) -> Any:
        """What structlog's logger has of this name; what is below the level does not need it."""
        if self.wanted is not None and LEVELS.get(name, LEVELS["error"]) < LEVELS[self.wanted[1]]:
            return _leave_out
        if self._logger is None:
            self._logger = _logger(self.wanted)
        return getattr(self._logger, name)


def _leave_out(_event: str, **_facts: Any) -> None:
    """Write nothing of an event below the level."""


def _logger(wanted: tuple[Form, str] | None) -> "structlog.typing.FilteringBoundLogger":
    """Import structlog, and set it up as it is wanted."""
    import structlog  # noqa: PLC0415 - 60 ms, for those who log

    if wanted is not None:
        form, level = wanted
        text = form == "text" or (form == "auto" and sys.stderr.isatty())
        stream: TextIO = _StandardError()  # type: ignore[assignment]
        structlog.configure(
            processors=[
                structlog.processors.add_log_level,
                structlog.processors.TimeStamper(fmt="%H:%M:%S" if text else "iso", utc=not text),
                *(_for_a_person() if text else _for_a_machine()),
            ],
            wrapper_class=structlog.make_filtering_bound_logger(LEVELS[level]),
            logger_factory=structlog.WriteLoggerFactory(file=stream),
            cache_logger_on_first_use=True,
        )
    logger: structlog.typing.FilteringBoundLogger = structlog.get_logger()
    return logger


def _for_a_machine() -> "list[structlog.typing.Processor]":
    import structlog  # noqa: PLC0415 - see _logger

    # a traceback never shows local variables: paths, parameters and secrets are among them
    return [
        structlog.processors.ExceptionRenderer(structlog.tracebacks.ExceptionDictTransformer(show_locals=False)),
        _render_json,
    ]


def _render_json(_logger: object, _method: str, event: "structlog.typing.EventDict") -> str:
    """Write an event as JSON that a terminal may show: what it would obey is escaped, as JSON itself would."""
    from uploader.text import printable  # noqa: PLC0415 - see _logger

    return printable(json.dumps(event, ensure_ascii=False, default=repr))


def _for_a_person() -> "list[structlog.typing.Processor]":
    import structlog  # noqa: PLC0415 - see _logger

    colours = sys.stderr.isatty()
    return [
        _without_unknown,
        _escaped,
        structlog.dev.ConsoleRenderer(colors=colours, exception_formatter=_traceback, sort_keys=False, pad_event_to=0),
    ]


class _Shown(str):
    """A text that is escaped already; structlog shows the repr of one with blanks in it."""

    __slots__ = ()

    def __repr__(self) -> str:
        """Itself in quotes."""
        return f"'{self}'"


def _escaped(_logger: object, _method: str, event: "structlog.typing.EventDict") -> "structlog.typing.EventDict":
    """Escape what a terminal would obey, wherever it comes from."""
    from uploader.text import printable  # noqa: PLC0415 - see _logger

    return {name: _Shown(printable(value)) if isinstance(value, str) else value for name, value in event.items()}


def _traceback(stream: TextIO, exception: Any) -> None:
    """Write a traceback; the message in it may be anybody's."""
    import structlog  # noqa: PLC0415 - see _logger

    from uploader.text import printable  # noqa: PLC0415 - see _logger

    told = StringIO()
    structlog.dev.plain_traceback(told, exception)
    stream.write("\n".join(printable(line) for line in told.getvalue().split("\n")))


def _without_unknown(
    _logger: object, _method: str, event: "structlog.typing.EventDict"
) -> "structlog.typing.EventDict":
    """Leave out what is not known: a person needs no word of it."""
    return {name: value for name, value in event.items() if value is not None}


class _StandardError:
    """Standard error as it is at the moment of writing: the progress bar puts itself in its place."""

    def write(self, text: str) -> int:
        """Write, as far as that is possible."""
        # a log on a full disk, or that nobody reads any more, must not cost an item
        with suppress(OSError):
            sys.stderr.write(text)  # the logger flushes
        return len(text)

    def flush(self) -> None:
        """Flush, as far as that is possible."""
        with suppress(OSError):
            sys.stderr.flush()


_log = _Log()


def get_logger() -> Any:
    """The log of this program: structlog's, its bound loggers and all."""
    return _log


def configure(form: Form, level: str) -> None:
    """Set up the log of this program.

    Args:
        form: ``text``, ``json``, or ``auto``: text where standard error is a terminal.
        level: The least level to write.
    """
    _log.configure(form, level)


def open_closed_streams() -> None:
    """Put something in the place of standard streams that the caller closed; what they cannot encode is escaped."""
    if sys.stderr is None:
        sys.stderr = Path(os.devnull).open("w", encoding="utf-8")  # noqa: SIM115 - until the end
    if sys.stdout is None:
        sys.stdout = Path(os.devnull).open("w", encoding="utf-8")  # noqa: SIM115 - as above
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def leave_closed_terminal() -> None:
    """Put the null device in the place of standard streams whose terminal was closed: writing them would fail."""
    for stream in (sys.stdout, sys.stderr):
        try:
            os.write(stream.fileno(), b"")
        except OSError:
            _discard(stream)


def close() -> None:
    """Let go of streams that cannot be written, so that the interpreter's end does not fail on them."""
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except OSError:
            _discard(stream)


def _discard(stream: TextIO) -> None:
    os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
