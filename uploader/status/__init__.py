"""Shows a batch: live lines, progress lines, closing summary, status overview, status page."""
