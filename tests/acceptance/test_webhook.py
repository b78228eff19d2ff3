"""The webhook listener: jobs that tell of themselves, doubt that is settled by it, and who else may call."""

import http.client
import json
import socket
import threading
from collections import Counter, deque
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing

import pytest

from tests.acceptance.batches import Row, make_rows, read_results, write_manifest, write_table
from tests.acceptance.judging import appended, check_appended, check_job_ids, check_one_at_a_time
from tests.acceptance.place import Place, Server, until
from tests.integration.servers import free_port
from uploader.policy.callbacks import SIGNATURE_CHARACTERS
from uploader.sandbox.entries import CallEntry, PollEntry

QUICK = ("run", "m.csv", "--limit", "10", "--doubt-seconds", "2", "--json")


def listening(port: int) -> tuple[str, ...]:
    """The flags of a run that listens."""
    return "--webhook", f"127.0.0.1:{port}", "--webhook-url", f"http://127.0.0.1:{port}/jobs?of=night"


def serve(place: Place, rows: Iterable[Row], faults: str = "", seconds: float = 0.3) -> Server:
    """A manifest of these rows, and a sandbox with these faults."""
    write_manifest(place, "m.csv", rows)
    server = place.serve("--limit", "10", "--job-seconds", str(seconds), faults=faults)
    place.use(server)
    return server


def tokens(server: Server) -> set[str]:
    """The secrets of the addresses that the service was given."""
    urls = [dict(put.query)["webhookUrl"] for put in server.journal.puts()]
    assert {url.partition("?")[2] for url in urls} == {"of=night"}
    return {url.partition("?")[0].rpartition("/")[2] for url in urls}


def polls(server: Server) -> int:
    """Count the requests for a job's status."""
    return sum(isinstance(entry, PollEntry) for entry in server.journal.entries)


def polls_after_the_end_was_told(server: Server) -> Counter[str]:
    """Count the polls of each job after a callback with its end was answered with 200."""
    result: set[str] = set()
    asked: Counter[str] = Counter()
    for entry in server.journal.entries:
        if isinstance(entry, CallEntry) and (entry.job, entry.status) == ("completed", 200):
            result.add(entry.job_id)
        elif isinstance(entry, PollEntry) and entry.job_id in result:
            asked[entry.job_id] += 1
    return asked


def check_all_completed(place: Place, server: Server, rows: Iterable[Row]) -> None:
    """Every row completed, once, in order, under its own job."""
    results = read_results(place.path("m.results.csv"))
    assert {line["status"] for line in results} == {"completed"}
    check_appended(server.journal, rows)
    check_job_ids(server.journal, results)
    check_one_at_a_time(server.journal)


def test_jobs_tell_of_themselves(place: Place) -> None:
    """Nothing is asked for that is told; each attempt's address is its own, and nobody gets to read it."""
    rows = make_rows(place, 40, 15)
    server = serve(place, rows, seconds=1.0)
    ending = place.run(*QUICK, *listening(free_port()), "--log-level", "debug", "--summary", "s.json")
    assert ending.code == 0
    check_all_completed(place, server, rows)
    # a slow machine may look before it is told; nobody is looked at twice
    assert polls(server) <= 0.5 * len(rows)
    assert {call.status for call in server.journal.calls()} <= {200, None}
    statuses = {(call.job_id, call.job) for call in server.journal.calls() if call.status == 200}
    assert len(statuses) > 2 * len(rows)
    drawn = tokens(server)
    assert len(drawn) == len(rows)
    assert {len(token) for token in drawn} == {43 + SIGNATURE_CHARACTERS}
    written = [ending.out, ending.err, *(place.path(name).read_text() for name in ("m.results.csv", "s.json"))]
    written.append(place.ledger.read_bytes().decode("latin-1"))
    assert [token for token in drawn for text in written if token in text] == []
    assert ending.summary["outOfOrder"] == []


