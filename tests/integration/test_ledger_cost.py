"""The ledger stays as fast as it was: what an item costs does not grow with what the ledger holds."""

import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Connection, text, update

from tests.integration.test_ledger import (
    BASE_URL,
    CUT,
    DOUBT_SECONDS,
    IDENTITY,
    LOST,
    THROTTLED,
    Book,
    accepted,
    executed,
    opened,
)
from uploader.ledger.claiming import Admission, Ahead, admit, claim
from uploader.ledger.lanes import INACTIVE, activate_batch, reweigh_lanes
from uploader.ledger.leases import OpenWorker
from uploader.ledger.limit import limit_facts
from uploader.ledger.loading import account, begin_load, load_rows, save_rules, was_begun
from uploader.ledger.outcomes import JobEnd, ReplyRecord, end_job, record_reply
from uploader.ledger.reading import latest_completed_jobs, live_jobs
from uploader.ledger.schema import lanes, workers
from uploader.ledger.workers import begin_worker, end_workers
from uploader.model import AudioFacts, Claim, FileSignature, JobStatus, Next, Order, Reply, Row
from uploader.policy.limits import Refusal
from uploader.policy.replies import judge

Step = Callable[[Connection], Any]
FEW, MANY = 40, 1200
SCAN = re.compile(r"\bSCAN (\w+)")


def fill(book: Book, lanes: int, items: int) -> None:
    """Load a manifest of so many lanes with so many items each, none of them sent."""
    rows = [
        Row(
            line=2 + lane * items + number,
            conversation_id=f"c{lane}",
            audio_path="x",
            path=f"/audio/{lane}-{number}.wav",
            signature=FileSignature(1000 + lane * items + number, "x"),
        )
        for lane in range(lanes)
        for number in range(items)
    ]
    with book.ledger.writing() as connection:
        load = begin_load(
            connection,
            account(connection, BASE_URL),
            "m.csv",
            manifest="m.csv",
            results=Path("r.csv"),
            extra_columns=[],
            now=1.0,
            repeat=False,
        )
        load_rows(connection, load, rows, content_hash=lambda _: None, probe=lambda _: AudioFacts())
        save_rules(connection, load.account_id, limit=10, holds=book.hold)
        book.begin_worker(connection, load)


def steps(book: Book, step: Step) -> tuple[Any, int]:
    """Return a step's answer, and the instructions of SQLite's virtual machine, which are the same everywhere."""
    counted = 0

    def count() -> int:
        nonlocal counted
        counted += 1
        return 0

    with book.ledger.writing() as connection:
        driver: Any = connection.connection.driver_connection
        driver.set_progress_handler(count, 1)
        try:
            answer = step(connection)
        finally:
            driver.set_progress_handler(None, 0)
    return answer, counted


def cost_of_a_life(book: Book, order: Order = Order.LONGEST_LANE_FIRST) -> dict[str, int]:
    """Return the cost of each step in the lives of four items."""
    cost = {}

    def claimed(wanted: int) -> list[Claim]:
        answer, cost[f"claim {wanted}"] = steps(
            book, lambda c: claim(c, 1, wanted, book.now, order, worker_id=book.worker_id)
        )
        return list(answer.claims)

    def settled(claim: Claim, reply: Reply, name: str) -> None:
        if reply.last_chunk_left:
            asked = [Admission(claim, "hash")]
            found, cost["admission"] = steps(book, lambda c: admit(c, 1, asked, 5, book.now, order=order))
            assert found.admitted == {claim.attempt_id}
        verdict = judge(reply, claim.conversation_id)
        refusal = Refusal() if verdict.next is Next.COOL_DOWN else None
        record = ReplyRecord(claim, verdict, reply, book.now, 1.0, DOUBT_SECONDS, refusal)
        _, cost[name] = steps(book, lambda c: record_reply(c, record))

    first, second, third, fourth = claimed(4)
    settled(first, accepted("j"), "accepted")
    settled(second, LOST, "in doubt")
    settled(third, CUT, "cut off")
    settled(fourth, THROTTLED, "throttled")
    ahead = Ahead(slots=5, lanes=[first.lane_id])
    _, cost["claim ahead"] = steps(
        book, lambda c: claim(c, 1, 2, book.now, order, ahead=ahead, worker_id=book.worker_id)
    )
    (job,), cost["live jobs"] = steps(book, lambda c: live_jobs(c, 1))
    ended: Step = lambda c: end_job(c, JobEnd(job, JobStatus.COMPLETED, book.now, 5.0))  # noqa: E731
    _, cost["job ended"] = steps(book, ended)
    found, cost["latest ends"] = steps(book, lambda c: latest_completed_jobs(c, 1))
    assert found
    _, cost["was begun"] = steps(book, lambda c: was_begun(c, 1)("c0", "/audio/0-0.wav", None))
    _, cost["limit"] = steps(book, lambda c: limit_facts(c, 1, 10, book.now))
    return cost


