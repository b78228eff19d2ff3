"""`run_batch`: loads a manifest or a loaded batch, runs it, writes the results, and returns the summary."""

import os
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import AsyncExitStack, ExitStack, asynccontextmanager, contextmanager, nullcontext
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any
from urllib.parse import urlsplit

from uploader import __version__, logs
from uploader.client import Credentials
from uploader.errors import BatchRefusedError, ExitCode, UploaderError, UsageError
from uploader.ledger import Ledger
from uploader.parameters.config import wrong_parameters
from uploader.run import summary_file
from uploader.run.batch_run import BatchRun
from uploader.run.events import Events
from uploader.run.hours import local_time, until_time
from uploader.run.loading import log_leftovers, prepare
from uploader.run.preparing import batch_name, config_parameters
from uploader.run.reporting import RunReporter
from uploader.run.shared import Shared
from uploader.run.stopping import Stop
from uploader.run.target import Target, check_far, credentials, far_options
from uploader.run.threads import in_thread
from uploader.settings import Settings, host_and_port, is_loopback
from uploader.settings.loading import load
from uploader.status.formatting import held_back_json
from uploader.status.progress import Progress
from uploader.status.summary import Summary

log = logs.get_logger()

FAULT_REASON = "a fault of the uploader itself; nothing is lost: run the same command again"


def load_settings(config: str | os.PathLike[str] | None = None, **values: Any) -> Settings:
    """Load the settings as the command does: from environment, secrets folder and config file.

    Args:
        config: The config file, in TOML; None takes the one that ``UPLOADER_CONFIG`` names, if any.
        **values: Settings that outrank all others, as flags do.

    Raises:
        UsageError: Values do not fit, or a file cannot be read.
    """
    named = os.environ.get("UPLOADER_CONFIG") if config is None else config
    return load(values, Path(named) if named else None, wrong_parameters)


async def run_batch(
    settings: Settings,
    manifest: str | os.PathLike[str] | None = None,
    *,
    on_event: Callable[[logs.Event], None] | None = None,
    on_progress: Callable[[Progress], None] | None = None,
    stop: Stop | None = None,
    again: Sequence[str] = (),
    shared: Shared | None = None,
) -> Summary:
    """Run a batch to its end, and write its results.

    The function handles no signal, prints nothing, and keeps nothing in this process: several runs may go on in one
    process, in one loop or in several threads.

    Args:
        settings: The settings; ``Settings(…)`` checks keyword arguments, ``load_settings(…)`` reads the environment
            and a config file as the command does.
        manifest: The manifest's path; None carries on the batch that the settings name.
        on_event: Called with each event of the log, a mapping of ``event``, ``level``, ``timestamp``, ``run``,
            ``host``, ``batch`` and the event's own fields; in the loop's thread. Where it raises, the run stops as at
            a request, and the exception is raised at the end.
        on_progress: Called twice a second with the run's progress; in place of the event ``run.progress``.
        stop: Stops the run when requested.
        again: The words of the command that carries on, for the summary.
        shared: The parts that the run shares with others of this loop.

    Returns:
        The closing summary; ``exit_code`` is the ending, and ``as_json()`` the object of ``--json``.

    Raises:
        UploaderError: The run could not begin: nothing was sent. The text has the cause and the remedy.
    """
    stop = stop if stop is not None else Stop()
    events = Events(on_event, stop)
    named = None if manifest is None else os.fspath(manifest)
    batch = batch_name(settings, named)
    known = {"run": os.urandom(6).hex(), "host": os.uname().nodename, **logs.bound()}
    if batch:
        known["batch"] = batch
    shared = shared or Shared()
    with logs.scope(events.take, **known):
        reporter = RunReporter(settings, batch, named, shared.renamed)
        try:
            summary = await _run(settings, named, reporter, stop, on_progress, again, shared)
        except Exception as error:
            # an exception of on_event has stopped the run, and is the cause
            cause = events.failure or error
            _log_failure(cause)
            await reporter.fail(cause)
            await events.flush()
            if cause is error:
                raise
            raise cause from error
        counts = {state.value: count for state, count in summary.standing.counts.items() if count}
        shares = held_back_json(summary.held_back)
        logs.log_end("run.ended", summary.exit_code, reason=summary.ending(), counts=counts, **shares)
        await events.flush()
        if events.failure is not None:
            raise events.failure
        return summary


def _log_failure(error: Exception) -> None:
    """Log the end of a run that could not begin, or that a fault ended."""
    if not isinstance(error, UploaderError):
        log.error("fault", exc_info=error)
        log.error("run.ended", exitCode=int(ExitCode.FAULT), reason=FAULT_REASON, counts={})
        return
    logs.log_refusal(str(error), getattr(error, "problems", ()))
    # the first line alone: rows and their paths may stand below it
    log.error("run.ended", exitCode=int(error.exit_code), reason=str(error).partition("\n")[0], counts={})


