"""What a terminal gets: one place escapes for people, and nobody prints beside it."""

import ast
import json
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.unit.sources import nodes
from uploader import logs
from uploader.cli.printing import print_error, print_json, print_lines

SOURCE = Path(__file__).parents[2] / "uploader"
NASTY = "\x1b]0;PWNED\x07\x1b[2J\x9b31mred\r\nuploader: all 3 items completed \u202egnp.exe\u2066\u2028"
# who writes to a stream: the one place, a plan's JSON in pieces, sandbox and log
PRINTERS = {"cli/printing.py", "cli/planning.py", "cli/sandboxing.py"}


def is_harmless(text: str) -> bool:
    """Return True where a terminal shows every character of a line unchanged."""
    return not [char for char in text if not char.isprintable() and char not in "\n\u00a0"]


@pytest.mark.parametrize(
    "say",
    [
        lambda: print_lines([NASTY]),
        lambda: print_lines([NASTY], is_aside=True),
        lambda: print_error(NASTY),
        lambda: print_json([NASTY]),
    ],
)
def test_what_is_printed_moves_no_cursor_and_fakes_no_line(
    say: Callable[[], None], capsys: pytest.CaptureFixture[str]
) -> None:
    """Whatever a service or a manifest says, a person reads it, and the terminal does not obey it."""
    say()
    message = "".join(capsys.readouterr())
    assert is_harmless(message)
    assert "PWNED" in message
    assert "\\u001b" in message


@pytest.mark.parametrize("form", ["text", "json"])
def test_what_is_logged_moves_no_cursor_and_fakes_no_line(form: logs.Form, capsys: pytest.CaptureFixture[str]) -> None:
    """In text and in JSON, which stays JSON and says the same."""
    before = logs.get_logger().config
    logs.configure(form, "info")
    try:
        logs.get_logger().info("attempt", jobId=NASTY, reason=f"HTTP 400: {NASTY}", half="caf\\ud83d")
    finally:
        logs.get_logger().configure(before)
    result = capsys.readouterr().err
    assert is_harmless(result)
    assert result.count("\n") == 1
    assert "\\u202e" in result
    if form == "json":
        assert json.loads(result)["jobId"] == NASTY
    else:
        assert "half=caf\\ud83d" in result


def test_nobody_prints_beside_the_one_place() -> None:
    """A new place that prints would have to escape for itself: there is none."""
    found = set()
    for path in SOURCE.rglob("*.py"):
        for node in nodes(path):
            name = ast.unparse(node.func) if isinstance(node, ast.Call) else ""
            if name in ("print", "click.echo") or name.startswith(("sys.stdout.write", "sys.stderr.write")):
                found.add(path.relative_to(SOURCE).as_posix())
    assert found == PRINTERS
