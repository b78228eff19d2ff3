"""The inbox: what is taken, when, and where it goes; nothing that is half written, hidden or a link."""

import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from uploader.errors import FolderBusyError, UsageError
from uploader.serve.inbox import Inbox, results_of

SETTLE = 5.0
OLD = 1_000_000_000.0


class Clock:
    """Both clocks of the inbox, which stand still unless told."""

    def __init__(self) -> None:
        self.now = 2_000_000_000.0

    def time(self) -> float:
        """Return the seconds since the epoch."""
        return self.now

    monotonic = time


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    """Provide the inbox's clock."""
    made = Clock()
    monkeypatch.setattr("uploader.serve.inbox.time", made)
    return made


@pytest.fixture
def inbox(tmp_path: Path, clock: Clock) -> Iterator[Inbox]:
    """Provide an inbox."""
    del clock
    with Inbox(tmp_path, SETTLE) as made:
        yield made


def drop(inbox: Inbox, name: str, content: str = "x", at: float = OLD) -> Path:
    """Drop a file, last written at a time."""
    path = inbox.folder / name
    path.write_text(content)
    os.utime(path, (at, at))
    return path


def finish(inbox: Inbox, taken: Path, failure: str | None = None) -> Path:
    """Move a manifest that is over, and return its place."""
    place = inbox.place(taken, is_done=failure is None)
    inbox.finish(taken, place, failure)
    return place


def test_a_file_that_was_renamed_in_is_taken_at_once(inbox: Inbox) -> None:
    """It was written some time ago: nobody writes to it any more."""
    drop(inbox, ".monday.csv.x7").rename(inbox.folder / "monday.csv")
    assert inbox.take() == inbox.folder / "running/monday.csv"
    assert not (inbox.folder / "monday.csv").exists()
    assert inbox.take() is None
    assert inbox.taken() == [inbox.folder / "running/monday.csv"]


def test_a_file_that_is_being_written_is_left_alone(inbox: Inbox, clock: Clock) -> None:
    """Each change begins the wait anew; it is taken once it has not changed for long enough."""
    for size in range(1, 5):
        drop(inbox, "m.csv", "x" * size, at=clock.now)
        clock.now += SETTLE - 0.1
        assert inbox.take() is None
    clock.now += 0.2
    assert inbox.take() == inbox.folder / "running/m.csv"


def test_a_clock_that_is_ahead_on_a_file_server_stops_nothing(inbox: Inbox, clock: Clock) -> None:
    """A file of tomorrow is taken once it was seen unchanged for long enough."""
    drop(inbox, "m.csv", at=clock.now + 86400.0)
    assert inbox.take() is None
    clock.now += SETTLE
    assert inbox.take() is not None


@pytest.mark.parametrize(
    "name",
    [".m.csv", "m.csv.tmp", "m.csv.part", "m.csv~", "m.csv.swp", "call.wav", "m.results.csv", "m", "README.md", "m.gz"],
)
def test_what_is_hidden_temporary_or_no_manifest_stays(inbox: Inbox, name: str) -> None:
    """Recordings may lie in the inbox; programs write under such names first."""
    path = drop(inbox, name)
    assert inbox.take() is None
    assert path.exists()
    assert inbox.passed_over == set()


@pytest.mark.parametrize("name", ["m.csv", "m.CSV", "m.jsonl", "m.ndjson", "m.csv.gz", "m.jsonl.gz", "m.xlsx", "é.csv"])
def test_every_kind_of_manifest_is_taken(inbox: Inbox, name: str) -> None:
    """A workbook, too: it is refused in words, where it would lie there without any."""
    drop(inbox, name)
    assert inbox.take() == inbox.folder / "running" / name


MADE: dict[str, Callable[[Path, Path], None]] = {
    "a link to a manifest": lambda path, outside: path.symlink_to(outside),
    "a folder": lambda path, _: path.mkdir(),
    "a pipe": lambda path, _: os.mkfifo(path),
}


@pytest.mark.parametrize("made", MADE)
def test_links_and_what_is_no_file_are_passed_over(
    inbox: Inbox, tmp_path_factory: pytest.TempPathFactory, made: str
) -> None:
    """A link may lead out of the inbox; it is neither read nor moved, and told of."""
    outside = tmp_path_factory.mktemp("outside") / "m.csv"
    outside.write_text("x")
    os.utime(outside, (OLD, OLD))
    path = inbox.folder / "m.csv"
    MADE[made](path, outside)
    assert inbox.take() is None
    assert path.exists()
    assert inbox.passed_over == {"m.csv"}


