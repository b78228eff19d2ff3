"""A file that cannot be read to be compared with what was appended: its row is never taken for a new item."""

import hashlib
from collections.abc import Iterator

import pytest

from tests.acceptance.batches import Row, read_results, record, statuses, write_manifest
from tests.acceptance.judging import check_appended
from tests.acceptance.place import Place
from tests.remote_servers import WebServer
from tests.unit.recordings import recording

# no file can be opened to be hashed: too many are open
UNREAD = """
import errno, os, sys

open_file = os.open


def opening(*words, **more):
    if sys._getframe(1).f_code.co_name == "content_hash":
        raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))
    return open_file(*words, **more)


os.open = opening
"""
REMEDY = "could not be read to compare it with an earlier recording of its conversation that has its size: run again"
PLACES = pytest.mark.parametrize(
    ("place_of", "is_pruned", "name"),
    [
        ("sqlite", True, "a.wav"),
        ("sqlite", True, "copy.wav"),
        ("sqlite", False, "copy.wav"),
        ("postgres", True, "a.wav"),
    ],
    indirect=["place_of"],
)


class _Night:
    """Two nights of one conversation: an appended recording comes again before a new one, and cannot be read."""

    def __init__(self, place: Place, first: Row, *, is_pruned: bool) -> None:
        self.server = place.serve()
        self.place = place
        self.first = first
        place.use(self.server)
        assert place.run("run", write_manifest(place, "m.csv", [first])).code == 0
        (self.job_id,) = [line["jobId"] for line in read_results(place.path("m.results.csv"))]
        if is_pruned:
            assert place.run("ledger", "prune", "--older-than", "0", "--yes").code == 0

    def check(self, again: Row, new: Row, unread: Iterator[dict[str, str]]) -> None:
        """Run the second night while the file cannot be read, and once more when it can."""
        place = self.place
        manifest = write_manifest(place, "m.csv", [again, new])
        for command in ("plan", "run"):
            refused = place.run(command, manifest, environment=next(unread))
            assert refused.code == 2, refused
            assert REMEDY in refused.out + refused.err
        skipped = place.run("run", manifest, "--on-invalid", "skip", environment=next(unread))
        assert skipped.code == 1, skipped
        assert statuses(place.path("m.results.csv")) == ["refused", "held"]
        check_appended(self.server.journal, [self.first])
        assert place.run("run", manifest).code == 0
        assert read_results(place.path("m.results.csv"))[0]["jobId"] == self.job_id
        check_appended(self.server.journal, [self.first, new])


@PLACES
def test_a_remote_recording_that_is_away_for_a_moment_is_not_appended_again(
    place_of: Place, is_pruned: bool, name: str
) -> None:
    """Its server answers 503 when it is to be hashed: the row is invalid and holds its lane until it can be read."""
    content, more = recording(3.0), recording(2.0)
    with WebServer() as web:

        def remote(path: str, audio: bytes) -> Row:
            return Row("c", web.serve(path, audio), hashlib.sha256(audio).hexdigest())

        night = _Night(place_of, remote("a.wav", content), is_pruned=is_pruned)
        again, new = remote(name, content), remote("b.wav", more)

        def unread() -> Iterator[dict[str, str]]:
            while True:
                web.files[name].then_first = [503] * 3
                yield {}

        night.check(again, new, unread())


@PLACES
def test_a_file_that_cannot_be_hashed_for_a_moment_is_not_appended_again(
    place_of: Place, is_pruned: bool, name: str
) -> None:
    """No file can be opened to be hashed: the row is invalid and holds its lane until it can be read."""
    place = place_of
    content, more = recording(3.0), recording(2.0)
    night = _Night(place, Row("c", "a.wav", record(place, "a.wav", content)), is_pruned=is_pruned)
    place.write("unread/sitecustomize.py", UNREAD)
    environment = {"PYTHONPATH": str(place.path("unread"))}

    def unread() -> Iterator[dict[str, str]]:
        while True:
            yield environment

    again, new = Row("c", name, record(place, name, content)), Row("c", "b.wav", record(place, "b.wav", more))
    night.check(again, new, unread())
