"""What an item costs by how many rows the ledger holds, and what memory a run over them takes."""

import csv
import json
import sqlite3
import sys
import time
import wave
from collections.abc import Iterator, Mapping
from contextlib import closing
from pathlib import Path
from typing import Any

from tests.benchmarks.bench import Bench
from tests.benchmarks.table import Row, at_most

SIZES = (1000, 10_000, 100_000, 1_000_000)
FEW_SIZES = (1000, 10_000)
BESIDE = 10_000
ITEMS = 2000
MOST_TIMES = 1.2
MOST_MEBIBYTES = 200
FIRST = 200
IN_ALL = "an item in all"


def rows(bench: Bench) -> Iterator[Row]:
    """Each size in a process of its own, an item in all and by phases; then the real command over the largest."""
    sizes = FEW_SIZES if bench.quick else SIZES
    costs = {size: _costs(bench, size) for size in sizes}
    for size, cost in costs.items():
        yield from _told(size, cost, costs[BESIDE])
    yield from _run(bench, sizes[-1])


def _costs(bench: Bench, size: int) -> dict[str, Any]:
    place = bench.place(f"crowd-{size}")
    words = ("-m", "tests.benchmarks.crowd", str(size), str(min(ITEMS, size // 5)))
    used = bench.run(place, "crowd", sys.executable, *words).check()
    found: dict[str, Any] = json.loads(used.out.read_text(encoding="utf-8"))
    (place / "ledger.db").unlink()
    return found


def _told(size: int, cost: Mapping[str, Any], beside: Mapping[str, Any]) -> Iterator[Row]:
    compared = size > BESIDE
    costs, others = _with_their_sum(cost["costs"]), _with_their_sum(beside["costs"])
    for phase, seconds in costs.items():
        yield Row(
            figure=f"{phase}, CPU",
            of=f"{size} rows",
            value=1e6 * seconds["cpu"],
            unit="µs",
            beside=f"{BESIDE} rows" if compared else "",
            ratio=seconds["cpu"] / others[phase]["cpu"] if compared else None,
            must=at_most(MOST_TIMES) if compared and phase == IN_ALL else None,
            remarks=f"{1e6 * seconds['wall']:.0f} µs of wall clock; the process peaked at {cost['mebibytes']:.0f} MiB",
        )


def _with_their_sum(costs: Mapping[str, Mapping[str, float]]) -> dict[str, Mapping[str, float]]:
    """What an item costs, and of that each phase."""
    in_all = {clock: sum(phase[clock] for phase in costs.values()) for clock in ("cpu", "wall")}
    return {IN_ALL: in_all, **costs}


def _run(bench: Bench, size: int) -> Iterator[Row]:
    """Load a manifest of so many rows by the real command, append the first few, write all results."""
    place = bench.place(f"run-{size}")
    with wave.open(str(place / "call.wav"), "wb") as recording:
        recording.setparams((1, 2, 8000, 0, "NONE", ""))
        recording.writeframes(bytes(16_000))
    with (place / "manifest.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["conversationId", "audioPath"])
        writer.writerows([str(5815170693000000 + number), "call.wav"] for number in range(size))
    how = ("--first", str(FIRST), "--no-wait", "--limit", "50", "--rate", "1000")
    ledger = place / "ledger.db"
    with bench.sandbox(place, "--limit", "50") as server:
        begun = time.time()
        used = bench.uploader(place, "run", "manifest.csv", *how, "--ledger", f"sqlite:///{ledger}", server=server)
    with closing(sqlite3.connect(ledger)) as connection:
        appended, first = connection.execute("SELECT count(job_id), min(started_at) FROM attempts").fetchone()
    if appended != FIRST:
        raise RuntimeError(f"{place}: {appended} of {FIRST} items were appended, exit code {used.code}")
    remarks = f"{used.seconds:.0f} s in all, {used.cpu_seconds:.0f} s of CPU, the results of all rows included"
    yield Row(figure="until the first byte", of=f"{size} rows, run", value=first - begun, unit="s", remarks=remarks)
    yield Row(
        figure="resident memory",
        of=f"{size} rows, run",
        value=used.peak_bytes / 2**20,
        unit="MiB",
        must=at_most(MOST_MEBIBYTES),
        remarks=_sizes(place),
    )


def _sizes(place: Path) -> str:
    ledger, results = (place / "ledger.db").stat().st_size, (place / "manifest.results.csv").stat().st_size
    return f"ledger {ledger / 2**20:.0f} MiB, results {results / 2**20:.0f} MiB"
