"""Reads flags, puts the parts together, turns the ending into an exit code."""

from uploader.cli.commands import main

__all__ = ["main"]
