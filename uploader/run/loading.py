"""Loads a manifest, or a batch that was loaded before, into the ledger."""

import os
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from uploader import __version__, audio, logs, results
from uploader.client import CredentialsSource
from uploader.errors import UsageError
from uploader.ledger import Connection, Ledger
from uploader.ledger.lanes import activate_batch
from uploader.ledger.loading import (
    account,
    begin_load,
    current_repeat_id,
    merge,
    resolve,
    save_rules,
    save_run,
    was_begun,
)
from uploader.ledger.matching import Hashes
from uploader.ledger.orphans import orphaned_by_load
from uploader.ledger.reading import AccountFacts, BatchFacts, find_account, find_batches, unfinished_accounts
from uploader.ledger.sending import ToSend, firsts, to_send
from uploader.ledger.staging import Stage
from uploader.ledger.workers import Identity, begin_worker, take_over
from uploader.model import State
from uploader.run import summary_file
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
    manifest_file,
    refuse_cost,
    refuse_invalid,
    refuse_pruned,
    results_path,
)
from uploader.run.target import Account, Target
from uploader.settings import DEFAULT_ACCOUNT, Settings
from uploader.status.summary import ManifestWarning

log = logs.get_logger()
# the most kinds of a manifest's warnings that a run logs
WARNINGS_LOGGED = 20


class Prepared(NamedTuple):
    """A batch that is loaded and active: the accounts that it sends to, and all that it sends."""

    batch: BatchFacts
    accounts: Sequence[Account]
    sending: ToSend
    # the ledger's clock, in seconds since the epoch
    now: Callable[[], float]
    warnings: Sequence[ManifestWarning] = ()


def prepare(
    settings: Settings,
    manifest: str | None,
    ledger: Ledger,
    targets: Sequence[Target],
    check_stop: Callable[[], None],
) -> Prepared:
    """Take over what dead workers left, then load the manifest or the named batch, before any byte is sent.

    Args:
        settings: The settings.
        manifest: The manifest, None to carry on a batch that was loaded before.
        ledger: The ledger.
        targets: The services of all accounts, that of the account above all tables first.
        check_stop: Raises where the run is to stop; called again and again.

    Raises:
        UploaderError: The run cannot begin.
    """
    check_stop()
    config_parameters(settings)
    now = take_over(ledger, settings.doubt_seconds, settings.job_timeout_seconds)
    if manifest is None:
        return _carry_on(settings, ledger, targets, now)
    check = ManifestCheck()
    with manifest_file(manifest, settings, check_stop) as file:
        prepared = _load(settings, file, ledger, targets, now, check, check_stop)
    kinds = check.warnings.kinds
    warnings = [ManifestWarning(kind.line, *told, kind.count) for told, kind in kinds.items()]
    return prepared._replace(warnings=warnings)


def identity(ledger: Ledger) -> Identity:
    """Return the place of this process, for the other workers."""
    return Identity(os.uname().nodename, ledger.process, __version__)


def _begin(
    settings: Settings,
    ledger: Ledger,
    connection: Connection,
    batch: BatchFacts,
    targets: Sequence[Target],
    name: str,
    now: Callable[[], float],
) -> Prepared:
    """Begin a worker of the batch for each of its accounts, and make its lanes active.

    Raises:
        UsageError: It would cost too much, or an account is missing: the load is undone.
    """
    found = _accounts(connection, batch, targets)
    for account_id, target, _ in found:
        save_rules(connection, account_id, limit=target.settings.limit, holds=settings.lanes.hold)
    sending, accounts, process = ToSend(), [], identity(ledger)
    parts = firsts(connection, [account_id for account_id, *_ in found], batch.batch_id, settings.first)
    for account_id, target, credentials in found:
        until = activate_batch(connection, account_id, batch.batch_id, first=parts[account_id])
        worker_id = begin_worker(connection, account_id, batch.batch_id, process, now(), until_position=until)
        accounts.append(Account(account_id, worker_id, target, credentials))
        sending += to_send(connection, account_id, batch.batch_id, until)
    refuse_cost(settings, name, sending)
    if settings.max_billed_minutes is not None and sending.all.unknown_lengths:
        log.warning("manifest.unknown_lengths", files=sending.all.unknown_lengths)
    return Prepared(batch, accounts, sending, now)


