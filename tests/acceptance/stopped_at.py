"""``python -m tests.acceptance.stopped_at STEP … -m uploader ARGUMENTS``: the command, which stops itself at a step.

It stops as by SIGSTOP, once, in the first attempt that comes to the step, and goes on with SIGCONT.
"""

import asyncio
import os
import signal
import sys
from collections.abc import Callable
from typing import Any

from uploader.__main__ import main
from uploader.attempt import AttemptAdmission
from uploader.client import Client
from uploader.ledger.claiming import claim
from uploader.ledger.thread import LedgerThread

# how long after its last chunk a command that awaits the answer is stopped
ANSWER_STOP_SECONDS = 0.3


class Stop:
    """A stop of this process that comes once."""

    def __init__(self) -> None:
        self._has_come = False

    def __call__(self) -> None:
        """Stop here, unless that has been."""
        if not self._has_come:
            self._has_come = True
            os.kill(os.getpid(), signal.SIGSTOP)


def _around_claim(stop: Stop, *, is_after: bool) -> None:
    call = LedgerThread.call

    async def stopping(self: LedgerThread, function: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        if function is claim and not is_after:
            stop()
        result = await call(self, function, *args, **kwargs)
        if function is claim and is_after and result.claims:
            stop()
        return result

    LedgerThread.call = stopping  # type: ignore[method-assign]


def _soon(stop: Stop) -> None:
    asyncio.get_running_loop().call_later(ANSWER_STOP_SECONDS, stop)


def _before(kind: type[Any], name: str, stop: Callable[[], None]) -> None:
    function = getattr(kind, name)

    def stopping(*args: Any, **kwargs: Any) -> Any:
        stop()
        return function(*args, **kwargs)

    setattr(kind, name, stopping)


STEPS: dict[str, Callable[[Stop], None]] = {
    "before-the-claim": lambda stop: _around_claim(stop, is_after=False),
    "after-the-claim": lambda stop: _around_claim(stop, is_after=True),
    "during-the-body": lambda stop: _before(AttemptAdmission, "moved", stop),
    "before-the-last-chunk": lambda stop: _before(AttemptAdmission, "reason_to_withhold", stop),
    "awaiting-the-answer": lambda stop: _before(AttemptAdmission, "reason_to_withhold", lambda: _soon(stop)),
    "following-the-job": lambda stop: _before(Client, "job", stop),
}

if __name__ == "__main__":
    STEPS[sys.argv[1]](Stop())
    sys.argv = ["uploader", *sys.argv[sys.argv.index("uploader") + 1 :]]
    main()
