"""Shows a batch: progress bar, progress lines, closing summary, status overview."""
