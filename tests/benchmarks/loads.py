"""Loads manifests of real files in one process, kind by kind, and tells what a row costs to the first claim.

`python -m tests.benchmarks.loads ROWS` works in the current folder and prints JSON.
"""

import csv
import json
import os
import resource
import shutil
import sqlite3
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from unittest import mock

from tests.unit import recordings
from uploader import logs
from uploader.cli import ending
from uploader.client import Credentials
from uploader.ledger import Ledger
from uploader.ledger.claiming import claim
from uploader.run.loading import prepare
from uploader.run.target import Target
from uploader.settings import Settings

BASE_URL = "https://service.example"
LANE = 4
"""So many rows a conversation has."""
ONE_SIZE = 20_000
COLD, COLD_ROWS, COLD_SECONDS = "each file opens in 1 ms", 10_000, 0.001
Pair = tuple[str, str]
Content = Callable[[int], bytes]


@dataclass
class Ground:
    """A folder of recordings, and the ledgers that manifests of them are loaded into."""

    folder: Path
    count: int
    told: dict[str, dict[str, float]] = field(default_factory=dict)

    def files(self, name: str, content: Content, count: int, ending: str = "wav") -> list[Pair]:
        """Make recordings; the rows that name them."""
        pairs = []
        for number in range(count):
            path = self.folder / name / f"{number // 1000:04}" / f"call-{number:07}.{ending}"
            if number % 1000 == 0:
                path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content(number))
            pairs.append((str(5815170693000000 + number // LANE), str(path.relative_to(self.folder))))
        return pairs

    def ledger(self, name: str) -> Path:
        """A place for a new ledger."""
        made = self.folder / f"ledger-{name}"
        made.mkdir()
        return made

    def load(self, place: Path, rows: Sequence[Pair], kind: str = "", **more: Any) -> None:
        """Do all that `run` does until its first claim; measured where the kind of rows has a name."""
        manifest = self.folder / "manifest.csv"
        with manifest.open("w", newline="", encoding="utf-8") as file:
            csv.writer(file).writerows([("conversationId", "audioPath"), *rows])
        settings = Settings(
            ledger=f"sqlite:///{place}/ledger.db", base_url=BASE_URL, results=place / "r.csv", batch="m", **more
        )
        target = Target(settings, BASE_URL, Credentials("id", "secret"))
        with self._measured(kind, len(rows)), Ledger.open_for_run(settings.ledger) as ledger:
            prepared = prepare(settings, str(manifest), ledger, [target], lambda: None)
            with ledger.writing() as connection:
                claim(
                    connection, prepared.batch.account_id, 50, prepared.now(), worker_id=prepared.accounts[0].worker_id
                )

    def complete(self, place: Path) -> None:
        """Let everything that the ledger holds be completed, its hashes known."""
        with closing(sqlite3.connect(place / "ledger.db")) as connection, connection:
            connection.execute("DELETE FROM attempts")
            connection.execute(
                "UPDATE items SET state = 'completed', attempts = 1, job_id = 'j' || id, content_hash = path, "
                "finished_at = 1, accepted_at = 1"
            )

    @contextmanager
    def _measured(self, kind: str, rows: int) -> Iterator[None]:
        cpu, wall = _cpu_seconds(), time.perf_counter()
        yield
        if kind:
            spent = _cpu_seconds() - cpu, time.perf_counter() - wall
            self.told[kind] = {"cpu": 1e6 * spent[0] / rows, "wall": 1e6 * spent[1] / rows, "rows": rows}
            sys.stderr.write(f"{kind}: {self.told[kind]['cpu']:.1f} µs a row\n")


def _cpu_seconds() -> float:
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


def peer(ground: Ground, rows: Sequence[Pair]) -> None:
    """The least that anyone could do: read the manifest, open each file, write each row with plain sqlite3."""
    manifest = ground.folder / "peer.csv"
    with manifest.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([("conversationId", "audioPath"), *rows])
    table = "CREATE TABLE t (line INTEGER PRIMARY KEY, id TEXT, path TEXT, size INTEGER, change TEXT, head BLOB)"
    opened = sqlite3.connect(ground.folder / "peer.db", isolation_level=None)
    with ground._measured("peer", len(rows)), closing(opened) as connection, manifest.open(newline="") as file:
        connection.execute("PRAGMA journal_mode=WAL")
        connection.execute("BEGIN")
        connection.execute(table)
        lines = csv.reader(file)
        next(lines)
        connection.executemany("INSERT INTO t VALUES (?, ?, ?, ?, ?, ?)", _looked_at(ground.folder, lines))
        connection.execute("COMMIT")


def _looked_at(folder: Path, lines: Iterator[list[str]]) -> Iterator[tuple[object, ...]]:
    for number, (conversation, path) in enumerate(lines):
        descriptor = os.open(f"{folder}/{path}", os.O_RDONLY | os.O_CLOEXEC)
        found = os.fstat(descriptor)
        head = os.pread(descriptor, 44, 0)
        os.close(descriptor)
        yield number, conversation, path, found.st_size, f"{found.st_mtime_ns}:{found.st_ino}", head


def wave_of(number: int) -> bytes:
    """Telephone audio of one of some lengths, no two files alike."""
    return recordings.recording((200 + number % 397) / 8000)[:-8] + number.to_bytes(8, "little")


def _one_size(number: int) -> bytes:
    return recordings.recording(0.05)[:-8] + number.to_bytes(8, "little")


def _mp3(number: int) -> bytes:
    return recordings.mp3_file([8] * 20) + bytes(number % 400)


def _ogg(number: int) -> bytes:
    first = recordings.ogg_page(0, recordings.vorbis(1, 8000))
    return first + recordings.ogg_page(8000, bytes(200 + number % 400)) + recordings.ogg_page(16000, bytes(100))


def nights(ground: Ground, rows: Sequence[Pair]) -> None:
    """The same files night after night."""
    place = ground.ledger("nights")
    ground.load(place, rows, "first night")
    ground.load(place, rows, "all known, pending")
    ground.complete(place)
    ground.load(place, rows, "all known, completed")
    place = ground.ledger("some-new")
    ground.load(place, [row for number, row in enumerate(rows) if number % 20])
    ground.load(place, rows, "5 % new")
    ground.load(place, rows[::-1], "in another order")
    ground.load(place, rows, "--repeat", repeat=True)


def beside(ground: Ground, rows: Sequence[Pair]) -> float:
    """The longest time, in seconds, that another writer of the ledger waits for its turn while a manifest loads."""
    place, waits, is_over = ground.ledger("beside"), [0.0], threading.Event()
    url = f"sqlite:///{place}/ledger.db"
    Ledger.open_for_run(url).close()

    def write() -> None:
        with Ledger.open_beside_run(url) as other:
            while not is_over.wait(0.005):
                begun = time.perf_counter()
                with other.writing():
                    waits.append(time.perf_counter() - begun)

    writer = threading.Thread(target=write)
    writer.start()
    try:
        ground.load(place, rows, "first night, beside another writer")
    finally:
        is_over.set()
        writer.join()
    return max(waits)


def unusual(ground: Ground, rows: Sequence[Pair]) -> None:
    """Rows that are out of the ordinary."""
    ground.load(ground.ledger("twice"), [row for row in rows for _ in range(2)], "each row twice")
    place = ground.ledger("renamed")
    ground.load(place, rows)
    renamed = [(conversation, path.replace("calls/", "renamed/")) for conversation, path in rows]
    (ground.folder / "calls").rename(ground.folder / "renamed")
    with closing(sqlite3.connect(place / "ledger.db")) as connection, connection:
        connection.execute("UPDATE items SET state = 'completed', attempts = 1, content_hash = 'x' || id")
    ground.load(place, renamed, "renamed (each file is hashed)")
    ground.complete(place)
    (ground.folder / "renamed").rename(ground.folder / "calls")
    archived = ground.ledger("archived")
    ground.load(archived, rows)
    ground.complete(archived)
    (ground.folder / "calls").rename(ground.folder / "archive")
    ground.load(archived, rows, "archived")
    ground.load(ground.ledger("invalid"), rows, "invalid (--on-invalid skip)", on_invalid="skip")
    (ground.folder / "archive").rename(ground.folder / "calls")
    edited = ground.ledger("edited")
    ground.load(edited, rows)
    for number, (_, path) in enumerate(rows):
        (ground.folder / path).write_bytes(wave_of(number + 1))
    ground.load(edited, rows, "edited while pending")


def one_conversation(ground: Ground) -> None:
    """One conversation with many files of one size."""
    count = min(ONE_SIZE, ground.count)
    rows = [("one", path) for _, path in ground.files("one", _one_size, count)]
    place = ground.ledger("one")
    most = [row for number, row in enumerate(rows) if number % 20]
    ground.load(place, most, "one conversation, one size: first night")
    ground.load(place, rows, "one conversation, one size: 5 % new")
    ground.load(place, rows, "one conversation, one size: all known")


def cold(ground: Ground, rows: Sequence[Pair]) -> None:
    """A disk, or a server of files, that takes its time for the first opening of each file."""
    opening, opened = os.open, set()

    def slowly(path: str, *more: int) -> int:
        if path not in opened:
            opened.add(path)
            time.sleep(COLD_SECONDS)
        return opening(path, *more)

    with mock.patch("os.open", slowly):
        ground.load(ground.ledger("cold"), rows[:COLD_ROWS], COLD)


def main(count: int) -> None:
    """Go through all kinds, and tell."""
    os.environ["UPLOADER_ACCESS_TOKEN"] = "t"
    logs.configure("json", "error")
    ending.collect_rarely()  # as the command does
    ground = Ground(Path.cwd(), count)
    rows = ground.files("calls", wave_of, count)
    peer(ground, rows)
    cold(ground, rows)
    nights(ground, rows)
    longest = beside(ground, rows)
    one_conversation(ground)
    for name, content in (("mp3", _mp3), ("ogg", _ogg)):
        made = ground.files(name, content, count // 5, name)
        ground.load(ground.ledger(name), made, f"{name}, first night")
    unusual(ground, rows)
    shutil.rmtree(ground.folder / "calls")
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    sys.stdout.write(json.dumps({"costs": ground.told, "mebibytes": peak, "longest_wait": longest}) + "\n")


if __name__ == "__main__":
    main(int(sys.argv[1]))
