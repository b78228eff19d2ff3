"""``python -m tests.acceptance.crowd``: many workers on one ledger, and a random one of them killed every second."""

import argparse
import signal
import sys
import time
from contextlib import nullcontext
from pathlib import Path
from random import Random
from tempfile import TemporaryDirectory

from tests.acceptance.batches import make_rows, read_results, write_manifest
from tests.acceptance.judging import check_one_at_a_time
from tests.acceptance.kills import count_faults
from tests.acceptance.place import Place, Running
from tests.postgres import Database, running_server

DEADLINE_SECONDS = 1800.0


def run_crowd(place: Place, chosen: argparse.Namespace) -> dict[str, int]:
    """Let workers carry one manifest while they are killed and replaced; return the violations, and what was done."""
    rows = make_rows(place, chosen.items, chosen.lanes, seed=chosen.seed)
    write_manifest(place, "m.csv", rows)
    server = place.serve("--limit", str(chosen.limit), "--job-seconds", str(chosen.job_seconds))
    place.use(server)
    words = ("run", "m.csv", "--limit", str(chosen.limit), "--doubt-seconds", "3", "--log-level", "error", "--results")
    draw, killed, begun = Random(chosen.seed), 0, 0
    running: list[Running] = []
    ends_at = time.monotonic() + chosen.seconds
    while time.monotonic() < ends_at:
        running = [run for run in running if run.process.poll() is None]
        while len(running) < chosen.workers:
            begun += 1
            running.append(place.start(*words, f"results-{begun}.csv"))
        time.sleep(chosen.kill_every)
        victim = draw.choice(running)
        killed += victim.process.poll() is None
        victim.process.send_signal(signal.SIGKILL)
        victim.wait()
    for run in running:
        run.wait(DEADLINE_SECONDS)
    last = place.run("run", "m.csv", "--limit", str(chosen.limit), "--doubt-seconds", "3", "--results", "last.csv")
    check_one_at_a_time(server.journal)
    return {
        "killed": killed,
        "begun": begun,
        "exitCode": last.code,
        **count_faults(server, rows, read_results(place.path("last.csv"))),
    }


def main() -> int:
    """Run the crowd, and tell; 1 where a promise was broken."""
    parser = argparse.ArgumentParser(description=__doc__)
    for name, default in (("workers", 8), ("items", 10_000), ("lanes", 2_000), ("limit", 50), ("seed", 1)):
        parser.add_argument(f"--{name}", type=int, default=default)
    for name, seconds in (("seconds", 120.0), ("kill-every", 1.0), ("job-seconds", 0.5)):
        parser.add_argument(f"--{name}", type=float, default=seconds)
    parser.add_argument("--postgres", action="store_true", help="on a PostgreSQL server of the tests' own")
    chosen = parser.parse_args()
    with TemporaryDirectory() as folder, running_server("crowd") if chosen.postgres else nullcontext("") as address:
        place = Place(Path(folder))
        database = Database(address) if chosen.postgres else None
        if database is not None:
            place.environment["UPLOADER_LEDGER"] = database.url
        try:
            found = run_crowd(place, chosen)
        finally:
            place.close()
            if database is not None:
                database.drop()
    print(found)  # noqa: T201 - its report
    broken = found["twice"] + found["outOfOrder"] + found["unexplained"] + max(found["peakLive"] - chosen.limit, 0)
    return int(broken > 0 or found["rows"] != chosen.items)


if __name__ == "__main__":
    sys.exit(main())
