"""The ledger's conversations: those in which a batch completed an item, and the progress of each."""

from collections.abc import Sequence
from pathlib import Path

import pytest
from sqlalchemy import select, update

from tests.integration.test_ledger import DOUBT_SECONDS, LOST, NOT_FOUND, Book, accepted
from tests.integration.test_ledger_cost import FEW, MANY, filled, steps
from uploader.ledger.conversations import conversation_facts, conversations
from uploader.ledger.schema import items, lanes
from uploader.model import ConversationFacts, JobStatus, Load, State


def found(book: Book, load: Load, page: int = 100) -> Sequence[str]:
    """Return the conversations of a batch, read page by page."""
    names: list[str] = []
    line = 0
    with book.ledger.beside() as reader:
        while True:
            with reader.reading() as connection:
                some = conversations(connection, load.batch_id, load.account_id, line, page)
            if not some:
                return names
            names += [conversation.conversation_id for conversation in some]
            line = some[-1].line


def facts(book: Book, conversation_id: str) -> ConversationFacts:
    """Return the progress of a conversation."""
    with book.ledger.writing() as connection:
        lane = connection.execute(select(lanes.c.id).where(lanes.c.conversation_id == conversation_id)).scalar_one()
        return conversation_facts(connection, lane, book.now)


@pytest.mark.parametrize("page", [1, 2, 100])
def test_each_conversation_with_a_completed_item_comes_once(book: Book, page: int) -> None:
    """Each conversation comes once, in pages of any size, by its last completed line; those without one do not come."""
    rows = [("c", "a.wav"), ("d", "a.wav"), ("c", "b.wav"), ("e", "a.wav"), ("d", "b.wav"), ("f", "a.wav")]
    load = book.load(rows)
    assert found(book, load, page) == []
    for claim in book.claim():
        if claim.conversation_id == "e":
            book.answer(claim, NOT_FOUND)
        elif claim.conversation_id != "f":
            book.complete(claim)
    assert found(book, load, page) == ["c", "d"]
    book.complete_all()
    assert found(book, load, page) == ["c", "d"]


def test_only_the_batch_that_is_asked_for_counts(book: Book) -> None:
    """Items of other batches, before or after in the same lane, make no conversation of this one come or go."""
    first = book.load([("c", "a.wav"), ("d", "a.wav")], "first.csv")
    book.complete_all()
    second = book.load([("c", "b.wav"), ("e", "a.wav")], "second.csv")
    assert (found(book, first), found(book, second)) == (["c", "d"], [])
    book.complete_all()
    assert (found(book, first), found(book, second)) == (["c", "d"], ["c", "e"])


def test_an_item_that_another_batch_appended_counts_for_the_batch_that_names_it(book: Book) -> None:
    """A repeated manifest under another name: its rows are the items that exist, and so are their conversations."""
    book.load([("c", "a.wav")], "first.csv")
    book.complete_all()
    assert found(book, book.load([("c", "a.wav")], "second.csv")) == ["c"]


def test_a_conversation_is_counted_over_all_batches(book: Book) -> None:
    """The progress counts completed items and those that may have a job, and has the last finish."""
    book.load([("c", "a.wav"), ("c", "b.wav")], "first.csv")
    assert facts(book, "c") == ConversationFacts(0, None, 0)
    one = book.claim_one()
    assert facts(book, "c") == ConversationFacts(0, None, 0)
    book.admit(one)
    assert facts(book, "c") == ConversationFacts(0, None, 1)
    book.record(one, accepted("j"))
    assert facts(book, "c") == ConversationFacts(0, None, 1)
    book.now = 1010.0
    book.end("j")
    assert facts(book, "c") == ConversationFacts(1, 1010.0, 0)
    book.complete_all()
    book.now = 1020.0
    book.load([("c", "c.wav")], "second.csv")
    book.complete_all()
    assert facts(book, "c") == ConversationFacts(3, 1020.0, 0)


def test_a_job_that_failed_is_over_and_appended_nothing_known(book: Book) -> None:
    """A dropped item counts neither as completed nor as live."""
    book.load([("c", "a.wav")])
    book.answer(book.claim_one(), accepted("j"))
    book.end("j", JobStatus.FAILED)
    assert facts(book, "c") == ConversationFacts(0, None, 0)


def test_an_item_in_doubt_may_have_a_job_until_its_time(book: Book) -> None:
    """The job of an item in doubt may run exactly as long as it keeps its slot."""
    book.load([("c", "a.wav")])
    book.answer(book.claim_one(), LOST)
    assert facts(book, "c").live == 1
    book.now += DOUBT_SECONDS
    assert facts(book, "c").live == 0


def test_a_page_costs_the_same_in_any_ledger(tmp_path: Path) -> None:
    """The instructions that SQLite's machine runs for a page do not grow with the batch, nor with the ledger."""
    cost = []
    for name, many in (("few", FEW), ("many", MANY)):
        with filled(tmp_path / name, many, 2, hold=True) as book:
            for _ in range(3):
                book.complete(book.claim(1)[0])
            read, count = steps(book, lambda c: conversations(c, 1, 1, 0, 2))
            assert len(read) == 2
            cost.append(count)
    assert cost[1] <= 1.5 * cost[0] + 20


def test_a_long_conversation_costs_by_its_length_alone(tmp_path: Path) -> None:
    """The cost grows in proportion to the items, however many are in one lane."""
    cost = []
    for name, length in (("short", 300), ("long", 1200)):
        with filled(tmp_path / name, 1, length, hold=True) as book:
            with book.ledger.writing() as connection:
                connection.execute(update(items).values(state=State.COMPLETED, finished_at=1.0))
            read, count = steps(book, lambda c: conversations(c, 1, 1, 0, 10))
            assert len(read) == 1
            cost.append(count)
    assert cost[1] <= 6 * cost[0]
