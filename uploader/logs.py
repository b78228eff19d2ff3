"""Writes the log, by structlog: readable on a terminal, JSON lines elsewhere, always on standard error."""

import json
import os
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext, suppress
from contextvars import ContextVar
from datetime import datetime
from io import StringIO, TextIOWrapper
from pathlib import Path
from types import MappingProxyType
from typing import IO, TYPE_CHECKING, Any, Literal, NamedTuple, TextIO

from uploader.errors import UsageError

if TYPE_CHECKING:  # a command that logs nothing does not import it
    import structlog

Form = Literal["auto", "text", "json"]
LEVELS = {"debug": 10, "info": 20, "warning": 30, "error": 40}

_BOUND: ContextVar[Mapping[str, Any]] = ContextVar("bound", default=MappingProxyType({}))
"""What every event of this context says beside its own facts: run, host, batch."""


class _Wanted(NamedTuple):
    """How the log is to be: its form and least level on standard error, and the file that gets JSON lines as well."""

    form: Form
    level: str
    file: IO[str] | None = None
    file_level: str = "info"

    @property
    def is_text(self) -> bool:
        """Whether standard error gets words, not JSON."""
        return self.form == "text" or (self.form == "auto" and sys.stderr.isatty())

    @property
    def least(self) -> int:
        """The least level that is written anywhere."""
        shown = LEVELS[self.level]
        return shown if self.file is None else min(shown, LEVELS[self.file_level])


class _Log:
    """structlog's logger, which is imported and set up at the first event that is written."""

    def __init__(self) -> None:
        self.wanted: _Wanted | None = None
        """What the program asked for; None in a program that sets up structlog itself, or leaves it as it is."""
        self._logger: structlog.typing.FilteringBoundLogger | None = None

    def configure(self, wanted: _Wanted | None) -> None:
        """Have it set up so, at its next event."""
        self.wanted, self._logger = wanted, None

    def __getattr__(self, name: str) -> Any:
        """What structlog's logger has of this name; what is below the level does not need it."""
        if self.wanted is not None and LEVELS.get(name, LEVELS["error"]) < self.wanted.least:
            return _leave_out
        if self._logger is None:
            self._logger = _logger(self.wanted)
        return getattr(self._logger, name)


def _leave_out(_event: str, **_facts: Any) -> None:
    """Write nothing of an event below the level."""


@contextmanager
def _hidden(package: str) -> Iterator[None]:
    """Let imports take a package for not installed, unless it is imported already."""
    # structlog imports rich where it can (30 ms), for tracebacks with local variables, which this log never shows;
    # None is the import system's own word for a module that is not to be found
    if package in sys.modules:
        yield
        return
    sys.modules[package] = None  # type: ignore[assignment]
    try:
        yield
    finally:
        del sys.modules[package]


def _logger(wanted: _Wanted | None) -> "structlog.typing.FilteringBoundLogger":
    """Import structlog, and set it up as it is wanted."""
    # a program that sets up structlog itself may want what is hidden from this one
    with _hidden("rich") if wanted is not None else nullcontext():
        import structlog  # noqa: PLC0415 - for those who log

    if wanted is not None:
        stream: TextIO = _StandardError()  # type: ignore[assignment]
        structlog.configure(
            processors=[
                _with_bound,
                structlog.processors.add_log_level,
                structlog.processors.TimeStamper(fmt="iso", utc=True),
                *([_into(wanted.file, wanted)] if wanted.file is not None else []),
                *(_for_a_person() if wanted.is_text else _for_a_machine()),
            ],
            wrapper_class=structlog.make_filtering_bound_logger(wanted.least),
            logger_factory=structlog.WriteLoggerFactory(file=stream),
            cache_logger_on_first_use=True,
        )
    logger: structlog.typing.FilteringBoundLogger = structlog.get_logger()
    return logger


def _with_bound(_logger: object, _method: str, event: "structlog.typing.EventDict") -> "structlog.typing.EventDict":
    """Add what all events of this context say; an event's own facts win."""
    return {**_BOUND.get(), **event}


def _into(file: IO[str], wanted: _Wanted) -> "structlog.typing.Processor":
    """Write an event to the log file as JSON, and pass it on where standard error gets it, too."""
    import structlog  # noqa: PLC0415 - see _logger

    as_json = _for_a_machine()

    def write(logger: object, method: str, event: "structlog.typing.EventDict") -> "structlog.typing.EventDict":
        level = LEVELS[event["level"]]
        if level >= LEVELS[wanted.file_level]:
            line: Any = dict(event)
            for render in as_json:
                line = render(logger, method, line)
            with suppress(OSError):  # see _StandardError
                file.write(f"{line}\n")
                file.flush()
        if level < LEVELS[wanted.level]:
            raise structlog.DropEvent
        return event

    return write


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

    # a stream that is not UTF-8 would escape what it cannot encode in its own way, which is no JSON
    is_utf8 = (getattr(sys.stderr, "encoding", None) or "utf-8").lower() in ("utf-8", "utf8")
    return printable(json.dumps(event, ensure_ascii=not is_utf8, default=repr))


def _for_a_person() -> "list[structlog.typing.Processor]":
    import structlog  # noqa: PLC0415 - see _logger

    colours = sys.stderr.isatty()
    return [
        _in_words,
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


def _in_words(_logger: object, _method: str, event: "structlog.typing.EventDict") -> "structlog.typing.EventDict":
    """Say what an event means and the local time of it; leave out what is not known, or is the same in all lines."""
    from uploader.events import EVENTS  # noqa: PLC0415 - see _logger

    name = event["event"]
    shown = {key: value for key, value in event.items() if value is not None and key not in ("run", "host")}
    local = datetime.fromisoformat(event["timestamp"]).astimezone()
    return {**shown, "event": f"{name}: {EVENTS[name]}" if name in EVENTS else name, "timestamp": f"{local:%H:%M:%S}"}


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


def configure(form: Form, level: str, file: Path | None = None) -> None:
    """Set up the log of this program.

    Args:
        form: ``text``, ``json``, or ``auto``: text where standard error is a terminal.
        level: The least level to write; ``auto``: ``warning`` where standard error is a terminal, else ``info``.
        file: A file that gets the log as well: JSON lines, from ``info`` on where the level is ``auto``.

    Raises:
        UsageError: The file cannot be written.
    """
    is_auto = level == "auto"
    shown = level if not is_auto else "warning" if sys.stderr.isatty() else "info"
    opened = _open(file) if file is not None else None
    _log.configure(_Wanted(form, shown, opened, "info" if is_auto else level))


def _open(file: Path) -> IO[str]:
    try:
        return file.open("a", encoding="utf-8")
    except OSError as error:
        raise UsageError(f"log file {file}: it cannot be written ({error.strerror}): name another") from error


def bound() -> Mapping[str, Any]:
    """What every event of this context says."""
    return _BOUND.get()


def bind(**facts: Any) -> None:
    """Have every following event of this context say these facts, too."""
    _BOUND.set({**_BOUND.get(), **facts})


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
