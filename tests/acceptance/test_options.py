"""What the options promise, each as a person or a script would use it."""

import json
import signal
from collections.abc import Iterator

import pytest

from tests.acceptance.batches import Row, make_rows, read_results, statuses, write_manifest, write_table
from tests.acceptance.judging import appended, check_appended, check_job_ids
from tests.acceptance.place import Place, Server, until
from tests.acceptance.starting import Start


@pytest.fixture(scope="session")
def shared_slow_server(tmp_path_factory: pytest.TempPathFactory, starts: Start) -> Iterator[Server]:
    """A sandbox whose jobs take long enough for something to happen meanwhile."""
    made = Place(tmp_path_factory.mktemp("slow-server"), starts=starts)
    yield made.serve("--limit", "50", "--job-seconds", "1.5")
    made.close()


@pytest.fixture
def slow_server(shared_slow_server: Server, place: Place) -> Server:
    """The same, with a journal that begins with the test."""
    place.use(shared_slow_server)
    return shared_slow_server.from_now_on()


def _wire(rows: list[Row], place: Place) -> bytes:
    return write_manifest(place, "made-up.csv", rows).read_bytes()


def test_no_wait_ends_once_all_is_accepted_and_a_later_run_follows(place: Place, slow_server: Server) -> None:
    """--no-wait: exit 0 with the last jobs still running; the plain command then sends nothing and sees their ends."""
    rows = make_rows(place, 6, 4)
    write_manifest(place, "m.csv", rows)
    assert place.run("run", "m.csv", "--limit", "10", "--no-wait").code == 0
    check_appended(slow_server.journal, rows)
    by_status = statuses(place.path("m.results.csv"))
    assert set(by_status) == {"accepted", "completed"}
    assert by_status[:2] == ["completed"] * 2, "their lanes had to go on"
    assert place.run("run", "m.csv", "--limit", "10").code == 0
    check_appended(slow_server.journal, rows)
    results = read_results(place.path("m.results.csv"))
    assert {line["status"] for line in results} == {"completed"}
    check_job_ids(slow_server.journal, results)


def test_a_batch_from_standard_input_is_carried_on_by_its_name(place: Place, slow_server: Server) -> None:
    """`run -` needs --format, --batch and --results; `run --batch NAME` carries on without the manifest."""
    rows = make_rows(place, 4, 2)
    given = _wire(rows, place)
    running = place.start(
        *("run", "-", "--format", "csv", "--batch", "night", "--results", "night.jsonl", "--limit", "4"), stdin=given
    )
    until(lambda: len(slow_server.journal.appended()) == 2, "the first of both lanes are accepted")
    assert running.stop(signal.SIGINT).code == 130
    statuses = {line["status"] for line in read_results(place.path("night.jsonl"))}
    # a job may have ended before the signal came
    assert "pending" in statuses <= {"accepted", "completed", "pending"}
    ending = place.run("run", "--batch", "night", "--limit", "4", "--json")
    assert ending.code == 0
    assert ending.summary["batch"] == "night"
    check_appended(slow_server.journal, rows)
    results = read_results(place.path("night.jsonl"))
    assert [(line["line"], line["batch"], line["status"]) for line in results] == [
        (line, "night", "completed") for line in range(2, 6)
    ]


def test_the_summary_is_there_only_when_the_results_are_final(place: Place, slow_server: Server) -> None:
    """--summary: an old one is gone as soon as a run begins; the new one is what --json prints, with all its keys."""
    rows = make_rows(place, 2, 2)
    write_manifest(place, "m.csv", rows)
    summary = place.write("s.json", '{"exitCode": 0}')
    running = place.start("run", "m.csv", "--limit", "2", "--summary", "s.json", "--json")
    until(lambda: bool(slow_server.journal.begun_puts()), "something is sent")
    assert not summary.exists()
    ending = running.wait()
    assert ending.code == 0
    assert json.loads(summary.read_text(encoding="utf-8")) == ending.summary
    expected = {
        "batch": "m.csv",
        "exitCode": 0,
        "items": 2,
        "bytesSent": sum(place.path(row.audio).stat().st_size for row in rows),
        "results": str(place.path("m.results.csv")),
        "ledger": str(place.ledger),
    }
    assert {name: ending.summary[name] for name in expected} == expected
    assert {name: count for name, count in ending.summary["counts"].items() if count} == {"completed": 2}
    assert ending.summary["seconds"] > 0