def test_a_name_with_no_room_for_those_of_its_results_is_passed_over(inbox: Inbox) -> None:
    """Taken, it could neither be run nor put aside, and would hold up the others for ever."""
    for name in ("x" * 237 + ".csv", "x" * 236 + ".csv"):
        drop(inbox, name)
    taken = inbox.take()
    assert taken is not None
    assert taken.name == "x" * 236 + ".csv"
    assert inbox.take() is None
    assert inbox.passed_over == {"x" * 237 + ".csv"}
    results_of(taken).touch()
    assert results_of(finish(inbox, taken, "wrong\n")).exists()


def test_a_name_that_is_no_utf_8_is_put_aside_as_any_other(inbox: Inbox) -> None:
    """The text beside it says its name with the bytes escaped."""
    drop(inbox, os.fsdecode(b"bad\xff.csv"))
    taken = inbox.take()
    assert taken is not None
    finish(inbox, taken, f"manifest {taken.name}: no UTF-8\n")
    (told,) = (inbox.folder / "failed").glob("*.error.txt")
    assert told.read_text(encoding="utf-8") == "manifest bad\\udcff.csv: no UTF-8\n"


def test_the_oldest_goes_first_and_a_name_that_is_taken_waits(inbox: Inbox) -> None:
    """The order of a batch's own files is that in which they came."""
    drop(inbox, "a.csv", at=OLD + 2)
    drop(inbox, "b.csv", at=OLD + 1)
    (first, second) = inbox.take(), inbox.take()
    assert first is not None
    assert second is not None
    assert [first.name, second.name] == ["b.csv", "a.csv"]
    drop(inbox, "a.csv", "another")
    assert inbox.take() is None
    finish(inbox, second)
    again = inbox.take()
    assert again is not None
    assert again.read_text() == "another"


def results(taken: Path, content: str) -> None:
    """Write the results of a manifest."""
    results_of(taken).write_text(content)


def test_the_same_manifest_replaces_its_copy_and_another_one_gets_a_number(inbox: Inbox) -> None:
    """Results never take the place of another manifest's."""
    for content, written in (("one", "1"), ("two", "2"), ("one", "3"), ("two", "4")):
        drop(inbox, "m.csv", content)
        taken = inbox.take()
        assert taken is not None
        results(taken, written)
        finish(inbox, taken)
    done = {path.name: path.read_text() for path in (inbox.folder / "done").iterdir()}
    assert done == {"m.csv": "one", "m.results.csv": "3", "m.2.csv": "two", "m.2.results.csv": "4"}


def test_each_manifest_has_results_of_its_own() -> None:
    """Whatever endings two of one stem have."""
    names = ["m.csv", "m.jsonl", "m.ndjson", "m.csv.gz", "m.jsonl.gz", "m.ndjson.gz", "m.2.csv"]
    found = [results_of(Path(name)).name for name in names]
    assert len(set(found)) == len(names)
    assert found[:2] == ["m.results.csv", "m.results.jsonl"]


def test_a_failed_one_has_its_reason_beside_it_until_it_is_done(inbox: Inbox) -> None:
    """The text goes with the outcome that it told of."""
    drop(inbox, "m.csv")
    taken = inbox.take()
    assert taken is not None
    place = finish(inbox, taken, "line 2: no such file\n")
    assert place == inbox.folder / "failed/m.csv"
    assert (inbox.folder / "failed/m.csv.error.txt").read_text() == "line 2: no such file\n"
    place.rename(inbox.folder / "m.csv")
    taken = inbox.take()
    assert taken is not None
    (inbox.folder / "failed/m.results.csv").write_text("of the first try")
    finish(inbox, taken)
    assert [path.name for path in (inbox.folder / "done").iterdir()] == ["m.csv"]
    assert not list((inbox.folder / "failed").iterdir()), "nothing tells of a failure that is over"


def test_a_death_between_two_moves_is_made_good(inbox: Inbox) -> None:
    """Results that were moved without their manifest are replaced by those of the run that carries on."""
    drop(inbox, "m.csv")
    taken = inbox.take()
    assert taken is not None
    results(inbox.folder / "done/m.csv", "of the dead")
    assert inbox.taken() == [taken]
    results(taken, "whole")
    finish(inbox, taken)
    assert (inbox.folder / "done/m.results.csv").read_text() == "whole"
    assert len(list((inbox.folder / "done").iterdir())) == 2


def test_an_inbox_has_one_service_and_folders_of_its_own(
    inbox: Inbox, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """A second one is refused; a link in place of a folder of ours, and what is no folder, too."""
    with pytest.raises(FolderBusyError), Inbox(inbox.folder, SETTLE):
        pass
    other = tmp_path_factory.mktemp("other")
    (other / "done").symlink_to(inbox.folder)
    with pytest.raises(UsageError, match="no folder of its own"), Inbox(other, SETTLE):
        pass
    with pytest.raises(UsageError, match="no folder"), Inbox(other / "gone", SETTLE):
        pass
