"""Runs the real command, each time as a process of its own, on a machine that remembers nothing but its folder."""

import json
import os
import signal
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest

from tests.acceptance.starting import Command, NewInterpreter, Process, Start
from uploader.events import EVENTS, FIELDS
from uploader.sandbox import Journal

DEADLINE_SECONDS = 60.0
# between two looks at what is waited for: often at first, and at most so rarely
LOOK_SECONDS, RARE_LOOK_SECONDS = 0.002, 0.02


def until(condition: Callable[[], bool], what: str, seconds: float = DEADLINE_SECONDS) -> None:
    """Waits until a condition holds; a deadline that passes is a failure."""
    begun = time.monotonic()
    while not condition():
        waited = time.monotonic() - begun
        if waited > seconds:
            pytest.fail(f"this did not come to pass within {seconds:g} s: {what}")
        time.sleep(min(max(waited / 20, LOOK_SECONDS), RARE_LOOK_SECONDS))


@dataclass(frozen=True, slots=True)
class Ending:
    """What a command left when it had ended."""

    code: int
    out: str
    err: str

    @property
    def summary(self) -> dict[str, Any]:
        """The object on standard output, under ``--json``."""
        found: dict[str, Any] = json.loads(self.out)
        return found

    def events(self, name: str) -> list[dict[str, Any]]:
        """The events of this name in the log."""
        return [event for event in logged(self.err) if event["event"] == name]


def logged(text: str) -> Iterator[dict[str, Any]]:
    """The events of a log: its lines that are JSON."""
    for line in text.splitlines():
        if line.startswith("{"):
            yield json.loads(line)


def check_events(events: Iterable[Mapping[str, Any]]) -> None:
    """Each event is one of the table, has the fields that all have, and each field its one type."""
    for event in events:
        assert event["event"] in EVENTS, f"{event['event']} is no event of uploader/events.py"
        assert {"run", "host", "level", "timestamp"} <= event.keys(), event
        wrong = {
            name: value
            for name, value in event.items()
            if name not in FIELDS or not (value is None or isinstance(value, FIELDS[name]))
        }
        assert not wrong, f"{event['event']} has fields of no or another type: {wrong}"


@dataclass(slots=True)
class Running:
    """A command that runs; its output goes to files, so that it never waits for a reader."""

    process: Process
    out: Path
    err: Path

    def wait(self, seconds: float = DEADLINE_SECONDS) -> Ending:
        """Waits for its end."""
        code = self.process.wait(seconds)
        return Ending(code, self.out.read_text(encoding="utf-8"), self.err.read_text(encoding="utf-8"))

    def stop(self, number: int = signal.SIGTERM) -> Ending:
        """Sends it a signal, and waits for its end."""
        self.process.send_signal(number)
        return self.wait()

    def pause(self) -> None:
        """Stops it where it is, until it may go on."""
        self.process.send_signal(signal.SIGSTOP)
        self.process.wait_until_stopped()

    def go_on(self) -> None:
        """Lets it go on after a pause."""
        self.process.send_signal(signal.SIGCONT)

    @property
    def is_over(self) -> bool:
        """True once the command has ended."""
        return self.process.poll() is not None


@dataclass
class Server:
    """A sandbox in a process of its own."""

    running: Running
    journal_path: Path
    environment: Mapping[str, str]
    # how many lines of the journal are of no concern: a server may serve several tests, one after the other
    since: int = 0

    @property
    def journal(self) -> Journal:
        """The journal so far."""
        journal = Journal.read(self.journal_path)
        journal.entries = journal.entries[self.since :]
        return journal

    def from_now_on(self) -> "Server":
        """The same server, with a journal that begins now."""
        return replace(self, since=self.lines())

    @property
    def base_url(self) -> str:
        """The server's base URL."""
        return self.environment["UPLOADER_BASE_URL"]

    def lines(self) -> int:
        """The number of lines of the server's journal, counted without parsing."""
        return self.journal_path.read_bytes().count(b"\n")


def base_environment() -> dict[str, str]:
    """Return the environment of every new interpreter: the path to programs, and a language."""
    return {"PATH": os.environ["PATH"], "LANG": "C.UTF-8"}


