"""`uploader serve`: an inbox and nothing more; each manifest is done once, whatever dies, and goes where it belongs."""

import json
import os
import signal
import subprocess
import sys
from contextlib import closing
from http.client import HTTPConnection
from pathlib import Path

import pytest

from tests.acceptance import inbox_kills
from tests.acceptance.batches import Row, make_rows, read_results, statuses, write_manifest
from tests.acceptance.judging import check_appended, check_job_ids, check_limit, check_one_at_a_time
from tests.acceptance.place import Place, Running, Server, logged, until
from tests.acceptance.test_reporting import hook
from tests.integration.servers import free_port
from uploader.sandbox.entries import CallEntry, PollEntry

LIMIT = 5
SERVE = ("serve", "inbox", "--limit", str(LIMIT), "--settle-seconds", "0.2")


def rows_in(place: Place, files: int, lanes: int, seed: int = 1) -> list[Row]:
    """Make recordings in the inbox, and rows with their paths from there."""
    made = make_rows(place, files, lanes, seed=seed, folder=f"inbox/audio{seed}")
    return [Row(f"{row.conversation}-{seed}", row.audio.removeprefix("inbox/"), row.sha256) for row in made]


def drop(place: Place, name: str, rows: list[Row]) -> None:
    """Drop a manifest as a careful program does: written under a hidden name, then renamed."""
    write_manifest(place, f"inbox/.{name}", rows).rename(place.path(f"inbox/{name}"))


def moved(place: Place, where: str, name: str) -> Path:
    """Wait until a manifest stands in a folder, and return its place."""
    path = place.path(f"inbox/{where}/{name}")
    until(path.exists, f"{name} is in {where}")
    return path


def names(place: Place, where: str) -> list[str]:
    """List the names in a folder of the inbox."""
    return sorted(path.name for path in place.path(f"inbox/{where}").iterdir())


def ended(running: Running) -> int:
    """Stop a service, and return its exit code."""
    return running.stop(signal.SIGTERM).code


def test_what_is_dropped_is_done_and_stands_with_its_results(place: Place, server: Server) -> None:
    """Two formats, one before the start and one after it; the log tells of each, and a signal is the usual end."""
    place.path("inbox").mkdir()
    first, second = rows_in(place, 6, 3), rows_in(place, 4, 2, seed=2)
    drop(place, "a.csv", first)
    service = place.start(*SERVE)
    moved(place, "done", "a.csv")
    drop(place, "b.jsonl", second)
    moved(place, "done", "b.jsonl")
    stopped = service.stop(signal.SIGTERM)
    assert (stopped.code, stopped.out) == (143, "")
    check_appended(server.journal, [*first, *second])
    assert names(place, "done") == ["a.csv", "a.results.csv", "b.jsonl", "b.results.jsonl"]
    assert [names(place, "failed"), names(place, "running")] == [[], []]
    assert statuses(place.path("inbox/done/a.results.csv")) == ["completed"] * 6
    assert statuses(place.path("inbox/done/b.results.jsonl")) == ["completed"] * 4
    for name in ("inbox.taken", "run.begun", "run.ended", "inbox.finished"):
        assert [event["batch"] for event in stopped.events(name)] == ["a.csv", "b.jsonl"], name
    runs = [event["run"] for event in stopped.events("run.begun")]
    assert len(set(runs)) == 2, "each batch is a run of its own"


def test_the_same_file_dropped_twice_does_nothing_twice(place: Place, server: Server) -> None:
    """Under its name, and under another one: the results have the jobs that there are, and nothing is appended."""
    place.path("inbox").mkdir()
    rows = rows_in(place, 6, 3)
    service = place.start(*SERVE)
    for name in ("m.csv", "m.csv", "other.csv"):
        drop(place, name, rows)
        until(lambda name=name: not place.path(f"inbox/{name}").exists(), f"{name} is taken")  # type: ignore[misc]
        until(lambda: not names(place, "running"), "it is over")
    assert ended(service) == 143
    check_appended(server.journal, rows)
    assert names(place, "done") == ["m.csv", "m.results.csv", "other.csv", "other.results.csv"]
    first, other = (place.path(f"inbox/done/{name}.results.csv").read_text("utf-8") for name in ("m", "other"))
    assert first == other


