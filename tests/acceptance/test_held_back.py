"""What held the night back: a night that lacks one thing names it first, in summary, status and plan."""

import json
import signal
from random import Random
from typing import Any

import pytest

from tests.acceptance.batches import Row, record, sound, write_manifest
from tests.acceptance.place import Place, until

QUICK = ("--job-seconds", "0.1", "--job-seconds-per-mebibyte", "0")


def shares(found: dict[str, Any]) -> dict[str, float]:
    """The shares of a report, which are the whole with the slots' busy time."""
    held_back: dict[str, float] = found["heldBackBy"]
    assert sum(held_back.values()) + found["slotsBusy"] == pytest.approx(1.0, abs=0.001)
    return held_back


def largest(found: dict[str, Any]) -> str:
    """The cause with the largest share of a report."""
    held_back = shares(found)
    return max(held_back, key=held_back.__getitem__)


def in_lanes(place: Place, conversations: int, size: int = 10_000) -> None:
    """Make a manifest of twelve recordings of a size in so many conversations."""
    draw = Random(1)
    names = [f"{number}.wav" for number in range(12)]
    rows = [
        Row(f"c-{number % conversations}", name, record(place, name, sound(draw, size)))
        for number, name in enumerate(names)
    ]
    write_manifest(place, "m.csv", rows)


@pytest.mark.parametrize(
    ("lanes", "sandbox", "run", "cause"),
    [
        pytest.param(1, (), (), "lanes", id="one conversation"),
        pytest.param(12, ("--uplink", "131072"), (), "uplink", id="a slow line"),
        pytest.param(12, ("--answer-seconds", "0.5"), ("unanswered", "1"), "unanswered", id="a person's cap on doubt"),
        pytest.param(12, (), ("rate", "4"), "rate", id="a person's cap on PUTs a second"),
        pytest.param(12, ("--uplink", "131072"), ("uploads", "1"), "uploads", id="a person's cap on uploads"),
    ],
)
def test_what_a_night_lacks_is_its_first_cause(
    place: Place, lanes: int, sandbox: tuple[str, ...], run: tuple[str, ...], cause: str
) -> None:
    """The summary names it, in text and JSON, and `status` afterwards has the same figures."""
    in_lanes(place, lanes, size=60_000 if sandbox[:1] == ("--uplink",) else 10_000)
    place.use(place.serve("--limit", "8", *QUICK, *sandbox))
    names = {"unanswered": "UPLOADER_DOUBT__UNANSWERED", "rate": "UPLOADER_RATE", "uploads": "UPLOADER_UPLOADS"}
    environment = {names[run[0]]: run[1]} if run else {}
    ending = place.run("run", "m.csv", "--limit", "8", "--json", environment=environment)
    assert ending.code == 0, ending.err
    assert largest(ending.summary) == cause
    batch = json.loads(place.run("status", "--json").out)["batches"][0]
    assert largest(batch) == cause
    assert " % of the time" in place.run("status").out


def test_nothing_is_said_of_a_night_that_only_begins(place: Place) -> None:
    """As long as no slot was busy, `status` has no shares; a night with jobs is never told as one of idle slots."""
    in_lanes(place, 2, size=60_000)
    server = place.serve("--limit", "8", *QUICK, "--uplink", "16384")
    place.use(server)
    running = place.start("run", "m.csv", "--limit", "8")
    looks: list[dict[str, Any]] = []

    def look() -> bool:
        looks.extend(json.loads(place.run("status", "--json").out)["batches"])
        return bool(looks and looks[-1]["slotsBusy"])

    until(lambda: bool(place.run("status", "--json").summary.get("batches")), "the batch is loaded")
    until(look, "a slot was busy")
    assert [found["slotsBusy"] for found in looks[:-1] if found["slotsBusy"] is not None] == []
    assert looks[0]["slotsBusy"] is None
    running.process.send_signal(signal.SIGTERM)
    running.wait()


