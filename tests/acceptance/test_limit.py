"""Promise 3: never above the account's limit, whatever the settings say."""

from tests.acceptance.batches import make_rows, read_results, write_manifest
from tests.acceptance.judging import check_appended, check_job_ids, check_one_at_a_time
from tests.acceptance.place import Place


def test_a_limit_that_a_429_states_is_taken_over(place: Place) -> None:
    """The account allows 3, the settings say 10: after the first 429s never more than 3, all completed, exit 0."""
    rows = make_rows(place, 30, 15)
    write_manifest(place, "m.csv", rows)
    server = place.serve("--limit", "3")
    place.use(server)
    # one cut upload would be too many for --max-attempts 1: a 429 is no failed attempt
    ending = place.run("run", "m.csv", "--limit", "10", "--max-attempts", "1", "--json")
    assert ending.code == 0
    journal = server.journal
    check_appended(journal, rows)
    check_one_at_a_time(journal)
    check_job_ids(journal, read_results(place.path("m.results.csv")))
    assert journal.peak_live() == 3
    throttled = [put for put in journal.puts() if put.status == 429]
    assert 0 < len(throttled) <= 10 - 3, "only the uploads that were under way may meet it"
    assert ending.summary["limit"]["inForce"] == 3
    assert ending.summary["throttled"] == len(throttled)

    # what was stated is believed by the next run, too
    later = server.from_now_on()
    write_manifest(place, "second.csv", make_rows(place, 8, 8, seed=2, folder="more"))
    assert place.run("run", "second.csv", "--limit", "10").code == 0
    assert {put.status for put in later.journal.puts()} == {201}
    assert later.journal.peak_live() == 3
