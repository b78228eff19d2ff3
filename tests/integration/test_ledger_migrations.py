"""A ledger of an earlier version becomes one of this version, and nothing that it knew is lost."""

import sqlite3
import stat
from collections.abc import Iterator, Mapping
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from tests.acceptance.nights import LEDGERS, restore
from uploader.errors import LedgerUnavailableError, UsageError
from uploader.ledger import Ledger, migrations
from uploader.ledger.migrations import APPLICATION_ID, OLDEST, STEPS
from uploader.ledger.schema import VERSION
from uploader.ledger.sidecars import lock_path

EARLIER = range(OLDEST, VERSION)


@pytest.fixture(params=EARLIER)
def version(request: pytest.FixtureRequest) -> int:
    """Provide each earlier version that can be migrated."""
    found: int = request.param
    return found


def url(path: Path) -> str:
    """Return the address of a ledger."""
    return f"sqlite:///{path}"


def ask(path: Path, statement: str) -> list[Any]:
    """Return the rows that a statement finds in a database."""
    with closing(sqlite3.connect(path)) as connection:
        return connection.execute(statement).fetchall()


def dump(path: Path) -> list[str]:
    """Return the whole content of a database as SQL."""
    with closing(sqlite3.connect(path)) as connection:
        return list(connection.iterdump())


def clauses(statement: str) -> Iterator[str]:
    """Yield the parts of a CREATE TABLE between its outermost commas: columns and constraints as they are written."""
    depth, part = 0, ""
    for sign in " ".join(statement.replace('"', "").partition("(")[2].rpartition(")")[0].split()):
        depth += {"(": 1, ")": -1}.get(sign, 0)
        if sign == "," and not depth:
            yield part.strip()
            part = ""
        else:
            part += sign
    yield part.strip()


def schema_of(path: Path) -> Mapping[str, object]:
    """Return every table and index; a table's columns sorted, because an added one stands last."""
    found = ask(path, "SELECT type, name, sql FROM sqlite_master WHERE sql IS NOT NULL")
    return {
        f"{kind} {name}": sorted(clauses(sql)) if kind == "table" else " ".join(sql.split())
        for kind, name, sql in found
    }


def test_every_earlier_version_has_its_fixture_and_its_step() -> None:
    """Versions are numbered without a gap, and none is migrated untried."""
    assert sorted(STEPS) == list(range(OLDEST + 1, VERSION + 1))
    assert sorted(path.name for path in LEDGERS.glob("*.sql.gz")) == [
        f"version-{version}.sql.gz" for version in EARLIER
    ]


def test_a_migrated_ledger_has_the_schema_of_a_new_one(tmp_path: Path, version: int) -> None:
    """Tables, columns, constraints and indexes are the same, whichever way a ledger came to them."""
    old, new = tmp_path / "old.db", tmp_path / "new.db"
    restore(old, version, tmp_path)
    for path in (old, new):
        Ledger.open_for_run(url(path)).close()
        assert ask(path, "SELECT version FROM ledger") == [(VERSION,)]
        assert ask(path, "PRAGMA application_id") == [(APPLICATION_ID,)]
        assert ask(path, "PRAGMA foreign_key_check") == []
    assert schema_of(old) == schema_of(new)


def test_the_comparison_of_schemas_sees_a_difference(tmp_path: Path) -> None:
    """The comparison of schemas notices a type, a default, and a condition of an index."""
    shapes = []
    for number, column in enumerate(
        ("a INTEGER", "a INTEGER NOT NULL", "a VARCHAR", "a INTEGER, b FLOAT", "b INTEGER")
    ):
        path = tmp_path / f"{number}.db"
        ask(path, f"CREATE TABLE t ({column}, CHECK (1 < 2))")
        shapes.append(schema_of(path))
    assert all(shape != other for at, shape in enumerate(shapes) for other in shapes[:at])


