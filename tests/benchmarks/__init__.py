"""Run by hand and by name, never timed in CI."""
