"""The log: JSON lines where nobody watches, readable on a terminal, and never what is private."""

import json
import os
import pty
import struct
import subprocess
import termios
from collections import Counter
from collections.abc import Sequence
from fcntl import ioctl
from pathlib import Path

import pytest

from tests.acceptance.batches import Row, make_rows, read_results, write_manifest, write_table
from tests.acceptance.judging import check_appended
from tests.acceptance.place import Place, Server, check_events, logged
from tests.acceptance.starting import COMMAND

FACTS = {"batch", "line", "conversationId", "attempt", "jobId", "state", "seconds", "run", "host"}


def test_every_attempt_and_every_jobs_end_is_one_full_event(place: Place) -> None:
    """Every line is JSON; one `attempt.ended` for each PUT and one `job.ended` for each end, with all their facts."""
    rows = make_rows(place, 30, 10)
    write_manifest(place, "m.csv", rows)
    unknown = 'unknown_conversations = ["conversation-004"]'
    server = place.serve("--limit", "10", faults=f"seed = 1\n{unknown}\n[put]\nlost_answer = 0.1\n[jobs]\nfailed = 0.1")
    place.use(server)
    ending = place.run("run", "m.csv", "--limit", "10", "--doubt-seconds", "2")
    assert ending.code == 4
    events = [json.loads(line) for line in ending.err.splitlines()]
    attempts = [event for event in events if event["event"] == "attempt.ended"]
    jobs = [event for event in events if event["event"] == "job.ended"]
    assert [event for event in attempts + jobs if FACTS - set(event)] == []
    assert {event["batch"] for event in attempts + jobs} == {"m.csv"}

    puts = server.journal.puts()
    assert {put.status for put in puts} == {201, 404, None}
    assert Counter((event["conversationId"], event["httpStatus"]) for event in attempts) == Counter(
        (put.conversation_id, put.status) for put in puts
    )
    answered = [put for put in puts if put.status == 201]
    assert {event["jobId"] for event in attempts} - {None} == {put.job_id for put in answered}
    ends = {job.job_id: job.status for job in server.journal.jobs() if job.event == "job-ended"}
    assert {event["jobId"]: event["state"] for event in jobs} == {put.job_id: ends[str(put.job_id)] for put in answered}
    assert len(jobs) == len(answered)
    lines = {line["line"]: line for line in read_results(place.path("m.results.csv"))}
    for event in attempts:
        assert lines[str(event["line"])]["conversationId"] == event["conversationId"]


def _private(place: Place, server: Server, *arguments: str) -> str:
    """The log of a run in which much goes wrong, and everything that is private has a word of its own."""
    made = make_rows(place, 3, 3, folder="folder-of-a-patient")
    cells = [
        {"conversationId": row.conversation, "audioPath": row.audio, "name": "title-of-a-talk", "x-key": "key-of-mine"}
        for row in [*made, Row("gone", "folder-of-a-patient/missing.wav", ""), made[0]]
    ]
    write_table(place, "m.csv", cells)
    place.write(made[1].audio, b"")
    return place.run("run", "m.csv", "--on-invalid", "skip", *arguments).err


def test_the_log_names_no_path_no_parameter_and_no_secret(place: Place, server: Server) -> None:
    """At the info level the log names batch, line, conversationId and jobId; never a path, a parameter, a secret."""
    err = _private(place, server, "--limit", "4")
    [put, *_] = server.journal.appended()
    assert str(put.job_id) in err
    [begun] = [event for event in logged(err) if event["event"] == "run.begun"]
    err = err.replace(begun["ledger"], "")  # which ledger it is, the log has to tell
    private = ["folder-of-a-patient", "title-of-a-talk", "key-of-mine", str(place.folder), "sandbox-token"]
    assert [word for word in private if word in err] == []


def test_no_secret_is_logged_at_any_level(place: Place, server: Server) -> None:
    """Neither the application's secret nor the token is in the debug log."""
    err = _private(place, server, "--log-level", "debug")
    assert server.journal.appended()
    assert "sandbox-token" not in err
    assert "Bearer" not in err
    assert '"appSecret"' not in err


