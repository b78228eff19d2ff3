"""The progress bar on a terminal."""

import sys
from collections.abc import Sequence

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn
from rich.table import Column

BAR_COLUMNS = 16
SEPARATOR = ", "


class Bar:
    """A progress bar with count, rate and time left, below all other terminal output.

    These columns always fit; details that do not fit are dropped whole, the last ones first.
    """

    def __init__(self) -> None:
        self._console = Console(file=sys.stderr)
        texts = [
            TextColumn(f"{{task.fields[{name}]}}", table_column=Column(no_wrap=True))
            for name in ("count", "rate", "left", "details")
        ]
        self._progress = Progress(BarColumn(BAR_COLUMNS), *texts, console=self._console, transient=True)
        self._task: TaskID | None = None

    def start(self) -> None:
        """Show the bar."""
        self._progress.start()
        self._task = self._progress.add_task("", total=None, count="", rate="", left="", details="")

    def stop(self) -> None:
        """Remove the bar."""
        self._progress.stop()

    def show(self, *, total: int, completed: int, rate: str, left: str, details: Sequence[str] = ()) -> None:
        """Update the bar. ``details``: the most important first."""
        if self._task is None:
            return
        count = f"{completed}/{total}"
        room = self._console.width - BAR_COLUMNS - sum(len(text) + 1 for text in (count, rate, left)) - 1
        shown = fitting(details, room)
        self._progress.update(
            self._task, total=total, completed=completed, count=count, rate=rate, left=left, details=shown
        )


def fitting(details: Sequence[str], columns: int) -> str:
    """Join details from the first on, as many as fit into the columns."""
    kept = ""
    for detail in details:
        longer = f"{kept}{SEPARATOR}{detail}" if kept else detail
        if len(longer) > columns:
            break
        kept = longer
    return kept
