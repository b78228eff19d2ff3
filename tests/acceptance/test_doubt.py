"""Doubt: what is known is told, nothing is sent twice, and a person settles it in either direction."""

import json
import re
import signal
import time

from tests.acceptance.batches import Row, make_rows, read_results, statuses, write_manifest
from tests.acceptance.judging import appended, check_appended, check_attempts, check_interrupted, check_limit, wanted
from tests.acceptance.place import Place, Server, until

RUN = ("run", "m.csv", "--limit", "8", "--doubt-seconds", "2", "--json")


def doubtful_night(place: Place, faults: str, files: int, conversations: int) -> tuple[Server, list[Row]]:
    """Run a batch to its end against a sandbox whose faults leave some of it in doubt."""
    rows = make_rows(place, files, conversations)
    write_manifest(place, "m.csv", rows)
    server = place.serve("--limit", "8", faults=faults)
    place.use(server)
    assert place.run(*RUN).code == 4
    return server, rows


def test_as_many_wait_for_their_answer_as_is_allowed(place: Place) -> None:
    """[doubt] unanswered: where answers take long, more than five are out; a kill takes just these into doubt."""
    rows = make_rows(place, 14, 14)
    write_manifest(place, "m.csv", rows)
    server = place.serve("--limit", "20", faults="seed = 1\n[put]\nslow_answer = 1.0\nslow_seconds = 3600.0")
    place.use(server)
    more = {"UPLOADER_DOUBT__UNANSWERED": "12"}
    running = place.start("run", "m.csv", "--limit", "20", "--uploads", "20", environment=more)
    until(lambda: len(server.journal.appended()) == 12, "twelve wait for their answer")
    running.stop(signal.SIGKILL)
    assert place.run("resolve").out.count("  in doubt\n") == len(server.journal.appended()) == 12


def test_what_was_appended_is_settled_by_its_job_and_followed_to_its_end(place: Place) -> None:
    """In doubt, but appended: `resolve --appended JOBID` has it followed, the lane goes on, and all ends with 0."""
    server, rows = doubtful_night(place, "[put]\nlost_answer = 1.0", 6, 2)
    for _ in range(len(rows)):
        known = {line["jobId"] for line in read_results(place.path("m.results.csv"))}
        for put in server.journal.appended():
            if put.job_id in known:
                continue
            settled = place.run("resolve", "--conversation", put.conversation_id, "--appended", str(put.job_id))
            assert "accepted" in settled.out, settled.err
        place.run(*RUN)
    assert place.run(*RUN).code == 0
    check_appended(server.journal, rows)
    assert set(statuses(place.path("m.results.csv"))) == {"completed"}


def test_doubts_without_a_job_id_show_that_the_ledger_was_lost(place: Place) -> None:
    """No lost answer named a job: a new ledger beside such results sends nothing, and adopts the doubts."""
    server, rows = doubtful_night(place, "[put]\nlost_answer = 1.0", 6, 2)
    doubted = len(server.journal.appended())
    assert doubted == 2
    for path in place.ledger.parent.iterdir():
        path.unlink()
    refused = place.run(*RUN)
    assert refused.code == 2
    assert "does not know what it did with these conversations" in refused.summary["reason"]
    assert len(server.journal.appended()) == doubted
    assert f"{doubted} adopted" in place.run("ledger", "adopt", "m.results.csv").out
    assert place.run(*RUN).code == 4
    assert len(server.journal.appended()) == doubted
    assert sorted(statuses(place.path("m.results.csv"))) == ["held"] * (len(rows) - 2) + ["in_doubt"] * 2


def test_what_was_not_appended_is_sent_once_a_person_says_so(place: Place) -> None:
    """In doubt, and not appended: `resolve --not-appended` makes it pending; it goes before the rest of its lane."""
    server, rows = doubtful_night(place, "[put]\nlost_before = 1.0", 6, 2)
    assert appended(server.journal) == {}
    assert sorted(statuses(place.path("m.results.csv"))) == ["held"] * 4 + ["in_doubt"] * 2
    server.running.stop(signal.SIGTERM)
    well = place.serve("--limit", "8", port=int(server.base_url.rpartition(":")[2]))
    assert place.run("resolve", "--state", "in_doubt", "--not-appended", "--note", "looked").code == 0
    assert place.run(*RUN).code == 0
    check_appended(well.journal, rows)


