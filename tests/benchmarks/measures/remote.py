"""What remote recordings cost: the load beside one request at a time, and a GiB beside the same from files."""

from collections.abc import Iterator
from pathlib import Path
from statistics import median

from tests.benchmarks.bench import Bench
from tests.benchmarks.children import Used
from tests.benchmarks.measures.bytes import OPTIONS, SMALL_BYTES, sink, write
from tests.benchmarks.table import Row, at_most
from tests.remote_servers import WebServer
from tests.unit.recordings import recording

FILES = 8
FILE_BYTES, QUICK_FILE_BYTES = 64 << 20, 8 << 20
ROWS, QUICK_ROWS = 1000, 100
AWAY_SECONDS = 0.05
FROM_FILES = "the same from files"
ONE_BY_ONE = "one request at a time"
# of the time that as many requests in turn would take
MOST_OF_TURNS = 0.2
# a body is received, hashed and sent, where a file is read, hashed and sent
MOST_TIMES_FILES = 2.5
MOST_MEBIBYTES = 160


def rows(bench: Bench) -> Iterator[Row]:
    """The load of rows whose server is far away, then large bodies."""
    with WebServer() as web:
        yield _load(bench, web)
        yield from _bytes(bench, web)


def _load(bench: Bench, web: WebServer) -> Row:
    place, count = bench.place("remote-load"), QUICK_ROWS if bench.quick else ROWS
    addresses = [web.serve(f"{number}.wav", recording(1.0)) for number in range(count)]
    _manifest(place, "far.csv", addresses)
    web.away_seconds = AWAY_SECONDS
    used = bench.uploader(place, "plan", "far.csv", "--ledger", f"sqlite:///{place}/none.db").check()
    web.away_seconds = 0.0
    turns = count * AWAY_SECONDS
    return Row(
        figure=f"seconds to check {count} remote rows, {AWAY_SECONDS * 1000:.0f} ms away",
        of="ours",
        value=used.seconds,
        unit="s",
        beside=ONE_BY_ONE,
        ratio=used.seconds / turns,
        must=at_most(MOST_OF_TURNS),
        remarks=f"{turns:.0f} s in turn; {used.cpu_seconds * 1000 / count:.1f} ms of CPU a row, the start included",
    )


def _bytes(bench: Bench, web: WebServer) -> Iterator[Row]:
    place, size = bench.place("remote-bytes"), QUICK_FILE_BYTES if bench.quick else FILE_BYTES
    for name, each in (("large", size), ("small", SMALL_BYTES)):
        write(place, f"{name}.csv", each)
        contents = [(f"{name}-{number}.wav", bytes(each)) for number in range(FILES)]
        _manifest(place, f"{name}-remote.csv", [web.serve(*content) for content in contents])
    pairs = []
    with sink(bench, place, tls=False) as environment:
        for number in range(1 if bench.quick else bench.repeats):
            used = {
                name: _run(bench, place, name, number, environment)
                for name in ("large", "small", "large-remote", "small-remote")
            }
            pairs.append(used)
    gibibytes = FILES * size / 2**30
    ours = [(one["large-remote"].cpu_seconds - one["small-remote"].cpu_seconds) / gibibytes for one in pairs]
    files = [(one["large"].cpu_seconds - one["small"].cpu_seconds) / gibibytes for one in pairs]
    yield Row(
        figure="CPU seconds per GiB, from a web server",
        of="ours",
        value=median(ours),
        unit="s",
        beside=FROM_FILES,
        ratio=median(mine / other for mine, other in zip(ours, files, strict=True)),
        must=at_most(MOST_TIMES_FILES),
        remarks=f"{FILES} at once, plain; content hash included; median of {len(pairs)} pairs",
    )
    yield Row(figure="CPU seconds per GiB, from a web server", of=FROM_FILES, value=median(files), unit="s")
    yield Row(
        figure=f"resident memory, {FILES} remote bodies of {size >> 20} MiB at once",
        of="ours",
        value=max(one["large-remote"].peak_bytes for one in pairs) / 2**20,
        unit="MiB",
        must=at_most(MOST_MEBIBYTES),
    )


def _run(bench: Bench, place: Path, name: str, number: int, environment: dict[str, str]) -> Used:
    ledger = f"sqlite:///{place}/{name}-{number}.db"
    words = ("run", f"{name}.csv", "--ledger", ledger, "--results", f"{place}/{name}-{number}.results.csv", *OPTIONS)
    return bench.uploader(place, *words, environment=environment).check()


def _manifest(place: Path, name: str, addresses: list[str]) -> None:
    lines = [f"c{number},{address}\n" for number, address in enumerate(addresses)]
    (place / name).write_text("conversationId,audioPath\n" + "".join(lines), encoding="utf-8")