def _accounts(
    connection: Connection, batch: BatchFacts, targets: Sequence[Target]
) -> list[tuple[int, Target, CredentialsSource]]:
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
        accounts.append((account_id, target, target.credentials()))
    return accounts


def log_leftovers(sending: ToSend) -> None:
    """Log the leftovers of other batches that this run sends with its own items."""
    if sending.leftovers:
        log.warning(
            "leftovers.carried",
            items=sum(leftover.amount.files for leftover in sending.leftovers),
            billedMinutes=round(sum(leftover.amount.billed_seconds for leftover in sending.leftovers) / 60, 2),
            batches={leftover.batch: leftover.amount.files for leftover in sending.leftovers},
        )


def _carry_on(settings: Settings, ledger: Ledger, targets: Sequence[Target], now: Callable[[], float]) -> Prepared:
    with ledger.writing() as connection:
        known = find_batches(connection, settings.batch)
        found = [batch for batch in known if batch.base_url == targets[0].base_url]
        if not found:
            elsewhere = f" (it was loaded for {known[0].base_url})" if known else ""
            raise UsageError(
                f"batch {settings.batch}: the ledger has none{elsewhere}: `uploader run MANIFEST` loads it"
            )
        refuse_pruned(found[0])
        path = settings.results or Path(found[0].results or "")
        results.check_path(path)
        summary_file.check_apart(settings, path)
        save_run(connection, found[0].batch_id, path.resolve(), now())
        known = find_batches(connection, settings.batch)
        batch = next(batch for batch in known if batch.batch_id == found[0].batch_id)
        check_known_results(path, ledger, sandbox=False)
        return _begin(settings, ledger, connection, batch, targets, batch.name, now)


def _load(
    settings: Settings,
    file: ManifestFile,
    ledger: Ledger,
    targets: Sequence[Target],
    now: Callable[[], float],
    check: ManifestCheck,
    check_stop: Callable[[], None],
) -> Prepared:
    path = results_path(settings, file)
    summary_file.check_apart(settings, path)
    check_known_results(path, ledger, sandbox=settings.sandbox)
    if settings.batch is None and file.is_piped:
        raise UsageError(f"manifest {file.name}: for standard input or a pipe say which batch it is with --batch NAME")
    name = batch_name(settings, file.name)
    with ledger.writing() as connection:
        account_id = account(connection, targets[0].base_url)
        accounts = _known_accounts(connection, targets)
    with ledger.staging() as connection:
        with connection.begin():
            reader = file.reader(settings, was_begun(connection, account_id, accounts))
            stage = Stage(connection, account_id, accounts)
            rows = counted_rows(reader, check, refuse=settings.on_invalid == "refuse", check_stop=check_stop)
            stage.add(rows, audio.probe, separate=are_channels_separate(settings))
        if settings.on_invalid == "refuse":
            refuse_invalid(check, file.name)
        with connection.begin():
            add_alike(check, connection, stage)

            named = stage.accounts() - accounts.keys() if len(targets) > 1 else ()
        if named:
            with ledger.writing() as writing:
                accounts = _make_accounts(writing, targets, named)
            with connection.begin():
                stage.name_accounts(accounts)

        def content_hash(path: str) -> str | None:
            check_stop()
            return audio.content_hash(path)

        hashes = Hashes(content_hash)

        def load() -> Prepared:
            repeat_id = current_repeat_id(connection, account_id, name, repeat=settings.repeat)
            lacking = resolve(connection, stage, repeat_id, hashes)
            if lacking and settings.on_invalid == "refuse":
                add_lacking(check, lacking)
                refuse_invalid(check, file.name)
            begun = begin_load(
                connection,
                account_id,
                name,
                manifest=STANDARD_INPUT if file.is_piped else str(Path(file.name).absolute()),
                results=path.resolve(),
                extra_columns=list(reader.extra_columns),
                now=now(),
                repeat=settings.repeat,
            )
            merge(connection, begun)
            add_lacking(check, lacking)
            _log_findings(check, name)
            _log_orphans(name, orphaned_by_load(connection, begun))
            (batch,) = find_batches(connection, name, ids=[begun.batch_id])
            return _begin(settings, ledger, connection, batch, targets, file.name, now)

        def match() -> None:
            """Match the rows once, so that the files to compare are read before anything is locked."""
            repeat_id = current_repeat_id(connection, account_id, name, repeat=settings.repeat)
            resolve(connection, stage, repeat_id, hashes)

        return ledger.written_together(connection, load, match)


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
