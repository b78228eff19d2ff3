"""Appends audio files to conversations from a manifest: at most once, in order, with the account full."""

__version__ = "0.1.0"
