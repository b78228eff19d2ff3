"""The items that a run sends: the same by a dry run, by the ledger, and by the claims that follow."""

from collections.abc import Sequence

import pytest
from hypothesis import Phase, given, settings
from hypothesis import strategies as st

from tests.integration.test_ledger import BASE_URL, CUT, LOST, NOT_FOUND, Book, accepted, opened
from uploader import audio
from uploader.ledger.amounts import Amount, ToSend
from uploader.ledger.dry_run import dry_run
from uploader.ledger.loading import account, current_repeat_id, resolve
from uploader.ledger.matching import Hashes
from uploader.ledger.sending import lanes_to_send, to_send
from uploader.ledger.staging import Stage
from uploader.model import Load, Reply
from uploader.settings import DEFAULT_ACCOUNT, Settings
from uploader.settings.tables import Lanes

Rows = Sequence[tuple[str, str]]
NAMES = ("monday.csv", "tuesday.csv")
# a batch's name, its rows, how its first attempts end, its --first, and whether it is a --repeat
NIGHT = st.tuples(
    st.sampled_from(NAMES),
    st.lists(st.tuples(st.sampled_from("cde"), st.sampled_from(["a.wav", "b.wav", "d.wav", "e.wav"])), max_size=6),
    st.lists(st.sampled_from(["complete", "leave", "lost", "refused", "cut", "sending"]), max_size=4),
    st.none() | st.integers(1, 3),
    st.booleans(),
)
ANSWERS = {"leave": accepted, "lost": LOST, "refused": NOT_FOUND, "cut": CUT}


def from_dry_run(book: Book, name: str, rows: Rows, first: int | None, *, repeat: bool) -> tuple[ToSend, int]:
    """Return what a plan says that a run would send, and in how many lanes; the ledger stays as it was."""
    read = [book.row(line, *row, {}) for line, row in enumerate(rows, start=2)]
    with book.ledger.writing() as connection:
        account_id = account(connection, BASE_URL)
    with book.ledger.staging() as connection, connection.begin() as transaction:
        stage = Stage(connection, account_id)
        stage.add(read, audio.probe, separate=False)
        repeat_id = current_repeat_id(connection, account_id, name, repeat=repeat)
        resolve(connection, stage, repeat_id, Hashes(audio.content_hash))
        own = Settings(first=first, repeat=repeat, lanes=Lanes(on_trouble="hold" if book.hold else "continue"))
        urls = {DEFAULT_ACCOUNT: BASE_URL}
        run = dry_run(connection, stage, own, urls, name, book.now, alive=())
        found = run.sending[account_id]
        foreseen = lanes_to_send(connection, account_id, [], book.now, under_way=False)
        transaction.rollback()
    return found, foreseen.count


def from_ledger(book: Book, load: Load) -> ToSend:
    """Return what the ledger says that the run of a batch sends."""
    with book.ledger.reading() as connection:
        return to_send(connection, load.account_id, load.batch_id)


def carry(book: Book, load: Load, endings: Sequence[str]) -> None:
    """Let the first attempts of a run end like this, one after the other; then the run dies."""
    for number, ending in enumerate(endings):
        for claim in book.claim(1):
            answer = ANSWERS.get(ending)
            if ending == "complete":
                book.complete(claim, f"job-{load.load_id}-{number}")
            elif ending == "leave":
                book.answer(claim, accepted(f"job-{load.load_id}-{number}"))
                book.end(f"job-{load.load_id}-{number}")
            elif isinstance(answer, Reply):
                book.answer(claim, answer)
    book.now += 10.0


@given(nights=st.lists(NIGHT, min_size=2, max_size=4), hold=st.booleans())
@settings(
    max_examples=settings().max_examples // 7, deadline=None, phases=[Phase.explicit, Phase.reuse, Phase.generate]
)
def test_plan_run_and_claims_agree(
    tmp_path_factory: pytest.TempPathFactory, nights: list[tuple[str, Rows, list[str], int | None, bool]], hold: bool
) -> None:
    """After any nights a plan's figures are those of the run, and exactly these items are sent."""
    with opened(tmp_path_factory.mktemp("book")) as book:
        book.hold = hold
        for name in ("a.wav", "b.wav", "d.wav", "e.wav"):
            book.file(name)
        for name, rows, endings, first, repeat in nights:
            planned, lanes = from_dry_run(book, name, rows, first, repeat=repeat)
            load = book.load(rows, name, repeat=repeat, run=False)
            book.crash(load)
            book.run(load, first=first)
            assert from_ledger(book, load) == planned
            assert planned.own.files <= (first or 99)
            assert (lanes == 0) == (planned.all.files == 0)
            if endings:
                carry(book, load, endings)
            else:
                assert len(book.complete_all()) == planned.all.files


@pytest.mark.parametrize("is_held", [True, False])
def test_leftovers_are_named_by_their_batch(book: Book, is_held: bool) -> None:
    """Another batch's pending items before this one's count with the run; none behind trouble, where that holds."""
    book.load([("c", "a.wav"), ("c", "b.wav"), ("d", "d.wav")], "monday.csv")
    if is_held:
        book.answer(book.claim(1)[0], NOT_FOUND)
    rows = [("c", "e.wav"), ("e", "f.wav")]
    for name in ("e.wav", "f.wav"):
        book.file(name)
    planned, _ = from_dry_run(book, "tuesday.csv", rows, None, repeat=False)
    assert [(leftover.batch, leftover.amount.files) for leftover in planned.leftovers] == (
        [] if is_held else [("monday.csv", 2)]
    )
    assert (planned.own.files, planned.held, planned.later) == ((1, 1, 0) if is_held else (2, 0, 0))
    assert from_ledger(book, book.load(rows, "tuesday.csv")) == planned


def test_amounts_add_up() -> None:
    """Files, bytes, seconds and unknown lengths of all that is sent."""
    amount = Amount()
    amount.add(7, 1.0, None)
    assert amount + Amount(1, 2, 3.0, 4.0, 0) == Amount(2, 9, 4.0, 4.0, 1)
