"""Keeps the durable state: claims (slot, lane order and intent in one transaction), marks, outcomes, recovery.

All SQL is in this package, as plain functions over a connection in a transaction; accounts, batches, items and workers
are given by their ids, and times in seconds since the epoch. ``Ledger`` opens the file, and ``thread.LedgerThread`` is
the one thread that writes during a run.
"""

from sqlalchemy import Connection

from uploader.ledger.database import Ledger

__all__ = ["Connection", "Ledger"]
