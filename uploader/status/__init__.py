"""Shows a batch: progress bar, progress lines, summary."""
