"""What it costs a batch of 100,000 items and 200 lanes that its status page is watched."""

import csv
import os
import socket
import subprocess
import time
import urllib.error
import urllib.request
import wave
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from statistics import median

from tests.benchmarks.bench import UPLOADER, Bench, Server
from tests.benchmarks.table import Row, at_most

ROWS, FEW_ROWS = 100_000, 4000
LANES = 200
LIMIT = 100
JOB_SECONDS = 0.1
# the lengths of a turn with a watcher and of one without, and the most pairs of them
TURN_SECONDS, QUICK_SECONDS = 12.0, 3.0
PAIRS, FEW_PAIRS = 12, 2
MOST_TIMES = 1.03
MOST_BYTES_A_SECOND = 64 * 1024
START_SECONDS = 120.0


def rows(bench: Bench) -> Iterator[Row]:
    """In one run turns with a watcher and without, in pairs: the median of the ratios of CPU an item."""
    size = FEW_ROWS if bench.quick else ROWS
    place = bench.place("watching")
    _corpus(place, size)
    with bench.sandbox(place, "--limit", str(LIMIT), "--job-seconds", str(JOB_SECONDS)) as server:
        pairs, most_bytes, page = _turns(place, server, bench)
    ratios = [watched / alone for watched, alone in pairs]
    yield Row(
        figure="CPU an item, watched",
        of=f"{size} items, {LANES} lanes",
        value=1e6 * median(watched for watched, _ in pairs),
        unit="µs",
        beside="the same run, not watched",
        ratio=median(ratios),
        must=None if bench.quick else at_most(MOST_TIMES),
        remarks=f"pairs of turns: {', '.join(f'{ratio:.3f}' for ratio in sorted(ratios))}",
    )
    yield Row(
        figure="bytes a second to a watcher",
        of=f"{size} items, {LANES} lanes",
        value=most_bytes,
        must=at_most(MOST_BYTES_A_SECOND),
        remarks=f"the most of all turns; the whole snapshot has {page} bytes",
    )


def _corpus(place: Path, size: int) -> None:
    with wave.open(str(place / "call.wav"), "wb") as recording:
        recording.setparams((1, 2, 8000, 0, "NONE", ""))
        recording.writeframes(bytes(4000))
    with (place / "manifest.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["conversationId", "audioPath"])
        writer.writerows([str(5815170693000000 + number % LANES), "call.wav"] for number in range(size))


def _turns(place: Path, server: Server, bench: Bench) -> tuple[list[tuple[float, float]], float, int]:
    """Measure pairs of turns, first the one or the other with the watcher; also its bytes a second, and the page's."""
    seconds, most = (QUICK_SECONDS, FEW_PAIRS) if bench.quick else (TURN_SECONDS, PAIRS)
    address = f"127.0.0.1:{_free_port()}"
    how = ["--limit", str(LIMIT), "--rate", "100000", "--status", address, "--log-level", "error"]
    environment = bench.environment(place, server) | {"UPLOADER_NEW_LEDGER": "true"}
    pairs: list[tuple[float, float]] = []
    read_bytes: list[float] = []
    with (place / "run.err").open("wb") as err:
        words = [*UPLOADER, "run", "manifest.csv", *how, "--ledger", f"sqlite:///{place}/ledger.db"]
        run = subprocess.Popen(words, cwd=place, env=environment, stdout=subprocess.DEVNULL, stderr=err)
    try:
        _until_served(address, run)
        time.sleep(seconds)  # until connections and caches are as they stay
        page = len(_fetch(f"http://{address}/status.json"))
        while len(pairs) < most:
            cost = {}
            for watches in (True, False) if len(pairs) % 2 else (False, True):
                with _watcher(address, place / "events") if watches else nullcontext():
                    cost[watches] = _cost(run.pid, server, seconds)
                read_bytes.append((place / "events").stat().st_size / seconds if watches else 0.0)
            if run.poll() is not None:
                break
            pairs.append((cost[True], cost[False]))
    finally:
        run.kill()
        run.wait()
    if not pairs:
        raise RuntimeError(f"{place}: the run ended within a pair of turns, see run.err")
    return pairs, max(read_bytes), page


def _cost(process: int, server: Server, seconds: float) -> float:
    """Return the CPU seconds of an appended item over a turn."""
    with server.journal_path.open("rb") as journal:
        journal.seek(0, os.SEEK_END)
        used = _cpu_seconds(process)
        time.sleep(seconds)
        used = _cpu_seconds(process) - used
        items = journal.read().count(b'"event": "put", ')
    return used / max(items, 1)


def _cpu_seconds(process: int) -> float:
    fields = Path(f"/proc/{process}/stat").read_text(encoding="ascii").rpartition(") ")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


@contextmanager
def _watcher(address: str, file: Path) -> Iterator[None]:
    """A watcher in a process of its own, which writes all events into a file."""
    watcher = subprocess.Popen(["curl", "--silent", "--no-buffer", "--output", file, f"http://{address}/events"])
    try:
        yield
    finally:
        watcher.kill()
        watcher.wait()


def _until_served(address: str, run: "subprocess.Popen[bytes]") -> None:
    deadline = time.monotonic() + START_SECONDS
    while run.poll() is None and time.monotonic() < deadline:
        try:
            _fetch(f"http://{address}/healthz")
        except urllib.error.URLError:
            time.sleep(0.05)
        else:
            return
    raise RuntimeError(f"{address}: no page is served")


def _fetch(address: str) -> bytes:
    with urllib.request.urlopen(address, timeout=START_SECONDS) as answer:
        found: bytes = answer.read()
    return found


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port: int = taken.getsockname()[1]
    return port
