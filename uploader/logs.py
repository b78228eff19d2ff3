"""Writes the log, by structlog: readable on a terminal, JSON lines elsewhere, always on standard error."""

import json
import os
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext, suppress
from contextvars import ContextVar
from datetime import UTC, datetime
from functools import partial
from io import StringIO, TextIOWrapper
from pathlib import Path
from types import MappingProxyType
from typing import IO, TYPE_CHECKING, Any, Literal, NamedTuple, TextIO

from uploader.errors import UsageError

if TYPE_CHECKING:  # a command that logs nothing does not import it
    import structlog

Form = Literal["auto", "text", "json"]
_MUTED = "muted"
LEVELS = {"debug": 10, "info": 20, "warning": 30, "error": 40, _MUTED: 50}

# fields that every event of this context has: run, host, batch
_BOUND: ContextVar[Mapping[str, Any]] = ContextVar("bound", default=MappingProxyType({}))
# an event with its level, timestamp, bound fields and own fields
Event = Mapping[str, Any]
# takes the events of this context, in place of this program's log
_SINK: ContextVar[Callable[[Event], None] | None] = ContextVar("sink", default=None)


class _Config(NamedTuple):
    """The configuration of the log."""

    # on standard error
    form: Form
    level: str
    # a file that gets JSON lines as well
    file: IO[str] | None = None
    file_level: str = "info"

    @property
    def is_text(self) -> bool:
        """True where standard error gets text, not JSON."""
        return self.form == "text" or (self.form == "auto" and sys.stderr.isatty())

    @property
    def least(self) -> int:
        """The least level that is written anywhere."""
        shown = LEVELS[self.level]
        return shown if self.file is None else min(shown, LEVELS[self.file_level])


class _Log:
    """A lazy proxy of structlog's logger, which is imported and configured at the first event that is written."""

    def __init__(self) -> None:
        # None in a program that configures structlog itself, or not at all
        self.config: _Config | None = None
        self._logger: structlog.typing.FilteringBoundLogger | None = None

    def configure(self, config: _Config | None) -> None:
        """Configure the log from the next event on."""
        self.config, self._logger = config, None

    def __getattr__(self, name: str) -> Any:
        """Return the logger's attribute; an event below the level does not import structlog."""
        sink = _SINK.get()
        return self.configured(name) if sink is None else partial(_emit, sink, name)

    def configured(self, name: str) -> Any:
        """Return a method of this program's logger, whatever takes the events of this context."""
        if self.config is not None and LEVELS.get(name, LEVELS["error"]) < self.config.least:
            return _discard_event
        if self.config is None:
            # a program that configures structlog itself may do so again
            return getattr(_logger(None), name)
        if self._logger is None:
            self._logger = _logger(self.config)
        return getattr(self._logger, name)


def _emit(sink: Callable[[Event], None], level: str, event: str, **facts: Any) -> None:
    """Hand an event to the function that takes the events of this context."""
    if level == "exception":
        level = "error"
        facts.setdefault("exc_info", sys.exc_info()[1])
    timestamp = datetime.now(UTC).isoformat(timespec="microseconds").replace("+00:00", "Z")
    sink({**_BOUND.get(), **facts, "event": event, "level": level, "timestamp": timestamp})


def write(event: Event) -> None:
    """Write an event to this program's log."""
    facts = {name: value for name, value in event.items() if name not in ("event", "level", "timestamp")}
    _log.configured(event["level"])(event["event"], **facts)


def _discard_event(_event: str, **_facts: Any) -> None:
    """Write nothing of an event below the level."""


@contextmanager
def _hidden(package: str) -> Iterator[None]:
    """Hide a package from imports in the block, unless it is imported already."""
    # structlog imports rich where it can (30 ms), for tracebacks with local variables, which this log never shows;
    # None in sys.modules makes an import fail
    if package in sys.modules:
        yield
        return
    sys.modules[package] = None  # type: ignore[assignment]
    try:
        yield
    finally:
        del sys.modules[package]


