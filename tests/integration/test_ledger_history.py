"""What the status page and the report are told of slots over time, on both databases."""

from itertools import pairwise

from tests.integration.test_ledger import BASE_URL, CUT, LOST, THROTTLED, Book, accepted
from tests.integration.test_ledger_resolving import decide, first
from uploader.ledger.history import (
    SlotSpan,
    attempt_spans,
    attempts_of_batch,
    decisions,
    longest_lanes,
    slot_spans,
    slots_now,
)
from uploader.ledger.loading import account
from uploader.ledger.reading import find_batches
from uploader.model import Decision, JobStatus, State
from uploader.status.night import kind_of, night_json, nights, with_bounded_slots
from uploader.status.report import read_report
from uploader.status.snapshot import SnapshotReader, SnapshotSource


def spans(book: Book) -> list[SlotSpan]:
    """Return all attempts with their slots."""
    with book.ledger.reading() as connection:
        known = attempts_of_batch(connection, book.loads["m.csv"].batch_id)
        assert known is not None
        return list(slot_spans(connection, [account_id(book)], *known))


def account_id(book: Book) -> int:
    """Return the account."""
    with book.ledger.writing() as connection:
        return account(connection, BASE_URL)


def slot(span: SlotSpan) -> tuple[float | None, float | None]:
    """Return from when until when an attempt had a slot."""
    return span.attempt.admitted_at, span.attempt.freed_at


def test_a_slot_is_held_from_the_admission_to_the_end_of_the_job(book: Book) -> None:
    """While the job lives the end is open; an attempt that was cut off before its last chunk had no slot."""
    book.load([("c", "a.wav"), ("d", "b.wav")])
    one, other = book.claim()
    assert [kind_of(span) for span in spans(book)] == ["sending", "sending"]
    book.now = 1010
    book.answer(one, accepted("j"))
    assert kind_of(spans(book)[0]) == "accepted"
    book.record(other, CUT)
    assert [slot(span) for span in spans(book)] == [(1010, None), (None, 1010)]
    assert [span.attempt.is_open_at(book.now) for span in spans(book)] == [True, False]
    book.now = 1060
    book.end("j")
    assert slot(spans(book)[0]) == (1010, 1060)
    assert [kind_of(span) for span in spans(book)] == ["completed", "other"]


def test_a_doubt_holds_its_slot_until_its_time_is_over_or_a_person_has_settled_it(book: Book) -> None:
    """The end of its time is known as long as it is in doubt; then the decision is the nearest that is known."""
    book.load([("c", "a.wav")])
    book.answer(book.claim_one(), LOST)
    until = book.value("slot_until", 2)
    assert slot(spans(book)[0]) == (1000, until)
    book.now = until + 5000
    decide(book, first(book), Decision.NOT_APPENDED, note="seen")
    (span,) = spans(book)
    assert (slot(span), span.settled_at, kind_of(span)) == ((1000, book.now), book.now, "in_doubt")
    with book.ledger.reading() as connection:
        (decision,) = decisions(connection, book.loads["m.csv"].batch_id, 10)
    assert (decision.resolved_by, decision.decision, decision.from_state, decision.line, decision.note) == (
        "ann",
        Decision.NOT_APPENDED,
        State.IN_DOUBT,
        2,
        "seen",
    )


def test_a_failed_job_that_is_tried_again_holds_no_slot_for_ever(book: Book) -> None:
    """Its own end is overwritten by the next attempt: what was settled is drawn three times the longest job at most."""
    book.load([("c", "a.wav"), ("d", "b.wav")])
    one, other = book.claim()
    book.answer(one, accepted("j"))
    book.answer(other, accepted("k"))
    book.now = 1010
    book.end("j", JobStatus.FAILED)
    book.end("k")
    book.now = 9000
    decide(book, first(book), Decision.RETRY)
    failed, good = spans(book)
    assert (kind_of(failed), slot(failed)) == ("failed", (1000, 9000))
    assert [slot(span) for span in with_bounded_slots([failed, good])] == [(1000, 1030), (1000, 1010)]
    book.now = 9100
    book.complete(book.claim_one(), "l")
    assert [kind_of(span) for span in spans(book)] == ["failed", "completed", "completed"]


