"""Pruning: what is forgotten, what once-only needs of it, and what happens between two of its steps."""

from collections.abc import Callable
from typing import Any

import pytest
from sqlalchemy import String, cast, func, insert, literal, select, update

from tests.integration.test_ledger import Book
from uploader.ledger.pruning import STEP, Pruned, find_prunable, prune
from uploader.ledger.reading import find_batches, unknown_job_ids
from uploader.ledger.schema import attempts, items, rows
from uploader.ledger.standing import standings, unfinished
from uploader.model import State

DONE_AT, LATER, NOW = 1000.0, 5000.0, 9000.0
MANY = STEP + 100


class StoppedHereError(Exception):
    """The end of the process between two steps."""


def over(book: Book, manifest: list[tuple[str, str]], name: str = "m.csv") -> None:
    """Load a batch, let all of its items have completed, and end its worker."""
    book.load(manifest, name)
    with book.ledger.writing() as connection:
        open_ones = items.c.state == State.PENDING
        done = {"state": State.COMPLETED, "content_hash": "the hash", "finished_at": book.now, "attempts": 1}
        connection.execute(
            update(items).where(open_ones).values(job_id=literal("job-") + cast(items.c.id, String), **done)
        )
        book.end_worker(connection)


def pruned(book: Book, before: float = NOW) -> Pruned:
    """Prune the ledger."""
    with book.ledger.reading() as connection:
        found = find_prunable(connection, before)
    return prune(book.ledger, found, before, NOW)


def count(book: Book, table: Any, *conditions: Any) -> int:
    """Count the rows of a table that meet the conditions."""
    with book.ledger.reading() as connection:
        found: int = connection.execute(select(func.count()).select_from(table).where(*conditions)).scalar_one()
    return found


def between_steps(book: Book, monkeypatch: pytest.MonkeyPatch, act: Callable[[], None]) -> None:
    """Call a function once, after the first step of the next prune."""
    given = book.ledger.give_way

    def give_way() -> None:
        monkeypatch.setattr(book.ledger, "give_way", given)
        act()

    monkeypatch.setattr(book.ledger, "give_way", give_way)


def test_an_interrupted_prune_is_carried_on(book: Book, monkeypatch: pytest.MonkeyPatch) -> None:
    """After its first step the batch counts as pruned, with its whole count; the next prune forgets the rest."""
    over(book, [(f"c{number}", "a.wav") for number in range(MANY)])

    def stop() -> None:
        raise StoppedHereError

    between_steps(book, monkeypatch, stop)
    with pytest.raises(StoppedHereError):
        pruned(book)
    assert count(book, rows) == MANY - STEP
    with book.ledger.reading() as connection:
        (batch,) = find_batches(connection)
        counted = standings(connection, [batch.batch_id], unfinished(connection))[batch.batch_id]
    assert (batch.pruned_at, counted.counts[State.COMPLETED]) == (NOW, MANY)
    done = pruned(book)
    assert (done.rows, done.items) == (MANY - STEP, MANY)
    assert (count(book, rows), count(book, items, items.c.path != "")) == (0, 0)
    assert pruned(book) == Pruned()


def test_a_batch_that_is_loaded_anew_meanwhile_keeps_its_rows(book: Book, monkeypatch: pytest.MonkeyPatch) -> None:
    """The rows of the new load stay, with the paths of their items; no item is new."""
    manifest = [(f"c{number}", "a.wav") for number in range(MANY)]
    over(book, manifest)
    book.now = LATER
    between_steps(book, monkeypatch, lambda: over(book, manifest))
    assert pruned(book, before=LATER) == Pruned(batches=1, rows=STEP)
    assert (count(book, rows), count(book, items), count(book, items, items.c.path == "")) == (MANY, MANY, 0)
    with book.ledger.reading() as connection:
        (batch,) = find_batches(connection)
    assert batch.pruned_at is None


def test_an_item_of_a_younger_batch_keeps_its_path(book: Book) -> None:
    """The older batch's rows go, and nothing of the younger one's."""
    over(book, [("c", "a.wav"), ("d", "b.wav")])
    book.now = LATER
    over(book, [("c", "a.wav")], "young.csv")
    done = pruned(book, before=LATER)
    assert (done.batches, done.rows, done.items) == (1, 2, 1)
    assert [line.state for line in book.lines(book.loads["young.csv"])] == [State.COMPLETED]
    assert count(book, items, items.c.path.like("%a.wav")) == 1


def test_a_batch_that_a_worker_wants_is_left_alone(book: Book) -> None:
    """It may be over for the moment: its run still writes the results."""
    over(book, [("c", "a.wav")])
    book.run(book.loads["m.csv"])
    assert pruned(book) == Pruned()


def test_what_is_known_by_its_path_alone_keeps_it(book: Book) -> None:
    """An item that was adopted while its file was gone: without its path it would be appended again."""
    over(book, [("c", "a.wav"), ("d", "b.wav")])
    with book.ledger.writing() as connection:
        connection.execute(update(items).where(items.c.line == 2).values(content_hash=None))
    assert pruned(book).items == 1
    book.load([("c", "a.wav")], "again.csv")
    assert count(book, items) == 2


def test_jobs_stay_known(book: Book) -> None:
    """A job of an earlier attempt is no other append's, and a results file that names it is no lost ledger's."""
    over(book, [("c", "a.wav")])
    with book.ledger.writing() as connection:
        (item_id,) = connection.execute(select(items.c.id)).scalars()
        begun = {"item_id": item_id, "started_at": 1.0, "ended_at": 2.0, "outcome": "applied"}
        connection.execute(insert(attempts), [{**begun, "number": 1, "job_id": "failed-job"}])
        connection.execute(insert(attempts), [{**begun, "number": 2, "job_id": f"job-{item_id}"}])
        connection.execute(insert(attempts), [{**begun, "number": 3, "job_id": None, "outcome": "throttled"}])
    assert pruned(book).attempts == 2
    with book.ledger.reading() as connection:
        assert unknown_job_ids(connection, ["failed-job", f"job-{item_id}", "strange"]) == {"strange"}
