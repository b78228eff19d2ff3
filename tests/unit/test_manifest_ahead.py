"""Files are examined ahead in threads where the reader waits for each of them, and by the reader alone elsewhere."""

import resource
from itertools import chain, count, repeat
from threading import Barrier, Event, current_thread, main_thread

import pytest

from uploader.manifest.ahead import CHUNK, FIRST_STRETCH, THREADS, read_ahead, thread_waits

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
    rows = list(chain.from_iterable(read_ahead(range(MANY), examine, lambda: next(waits))))
    assert rows == list(range(MANY))
    assert sorted(examined) == list(range(CHUNK, MANY))


def test_a_row_comes_after_its_file_was_examined() -> None:
    """Who takes a chunk finds its files examined, and no more than another chunk is taken ahead."""
    examined: set[int] = set()
    waits = count(step=CHUNK)
    for chunk in read_ahead(range(MANY), examined.add, lambda: next(waits)):
        assert chunk[0] < CHUNK or examined.issuperset(chunk)
        assert len(examined) <= chunk[-1] + 1 + CHUNK


def test_files_in_memory_are_left_to_the_reader() -> None:
    """Where the thread has not waited, no other one costs anything."""
    examined: list[int] = []
    chunks = read_ahead(range(MANY), examined.append, lambda: 0)
    assert list(chain.from_iterable(chunks)) == list(range(MANY))
    assert not examined


def test_the_reader_goes_on_alone_once_the_disk_is_quick() -> None:
    """Some cold files cost no more than a stretch of rows that are examined in threads; if they go on, two of them."""
    examined: set[int] = set()
    waits = chain([0, CHUNK, 0, CHUNK], repeat(0))
    rows = range(4 * FIRST_STRETCH * CHUNK)
    assert list(chain.from_iterable(read_ahead(rows, examined.add, lambda: next(waits)))) == list(rows)
    first = range(CHUNK, (1 + FIRST_STRETCH) * CHUNK)
    second = range(first.stop + CHUNK, first.stop + (1 + 2 * FIRST_STRETCH) * CHUNK)
    assert examined == {*first, *second}


@pytest.mark.skipif(not hasattr(resource, "RUSAGE_THREAD"), reason="waits are not counted by thread here")
def test_waiting_is_counted() -> None:
    """A thread that waits for what does not come is seen to wait."""
    before = thread_waits()
    Event().wait(0.001)
    assert thread_waits() > before