@dataclass
class Place:
    """A folder to work in, with a home and an environment of its own."""

    folder: Path
    environment: dict[str, str] = field(default_factory=dict)
    # how a command is started
    starts: Start = NewInterpreter
    # where its ledger lies, in a folder of the uploader's; by default in the folder
    state: Path | None = None
    _started: list[Running] = field(default_factory=list)

    def __post_init__(self) -> None:
        """Makes an environment that inherits nothing but the way to programs."""
        self.path("no-secrets").mkdir(exist_ok=True)
        self.environment = {
            **base_environment(),
            "HOME": str(self.folder),
            "XDG_STATE_HOME": str(self.ledger.parent.parent),
            "UPLOADER_SECRETS_DIR": str(self.folder / "no-secrets"),
            # the tests may run in a container themselves
            "UPLOADER_NEW_LEDGER": "true",
            # as fast as a test wants it; the limits that a test is about are set by the test
            "UPLOADER_RATE": "2000",
            "UPLOADER_JOBS__POLLS_PER_SECOND": "200",
            **self.environment,
        }

    @property
    def ledger(self) -> Path:
        """The path of the default ledger."""
        return (self.state or self.folder / "state") / "uploader" / "ledger.db"

    def path(self, name: str) -> Path:
        """A path in the folder."""
        return self.folder / name

    def write(self, name: str, content: str | bytes) -> Path:
        """Writes a file."""
        path = self.path(name)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content.encode() if isinstance(content, str) else content)
        return path

    def use(self, server: Server) -> None:
        """Points the commands at a server."""
        self.environment.update(server.environment)

    def start(
        self,
        *arguments: str | Path,
        environment: Mapping[str, str] | None = None,
        stdin: bytes = b"",
        before: tuple[str, ...] = (),
    ) -> Running:
        """Starts ``uploader ARGUMENTS``; ``before`` are the words of a command that starts it in turn."""
        number = len(self._started)
        streams = self.path(".streams")
        streams.mkdir(exist_ok=True)
        out, err, given = (streams / f"{number}.{name}" for name in ("out", "err", "in"))
        given.write_bytes(stdin)
        with given.open("rb") as reading, out.open("wb") as printing, err.open("wb") as logging:
            found = {**self.environment, **(environment or {})}
            command = Command([*map(str, arguments)], found, self.folder, (reading, printing, logging), before)
            process = self.starts(command)
        running = Running(process, out, err)
        self._started.append(running)
        return running

    def run(
        self,
        *arguments: str | Path,
        environment: Mapping[str, str] | None = None,
        stdin: bytes = b"",
        before: tuple[str, ...] = (),
    ) -> Ending:
        """Runs ``uploader ARGUMENTS`` to its end."""
        return self.start(*arguments, environment=environment, stdin=stdin, before=before).wait()

    def serve(self, *arguments: str | Path, faults: str = "", port: int = 0) -> Server:
        """Starts a sandbox with quick jobs and a journal, and waits until it listens."""
        name = f"journal-{len(self._started)}.jsonl"
        journal = self.path(name)
        if faults:
            arguments = (*arguments, "--faults", self.write(f"faults-{name}.toml", faults))
        quick = ("--job-seconds", "0.05", "--job-seconds-per-mebibyte", "0.5")
        running = self.start("sandbox", "--journal", journal, "--port", str(port), *quick, *arguments)
        until(lambda: running.is_over or running.out.read_text().count("\n") == 3, "the sandbox listens")
        assert not running.is_over, running.err.read_text()
        lines = running.out.read_text().splitlines()
        shown = dict(line.removeprefix("export ").split("=", 1) for line in lines)
        return Server(running, journal, shown)

    def check_logs(self) -> None:
        """Holds every line of every command's log against the table of events."""
        for running in self._started:
            text = running.err.read_text(encoding="utf-8", errors="replace")
            if '"event": "run.ended"' in text:
                bare = [line for line in text.splitlines() if not line.startswith("{")]
                assert not bare, f"a log in JSON has lines that are no events: {bare[:5]}"
            # who was killed may have written half a line
            check_events(logged("\n".join(line for line in text.splitlines() if line.endswith("}"))))

    def close(self) -> None:
        """Ends what still runs, each by its own id."""
        for running in self._started:
            if not running.is_over:
                running.process.kill()
            running.process.wait()
