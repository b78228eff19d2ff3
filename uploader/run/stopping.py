"""The request to stop a run, made by a signal or by a program."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from math import inf

from uploader.errors import ExitCode, LedgerAwayError, StoppedError


class Stop:
    """A request to stop a run; it can be made from any thread, and from a signal handler."""

    def __init__(self) -> None:
        # the exit code of the run that is stopped; None until then
        self.code: ExitCode | None = None
        # the person or program that asked, for the summary
        self.by = ""
        # the longest wait for a silent server in ``before_sending``, in seconds
        self._grace_seconds = inf
        self._callbacks: list[Callable[[], object]] = []

    def request(self, code: ExitCode = ExitCode.NOT_NOW, by: str = "the program that runs it") -> None:
        """Ask the run to start nothing new, and to end within the grace time; the first request counts.

        Args:
            code: The exit code of the run.
            by: The person or program that asks, for the summary.
        """
        # without a lock: a signal handler may interrupt the thread that holds one
        if self.code is not None:
            return
        self.by, self.code = by, code
        for callback in tuple(self._callbacks):
            callback()

    @contextmanager
    def subscribed(self, callback: Callable[[], object]) -> Iterator[None]:
        """Call a function at a request during the block, in the thread that makes it; at once where it was made."""
        self._callbacks.append(callback)
        if self.code is not None:
            callback()
        try:
            yield
        finally:
            self._callbacks.remove(callback)

    def patience(self) -> float:
        """Return for how many seconds a silent server is waited for at most."""
        return inf if self.code is None else self._grace_seconds

    @contextmanager
    def before_sending(self, grace_seconds: float) -> Iterator[None]:
        """Let ``patience`` be the grace time after a request during the block.

        Raises:
            StoppedError: The request has been made, and the server is away.
        """
        self._grace_seconds = grace_seconds
        try:
            yield
        except LedgerAwayError:
            # a statement of a load may only have taken longer than the grace time
            self.check()
            raise
        finally:
            self._grace_seconds = inf

    def check(self) -> None:
        """Raise where the run is to stop before anything was sent.

        Raises:
            StoppedError: The request has been made.
        """
        if self.code is not None:
            raise StoppedError(self.code)
