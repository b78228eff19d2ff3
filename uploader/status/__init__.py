"""Shows a batch: progress bar, progress lines, summary."""

from uploader.status.overview import Overview
from uploader.status.summary import Summary
from uploader.status.telling import told_bytes, told_count
from uploader.status.view import View

__all__ = ["Overview", "Summary", "View", "told_bytes", "told_count"]
