"""A batch's name used again with other rows: nothing is hidden, and what `resolve` lists it settles."""

import json
import signal
from collections import Counter

import pytest

from tests.acceptance.batches import Row, make_rows, read_results, write_manifest
from tests.acceptance.place import Ending, Place

RUN = ("--limit", "8", "--doubt-seconds", "1", "--json")
NIGHTLY = "nightly.csv"


@pytest.fixture
def tonight(place: Place) -> list[Row]:
    """Night 1 left three conversations in doubt, each with one held item; tonight's two rows are ready to run.

    The first of tonight's rows is of a conversation in doubt, the second of one of its own.
    """
    write_manifest(place, NIGHTLY, make_rows(place, 6, 3))
    bad = place.serve("--limit", "8", faults="[put]\nlost_before = 1.0")
    place.use(bad)
    assert place.run("run", NIGHTLY, *RUN).code == 4
    bad.running.stop(signal.SIGTERM)
    place.use(place.serve("--limit", "8", port=int(bad.base_url.rpartition(":")[2])))
    draw = make_rows(place, 2, 2, seed=2, folder="tonight")
    return [draw[0], Row("conversation-new", draw[1].audio, draw[1].sha256)]


def listed(place: Place, *options: str) -> list[dict[str, object]]:
    """Return the items that `resolve` lists."""
    found: list[dict[str, object]] = json.loads(place.run("resolve", "--json", *options).out)
    return found


def typed(place: Place, command: str) -> Ending:
    """Type a command that was told."""
    program, *words = command.split()
    assert program == "uploader"
    return place.run(*words)


def test_last_nights_trouble_is_told_when_its_name_is_used_again(place: Place, tonight: list[Row]) -> None:
    """Run, log, `status` and `resolve` tell what the name held before; the run's counts and exit code are its rows'."""
    write_manifest(place, NIGHTLY, tonight[1:])
    ending = place.run("run", NIGHTLY, *RUN)
    assert (ending.code, ending.summary["items"]) == (0, 1)
    [former] = ending.summary["former"]
    assert (former["batch"], former["items"]) == (NIGHTLY, 6)
    assert {state: count for state, count in former["counts"].items() if count} == {"in_doubt": 3, "held": 3}
    [warned] = [event for event in ending.events("rows.orphaned") if event["batch"] == NIGHTLY]
    assert (warned["items"], warned["level"]) == (6, "warning")

    status = place.run("status")
    message = "6 items that a manifest of this name held before and holds no more: 3 in doubt, 3 held"
    assert status.code == 4, "nobody forgets what no batch names any more"
    assert message in status.out
    assert json.loads(place.run("status", "--json").out)["former"] == ending.summary["former"]

    again = place.run("run", NIGHTLY, "--limit", "8")
    assert message in again.out
    assert "a name for each night" in again.out
    assert "leftover" not in again.out
    assert "left the batch" not in again.err, "it is warned of once"
    assert Counter(str(item["status"]) for item in listed(place)) == {"in_doubt": 3, "held": 3}


def test_leftovers_are_those_that_status_names(place: Place, tonight: list[Row]) -> None:
    """Items of other batches that wait are told as leftovers as long as a batch names them."""
    write_manifest(place, "late.csv", tonight[1:])
    ending = place.run("run", "late.csv", "--limit", "8")
    assert f"leftover  3 items of other batches still wait (3 of {NIGHTLY})" in ending.out
    assert f"batch  {NIGHTLY}: 6 items: 3 in doubt, 3 held" in place.run("status").out


@pytest.mark.parametrize("name", [NIGHTLY, "late.csv"])
def test_what_resolve_lists_of_another_manifest_is_settled_by_what_it_says(
    place: Place, tonight: list[Row], name: str
) -> None:
    """An item in the way has a number of its own: its line is another row's, and naming that tells the number."""
    write_manifest(place, name, tonight)
    assert place.run("run", name, *RUN).code == 1
    in_doubt = [item for item in listed(place, "--batch", name) if item["status"] == "in_doubt"]
    item = next(item for item in in_doubt if item["conversationId"] == tonight[0].conversation)
    assert (item["ofThisBatch"], item["line"]) == (False, 2)
    assert f"item {item['item']} (" in place.run("resolve", "--batch", name).out

    by_line = place.run("resolve", "--batch", name, "--line", "3", "--drop")
    assert by_line.code == 2
    assert "line 3 of " in by_line.err
    assert "completed" in by_line.err
    by_line = place.run("resolve", "--batch", name, "--line", "3")
    assert "completed" in by_line.out
    command = f"uploader resolve --batch {name} --ledger sqlite:///{place.ledger} --item {item['item']} --not-appended"
    refused = place.run("resolve", "--batch", name, "--state", "in_doubt", "--not-appended")
    assert refused.code == 2
    assert command in refused.err
    assert "-> pending" in typed(place, command).out
    assert place.run("run", name, *RUN).code == 0
    assert [line["status"] for line in read_results(place.path(name.replace(".csv", ".results.csv")))] == [
        "completed",
        "completed",
    ]