def test_lines_are_taken_as_the_summary_names_them(place: Place) -> None:
    """Several at once, with commas; what is no line is refused, and nothing is settled by it."""
    rows = make_rows(place, 3, 3)
    write_manifest(place, "m.csv", rows)
    place.use(place.serve("--limit", "8", faults="[put]\nlost_before = 1.0"))
    ending = place.run("run", "m.csv", "--limit", "8", "--doubt-seconds", "1")
    found = re.search(r"3 in doubt \(lines ([^)]*)\)", ending.out)
    assert found is not None, ending.out
    for wrong in ("2,x", "2,,3", "2,", "0", "-1", "2;3", "²"):
        refused = place.run("resolve", "--line", wrong, "--drop")
        assert (refused.code, "write whole numbers from 1 on, such as 17,56" in refused.err) == (2, True)
    first, rest = found[1].split(", ", 1)
    assert place.run("resolve", "--line", first, "--drop").code == 1
    assert place.run("resolve", "--line", rest, "--drop").code == 0
    assert place.run("run", "m.csv", "--json").summary["counts"]["dropped"] == 3


def test_resolve_lists_what_needs_a_person_with_all_that_is_known(place: Place) -> None:
    """Each with line, conversation, state, what came back, when, and how many bytes had left; then exit 1."""
    doubtful_night(place, "[put]\nstatus_502 = 1.0\ntaken = 0.0", 2, 1)
    listed = place.run("resolve", "--json")
    assert listed.code == 1
    [item] = json.loads(listed.out)
    assert (item["status"], item["httpStatus"], item["bytesSent"]) == ("in_doubt", 502, item["bytes"])
    assert "502" in item["error"]
    assert item["history"] == []


def test_resolve_tells_what_was_decided_before(place: Place) -> None:
    """An item that needs a person again is shown with who decided what of it when, and why."""
    doubtful_night(place, "[put]\nstatus_502 = 1.0\ntaken = 0.0", 1, 1)
    assert place.run("resolve", "--line", "2", "--not-appended", "--note", "asked the team").code == 0
    assert place.run(*RUN).code == 4
    [item] = json.loads(place.run("resolve", "--json").out)
    [before] = item["history"]
    assert (before["decision"], before["from"], before["note"]) == ("not-appended", "in_doubt", "asked the team")
    assert before["by"]
    output = place.run("resolve").out
    assert f"{before['at']} {before['by']} decided not-appended: asked the team" in output
    assert item["endedAt"].endswith("Z")
    dropped = place.run("resolve", "--line", str(item["line"]), "--drop")
    assert (dropped.code, place.run("resolve").code) == (0, 0)


def test_look_settles_only_what_is_proved(place: Place) -> None:
    """With evidence noted before, a conversation that grew proves the append; one that did not proves nothing."""
    rows = make_rows(place, 8, 8)
    write_manifest(place, "m.csv", rows)
    server = place.serve("--limit", "8", faults="seed = 3\n[put]\nlost_answer = 0.5\nlost_before = 0.5")
    place.use(server)
    place.environment |= {"UPLOADER_DOUBT__LOOK_BEFORE": "true", "UPLOADER_DOUBT__SETTLE": "look"}
    assert place.run(*RUN).code == 4
    taken = set(appended(server.journal))
    until(lambda: sum(job.event == "job-ended" for job in server.journal.jobs()) == len(taken), "the jobs have ended")
    place.run("resolve", "--look")
    place.run(*RUN)
    statuses = {line["conversationId"]: line["status"] for line in read_results(place.path("m.results.csv"))}
    settled = {conversation for conversation, status in statuses.items() if status == "completed"}
    assert 0 < len(settled) < len(rows)
    assert settled == taken & set(statuses)
    assert all(status == "in_doubt" for conversation, status in statuses.items() if conversation not in settled)


def test_open_rows_come_back_as_a_manifest(place: Place) -> None:
    """`results --open --as-manifest` writes what is refused, failed or held, ready to run."""
    rows = make_rows(place, 4, 2)
    write_manifest(place, "m.csv", rows)
    place.use(place.serve(faults=f'unknown_conversations = ["{rows[0].conversation}"]'))
    assert place.run(*RUN).code == 1
    place.run("results", "--open", "--as-manifest", "open.csv")
    refused = [row for row in rows if row.conversation == rows[0].conversation]
    found = read_results(place.path("open.csv"))
    assert [line["conversationId"] for line in found] == [row.conversation for row in refused]
    assert place.run("plan", "open.csv").code == 0


