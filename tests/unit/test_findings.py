"""Problems and warnings as they are told: counted, in a table, as JSON."""

import io
import json

import pytest

from uploader.cli.findings import SHOWN, Findings, json_lines, spooled
from uploader.model import Problem


def problems(count: int) -> list[Problem]:
    """So many problems, each on a line of its own."""
    return [Problem(number, "name", f"v{number}", "mend it") for number in range(1, count + 1)]


def test_a_table_has_aligned_columns() -> None:
    """Every column begins in the same place in each line; a value is shown so that nothing in it acts."""
    found = Findings()
    found.add([Problem(7, "conversationId", "\x1b[31m", "mend it"), Problem(1234, "", "", "give each column one")])
    head, *rows = found.table()
    assert [row.index("mend it" if "mend" in row else "give") for row in rows] == [head.index("what to do")] * 2
    assert "\x1b" not in "".join(rows)
    assert r"\x1b[31m" in rows[0]


def test_nothing_found_is_no_table() -> None:
    """No head over nothing."""
    assert list(Findings().table()) == []


@pytest.mark.parametrize(("count", "lines"), [(1, 2), (SHOWN, SHOWN + 1), (SHOWN + 1, SHOWN + 2), (1000, SHOWN + 2)])
def test_the_first_are_shown_and_all_are_counted(count: int, lines: int) -> None:
    """Fifty, and how many more there are."""
    found = Findings()
    for one in problems(count):
        found.add([one])
    told = list(found.table())
    assert (found.count, len(told)) == (count, lines)
    assert told[-1].startswith("  … and") == (count > SHOWN)
    assert f"{count - SHOWN} more" in told[-1] or count <= SHOWN


@pytest.mark.parametrize("count", [1, SHOWN, 1000])
def test_all_are_shown_where_all_are_kept(count: int) -> None:
    """With a place to keep them, every one comes back as it was, in order."""
    with spooled() as spool:
        found = Findings(spool=spool)
        found.add(problems(count))
        assert list(found) == problems(count)
        assert len(list(found.table())) == count + 1
        assert list(found) == problems(count)


@pytest.mark.parametrize("count", [0, 1, 2, 100])
def test_the_pieces_make_one_json_object(count: int) -> None:
    """What is written piece by piece is one object that a machine reads."""
    with spooled() as spool:
        found = Findings(spool=spool)
        found.add(problems(count))
        text = io.StringIO()
        text.writelines(json_lines({"rows": 7}, {"problems": found, "warnings": Findings()}))
    read = json.loads(text.getvalue())
    assert read["rows"] == 7
    assert read["warnings"] == []
    assert [Problem(**one) for one in read["problems"]] == problems(count)