def _logger(config: _Config | None) -> "structlog.typing.FilteringBoundLogger":
    """Import and configure structlog; None leaves its configuration as it is."""
    # a program that configures structlog itself may want rich
    with _hidden("rich") if config is not None else nullcontext():
        import structlog  # noqa: PLC0415 - for those who log

    if config is not None:
        stream: TextIO = _StandardError()  # type: ignore[assignment]
        structlog.configure(
            processors=[
                _with_bound,
                structlog.processors.add_log_level,
                structlog.processors.TimeStamper(fmt="iso", utc=True),
                *([_tee(config.file, config)] if config.file is not None else []),
                *(_text_processors() if config.is_text else _json_processors()),
            ],
            wrapper_class=structlog.make_filtering_bound_logger(config.least),
            logger_factory=structlog.WriteLoggerFactory(file=stream),
            cache_logger_on_first_use=True,
        )
    logger: structlog.typing.FilteringBoundLogger = structlog.get_logger()
    return logger


def _with_bound(_logger: object, _method: str, event: "structlog.typing.EventDict") -> "structlog.typing.EventDict":
    """Add the fields bound in this context; the event's own fields win."""
    return {**_BOUND.get(), **event}


def _tee(file: IO[str], config: _Config) -> "structlog.typing.Processor":
    """Make the processor that writes events to the log file as JSON, and passes on those for standard error."""
    import structlog  # noqa: PLC0415 - see _logger

    as_json = _json_processors()

    def write(logger: object, method: str, event: "structlog.typing.EventDict") -> "structlog.typing.EventDict":
        level = LEVELS[event["level"]]
        if level >= LEVELS[config.file_level]:
            line: Any = dict(event)
            for render in as_json:
                line = render(logger, method, line)
            with suppress(OSError):  # see _StandardError
                file.write(f"{line}\n")
                file.flush()
        if level < LEVELS[config.level]:
            raise structlog.DropEvent
        return event

    return write


def _json_processors() -> "list[structlog.typing.Processor]":
    import structlog  # noqa: PLC0415 - see _logger

    # a traceback never shows local variables: paths, parameters and secrets are among them
    return [
        structlog.processors.ExceptionRenderer(structlog.tracebacks.ExceptionDictTransformer(show_locals=False)),
        _render_json,
    ]


def _render_json(_logger: object, _method: str, event: "structlog.typing.EventDict") -> str:
    """Render an event as JSON in which control characters are escaped, so that a terminal may show it."""
    from uploader.text import printable  # noqa: PLC0415 - see _logger

    # a stream that is not UTF-8 would escape what it cannot encode in its own way, which is no JSON
    is_utf8 = (getattr(sys.stderr, "encoding", None) or "utf-8").lower() in ("utf-8", "utf8")
    return printable(json.dumps(event, ensure_ascii=not is_utf8, default=repr))


def _text_processors() -> "list[structlog.typing.Processor]":
    import structlog  # noqa: PLC0415 - see _logger

    colours = sys.stderr.isatty()
    return [
        _in_words,
        _escaped,
        structlog.dev.ConsoleRenderer(colors=colours, exception_formatter=_traceback, sort_keys=False, pad_event_to=0),
    ]


class _Escaped(str):
    """A text that is escaped already."""

    __slots__ = ()

    def __repr__(self) -> str:
        """Quote the text, and escape nothing: structlog shows the repr of a value with blanks."""
        return f"'{self}'"


def _escaped(_logger: object, _method: str, event: "structlog.typing.EventDict") -> "structlog.typing.EventDict":
    """Escape the characters of all fields that a terminal obeys or hides."""
    from uploader.text import printable  # noqa: PLC0415 - see _logger

    return {name: _Escaped(printable(value)) if isinstance(value, str) else value for name, value in event.items()}


def _traceback(stream: TextIO, exception: Any) -> None:
    """Write a traceback, escaped, because its message may come from outside."""
    import structlog  # noqa: PLC0415 - see _logger

    from uploader.text import printable  # noqa: PLC0415 - see _logger

    plain = StringIO()
    structlog.dev.plain_traceback(plain, exception)
    stream.write("\n".join(printable(line) for line in plain.getvalue().split("\n")))


