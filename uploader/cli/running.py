"""`uploader run`: the signals, the live lines and the closing summary of a run."""

import asyncio
import os
import signal
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from types import FrameType

from uploader import logs
from uploader.cli import terminal
from uploader.cli.printing import print_json, print_lines
from uploader.cli.signals import NAMES, stop_signals
from uploader.errors import ExitCode
from uploader.run.batch import run_batch
from uploader.run.preparing import batch_name
from uploader.run.stopping import Stop
from uploader.settings import Settings
from uploader.status.progress import Progress

# options that the command that carries on has not: ``--until`` would mean tomorrow's time then, and the address of
# ``--notify`` is not to be shown
NOT_AGAIN = ("--until", "--notify")
# the events of a failure, which is reported at the end of the command
OF_FAILURE = ("fault", "row.invalid", "run.refused", "run.ended")


def run_to_end(settings: Settings, manifest: str | None, *, as_json: bool) -> ExitCode:
    """Run a batch to its end; print nothing but the closing summary to standard output."""
    # for the words of a failure, too
    if batch := batch_name(settings, manifest):
        logs.bind(batch=batch)
    stop = stop_at_signals()
    again = ("uploader", *words_again(sys.argv[1:]))
    with live_view(settings) as on_progress:
        summary = asyncio.run(
            run_batch(settings, manifest, on_event=write_event, on_progress=on_progress, stop=stop, again=again)
        )
    if as_json:
        print_json(summary.as_json())
    else:
        print_lines(summary.as_lines())
    return summary.exit_code


def work_until_stopped(settings: Settings, *, as_json: bool) -> ExitCode:
    """Work on every batch of the ledger until a signal; print nothing but the closing summary to standard output."""
    from uploader.run.worker_run import run_worker  # noqa: PLC0415 - a run has no use for it

    stop = stop_at_signals()
    with live_view(settings) as on_progress:
        summary = asyncio.run(run_worker(settings, stop=stop, on_progress=on_progress))
    if as_json:
        print_json(summary.as_json())
    else:
        print_lines(summary.as_lines())
    return summary.exit_code


def words_again(words: Sequence[str]) -> list[str]:
    """Return the words of the command that carries on."""
    kept = [word for word in words if not word.startswith(tuple(f"{option}=" for option in NOT_AGAIN))]
    for option in NOT_AGAIN:
        while option in kept:
            at = kept.index(option)
            del kept[at : at + 2]
    return kept


def write_event(event: logs.Event) -> None:
    """Write an event to the log; that of a failure has its place beside the words on standard error."""
    if not (event["level"] == "error" and event["event"] in OF_FAILURE):
        logs.write(event)


@contextmanager
def live_view(settings: Settings) -> Iterator[Callable[[Progress], None] | None]:
    """Show the progress on a terminal; elsewhere the log has it."""
    if settings.progress != "auto" or not terminal.can_redraw():
        yield None
        return
    from uploader.status.live import LiveView  # noqa: PLC0415 - rich is for terminals

    with LiveView() as view:
        yield view.show


def stop_at_signals() -> Stop:
    """Return what the first signal requests; the second ends the process."""
    stop = Stop()
    for number, code in stop_signals().items():
        signal.signal(number, _stop_with(stop, code))
    return stop


def _stop_with(stop: Stop, code: ExitCode) -> Callable[[int, FrameType | None], None]:
    def handle(_number: int, _frame: FrameType | None) -> None:
        if stop.code is not None:
            terminal.leave("uploader: ended at once; run the same command again, it carries on")
            os._exit(int(code))  # the second signal ends at once: the ledger is as after a crash
        logs.leave_closed_terminal()
        stop.request(code, NAMES[code])

    return handle
