"""Keeps the leases under which batches are loaded: one run loads a batch, and one at a time adds to an account."""

from collections.abc import Callable, Collection
from dataclasses import dataclass
from enum import StrEnum
from secrets import token_hex
from typing import Any

from sqlalchemy import Connection, Row, bindparam, delete, func, insert, select, update

from uploader.errors import LedgerBusyError
from uploader.ledger.leases import read_clock
from uploader.ledger.schema import load_leases

# a run that has not renewed the lease of its load for so long may be replaced: longer than any of its steps takes
LEASE_SECONDS = 120.0
# in place of a batch's name: the lease is for adding items to the account
_ITEMS = ""
_TOKEN_BYTES = 12

IsGone = Callable[[str], bool]


class Progress(StrEnum):
    """The stage that the load of a batch has reached."""

    # the manifest is read: the ledger holds nothing of it
    STAGING = "staging"
    # a part of the rows is in the ledger
    MERGING = "merging"
    MERGED = "merged"


@dataclass(slots=True)
class LoadLease:
    """The leases of a run that loads a batch."""

    account_id: int
    batch: str
    process: str
    token: str
    # the load before it has loaded the same, to its end
    is_same: bool = False
    # accounts that it may add items to
    accounts: int = 0


@dataclass(frozen=True, slots=True)
class LoadStanding:
    """The state of a batch's loading."""

    progress: Progress
    digest: str
    # a run that may live loads it
    is_under_way: bool


_key = (load_leases.c.account_id == bindparam("account"), load_leases.c.batch == bindparam("named"))

# the lease of a batch, or of an account
_LEASE = select(load_leases).where(*_key)

# delete the lease of a batch
_FORGET = delete(load_leases).where(*_key)

# add a lease
_ADD = insert(load_leases)

# renew all leases of a load
_RENEW = update(load_leases).where(load_leases.c.token == bindparam("held")).values(lease_until=bindparam("until"))

# save that a part of the rows is in the ledger
_BEGIN_MERGE = (
    update(load_leases)
    .where(load_leases.c.token == bindparam("held"), load_leases.c.batch != _ITEMS)
    .values(progress=Progress.MERGING)
)

# end the leases of accounts
_FREE_ACCOUNTS = delete(load_leases).where(load_leases.c.token == bindparam("held"), load_leases.c.batch == _ITEMS)

# end the lease of a load of which the ledger holds nothing
_FORGET_STAGED = delete(load_leases).where(
    load_leases.c.token == bindparam("held"), load_leases.c.progress == Progress.STAGING
)

# end the lease of a load
_END = (
    update(load_leases)
    .where(load_leases.c.token == bindparam("held"))
    .values(token=None, progress=func.coalesce(bindparam("reached"), load_leases.c.progress))
)

# a lease to add items to some accounts
_OF_ACCOUNTS = (
    select(load_leases.c.account_id)
    .where(load_leases.c.account_id.in_(bindparam("accounts", expanding=True)), load_leases.c.batch == _ITEMS)
    .limit(1)
)


def are_accounts_free(connection: Connection, account_ids: Collection[int]) -> bool:
    """Return True where nobody adds items to these accounts, not even somebody who seems to be dead."""
    return connection.execute(_OF_ACCOUNTS, {"accounts": list(account_ids)}).first() is None


def load_standing(
    connection: Connection, account_id: int, batch: str, now: float, is_gone: IsGone
) -> LoadStanding | None:
    """Return the state of a batch's loading; None where no run has loaded it under a lease.

    Args:
        batch: The batch's name.
        is_gone: Returns True where a process is known to be dead (``Ledger.is_gone``).
    """
    found = _find(connection, account_id, batch)
    if found is None:
        return None
    return LoadStanding(Progress(found.progress), found.digest, _is_held(connection, found, now, is_gone))


def is_merging(connection: Connection, account_id: int, batch: str) -> bool:
    """Return True where a part of a batch's rows is in the ledger alone: a run loads it, or its load was interrupted.

    Args:
        batch: The batch's name.
    """
    found = _find(connection, account_id, batch)
    return found is not None and found.progress == Progress.MERGING


