"""The plan: what is to be expected of a batch, before and while it is appended, without a network."""

import json
import signal
from pathlib import Path
from typing import Any

import pytest

from tests.acceptance.batches import write_table
from tests.acceptance.place import Place, Server, until
from tests.acceptance.test_part_of_a_batch import speech

# nobody listens there: a plan that asked anybody would fail
NOWHERE = {"UPLOADER_BASE_URL": "http://127.0.0.1:9"}


def rows(place: Place, lengths: list[tuple[str, float]]) -> Path:
    """A manifest of silent recordings of these lengths, for these conversations."""
    cells = []
    for number, (conversation, seconds) in enumerate(lengths):
        speech(place.path(f"{number}.wav"), seconds)
        cells.append({"conversationId": conversation, "audioPath": f"{number}.wav"})
    return write_table(place, "m.csv", cells)


def planned(place: Place, *arguments: str, **environment: str) -> dict[str, Any]:
    """The plan as JSON."""
    ending = place.run("plan", "m.csv", "--json", *arguments, environment=environment)
    assert ending.code == 0, ending.err
    found: dict[str, Any] = json.loads(ending.out)
    return found


def test_it_foresees_the_end_at_this_limit_and_at_others(place: Place) -> None:
    """Lanes one job at a time, so many at once; what a job takes is assumed, and said to be."""
    rows(place, [("a", 60), ("b", 60), ("a", 30), ("c", 30)])
    config = place.write("c.toml", "[schedule]\njob_seconds_per_audio_second = 2.0\n")
    found = planned(place, "--limit", "3", "--config", str(config), **NOWHERE)
    assert (found["files"], found["audioMinutes"], found["billedMinutes"], found["lanes"]) == (4, 3.0, 3.0, 3)
    assert found["longestLane"] == {"files": 2, "jobSeconds": 180.0}
    assert (found["jobSecondsPerAudioSecond"], found["jobSecondsAreAssumed"]) == (2.0, True)
    seconds = {forecast["limit"]: forecast["seconds"] for forecast in found["forecasts"]}
    assert list(seconds) == [1, 2, 3, 5, 10, 20, 50]
    assert seconds[1] == pytest.approx(360.0, abs=1)
    assert seconds[2] == pytest.approx(180.1, abs=1)
    assert found["seconds"] == seconds[3] == pytest.approx(180.0, abs=1)
    output = place.run("plan", "m.csv", "--config", config, environment=NOWHERE).out
    assert "assumed to take 2 s for a second of audio ([schedule] job_seconds_per_audio_second)" in output


def test_channels_that_are_recognised_separately_are_billed_each(place: Place) -> None:
    """put-audio.md, Billing: duration times channels, by row, by config, and not where the row says no."""
    speech(place.path("stereo.wav"), 60, channels=2)
    cells = [{"conversationId": "a", "audioPath": "stereo.wav", "enableSeparateRecognitionPerChannel": said}
             for said in ("true", "false", "")]  # fmt: skip
    write_table(place, "m.csv", cells)
    assert planned(place, **NOWHERE)["billedMinutes"] == 4.0
    config = place.write("c.toml", "[parameters]\nenableSeparateRecognitionPerChannel = true\n")
    assert planned(place, "--config", str(config), **NOWHERE)["billedMinutes"] == 5.0


def test_what_the_ledger_holds_is_not_counted_again(place: Place, server: Server) -> None:
    """After a part was appended: what is left, what is held, and the pace that the account's jobs have shown."""
    rows(place, [("a", 60), ("b", 60), ("a", 30)])
    assert place.run("run", "m.csv", "--first", "1", "--limit", "3").code == 6
    puts = len(server.journal.puts())
    found = planned(place, "--limit", "3")
    assert found["ledgerHolds"] == {"completed": 1, "pending": 2}
    assert (found["toAppend"]["files"], found["toAppend"]["audioMinutes"]) == (2, 1.5)
    assert found["jobSecondsAreAssumed"] is False
    assert 0 < found["jobSecondsPerAudioSecond"] < 1
    assert place.run("run", "m.csv", "--limit", "3").code == 0
    done = place.run("plan", "m.csv")
    assert (done.code, "nothing is left to append" in done.out) == (0, True)
    assert len(server.journal.puts()) == puts + 2


