"""No slip with the ledger's file makes a night be appended twice: it is noticed, and nothing is sent."""

import errno
import os
import shutil
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest

from tests.integration.test_ledger import opened
from tests.integration.test_ledger_opening import error_for_readers, told
from uploader.errors import LedgerUnavailableError, UsageError
from uploader.ledger import Connection, Ledger, place, sidecars, sqlite
from uploader.ledger.claiming import claim
from uploader.ledger.commits import GroupCommits
from uploader.ledger.database import Doubted
from uploader.ledger.reading import find_batches
from uploader.ledger.schema import VERSION
from uploader.ledger.sqlite_ledger import SqliteLedger
from uploader.ledger.thread import LedgerThread
from uploader.settings.addresses import ledger_address

KILLED_RUN = """
import os, signal, sys
from uploader.ledger import Ledger
from uploader.ledger.loading import account
with Ledger.open_for_run(sys.argv[1]) as ledger:
    with ledger.writing() as connection:
        account(connection, "https://example.com")
    os.kill(os.getpid(), signal.SIGKILL)
"""


def die_in_a_run(url: str) -> None:
    """Run in a process that is killed after it wrote something."""
    code = subprocess.run([sys.executable, "-c", KILLED_RUN, url], check=False).returncode
    assert code == -signal.SIGKILL


def accounts(path: Path) -> int:
    """Return the number of accounts in a ledger."""
    with closing(sqlite3.connect(path)) as connection:
        (found,) = connection.execute("SELECT count(*) FROM accounts").fetchone()
    return int(found)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Provide the path of the ledger."""
    return tmp_path / "ledger.db"


@pytest.fixture
def url(path: Path) -> str:
    """Provide the address of the ledger."""
    return f"sqlite:///{path}"


@pytest.mark.parametrize("address", ["sqlite:///ledger.db", "sqlite:///state/ledger.db", "sqlite:////state/", "/l.db"])
def test_an_address_is_an_absolute_path(address: str) -> None:
    """A relative path would be another ledger in each folder that the command is started in: it needs four slashes."""
    with pytest.raises(ValueError, match="four slashes"):
        ledger_address(address)


def test_whether_a_ledger_was_made_is_known(url: str) -> None:
    """A ledger that is made anew knows of no earlier night; one that was there does."""
    found = []
    for _ in range(2):
        with Ledger.open_for_run(url) as ledger:
            found.append(ledger.is_new)
    assert found == [True, False]


@pytest.mark.parametrize("there", [False, True])
def test_a_ledger_that_must_exist_is_not_made(path: Path, url: str, there: bool) -> None:
    """Neither where there is none nor in place of an empty file; nothing is left behind."""
    if there:
        path.touch()
    with pytest.raises(UsageError, match=r"--ledger-must-exist"):
        Ledger.open_for_run(url, must_exist=True)
    assert [file.name for file in path.parent.iterdir() if file.suffix == ".reserve"] == []
    assert not Ledger.exists(url)
    Ledger.open_for_run(url).close()
    Ledger.open_for_run(url, must_exist=True).close()


@pytest.mark.parametrize("kind", sorted(place.CONTAINER_FILE_SYSTEMS))
def test_a_ledger_is_not_made_where_a_container_would_take_it_along(
    path: Path,
    url: str,
    monkeypatch: pytest.MonkeyPatch,
    kind: str,
) -> None:
    """On the container's root: refused before anything is made; asked for, it is made, and then opened ever after."""
    device = path.parent.stat().st_dev
    monkeypatch.setattr(place, "file_system", lambda mountinfo, asked: kind if asked == device else "ext4")
    monkeypatch.setattr(place, "ROOT", path.parent)
    with pytest.raises(UsageError, match=r"container's own file system.*--new-ledger"):
        Ledger.open_for_run(url, on_container=False)
    assert not path.exists()
    Ledger.open_for_run(url).close()
    Ledger.open_for_run(url, on_container=False).close()