def test_a_pause_longer_than_every_time_limit_appends_nothing_twice(place: Place) -> None:
    """SIGSTOP for longer than stall, answer and doubt last, then SIGCONT: the journal has nothing twice."""
    rows = make_rows(place, 60, 12)
    write_manifest(place, "m.csv", rows)
    server = place.serve("--limit", "8", faults="[put]\nslow_answer = 0.5\nslow_seconds = 0.3")
    place.use(server)
    limits = ("--stall-seconds", "1", "--answer-seconds", "1", "--connect-seconds", "1")
    running = place.start(*RUN, *limits)
    for work in (10, 60):
        until(lambda enough=work: server.lines() >= enough, "the run has gone on a little")  # type: ignore[misc]
        running.pause()
        over = time.monotonic() + 2.5
        until(lambda end=over: time.monotonic() > end, "every time limit has passed")  # type: ignore[misc]
        running.go_on()
    assert running.wait().code in (0, 4)
    check_interrupted(server.journal, rows, read_results(place.path("m.results.csv")))
    check_attempts(server.journal, read_results(place.path("m.results.csv")))


def test_a_service_that_restarts_in_the_middle_gets_nothing_twice(place: Place) -> None:
    """The sandbox dies with its jobs and comes back: over both lives, nothing stands twice in the journals."""
    rows = make_rows(place, 60, 12)
    write_manifest(place, "m.csv", rows)
    first = place.serve("--limit", "8")
    place.use(first)
    running = place.start(*RUN, "--job-timeout-seconds", "3")
    until(lambda: first.lines() >= 60, "the run has gone on a little")
    first.running.process.kill()
    first.running.process.wait()
    again = place.serve("--limit", "8", faults="seed = 9", port=int(first.base_url.rpartition(":")[2]))
    assert running.wait().code in (0, 4)
    both = {conversation: list(hashes) for conversation, hashes in appended(first.journal).items()}
    for conversation, hashes in appended(again.journal).items():
        both.setdefault(conversation, []).extend(hashes)
    meant = wanted(rows)
    for conversation, hashes in both.items():
        assert hashes == list(meant[conversation])[: len(hashes)]
    check_limit(again.journal, 8)


def test_a_mistyped_job_is_no_dead_end(place: Place) -> None:
    """The service does not know the jobId that a person typed: it is listed, corrected, and followed to its end."""
    server, rows = doubtful_night(place, "[put]\nlost_answer = 1.0", 1, 1)
    (put,) = server.journal.appended()
    # without credentials nobody can ask the service for the job
    blind = {"UPLOADER_APP_ID": "", "UPLOADER_APP_SECRET": ""}
    assert "-> accepted" in place.run("resolve", "--line", "2", "--appended", "mistyped", environment=blind).out
    running = place.start(*RUN)
    until(lambda: "HTTP 404" in place.run("status").out, "the service does not know the job, which status tells")
    listed = place.run("resolve")
    output = ("1 item needs a person" in listed.out, "job mistyped" in listed.out, "--appended [JOBID]" in listed.out)
    assert (listed.code, output) == (1, (True, True, True)), listed.out
    refused = place.run("resolve", "--line", "2", "--appended", "mistyped-again")
    assert (refused.code, "the service knows no such job" in refused.err) == (2, True)
    corrected = place.run("resolve", "--line", "2", "--appended", str(put.job_id))
    assert (corrected.code, "-> accepted" in corrected.out) == (0, True), corrected.err
    running.stop()
    assert place.run(*RUN).code == 0
    check_appended(server.journal, rows)
    (line,) = read_results(place.path("m.results.csv"))
    assert (line["status"], line["jobId"]) == ("completed", put.job_id)


def test_a_decision_that_does_not_fit_names_those_that_do(place: Place) -> None:
    """--not-appended of a failed item: the message has --retry and --drop."""
    write_manifest(place, "m.csv", make_rows(place, 1, 1))
    place.use(place.serve("--limit", "8", faults="[jobs]\nfailed = 1.0"))
    assert place.run(*RUN).code == 1
    refused = place.run("resolve", "--line", "2", "--not-appended")
    assert refused.code == 2
    assert "--not-appended is for items that are in_doubt; this one takes --retry or --drop" in refused.err


def test_what_stands_in_another_batchs_way_is_listed_by_its_own_batch(place: Place) -> None:
    """The summary's next command names the batch whose item it is, where its own items need nobody."""
    rows = make_rows(place, 2, 1)
    write_manifest(place, "monday.csv", rows[:1])
    write_manifest(place, "tuesday.csv", rows[1:])
    place.use(place.serve("--limit", "8", faults="[put]\nlost_answer = 1.0"))
    words = ("--limit", "8", "--doubt-seconds", "1")
    assert place.run("run", "monday.csv", *words).code == 4
    ending = place.run("run", "tuesday.csv", *words)
    assert re.findall(r"^  next +uploader resolve --batch (\S+)", ending.out, re.MULTILINE) == ["monday.csv"]