def _in_words(_logger: object, _method: str, event: "structlog.typing.EventDict") -> "structlog.typing.EventDict":
    """Add the event's meaning and local time; drop unknown fields and those that are the same in all lines."""
    from uploader.events import EVENTS  # noqa: PLC0415 - see _logger

    name = event["event"]
    shown = {key: value for key, value in event.items() if value is not None and key not in ("run", "host")}
    local = datetime.fromisoformat(event["timestamp"]).astimezone()
    return {**shown, "event": f"{name}: {EVENTS[name]}" if name in EVENTS else name, "timestamp": f"{local:%H:%M:%S}"}


class _StandardError:
    """A stream that writes to the present ``sys.stderr``, which the live lines replace."""

    def write(self, text: str) -> int:
        """Write a text, or drop it."""
        # a log on a full disk or a closed pipe must not cost an item
        with suppress(OSError):
            sys.stderr.write(text)  # the logger flushes
        return len(text)

    def flush(self) -> None:
        """Flush, or ignore that it fails."""
        with suppress(OSError):
            sys.stderr.flush()


_log = _Log()


def get_logger() -> Any:
    """Return the log of this program, with structlog's interface."""
    return _log


def configure(form: Form, level: str, file: Path | None = None) -> None:
    """Configure the log of this program.

    Args:
        form: ``text``, ``json``, or ``auto``: text where standard error is a terminal.
        level: The least level to write; ``auto``: ``warning`` where standard error is a terminal, else ``info``.
        file: A file that gets the log as well, as JSON lines; from ``info`` on where the level is ``auto``.

    Raises:
        UsageError: The file cannot be written.
    """
    is_auto = level == "auto"
    shown = level if not is_auto else "warning" if sys.stderr.isatty() else "info"
    opened = _open(file) if file is not None else None
    _log.configure(_Config(form, shown, opened, "info" if is_auto else level))


def is_text() -> bool:
    """Return True where standard error gets text, not JSON."""
    return _log.config is not None and _log.config.is_text


def has_file() -> bool:
    """Return True where a log file is open."""
    return _log.config is not None and _log.config.file is not None


def mute() -> None:
    """Write no further event to standard error; the log file still gets each."""
    if _log.config is not None:
        _log.configure(_log.config._replace(level=_MUTED))


def _open(file: Path) -> IO[str]:
    try:
        # an opening that waits for the reader of a named pipe could wait for ever
        descriptor = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_NONBLOCK | os.O_CLOEXEC, 0o666)
        os.set_blocking(descriptor, True)
        return os.fdopen(descriptor, "a", encoding="utf-8")
    except OSError as error:
        raise UsageError(f"log file {file}: it cannot be written ({error.strerror}): name another") from error


def bound() -> Mapping[str, Any]:
    """Return the fields that every event of this context has."""
    return _BOUND.get()


def bind(**facts: Any) -> None:
    """Add fields to every following event of this context."""
    _BOUND.set({**_BOUND.get(), **facts})


@contextmanager
def scope(sink: Callable[[Event], None], **facts: Any) -> Iterator[None]:
    """Hand the events of the block, with these fields, to a function; other contexts of the process are as before."""
    bound, taken = _BOUND.set({**_BOUND.get(), **facts}), _SINK.set(sink)
    try:
        yield
    finally:
        _SINK.reset(taken)
        _BOUND.reset(bound)


def open_closed_streams() -> None:
    """Replace standard streams that the caller closed; let all of them escape what they cannot encode."""
    if sys.stderr is None:
        sys.stderr = Path(os.devnull).open("w", encoding="utf-8")  # noqa: SIM115 - until the end
    if sys.stdout is None:
        sys.stdout = Path(os.devnull).open("w", encoding="utf-8")  # noqa: SIM115 - as above
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def leave_closed_terminal() -> None:
    """Redirect standard streams whose terminal was closed to the null device: writing them would fail."""
    for stream in (sys.stdout, sys.stderr):
        try:
            os.write(stream.fileno(), b"")
        except OSError:
            _discard(stream)


def close() -> None:
    """Redirect streams that cannot be flushed to the null device, so that the interpreter's end does not fail."""
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except OSError:
            _discard(stream)


def _discard(stream: TextIO) -> None:
    os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
