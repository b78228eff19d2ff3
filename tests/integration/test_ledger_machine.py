"""The ledger under any order of loads, claims, admissions, outcomes, crashes, decisions and batches."""

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

from tests.integration.test_ledger import (
    BASE_URL,
    CUT,
    DOUBT_SECONDS,
    LOST,
    NOT_FOUND,
    OUR_FILE,
    THROTTLED,
    UNREACHABLE,
    Book,
    accepted,
)
from uploader.errors import UsageError
from uploader.ledger import Ledger
from uploader.ledger.claiming import Ahead, need_slot_first
from uploader.ledger.loading import account
from uploader.ledger.outcomes import job_overdue
from uploader.ledger.resolving import Selection, open_items, resolve
from uploader.ledger.schema import attempts, items, lanes, rows
from uploader.ledger.standing import Standing, keep_counts, standing, standings, unfinished
from uploader.model import LIVE, OVER, SLOTTED, TROUBLED, Claim, Decision, JobStatus, Reply, State
from uploader.policy.limits import Refusal

LIMIT = 2
# contents by file: two files are equal, and three contents have the same size
RECORDINGS = {"a.wav": "one", "b.wav": "one", "c.wav": "two", "d.wav": "six", "e.wav": "fourteen"}

ROWS = st.lists(st.tuples(st.sampled_from("xyz"), st.sampled_from(sorted(RECORDINGS))), min_size=1, max_size=6)
BATCHES = st.sampled_from(["monday.csv", "tuesday.csv"])
WITHHELD = Reply(connected=True, withheld=True)
BEFORE_ADMISSION = [CUT, UNREACHABLE, OUR_FILE, WITHHELD, WITHHELD, Reply(connected=True, status=503)]
AFTER_ADMISSION = [LOST, NOT_FOUND, THROTTLED, Reply(connected=True, last_chunk_left=True, status=502)]
# replies after the last chunk that prove that nothing was appended
NOT_APPENDED = (404, 429)

NOTHING: frozenset[State] = frozenset()
# what may become of an item in one step, with nobody's help
BY_ITSELF = dict.fromkeys(State, NOTHING) | {
    State.PENDING: {State.SENDING},
    State.SENDING: {State.SENT, State.PENDING, State.REFUSED},
    State.SENT: {State.ACCEPTED, State.PENDING, State.REFUSED, State.IN_DOUBT},
    State.ACCEPTED: {State.COMPLETED, State.FAILED},
    # where a new load finds the file that was the fault mended
    State.REFUSED: {State.PENDING},
}
# what a person may make of an item
BY_A_PERSON = dict.fromkeys(State, NOTHING) | {
    State.PENDING: {State.DROPPED},
    State.IN_DOUBT: {State.PENDING, State.ACCEPTED, State.COMPLETED, State.DROPPED},
    State.REFUSED: {State.PENDING, State.DROPPED},
    State.FAILED: {State.PENDING, State.DROPPED},
}


@dataclass
class Attempt:
    """An attempt under way."""

    claim: Claim
    # its last chunk has left, so the service may have the file
    admitted: bool = False


@dataclass
class Service:
    """The contents that the service may have taken, by conversation and content."""

    taken: Counter[tuple[str, str]] = field(default_factory=Counter)
    # how often the manifests mean a content for a conversation: the most of any one manifest
    meant: dict[tuple[str, str], int] = field(default_factory=lambda: defaultdict(int))


Table = list[dict[str, Any]]


@dataclass
class Seen:
    """The rows of the ledger at one moment."""

    items: Table
    attempts: Table
    lanes: Table
    rows: Table

    @cached_property
    def states(self) -> Mapping[int, State]:
        """List the states of all items but the invalid ones, which come and go with their manifest."""
        return {item["id"]: State(item["state"]) for item in self.items if item["invalid_batch_id"] is None}

    @cached_property
    def places(self) -> Mapping[int, Mapping[int, State]]:
        """Map the states of all items by lane and position; no two items have one place."""
        found: dict[int, dict[int, State]] = defaultdict(dict)
        for item in self.items:
            assert item["position"] not in found[item["lane_id"]]
            found[item["lane_id"]][item["position"]] = State(item["state"])
        return found


