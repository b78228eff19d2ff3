"""Examines the files of the rows ahead, in threads, where the disk makes the reader wait for each of them."""

import resource
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import islice
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from concurrent.futures import Future

# so many files are examined at once: a cold disk, and a server of files, answer many requests in the time of one
THREADS = 16
# so many rows are yielded together, and the waits for them are counted together
CHUNK = 500
# the share of the rows of a chunk at which the thread has waited, from which on the disk is taken for a slow one
WAITING_SHARE = 0.25
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
    """Yield rows in chunks; once they are waited for, examine the files of the chunk ahead in threads.

    Args:
        rows: The rows. Their reader examines each file itself, and finds it in memory then.
        examine: Examines a row's file; called in another thread, and raises nothing.
        waits: Counts how often the calling thread has waited so far.
    """
    read = chunks(rows)
    waited = waits()
    for chunk in read:
        yield chunk
        before, waited = waited, waits()
        if waited - before > WAITING_SHARE * len(chunk):
            break
    else:
        return
    from concurrent.futures import ThreadPoolExecutor  # noqa: PLC0415 - a disk that is quick needs no threads

    with ThreadPoolExecutor(THREADS, "read-ahead") as pool:
        ahead: tuple[list[T], list[Future[None]]] = ([], [])
        for chunk in read:
            due, ahead = ahead, (chunk, [pool.submit(examine, row) for row in chunk])
            yield from _examined(*due)
        yield from _examined(*ahead)


def _examined(chunk: Sequence[T], examinations: "Iterable[Future[None]]") -> Iterator[Sequence[T]]:
    """Yield a chunk once its files are examined; nothing where it is empty."""
    for examined in examinations:
        examined.result()
    if chunk:
        yield chunk
