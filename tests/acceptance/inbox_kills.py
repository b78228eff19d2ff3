"""``python -m tests.acceptance.inbox_kills --kills N --seed S``: a service with ten manifests, killed N times."""

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

from tests.acceptance.batches import Row, make_rows, read_results, statuses, write_manifest
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
    _serve_all(place, dropped)
    if _settle(place, server, dropped):
        _serve_all(place, dropped)
    return server, dropped, killed


def _serve_all(place: Place, dropped: Mapping[str, Sequence[Row]]) -> None:
    service = place.start(*SERVE)
    until(lambda: over(place, list(dropped)), "all manifests are over", 600.0)
    service.stop(signal.SIGTERM)


def _settle(place: Place, server: Server, dropped: Mapping[str, Sequence[Row]]) -> int:
    """Settle as a person does what a kill between a last chunk and its answer has left in doubt; return how many.

    The journal tells what a look at the service would; then the manifest goes back into the inbox.
    """
    there, settled = appended(server.journal), 0
    for name in dropped:
        failed = place.path(f"inbox/failed/{name}")
        if not failed.exists():
            continue
        lines = read_results(failed.with_suffix(".results.csv"))
        completed = Counter(line["conversationId"] for line in lines if line["status"] == "completed")
        for line in lines:
            if line["status"] == "in_doubt":
                conversation = line["conversationId"]
                is_there = len(there.get(conversation, ())) > completed[conversation]
                decision = "--appended" if is_there else "--not-appended"
                assert place.run("resolve", "--batch", name, "--line", line["line"], decision).code in (0, 1)
                settled += 1
        failed.rename(place.path(f"inbox/{name}"))
    return settled


def _kill(running: Running, seconds: float) -> None:
    try:
        running.wait(seconds)
    except subprocess.TimeoutExpired:
        running.stop(signal.SIGKILL)


def faults(place: Place, server: Server, dropped: Mapping[str, Sequence[Row]]) -> list[str]:
    """List the violations, judged by the server's journal."""
    found, journal = [], server.journal
    there = appended(journal)
    for name, rows in dropped.items():
        if not place.path(f"inbox/done/{name}").exists():
            found.append(f"{name} is not done")
        elif statuses(place.path(f"inbox/done/{name}").with_suffix(".results.csv")) != ["completed"] * len(rows):
            found.append(f"{name} is done, and its results are others")
        for conversation, meant in wanted(rows).items():
            if list(there.get(conversation, ())) != list(meant):
                found.append(f"{name}, {conversation}: not each once and in order")
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
