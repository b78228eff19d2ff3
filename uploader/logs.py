"""Writes the log, by structlog: readable on a terminal, JSON lines elsewhere, always on standard error."""

import os
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from datetime import UTC, datetime
from functools import cache, partial
from io import StringIO, TextIOWrapper
from pathlib import Path
from types import MappingProxyType
from typing import IO, TYPE_CHECKING, Any, Literal, NamedTuple, TextIO

from uploader.errors import STOPPED, ExitCode, UsageError

if TYPE_CHECKING:  # a command that logs nothing does not import it
    import structlog

    from uploader.model import Problem

Form = Literal["auto", "text", "json"]
_MUTED = "muted"
# so much of a file's begin tells a log from data
_HEAD_BYTES = 4096
# the field of a row's wrong value, which may be a path: standard error shows it, and no log file keeps it
_SHOWN_ONLY = "value"
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

    def write(self, event: Event) -> None:
        """Write an event where its level is written: to the file, to standard error."""
        level = LEVELS[event["level"]]
        is_utf8 = (getattr(sys.stderr, "encoding", None) or "utf-8").lower() in ("utf-8", "utf8")
        if self.file is not None and level >= LEVELS[self.file_level]:
            kept = {name: value for name, value in event.items() if name != _SHOWN_ONLY}
            _write_line(self.file, _as_json(is_utf8=is_utf8)(kept))
        if level >= LEVELS[self.level]:
            render = _as_text(colours=sys.stderr.isatty()) if self.is_text else _as_json(is_utf8=is_utf8)
            # the live lines replace ``sys.stderr``
            _write_line(sys.stderr, render(event))


class _Log:
    """This program's log, with structlog's interface; its processors, imported at the first event, render each once."""

    def __init__(self) -> None:
        # None in a program that configures structlog itself, or not at all
        self.config: _Config | None = None

    def configure(self, config: _Config | None) -> None:
        """Configure the log from the next event on."""
        self.config = config

    def __getattr__(self, name: str) -> Any:
        """Return the method for a level."""
        sink = _SINK.get()
        if sink is not None:
            return partial(_emit, sink, name)
        if self.config is None:
            return getattr(_structlog(), name)
        if LEVELS.get(name, LEVELS["error"]) < self.config.least:
            return _discard_event
        return partial(_emit, self.config.write, name)


def _emit(sink: Callable[[Event], None], level: str, event: str, **facts: Any) -> None:
    """Hand an event to a function."""
    if level == "exception":
        level = "error"
        facts.setdefault("exc_info", sys.exc_info()[1])
    timestamp = datetime.now(UTC).isoformat(timespec="microseconds").replace("+00:00", "Z")
    sink({**_BOUND.get(), **facts, "event": event, "level": level, "timestamp": timestamp})


def write(event: Event) -> None:
    """Write an event to this program's log."""
    if _log.config is not None:
        _log.config.write(event)
        return
    facts = {name: value for name, value in event.items() if name not in ("event", "level", "timestamp")}
    getattr(_structlog(), event["level"])(event["event"], **facts)


def _discard_event(_event: str, **_facts: Any) -> None:
    """Write nothing of an event below the level."""


def _structlog() -> "structlog.typing.FilteringBoundLogger":
    """Return structlog's logger, as the program has configured it."""
    import structlog  # noqa: PLC0415 - for programs that use it

    logger: structlog.typing.FilteringBoundLogger = structlog.get_logger()
    return logger


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


@cache
def _as_json(*, is_utf8: bool) -> Callable[[Event], str]:
    """Build the function that renders an event as JSON, its control characters escaped: a terminal may show it."""
    with _hidden("rich"):
        import structlog  # noqa: PLC0415 - for those who log

    from uploader.text import printable  # noqa: PLC0415 - as above

    # a traceback never shows local variables: paths, parameters and secrets are among them
    transform = structlog.tracebacks.ExceptionDictTransformer(show_locals=False)
    with_traceback = structlog.processors.ExceptionRenderer(transform)
    # a stream that is not UTF-8 would escape what it cannot encode in its own way, which is no JSON
    render = structlog.processors.JSONRenderer(ensure_ascii=not is_utf8, default=repr)
    return lambda event: printable(str(render(None, event["level"], with_traceback(None, event["level"], dict(event)))))


