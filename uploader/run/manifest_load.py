"""Loads a manifest into the ledger as a batch, beside whoever works on it; of several runs one loads for all."""

import hashlib
import json
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import AbstractContextManager, suppress
from functools import partial
from pathlib import Path

from uploader import __version__, audio, logs
from uploader.errors import LedgerUnavailableError, UsageError
from uploader.ledger import Connection
from uploader.ledger.amounts import ToSend
from uploader.ledger.dry_run import dry_run
from uploader.ledger.load_leases import (
    LoadLease,
    Progress,
    are_accounts_free,
    begin_merge,
    end_lease,
    load_standing,
    renew_lease,
    take_accounts,
    take_lease,
)
from uploader.ledger.loading import (
    account,
    accounts_to_send,
    begin_load,
    current_repeat_id,
    end_load,
    former_accounts,
    newest_load,
    resolve,
    was_begun,
)
from uploader.ledger.matching import Hashes
from uploader.ledger.merging import merge, orphaned_by_load
from uploader.ledger.reading import BatchFacts, find_account, find_batches
from uploader.ledger.staging import Stage
from uploader.model import InvalidRow, Load, State
from uploader.run import summary_file
from uploader.run.activation import BatchWorkers, BeingLoadedError, Prepared, Recipient, carry_on, log_unknown_lengths
from uploader.run.preparing import (
    STANDARD_INPUT,
    ManifestCheck,
    ManifestFile,
    add_alike,
    add_lacking,
    are_channels_separate,
    batch_name,
    check_known_results,
    config_parameters,
    counted_rows,
    refuse_cost,
    refuse_invalid,
    results_path,
)
from uploader.run.startup import Startup
from uploader.run.target import Target
from uploader.settings import Settings

log = logs.get_logger()
# the most kinds of a manifest's warnings that a run logs
WARNINGS_LOGGED = 20
# between two looks at a load of another run
LOOK_SECONDS = 0.2
# between two renewals of the lease of a load while the manifest is read
RENEWAL_SECONDS = 10.0