def is_running(place: Place, name: str) -> bool:
    """Return True where a manifest is still being carried."""
    return place.path(f"inbox/running/{name}").exists()


def test_batches_at_once_share_the_account(place_of: Place) -> None:
    """A long lane lets the next batch go on beside it, and a refused one fails, while the limit is full and kept."""
    place = place_of
    place.path("inbox").mkdir()
    server = place.serve("--limit", str(LIMIT), "--job-seconds", "0.8")
    place.use(server)
    long, short = rows_in(place, 10, 1), rows_in(place, 10, 8, seed=2)
    drop(place, "long.csv", long)
    service = place.start(*SERVE)
    until(lambda: bool(server.journal.appended()), "the long lane is under way")
    drop(place, "short.csv", short)
    place.write("inbox/broken.csv", "conversationId,audioPath\n,x.wav\n")
    moved(place, "failed", "broken.csv")
    moved(place, "done", "short.csv")
    assert is_running(place, "long.csv"), "the others are over meanwhile"
    moved(place, "done", "long.csv")
    assert ended(service) == 143
    order = [put.conversation_id for put in server.journal.appended()]
    lane = long[0].conversation
    assert order[0] == order[-1] == lane
    check_appended(server.journal, [*long, *short])
    check_one_at_a_time(server.journal)
    check_limit(server.journal, LIMIT)
    assert server.journal.peak_live() == LIMIT
    results = [read_results(place.path(f"inbox/done/{name}.results.csv")) for name in ("long", "short")]
    assert [[line["status"] for line in lines] for lines in results] == [["completed"] * 10] * 2
    check_job_ids(server.journal, [line for lines in results for line in lines])


def test_a_conversation_of_several_batches_keeps_the_order_of_their_manifests(place: Place, server: Server) -> None:
    """The older manifest goes before the younger one, whatever their names, though all are taken at once."""
    place.path("inbox").mkdir()
    # of fifteen recordings no two are the same: a row of another batch would be the item that there is
    made = rows_in(place, 15, 15)
    rows = [Row(f"c-{number % 3}", row.audio, row.sha256) for number, row in enumerate(made)]
    for number, name in enumerate(("e", "d", "c", "b", "a")):
        drop(place, f"{name}.csv", rows[3 * number : 3 * number + 3])
        os.utime(place.path(f"inbox/{name}.csv"), (1000.0 + number, 1000.0 + number))
    service = place.start(*SERVE)
    for name in "abcde":
        moved(place, "done", f"{name}.csv")
    assert ended(service) == 143
    check_appended(server.journal, rows)
    check_one_at_a_time(server.journal)
    check_limit(server.journal, LIMIT)


def test_the_same_file_dropped_while_its_batch_is_on_does_nothing_twice(place: Place) -> None:
    """Under its name it waits for the end of that batch; under another one it is a batch beside it, of its jobs."""
    place.path("inbox").mkdir()
    server = place.serve("--limit", str(LIMIT), "--job-seconds", "0.4")
    place.use(server)
    rows = rows_in(place, 24, 6)
    drop(place, "m.csv", rows)
    service = place.start(*SERVE)
    until(lambda: bool(server.journal.appended()), "the batch is under way")
    drop(place, "other.csv", rows)
    drop(place, "m.csv", rows)
    until(lambda: is_running(place, "other.csv"), "the other one is taken")
    assert is_running(place, "m.csv")
    assert place.path("inbox/m.csv").exists()
    until(lambda: not place.path("inbox/m.csv").exists(), "its turn has come")
    until(lambda: not names(place, "running"), "all are over")
    assert ended(service) == 143
    check_appended(server.journal, rows)
    check_limit(server.journal, LIMIT)
    assert names(place, "done") == ["m.csv", "m.results.csv", "other.csv", "other.results.csv"]
    for name in ("m", "other"):
        check_job_ids(server.journal, read_results(place.path(f"inbox/done/{name}.results.csv")))


