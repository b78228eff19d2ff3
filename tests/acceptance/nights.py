"""Three nights whose ledger is kept as a fixture of its schema's version, and carried on by later versions.

``python -m tests.acceptance.nights FOLDER`` makes the fixture of the version that is installed; ``FOLDER`` is
``tests/acceptance/ledgers``.
"""

import gzip
import json
import signal
import sqlite3
import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

from tests.acceptance.batches import Row, make_rows, write_manifest
from tests.acceptance.judging import appended
from tests.acceptance.place import Place, Server, until
from uploader.ledger.migrations import APPLICATION_ID, OLDEST

LEDGERS = Path(__file__).parent / "ledgers"
# placeholders in a fixture for the recordings' folder and the service's address
FOLDER, BASE_URL = "@FOLDER@", "@BASE_URL@"

# the digits of a hash that suffice to tell recordings apart
SHORT = 16
RUN = ("--limit", "10", "--doubt-seconds", "2", "--log-level", "error", "--json")
FAULTS = """
seed = 7
unknown_conversations = ["conversation-017", "other-004"]
[put]
lost_answer = 0.03
cut = 0.03
[jobs]
failed = 0.03
"""


@dataclass(frozen=True, slots=True)
class Nights:
    """The manifests, 300 rows in all: the second night goes on with conversations of the first."""

    monday: Sequence[Row]
    tuesday: Sequence[Row]
    wednesday: Sequence[Row]

    @property
    def rows(self) -> Sequence[Row]:
        """All rows, in the order of the nights."""
        return [*self.monday, *self.tuesday, *self.wednesday]


def write_nights(place: Place) -> Nights:
    """Write the recordings and the manifests; they are always the same."""
    monday = make_rows(place, 150, 50, seed=1, folder="monday")
    tuesday = make_rows(place, 100, 60, seed=2, folder="tuesday")
    wednesday = [
        Row(row.conversation.replace("conversation", "other"), row.audio, row.sha256)
        for row in make_rows(place, 50, 10, seed=3, folder="wednesday")
    ]
    for name, rows in (("monday.csv", monday), ("tuesday.csv", tuesday), ("wednesday.csv", wednesday)):
        write_manifest(place, name, rows)
    return Nights(monday, tuesday, wednesday)


def make_fixture(folder: Path) -> str:
    """Work the nights, keep the ledger as SQL and what the service was sent, and tell what is in it."""
    with TemporaryDirectory() as work:
        place = Place(Path(work))
        try:
            server = place.serve("--limit", "10", faults=FAULTS)
            place.use(server)
            write_nights(place)
            _work_nights(place, server)
            with closing(sqlite3.connect(place.ledger)) as connection:
                connection.execute("UPDATE ledger SET boot_id = '00000000-0000-0000-0000-000000000000'")
                (version,) = connection.execute("SELECT version FROM ledger").fetchone()
                states = connection.execute("SELECT state, count(*) FROM items GROUP BY state").fetchall()
                text = "\n".join(connection.iterdump())
            text = text.replace(str(place.folder), FOLDER).replace(server.base_url, BASE_URL)
            there = {
                lane: [content_hash[:SHORT] for content_hash in hashes]
                for lane, hashes in appended(server.journal).items()
            }
        finally:
            place.close()
    (folder / f"version-{version}.sql.gz").write_bytes(gzip.compress(text.encode(), mtime=0))
    (folder / f"version-{version}.appended.json").write_text(json.dumps(there, indent=1) + "\n", encoding="utf-8")
    return f"version {version}: {dict(states)}"


def _work_nights(place: Place, server: Server) -> None:
    """One night that ends, one of which a part is put off, one that is killed while it sends."""
    place.run("run", "monday.csv", *RUN)
    place.run("run", "tuesday.csv", *RUN, "--first", "30")
    begun = server.lines()
    killed = place.start("run", "wednesday.csv", *RUN)
    until(lambda: server.lines() > begun + 120, "the last night is under way")
    killed.stop(signal.SIGKILL)


def restore(path: Path, version: int, folder: Path, base_url: str = "http://127.0.0.1:9") -> None:
    """Make the ledger of a version anew, as if its recordings and its service were these."""
    text = gzip.decompress((LEDGERS / f"version-{version}.sql.gz").read_bytes()).decode()
    path.parent.mkdir(parents=True, exist_ok=True)
    with closing(sqlite3.connect(path)) as connection:
        connection.executescript(text.replace(FOLDER, str(folder)).replace(BASE_URL, base_url))
        # the text has neither the header nor the log, whose lack would be a loss; the first version knew of neither
        if version > OLDEST:
            connection.execute(f"PRAGMA application_id = {APPLICATION_ID}")
            connection.execute("UPDATE ledger SET in_use = false")
            connection.commit()


def appended_before(version: int) -> Mapping[str, Counter[str]]:
    """Tell what the service had been sent when the fixture of a version was made, by conversation."""
    there = json.loads((LEDGERS / f"version-{version}.appended.json").read_text(encoding="utf-8"))
    return {lane: Counter(hashes) for lane, hashes in there.items()}


if __name__ == "__main__":
    print(make_fixture(Path(sys.argv[1])))  # noqa: T201 - its report
