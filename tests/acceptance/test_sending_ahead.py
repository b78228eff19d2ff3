"""Promise 7: bodies are sent ahead and only the last chunk waits; what ends such a wait costs nothing."""

import http.client
import signal
import sqlite3
import time
from collections import Counter
from collections.abc import Sequence
from contextlib import closing
from math import ceil
from random import Random

from tests.acceptance.batches import Row, read_results, record, sound, statuses, write_manifest
from tests.acceptance.judging import check_appended, check_job_ids, check_limit, check_one_at_a_time
from tests.acceptance.place import Ending, Place, Running, Server, until
from tests.integration.servers import free_port
from uploader.sandbox import Journal
from uploader.sandbox.entries import CallEntry, JobEntry, PollEntry, PutBegun, PutEntry

KIB = 1024
HOUR = "3600"
# what may be withheld of a body until its admission
TAIL_BYTES = 1024
# a body of 64 KiB takes 1.3 s: long enough to be sent ahead before the first job has ended
UPLINK = 48 * KIB
# how a run behaves whose waits nothing but the event under test may end
PATIENT = ("run", "m.csv", "--ahead-seconds", HOUR, "--grace-seconds", HOUR)


def make(place: Place, sizes: Sequence[int], lanes: int, *, seed: int = 1, name: str = "m.csv") -> list[Row]:
    """Write recordings of these sizes, for conversations in turn, and their manifest."""
    draw, rows = Random(seed), []
    for number, size in enumerate(sizes):
        audio = f"audio-{seed}/{number:04}.wav"
        rows.append(Row(f"conversation-{number % lanes:03}", audio, record(place, audio, sound(draw, size))))
    write_manifest(place, name, rows)
    return rows


def states(place: Place) -> Counter[str]:
    """Count the ledger's items by state."""
    with closing(sqlite3.connect(f"file:{place.ledger}?mode=ro", uri=True)) as connection:
        return Counter(dict(connection.execute("SELECT state, count(*) FROM items GROUP BY state")))


def open_heads(journal: Journal) -> set[int]:
    """Return the numbers of the PUTs whose head has come and whose end has not."""
    return {put.number for put in journal.begun_puts()} - {put.number for put in journal.puts()}


def until_waiting(place: Place, server: Server, running: Running, *, accepted: int, least: int, size: int) -> None:
    """Wait until all slots are taken by jobs, and so many bodies have come to the server but for their last chunk."""

    def is_waiting() -> bool:
        assert not running.is_over, running.err.read_text()
        if not place.ledger.exists():
            return False
        found = states(place)
        is_full = found["accepted"] == accepted and not found["sent"]
        return is_full and min(found["sending"], len(open_heads(server.journal))) >= least

    until(is_waiting, f"{least} bodies are sent ahead")
    # a body that began later on a line of its own, as long as the others, has come whole: so have they
    assert send_unauthorised(server, size) == 401
    found = states(place)
    assert found["accepted"] == accepted, "the jobs live for long enough"
    assert (found["sent"], found["in_doubt"]) == (0, 0)


def send_unauthorised(server: Server, size: int) -> int:
    """Send a body without credentials, which is answered once it has come whole."""
    host = server.base_url.removeprefix("http://")
    with closing(http.client.HTTPConnection(host)) as connection:
        headers = {"Authorization": "Bearer none", "Content-Type": "audio/wav"}
        connection.request("PUT", "/v1/process/audio/marker", bytes(size), headers)
        return connection.getresponse().status


def cut(journal: Journal) -> list[PutEntry]:
    """List the PUTs of ours whose body never came whole."""
    return [put for put in journal.puts() if put.sha256 is None and put.conversation_id != "marker"]


def in_vain(journal: Journal) -> list[PutEntry]:
    """List the PUTs of which some of the body came, and that appended nothing."""
    return [put for put in journal.puts() if put.bytes and put.job_id is None]


def check_waited(puts: Sequence[PutEntry], least: int) -> None:
    """So many of these bodies had come but for their last chunk."""
    assert sum(put.bytes >= (put.content_length or 0) - TAIL_BYTES for put in puts) >= least


def check_completed(place: Place, server: Server, rows: Sequence[Row], ending: Ending) -> None:
    """Everything completed, once and in order, each at its first attempt."""
    assert ending.code == 0
    results = read_results(place.path("m.results.csv"))
    check_appended(server.journal, rows)
    check_one_at_a_time(server.journal)
    check_job_ids(server.journal, results)
    assert {(line["status"], line["attempts"]) for line in results} == {("completed", "1")}


