"""The ledger's file: where it may lie, who may open it, and what is refused."""

import os
import sqlite3
import stat
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Barrier

import pytest
from sqlalchemy import Connection, update

from tests.integration.test_ledger import opened
from uploader.errors import ExitCode, LedgerBusyError, LedgerUnavailableError, UsageError
from uploader.ledger import Ledger, place, sidecars
from uploader.ledger.database import read_mark
from uploader.ledger.loading import account
from uploader.ledger.place import NETWORK_FILE_SYSTEMS, file_system
from uploader.ledger.reading import find_batches, result_lines
from uploader.ledger.schema import VERSION, ledger
from uploader.ledger.sqlite_ledger import ledger_path
from uploader.ledger.workers import Identity, begin_worker, end_worker

MOUNTS = """\
22 1 8:1 / / rw,relatime shared:1 - ext4 /dev/sda1 rw
23 22 0:21 / /proc rw,nosuid shared:5 - proc proc rw
24 22 0:52 / /mnt/a\\040-\\040b rw,relatime shared:9 - nfs4 server:/export rw,vers=4.2
25 22 0:53 / /mnt/tmp rw - tmpfs tmpfs rw
26 22 0:54 / /mnt/share rw,relatime shared:7 master:2 - cifs //server/share rw
"""


@pytest.fixture
def url(tmp_path: Path) -> str:
    """Provide the address of a ledger that does not exist yet."""
    return f"sqlite:///{tmp_path}/ledger.db"


def pragma(connection: Connection, name: str) -> object:
    """Return a setting of the database's connection."""
    return connection.exec_driver_sql(f"PRAGMA {name}").scalar_one()


def told(url: str) -> str:
    """Return the error of a ledger that cannot be used: exit 2, and the same for readers."""
    with pytest.raises(UsageError) as refused:
        Ledger.open_for_run(url)
    assert refused.value.exit_code is ExitCode.USAGE
    assert str(refused.value).startswith("ledger ")
    return str(refused.value)


def error_for_readers(url: str) -> str:
    """Return the error of a ledger that cannot be read: exit 2."""
    with pytest.raises(UsageError) as refused:
        Ledger.open_for_reading(url)
    return str(refused.value)


def test_a_ledger_is_made_where_there_is_none(url: str) -> None:
    """The first run makes it, and it is there for readers afterwards."""
    assert "there is none yet" in error_for_readers(url)
    Ledger.open_for_run(url).close()
    with Ledger.open_for_reading(url) as again, again.reading() as connection:
        assert find_batches(connection) == []


def test_every_commit_is_durable(url: str) -> None:
    """WAL and fully synchronous: an intent that is lost in a power cut means a second append."""
    with Ledger.open_for_run(url) as opened:
        for way_in in (opened, opened.beside()):
            with way_in.writing() as connection:
                assert pragma(connection, "journal_mode") == "wal"
                assert pragma(connection, "synchronous") == 2
                assert pragma(connection, "foreign_keys") == 1


def test_the_ledger_is_its_owners_alone(tmp_path: Path, url: str) -> None:
    """0600 for the ledger and everything beside it, whatever the umask says."""
    before = os.umask(0)
    try:
        with Ledger.open_for_run(url) as opened, opened.writing():
            modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in tmp_path.iterdir()}
    finally:
        os.umask(before)
    assert {"ledger.db", "ledger.db-wal"} <= set(modes)
    assert set(modes.values()) == {0o600}


def test_what_was_written_is_there_when_it_is_opened_again(tmp_path: Path) -> None:
    """The ledger is the memory from night to night."""
    with opened(tmp_path) as book:
        load = book.load([("c", "a.wav")])
        book.complete(book.claim_one())
        before = book.lines(load)
    with Ledger.open_for_reading(f"sqlite:///{tmp_path}/ledger.db") as again, again.reading() as connection:
        assert list(result_lines(connection, load.batch_id)) == before


def test_of_runs_that_begin_together_one_says_that_the_ledger_is_new(database_url: str) -> None:
    """It is new for who made it, or came first to one that has never held a batch; the others join it."""
    together = Barrier(4)

    def begin(_: int) -> bool:
        together.wait()
        with Ledger.open_for_run(database_url) as ledger:
            together.wait()
            return ledger.is_new

    with ThreadPoolExecutor(together.parties) as pool:
        assert sorted(pool.map(begin, range(together.parties))) == [False, False, False, True]


