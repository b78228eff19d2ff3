"""Signals: a run that is told to end does so, whatever it waits for."""

import signal

import pytest

from tests.acceptance.batches import make_rows, read_results, write_manifest
from tests.acceptance.place import Place, until

HOUR = "3600"


@pytest.mark.real_start
@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
@pytest.mark.parametrize(("limit", "accepted"), [(4, 4), (1, 1)])
def test_a_signal_ends_a_run_that_only_waits(
    place: Place, number: signal.Signals, code: int, limit: int, accepted: int
) -> None:
    """Nothing is under way but jobs that take an hour: no container has to be killed, and the results are final."""
    rows = make_rows(place, 4, 4)
    write_manifest(place, "m.csv", rows)
    server = place.serve("--limit", "4", "--job-seconds", HOUR)
    place.use(server)
    running = place.start("run", "m.csv", "--limit", str(limit), "--summary", "s.json")
    until(lambda: len(server.journal.appended()) == accepted, "all is accepted that may be")
    until(lambda: running.err.read_text("utf-8").count('"event": "attempt"') == accepted, "every answer has come")
    assert running.stop(number).code == code
    states = [line["status"] for line in read_results(place.path("m.results.csv"))]
    assert sorted(states) == ["accepted"] * accepted + ["pending"] * (4 - accepted)
    assert place.path("s.json").exists()