def test_a_kill_while_bodies_wait_leaves_nothing_in_doubt(place: Place) -> None:
    """Bodies that wait for their admission are pending after kill -9, uncounted; the next run appends each once."""
    sizes = [64 * KIB] * 20 + [40 * KIB] * 20 + [2 * KIB] * 20
    rows = make(place, sizes, 40)
    server = place.serve("--limit", "20", "--uplink", str(UPLINK), "--job-seconds-per-mebibyte", "144")
    place.use(server)
    running = place.start(*PATIENT, "--limit", "20")
    until_waiting(place, server, running, accepted=20, least=16, size=64 * KIB)
    running.stop(signal.SIGKILL)
    until(lambda: not open_heads(server.journal), "the server has seen the connections end")
    check_waited(cut(server.journal), 16)
    assert place.run("results", "--batch", "m.csv", "--results", "killed.csv").code == 0
    ending = place.run(*PATIENT, "--limit", "20", "--json")
    check_completed(place, server, rows, ending)
    assert server.journal.peak_live() <= 20
    [begun] = ending.events("run.recovered")
    assert begun["inDoubt"] == 0


def test_a_signal_ends_the_waits_at_once(place: Place) -> None:
    """However long the grace time is: what waits for a slot is pending again, nothing is in doubt, exit 143."""
    rows = make(place, [64 * KIB] * 40, 40)
    server = place.serve("--limit", "20", "--uplink", str(UPLINK), "--job-seconds", HOUR)
    place.use(server)
    running = place.start(*PATIENT, "--limit", "20")
    until_waiting(place, server, running, accepted=20, least=16, size=64 * KIB)
    assert running.stop().code == 143
    check_waited(cut(server.journal), 16)
    check_pending(place, server, rows)


def test_the_time_to_stop_ends_the_waits_at_once(place: Place) -> None:
    """`--until` reached: what waits for a slot is pending again, nothing is in doubt, exit 6."""
    rows = make(place, [64 * KIB] * 40, 40)
    server = place.serve("--limit", "20", "--uplink", str(UPLINK), "--job-seconds", HOUR)
    place.use(server)
    begun_at = time.monotonic()
    assert place.run("plan", "m.csv", environment=clock_before_six(3600)).code == 0
    # as much as this machine needs to begin, and for the bodies after that
    environment = clock_before_six(12 + ceil(4 * (time.monotonic() - begun_at)))
    running = place.start(*PATIENT, "--limit", "20", "--no-wait", "--until", "06:00", environment=environment)
    until_waiting(place, server, running, accepted=20, least=16, size=64 * KIB)
    assert running.wait().code == 6
    check_waited(cut(server.journal), 16)
    check_pending(place, server, rows)


def clock_before_six(seconds: int) -> dict[str, str]:
    """Build the environment of a time zone in which it is 06:00 in so many seconds."""
    now = time.gmtime()
    west = (now.tm_hour * 3600 + now.tm_min * 60 + now.tm_sec + seconds - 6 * 3600) % 86400
    sign, west = ("", west) if west < 43200 else ("-", 86400 - west)
    return {"TZ": f"HERE{sign}{west // 3600:02}:{west // 60 % 60:02}:{west % 60:02}"}


def check_pending(place: Place, server: Server, rows: Sequence[Row]) -> None:
    """What was accepted is, all else is pending, and no attempt that was cut counts."""
    results = read_results(place.path("m.results.csv"))
    assert Counter(line["status"] for line in results) == {"accepted": 20, "pending": len(rows) - 20}
    assert {(line["status"], line["attempts"]) for line in results} == {("accepted", "1"), ("pending", "0")}
    assert len(server.journal.appended()) == 20


def test_an_open_breaker_ends_the_waits_at_once(place: Place) -> None:
    """Five lanes met by 502: what waits is cut before the service is asked whether it is back, and is not in doubt."""
    make(place, [20 * KIB] * 40, 40)
    slow = ("--answer-seconds", "2")
    server = place.serve("--limit", "40", *slow, faults="[put]\nstatus_502 = 1.0\ntaken = 0.0")
    place.use(server)
    ending = place.run(*PATIENT, "--limit", "40", "--give-up-seconds", "1", "--json")
    assert ending.code == 5
    journal = server.journal
    # the first 20 answers might all be the same refusal: so many are under way, and five of them unanswered
    check_waited(cut(journal), 20 - 5)
    probed = next(place for place, entry in enumerate(journal.entries) if isinstance(entry, PollEntry))
    before = Journal()
    before.entries = journal.entries[:probed]
    assert open_heads(before) == set()
    whole = [put for put in journal.puts() if put.sha256]
    assert len([put for put in before.puts() if put.sha256]) == 5
    assert Counter(statuses(place.path("m.results.csv"))) == {"in_doubt": len(whole), "pending": 40 - len(whole)}