@pytest.mark.parametrize(("lost", "silent"), [(1.0, True), (0.7, False)])
def test_a_webhook_that_nobody_can_reach_is_told(place: Place, lost: float, silent: bool) -> None:
    """Once in the log and in the summary, with the remedy; a single call shows that it can be reached."""
    rows = make_rows(place, 14, 14)
    server = serve(place, rows, f"seed = 3\n[calls]\nlost = {lost}", seconds=0.1)
    ending = place.run(*QUICK, *listening(free_port()))
    assert ending.code == 0
    check_all_completed(place, server, rows)
    assert any(call.status == 200 for call in server.journal.calls()) is not silent
    assert ending.summary["webhookSilent"] is silent
    assert len(ending.events("webhook.silent")) == silent
    assert ending.err.count("see that the service reaches --webhook-url") == silent


def test_a_lost_answer_is_settled_by_a_call(place: Place) -> None:
    """In doubt becomes accepted, with its jobId: exit 0, and the service was sent each file once."""
    rows = make_rows(place, 30, 10)
    server = serve(place, rows, "seed = 5\n[put]\nlost_answer = 0.4\nstatus_502 = 0.1\ntaken = 1.0")
    assert place.run(*QUICK, *listening(free_port())).code == 0
    assert any(put.fault for put in server.journal.puts())
    # five lanes in trouble may pause the sending: what that cut off goes again
    assert sum(put.sha256 is not None for put in server.journal.puts()) == len(rows)
    check_all_completed(place, server, rows)


def test_a_call_ends_the_wait_for_a_silent_answer(place: Place) -> None:
    """A callback that names the job ends the wait for a silent answer, which could add nothing in its five minutes."""
    rows = make_rows(place, 4, 4)
    server = serve(place, rows, "seed = 1\n[put]\nslow_answer = 1.0\nslow_seconds = 3600.0")
    assert place.run(*QUICK, *listening(free_port())).code == 0
    check_all_completed(place, server, rows)


def test_calls_that_are_lost_late_repeated_forged_or_oddly_named_do_no_harm(place: Place) -> None:
    """Polling finds ends whose callback was lost; repeated, late and forged callbacks have no effect."""
    rows = make_rows(place, 40, 15)
    faults = (
        "seed = 6\n[put]\nlost_answer = 0.1\n"
        "[calls]\nlost = 0.1\ntwice = 0.2\nlate = 0.2\nlate_seconds = 0.5\nforged = 0.2\nnamed_id = 0.2"
    )
    server = serve(place, rows, faults)
    assert place.run(*QUICK, *listening(free_port())).code == 0
    check_all_completed(place, server, rows)
    calls = server.journal.calls()
    assert {call.status for call in calls if call.fault == "forged"} == {404}
    assert {call.fault for call in calls} == {None, "lost", "twice", "late", "forged", "named_id"}


def test_a_call_stops_the_retry_of_what_was_cut_off(place: Place) -> None:
    """A service that takes the half that came: it is not sent again unless it was too late, and the row says so."""
    rows = make_rows(place, 10, 10)
    server = serve(place, rows, "seed = 1\n[put]\ncut_taken = 1.0", seconds=2.0)
    ending = place.run(*QUICK, *listening(free_port()))
    assert ending.code == 0
    assert len(server.journal.puts()) < 2 * len(rows)
    results = {line["conversationId"]: line for line in read_results(place.path("m.results.csv"))}
    assert {line["status"] for line in results.values()} == {"completed"}
    # the end of a short body may have left before the cut came: then its answer was lost, and the call settles that
    message = {line["conversationId"] for line in results.values() if line["error"]}
    assert message
    for put in server.journal.appended():
        row = results[put.conversation_id]
        assert f"job {put.job_id}" in row["error"] if row["conversationId"] in message else row["jobId"] == put.job_id
    assert {anomaly["conversationId"] for anomaly in ending.summary["outOfOrder"]} == message
    assert len(ending.events("append.anomaly")) >= len(message)
    assert "out of order in m.csv:" in place.run("status").out


