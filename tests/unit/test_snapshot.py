"""What the status page is given: the sentence at its top, the commands that settle, and harmless text."""

import json
import re
from types import SimpleNamespace
from typing import Any

import pytest

from uploader.cli.guides import FOLDER
from uploader.ledger.reading import BatchFacts, Trouble
from uploader.ledger.standing import Standing, Tally
from uploader.model import State
from uploader.status.listener import page_and_policy
from uploader.status.snapshot import GROUPS_SHOWN, Paced, going, idle_json, needs_json, shown_json

LEDGER = "/var/lib/uploader/ledger.db"


def standing(**counts: int) -> Standing:
    """Count items by state."""
    return Standing({State(state): Tally(items=count) for state, count in counts.items()})


def batch(waits_for: str | None = None) -> BatchFacts:
    """Make a batch, and what its run waits for."""
    return BatchFacts(1, "monday", 1, "https://api.symbl.ai", None, None, [], 0.0, {"waitsFor": waits_for})


@pytest.mark.parametrize(
    ("counted", "running", "waits", "level", "text"),
    [
        ({"completed": 3, "pending": 2}, True, None, "well", "Going well: 3 of 5 items done."),
        (
            {"completed": 3, "in_doubt": 1, "pending": 1},
            True,
            None,
            "needs",
            "Going on, and 1 item needs a person: 3 of",
        ),
        ({"completed": 3, "pending": 2}, True, "the pause", "waits", "Sending waits for the pause: 3 of 5 items done."),
        ({"completed": 3, "pending": 2}, False, None, "idle", "No run is on: 2 items still to be done, 3 of 5"),
        ({"completed": 3, "failed": 2, "held": 1}, True, None, "needs", "Over for now: 2 items need a person, 3 of 6"),
        ({"completed": 3, "dropped": 1}, False, None, "done", "Done: nothing is left to do, 4 of 4 items done."),
    ],
)
def test_one_sentence_says_how_it_goes(
    counted: dict[str, int], waits: str | None, level: str, text: str, *, running: bool
) -> None:
    """Each way that a batch may stand has its sentence, and its level."""
    told = going(standing(**counted), [batch(waits)], is_running=running)
    assert told["level"] == level
    assert told["text"].startswith(text)


def test_each_trouble_has_the_commands_that_settle_it() -> None:
    """One for each decision that may be made, with batch, ledger and lines; the gravest first."""
    found = [
        Trouble("o'clock", State.REFUSED, "HTTP 404", 1, [7], [None]),
        Trouble("monday", State.IN_DOUBT, "no answer", 2, [3, 17], [None, None]),
        Trouble("sunday", State.FAILED, "of batch sunday, in the way", 4),
    ]
    told = needs_json(found, standing(held=2), LEDGER)
    assert [group["state"] for group in told["groups"]] == ["in_doubt", "failed", "refused"]
    base = f"uploader resolve --batch monday --ledger sqlite:///{LEDGER}"
    decided = [f"{base} --line 3,17 --{decision}" for decision in ("appended", "not-appended", "drop")]
    assert told["groups"][0]["commands"] == decided
    assert told["groups"][1]["commands"] == [base.replace("monday", "sunday")]
    assert told["groups"][2]["commands"][0].startswith("""uploader resolve --batch 'o'"'"'clock' --ledger""")
    assert (told["items"], told["held"], told["more"]) == (7, 2, 0)


def test_the_troubles_that_are_shown_have_a_bound() -> None:
    """The others are counted."""
    found = [Trouble("monday", State.REFUSED, f"reason {number}", 2, [number], [None]) for number in range(200)]
    told = needs_json(found, standing(), LEDGER)
    assert (len(told["groups"]), told["more"]) == (GROUPS_SHOWN, 2 * (200 - GROUPS_SHOWN))


def test_a_dear_reading_is_repeated_as_seldom_as_it_is_dear(monkeypatch: pytest.MonkeyPatch) -> None:
    """It takes half a percent of what the process uses, or 0.2 % of the time; the first one is dearer than others."""
    clock = SimpleNamespace(monotonic=100.0, process=0.0, thread=0.0)
    times = {
        "monotonic": lambda: clock.monotonic,
        "process_time": lambda: clock.process,
        "thread_time": lambda: clock.thread,
    }
    monkeypatch.setattr("uploader.status.snapshot.time", SimpleNamespace(**times))
    costs = iter([5.0, 0.1, 0.1, 0.1, 0.1])
    read_at: list[float] = []

    def read(_: object) -> float:
        clock.thread += next(costs)
        read_at.append(clock.monotonic)
        return read_at[-1]

    connection: Any = None
    paced = Paced(read)
    for _ in range(125):
        paced(connection)
        clock.monotonic += 1.0
    assert read_at == [100.0, 101.0, 151.0, 201.0]
    clock.process += 19.0
    assert paced(connection) == 201.0
    clock.process += 1.5
    assert paced(connection) == clock.monotonic


def test_a_snapshot_of_no_batch_has_every_part() -> None:
    """The page and the guide know each; nothing is counted, and nothing is asked for."""
    shown = idle_json("Waiting for a manifest.")
    assert shown["going"]["text"] == "Waiting for a manifest."
    assert (shown["progress"]["items"], shown["needs"]["items"], shown["accounts"]) == (0, 0, [])
    page, _ = page_and_policy()
    drawn = re.findall(r"^  (\w+)\(part\) \{", page.partition("const draw = {")[2], re.MULTILINE)
    assert set(shown) <= set(drawn)
    guide = (FOLDER / "status.md").read_text(encoding="utf-8").partition("| member |")[2].partition("## ")[0]
    assert re.findall(r"^\| `(\w+)` \|", guide, re.MULTILINE) == list(shown)


def test_what_a_screen_would_obey_or_hide_is_shown_escaped() -> None:
    """Control characters and bidi marks, in keys' values wherever they are."""
    given = {"a": ["x\u202ey", {"b": "\x1b[2J\x00"}], "n": 1, "none": None}
    assert shown_json(given) == {"a": [r"x\u202ey", {"b": r"\u001b[2J\u0000"}], "n": 1, "none": None}
    assert json.dumps(shown_json(given)).isprintable()


def test_the_page_needs_nothing_from_elsewhere() -> None:
    """No address in it but the name space of pictures, no markup made of text, and a policy by hash alone."""
    page, policy = page_and_policy()
    assert page.replace("http://www.w3.org/2000/svg", "").count("//") == page.count("// ")
    for word in (
        "innerHTML",
        "outerHTML",
        "insertAdjacentHTML",
        "document.write",
        "eval(",
        '<link rel="style',
        " src=",
    ):
        assert word not in page
    assert "unsafe" not in policy
    assert policy.count("'sha256-") == 2
