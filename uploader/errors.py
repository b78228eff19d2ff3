"""The uploader's own exceptions and their exit codes."""

import errno
from collections.abc import Sequence
from enum import IntEnum
from typing import Any


class ExitCode(IntEnum):
    """The exit codes of all commands: a contract with people's scripts and cron jobs."""

    DONE = 0
    """Every item of the batch completed or was dropped (or accepted, under ``--no-wait``)."""
    NEEDS_PERSON = 1
    """The batch is over, and some items were refused, failed or are held."""
    USAGE = 2
    """Usage, config or manifest: nothing was sent."""
    CREDENTIALS = 3
    """The service does not take the credentials."""
    IN_DOUBT = 4
    """The batch is over, and some items are in doubt, or their job never ended; outranks 1."""
    GAVE_UP = 5
    """Gave up for now: service, ledger or results out of reach, or the circuit breaker open; run again."""
    NOT_NOW = 6
    """Not now: a part of the batch stays pending on purpose, or another command needs the ledger or folder alone."""
    FAULT = 70
    """A fault of ours, with a traceback in the log; nothing is lost, run again."""
    HUNG_UP = 129
    """Stopped by SIGHUP (its terminal was closed), everything written; run again."""
    INTERRUPTED = 130
    """Stopped by SIGINT, everything written; run again."""
    TERMINATED = 143
    """Stopped by SIGTERM, everything written; run again."""


# the codes of a stop by a signal
STOPPED = (ExitCode.HUNG_UP, ExitCode.INTERRUPTED, ExitCode.TERMINATED)


class UploaderError(Exception):
    """An exception that ends the command; its text says the cause and the remedy."""

    exit_code = ExitCode.FAULT


class UsageError(UploaderError):
    """The command cannot be carried out as it was given; nothing was sent.

    Args:
        message: The cause and the remedy, for people.
        problems: The first problems of a manifest (``model.Problem``), which stand below the first line of the message.
    """

    exit_code = ExitCode.USAGE

    def __init__(self, message: str, problems: Sequence[Any] = ()) -> None:
        super().__init__(message)
        self.problems = problems


class BatchRefusedError(UsageError):
    """The manifest, or the place of its results, cannot be used as it is; nothing was sent."""


class CredentialsError(UploaderError):
    """The service does not take the credentials."""

    exit_code = ExitCode.CREDENTIALS


class GaveUpError(UploaderError):
    """The service did not give a good answer for too long, or refused everything."""

    exit_code = ExitCode.GAVE_UP


class SlotsHeldError(UploaderError):
    """Jobs that did not end and items in doubt hold all slots, and nothing else can move."""

    exit_code = ExitCode.IN_DOUBT


class LedgerUnavailableError(GaveUpError):
    """The ledger cannot be read or written now: a full disk, say."""


class LedgerAwayError(LedgerUnavailableError):
    """The ledger's server cannot be reached, or does not serve now: the same may succeed a moment later.

    Args:
        message: The cause and the remedy, for people.
        reason: The cause alone, in the server's or the driver's words.
    """

    def __init__(self, message: str, reason: str = "") -> None:
        super().__init__(message)
        self.reason = reason


class WorkerEndedError(GaveUpError):
    """Another worker has ended this one, as its lease was over."""

    def __init__(self) -> None:
        super().__init__(
            "another worker has ended this one, which had not renewed its lease (it was stopped, or could not reach "
            "the ledger): nothing more is sent, and the others carry on; run the same command again"
        )


class ResultsUnavailableError(GaveUpError):
    """The results or the summary cannot be written now."""


class LedgerBusyError(UploaderError):
    """Another command holds the ledger: one of the two needs it for itself."""

    exit_code = ExitCode.NOT_NOW


class FolderBusyError(UploaderError):
    """Another command works in the folder."""

    exit_code = ExitCode.NOT_NOW


class SourceError(UploaderError):
    """An audio file cannot be read, or changed while it was read: its item is refused.

    It never ends the command: ``client`` turns it into a reply.
    """


class SourceAwayError(SourceError):
    """A remote audio file cannot be read now: its item is tried again."""


class SourceMissingError(SourceError):
    """A file cannot be opened on this host: a run refuses its item, and a worker leaves it to the others."""


class StoppedError(UploaderError):
    """A signal, or a request to stop, came before the sending began."""

    def __init__(self, exit_code: ExitCode) -> None:
        super().__init__("stopped before anything was sent; run the same command again")
        self.exit_code = exit_code


# the process, or the machine, has as many files open as it may
TOO_MANY_FILES = (errno.EMFILE, errno.ENFILE)


def describe(error: OSError, remedy: str = "") -> str:
    """Describe an error of the system, with its remedy: where too many files are open there is only one."""
    if error.errno in TOO_MANY_FILES:
        remedy = "raise the limit of open files (ulimit -n)"
    return f"{error.strerror or error}{remedy and f': {remedy}'}"
