"""The ledger's contract: what is one item, from load to load and from night to night."""

import os
from collections.abc import Iterator
from pathlib import Path
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sqlalchemy import update

from tests.integration.test_ledger import CUT, LOST, NOT_FOUND, OUR_FILE, THROTTLED, Book, accepted, opened
from uploader import audio
from uploader.ledger import loading, matching, staging
from uploader.ledger.lanes import activate_batch
from uploader.ledger.loading import close_repeat
from uploader.ledger.schema import items
from uploader.model import InvalidRow, Reply, Row, State

LANE = [("c", "a.wav"), ("c", "b.wav"), ("c", "c.wav")]


def test_the_same_manifest_appends_nothing_again(book: Book) -> None:
    """Loaded once more, every row is the item that exists, with its jobId."""
    load = book.load(LANE)
    assert book.complete_all() == ["a.wav", "b.wav", "c.wav"]
    jobs = [line.job_id for line in book.lines(load)]
    again = book.load(LANE)
    assert book.complete_all() == []
    assert [line.job_id for line in book.lines(again)] == jobs


def test_another_name_appends_nothing_again(book: Book) -> None:
    """The batch's name is a view: its rows show the items of the batch that first named them."""
    book.load(LANE, "monday.csv")
    book.complete_all()
    second = book.load(LANE, "tuesday.csv")
    assert book.complete_all() == []
    assert {line.batch for line in book.lines(second)} == {"monday.csv"}
    assert book.states(second) == "completed completed completed"


def test_a_hash_that_a_load_took_is_kept(book: Book) -> None:
    """A new file that had to be read beside one of its size is not read again the next night."""
    book.load([("c", "a.wav")])
    book.complete_all()
    book.load([("c", "b.wav")], "tuesday.csv")
    assert book.value("content_hash", 2) == audio.content_hash(book.folder / "b.wav")


def test_an_overlapping_manifest_appends_the_new_rows_alone(book: Book) -> None:
    """Exactly the new rows are sent, wherever they stand among the rest."""
    book.load(LANE, "monday.csv")
    book.complete_all()
    book.load([("c", "d.wav"), ("c", "b.wav"), ("d", "b.wav"), ("c", "e.wav")], "tuesday.csv")
    assert sorted(book.complete_all()) == ["b.wav", "d.wav", "e.wav"]


def test_a_shuffled_manifest_keeps_what_was_begun_first(book: Book) -> None:
    """Begun items keep their place; pending ones take the newest manifest's order."""
    book.load(LANE)
    book.answer(book.claim_one(), CUT)
    book.load([("c", "c.wav"), ("c", "b.wav"), ("c", "a.wav")])
    assert book.complete_all() == ["a.wav", "c.wav", "b.wav"]


def test_a_new_row_before_pending_ones_goes_before_them(book: Book) -> None:
    """An edited manifest orders what has not begun, leftovers of earlier batches first."""
    book.load([("c", "a.wav"), ("c", "b.wav")], "monday.csv")
    book.load([("c", "d.wav"), ("c", "c.wav")], "tuesday.csv")
    book.load([("c", "c.wav"), ("c", "e.wav"), ("c", "d.wav")], "tuesday.csv")
    assert book.complete_all() == ["a.wav", "b.wav", "c.wav", "e.wav", "d.wav"]


def test_a_renamed_file_is_not_appended_again(book: Book) -> None:
    """A file is found by its content under any name."""
    book.load([("c", "a.wav")])
    book.complete_all()
    (book.folder / "a.wav").rename(book.folder / "renamed.wav")
    load = book.load([("c", "renamed.wav")])
    assert book.complete_all() == []
    assert book.states(load) == "completed"


def test_a_copied_file_goes_once_to_each_conversation(book: Book) -> None:
    """The same audio for another conversation is another item."""
    book.load([("c", "a.wav")])
    book.complete_all()
    book.file("copy.wav", "a speaks")
    book.load([("c", "copy.wav"), ("d", "copy.wav")])
    assert [claim.conversation_id for claim in book.claim()] == ["d"]


