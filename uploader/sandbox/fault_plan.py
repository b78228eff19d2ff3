"""Draws the faults of each PUT, job, poll and callback, from the seed alone."""

import uuid
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from random import Random
from typing import Final, Literal

from uploader.sandbox.faults import Faults

# the prefix of every jobId of a sandbox, by which it is never taken for a real one
JOB_ID_PREFIX: Final = "sandbox-"

# the keys of `[put]` and `[calls]` that qualify the faults beside them
NO_FAULTS: Final = frozenset({"taken", "slow_seconds", "late_seconds"})

GATEWAY_FAULTS: Final = {"status_500": 500, "status_502": 502, "status_503": 503}
REFUSING_FAULTS: Final = {"throttled": 429, "unauthorized": 401}

Ending = Literal["completed", "failed", "endless"]


@dataclass(frozen=True, slots=True)
class FaultPlan:
    """The faults of one PUT that passed every check, and of its job."""

    fault: str | None
    taken: bool
    ending: Ending
    job_id: str

    @property
    def makes_job(self) -> bool:
        """True where the file is appended."""
        if self.fault in GATEWAY_FAULTS:
            return self.taken
        return self.fault in {None, "lost_answer", "slow_answer", "cut_taken"}


def plan_put(faults: Faults, conversation: str, number: int) -> FaultPlan:
    """Draw the faults of a conversation's PUT by its `number` (from 1), independent of other conversations."""
    draw = _random(faults.seed, conversation, number)
    fault = _pick(draw.random(), fault_shares(asdict(faults.put)))
    taken = draw.random() < faults.put.taken
    job_fault = _pick(draw.random(), asdict(faults.jobs))
    return FaultPlan(fault, taken, _ending(job_fault), f"{JOB_ID_PREFIX}{_uuid(draw)}")


def poll_fault(faults: Faults, job_id: str, number: int) -> str | None:
    """Draw the fault of a job's poll by its `number` (from 1); None for no fault."""
    draw = _random(faults.seed, job_id, number)
    return _pick(draw.random(), asdict(faults.poll))


def scatter(seed: int, conversation: str, sha256: str) -> float:
    """Draw a standard normal number for a content's job in a conversation, the same for every sender and time."""
    return _random(seed, f"{conversation}/{sha256}", 0).gauss()


def call_fault(faults: Faults, job_id: str, number: int) -> str | None:
    """Draw the fault of a status change's callback by its `number` (from 1); None for no fault."""
    draw = _random(faults.seed, f"call {job_id}", number)
    return _pick(draw.random(), fault_shares(asdict(faults.calls)))


def fault_shares(table: Mapping[str, float]) -> dict[str, float]:
    """Return the entries of a table that are shares of one whole."""
    return {name: value for name, value in table.items() if name not in NO_FAULTS}


def _random(seed: int, name: str, number: int) -> Random:
    # Each draw has a seed of its own, so that draws in between change nothing.
    return Random(f"{seed}/{name}/{number}")  # noqa: S311 - a replay must be predictable


def _pick(draw: float, shares: Mapping[str, float]) -> str | None:
    reached = 0.0
    for name, share in shares.items():
        reached += share
        if draw < reached:
            return name
    return None


def _ending(job_fault: str | None) -> Ending:
    if job_fault == "failed":
        return "failed"
    return "endless" if job_fault == "endless" else "completed"


def _uuid(draw: Random) -> uuid.UUID:
    return uuid.UUID(int=draw.getrandbits(128), version=4)
