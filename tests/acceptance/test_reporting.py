"""A night is told to the outside: figures and notifications, whatever its end; and the address is nowhere shown."""

import json
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families

from tests.acceptance.batches import make_rows, read_results, write_manifest
from tests.acceptance.place import Place
from uploader.status.metrics import LAST_EXIT_CODE, LAST_SUCCESS

SECRET = "T0000-the-secret-of-the-hook"


class Hook(ThreadingHTTPServer):
    """A receiver of notifications."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.posted: list[dict[str, Any]] = []

    @property
    def address(self) -> str:
        """The address to notify."""
        return f"http://127.0.0.1:{self.server_address[1]}/{SECRET}"


class Handler(BaseHTTPRequestHandler):
    """Takes each notification."""

    def do_POST(self) -> None:
        """Take a notification."""
        assert isinstance(self.server, Hook)
        assert self.path == f"/{SECRET}"
        self.server.posted.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
        self.send_response(200)
        self.end_headers()

    def log_message(self, *_: object) -> None:
        """Say nothing."""


@contextmanager
def hook() -> Iterator[Hook]:
    """A receiver that listens."""
    with Hook() as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield server
        finally:
            server.shutdown()
            thread.join()


def metrics(place: Place) -> dict[tuple[str, ...], float]:
    """The values of the metrics file, by name and labels."""
    text = place.path("m.prom").read_text(encoding="utf-8")
    samples = [sample for family in text_string_to_metric_families(text) for sample in family.samples]
    return {(sample.name, *sample.labels.values()): sample.value for sample in samples}


def test_each_end_of_a_run_is_told(place: Place) -> None:
    """A good night, one with a failure, one without credentials: code and figures are those of results and journal.

    The latest success is kept from night to night; the address is in no output, log, summary, ledger or results.
    """
    rows = make_rows(place, 6, 3)
    write_manifest(place, "good.csv", rows[:3])
    write_manifest(place, "bad.csv", rows)
    with hook() as receiver:
        place.environment |= {"UPLOADER_NOTIFY": receiver.address, "UPLOADER_METRICS": str(place.path("m.prom"))}
        server = place.serve("--limit", "5")
        place.use(server)
        ended = [place.run("run", "good.csv", "--summary", "s.json")]
        good = metrics(place)
        assert good["uploader_items", "completed"] == 3
        assert good["uploader_attempts_total", "applied"] == len(server.journal.appended()) == 3
        assert good["uploader_sent_bytes_total",] == sum(place.path(row.audio).stat().st_size for row in rows[:3])
        assert good["uploader_job_seconds_count",] == 3
        assert good["uploader_run_active",] == 0
        failing = place.serve("--limit", "5", faults="[put]\nlost_answer = 1.0\n")
        place.use(failing)
        ended.append(place.run("run", "bad.csv", "--doubt-seconds", "0.1", "--notify", receiver.address))
        bad = metrics(place)
        states = [line["status"] for line in read_results(place.path("bad.results.csv"))]
        assert bad["uploader_items", "in_doubt"] == states.count("in_doubt") > 0
        assert (bad[LAST_EXIT_CODE,], bad[LAST_SUCCESS,]) == (ended[1].code, good[LAST_SUCCESS,])
        ended.append(
            place.run("run", "good.csv", "--notify", receiver.address, environment={"UPLOADER_APP_SECRET": "x"})
        )
        ended.append(place.run("run", "gone.csv", "--notify", receiver.address))
    assert [ending.code for ending in ended] == [0, ended[1].code, 3, 2]
    assert [told["exitCode"] for told in receiver.posted if told["event"] == "ended"] == [0, ended[1].code, 3, 2]
    first = receiver.posted[0]
    assert first["counts"]["completed"] == 3
    assert first["text"].endswith("good.csv: 3 completed\nDone: nothing is left to do (3 completed).")
    shown = "".join(ending.out + ending.err for ending in ended).encode()
    shown += b"".join(path.read_bytes() for path in place.folder.rglob("*") if path.is_file())
    assert SECRET.encode() not in shown


# a command whose work meets an error of the system that nothing on the way explains
UNEXPLAINED = """
import click
from uploader.cli.ending import end

@click.command()
@click.option("--json", "as_json", is_flag=True)
def command(as_json):
    end(lambda _: open("gone/file"), None, {})

command(prog_name=%r)
"""


@pytest.mark.parametrize("command", ["run", "plan"])
def test_an_error_of_the_system_that_names_a_path_is_told_with_it(place: Place, command: str) -> None:
    """It ends with 5 and one object on standard output, whose reason names the path; it is no unwritten stream."""
    ended = subprocess.run(
        [sys.executable, "-c", UNEXPLAINED % command, "--json"],
        cwd=place.folder,
        env=place.environment,
        capture_output=True,
        check=False,
        text=True,
    )
    assert ended.returncode == 5, ended.stderr
    told = json.loads(ended.stdout)
    assert told["exitCode"] == 5
    assert told["reason"] == "gone/file: No such file or directory"
    assert "gone/file" in ended.stderr
    assert "stream.unwritten" not in ended.stderr
