"""A part of a batch: the first rows, as a trial; no more than may be billed; nothing after a certain time."""

import wave
from pathlib import Path

import pytest

from tests.acceptance.batches import make_rows, read_results, statuses, write_manifest, write_table
from tests.acceptance.judging import appended, check_appended, wanted
from tests.acceptance.place import Place, Server

RUN = ("run", "m.csv", "--limit", "5", "--json")


def speech(path: Path, seconds: float, channels: int = 1) -> None:
    """A silent recording of this length."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with wave.open(str(path), "wb") as file:
        file.setnchannels(channels)
        file.setsampwidth(2)
        file.setframerate(8000)
        file.writeframes(bytes(int(8000 * seconds) * 2 * channels))


def test_a_trial_sends_the_first_pending_rows_alone(place: Place, server: Server) -> None:
    """`--first N` appends the first N rows of the manifest, twice over the next N, then all; the rest waits with 6."""
    rows = make_rows(place, 9, 4)
    write_manifest(place, "m.csv", rows)
    first = place.run(*RUN, "--first", "3")
    assert (first.code, first.summary["counts"]["pending"]) == (6, 6)
    assert appended(server.journal) == wanted(rows[:3])
    assert place.run(*RUN, "--first", "3").code == 6
    assert appended(server.journal) == wanted(rows[:6])
    assert statuses(place.path("m.results.csv")) == ["completed"] * 6 + ["pending"] * 3
    assert place.run(*RUN, "--first", "100").code == 0
    check_appended(server.journal, rows)


def test_a_time_that_is_not_reached_changes_nothing(place: Place, server: Server) -> None:
    """`--until` with a time that the batch ends before: all is appended, exit 0."""
    rows = make_rows(place, 4, 2)
    write_manifest(place, "m.csv", rows)
    # whatever the time is, one of the two is hours away
    codes = [place.run(*RUN, "--until", time).code for time in ("03:00", "15:00")]
    assert 0 in codes
    check_appended(server.journal, rows)


@pytest.mark.parametrize("time", ["24:00", "7", "0700", "7:0", "now"])
def test_a_time_that_is_none_is_told(place: Place, server: Server, time: str) -> None:
    """A malformed time is refused with the setting's name and the value, before anything is sent."""
    write_manifest(place, "m.csv", make_rows(place, 1, 1))
    refused = place.run(*RUN, "--until", time)
    assert (refused.code, server.journal.puts()) == (2, [])
    assert "until" in refused.err
    assert time in refused.err


def test_what_would_be_billed_is_told_and_bounded(place: Place, server: Server) -> None:
    """Minutes by state in the summary; a manifest above `--max-billed-minutes` is refused, what is appended apart."""
    for number in range(4):
        speech(place.path(f"{number}.wav"), 30)
    write_table(place, "m.csv", [{"conversationId": f"c{number}", "audioPath": f"{number}.wav"} for number in range(4)])
    refused = place.run(*RUN, "--max-billed-minutes", "1.5")
    assert (refused.code, server.journal.puts()) == (2, [])
    assert "2.0 billed minutes" in refused.err
    part = place.run(*RUN, "--first", "2", "--max-billed-minutes", "2")
    assert part.summary["billedMinutes"] == {"completed": 1.0, "pending": 1.0}
    assert place.run(*RUN, "--max-billed-minutes", "1").code == 0
    assert [line["billedSeconds"] for line in read_results(place.path("m.results.csv"))] == ["30.0"] * 4
