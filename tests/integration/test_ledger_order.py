"""Which lane goes first: the one with the most work left, by what an item is learned to take beside its audio."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.integration.test_ledger import CUT, LOST, NOT_FOUND, Book, opened
from uploader.ledger.resolving import Selection, open_items, resolve
from uploader.model import Claim, Decision, Order
from uploader.policy.forecast import BYTES_PER_AUDIO_SECOND

MANY, LONG = [("many", f"{name}.wav") for name in "abcd"], ("long", "long.wav")

pytestmark = pytest.mark.policy


@pytest.fixture
def book(tmp_path: Path, database_url: str) -> Iterator[Book]:
    """Provide a ledger whose longest lane goes first: four files of half a second are there, and one of ten."""
    with opened(tmp_path, database_url) as made:
        made.order = Order.LONGEST_LANE_FIRST
        for _, name in MANY:
            made.file(name, f"{name} ".ljust(int(0.5 * BYTES_PER_AUDIO_SECOND)))
        made.file("long.wav", "long ".ljust(int(10 * BYTES_PER_AUDIO_SECOND)))
        yield made


def first(book: Book) -> str:
    """Return the conversation that would go first now; the claim is undone."""
    (claim,) = book.claim(1)
    book.record(claim, CUT)
    book.check_work()
    return claim.conversation_id


def test_the_lane_with_the_most_audio_goes_first_as_long_as_nothing_was_learned(book: Book) -> None:
    """Lanes are ordered by audio: ten seconds in one file are more than two seconds in four."""
    book.load([*MANY, LONG])
    assert first(book) == "long"


@pytest.mark.parametrize(("item_seconds", "goes"), [(0.0, "long"), (2.0, "long"), (3.0, "many"), (1e4, "many")])
def test_many_short_files_go_before_a_long_one_where_each_takes_a_while(
    book: Book, item_seconds: float, goes: str
) -> None:
    """Each item adds its constant weight: beyond 8 s / 3 four short items are more work than a long one."""
    book.load([LONG, *MANY])
    book.reweigh_lanes(item_seconds)
    assert first(book) == goes


def test_what_is_left_decides_not_what_there_was(book: Book) -> None:
    """Every item that is sent lowers its lane's work by its audio and its constant weight."""
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
    """A new run orders lanes by audio alone, until its engine has reweighed them."""
    load = book.load([*MANY, LONG])
    book.reweigh_lanes(1e4)
    book.run(load)
    book.check_work()
    assert first(book) == "long"


def test_lanes_that_the_run_does_not_carry_have_no_work(book: Book) -> None:
    """Inactive leftovers of another manifest count neither in the order of lanes nor in the claim."""
    book.load(MANY, "monday.csv")
    book.load([LONG], "tuesday.csv")
    book.reweigh_lanes(1e4)
    book.check_work()
    assert [claim.conversation_id for claim in book.claim()] == ["long"]


def test_of_lanes_with_equal_work_the_manifests_first_goes_first(book: Book) -> None:
    """A run that carries on keeps the same order of lanes."""
    book.load([("b", "a.wav"), ("a", "b.wav"), ("c", "c.wav")])
    book.reweigh_lanes(3.0)
    assert [claim.conversation_id for claim in book.claim()] == ["b", "a", "c"]


def settled(book: Book, claim: Claim, decision: Decision) -> None:
    """Resolve an item as a person, while the run goes on."""
    (load,) = book.loads.values()
    with book.ledger.writing() as connection:
        found = next(
            found for found in open_items(connection, load.batch_id, Selection()) if found.item_id == claim.item_id
        )
        resolve(connection, found, decision, job_id=None, note=None, who="me", now=book.now)


@pytest.mark.parametrize(("decision", "left"), [(Decision.NOT_APPENDED, 4), (Decision.DROP, 3), (Decision.APPENDED, 3)])
def test_what_a_person_settles_beside_the_run_is_counted(book: Book, decision: Decision, left: int) -> None:
    """An item that a person returns joins its lane's backlog again; a dropped one leaves it."""
    book.load(MANY)
    book.reweigh_lanes(7.0)
    claim = book.claim_one()
    book.answer(claim, LOST)
    settled(book, claim, decision)
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
