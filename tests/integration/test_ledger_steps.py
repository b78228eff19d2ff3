"""A load is merged in short steps: others work between them, a death loses nothing, and one at a time adds items."""

import csv
import json
import threading
import wave
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
from sqlalchemy import Connection, and_, func, select, update

from tests.integration.test_ledger import BASE_URL, NOT_FOUND, Book
from uploader.cli.inspecting import show_status, write_results
from uploader.cli.planning import PlanOptions, plan_manifest
from uploader.client import Credentials
from uploader.errors import LedgerAwayError, LedgerBusyError, LedgerUnavailableError, UploaderError, UsageError
from uploader.ledger import Ledger, load_leases, loading, schema, steps
from uploader.ledger.lanes import activate_account
from uploader.ledger.leases import OpenWorker
from uploader.ledger.load_leases import LoadLease, take_accounts
from uploader.ledger.orphans import find_orphans
from uploader.ledger.pruning import Prunable, find_prunable, prune
from uploader.ledger.schema import batches, items, lanes, loads, rows, workers
from uploader.ledger.staging import Stage
from uploader.ledger.workers import begin_worker, end_worker, release_lanes, take_over
from uploader.model import State
from uploader.run import activation, manifest_load
from uploader.run.activation import Prepared, take_part
from uploader.run.loading import prepare
from uploader.run.startup import Startup
from uploader.run.target import Target
from uploader.settings import Settings
from uploader.settings.tables import Account, Lanes

SECONDS = 30.0
DEAD = "dead"
Pair = tuple[str, str]


@dataclass
class Ground:
    """A folder of recordings, and a ledger that runs load manifests into."""

    folder: Path
    url: str
    ledgers: ExitStack = field(default_factory=ExitStack)

    def open(self, process: str = "") -> Ledger:
        """Open the ledger for one more run; a process of the name ``DEAD`` counts as dead."""
        ledger = self.ledgers.enter_context(Ledger.open_for_run(self.url))
        ledger.process = process or ledger.process
        return ledger

    def write(self, pairs: Sequence[Pair], name: str = "m.csv", contents: Mapping[str, str] = {}) -> None:
        """Write a manifest of these rows (conversation, file), and the recordings that are missing."""
        with (self.folder / name).open("w", newline="", encoding="utf-8") as file:
            csv.writer(file).writerows([("conversationId", "audioPath"), *pairs])
        for _, path in pairs:
            if not (self.folder / path).exists():
                (self.folder / path).write_text(path, encoding="utf-8")
        for path, content in contents.items():
            (self.folder / path).write_text(content, encoding="utf-8")

    def load(self, ledger: Ledger, name: str | None = "m.csv", **more: Any) -> Prepared:
        """Do all that a run does before its first claim."""
        own = {"batch": "m.csv", "results": self.folder / "r.csv", **more}
        settings = Settings(ledger=self.url, base_url=BASE_URL, **own)
        target = Target(settings, BASE_URL, Credentials("id", "secret"))
        manifest = None if name is None else str(self.folder / name)
        return prepare(settings, manifest, ledger, [target], lambda: None)