@pytest.mark.parametrize(
    ("faults", "limit", "cause"),
    [
        pytest.param("[put]\nthrottled = 1.0", 20, "backoff", id="429s alone"),
        pytest.param("[put]\nstatus_502 = 1.0\ntaken = 0.0", 20, "breaker", id="502s alone"),
        pytest.param("[put]\nslow_answer = 1.0\nslow_seconds = 3.0", 8, "answers", id="slow answers"),
    ],
)
def test_a_service_in_trouble_is_the_first_cause(place: Place, faults: str, limit: int, cause: str) -> None:
    """Whether the run ends well or gives up: the pause after a 429, the breaker, last chunks without an answer."""
    in_lanes(place, 12)
    place.use(place.serve("--limit", "20", *QUICK, faults=faults))
    ending = place.run("run", "m.csv", "--limit", str(limit), "--give-up-seconds", "5", "--json")
    assert ending.code == (0 if cause == "answers" else 5), ending.err
    assert largest(ending.summary) == cause
    assert ending.events("run.ended")[0]["heldBackBy"] == ending.summary["heldBackBy"]


def test_a_full_account_is_held_back_by_nothing(place: Place) -> None:
    """Where jobs take far longer than all else, the slots are busy, and the wait for them is told in seconds."""
    in_lanes(place, 12)
    place.use(place.serve("--limit", "4", "--job-seconds", "2", "--job-seconds-per-mebibyte", "0"))
    found = place.run("run", "m.csv", "--limit", "4", "--json").summary
    assert found["slotsBusy"] > max(shares(found).values())
    # twice all slots are taken for the time of a job, less what lies between the beginnings of four jobs
    assert found["slotWaitSeconds"] > 2
    again = place.run("run", "m.csv", "--limit", "4", "--json").summary
    assert (again["heldBackBy"], again["slotsBusy"]) == ({}, None), "nothing was to be sent"


def test_status_tells_it_while_the_run_is_on(place: Place) -> None:
    """Another process sees the shares so far and, while doubts hold all slots, what is waited for and until when."""
    in_lanes(place, 12)
    place.use(place.serve("--limit", "8", faults="[put]\nlost_before = 1.0"))
    running = place.start("run", "m.csv", "--limit", "3", "--doubt-seconds", "300")

    def batch() -> dict[str, Any]:
        found: dict[str, Any] = json.loads(place.run("status", "--json").out)["batches"][0]
        return found

    until(lambda: place.run("status").code != 2, "the batch is loaded")
    until(lambda: batch()["waitsFor"] is not None, "the wait is told")
    found = batch()
    assert found["waitsFor"].startswith("slots that are held by items in doubt")
    assert found["waitsUntil"].endswith("Z")
    assert largest(found) == "doubt"
    assert f"until {found['waitsUntil']}" in place.run("status").out
    assert running.stop().code == 143
    after = batch()
    assert (after["waitsFor"], after["waitsUntil"], largest(after)) == (None, None, "doubt")


def test_a_lane_that_waits_for_its_next_attempt_is_a_cause_of_its_own(place: Place) -> None:
    """Uploads that the service answers 503 without taking them wait for their next attempt.

    A small body that the service cuts in its middle may have left whole by then, and would rightly be in doubt.
    """
    in_lanes(place, 1)
    server = place.serve("--limit", "1", *QUICK, faults="seed = 5\n[put]\nstatus_503 = 0.4\ntaken = 0.0\n")
    place.use(server)
    place.write("sure.toml", "[replies]\nproves_not_appended = [503]\n")
    ending = place.run("run", "m.csv", "--limit", "1", "--json", "--first", "3", "--config", "sure.toml")
    assert (ending.code, len(server.journal.appended())) == (6, 3), ending.err
    assert len(server.journal.puts()) > 3, "some were not taken"
    found = shares(ending.summary)
    assert found["retry"] > 10 * found.get("lanes", 0.0)
    assert "by waits before another attempt" in place.run("status").out


def test_the_part_of_another_worker_is_a_cause_of_its_own(place: Place) -> None:
    """Slots that wait for a run with a low rate are told as its part by the other: conversations may go."""
    in_lanes(place, 12)
    place.use(place.serve("--limit", "4", "--job-seconds", "1", "--job-seconds-per-mebibyte", "0"))
    words = ("run", "m.csv", "--limit", "4", "--json")
    slow = place.start(*words, "--rate", "0.25", "--results", "slow.csv")
    until(lambda: bool(json.loads(place.run("status", "--json").out).get("workers")), "the first run is at work")
    other = place.start(*words, "--results", "other.csv")
    endings = [running.wait() for running in (slow, other)]
    assert [ending.code for ending in endings] == [0, 0], [ending.err for ending in endings]
    found = shares(endings[1].summary)
    assert found["otherWorkers"] > found.get("lanes", 0.0)