def test_a_re_dated_file_is_not_appended_again(book: Book) -> None:
    """A new modification time alone changes nothing."""
    book.load([("c", "a.wav")])
    book.complete_all()
    os.utime(book.folder / "a.wav", (1, 1))
    book.load([("c", "a.wav")])
    assert book.complete_all() == []


@pytest.mark.parametrize("content", ["a shouts", "a speaks again"])
def test_another_content_under_the_same_name_is_appended(book: Book, content: str) -> None:
    """A file whose content changed since its attempt is another item, of the same size or not."""
    book.load([("c", "a.wav")])
    book.complete_all()
    book.file("a.wav", content)
    load = book.load([("c", "a.wav")])
    assert book.complete_all() == ["a.wav"]
    assert book.states(load) == "completed"


@pytest.mark.parametrize("content", ["a shouts", "a speaks again"])
def test_a_pending_item_takes_its_files_new_content(book: Book, content: str) -> None:
    """An unsent item whose file has changed is one item still, with the new size."""
    book.load([("c", "a.wav")])
    book.answer(book.claim_one(), CUT)
    book.file("a.wav", content)
    load = book.load([("c", "a.wav")])
    claim = book.claim_one()
    assert (claim.number, claim.size) == (2, len(content))
    book.complete(claim)
    assert book.states(load) == "completed"
    assert book.complete_all() == []


def test_the_second_row_with_the_same_audio_is_a_second_item(book: Book) -> None:
    """The same audio twice in one manifest is two items, in two manifests one."""
    twice = [("c", "a.wav"), ("c", "a.wav")]
    book.load(twice, "monday.csv")
    assert book.complete_all() == ["a.wav", "a.wav"]
    book.load(twice, "tuesday.csv")
    book.load([("c", "a.wav")], "wednesday.csv")
    assert book.complete_all() == []
    third = book.load([*twice, ("c", "a.wav")], "thursday.csv")
    assert book.complete_all() == ["a.wav"]
    assert book.states(third) == "completed completed completed"


def test_the_second_occurrence_is_found_across_chunks(book: Book, monkeypatch: pytest.MonkeyPatch) -> None:
    """The size of the chunks in which rows are loaded makes no difference."""
    monkeypatch.setattr(staging, "CHUNK", 2)
    monkeypatch.setattr(matching, "TOGETHER", 2)
    rows = [("c", "a.wav"), ("c", "b.wav"), ("c", "a.wav"), ("d", "a.wav"), ("c", "a.wav")]
    book.load(rows)
    assert sorted(book.complete_all()) == ["a.wav", "a.wav", "a.wav", "a.wav", "b.wav"]
    load = book.load(list(reversed(rows)))
    assert book.complete_all() == []
    assert book.states(load) == "completed completed completed completed completed"


def test_archived_files_are_the_items_that_they_were(book: Book) -> None:
    """People archive what was sent: the rows show their results, whatever became of the items."""
    load = book.load([*LANE, ("d", "a.wav"), ("e", "b.wav")])
    for claim, reply in zip(book.claim(), [accepted("j"), LOST, NOT_FOUND], strict=True):
        book.answer(claim, reply)
    before = [(line.state, line.job_id) for line in book.lines(load) if line.line not in (3, 4)]
    (book.folder / "a.wav").unlink()
    again = book.load([("e", "b.wav"), ("d", "a.wav"), ("c", "a.wav")], "other.csv")
    assert sorted((line.state, line.job_id) for line in book.lines(again)) == sorted(before)


def test_a_gone_file_that_was_not_begun_is_invalid(book: Book) -> None:
    """A pending item of which nothing went, without its file, is a row that cannot be sent."""
    book.load([("c", "a.wav")])
    (book.folder / "a.wav").unlink()
    load = book.load([("c", "a.wav")])
    assert book.states(load) == "refused"


def test_of_two_equal_recordings_the_archived_one_is_found(book: Book) -> None:
    """Two files with the same audio, the first sent and archived, rows shuffled: each row is the item of its path."""
    book.file("b.wav", "a speaks")
    book.load([("c", "a.wav"), ("c", "b.wav")])
    book.complete(book.claim_one(), "first")
    (book.folder / "a.wav").unlink()
    load = book.load([("c", "b.wav"), ("c", "a.wav")])
    assert [(line.audio_path, line.job_id) for line in book.lines(load)] == [("b.wav", None), ("a.wav", "first")]
    assert book.complete_all() == ["b.wav"]
    assert book.states(load) == "completed completed"


