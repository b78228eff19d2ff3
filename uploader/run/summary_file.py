"""The file of the closing summary; a file that is no summary is never overwritten."""

import json
from pathlib import Path

from uploader.errors import UsageError
from uploader.settings import Settings

# an upper bound of a summary's size: a recording in its place is not read to find out
MOST_BYTES = 64 * 1024 * 1024


def forget(settings: Settings) -> None:
    """Remove an earlier run's summary: its presence would mean that the results are final.

    Raises:
        UsageError: The file is no summary, or its folder cannot be written to.
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
    """Check that summary and results are two files.

    Raises:
        UsageError: Summary and results have the same path.
    """
    if settings.summary is not None and settings.summary.resolve() == results.resolve():
        raise UsageError(f"summary {settings.summary}: the results go there: name another file with --summary")


def _is_summary(path: Path) -> bool:
    """Return True where a file is a summary, or empty as ``mktemp`` makes it."""
    if not path.is_file() or path.stat().st_size > MOST_BYTES:
        return False
    content = path.read_bytes()
    try:
        found = json.loads(content) if content else {"exitCode": None}
    except (ValueError, RecursionError):
        return False
    return isinstance(found, dict) and "exitCode" in found
