"""A manifest is staged beside whoever writes the ledger, and its rows are resolved as if one by one."""

import os
from collections import defaultdict
from collections.abc import Iterator, Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sqlalchemy import Connection, select, update

from tests.integration.test_ledger import BASE_URL, NOT_FOUND, Book, on_sqlite, opened
from uploader import audio
from uploader.ledger import Ledger
from uploader.ledger.loading import account, begin_load, resolve
from uploader.ledger.matching import NAMED, Hashes
from uploader.ledger.merging import merge
from uploader.ledger.schema import accounts, items, lanes
from uploader.ledger.staging import Stage, found, staged
from uploader.model import InvalidRow, Problem, Row, State
from uploader.policy.identity import ExistingItem, Items, find, is_untouched

CONTENTS = ["one", "two", "six", "seven"]
NAMES = ["a.wav", "b.wav", "c.wav", "d.wav"]
ROWS = st.lists(st.tuples(st.sampled_from("xy"), st.sampled_from(NAMES)), min_size=1, max_size=8)


def known_of(connection: Connection) -> dict[str, list[ExistingItem]]:
    """Return all items that rows may name, by conversation."""
    columns = [items.c[name] for name in ("id", "lane_id", "path", "size", "change", "content_hash", "state")]
    columns += [items.c[name] for name in ("attempts", "position", "load_id", "content_type", "parameters")]
    valid = select(lanes.c.conversation_id, *columns).join(lanes, lanes.c.id == items.c.lane_id)
    by_conversation = defaultdict(list)
    for row in connection.execute(valid.where(items.c.invalid_batch_id.is_(None))).mappings():
        more = {name: value for name, value in row.items() if name not in ("id", "conversation_id", "state")}
        item = ExistingItem(item_id=row["id"], state=State(row["state"]), **more)
        by_conversation[row["conversation_id"]].append(item)
    return by_conversation


def one_by_one(rows: Sequence[Row], known: dict[str, list[ExistingItem]]) -> dict[int, int]:
    """Match rows one by one, as a reference: untouched files by the only item of their path, others in order."""
    named: dict[int, int] = {}
    left = []
    for row in rows:
        own = [item for item in known.get(row.conversation_id, ()) if item.path == row.path]
        if len(own) == 1 and own[0].load_id != NAMED and is_untouched(own[0], row):
            own[0].load_id = NAMED
            named[row.line] = own[0].item_id
        else:
            left.append(row)
    indexed = {conversation_id: Items(some) for conversation_id, some in known.items()}
    for row in left:
        item = find(row.path, row.signature, indexed.get(row.conversation_id, Items()), NAMED, audio.content_hash)
        if isinstance(item, ExistingItem):
            item.load_id = NAMED
            named[row.line] = item.item_id
    return named


