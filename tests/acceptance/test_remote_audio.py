"""Remote recordings among local ones: the same promises, and no secret of an address where others read."""

import hashlib
import sys
import threading
from collections.abc import Iterator
from random import Random

import pytest

from tests.acceptance.batches import Row, read_results, record, sound, statuses, write_manifest
from tests.acceptance.judging import check_appended, check_one_at_a_time
from tests.acceptance.place import DEADLINE_SECONDS, Place, until
from tests.acceptance.test_imports import imported
from tests.acceptance.test_memory import MEASURE
from tests.remote_servers import ObjectStore, WebServer
from tests.unit.recordings import recording
from uploader.audio.fetching import AT_ONCE

SECRET = "0123456789-very-secret"
SIGNED = f"?X-Amz-Signature={SECRET}"
LARGE_BYTES = 64 << 20
# an interpreter with all that a run imports has about 75 MiB, a store's client 20 more
MOST_BYTES = 128 << 20


@pytest.fixture
def web() -> Iterator[WebServer]:
    """A web server on loopback."""
    with WebServer() as server:
        yield server


def remote(conversation: str, address: str, content: bytes) -> Row:
    """Make the row of a remote recording."""
    return Row(conversation, address, hashlib.sha256(content).hexdigest())


def shown_anywhere(place: Place) -> str:
    """Return all that commands have printed and logged."""
    return "".join(path.read_text(errors="replace") for path in place.path(".streams").iterdir())


@pytest.mark.real_start
def test_local_and_remote_recordings_are_appended_alike(place: Place, web: WebServer, store: ObjectStore) -> None:
    """Once, in order, from wherever they are; a second night appends nothing, nor does another address of the same."""
    server = place.serve()
    place.use(server)
    place.environment.update(store.environment)
    draw, rows = Random(1), []
    for number in range(4):
        content, lane = sound(draw), f"c{number % 2}"
        rows += [
            Row(lane, f"{number}.wav", record(place, f"{number}.wav", content)),
            remote(lane, web.serve(f"{number}.wav", b"w" + content) + SIGNED, b"w" + content),
            remote(lane, store.put(f"night/{number}.wav", b"s" + content), b"s" + content),
        ]
    write_manifest(place, "m.csv", rows)
    assert place.run("run", "m.csv", "--limit", "3", "--log-level", "debug").code == 0
    check_appended(server.journal, rows)
    check_one_at_a_time(server.journal)
    # the row's own column is the user's, and what joins its results to it
    assert [line["audioPath"] for line in read_results(place.path("m.results.csv"))] == [row.audio for row in rows]
    # tomorrow an address is signed anew, and a file has been copied elsewhere
    again = [Row(row.conversation, row.audio.replace(SECRET, "another-signature"), row.sha256) for row in rows]
    copied = web.serve("copy.wav", web.files["0.wav"].content)
    again[1] = Row(again[1].conversation, copied, again[1].sha256)
    write_manifest(place, "again.csv", again)
    assert place.run("run", "again.csv").code == 0
    check_appended(server.journal, rows)
    assert len([headers for headers in web.asked("1.wav") if "Range" not in headers]) == 1
    # another recording at an address that is known is another item
    other = recording(0.5)
    store.put("night/0.wav", other)
    write_manifest(place, "third.csv", [remote("c0", "s3://recordings/night/0.wav", other)])
    assert place.run("run", "third.csv").code == 0
    assert [put.sha256 for put in server.journal.appended()][len(rows) :] == [hashlib.sha256(other).hexdigest()]
    assert SECRET not in shown_anywhere(place)
    assert store.environment["AWS_SECRET_ACCESS_KEY"] not in shown_anywhere(place)
    place.check_logs()


def test_a_source_that_is_cut_or_away_is_tried_again(place: Place, web: WebServer) -> None:
    """Nothing was appended, so the item is pending again; the service's own circuit breaker has no part in it."""
    server = place.serve()
    place.use(server)
    contents = [recording(1.0 + number) for number in range(8)]
    rows = [
        remote(f"c{number}", web.serve(f"{number}.wav", content, then_first=[503, 500]) + SIGNED, content)
        for number, content in enumerate(contents)
    ]
    write_manifest(place, "m.csv", rows)
    ending = place.run("run", "m.csv", "--limit", "4")
    assert ending.code == 0
    check_appended(server.journal, rows)
    assert len([event for event in ending.events("attempt.ended") if event["outcome"] == "cut off"]) == 16
    assert not ending.events("breaker.opened")
    assert SECRET not in shown_anywhere(place)


def test_a_stop_does_not_wait_for_a_server_of_recordings(place: Place, web: WebServer) -> None:
    """It answers no more: the stop's own end comes first, and the item is pending as if nothing had begun."""
    server = place.serve()
    place.use(server)
    content, held = recording(1.0), threading.Event()
    rows = [remote("c", web.serve("a.wav", content, held=held), content)]
    write_manifest(place, "m.csv", rows)
    running = place.start("run", "m.csv", "--grace-seconds", "0.1")
    until(lambda: len(web.asked("a.wav")) == 2, "the recording is asked for")
    ending = running.stop()
    held.set()
    assert ending.code == 143
    assert [event["reason"] for event in ending.events("attempt.ended")] == [
        "not connected: stopped before it was sent"
    ]
    assert not server.journal.puts()
    assert place.run("run", "m.csv").code == 0
    check_appended(server.journal, rows)