@cache
def _as_text(*, colours: bool) -> Callable[[Event], str]:
    """Build the function that renders an event as a line for people."""
    with _hidden("rich"):
        import structlog  # noqa: PLC0415 - for people

    render = structlog.dev.ConsoleRenderer(
        colors=colours, exception_formatter=_traceback, sort_keys=False, pad_event_to=0
    )
    return lambda event: str(render(None, event["level"], _escaped(_in_words(event))))


class _Escaped(str):
    """A text that is escaped already."""

    __slots__ = ()

    def __repr__(self) -> str:
        """Quote the text, and escape nothing: structlog shows the repr of a value with blanks."""
        return f"'{self}'"


def _escaped(event: Event) -> dict[str, Any]:
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


def _in_words(event: Event) -> Event:
    """Add the event's meaning and local time; drop unknown fields and those that are the same in all lines."""
    from uploader.events import EVENTS  # noqa: PLC0415 - see _logger

    name = event["event"]
    shown = {key: value for key, value in event.items() if value is not None and key not in ("run", "host")}
    local = datetime.fromisoformat(event["timestamp"]).astimezone()
    return {**shown, "event": f"{name}: {EVENTS[name]}" if name in EVENTS else name, "timestamp": f"{local:%H:%M:%S}"}


def _write_line(stream: IO[str], line: str) -> None:
    """Write a line, or drop it: a log on a full disk or a closed pipe must not cost an item."""
    with suppress(OSError):
        stream.write(f"{line}\n")
        stream.flush()


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


def log_end(event: str, code: ExitCode, **facts: Any) -> None:
    """Log the end of a command: a warning where it needs somebody, so that a log of warnings alone tells of it."""
    log = _log.info if code in (ExitCode.DONE, *STOPPED) else _log.warning
    log(event, exitCode=int(code), **facts)


def log_refusal(reason: str, problems: "Sequence[Problem]", *, with_values: bool = False) -> None:
    """Log what stands below the first line of a reason that ended a run, one event for each problem or line.

    Args:
        problems: The problems of a manifest.
        with_values: Show the wrong values, to the person who gave the command; the log file does not get them.
    """
    for problem in problems:
        value = {_SHOWN_ONLY: problem.value} if with_values else {}
        _log.error("row.invalid", line=problem.line, column=problem.column, **value, remedy=problem.remedy)
    if not problems:
        for line in reason.split("\n")[1:]:
            _log.error("run.refused", reason=line.strip())


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
    if file.is_file() and _is_data(file):
        raise UsageError(f"log file {file}: this is no log, and lines added to it would spoil it: name another")
    try:
        # an opening that waits for the reader of a named pipe could wait for ever
        descriptor = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_NONBLOCK | os.O_CLOEXEC, 0o666)
        os.set_blocking(descriptor, True)
        return os.fdopen(descriptor, "a", encoding="utf-8")
    except OSError as error:
        raise UsageError(f"log file {file}: it cannot be written ({error.strerror}): name another") from error


def _is_data(file: Path) -> bool:
    """Return True for a file that a slip names as the log: binary (a ledger, a recording), a manifest or results.

    Any other text may be a log that has other programs' lines, too.
    """
    try:
        with file.open("rb") as opened:
            head = opened.read(_HEAD_BYTES)
    except OSError:
        return False  # the opening for writing tells why
    first = head.partition(b"\n")[0]
    # a log that was cut while another program wrote it begins with NUL
    is_binary = b"\0" in head and not head.startswith(b"\0")
    return is_binary or (b"conversationId" in first and b'"event"' not in first)


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
