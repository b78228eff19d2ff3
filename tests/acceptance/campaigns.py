"""The long batches: many files in one go, and batches whose runs die again and again."""

import signal
from collections.abc import Sequence
from dataclasses import dataclass
from random import Random

from tests.acceptance.batches import Row, make_rows, write_manifest
from tests.acceptance.place import Ending, Place, Running, Server, until

LIMIT = 10
DEATHS = 10
LONGEST_SECONDS = 200.0
# an item in doubt keeps its slot as long as no job has ended: here a moment, not a quarter of an hour
RUN = ("run", "m.csv", "--limit", str(LIMIT), "--doubt-seconds", "3", "--json")


@dataclass(frozen=True, slots=True)
class Campaign:
    """A batch that was run to its end. ``codes`` are those of the runs that a signal ended early."""

    server: Server
    rows: Sequence[Row]
    codes: Sequence[int]
    ending: Ending


def whole(place: Place, files: int) -> Campaign:
    """So many files over a fifth as many conversations, in one go."""
    return _campaign(place, make_rows(place, files, files // 5))


def killed(place: Place) -> Campaign:
    """200 files over 40 conversations; ``kill -9`` ten times."""
    return _campaign(place, make_rows(place, 200, 40, seed=2), deaths=DEATHS, by=signal.SIGKILL)


def terminated(place: Place) -> Campaign:
    """200 files over 40 conversations; SIGTERM ten times."""
    return _campaign(place, make_rows(place, 200, 40, seed=3), deaths=DEATHS, by=signal.SIGTERM)


def _campaign(place: Place, rows: Sequence[Row], *, deaths: int = 0, by: int = 0) -> Campaign:
    write_manifest(place, "m.csv", rows)
    server = place.serve("--limit", str(LIMIT))
    place.use(server)
    draw = Random(by)
    codes = [_die(place.start(*RUN), server, draw.randint(1, 50), by) for _ in range(deaths)]
    return Campaign(server, rows, codes, place.start(*RUN).wait(LONGEST_SECONDS))


def _die(running: Running, server: Server, work: int, by: int) -> int:
    """Ends a run by a signal once so much has reached the server since it began; tells its code."""
    # before that it heeds no signal yet, and the jobs of the run before it may reach the server's journal
    until(lambda: "run.begun" in running.err.read_text("utf-8") or running.is_over, "the run has begun")
    enough = server.lines() + work
    until(lambda: server.lines() >= enough or running.is_over, "the run has gone on a little")
    return running.stop(by).code
