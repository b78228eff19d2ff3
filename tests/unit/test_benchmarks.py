"""The benchmarks' own small decisions."""

import pytest

from tests.benchmarks.table import HEADER, Must, Row, at_least, at_most, markdown, number, plain


@pytest.mark.parametrize(
    ("must", "value", "ratio", "holds"),
    [
        pytest.param(at_most(1.03), 1.03, None, True, id="just so"),
        pytest.param(at_most(1.03), 1.04, None, False, id="above"),
        pytest.param(at_least(0.6), 0.59, None, False, id="below"),
        pytest.param(at_least(0.6), 100.0, 0.59, False, id="the ratio counts where there is one"),
        pytest.param(at_most(0), 0.0, None, True, id="nothing at all"),
        pytest.param(None, 5.0, None, None, id="nothing is demanded"),
    ],
)
def test_a_row_knows_whether_it_holds(must: Must | None, value: float, ratio: float | None, holds: bool | None) -> None:
    """A demand is about the ratio to the peer where there is one, else about the value; the bound itself holds."""
    assert Row(figure="f", of="ours", value=value, ratio=ratio, must=must).holds is holds


@pytest.mark.parametrize(
    ("value", "shown"),
    [(0.0, "0"), (1.0, "1"), (12345.6, "12,346"), (1.0234, "1.023"), (0.5, "0.5"), (123.45, "123.5")],
)
def test_a_number_is_shown_as_short_as_it_can_be(value: float, shown: str) -> None:
    """Three decimals where they tell something."""
    assert number(value) == shown


def test_the_table_shows_every_row_in_both_forms() -> None:
    """The same cells on the terminal and in Markdown, a failed demand in capitals."""
    rows = [
        Row(figure="makespan", of="ours", value=1.02, must=at_most(1.03)),
        Row(figure="makespan", of="a script", value=1.3, beside="ours", ratio=1.27, must=at_most(1.2), remarks="slow"),
    ]
    shown, told = plain(rows), markdown(rows, "somewhere")
    assert len(shown.splitlines()) == 2 + len(rows)
    assert "| makespan | ours | 1.02 |  |  | ≤ 1.03 | yes |  |" in told
    assert "| makespan | a script | 1.3 | ours | 1.27 times | ≤ 1.2 | NO | slow |" in told
    assert told.count(" | ".join(HEADER)) == 1