def test_without_a_call_polling_finds_all(place: Place) -> None:
    """An address that leads nowhere costs nothing but the requests that it would have saved."""
    rows = make_rows(place, 12, 6)
    server = serve(place, rows, seconds=0.1)
    elsewhere = f"http://127.0.0.1:{free_port()}/jobs?of=night"
    assert place.run(*QUICK, "--webhook", f"127.0.0.1:{free_port()}", "--webhook-url", elsewhere).code == 0
    check_all_completed(place, server, rows)
    assert polls(server) >= len(rows)


def test_a_row_with_a_webhook_of_its_own_keeps_it(place: Place) -> None:
    """Its address reaches the service as it stands, and its job is polled."""
    rows = make_rows(place, 2, 2)
    server = serve(place, rows, seconds=0.1)
    own = "https://own.example/hook"
    cells = [{"conversationId": row.conversation, "audioPath": row.audio, "webhookUrl": ""} for row in rows]
    cells[1]["webhookUrl"] = own
    write_table(place, "m.csv", cells)
    assert place.run(*QUICK, *listening(free_port())).code == 0
    urls = {put.conversation_id: dict(put.query)["webhookUrl"] for put in server.journal.puts()}
    assert urls[rows[1].conversation] == own
    assert urls[rows[0].conversation].endswith("?of=night")
    results = read_results(place.path("m.results.csv"))
    assert server.journal.polls(results[1]["jobId"])


def post(port: int, path: str, body: str) -> int:
    """A call by hand."""
    with closing(http.client.HTTPConnection("127.0.0.1", port, timeout=20)) as connection:
        connection.request("POST", path, body, {"Content-Type": "application/json"})
        return connection.getresponse().status


def test_nobody_else_ends_a_job(place: Place) -> None:
    """Whoever knows a jobId and the address, but no token, gets 404, and the job goes on."""
    rows = make_rows(place, 1, 1)
    server = serve(place, rows, "[calls]\nlost = 1.0", seconds=3.0)
    port = free_port()
    running = place.start(*QUICK, *listening(port))
    until(lambda: bool(server.journal.appended()), "the file is appended")
    job_id = str(server.journal.appended()[0].job_id)
    said = json.dumps({"jobId": job_id, "status": "failed"})
    assert {post(port, path, said) for path in ("/jobs", "/jobs/", f"/jobs/{job_id}", "/jobs/" + "x" * 43)} == {404}
    (token,) = tokens(server)
    assert post(port, f"/jobs/{token}", json.dumps({"jobId": "sandbox-other", "status": "failed"})) == 200
    assert post(port, f"/jobs/{token}", "nonsense") == 400
    assert running.wait().code == 0
    check_all_completed(place, server, rows)


FEW_FILES = ("sh", "-c", 'ulimit -n 128; exec "$@"', "sh")
CROWD = 400
SAID = (
    b"",
    b"POST /jobs/x HT",
    b"POST /jobs/x HTTP/1.1\r\nHost: h\r\nContent-Length: 100\r\n\r\n{",
    b"\x16\x03\x01\x02",
)


def keep_silent(port: int, over: threading.Event) -> int:
    """Open one connection after the other, each of which says little and waits; how many there were."""
    standing: deque[socket.socket] = deque(maxlen=CROWD)
    count = 0
    while not over.is_set():
        try:
            connection = socket.create_connection(("127.0.0.1", port), timeout=1)
            connection.sendall(SAID[count % len(SAID)])
        except OSError:
            over.wait(0.01)  # nobody listens yet, or any more
            continue
        count += 1
        if len(standing) == CROWD:
            standing[0].close()
        standing.append(connection)
    for connection in standing:
        connection.close()
    return count


