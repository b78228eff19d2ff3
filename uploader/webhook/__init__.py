"""Receives callbacks, and answers each once the ledger has recorded it."""

from uploader.webhook.callbacks import MOST_BYTES, MOST_CALLS, Callbacks

__all__ = ["MOST_BYTES", "MOST_CALLS", "Callbacks"]