def test_what_is_refused_is_in_failed_with_the_reason_and_stops_nobody(place: Place, server: Server) -> None:
    """Broken rows, a workbook, audio outside the inbox by a path or by a link; the good one behind them is done."""
    place.path("inbox").mkdir()
    place.write("secret.wav", b"not of the inbox")
    place.path("inbox/link.wav").symlink_to(place.path("secret.wav"))
    for name, audio in (("up", "../secret.wav"), ("far", str(place.path("secret.wav"))), ("link", "link.wav")):
        drop(place, f"{name}.csv", [Row("1", audio, "")])
    place.write("inbox/broken.csv", "conversationId,audioPath\n,x.wav\n")
    place.write("inbox/book.xlsx", b"PK\x03\x04")
    place.path("inbox/linked.csv").symlink_to(place.path("inbox/broken.csv"))
    rows = rows_in(place, 3, 3)
    service = place.start(*SERVE)
    refused = ("up.csv", "far.csv", "link.csv", "broken.csv", "book.xlsx")
    for name in refused:
        moved(place, "failed", name)
        error = place.path(f"inbox/failed/{name}.error.txt").read_text("utf-8")
        assert error.endswith("next: correct it, and move it back into the inbox\n")
        assert "running/" not in error, "it stands elsewhere by now"
    drop(place, "good.csv", rows)
    moved(place, "done", "good.csv")
    stopped = service.stop(signal.SIGTERM)
    check_appended(server.journal, rows)
    told = place.path("inbox/failed/broken.csv.error.txt").read_text("utf-8")
    assert "conversationId" in told
    assert "nothing was sent" in told
    assert "workbook" in place.path("inbox/failed/book.xlsx.error.txt").read_text("utf-8")
    assert "outside" in place.path("inbox/failed/up.csv.error.txt").read_text("utf-8")
    assert place.path("inbox/linked.csv").is_symlink()
    assert [event["batch"] for event in stopped.events("inbox.passed_over")] == ["linked.csv"]
    # the log has the end of each batch, those that could not begin included, and last that of the service
    codes = {event["batch"]: event["exitCode"] for event in stopped.events("run.ended")}
    assert codes == {**dict.fromkeys(refused, 2), "good.csv": 0}
    assert {event["column"] for event in stopped.events("row.invalid")} == {"audioPath", "conversationId"}
    assert "secret.wav" not in stopped.err, "whose log is collected shows no path"
    assert [event["exitCode"] for event in stopped.events("inbox.ended")] == [143]


def test_a_notification_names_the_places_where_the_files_then_stand(place: Place) -> None:
    """A refused manifest, which another one of its name precedes, and the results of a batch with a failed job."""
    place.path("inbox/failed").mkdir(parents=True)
    place.write("inbox/failed/broken.csv", "of another night")
    place.use(place.serve("--limit", "5", faults="[jobs]\nfailed = 1.0\n"))
    drop(place, "m.csv", rows_in(place, 1, 1))
    with hook() as receiver:
        service = place.start(*SERVE, "--notify", receiver.address)
        moved(place, "failed", "m.csv")
        place.write("inbox/broken.csv", "conversationId,audioPath\n,x.wav\n")
        broken = moved(place, "failed", "broken.2.csv")
        assert ended(service) == 143
    told = {posted["batch"]: posted for posted in receiver.posted if posted["event"] == "ended"}
    assert str(broken) in told["broken.csv"]["reason"]
    assert told["m.csv"]["results"] == str(place.path("inbox/failed/m.results.csv"))
    assert "/running/" not in json.dumps(receiver.posted)


