"""Quick where somebody waits: a command imports what it uses, and nothing else."""

import subprocess
import sys
from collections.abc import Set as AbstractSet
from typing import NamedTuple

import pytest

from tests.acceptance.batches import make_rows, write_manifest
from tests.acceptance.place import Place, Server

SHOWN = """
import sys
sys.argv[0] = "uploader"
from uploader.__main__ import main
try:
    main()
finally:
    imported = [name for name, module in sys.modules.items() if type(module).__name__ != "DeferredModule"]
    print(*imported, sep="\\n", file=open("modules.txt", "w"))
"""

# modules that take time to import: the project's libraries, and heavy ones of the standard library
HEAVY = frozenset(
    [
        *("aiofiles", "aiohttp", "asyncio_throttle", "blake3", "click", "platformdirs", "pydantic", "rich"),
        *("obstore", "sqlalchemy", "structlog", "tinytag"),
        *("asyncio", "ssl", "importlib.metadata", "tomllib", "sqlalchemy.orm", "sqlalchemy.dialects.postgresql"),
    ]
)
# modules of the ledger that build statements of a load, and of a run
STATEMENTS = frozenset(
    [
        *("dialects", "lanes", "loading", "matching", "merging", "sending", "staging"),
        *("callbacks", "claiming", "facts", "outcomes", "recovery", "resolving", "thread", "workers"),
    ]
)


class Imports(NamedTuple):
    """What a command imports of the heavy, of the house, and of the ledger's statements."""

    heavy: AbstractSet[str]
    parts: AbstractSet[str]
    statements: AbstractSet[str] = frozenset()


HELP = {
    *("cli", "deferred", "early_signals", "errors", "logs", "parameters"),
    *("pipes", "policy", "secrets", "settings", "urls"),
}
READS = HELP | {"ledger", "model", "results", "status", "text", "toml"}
PLANS = READS | {"audio", "manifest", "run"}
RESOLVES = {"dialects", "facts", "lanes", "outcomes", "recovery", "resolving", "staging", "workers"}
LOADS = {"dialects", "lanes", "loading", "matching", "merging", "sending", "staging"}
# asyncio imports ssl
RUN = {"click", "platformdirs", "sqlalchemy", "asyncio", "ssl", "aiohttp", "asyncio_throttle", "blake3"}
RUN_PARTS = READS | {
    *("attempt", "audio", "certificates", "client", "engine", "flow", "jobs", "manifest", "pace", "run", "worker"),
}

# the exact set of heavy modules that each command imports; an addition costs every user of the command
TABLE = {
    "--version": Imports({"click"}, HELP),
    "--help": Imports({"click"}, HELP),
    "run --help": Imports({"click", "platformdirs"}, HELP),
    "work --help": Imports({"click", "platformdirs"}, HELP),
    "plan --help": Imports({"click", "platformdirs"}, HELP),
    "status --help": Imports({"click", "platformdirs"}, HELP),
    "resolve --help": Imports({"click", "platformdirs"}, HELP),
    "insights --help": Imports({"click", "platformdirs"}, HELP),
    "sandbox --help": Imports({"click"}, HELP),
    "status": Imports({"click", "platformdirs", "sqlalchemy"}, READS),
    "results": Imports({"click", "platformdirs", "sqlalchemy"}, READS),
    "resolve": Imports({"click", "platformdirs", "sqlalchemy"}, READS, RESOLVES),
    "plan m.csv": Imports(
        {"click", "platformdirs", "sqlalchemy", "blake3"}, READS | {"audio", "manifest", "run"}, LOADS
    ),
    "run m.csv --log-level error": Imports(RUN, RUN_PARTS, STATEMENTS - {"resolving"}),
    "run m.csv": Imports(RUN | {"structlog"}, RUN_PARTS, STATEMENTS - {"resolving"}),
}


def imported(place: Place, command: str) -> Imports:
    """Runs a command in an interpreter of its own, and tells what was imported when it ended."""
    subprocess.run(
        [sys.executable, "-c", SHOWN, *command.split()],
        cwd=place.folder,
        env=place.environment,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        check=False,
    )
    modules = place.path("modules.txt").read_text(encoding="utf-8").split()
    house = {name.split(".")[1] for name in modules if name.startswith("uploader.")} - {"__main__"}
    ledger = {name.removeprefix("uploader.ledger.") for name in modules if name.startswith("uploader.ledger.")}
    return Imports(HEAVY & set(modules), house, STATEMENTS & ledger)


@pytest.mark.parametrize("command", TABLE)
def test_a_command_imports_what_it_uses_and_nothing_else(place: Place, server: Server, command: str) -> None:
    """A new import at a module's top shows here, with the commands that pay for it; most of them pay for none."""
    del server
    write_manifest(place, "m.csv", make_rows(place, 1, 1))
    if "help" not in command and "version" not in command:
        assert place.run("run", "m.csv").code == 0
    assert imported(place, command) == TABLE[command]