def _is_told(item: Mapping[str, Any]) -> bool:
    """Return True where a person named the item's job."""
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
        # how many attempts of an item were cut by us, or by a crash, before their admission
        self.unadmitted: Counter[int] = Counter()
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
        """Begin the first night."""
        self.book.hold = hold
        self.load(written, "monday.csv", gone=set())

    @rule(written=ROWS, name=BATCHES, gone=st.sets(st.sampled_from(sorted(RECORDINGS))))
    def load(self, written: list[tuple[str, str]], name: str, gone: set[str]) -> None:
        """End the run somehow, load another manifest, and archive some of the sent files."""
        self._die()
        for path in (self.book.folder / name for name in gone):
            if self._is_over(path):
                path.unlink(missing_ok=True)
        self.rows[name] = written
        for meant, count in Counter((conversation, RECORDINGS[file]) for conversation, file in written).items():
            self.service.meant[meant] = max(self.service.meant[meant], count)
        self.book.load(written, name)
        self.running, self.item_seconds = name, 0.0
        for file, content in RECORDINGS.items():
            self.book.file(file, content)

    @rule(name=BATCHES, data=st.data(), gone=st.sets(st.sampled_from(sorted(RECORDINGS))))
    def load_again(self, name: str, data: st.DataObject, gone: set[str]) -> None:
        """End the run somehow, and load its manifest again in another order, perhaps under another name."""
        self.load(data.draw(st.permutations(self.rows[self.running])), name, gone)

    @rule(name=BATCHES, hold=st.booleans(), first=st.sampled_from([None, None, 1, 2]))
    def carry_on(self, name: str, hold: bool, first: int | None) -> None:
        """End the run somehow, and carry on a batch, or its first items, without loading it."""
        if name in self.rows:
            self._die()
            self.book.hold = hold
            self.book.run(self.book.loads[name], first=first)
            self.running, self.item_seconds = name, 0.0

    @rule(item_seconds=st.sampled_from([0.25, 40.0]))
    def reweigh_lanes(self, item_seconds: float) -> None:
        """Reweigh the lanes by another constant time of jobs."""
        self.book.reweigh_lanes(item_seconds)
        self.item_seconds = item_seconds

    @rule(wanted=st.integers(1, 4), slots=st.integers(0, 2), is_due=st.booleans())
    def claim(self, wanted: int, slots: int, is_due: bool) -> None:
        """Attempts begin, some of them ahead: before a slot is free, or while the job before them lives."""
        seen = self._look()
        limit = self.book.limit_facts()
        busy = {item["lane_id"] for item in seen.items if item["state"] in LIVE}
        claimed = self.book.claim(wanted, Ahead(slots, sorted(busy) if is_due else []))
        self.under_way += [Attempt(found) for found in claimed]
        free = limit.in_force - sum(item["state"] == State.SENDING or self._holds(item) for item in seen.items)
        ahead = 0 if limit.needs_slot_first else slots
        assert len(claimed) <= min(wanted, max(free + ahead, 0))
        assert 1 <= limit.in_force <= LIMIT
        for begun in claimed:
            assert begun.is_ahead or begun.lane_id not in busy
            live = LIVE if begun.is_ahead and is_due and not limit.needs_slot_first else ()
            assert self._before(seen, begun) <= {*self._passable(), *live}, "an item overtook another of its lane"

    @precondition(lambda self: any(not attempt.admitted for attempt in self.under_way))
    @rule(data=st.data(), room=st.integers(1, 3))
    def admit(self, data: st.DataObject, room: int) -> None:
        """Attempts ask for their admission: as many as have slot and turn get it, and their last chunks leave."""
        asking = st.lists(
            st.sampled_from([attempt for attempt in self.under_way if not attempt.admitted]), min_size=1, unique_by=id
        )
        waiting = {attempt.claim.attempt_id: attempt for attempt in data.draw(asking)}
        seen, limit = self._look(), self.book.limit_facts()
        found = self.book.ask(*(attempt.claim for attempt in waiting.values()), room=room)
        free = limit.in_force - sum(self._holds(item) for item in seen.items)
        due = [
            attempt_id
            for attempt_id, attempt in waiting.items()
            if self._before(seen, attempt.claim) <= self._passable()
        ]
        assert found.admitted <= {*due}, "admitted before the item before it has completed"
        assert len(found.admitted) == max(min(room, free, len(due)), 0)
        for attempt_id, attempt in waiting.items():
            before = self._before(seen, attempt.claim)
            assert (attempt_id in found.withdrawn) == bool(
                before & {State.PENDING, *(TROUBLED if self.book.hold else ())}
            )
        for attempt_id in found.admitted:
            waiting[attempt_id].admitted = True
            self.service.taken[self._content(waiting[attempt_id].claim)] += 1

    @rule(seconds=st.sampled_from([1.0, 1000.0]))
    def need_slot_first(self, seconds: float) -> None:
        """Record that the service counts uploads as jobs."""
        with self.book.ledger.writing() as connection:
            need_slot_first(connection, account(connection, BASE_URL), self.book.now + seconds, "a 429")

    @precondition(lambda self: self.under_way)
    @rule(data=st.data(), wait=st.sampled_from([0.0, 60.0]))
    def answer(self, data: st.DataObject, wait: float) -> None:
        """Record any reply."""
        attempt = data.draw(st.sampled_from(self.under_way))
        good = accepted(f"job-{attempt.claim.attempt_id}")
        reply = data.draw(st.sampled_from([good, good, *AFTER_ADMISSION] if attempt.admitted else BEFORE_ADMISSION))
        self.unadmitted[attempt.claim.item_id] += reply is WITHHELD
        self.book.record(attempt.claim, reply, wait, refusal=Refusal() if reply is THROTTLED else None)
        if reply.status in NOT_APPENDED:
            self.service.taken[self._content(attempt.claim)] -= 1
        self.under_way.remove(attempt)

    @rule(replies=st.lists(st.sampled_from([None, None, None, *AFTER_ADMISSION, CUT, OUR_FILE]), max_size=8))
    def go(self, replies: list[Reply | None]) -> None:
        """Carry items from claim to reply, one after the other (None: to the good end of the job)."""
        for reply in replies:
            if not self._may_go() or not (claimed := self.book.claim(1)):
                return
            (claim,) = claimed
            if reply is None or reply.last_chunk_left:
                self.service.taken[self._content(claim)] += reply is None or reply.status not in NOT_APPENDED
            if reply is None:
                self.book.complete(claim)
            else:
                self.book.answer(claim, reply)
            self.before = self._look().states

    @precondition(lambda self: self.book.jobs())
    @rule(data=st.data(), status=st.sampled_from([JobStatus.COMPLETED, JobStatus.COMPLETED, JobStatus.FAILED]))
    def end_job(self, data: st.DataObject, status: JobStatus) -> None:
        """End a job, of this run or of an earlier one."""
        self.book.end(data.draw(st.sampled_from(self.book.jobs())).job_id, status)

    @precondition(lambda self: self.book.jobs())
    @rule(data=st.data(), is_live=st.booleans())
    def overdue(self, data: st.DataObject, is_live: bool) -> None:
        """Let a job be overdue."""
        job = data.draw(st.sampled_from(self.book.jobs()))
        if not next(item["overdue"] for item in self._look().items if item["id"] == job.item_id):
            with self.book.ledger.writing() as connection:
                job_overdue(connection, job, "it did not end", self.book.now, DOUBT_SECONDS, is_live=is_live)

    @rule(seconds=st.sampled_from([1.0, 60.0, 1000.0]))
    def pass_time(self, seconds: float) -> None:
        """Time passes."""
        self.book.now += seconds

    @rule(most=st.sampled_from([0, 1, 2]))
    def keep_counts(self, most: int) -> None:
        """Keep the counts of items that are over, as at the end of a run."""
        with self.book.ledger.writing() as connection:
            keep_counts(connection, most)

    @rule(data=st.data(), decision=st.sampled_from(Decision))
    def decide(self, data: st.DataObject, decision: Decision) -> None:
        """Resolve an item that needs a person; a decision that does not fit is refused and changes nothing."""
        with self.book.ledger.writing() as connection:
            found = open_items(connection, self.book.loads[self.running].batch_id, Selection())
        if not found:
            return
        item = data.draw(st.sampled_from(found))
        job_id = data.draw(st.sampled_from([None, f"told-{item.item_id}"])) if decision is Decision.APPENDED else None
        try:
            with self.book.ledger.writing() as connection:
                state = resolve(connection, item, decision, job_id=job_id, note=None, who="me", now=1.0)
        except UsageError:
            return
        self.decided = item.item_id
        if state is State.PENDING and item.state in (State.IN_DOUBT, State.FAILED):
            self.service.taken[item.conversation_id, RECORDINGS[Path(item.audio_path).name]] -= 1

    # what holds

    @invariant()
    def each_content_is_taken_as_often_as_it_is_meant(self) -> None:
        """Check "at most once": nothing that may have been appended is sent again, whichever manifest names it."""
        for content, count in self.service.taken.items():
            assert count <= self.service.meant[content], f"{content}: {count} times"

    @invariant()
    def what_the_ledger_holds_is_right(self) -> None:
        """Check slots, lanes, states, attempts and rows after every step."""
        seen = self._look()
        self._check_slots(seen)
        self._check_states(seen)
        self._check_attempts(seen)
        self._check_lanes(seen)
        self._check_work(seen)
        self._check_rows(seen)
        self._check_counts()

    def _check_slots(self, seen: Seen) -> None:
        """Check that a lane has one live and one sent item, and that jobs and doubts never exceed the limit.

        What is being sent holds no slot, but where the service counts uploads as jobs.

        A job that a person named late, when its slot had gone to another and its lane had gone on, is apart.
        """
        live = Counter(item["lane_id"] for item in seen.items if item["state"] in LIVE and not _is_told(item))
        assert set(live.values()) <= {1}
        sending = Counter(item["lane_id"] for item in seen.items if item["state"] == State.SENDING)
        assert set(sending.values()) <= {1}
        held = [item for item in seen.items if self._holds(item)]
        assert sum(not _is_told(item) for item in held) <= LIMIT
        facts = self.book.limit_facts()
        assert facts.sending == sum(sending.values())
        assert facts.live == len(held) + (facts.sending if facts.needs_slot_first else 0)

    def _check_states(self, seen: Seen) -> None:
        """Check that an item that may have been appended goes back only by a verdict or a person."""
        for item_id, state in self.before.items():
            now = seen.states.get(item_id, state)
            allowed = BY_A_PERSON[state] if item_id == self.decided else BY_ITSELF[state]
            assert now is state or now in allowed, f"{state} became {now}"
        self.before, self.decided = seen.states, None

    def _check_attempts(self, seen: Seen) -> None:
        """Check that an item with n attempts has the attempts 1 to n, closed unless under way."""
        numbers: dict[int, list[int]] = defaultdict(list)
        for row in seen.attempts:
            numbers[row["item_id"]].append(row["number"])
        for item in seen.items:
            assert sorted(numbers[item["id"]]) == list(range(1, item["attempts"] + 1))
            assert item["unadmitted"] == self.unadmitted[item["id"]]
        assert sum(row["outcome"] is None for row in seen.attempts) == len(self.under_way)

    def _check_lanes(self, seen: Seen) -> None:
        """Check that the position that the claim reads follows from the items themselves."""
        for lane in seen.lanes:
            places = seen.places[lane["id"]]
            first = min((place for place, state in places.items() if state is State.PENDING), default=None)
            trouble = first and any(state in TROUBLED and place < first for place, state in places.items())
            overdue = any(item["overdue"] for item in seen.items if item["lane_id"] == lane["id"])
            blocked = State.SENDING in places.values() or overdue or (self.book.hold and trouble)
            ready = None if blocked or first is None or first > lane["active_until"] else first
            assert lane["ready_position"] == ready
            assert lane["is_busy"] == any(state in LIVE for state in places.values())

    def _check_work(self, seen: Seen) -> None:
        """Check that the backlog of each lane is the sum over its active pending items."""
        self.book.check_work()
        for lane in seen.lanes:
            assert lane["item_seconds"] == (self.item_seconds if lane["active_until"] else 0.0)

    def _check_rows(self, seen: Seen) -> None:
        """Check that each row is in its batch's results once, in order, and names its own item with its content."""
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
        """Check that a batch's kept count gives the same figures as counting its rows."""
        with self.book.ledger.reading() as connection:
            counted = {load.batch_id: standing(connection, load.batch_id) for load in self.book.loads.values()}
            left = unfinished(connection)
            assert standings(connection, counted, left) == counted
            for batch_id, found in counted.items():
                assert left.get(batch_id, Standing({})) == Standing(
                    {state: tally for state, tally in found.tallies.items() if state not in OVER}
                )

    # how it is looked at

    def _die(self) -> None:
        """Let the run die: admitted attempts come into doubt, the others are pending again."""
        unadmitted = [attempt.claim.item_id for attempt in self.under_way if not attempt.admitted]
        if self.running:
            again = (len(unadmitted), len(self.under_way) - len(unadmitted))
            assert self.book.crash(self.book.loads[self.running]) == again
            self.unadmitted.update(unadmitted)
        self.under_way = []

    def _holds(self, item: Mapping[str, Any]) -> bool:
        """Tell whether an item holds a slot."""
        return item["state"] in SLOTTED and (item["slot_until"] is None or item["slot_until"] > self.book.now)

    def _passable(self) -> set[State]:
        """Return the states in which an item lets the next one of its lane follow."""
        return {*OVER, *(() if self.book.hold else TROUBLED)}

    @staticmethod
    def _before(seen: Seen, claimed: Claim) -> set[State]:
        """Return the states of the items before one in its lane."""
        mine = next(item["position"] for item in seen.items if item["id"] == claimed.item_id)
        return {state for place, state in seen.places[claimed.lane_id].items() if place < mine}

    def _may_go(self) -> bool:
        """Tell whether a slot is free that no attempt under way is to have."""
        return self.book.limit_facts().free > sum(not attempt.admitted for attempt in self.under_way)

    def _look(self) -> Seen:
        with self.book.ledger.writing() as connection:
            tables = (select(table).order_by(*table.primary_key) for table in (items, attempts, lanes, rows))
            return Seen(*[[dict(row) for row in connection.execute(query).mappings()] for query in tables])

    def _is_over(self, path: Path) -> bool:
        """Return True where people may archive a file: it was sent, and no pending item needs it."""
        mine = [item for item in self._look().items if item["path"] == str(path)]
        return bool(mine) and all(item["attempts"] and item["state"] != State.PENDING for item in mine)

    @staticmethod
    def _content(claim: Claim) -> tuple[str, str]:
        return claim.conversation_id, RECORDINGS[Path(claim.path).name]


TestLedgerMachine = LedgerMachine.TestCase
TestLedgerMachine.settings = settings(max_examples=settings().max_examples // 5, stateful_step_count=30, deadline=None)