def test_items_that_need_a_person_are_in_failed_and_go_on_once_settled(place: Place) -> None:
    """The text has the next step; the manifest put back into the inbox carries on."""
    place.path("inbox").mkdir()
    rows = rows_in(place, 3, 1)
    server = place.serve("--limit", "5", faults="[jobs]\nfailed = 1.0\n")
    place.use(server)
    service = place.start(*SERVE)
    drop(place, "m.csv", rows)
    moved(place, "failed", "m.csv")
    assert ended(service) == 143
    told = place.path("inbox/failed/m.csv.error.txt").read_text("utf-8")
    assert "uploader resolve --batch m.csv" in told
    assert "inbox/failed/m.results.csv" in told
    assert statuses(place.path("inbox/failed/m.results.csv")) == ["failed", "held", "held"]
    place.run("resolve", "--batch", "m.csv", "--line", "2", "--drop")
    server.running.stop()
    # with another seed no job has the id of a former one
    place.serve("--limit", "5", port=int(server.base_url.rpartition(":")[2]), faults="seed = 2\n")
    place.path("inbox/failed/m.csv").rename(place.path("inbox/m.csv"))
    service = place.start(*SERVE)
    moved(place, "done", "m.csv")
    assert ended(service) == 143
    assert statuses(place.path("inbox/done/m.results.csv")) == ["dropped", "completed", "completed"]


def test_a_service_that_is_stopped_carries_on_where_it_was(place: Place) -> None:
    """The first signal ends it in good order, in the middle of a batch; the next service goes on with that batch."""
    place.path("inbox").mkdir()
    rows = rows_in(place, 20, 20)
    server = place.serve("--limit", "5", "--job-seconds", "0.2")
    place.use(server)
    drop(place, "m.csv", rows)
    service = place.start(*SERVE)
    until(lambda: len(server.journal.appended()) > 2, "the batch is under way")
    stopped = service.stop(signal.SIGTERM)
    assert (stopped.code, names(place, "running")) == (143, ["m.csv", "m.results.csv"])
    [run_ended] = stopped.events("run.ended")
    assert run_ended["exitCode"] == 143
    again = place.start(*SERVE)
    moved(place, "done", "m.csv")
    assert ended(again) == 143
    check_appended(server.journal, rows)
    assert names(place, "running") == []


@pytest.mark.policy
def test_batches_that_are_stopped_together_carry_on_together(place_of: Place) -> None:
    """One signal ends all of them in good order; the next service goes on with each, and the limit is kept."""
    place = place_of
    place.path("inbox").mkdir()
    server = place.serve("--limit", str(LIMIT), "--job-seconds", "0.3")
    place.use(server)
    batches = {f"{number}.csv": rows_in(place, 12, 3, seed=number) for number in (1, 2, 3)}
    for name, rows in batches.items():
        drop(place, name, rows)
    service = place.start(*SERVE)

    def begun() -> set[str]:
        return {put.conversation_id.rpartition("-")[2] for put in server.journal.appended()}

    until(lambda: len(begun()) == len(batches), "all are under way")
    stopped = service.stop(signal.SIGTERM)
    assert stopped.code == 143
    assert [name for name in names(place, "running") if "results" not in name] == list(batches)
    assert sorted(event["batch"] for event in stopped.events("run.ended")) == list(batches)
    assert {event["exitCode"] for event in stopped.events("run.ended")} == {143}
    again = place.start(*SERVE)
    for name in batches:
        moved(place, "done", name)
    assert ended(again) == 143
    check_appended(server.journal, [row for rows in batches.values() for row in rows])
    check_one_at_a_time(server.journal)
    check_limit(server.journal, LIMIT)
    for name, rows in batches.items():
        found = statuses(place.path(f"inbox/done/{name}").with_suffix(".results.csv"))
        assert found == ["completed"] * len(rows)


def test_a_service_out_of_reach_is_waited_for(place: Place) -> None:
    """A batch that could not go on is tried again by itself, and nobody has to drop it again."""
    place.path("inbox").mkdir()
    rows = rows_in(place, 3, 3)
    server = place.serve("--limit", "5")
    place.use(server)
    server.running.stop()
    drop(place, "m.csv", rows)
    service = place.start(*SERVE, "--give-up-seconds", "0.5", "--connect-seconds", "1")
    until(lambda: any(event["event"] == "inbox.waits" for event in logged(service.err.read_text("utf-8"))), "it waits")
    assert names(place, "running")[0] == "m.csv"
    reached = place.serve("--limit", "5", port=int(server.base_url.rpartition(":")[2]))
    moved(place, "done", "m.csv")
    assert ended(service) == 143
    check_appended(reached.journal, rows)


