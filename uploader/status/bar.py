"""The progress bar on a terminal."""

import sys

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeRemainingColumn
from rich.table import Column


class Bar:
    """A bar with items by state, speed and live jobs; it stands below what else is written to the terminal."""

    def __init__(self) -> None:
        self._progress = Progress(
            BarColumn(bar_width=16),
            TextColumn("{task.completed:.0f}/{task.total}"),
            TextColumn("{task.fields[speed]}"),
            TextColumn("{task.fields[jobs]}"),
            TimeRemainingColumn(),
            TextColumn("{task.fields[states]}", table_column=Column(no_wrap=True, overflow="ellipsis", ratio=1)),
            console=Console(file=sys.stderr),
            transient=True,
        )
        self._task: TaskID | None = None

    def start(self) -> None:
        """Put it on the terminal."""
        self._progress.start()
        self._task = self._progress.add_task("", total=None, states="", jobs="", speed="")

    def stop(self) -> None:
        """Take it away."""
        self._progress.stop()

    def show(self, *, total: int, completed: int, states: str, jobs: str, speed: str) -> None:
        """Show where the batch is."""
        if self._task is not None:
            self._progress.update(self._task, total=total, completed=completed, states=states, jobs=jobs, speed=speed)
