"""A full disk under the ledger stops the sending; what came back is written, or stands in the log in full."""

import resource
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.acceptance.batches import Row, make_rows, read_results, statuses, write_manifest
from tests.acceptance.judging import check_appended, check_interrupted, check_limit
from tests.acceptance.place import DEADLINE_SECONDS, Ending, Place, Server, until
from tests.acceptance.starting import COMMAND

LIMIT = 10
RUN = ("run", "m.csv", "--limit", str(LIMIT), "--doubt-seconds", "2")
ROOM_BYTES = 8 << 20
CHUNK_BYTES = 1 << 12

linux_only = pytest.mark.skipif(sys.platform != "linux", reason="prlimit and mount namespaces are Linux's")


def _batch(place: Place, files: int = 120, *, faults: str = "") -> tuple[list[Row], Server]:
    """A batch that is far from its end when its first jobs have begun."""
    rows = make_rows(place, files, files // 3)
    write_manifest(place, "m.csv", rows)
    server = place.serve("--limit", str(LIMIT), faults=faults)
    place.use(server)
    return rows, server


def _check_nothing_lost(place: Place, rows: list[Row], server: Server, full: Ending, room: Ending) -> None:
    """Nothing twice, nothing missing but what is in doubt, and every jobId stands in the results or in the log."""
    assert full.code == 5, full.err
    journal, results = server.journal, read_results(place.path("m.results.csv"))
    check_interrupted(journal, rows, results)
    check_limit(journal, LIMIT)
    in_doubt = [line for line in results if line["status"] == "in_doubt"]
    assert room.code == (4 if in_doubt else 0)
    logged = {line["jobId"] for line in results} | {event["jobId"] for event in full.events("outcome.unwritten")}
    assert {put.job_id for put in journal.appended()} - logged == set()


@linux_only
def test_no_room_from_the_beginning_sends_nothing(place: Place, server: Server) -> None:
    """A file size limit a bit above the ledger's size: exit 5 before anything is sent; with room it completes."""
    rows = make_rows(place, 20, 20)
    write_manifest(place, "m.csv", rows)
    write_manifest(place, "small.csv", rows[:2])
    assert place.run("run", "small.csv").code == 0
    before = len(server.journal.entries)
    size = place.ledger.stat().st_size + 64 * 1024
    limited = (sys.executable, "-S", "-c", SET_LIMIT, str(size))
    ending = place.run(*RUN, before=limited)
    assert ending.code == 5
    assert str(place.ledger) in ending.err + ending.out
    assert len(server.journal.entries) == before
    assert place.run(*RUN).code == 0
    check_appended(server.journal, rows)


# a program that replaces itself by another one, which can make no file larger than so many bytes
SET_LIMIT = """
import os, resource, sys
size = int(sys.argv[1])
resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))
os.execv(sys.argv[2], sys.argv[2:])
"""


@linux_only
def test_no_more_room_in_the_middle_of_a_batch_stops_it_cleanly(place: Place) -> None:
    """The ledger's files may not grow any more: sending stops with 5, what came back is kept, a later run ends it."""
    rows, server = _batch(place)
    running = place.start(*RUN)
    until(lambda: len(server.journal.appended()) >= LIMIT, "some jobs have begun")
    size = place.ledger.with_name("ledger.db-wal").stat().st_size
    resource.prlimit(running.process.pid, resource.RLIMIT_FSIZE, (size, size))
    full = running.wait()
    assert len(server.journal.appended()) < len(rows)
    _check_nothing_lost(place, rows, server, full, place.run(*RUN))


@linux_only
def test_job_ids_that_cannot_be_written_are_logged_in_full(place: Place) -> None:
    """Not one byte more can be written while answers are still to come: each jobId that comes stands in the log."""
    rows, server = _batch(place, 36, faults="[put]\nslow_answer = 1.0\nslow_seconds = 0.5")
    # the log goes to a pipe: a file of it could not grow either
    process = subprocess.Popen(
        [*COMMAND, *RUN], cwd=place.folder, env=place.environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    try:
        until(lambda: len(server.journal.appended()) >= LIMIT, "some are taken, and not answered yet")
        resource.prlimit(process.pid, resource.RLIMIT_FSIZE, (1, 1))
        out, err = process.communicate(timeout=DEADLINE_SECONDS)
    finally:
        process.kill()
        process.communicate()
    full = Ending(process.returncode, out.decode(), err.decode())
    room = place.run(*RUN)
    assert room.code == 4
    _check_nothing_lost(place, rows, server, full, room)
    assert "in_doubt" in statuses(place.path("m.results.csv"))


@dataclass(frozen=True, slots=True)
class SmallDisk:
    """A small file system of its own, in a mount namespace of its own."""

    # the disk's path inside its namespace
    inside: Path
    # the disk's path outside
    outside: Path
    # the words before a command that enters the namespace
    enter: tuple[str, ...]

    def fill(self) -> None:
        """Takes all the room that there is."""
        with self.outside.joinpath("filler").open("ab", buffering=0) as filler, suppress(OSError):
            while True:
                filler.write(bytes(CHUNK_BYTES))

    def empty(self) -> None:
        """Gives the room back."""
        self.outside.joinpath("filler").unlink()


@contextmanager
def _small_disk(place: Place) -> Iterator[SmallDisk]:
    missing = [name for name in ("unshare", "nsenter") if shutil.which(name) is None]
    if missing:
        pytest.skip(f"no {' and no '.join(missing)} here to mount a small file system with")
    inside = place.path("disk")
    inside.mkdir()
    script = f'mount -t tmpfs -o size={ROOM_BYTES} tmpfs "$1" && echo mounted && exec cat'
    command = ["unshare", "--mount", "sh", "-c", script, "sh", str(inside)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as holder:
        assert holder.stdout is not None
        assert holder.stderr is not None
        if holder.stdout.readline() != b"mounted\n":
            pytest.skip(f"a small file system cannot be mounted here: {holder.stderr.read().decode().strip()}")
        outside = Path(f"/proc/{holder.pid}/root{inside}")
        enter = ("nsenter", "-t", str(holder.pid), "-m", f"--wd={place.folder}", "--")
        try:
            yield SmallDisk(inside, outside, enter)
        finally:
            holder.kill()


@linux_only
@pytest.mark.parametrize("greedy", [False, True], ids=["once", "again and again"])
def test_a_full_file_system_stops_the_sending(place: Place, greedy: bool) -> None:
    """A tmpfs that others fill, once or whatever becomes free: exit 5; nothing twice or lost once there is room."""
    rows, server = _batch(place)
    with _small_disk(place) as disk:
        command = (*RUN, "--ledger", f"sqlite:///{disk.inside}/ledger.db")
        running = place.start(*command, before=disk.enter)
        until(lambda: len(server.journal.appended()) >= LIMIT, "some jobs have begun")
        running.pause()
        disk.fill()
        running.go_on()
        while greedy and not running.is_over:
            disk.fill()
        full = running.wait()
        assert len(server.journal.appended()) < len(rows)
        disk.empty()
        room = place.start(*command, before=disk.enter).wait()
    _check_nothing_lost(place, rows, server, full, room)
    if not greedy:
        assert room.code == 0, "what was set aside is enough for what came back"