@pytest.mark.parametrize(
    ("words", "code", "reason"),
    [
        (("gone",), 2, "this is no folder"),
        (("inbox", "--status", "0.0.0.0:1"), 2, "UPLOADER_STATUS_TOKEN"),
        (("inbox", "--ledger-must-exist"), 2, "--ledger-must-exist"),
    ],
)
def test_what_would_refuse_every_batch_refuses_the_service(
    place: Place, server: Server, words: tuple[str, ...], code: int, reason: str
) -> None:
    """Before any manifest is touched, and in words."""
    del server
    place.path("inbox").mkdir()
    drop(place, "m.csv", rows_in(place, 1, 1))
    refused = place.run("serve", *words)
    assert refused.code == code
    (ended_with,) = refused.events("inbox.ended")
    assert (ended_with["exitCode"], reason in ended_with["reason"]) == (code, True)
    assert refused.err.count("\n") == 1, "one event a line, and nothing else"
    assert place.path("inbox/m.csv").exists()


def test_an_inbox_has_one_service_and_a_setting_of_one_batch_no_place(place: Place, server: Server) -> None:
    """A second service ends with 6; UPLOADER_BATCH would give all batches one name."""
    del server
    place.path("inbox").mkdir()
    service = place.start(*SERVE)
    until(lambda: "inbox.watched" in service.err.read_text("utf-8"), "the inbox is watched")
    second = place.run(*SERVE)
    assert (second.code, "another `uploader serve`" in second.err) == (6, True)
    assert ended(service) == 143
    refused = place.run(*SERVE, environment={"UPLOADER_BATCH": "b"})
    assert (refused.code, "UPLOADER_BATCH" in refused.err) == (2, True)


def test_credentials_that_are_not_taken_end_the_service(place: Place, server: Server) -> None:
    """Exit 3, as `run`: every further batch would be met so; the manifests wait for the next start."""
    place.path("inbox").mkdir()
    for name in ("m.csv", "n.csv"):
        drop(place, name, rows_in(place, 1, 1))
    refused = place.run(*SERVE, environment={"UPLOADER_APP_SECRET": "wrong"})
    assert refused.code == 3
    assert {"m.csv", "n.csv"} <= {*names(place, "running"), *names(place, ".")}
    assert [names(place, "done"), names(place, "failed")] == [[], []]
    assert server.journal.appended() == []


def fetched(port: int, path: str, method: str = "GET") -> tuple[int, str]:
    """Fetch a path of the listener; return status and body."""
    with closing(HTTPConnection("127.0.0.1", port, timeout=30.0)) as connection:
        connection.request(method, path, body="{}" if method == "POST" else None)
        answer = connection.getresponse()
        return answer.status, answer.read().decode()


def going(port: int) -> str:
    """Return the sentence of the status page."""
    text: str = json.loads(fetched(port, "/status.json")[1])["going"]["text"]
    return text


