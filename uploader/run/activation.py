"""Begins the workers of a loaded batch, and makes its lanes active for them."""

import os
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import NamedTuple, Self

from uploader import __version__, logs
from uploader.client import CredentialsSource
from uploader.errors import UsageError
from uploader.ledger import Connection, Ledger
from uploader.ledger.amounts import ToSend
from uploader.ledger.lanes import activate_chosen_lanes, activate_lanes, choose, refresh_lanes
from uploader.ledger.leases import choose_part, open_workers
from uploader.ledger.load_leases import is_merging
from uploader.ledger.loading import save_rules, save_run
from uploader.ledger.reading import AccountFacts, BatchFacts, find_batches, unfinished_accounts
from uploader.ledger.sending import begin_sending, firsts, to_send
from uploader.ledger.staging import touch_batch
from uploader.ledger.steps import Steps
from uploader.ledger.workers import Identity, begin_worker, end_workers, renew_workers
from uploader.run.preparing import refuse_cost, refuse_pruned
from uploader.run.startup import Startup
from uploader.run.target import Account, Target
from uploader.settings import DEFAULT_ACCOUNT, Settings
from uploader.status.summary import ManifestWarning

log = logs.get_logger()


class BeingLoadedError(Exception):
    """Another run has begun to load the batch."""


class Prepared(NamedTuple):
    """A batch that is loaded and active: the accounts that it sends to, and all that it sends."""

    batch: BatchFacts
    accounts: Sequence[Account]
    sending: ToSend
    # the ledger's clock, in seconds since the epoch
    now: Callable[[], float]
    warnings: Sequence[ManifestWarning] = ()


class Recipient(NamedTuple):
    """An account that a batch is sent to."""

    account_id: int
    target: Target
    credentials: CredentialsSource


def identity(ledger: Ledger) -> Identity:
    """Return the place of this process, for the other workers."""
    return Identity(os.uname().nodename, ledger.process, __version__)


def recipients(connection: Connection, batch: BatchFacts, targets: Sequence[Target]) -> list[Recipient]:
    """Find the accounts that the batch has anything to send to, with their credentials.

    Raises:
        UsageError: The settings do not name one of them, or have no credentials for it.
    """
    found = unfinished_accounts(connection, batch.batch_id)
    if not found and len(targets) == 1:
        found = [AccountFacts(batch.account_id, batch.base_url, DEFAULT_ACCOUNT)]
    by_place = {(target.base_url, target.name): target for target in targets}
    accounts = []
    for account_id, base_url, name in found:
        target = by_place.get((base_url, name))
        if target is None:
            table = "above all tables" if name == DEFAULT_ACCOUNT else f"in [accounts.{name}]"
            raise UsageError(
                f"batch {batch.name}: it has items of the account {name} of {base_url}, which the settings do not "
                f"have: set its base_url {table}, and its credentials"
            )
        accounts.append(Recipient(account_id, target, target.credentials()))
    return accounts


