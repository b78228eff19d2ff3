"""An item is known by its content: no edited, renamed, overlapping or repeated manifest appends it again."""

from dataclasses import replace
from random import Random

from tests.acceptance.batches import Row, make_rows, read_results, record, sound, write_manifest
from tests.acceptance.judging import appended, check_appended, check_job_ids, wanted
from tests.acceptance.place import Place, Server


def _shuffled_between_conversations(rows: list[Row], draw: Random) -> list[Row]:
    """The same rows with their conversations mixed anew; the order within each is kept."""
    lanes = {
        row.conversation: iter([other for other in rows if other.conversation == row.conversation]) for row in rows
    }
    turns = [row.conversation for row in rows]
    draw.shuffle(turns)
    return [next(lanes[conversation]) for conversation in turns]


def test_an_edited_manifest_appends_exactly_its_new_rows(place: Place, server: Server) -> None:
    """Another name, rows shuffled, a fifth of them new, half of the sent files archived: only the new ones go."""
    draw = Random(5)
    old = make_rows(place, 80, 16)
    write_manifest(place, "monday.csv", old)
    assert place.run("run", "monday.csv", "--limit", "10").code == 0
    before = {
        (line["conversationId"], line["audioPath"]): line for line in read_results(place.path("monday.results.csv"))
    }

    for row in old[::2]:
        place.path("archive").mkdir(exist_ok=True)
        place.path(row.audio).rename(place.path("archive") / row.audio.replace("/", "-"))
    new = make_rows(place, 20, 16, seed=6, folder="more")
    rows = _shuffled_between_conversations(old, draw)
    for row in new:
        rows.insert(draw.randint(0, len(rows)), row)
    write_manifest(place, "tuesday.csv", rows)
    ending = place.run("run", "tuesday.csv", "--limit", "10", "--json")

    assert ending.code == 0
    journal = server.journal
    assert len(journal.begun_puts()) == len(old) + len(new)
    added = {name: hashes[len(wanted(old)[name]) :] for name, hashes in appended(journal).items()}
    assert {name: hashes for name, hashes in added.items() if hashes} == wanted(row for row in rows if row in new)
    results = read_results(place.path("tuesday.results.csv"))
    assert [line["audioPath"] for line in results] == [row.audio for row in rows]
    assert {line["status"] for line in results} == {"completed"}
    for line in results:
        known = before.get((line["conversationId"], line["audioPath"]))
        assert line["batch"] == ("monday.csv" if known else "tuesday.csv")
        assert known is None or line["jobId"] == known["jobId"]


def test_a_row_is_known_by_the_content_of_its_file(place: Place, server: Server) -> None:
    """A file that was renamed, touched or copied is the item it was; equal size alone, or once more, is a new item."""
    draw = Random(7)
    jingle = sound(draw)
    first = make_rows(place, 3, 3)
    twice = [Row("jingles", "jingle.wav", record(place, "jingle.wav", jingle))] * 2
    sized = Row("sizes", "a.wav", record(place, "a.wav", sound(draw, 5000)))
    write_manifest(place, "first.csv", [*first, *twice, sized])
    assert place.run("run", "first.csv", "--limit", "10").code == 0
    check_appended(server.journal, [*first, *twice, sized])

    place.path(first[0].audio).rename(place.path("renamed.wav"))
    place.path(first[1].audio).touch()
    place.write("copied.wav", place.path(first[2].audio).read_bytes())
    known = [replace(first[0], audio="renamed.wav"), first[1], replace(first[2], audio="copied.wav")]
    thrice = Row("jingles", "jingle-again.wav", record(place, "jingle-again.wav", jingle))
    other = Row("sizes", "b.wav", record(place, "b.wav", sound(draw, 5000)))
    write_manifest(place, "second.csv", [*known, *twice, thrice, sized, other])
    assert place.run("run", "second.csv", "--limit", "10").code == 0
    check_appended(server.journal, [*first, *twice, thrice, sized, other])
    check_job_ids(server.journal, read_results(place.path("second.results.csv")))


def test_another_recording_under_an_old_path_is_another_item(place: Place, server: Server) -> None:
    """A recorder that writes tonight's recording over last night's makes a new item, whatever its size."""
    draw = Random(9)
    first = [Row(name, f"{name}.wav", record(place, f"{name}.wav", sound(draw, 4000))) for name in ("one", "two")]
    write_manifest(place, "m.csv", first)
    assert place.run("run", "m.csv").code == 0
    same_size = replace(first[0], sha256=record(place, "one.wav", sound(draw, 4000)))
    other_size = replace(first[1], sha256=record(place, "two.wav", sound(draw, 4001)))
    assert place.run("run", "m.csv").code == 0
    check_appended(server.journal, [*first, same_size, other_size])


def test_only_repeat_appends_once_more(place: Place, server: Server) -> None:
    """The same command again sends nothing and tells the same; --repeat appends everything exactly once more."""
    rows = make_rows(place, 6, 3)
    write_manifest(place, "m.csv", rows)
    assert place.run("run", "m.csv", "--limit", "4").code == 0
    once = read_results(place.path("m.results.csv"))
    assert place.run("run", "m.csv", "--limit", "4").code == 0
    assert read_results(place.path("m.results.csv")) == once
    check_appended(server.journal, rows)
    assert place.run("run", "m.csv", "--limit", "4", "--repeat").code == 0
    check_appended(server.journal, [*rows, *rows])
    check_job_ids(server.journal, [*once, *read_results(place.path("m.results.csv"))])
    assert place.run("run", "m.csv", "--limit", "4").code == 0
    check_appended(server.journal, [*rows, *rows])
