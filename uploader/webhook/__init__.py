"""Listens for what the service says of jobs, and answers once it is in the ledger."""

from uploader.webhook.connections import Connections
from uploader.webhook.listener import MOST_BYTES, MOST_CALLS, Listener

__all__ = ["MOST_BYTES", "MOST_CALLS", "Connections", "Listener"]
