"""Shows a batch: progress bar, progress lines, summary."""

from uploader.status.overview import Overview
from uploader.status.summary import Summary
from uploader.status.telling import limit_json, told_bytes, told_count
from uploader.status.view import View

__all__ = ["Overview", "Summary", "View", "limit_json", "told_bytes", "told_count"]