def test_rows_survive_a_migration(tmp_path: Path, version: int) -> None:
    """No item, attempt or row is lost, and states, jobIds and hashes stay as they were."""
    path = tmp_path / "ledger.db"
    restore(path, version, tmp_path)
    kept = (
        "SELECT id, state, job_id, content_hash, size, position, attempts, http_status, error FROM items ORDER BY id",
        "SELECT item_id, number, outcome, job_id, admitted_at, ended_at FROM attempts ORDER BY item_id, number",
        "SELECT batch_id, line, item_id, conversation_id, audio_path FROM rows ORDER BY batch_id, line",
    )
    # version 2 has the time of the admission under another name
    admitted_at = "marked_at" if version == 2 else "admitted_at"
    before = [ask(path, statement.replace("admitted_at", admitted_at)) for statement in kept]
    Ledger.open_for_run(url(path)).close()
    assert [ask(path, statement) for statement in kept] == before
    assert len(before[2]) == 300


def test_a_copy_is_made_before(tmp_path: Path, version: int) -> None:
    """The copy has the old version and all of its rows, is its owner's alone, and replaces no other."""
    path = tmp_path / "ledger.db"
    for name in (f"ledger.db.version-{version}", f"ledger.db.version-{version}.2"):
        path.unlink(missing_ok=True)
        lock_path(path).unlink(missing_ok=True)
        restore(path, version, tmp_path)
        before = dump(path)
        Ledger.open_for_run(url(path)).close()
        assert dump(tmp_path / name) == before
        assert stat.S_IMODE((tmp_path / name).stat().st_mode) == 0o600
    assert {file.name for file in tmp_path.iterdir()} == {
        "ledger.db",
        "ledger.db.lock",
        f"ledger.db.version-{version}",
        f"ledger.db.version-{version}.2",
    }


def test_a_ledger_of_this_version_is_not_copied(tmp_path: Path) -> None:
    """Opening it again changes nothing and leaves nothing."""
    for _ in range(2):
        with Ledger.open_for_run(url(tmp_path / "ledger.db")) as ledger, ledger.writing():
            pass
    assert {file.name for file in tmp_path.iterdir()} == {"ledger.db", "ledger.db.lock"}


@pytest.mark.parametrize(
    ("statement", "error"),
    [
        ("SELECT * FROM nowhere", LedgerUnavailableError),
        ("DELETE FROM lanes WHERE id IN (SELECT lane_id FROM items)", RuntimeError),
    ],
)
def test_a_migration_that_fails_changes_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, statement: str, error: type[Exception]
) -> None:
    """A step that fails is rolled back, and one that breaks a foreign key fails."""
    path = tmp_path / "ledger.db"
    restore(path, OLDEST, tmp_path)
    before = dump(path)
    steps = (*STEPS[OLDEST + 1], "CREATE TABLE begun (id INTEGER)", statement)
    monkeypatch.setattr(migrations, "STEPS", {**STEPS, OLDEST + 1: steps})
    with pytest.raises(error):
        Ledger.open_for_run(url(path))
    assert dump(path) == before


def test_a_copy_that_cannot_be_made_stops_the_migration(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the copy nothing is migrated: exit 5, with what to do."""
    path = tmp_path / "ledger.db"
    restore(path, OLDEST, tmp_path)
    before = dump(path)

    def fail(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("uploader.ledger.sqlite.copy_beside", fail)
    with pytest.raises(LedgerUnavailableError, match=r"copied before its migration.*No space left"):
        Ledger.open_for_run(url(path))
    assert dump(path) == before


def test_a_ledger_from_before_the_first_that_can_be_migrated_is_told_so(tmp_path: Path) -> None:
    """It is told by its mark, whatever its tables are; it is not touched, and no other name is asked for."""
    path = tmp_path / "ledger.db"
    with closing(sqlite3.connect(path)) as connection:
        connection.executescript("CREATE TABLE ledger (version INTEGER NOT NULL); INSERT INTO ledger VALUES (1);")
    before = path.read_bytes()
    for way in (Ledger.open_for_run, Ledger.open_for_reading):
        with pytest.raises(UsageError, match="older than the first version that can be migrated") as told:
            way(url(path))
        assert "name another" not in str(told.value)
    assert path.read_bytes() == before


def test_whoever_reads_an_older_ledger_is_told_what_to_do(tmp_path: Path, version: int) -> None:
    """Reading changes nothing: the command that migrates is named."""
    path = tmp_path / "ledger.db"
    restore(path, version, tmp_path)
    with pytest.raises(UsageError, match=f"version {version}.*ledger upgrade"):
        Ledger.open_for_reading(url(path))
    assert ask(path, "SELECT version FROM ledger") == [(version,)]