@settings(max_examples=settings().max_examples // 2, deadline=None)
@given(data=st.data())
def test_rows_are_resolved_together_as_they_are_one_by_one(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    """After any nights, with files touched, edited, swapped, renamed and archived: each row names the same item."""
    with opened(tmp_path_factory.mktemp("nights")) as book:
        for number in range(data.draw(st.integers(1, 3))):
            for name in NAMES:
                if data.draw(st.booleans(), name):
                    book.file(name, data.draw(st.sampled_from(CONTENTS)))
                    os.utime(book.folder / name, (number, data.draw(st.integers(0, 2))))
                elif data.draw(st.booleans()):
                    (book.folder / name).unlink(missing_ok=True)
            book.load(data.draw(ROWS), data.draw(st.sampled_from(["m.csv", "n.csv"])))
            for claim in book.claim(data.draw(st.integers(0, 3))):
                if data.draw(st.booleans()):
                    book.complete(claim)
                else:
                    book.answer(claim, NOT_FOUND)
        read = [book.row(line, *row, {}) for line, row in enumerate(data.draw(ROWS), start=2)]
        rows = [row for row in read if isinstance(row, Row)]
        with book.ledger.writing() as connection:
            expected = one_by_one(rows, known_of(connection))
            stage = Stage(connection, account(connection, BASE_URL))
            stage.add(read, audio.probe, separate=False)
            lacking = resolve(connection, stage, 0, Hashes(audio.content_hash))
            together = {row.line: row.item_id for row in connection.execute(select(found))}
        valid = {row.line for row in rows}
        assert {line: item_id for line, item_id in together.items() if line in valid} == expected
        gone = {row.line for row in rows if row.signature is None}
        assert {row.line for row in lacking} == gone - expected.keys()


def test_others_write_while_a_manifest_is_read(book: Book, database_url: str) -> None:
    """Rows are read, probed and staged without a lock: whoever settles something beside it does not wait."""
    book.file("a.wav")
    book.file("b.wav")
    at_once = "PRAGMA busy_timeout = 0" if database_url.startswith("sqlite") else "SET lock_timeout = 1"
    with Ledger.open_beside_run(database_url) as beside, book.ledger.staging() as connection:

        def rows() -> Iterator[Row | InvalidRow]:
            yield book.row(2, "c", "a.wav", {})
            with beside.writing() as other:
                other.exec_driver_sql(at_once)
                account(other, "https://beside.example")
            yield book.row(3, "c", "b.wav", {})

        with connection.begin():
            Stage(connection, None).add(rows(), audio.probe, separate=False)
        with beside.writing() as other:
            other.exec_driver_sql(at_once)
            assert other.execute(select(accounts.c.base_url)).scalar_one() == "https://beside.example"


def test_lanes_that_another_load_adds_meanwhile_are_found_after_a_rollback_too(book: Book) -> None:
    """Two runs load one manifest at once: the second one's rows are the items of the first, however often it tries."""
    names = ["a.wav", "b.wav", "c.wav"]
    rows = [("c" + name, book.file(name, name).name) for name in names]
    with book.ledger.writing() as connection:
        account_id = account(connection, BASE_URL)
    with book.ledger.staging() as connection:
        with connection.begin():
            stage = Stage(connection, account_id)
            read = [book.row(line, *row, {}) for line, row in enumerate(rows, start=2)]
            stage.add(read, audio.probe, separate=False)
        book.load(rows)
        counts = []
        for is_kept in (False, False, True):
            with connection.begin() as transaction:
                resolve(connection, stage, 0, Hashes(audio.content_hash))
                counts.append(len(connection.execute(select(found.c.line)).all()))
                if not is_kept:
                    transaction.rollback()
    assert counts == [3, 3, 3]


def test_what_others_write_between_matching_and_merging_stands(book: Book, database_url: str) -> None:
    """An item that began since its row was matched keeps what it began with; what a person settled stays settled."""
    for name in ("begun.wav", "dropped.wav", "waits.wav"):
        book.load([("c" + name, book.file(name, "before").name)], name)
    with book.ledger.writing() as connection:
        settled = {"state": State.REFUSED, "attempts": 1}
        connection.execute(update(items).where(items.c.path.endswith("dropped.wav")).values(**settled))
    names = ["begun.wav", "dropped.wav", "waits.wav"]
    rows = [
        book.row(line, "c" + name, book.file(name, "edited now").name, {}) for line, name in enumerate(names, start=2)
    ]
    with Ledger.open_beside_run(database_url) as beside, book.ledger.staging() as connection:
        with connection.begin():
            stage = Stage(connection, 1)
            stage.add(rows, audio.probe, separate=False)
            assert not resolve(connection, stage, 0, Hashes(audio.content_hash))
            assert [row.state for row in connection.execute(select(found).order_by(found.c.line))] == ["pending"] * 3
        with beside.writing() as other:
            for name, state in (("begun.wav", State.SENDING), ("dropped.wav", State.DROPPED)):
                other.execute(update(items).where(items.c.path.endswith(name)).values(state=state))
        with book.ledger.locking(connection, [1]):
            load = begin_load(
                connection,
                1,
                "m.csv",
                manifest="m.csv",
                results=book.folder / "r.csv",
                extra_columns=[],
                now=2.0,
                repeat=False,
            )
            merge(connection, load)
    assert book.states(load) == "sending dropped pending"
    with book.ledger.reading() as connection:
        sizes = connection.execute(select(items.c.size).order_by(items.c.id)).scalars().all()
    assert sizes == [len("before"), len("before"), len("edited now")]


@on_sqlite
def test_a_load_that_ends_early_leaves_nothing_behind(book: Book) -> None:
    """Staged rows are the connection's alone: the ledger is as before, and holds none of their tables."""
    before = book.load([("c", "a.wav")])
    with book.ledger.staging() as connection, connection.begin():
        stage = Stage(connection, 1)
        stage.add([book.row(2, "d", "b.wav", {})], audio.probe, separate=False)
    with book.ledger.writing() as connection:
        names = connection.exec_driver_sql("SELECT name FROM sqlite_master UNION SELECT name FROM sqlite_temp_master")
        assert "staged" not in {name for (name,) in names}
    assert [line.audio_path for line in book.lines(before)] == ["a.wav"]


def test_rows_of_all_kinds_are_staged_together(book: Book) -> None:
    """A row that names its type, one that does not, and one without a file: each has its own columns, and its lane."""
    book.file("a.wav")
    book.load([("c", "a.wav")])
    typed = book.row(2, "c", "a.wav", {})
    assert isinstance(typed, Row)
    read = [typed._replace(content_type="audio/wav"), book.row(3, "d", "a.wav", {}), book.row(4, "c", "gone.wav", {})]
    columns = staged.c["line", "conversation_id", "path", "content_type", "billed_seconds", "lane_id", "given_type"]
    with book.ledger.writing() as connection:
        stage = Stage(connection, account(connection, BASE_URL))
        lane_id = connection.execute(select(lanes.c.id)).scalar_one()
        stage.add(read, audio.probe, separate=False)
        kept = [tuple(row) for row in connection.execute(select(*columns).order_by(staged.c.line))]
    path = str(book.folder / "a.wav")
    assert kept == [
        (2, "c", path, "audio/wav", None, lane_id, "audio/wav"),
        (3, "d", path, None, None, None, None),
        (4, "c", None, None, None, lane_id, None),
    ]


def _row_of_type(book: Book, given_type: str | None) -> Row:
    """Return a valid row of this type."""
    row = book.row(2, "c", "b.wav", {})
    assert isinstance(row, Row)
    return row._replace(content_type=given_type)


@pytest.mark.parametrize("is_lane_known", [False, True])
@pytest.mark.parametrize("given_type", [None, "audio/wav"])
@pytest.mark.parametrize("named", [None, "north", ""])
def test_an_invalid_row_is_staged_beside_rows_of_any_width(
    book: Book, is_lane_known: bool, given_type: str | None, named: str | None
) -> None:
    """Whatever columns the rows beside it have, each of its values stands in its own column."""
    if is_lane_known:
        book.load([("d", "a.wav")])
    book.file("b.wav", "b speaks")
    wrong = InvalidRow(3, "d", "none.wav", {}, [Problem(3, "audioPath", "none.wav", "gone")], account=named)
    with book.ledger.writing() as connection:
        account_id = account(connection, BASE_URL)
        north = account(connection, BASE_URL, "north")
    with book.ledger.staging() as connection, connection.begin():
        stage = Stage(connection, account_id, {"north": north})
        stage.add([_row_of_type(book, given_type), wrong], audio.probe, separate=False)
        row = connection.execute(select(staged).where(staged.c.line == 3)).one()
        assert (row.conversation_id, row.audio_path, row.path, row.account) == ("d", "none.wav", None, named)
        assert (row.size, row.billed_seconds, row.given_type) == (None, None, None)
        assert (row.lane_id is not None) is (is_lane_known and named is None)
