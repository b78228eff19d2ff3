"""Many small files, each in a conversation of its own: items a second, and what one costs that is followed."""

import csv
import json
import random
import subprocess
import sys
import wave
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import Any

from tests.benchmarks.bench import PEERS, Bench, Server
from tests.benchmarks.children import Used
from tests.benchmarks.table import Row, at_least, at_most
from uploader.errors import ExitCode

FILES = 5000
FEW_FILES = 500
FILE_BYTES = 20 * 1024
UPLOADS = 64
Start = Callable[[Bench, Path, Path, Server], Used]

JOB_SECONDS, JOB_SCATTER = 1.0, 0.2
SECONDS, QUICK_SECONDS = 15, 3
"""How long the account is kept full."""
FEW_SHARE = 10
"""One run of a tenth of the items tells what start, load and end cost."""
MOST_MILLISECONDS = 1.5
LEAST_SHARE_FULL = 0.9
SCRIPT_POLL_SECONDS = 0.25
CONFIG = "[jobs]\npolls_per_second = 1000\n[doubt]\nunanswered = 64\n"


def rows(bench: Bench) -> Iterator[Row]:
    """What is accepted a second, what is followed to its end at 150 a second, and the account full at 200."""
    yield from _accepted(bench)
    yield from _followed(bench, limit=150, must_be_cheap=True)
    yield from _followed(bench, limit=200, must_be_cheap=False)


def _accepted(bench: Bench) -> Iterator[Row]:
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


@dataclass
class Seen:
    """What the service saw of a run, filled in when it ends. ``jobs``: when each began and ended."""

    jobs: list[tuple[float, float]] = field(default_factory=list)
    polls: int = 0
    refused: int = 0
    repeated: int = 0

    def steady(self, limit: int) -> tuple[float, float]:
        """Items a second, and the share of the account's slots in use, without the first and the last tenth."""
        begun = sorted(at for at, _ in self.jobs)
        cut = len(begun) // 10
        first, last = begun[cut], begun[-cut - 1]
        busy = sum(max(0.0, min(end, last) - max(at, first)) for at, end in self.jobs)
        return (len(begun) - 2 * cut - 1) / (last - first), busy / (last - first) / limit


@contextmanager
def _service(limit: int) -> Iterator[tuple[dict[str, str], Seen]]:
    """A light service with jobs in a process of its own: the environment that leads to it, and what it has seen."""
    seen, words = Seen(), (str(limit), str(JOB_SECONDS), str(JOB_SCATTER))
    command = [sys.executable, str(PEERS / "jobs_sink.py"), *words]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as service:
        assert service.stdout is not None
        token = {"UPLOADER_ACCESS_TOKEN": "token", "ACCESS_TOKEN": "token"}
        yield {"UPLOADER_BASE_URL": service.stdout.readline().strip(), **token}, seen
        told, _ = service.communicate("")
    report: dict[str, Any] = json.loads(told)
    for name, value in report.items():
        setattr(seen, name, value)


def _followed(bench: Bench, *, limit: int, must_be_cheap: bool) -> Iterator[Row]:
    """Ours and the script in turn: as many items as the limit lets through in some seconds, and a tenth of them."""
    count = int(limit * (QUICK_SECONDS if bench.quick else SECONDS) / JOB_SECONDS)
    folder = bench.place(f"corpus-{limit}")
    manifest, few = _corpus(folder, count), folder / "few.csv"
    few.write_text("".join(manifest.read_text(encoding="utf-8").splitlines(keepends=True)[: count // FEW_SHARE + 1]))
    ours: list[float] = []
    script: list[float] = []
    sights: list[Seen] = []
    for _ in range(1 if bench.quick else bench.repeats):
        cpu, seen = _ours_followed(bench, manifest, limit, count)
        ours.append(cpu)
        sights.append(seen)
        script.append(_script_followed(bench, manifest, few, count))
    rate, full = (median(figures) for figures in zip(*(seen.steady(limit) for seen in sights), strict=True))
    refused = sum(seen.refused for seen in sights)
    of_jobs = f"at a limit of {limit}, jobs of {JOB_SECONDS:g} s ± {JOB_SCATTER:.0%}"
    figure = f"CPU of an item followed to its end, {of_jobs}"
    polls = f"{median(seen.polls for seen in sights) / count:.1f} status requests a job; start, load and results apart"
    must = at_most(MOST_MILLISECONDS) if must_be_cheap else None
    yield Row(figure=figure, of="ours", value=1e3 * median(ours), unit="ms", must=must, remarks=polls)
    ratio = median(script) / median(ours)
    yield Row(figure=figure, of="asyncio script", value=1e3 * median(script), unit="ms", beside="ours", ratio=ratio)
    yield Row(
        figure=f"share of the slots in use, {of_jobs}",
        of="ours",
        value=full,
        must=at_least(LEAST_SHARE_FULL),
        remarks=f"{rate:.0f} items a second, {rate * median(ours):.2f} of a core; {refused} refusals",
        whole=not any(seen.repeated for seen in sights),
    )


def _ours_followed(bench: Bench, manifest: Path, limit: int, count: int) -> tuple[float, Seen]:
    """CPU seconds of an item, and what the service saw of the whole run."""
    few, many = (_run_followed(bench, manifest, limit, first) for first in (count // FEW_SHARE, count))
    return _each(few[0], many[0], count), many[1]


def _run_followed(bench: Bench, manifest: Path, limit: int, first: int) -> tuple[Used, Seen]:
    place = bench.place(f"followed-{first}")
    (place / "config.toml").write_text(CONFIG, encoding="utf-8")
    how = ("--limit", limit, "--uploads", UPLOADS, "--rate", 1000, "--first", first, "--config", "config.toml")
    with _service(limit) as (environment, seen):
        words = map(str, ("run", manifest, *how, "--results", "results.csv"))
        used = bench.uploader(place, *words, environment=environment)
    if used.code not in (ExitCode.DONE, ExitCode.NOT_NOW) or len(seen.jobs) != first:
        raise RuntimeError(f"{place}: {len(seen.jobs)} of {first} files were appended, exit code {used.code}")
    return used, seen


def _script_followed(bench: Bench, manifest: Path, few: Path, count: int) -> float:
    """CPU seconds of an item, where no limit holds the script back."""
    how = ("--uploads", UPLOADS, "--poll-seconds", SCRIPT_POLL_SECONDS, "--root", manifest.parent)

    def used(some: Path) -> Used:
        with _service(count) as (environment, _):
            words = map(str, (PEERS / "asyncio_script.py", some, *how))
            place = bench.place("script-followed")
            return bench.run(place, "peer", sys.executable, *words, environment=environment).check()

    return _each(used(few), used(manifest), count)


def _each(few: Used, many: Used, count: int) -> float:
    """CPU seconds of one item more."""
    return (many.cpu_seconds - few.cpu_seconds) / (count - count // FEW_SHARE)
