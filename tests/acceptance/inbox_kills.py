"""``python -m tests.acceptance.inbox_kills --kills N --seed S``: a service with ten manifests, killed N times."""

import argparse
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from random import Random
from tempfile import TemporaryDirectory

from tests.acceptance.batches import Row, make_rows, statuses, write_manifest
from tests.acceptance.judging import appended, wanted
from tests.acceptance.place import Place, Running, Server, until

LIMIT = 10
ROWS, LANES = 24, 6
SHORTEST_SECONDS, LONGEST_SECONDS = 0.5, 2.0
SERVE = ("serve", "inbox", "--limit", str(LIMIT), "--settle-seconds", "0.2", "--log-level", "info")
# what was begun and not admitted is sent again; what was admitted and not answered would be a person's
SLOW = ("--job-seconds", "0.3", "--job-seconds-per-mebibyte", "1")


def fill(place: Place, manifests: int, seed: int) -> Mapping[str, Sequence[Row]]:
    """Drop manifests of recordings and conversations of their own, each written under another name first."""
    dropped = {}
    for number in range(manifests):
        name, folder = f"m{number}.csv", f"audio{number}"
        made = make_rows(place, ROWS, LANES, seed=seed + number, folder=f"inbox/{folder}")
        rows = [Row(f"{row.conversation}-{number}", row.audio.removeprefix("inbox/"), row.sha256) for row in made]
        write_manifest(place, f"inbox/.{name}", rows).rename(place.path(f"inbox/{name}"))
        dropped[name] = rows
    return dropped


def over(place: Place, names: Sequence[str]) -> bool:
    """Return True where each manifest stands in done/ or failed/."""
    return all(any(place.path(f"inbox/{where}/{name}").exists() for where in ("done", "failed")) for name in names)


def kill_often(place: Place, manifests: int, kills: int, seed: int) -> tuple[Server, Mapping[str, Sequence[Row]], int]:
    """Serve an inbox whose service is killed at random moments, until all of it is over.

    Returns:
        The server, the rows by manifest, and how many services were killed while something was left to do.
    """
    dropped, draw = fill(place, manifests, seed), Random(seed)
    server = place.serve("--limit", str(LIMIT), *SLOW)
    place.use(server)
    killed = 0
    for _ in range(kills):
        left = not over(place, list(dropped))
        _kill(place.start(*SERVE), draw.uniform(SHORTEST_SECONDS, LONGEST_SECONDS))
        killed += left
    last = place.start(*SERVE)
    until(lambda: over(place, list(dropped)), "all manifests are over", 600.0)
    last.stop(signal.SIGTERM)
    return server, dropped, killed


def _kill(running: Running, seconds: float) -> None:
    try:
        running.wait(seconds)
    except subprocess.TimeoutExpired:
        running.stop(signal.SIGKILL)


def faults(place: Place, server: Server, dropped: Mapping[str, Sequence[Row]]) -> list[str]:
    """List the violations, judged by the server's journal; an append that only a person can settle is none.

    A service that dies between a last chunk and its answer leaves that item in doubt, and its manifest is in failed/:
    nothing is appended twice.
    """
    found, journal = [], server.journal
    there = appended(journal)
    for name, rows in dropped.items():
        where = "done" if place.path(f"inbox/done/{name}").exists() else "failed"
        told = statuses(place.path(f"inbox/{where}/{name.replace('.csv', '.results.csv')}"))
        is_whole = set(told) == {"completed"}
        if is_whole != (where == "done"):
            found.append(f"{name} is in {where}: {told}")
        if len(told) != len(rows):
            found.append(f"{name} has {len(told)} lines of results for {len(rows)} rows")
        for conversation, meant in wanted(rows).items():
            got = list(there.get(conversation, ()))
            if got != list(meant[: len(got)]) or (is_whole and got != list(meant)):
                found.append(f"{name}, {conversation}: {len(got)} appends of {len(meant)}, not each once and in order")
    if journal.peak_live() > LIMIT:
        found.append(f"{journal.peak_live()} jobs at once")
    if any(place.path(f"inbox/{name}").exists() for name in dropped):
        found.append("a manifest was left in the inbox")
    return found


def main() -> int:
    """Kill, judge, tell; 1 where a promise was broken."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--manifests", type=int, default=10)
    parser.add_argument("--kills", type=int, default=30)
    parser.add_argument("--seed", type=int, default=1)
    chosen = parser.parse_args()
    begun = time.monotonic()
    with TemporaryDirectory() as folder:
        place = Place(Path(folder))
        try:
            server, dropped, killed = kill_often(place, chosen.manifests, chosen.kills, chosen.seed)
            wrong = faults(place, server, dropped)
            done = sum(place.path(f"inbox/done/{name}").exists() for name in dropped)
            rows = len(server.journal.appended())
        finally:
            place.close()
    seconds = round(time.monotonic() - begun)
    told = f"{done} of {len(dropped)} manifests done, {rows} rows appended; {wrong or 'each once, in order'}"
    print(f"{killed} services killed in {seconds} s: {told}")  # noqa: T201 - its report
    return int(bool(wrong))


if __name__ == "__main__":
    sys.exit(main())