def take_lease(
    connection: Connection, account_id: int, batch: str, digest: str, process: str, now: float, is_gone: IsGone
) -> LoadLease | None:
    """Take the lease to load a batch; return None where a run that may live has it.

    Args:
        connection: A connection in a transaction that has locked the account.
        batch: The batch's name.
        digest: Identifies what is loaded.
        process: The process of this run (``Ledger.process``).
        is_gone: Returns True where a process is known to be dead.
    """
    found = _find(connection, account_id, batch)
    if _is_held(connection, found, now, is_gone):
        return None
    # rows of an interrupted load stay in the ledger until a load is complete
    is_partial = found is not None and found.progress == Progress.MERGING
    is_same = found is not None and (found.progress, found.digest) == (Progress.MERGED, digest)
    lease = LoadLease(account_id, batch, process, token_hex(_TOKEN_BYTES), is_same)
    _hold(connection, lease, account_id, batch, digest, Progress.MERGING if is_partial else Progress.STAGING, now)
    return lease


def take_accounts(
    connection: Connection, lease: LoadLease, account_ids: Collection[int], now: float, is_gone: IsGone
) -> bool:
    """Take the leases to add items to accounts, from whoever is dead; return False where others may add to one.

    Between a load's look at the items of its rows and the last new item of it, nobody else adds any: else one recording
    might become two items.

    Args:
        connection: A connection in a transaction that has locked the accounts.
        lease: The lease of the load.
        is_gone: Returns True where a process is known to be dead.

    Raises:
        LedgerBusyError: Another run has taken the load over.
    """
    found = [_find(connection, account_id, _ITEMS) for account_id in account_ids]
    if any(_is_held(connection, lease_of_account, now, is_gone) for lease_of_account in found):
        return False
    for account_id in account_ids:
        _hold(connection, lease, account_id, _ITEMS, "", Progress.STAGING, now)
    lease.accounts = len(account_ids)
    renew_lease(connection, lease, now)
    return True


def begin_merge(connection: Connection, lease: LoadLease) -> None:
    """Save that a part of the rows is in the ledger, so that a batch whose load was interrupted is known as such."""
    connection.execute(_BEGIN_MERGE, {"held": lease.token})


def renew_lease(connection: Connection, lease: LoadLease, now: float) -> None:
    """Renew the leases of a load; what the transaction writes is written by whoever still has them.

    Raises:
        LedgerBusyError: Another run has taken the load over.
    """
    until = read_clock(connection, now) + LEASE_SECONDS
    if connection.execute(_RENEW, {"held": lease.token, "until": until}).rowcount != 1 + lease.accounts:
        raise LedgerBusyError(
            f"batch {lease.batch}: another run has taken its load over, as this one stood still for so long: run the "
            "same command again"
        )


def end_lease(connection: Connection, lease: LoadLease, *, is_merged: bool) -> None:
    """End the leases of a load, whether all of its rows are in the ledger or not."""
    held = {"held": lease.token}
    connection.execute(_FREE_ACCOUNTS, held)
    lease.accounts = 0
    if not is_merged:
        connection.execute(_FORGET_STAGED, held)
    connection.execute(_END, {**held, "reached": Progress.MERGED if is_merged else None})


def _find(connection: Connection, account_id: int, batch: str) -> Row[Any] | None:
    """Return the lease of a batch, or of an account (``_ITEMS``)."""
    return connection.execute(_LEASE, {"account": account_id, "named": batch}).one_or_none()


def _is_held(connection: Connection, found: Row[Any] | None, now: float, is_gone: IsGone) -> bool:
    """Return True where a run that may live has a lease."""
    if found is None or found.token is None:
        return False
    return bool(found.lease_until >= read_clock(connection, now) and not is_gone(found.process))


def _hold(
    connection: Connection,
    lease: LoadLease,
    account_id: int,
    batch: str,
    digest: str,
    progress: Progress,
    now: float,
) -> None:
    """Take a lease that nobody who lives has."""
    connection.execute(_FORGET, {"account": account_id, "named": batch})
    values = {"digest": digest, "progress": progress, "process": lease.process, "token": lease.token}
    until = read_clock(connection, now) + LEASE_SECONDS
    connection.execute(_ADD, {"account_id": account_id, "batch": batch, "lease_until": until, **values})