def test_a_later_reading_gets_what_is_new_and_what_was_open(book: Book) -> None:
    """An attempt that is over is read once, however many there are."""
    book.load([("c", "a.wav"), ("d", "b.wav"), ("e", "c.wav")])
    one, two, three = book.claim()
    book.complete(one)
    book.answer(two, accepted("j"))
    with book.ledger.reading() as connection:
        found = list(attempt_spans(connection, [account_id(book)], three.attempt_id, [two.attempt_id]))
    assert [span.attempt_id for span in found] == sorted([two.attempt_id, three.attempt_id])


def test_the_slots_of_now_have_their_jobs_the_oldest_first(book: Book) -> None:
    """Live jobs, and doubts until their time is over."""
    book.load([("c", "a.wav"), ("d", "b.wav"), ("e", "c.wav")])
    one, two, _ = book.claim()
    book.answer(one, LOST)
    book.now = 1001
    book.answer(two, accepted("j"))
    until = book.value("slot_until", 2)
    with book.ledger.reading() as connection:
        both = slots_now(connection, account_id(book), 1002.0)
        found = slots_now(connection, account_id(book), until + 1)
    assert [slot.conversation_id for slot in both] == ["c", "d"]
    assert [slot.conversation_id for slot in found] == ["d"]
    assert (found[0].job_id, found[0].since, found[0].line, found[0].batch) == ("j", 1001, 3, "m.csv")


def test_the_longest_lanes_come_first_and_the_others_are_counted(book: Book) -> None:
    """By the audio that is left; a lane without a backlog is none of them."""
    book.load([("a", "a.wav"), ("b", "b.wav"), ("b", "c.wav"), ("b", "d.wav"), ("c", "e.wav"), ("c", "f.wav")])
    with book.ledger.reading() as connection:
        found, count = longest_lanes(connection, account_id(book), 2)
    assert [(lane.conversation_id, lane.items) for lane in found] == [("b", 3), ("c", 2)]
    assert count == 3


def test_the_picture_places_each_attempt_and_never_two_in_one_slot(book: Book) -> None:
    """As many rows as slots were taken at once; a 429 is marked, and what is far away in time is another night."""
    book.load([(name, f"{name}.wav") for name in "abcdef"])
    claims = book.claim()
    for number, claimed in enumerate(claims[:5]):
        book.now = 1000 + 10 * number
        book.answer(claimed, accepted(f"j{number}"))
        if number:
            book.end(f"j{number - 1}")
    book.end("j4")
    book.answer(claims[5], THROTTLED)
    book.now = 1000 + 86_400
    book.complete(book.claim_one(), "late")
    found = list(nights(spans(book), book.now))
    assert [len(night) for night in found] == [6, 1]
    shown = night_json(found[0], book.now)
    pieces = [piece for row in shown["rows"] for piece in row]
    assert 5 <= len(pieces) <= 6
    for row in shown["rows"]:
        assert all(before[1] <= after[0] for before, after in pairwise(row))
    assert len(shown["throttles"]) == 1
    assert [what for _, what, _ in shown["marked"]] == ["throttled"]


def test_snapshot_and_report_are_the_ledgers(book: Book) -> None:
    """Counts, slots and troubles of one state of the ledger; what is read again is what has changed."""
    load = book.load([(name, f"{name}.wav") for name in "abcd"])
    one, two, three, _ = book.claim()
    book.complete(one)
    book.answer(two, accepted("j"))
    book.answer(three, LOST)
    source = SnapshotSource(
        reading=book.ledger.reading,
        account_ids=[account_id(book)],
        batch_ids=[load.batch_id],
        ledger="/ledger.db",
        now=lambda: book.now,
    )
    reader = SnapshotReader(source)
    shown = reader.read()
    counts = {state: count for state, count in shown["progress"]["counts"].items() if count}
    assert counts == {"completed": 1, "accepted": 1, "in_doubt": 1, "sending": 1}
    assert [slot["state"] for slot in shown["accounts"][0]["slots"]] == ["accepted", "in_doubt"]
    assert shown["needs"]["groups"][0]["commands"][1].endswith("--line 4 --not-appended")
    assert shown["history"]["slots"]
    book.end("j")
    again = reader.read(fresh=True)
    assert again["progress"]["counts"]["completed"] == 2
    with book.ledger.reading() as connection:
        (batch,) = find_batches(connection, ids=[load.batch_id])
        report = read_report(connection, batch, ledger="/ledger.db", is_running=False, now=book.now)
    assert report["progress"] == again["progress"]
    assert report["needs"] == again["needs"]
    assert {row["value"]: row["items"] for row in report["bill"][0]["rows"]} == {
        "completed": 2,
        "in_doubt": 1,
        "sending": 1,
    }
