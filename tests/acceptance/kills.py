"""``python -m tests.acceptance.kills --kills N --seed S``: one batch, killed N times, over TCP, with faults on."""

import argparse
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from random import Random
from tempfile import TemporaryDirectory
from typing import Any

from tests.acceptance.batches import Row, make_rows, read_results, write_manifest
from tests.acceptance.judging import appended, wanted
from tests.acceptance.place import Ending, Place, Running, Server

LIMIT = 10
FILES_PER_KILL = 9
SHORTEST_SECONDS, LONGEST_SECONDS = 0.8, 2.2
RUN = ("run", "m.csv", "--limit", str(LIMIT), "--rate", "50", "--doubt-seconds", "3", "--json", "--log-level", "error")
FAULTS = """
seed = {seed}
[put]
lost_answer = 0.004
lost_before = 0.004
status_502 = 0.004
cut = 0.02
throttled = 0.02
unauthorized = 0.01
slow_answer = 0.05
slow_seconds = 0.3
[poll]
status_500 = 0.05
[jobs]
failed = 0.004
"""


def kill_often(place: Place, kills: int, seed: int) -> tuple[Server, Sequence[Row], int, Ending]:
    """Run a batch that is killed at random moments, then once to its end.

    Returns:
        The server, the rows, how many runs were killed, and how the last run ended.
    """
    rows = make_rows(place, kills * FILES_PER_KILL, max(kills * FILES_PER_KILL // 5, 1), seed=seed)
    write_manifest(place, "m.csv", rows)
    slow = ("--job-seconds", "1.2", "--job-seconds-per-mebibyte", "2")
    server = place.serve("--limit", str(LIMIT), *slow, faults=FAULTS.format(seed=seed))
    place.use(server)
    draw = Random(seed)
    killed = sum(_is_killed(place.start(*RUN), draw.uniform(SHORTEST_SECONDS, LONGEST_SECONDS)) for _ in range(kills))
    return server, rows, killed, place.start(*RUN).wait(1800.0)


def _is_killed(running: Running, seconds: float) -> bool:
    """Kill a run after so long, unless it has ended by then."""
    try:
        running.wait(seconds)
    except subprocess.TimeoutExpired:
        running.stop(signal.SIGKILL)
        return True
    return False


def count_faults(server: Server, rows: Sequence[Row], results: Sequence[Mapping[str, Any]]) -> dict[str, int]:
    """Count the violations of each promise by the server's journal.

    Counted are conversations with an append too many, with one out of order, and with one that the results do
    not explain; and the most jobs at once.
    """
    journal, meant = server.journal, wanted(rows)
    found = appended(journal)
    result: dict[str, Counter[str]] = {}
    for line in results:
        result.setdefault(line["conversationId"], Counter())[line["status"]] += 1
    return {
        "rows": len(results),
        "appended": sum(map(len, found.values())),
        "twice": sum(not Counter(there) <= Counter(meant[item]) for item, there in found.items()),
        "outOfOrder": sum(list(there) != list(meant[item][: len(there)]) for item, there in found.items()),
        "unexplained": sum(not _explains(result[item], len(found.get(item, []))) for item in meant),
        "peakLive": journal.peak_live(),
    }


def _explains(told: Counter[str], there: int) -> bool:
    """Tell whether the appends are those of ended items, and at most the one in doubt."""
    over = told["completed"] + told["failed"]
    return over <= there <= over + told["in_doubt"]


def main() -> int:
    """Kill, judge, tell; 1 where a promise was broken."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=200)
    parser.add_argument("--seed", type=int, default=1)
    chosen = parser.parse_args()
    begun = time.monotonic()
    with TemporaryDirectory() as folder:
        place = Place(Path(folder))
        try:
            server, rows, killed, ending = kill_often(place, chosen.kills, chosen.seed)
            found = count_faults(server, rows, read_results(place.path("m.results.csv")))
        finally:
            place.close()
    counts = {state: count for state, count in ending.summary["counts"].items() if count}
    seconds = round(time.monotonic() - begun)
    print(f"{killed} runs killed in {seconds} s, then exit {ending.code}: {counts}; {found}")  # noqa: T201 - its report
    broken = found["twice"] + found["outOfOrder"] + found["unexplained"] + max(found["peakLive"] - LIMIT, 0)
    return int(broken > 0 or found["rows"] != len(rows))


if __name__ == "__main__":
    sys.exit(main())