def assert_flat(few: dict[str, int], many: dict[str, int]) -> None:
    """Assert that every step costs about the same in both."""
    grown = {name: (few[name], many[name]) for name in few if many[name] > 1.5 * few[name] + 20}
    assert not grown


@pytest.fixture(params=[True, False], ids=["hold", "continue"])
def hold(request: pytest.FixtureRequest) -> bool:
    """Provide both settings of [lanes] on_trouble."""
    return bool(request.param)


@contextmanager
def filled(folder: Path, lanes: int, items: int, *, hold: bool) -> Iterator[Book]:
    """Give a ledger of so many lanes and items."""
    folder.mkdir()
    with opened(folder) as book:
        book.hold = hold
        fill(book, lanes, items)
        yield book


def test_the_cost_does_not_grow_with_the_lanes(tmp_path: Path, hold: bool) -> None:
    """Thirty times as many conversations: claim, admission, outcome and end of job cost what they did."""
    with filled(tmp_path / "few", FEW, 1, hold=hold) as few, filled(tmp_path / "many", MANY, 1, hold=hold) as many:
        assert_flat(cost_of_a_life(few), cost_of_a_life(many))


def test_the_cost_does_not_grow_with_a_lane(tmp_path: Path, hold: bool) -> None:
    """All steps cost the same with thirty times as many items in each active lane."""
    with filled(tmp_path / "few", 4, FEW, hold=hold) as few, filled(tmp_path / "many", 4, MANY, hold=hold) as many:
        assert_flat(cost_of_a_life(few), cost_of_a_life(many))


def test_the_cost_does_not_grow_with_the_nights_before(tmp_path: Path, hold: bool) -> None:
    """All steps cost the same after thirty times as many completed items in the same lanes."""
    costs = []
    for name, items in (("few", FEW), ("many", MANY)):
        with filled(tmp_path / name, 4, items, hold=hold) as book:
            with book.ledger.writing() as connection:
                done = text("UPDATE items SET state = 'completed', attempts = 1, job_id = 'j' || id, job_seconds = 1")
                connection.execute(done)
            load = book.load([(f"c{lane}", "a.wav") for lane in range(4)], "tuesday.csv")
            costs.append(cost_of_a_life(book))
            assert book.states(load)
    assert_flat(*costs)


def test_looking_without_free_hands_costs_the_same_in_any_ledger(tmp_path: Path) -> None:
    """A claim without free workers does not read all lanes."""
    with filled(tmp_path / "few", FEW, 1, hold=True) as few, filled(tmp_path / "many", MANY, 1, hold=True) as many:
        cost = [steps(book, lambda c: claim(c, 1, 0, 1.0, worker_id=1))[1] for book in (few, many)]
    assert cost[1] <= 1.5 * cost[0] + 20


def test_looking_with_a_full_account_costs_the_same_in_any_ledger(tmp_path: Path) -> None:
    """A claim without free slots does not read all lanes."""
    cost = []
    with filled(tmp_path / "few", FEW, 1, hold=True) as few, filled(tmp_path / "many", MANY, 1, hold=True) as many:
        for book in (few, many):
            book.limit = 3
            assert len(book.claim()) == 3
            cost.append(steps(book, lambda c: claim(c, 1, 10, 1.0, worker_id=1))[1])
    assert cost[1] <= 1.5 * cost[0] + 20


def test_a_row_costs_the_same_to_load_into_any_ledger(tmp_path: Path) -> None:
    """A load costs the same with thirty times as many items in the ledger that its rows do not name."""
    cost = []
    rows = [
        Row(2 + n, f"new-{n}", "x", f"/audio/new-{n}.wav", signature=FileSignature(1000 + n, "x")) for n in range(FEW)
    ]
    with filled(tmp_path / "few", FEW, 1, hold=True) as few, filled(tmp_path / "many", MANY, 1, hold=True) as many:
        for book in (few, many):
            load: Step = lambda c: load_rows(  # noqa: E731
                c,
                begin_load(
                    c,
                    1,
                    "tuesday.csv",
                    manifest="tuesday.csv",
                    results=Path("r.csv"),
                    extra_columns=[],
                    now=1.0,
                    repeat=False,
                ),
                rows,
                content_hash=lambda _: None,
                probe=lambda _: AudioFacts(),
            )
            cost.append(steps(book, load)[1])
    assert cost[1] <= 1.2 * cost[0]