def test_a_second_row_of_a_gone_file_makes_no_item_without_a_file(book: Book) -> None:
    """A file that was sent once and is gone names one item: a second row of it is invalid, not a new item."""
    book.load([("c", "a.wav")])
    book.complete_all()
    (book.folder / "a.wav").unlink()
    load = book.load([("c", "a.wav"), ("c", "a.wav")])
    assert book.claim() == []
    assert book.states(load) == "completed refused"


def test_repeat_appends_everything_once_more(book: Book) -> None:
    """--repeat makes new items of all rows, two of two equal rows."""
    rows = [*LANE, ("c", "a.wav")]
    book.load(rows)
    book.complete_all()
    load = book.load(rows, repeat=True)
    assert book.states(load) == "pending pending pending pending"
    assert book.complete_all() == ["a.wav", "b.wav", "c.wav", "a.wav"]
    with book.ledger.writing() as connection:
        close_repeat(connection, load.batch_id, load.repeat_id)
    book.load(rows, repeat=True)
    assert book.complete_all() == ["a.wav", "b.wav", "c.wav", "a.wav"]


def test_an_interrupted_repeat_is_carried_on(book: Book) -> None:
    """The same command after a crash does not begin the repetition once more."""
    book.load(LANE)
    book.complete_all()
    load = book.load(LANE, repeat=True)
    book.complete(book.claim_one())
    book.claim_one()
    book.crash(load)
    load = book.load(LANE, repeat=True)
    assert book.states(load) == "completed pending pending"
    assert book.complete_all() == ["b.wav", "c.wav"]


def test_after_a_repeat_the_plain_command_appends_nothing(book: Book) -> None:
    """A run without --repeat does not append repeated items a third time."""
    book.load(LANE)
    book.complete_all()
    book.load(LANE, repeat=True)
    book.complete_all()
    load = book.load(LANE)
    assert book.complete_all() == []
    assert book.states(load) == "completed completed completed"


@pytest.mark.parametrize("name", ["m.csv", "other.csv"])
def test_what_was_appended_by_a_repeat_alone_is_not_appended_again(book: Book, name: str) -> None:
    """A row that went for the first time under --repeat exists: a plain run, of any batch, appends nothing again."""
    book.load(LANE, repeat=True)
    assert book.complete_all() == ["a.wav", "b.wav", "c.wav"]
    load = book.load(LANE, name)
    assert book.complete_all() == []
    assert book.states(load) == "completed completed completed"


def test_an_interrupted_repeat_is_not_appended_again_by_a_plain_run(book: Book) -> None:
    """A first run under --repeat that was interrupted, carried on without the flag: each row goes once."""
    book.load(LANE, repeat=True)
    went = [Path(claim.path).name for claim in book.claim()]
    book.crash(book.loads["m.csv"])
    book.complete(book.claim_one())
    book.load(LANE)
    assert went + book.complete_all() == ["a.wav", "b.wav", "c.wav"]


def test_invalid_rows_hold_their_lane(book: Book) -> None:
    """A row that was left out is refused, and holds what stands behind it as any refused item does."""
    load = book.load([("c", "a.wav"), ("c", "none.wav"), ("c", "b.wav"), ("", "x.wav"), ("d", "b.wav")])
    assert sorted(book.complete_all()) == ["a.wav", "b.wav"]
    assert book.states(load) == "completed refused held refused completed"
    lines = book.lines(load)
    assert "cannot be found" in (lines[1].error or "")
    assert (lines[1].attempts, lines[1].job_id, lines[1].size) == (0, None, None)
    assert [line.batch for line in lines] == ["m.csv"] * 5


def test_invalid_rows_go_when_their_manifest_is_corrected(book: Book) -> None:
    """Loaded anew with the row mended, nothing is held any more, and the order is the manifest's."""
    book.load([("c", "a.wav"), ("c", "none.wav"), ("c", "b.wav")])
    book.complete_all()
    book.file("none.wav")
    load = book.load([("c", "a.wav"), ("c", "none.wav"), ("c", "b.wav")])
    assert book.complete_all() == ["none.wav", "b.wav"]
    assert book.states(load) == "completed completed completed"


