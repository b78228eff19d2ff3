"""The effect of a person's decision on an item."""

from typing import Any

import pytest

from tests.integration.test_ledger import BASE_URL, LOST, NOT_FOUND, Book, accepted
from uploader.errors import UsageError
from uploader.ledger.loading import account
from uploader.ledger.merging import orphaned_by_load
from uploader.ledger.orphans import find_orphans
from uploader.ledger.outcomes import JobEnd, end_job, save_job_answer
from uploader.ledger.resolving import OpenItem, Selection, histories, open_items, resolve
from uploader.model import Claim, Decision, JobStatus, Load, Reply, State
from uploader.policy.resolving import RESOLVABLE

ELSEWHERE = Reply(
    connected=True, last_chunk_left=True, status=201, answer={"jobId": "j1", "conversationId": "another"}, bytes_sent=7
)


def needing(book: Book, state: State) -> OpenItem:
    """Make an item in this state, and return it."""
    load = book.load([("c", "a.wav"), ("c", "b.wav")])
    claim = book.claim_one()
    if state is State.FAILED:
        book.answer(claim, accepted("j"))
        book.end("j", JobStatus.FAILED)
    else:
        book.answer(claim, NOT_FOUND if state is State.REFUSED else LOST)
    assert book.states(load) == f"{state.value} held"
    return first(book)


def first(book: Book) -> OpenItem:
    """Return the first item of the batch that needs a person."""
    with book.ledger.reading() as connection:
        found = open_items(connection, book.loads["m.csv"].batch_id, Selection())
    return found[0]


def decide(book: Book, item: OpenItem, decision: Decision, job_id: str | None = None, note: str | None = None) -> State:
    """Resolve an item."""
    with book.ledger.writing() as connection:
        return resolve(connection, item, decision, job_id=job_id, note=note, who="ann", now=book.now)


@pytest.mark.parametrize("state", [State.IN_DOUBT, State.REFUSED, State.FAILED])
@pytest.mark.parametrize("decision", Decision)
def test_a_decision_fits_its_states_or_changes_nothing(book: Book, state: State, decision: Decision) -> None:
    """A decision that fits resolves the item, and its lane goes on; another is refused and changes nothing."""
    item = needing(book, state)
    if state in RESOLVABLE[decision]:
        settled = decide(book, item, decision)
        assert settled is book.lines(book.loads["m.csv"])[0].state
        assert "held" not in book.states(book.loads["m.csv"])
        return
    with pytest.raises(UsageError, match=f"line 2: it is {state.value}: --{decision.value} is for"):
        decide(book, item, decision)
    assert book.states(book.loads["m.csv"]) == f"{state.value} held"


def doubtful_twins(book: Book) -> Claim:
    """Claim two items of the same audio and conversation: the first is resolved as appended, the second in doubt."""
    book.load([("c", "a.wav"), ("c", "a.wav")])
    book.answer(book.claim_one(), ELSEWHERE)
    assert first(book).job_id == "j1"
    assert decide(book, first(book), Decision.APPENDED) is State.COMPLETED
    second = book.claim_one()
    book.answer(second, LOST)
    return second


def test_a_job_that_an_untrusted_answer_named_does_not_stay_with_the_item(book: Book) -> None:
    """ReplyResult as appended without a jobId: the jobId is unknown, and may be named as another append's."""
    doubtful_twins(book)
    assert [line.job_id for line in book.lines(book.loads["m.csv"])] == [None, None]
    assert decide(book, first(book), Decision.APPENDED, "j1") is State.ACCEPTED


def test_a_job_belongs_to_one_append(book: Book) -> None:
    """A jobId that the ledger shows at another item is refused: it is a slip of the pen."""
    book.load([("c", "a.wav"), ("d", "b.wav")])
    claim, other = book.claim()
    book.answer(claim, ELSEWHERE)
    book.answer(other, LOST)
    with book.ledger.reading() as connection:
        found = open_items(connection, book.loads["m.csv"].batch_id, Selection(conversations=("d",)))
    with pytest.raises(UsageError, match="--appended j1: the ledger knows this job as another append's"):
        decide(book, found[0], Decision.APPENDED, "j1")


def all_open(book: Book, **chosen: Any) -> list[OpenItem]:
    """Read what needs a person, or is selected, of any batch."""
    with book.ledger.reading() as connection:
        return open_items(connection, None, Selection(**chosen))


