"""The signals that stop a command, each with the exit code of a command that it stopped."""

import signal

from uploader.errors import ExitCode

_EXIT_CODES = {
    signal.SIGHUP: ExitCode.HUNG_UP,
    signal.SIGINT: ExitCode.INTERRUPTED,
    signal.SIGTERM: ExitCode.TERMINATED,
}

NAMES = {ExitCode.HUNG_UP: "SIGHUP", ExitCode.INTERRUPTED: "SIGINT (Ctrl-C)", ExitCode.TERMINATED: "SIGTERM"}
"""How a person knows the signal behind an exit code."""


def stop_signals() -> dict[signal.Signals, ExitCode]:
    """List the signals to heed, each with its exit code."""
    # nohup starts a command with SIGHUP ignored, so that it outlives its terminal
    is_detached = signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
    return {number: code for number, code in _EXIT_CODES.items() if not (is_detached and number is signal.SIGHUP)}
