"""Which lane goes first: the one with the most work left, by what an item is learned to take beside its audio."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.integration.test_ledger import CUT, LOST, NOT_FOUND, Book, opened
from uploader.ledger.resolving import Selection, open_items, resolve
from uploader.model import Claim, Decision, Order
from uploader.policy.forecast import BYTES_PER_AUDIO_SECOND

MANY, LONG = [("many", f"{name}.wav") for name in "abcd"], ("long", "long.wav")


@pytest.fixture
def book(tmp_path: Path) -> Iterator[Book]:
    """A ledger whose longest lane goes first: four files of half a second are there, and one of ten."""
    with opened(tmp_path) as made:
        made.order = Order.LONGEST_LANE_FIRST
        for _, name in MANY:
            made.file(name, f"{name} ".ljust(int(0.5 * BYTES_PER_AUDIO_SECOND)))
        made.file("long.wav", "long ".ljust(int(10 * BYTES_PER_AUDIO_SECOND)))
        yield made


def first(book: Book) -> str:
    """The conversation that would go first now; what is claimed for that is pending again."""
    (one,) = book.claim(1)
    book.record(one, CUT)
    book.check_work()
    return one.conversation_id


def test_the_lane_with_the_most_audio_goes_first_as_long_as_nothing_was_learned(book: Book) -> None:
    """Ten seconds in one file are more than two seconds in four."""
    book.load([*MANY, LONG])
    assert first(book) == "long"


@pytest.mark.parametrize(("item_seconds", "goes"), [(0.0, "long"), (2.0, "long"), (3.0, "many"), (1e4, "many")])
def test_many_short_files_go_before_a_long_one_where_each_takes_a_while(
    book: Book, item_seconds: float, goes: str
) -> None:
    """Four items count for four times the constant: beyond 8 s / 3 that is more work than the long one."""
    book.load([LONG, *MANY])
    book.reweigh_lanes(item_seconds)
    assert first(book) == goes


def test_what_is_left_decides_not_what_there_was(book: Book) -> None:
    """Every item that goes makes its lane's work less, by its audio and by what it counts for beside that."""
    book.load([*MANY, LONG])
    book.reweigh_lanes(5.0)
    went = []
    while claimed := book.claim(1):
        book.check_work()
        went.append(claimed[0].conversation_id)
        book.complete(claimed[0])
    # 22, 16.5, then 11 beside 15
    assert went == ["many", "many", "long", "many", "many"]


def test_an_order_ends_with_its_run(book: Book) -> None:
    """The next run begins with audio alone, until its own engine has looked at what was learned."""
    load = book.load([*MANY, LONG])
    book.reweigh_lanes(1e4)
    book.run(load)
    book.check_work()
    assert first(book) == "long"


def test_lanes_that_the_run_does_not_carry_have_no_work(book: Book) -> None:
    """What another manifest left is none of this run's business, in the order no more than in the claim."""
    book.load(MANY, "monday.csv")
    book.load([LONG], "tuesday.csv")
    book.reweigh_lanes(1e4)
    book.check_work()
    assert [one.conversation_id for one in book.claim()] == ["long"]


def test_of_lanes_with_equal_work_the_manifests_first_goes_first(book: Book) -> None:
    """Nothing is left to chance: a run that carries on goes on in the same order."""
    book.load([("b", "a.wav"), ("a", "b.wav"), ("c", "c.wav")])
    book.reweigh_lanes(3.0)
    assert [one.conversation_id for one in book.claim()] == ["b", "a", "c"]


def settled(book: Book, one: Claim, decision: Decision) -> None:
    """A person settles an item, while the run goes on."""
    (load,) = book.loads.values()
    with book.ledger.writing() as connection:
        found = next(
            found
            for found in open_items(connection, load.batch_id, Selection(), hold=book.hold)
            if found.item_id == one.item_id
        )
        resolve(connection, found, decision, job_id=None, note=None, who="me", now=book.now, hold=book.hold)


@pytest.mark.parametrize(("decision", "left"), [(Decision.NOT_APPENDED, 4), (Decision.DROP, 3), (Decision.APPENDED, 3)])
def test_what_a_person_settles_beside_the_run_is_counted(book: Book, decision: Decision, left: int) -> None:
    """What is to be sent after all is work of its lane once more; what is not, is none."""
    book.load(MANY)
    book.reweigh_lanes(7.0)
    one = book.claim_one()
    book.answer(one, LOST)
    settled(book, one, decision)
    book.check_work()
    assert len(book.complete_all()) == left


def test_what_is_tried_again_behind_what_the_run_carries_is_not_counted(book: Book) -> None:
    """`--first 1`: what stood refused behind that one, and is to be sent after all, waits for the next run."""
    book.hold = False
    load = book.load(MANY)
    ahead = book.claim_one()
    book.answer(ahead, LOST)
    behind = book.claim_one()
    book.answer(behind, NOT_FOUND)
    settled(book, ahead, Decision.NOT_APPENDED)
    book.run(load, first=1)
    settled(book, behind, Decision.RETRY)
    book.check_work()
    assert book.complete_all() == ["a.wav"]


def test_edited_and_repeated_manifests_are_counted_anew(book: Book) -> None:
    """Another order, a row less, a row more, and everything once more."""
    book.load(MANY)
    book.complete(book.claim_one())
    book.load([LONG, *reversed(MANY[1:])])
    book.reweigh_lanes(7.0)
    book.check_work()
    book.load([*MANY, LONG], repeat=True)
    book.check_work()
    book.reweigh_lanes(2.0)
    book.claim(3)
    book.check_work()
