"""Runs a campaign: schedules of one kind, from a seed on, in several processes."""

import argparse
import os
import sys
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor, as_completed
from typing import NamedTuple

from tests.simulation.run import fault_in
from tests.simulation.schedule import Plan, draw, draw_several, draw_surplus

KINDS: dict[str, Callable[[int], Plan]] = {"single": draw, "several": draw_several, "surplus": draw_surplus}
# so many schedules are one task of a process
PER_TASK = 50


class Part(NamedTuple):
    """The outcome of a part of a campaign."""

    # by seed
    faults: dict[int, str]
    seeds: int
    cpu_seconds: float


def run(kind: str, seeds: range) -> Part:
    """Run the schedules of these seeds."""
    begun = time.process_time()
    found = {seed: fault for seed in seeds if (fault := fault_in(KINDS[kind](seed))) is not None}
    return Part(found, len(seeds), time.process_time() - begun)


def main() -> int:
    """Run a campaign, and write each violation with the command that shows it again; return the exit code."""
    parser = argparse.ArgumentParser(prog="python -m tests.simulation", description="Runs a campaign of schedules.")
    parser.add_argument("kind", choices=KINDS)
    parser.add_argument("--seed", type=int, default=0, help="the first schedule's")
    parser.add_argument("--count", type=int, default=1000, help="schedules")
    parser.add_argument("--processes", type=int, default=os.cpu_count() or 1)
    given = parser.parse_args()
    seeds = range(given.seed, given.seed + given.count)
    parts = [seeds[at : at + PER_TASK] for at in range(0, given.count, PER_TASK)]
    done = Part({}, 0, 0.0)
    with ProcessPoolExecutor(given.processes) as pool:
        for task in as_completed([pool.submit(run, given.kind, part) for part in parts]):
            part = task.result()
            for seed, fault in part.faults.items():
                again = f"python -m tests.simulation {given.kind} --seed {seed} --count 1"
                sys.stdout.write(f"{given.kind} {seed}: {fault}\n  {again}\n")
            done = Part(done.faults | part.faults, done.seeds + part.seeds, done.cpu_seconds + part.cpu_seconds)
            sys.stdout.flush()
            sys.stderr.write(f"{done.seeds} of {given.count}\n")
    sums = f"{done.seeds} seeds from {given.seed}, {len(done.faults)} violations, {done.cpu_seconds:.1f} CPU s"
    sys.stdout.write(f"{given.kind}: {sums}\n")
    return 1 if done.faults else 0


if __name__ == "__main__":
    sys.exit(main())