def test_a_wait_that_is_too_long_is_cut_by_us_and_counts_for_nobody(place: Place) -> None:
    """After `--ahead-seconds` an upload is cut before its last chunk, and the item is appended later, once."""
    rows = make(place, [64 * KIB] * 8, 8)
    server = place.serve("--limit", "4", "--uplink", str(UPLINK), "--job-seconds", "4")
    place.use(server)
    ending = place.run("run", "m.csv", "--limit", "4", "--ahead-seconds", "1", "--max-attempts", "1", "--json")
    check_completed(place, server, rows, ending)
    check_limit(server.journal, 4)
    check_waited(cut(server.journal), 1)
    assert ending.summary["attempts"] == len(rows)


def test_a_service_that_counts_uploads_is_learned_at_two_bodies(place: Place) -> None:
    """Its 429s to heads cost two bodies at most; it is told, and for a day no body is sent ahead."""
    rows = make(place, [30 * KIB] * 24, 12)
    server = place.serve("--limit", "4", "--counts-uploads", "--job-seconds", "0.7")
    place.use(server)
    ending = place.run("run", "m.csv", "--limit", "4", "--json")
    assert ending.code == 0
    journal = server.journal
    check_appended(journal, rows)
    check_one_at_a_time(journal)
    assert journal.peak_live() <= 4
    refused = [put for put in journal.puts() if put.status == 429]
    assert 1 <= len(refused) <= 2
    assert journal.bytes_in_vain() <= 2 * 30 * KIB
    assert len(ending.events("account.needs_slot_first")) == 1
    assert ending.summary["limit"]["needsSlotFirst"] is True
    assert "429" in ending.summary["limit"]["needsSlotFirstReason"]

    later = server.from_now_on()
    more = make(place, [30 * KIB] * 8, 8, seed=2, name="more.csv")
    second = place.run("run", "more.csv", "--limit", "4")
    assert second.code == 0
    check_appended(later.journal, more)
    check_limit(later.journal, 4)
    assert cut(later.journal) == []
    assert "uploads wait for a free slot before they begin" in second.out


def test_a_gateway_with_a_short_patience_is_borne(place: Place) -> None:
    """A byte now and then keeps a waiting upload's connection open for longer than the gateway bears silence."""
    rows = make(place, [64 * KIB] * 10 + [32 * KIB] * 10, 20)
    # jobs of 7 s: the bodies behind them wait for longer than the gateway bears, which is far longer than a byte's wait
    idle_cut = 5.0
    server = place.serve(
        "--limit", "10", "--uplink", str(UPLINK), "--job-seconds-per-mebibyte", "112", "--idle-cut", str(idle_cut)
    )
    place.use(server)
    ending = place.run("run", "m.csv", "--limit", "10", "--json")
    check_completed(place, server, rows, ending)
    assert in_vain(server.journal) == []
    assert ending.summary["limit"]["needsSlotFirst"] is False
    heads = {put.number: put.at for put in server.journal.begun_puts()}
    waits = [put.at - heads[put.number] - (put.content_length or 0) / UPLINK for put in server.journal.puts()]
    assert max(waits) > idle_cut, waits


def test_a_gateway_that_does_not_bear_the_wait_is_learned(place: Place) -> None:
    """Connections that are closed while a body waits: told once, remembered, no item harmed, and no breaker opened."""
    # a body of one chunk is withheld whole, so that no byte keeps its connection open
    rows = make(place, [KIB] * 12, 12)
    far = ("--answer-seconds", "1.5", "--job-seconds", "5", "--idle-cut", "1.5")
    server = place.serve("--limit", "4", *far)
    place.use(server)
    ending = place.run("run", "m.csv", "--limit", "4", "--json")
    assert ending.code == 0
    check_appended(server.journal, rows)
    assert {put.fault for put in cut(server.journal)} == {"idle_cut"}
    assert in_vain(server.journal) == []
    assert len(ending.events("account.needs_slot_first")) == 1
    assert ending.events("breaker.opened") == []
    assert "the connection was closed" in ending.summary["limit"]["needsSlotFirstReason"]

    later = server.from_now_on()
    more = make(place, [KIB] * 8, 8, seed=2, name="more.csv")
    assert place.run("run", "more.csv", "--limit", "4").code == 0
    check_appended(later.journal, more)
    assert cut(later.journal) == []


def test_a_gateway_that_cuts_within_the_second_costs_two_bodies(place: Place) -> None:
    """A cut after half a second of silence meets the one body that tries it, and none of those that wait beside it."""
    rows = make(place, [64 * KIB] * 60, 60)
    far = ("--uplink", str(256 * KIB), "--job-seconds", "1.2", "--idle-cut", "0.5")
    server = place.serve("--limit", "20", *far)
    place.use(server)
    ending = place.run("run", "m.csv", "--limit", "20", "--json")
    assert ending.code == 0
    check_appended(server.journal, rows)
    check_one_at_a_time(server.journal)
    assert len(in_vain(server.journal)) <= 2