def test_a_crowd_that_keeps_silent_holds_up_nothing(place: Place) -> None:
    """Of a run that may have 128 files open: every call is heard, every file appended once, and nobody gives up."""
    rows = make_rows(place, 40, 15)
    server = serve(place, rows, "[calls]\nforged = 0.3", seconds=1.0)
    port, over = free_port(), threading.Event()
    with ThreadPoolExecutor(1) as pool:
        crowd = pool.submit(keep_silent, port, over)
        try:
            ending = place.start(*QUICK, *listening(port), before=FEW_FILES).wait()
        finally:
            over.set()
        assert crowd.result() > CROWD
    assert ending.code == 0, ending.err
    check_all_completed(place, server, rows)
    calls = server.journal.calls()
    assert {call.status for call in calls if call.fault == "forged"} <= {404, None}
    statuses = {call.job_id for call in calls if (call.job, call.status) == ("completed", 200)}
    assert len(statuses) >= 0.5 * len(rows)
    assert max(polls_after_the_end_was_told(server).values(), default=0) <= 1, "one may have been on its way"


def test_an_address_that_is_taken_is_refused_before_anything_is_sent(place: Place, server: Server) -> None:
    """Exit 2, with what to do."""
    write_manifest(place, "m.csv", make_rows(place, 1, 1))
    with closing(socket.create_server(("127.0.0.1", 0))) as taken:
        ending = place.run(*QUICK, *listening(taken.getsockname()[1]))
    assert ending.code == 2
    assert "a port that is free" in ending.err
    assert server.journal.begun_puts() == []


@pytest.mark.parametrize(
    ("flags", "told"),
    [
        (("--webhook", "127.0.0.1:8080"), "say --webhook-url URL as well"),
        (("--webhook-url", "https://hook.example"), "say --webhook HOST:PORT as well"),
        (("--webhook", "8080", "--webhook-url", "https://hook.example"), "HOST:PORT"),
        (("--webhook", "127.0.0.1:0", "--webhook-url", "https://hook.example"), "HOST:PORT"),
        (("--webhook", "127.0.0.1:8080", "--webhook-url", "ftp://hook.example"), "https://HOST/PATH"),
        (("--webhook", "127.0.0.1:8080", "--webhook-url", "https://me:secret@hook.example"), "no user, password"),
    ],
)
def test_half_an_address_is_refused(place: Place, flags: tuple[str, ...], told: str) -> None:
    """A listener that nobody can reach, or an address where nobody listens: exit 2, before anything else."""
    write_manifest(place, "m.csv", make_rows(place, 1, 1))
    ending = place.run(*QUICK, "--sandbox", *flags)
    assert ending.code == 2
    assert told in ending.err
    assert "me:secret" not in ending.err


@pytest.mark.parametrize(
    ("config", "environment", "told"),
    [
        (
            'webhook = "127.0.0.1:8080"',
            {},
            "config file c.toml, line 1: webhook = '127.0.0.1:8080': say --webhook-url URL",
        ),
        (
            'webhook_url = "https://h.example"',
            {},
            "config file c.toml, line 1: webhook_url = 'https://h.example': say --webhook H",
        ),
        ("", {"UPLOADER_WEBHOOK": "127.0.0.1:8080"}, "environment UPLOADER_WEBHOOK: webhook = '127.0.0.1:8080': say"),
    ],
)
def test_half_an_address_is_told_by_where_it_stands(
    place: Place, config: str, environment: dict[str, str], told: str
) -> None:
    """A setting from a file or the environment is named as such, not as a flag that nobody typed."""
    write_manifest(place, "m.csv", make_rows(place, 1, 1))
    place.write("c.toml", config)
    ending = place.run(*QUICK, "--sandbox", "--config", "c.toml", environment=environment)
    assert ending.code == 2
    assert told in ending.err


def test_a_run_that_was_stopped_hears_of_it_in_the_next(place: Place) -> None:
    """The first signal ends the listener with the run; what was said meanwhile is found by the next."""
    rows = make_rows(place, 6, 6)
    server = serve(place, rows, seconds=1.5)
    port = free_port()
    running = place.start(*QUICK, *listening(port))
    until(lambda: len(server.journal.appended()) == 6, "all files are appended")
    assert running.stop().code == 143
    assert place.run(*QUICK, *listening(port)).code == 0
    check_all_completed(place, server, rows)
    assert appended(server.journal)
