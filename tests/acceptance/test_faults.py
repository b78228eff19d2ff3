"""Promise 1 under faults: tried again is only what provably was not appended; the rest is said, never guessed."""

from collections import Counter
from random import Random

from tests.acceptance.batches import Row, make_rows, read_results, record, sound, write_manifest
from tests.acceptance.judging import (
    appended,
    check_appended,
    check_attempts,
    check_interrupted,
    check_job_ids,
    check_limit,
    check_one_at_a_time,
)
from tests.acceptance.place import Place

QUICK = ("run", "m.csv", "--limit", "10", "--doubt-seconds", "2")


def test_lost_answers_are_in_doubt_and_never_sent_again(place: Place) -> None:
    """A lost answer or a 5xx after the last chunk: in doubt, exit 4, and the rest of the lane held; no second PUT."""
    rows = make_rows(place, 60, 15)
    write_manifest(place, "m.csv", rows)
    gateway = "\n".join(f"status_{status} = 0.04" for status in (500, 502, 503))
    server = place.serve("--limit", "10", faults=f"seed = 3\n[put]\nlost_answer = 0.06\nlost_before = 0.04\n{gateway}")
    place.use(server)
    ending = place.run(*QUICK, "--json")
    assert ending.code == 4
    journal = server.journal
    results = read_results(place.path("m.results.csv"))
    check_interrupted(journal, rows, results)
    check_attempts(journal, results)
    check_limit(journal, 10)
    faulty = [put for put in journal.puts() if put.fault]
    assert {put.conversation_id for put in faulty} == {
        line["conversationId"] for line in results if line["status"] == "in_doubt"
    }
    assert len({put.job_id is None for put in faulty}) == 2, "some were appended, some were not"
    assert len(faulty) == ending.summary["counts"]["in_doubt"]
    assert place.run(*QUICK).code == 4
    assert len(server.journal.begun_puts()) == len(journal.begun_puts())


def test_faults_that_prove_something_cost_nothing(place: Place) -> None:
    """Slow answers, tokens that end, 429s out of turn, polls that fail: everything is appended once, exit 0."""
    rows = make_rows(place, 60, 15)
    write_manifest(place, "m.csv", rows)
    faults = (
        "seed = 4\n[put]\nslow_answer = 0.2\nslow_seconds = 0.5\nthrottled = 0.05\n"
        "[poll]\nstatus_500 = 0.2\nlost_answer = 0.1"
    )
    server = place.serve("--limit", "10", "--token-seconds", "1", faults=faults)
    place.use(server)
    assert place.run(*QUICK).code == 0
    journal = server.journal
    check_appended(journal, rows)
    check_one_at_a_time(journal)
    results = read_results(place.path("m.results.csv"))
    check_job_ids(journal, results)
    check_attempts(journal, results)
    assert journal.peak_live() <= 10
    met = Counter(put.fault for put in journal.puts())
    assert met["slow_answer"] > 0
    assert met["throttled"] > 0
    assert sum(entry.event == "token" and entry.status == 200 for entry in journal.entries) > 1


def test_an_upload_that_is_cut_in_its_middle_is_sent_again(place: Place) -> None:
    """A connection that breaks before the last chunk proves that nothing was appended: the next attempt completes."""
    draw = Random(6)
    # more than the sockets' buffers hold: the end of the connection is seen before the last chunk leaves
    big = [Row(f"big-{n}", f"{n}.wav", record(place, f"{n}.wav", sound(draw, 24 << 20))) for n in range(2)]
    write_manifest(place, "m.csv", big)
    server = place.serve("--limit", "10", "--job-seconds-per-mebibyte", "0", faults="seed = 0\n[put]\ncut = 0.5")
    place.use(server)
    assert place.run(*QUICK).code == 0
    journal = server.journal
    check_appended(journal, big)
    assert [put.fault for put in journal.puts()].count("cut") == 1
    results = read_results(place.path("m.results.csv"))
    assert sum(int(line["attempts"]) for line in results) == len(journal.puts())


def test_jobs_that_fail_and_conversations_that_do_not_exist_hold_their_lanes(place: Place) -> None:
    """A failed job, or a 404, holds the rest of its conversation and no other; exit 1."""
    rows = make_rows(place, 60, 15)
    write_manifest(place, "m.csv", rows)
    unknown = 'unknown_conversations = ["conversation-003", "conversation-008"]'
    server = place.serve("--limit", "10", faults=f"{unknown}\n[jobs]\nfailed = 0.1")
    place.use(server)
    assert place.run(*QUICK).code == 1
    journal = server.journal
    results = read_results(place.path("m.results.csv"))
    failed = {job.conversation_id for job in journal.jobs() if job.status == "failed"}
    assert 0 < len(failed) < 13
    check_one_at_a_time(journal)
    for conversation in {row.conversation for row in rows}:
        lane = [row.sha256 for row in rows if row.conversation == conversation]
        statuses = [line["status"] for line in results if line["conversationId"] == conversation]
        there = appended(journal).get(conversation, [])
        assert there == lane[: len(there)]
        if conversation in failed:
            assert statuses == ["completed"] * (len(there) - 1) + ["failed"] + ["held"] * (len(lane) - len(there))
        elif conversation in unknown:
            assert (there, statuses) == ([], ["refused"] + ["held"] * (len(lane) - 1))
        else:
            assert (there, statuses) == (lane, ["completed"] * len(lane))
    assert len([put for put in journal.puts() if put.status == 404]) == 2
    assert {line["httpStatus"] for line in results if line["status"] == "refused"} == {"404"}


def test_a_job_that_never_ends_is_told_and_holds_its_lane(place: Place) -> None:
    """After job_timeout_seconds a job is waited for no longer: exit 4, its lane held, its item accepted."""
    write_manifest(place, "m.csv", make_rows(place, 2, 1))
    server = place.serve("--limit", "10", faults="[jobs]\nendless = 1.0")
    place.use(server)
    assert place.run(*QUICK, "--job-timeout-seconds", "1").code == 4
    assert len(server.journal.begun_puts()) == 1
    first, second = read_results(place.path("m.results.csv"))
    assert (first["status"], second["status"]) == ("accepted", "held")
    assert "did not end within 1 s" in first["error"]