def test_an_invalid_row_of_another_batch_goes_on_holding(book: Book) -> None:
    """Only its own manifest's next load corrects an invalid row."""
    book.load([("c", "none.wav")], "monday.csv")
    load = book.load([("c", "a.wav")], "tuesday.csv")
    assert book.claim() == []
    assert book.states(load) == "held"
    book.load([("d", "b.wav")], "monday.csv")
    book.run(load)
    assert book.complete_all() == ["a.wav"]


def test_a_load_replaces_what_its_batch_named(book: Book) -> None:
    """A batch names the rows of its newest manifest; what left it and is pending is a leftover."""
    book.load(LANE)
    load = book.load([("c", "b.wav")])
    (line,) = book.lines(load)
    assert line.audio_path == "b.wav"
    assert book.complete_all() == ["a.wav", "c.wav", "b.wav"]


def test_a_load_that_fails_leaves_no_trace(book: Book) -> None:
    """One transaction: a manifest that cannot be read to its end changes nothing."""
    load = book.load(LANE)
    before = book.lines(load)

    class BrokenError(Exception):
        """The manifest ends here."""

    def broken() -> Iterator[Row | InvalidRow]:
        yield book_row
        raise BrokenError

    book_row = book.row(2, "c", "d.wav", {})
    with pytest.raises(BrokenError), book.ledger.writing() as connection:  # noqa: PT012 - one transaction
        begun = loading.begin_load(
            connection,
            load.account_id,
            "m.csv",
            manifest="m.csv",
            results=book.folder / "r.csv",
            extra_columns=["x-new"],
            now=5.0,
            repeat=True,
        )
        loading.load_rows(connection, begun, broken(), content_hash=audio.content_hash, probe=audio.probe)
    assert book.lines(load) == before


def test_parameters_and_extras_are_the_newest_manifests(book: Book) -> None:
    """Pending items are sent with the newest load's parameters; extras belong to the row, not to the item."""
    book.load([("c", "a.wav")])
    row = book.row(2, "c", "a.wav", {"x-id": 7})
    assert isinstance(row, Row)
    with book.ledger.writing() as connection:
        begun = loading.begin_load(
            connection,
            1,
            "m.csv",
            manifest="m.csv",
            results=book.folder / "r.csv",
            extra_columns=["x-id"],
            now=5.0,
            repeat=False,
        )
        changed = row._replace(parameters={"name": "Q1"}, content_type="audio/mp3")
        loading.load_rows(connection, begun, [changed], content_hash=audio.content_hash, probe=audio.probe)
    book.run(begun)
    claim = book.claim_one()
    assert (dict(claim.parameters), claim.content_type) == ({"name": "Q1"}, "audio/mp3")
    assert book.lines(begun)[0].extras == {"x-id": 7}


CONTENTS = {"a.wav": "x", "b.wav": "x", "c.wav": "y", "d.wav": "zz"}
ROWS = st.lists(st.tuples(st.sampled_from("cd"), st.sampled_from(sorted(CONTENTS))), min_size=1, max_size=6)


