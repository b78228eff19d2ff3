"""The file of the figures; a file that has no figures is never overwritten."""

import os
from collections.abc import Mapping
from pathlib import Path

from uploader import results
from uploader.errors import UsageError
from uploader.status.metrics import Metrics, kept_of

# so a metrics file begins
BEGIN = "# HELP uploader_"
MOST_BYTES = 1024 * 1024


def read_kept(path: Path) -> Mapping[str, float]:
    """Read what a metrics file says of the runs before, having checked that a new one can take its place.

    Raises:
        UsageError: The file has something else, or cannot be written.
    """
    folder = path.parent
    if not folder.is_dir() or not os.access(folder, os.W_OK | os.X_OK, effective_ids=True):
        raise UsageError(f"metrics {path}: its folder {folder} is missing or not writable: make it so or name another")
    try:
        if not path.exists():
            return {}
        with path.open(encoding="utf-8") as file:
            text = file.read(MOST_BYTES)
        kept = kept_of(text) if not text or text.startswith(BEGIN) else None
    except OSError as error:
        raise UsageError(f"metrics {path}: {error.strerror}: name a file that can be written") from error
    except ValueError:
        kept = None
    if kept is None:
        raise UsageError(f"metrics {path}: this is no metrics file of the uploader: name another")
    return kept


def write(path: Path, metrics: Metrics) -> None:
    """Replace the file.

    Raises:
        ResultsUnavailableError: It cannot be written now.
    """
    results.write_text(path, metrics.render())
