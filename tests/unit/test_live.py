"""The live lines at any width: what fits is whole, what does not is left out, and nothing moves the cursor."""

from collections.abc import Mapping

import pytest
from rich.cells import cell_len

from uploader.ledger.standing import Standing, Tally
from uploader.model import LimitFacts, State
from uploader.status.live import ASCII, UNICODE, Symbols, cells, fitting, head_line, live_lines
from uploader.status.progress import Progress, together

NASTY = "m\x1b]0;x\x07\u202e\n.csv"
COUNTS = {State.COMPLETED: 1234, State.PENDING: 1700, State.IN_DOUBT: 2, State.FAILED: 1, State.HELD: 63}
LIMIT = LimitFacts(50, 20, 20, 14, others=1, doubtful=2, doubtful_until=0.0)
SHARES = {"slotsBusy": 0.85, "heldBackBy": {"uplink": 0.12, "lanes": 0.03}}


def progress(name: str = "monday.csv", counts: Mapping[State, int] = COUNTS, waits: str = "") -> Progress:
    """Make a progress."""
    found = Standing({state: Tally(items=count) for state, count in counts.items()})
    return Progress(0.0, [(name, found)], LIMIT, 12_900_000, 3720.0, waits, SHARES)


def test_80_columns_have_all_that_a_person_asks_at_night() -> None:
    """How far, how fast, until when; the slots; what holds it back; what needs a person."""
    head, rate, slots, held_back, needs = (line.text for line in live_lines(progress(), 80))
    assert head == "monday.csv  " + "━" * 16 + "─" * 24 + "  1237/3000  41 %"
    assert rate.startswith("rate      12.3 MiB/s, 1 h 02 min left, ends ")
    cells_shown = f"{'■' * 12}◆◆▪{'□' * 5}"
    assert slots.startswith(f"slots     {cells_shown}  12 of 20 busy, 2 held for doubt until ")
    assert held_back == "held back 12 % by the uplink, 3 % by lack of conversations that may go"
    assert needs == "needs you 1 failed, 2 in doubt: uploader resolve, 63 held behind"


@pytest.mark.parametrize("symbols", [UNICODE, ASCII])
@pytest.mark.parametrize("name", ["m.csv", NASTY, "夜の録音" * 12, "x" * 300])
def test_no_line_is_wider_than_the_terminal(name: str, symbols: Symbols) -> None:
    """From 10 columns to 200, whatever the name; each line stands at its place, and the count is whole from 20 on."""
    for columns in range(10, 200):
        lines = [line.text for line in live_lines(progress(name, waits="waits until 03:45"), columns, symbols)]
        assert len(lines) == 5
        for line in lines:
            assert cell_len(line) <= columns, (columns, line)
            assert line.isprintable()
            assert symbols is UNICODE or name != "m.csv" or line.isascii()
        if columns >= 20:
            assert lines[0].endswith("1237/3000  41 %")
            assert lines[2].startswith("slots")


def test_a_night_without_trouble_needs_nobody() -> None:
    """No line says that nothing is wrong; 100 % are shown of a whole batch alone."""
    lines = live_lines(progress(counts={State.COMPLETED: 2999, State.ACCEPTED: 1}), 80)
    assert [line.text.split()[0] for line in lines[1:]] == ["rate", "slots", "held"]
    assert lines[0].text.endswith("2999/3000  99 %")


@pytest.mark.parametrize("slots", [1, 3, 4, 39, 40, 41, 1000, 100_000])
def test_cells_show_each_kind_of_slot_that_there_is(slots: int) -> None:
    """A cell a slot as far as there is room; beyond it in proportion, a kind with any slot having one."""
    limit = LimitFacts(slots, None, slots, slots // 2, others=slots // 100, doubtful=slots // 40)
    drawn = cells(limit, 40)
    assert len(drawn) == min(slots, 40)
    kinds = {"■": limit.live - limit.doubtful, "◆": limit.doubtful, "▪": limit.others or 0}
    for sign, count in kinds.items():
        assert (drawn.count(sign) > 0) is (count > 0), (sign, drawn)
        assert slots > 40 or drawn.count(sign) == count
    assert drawn.count("□") > 0


def test_cells_follow_a_limit_that_fell_below_the_jobs() -> None:
    """More jobs than the limit allows: each is shown."""
    assert cells(LimitFacts(10, 2, 2, 5), 40) == "■" * 5
    assert cells(LimitFacts(50, None, 50, 5), 3) == "", "a terminal too narrow for the kinds of slots"


def test_details_are_dropped_whole_from_the_right() -> None:
    """The first ones that fit, none cut in two."""
    assert fitting(["ab", "cde", "f"], 7) == "ab, cde"
    assert fitting(["ab", "cde", "f"], 6) == "ab"
    assert fitting(["abc"], 2) == ""


def test_a_batch_of_nothing_is_whole() -> None:
    """No division by zero where every row was left out."""
    assert head_line("m.csv", 0, 0, 40).endswith("0/0  100 %")


def test_several_runs_are_shown_as_one() -> None:
    """A line for each batch, the sum of their rates, the end of the last, and a wait only where all wait."""
    one, other = progress("a.csv", waits="waits until 06:00"), progress("b.csv")._replace(now=1.0, seconds_left=None)
    found = together([one, other])
    assert [name for name, _ in found.batches] == ["a.csv", "b.csv"]
    assert (found.now, found.bytes_per_second, found.seconds_left) == (1.0, 2 * 12_900_000, 3720.0)
    assert (found.limit, found.waits) == (LIMIT, "")
    assert together([one, one]).waits == "waits until 06:00"
