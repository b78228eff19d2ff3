"""`uploader doctor` against a service: nothing is sent but a token request and a GET, and its code is the run's."""

from tests.acceptance.batches import make_rows, write_manifest
from tests.acceptance.place import Place, Server
from uploader.sandbox.entries import PutEntry, TokenEntry


def test_it_says_what_a_run_would_end_with(place: Place, server: Server) -> None:
    """Sound, then with a wrong secret, then with a service that is gone: doctor's code is that of the run after it."""
    write_manifest(place, "m.csv", make_rows(place, 1, 1))
    for given, code, line in (
        ({}, 0, "ok       token    taken by 127.0.0.1:"),
        ({"UPLOADER_APP_SECRET": "wrong"}, 3, "fault    token    the service does not take the credentials"),
        ({"UPLOADER_ACCESS_TOKEN": "wrong"}, 3, "fault    token    the service refuses the access token"),
        ({"UPLOADER_BASE_URL": "http://127.0.0.1:9", "UPLOADER_GIVE_UP_SECONDS": "0.2"}, 5, "Connection refused"),
    ):
        found = place.run("doctor", environment=given)
        assert found.code == code, found.out
        assert line in found.out
        assert "ok       clock    as the service's" in found.out or code
        assert not [entry for entry in server.journal.entries if isinstance(entry, PutEntry)]
        assert given or [entry.status for entry in server.journal.entries if isinstance(entry, TokenEntry)] == [200]
    for given in ({"UPLOADER_APP_SECRET": "wrong"}, {"UPLOADER_ACCESS_TOKEN": "wrong"}):
        assert place.run("run", "m.csv", environment=given).code == 3
    gone = {"UPLOADER_BASE_URL": "http://127.0.0.1:9", "UPLOADER_GIVE_UP_SECONDS": "0.2"}
    assert place.run("run", "m.csv", "--batch", "other", environment=gone).code == 5
