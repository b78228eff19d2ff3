"""The signals that stop a command, and its exit code after each."""

import signal

from uploader.errors import ExitCode

_EXIT_CODES = {
    signal.SIGHUP: ExitCode.HUNG_UP,
    signal.SIGINT: ExitCode.INTERRUPTED,
    signal.SIGTERM: ExitCode.TERMINATED,
}

# the names of the signals as users know them, by exit code
NAMES = {ExitCode.HUNG_UP: "SIGHUP", ExitCode.INTERRUPTED: "SIGINT (Ctrl-C)", ExitCode.TERMINATED: "SIGTERM"}


def stop_signals() -> dict[signal.Signals, ExitCode]:
    """List the signals to handle, each with its exit code."""
    # nohup starts a command with SIGHUP ignored, so that it outlives its terminal
    is_detached = signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
    return {number: code for number, code in _EXIT_CODES.items() if not (is_detached and number is signal.SIGHUP)}
