"""Runs the command in this process, and counts what the watched page takes: `python -m tests.benchmarks.watched …`.

The words are those of the command. When it has ended, the last line of standard error is a JSON object: the CPU seconds
of the process, those of all snapshots, the number of snapshots, and the bytes of all updates.
"""

import json
import sys
import time
from collections.abc import Callable
from typing import Any

from uploader.cli import main
from uploader.status.listener import Feed
from uploader.status.snapshot import SnapshotReader

counted = {"snapshot": 0.0, "snapshots": 0, "bytes": 0}


def timed(function: Callable[..., Any]) -> Callable[..., Any]:
    """Count the CPU seconds of a function, in whatever thread."""

    def call(*args: Any, **kwargs: Any) -> Any:
        begun = time.thread_time()
        try:
            found = function(*args, **kwargs)
        finally:
            counted["snapshot"] += time.thread_time() - begun
        return found

    return call


def changed(function: Callable[[Feed, dict[str, int]], str]) -> Callable[[Feed, dict[str, int]], str]:
    """Count the updates and their bytes."""

    def call(feed: Feed, seen: dict[str, int]) -> str:
        text = function(feed, seen)
        counted["snapshots"] += 1
        counted["bytes"] += len(text)
        return text

    return call


def count() -> None:
    """Run the command, and tell what was counted."""
    SnapshotReader.read = timed(SnapshotReader.read)  # type: ignore[method-assign]
    Feed._keep = timed(Feed._keep)  # type: ignore[method-assign]
    Feed.changed = timed(changed(Feed.changed))  # type: ignore[method-assign]
    code: int | str | None = 0
    try:
        main()
    except SystemExit as error:
        code = error.code
    sys.stderr.write(json.dumps({**counted, "cpu": time.process_time()}) + "\n")
    sys.exit(code)


if __name__ == "__main__":
    count()
