"""What of a batch is over is counted once: the kept count is told until it does not hold any more."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from sqlalchemy import select, update

from tests.integration.test_ledger import LOST, Book, accepted, opened
from uploader.ledger.loading import Load
from uploader.ledger.resolving import Selection, open_items, resolve
from uploader.ledger.schema import batches, items
from uploader.ledger.standing import Standing, keep_counts, standing, standings, unfinished
from uploader.model import Decision, JobStatus, State


@pytest.fixture
def book(tmp_path: Path) -> Iterator[Book]:
    """A batch of which one item completed and one is in doubt; what is over of it is kept."""
    with opened(tmp_path) as one:
        for name in ("a.wav", "b.wav", "edited.wav"):
            one.file(name)
        one.load([("x", "a.wav"), ("y", "b.wav")])
        done, doubtful = one.claim(2)
        one.answer(done, accepted("job"))
        one.end("job", JobStatus.COMPLETED)
        one.answer(doubtful, LOST)
        keep(one)
        yield one


def keep(book: Book) -> None:
    """Keep the counts, as the end of a run does."""
    with book.ledger.writing() as connection:
        keep_counts(connection, 10, hold=book.hold)


def told(book: Book, load: Load) -> Standing:
    """How the batch stands, as status tells it."""
    with book.ledger.reading() as connection:
        left = unfinished(connection, hold=book.hold)
        return standings(connection, [load.batch_id], left, hold=book.hold)[load.batch_id]


def counted(book: Book, load: Load) -> Standing:
    """How it stands, counted row by row."""
    with book.ledger.reading() as connection:
        return standing(connection, load.batch_id, hold=book.hold)


def test_what_is_over_is_not_counted_anew(book: Book) -> None:
    """A figure that changes behind the ledger's back is not seen, so nothing was counted; what is open is."""
    load = book.loads["m.csv"]
    with book.ledger.writing() as connection:
        connection.execute(update(items).values(attempts=50))
    found = told(book, load)
    assert {state: found.of(state).attempts for state in found.tallies} == {State.COMPLETED: 1, State.IN_DOUBT: 50}


def test_what_came_to_its_end_since_is_counted(book: Book) -> None:
    """A person settles the doubt: one more is over, and the kept count holds no more, until it is kept anew."""
    load = book.loads["m.csv"]
    with book.ledger.writing() as connection:
        (one,) = open_items(connection, load.batch_id, Selection(), hold=book.hold)
        resolve(connection, one, Decision.APPENDED, job_id=None, note=None, who="me", now=1.0, hold=book.hold)
    assert told(book, load) == counted(book, load)
    assert told(book, load).counts[State.COMPLETED] == 2
    keep(book)
    assert told(book, load) == counted(book, load)


def test_a_manifest_that_was_edited_is_counted(book: Book) -> None:
    """As many rows as before, as many of them over: others."""
    again = book.load([("z", "a.wav"), ("y", "b.wav")])
    book.answer(book.claim_one(), accepted("job-2"))
    book.end("job-2", JobStatus.COMPLETED)
    with book.ledger.writing() as connection:
        connection.execute(update(items).where(items.c.job_id == "job-2").values(attempts=7))
    assert told(book, again) == counted(book, again)
    assert told(book, again).of(State.COMPLETED).attempts == 7


def test_only_what_status_shows_is_kept(book: Book) -> None:
    """Beside what is not over, so many batches that ran last."""
    book.now += 1
    done = book.load([("other", "edited.wav")], "done.csv")
    book.answer(book.claim_one(), accepted("job-3"))
    book.end("job-3", JobStatus.COMPLETED)
    which = select(batches.c.counted).where(batches.c.id == done.batch_id)
    for most, is_kept in ((0, False), (1, True)):
        with book.ledger.writing() as connection:
            keep_counts(connection, most, hold=book.hold)
            assert (connection.execute(which).scalar_one() is not None) is is_kept
