"""No command becomes slower by former nights: SQLite's own plans and counts of all statements that commands execute."""

import json
import re
import sqlite3
import sys
from collections.abc import Iterator, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Engine, create_engine, event, insert

from tests.benchmarks.bench import Bench, Server
from tests.benchmarks.measures.ledger import ENVIRONMENT, Place, filled, sandbox, write_manifest
from uploader.ledger import Ledger, schema
from uploader.ledger.claiming import claim
from uploader.ledger.reading import find_batches
from uploader.status.snapshot import SnapshotReader, SnapshotSource

NIGHTS = 20
# what statements differ by that are written in groups; to read 20,000 rows takes more than ten times as many
SLACK = 200
# how commands end where an item of a former night is refused, another in doubt
ENDED = (0, 1, 4)
SCAN = re.compile(r"^SCAN (?:main\.)?([\w.]+)(?: USING (?:COVERING )?INDEX (\w+))?")
# tables that former nights do not fill, and what a statement has put together before
SMALL = re.compile(
    r"accounts|batch_account|ledger|json_each|ready|staged|apart|found|met|temp\.\w+|compared|groups|taken|CONSTANT|anon_\d+"
)
# indexes that hold what is not over, or is to be told
PARTIAL = {"items_unfinished", "items_anomaly", "items_invalid", "lanes_active"}


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """Provide a service whose jobs are over at once."""
    with sandbox(Bench(tmp_path_factory.mktemp("sandbox"))) as server:
        yield server


def explained(bench: Bench, place: Place, server: Server) -> dict[str, dict[str, Any]]:
    """Return the statements of each command with plan and instructions, on a manifest of its own."""
    write_manifest(place.folder, "new", 0)
    words = ("-m", "tests.integration.explained", "new", place.url)
    used = bench.run(place.folder, "commands", sys.executable, *words, server=server, environment=ENVIRONMENT).check()
    found = json.loads(used.out.read_text(encoding="utf-8"))
    for name, entry in found.items():
        assert entry["code"] in ENDED, f"{name}: {used.err.read_text(encoding='utf-8')}"
        assert len(entry["statements"]) > 1, name
    return {name: entry["statements"] for name, entry in found.items()}


def prepare(place: Place, *, analyzed: bool) -> None:
    """Prepare items that need a person, and statistics for SQLite's planner, as a person's own tool would."""
    with closing(sqlite3.connect(place.folder / "ledger.db")) as connection:
        connection.execute("UPDATE items SET state = 'in_doubt', finished_at = NULL, job_seconds = NULL WHERE id = 7")
        connection.execute("UPDATE items SET state = 'refused', anomaly = 'twice', job_seconds = NULL WHERE id = 8")
        if analyzed:
            connection.execute("ANALYZE")
        connection.commit()


def scans(statement: str, plan: Sequence[str]) -> Iterator[str]:
    """Return the lines of a plan that scan a table, or an index of all nights."""
    for line in plan:
        for table, index in SCAN.findall(line):
            # the children of a new row are looked for where a constraint is broken
            of_constraint = statement.startswith("INSERT") and "VALUES" in statement
            is_cut_short = index == "batches_ran_at" and "LIMIT" in statement
            if not (index in PARTIAL or SMALL.fullmatch(table) or of_constraint or is_cut_short):
                yield line


def grows(statement: str, few: int, many: int) -> bool:
    """Return True where a statement runs more instructions after more nights.

    What insights ask of one conversation depends on what that one was appended: so does what the service makes of it.
    """
    return many > 1.5 * few + SLACK and "last_finished_at" not in statement


@pytest.mark.parametrize("analyzed", [False, True], ids=["without statistics", "with statistics"])
def test_no_command_reads_what_former_nights_left(tmp_path: Path, server: Server, analyzed: bool) -> None:
    """Of 20,000 finished items no statement scans a table, and none runs more instructions than with 1,000."""
    bench = Bench(tmp_path)
    few, many = filled(bench, server, 1), filled(bench, server, NIGHTS)
    for place in (few, many):
        prepare(place, analyzed=analyzed)
    beside, found = (explained(bench, place, server) for place in (few, many))
    wrong = []
    for name, statements in found.items():
        for statement, entry in statements.items():
            wrong += [f"{name}: {line}: {statement}" for line in scans(statement, entry["plan"])]
            other = beside[name].get(statement, entry)
            if grows(statement, other["steps"], entry["steps"]):
                wrong.append(f"{name}: {entry['steps']} for {other['steps']}: {entry['plan']}: {statement}")
    assert not wrong, "\n\n".join(re.sub(r"\s+", " ", plan) for plan in wrong)


@pytest.mark.parametrize("analyzed", [False, True], ids=["without statistics", "with statistics"])
def test_the_status_page_reads_no_former_night(tmp_path: Path, server: Server, analyzed: bool) -> None:
    """No statement of a snapshot scans a table, whether attempts were open at the one before it or not."""
    place = filled(Bench(tmp_path), server, 2)
    prepare(place, analyzed=analyzed)
    plans: dict[str, list[str]] = {}

    def explain(_: object, cursor: Any, statement: str, parameters: Any, *__: object) -> None:
        if statement.startswith(("SELECT", "WITH")):
            found = cursor.connection.execute(f"EXPLAIN QUERY PLAN {statement}", parameters).fetchall()
            plans[statement] = [line[3] for line in found]

    with Ledger.open_for_reading(place.url) as ledger:
        with ledger.reading() as connection:
            batch = find_batches(connection, most=1)[0]
        source = SnapshotSource(
            reading=ledger.reading, account_ids=[batch.account_id], batch_ids=[batch.batch_id], ledger=place.url
        )
        reader = SnapshotReader(source)
        event.listen(Engine, "before_cursor_execute", explain)
        try:
            reader.read(fresh=True)
            reader.read(fresh=True)
        finally:
            event.remove(Engine, "before_cursor_execute", explain)
    assert any("items_unfinished" in line for plan in plans.values() for line in plan)
    assert {statement: found for statement, plan in plans.items() if (found := list(scans(statement, plan)))} == {}


@pytest.mark.parametrize("ready", [0, 3])
def test_a_claim_scans_no_lanes_whatever_statistics_say(ready: int) -> None:
    """With statistics of 2,000 lanes that have nothing ready, or three that have, a claim searches its indexes."""
    engine = create_engine("sqlite://")
    plans: list[str] = []
    with engine.connect() as connection:
        schema.metadata.create_all(connection)
        connection.execute(insert(schema.accounts), [{"id": 1, "base_url": "http://localhost", "name": "default"}])
        lanes = [
            {"id": one, "account_id": 1, "conversation_id": f"c{one}", "ready_position": one if one <= ready else None}
            for one in range(1, 2_001)
        ]
        connection.execute(insert(schema.lanes), lanes)
        connection.exec_driver_sql("ANALYZE")

        def explain(_: object, cursor: Any, statement: str, parameters: Any, *__: object) -> None:
            if statement.startswith("SELECT"):
                rows = cursor.connection.execute(f"EXPLAIN QUERY PLAN {statement}", parameters).fetchall()
                plans.extend(f"{row[3]}: {statement}" for row in rows)

        event.listen(engine, "before_cursor_execute", explain)
        # positions without an item, so that nothing begins and all questions are asked
        claim(connection, 1, 5, now=1.0, worker_id=1)
    assert any("lanes_ready" in plan for plan in plans)
    assert [plan for plan in plans if plan.startswith("SCAN lanes")] == []