class ManifestLoad:
    """The load of one manifest.

    Args:
        file: The manifest.
        startup: The start of the run, on its ledger.
        targets: The services of all accounts, that of the account above all tables first.
        now: The ledger's clock.
        check: The counts and findings to add to.

    Raises:
        UsageError: There is no name for the batch, or the results cannot be written.
    """

    def __init__(
        self,
        settings: Settings,
        file: ManifestFile,
        startup: Startup,
        targets: Sequence[Target],
        now: Callable[[], float],
        check: ManifestCheck,
    ) -> None:
        ledger = startup.ledger
        self.path = results_path(settings, file)
        summary_file.check_apart(settings, self.path)
        check_known_results(settings, self.path, ledger, None if file.is_piped else file.name)
        if settings.batch is None and file.is_piped:
            raise UsageError(
                f"manifest {file.name}: for standard input or a pipe say which batch it is with --batch NAME"
            )
        self.name = batch_name(settings, file.name)
        self.settings = settings
        self.file = file
        self.startup = startup
        self.ledger = ledger
        self.targets = targets
        self.now = now
        self.check = check
        self.check_stop = startup.check_stop
        self._lease: LoadLease | None = None
        with ledger.writing() as connection:
            self.account_id = account(connection, targets[0].base_url)
            # the ids of the accounts with a table of their own, as far as the ledger has them
            self.accounts = _known_accounts(connection, targets)

    def load(self) -> Prepared:
        """Load the manifest, or wait for the run that loads the same one, and begin workers of the batch.

        Raises:
            UploaderError: The run cannot begin.
        """
        own = BatchWorkers(self.settings, self.startup, self.now)
        try:
            while (lease := self._take_lease()) is None:
                with suppress(BeingLoadedError):
                    return self._join()
            with own, self.ledger.staging() as connection:
                prepared = _HeldLoad(self, connection, lease).load(own)
        except BaseException:
            # also one whose COMMIT was not answered
            if self._lease is not None:
                self.startup.end_later(partial(end_lease, lease=self._lease, is_merged=False))
            raise
        with suppress(LedgerUnavailableError):
            self.ledger.analyze()
        return prepared

    def writing(self) -> AbstractContextManager[Connection]:
        """Begin a transaction with the batch's account locked."""
        return self.ledger.writing(lambda _: [self.account_id])

    def _take_lease(self) -> LoadLease | None:
        """Take the lease to load the batch; return None where another run has loaded the same manifest meanwhile."""
        digest = self._digest()
        place = self.account_id, self.name
        has_waited = False
        while True:
            with self.ledger.reading() as connection:
                found = load_standing(connection, *place, self.now(), self.ledger.is_gone)
            if found is None or not found.is_under_way:
                if has_waited and found is not None and (found.progress, found.digest) == (Progress.MERGED, digest):
                    return None
                with self.writing() as connection:
                    self._lease = take_lease(
                        connection, *place, digest, self.ledger.process, self.now(), self.ledger.is_gone
                    )
                if self._lease is not None:
                    return self._lease
            if not has_waited:
                log.info("load.awaited", reason="another run loads this batch")
            has_waited = True
            self.check_stop()
            time.sleep(LOOK_SECONDS)

    def _digest(self) -> str:
        """Return what identifies the load: the manifest's content, and the settings that its rows are read by."""
        settings, file = self.settings, self.file
        folder = settings.audio_root or (Path() if file.is_piped else Path(file.name).parent)
        about = [
            __version__,
            str(folder.absolute()),
            settings.audio_root is not None,
            file.format,
            settings.delimiter,
            settings.on_invalid,
            settings.repeat,
            config_parameters(settings),
            [(target.name, target.base_url) for target in self.targets],
        ]
        with file.path.open("rb") as content:
            found = hashlib.file_digest(content, "sha256")
        found.update(json.dumps(about, sort_keys=True, default=str).encode())
        return found.hexdigest()

    def _join(self) -> Prepared:
        """Begin workers of the batch that another run has loaded."""

        def find(connection: Connection) -> tuple[BatchFacts, Path]:
            (batch,) = find_batches(connection, self.name, base_url=self.targets[0].base_url)
            return batch, self.path

        return carry_on(self.settings, self.startup, find, self.targets, self.now)


