"""Listens for callbacks, and answers each once the ledger has recorded it."""

from uploader.webhook.connections import Connections
from uploader.webhook.listener import MOST_BYTES, MOST_CALLS, Listener

__all__ = ["MOST_BYTES", "MOST_CALLS", "Connections", "Listener"]
