"""Problems and warnings as they are told: counted, in a table, as JSON."""

import io
import json

import pytest

from uploader.model import Problem
from uploader.run.findings import SHOWN, Findings, json_lines, spooled


def problems(count: int) -> list[Problem]:
    """So many problems, each on a line of its own."""
    return [Problem(number, "name", f"v{number}", "mend it") for number in range(1, count + 1)]


def test_a_table_has_aligned_columns() -> None:
    """Every column begins in the same place in each line; a value is shown so that nothing in it acts."""
    found = Findings()
    found.add([Problem(7, "conversationId", "\x1b[31m", "mend it"), Problem(1234, "", "", "give each column one")])
    head, *rows = found.table()
    assert [row.index("mend it" if "mend" in row else "give") for row in rows] == [head.index("remedy")] * 2
    assert "\x1b" not in "".join(rows)
    assert r"\x1b[31m" in rows[0]


def test_nothing_found_is_no_table() -> None:
    """No head over nothing."""
    assert list(Findings().table()) == []


@pytest.mark.parametrize(("count", "lines"), [(1, 2), (SHOWN, SHOWN + 1), (SHOWN + 1, SHOWN + 2), (1000, SHOWN + 2)])
def test_the_first_are_shown_and_all_are_counted(count: int, lines: int) -> None:
    """Fifty, and how many more there are."""
    found = Findings()
    for problem in problems(count):
        found.add([problem])
    result = list(found.table())
    assert (found.count, len(result)) == (count, lines)
    assert result[-1].startswith("  … and") == (count > SHOWN)
    assert f"{count - SHOWN} more" in result[-1] or count <= SHOWN


@pytest.mark.parametrize("count", [1, SHOWN, 1000])
def test_all_are_shown_where_all_are_kept(count: int) -> None:
    """With a place to keep them, every one comes back as it was, in order."""
    with spooled() as spool:
        found = Findings(spool=spool)
        found.add(problems(count))
        assert list(found) == problems(count)
        assert len(list(found.table())) == count + 1
        assert list(found) == problems(count)


@pytest.mark.parametrize(
    ("rows", "told"),
    [(1, "2  "), (2, "2 rows (2, 3)  "), (3, "3 rows (2, 3, 4)  "), (60, "60 rows (2, 3, 4, …)  ")],
)
def test_what_is_the_same_in_many_rows_is_told_once(rows: int, told: str) -> None:
    """One line with the count and the first lines' numbers; what is said of another row stays apart, in its place."""
    found = Findings(folded=True)
    for line in range(2, 2 + rows):
        found.add([Problem(line, "mode", "", "consider phone")])
        found.add([Problem(line, "mode", "phone", "consider default")] if line == 2 else [])
    assert found.count == rows + 1
    head, same, other = found.table()
    assert head.startswith("  line")
    assert same.startswith("  " + told)
    assert same.endswith("consider phone")
    assert other.startswith("  2  ")


@pytest.mark.parametrize("kinds", [SHOWN, SHOWN + 1, 1000])
def test_folded_or_not_all_are_counted(kinds: int) -> None:
    """More kinds than are shown: what no line tells of is counted in the last, each kind with all its rows."""
    found = Findings(folded=True)
    for _ in range(2):
        found.add(problems(kinds))
    result = list(found.table())
    assert len(result) == 1 + SHOWN + (kinds > SHOWN)
    assert result[1].startswith("  2 rows (1, 1)")
    assert (f"… and {2 * (kinds - SHOWN)} more" in result[-1]) == (kinds > SHOWN)


def test_asked_for_all_nothing_is_folded() -> None:
    """With --all each row has its line, as it has for a machine."""
    with spooled() as spool:
        found = Findings(spool=spool, folded=True)
        found.add([Problem(line, "mode", "", "consider phone") for line in range(100)])
        assert len(list(found.table())) == 101
        assert len(list(found)) == 100


@pytest.mark.parametrize("count", [0, 1, 2, 100])
def test_the_pieces_make_one_json_object(count: int) -> None:
    """The pieces written one by one are one JSON object."""
    with spooled() as spool:
        found = Findings(spool=spool)
        found.add(problems(count))
        text = io.StringIO()
        text.writelines(json_lines({"rows": 7}, {"problems": found, "warnings": Findings()}))
    read = json.loads(text.getvalue())
    assert read["rows"] == 7
    assert read["warnings"] == []
    assert [Problem(**problem) for problem in read["problems"]] == problems(count)
