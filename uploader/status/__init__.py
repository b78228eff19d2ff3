"""Shows a batch: progress bar, progress lines, summary."""

from uploader.status.overview import Overview
from uploader.status.summary import Summary
from uploader.status.telling import limit_json, resolve_command, run_command, told_bytes, told_count, told_state
from uploader.status.view import View

__all__ = [
    "Overview",
    "Summary",
    "View",
    "limit_json",
    "resolve_command",
    "run_command",
    "told_bytes",
    "told_count",
    "told_state",
]
