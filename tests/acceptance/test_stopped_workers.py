"""Workers that are stopped for longer than their lease, at each step of an attempt, and then go on."""

import signal
import sys
import time
from pathlib import Path

import pytest

from tests.acceptance.batches import make_rows, read_results, write_manifest
from tests.acceptance.judging import check_appended, check_job_ids, check_limit, check_one_at_a_time
from tests.acceptance.place import Place, Running, until
from tests.acceptance.starting import ROOT, NewInterpreter
from tests.acceptance.stopped_at import STEPS
from uploader.errors import ExitCode
from uploader.ledger.leases import LEASE_SECONDS

LIMIT = 8
# a job lives longer than the first look at it takes, and an answer longer than the stop before it
SERVICE = ("--limit", str(LIMIT), "--job-seconds", "1.5")
FAULTS = "[put]\nslow_answer = 1.0\nslow_seconds = 1.0"


def is_stopped(running: Running) -> bool:
    """Return True where the kernel has stopped a command."""
    stat = Path(f"/proc/{running.process.pid}/stat").read_text(encoding="ascii")
    return stat.rpartition(")")[2].split()[0] == "T"


@pytest.mark.nightly
@pytest.mark.timeout(300)
def test_workers_that_are_stopped_for_longer_than_their_lease_append_nothing_twice(place_of: Place) -> None:
    """One at each step of an attempt, beside one that goes on: all is appended once, in order, nothing is in doubt."""
    place_of.starts = NewInterpreter
    rows = make_rows(place_of, 60, 20)
    write_manifest(place_of, "m.csv", rows)
    server = place_of.serve(*SERVICE, faults=FAULTS)
    place_of.use(server)
    words = ("run", "m.csv", "--limit", str(LIMIT), "--uploads", "1", "--json", "--results")
    stopped = []
    for step in STEPS:
        before = (sys.executable, "-m", "tests.acceptance.stopped_at", step)
        run = place_of.start(*words, f"{step}.csv", before=before, environment={"PYTHONPATH": str(ROOT)})
        until(lambda run=run: is_stopped(run), f"it is stopped {step}")  # type: ignore[misc]
        stopped.append(run)
    stays = place_of.start(*words, "stays.csv")
    over = time.monotonic() + LEASE_SECONDS + 5.0
    until(lambda: time.monotonic() > over, "all leases are over", seconds=2 * LEASE_SECONDS)
    for run in stopped:
        run.process.send_signal(signal.SIGCONT)
    endings = [run.wait() for run in (*stopped, stays)]
    told = [ending.err[-2000:] for ending in endings]
    assert {ending.code for ending in endings} <= {ExitCode.DONE, ExitCode.IN_DOUBT, ExitCode.GAVE_UP}, told
    last = place_of.run(*words, "last.csv")
    assert last.code == 0, last.err
    check_appended(server.journal, rows)
    check_job_ids(server.journal, read_results(place_of.path("last.csv")))
    check_limit(server.journal, LIMIT)
    check_one_at_a_time(server.journal)