def test_a_part_of_a_batch_is_chosen_once_not_once_a_lane(tmp_path: Path, hold: bool) -> None:
    """The cost of `--first` grows with the number of lanes, not with its square."""
    cost = []
    with filled(tmp_path / "few", FEW, 1, hold=hold) as few, filled(tmp_path / "many", MANY, 1, hold=hold) as many:
        for book in (few, many):
            with book.ledger.writing() as connection:
                connection.execute(update(lanes).values(INACTIVE))
                # else its worker would want the whole batch
                connection.execute(update(workers).values(until_position=0))
            cost.append(steps(book, lambda c: activate_batch(c, 1, 1, first=7))[1])
            assert len(book.claim()) == 7
    assert cost[1] <= 1.5 * cost[0] * MANY / FEW


@contextmanager
def with_a_second_worker(folder: Path, lanes: int) -> Iterator[tuple[Book, int]]:
    """Provide a ledger of so many lanes, whose one batch a second worker wants, too; it carries four items."""
    with filled(folder, lanes, 2, hold=True) as book:
        with book.ledger.writing() as connection:
            other = begin_worker(connection, 1, 1, IDENTITY, book.now)
            begun = claim(connection, 1, 4, book.now, Order.MANIFEST, worker_id=other).claims
            asked = [Admission(claimed, "hash") for claimed in begun[:2]]
            assert len(admit(connection, 1, asked, 4, book.now, order=Order.MANIFEST).admitted) == 2
        yield book, other


def test_the_end_of_one_of_a_batchs_workers_costs_the_same_with_many_lanes(tmp_path: Path) -> None:
    """What it carried is settled; what it wanted is wanted still, and nobody waits for a look at all its lanes."""
    cost = []
    for number in (FEW, MANY):
        with with_a_second_worker(tmp_path / str(number), number) as (book, other):
            ended = [OpenWorker(other, 1, "", 0.0)]
            settled, counted = steps(book, partial(end_workers, ended=ended, now=2.0, doubt_seconds=9.0, account_id=1))
            assert settled == (2, 2)
            cost.append(counted)
    assert cost[1] <= 1.2 * cost[0]


def test_a_takeover_reads_no_whole_table(tmp_path: Path) -> None:
    """SQLite finds what ended workers have left by an index, for one account and for all."""
    with with_a_second_worker(tmp_path / "few", FEW) as (book, other):
        with executed(book) as statements:
            for worker_id, account_id in ((other, 1), (book.worker_id, None)):
                ended = [OpenWorker(worker_id, 1, "", 0.0)]
                with book.ledger.writing() as connection:
                    end_workers(connection, ended, 2.0, DOUBT_SECONDS, 7200.0, account_id=account_id)
        assert sum("LEFT OUTER JOIN" in statement for statement, _ in statements) == 4
        with book.ledger.writing() as connection:
            for statement, parameters in statements:
                if statement.startswith(("SELECT", "UPDATE")):
                    plan = connection.exec_driver_sql(f"EXPLAIN QUERY PLAN {statement}", parameters).all()
                    assert not {table for row in plan for table in SCAN.findall(row[3])} & {"items", "attempts"}, plan


def test_lanes_are_ordered_anew_at_a_cost_of_the_lanes_not_of_their_items(tmp_path: Path) -> None:
    """Reweighing costs the same with thirty times as many items in each lane."""
    with filled(tmp_path / "few", 4, FEW, hold=True) as few, filled(tmp_path / "many", 4, MANY, hold=True) as many:
        cost = [steps(book, lambda c: reweigh_lanes(c, 1, 3.0))[1] for book in (few, many)]
    assert cost[1] <= 1.1 * cost[0]


@pytest.mark.parametrize("order", Order)
def test_no_step_of_an_item_reads_a_whole_table(tmp_path: Path, order: Order) -> None:
    """SQLite's plan of every statement in an item's life uses an index only, and sorts no lanes in either order."""
    with filled(tmp_path / "few", FEW, 2, hold=True) as book:
        with executed(book) as statements:
            cost_of_a_life(book, order)
        explained = [
            statement for statement in statements if statement[0].startswith(("SELECT", "UPDATE", "INSERT", "DELETE"))
        ]
        assert len(explained) > 10
        with book.ledger.writing() as connection:
            for statement, parameters in explained:
                plan = connection.exec_driver_sql(f"EXPLAIN QUERY PLAN {statement}", parameters).all()
                scanned = {table for row in plan for table in SCAN.findall(row[3])}
                assert not scanned & {"items", "lanes", "rows", "attempts", "before", "pending"}, statement
                assert not any("TEMP B-TREE FOR ORDER" in row[3] for row in plan), statement