class _HeldLoad:
    """The load of a manifest under its lease, on the stage's connection."""

    def __init__(self, load: ManifestLoad, connection: Connection, lease: LoadLease) -> None:
        self._load = load
        self._settings = load.settings
        self._ledger = load.ledger
        self._check = load.check
        self._connection = connection
        self._lease = lease
        self._stage = Stage(connection, load.account_id, load.accounts)
        connection.commit()
        self._extra_columns: Sequence[str] = ()
        self._hashes = Hashes(self._content_hash)
        self._lacking: Sequence[InvalidRow] = ()
        # the ids of all accounts that rows name, or that those of an earlier load named
        self._account_ids = {load.account_id}
        self._renewed_at = time.monotonic()

    def load(self, own: BatchWorkers) -> Prepared:
        """Stage, match and merge the manifest, and make its lanes active for this run's workers."""
        connection = self._connection
        self._read()
        self._match()
        self._refuse_cost()
        sent_to = self._recipients()
        steps = own.steps(connection, self._account_ids, lambda: renew_lease(connection, self._lease, self._load.now()))
        with steps.locked():
            begin_merge(connection, self._lease)
            load = self._begin_load()
            own.begin(connection, load.batch_id, sent_to)
        merge(connection, load, self._account_ids, steps, own.activate, is_same=self._lease.is_same)
        own.activate_part(steps)
        with steps.locked():
            end_load(connection, load)
            # while nobody else may load it
            (batch,) = find_batches(connection, self._load.name, ids=[load.batch_id])
            end_lease(connection, self._lease, is_merged=True)
        return self._loaded(load, batch, own)

    def _read(self) -> None:
        """Read the manifest into the stage.

        Raises:
            UsageError: It has invalid rows, which are not to be left out.
        """
        load, connection, settings = self._load, self._connection, self._settings
        with connection.begin():
            reader = load.file.reader(settings, was_begun(connection, load.account_id, load.accounts))
            rows = counted_rows(reader, self._check, refuse=settings.on_invalid == "refuse", check_stop=self._go_on)
            self._stage.add(rows, audio.probe, separate=are_channels_separate(settings))
        self._extra_columns = list(reader.extra_columns)
        if settings.on_invalid == "refuse":
            refuse_invalid(self._check, load.file.name)
        with connection.begin():
            add_alike(self._check, connection, self._stage)
            named = self._stage.accounts() if len(load.targets) > 1 else set()
            self._account_ids |= former_accounts(connection, load.account_id, load.name)
        if named - load.accounts.keys():
            with self._ledger.writing() as writing:
                load.accounts = _make_accounts(writing, load.targets, named)
            with connection.begin():
                self._stage.name_accounts(load.accounts)
        self._account_ids |= {load.accounts[name] for name in named if name in load.accounts}

    def _go_on(self) -> None:
        """Renew the lease now and then, while nothing is written.

        Raises:
            UploaderError: The run is to stop.
        """
        self._load.check_stop()
        if time.monotonic() - self._renewed_at >= RENEWAL_SECONDS:
            self._renewed_at = time.monotonic()
            with self._ledger.writing(lambda _: self._account_ids) as writing:
                renew_lease(writing, self._lease, self._load.now())

    def _content_hash(self, path: str) -> str | None:
        self._go_on()
        return audio.content_hash(path)

    def _match(self) -> None:
        """Match the rows to existing items, and see to it that nobody else adds items to the accounts from then on.

        Raises:
            UsageError: Files are gone that no item of the ledger was begun with.
        """
        # at first without the leases, as files may have to be read
        with self._connection.begin() as transaction:
            newest = newest_load(self._connection)
            was_free = are_accounts_free(self._connection, self._account_ids)
            self._resolve()
            if was_free and self._hold_accounts(newest):
                transaction.commit()
                return
            transaction.rollback()
        while not self._lease.accounts and not self._hold_accounts(None):
            self._go_on()
            time.sleep(LOOK_SECONDS)
        with self._connection.begin():
            self._resolve()

    def _hold_accounts(self, newest: int | None) -> bool:
        """Take the leases to add items to the accounts; return True where none was loaded since the newest load."""
        load, gone = self._load, self._ledger.is_gone
        with self._ledger.writing(lambda _: self._account_ids) as writing:
            is_held = take_accounts(writing, self._lease, self._account_ids, load.now(), gone)
            return is_held and newest in (None, newest_load(writing))

    def _resolve(self) -> None:
        load, settings = self._load, self._settings
        repeat_id = current_repeat_id(self._connection, load.account_id, load.name, repeat=settings.repeat)
        self._lacking = resolve(self._connection, self._stage, repeat_id, self._hashes)
        if self._lacking and settings.on_invalid == "refuse":
            add_lacking(self._check, self._lacking)
            refuse_invalid(self._check, load.file.name)

    def _refuse_cost(self) -> None:
        """Run dry first, where a most of minutes is set.

        Raises:
            UsageError: The run would cost more.
        """
        if self._settings.max_billed_minutes is None:
            return
        load, settings, connection = self._load, self._settings, self._connection
        base_urls = {target.name: target.base_url for target in load.targets}
        with connection.begin() as transaction:
            alive = self._ledger.living_workers(connection)
            found = dry_run(connection, self._stage, settings, base_urls, load.name, load.now(), alive)
            transaction.rollback()
        sending = sum(found.sending.values(), ToSend())
        refuse_cost(settings, load.file.name, sending)
        log_unknown_lengths(sending)

    def _recipients(self) -> list[Recipient]:
        """Return the accounts that the rows are sent to, with their credentials.

        Raises:
            UsageError: There are no credentials for one of them.
        """
        load = self._load
        found = [load.account_id]
        if len(load.targets) > 1:
            with self._connection.begin():
                found = accounts_to_send(self._connection, load.account_id)
        by_id = {load.accounts[target.name]: target for target in load.targets[1:] if target.name in load.accounts}
        by_id[load.account_id] = load.targets[0]
        return [Recipient(account_id, by_id[account_id], by_id[account_id].credentials()) for account_id in found]

    def _begin_load(self) -> Load:
        load = self._load
        return begin_load(
            self._connection,
            load.account_id,
            load.name,
            manifest=STANDARD_INPUT if load.file.is_piped else str(Path(load.file.name).absolute()),
            results=load.path.resolve(),
            extra_columns=self._extra_columns,
            now=load.now(),
            repeat=self._settings.repeat,
        )

    def _loaded(self, load: Load, batch: BatchFacts, own: BatchWorkers) -> Prepared:
        """Log the findings, and return what is loaded.

        Raises:
            UsageError: It would cost too much.
        """
        add_lacking(self._check, self._lacking)
        _log_findings(self._check, self._load.name)
        with self._connection.begin():
            _log_orphans(self._load.name, orphaned_by_load(self._connection, load))
        sending = own.sending()
        # others may have claimed or settled items since the dry run
        refuse_cost(self._settings, self._load.file.name, sending)
        return Prepared(batch, own.accounts, sending, self._load.now)