def test_a_refused_manifest_leaves_no_summary_of_another_night(place: Place, server: Server) -> None:
    """A script that finds a summary takes the results for final: a run that ends with 2 leaves none."""
    place.write("m.csv", "conversationId,audioPath\none,missing.wav\n")
    summary = place.write("s.json", '{"exitCode": 0}')
    assert place.run("run", "m.csv", "--summary", "s.json").code == 2
    assert not summary.exists()


def test_a_summary_takes_the_place_of_nothing_else(place: Place, server: Server) -> None:
    """--summary of the manifest, a recording, the ledger, the results, a folder: exit 2, nothing sent, nothing gone."""
    rows = make_rows(place, 1, 1)
    manifest, notes = write_manifest(place, "m.csv", rows), place.write("notes.json", '["exitCode"]')
    assert place.run("run", "m.csv").code == 0
    kept = (manifest, notes, place.path(rows[0].audio), place.path("m.results.csv"))
    before = {path: path.read_bytes() for path in kept}
    for target in (*kept, place.ledger, place.folder):
        ending = place.run("run", "m.csv", "--repeat", "--summary", target)
        assert ending.code == 2, target
        assert f"summary {target}" in ending.err
        assert "with --summary" in ending.err
    assert len(server.journal.puts()) == 1
    assert {path: path.read_bytes() for path in kept} == before
    assert place.run("status").code == 0


@pytest.mark.usefixtures("server")
def test_summary_and_results_are_two_files(place: Place) -> None:
    """One file for both would hold one of them: exit 2 before anything is sent."""
    write_manifest(place, "m.csv", make_rows(place, 1, 1))
    ending = place.run("run", "m.csv", "--results", "r.jsonl", "--summary", "./r.jsonl")
    assert ending.code == 2
    assert "the results go there" in ending.err


def test_results_that_cannot_be_written_are_told_and_leave_no_summary(place: Place, slow_server: Server) -> None:
    """A results folder that vanishes while the batch runs: exit 5, no summary, and the same command ends with 0."""
    rows = make_rows(place, 2, 2)
    write_manifest(place, "m.csv", rows)
    out = place.path("out")
    out.mkdir()
    command = ("run", "m.csv", "--limit", "2", "--results", "out/r.csv", "--summary", "s.json")
    running = place.start(*command)
    until(lambda: len(slow_server.journal.appended()) == 2, "all is sent")
    out.rename(place.path("away"))
    ending = running.wait()
    assert ending.code == 5
    assert "out/r.csv" in ending.out + ending.err
    assert not place.path("s.json").exists()
    place.path("away").rename(out)
    assert place.run(*command).code == 0
    assert statuses(out / "r.csv") == ["completed"] * 2
    assert place.path("s.json").exists()
    check_appended(slow_server.journal, rows)


def test_skip_leaves_invalid_rows_out_and_holds_their_lanes(place: Place, server: Server) -> None:
    """--on-invalid skip: an invalid row is refused and holds the rest of its lane; other lanes complete; exit 1."""
    good = make_rows(place, 4, 1)
    cells = [
        {"conversationId": "one", "audioPath": good[0].audio},
        {"conversationId": "one", "audioPath": "missing.wav"},
        {"conversationId": "one", "audioPath": good[1].audio},
        {"conversationId": "two", "audioPath": good[2].audio},
        {"conversationId": "", "audioPath": good[3].audio},
    ]
    write_table(place, "m.csv", cells)
    assert place.run("run", "m.csv", "--on-invalid", "skip").code == 1
    assert appended(server.journal) == {"one": [good[0].sha256], "two": [good[2].sha256]}
    results = read_results(place.path("m.results.csv"))
    assert [line["status"] for line in results] == ["completed", "refused", "held", "completed", "refused"]
    assert "missing.wav" in results[1]["error"]
    # once the row is right, the lane goes on in order
    (missing,) = make_rows(place, 1, 1, seed=7, folder="found")
    place.path(missing.audio).rename(place.path("missing.wav"))
    write_table(place, "m.csv", cells[:4])
    assert place.run("run", "m.csv").code == 0
    assert appended(server.journal)["one"] == [good[0].sha256, missing.sha256, good[1].sha256]


