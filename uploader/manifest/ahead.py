"""Examines the files of the rows ahead, in threads, where the disk makes the reader wait for each of them."""

import resource
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import islice
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from concurrent.futures import Future

# so many files are examined at once: a cold disk, and a server of files, answer many requests in the time of one
THREADS = 16
# so many rows are yielded together, and the waits for them are counted together
CHUNK = 256
# the share of the rows of a chunk at which the thread has waited, from which on the disk is taken for a slow one
WAITING_SHARE = 0.25
# so many chunks are examined in threads before the waits are counted again, and twice as many each time that the disk
# is still slow: some cold files among a million are no reason to examine all of them twice
FIRST_STRETCH = 8
T = TypeVar("T")


def thread_waits() -> int:
    """Count how often this thread has waited for the kernel; 0 where the system does not count by thread."""
    of_thread: int | None = getattr(resource, "RUSAGE_THREAD", None)
    return resource.getrusage(of_thread).ru_nvcsw if of_thread is not None else 0


def chunks(rows: Iterable[T]) -> Iterator[list[T]]:
    """Yield rows in chunks."""
    iterator = iter(rows)
    while chunk := list(islice(iterator, CHUNK)):
        yield chunk


def read_ahead(
    rows: Iterable[T],
    examine: Callable[[T], None],
    waits: Callable[[], int] = thread_waits,
) -> Iterator[Sequence[T]]:
    """Yield rows in chunks; where they are waited for, examine the files of the chunks ahead in threads.

    Args:
        rows: The rows. Their reader examines each file itself, and finds it in memory then.
        examine: Examines a row's file; called in another thread, and raises nothing.
        waits: Counts how often the calling thread has waited so far.
    """
    read, stretch = chunks(rows), FIRST_STRETCH
    for chunk in read:
        before = waits()
        yield chunk
        if waits() - before <= WAITING_SHARE * len(chunk):
            stretch = FIRST_STRETCH
            continue
        yield from _examined_ahead(islice(read, stretch), examine)
        stretch *= 2


def _examined_ahead(read: Iterable[Sequence[T]], examine: Callable[[T], None]) -> Iterator[Sequence[T]]:
    """Yield chunks whose files were examined in threads, while those of the next one are."""
    from concurrent.futures import ThreadPoolExecutor  # noqa: PLC0415 - a disk that is quick needs no threads

    def examine_some(rows: Sequence[T]) -> None:
        for row in rows:
            examine(row)

    with ThreadPoolExecutor(THREADS, "read-ahead") as pool:
        under_way: deque[tuple[Sequence[T], Sequence[Future[None]]]] = deque()
        for chunk in read:
            # a future for each row would cost more than its file
            some = [pool.submit(examine_some, chunk[first::THREADS]) for first in range(THREADS)]
            under_way.append((chunk, some))
            if len(under_way) > 1:
                yield _awaited(*under_way.popleft())
        while under_way:
            yield _awaited(*under_way.popleft())


def _awaited(chunk: Sequence[T], examinations: "Iterable[Future[None]]") -> Sequence[T]:
    """Return a chunk once its files are examined."""
    for examined in examinations:
        examined.result()
    return chunk