@pytest.mark.parametrize("is_noted", [True, False])
@pytest.mark.parametrize(
    ("decision", "job_id", "state"),
    [
        (Decision.APPENDED, "right", State.ACCEPTED),
        (Decision.APPENDED, None, State.COMPLETED),
        (Decision.DROP, None, State.DROPPED),
    ],
)
def test_a_mistyped_job_is_corrected(
    book: Book, is_noted: bool, decision: Decision, job_id: str | None, state: State
) -> None:
    """Listed once the service has said that it does not know the job; by line or number at any time."""
    item = needing(book, State.IN_DOUBT)
    decide(book, item, Decision.APPENDED, "typo")
    assert all_open(book) == []
    (job,) = book.jobs()
    if is_noted:
        with book.ledger.writing() as connection:
            save_job_answer(connection, job, "its job: HTTP 404")
        assert [found.item_id for found in all_open(book) if found.needs_person] == [item.item_id]
    (mistyped,) = all_open(book, items=(item.item_id,))
    assert decide(book, mistyped, decision, job_id) is state
    line = book.lines(book.loads["m.csv"])[0]
    assert (line.state, line.job_id) == (state, job_id)
    with book.ledger.writing() as connection:
        end_job(connection, JobEnd(job, JobStatus.COMPLETED, book.now))
    assert book.lines(book.loads["m.csv"])[0] == line


def test_a_job_that_the_service_gave_is_no_persons_to_correct(book: Book) -> None:
    """A job of the service's own answer is no mistake of a person, and cannot be corrected."""
    load = book.load([("c", "a.wav")])
    book.answer(book.claim_one(), accepted("j"))
    assert all_open(book, lines=(2,)) == []
    assert all_open(book, states=(State.ACCEPTED,)) == []
    assert book.states(load) == "accepted"


def test_a_mistyped_job_stays_free_for_the_append_that_it_belongs_to(book: Book) -> None:
    """A slip of the pen named another append's job: once that is corrected, the job may be named for its own."""
    book.load([("c", "a.wav"), ("d", "b.wav")])
    for claim in book.claim():
        book.answer(claim, LOST)
    of_c, of_d = all_open(book)
    decide(book, of_c, Decision.APPENDED, "job-of-d")
    with pytest.raises(UsageError, match="the ledger knows this job as another append's"):
        decide(book, of_d, Decision.APPENDED, "job-of-d")
    (mistyped,) = all_open(book, items=(of_c.item_id,))
    decide(book, mistyped, Decision.APPENDED, "job-of-c")
    assert decide(book, of_d, Decision.APPENDED, "job-of-d") is State.ACCEPTED
    (again,) = all_open(book, items=(of_c.item_id,))
    assert decide(book, again, Decision.APPENDED, "job-of-c") is State.ACCEPTED


def test_what_was_decided_is_kept_in_order(book: Book) -> None:
    """Every decision about an item is kept with person, time, state and note."""
    item = needing(book, State.IN_DOUBT)
    decide(book, item, Decision.NOT_APPENDED, note="no message came")
    book.now += 60
    book.answer(book.claim_one(), NOT_FOUND)
    decide(book, first(book), Decision.DROP, note="wrong id")
    with book.ledger.reading() as connection:
        kept = histories(connection, [item.item_id])[item.item_id]
    assert [(done.decision, done.from_state, done.note, done.resolved_at) for done in kept] == [
        (Decision.NOT_APPENDED, State.IN_DOUBT, "no message came", 1000.0),
        (Decision.DROP, State.REFUSED, "wrong id", 1060.0),
    ]
    assert {done.resolved_by for done in kept} == {"ann"}


def test_what_a_run_changed_meanwhile_is_not_settled(book: Book) -> None:
    """A decision is about what was looked at: an item that was sent again since is left alone."""
    seen = needing(book, State.REFUSED)
    decide(book, seen, Decision.RETRY)
    book.claim_one()
    with pytest.raises(UsageError, match="a run has changed this item meanwhile"):
        decide(book, seen, Decision.DROP)


