"""One run per ledger at a time; who only looks may look at any time."""

import json

from tests.acceptance.batches import make_rows, read_results, write_manifest
from tests.acceptance.judging import check_appended
from tests.acceptance.place import Place, until


def test_a_second_run_ends_with_6_and_others_may_look(place: Place) -> None:
    """A second run on the ledger ends with 6 and sends nothing; status and results work beside the first."""
    rows = make_rows(place, 6, 2)
    write_manifest(place, "m.csv", rows)
    write_manifest(place, "other.csv", make_rows(place, 2, 2, seed=9, folder="other"))
    server = place.serve("--limit", "2", "--job-seconds", "0.5")  # long enough to be stopped in the middle
    place.use(server)
    first = place.start("run", "m.csv", "--limit", "2")
    until(lambda: bool(server.journal.appended()), "the first run is in its work")
    first.pause()

    second = place.run("run", "other.csv")
    status = place.run("status", "--json")
    results = place.run("results", "--results", "beside.jsonl")
    first.go_on()

    assert second.code == 6
    assert str(place.ledger) in second.err
    assert status.code == 6
    assert json.loads(status.out)["running"] is True
    assert results.code == 0
    beside = read_results(place.path("beside.jsonl"))
    assert [line["audioPath"] for line in beside] == [row.audio for row in rows]
    assert beside[-1]["status"] == "pending"
    assert not place.path("other.results.csv").exists()

    assert first.wait().code == 0
    check_appended(server.journal, rows)
    after = place.run("status", "--json")
    assert after.code == 0
    assert json.loads(after.out)["running"] is False
    [batch] = json.loads(after.out)["batches"]
    assert (batch["batch"], batch["counts"]["completed"]) == ("m.csv", len(rows))