def test_one_listener_outlives_the_batches(place: Place) -> None:
    """Page, metrics and callbacks on one address, before the first batch, in it, and after it; the health check."""
    place.path("inbox").mkdir()
    place.use(place.serve("--limit", "5", "--job-seconds", "3"))
    port = free_port()
    address = f"127.0.0.1:{port}"
    webhook = ("--webhook", address, "--webhook-url", f"http://{address}/jobs")
    service = place.start(*SERVE, *webhook, environment={"UPLOADER_STATUS": address})
    until(lambda: "inbox.watched" in service.err.read_text("utf-8"), "the inbox is watched")
    assert health(place, address) == 0
    assert going(port) == "Waiting for a manifest."
    assert fetched(port, "/jobs/x", "POST")[0] == 503, "a callback between two runs is to come again"
    for number in (1, 2):
        rows = rows_in(place, 5, 5, seed=number)
        drop(place, f"{number}.csv", rows)
        until(lambda: "Going well" in going(port), "the batch is shown")
        assert fetched(port, "/jobs/x", "POST")[0] == 404, "a stranger's callback"
        moved(place, "done", f"{number}.csv")
        until(lambda: going(port) == "Done: nothing is left to do, 5 of 5 items done.", "its end is shown")
        shown = json.loads(fetched(port, "/status.json")[1])
        assert (shown["run"]["batches"], shown["progress"]["counts"]["completed"]) == ([f"{number}.csv"], 5)
    metrics = fetched(port, "/metrics")[1]
    assert 'uploader_items{state="completed"} 5.0' in metrics
    assert "uploader_run_active 0.0" in metrics
    stopped = service.stop(signal.SIGTERM)
    assert stopped.code == 143
    assert health(place, address) == 1
    assert health(place, "") == 0, "a run without a page is healthy"
    assert not any("callback" in event["event"] for event in logged(stopped.err) if event["level"] != "info")


def test_one_listener_serves_all_batches_that_are_on(place: Place) -> None:
    """The page and the metrics show their sum, and a callback reaches the run that follows the job: none is polled."""
    place.path("inbox").mkdir()
    server = place.serve("--limit", str(LIMIT), "--job-seconds", "2")
    place.use(server)
    batches = {f"{number}.csv": rows_in(place, 6, 3, seed=number) for number in (1, 2)}
    port = free_port()
    address = f"127.0.0.1:{port}"
    listening = ("--status", address, "--webhook", address, "--webhook-url", f"http://{address}/jobs")
    service = place.start(*SERVE, *listening, "--metrics", "figures.prom")
    until(lambda: "inbox.watched" in service.err.read_text("utf-8"), "the inbox is watched")
    for name, rows in batches.items():
        drop(place, name, rows)

    def shown() -> list[str]:
        found: list[str] = json.loads(fetched(port, "/status.json")[1])["run"]["batches"]
        return found

    until(lambda: sorted(shown()) == list(batches), "both are shown")
    assert json.loads(fetched(port, "/status.json")[1])["progress"]["items"] == 12
    until(lambda: 'batch="1.csv, 2.csv"' in fetched(port, "/metrics")[1], "both are in the metrics")
    for name in batches:
        moved(place, "done", name)
    assert ended(service) == 143
    check_appended(server.journal, [row for rows in batches.values() for row in rows])
    check_limit(server.journal, LIMIT)
    told: set[str] = set()
    polled_in_vain = 0
    for entry in server.journal.entries:
        if isinstance(entry, CallEntry) and (entry.job, entry.status) == ("completed", 200):
            told.add(entry.job_id)
        elif isinstance(entry, PollEntry):
            polled_in_vain += entry.job_id in told
    assert len(told) == 12
    assert polled_in_vain == 0
    figures = place.path("figures.prom").read_text("utf-8")
    assert 'uploader_attempts_total{outcome="applied"} 12.0' in figures
    assert "uploader_last_run_exit_code 0.0" in figures
    assert "uploader_run_active 0.0" in figures


def health(place: Place, address: str) -> int:
    """Run the container's health check, and return its exit code."""
    environment = {**place.environment, "UPLOADER_STATUS": address, "PYTHONPATH": os.pathsep.join(sys.path)}
    command = [sys.executable, "-m", "uploader.serve.health"]
    return subprocess.run(command, env=environment, check=False, cwd=place.folder).returncode


@pytest.mark.seeds(1, nightly=5)
def test_each_manifest_is_done_once_though_its_service_is_killed(place: Place, seed: int) -> None:
    """Killed at random moments with manifests in the inbox; `tests.acceptance.inbox_kills` does it thirty times."""
    manifests, kills = 3, 5
    server, dropped, killed = inbox_kills.kill_often(place, manifests, kills, seed)
    assert killed > 1
    assert inbox_kills.faults(place, server, dropped) == []
    assert names(place, "running") == []
