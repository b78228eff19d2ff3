"""Examines the files of the rows ahead, in threads, where the disk makes the reader wait for each of them."""

import resource
from collections import deque
from collections.abc import Callable, Iterator
from itertools import islice
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from concurrent.futures import Future

# so many files are examined at once: a cold disk, and a server of files, answer many requests in the time of one
THREADS = 16
# so many rows at most are taken ahead, and their waits are counted together
CHUNK = 256
# the share of the rows of a chunk at which the thread has waited, from which on the disk is taken for a slow one
WAITING_SHARE = 0.25
T = TypeVar("T")


def thread_waits() -> int:
    """Count how often this thread has waited for the kernel; 0 where the system does not count by thread."""
    of_thread: int | None = getattr(resource, "RUSAGE_THREAD", None)
    return resource.getrusage(of_thread).ru_nvcsw if of_thread is not None else 0


def read_ahead(
    rows: Iterator[T],
    examine: Callable[[T], None],
    begin: Callable[[T], object],
    waits: Callable[[], int] = thread_waits,
) -> Iterator[T]:
    """Yield rows as they are; once they are waited for, examine the files of the rows ahead in threads.

    Args:
        rows: The rows. Their reader examines each file itself, and finds it in memory then.
        examine: Examines a row's file; called in another thread, and raises nothing.
        begin: Begins to examine a row's remote audio, and does not wait for it; other rows it leaves alone.
        waits: Counts how often the calling thread has waited so far.
    """
    waited = waits()
    while chunk := list(islice(rows, CHUNK)):
        for row in chunk:
            begin(row)
        yield from chunk
        before, waited = waited, waits()
        if waited - before > WAITING_SHARE * len(chunk):
            break
    else:
        return
    from concurrent.futures import ThreadPoolExecutor  # noqa: PLC0415 - a disk that is quick needs no threads

    with ThreadPoolExecutor(THREADS, "read-ahead") as pool:
        under_way = deque[tuple[T, "Future[None]"]]()
        for row in rows:
            under_way.append((row, pool.submit(examine, row)))
            if len(under_way) > CHUNK:
                yield _examined(under_way)
        while under_way:
            yield _examined(under_way)


def _examined(under_way: deque[tuple[T, "Future[None]"]]) -> T:
    """Return the first of the rows under way, once its file is examined."""
    row, examined = under_way.popleft()
    examined.result()
    return row