@pytest.fixture
def ground(tmp_path: Path, database_url: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[Ground]:
    """Provide a ground whose loads take one row, or one lane, a step."""
    monkeypatch.setattr(steps, "FIRST_SIZE", 1)
    monkeypatch.setattr(steps, "LEAST_SIZE", 1)
    monkeypatch.setattr(steps, "GROWTH", 1.0)
    monkeypatch.setattr(manifest_load, "LOOK_SECONDS", 0.01)
    if database_url.startswith("postgresql"):
        monkeypatch.setattr("uploader.ledger.postgres.PostgresLedger.is_gone", lambda _, process: process == DEAD)
    made = Ground(tmp_path, database_url)
    with made.ledgers:
        yield made


def after_each_step(ledger: Ledger, act: Callable[[int], object]) -> AbstractContextManager[object]:
    """Call a function with the step's number after each step of this ledger's loads."""
    locking, done = ledger.locking, iter(range(1, 1000))

    @contextmanager
    def watched(*given: Any) -> Iterator[object]:
        with locking(*given) as step:
            yield step
        act(next(done))

    return mock.patch.object(ledger, "locking", watched)


class _Death(ExitStack):
    """The death of a process after so many steps: nothing of it reaches the ledger any more."""

    def __init__(self, ledger: Ledger, after: int) -> None:
        super().__init__()
        self.has_come = False

        def die(number: int) -> None:
            if number == after:
                self.has_come = True
                for name in ("locking", "writing"):
                    self.enter_context(mock.patch.object(ledger, name, self._refuse))
                raise LedgerUnavailableError(DEAD)

        self.enter_context(after_each_step(ledger, die))

    @staticmethod
    def _refuse(*_: Any) -> Any:
        raise LedgerUnavailableError(DEAD)


def _speak(path: Path, seconds: int) -> None:
    """Write a recording of so many seconds."""
    with wave.open(str(path), "wb") as file:
        file.setparams((1, 1, 8000, 0, "NONE", ""))
        file.writeframes(bytes(seconds * 8000))


class _UndoneError(Exception):
    """The end of a transaction that is not to be kept."""


def heads(ledger: Ledger) -> dict[str, str]:
    """Return the file that each lane would begin next, were everything in the ledger to be sent."""
    found: dict[str, str] = {}
    with suppress(_UndoneError), ledger.writing() as connection:
        for account_id in connection.execute(select(schema.accounts.c.id)).scalars().all():
            activate_account(connection, account_id)
        is_head = items.c.position == lanes.c.ready_position
        of_lanes = select(lanes.c.conversation_id, items.c.path).join(
            items, and_(items.c.lane_id == lanes.c.id, is_head)
        )
        found = {lane: Path(path).name for lane, path in connection.execute(of_lanes)}
        raise _UndoneError
    return found


def picture(ledger: Ledger) -> dict[str, Any]:
    """Return all that a load leaves in a ledger, without ids."""
    with ledger.reading() as connection:
        named = connection.execute(
            select(batches.c.name, rows.c.line, lanes.c.conversation_id, items.c.path, items.c.state, items.c.size)
            .join_from(rows, batches)
            .join(items, items.c.id == rows.c.item_id)
            .join(lanes, lanes.c.id == items.c.lane_id)
            .order_by(batches.c.name, rows.c.line)
        ).all()
        order = connection.execute(
            select(
                lanes.c.conversation_id,
                items.c.path,
                items.c.state,
                (items.c.position <= lanes.c.active_until).label("is_active"),
                (items.c.position == lanes.c.ready_position).label("is_ready"),
                lanes.c.items_left,
            )
            .join(items, items.c.lane_id == lanes.c.id)
            .order_by(lanes.c.conversation_id, items.c.position)
        ).all()
        return {
            "rows": [tuple(row) for row in named],
            "lanes": [tuple(row) for row in order],
            "orphans": [tuple(found.counts.items()) for found in find_orphans(connection, 1)],
        }


FIRST = [("x", "a.wav"), ("y", "b.wav"), ("x", "c.wav"), ("x", "a.wav"), ("z", "d.wav")]


@dataclass(frozen=True)
class Night:
    """A manifest that is loaded after another one, with what has become of that one's items and files meanwhile."""

    pairs: Sequence[Pair]
    states: Mapping[str, State] = field(default_factory=dict)
    contents: Mapping[str, str] = field(default_factory=dict)
    settings: Mapping[str, Any] = field(default_factory=dict)


NIGHTS = {
    "same": Night(FIRST),
    "completed": Night(FIRST, dict.fromkeys(("a.wav", "b.wav", "c.wav"), State.COMPLETED)),
    "reversed": Night(FIRST[::-1]),
    "more": Night([("x", "e.wav"), *FIRST, ("w", "f.wav")]),
    "fewer": Night(FIRST[1:3]),
    "edited": Night(FIRST, {"b.wav": State.REFUSED}, {"a.wav": "edited", "b.wav": "mended"}),
    "repeat": Night(FIRST, {"a.wav": State.COMPLETED}, settings={"repeat": True}),
    "part": Night(FIRST[::-1], {"b.wav": State.COMPLETED}, settings={"first": 2}),
    "invalid": Night([*FIRST, ("x", "gone.wav"), ("y", "g.wav")], settings={"on_invalid": "skip"}),
    "corrected": Night([("x", "gone.wav"), *FIRST], contents={"gone.wav": "back"}, settings={"on_invalid": "skip"}),
    "left out": Night(FIRST, settings={"on_invalid": "skip"}),
}


def begin_night(ground: Ground, night: Night) -> None:
    """Load the first manifest, and let be what has become of it; the files are what they are then."""
    ground.write(FIRST)
    ledger = ground.open(DEAD)
    if night.settings.get("on_invalid") == "skip":
        ground.write([("x", "gone.wav"), *FIRST, ("y", "gone.wav")])
        (ground.folder / "gone.wav").unlink()
    ground.load(ledger, on_invalid=night.settings.get("on_invalid", "refuse"))
    with ledger.writing() as connection:
        for name, state in night.states.items():
            of_name = update(items).where(items.c.path.endswith(name))
            connection.execute(of_name.values(state=state, attempts=1, job_id=None))
    ground.write(night.pairs, contents=night.contents)
    if "gone.wav" not in night.contents:
        (ground.folder / "gone.wav").unlink(missing_ok=True)


@pytest.mark.parametrize(
    ("database_url", "name"),
    [
        pytest.param(database, name, marks=() if name in shown else pytest.mark.nightly)
        for database, names, shown in (
            ("sqlite", NIGHTS, ("more", "fewer", "edited", "repeat", "part", "invalid")),
            ("postgres", ("same", "edited", "part", "corrected"), ("edited", "corrected")),
        )
        for name in names
    ],
    indirect=["database_url"],
)
def test_a_load_that_died_between_two_steps_is_carried_on_by_the_same_command(
    tmp_path: Path, ground: Ground, name: str
) -> None:
    """Wherever it dies, the same command leaves the ledger as a load in one go does: nothing twice, nothing lost.

    In between a lane begins nothing but what it could begin before the load or can after it, whoever sends.
    """
    night = NIGHTS[name]
    reference = Ground(tmp_path, f"sqlite:///{tmp_path}/reference.db")
    with reference.ledgers:
        begin_night(reference, night)
        ledger = reference.open()
        before = heads(ledger)
        reference.load(ledger, **night.settings)
        expected, after_it = picture(ledger), heads(ledger)
    assert expected["rows"]
    for path in tmp_path.glob("?.wav"):
        path.unlink()
    begin_night(ground, night)
    ledgers = [ground.open(DEAD) for _ in range(2)]
    deaths = 0
    for after in range(1, 100):
        with _Death(ledgers[after % 2], after) as death, suppress(LedgerUnavailableError):
            ground.load(ledgers[after % 2], **night.settings)
        if not death.has_come:
            break
        deaths += 1
        now = heads(ledgers[0])
        assert [(lane, head) for lane, head in now.items() if head not in (before.get(lane), after_it.get(lane))] == []
    assert deaths > len(night.pairs)
    assert picture(ledgers[0]) == expected


def test_a_lane_of_an_account_that_a_reload_names_no_more_goes_on(ground: Ground) -> None:
    """What an invalid row held goes on once its row has been taken out, under the lock of its account."""
    loader = ground.open()

    def load(name: str, *given: tuple[str, str, str]) -> None:
        with (ground.folder / name).open("w", newline="", encoding="utf-8") as file:
            csv.writer(file).writerows([("conversationId", "audioPath", "account"), *given])
        own = Settings(
            ledger=ground.url,
            base_url=BASE_URL,
            batch=name,
            results=ground.folder / f"{name}.results.csv",
            on_invalid="skip",
            accounts={"b": Account()},
        )
        targets = [Target(one, BASE_URL, Credentials("id", "secret")) for one in own.of_accounts]
        prepare(own, str(ground.folder / name), loader, targets, lambda: None)

    ground.write([("x", "y.wav"), ("x", "z.wav")])
    load("m.csv", ("x", "gone.wav", "b"), ("y", "y.wav", ""))
    load("n.csv", ("x", "z.wav", "b"))
    with loader.reading() as connection:
        of_b = connection.execute(select(schema.accounts.c.id).where(schema.accounts.c.name == "b")).scalar_one()
        ready = select(lanes.c.ready_position).where(lanes.c.account_id == of_b, lanes.c.active_until > 0)
        assert connection.execute(ready).scalar_one() is None
    locked, locking = list[Collection[int]](), loader.locking

    def watched(connection: Connection, account_ids: Collection[int]) -> AbstractContextManager[object]:
        locked.append(account_ids)
        return locking(connection, account_ids)

    with mock.patch.object(loader, "locking", watched):
        load("m.csv", ("y", "y.wav", ""))
    assert locked
    assert all(of_b in account_ids for account_ids in locked)
    with loader.reading() as connection:
        assert connection.execute(ready).scalar_one() is not None


def test_others_claim_and_end_items_while_a_load_merges(ground: Ground) -> None:
    """Between any two steps another run of the account claims, admits and ends an item, and waits for nothing."""
    others = [(f"other-{number}", f"o{number}.wav") for number in range(40)]
    ground.write(others, "other.csv")
    beside = ground.open()
    prepared = ground.load(beside, "other.csv", batch="other.csv", results=ground.folder / "o.csv")
    book = Book(ground.folder, beside)
    book.now, book.worker_id = prepared.now(), prepared.accounts[0].worker_id
    ground.write(FIRST)
    loader, done = ground.open(), list[int]()

    def work(_: int) -> None:
        with _impatient(beside):
            begun = book.claim(1)[0]
            book.complete(begun)
        done.append(begun.item_id)

    with after_each_step(loader, work):
        ground.load(loader)
    # the begin, the end, and each row and each lane at least
    assert len(set(done)) == len(done) >= len(FIRST) + 3 + 2
    assert [state for *_, state, _ in picture(loader)["rows"] if state == "pending"][: len(FIRST)] == ["pending"] * 5


@contextmanager
def _impatient(ledger: Ledger) -> Iterator[None]:
    """Let a ledger's transactions wait for nobody in the block."""
    with mock.patch("uploader.ledger.sqlite.BUSY_SECONDS", 0.0):
        engine = ledger._engine
        if engine.dialect.name == "sqlite":
            yield
            return
        with ledger.writing(lambda _: []) as connection:
            connection.exec_driver_sql("SET lock_timeout = 1")
        yield


def _settled(threads: Sequence[threading.Thread]) -> None:
    for thread in threads:
        thread.join(SECONDS)
    assert not [thread for thread in threads if thread.is_alive()]


class _Awaited:
    """The runs that have found another one loading."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._count = 0

    def note(self, event: str, **_: Any) -> None:
        """Take an event of the log."""
        if event == "load.awaited":
            with self._changed:
                self._count += 1
                self._changed.notify_all()

    def until(self, count: int) -> None:
        """Wait until so many runs wait."""
        with self._changed:
            assert self._changed.wait_for(lambda: self._count >= count, SECONDS)


def staged_when(act: Callable[[], object]) -> AbstractContextManager[Any]:
    """Call a function before any manifest is staged."""
    add = Stage.add

    def watched(stage: Stage, *given: Any, **more: Any) -> None:
        act()
        add(stage, *given, **more)

    return mock.patch.object(Stage, "add", watched)


@pytest.mark.parametrize("is_same", [True, False])
def test_of_several_runs_with_one_manifest_one_loads_and_all_take_part(ground: Ground, is_same: bool) -> None:
    """Who finds another run loading the same manifest waits and joins; another manifest of the name is loaded after."""
    ground.write(FIRST)
    ground.write(FIRST if is_same else FIRST[1:], "again.csv")
    awaited, staged, found = _Awaited(), list[threading.Thread](), list[Prepared]()
    runs = 4 if is_same else 2

    def stage() -> None:
        staged.append(threading.current_thread())
        if len(staged) == 1:
            awaited.until(runs - 1)

    def run(ledger: Ledger, name: str) -> None:
        found.append(ground.load(ledger, name))

    ledgers = [ground.open() for _ in range(runs)]
    with staged_when(stage), mock.patch.object(manifest_load.log, "info", awaited.note):
        threads = [threading.Thread(target=run, args=(ledger, "again.csv")) for ledger in ledgers]
        threads[0] = threading.Thread(target=run, args=(ledgers[0], "m.csv"))
        threads[0].start()
        _until(lambda: bool(staged))
        for thread in threads[1:]:
            thread.start()
        _settled(threads)
    assert len(staged) == (1 if is_same else 2)
    assert len({prepared.batch.batch_id for prepared in found}) == 1
    assert len({prepared.accounts[0].worker_id for prepared in found}) == len(found) == runs
    with ledgers[0].reading() as connection:
        assert connection.execute(select(func.count()).select_from(loads)).scalar_one() == len(staged)
        lines = connection.execute(select(func.count()).select_from(rows)).scalar_one()
        assert lines == (len(FIRST) if is_same else len(FIRST) - 1)
        ready = connection.execute(select(func.count()).where(lanes.c.ready_position.is_not(None))).scalar_one()
        assert ready == 3


def _until(condition: Callable[[], bool]) -> None:
    waiting = threading.Event()
    for _ in range(int(SECONDS / 0.01)):
        if condition():
            return
        waiting.wait(0.01)
    raise AssertionError("it did not come about")


def test_the_load_of_a_dead_run_is_taken_over(ground: Ground) -> None:
    """A run that died while it read its manifest holds nobody up, and leaves nothing of it."""
    ground.write(FIRST)
    dead, alive = ground.open(DEAD), ground.open()

    def die() -> None:
        raise LedgerUnavailableError(DEAD)

    with staged_when(die), mock.patch.object(manifest_load, "end_lease"), pytest.raises(LedgerUnavailableError):
        ground.load(dead)
    with alive.reading() as connection:
        assert connection.execute(select(schema.load_leases.c.process)).scalar_one() == DEAD
        assert connection.execute(select(batches)).first() is None
    ground.load(alive)
    assert len(picture(alive)["rows"]) == len(FIRST)


@pytest.mark.parametrize("first", [None, 1])
def test_a_batch_whose_load_was_interrupted_is_not_carried_on_without_its_manifest(
    ground: Ground, first: int | None
) -> None:
    """A part of a batch is none: the command says that the manifest is to be loaded; after that it carries on."""
    ground.write(FIRST)
    dead, alive = ground.open(DEAD), ground.open()
    with _Death(dead, 4), pytest.raises(LedgerUnavailableError):
        ground.load(dead)
    with pytest.raises(UsageError, match="its load was interrupted: `uploader run MANIFEST`"):
        ground.load(alive, None)
    ground.load(alive)
    ground.load(alive, None, first=first)
    assert len(picture(alive)["rows"]) == len(FIRST)


@pytest.mark.parametrize("dies", [False, True])
@pytest.mark.parametrize("before", ["loading.carry_on", "activation.take_part"])
def test_a_run_that_begins_while_another_one_loads_waits_for_all_rows(ground: Ground, before: str, dies: bool) -> None:
    """A load may begin between a run's look at the batch and its worker's begin: it is waited for, to its end."""
    ground.write(FIRST)
    run, loader = ground.open(), ground.open(DEAD)
    ground.load(loader)
    ground.write([*FIRST, ("w", "w.wav")])
    begin, loaded = getattr(activation, before.partition(".")[2]), list[bool]()

    def begin_later(*given: Any) -> Prepared:
        if not loaded:
            with _Death(loader, 4 if dies else 1000) as death, suppress(LedgerUnavailableError):
                ground.load(loader)
            loaded.append(not death.has_come)
        prepared: Prepared = begin(*given)
        return prepared

    with mock.patch(f"uploader.run.{before}", begin_later):
        if dies:
            with pytest.raises(UsageError, match="its load was interrupted"):
                ground.load(run, None)
        else:
            assert ground.load(run, None).sending.own.files == len(FIRST) + 1
    assert loaded == [not dies]
    with run.reading() as connection:
        begun = connection.execute(select(workers.c.process).where(workers.c.ended_at.is_(None))).scalars().all()
    assert (run.process in begun) is not dies


@pytest.mark.parametrize("is_found_before", [True, False])
def test_a_run_that_begins_beside_a_prune_has_all_rows_or_is_refused(ground: Ground, *, is_found_before: bool) -> None:
    """Between its begin and its worker's: a prune that looked before leaves the batch alone, a later one refuses it."""
    ground.write(FIRST)
    ledger, other = ground.open(), ground.open()
    prepared = ground.load(ledger)
    with ledger.writing() as connection:
        done = {"state": State.COMPLETED, "attempts": 1, "finished_at": 1.0, "content_hash": "h"}
        connection.execute(update(items).values(done))
        connection.execute(update(workers).values(ended_at=1.0))
        connection.execute(update(batches).values(ran_at=2.0))
        connection.execute(update(loads).values(loaded_at=2.0))
    before = 3.0 if is_found_before else prepared.now() + SECONDS

    def find() -> Prunable:
        with other.reading() as connection:
            return find_prunable(connection, before)

    found = find() if is_found_before else None

    def take_part_later(*given: Any) -> Prepared:
        prune(other, found or find(), before, before)
        return take_part(*given)

    with mock.patch("uploader.run.activation.take_part", take_part_later):
        if is_found_before:
            ground.load(ledger, None)
        else:
            with pytest.raises(UsageError, match="its rows were forgotten"):
                ground.load(ledger, None)
    with other.reading() as connection:
        left = connection.execute(select(func.count()).select_from(rows)).scalar_one()
        begun = connection.execute(select(func.count()).select_from(workers).where(workers.c.ended_at.is_(None)))
        assert (left, begun.scalar_one()) == ((len(FIRST), 1) if is_found_before else (0, 0))


@pytest.mark.parametrize("has_completed", [False, True])
@pytest.mark.parametrize("after", [1, 3])
def test_a_batch_that_is_loaded_in_part_is_neither_over_nor_written(
    ground: Ground, capsys: pytest.CaptureFixture[str], after: int, *, has_completed: bool
) -> None:
    """Status exits with 6 while the load goes on and 5 after its death, whatever is there; results are refused (2)."""
    dead = ground.open()
    if has_completed:
        ground.write(FIRST[:1])
        ground.load(dead)
        with dead.writing() as connection:
            done = {"state": State.COMPLETED, "attempts": 1, "job_id": "j", "finished_at": 1.0, "content_hash": "h"}
            connection.execute(update(items).values(done))
    ground.write(FIRST)
    settings = Settings(ledger=ground.url, base_url=BASE_URL, batch="m.csv", results=ground.folder / "out.csv")

    def status() -> tuple[int, Any]:
        code = show_status(settings, as_json=True)
        shown = json.loads(capsys.readouterr().out.splitlines()[-1])  # after events of the log
        assert shown["exitCode"] == code
        return code, shown["batches"][0]["loaded"]

    def check_written() -> None:
        with pytest.raises(UsageError, match="is loaded in part only") as refused:
            write_results(settings)
        assert (refused.value.exit_code, (ground.folder / "out.csv").exists()) == (2, False)

    seen: list[tuple[int, Any]] = []
    look = after_each_step(dead, lambda number: seen.append(status()) if number == after else None)
    with look, _Death(dead, after), pytest.raises(LedgerUnavailableError):
        ground.load(dead)
    check_written()
    with dead.writing() as connection:
        connection.execute(update(workers).values(ended_at=1.0))
        connection.execute(update(schema.load_leases).values(process=DEAD))
    ground.ledgers.close()
    seen.append(status())
    assert seen == [(6, False), (5, False)]
    check_written()
    ground.load(ground.open())
    assert status()[1]
    assert write_results(settings) == 0
    assert len((ground.folder / "out.csv").read_text("utf-8").splitlines()) == 1 + len(FIRST)


@pytest.mark.parametrize("waits", [False, True], ids=["meanwhile", "just ended"])
def test_two_manifests_with_the_same_rows_are_the_same_items_though_they_are_loaded_at_once(
    ground: Ground, waits: bool
) -> None:
    """Who has matched its rows before another load's last step matches them again: no recording is two items."""
    ground.write(FIRST)
    ground.write(FIRST[::-1], "n.csv")
    one, other = ground.open(), ground.open()
    has_matched, has_ended, failures = threading.Event(), threading.Event(), list[UploaderError]()
    other_load = partial(ground.load, other, "n.csv", batch="n.csv", results=ground.folder / "n.results.csv")
    resolve = loading.resolve

    def matched(*given: Any) -> Any:
        found = resolve(*given)
        if threading.current_thread() is thread:
            has_matched.set()
            assert not waits or has_ended.wait(SECONDS)
        return found

    def run() -> None:
        try:
            other_load()
        except UploaderError as error:
            failures.append(error)

    thread = threading.Thread(target=run)

    def begin_other(number: int) -> None:
        if number == 3:
            thread.start()
            assert has_matched.wait(SECONDS)

    with mock.patch.object(manifest_load, "resolve", matched), after_each_step(one, begin_other):
        ground.load(one)
        has_ended.set()
        _settled([thread])
    assert not failures
    with one.reading() as connection:
        assert connection.execute(select(func.count()).select_from(items)).scalar_one() == len(FIRST)
    named = picture(one)["rows"]
    by_batch = {name: sorted(row[2:4] for row in named if row[0] == name) for name in ("m.csv", "n.csv")}
    assert by_batch["m.csv"] == by_batch["n.csv"]
    assert len(named) == 2 * len(FIRST)


def test_a_load_that_was_taken_over_writes_nothing_more(ground: Ground) -> None:
    """A run that stood still for so long that another one adds to its account ends before its next step."""
    ground.write(FIRST)
    stopped, other = ground.open(), ground.open()
    lines: list[int] = []

    def take_over(number: int) -> None:
        if number != 4:
            return
        with other.writing() as connection:
            lines.append(connection.execute(select(func.count()).select_from(rows)).scalar_one())
            found = connection.execute(select(schema.load_leases).limit(1)).one()
            lease = LoadLease(found.account_id, "n.csv", other.process, "other")
            load_leases._hold(connection, lease, 1, "n.csv", "", load_leases.Progress.STAGING, 0.0)
            assert not take_accounts(connection, lease, [1], 0.0, lambda _: False)
            assert take_accounts(connection, lease, [1], 0.0, lambda _: True)

    with after_each_step(stopped, take_over), pytest.raises(LedgerBusyError, match="taken its load over"):
        ground.load(stopped)
    with other.reading() as connection:
        assert connection.execute(select(func.count()).select_from(rows)).scalar_one() == lines[0] < len(FIRST)
        assert connection.execute(select(workers.c.id).where(workers.c.ended_at.is_(None))).first() is None


def test_what_another_run_wants_stays_active_while_its_items_move(ground: Ground) -> None:
    """A reload moves the items of a lane in one step, with the end of what is active: nobody sees them out of order."""
    pairs = [("x", "a.wav"), ("y", "b.wav"), ("x", "c.wav"), ("x", "e.wav"), ("z", "d.wav")]
    ground.write(pairs)
    running, loader = ground.open(), ground.open()
    ground.load(running)
    ground.write(pairs[::-1])
    seen: list[dict[str, list[tuple[str, bool]]]] = []

    def look(_: int) -> None:
        by_lane: dict[str, list[tuple[str, bool]]] = {}
        for conversation, path, _state, is_active, *_rest in picture(running)["lanes"]:
            by_lane.setdefault(conversation, []).append((path, is_active))
        seen.append(by_lane)

    with after_each_step(loader, look):
        ground.load(loader, first=1)
    orders = {lane: {tuple(name for name, _ in step[lane]) for step in seen} for lane in "xyz"}
    assert {lane: len(found) for lane, found in orders.items()} == {"x": 2, "y": 1, "z": 1}
    assert all(is_active for step in seen for lane in "xyz" for _, is_active in step[lane])


def placed(ledger: Ledger) -> list[tuple[Any, ...]]:
    """Return the place of each item, and the load that has written it."""
    with ledger.reading() as connection:
        found = connection.execute(select(*items.c["id", "load_id", "position", "line"]).order_by(items.c.id)).all()
    return [tuple(row) for row in found]


def test_a_manifest_that_is_loaded_again_as_it_was_writes_no_item(ground: Ground) -> None:
    """The next run of the same command finds all in its place, and makes it active."""
    pairs = [pair for number, pair in enumerate(FIRST) if pair not in FIRST[:number]]
    ground.write(pairs)
    ledger = ground.open()
    end(ledger, ground.load(ledger))
    before, seen = placed(ledger), picture(ledger)
    assert active_paths(ledger) == set()
    ground.load(ledger)
    assert placed(ledger) == before
    assert active_paths(ledger) == {path for _, path in pairs}
    assert picture(ledger)["rows"] == seen["rows"]


@pytest.mark.parametrize("change", ["file", "row", "other batch", "settings", "item"])
def test_a_manifest_that_is_loaded_again_takes_what_has_changed(ground: Ground, change: str) -> None:
    """A file, a row, a setting, an item or another batch between: the load is as any other, and its order holds."""
    ground.write(FIRST)
    ledger = ground.open()
    end(ledger, ground.load(ledger))
    before, more = placed(ledger), dict[str, Any]()
    if change == "file":
        (ground.folder / "b.wav").write_text("another content", encoding="utf-8")
    elif change == "row":
        ground.write([*FIRST[:2], FIRST[3], FIRST[2], FIRST[4]])
    elif change == "settings":
        more["parameters"] = {"name": "night"}
    elif change == "other batch":
        ground.write([("x", "o.wav")], "other.csv")
        end(ledger, ground.load(ledger, "other.csv", batch="other.csv", results=ground.folder / "o.csv"))
    else:
        with ledger.writing() as connection:
            of_b = update(items).where(items.c.path.endswith("b.wav"))
            connection.execute(of_b.values(state=State.REFUSED, http_status=404))
            # as `ledger prune` leaves a row
            connection.execute(rows.delete().where(rows.c.line == 2))
    ground.load(ledger, **more)
    moved = [new for new in placed(ledger) if new not in before]
    assert len(moved) >= len(FIRST)
    lane = [path for lane, path, *_ in picture(ledger)["lanes"] if lane == "x"]
    assert [Path(path).name for path in lane] == {
        "row": ["a.wav", "a.wav", "c.wav"],
        "other batch": ["o.wav", "a.wav", "c.wav", "a.wav"],
    }.get(change, ["a.wav", "c.wav", "a.wav"])


@pytest.mark.parametrize("new_first", [False, True])
def test_a_part_stays_what_was_chosen_wherever_a_reload_dies(ground: Ground, *, new_first: bool) -> None:
    """A reload moves the items of a run --first: no other run makes more of them active, before or after its end."""
    pairs = [("x", "a.wav"), ("y", "b.wav"), ("x", "c.wav"), ("z", "d.wav")]
    ground.write(pairs)
    ground.write([("v", "o.wav"), ("w", "p.wav")], "other.csv")
    running, other = ground.open(), ground.open()
    ground.load(running, first=2)
    ground.write([("new", "n.wav"), *pairs] if new_first else [*pairs, ("new", "n.wav")])
    chosen, deaths = {"a.wav", "b.wav"}, 0
    for after in range(1, 100):
        loader = ground.open(DEAD)
        with _Death(loader, after) as death, suppress(LedgerUnavailableError):
            ground.load(loader)
        take_over(other, 900.0, 7200.0)
        # makes active what others want
        end(other, ground.load(other, "other.csv", batch="other.csv", results=ground.folder / "o.csv", first=1))
        assert active_paths(running) <= chosen
        if not death.has_come:
            break
        deaths += 1
    assert deaths > len(pairs)


def test_a_part_stays_what_was_chosen_where_the_manifest_is_loaded_again_as_it_was(ground: Ground) -> None:
    """Two runs --first of one manifest: the second load moves no item, and makes no more of the first part active."""
    ground.write([("x", "a.wav"), ("y", "b.wav"), ("x", "c.wav"), ("z", "d.wav")])
    running, loader = ground.open(), ground.open()
    ground.load(running, first=1)
    # the first worker
    of_running = select(workers.c.until_position).order_by(workers.c.id).limit(1)
    with running.reading() as connection:
        until = connection.execute(of_running).scalar_one()
    end(loader, ground.load(loader, first=1))
    assert active_paths(running) == {"a.wav"}
    with running.reading() as connection:
        assert connection.execute(of_running).scalar_one() == until


def test_a_server_that_is_lost_as_the_workers_begin_is_borne(ground: Ground) -> None:
    """The workers of the lost transaction are in no ledger; who begins meanwhile, perhaps under their ids, goes on."""
    ground.write(FIRST)
    ground.write([("v", "o.wav")], "other.csv")
    ledger, other = ground.open(), ground.open()
    begin, wait = activation.BatchWorkers.begin, Startup._wait
    losses: list[object] = []
    loaded = ground.load(other, "other.csv", batch="other.csv", results=ground.folder / "o.csv")
    end(other, loaded)

    def lose(own: activation.BatchWorkers, *given: Any) -> None:
        begin(own, *given)
        if not losses:
            losses.append(given)
            raise LedgerAwayError("the ledger: the connection is lost", "the connection is lost")

    def begin_another(startup: Startup, error: LedgerAwayError) -> None:
        with other.writing() as connection:
            place = loaded.accounts[0].account_id, loaded.batch.batch_id
            begin_worker(connection, *place, activation.identity(other), loaded.now(), until_position=None)
        wait(startup, error)

    with mock.patch.object(activation.BatchWorkers, "begin", lose), mock.patch.object(Startup, "_wait", begin_another):
        prepared = ground.load(ledger)
    assert len(losses) == 1
    with ledger.reading() as connection:
        still = connection.execute(select(workers.c.process).where(workers.c.ended_at.is_(None))).scalars().all()
    assert sorted(still) == sorted([ledger.process, other.process])
    assert len(prepared.accounts) == 1


@pytest.mark.parametrize("is_loaded", [True, False])
def test_what_costs_too_much_is_refused_where_another_part_is_chosen_than_was_seen(
    ground: Ground, *, is_loaded: bool
) -> None:
    """An item that is settled between the check and the begin moves the part to a longer recording: nothing is sent."""
    _speak(ground.folder / "short.wav", 6)
    _speak(ground.folder / "long.wav", 600)
    ground.write([("x", "short.wav"), ("y", "long.wav")])
    ledger = ground.open()
    end(ledger, ground.load(ledger))
    activate_part = activation.BatchWorkers.activate_part

    def settle_first(own: activation.BatchWorkers, by: Any) -> None:
        with by.locked():
            is_short = items.c.path.endswith("short.wav")
            own._connection.execute(update(items).where(is_short).values(state=State.DROPPED))
        activate_part(own, by)

    manifest = None if is_loaded else "m.csv"
    with (
        mock.patch.object(activation.BatchWorkers, "activate_part", settle_first),
        pytest.raises(UsageError, match=r"10\.0 billed minutes"),
    ):
        ground.load(ledger, manifest, first=1, max_billed_minutes=1)
    with ledger.reading() as connection:
        assert connection.execute(select(func.count()).where(workers.c.ended_at.is_(None))).scalar_one() == 0


def test_a_part_moves_with_its_items_whoever_ends_meanwhile(ground: Ground) -> None:
    """Another run ends between the steps of a reload, which lets go of what nobody wants: the part is active again."""
    pairs = [("x", "a.wav"), ("y", "b.wav"), ("x", "c.wav"), ("z", "d.wav")]
    ground.write(pairs)
    ground.write([("v", "o.wav"), ("w", "p.wav")], "other.csv")
    running, other, loader = ground.open(), ground.open(), ground.open()
    ground.load(running, first=2)
    ground.load(other, "other.csv", batch="other.csv", results=ground.folder / "o.csv")

    def come_and_go(_: int) -> None:
        end(other, ground.load(other, None, batch="other.csv", results=ground.folder / "o.csv", first=1))

    with after_each_step(loader, come_and_go):
        end(loader, ground.load(loader, first=1))
    part = {"a.wav", "b.wav"}
    assert part <= active_paths(running) <= {*part, "o.wav", "p.wav"}
    with running.reading() as connection:
        of_part = select(workers.c.until_position, workers.c.batch_id).where(workers.c.process == running.process)
        until, batch_id = connection.execute(of_part.order_by(workers.c.id).limit(1)).one()
        wanted = select(items.c.path).where(items.c.first_batch_id == batch_id, items.c.position <= until)
        assert {Path(path).name for path in connection.execute(wanted).scalars()} == part


def test_items_of_a_repeat_stay_its_own_where_another_batch_names_them(ground: Ground) -> None:
    """An interrupted --repeat that is carried on names its own items, though another batch has matched them since."""
    ground.write(FIRST)
    ground.write(FIRST, "n.csv")
    ledger = ground.open()
    ground.load(ledger)
    ground.load(ledger, repeat=True)
    with ledger.writing() as connection:
        newest = select(func.max(items.c.repeat_id)).scalar_subquery()
        of_repeat = update(items).where(items.c.repeat_id == newest, items.c.path.endswith("a.wav"))
        connection.execute(of_repeat.values(state=State.COMPLETED, attempts=1))
    repeated = picture(ledger)["rows"]
    ground.load(ledger, "n.csv", batch="n.csv", results=ground.folder / "n.results.csv")
    ground.load(ledger, repeat=True)
    assert [row for row in picture(ledger)["rows"] if row[0] == "m.csv"] == repeated
    with ledger.reading() as connection:
        of_repeats = select(items.c.repeat_id, func.count()).group_by(items.c.repeat_id).order_by(items.c.repeat_id)
        (_, first), (_, repeat) = connection.execute(of_repeats).all()
    assert first == repeat == len(FIRST)


# how often this connection has read tables as a whole, of those that grow
_WHOLE_READS = (
    "SELECT relname, seq_scan FROM pg_stat_xact_user_tables WHERE relname IN ('items', 'lanes', 'rows', 'staged')"
)


_READS_OF_ACTIVE = (
    "SELECT indexrelname FROM pg_stat_user_indexes WHERE indexrelname = 'lanes_active' "
    "AND pg_stat_get_xact_numscans(indexrelid) > 0"
)


@pytest.mark.parametrize("database_url", ["postgres"], indirect=True)
@pytest.mark.parametrize("name", ["same", "edited", "more", "completed"])
def test_a_step_reads_what_it_is_of_and_no_whole_table(ground: Ground, name: str) -> None:
    """A step costs what its own lines or lanes do, however large the tables are, and whenever they were counted."""
    night = NIGHTS[name]
    begin_night(ground, night)
    ledger, steps_read = ground.open(), list[list[str]]()
    locking = ledger.locking

    @contextmanager
    def watched(connection: Any, account_ids: Any) -> Iterator[None]:
        with locking(connection, account_ids):
            before = dict(connection.exec_driver_sql(_WHOLE_READS).all())
            yield
            after = connection.exec_driver_sql(_WHOLE_READS)
            steps_read.append([table for table, reads in after if reads > before.get(table, 0)])
            # nor all lanes that are active by now
            steps_read[-1] += connection.exec_driver_sql(_READS_OF_ACTIVE).scalars()

    with mock.patch.object(ledger, "locking", watched):
        ground.load(ledger, **night.settings)
    # the begin, the end, and the lanes at least
    assert len(steps_read) >= 2 + (name != "completed")
    assert not [read for read in steps_read if read]


def active_paths(ledger: Ledger) -> set[str]:
    """Return the files of the items that are active."""
    return {Path(path).name for _, path, _, is_active, *_ in picture(ledger)["lanes"] if is_active}


def end(ledger: Ledger, prepared: Prepared) -> None:
    """End the worker of a run, as a run does."""
    (found,) = prepared.accounts
    release_lanes(ledger, [OpenWorker(found.worker_id, found.account_id, "", 0.0)])
    with ledger.writing() as connection:
        end_worker(connection, found.worker_id, found.account_id, prepared.now(), 900.0, is_released=True)


@pytest.mark.parametrize("has_other", [False, True], ids=["alone", "beside another"])
def test_who_dies_while_a_dead_run_is_ended_leaves_its_end_to_the_next(ground: Ground, has_other: bool) -> None:
    """A dead run's lanes become inactive in steps: wherever that is cut off, it is done anew; others keep theirs."""
    ground.write(FIRST)
    ground.write([("x", "o.wav"), ("v", "p.wav")], "other.csv")
    alive, theirs = ground.open(), set[str]()
    if has_other:
        ground.load(alive, "other.csv", batch="other.csv", results=ground.folder / "o.csv")
        theirs = {"o.wav", "p.wav"}
    ground.load(ground.open(DEAD))
    own = {path for _, path in FIRST}
    assert active_paths(alive) == own | theirs
    deaths = 0
    for after in range(1, 20):
        ledger = ground.open()
        with _Death(ledger, after) as death, suppress(LedgerUnavailableError):
            take_over(ledger, 900.0, 7200.0)
        assert active_paths(alive) >= theirs
        if not death.has_come:
            break
        deaths += 1
    assert deaths > 1
    assert active_paths(alive) == theirs
    with alive.reading() as connection:
        open_count = connection.execute(select(func.count()).where(workers.c.ended_at.is_(None))).scalar_one()
    assert open_count == len(theirs) / 2


@pytest.mark.parametrize("after", [1, 2, 3, 4])
def test_two_runs_of_a_batch_that_end_at_once_leave_nothing_active(ground: Ground, after: int) -> None:
    """Neither leaves a lane active for the sake of the other, wherever the other's end comes between its steps."""
    ground.write([("v", "p.wav")], "third.csv")
    ground.load(ground.open(), "third.csv", batch="third.csv", results=ground.folder / "t.csv")
    ground.write(FIRST)
    one, other = ground.open(), ground.open()
    prepared, others = ground.load(one), ground.load(other)
    done: list[int] = []

    def end_other(number: int) -> None:
        if number == after:
            end(other, others)
            done.append(number)

    with after_each_step(one, end_other):
        end(one, prepared)
    assert done == [after]
    assert active_paths(one) == {"p.wav"}


def test_others_write_while_a_run_ends(ground: Ground) -> None:
    """Between any two lanes that become inactive another run claims and ends an item of its own."""
    others = [(f"other-{number}", f"o{number}.wav") for number in range(10)]
    ground.write(others, "other.csv")
    beside = ground.open()
    prepared = ground.load(beside, "other.csv", batch="other.csv", results=ground.folder / "o.csv")
    ground.write(FIRST)
    ending = ground.open()
    ends = ground.load(ending)
    with beside.writing() as connection:
        # what is about to end is behind all else, so that the other run has its own items first
        mine = select(items.c.lane_id).where(items.c.path.endswith("o0.wav") | items.c.path.like("%/o_.wav"))
        connection.execute(update(lanes).where(lanes.c.id.not_in(mine)).values(not_before=1e12))
    book = Book(ground.folder, beside)
    book.now, book.worker_id = prepared.now(), prepared.accounts[0].worker_id
    done: list[int] = []

    def work(_: int) -> None:
        with _impatient(beside):
            begun = book.claim(1)[0]
            book.complete(begun)
        done.append(begun.item_id)

    with after_each_step(ending, work):
        end(ending, ends)
    # the mark, and each lane
    assert len(set(done)) == len(done) == 1 + 3
    assert len(active_paths(ending)) == len(others)


def test_an_older_run_that_ends_meanwhile_does_not_end_a_repeat(ground: Ground) -> None:
    """The run of a batch that is over ends while another one repeats the batch: the repeat, interrupted, is one."""
    ground.write(FIRST)
    older, repeating = ground.open(), ground.open(DEAD)
    batch = ground.load(older).batch

    def complete() -> None:
        with older.writing() as connection:
            left = update(items).where(items.c.state == State.PENDING)
            connection.execute(left.values(state=State.COMPLETED, attempts=1, content_hash="h"))

    def end(_: int) -> None:
        with older.writing() as connection:
            loading.close_repeat(connection, batch.batch_id, batch.repeat_id)

    complete()
    with after_each_step(repeating, end):
        ground.load(repeating, repeat=True)
    complete()
    assert ground.load(ground.open(), repeat=True).batch.repeat_id > 0
    with older.reading() as connection:
        assert connection.execute(select(func.count()).select_from(items)).scalar_one() == 2 * len(FIRST)


def test_a_repeat_is_not_complete_while_its_rows_are_loaded(ground: Ground) -> None:
    """The run of an interrupted repeat ends while the same command loads it anew: it stays one repeat."""
    ground.write(FIRST)
    older, loader = ground.open(), ground.open()
    batch = ground.load(older, repeat=True).batch

    def end(_: int) -> None:
        with older.writing() as connection:
            loading.close_repeat(connection, batch.batch_id, batch.repeat_id)
            of_batch = schema.load_leases.c.batch == batches.c.name
            found = select(schema.load_leases.c.progress, batches.c.repeat_open).join(batches, of_batch)
            opened.extend(tuple(row) for row in connection.execute(found))

    opened = list[tuple[str, bool]]()
    with after_each_step(loader, end):
        ground.load(loader, repeat=True)
    assert ("merging", True) in opened
    assert ("merging", False) not in opened


@pytest.mark.parametrize("first", [None, 1])
@pytest.mark.parametrize(("on_trouble", "leftovers"), [("hold", 1), ("continue", 2)])
def test_plan_and_run_sum_up_the_same(
    ground: Ground, capsys: pytest.CaptureFixture[str], on_trouble: str, leftovers: int, first: int | None
) -> None:
    """One figure: of plan, of the cost check before a load and of a loaded batch, and of what the run then sends.

    The ledger has leftovers, a refused item that holds its lane, and the rules of an earlier run, which this run's
    settings replace.
    """
    for number, name in enumerate("abcdefg"):
        _speak(ground.folder / f"{name}.wav", 6 * 2**number)
    ground.write([("x", "a.wav"), ("x", "b.wav"), ("y", "c.wav"), ("y", "d.wav")], "monday.csv")
    ground.write([("x", "e.wav"), ("y", "f.wav"), ("z", "g.wav")])
    ledger = ground.open()
    book = Book(ground.folder, ledger)
    book.worker_id = ground.load(ledger, "monday.csv", batch="monday.csv").accounts[0].worker_id
    for claimed in book.claim():
        if claimed.conversation_id == "x":
            book.complete(claimed)
        else:
            book.answer(claimed, NOT_FOUND)
    with ledger.writing() as connection:
        book.end_worker(connection)
    more = {"first": first, "lanes": Lanes(on_trouble=on_trouble)}  # type: ignore[arg-type] # one of two words
    capsys.readouterr()
    plan_manifest(
        Settings(ledger=ground.url, base_url=BASE_URL, batch="m.csv", **more),  # type: ignore[arg-type] # as above
        str(ground.folder / "m.csv"),
        PlanOptions(as_json=True),
    )
    planned = json.loads(capsys.readouterr().out)
    minutes = planned["toAppend"]["billedMinutes"]
    assert sum(leftover["files"] for leftover in planned["leftovers"]) == (1 if first else leftovers)
    for manifest in ("m.csv", None):
        with pytest.raises(UsageError, match=f"{minutes:g} billed minutes"):
            ground.load(ledger, manifest, max_billed_minutes=minutes - 0.01, **more)
        prepared = ground.load(ledger, manifest, max_billed_minutes=minutes, **more)
        assert prepared.sending.all.billed_seconds == pytest.approx(minutes * 60)
        book.worker_id = prepared.accounts[0].worker_id
        with ledger.writing() as connection:
            book.end_worker(connection)


@pytest.mark.parametrize("joins", [True, False])
def test_a_run_that_joins_the_load_of_another_is_refused_what_costs_too_much(ground: Ground, joins: bool) -> None:
    """--max-billed-minutes means the same whether the run has loaded the batch itself or another one has."""
    for name in "ab":
        _speak(ground.folder / f"{name}.wav", 600)
    ground.write([("x", "a.wav"), ("y", "b.wav")])
    one, other = ground.open(), ground.open()
    awaited, has_begun, refused = _Awaited(), threading.Event(), list[UploaderError]()

    def stage() -> None:
        if not has_begun.is_set():
            has_begun.set()
            if joins:
                awaited.until(1)

    def run() -> None:
        try:
            ground.load(other, max_billed_minutes=1.0)
        except UsageError as error:
            refused.append(error)

    with staged_when(stage), mock.patch.object(manifest_load.log, "info", awaited.note):
        threads = [threading.Thread(target=ground.load, args=(one,), kwargs={"first": 1}), threading.Thread(target=run)]
        threads[0].start()
        _until(has_begun.is_set)
        if not joins:
            _settled(threads[:1])
        threads[1].start()
        _settled(threads)
    assert "that is more than --max-billed-minutes 1" in str(refused[0])
    with one.reading() as connection:
        assert connection.execute(select(func.count()).select_from(workers)).scalar_one() == 1
