"""What it costs a batch of 100,000 items and 200 lanes that its status page is watched from begin to end."""

import csv
import json
import socket
import subprocess
import sys
import threading
import wave
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.benchmarks.bench import Bench
from tests.benchmarks.table import Row, at_most

ROWS, FEW_ROWS = 100_000, 3000
LANES = 200
LIMIT = 100
# the CPU of all snapshots over that of all else
MOST_SHARE = 0.03
MOST_BYTES_AN_UPDATE = 32 * 1024


def rows(bench: Bench) -> Iterator[Row]:
    """One run, watched by one reader all the time: its own CPU, and of that what was for the page."""
    size = FEW_ROWS if bench.quick else ROWS
    place = bench.place("watching")
    _corpus(place, size)
    with socket.create_server(("127.0.0.1", 0)) as free:
        address = f"127.0.0.1:{free.getsockname()[1]}"
    how = ("run", "manifest.csv", "--limit", LIMIT, "--status", address, "--log-level", "error")
    words = [sys.executable, "-m", "tests.benchmarks.watched", *map(str, how)]
    with bench.sandbox(place, "--limit", str(LIMIT), "--job-seconds", "0.1") as server, _watcher(address):
        environment = {"UPLOADER_NEW_LEDGER": "true", "UPLOADER_LEDGER": f"sqlite:///{place}/ledger.db"}
        used = bench.run(place, "run", *words, server=server, environment=environment).check()
    found = json.loads(used.err.read_text(encoding="utf-8").splitlines()[-1])
    if found["snapshots"] < 2:
        raise RuntimeError(f"{place}: nobody has watched")
    yield Row(
        figure="CPU for the watched page",
        of=f"{size} items, {LANES} lanes",
        value=found["snapshot"],
        unit="s",
        beside="all else of the same run",
        ratio=found["snapshot"] / (found["cpu"] - found["snapshot"]),
        must=None if bench.quick else at_most(MOST_SHARE),
        remarks=f"{used.seconds:.0f} s, {found['cpu']:.0f} s of CPU; {found['snapshots']} looks",
    )
    yield Row(
        figure="bytes of an update, mean",
        of=f"{size} items, {LANES} lanes",
        value=found["bytes"] / found["snapshots"],
        must=at_most(MOST_BYTES_AN_UPDATE),
    )


def _corpus(place: Path, size: int) -> None:
    with wave.open(str(place / "call.wav"), "wb") as recording:
        recording.setparams((1, 2, 8000, 0, "NONE", ""))
        recording.writeframes(bytes(4000))
    with (place / "manifest.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["conversationId", "audioPath"])
        writer.writerows([str(5815170693000000 + number % LANES), "call.wav"] for number in range(size))


@contextmanager
def _watcher(address: str) -> Iterator[None]:
    """A reader of the events, in a process of its own, which begins again until it is served."""
    over = threading.Event()
    words = ["curl", "--silent", "--no-buffer", "--output", "/dev/null", f"http://{address}/events"]

    def watch() -> None:
        while not over.wait(0.2):
            reader = subprocess.Popen(words)
            while reader.poll() is None and not over.wait(0.2):
                pass
            reader.kill()
            reader.wait()

    watching = threading.Thread(target=watch)
    watching.start()
    try:
        yield
    finally:
        over.set()
        watching.join()