def test_an_outage_takes_six_items_at_most_into_doubt(place: Place) -> None:
    """502 to everything, at once, until the service is back: six in doubt at most, and all others are appended."""
    rows = make(place, [20 * KIB] * 60, 60)
    port = free_port()
    outage = "[put]\nstatus_502 = 1.0\ntaken = 0.0\n[poll]\nstatus_500 = 1.0"
    server = place.serve("--limit", "30", faults=outage, port=port)
    place.use(server)
    running = place.start("run", "m.csv", "--limit", "30", "--doubt-seconds", "2", "--json")

    def probes() -> int:
        return sum(isinstance(entry, PollEntry) for entry in server.journal.entries)

    until(lambda: probes() >= 2, "the service was asked twice whether it is back")
    down = server
    down.running.stop(signal.SIGKILL)
    server = place.serve("--limit", "30", port=port)
    assert running.wait().code == 4
    doubtful = [put.conversation_id for put in down.journal.puts() if put.sha256]
    assert 5 <= len(doubtful) <= 6
    by_lane = {line["conversationId"]: line["status"] for line in read_results(place.path("m.results.csv"))}
    assert {lane for lane, status in by_lane.items() if status == "in_doubt"} == set(doubtful)
    check_appended(server.journal, [row for row in rows if row.conversation not in doubtful])


def test_without_sending_ahead_a_head_waits_for_slot_and_turn(place: Place) -> None:
    """`--send-ahead off`: no head comes while jobs and uploads fill the limit, or before the job before it ended."""
    rows = make(place, [24 * KIB] * 16, 5)
    server = place.serve("--limit", "4", "--uplink", str(UPLINK), "--job-seconds", "0.5")
    place.use(server)
    ending = place.run("run", "m.csv", "--limit", "4", "--send-ahead", "off", "--json")
    check_completed(place, server, rows, ending)
    live: dict[str, str] = {}
    for entry in server.journal.entries:
        if isinstance(entry, PutBegun):
            assert entry.conversation_id not in live
            live[entry.conversation_id] = "upload"
            assert len(live) <= 4
        elif isinstance(entry, JobEntry) and entry.event == "job-ended":
            del live[entry.conversation_id]
    assert cut(server.journal) == []


def test_jobs_that_call_are_not_polled(place: Place) -> None:
    """With a webhook and a limit of 2 no status request is spent on a job that has called."""
    rows = make(place, [20 * KIB] * 12, 6)
    server = place.serve("--limit", "2", "--job-seconds", "0.5")
    place.use(server)
    port = free_port()
    calls = ("--webhook", f"127.0.0.1:{port}", "--webhook-url", f"http://127.0.0.1:{port}/jobs")
    ending = place.run("run", "m.csv", "--limit", "2", *calls, "--json")
    check_completed(place, server, rows, ending)
    check_limit(server.journal, 2)
    # on a slow machine a job may be polled before its first callback has been answered
    called: set[str] = set()
    for entry in server.journal.entries:
        if isinstance(entry, CallEntry) and entry.status == 200:
            called.add(entry.job_id)
        elif isinstance(entry, PollEntry):
            assert entry.job_id not in called
    assert called == {put.job_id for put in server.journal.appended()}


def test_jobs_that_earlier_nights_left_are_asked_for_first_and_once(place: Place) -> None:
    """Jobs of a night with `--no-wait` are asked for once each; items begin as soon as slots are known to be free."""
    left, limit = 100, 10
    make(place, [8 * KIB] * left, left, name="left.csv")
    rows = make(place, [KIB] * 20, 20, seed=2)
    server = place.serve("--limit", str(left), "--job-seconds-per-mebibyte", "800")
    place.use(server)
    assert place.run("run", "left.csv", "--limit", str(left), "--no-wait").code == 0
    assert states(place) == {"accepted": left}
    until(lambda: len(server.journal.jobs()) == 2 * left, "all jobs have ended")
    later = server.from_now_on()
    ending = place.run("run", "m.csv", "--limit", str(limit), environment={"UPLOADER_JOBS__POLLS_PER_SECOND": "auto"})
    assert ending.code == 0
    journal = later.journal
    check_appended(journal, rows)
    first = next(place for place, entry in enumerate(journal.entries) if isinstance(entry, PutBegun))
    asked = Counter(entry.job_id for entry in journal.entries if isinstance(entry, PollEntry))
    own = {put.job_id for put in journal.appended()}
    assert {count for job, count in asked.items() if job not in own} == {1}
    before = {entry.job_id for entry in journal.entries[:first] if isinstance(entry, PollEntry)}
    assert left - limit < len(before) <= left
