"""Keeps the truth: claim (slot, lane order and intent in one transaction), marks, outcomes, resume.

SQL lives here alone. Everything is a plain function over a connection inside a transaction; ``Ledger`` opens
the file, and ``thread.LedgerThread`` is the one thread that writes while a run is on.
"""

from sqlalchemy import Connection

from uploader.ledger.opening import Ledger

__all__ = ["Connection", "Ledger"]
