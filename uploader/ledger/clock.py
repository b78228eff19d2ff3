"""The clock of a ledger's times, which no jump of a wall clock moves."""

import time
from collections.abc import Callable
from pathlib import Path

from sqlalchemy import Connection, bindparam, select, update

from uploader.ledger.schema import IS_UNFINISHED, accounts, items, ledger, workers
from uploader.model import SLOTTED, State

# smaller steps are the clock's ordinary correction, in seconds
LEAST_JUMP_SECONDS = 0.5
# seconds between two looks at a server's clock, and the share of them by which its host's and this one's differ at most
READ_CLOCK_SECONDS = 10.0
MOST_DRIFT = 1e-3

# the boot and the clock offset of the latest run
_CLOCK = select(ledger.c.boot_id, ledger.c.clock_offset)

# save the boot and the clock offset of this run
_SAVE_CLOCK = update(ledger).values(boot_id=bindparam("boot"), clock_offset=bindparam("offset"))

# move the times until which doubts keep their slots
_MOVE_SLOTS = (
    update(items)
    .where(IS_UNFINISHED, items.c.state.in_(SLOTTED), items.c.slot_until.is_not(None))
    .values(slot_until=items.c.slot_until + bindparam("jumped"))
)

# move the starts of live jobs
_MOVE_JOBS = (
    update(items)
    .where(IS_UNFINISHED, items.c.state == State.ACCEPTED)
    .values(accepted_at=items.c.accepted_at + bindparam("jumped"))
)

# move the times of the stated and the learned limit
_MOVE_LIMITS = update(accounts).values(
    stated_at=accounts.c.stated_at + bindparam("jumped"), observed_at=accounts.c.observed_at + bindparam("jumped")
)

# some worker that has not ended
_ANY_WORKER = select(workers.c.id).where(workers.c.ended_at.is_(None)).limit(1)


def any_open_worker(connection: Connection) -> bool:
    """Return True where a ledger has a worker that has not ended, of any account."""
    return connection.execute(_ANY_WORKER).first() is not None


# None where the system has no such clock
_BOOT_TIME = getattr(time, "CLOCK_BOOTTIME", None)


def steady_seconds() -> float:
    """Return the seconds of the host's steady clock, which goes on while the host sleeps."""
    return time.monotonic() if _BOOT_TIME is None else time.clock_gettime(_BOOT_TIME)


def steady_clock(wall: Callable[[], float], steady: Callable[[], float]) -> Callable[[], float]:
    """Build a clock of seconds since the epoch that follows a steady clock: no jump shortens a wait."""
    offset = wall() - steady()
    return lambda: offset + steady()


class ServerClock:
    """A server's clock as it goes on by the host's steady one, which follows it slowly; it never runs backwards.

    Args:
        server_seconds: The server's clock, as it was read just now.
        steady: The host's steady clock.
    """

    def __init__(self, server_seconds: float, steady: Callable[[], float] = steady_seconds) -> None:
        self._steady = steady
        self._read_at = steady()
        self._offset = server_seconds - self._read_at
        self._latest = server_seconds

    def __call__(self) -> float:
        """Return the time, in seconds since the epoch."""
        self._latest = max(self._latest, self._offset + self._steady())
        return self._latest

    @property
    def is_due(self) -> bool:
        """True where the server's clock is to be read anew."""
        return self._steady() >= self._read_at + READ_CLOCK_SECONDS

    def follow(self, server_seconds: float) -> None:
        """Follow the server's clock, which was read just now."""
        now = self._steady()
        # by no more than two clocks drift apart: a jump of the server's clock shortens no deadline
        most = MOST_DRIFT * (now - self._read_at)
        self._offset += min(max(server_seconds - now - self._offset, -most), most)
        self._read_at = now


def boot_clock() -> tuple[str, float]:
    """Return the id of the machine's boot, and the seconds that the wall clock is ahead of its steady clock."""
    try:
        boot_id = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
    except OSError:
        return "", 0.0  # there is no boot id outside Linux: the wall clock is believed
    return boot_id, time.time() - time.clock_gettime(time.CLOCK_BOOTTIME)


def rebase_deadlines(connection: Connection, boot_id: str, clock_offset: float) -> None:
    """Move deadlines and ages by the jump of the wall clock since the last run on this boot.

    Deadlines of slots stay as far ahead, and live jobs and the learned limit as old, as they are.

    Args:
        boot_id: The id of the machine's boot.
        clock_offset: Wall clock less steady clock, in seconds, now.
    """
    known = connection.execute(_CLOCK).one()
    if boot_id and known.boot_id == boot_id and known.clock_offset is not None:
        jumped = clock_offset - known.clock_offset
        if abs(jumped) < LEAST_JUMP_SECONDS:
            return  # not saved either, so that a slow drift counts once it adds up to a jump
        connection.execute(_MOVE_SLOTS, {"jumped": jumped})
        connection.execute(_MOVE_JOBS, {"jumped": jumped})
        connection.execute(_MOVE_LIMITS, {"jumped": jumped})
    connection.execute(_SAVE_CLOCK, {"boot": boot_id, "offset": clock_offset})