def test_a_recording_that_changed_after_its_load_is_refused(place: Place, web: WebServer) -> None:
    """What was checked is what is sent, or nothing is; the results say so without the address's query."""
    server = place.serve()
    place.use(server)
    first, second = recording(1.0), recording(1.0).replace(b"\0\0", b"\1\1")
    rows = [remote("c", web.serve("a.wav", first, then=second) + SIGNED, second)]
    write_manifest(place, "m.csv", rows)
    assert place.run("run", "m.csv").code == 1
    (line,) = read_results(place.path("m.results.csv"))
    assert (line["status"], line["audioPath"]) == ("refused", rows[0].audio)
    assert line["error"].startswith("the file changed since its manifest was checked")
    assert not server.journal.puts()
    shown = place.run("resolve").out
    assert web.address("a.wav") + "?…" in shown
    # it is checked anew, as a local file would be
    assert place.run("run", "m.csv").code == 0
    check_appended(server.journal, rows)
    assert SECRET not in shown_anywhere(place)


def test_remote_rows_that_cannot_be_sent_are_told_at_once(place: Place, web: WebServer) -> None:
    """Line, column, address without its query, and remedy, before anything is sent; skipped, they are refused."""
    server = place.serve()
    place.use(server)
    good = recording(1.0)
    rows = [
        remote("c", web.address("gone.wav") + SIGNED, b""),
        remote("d", web.serve("secret.wav", good, status=403) + SIGNED, good),
        remote("e", web.serve("empty.wav", b"") + SIGNED, b""),
        remote("f", web.serve("good.wav", good) + SIGNED, good),
        remote("g", "ftp://host/a.wav", b""),
        remote("h", "http://recordings.example/a.wav", b""),
    ]
    write_manifest(place, "m.csv", rows)
    plan = place.run("plan", "m.csv")
    assert plan.code == 2
    for said in (
        "the file cannot be found (HTTP 404 Not Found): correct the path or bring it back",
        "the file cannot be read (HTTP 403 Forbidden): give these credentials leave to read it",
        "the file is empty: record or copy it anew, or leave the row out",
        "this is an address (ftp://) and no file of this machine",
        "http would show the recording to the network: write https://",
        f"{web.address('gone.wav')}?…",
    ):
        assert said in " ".join(plan.out.split()), said
    assert place.run("run", "m.csv").code == 2
    assert not server.journal.puts()
    assert place.run("run", "m.csv", "--on-invalid", "skip").code == 1
    assert statuses(place.path("m.results.csv")) == ["refused"] * 3 + ["completed"] + ["refused"] * 2
    errors = [line["error"] for line in read_results(place.path("m.results.csv"))]
    assert SECRET not in "".join([*errors, shown_anywhere(place)])
    confined = place.run("plan", "m.csv", "--audio-root", place.folder)
    assert "remote audio lies outside the audio root" in " ".join(confined.out.split())


def test_a_manifest_of_remote_rows_is_examined_many_at_once(place: Place, web: WebServer) -> None:
    """It does not take a round trip for each row in turn: the server has as many requests at once as are allowed."""
    content = recording(1.0)
    rows = [remote("c", web.serve(f"{number}.wav", content), content) for number in range(3 * AT_ONCE)]
    write_manifest(place, "m.csv", rows)
    # breaks, and the server answers none, unless so many are there at once
    web.together = threading.Barrier(AT_ONCE, timeout=DEADLINE_SECONDS)
    plan = place.run("plan", "m.csv")
    assert plan.code == 0, plan.out
    assert len(web.requests) == len(rows)


@pytest.mark.real_start
def test_large_remote_recordings_need_no_memory_of_their_size(place: Place, web: WebServer, store: ObjectStore) -> None:
    """Two of 64 MiB, of a web server and of a store, are sent at once in the memory of a run of small files."""
    server = place.serve("--job-seconds-per-mebibyte", "0")
    place.use(server)
    place.environment.update(store.environment)
    content = bytes(LARGE_BYTES)
    rows = [
        remote("c", web.serve("large.wav", content), content),
        remote("d", store.put("large.wav", content), content),
    ]
    write_manifest(place, "m.csv", rows)
    running = place.start("run", "m.csv", before=(sys.executable, "-S", "-c", MEASURE))
    assert running.wait(3 * DEADLINE_SECONDS).code == 0
    check_appended(server.journal, rows)
    peak = int(place.path("peak").read_text(encoding="utf-8"))
    assert peak < MOST_BYTES, f"{peak / 2**20:.1f} MiB"


@pytest.mark.real_start
def test_a_library_of_remote_audio_is_imported_for_its_rows_alone(
    place: Place, web: WebServer, store: ObjectStore
) -> None:
    """A plan of files imports neither; a web address brings aiohttp, an object of a store obstore."""
    place.environment.update(store.environment)
    content = recording(1.0)
    addresses = {"web.csv": web.serve("a.wav", content), "store.csv": store.put("a.wav", content), "file.csv": "a.wav"}
    place.write("a.wav", content)
    found = {}
    for name, address in addresses.items():
        write_manifest(place, name, [remote("c", address, content)])
        found[name] = imported(place, f"plan {name}").heavy & {"aiohttp", "obstore"}
    assert found == {"web.csv": {"aiohttp"}, "store.csv": {"obstore"}, "file.csv": set()}