def await_load(startup: Startup, base_url: str, name: str, now: Callable[[], float]) -> None:
    """Wait for the run that loads a batch, where there is one.

    Raises:
        UsageError: The batch's load was interrupted.
    """
    ledger = startup.ledger
    while True:
        with ledger.reading() as connection:
            account_id = find_account(connection, base_url)
            found = None
            if account_id is not None:
                found = load_standing(connection, account_id, name, now(), ledger.is_gone)
        if found is None or not found.is_under_way:
            break
        startup.check_stop()
        time.sleep(LOOK_SECONDS)
    if found is not None and found.progress is Progress.MERGING:
        raise UsageError(f"batch {name}: its load was interrupted: `uploader run MANIFEST` carries it on")


def _known_accounts(connection: Connection, targets: Sequence[Target]) -> dict[str, int]:
    """Return the ids of the accounts with a table of their own, as far as the ledger has them."""
    found = {target.name: find_account(connection, target.base_url, target.name) for target in targets[1:]}
    return {name: account_id for name, account_id in found.items() if account_id is not None}


def _make_accounts(connection: Connection, targets: Sequence[Target], named: Collection[str]) -> dict[str, int]:
    """Make the accounts that rows name, and return the ids of all with a table of their own."""
    for target in targets[1:]:
        if target.name in named:
            account(connection, target.base_url, target.name)
    return _known_accounts(connection, targets)


def _log_findings(check: ManifestCheck, batch: str) -> None:
    for number, ((column, remedy), kind) in enumerate(check.warnings.kinds.items()):
        if number == WARNINGS_LOGGED:
            log.warning("manifest.warned", batch=batch, remedy="more warnings: `uploader plan` tells them")
            break
        log.warning("manifest.warned", batch=batch, line=kind.line, column=column, count=kind.count, remedy=remedy)
    for problem in check.problems.first:  # the value may be a path, which the results may show and the log may not
        log.warning("row.left_out", batch=batch, line=problem.line, column=problem.column)


def _log_orphans(batch: str, left: Mapping[State, int]) -> None:
    """Log items that a reused batch name leaves without a row, which would hide their outcome."""
    counts = {state.value: count for state, count in left.items() if count}
    if counts:
        log.warning(
            "rows.orphaned",
            batch=batch,
            items=sum(counts.values()),
            counts=counts,
            remedy="put them back and run, or settle them (`uploader resolve` lists them); for a job every night, "
            "give each night a name (--batch)",
        )
