"""Loads a manifest, or a batch that was loaded before, into the ledger."""

from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path

from uploader import logs, results
from uploader.errors import UsageError
from uploader.ledger import Connection, Ledger
from uploader.ledger.amounts import ToSend
from uploader.ledger.reading import BatchFacts, find_batches
from uploader.ledger.workers import take_over
from uploader.run import summary_file
from uploader.run.activation import BeingLoadedError, Prepared, carry_on
from uploader.run.manifest_load import ManifestLoad, await_load
from uploader.run.preparing import (
    STANDARD_INPUT,
    ManifestCheck,
    ManifestFile,
    check_known_results,
    config_parameters,
    manifest_file,
    refuse_pruned,
)
from uploader.run.startup import Startup
from uploader.run.target import Target
from uploader.settings import Settings
from uploader.status.summary import ManifestWarning

log = logs.get_logger()


def prepare(
    settings: Settings,
    manifest: str | None,
    ledger: Ledger,
    targets: Sequence[Target],
    check_stop: Callable[[], None],
) -> Prepared:
    """Take over what dead workers left, then load the manifest or the named batch, before any byte is sent.

    Args:
        manifest: The manifest, None to carry on a batch that was loaded before.
        targets: The services of all accounts, that of the account above all tables first.
        check_stop: Raises where the run is to stop; called again and again.

    Raises:
        UploaderError: The run cannot begin.
    """
    check_stop()
    config_parameters(settings)
    startup = Startup(ledger, settings.ledger_away_seconds, check_stop)
    now = startup.run(partial(take_over, ledger, settings.doubt_seconds, settings.job_timeout_seconds))
    if manifest is None:
        return startup.run(partial(_carry_on, settings, startup, targets, now))
    with manifest_file(manifest, settings, check_stop) as file:
        return startup.run(partial(_load, settings, file, startup, targets, now))


def log_leftovers(sending: ToSend) -> None:
    """Log the leftovers of other batches that this run sends with its own items."""
    if sending.leftovers:
        log.warning(
            "leftovers.carried",
            items=sum(leftover.amount.files for leftover in sending.leftovers),
            billedMinutes=round(sum(leftover.amount.billed_seconds for leftover in sending.leftovers) / 60, 2),
            batches={leftover.batch: leftover.amount.files for leftover in sending.leftovers},
        )


def _load(
    settings: Settings, file: ManifestFile, startup: Startup, targets: Sequence[Target], now: Callable[[], float]
) -> Prepared:
    """Load a manifest, or carry its load on where one was interrupted."""
    check = ManifestCheck()
    prepared = ManifestLoad(settings, file, startup, targets, now, check).load()
    kinds = check.warnings.kinds
    return prepared._replace(warnings=[ManifestWarning(kind.line, *told, kind.count) for told, kind in kinds.items()])


def _carry_on(settings: Settings, startup: Startup, targets: Sequence[Target], now: Callable[[], float]) -> Prepared:
    """Begin workers of a batch that was loaded before.

    Raises:
        UsageError: There is none, its load was interrupted, or the run would cost too much.
    """
    name = settings.batch or ""

    def find(connection: Connection) -> tuple[BatchFacts, Path]:
        known = find_batches(connection, name)
        found = [batch for batch in known if batch.base_url == targets[0].base_url]
        if not found:
            elsewhere = f" (it was loaded for {known[0].base_url})" if known else ""
            raise UsageError(f"batch {name}: the ledger has none{elsewhere}: `uploader run MANIFEST` loads it")
        (batch, *_) = found
        refuse_pruned(batch)
        path = settings.results or Path(batch.results or "")
        results.check_path(path)
        summary_file.check_apart(settings, path)
        manifest = None if batch.manifest == STANDARD_INPUT else batch.manifest
        check_known_results(settings, path, startup.ledger, manifest)
        return batch, path

    while True:
        await_load(startup, targets[0].base_url, name, now)
        with suppress(BeingLoadedError):
            return carry_on(settings, startup, find, targets, now)
