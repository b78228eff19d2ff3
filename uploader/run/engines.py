"""The engines of a run, one for each account that it sends to, seen as one."""

from collections import Counter
from collections.abc import Callable, Coroutine, Mapping, Sequence
from functools import reduce
from operator import add
from typing import Any, NamedTuple, TypeVar

from uploader.engine import Engine, run_engines
from uploader.errors import CredentialsError, ExitCode, LedgerUnavailableError, UploaderError
from uploader.ledger.callbacks import CallbackResult
from uploader.model import LimitFacts, Outcome, State
from uploader.policy.facts import CallbackEffect
from uploader.policy.held_back import HeldBack, SlotUse, shares_of
from uploader.policy.histogram import JOB_BOUNDS, UPLOAD_BOUNDS, Histogram
from uploader.policy.limits import add_limits
from uploader.policy.waiting import Standstill
from uploader.run.target import Account
from uploader.settings import DEFAULT_ACCOUNT

T = TypeVar("T")


class AccountEngine(NamedTuple):
    """The engine of one account."""

    account: Account
    engine: Engine


class SeveralAccountsError(UploaderError):
    """Several accounts ended with errors of their own; the gravest gives the exit code."""

    def __init__(self, message: str, exit_code: ExitCode) -> None:
        super().__init__(message)
        self.exit_code = exit_code


class Engines:
    """The engines of a run, one for each account that it sends to."""

    def __init__(self, accounts: Sequence[AccountEngine]) -> None:
        self.accounts = accounts
        self._engines = [account.engine for account in accounts]

    async def run(self, background: Sequence[Callable[[], Coroutine[Any, Any, None]]]) -> None:
        """Run until each account is over, or nothing of it can go on.

        Args:
            background: Functions that run as long as any engine does.

        Raises:
            UploaderError: The reason for an early end of one account, or of several.
        """
        ended = await run_engines(self._engines, background)
        failures: dict[str, UploaderError] = {}
        for account, error in zip(self.accounts, ended, strict=True):
            if isinstance(error, UploaderError):
                failures[account.account.target.name] = error
            elif error is not None:
                raise error
        if failures:
            raise _failure(failures)

    def stop(self, reserve_seconds: float) -> None:
        """Start nothing new in any account; see ``Engine.stop``."""
        for engine in self._engines:
            engine.stop(reserve_seconds)

    def look_soon(self) -> None:
        """Look for what other workers have changed, in each account."""
        for engine in self._engines:
            engine.look_soon()

    def apply_callback(self, result: CallbackResult) -> None:
        """Continue after a callback that is in the ledger, in the account of its job."""
        concerned = [engine for account, engine in self.accounts if account.account_id == result.account_id]
        for engine in concerned or self._engines[:1]:
            engine.apply_callback(result)

    def slot_may_be_free(self) -> None:
        """Look for a free slot in each account."""
        for engine in self._engines:
            engine.flow.slot_may_be_free()

    @property
    def limit(self) -> LimitFacts:
        """The limits and slots of all accounts together."""
        return add_limits(self.limits.values())

    @property
    def limits(self) -> Mapping[int, LimitFacts]:
        """The limits and slots of the accounts by their ids."""
        return {account.account_id: engine.limit for account, engine in self.accounts}

    @property
    def standstill(self) -> Standstill | None:
        """The wait that ends first, where every account waits; None where one goes on."""
        found = [engine.standstill for engine in self._engines]
        waits = [wait for wait in found if wait is not None]
        return min(waits, key=lambda wait: wait.until) if waits and len(waits) == len(found) else None

    def held_back(self) -> HeldBack | None:
        """Return what has held the run back so far; None before anything was to be sent."""
        for engine in self._engines:
            engine.held_back()  # measures the slots up to now
        return shares_of(self.slot_seconds)

    def held_back_so_far(self) -> HeldBack | None:
        """Return ``held_back`` for a run that goes on: None until a slot was busy, as before it is only beginning."""
        found = self.held_back()
        return found if found is not None and found.busy else None

    @property
    def slot_seconds(self) -> Mapping[SlotUse, float]:
        """The slots' seconds by their use."""
        found = dict.fromkeys(SlotUse, 0.0)
        for engine in self._engines:
            for use, seconds in engine.meter.seconds.items():
                found[use] += seconds
        return found

    @property
    def full_seconds(self) -> float:
        """The seconds in which no slot of an account was idle, and something waited for one."""
        return max((engine.meter.full_seconds for engine in self._engines), default=0.0)

    @property
    def bytes_moved(self) -> int:
        """The bytes sent."""
        return sum(engine.flow.bytes_moved for engine in self._engines)

    @property
    def throttled(self) -> int:
        """The attempts of this run that were answered with a 429."""
        return sum(engine.throttled for engine in self._engines)

    @property
    def unwritten(self) -> int:
        """The attempts whose outcome could not be written to the ledger."""
        return sum(engine.unwritten for engine in self._engines)

    @property
    def attempts(self) -> Mapping[Outcome, int]:
        """The attempts by outcome."""
        return sum((engine.attempts for engine in self._engines), Counter())

    @property
    def jobs_ended(self) -> Mapping[State, int]:
        """The jobs whose end was seen, by the state of their items."""
        return sum((Counter(engine.jobs_ended) for engine in self._engines), Counter())

    @property
    def callbacks(self) -> Mapping[CallbackEffect, int]:
        """The callbacks by effect."""
        return sum((engine.callbacks for engine in self._engines), Counter())

    @property
    def status_requests(self) -> int:
        """The status requests of jobs."""
        return sum(engine.status_requests for engine in self._engines)

    @property
    def job_seconds(self) -> Histogram:
        """The lifetimes of the jobs whose end was seen."""
        return reduce(add, (engine.job_seconds for engine in self._engines), Histogram(JOB_BOUNDS))

    @property
    def upload_seconds(self) -> Histogram:
        """The seconds that uploads took."""
        return reduce(add, (engine.upload_seconds for engine in self._engines), Histogram(UPLOAD_BOUNDS))

    @property
    def is_webhook_silent(self) -> bool:
        """True where jobs had to be polled in some account although they have a webhook, and no callback has come."""
        return any(engine.is_webhook_silent for engine in self._engines)


def _failure(failures: Mapping[str, UploaderError]) -> UploaderError:
    """Return the error of a run, from the errors of its accounts."""
    # the ledger is the same for all accounts: its error is told once
    for error in failures.values():
        if isinstance(error, LedgerUnavailableError):
            return error
    if failures.keys() == {DEFAULT_ACCOUNT}:
        return failures[DEFAULT_ACCOUNT]
    told = "; ".join(f"account {name}: {error}" for name, error in failures.items())
    # credentials need a person, whatever may be tried again
    gravest = next((error for error in failures.values() if isinstance(error, CredentialsError)), None)
    return SeveralAccountsError(told, (gravest or next(iter(failures.values()))).exit_code)
