"""Nothing is forgotten: `status`, its exit code and `resolve` look at all batches, and tell the jobIds."""

import json
import shlex
import signal

import pytest

from tests.acceptance.batches import Row, make_rows, write_manifest
from tests.acceptance.place import Place

RUN = ("--limit", "8", "--doubt-seconds", "1", "--json")


def rows_of(place: Place, night: str, seed: int) -> list[Row]:
    """One row, of a conversation of its own."""
    return [Row(night, row.audio, row.sha256) for row in make_rows(place, 1, 1, seed=seed, folder=night)]


@pytest.fixture
def nights(place: Place) -> Place:
    """Monday left one item in doubt and one job that failed; all of Tuesday and Wednesday went well."""
    write_manifest(place, "monday.csv", rows_of(place, "monday", 1))
    server = place.serve("--limit", "8", faults="[put]\nlost_before = 1.0")
    place.use(server)
    assert place.run("run", "monday.csv", *RUN).code == 4
    server.running.stop(signal.SIGTERM)
    port = int(server.base_url.rpartition(":")[2])
    server = place.serve("--limit", "8", port=port, faults="[jobs]\nfailed = 1.0")
    write_manifest(place, "failed.csv", rows_of(place, "failed", 2))
    assert place.run("run", "failed.csv", *RUN).code == 1
    server.running.stop(signal.SIGTERM)
    place.use(place.serve("--limit", "8", port=port))
    for seed, name in enumerate(("tuesday", "wednesday"), start=3):
        write_manifest(place, f"{name}.csv", rows_of(place, name, seed))
        assert place.run("run", f"{name}.csv", *RUN).code == 0
    return place


def test_status_tells_what_is_not_over_first_and_exits_for_all_batches(nights: Place) -> None:
    """An old doubt is not hidden by new nights: it stands first, and the exit code is its."""
    found = nights.run("status", "--json")
    report = json.loads(found.out)
    assert (found.code, report["exitCode"], report["batch"]) == (4, 4, "wednesday.csv")
    assert [batch["batch"] for batch in report["batches"]][:2] == ["failed.csv", "monday.csv"]
    assert {trouble["batch"]: trouble["state"] for trouble in report["needsPerson"]} == {
        "monday.csv": "in_doubt",
        "failed.csv": "failed",
    }
    shorter = json.loads(nights.run("status", "--json", "--last", "1").out)
    assert [batch["batch"] for batch in shorter["batches"]] == ["failed.csv", "monday.csv", "wednesday.csv"]
    assert nights.run("status", "--batch", "wednesday.csv").code == 0


def test_a_job_id_stands_wherever_a_row_is_told(nights: Place) -> None:
    """A failed job is looked up at the service by its jobId: status, summary and resolve have it beside the row."""
    (failed,) = [item for item in json.loads(nights.run("resolve", "--json").out) if item["status"] == "failed"]
    job = failed["jobId"]
    assert f"(line 2, job {job})" in nights.run("status").out
    assert f"failed, job {job}" in nights.run("resolve").out
    assert f"(line 2, job {job})" in nights.run("run", "failed.csv", "--limit", "8").out


def test_resolve_settles_what_any_batch_left(nights: Place) -> None:
    """Items listed for all batches are resolved by the list's commands; a line that two batches have resolves none."""
    ending = nights.run("resolve")
    assert ending.code == 1
    assert "all batches: 2 items need a person" in ending.out
    refused = nights.run("resolve", "--line", "2", "--drop")
    assert refused.code == 2
    commands = [line for line in refused.err.splitlines() if line.strip().startswith("uploader resolve")]
    assert len(commands) == 2
    for command in commands:
        settled = nights.run(*shlex.split(command)[1:])
        assert "-> dropped" in settled.out, settled.err
    assert nights.run("resolve").code == 0
    assert nights.run("status").code == 0


def test_a_held_row_of_another_batch_does_not_stand_in_a_decisions_way(nights: Place) -> None:
    """`--line` means the item that needs a person, though a batch has a held one on a line of that number."""
    assert "-> dropped" in nights.run("resolve", "--batch", "monday.csv", "--line", "2", "--drop").out
    write_manifest(nights, "later.csv", [Row("failed", row.audio, row.sha256) for row in rows_of(nights, "later", 8)])
    assert nights.run("run", "later.csv", *RUN).summary["counts"]["held"] == 1
    assert nights.run("run", "failed.csv", *RUN).code == 1
    settled = nights.run("resolve", "--line", "2", "--retry")
    assert (settled.code, "-> pending" in settled.out) == (0, True), settled.err
    assert nights.run("run", "later.csv", *RUN).code == 0


def test_a_decision_by_state_is_about_all_batches(nights: Place) -> None:
    """`--state` means the items of every batch; `--batch` narrows it."""
    narrow = nights.run("resolve", "--batch", "tuesday.csv", "--state", "failed", "--drop")
    assert narrow.code == 2
    assert "-> dropped" in nights.run("resolve", "--state", "failed", "--state", "in_doubt", "--drop").out
    assert nights.run("status").code == 0


def test_a_base_url_hides_no_other_services_items(nights: Place) -> None:
    """`UPLOADER_BASE_URL` narrows the list to its service, and the list names what is left out with its command."""
    own = nights.environment["UPLOADER_BASE_URL"]
    quiet = nights.serve("--limit", "8")
    nights.use(quiet)
    write_manifest(nights, "other.csv", rows_of(nights, "other", 9))
    assert nights.run("run", "other.csv", *RUN).code == 0
    ending = nights.run("resolve")
    assert (ending.code, "0 items need a person" in ending.out) == (0, True)
    assert "only items of" in ending.out
    assert "UPLOADER_BASE_URL" in ending.out
    assert f"2 items of {own}: uploader resolve" in ending.out
    (command,) = [line.partition(": ")[2] for line in ending.out.splitlines() if "2 items of" in line]
    assert "2 items need a person" in nights.run(*shlex.split(command)[1:]).out
    machine = nights.run("resolve", "--json")
    assert (json.loads(machine.out), f"2 items of {own}" in machine.err) == ([], True)
