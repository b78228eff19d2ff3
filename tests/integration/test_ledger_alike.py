"""Staged rows that are most likely mistakes beside one another are found by the staging table, whatever their order."""

from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import Connection

from uploader.ledger.alike import became_the_same, case_twins, repeats, rounded
from uploader.ledger.sqlite import without_ledger
from uploader.ledger.staging import Stage
from uploader.model import NOTHING, AudioFacts, FileSignature, InvalidRow, Problem, Row


@pytest.fixture(scope="module")
def connection() -> Iterator[Connection]:
    """Provide a connection to stage rows on."""
    with without_ledger() as made:
        yield made


def stage(connection: Connection, rows: Sequence[tuple[str, str]]) -> Stage:
    """Stage rows of these ids and paths, from line 2 on; a row without a path is invalid."""
    staged: list[Row | InvalidRow] = []
    for line, (conversation_id, path) in enumerate(rows, start=2):
        if not path:
            staged.append(InvalidRow(line, conversation_id, path, NOTHING, [Problem(line, "audioPath", "", "empty")]))
        else:
            at = str(Path("/audio") / path)
            signature = FileSignature(1, "1:1:1")
            staged.append(Row(line, conversation_id, path, at, None, NOTHING, NOTHING, signature, facts=AudioFacts()))
    made = Stage(connection, None)
    made.add(staged, lambda _: AudioFacts(), separate=False)
    return made


def test_the_same_path_for_the_same_conversation_is_told_with_its_lines(connection: Connection) -> None:
    """A repeat is found however its path is written; the same path for another conversation is none."""
    stage(connection, [("1", "a.wav"), ("2", "a.wav"), ("1", "./a.wav"), ("1", "b.wav"), ("1", "a.wav"), ("1", "")])
    (told,) = repeats(connection)
    assert (told.line, told.column, told.value) == (2, "audioPath", "a.wav")
    assert told.remedy.startswith("lines 2, 4, 6 append")


@pytest.mark.parametrize(
    ("spelling", "other"),
    [("abc-1F", "ABC-1f"), ("\u00e4", "\u00c4"), ("stra\u00dfe", "STRASSE"), ("\u00e9", "e\u0301")],
)
def test_ids_that_differ_by_case_or_form_alone_are_told(connection: Connection, spelling: str, other: str) -> None:
    """Twins of ids are found in ASCII and beyond; other ids and equal ids are none."""
    stage(connection, [("581", "a"), ("abd", "b"), (spelling, "c"), ("abd", "d"), (other, "e")])
    (told,) = case_twins(connection)
    assert (told.line, told.column) == (4, "conversationId")
    assert spelling in (told.value, told.remedy.split()[3])
    assert other in (told.value, told.remedy.split()[3])


def test_only_a_spoilt_id_that_rows_share_may_have_been_several(connection: Connection) -> None:
    """A conversation of several rows is no mistake by itself."""
    stage(connection, [("5.8E+15", "a"), ("x.y", "b"), ("x.y", "c"), ("5.8E+15", "d"), ("nan", "e"), ("nan", "")])
    told = list(became_the_same(connection, lambda conversation_id: conversation_id != "x.y"))
    assert {(problem.line, problem.value) for problem in told} == {(2, "5.8E+15"), (6, "nan")}
    assert {problem.remedy.partition(" have")[0] for problem in told} == {"lines 2, 5", "lines 6, 7"}


@pytest.mark.parametrize(
    ("ids", "is_told"),
    [
        (["5815170693595130", "5815170693595140", "5815170693595000", "nan"], True),
        (["58151706935951300", "581517069359514000", "5815170693595000", "5815170693595130"], True),
        (["5815170693595130", "5815170693595140", "5815170693595000", "5815170693595136"], False),
        (["5815170693595130", "5815170693595130", "5815170693595140"], False),
        (["100", "200", "300"], False),
    ],
)
def test_ids_that_a_spreadsheet_rounded_to_15_digits_are_told(
    connection: Connection, ids: list[str], is_told: bool
) -> None:
    """Three numbers and more that all end in zeros from the 16th digit on are no accident; one exact id shows it."""
    stage(connection, [(conversation_id, f"{number}.wav") for number, conversation_id in enumerate(ids)])
    told = [(problem.line, problem.value) for problem in rounded(connection)]
    assert told == ([(2, ids[0])] if is_told else [])


def test_nothing_is_compared_where_paths_ascend_and_ids_are_numbers(connection: Connection) -> None:
    """Rows in the order of their paths repeat none, and numbers differ by more than case; others are compared."""
    plain = stage(connection, [("1", "a.wav"), ("2", "b.wav"), ("2", ""), ("1", "c.wav")])
    assert plain.paths_ascend
    assert plain.ids_are_numbers
    for rows in ([("1", "a.wav"), ("2", "a.wav")], [("1", "b.wav"), ("x1", "a.wav")], [("\u00b2", "b"), ("1", "a")]):
        odd = stage(connection, rows)
        assert not odd.paths_ascend
        assert odd.ids_are_numbers == all(conversation_id in {"1", "2"} for conversation_id, _ in rows)


@given(rows=st.lists(st.tuples(st.sampled_from(["a", "A", "b", "\u00e4", "\u00c4"]), st.sampled_from(["", "x", "y"]))))
@settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_the_table_finds_what_a_look_at_all_rows_finds(connection: Connection, rows: list[tuple[str, str]]) -> None:
    """Repeats and twins are those that a plain comparison of all rows finds."""
    made = stage(connection, rows)
    pairs = {row for row in rows if row[1] and rows.count(row) > 1}
    assert not (pairs and made.paths_ascend)  # nobody would look for them
    assert {(rows[problem.line - 2][0], problem.value) for problem in repeats(connection)} == pairs
    spellings = [{row[0] for row in rows if row[0].lower() == letter} for letter in ("a", "b", "\u00e4")]
    assert {problem.value for problem in case_twins(connection)} == {min(some) for some in spellings if len(some) > 1}
