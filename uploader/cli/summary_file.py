"""The file that the closing summary goes to: none of another's is taken away."""

import json
from pathlib import Path

from uploader.errors import UsageError
from uploader.settings import Settings

MOST_BYTES = 64 * 1024 * 1024
"""A summary is shorter, and a recording must not be read to see that it is none."""


def forget(settings: Settings) -> None:
    """Remove the summary of an earlier run: one that stands would say that the results are final.

    Raises:
        UsageError: There is something else in its place, or nothing can be written there.
    """
    path = settings.summary
    if path is None:
        return
    if not path.parent.is_dir():
        raise UsageError(f"summary {path}: its folder does not exist: make it or name another")
    try:
        if path.is_symlink() or path.exists():
            if not _is_summary(path):
                raise UsageError(f"summary {path}: this is no summary of the uploader: name another with --summary")
            path.unlink()
    except OSError as error:
        raise UsageError(f"summary {path}: {error.strerror}: name a file that can be written") from error


def check_apart(settings: Settings, results: Path) -> None:
    """Make sure that summary and results are two files.

    Raises:
        UsageError: They are one.
    """
    if settings.summary is not None and settings.summary.resolve() == results.resolve():
        raise UsageError(f"summary {settings.summary}: the results go there: name another file with --summary")


def _is_summary(path: Path) -> bool:
    """Whether this is a summary, or a file in which nothing is, as ``mktemp`` makes it."""
    if not path.is_file() or path.stat().st_size > MOST_BYTES:
        return False
    content = path.read_bytes()
    try:
        found = json.loads(content) if content else {"exitCode": None}
    except (ValueError, RecursionError):
        return False
    return isinstance(found, dict) and "exitCode" in found
