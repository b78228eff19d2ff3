"""Items a second: many small files, each in a conversation of its own, beside the script that keeps no ledger."""

import csv
import random
import sys
import wave
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from statistics import median

from tests.benchmarks.bench import PEERS, Bench, Server
from tests.benchmarks.children import Used
from tests.benchmarks.table import Row, at_least

FILES = 5000
FEW_FILES = 500
FILE_BYTES = 20 * 1024
UPLOADS = 64
Start = Callable[[Bench, Path, Path, Server], Used]


def rows(bench: Bench) -> Iterator[Row]:
    """Ours and the script in turn, each with a sandbox of its own; the medians, and their ratio."""
    files = FEW_FILES if bench.quick else FILES
    manifest = _corpus(bench.place("corpus"), files)
    used: dict[str, list[Used]] = {"ours": [], "asyncio script": []}
    for _ in range(1 if bench.quick else bench.repeats):
        for name, start in (("ours", _ours), ("asyncio script", _script)):
            used[name].append(_measured(bench, manifest, files, name, start))
    speed = {name: files / median(one.seconds for one in several) for name, several in used.items()}
    for name, several in used.items():
        ours = name == "ours"
        yield Row(
            figure=f"{files} files of 20 KiB, --no-wait",
            of=name,
            value=speed[name],
            unit="items/s",
            beside="asyncio script" if ours else "",
            ratio=speed["ours"] / speed["asyncio script"] if ours else None,
            must=at_least(0.6) if ours else None,
            remarks=_remarks(several, files),
        )


def _corpus(folder: Path, files: int) -> Path:
    """Recordings of noise, and the manifest that names each for another conversation."""
    draw = random.Random(files)
    with (folder / "manifest.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["conversationId", "audioPath"])
        for number in range(files):
            with wave.open(str(folder / f"{number}.wav"), "wb") as recording:
                recording.setparams((1, 2, 8000, 0, "NONE", ""))
                recording.writeframes(draw.randbytes(FILE_BYTES - 44))
            writer.writerow([str(5815170693000000 + number), f"{number}.wav"])
    return folder / "manifest.csv"


def _ours(bench: Bench, place: Path, manifest: Path, server: Server) -> Used:
    how = ("--no-wait", "--limit", str(FILES), "--uploads", str(UPLOADS), "--rate", "100000")
    return bench.uploader(place, "run", manifest, *how, "--results", place / "results.csv", server=server)


def _script(bench: Bench, place: Path, manifest: Path, server: Server) -> Used:
    how = ("--no-wait", "--uploads", str(UPLOADS), "--root", manifest.parent)
    told = {"ACCESS_TOKEN": server.token()}
    script = PEERS / "asyncio_script.py"
    return bench.run(place, "peer", sys.executable, script, manifest, *map(str, how), server=server, environment=told)


def _measured(bench: Bench, manifest: Path, files: int, name: str, start: Start) -> Used:
    place = bench.place(name.replace(" ", "-"))
    with bench.sandbox(place, "--limit", str(FILES), "--job-seconds-per-mebibyte", "0") as server:
        used = start(bench, place, manifest, server).check()
        appended = len(server.journal.appended())
    if appended != files:
        raise RuntimeError(f"{place}: {appended} of {files} files were appended")
    return used


def _remarks(several: Sequence[Used], files: int) -> str:
    cpu = median(one.cpu_seconds for one in several)
    peak = max(one.peak_bytes for one in several)
    return f"{1e6 * cpu / files:.0f} µs of CPU an item, start and end included; {peak / 2**20:.0f} MiB"
