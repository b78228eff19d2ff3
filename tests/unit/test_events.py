"""The log's events: one table in the code, the same in the guide, and none that is not in it."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

from tests.unit.sources import nodes
from uploader.events import EVENTS

ROOT = Path(__file__).parents[2] / "uploader"
LEVELS = {"debug", "info", "warning", "error", "exception"}


def _written() -> Iterator[str]:
    """Yield the first word of every call that writes to the log, and every event that is chosen by a table of names."""
    for path in ROOT.rglob("*.py"):
        if path.name == "events.py":
            continue
        for node in nodes(path):
            if isinstance(node, ast.Constant) and isinstance(node.value, str) and node.value in EVENTS:
                yield node.value
            if not (isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr in LEVELS):
                continue
            if node.args and isinstance(node.args[0], ast.Constant):
                yield str(node.args[0].value)


def test_every_event_that_is_written_is_in_the_table_and_none_beside() -> None:
    """The table has exactly the events that the code writes, so that monitoring can rely on it."""
    assert set(_written()) == EVENTS.keys()


def test_an_events_name_is_a_fixed_token() -> None:
    """A name is words with dots and underscores, never a sentence that a release rewords."""
    assert [name for name in EVENTS if not re.fullmatch(r"[a-z]+([._][a-z]+)*", name)] == []


def test_the_guide_has_the_table() -> None:
    """The guide's table of events equals the code's, in the same order."""
    guide = (ROOT / "docs" / "log.md").read_text(encoding="utf-8")
    assert dict(re.findall(r"^\| `([a-z._]+)` \| (.+) \|$", guide, re.MULTILINE)) == EVENTS