def test_it_foresees_at_the_limit_that_a_429_stated(place: Place) -> None:
    """Promise 3: what the ledger was told of the limit holds for the forecast as it does for the run."""
    place.use(place.serve("--limit", "1"))
    rows(place, [(f"c{number}", 10) for number in range(4)])
    assert planned(place, "--limit", "4")["limitKnown"]["by"] == "configured"
    assert place.run("run", "m.csv", "--first", "3", "--limit", "4").code == 6
    found = planned(place, "--limit", "4")
    assert (found["limit"], found["limitKnown"]["stated"], found["limitKnown"]["by"]) == (1, 1, "stated")
    assert found["seconds"] == next(forecast["seconds"] for forecast in found["forecasts"] if forecast["limit"] == 1)


def test_a_trial_is_foreseen_as_one(place: Place) -> None:
    """`--first N`, as `run` takes it: what the first N take and cost, and how many stay pending."""
    rows(place, [("a", 60), ("b", 120), ("a", 30)])
    found = planned(place, "--first", "2", **NOWHERE)
    assert (found["files"], found["toAppend"]["files"], found["toAppend"]["billedMinutes"]) == (3, 2, 3.0)
    assert found["later"] == 1
    assert place.run("plan", "m.csv", "--first", "1", "--max-billed-minutes", "1", environment=NOWHERE).code == 0


def test_how_much_fits_before_a_time(place: Place) -> None:
    """`--until` counts the rows whose upload begins before it, at this limit."""
    rows(place, [(f"c{number}", 60) for number in range(3)])
    config = place.write("c.toml", "[schedule]\njob_seconds_per_audio_second = 1000\n")  # each job takes 16.7 hours
    found = [planned(place, "--limit", "1", "--config", str(config), "--until", time, **NOWHERE)["until"]["rows"]
             for time in ("00:01", "06:00", "12:00", "18:00", "23:59")]  # fmt: skip
    assert set(found) <= {1, 2}  # of a day, two such jobs can begin
    assert 1 in found


def test_a_plan_above_the_allowed_minutes_ends_as_the_run_would(place: Place, server: Server) -> None:
    """`--max-billed-minutes`: 2 from plan and run, and nothing sent; at the very minutes both go on."""
    rows(place, [("a", 60), ("b", 60)])
    for command in ("plan", "run"):
        refused = place.run(command, "m.csv", "--max-billed-minutes", "1.9")
        assert (refused.code, "2.0 billed minutes are still to be appended" in refused.err) == (2, True)
    ending = place.run("plan", "m.csv", "--max-billed-minutes", "1.9", "--json")
    assert (ending.code, ending.summary["exitCode"], "2.0 billed" in ending.summary["reason"]) == (2, 2, True)
    assert server.journal.puts() == []
    assert place.run("plan", "m.csv", "--max-billed-minutes", "2").code == 0


def test_a_channel_that_the_file_lacks_refuses_the_row(place: Place, server: Server) -> None:
    """Per-channel settings that do not fit the file are errors in plan and run; nothing is sent."""
    speech(place.path("mono.wav"), 1)
    speakers = '[{"channel": 2, "speaker": {"name": "Ann"}}]'
    cells = {"enableSeparateRecognitionPerChannel": "true", "channelMetadata": speakers}
    write_table(place, "m.csv", [{"conversationId": "a", "audioPath": "mono.wav", **cells}])
    for command in ("plan", "run"):
        refused = place.run(command, "m.csv")
        assert refused.code == 2
        assert "channelMetadata" in refused.out + refused.err
        assert "the file has one channel" in refused.out + refused.err
    assert server.journal.puts() == []


def test_what_would_be_held_is_not_foreseen(place: Place) -> None:
    """Behind an invalid row that is left out its conversation waits, as a run would have it wait."""
    speech(place.path("a.wav"), 60)
    pairs = [("c", "a.wav"), ("c", "missing.wav"), ("c", "a.wav"), ("d", "a.wav")]
    write_table(place, "m.csv", [{"conversationId": conversation, "audioPath": path} for conversation, path in pairs])
    ending = place.run("plan", "m.csv", "--json", "--on-invalid", "skip", environment=NOWHERE)
    found = ending.summary
    assert (ending.code, found["held"], found["toAppend"]["files"]) == (1, 1, 2)


def test_a_mode_that_does_not_suit_the_recording_is_a_hint(place: Place) -> None:
    """8 kHz without `phone`, and more than that with it: said in the plan, and no reason to refuse."""
    rows(place, [("a", 1)])
    found = planned(place, **NOWHERE)
    assert (found["hintCount"], found["hints"][0]["column"], found["hints"][0]["line"]) == (1, "mode", 2)
    assert "consider phone" in found["hints"][0]["remedy"]


