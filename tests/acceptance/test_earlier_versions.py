"""A ledger that an earlier version made is carried on: nothing of it is appended again."""

from collections import Counter

import pytest

from tests.acceptance.batches import read_results
from tests.acceptance.judging import appended
from tests.acceptance.nights import SHORT, appended_before, restore, write_nights
from tests.acceptance.place import Place
from uploader.ledger.migrations import OLDEST
from uploader.ledger.schema import VERSION

NIGHTS = ("monday", "tuesday", "wednesday")
RUN = ("--limit", "20", "--doubt-seconds", "1", "--job-timeout-seconds", "1", "--log-level", "error", "--json")


@pytest.mark.parametrize("version", range(OLDEST, VERSION))
def test_300_items_of_an_earlier_version_are_appended_once(place: Place, version: int) -> None:
    """Items that an earlier version appended, or may have, are not sent; pending ones are sent once, in order.

    Judged by what both servers were sent: that of the earlier version's nights, and this one.
    """
    server = place.serve("--limit", "20")
    place.use(server)
    nights = write_nights(place)
    restore(place.ledger, version, place.folder, server.base_url)
    endings = [place.run("run", f"{night}.csv", *RUN) for night in NIGHTS]
    before = appended_before(version)
    meant: dict[str, list[str]] = {}
    for row in nights.rows:
        meant.setdefault(row.conversation, []).append(row.sha256[:SHORT])
    assert sum(map(len, meant.values())) == 300
    assert sum(map(Counter.total, before.values())) > 100
    sent = {
        lane: [content_hash[:SHORT] for content_hash in hashes] for lane, hashes in appended(server.journal).items()
    }
    assert sum(map(len, sent.values())) > 40
    for lane, rows in meant.items():
        there = before.get(lane, Counter())
        assert not there + Counter(sent.get(lane, ())) - Counter(rows), lane
        assert rows[there.total() :][: len(sent.get(lane, ()))] == sent.get(lane, []), lane
    results = [
        line
        for night in ("monday", "tuesday", "wednesday")
        for line in read_results(place.path(f"{night}.results.csv"))
    ]
    known = {line["jobId"] for line in results if line["jobId"]}
    assert {put.job_id for put in server.journal.appended()} <= known
    assert len(results) == 300
    assert not [line for line in results if line["status"] == "pending"]
    assert {ending.code for ending in endings} <= {1, 4}
