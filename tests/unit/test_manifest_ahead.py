"""Files are examined ahead in threads where the reader waits for each of them, and by the reader alone elsewhere."""

import resource
from itertools import count
from threading import Barrier, Event, current_thread, main_thread

import pytest

from uploader.manifest.ahead import CHUNK, THREADS, read_ahead, thread_waits

MANY = 5 * CHUNK


def test_a_slow_disk_is_asked_for_many_files_at_once() -> None:
    """From the second chunk on each file is examined before its row comes, as many at once as there are threads."""
    together = Barrier(THREADS, timeout=30)
    examined: list[int] = []

    def examine(row: int) -> None:
        assert current_thread() is not main_thread()
        together.wait()  # breaks unless so many are examined at once
        examined.append(row)

    waits = count(step=CHUNK)
    rows = list(read_ahead(iter(range(MANY)), examine, bool, lambda: next(waits)))
    assert rows == list(range(MANY))
    assert sorted(examined) == list(range(CHUNK, MANY))


def test_a_row_comes_after_its_file_was_examined() -> None:
    """Who takes a row finds its file examined, and no more than a chunk of rows is taken ahead."""
    examined: set[int] = set()
    taken = iter(range(MANY))
    waits = count(step=CHUNK)
    for row in read_ahead(taken, examined.add, bool, lambda: next(waits)):
        assert row < CHUNK or row in examined
        assert len(examined) <= row + 1 + CHUNK


def test_files_in_memory_are_left_to_the_reader() -> None:
    """Where the thread has not waited, no other one costs anything."""
    examined: list[int] = []
    assert list(read_ahead(iter(range(MANY)), examined.append, bool, lambda: 0)) == list(range(MANY))
    assert not examined


@pytest.mark.skipif(not hasattr(resource, "RUSAGE_THREAD"), reason="waits are not counted by thread here")
def test_waiting_is_counted() -> None:
    """A thread that waits for what does not come is seen to wait."""
    before = thread_waits()
    Event().wait(0.001)
    assert thread_waits() > before