def test_an_ordinary_machine_is_not_bothered(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A root that no container runtime made, and a folder that is mounted from elsewhere, are right."""
    for kind in ("ext4", "btrfs", None):
        monkeypatch.setattr(place, "file_system", lambda *_, kind=kind: kind)
        place.check_outlives_container(Path(url.removeprefix("sqlite:///")))
    monkeypatch.setattr(place, "file_system", lambda *_: "overlay")
    monkeypatch.setattr(place, "ROOT", Path("/proc"))
    place.check_outlives_container(Path(url.removeprefix("sqlite:///")))


def delete(path: Path) -> None:
    """Delete the ledger, as somebody who tidies up."""
    for file in path.parent.glob("ledger.db*"):
        file.unlink()


def rename(path: Path) -> None:
    """Rename the ledger."""
    path.rename(path.with_name("old.db"))


def replace(path: Path) -> None:
    """Replace the ledger by a copy, as somebody who restores it."""
    other = path.with_name("other.db")
    with closing(sqlite3.connect(path)) as connection, closing(sqlite3.connect(other)) as copy:
        connection.backup(copy)
    other.replace(path)


@pytest.mark.parametrize("slip", [delete, rename, replace])
async def test_a_ledger_that_is_gone_is_noticed_before_the_next_admission(
    tmp_path: Path, slip: Callable[[Path], None]
) -> None:
    """No claim and no admission after it; answers are still recorded, and a copy beside keeps the whole ledger."""
    with opened(tmp_path) as book:
        book.load([("c", "a.wav"), ("c", "b.wav")])
        first = book.claim_one()
        thread = LedgerThread(GroupCommits(book.ledger))
        try:
            slip(tmp_path / "ledger.db")
            with pytest.raises(LedgerUnavailableError, match="deleted, renamed or replaced while this run used it"):
                await thread.call(claim, 1, 1, book.now, worker_id=book.worker_id)
            await thread.call(complete, first.item_id)
        finally:
            thread.close()
    rescued = tmp_path / "ledger.db.rescued"
    with closing(sqlite3.connect(rescued)) as connection:
        assert connection.execute("SELECT state FROM items ORDER BY id").fetchall() == [("completed",), ("pending",)]
    delete_all_but(tmp_path, rescued)
    rescued.rename(tmp_path / "ledger.db")
    with Ledger.open_for_run(f"sqlite:///{tmp_path}/ledger.db") as again, again.reading() as connection:
        assert len(find_batches(connection)) == 1


def complete(connection: Connection, item_id: int) -> None:
    """Set an item to completed."""
    connection.exec_driver_sql(f"UPDATE items SET state = 'completed' WHERE id = {item_id}")


def delete_all_but(folder: Path, kept: Path) -> None:
    """Take everything away that a ledger may be made of."""
    for file in folder.glob("*.db*"):
        if file != kept and not file.name.endswith(".lock"):
            file.unlink()


def test_a_copy_without_its_log_is_refused(path: Path, url: str, tmp_path: Path) -> None:
    """The log has the last commits of a run that died: a copy without it would append them again."""
    Ledger.open_for_run(url).close()
    die_in_a_run(url)
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    shutil.copy(path, elsewhere)
    message = told(f"sqlite:///{elsewhere}/ledger.db")
    assert "ledger.db-wal" in message
    assert "ledger adopt" in message
    shutil.copy(path.with_name("ledger.db-wal"), elsewhere)
    Ledger.open_for_run(f"sqlite:///{elsewhere}/ledger.db").close()
    assert accounts(elsewhere / "ledger.db") == 1


def test_a_log_that_was_deleted_is_missed(path: Path, url: str) -> None:
    """The same in its own place; a person can take the ledger as it is, and is then not asked again."""
    die_in_a_run(url)
    for name in ("ledger.db-wal", "ledger.db-shm"):
        path.with_name(name).unlink()
    assert "is not beside it" in told(url)
    Ledger.open_for_run(url, doubted=Doubted.ACCEPTED).close()
    Ledger.open_for_run(url).close()


def test_after_a_crash_readers_leave_the_log_where_it_is(path: Path, url: str) -> None:
    """`status` after a crash sees what was committed, and takes nothing away that the next run looks for."""
    die_in_a_run(url)
    for _ in range(2):
        with Ledger.open_for_reading(url) as ledger, ledger.reading() as connection:
            assert connection.exec_driver_sql("SELECT count(*) FROM accounts").scalar_one() == 1
    Ledger.open_for_run(url).close()
    assert accounts(path) == 1


def test_who_is_the_last_to_leave_after_a_crash_folds_the_log_and_notes_it(path: Path, url: str) -> None:
    """Whoever had the ledger open before a run that is killed, and closes it after that, keeps nobody from going on."""
    Ledger.open_for_run(url).close()
    for opens in (Ledger.open_for_reading, Ledger.open_beside_run):
        with opens(url) as ledger, ledger.reading() as connection:
            connection.exec_driver_sql("SELECT count(*) FROM accounts").scalar_one()
            die_in_a_run(url)
        assert not path.with_name("ledger.db-wal").exists()
        Ledger.open_for_run(url).close()
    assert accounts(path) == 1


def test_a_run_that_cannot_begin_after_a_crash_keeps_nobody_from_going_on(
    path: Path, url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A disk that is full just then: what the log held is in the ledger, and the next run finds it so."""

    def fail(*_: object) -> None:
        raise LedgerUnavailableError("the disk is full")

    die_in_a_run(url)
    with monkeypatch.context() as patched:
        patched.setattr(SqliteLedger, "_count_run", fail)
        with pytest.raises(LedgerUnavailableError):
            Ledger.open_for_run(url)
    Ledger.open_for_run(url).close()
    assert accounts(path) == 1


def test_a_log_that_a_reader_has_just_made_is_not_the_one_that_is_missed(path: Path, url: str) -> None:
    """SQLite makes an empty log for whoever reads: what the killed run had committed last is missing all the same."""
    die_in_a_run(url)
    for name in ("ledger.db-wal", "ledger.db-shm"):
        path.with_name(name).unlink()
    for _ in range(2):
        with Ledger.open_for_reading(url) as ledger, ledger.reading() as connection:
            connection.exec_driver_sql("SELECT count(*) FROM accounts").scalar_one()
            assert "is not beside it" in told(url)
    assert "is not beside it" in told(url)


def test_an_older_copy_in_the_ledgers_place_is_refused(path: Path, url: str) -> None:
    """The lock beside it knows how many runs there were; the newest copy and the ledger itself are taken."""
    Ledger.open_for_run(url).close()
    older = path.read_bytes()
    Ledger.open_for_run(url).close()
    newest = path.read_bytes()
    path.write_bytes(older)
    message = told(url)
    assert "it has seen 1 runs, and the ledger that was here last had seen 2: this is an older copy" in message
    assert "ledger adopt" in message
    path.write_bytes(newest)
    Ledger.open_for_run(url).close()
    path.write_bytes(older)
    Ledger.open_for_run(url, doubted=Doubted.MENDED).close()
    assert "an older copy" in told(url), "mended is not accepted yet"
    Ledger.open_for_run(url, doubted=Doubted.ACCEPTED).close()
    Ledger.open_for_run(url).close()


def test_a_damaged_ledger_is_told_where_it_was_not_closed(path: Path, url: str) -> None:
    """After a crash its integrity is checked: exit 2 before anything is sent, with what to do."""
    die_in_a_run(url)
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        (page,) = connection.execute("SELECT rootpage FROM sqlite_master WHERE name = 'accounts'").fetchone()
        (size,) = connection.execute("PRAGMA page_size").fetchone()
    path.with_name("ledger.db-wal").touch()
    content = bytearray(path.read_bytes())
    content[(page - 1) * size : page * size] = b"\xff" * size
    path.write_bytes(content)
    message = told(url)
    assert "it is damaged" in message
    assert "restore a copy" in message


def test_damage_that_is_met_later_is_told_as_damage(tmp_path: Path) -> None:
    """A ledger that breaks under a run is no full disk."""
    error = sqlite3.DatabaseError("database disk image is malformed")
    error.sqlite_errorname = "SQLITE_CORRUPT"
    assert "it is damaged" in str(sqlite.unavailable(tmp_path, error))
    assert "it is damaged" not in str(sqlite.unavailable(tmp_path, sqlite3.OperationalError("disk I/O error")))


@pytest.mark.parametrize("left", [b"", "journal", "tables"])
def test_what_died_while_a_ledger_was_made_is_no_ledger(path: Path, url: str, left: bytes | str) -> None:
    """An empty file, a database without a table, a file that never got its name: the next run simply works."""
    if left == b"":
        path.touch()
    elif left == "journal":
        with closing(sqlite3.connect(path)) as connection:
            connection.execute("PRAGMA journal_mode=WAL")
        assert path.stat().st_size
    else:
        path.with_name(".ledger.db.x1y2z3.new").write_bytes(b"half a ledger")
    assert "`uploader run MANIFEST`" in error_for_readers(url)
    with Ledger.open_for_run(url) as ledger:
        assert ledger.is_new
    assert {file.name for file in path.parent.iterdir()} == {"ledger.db", "ledger.db.lock"}


@pytest.mark.parametrize("step", ["stamp", "sync_folder"])
def test_a_ledger_is_made_whole_or_not_at_all(
    path: Path,
    url: str,
    monkeypatch: pytest.MonkeyPatch,
    step: str,
) -> None:
    """Wherever the making fails, nothing bears the ledger's name but a whole ledger, and the next run goes on."""

    def fail(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as failing:
        failing.setattr(f"uploader.ledger.{'sqlite' if step == 'stamp' else 'copying'}.{step}", fail)
        with pytest.raises(LedgerUnavailableError, match="No space left"):
            Ledger.open_for_run(url)
    assert {file.name for file in path.parent.iterdir()} <= {"ledger.db", "ledger.db.lock"}
    if path.exists():
        with Ledger.open_for_reading(url) as ledger, ledger.reading() as connection:
            assert connection.exec_driver_sql("SELECT version FROM ledger").scalar_one() == VERSION
    Ledger.open_for_run(url).close()


@pytest.mark.parametrize("name", ["ledger.db.reserve", "ledger.db.lock", "ledger.db-wal", "ledger.db-shm"])
def test_no_link_beside_the_ledger_is_followed(path: Path, url: str, name: str) -> None:
    """A symbolic link in the place of a file beside the ledger is not followed."""
    victim = path.with_name("victim")
    victim.write_text("mine")
    path.with_name(name).symlink_to(victim)
    try:
        Ledger.open_for_run(url).close()
    except (UsageError, LedgerUnavailableError) as error:
        assert "ledger" in str(error)  # noqa: PT017 - either is right, as long as the victim is left alone
    assert victim.read_text() == "mine"
    assert victim.stat().st_size == 4


def test_a_link_in_the_locks_place_is_told(path: Path, url: str) -> None:
    """A lock on another file would be no lock."""
    path.with_name("ledger.db.lock").symlink_to(path.with_name("victim"))
    assert "is a symbolic link" in told(url)
    assert not path.with_name("victim").exists()


@pytest.mark.parametrize("missing", ["absent", "refused"])
def test_the_reserve_is_written_where_it_cannot_be_allocated(
    path: Path,
    url: str,
    monkeypatch: pytest.MonkeyPatch,
    missing: str,
) -> None:
    """Some systems (macOS) have no call to allocate, some file systems refuse it: the room is taken all the same."""
    if missing == "absent":
        monkeypatch.delattr(os, "posix_fallocate")
    else:

        def refuse(*_: object) -> None:
            raise OSError(errno.EOPNOTSUPP, os.strerror(errno.EOPNOTSUPP))

        monkeypatch.setattr(os, "posix_fallocate", refuse)
    with Ledger.open_for_run(url):
        assert sidecars.reserve_path(path).stat().st_blocks * 512 >= sidecars.RESERVE_BYTES


@pytest.mark.parametrize("left", ["closed", "log and index", "log alone"])
def test_a_ledger_is_read_where_nothing_can_be_written(
    path: Path,
    url: str,
    monkeypatch: pytest.MonkeyPatch,
    left: str,
) -> None:
    """Everything that was committed is seen, in the log too, and no file is made or changed."""
    die_in_a_run(url)
    if left == "closed":
        Ledger.open_for_run(url).close()
    elif left == "log alone":
        path.with_name("ledger.db-shm").unlink()
    before = {file.name: file.read_bytes() for file in path.parent.iterdir() if not file.name.endswith("-shm")}
    allowed = os.access

    def access(asked: object, mode: int, **how: bool) -> bool:
        return not (asked == path.parent and mode & os.W_OK) and allowed(asked, mode, **how)  # type: ignore[arg-type]

    monkeypatch.setattr(os, "access", access)
    with Ledger.open_for_reading(url) as ledger, ledger.reading() as connection:
        assert connection.exec_driver_sql("SELECT count(*) FROM accounts").scalar_one() == 1
    assert {file.name: file.read_bytes() for file in path.parent.iterdir() if not file.name.endswith("-shm")} == before


def test_who_settles_beside_a_run_has_the_ledger_from_its_first_read_on(path: Path, url: str) -> None:
    """No write of the run comes between what a transaction beside it reads and what it writes; the run's waits."""
    with Ledger.open_for_run(url), Ledger.open_beside_run(url) as beside, beside.writing() as connection:
        connection.exec_driver_sql("SELECT version FROM ledger").scalar_one()
        with (
            closing(sqlite3.connect(path, timeout=0, isolation_level=None)) as of_run,
            pytest.raises(sqlite3.OperationalError, match="locked"),
        ):
            of_run.execute("BEGIN IMMEDIATE")
        connection.exec_driver_sql("UPDATE ledger SET clock_offset = 1")


KILLED_AFTER_LOADING = """
import os, signal, sys
from sqlalchemy import text
from uploader.ledger import Ledger
with Ledger.open_for_run(sys.argv[1]) as ledger:
    with ledger.staging() as connection:
        connection.execute(text("SELECT count(*) FROM items"))
    os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.mark.parametrize("nights_before", [0, 1])
def test_a_run_that_dies_between_loading_and_its_next_write_refuses_no_later_run(
    url: str, path: Path, nights_before: int
) -> None:
    """A run keeps its log from its begin on, whatever connections it closes: SQLite folds it with the last one."""
    for _ in range(nights_before):
        Ledger.open_for_run(url).close()
    code = subprocess.run([sys.executable, "-c", KILLED_AFTER_LOADING, url], check=False).returncode
    assert code == -signal.SIGKILL
    assert sqlite.has_log(path)
    Ledger.open_for_run(url).close()
