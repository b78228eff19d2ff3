"""The ledger under any order of loads, claims, marks, outcomes, crashes, decisions and batches."""

from collections import Counter, defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from sqlalchemy import select

from tests.integration.test_ledger import CUT, LOST, NOT_FOUND, OUR_FILE, THROTTLED, UNREACHABLE, Book, accepted
from uploader.errors import UsageError
from uploader.ledger import Ledger
from uploader.ledger.resolving import Selection, open_items, resolve
from uploader.ledger.schema import attempts, items, lanes, rows
from uploader.ledger.standing import Standing, keep_counts, standing, standings, unfinished
from uploader.model import LIVE, OVER, SLOTTED, TROUBLED, Claim, Decision, JobStatus, Reply, State
from uploader.policy.limits import Refusal

LIMIT = 2
RECORDINGS = {"a.wav": "one", "b.wav": "one", "c.wav": "two", "d.wav": "six", "e.wav": "fourteen"}
"""Contents by file: two files are equal, and three contents have the same size."""

ROWS = st.lists(st.tuples(st.sampled_from("xyz"), st.sampled_from(sorted(RECORDINGS))), min_size=1, max_size=6)
BATCHES = st.sampled_from(["monday.csv", "tuesday.csv"])
BEFORE_THE_MARK = [CUT, UNREACHABLE, OUR_FILE, Reply(connected=True, withheld=True), Reply(connected=True, status=503)]
AFTER_THE_MARK = [LOST, NOT_FOUND, THROTTLED, Reply(connected=True, last_chunk_left=True, status=502)]
NOT_APPENDED = (404, 429)
"""Replies after the last chunk that prove that nothing was appended."""

NOTHING: frozenset[State] = frozenset()
BY_ITSELF = dict.fromkeys(State, NOTHING) | {
    State.PENDING: {State.SENDING},
    State.SENDING: {State.SENT, State.PENDING, State.REFUSED},
    State.SENT: {State.ACCEPTED, State.PENDING, State.REFUSED, State.IN_DOUBT},
    State.ACCEPTED: {State.COMPLETED, State.FAILED},
}
"""What may become of an item in one step, with nobody's help."""
BY_A_PERSON = dict.fromkeys(State, NOTHING) | {
    State.PENDING: {State.DROPPED},
    State.IN_DOUBT: {State.PENDING, State.ACCEPTED, State.COMPLETED, State.DROPPED},
    State.REFUSED: {State.PENDING, State.DROPPED},
    State.FAILED: {State.PENDING, State.DROPPED},
}
"""What a person may make of an item."""


@dataclass
class Attempt:
    """An attempt under way. ``marked``: its last chunk has left, so the service may have the file."""

    claim: Claim
    marked: bool = False


@dataclass
class Service:
    """What the service has taken, as far as it is not known to be nothing: by conversation and content."""

    taken: Counter[tuple[str, str]] = field(default_factory=Counter)
    meant: dict[tuple[str, str], int] = field(default_factory=lambda: defaultdict(int))
    """How often the manifests mean a content for a conversation: the most of any one manifest."""


Table = list[dict[str, Any]]


@dataclass
class Seen:
    """All that the ledger holds at one moment."""

    items: Table
    attempts: Table
    lanes: Table
    rows: Table

    @cached_property
    def states(self) -> Mapping[int, State]:
        """The states of all items but the invalid ones, which come and go with their manifest."""
        return {item["id"]: State(item["state"]) for item in self.items if item["invalid_batch_id"] is None}

    @cached_property
    def places(self) -> Mapping[int, Mapping[int, State]]:
        """The states of all items, by lane and position; no two items stand at one place."""
        found: dict[int, dict[int, State]] = defaultdict(dict)
        for item in self.items:
            assert item["position"] not in found[item["lane_id"]]
            found[item["lane_id"]][item["position"]] = State(item["state"])
        return found


def _is_told(item: Mapping[str, Any]) -> bool:
    """Whether the item's job is one that a person named."""
    return item["state"] == State.ACCEPTED and str(item["job_id"]).startswith("told-")