def test_what_is_selected_and_not_settled_is_told_with_its_command(place: Place, tonight: list[Row]) -> None:
    """By state alone the batch's own items are settled; each of the others is told, with what settles it."""
    write_manifest(place, NIGHTLY, tonight)
    place.run("run", NIGHTLY, *RUN)
    write_manifest(place, "late.csv", [*make_rows(place, 6, 3)[:1], *make_rows(place, 3, 3, seed=4, folder="late")[1:]])
    assert place.run("run", "late.csv", *RUN).code == 4
    ending = place.run("resolve", "--batch", "late.csv", "--state", "in_doubt", "--not-appended")
    assert ending.code == 1
    assert ending.out.count("-> pending") == 1
    commands = [line.split(": ", 1)[1] for line in ending.out.splitlines() if "not settled: uploader" in line]
    assert len(commands) == 2
    for command in commands:
        assert "-> pending" in typed(place, command).out


def test_held_items_are_listed_as_held_and_can_be_dropped(place: Place, tonight: list[Row]) -> None:
    """Held items are listed as held, with the ways on: resolve the item before them, or drop them."""
    assert len(tonight) == 2
    assert Counter(str(item["status"]) for item in listed(place, "--state", "held")) == {"held": 3}
    assert listed(place, "--state", "pending") == []
    output = place.run("resolve", "--state", "held").out
    assert "3 items selected, none of which needs a person by itself" in output
    assert "once the item before it" in output
    assert "--retry" not in output
    dropped = place.run("resolve", "--line", "5", "--drop")
    assert "-> dropped" in dropped.out, dropped.err
    assert "goes on" not in dropped.out


def test_a_line_that_is_none_or_needs_nobody_is_told(place: Place, tonight: list[Row]) -> None:
    """`--line 50` of a manifest of two rows is a slip of the pen; a line that is over is told with its state."""
    write_manifest(place, "late.csv", tonight[1:])
    assert place.run("run", "late.csv", *RUN).code == 0
    none = place.run("resolve", "--line", "50")
    assert none.code == 2
    assert "line 50 is none of late.csv" in none.err
    output = place.run("resolve", "--batch", "late.csv", "--line", "2").out
    assert "line 2 of late.csv is completed: it needs nobody" in output


def test_a_settlement_says_what_it_releases_and_what_to_type_next(place: Place, tonight: list[Row]) -> None:
    """Dropping what holds a conversation releases its rest, and the command that carries on is one to type."""
    assert len(tonight) == 2
    dropped = place.run("resolve", "--conversation", "conversation-000", "--drop")
    assert "-> dropped; 1 item behind it in its conversation goes on" in dropped.out, dropped.err
    command = next(line.strip() for line in dropped.out.splitlines() if line.strip().startswith("uploader run"))
    assert f"--batch {NIGHTLY}" in command
    assert typed(place, command).code == 4
    assert Counter(line["status"] for line in read_results(place.path("nightly.results.csv"))) == {
        "dropped": 1,
        "completed": 1,
        "in_doubt": 2,
        "held": 2,
    }


def test_former_items_that_go_again_need_a_row(place: Place, tonight: list[Row]) -> None:
    """Items that no manifest names are not sent; put back into a manifest, they are the batch's again."""
    write_manifest(place, NIGHTLY, tonight[1:])
    place.run("run", NIGHTLY, *RUN)
    numbers = [word for item in listed(place) if item["status"] == "in_doubt" for word in ("--item", str(item["item"]))]
    settled = place.run("resolve", *numbers, "--not-appended")
    assert settled.out.count("-> pending") == 3
    assert "sent once a manifest names them again" in settled.out
    rows = make_rows(place, 6, 3)
    write_manifest(place, NIGHTLY, [*rows, *tonight[1:]])
    ending = place.run("run", NIGHTLY, *RUN)
    assert (ending.code, ending.summary["counts"]["completed"], ending.summary["former"]) == (0, 7, [])