@settings(max_examples=settings().max_examples // 4)
@given(ROWS, st.integers(0, 6), st.randoms(use_true_random=False))
def test_a_shuffled_reload_appends_each_row_once(
    tmp_path_factory: pytest.TempPathFactory, rows: list[tuple[str, str]], sent: int, rng: Random
) -> None:
    """Interrupted anywhere and loaded again in any order, under any name: each row goes once, none is lost."""
    shuffled = list(rows)
    rng.shuffle(shuffled)
    with opened(tmp_path_factory.mktemp("night")) as book:
        for name, content in CONTENTS.items():
            book.file(name, content)
        book.load(rows)
        went: list[tuple[str, str]] = []
        while len(went) < sent and (some := book.claim(1)):
            went += [(some[0].conversation_id, CONTENTS[Path(some[0].path).name])]
            book.complete(some[0])
        load = book.load(shuffled, "other.csv")
        while some := book.claim(1):
            went += [(some[0].conversation_id, CONTENTS[Path(some[0].path).name])]
            book.complete(some[0])
        assert sorted(went) == sorted((conversation, CONTENTS[name]) for conversation, name in rows)
        assert {line.state for line in book.lines(load)} == {State.COMPLETED}


def test_loading_an_unchanged_manifest_again_reads_no_file(book: Book, monkeypatch: pytest.MonkeyPatch) -> None:
    """A restart costs no reading, whatever is equal in size: every row's own file is known untouched."""
    rows = [("c", f"{number}.wav") for number in range(60)]
    for number, (_, name) in enumerate(rows):
        book.file(name, f"{number:04}")
    book.load(rows)
    read: list[str] = []
    monkeypatch.setattr(audio, "content_hash", read.append)
    book.load(rows)
    assert read == []


@pytest.mark.parametrize("mended", [True, False])
def test_a_refused_row_that_was_corrected_goes_again(book: Book, mended: bool) -> None:
    """Another recording in the refused one's place goes, and the rest of its lane behind it; the same one does not."""
    book.load([("c", "a.wav"), ("c", "b.wav")])
    book.answer(book.claim_one(), NOT_FOUND)
    if mended:
        book.file("a.wav", "A SPEAKS")
    again = book.load([("c", "a.wav"), ("c", "b.wav")])
    assert book.complete_all() == (["a.wav", "b.wav"] if mended else [])
    assert book.states(again) == ("completed completed" if mended else "refused held")


@pytest.mark.parametrize("rewritten", [True, False])
@pytest.mark.parametrize("earlier", [[], [CUT], [THROTTLED]])
def test_what_was_refused_for_its_file_goes_again(book: Book, earlier: list[Reply], rewritten: bool) -> None:
    """A load checks the file anew, whatever came of earlier attempts: it goes, and the rest of its lane behind it."""
    book.load([("c", "a.wav"), ("c", "b.wav")])
    for reply in [*earlier, OUR_FILE]:
        book.answer(book.claim_one(), reply)
    if rewritten:
        book.file("a.wav", "A SPEAKS")
    again = book.load([("c", "a.wav"), ("c", "b.wav")])
    assert book.complete_all() == ["a.wav", "b.wav"]
    assert book.states(again) == "completed completed"


def test_a_trial_carries_so_many_items_and_no_more(book: Book) -> None:
    """They are the batch's own; the leftovers that stand before them in their lanes go with them."""
    book.load([("c", "a.wav"), ("c", "b.wav"), ("d", "c.wav")], "monday.csv", run=False)
    tuesday = book.load([("c", "d.wav"), ("e", "e.wav"), ("d", "f.wav")], "tuesday.csv", run=False)
    book.run(tuesday, first=2)
    assert sorted(book.complete_all()) == ["a.wav", "b.wav", "d.wav", "e.wav"]
    book.run(tuesday, first=2)
    assert book.complete_all() == ["c.wav", "f.wav"]


def test_a_trial_sends_nothing_that_was_given_back_beyond_it(book: Book) -> None:
    """Another batch's item that is pending again before a live one of this batch is none of the first N."""
    book.hold = False
    book.load([("c", "a.wav"), ("c", "b.wav")], "monday.csv")
    book.answer(book.claim_one(), LOST)
    book.answer(book.claim_one(), accepted("live"))
    with book.ledger.writing() as connection:  # as `uploader resolve --not-appended` leaves it
        connection.execute(update(items).where(items.c.state == State.IN_DOUBT).values(state=State.PENDING))
    tuesday = book.load([("c", "b.wav"), ("d", "d.wav"), ("e", "e.wav")], "tuesday.csv", run=False)
    book.run(tuesday, first=1)
    book.end("live")
    assert book.complete_all() == ["d.wav"]


def test_a_trial_without_anything_pending_still_follows_what_runs(book: Book) -> None:
    """A job of the batch that runs is waited for, though nothing new is sent."""
    load = book.load([("c", "a.wav")])
    book.answer(book.claim_one(), accepted("j"))
    with book.ledger.writing() as connection:
        activate_batch(connection, load.account_id, load.batch_id, first=5)
    assert [job.is_active for job in book.jobs()] == [True]