async def _run(
    settings: Settings,
    manifest: str | None,
    reporter: RunReporter,
    stop: Stop,
    on_progress: Callable[[Progress], None] | None,
    again: Sequence[str],
    shared: Shared,
) -> Summary:
    _check_batch(settings, manifest)
    reporter.begin()
    check_addresses(settings)
    check_far(settings)
    until = until_time(settings, local_time())
    if until is not None:
        log.info("run.until", until=until.isoformat(timespec="minutes"))
    async with _targets(settings) as targets:
        with ExitStack() as stack:
            # from before the ledger is opened: batches that share a conversation are loaded in the order of their begin
            async with shared.loading:
                with stop.before_sending(settings.grace_seconds):
                    ledger = await in_thread(stack.enter_context, _ledger(settings, stop))
                    begun = {"baseUrl": targets[0].base_url, "limit": settings.limit, "ledger": ledger.address}
                    log.info("run.begun", version=__version__, **begun)
                    summary_file.forget(settings)
                    try:
                        prepared = await in_thread(prepare, settings, manifest, ledger, targets, stop.check)
                    except UsageError as error:
                        raise BatchRefusedError(str(error), error.problems) from error
                    await in_thread(ledger.workers_have_begun)
            if ledger.is_new and not settings.sandbox:
                log.warning("ledger.made")
            log_leftovers(prepared.sending)
            ends_at = until.timestamp() if until else None
            batch_run = BatchRun(
                settings,
                ledger,
                prepared,
                ends_at,
                reporter,
                stop=stop,
                on_progress=on_progress,
                again=again,
                shared=shared,
            )
            return await batch_run.run()


def _check_batch(settings: Settings, manifest: str | None) -> None:
    if manifest is None and settings.batch is None:
        raise UsageError("name a MANIFEST to append, or --batch NAME to carry on a batch that was loaded before")
    if manifest is None and (settings.sandbox or settings.repeat):
        raise UsageError("--sandbox and --repeat need a MANIFEST")


def check_addresses(settings: Settings) -> None:
    """Check the addresses to listen on.

    Raises:
        UsageError: One lacks another that it needs, or strangers could read the status page.
    """
    _check_webhook(settings)
    _check_status(settings)


def _check_webhook(settings: Settings) -> None:
    """Refuse a listener without a public address, and an address without a listener."""
    for given, name, lacking, other in (
        (settings.webhook, "webhook", settings.webhook_url, "webhook-url URL"),
        (settings.webhook_url, "webhook_url", settings.webhook, "webhook HOST:PORT"),
    ):
        if given is not None and lacking is None:
            raise UsageError(
                f"{settings.source(name)}: {name} = {given!r}: say --{other} as well: where to listen, and how that is "
                "reached"
            )
    if settings.webhook_url is None:
        return
    if "webhookUrl" in config_parameters(settings):
        log.warning("webhook.overridden")
    if settings.webhook_url.startswith("http:") and not is_loopback(urlsplit(settings.webhook_url).hostname or ""):
        log.warning("webhook.plain_http")


def _check_status(settings: Settings) -> None:
    """Refuse a status page that others reach, and that asks nobody for a token."""
    if settings.status is None or settings.status_token is not None:
        return
    if not is_loopback(host_and_port(settings.status)[0]):
        raise UsageError(
            f"{settings.source('status')}: status = {settings.status!r}: others reach this address: set "
            "UPLOADER_STATUS_TOKEN to the token that readers have to bring, or listen on 127.0.0.1"
        )


@asynccontextmanager
async def _targets(settings: Settings) -> AsyncIterator[Sequence[Target]]:
    """Make the targets of all accounts, that of the account above all tables first; each sandbox is one account's."""
    if not settings.sandbox:
        if not settings.accounts:
            credentials(settings)  # no manifest is read in vain
        yield [Target(own, own.base_url) for own in settings.of_accounts]
        return
    from uploader.sandbox import Sandbox, SandboxSettings  # noqa: PLC0415 - a run of the service has no use for them

    async with AsyncExitStack() as stack:
        targets = []
        for own in settings.of_accounts:
            made_up = SandboxSettings(
                limit=own.limit, allowed_parameters=frozenset(own.extra_parameters), **far_options(own)
            )
            sandbox = await stack.enter_async_context(Sandbox(made_up))
            targets.append(Target(own, sandbox.base_url, Credentials(made_up.app_id, made_up.app_secret)))
        yield targets


@contextmanager
def _ledger(settings: Settings, stop: Stop) -> Iterator[Ledger]:
    """Open the ledger of the settings, or a temporary one for the sandbox."""
    with TemporaryDirectory(prefix="uploader-sandbox-") if settings.sandbox else nullcontext() as folder:
        url = f"sqlite:///{folder}/ledger.db" if folder else settings.ledger
        making = settings.new_ledger or settings.sandbox
        must_exist = settings.ledger_must_exist and not settings.sandbox
        with Ledger.open_for_run(url, must_exist=must_exist, on_container=making, patience=stop.patience) as ledger:
            try:
                yield ledger
            except UsageError:
                ledger.discard_if_empty()
                raise