def test_what_is_the_same_in_many_rows_is_one_line_and_the_forecast_stays_in_sight(place: Place) -> None:
    """Sixty hints alike are told once with the first lines; --all tells each."""
    rows(place, [("a", 1)] * 60)
    output, each = (place.run("plan", "m.csv", *more, environment=NOWHERE).out for more in ((), ("--all",)))
    assert output.count("consider phone") == 1
    assert "60 rows (2, 3, 4, …)" in output
    assert each.count("consider phone") == 60


def test_of_what_is_over_no_hint_is_given(place: Place, server: Server) -> None:
    """Completed items get no hint, because they cannot be sent otherwise any more; items still to append do."""
    rows(place, [("a", 1)])
    assert place.run("run", "m.csv").code == 0
    assert planned(place)["hintCount"] == 0
    assert len(server.journal.puts()) == 1


def test_plan_and_run_agree_about_leftovers(place: Place, server: Server) -> None:
    """Leftovers before these rows are the same in plan, refusal, summary and log, and are sent exactly."""
    for number in range(5):
        speech(place.path(f"{number}.wav"), 30 * (number + 1))
    cells = [{"conversationId": each, "audioPath": f"{number}.wav"} for number, each in enumerate("aabca")]
    write_table(place, "monday.csv", cells[:4])
    assert place.run("run", "monday.csv", "--first", "1").code == 6
    write_table(place, "m.csv", [cells[4], {"conversationId": "d", "audioPath": "0.wav"}])
    found = planned(place, "--first", "1")
    assert (found["toAppend"]["files"], found["toAppend"]["billedMinutes"], found["later"]) == (2, 3.5, 1)
    assert [(leftover["batch"], leftover["files"], leftover["billedMinutes"]) for leftover in found["leftovers"]] == [
        ("monday.csv", 1, 1.0)
    ]
    for command in ("plan", "run"):
        refused = place.run(command, "m.csv", "--first", "1", "--max-billed-minutes", "3.4")
        assert refused.code == 2
        assert "3.5 billed minutes are still to be appended (leftovers of other batches among them" in refused.err
    puts = len(server.journal.puts())
    ending = place.run("run", "m.csv", "--first", "1", "--max-billed-minutes", "3.5", "--json")
    assert ending.summary["leftoversCarried"] == found["leftovers"]
    assert [(leftover["batch"], leftover["files"]) for leftover in ending.summary["leftoversElsewhere"]] == [
        ("monday.csv", 2)
    ]
    (event,) = ending.events("leftovers.carried")
    assert (event["items"], event["billedMinutes"], event["batches"]) == (1, 1.0, {"monday.csv": 1})
    sent = server.journal.puts()[puts:]
    assert [put.conversation_id for put in sent] == ["a", "a"]


def test_what_another_run_sends_is_not_counted(place: Place) -> None:
    """Items of a batch whose own run is on are that run's: plan and `--max-billed-minutes` of another leave them out.

    Once that run was stopped they are leftovers, which the next run carries.
    """
    for number, seconds in enumerate((60, 61, 62, 63, 66, 72)):
        speech(place.path(f"{number}.wav"), seconds)
    cells = [{"conversationId": "a", "audioPath": f"{number}.wav"} for number in range(6)]
    write_table(place, "monday.csv", cells[:4])
    write_table(place, "m.csv", cells[4:])
    server = place.serve("--job-seconds", "30")
    place.use(server)
    running = place.start("run", "monday.csv", "--limit", "2")
    until(lambda: len(server.journal.appended()) == 1, "the first one of the conversation is a job")
    for words, minutes in (((), 2.3), (("--first", "1"), 1.1)):
        found = planned(place, *words)
        assert (found["toAppend"]["billedMinutes"], found["leftovers"]) == (minutes, [])
        over = ("m.csv", *words, "--max-billed-minutes")
        assert place.run("plan", *over, str(minutes)).code == 0
        refused = place.run("run", *over, str(minutes - 0.1))
        assert (refused.code, "leftovers" in refused.err) == (2, False)
    beside = place.start("run", "m.csv", "--max-billed-minutes", "2.3", "--json")
    until(lambda: '"run.begun"' in beside.err.read_text(), "the run has begun")
    until(lambda: len(place.run("status", "--json").summary["workers"]) == 2, "it was not refused")
    for run in (beside, running):
        run.process.send_signal(signal.SIGTERM)
        run.wait()
    assert [leftover["batch"] for leftover in planned(place)["leftovers"]] == ["monday.csv"]
    assert place.run("run", "m.csv", "--max-billed-minutes", "2.3").code == 2
