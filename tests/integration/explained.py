"""Runs every command with SQLite's plan of each statement: `python -m tests.integration.explained MANIFEST LEDGER`.

It prints a JSON object: by command, its exit code, and by statement the lines of its plan, and the most instructions
that SQLite's machine ran for it once, which are the same on every machine.
"""

import contextlib
import json
import sqlite3
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from sqlalchemy import Engine, event

from tests.benchmarks.measures.ledger import COMMANDS
from uploader.cli import main

STEPS = 20
"""Instructions are counted in steps of so many."""
EXPLAINED = ("SELECT", "UPDATE", "INSERT", "DELETE", "WITH")


@dataclass
class Explained:
    """The plan and cost of one statement."""

    plan: list[str]
    steps: int = 0


@dataclass
class Watch:
    """The statements of all connections."""

    found: dict[str, Explained] = field(default_factory=dict)
    counted: dict[int, int] = field(default_factory=dict)
    running: dict[int, str] = field(default_factory=dict)

    def connect(self, connection: sqlite3.Connection, _: object) -> None:
        """Count the instructions of a connection."""
        number = id(connection)

        def count() -> int:
            self.counted[number] = self.counted.get(number, 0) + 1
            return 0

        connection.set_progress_handler(count, STEPS)

    def execute(self, _: object, cursor: Any, statement: str, parameters: Any, *__: object) -> None:
        """End the statement before this one, and explain this one."""
        connection: sqlite3.Connection = cursor.connection
        self.end(id(connection))
        if statement.startswith(EXPLAINED):
            if statement not in self.found:
                first = parameters[0] if isinstance(parameters, list) else parameters
                plan = connection.execute(f"EXPLAIN QUERY PLAN {statement}", first).fetchall()
                self.found[statement] = Explained([line[3] for line in plan])
            self.counted[id(connection)] = 0
            self.running[id(connection)] = statement

    def end(self, number: int) -> None:
        """Keep what a connection's last statement took."""
        statement = self.running.pop(number, None)
        if statement is not None:
            entry = self.found[statement]
            entry.steps = max(entry.steps, self.counted.get(number, 0))

    def told(self) -> dict[str, Any]:
        """Return the statements explained since the last call."""
        for number in list(self.running):
            self.end(number)
        found, self.found = self.found, {}
        return {statement: asdict(entry) for statement, entry in found.items()}


def run(words: Sequence[str]) -> int:
    """Run a command in this process: to start one costs more than all that is counted here."""
    sys.argv[1:] = words
    try:
        with contextlib.redirect_stdout(sys.stderr):
            main()
    except SystemExit as error:
        return int(error.code or 0)
    raise RuntimeError("a command ended without an exit code")


def explain(manifest: str, ledger: str) -> dict[str, Any]:
    """Run all commands one after the other."""
    watch = Watch()
    event.listen(Engine, "connect", watch.connect)
    event.listen(Engine, "before_cursor_execute", watch.execute)
    return {
        name: {"code": run([*command(manifest), "--ledger", ledger]), "statements": watch.told()}
        for name, command in COMMANDS.items()
    }


if __name__ == "__main__":
    sys.stdout.write(json.dumps(explain(*sys.argv[1:])))
