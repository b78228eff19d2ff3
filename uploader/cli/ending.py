"""How every command ends: its work, the report of a failure, and the exit code."""

import gc
import os
import signal
import sys
from collections.abc import Callable, Sequence
from contextlib import suppress
from itertools import pairwise
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any, NoReturn

import click

from uploader import early_signals, logs
from uploader.cli.signals import stop_signals
from uploader.errors import TOO_MANY_FILES, ExitCode, StoppedError, UploaderError, UsageError, describe
from uploader.settings import Settings

if TYPE_CHECKING:
    from uploader.model import Problem

# the commands whose standard error is a log, with the last event of it: in JSON nothing else may stand there
LAST_EVENTS = {"run": "run.ended", "work": "run.ended", "serve": "inbox.ended"}
# so many more objects made than freed, and the garbage collector runs
COLLECT_AFTER_OBJECTS = 10_000


def collect_rarely() -> None:
    """Run the garbage collector after many more new objects than usual, and never on what is imported."""
    gc.freeze()
    gc.set_threshold(COLLECT_AFTER_OBJECTS)
    gc.enable()


def end(work: Callable[[Settings], ExitCode], config: Path | None, flags: dict[str, Any]) -> NoReturn:
    """Run a command's work, report its failure, and exit with its code."""
    from uploader.parameters.config import wrong_parameters  # noqa: PLC0415 - --help has no use for it
    from uploader.settings.loading import check_words, load, unknown_environment  # noqa: PLC0415 - --help has no use for it

    reason = ""
    problems: Sequence[Problem] = ()
    try:
        _obey_signals()
        check_words(sys.argv, os.environ)
        given = {name: value for name, value in flags.items() if value is not None}
        settings = load(given, config, wrong_parameters)
        logs.configure(settings.log_format, settings.log_level, settings.log_file)
        for variable in unknown_environment():
            logs.get_logger().warning("environment.unknown", variable=variable)
        collect_rarely()
        code = work(settings)
        sys.stdout.flush()
    except UploaderError as error:
        reason, code = str(error), error.exit_code
        problems = getattr(error, "problems", problems)
    except BrokenPipeError:
        nobody_reads()
        # a run may have been cut short; a command that only prints has printed all that its reader wanted
        code = ExitCode.GAVE_UP if click.get_current_context().info_name == "run" else ExitCode.DONE
    except OSError as error:
        reason, code = _explain_failure(error), ExitCode.GAVE_UP
    except Exception:  # noqa: BLE001 - the one place that reports a fault of the uploader, with traceback and exit code
        logs.get_logger().exception("fault")
        reason, code = "a fault of the uploader itself; nothing is lost: run the same command again", ExitCode.FAULT
    if reason:
        context = click.get_current_context()
        as_json = bool(context.params.get("as_json"))
        report_failure(context.info_name or "", reason, code, problems, as_json=as_json)
        _print_failure(context.info_name or "", reason)
    logs.close()
    sys.exit(int(code))


def _explain_failure(error: OSError) -> str:
    """Explain an error of the system; empty where it is most likely a stream's, which is logged as such."""
    if error.errno in TOO_MANY_FILES:
        return describe(error)
    if error.filename is not None:
        return f"{error.filename}: {describe(error)}"
    # most likely standard output has no reader any more, or its disk is full; the ledger has everything
    logs.get_logger().warning("stream.unwritten", reason=error.strerror)
    return ""


def report_failure(
    command: str, reason: str, code: ExitCode, problems: "Sequence[Problem]" = (), *, as_json: bool
) -> None:
    """Report a failure to machines: an object on standard output and, where a log is written, its last events."""
    from uploader.cli.printing import print_json  # noqa: PLC0415 - --help has no use for it

    bound = logs.bound()
    if command in LAST_EVENTS:
        _open_log_file(sys.argv[1:])
        # the first line alone: rows and their paths may stand below it
        first = reason.partition("\n")[0]
        if logs.is_text():
            logs.mute()  # standard error has the reason already
        logs.log_refusal(reason, problems, with_values=True)
        counts: dict[str, Any] = {} if command == "serve" else {"counts": {}}
        logs.get_logger().error(LAST_EVENTS[command], exitCode=int(code), reason=first, **counts)
    if as_json:
        failure: dict[str, Any] = {
            "batch": bound.get("batch"),
            "exitCode": int(code),
            "reason": reason,
            "items": 0,
            "counts": {},
        }
        nothing = {"bytesSent": 0, "seconds": 0.0, "results": None, "ledger": None, "run": bound.get("run")}
        nothing["heldBackBy"] = {}  # as of a run that had no slot
        with suppress(OSError):
            print_json(failure | nothing if command == "run" else {"exitCode": int(code), "reason": reason})
            sys.stdout.flush()


def _open_log_file(words: Sequence[str]) -> None:
    """Open the log file that flags or environment name, where a run failed before its settings were loaded."""
    named = [value for word, value in pairwise([*words, ""]) if word == "--log-file"]
    named += [word.partition("=")[2] for word in words if word.startswith("--log-file=")]
    file = named[-1] if named else os.environ.get("UPLOADER_LOG_FILE")
    if file and not logs.has_file():
        # one that cannot be written is told where nothing else is wrong
        with suppress(UsageError):
            logs.configure("auto", "auto", Path(file))


def _print_failure(command: str, reason: str) -> None:
    """Print a failure for people, unless the log has it already on the same stream."""
    from uploader.cli.printing import print_error  # noqa: PLC0415 - --help has no use for it

    if command not in LAST_EVENTS or logs.is_text():
        print_error(f"uploader: {reason}")


def nobody_reads() -> None:
    """Redirect standard output to the null device once its reader is gone, as with `head`."""
    os.dup2(
        os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno()
    )  # else the interpreter reports the broken pipe at its exit


def _obey_signals() -> None:
    """Let the first signal raise a StoppedError, also one that came before; the second ends the process at once."""
    codes = stop_signals()

    def stop(number: int, _frame: FrameType | None) -> None:
        for other in codes:
            signal.signal(other, _leave)
        logs.leave_closed_terminal()
        raise StoppedError(codes[signal.Signals(number)])

    for number in codes:
        signal.signal(number, stop)
    came = early_signals.held()
    if came is not None:
        stop(came, None)


def _leave(number: int, _frame: FrameType | None) -> None:
    os._exit(128 + number)