def test_several_runs_share_a_ledger_and_who_needs_it_alone_is_told_to_wait(database_url: str) -> None:
    """A second run opens the ledger, too; what is to be alone ends with 6 beside a run, and may once all have ended."""
    with Ledger.open_for_run(database_url) as first, Ledger.open_for_run(database_url) as second:
        with first.writing() as connection:
            account_id = account(connection, "https://service.example")
            identity = Identity("host", first.process, "1.0")
            worker_id = begin_worker(connection, account_id, None, identity, first.clock(connection)())
        assert first.held_by_run
        assert second.held_by_run
        with pytest.raises(LedgerBusyError) as refused:
            Ledger.open_for_run(database_url, alone=True)
        assert refused.value.exit_code is ExitCode.NOT_NOW
        with first.writing() as connection:
            end_worker(connection, worker_id, account_id, first.clock(connection)(), 900.0)
    with Ledger.open_for_run(database_url, alone=True) as ledger, ledger.reading() as connection:
        assert read_mark(connection).in_use
    with Ledger.open_for_reading(database_url) as ledger:
        assert ledger.examine().mark == (3, False)


def test_a_run_waits_for_who_has_the_ledger_alone(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A run that would begin meanwhile waits a while, then ends with 6; afterwards it may."""
    monkeypatch.setattr(sidecars, "LOCK_TRIES", 2)
    with Ledger.open_for_run(url, alone=True), pytest.raises(LedgerBusyError, match="has it for itself"):
        Ledger.open_for_run(url)
    Ledger.open_for_run(url).close()


def test_the_last_of_several_runs_closes_the_ledger(url: str) -> None:
    """The first one to end leaves it in use, and a copy taken then counts as one of a run."""
    first, second = Ledger.open_for_run(url), Ledger.open_for_run(url)
    first.close()
    with second.reading() as connection:
        assert read_mark(connection).in_use
    second.close()
    with Ledger.open_for_reading(url) as ledger:
        assert ledger.examine().mark == (2, False)
    assert [path.name for path in ledger_path(url).parent.glob("*.run-*")] == []


def test_a_run_in_another_process_is_known_to_live_and_to_be_dead(url: str) -> None:
    """The mark is the kernel's: it holds between processes, and ends with its owner, however that one dies."""
    code = (
        f"from uploader.ledger import Ledger; o = Ledger.open_for_run({url!r}); print(o.process, flush=True); input()"
    )
    with subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as other:
        assert other.stdout is not None
        process = other.stdout.readline().decode().strip()
        with Ledger.open_for_reading(url) as reader:
            assert reader.held_by_run
            assert not reader.is_gone(process)
            other.kill()
            other.wait()
            assert reader.is_gone(process)
            assert not reader.held_by_run
        Ledger.open_for_run(url, alone=True).close()


def test_readers_work_beside_a_run(tmp_path: Path) -> None:
    """`status` and `results` read while a run has a write open, and see what is committed."""
    with opened(tmp_path) as book:
        load = book.load([("c", "a.wav")])
        with (
            Ledger.open_for_reading(f"sqlite:///{tmp_path}/ledger.db") as reader,
            book.ledger.writing() as writing,
            reader.reading() as reading,
        ):
            writing.exec_driver_sql("UPDATE items SET state = 'completed'")
            assert [line.state.value for line in result_lines(reading, load.batch_id)] == ["pending"]
        assert book.states(load) == "completed"


def test_a_write_that_fails_is_rolled_back(url: str) -> None:
    """An exception in a transaction leaves nothing of it."""
    with Ledger.open_for_run(url) as opened:
        with pytest.raises(KeyError), opened.writing() as connection:  # noqa: PT012 - one transaction
            connection.execute(update(ledger).values(version=77))
            raise KeyError
        with opened.writing() as connection:
            assert connection.execute(ledger.select()).one().version == VERSION


def test_a_newer_ledger_is_refused(url: str) -> None:
    """A schema that this uploader does not know is not touched."""
    with Ledger.open_for_run(url) as opened, opened.writing() as connection:
        connection.execute(update(ledger).values(version=VERSION + 1))
    for message in (told(url), error_for_readers(url)):
        assert f"schema version {VERSION + 1}" in message
        assert f"knows {VERSION}" in message


@pytest.mark.parametrize("content", [b"some text", b"x" * 10_000, b"\0" * 10_000])
def test_a_file_that_is_no_database_is_refused_and_left_alone(tmp_path: Path, url: str, content: bytes) -> None:
    """Whatever else lies in the ledger's place is a usage error, and is not written to."""
    path = tmp_path / "ledger.db"
    path.write_bytes(content)
    for message in (told(url), error_for_readers(url)):
        assert "no ledger" in message
    assert path.read_bytes() == content


@pytest.mark.parametrize("table", ["calls (id, amount)", "ledger (id, amount)", "ledger (version)"])
def test_a_database_of_something_else_is_refused_and_left_alone(tmp_path: Path, url: str, table: str) -> None:
    """Another program's database, one with a table `ledger` too, is a usage error, and is not written to."""
    path = tmp_path / "ledger.db"
    other = sqlite3.connect(path)
    other.execute(f"CREATE TABLE {table}")
    other.commit()
    other.close()
    before = path.read_bytes()
    for message in (told(url), error_for_readers(url)):
        assert "no ledger" in message
    assert path.read_bytes() == before


def test_a_ledger_whose_making_was_interrupted_is_made(tmp_path: Path, url: str) -> None:
    """A run that died between making the file and its tables leaves an empty one: the next run goes on."""
    (tmp_path / "ledger.db").touch()
    Ledger.open_for_run(url).close()
    Ledger.open_for_reading(url).close()


def test_a_missing_folder_is_refused(tmp_path: Path) -> None:
    """A volume that is not mounted is told, not made."""
    assert "make or mount it" in told(f"sqlite:///{tmp_path}/state/ledger.db")
    assert list(tmp_path.iterdir()) == []


def test_a_folder_in_the_ledgers_place_is_refused(tmp_path: Path) -> None:
    """A folder is no ledger."""
    (tmp_path / "ledger.db").mkdir()
    assert "no file that can be written" in told(f"sqlite:///{tmp_path}/ledger.db")


def test_a_folder_that_is_not_writable_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """SQLite needs to write beside its file: told before anything is sent."""
    allowed = os.access

    def access(path: object, mode: int, **how: bool) -> bool:
        return not (path == tmp_path and mode & os.W_OK) and allowed(path, mode, **how)  # type: ignore[arg-type]

    monkeypatch.setattr(os, "access", access)
    assert "is not writable" in told(f"sqlite:///{tmp_path}/ledger.db")


@pytest.mark.parametrize("kind", sorted(NETWORK_FILE_SYSTEMS))
def test_a_network_file_system_is_refused(url: str, monkeypatch: pytest.MonkeyPatch, kind: str) -> None:
    """WAL does not work there: told before a file is made."""
    monkeypatch.setattr(place, "file_system", lambda mountinfo, device: kind)
    assert f"network file system ({kind})" in told(url)
    assert not Path(url.removeprefix("sqlite:///")).exists()


@pytest.mark.parametrize("kind", ["ext4", "xfs", "btrfs", "overlay", "tmpfs", None])
def test_a_local_file_system_is_right(url: str, monkeypatch: pytest.MonkeyPatch, kind: str | None) -> None:
    """Local disks, and what the kernel says nothing of, are taken."""
    monkeypatch.setattr(place, "file_system", lambda mountinfo, device: kind)
    Ledger.open_for_run(url).close()


@pytest.mark.parametrize(
    ("major", "minor", "kind"),
    [(8, 1, "ext4"), (0, 52, "nfs4"), (0, 53, "tmpfs"), (0, 54, "cifs"), (0, 99, None), (52, 0, None)],
)
def test_the_kind_of_a_file_system_is_read_from_the_kernels_list(
    tmp_path: Path, major: int, minor: int, kind: str | None
) -> None:
    """By the device's number; mount points with odd names do not mislead."""
    (tmp_path / "mountinfo").write_text(MOUNTS)
    assert file_system(tmp_path / "mountinfo", os.makedev(major, minor)) == kind


def test_without_the_kernels_list_nothing_is_known(tmp_path: Path) -> None:
    """Other systems have no such list: that is no reason to refuse."""
    assert file_system(tmp_path / "none", os.makedev(8, 1)) is None


def test_this_machines_own_list_is_understood() -> None:
    """Of the devices in the kernel's real list each has the kind that stands in its line."""
    mountinfo = Path("/proc/self/mountinfo")
    mounts = [line.partition(" - ") for line in mountinfo.read_text(encoding="utf-8").splitlines()]
    for mount, _, source in mounts:
        major, minor = mount.split()[2].split(":")
        assert file_system(mountinfo, os.makedev(int(major), int(minor))) == source.split()[0]


def test_a_ledger_that_cannot_be_written_now_says_what_to_do(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A disk's failure is exit 5, with the ledger's path and the cause, and nothing of the query."""
    with Ledger.open_for_run(url) as opened:
        with pytest.raises(LedgerUnavailableError) as failed, opened.writing() as connection:
            connection.exec_driver_sql("INSERT INTO nowhere VALUES ('secret')")
        assert failed.value.exit_code is ExitCode.GAVE_UP
        assert "no such table: nowhere" in str(failed.value)
        assert "secret" not in str(failed.value)


def test_nothing_is_kept_where_opening_fails(tmp_path: Path, url: str) -> None:
    """A run that could not open the ledger gives its lock back, and the disk space that it had set aside."""
    (tmp_path / "ledger.db").write_bytes(b"some text" * 100)
    with pytest.raises((UsageError, LedgerUnavailableError)):
        Ledger.open_for_run(url)
    assert {path.name for path in tmp_path.iterdir()} <= {"ledger.db", "ledger.db.lock"}
    (tmp_path / "ledger.db").unlink()
    Ledger.open_for_run(url).close()


def test_nothing_but_ledger_and_lock_is_left_after_a_run(tmp_path: Path, url: str) -> None:
    """A run that ends folds the log into the ledger and gives its reserve back."""
    Ledger.open_for_run(url).close()
    assert {path.name for path in tmp_path.iterdir()} == {"ledger.db", "ledger.db.lock"}