class LedgerMachine(RuleBasedStateMachine):
    """One account over many nights: whatever happens in whatever order, the promises hold."""

    def __init__(self) -> None:
        super().__init__()
        self.place = TemporaryDirectory()
        folder = Path(self.place.name)
        self.book = Book(folder, Ledger.open_for_run(f"sqlite:///{folder}/ledger.db"), limit=LIMIT)
        for name, content in RECORDINGS.items():
            self.book.file(name, content)
        self.service = Service()
        self.under_way: list[Attempt] = []
        self.rows: dict[str, list[tuple[str, str]]] = {}
        self.running = ""
        self.before: Mapping[int, State] = {}
        self.decided: int | None = None
        self.item_seconds = 0.0

    def teardown(self) -> None:
        """Give the folder back."""
        self.book.ledger.close()
        self.place.cleanup()

    # what happens

    @initialize(written=ROWS, hold=st.booleans())
    def begin(self, written: list[tuple[str, str]], hold: bool) -> None:
        """The first night begins."""
        self.book.hold = hold
        self.load(written, "monday.csv", gone=set())

    @rule(written=ROWS, name=BATCHES, gone=st.sets(st.sampled_from(sorted(RECORDINGS))))
    def load(self, written: list[tuple[str, str]], name: str, gone: set[str]) -> None:
        """The run ends somehow, and another manifest is loaded; of what was sent, some files are archived."""
        self._die()
        for path in (self.book.folder / one for one in gone):
            if self._is_over(path):
                path.unlink(missing_ok=True)
        self.rows[name] = written
        for meant, count in Counter((one, RECORDINGS[file]) for one, file in written).items():
            self.service.meant[meant] = max(self.service.meant[meant], count)
        self.book.load(written, name)
        self.running, self.item_seconds = name, 0.0
        for file, content in RECORDINGS.items():
            self.book.file(file, content)

    @rule(name=BATCHES, data=st.data(), gone=st.sets(st.sampled_from(sorted(RECORDINGS))))
    def load_again(self, name: str, data: st.DataObject, gone: set[str]) -> None:
        """The run ends somehow, and its manifest is loaded again in another order, perhaps under another name."""
        self.load(data.draw(st.permutations(self.rows[self.running])), name, gone)

    @rule(name=BATCHES, hold=st.booleans(), first=st.sampled_from([None, None, 1, 2]))
    def carry_on(self, name: str, hold: bool, first: int | None) -> None:
        """The run ends somehow, and a batch, or the first of it, is carried on without loading it."""
        if name in self.rows:
            self._die()
            self.book.hold = hold
            self.book.run(self.book.loads[name], first=first)
            self.running, self.item_seconds = name, 0.0

    @rule(item_seconds=st.sampled_from([0.25, 40.0]))
    def reweigh_lanes(self, item_seconds: float) -> None:
        """It is learned what jobs take beside what their audio makes them take."""
        self.book.reweigh_lanes(item_seconds)
        self.item_seconds = item_seconds

    @rule(wanted=st.integers(1, 4))
    def claim(self, wanted: int) -> None:
        """Attempts begin."""
        seen = self._look()
        answered = self.book.look(wanted)
        claimed, limit = answered.claims, answered.limit
        self.under_way += [Attempt(one) for one in claimed]
        assert len(claimed) <= min(wanted, max(limit.in_force - limit.live, 0))
        assert 1 <= limit.in_force <= LIMIT
        for one in claimed:
            mine = next(item["position"] for item in seen.items if item["id"] == one.item_id)
            ahead = {state for place, state in seen.places[one.lane_id].items() if place < mine}
            assert ahead <= {*OVER, *(() if self.book.hold else TROUBLED)}, "an item overtook another of its lane"

    @precondition(lambda self: any(not one.marked for one in self.under_way))
    @rule(data=st.data())
    def mark(self, data: st.DataObject) -> None:
        """A last chunk leaves."""
        attempt = data.draw(st.sampled_from([one for one in self.under_way if not one.marked]))
        self.book.mark(attempt.claim)
        attempt.marked = True
        self.service.taken[self._content(attempt.claim)] += 1

    @precondition(lambda self: self.under_way)
    @rule(data=st.data(), wait=st.sampled_from([0.0, 60.0]))
    def answer(self, data: st.DataObject, wait: float) -> None:
        """A reply comes, whatever it is."""
        attempt = data.draw(st.sampled_from(self.under_way))
        good = accepted(f"job-{attempt.claim.attempt_id}")
        reply = data.draw(st.sampled_from([good, good, *AFTER_THE_MARK] if attempt.marked else BEFORE_THE_MARK))
        self.book.record(attempt.claim, reply, wait, refusal=Refusal() if reply is THROTTLED else None)
        if reply.status in NOT_APPENDED:
            self.service.taken[self._content(attempt.claim)] -= 1
        self.under_way.remove(attempt)

    @rule(replies=st.lists(st.sampled_from([None, None, None, *AFTER_THE_MARK, CUT, OUR_FILE]), max_size=8))
    def go(self, replies: list[Reply | None]) -> None:
        """One item after the other goes at once from its claim to its reply (None: to the good end of its job)."""
        for reply in replies:
            if not (claimed := self.book.claim(1)):
                return
            (one,) = claimed
            if reply is None or reply.last_chunk_left:
                self.service.taken[self._content(one)] += reply is None or reply.status not in NOT_APPENDED
            if reply is None:
                self.book.complete(one)
            else:
                self.book.answer(one, reply)
            self.before = self._look().states

    @precondition(lambda self: self.book.jobs())
    @rule(data=st.data(), status=st.sampled_from([JobStatus.COMPLETED, JobStatus.COMPLETED, JobStatus.FAILED]))
    def end_job(self, data: st.DataObject, status: JobStatus) -> None:
        """A job ends, of this run or of an earlier one."""
        self.book.end(data.draw(st.sampled_from(self.book.jobs())).job_id, status)

    @rule(seconds=st.sampled_from([1.0, 60.0, 1000.0]))
    def pass_time(self, seconds: float) -> None:
        """Time passes."""
        self.book.now += seconds

    @rule(most=st.sampled_from([0, 1, 2]))
    def keep_counts(self, most: int) -> None:
        """A run has ended, and what is over of the batches is kept."""
        with self.book.ledger.writing() as connection:
            keep_counts(connection, most, hold=self.book.hold)

    @rule(data=st.data(), decision=st.sampled_from(Decision))
    def decide(self, data: st.DataObject, decision: Decision) -> None:
        """A person settles something that needs it; what does not fit is refused and changes nothing."""
        with self.book.ledger.writing() as connection:
            found = open_items(connection, self.book.loads[self.running].batch_id, Selection(), hold=True)
        if not found:
            return
        one = data.draw(st.sampled_from(found))
        job_id = data.draw(st.sampled_from([None, f"told-{one.item_id}"])) if decision is Decision.APPENDED else None
        try:
            with self.book.ledger.writing() as connection:
                state = resolve(
                    connection, one, decision, job_id=job_id, note=None, who="me", now=1.0, hold=self.book.hold
                )
        except UsageError:
            return
        self.decided = one.item_id
        if state is State.PENDING and one.state in (State.IN_DOUBT, State.FAILED):
            self.service.taken[one.conversation_id, RECORDINGS[Path(one.audio_path).name]] -= 1

    # what holds

    @invariant()
    def each_content_is_taken_as_often_as_it_is_meant(self) -> None:
        """At most once: nothing is sent again that may have been appended, whatever names it, and when."""
        for one, count in self.service.taken.items():
            assert count <= self.service.meant[one], f"{one}: {count} times"

    @invariant()
    def what_the_ledger_holds_is_right(self) -> None:
        """Slots, lanes, states, attempts and rows, as they stand after every step."""
        seen = self._look()
        self._check_slots(seen)
        self._check_states(seen)
        self._check_attempts(seen)
        self._check_lanes(seen)
        self._check_work(seen)
        self._check_rows(seen)
        self._check_counts()

    def _check_slots(self, seen: Seen) -> None:
        """Of a lane one item is live; live jobs, uploads and doubt until slot_until never exceed the limit.

        A job that a person named late, when its slot had gone to another and its lane had gone on, is apart.
        """
        live = Counter(item["lane_id"] for item in seen.items if item["state"] in LIVE and not _is_told(item))
        assert set(live.values()) <= {1}
        slotted = [item for item in seen.items if item["state"] in SLOTTED]
        held = [item for item in slotted if item["slot_until"] is None or item["slot_until"] > self.book.now]
        assert sum(not _is_told(item) for item in held) <= LIMIT
        assert self.book.live() == len(held)

    def _check_states(self, seen: Seen) -> None:
        """Nothing goes back from where something may have been appended, but by a verdict or a person."""
        for item_id, state in self.before.items():
            now = seen.states.get(item_id, state)
            allowed = BY_A_PERSON[state] if item_id == self.decided else BY_ITSELF[state]
            assert now is state or now in allowed, f"{state} became {now}"
        self.before, self.decided = seen.states, None

    def _check_attempts(self, seen: Seen) -> None:
        """An item with n attempts has the attempts 1 to n, and all but those under way are closed."""
        numbers: dict[int, list[int]] = defaultdict(list)
        for one in seen.attempts:
            numbers[one["item_id"]].append(one["number"])
        for item in seen.items:
            assert sorted(numbers[item["id"]]) == list(range(1, item["attempts"] + 1))
        assert sum(one["outcome"] is None for one in seen.attempts) == len(self.under_way)

    def _check_lanes(self, seen: Seen) -> None:
        """The position that the claim reads is the one that follows from the items themselves."""
        for lane in seen.lanes:
            places = seen.places[lane["id"]]
            first = min((place for place, state in places.items() if state is State.PENDING), default=None)
            trouble = first and any(state in TROUBLED and place < first for place, state in places.items())
            blocked = any(state in LIVE for state in places.values()) or (self.book.hold and trouble)
            ready = None if blocked or first is None or first > lane["active_until"] else first
            assert lane["ready_position"] == ready

    def _check_work(self, seen: Seen) -> None:
        """What a lane has left, by which lanes are ordered, is the sum of what this run still has to send there."""
        self.book.check_work()
        for lane in seen.lanes:
            assert lane["item_seconds"] == (self.item_seconds if lane["active_until"] else 0.0)

    def _check_rows(self, seen: Seen) -> None:
        """Each row is in its batch's results once, in order, and names an item of its own with its content."""
        paths = {item["id"]: Path(item["path"]).name for item in seen.items}
        for name, written in self.rows.items():
            mine = [row for row in seen.rows if row["batch_id"] == self.book.loads[name].batch_id]
            assert [(row["line"], row["conversation_id"], row["audio_path"]) for row in mine] == [
                (line, *row) for line, row in enumerate(written, start=2)
            ]
            assert len({row["item_id"] for row in mine}) == len(mine)
            for row in mine:
                assert RECORDINGS[paths[row["item_id"]]] == RECORDINGS[row["audio_path"]]

    def _check_counts(self) -> None:
        """What is told of a batch by its kept count is what is counted, whatever came after it was kept."""
        with self.book.ledger.reading() as connection:
            counted = {
                load.batch_id: standing(connection, load.batch_id, hold=self.book.hold)
                for load in self.book.loads.values()
            }
            left = unfinished(connection, hold=self.book.hold)
            assert standings(connection, counted, left, hold=self.book.hold) == counted
            for batch_id, found in counted.items():
                assert left.get(batch_id, Standing({})) == Standing(
                    {state: tally for state, tally in found.tallies.items() if state not in OVER}
                )

    # how it is looked at

    def _die(self) -> None:
        """The run dies: what was marked is in doubt, what was not is pending again."""
        marked = sum(one.marked for one in self.under_way)
        unmarked = len(self.under_way) - marked
        if self.running:
            assert self.book.crash(self.book.loads[self.running]) == (unmarked, marked)
        self.under_way = []

    def _look(self) -> Seen:
        with self.book.ledger.writing() as connection:
            tables = (select(one).order_by(*one.primary_key) for one in (items, attempts, lanes, rows))
            return Seen(*[[dict(row) for row in connection.execute(one).mappings()] for one in tables])

    def _is_over(self, path: Path) -> bool:
        """Whether a file is one that people archive: sent, and of no use to any item that waits."""
        mine = [item for item in self._look().items if item["path"] == str(path)]
        return bool(mine) and all(item["attempts"] and item["state"] != State.PENDING for item in mine)

    @staticmethod
    def _content(one: Claim) -> tuple[str, str]:
        return one.conversation_id, RECORDINGS[one.path.name]


TestLedgerMachine = LedgerMachine.TestCase
TestLedgerMachine.settings = settings(max_examples=settings().max_examples // 5, stateful_step_count=30, deadline=None)