def test_a_line_is_one_of_the_batch_that_is_looked_at(book: Book) -> None:
    """Another batch's item in the way has a line of its own manifest: it is not meant by the number."""
    book.load([("c", "a.wav")], "monday.csv")
    book.answer(book.claim_one(), LOST)
    tuesday = book.load([("d", "b.wav"), ("c", "c.wav")], "tuesday.csv")
    book.answer(book.claim_one(), LOST)
    with book.ledger.reading() as connection:
        all_of_them = open_items(connection, tuesday.batch_id, Selection())
        by_line = open_items(connection, tuesday.batch_id, Selection(lines=(2,)))
    assert [(item.batch, item.own) for item in all_of_them] == [("monday.csv", False), ("tuesday.csv", True)]
    assert [item.batch for item in by_line] == ["tuesday.csv"]


def test_evidence_is_alone_as_long_as_nothing_else_went_in_its_lane(book: Book) -> None:
    """Under `on_trouble = "continue"` another item's append may have made a conversation grow: that proves nothing."""
    book.hold = False
    book.load([("c", "a.wav"), ("c", "b.wav"), ("d", "c.wav")])
    doubtful, other = book.claim()
    book.answer(doubtful, LOST)
    book.complete(other)
    assert first(book).alone
    book.complete(book.claim_one())
    assert not first(book).alone


def orphan_states(book: Book) -> dict[str, str]:
    """Return the orphans' states, by batch."""
    with book.ledger.writing() as connection:
        found = find_orphans(connection, account(connection, BASE_URL))
    return {
        item.batch: " ".join(f"{state.value}:{count}" for state, count in item.counts.items() if count)
        for item in found
    }


def left(book: Book, load: Load) -> int:
    """Return how many items a load made orphans."""
    with book.ledger.reading() as connection:
        return sum(orphaned_by_load(connection, load).values())


def test_what_no_batch_names_any_more_is_told_until_it_is_over_or_named_again(book: Book) -> None:
    """Of an edited manifest's rows, of a repeat's originals; not what is over, nor what another batch names."""
    book.load([("c", "a.wav"), ("c", "b.wav"), ("d", "a.wav"), ("e", "a.wav")], "monday.csv")
    doubtful, completed, _ = book.claim()
    book.answer(doubtful, LOST)
    book.complete(completed)
    assert orphan_states(book) == {}
    book.load([("e", "a.wav")], "tuesday.csv")
    again = book.load([("f", "a.wav")], "monday.csv")
    assert orphan_states(book) == {"monday.csv": "in_doubt:1 held:1"}
    assert left(book, again) == 2
    assert left(book, book.load([("f", "a.wav")], "monday.csv")) == 0, "told once"
    book.load([("f", "a.wav")], "tuesday.csv")
    assert set(orphan_states(book)) == {"monday.csv", "tuesday.csv"}
    back = book.load([("c", "a.wav"), ("c", "b.wav"), ("e", "a.wav"), ("f", "a.wav")], "monday.csv")
    assert (orphan_states(book), left(book, back)) == ({}, 0)
    book.load([("c", "a.wav")], "monday.csv", repeat=True)
    assert orphan_states(book)["monday.csv"] == "pending:1 in_doubt:1 held:1"


def test_former_items_are_listed_by_their_own_batch_and_settled_by_number(book: Book) -> None:
    """Another batch lists them only where they are in its way; the number selects one from anywhere in the account."""
    book.load([("c", "a.wav"), ("c", "b.wav")], "monday.csv")
    book.answer(book.claim_one(), LOST)
    monday = book.load([("d", "a.wav")], "monday.csv")
    tuesday = book.load([("e", "a.wav")], "tuesday.csv")

    def listed(load: Load, selection: Selection) -> list[OpenItem]:
        with book.ledger.reading() as connection:
            return open_items(connection, load.batch_id, selection)

    doubtful, held = listed(monday, Selection())
    assert [(item.shown_state, item.orphan, item.own) for item in (doubtful, held)] == [
        (State.IN_DOUBT, True, False),
        (State.HELD, True, False),
    ]
    assert listed(tuesday, Selection()) == []
    assert listed(tuesday, Selection(items=(held.item_id,))) == [held]
    assert [item.item_id for item in listed(monday, Selection(states=(State.HELD,)))] == [held.item_id]
    assert [item.own for item in listed(monday, Selection(states=(State.PENDING,)))] == [True]
    assert decide(book, doubtful, Decision.DROP) is State.DROPPED
    assert decide(book, held, Decision.DROP) is State.DROPPED
    assert (listed(monday, Selection()), orphan_states(book)) == ([], {})