def test_a_refused_manifests_values_are_for_who_reads_them(place: Place, server: Server) -> None:
    """Standard error has each invalid row's value, for who gave the command; no log file has it; no login is shown."""
    login = "u:hunter2@"
    hook = f"ftp://{login}receiver/x"
    write_table(
        place,
        "m.csv",
        [
            {"conversationId": "c", "audioPath": "patient-42.wav", "webhookUrl": ""},
            {"conversationId": "c", "audioPath": f"ftp://{login}store/patient-43.wav", "webhookUrl": hook},
        ],
    )
    refused = place.run("run", "m.csv", "--log-file", "night.log")
    told = sorted((event["line"], event["column"]) for event in refused.events("row.invalid"))
    assert (refused.code, told) == (2, [(2, "audioPath"), (3, "audioPath"), (3, "webhookUrl")])
    kept = place.path("night.log").read_text(encoding="utf-8")
    assert [word for word in ("patient", "receiver", "hunter2") if word in kept] == []
    readers = [
        refused,
        place.run("run", "m.csv", environment={"UPLOADER_LOG_FORMAT": "text"}),
        place.run("run", "m.csv", "--json"),
        place.run("plan", "m.csv"),
        place.run("plan", "m.csv", "--json"),
    ]
    for reader in readers:
        shown = reader.out + reader.err
        assert [word for word in ("patient-42", "patient-43", "receiver") if word not in shown] == [], reader
        assert "hunter2" not in shown


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no file here that is always full")
@pytest.mark.parametrize("way", ["2>/dev/full", "2>&-", ">/dev/full"], ids=["log full", "log closed", "output full"])
def test_words_that_cannot_be_written_cost_no_item(place: Place, server: Server, way: str) -> None:
    """Log or summary on a full disk, or closed: the batch goes on, or its code says run again; none lost or twice."""
    rows = make_rows(place, 6, 3)
    write_manifest(place, "m.csv", rows)
    ending = place.run("run", "m.csv", "--limit", "3", before=("sh", "-c", f'exec "$@" {way}', "sh"))
    assert ending.code in (0, 5), "1 would say that the batch is over, 70 that the fault is ours"
    assert ending.code == 0 or place.run("run", "m.csv", "--limit", "3").code == 0
    check_appended(server.journal, rows)


def _watched(place: Place, *arguments: str) -> tuple[int, str, str]:
    """Runs a command with its log on a terminal; tells its code, what it printed, and what the terminal got."""
    ours, theirs = pty.openpty()
    ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 40, 200, 0, 0))
    with place.path("out.txt").open("wb") as out:
        process = subprocess.Popen(
            [*COMMAND, *arguments],
            cwd=place.folder,
            env={**place.environment, "TERM": "xterm-256color"},
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=theirs,
        )
    os.close(theirs)
    shown = bytearray()
    try:
        while piece := os.read(ours, 65536):
            shown += piece
    except OSError:
        pass  # the terminal's other end is closed: the command has ended
    finally:
        os.close(ours)
        code = process.wait()
    return code, place.path("out.txt").read_text(encoding="utf-8"), shown.decode("utf-8")


def test_a_log_file_has_every_event_whatever_the_terminal_shows(place: Place, server: Server) -> None:
    """`--log-file` has the JSON lines; on the terminal `--log-level info` brings them back, in words."""
    rows = make_rows(place, 6, 3)
    write_manifest(place, "m.csv", rows)
    code, _, shown = _watched(place, "run", "m.csv", "--limit", "4", "--log-file", "night.log")
    assert (code, "attempt.ended" in shown) == (0, False)
    events = list(logged(place.path("night.log").read_text(encoding="utf-8")))
    check_events(events)
    assert [event["event"] for event in events].count("attempt.ended") == len(server.journal.appended()) == len(rows)
    code, _, shown = _watched(place, "run", "m.csv", "--limit", "4", "--repeat", "--log-level", "info")
    assert (code, shown.count("attempt.ended: an attempt at an item has ended")) == (0, len(rows))


def test_the_log_alone_tells_why_a_run_ended(place: Place, server: Server) -> None:
    """`run.begun` and `run.ended` stand around each run, and `run.ended` alone where it could not begin."""
    rows = make_rows(place, 3, 3)
    write_manifest(place, "m.csv", rows)
    good = place.run("run", "m.csv")
    [begun], [ended] = good.events("run.begun"), good.events("run.ended")
    assert (begun["baseUrl"], begun["limit"], begun["ledger"]) == (server.base_url, 2, str(place.ledger))
    assert (ended["exitCode"], ended["counts"], ended["run"]) == (0, {"completed": 3}, begun["run"])
    write_manifest(place, "broken.csv", [*rows, Row("gone", "missing.wav", "")])
    for arguments, batch in ((("broken.csv",), "broken.csv"), (("m.csv", "--limit", "many"), None), ((), None)):
        refused = place.run("run", *arguments, "--json")
        [ended] = refused.events("run.ended")
        assert (refused.code, ended["exitCode"], ended.get("batch")) == (2, 2, batch)
        assert ended["reason"]
        assert refused.err.count(json.dumps(ended["reason"])[1:-1]) == 1, "it is told twice"
        assert "missing.wav" not in ended["reason"]
        assert (refused.summary["exitCode"], refused.summary["batch"]) == (2, batch)
        assert refused.summary["reason"].startswith(ended["reason"])


