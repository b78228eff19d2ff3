"""What is sent is what was checked: a file that was swapped between the load and its opening never leaves."""

import os
from collections.abc import Callable
from pathlib import Path
from random import Random

import pytest

from tests.acceptance.batches import Row, read_results, record, sound, statuses, write_manifest
from tests.acceptance.judging import appended, check_appended, wanted
from tests.acceptance.place import Place, Server, until

BYTES = 4000
ROOT = ("--audio-root", "root", "--limit", "1")


def two_rows(place: Place) -> list[Row]:
    """A row that goes, and one whose file will be swapped; beside them another recording, inside and outside."""
    draw = Random(3)
    record(place, "root/other.wav", sound(draw, BYTES))
    record(place, "outside/other.wav", sound(draw, BYTES))
    rows = [Row(name, f"{name}/a.wav", record(place, f"root/{name}/a.wav", sound(draw, BYTES))) for name in "cd"]
    write_manifest(place, "m.csv", rows)
    return rows


def rewrite(path: Path) -> None:
    """Other content in the same file, with the modification time put back."""
    before = path.stat()
    path.write_bytes(bytes(BYTES))
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


def another_file(path: Path) -> None:
    """Another file of the same size."""
    (path.parents[1] / "other.wav").rename(path)


def link_inside(path: Path) -> None:
    """A link to another recording in the root."""
    path.unlink()
    path.symlink_to(path.parents[1] / "other.wav")


def link_outside(path: Path) -> None:
    """A link to a recording outside the root."""
    path.rename(path.with_suffix(".kept"))
    path.symlink_to(path.parents[2] / "outside" / "other.wav")


def folder_outside(path: Path) -> None:
    """The very same file, in a folder that was moved out of the root."""
    path.parent.rename(path.parents[2] / "outside" / "d")
    path.parent.symlink_to(path.parents[2] / "outside" / "d")


def put_back(path: Path) -> None:
    """Move the files back into their place."""
    if path.parent.is_symlink():
        path.parent.unlink()
        (path.parents[2] / "outside" / "d").rename(path.parent)
    else:
        path.with_suffix(".kept").rename(path)


def check_refused(place: Place, server: Server, rows: list[Row]) -> None:
    """The first row was appended; of the second not even a head arrived, and its result says what to do."""
    assert appended(server.journal) == wanted(rows[:1])
    assert len(server.journal.begun_puts()) == 1
    assert statuses(place.path("m.results.csv")) == ["completed", "refused"]
    assert "run its manifest again" in read_results(place.path("m.results.csv"))[1]["error"]


@pytest.mark.parametrize("swap", [rewrite, another_file, link_inside, link_outside, folder_outside])
def test_a_file_that_was_swapped_after_the_load_is_refused(
    place: Place, server: Server, swap: Callable[[Path], None]
) -> None:
    """Refused before a byte of it leaves; the same command checks it anew, and takes it if it may be sent."""
    rows, path = two_rows(place), place.path("root/d/a.wav")
    assert place.run("run", "m.csv", *ROOT, "--first", "1").code == 6
    swap(path)
    assert place.run("run", "--batch", "m.csv", *ROOT).code == 1
    check_refused(place, server, rows)

    if swap in (link_outside, folder_outside):
        assert place.run("run", "m.csv", *ROOT).code == 2
        check_refused(place, server, rows)
        put_back(path)
    now = Row("d", rows[1].audio, record(place, "copy.wav", path.read_bytes()))
    assert place.run("run", "m.csv", *ROOT).code == 0
    check_appended(server.journal, [rows[0], now])
    assert statuses(place.path("m.results.csv")) == ["completed", "completed"]


def test_a_file_that_is_swapped_while_the_run_waits_is_refused(place: Place) -> None:
    """The run waits for the account's only slot while another recording takes the file's place."""
    server = place.serve("--limit", "1", "--job-seconds", "2")
    place.use(server)
    rows, path = two_rows(place), place.path("root/d/a.wav")
    # the next PUT may not begin before two seconds are over, wherever its slot comes from
    running = place.start("run", "m.csv", *ROOT, "--rate", "0.5")
    until(lambda: len(server.journal.begun_puts()) == 1, "the first PUT begins")
    running.pause()
    link_outside(path)
    running.go_on()
    assert running.wait().code == 1
    check_refused(place, server, rows)


def test_a_touched_file_is_not_refused_for_ever(place: Place, server: Server) -> None:
    """Touched or written anew with the same content after the load: refused once, appended once by the next run."""
    rows, path = two_rows(place), place.path("root/d/a.wav")
    assert place.run("run", "m.csv", *ROOT, "--first", "1").code == 6
    path.touch()
    assert place.run("run", "--batch", "m.csv", *ROOT).code == 1
    check_refused(place, server, rows)
    path.write_bytes(path.read_bytes())
    for _ in range(2):
        assert place.run("run", "m.csv", *ROOT).code == 0
        check_appended(server.journal, rows)