def test_a_json_lines_manifest_has_json_lines_results(place: Place, server: Server) -> None:
    """Results beside a JSON Lines manifest: the contract's columns in order, values of their types, null unknown."""
    (row,) = make_rows(place, 1, 1)
    cells = {"conversationId": row.conversation, "audioPath": row.audio, "x-id": [1, {"two": None}]}
    write_table(place, "m.jsonl", [cells])
    assert place.run("run", "m.jsonl").code == 0
    [line] = read_results(place.path("m.results.jsonl"))
    [put] = server.journal.appended()
    assert ", ".join(line) == (
        "conversationId, audioPath, jobId, status, attempts, httpStatus, error, bytes, durationSeconds, channels, "
        "billedSeconds, acceptedAt, finishedAt, batch, line, x-id"
    )
    known = {
        **cells,
        "jobId": put.job_id,
        "status": "completed",
        "attempts": 1,
        "httpStatus": 201,
        "error": None,
        "bytes": put.bytes,
        "durationSeconds": None,
        "channels": None,
        "billedSeconds": None,
        "batch": "m.jsonl",
        "line": 1,
    }
    assert {name: line[name] for name in known} == known
    assert line["acceptedAt"].endswith("Z")
    assert line["acceptedAt"] <= line["finishedAt"]


def test_a_flag_outranks_the_environment_and_that_the_config_file(place: Place, server: Server) -> None:
    """A limit of 1 in the file is kept; a variable and a flag outrank it; [parameters] reach the wire."""
    rows = make_rows(place, 4, 4)
    write_manifest(place, "m.csv", rows)
    place.write("night.toml", 'limit = 1\n[parameters]\nname = "Night shift"\n')
    config = {"UPLOADER_CONFIG": "night.toml"}
    assert place.run("run", "m.csv", environment=config).code == 0
    assert server.journal.peak_live() == 1
    assert {put.query for put in server.journal.puts()} == {(("name", "Night shift"),)}
    for variables, flags, limit in ({"UPLOADER_LIMIT": "2"}, ["--limit", "3"], 3), ({"UPLOADER_LIMIT": "2"}, [], 2):
        ending = place.run("run", "m.csv", "--json", *flags, environment={**config, **variables})
        assert ending.summary["limit"]["configured"] == limit


def test_relative_paths_start_at_the_audio_root(place: Place, server: Server) -> None:
    """With --audio-root paths start at that folder, though files of the same name lie beside the manifest."""
    make_rows(place, 2, 2, folder="lists/audio")
    rows = make_rows(place, 2, 2, seed=4, folder="store/audio")
    cells = [{"conversationId": row.conversation, "audioPath": row.audio.partition("/")[2]} for row in rows]
    write_table(place, "lists/m.csv", cells)
    assert place.run("run", "lists/m.csv", "--audio-root", "store").code == 0
    check_appended(server.journal, rows)


def test_the_sandbox_inside_a_run_can_be_far_away(place: Place, server: Server) -> None:
    """A rehearsal over a long way takes its round trips; for the service itself such a way is refused (exit 2)."""
    write_manifest(place, "m.csv", make_rows(place, 1, 1))
    near = place.run("run", "m.csv", "--round-trip", "0.5")
    assert (near.code, "round_trip" in near.err, server.journal.entries) == (2, True, [])
    far = place.run("run", "m.csv", "--sandbox", "--round-trip", "0.5", "--uplink", "100000", "--json")
    assert far.code == 0
    assert far.summary["seconds"] >= 1.0, "the PUT alone: a connection, and a request with its answer"