class BatchWorkers:
    """The workers of a batch in this process, one for each account, from their begin until they carry anything.

    An exception in its block ends them.

    Args:
        startup: The start of the run, on its ledger.
        now: The ledger's clock.
    """

    def __init__(self, settings: Settings, startup: Startup, now: Callable[[], float]) -> None:
        self.accounts: list[Account] = []
        # by account, the last position of the part that is sent; None: all
        self._ends: dict[int, int | None] = {}
        self._settings = settings
        self._startup = startup
        self._now = now
        self._batch_id = 0
        # of the lanes that are written
        self._account_ids: Collection[int] = ()

    def __enter__(self) -> Self:
        """Return the workers, which an exception in the block ends."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """End the workers after an exception, as soon as the ledger can be written."""
        if error is not None and self.accounts:
            self._startup.end_later(self._end)

    def _end(self, connection: Connection) -> None:
        begun, process = {account.worker_id for account in self.accounts}, self._startup.ledger.process
        # where the transaction that began them was lost, the ledger has none of them, and perhaps gave their ids away
        ended = [one for one in open_workers(connection) if one.worker_id in begun and one.process == process]
        keeps = self._settings.doubt_seconds, self._settings.job_timeout_seconds
        end_workers(connection, ended, self._now(), *keeps)

    def steps(
        self, connection: Connection, account_ids: Collection[int], lease: Callable[[], object] = lambda: None
    ) -> Steps:
        """Make the steps by which the ledger is written.

        Args:
            connection: As ``Ledger.staging`` gave it.
            account_ids: The accounts that each step locks.
            lease: Renews the lease of the load, in each step.
        """
        self._account_ids = account_ids

        @contextmanager
        def locked() -> Iterator[None]:
            self._startup.check_stop()
            with self._startup.ledger.locking(connection, account_ids):
                lease()
                renew_workers(connection, [account.worker_id for account in self.accounts], self._now())
                yield

        return Steps(connection, locked)

    def begin(self, connection: Connection, batch_id: int, sent_to: Sequence[Recipient]) -> None:
        """Begin the workers; they want nothing of the batch before its part (``--first``) is chosen."""
        self._connection = connection
        self._batch_id = batch_id
        until = None if self._settings.first is None else 0
        process = identity(self._startup.ledger)
        for account_id, target, credentials in sent_to:
            save_rules(connection, account_id, limit=target.settings.limit, holds=self._settings.lanes.hold)
            worker_id = begin_worker(connection, account_id, batch_id, process, self._now(), until_position=until)
            self.accounts.append(Account(account_id, worker_id, target, credentials))

    def activate(self, lanes: Mapping[str, int]) -> None:
        """Make a range of lanes active, as far as no part of the batch is to be chosen."""
        sent_to = {account.account_id for account in self.accounts if self._settings.first is None}
        for account_id in self._account_ids:
            if account_id in sent_to:
                activate_lanes(self._connection, account_id, self._batch_id, lanes)
            else:
                # the load may have deleted or moved what the batch sends nothing after
                refresh_lanes(self._connection, account_id, lanes)

    def activate_part(self, steps: Steps) -> None:
        """Choose the part of the batch that is to be sent (``--first``), where one is, and make its lanes active."""
        if self._settings.first is None:
            return
        with self._connection.begin():
            parts = firsts(
                self._connection,
                [account.account_id for account in self.accounts],
                self._batch_id,
                self._settings.first,
            )
            ends = {account_id: self._end_of_part(account_id, count) for account_id, count in parts.items()}
        self._ends = ends
        with steps.locked():
            for account in self.accounts:
                choose_part(self._connection, account.worker_id, ends[account.account_id])

        def activate(lanes: Mapping[str, int]) -> None:
            for account in self.accounts:
                until = ends[account.account_id]
                place = account.account_id, self._batch_id, lanes
                activate_chosen_lanes(self._connection, *place, worker_id=account.worker_id, until=until)

        steps.over_lanes(activate)

    def _end_of_part(self, account_id: int, count: int | None) -> int | None:
        return None if count is None else choose(self._connection, account_id, self._batch_id, count)

    def sending(self) -> ToSend:
        """Sum up what is sent."""
        with self._connection.begin():
            sums = [
                to_send(self._connection, account.account_id, self._batch_id, self._ends.get(account.account_id))
                for account in self.accounts
            ]
        return sum(sums, ToSend())


def carry_on(
    settings: Settings,
    startup: Startup,
    find: Callable[[Connection], tuple[BatchFacts, Path]],
    targets: Sequence[Target],
    now: Callable[[], float],
) -> Prepared:
    """Begin workers of a batch that was loaded before, unless it would cost too much.

    Args:
        startup: The start of the run, on its ledger.
        find: Finds the batch, and its results file, in a transaction.
        targets: The services of all accounts, that of the account above all tables first.
        now: The ledger's clock.

    Raises:
        UsageError: It would cost too much, or an account is missing.
        BeingLoadedError: Another run has begun to load it.
    """
    with startup.ledger.writing() as connection:
        batch, path = find(connection)
        _check_loaded(connection, batch)
        if settings.max_billed_minutes is not None:
            _refuse_cost(settings, connection, batch, targets)
        save_run(connection, batch.batch_id, path.resolve(), now())
        (batch,) = find_batches(connection, batch.name, ids=[batch.batch_id])
    return take_part(settings, startup, batch, targets, now)


def _refuse_cost(settings: Settings, connection: Connection, batch: BatchFacts, targets: Sequence[Target]) -> None:
    """Begin to send a batch, see what that costs, and undo it.

    Raises:
        UsageError: It would cost too much, or an account is missing.
    """
    with connection.begin_nested() as dry:
        found = recipients(connection, batch, targets)
        own_settings = {recipient.account_id: recipient.target.settings for recipient in found}
        sending = sum(begin_sending(connection, batch.batch_id, own_settings, settings.first).values(), ToSend())
        dry.rollback()
    refuse_cost(settings, batch.name, sending)
    log_unknown_lengths(sending)


def log_unknown_lengths(sending: ToSend) -> None:
    """Log the files that are not among the billed minutes, as their lengths are unknown."""
    if sending.all.unknown_lengths:
        log.warning("manifest.unknown_lengths", files=sending.all.unknown_lengths)


def take_part(
    settings: Settings, startup: Startup, batch: BatchFacts, targets: Sequence[Target], now: Callable[[], float]
) -> Prepared:
    """Begin workers of a batch that was loaded before, and make its lanes active in steps.

    Raises:
        UsageError: An account is missing, the batch's rows were forgotten meanwhile, or it would cost too much.
        BeingLoadedError: Another run has begun to load it meanwhile.
    """
    with BatchWorkers(settings, startup, now) as own, startup.ledger.staging() as connection:
        with connection.begin():
            sent_to = recipients(connection, batch, targets)
            touch_batch(connection, batch.batch_id)
        # that of the batch, too: whoever loads it locks it
        steps = own.steps(connection, {batch.account_id, *(recipient.account_id for recipient in sent_to)})
        with steps.locked():
            _check_loaded(connection, batch)
            # a prune that found the batch before it had a worker may have begun
            (found,) = find_batches(connection, ids=[batch.batch_id])
            refuse_pruned(found)
            own.begin(connection, batch.batch_id, sent_to)
        if settings.first is None:
            steps.over_lanes(own.activate)
        own.activate_part(steps)
        sending = own.sending()
        # others may have claimed or settled items since the check, so that the part is another one
        refuse_cost(settings, batch.name, sending)
        return Prepared(batch, own.accounts, sending, now)


def _check_loaded(connection: Connection, batch: BatchFacts) -> None:
    """Check that all rows of a batch are in the ledger.

    Raises:
        BeingLoadedError: They are not.
    """
    if is_merging(connection, batch.account_id, batch.name):
        raise BeingLoadedError
