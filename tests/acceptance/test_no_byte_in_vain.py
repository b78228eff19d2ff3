"""No byte in vain: a refusal that the service knows from the head costs no upload, where it can say so."""

from random import Random

from tests.acceptance.batches import Row, record, sound, statuses, write_manifest
from tests.acceptance.judging import check_one_at_a_time
from tests.acceptance.place import Place
from uploader.sandbox.entries import PutEntry

LARGE, SMALL = 1_200_000, 20_000
# bodies above this size ask leave
ABOVE = 1_048_576
FAULTS = """
seed = 5
unknown_conversations = ["gone-0", "gone-1", "gone-2"]
[put]
unauthorized = 0.15
"""


def rows(place: Place) -> list[Row]:
    """Large and small recordings, some of them for conversations that the service does not have."""
    draw = Random(1)
    sizes = {f"here-{n}": LARGE for n in range(12)} | {"gone-0": LARGE, "gone-1": SMALL, "gone-2": LARGE}
    made = []
    for conversation, size in sizes.items():
        name = f"{conversation}.wav"
        made.append(Row(conversation, name, record(place, name, sound(draw, size))))
    return made


def refused(puts: list[PutEntry]) -> list[PutEntry]:
    """The PUTs that were answered with a refusal."""
    return [put for put in puts if put.status in (401, 404, 429)]


def cut(puts: list[PutEntry]) -> list[PutEntry]:
    """The PUTs that were sent ahead and cut by us, once the service was seen to count uploads: two at most."""
    found = [put for put in puts if put.job_id is None and 0 < put.bytes < length(put)]
    assert len(found) <= 2
    return found


def length(put: PutEntry) -> int:
    """The Content-Length of the head."""
    return put.content_length or 0


def test_a_refusal_costs_no_byte_of_a_long_body(place: Place) -> None:
    """401, 404 and 429 to the head: not a byte of a body above the size came; below it, they cost what they did."""
    write_manifest(place, "m.csv", rows(place))
    server = place.serve("--limit", "2", "--counts-uploads", faults=FAULTS)
    place.use(server)
    assert place.run("run", "m.csv", "--limit", "6", "--connections", "fresh").code == 1
    journal = server.journal
    large = [put for put in refused(journal.puts()) if length(put) > ABOVE]
    assert {put.status for put in large} == {401, 404, 429}
    assert [put.bytes for put in large] == [0] * len(large)
    small = [put for put in refused(journal.puts()) if length(put) <= ABOVE]
    assert small
    sent_ahead = cut(journal.puts())
    whole = [length(put) for put in small if put not in sent_ahead]
    assert journal.bytes_in_vain() == sum(whole) + sum(put.bytes for put in sent_ahead)
    assert {("expect" in put.headers, length(put) > ABOVE) for put in journal.puts()} == {(True, True), (False, False)}
    assert sorted(statuses(place.path("m.results.csv"))) == ["completed"] * 12 + ["refused"] * 3
    check_one_at_a_time(journal)


def test_where_leave_is_given_short_bodies_wait_for_it_too(place: Place) -> None:
    """On connections that are used again every body asks: once the service's way is known no refusal costs a byte."""
    write_manifest(place, "m.csv", rows(place))
    server = place.serve("--limit", "2", "--counts-uploads", faults=FAULTS)
    place.use(server)
    assert place.run("run", "m.csv", "--limit", "6").code == 1
    journal = server.journal
    asking = [put for put in refused(journal.puts()) if "expect" in put.headers]
    assert {put.status for put in asking} == {401, 404, 429}
    assert [put.bytes for put in asking] == [0] * len(asking)
    assert all(length(put) <= ABOVE for put in journal.puts() if "expect" not in put.headers)
    assert sorted(statuses(place.path("m.results.csv"))) == ["completed"] * 12 + ["refused"] * 3
    check_one_at_a_time(journal)


def test_a_service_that_ignores_the_question_is_asked_no_more(place: Place) -> None:
    """Without a 100 the first uploads alone wait for it; all goes on as if nobody had asked, and costs as much."""
    write_manifest(place, "m.csv", rows(place))
    server = place.serve("--limit", "2", "--counts-uploads", faults="ignores_expect = true\n" + FAULTS)
    place.use(server)
    assert place.run("run", "m.csv", "--limit", "6", "--expect-seconds", "0.3").code == 1
    journal = server.journal
    sent_ahead = cut(journal.puts())
    whole = [length(put) for put in refused(journal.puts()) if put not in sent_ahead]
    assert journal.bytes_in_vain() == sum(whole) + sum(put.bytes for put in sent_ahead)
    asking = [put.number for put in journal.puts() if "expect" in put.headers]
    assert 1 <= len(asking) <= 6, "only the uploads that were under way when the first one had waited in vain"
    assert max(asking) <= 6
    assert len(journal.appended()) == 12
    assert sorted(statuses(place.path("m.results.csv"))) == ["completed"] * 12 + ["refused"] * 3
    check_one_at_a_time(journal)