@pytest.mark.parametrize("wrong", [("--limit", "many"), ("--limmit", "3"), ("--rate", "-1"), ("--config", "none.toml")])
@pytest.mark.parametrize("named", ["flag", "equals", "environment"])
def test_a_run_that_could_not_begin_is_in_the_log_file(place: Place, named: str, wrong: Sequence[str]) -> None:
    """`--log-file` has `run.ended` with the reason, whatever was wrong with the other settings."""
    flags = {"flag": ["--log-file", "night.log"], "equals": ["--log-file=night.log"], "environment": []}[named]
    if named == "environment":
        place.environment["UPLOADER_LOG_FILE"] = "night.log"
    refused = place.run("run", "m.csv", *flags, *wrong)
    [ended] = list(logged(place.path("night.log").read_text(encoding="utf-8")))
    assert (refused.code, ended["event"], ended["exitCode"]) == (2, "run.ended", 2)
    assert wrong[0].strip("-") in ended["reason"] or wrong[1] in ended["reason"]


def test_a_terminal_shows_a_bar_and_readable_lines(place: Place, server: Server) -> None:
    """On a terminal there is no JSON: readable lines, and a bar with items by state, speed and live jobs of limit."""
    rows = make_rows(place, 12, 4)
    write_manifest(place, "m.csv", rows)
    code, out, shown = _watched(place, "run", "m.csv", "--limit", "4")
    assert code == 0
    assert "12 completed" in out
    assert not [line for line in shown.splitlines() if line.lstrip().startswith("{")]
    assert "attempt.ended" not in shown, "what goes well does not stand over the bar"
    assert "/12" in shown
    assert " of 4 busy" in shown
    assert "B/s" in shown
    assert "\x1b[?25h" in shown.rpartition("\x1b[?25l")[2], "the cursor is shown again"


def test_an_attempt_that_is_tried_again_does_not_stand_over_the_bar(place: Place) -> None:
    """Uploads that are cut off on the way are in the log file; a terminal is told of what needs a person."""
    rows = make_rows(place, 8, 8)
    write_manifest(place, "m.csv", rows)
    server = place.serve("--limit", "4", faults="[put]\ncut = 0.5")
    place.use(server)
    code, out, shown = _watched(place, "run", "m.csv", "--limit", "4", "--log-file", "night.log")
    events = list(logged(place.path("night.log").read_text(encoding="utf-8")))
    ended = [event for event in events if event["event"] == "attempt.ended"]
    cut = [event for event in ended if event["outcome"] == "cut off"]
    # a cut that comes as the last chunk leaves is a doubt, which a person is told of
    doubts = [event for event in ended if event["outcome"] == "in doubt"]
    assert code == (4 if doubts else 0)
    assert doubts or "8 completed" in out
    # each upload was answered, cut off, or is in doubt
    assert len(cut) == len(server.journal.puts()) - len(server.journal.appended()) - len(doubts) > 0
    assert {event["level"] for event in cut} == {"info"}
    assert shown.count("attempt.ended") == len(doubts)


def test_a_log_of_warnings_tells_of_each_run_that_needs_somebody(place: Place, server: Server) -> None:
    """`run.ended` is a warning where the code is not 0, be it a person or a part left; else it is info."""
    rows = make_rows(place, 4, 4)
    write_manifest(place, "m.csv", rows)
    place.write("broken.csv", "conversationId,audioPath\nc-9,missing.wav\n")
    words = ("--log-level", "warning")
    part = place.run("run", "m.csv", *words, "--first", "1")
    person = place.run("run", "broken.csv", *words, "--on-invalid", "skip")
    found = [(ending.code, [event["level"] for event in ending.events("run.ended")]) for ending in (part, person)]
    assert found == [(6, ["warning"]), (1, ["warning"])]
    done = place.run("run", "m.csv", *words)
    assert (done.code, done.events("run.ended")) == (0, [])
