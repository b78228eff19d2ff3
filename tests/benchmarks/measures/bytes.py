"""What a GiB costs, over TLS and plain: seconds, CPU seconds and memory, beside curl, against a server of our own."""

import json
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from statistics import median

from tests.benchmarks.bench import PEERS, Bench
from tests.benchmarks.children import Used
from tests.benchmarks.slow_disk import READ_SECONDS
from tests.benchmarks.table import Row, at_most

FILES = 8
FILE_BYTES, QUICK_FILE_BYTES = 256 << 20, 16 << 20
SMALL_BYTES = 1000
"""So many bytes a file cost what the command costs by itself."""
CURL = "curl --parallel"
MOST_TIMES_TLS, MOST_TIMES_PLAIN = 1.05, 1.4
SLOW_FILE_BYTES = 16 << 20
MOST_STEP_SECONDS = 0.005
OPTIONS = ("--limit", str(FILES), "--uploads", str(FILES), "--rate", "1000", "--no-wait", "--log-level", "error")


@dataclass(frozen=True, slots=True)
class Pair:
    """Ours and curl's, one after the other: the large files, and small ones in their place."""

    ours: Used
    ours_small: Used
    curl: Used
    curl_small: Used


def rows(bench: Bench) -> Iterator[Row]:
    """TLS first, then plain; each a few pairs, of which the medians count."""
    size = QUICK_FILE_BYTES if bench.quick else FILE_BYTES
    for tls in (True, False):
        place = bench.place("tls" if tls else "plain")
        write(place, "large.csv", size)
        write(place, "small.csv", SMALL_BYTES)
        with sink(bench, place, tls=tls) as environment:
            pairs = [_pair(bench, place, environment, number) for number in range(1 if bench.quick else bench.repeats)]
            if tls:
                yield _slow_disk(bench, place, environment)
        for path in place.glob("*.wav"):
            path.unlink()
        yield from _told(pairs, FILES * size / 2**30, tls=tls)


def write(place: Path, manifest: str, size: int) -> None:
    """A manifest of conversations with one file each; holes cost no disk, one reading fills the page cache."""
    names = [f"{Path(manifest).stem}-{number}.wav" for number in range(FILES)]
    for name in names:
        with (place / name).open("wb") as file:
            file.truncate(size)
        with (place / name).open("rb") as file:
            while file.read(1 << 20):
                pass
    lines = [f"{Path(name).stem},{name}\n" for name in names]
    (place / manifest).write_text("conversationId,audioPath\n" + "".join(lines), encoding="utf-8")


@contextmanager
def sink(bench: Bench, place: Path, *, tls: bool) -> Iterator[dict[str, str]]:
    """A server in a process of its own; gives the environment that leads to it."""
    certificates = bench.certificates(place)
    command = [sys.executable, str(PEERS / "sink.py"), *([str(certificates.server)] if tls else [])]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as server:
        assert server.stdin is not None
        assert server.stdout is not None
        yield {
            "UPLOADER_BASE_URL": server.stdout.readline().strip(),
            "UPLOADER_ACCESS_TOKEN": "token",
            "SSL_CERT_FILE": str(certificates.bundle),
        }
        server.stdin.close()


def _pair(bench: Bench, place: Path, environment: dict[str, str], number: int) -> Pair:
    def ours(manifest: str) -> Used:
        ledger = f"sqlite:///{place}/{manifest}-{number}.db"
        words = ("run", manifest, "--ledger", ledger, "--results", f"{ledger[10:]}.csv", *OPTIONS)
        return bench.uploader(place, *words, environment=environment).check()

    def curl(manifest: str) -> Used:
        words = (PEERS / "curl_upload.sh", manifest, str(FILES))
        return bench.run(place, "curl", "sh", *words, environment=environment).check()

    return Pair(ours("large.csv"), ours("small.csv"), curl("large.csv"), curl("small.csv"))


def _slow_disk(bench: Bench, place: Path, environment: dict[str, str]) -> Row:
    """How long the event loop is kept by one step, where every read waits for the disk."""
    write(place, "slow.csv", SLOW_FILE_BYTES)
    used = bench.run(
        place, "slow", sys.executable, "-m", "tests.benchmarks.slow_disk", "slow.csv", environment=environment
    ).check()
    told = json.loads(used.out.read_text(encoding="utf-8"))
    return Row(
        figure="a step of the event loop, from a slow disk over TLS",
        of="ours",
        value=told["longest"] * 1000,
        unit="ms",
        must=at_most(MOST_STEP_SECONDS * 1000),
        remarks=f"the longest of {told['steps']:,}: its CPU, and what it waits for the disk; nothing is in the page "
        f"cache, and of {told['waits']:,} reads, which wait {READ_SECONDS * 1000:.0f} ms each, {told['waits_on_loop']} "
        "were on the event loop",
    )


def _told(pairs: list[Pair], gibibytes: float, *, tls: bool) -> Iterator[Row]:
    over = "over TLS" if tls else "plain"
    ours = [(one.ours.cpu_seconds - one.ours_small.cpu_seconds) / gibibytes for one in pairs]
    curl = [(one.curl.cpu_seconds - one.curl_small.cpu_seconds) / gibibytes for one in pairs]
    times = median(mine / other for mine, other in zip(ours, curl, strict=True))
    itself = median(one.ours_small.cpu_seconds for one in pairs)
    figure = f"CPU seconds per GiB {over}"
    yield Row(
        figure=figure,
        of="ours",
        value=median(ours),
        unit="s",
        beside=CURL,
        ratio=times,
        must=at_most(MOST_TIMES_TLS if tls else MOST_TIMES_PLAIN),
        remarks=f"content hash included; the command by itself, with {FILES} files of {SMALL_BYTES} bytes, "
        f"takes {itself:.2f} s, which are not counted; median of {len(pairs)} pairs",
    )
    yield Row(figure=figure, of=CURL, value=median(curl), unit="s")
    seconds = [(one.ours.seconds - one.ours_small.seconds, one.curl.seconds - one.curl_small.seconds) for one in pairs]
    yield Row(
        figure=f"throughput {over}",
        of="ours",
        value=median(gibibytes / mine for mine, _ in seconds),
        unit="GiB/s",
        beside=CURL,
        ratio=median(other / mine for mine, other in seconds),
        remarks=f"{FILES} files at once on loopback, the server beside it on the same cores",
    )
    yield Row(
        figure=f"throughput {over}", of=CURL, value=median(gibibytes / other for _, other in seconds), unit="GiB/s"
    )
    peak = max(one.ours.peak_bytes for one in pairs)
    yield Row(figure=f"resident memory {over}", of="ours", value=peak / 2**20, unit="MiB", remarks=f"{FILES} at once")
