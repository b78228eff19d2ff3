"""From a folder of recordings to a night: what `uploader manifest` writes is run as it is."""

from dataclasses import replace

from tests.acceptance.batches import make_rows
from tests.acceptance.judging import check_appended
from tests.acceptance.place import Place, Server


def test_a_folder_is_appended_in_the_order_of_its_names(place: Place, server: Server) -> None:
    """Piped into `run`, or as a file, which then finds everything appended; part 2 goes before part 10."""
    made = make_rows(place, 12, 1)
    rows = []
    for number, row in enumerate(made):
        name = f"calls/conversation-{number % 2}/part {number // 2 * 9}.wav"
        place.write(name, place.path(row.audio).read_bytes())
        rows.append(replace(row, conversation=f"conversation-{number % 2}", audio=name))
    piped = place.run("manifest", "calls")
    assert piped.code == 0, piped.err
    words = ("run", "-", "--format", "csv", "--batch", "calls", "--results", "r.csv", "--limit", "5")
    ran = place.run(*words, stdin=piped.out.encode())
    assert ran.code == 0, ran.err
    check_appended(server.journal, rows)
    assert place.run("manifest", "calls", "--output", "calls.jsonl").code == 0
    assert place.run("run", "calls.jsonl").code == 0
    check_appended(server.journal, rows)
