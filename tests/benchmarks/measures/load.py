"""What a row of a manifest costs until the first claim, kind by kind, and what a large manifest takes."""

import csv
import json
import sqlite3
import sys
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

from tests.benchmarks.bench import Bench
from tests.benchmarks.loads import COLD, COLD_SECONDS, Ground, wave_of
from tests.benchmarks.table import Row, at_most

ROWS, FEW_ROWS = 100_000, 5000
MANY, NOT_SO_MANY = 1_000_000, 20_000
POSTGRES_FEW_ROWS = 10_000
FIRST = 200
MOST_TIMES = 2.0
MOST_OF_WAITING = 0.5
MOST_MEBIBYTES = 120
PLAIN = "first night"
LONGEST_WAIT_SECONDS = 0.5


def rows(bench: Bench) -> Iterator[Row]:
    """Each kind beside the peer and beside the plain first night; then the real commands over a large manifest."""
    place = bench.place("load")
    count = FEW_ROWS if bench.quick else ROWS
    used = bench.run(place, "loads", sys.executable, "-m", "tests.benchmarks.loads", str(count)).check()
    found: dict[str, Any] = json.loads(used.out.read_text(encoding="utf-8"))
    costs = found["costs"]
    cold, wait = costs.pop(COLD), 1e6 * COLD_SECONDS
    yield Row(
        figure="a row to the first claim, wall clock",
        of=COLD,
        value=cold["wall"],
        unit="µs",
        beside="one after the other",
        ratio=cold["wall"] / wait,
        must=at_most(MOST_OF_WAITING),
        remarks=f"{cold['cpu']:.0f} µs of CPU",
    )
    for kind, cost in costs.items():
        beside = "" if kind == "peer" else "peer" if kind == PLAIN else PLAIN
        yield Row(
            figure="a row to the first claim, CPU",
            of=kind,
            value=cost["cpu"],
            unit="µs",
            beside=beside,
            ratio=cost["cpu"] / costs[beside]["cpu"] if beside else None,
            must=at_most(MOST_TIMES) if beside == PLAIN else None,
            remarks=f"{cost['wall']:.0f} µs of wall clock",
        )
    # a load holds no lock for longer than a step, however many its rows are
    yield Row(
        figure="longest wait of another writer",
        of=f"while {count} rows load",
        value=1000 * found["longest_wait"],
        unit="ms",
        beside="half a second",
        ratio=found["longest_wait"] / LONGEST_WAIT_SECONDS,
        must=at_most(1.0),
    )
    yield from _large(bench, NOT_SO_MANY if bench.quick else MANY)


def _large(bench: Bench, count: int) -> Iterator[Row]:
    place = bench.place(f"load-{count}")
    pairs = Ground(place, count).files("calls", wave_of, count)
    with (place / "manifest.csv").open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([("conversationId", "audioPath"), *pairs])
    planned = bench.uploader(place, "plan", "manifest.csv", "--json", "--ledger", f"sqlite:///{place}/none.db").check()
    yield _memory(f"{count} files, plan", planned.peak_bytes, f"{planned.cpu_seconds:.0f} s of CPU")
    how = ("--first", str(FIRST), "--no-wait", "--limit", "50", "--rate", "1000")
    with bench.sandbox(place, "--limit", "50") as server:
        begun = time.time()
        used = bench.uploader(
            place, "run", "manifest.csv", *how, "--ledger", f"sqlite:///{place}/ledger.db", server=server
        )
    yield Row(
        figure="until the first byte",
        of=f"{count} files, run",
        value=_first_byte(place) - begun,
        unit="s",
        must=at_most(30),
    )
    yield _memory(f"{count} files, run", used.peak_bytes, f"{used.cpu_seconds:.0f} s of CPU")
    yield from _on_postgres(bench, place, count)


def _on_postgres(bench: Bench, place: Path, count: int) -> Iterator[Row]:
    """The same files on a PostgreSQL server without autovacuum: each night, and a claim and an admission after it."""
    few = POSTGRES_FEW_ROWS
    used = bench.run(place, "postgres", sys.executable, "-m", "tests.benchmarks.postgres_loads", str(few), str(count))
    found: dict[str, Any] = json.loads(used.check().out.read_text(encoding="utf-8"))
    for kind, cost in found[str(count)].items():
        beside = found[str(few)][kind]
        yield Row(
            figure="a row to the first claim on PostgreSQL, CPU of both sides",
            of=f"{count} files, {kind}",
            value=cost["client"] + cost["server"],
            unit="µs",
            remarks=f"{cost['client']:.0f} of the client, {cost['server']:.0f} of the server; {cost['wall']:.0f} µs of "
            "wall clock",
        )
        for figure in ("claim", "admission"):
            yield Row(
                figure=f"{figure} of 16 on PostgreSQL, CPU of both sides",
                of=f"{count} files, {kind}",
                value=cost[figure],
                unit="ms",
                beside=f"{few} files",
                ratio=cost[figure] / beside[figure],
                must=at_most(MOST_TIMES),
            )


def _first_byte(place: Path) -> float:
    with closing(sqlite3.connect(place / "ledger.db")) as connection:
        appended, first = connection.execute("SELECT count(job_id), min(started_at) FROM attempts").fetchone()
    if appended != FIRST:
        raise RuntimeError(f"{place}: {appended} of {FIRST} items were appended")
    return float(first)


def _memory(of: str, peak_bytes: int, remarks: str) -> Row:
    mebibytes = peak_bytes / 2**20
    return Row(
        figure="resident memory", of=of, value=mebibytes, unit="MiB", must=at_most(MOST_MEBIBYTES), remarks=remarks
    )
