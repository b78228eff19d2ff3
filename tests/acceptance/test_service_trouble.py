"""Promise 5: it stops before it does harm, and what it left is carried on by the same command."""

import itertools
import signal
from collections import Counter

from tests.acceptance.batches import make_rows, statuses, write_manifest
from tests.acceptance.judging import check_appended, check_limit
from tests.acceptance.place import Ending, Place, Server, until
from tests.integration.servers import free_port
from uploader.sandbox.entries import PollEntry, PutEntry, TokenEntry

LANES_IN_TROUBLE = 5
SAME_REFUSALS = 20


def night(place: Place, lanes: int, limit: int, faults: str, *options: str) -> tuple[Ending, Server]:
    """Run a batch of one file a conversation at its full width against a sandbox with these faults."""
    write_manifest(place, "m.csv", make_rows(place, lanes, lanes))
    server = place.serve("--limit", str(limit), faults=faults)
    place.use(server)
    return place.run("run", "m.csv", "--limit", str(limit), *options, "--json"), server


def test_a_wrong_secret_ends_with_3_and_sends_nothing(place: Place, server: Server) -> None:
    """Credentials that the service does not take: exit 3, no PUT, the variables named and the secret not."""
    write_manifest(place, "m.csv", make_rows(place, 3, 3))
    ending = place.run("run", "m.csv", environment={"UPLOADER_APP_SECRET": "not-the-secret"})
    assert ending.code == 3
    assert "UPLOADER_APP_SECRET" in ending.out + ending.err
    assert "not-the-secret" not in ending.out + ending.err
    journal = server.journal
    assert journal.begun_puts() == []
    assert {entry.status for entry in journal.entries if isinstance(entry, TokenEntry)} == {401}
    assert statuses(place.path("m.results.csv")) == ["pending"] * 3


def test_a_ready_token_that_ended_appends_nothing(place: Place, server: Server) -> None:
    """A token that the service refuses: exit 3, nothing appended; with good credentials the same items go once."""
    rows = make_rows(place, 3, 3)
    write_manifest(place, "m.csv", rows)
    ending = place.run("run", "m.csv", environment={"UPLOADER_ACCESS_TOKEN": "stale-token"})
    assert ending.code == 3
    assert "stale-token" not in ending.out + ending.err
    assert server.journal.appended() == []
    assert statuses(place.path("m.results.csv")) == ["pending"] * 3
    assert place.run("run", "m.csv").code == 0
    check_appended(server.journal, rows)


def test_a_service_that_does_not_answer_loses_nothing(place: Place) -> None:
    """Nobody listens: exit 5 with everything pending; the same command completes once the service is there."""
    rows = make_rows(place, 12, 8)
    write_manifest(place, "m.csv", rows)
    port = free_port()
    known = {"UPLOADER_APP_ID": "sandbox", "UPLOADER_APP_SECRET": "sandbox"}
    place.environment |= {"UPLOADER_BASE_URL": f"http://127.0.0.1:{port}", **known}
    command = ("run", "m.csv", "--limit", "4", "--give-up-seconds", "1")
    ending = place.run(*command)
    assert ending.code == 5
    assert "next      uploader run m.csv --limit 4 --give-up-seconds 1" in ending.out
    assert statuses(place.path("m.results.csv")) == ["pending"] * len(rows)
    server = place.serve("--limit", "4", port=port)
    assert place.run(*command).code == 0
    check_appended(server.journal, rows)
    check_limit(server.journal, 4)


def test_twenty_refusals_in_a_row_end_the_run(place: Place) -> None:
    """A base URL whose every answer is 404: exit 5 after exactly 20 refusals, the rest pending for another night."""
    ending, server = night(place, 50, 10, 'known_conversations = ["none"]')
    assert ending.code == 5
    assert [put.status for put in server.journal.puts()] == [404] * SAME_REFUSALS
    assert Counter(statuses(place.path("m.results.csv"))) == {"refused": SAME_REFUSALS, "pending": 30}
    assert ending.summary["counts"]["refused"] == SAME_REFUSALS
    assert "404" in ending.summary["reason"]


def test_a_gateway_without_a_service_takes_few_items_into_doubt(place: Place) -> None:
    """After five lanes met by 5xx sending pauses: a GET, then one PUT, and so on until it gives up with 5."""
    ending, server = night(place, 40, 20, "[put]\nstatus_502 = 1.0", "--give-up-seconds", "1")
    assert ending.code == 5
    seen = [entry for entry in server.journal.entries if isinstance(entry, PutEntry | PollEntry)]
    # heads may arrive, but a body whose last chunk was withheld takes nothing into doubt
    whole = [entry for entry in seen if isinstance(entry, PutEntry) and entry.sha256]
    assert len(whole) >= LANES_IN_TROUBLE
    for before, put in itertools.pairwise(whole[LANES_IN_TROUBLE - 1 :]):
        between = seen[seen.index(before) : seen.index(put)]
        assert any(isinstance(entry, PollEntry) for entry in between), "a PUT went through without a GET before it"
    by_status = Counter(statuses(place.path("m.results.csv")))
    assert by_status == {"in_doubt": len(whole), "pending": 40 - len(whole)}


def test_429s_for_ever_while_nothing_of_ours_is_live_end_the_run(place: Place) -> None:
    """A 429 is no good answer where no job of ours explains it: exit 5 after give_up_seconds, with what it said."""
    ending, server = night(place, 4, 4, "[put]\nthrottled = 1.0", "--give-up-seconds", "1")
    assert ending.code == 5
    assert server.journal.appended() == []
    assert "429" in ending.summary["reason"]
    assert statuses(place.path("m.results.csv")) == ["pending"] * 4


def test_jobs_that_never_end_hold_their_slots_and_the_run_ends(place: Place) -> None:
    """Nothing can move any more: exit 4 with the lines that hold the slots, the rest pending, nobody else blamed."""
    ending, server = night(place, 5, 2, "[jobs]\nendless = 1.0", "--job-timeout-seconds", "1")
    assert ending.code == 4
    jobs = [put.job_id for put in server.journal.appended()]
    assert len(jobs) == 2
    assert all(str(job) in ending.summary["reason"] for job in jobs)
    assert "line" in ending.summary["reason"]
    assert ending.summary["limit"]["liveByOthers"] is None
    assert Counter(statuses(place.path("m.results.csv"))) == {"accepted": 2, "pending": 3}
    # the same command ends the same way at once, and appends nothing more
    assert place.run("run", "m.csv", "--limit", "2", "--job-timeout-seconds", "1").code == 4
    assert len(server.journal.appended()) == 2


def test_a_service_that_dies_while_its_jobs_are_waited_for_is_given_up(place: Place) -> None:
    """All slots are held by live jobs and no status request is answered: 5 after give_up_seconds, nothing is lost."""
    rows = make_rows(place, 4, 4)
    write_manifest(place, "m.csv", rows)
    server = place.serve("--limit", "2", "--job-seconds", "3600")
    place.use(server)
    # a body that is sent ahead would meet the failure, too
    running = place.start("run", "m.csv", "--limit", "2", "--give-up-seconds", "2", "--send-ahead", "off")
    until(lambda: running.err.read_text("utf-8").count('"event": "attempt.ended"') == 2, "the slots are held")
    server.running.stop(signal.SIGKILL)
    ending = running.wait()
    assert ending.code == 5
    [ended] = ending.events("run.ended")
    assert "no status request had a good answer for 2 s" in ended["reason"]
    assert statuses(place.path("m.results.csv")).count("accepted") == 2
    assert statuses(place.path("m.results.csv")).count("pending") == 2
    assert len(server.journal.appended()) == 2
