"""The account's flow: its one state as a table of events, and the attempts that wait in it for their admission."""

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from math import inf
from typing import Any, cast

import pytest
from hypothesis import given
from hypothesis import strategies as st

from uploader.errors import LedgerUnavailableError
from uploader.flow import FlowControl
from uploader.ledger.claiming import Admission, AdmissionResult, admit
from uploader.ledger.thread import Writer
from uploader.model import Claim, LimitFacts, Reply
from uploader.policy.ahead import silence_seconds
from uploader.policy.backoff import Backoff
from uploader.policy.breaker import LANES_TO_OPEN, BreakerState, CircuitBreaker
from uploader.policy.flow import (
    CUTS_TO_REFUSE,
    UNANSWERED,
    AttemptAdmitted,
    AttemptEnded,
    Event,
    Flow,
    JobEnded,
    LimitMet,
    ProbeAnswered,
    RunEnds,
    SendAhead,
    StopAsked,
    Throttle,
    reduce,
)
from uploader.policy.replies import excuse_early_429, judge
from uploader.settings import Settings
from uploader.settings.tables import Schedule

NOW, WANTED = 1000.0, 8
GOOD = Reply(connected=True, last_chunk_left=True, status=201, answer={"jobId": "j"})
LOST = Reply(connected=True, last_chunk_left=True, failure="reset")
CUT = Reply(connected=True, failure="reset")
UNREACHABLE = Reply(failure="Connection refused")
WITHHELD = Reply(connected=True, withheld=True)
THROTTLED = Reply(connected=True, last_chunk_left=True, status=429)
EARLY_429 = Reply(connected=True, status=429)
TIMED_OUT = Reply(connected=True, status=408)
OUR_FILE = Reply(connected=True, source_failure="the file shrank")

ON = Throttle(Backoff(NOW + 30.0, 3), may_probe=True)
ROOM = ON._replace(room=True)
TRIED = ON._replace(probe=5)
OPEN = CircuitBreaker(state=BreakerState.OPEN, probing=Backoff(NOW + 5.0, 1), refusal=None)


def ended(reply: Reply, attempt: int = 5, jitter: float = 1.0, **more: Any) -> AttemptEnded:
    """Build the end of an attempt, each in a lane of its own."""
    verdict = excuse_early_429(judge(reply, "c"), reply) if more.get("was_ahead") else judge(reply, "c")
    return AttemptEnded(attempt, 100 + attempt, verdict, reply, jitter, **more)


def met(attempt: int = 5, retry_after: str | None = None, *, about_limit: bool = True) -> AttemptEnded:
    """Build an attempt's end with a 429."""
    return ended(THROTTLED._replace(retry_after=retry_after), attempt, is_about_limit=about_limit)


def after(flow: Flow, *events: Event, now: float = NOW) -> Flow:
    """Return the flow after these events."""
    for event in events:
        flow = reduce(flow, event, now)
    return flow


@pytest.mark.parametrize(
    ("throttle", "events", "allowed"),
    [
        pytest.param(Throttle(), [], WANTED, id="off"),
        pytest.param(ON, [], 0, id="on"),
        pytest.param(Throttle(Backoff(NOW, 3)), [], WANTED, id="just over"),
        pytest.param(ROOM, [], 1, id="a job has ended"),
        pytest.param(ON, [JobEnded()], 1, id="a job ends"),
        pytest.param(ROOM, [AttemptAdmitted(5)], 0, id="one tries the room"),
        pytest.param(TRIED, [JobEnded()], 0, id="another job has ended meanwhile"),
        pytest.param(TRIED, [ended(GOOD)], WANTED, id="there was room"),
        pytest.param(TRIED, [ended(GOOD, 4)], 0, id="an upload of before was accepted"),
        pytest.param(TRIED, [met()], 0, id="there was none"),
        pytest.param(TRIED, [ended(WITHHELD)], 1, id="it came to nothing: another one tries"),
        pytest.param(TRIED, [ended(WITHHELD, 4)], 0, id="an attempt of before came to nothing"),
        pytest.param(TRIED, [met(), JobEnded()], 1, id="none, then another end"),
        pytest.param(Throttle(), [met(about_limit=False), JobEnded()], 0, id="about the rate"),
        pytest.param(ROOM, [met(about_limit=False), JobEnded()], 0, id="then one about the rate"),
        pytest.param(Throttle(), [met(retry_after="9"), JobEnded()], 0, id="the service said when"),
    ],
)
def test_while_a_429_pauses_one_at_a_time_tries_the_room(
    throttle: Throttle, events: Sequence[Event], allowed: int
) -> None:
    """None begins or is admitted, but one where the end of a job of ours may have left room."""
    flow = after(Flow(CircuitBreaker(refusal=None), throttle, unanswered=WANTED, unanswered_is_fixed=True), *events)
    assert flow.attempts_allowed(WANTED, 0, NOW) == allowed
    assert flow.admissions_allowed(0, NOW) == allowed
    # one that waits already will try it: no other begins for that
    assert flow.attempts_allowed(WANTED, 1, NOW) == (0 if allowed == 1 else allowed)


@pytest.mark.parametrize("throttle", [ON, ROOM, TRIED])
def test_a_429_while_the_pause_is_on_lets_it_go_on(throttle: Throttle) -> None:
    """One pause for the account, not one per file: neither its end nor its count moves."""
    assert after(Flow(throttle=throttle), met()).throttle.backoff == throttle.backoff


@pytest.mark.parametrize("throttle", [ON, ROOM, TRIED])
@pytest.mark.parametrize("about_limit", [True, False])
def test_a_429_while_the_pause_is_on_may_ask_for_longer(throttle: Throttle, *, about_limit: bool) -> None:
    """The service's own word is kept to wherever it comes: the longest of them counts, and no sign of room ends it."""
    longer = after(Flow(throttle=throttle), met(retry_after="120", about_limit=about_limit))
    assert longer.throttle.backoff.until == NOW + 120.0
    assert after(longer, JobEnded()).admissions_allowed(0, NOW + 119.0) == 0
    assert after(longer, met(retry_after="5", about_limit=about_limit)).throttle.backoff.until == NOW + 120.0


@given(st.integers(0, 20), st.floats(0.0, 1.0))
def test_each_pause_in_a_row_is_longer_until_an_upload_is_accepted(in_a_row: int, jitter: float) -> None:
    """Backoff with jitter over the pauses, not over the files; an accepted upload begins anew."""
    flow = after(Flow(throttle=Throttle(Backoff(0.0, in_a_row))), met()._replace(jitter=jitter))
    assert NOW < flow.throttle.backoff.until <= NOW + min(60.0, 2.0**in_a_row)
    assert flow.throttle.backoff.failures == in_a_row + 1
    assert after(flow, ended(GOOD, 1)).throttle.backoff.failures == 0


def test_an_attempt_that_is_admitted_while_no_pause_is_on_tries_nothing() -> None:
    """Only the one attempt of a pause may end it."""
    assert after(Flow(), AttemptAdmitted(5)) == Flow()


def test_429s_count_as_no_good_answer_while_nothing_of_ours_is_live() -> None:
    """The time runs from the first of them, ends with a job of ours or an accepted upload, and then begins anew."""
    first = after(Flow(), LimitMet(alone=True), now=100.0)
    later = after(first, LimitMet(alone=True), now=150.0)
    assert Flow().gives_up_at(60.0) == inf
    assert (first.gives_up_at(60.0), later.gives_up_at(60.0)) == (160.0, 160.0)
    assert after(later, LimitMet(alone=False)).gives_up_at(60.0) == inf
    assert after(later, ended(GOOD)).gives_up_at(60.0) == inf


@pytest.mark.parametrize(
    ("flow", "admissions", "attempts", "admits_not", "waits_not"),
    [
        pytest.param(Flow(), UNANSWERED, WANTED, "", "", id="sending"),
        pytest.param(Flow(OPEN), 0, WANTED, "no good answer", "", id="open"),
        pytest.param(Flow(cut_at=NOW + 1), UNANSWERED, 0, "", "stopped before its turn", id="stopping"),
        pytest.param(Flow(cut_at=NOW), 0, 0, "stopped before its last", "stopped before its turn", id="cutting"),
        pytest.param(Flow(late_at=NOW), UNANSWERED, 0, "", "the time is over", id="late"),
        pytest.param(Flow(late_at=NOW + 1), UNANSWERED, WANTED, "", "", id="not yet late"),
    ],
)
def test_what_stands_between_an_attempt_and_its_admission(
    flow: Flow, admissions: int, attempts: int, admits_not: str, waits_not: str
) -> None:
    """A stop and --until begin nothing and end the waits; an open breaker, and a stop at its end, admit nothing."""
    assert flow.admissions_allowed(0, NOW) == admissions
    assert flow.attempts_allowed(WANTED, 0, NOW) == attempts
    for reason, expected in ((flow.reason_not_to_admit(NOW), admits_not), (flow.reason_not_to_wait(NOW), waits_not)):
        assert expected in reason
        assert bool(expected) == bool(reason)


def test_the_first_stop_counts_and_a_second_one_only_hastens() -> None:
    """The second signal ends at once; a later time than the first one's changes nothing."""
    flow = after(Flow(), StopAsked(1006.0, 1008.0), StopAsked(1020.0, 1030.0))
    assert (flow.cut_at, flow.end_at) == (1006.0, 1008.0)
    assert [flow.must_cut(at) for at in (1005.9, 1006.0)] == [False, True]
    assert [flow.must_not_wait(at) for at in (1007.9, 1008.0)] == [False, True]
    assert after(flow, StopAsked(NOW, NOW)).must_not_wait(NOW)


@given(st.integers(0, 12))
def test_last_chunks_without_an_answer_are_bounded(unanswered: int) -> None:
    """So many items at most come into doubt when a gateway dies; each failing lane takes one more of them away."""
    flow = Flow(CircuitBreaker(refusal=None))
    assert flow.admissions_allowed(unanswered, NOW) == max(UNANSWERED - unanswered, 0)
    failing = after(flow, ended(LOST, 1), ended(CUT, 2))
    assert failing.admissions_allowed(unanswered, NOW) == max(UNANSWERED - 2 - unanswered, 0)


def test_five_failing_lanes_open_the_breaker_and_one_attempt_tries_it_again() -> None:
    """The breaker's own table is elsewhere; here is that its events reach it, and what it then allows."""
    opened = after(Flow(), *(ended(LOST, number) for number in range(LANES_TO_OPEN)))
    assert (opened.breaker.state, opened.admissions_allowed(0, NOW)) == (BreakerState.OPEN, 0)
    half = after(opened, ProbeAnswered(good=True, jitter=0.5))
    assert (half.breaker.state, half.admissions_allowed(0, NOW), half.admissions_allowed(1, NOW)) == (
        BreakerState.HALF_OPEN,
        1,
        0,
    )
    assert not half.may_send_ahead(), "the attempt that tries it waits for no job"
    good = after(half, ended(GOOD, 9))
    assert good.admissions_allowed(0, NOW) == UNANSWERED
    assert good.may_send_ahead()
    assert after(half, ended(WITHHELD, 9)).breaker == half.breaker


@pytest.mark.parametrize(
    ("events", "unanswered"),
    [
        pytest.param([ended(GOOD, answer_seconds=0.01, unanswered_wanted=40)], UNANSWERED, id="quick answers"),
        pytest.param([ended(GOOD, answer_seconds=5.0, unanswered_wanted=40)], 40, id="slow ones, slots idle"),
        pytest.param([ended(GOOD, answer_seconds=5.0, unanswered_wanted=3)], UNANSWERED, id="slow ones, none idle"),
        pytest.param([ended(GOOD, answer_seconds=5.0, unanswered_wanted=40), ended(LOST)], UNANSWERED, id="a doubt"),
        pytest.param([ended(CUT, answer_seconds=5.0, unanswered_wanted=40)], UNANSWERED, id="no good answer"),
        pytest.param(
            [ended(GOOD, answer_seconds=5.0, unanswered_wanted=40), *[ended(GOOD, answer_seconds=0.01)] * 40],
            UNANSWERED,
            id="a slow one, then quick ones",
        ),
    ],
)
def test_unanswered_last_chunks_grow_only_where_slow_answers_leave_slots_idle(
    events: Sequence[Event], unanswered: int
) -> None:
    """Five while answers are quick; the first doubt takes them back; a number that a person set is kept."""
    assert after(Flow(), *events).unanswered == unanswered
    assert after(Flow(unanswered=7, unanswered_is_fixed=True), *events).unanswered == 7


LONG: dict[str, Any] = {"waited_seconds": 5.0}
BORNE = ended(GOOD, was_ahead=True, **LONG)
SILENT: dict[str, Any] = {"silence_seconds": 0.5}
BORNE_NOISILY = ended(GOOD, was_ahead=True, silence_seconds=0.2, **LONG)
BORNE_SILENTLY = ended(GOOD, was_ahead=True, silence_seconds=0.6, **LONG)
EARLY: dict[str, Any] = {"was_ahead": True, "is_about_limit": True}


@pytest.mark.parametrize(
    ("events", "refusal"),
    [
        pytest.param([ended(EARLY_429, **EARLY)], "a 429 about the limit", id="it counts uploads"),
        pytest.param(
            [ended(EARLY_429, is_about_limit=True)], "a 429 about the limit", id="to one that had its slot, too"
        ),
        pytest.param([ended(EARLY_429, was_ahead=True)], "", id="a 429 about the rate"),
        pytest.param([ended(THROTTLED, **EARLY)], "", id="a 429 to a whole body"),
        pytest.param([ended(CUT, **LONG)], "", id="one broken wait"),
        pytest.param([ended(CUT, **LONG), ended(CUT, **LONG)], "connection was closed", id="two broken waits"),
        pytest.param([ended(TIMED_OUT, **LONG), ended(TIMED_OUT, **LONG)], "HTTP 408", id="two 408s"),
        pytest.param(
            [ended(CUT, **LONG), ended(GOOD, was_ahead=True, **LONG), ended(CUT, **LONG)], "", id="one bore it"
        ),
        pytest.param(
            [ended(CUT, **LONG, **SILENT), BORNE_NOISILY, ended(CUT, **LONG, **SILENT)],
            "connection was closed",
            id="one bore a shorter silence",
        ),
        pytest.param(
            [ended(CUT, **LONG, **SILENT), BORNE_SILENTLY, ended(CUT, **LONG, **SILENT)],
            "",
            id="one bore as long a silence",
        ),
        pytest.param([ended(CUT), ended(CUT), ended(CUT)], "", id="broken before any wait"),
        pytest.param([ended(UNREACHABLE, **LONG), ended(OUR_FILE, **LONG)] * 2, "", id="no connection, or our file"),
        pytest.param([ended(WITHHELD, **LONG)] * 3, "", id="our own cuts"),
        pytest.param([ended(LOST, **LONG)] * 3, "", id="after the last chunk"),
    ],
)
def test_a_service_that_does_not_bear_the_wait_is_learned(events: Sequence[Event], refusal: str) -> None:
    """A 429 before the last chunk at once, broken waits at the second: two bodies at most are lost to that."""
    assert CUTS_TO_REFUSE == 2
    flow = after(Flow(), *events)
    assert flow.may_send_ahead() == (not refusal)
    assert refusal in flow.ahead.refusal
    assert after(Flow(ahead=SendAhead(is_on=False)), *events).ahead.refusal == ""


def test_one_body_at_a_time_tries_how_long_a_silence_is_borne() -> None:
    """Those beside it send a byte sooner, until a body that was as silent has been accepted."""
    tried, beside = silence_seconds(0.0, is_alone=True), silence_seconds(0.0, is_alone=False)
    assert beside < tried / 2
    borne = after(Flow(), BORNE_SILENTLY, BORNE_NOISILY, ended(CUT, **LONG, silence_seconds=9.0)).ahead.borne_silence
    assert borne == 0.6
    assert beside < silence_seconds(borne, is_alone=False) < borne
    assert silence_seconds(borne, is_alone=True) == tried


def test_a_body_that_came_too_early_is_no_failure_of_the_service() -> None:
    """What shows that the wait is not borne pauses nothing, and opens no breaker, and so does the next of its kind."""
    early = after(Flow(), ended(EARLY_429, **EARLY))
    assert (early.throttle, early.breaker) == (Throttle(), CircuitBreaker())
    assert after(early, ended(EARLY_429, **EARLY)).throttle == Throttle()


def test_bodies_that_are_cut_while_they_wait_open_no_breaker() -> None:
    """A gateway cuts at once all that wait: that says nothing of the service's health, also once it is learned."""
    flow = after(Flow(), *(ended(CUT, attempt, was_ahead=True, **LONG) for attempt in range(10)))
    assert flow.ahead.refusal
    assert flow.breaker == Flow().breaker
    # whoever begins with a slot, and is cut all the same, has met a failure
    cuts = [ended(CUT, attempt, **LONG) for attempt in range(LANES_TO_OPEN)]
    assert after(flow, *cuts).breaker.state is BreakerState.OPEN


def test_sending_ahead_is_confirmed_by_an_accepted_upload_that_was_ahead() -> None:
    """Until then one body at a time tries it."""
    assert not after(Flow(), ended(GOOD)).ahead.is_confirmed
    assert after(Flow(), ended(GOOD, was_ahead=True)).ahead.is_confirmed


EVENTS: st.SearchStrategy[Event] = st.one_of(
    st.builds(AttemptAdmitted, st.integers(1, 4)),
    st.builds(
        lambda reply, attempt, ahead, limit, waited: ended(
            reply, attempt, was_ahead=ahead, is_about_limit=limit, waited_seconds=waited, answer_seconds=waited
        ),
        st.sampled_from([GOOD, LOST, CUT, UNREACHABLE, WITHHELD, THROTTLED, EARLY_429, TIMED_OUT, OUR_FILE]),
        st.integers(1, 4),
        st.booleans(),
        st.booleans(),
        st.floats(0.0, 30.0),
    ),
    st.builds(LimitMet, st.booleans()),
    st.just(JobEnded()),
    st.builds(ProbeAnswered, st.booleans(), st.floats(0.0, 1.0)),
    st.builds(StopAsked, st.floats(NOW, 2000.0), st.floats(NOW, 2000.0)),
)


@given(st.lists(st.tuples(EVENTS, st.floats(0.0, 40.0)), max_size=30), st.integers(0, 9))
def test_whatever_happens_the_answers_of_the_flow_fit_together(events: list[tuple[Event, float]], out: int) -> None:
    """Never more admissions than the cap, none where a reason stands against it, and none below nothing."""
    flow, now = Flow(), NOW
    for event, seconds in events:
        now += seconds
        flow = reduce(flow, event, now)
        allowed = flow.admissions_allowed(out, now)
        assert 0 <= allowed <= max(flow.unanswered - out, 1)
        assert not (allowed and flow.reason_not_to_admit(now))
        assert 0 <= flow.attempts_allowed(WANTED, 0, now) <= WANTED
        assert flow.unanswered >= UNANSWERED
        assert flow.ahead.cuts < CUTS_TO_REFUSE


def _set(event: asyncio.Event) -> asyncio.Event:
    event.set()
    return event


@dataclass
class Ledger:
    """A writer whose slots and lanes are the test's."""

    slots: int = 2
    # lanes whose turn has not come, and attempts that never may go
    busy: set[int] = field(default_factory=set)
    withdrawn: dict[int, str] = field(default_factory=dict)
    failure: Exception | None = None
    # unset by the test while an admission is to be written
    gate: asyncio.Event = field(default_factory=lambda: _set(asyncio.Event()))
    asked: list[list[int]] = field(default_factory=list)
    taken: int = 0

    async def call(
        self, function: Callable[..., Any], _account: int, waiting: Sequence[Admission], room: int, *_: Any, **__: Any
    ) -> AdmissionResult:
        """Admit whoever finds slot and turn."""
        assert function is admit
        self.asked.append([one.claim.attempt_id for one in waiting])
        await self.gate.wait()
        if self.failure is not None:
            raise self.failure
        out = {one.claim.attempt_id: self.withdrawn[one.claim.attempt_id] for one in waiting if self._is_out(one)}
        due = [one.claim.attempt_id for one in waiting if not self._is_out(one) and one.claim.lane_id not in self.busy]
        admitted = due[: max(min(room, self.slots - self.taken), 0)]
        self.taken += len(admitted)
        behind = frozenset(one.claim.attempt_id for one in waiting if one.claim.lane_id in self.busy)
        return AdmissionResult(frozenset(admitted), out, behind, LimitFacts(self.slots, None, self.slots, self.taken))

    def _is_out(self, one: Admission) -> bool:
        return one.claim.attempt_id in self.withdrawn


@dataclass
class Place:
    """A flow, its ledger, and attempts that ask for their admission."""

    ledger: Ledger
    flow: FlowControl
    tasks: dict[int, "asyncio.Task[str]"] = field(default_factory=dict)

    async def ask(self, *attempts: int) -> None:
        """Let attempts ask, each in a lane of its own, and go as far as they come by themselves."""
        for number in attempts:
            self.tasks[number] = asyncio.create_task(asked(self.flow, number))
            await settled()

    def answers(self) -> list[str | None]:
        """List what each was answered, None where it still waits."""
        return [task.result() if task.done() and not task.cancelled() else None for task in self.tasks.values()]

    async def reply(self, number: int, reply: Reply = GOOD, *, frees: bool = False) -> None:
        """Let an attempt end; where its slot is free, the flow is told so."""
        self.flow.ended(ended(reply, number))
        if frees:
            self.ledger.taken -= 1
            self.flow.slot_may_be_free()
        await settled()


def claim(number: int) -> Claim:
    """Build an attempt."""
    return Claim(
        attempt_id=number,
        item_id=number,
        lane_id=100 + number,
        number=1,
        batch="b",
        line=number,
        conversation_id=f"c{number}",
        path="x",
        size=1,
        change=None,
        cut_offs=0,
        content_hash=None,
        content_type=None,
        parameters={},
    )


async def asked(flow: FlowControl, number: int) -> str:
    """Wait for the admission of an attempt, as an upload does."""
    try:
        return await flow.ask(claim(number), "hash")
    finally:
        flow.withdraw(claim(number))


async def settled() -> None:
    """Let everybody go as far as they come."""
    for _ in range(10):
        await asyncio.sleep(0)


@asynccontextmanager
async def place(slots: int, ahead_seconds: float = 3600.0, live: Sequence[int] = ()) -> AsyncIterator[Place]:
    """Run a flow over a ledger of so many slots; the lanes of ``live`` have a job."""
    ledger, loop = Ledger(slots), asyncio.get_running_loop()
    flow = FlowControl(
        writer=cast("Writer", ledger),
        account_id=1,
        settings=Settings(limit=slots, ahead_seconds=ahead_seconds, schedule=Schedule(order="manifest")),
        flow=Flow(CircuitBreaker(refusal=None)),
        now=loop.time,
        is_lane_live=lambda lane: lane in live,
    )
    running = asyncio.create_task(flow.run())
    try:
        yield Place(ledger, flow)
    finally:
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)


async def test_a_slot_that_comes_free_goes_to_one_that_waits() -> None:
    """Two slots and three that want one: the third waits until a slot is given back, and the ledger is not pestered."""
    async with place(2) as at:
        await at.ask(1, 2, 3)
        assert at.answers() == ["", "", None]
        asked = len(at.ledger.asked)
        await at.reply(1)
        assert (at.answers(), len(at.ledger.asked)) == (["", "", None], asked)
        await at.reply(2, CUT, frees=True)
        assert at.answers() == ["", "", ""]
        assert at.flow.waiting == 0


async def test_no_more_are_out_without_an_answer_than_the_flow_allows() -> None:
    """Five last chunks, however many slots are free; each answer lets another one out."""
    async with place(100) as at:
        await at.ask(*range(1, 9))
        assert at.answers() == [""] * UNANSWERED + [None] * 3
        assert at.flow.unanswered_wanted > UNANSWERED
        await at.reply(1)
        assert at.answers() == [""] * 6 + [None] * 2
        await at.reply(2)
        await at.reply(3)
        assert at.answers() == [""] * 8


async def test_a_limit_that_falls_ends_the_waits_that_would_be_long() -> None:
    """Two for each slot wait on, those that began first; a limit that falls no further ends none."""
    async with place(3) as at:
        await at.ask(*range(1, 11))
        assert at.answers() == [""] * 3 + [None] * 7
        lower = LimitFacts(configured=3, stated=2, in_force=2, live=3)
        for _ in range(2):
            at.flow.update_limit(lower)
            await settled()
            reasons = at.answers()
            assert reasons[:7] == [""] * 3 + [None] * 4
            assert all(reason is not None and "limit is lower" in reason for reason in reasons[7:])


@pytest.mark.parametrize("while_written", [False, True], ids=["while it waits", "while its admission is written"])
async def test_who_goes_away_takes_no_turn(while_written: bool) -> None:
    """One that breaks off, even while the ledger admits it, leaves last chunks that may be out to those behind."""
    async with place(100) as at:
        await at.ask(*range(1, 6))
        if while_written:
            at.ledger.gate.clear()
            await at.reply(5)
        await at.ask(6, 7)
        at.tasks[6].cancel()
        await settled()
        at.ledger.gate.set()
        await at.reply(1)
        assert at.tasks[6].cancelled()
        assert at.answers()[6] == ""
        assert 6 not in at.flow.unanswered


async def test_an_attempt_that_has_ended_keeps_no_permit_of_an_admission_under_way() -> None:
    """Its reply may come while its admission is written, before it has withdrawn: its lane is free for the next."""
    async with place(100) as at:
        at.ledger.gate.clear()
        await at.ask(1)
        at.flow.ended(ended(CUT, 1))
        at.ledger.gate.set()
        await settled()
        assert at.flow.unanswered == {}


async def test_bodies_that_wait_in_their_slots_let_unanswered_last_chunks_grow() -> None:
    """Where uploads count as jobs, no slot is free: those that have one and wait for others' answers are idle."""
    async with place(100) as at:
        await at.ask(*range(1, 41))
        at.flow.update_limit(at.flow.limit._replace(in_force=40, live=40, sending=35, needs_slot_first=True))
        assert at.flow.unanswered_wanted == 40
        await at.reply(1)
        at.flow.update_limit(at.flow.limit._replace(in_force=40, live=40, sending=34, needs_slot_first=True))
        wanted = at.flow.unanswered_wanted
        at.flow.ended(ended(GOOD, 2, answer_seconds=5.0, unanswered_wanted=wanted))
        await settled()
        assert at.flow.waiting == 0


async def test_an_open_breaker_and_a_stop_end_the_waits_at_once() -> None:
    """Whoever waits is told why, whoever comes later at once; nobody of them is admitted."""
    async with place(1) as at:
        await at.ask(1, 2)
        assert at.answers() == ["", None]
        for number in range(50, 50 + LANES_TO_OPEN):
            at.flow.apply(ended(LOST, number))
        await settled()
        assert "no good answer" in (at.answers()[1] or "")
        at.flow.apply(ProbeAnswered(good=True, jitter=0.5))
        await at.ask(3)
        at.flow.apply(StopAsked(at.flow._now() + 3600.0, inf))
        await at.ask(4)
        assert ["stopped before its turn" in (told or "") for told in at.answers()[2:]] == [True, True]


@pytest.mark.parametrize("event", [StopAsked(0.0, inf), *[ended(LOST, 50)]])
async def test_what_comes_while_an_admission_is_written_still_counts(event: Event) -> None:
    """The admission is committed, and by then nothing may leave: the attempt is told so, and none is out."""
    async with place(2) as at:
        at.ledger.gate.clear()
        await at.ask(1)
        for number in range(LANES_TO_OPEN):
            at.flow.apply(event._replace(lane_id=number) if isinstance(event, AttemptEnded) else event)
        at.ledger.gate.set()
        await settled()
        assert at.answers()[0]
        assert at.flow.unanswered == {}


async def test_a_lane_whose_job_is_known_to_live_is_not_asked_for() -> None:
    """Its turn cannot have come; the ledger is asked for the others alone."""
    async with place(2, live=[101]) as at:
        await at.ask(1, 2)
        assert at.answers() == [None, ""]
        assert all(1 not in asked for asked in at.ledger.asked)


@pytest.mark.parametrize("lacks", ["slot", "turn"])
async def test_a_wait_that_is_too_long_ends_though_nothing_else_happens(lacks: str) -> None:
    """After ahead_seconds an attempt is cut, whether its slot or its turn in the lane did not come."""
    async with place(1, ahead_seconds=0.01) as at:
        if lacks == "slot":
            await at.ask(2)
        at.ledger.busy = {101} if lacks == "turn" else set()
        async with asyncio.timeout(10.0):
            assert "did not come within 0.01 s" in await asked(at.flow, 1)
        assert at.flow.waiting == 0


async def test_one_that_waits_for_others_answers_alone_is_not_cut() -> None:
    """A slot is free and the turn has come: the body is not thrown away for the sake of a cap of ours."""
    async with place(100, ahead_seconds=1e-9) as at:
        await at.ask(*range(1, 7))
        assert at.answers() == [""] * 5 + [None]
        await at.reply(1)
        assert at.answers()[5] == ""


@pytest.mark.parametrize("ends", ["the run", "the time", "the wait"])
async def test_one_that_waits_for_a_pause_to_end_waits_no_longer_than_others(ends: str) -> None:
    """A 429 may ask for an hour: neither an open connection nor the end of a run waits for that."""
    async with place(2, ahead_seconds=0.01 if ends == "the wait" else 3600.0) as at:
        now = asyncio.get_running_loop().time()
        at.flow.state = at.flow.state._replace(throttle=Throttle(Backoff(now + 3600.0, 1)))
        await at.ask(1)
        if ends == "the time":
            at.flow.state = at.flow.state._replace(late_at=now)
        if ends == "the run":
            at.flow.apply(RunEnds())
        at.flow.slot_may_be_free()
        assert await asyncio.wait_for(at.tasks[1], 60.0) != ""
        assert at.ledger.taken == 0


async def test_what_the_ledger_withdraws_is_told_why() -> None:
    """An attempt that may never go ends at once, and the others do not wait for it."""
    async with place(2) as at:
        at.ledger.withdrawn = {1: "an item before it needs a person"}
        await at.ask(1, 2)
        assert at.answers() == ["an item before it needs a person", ""]


async def test_an_admission_that_cannot_be_written_fails_each_that_waits() -> None:
    """The ledger's failure is each waiting attempt's own: none of them leaves, and the flow lives on."""
    async with place(2) as at:
        at.ledger.failure = LedgerUnavailableError("the disk is full")
        at.ledger.gate.clear()
        await at.ask(1)
        at.ledger.gate.set()
        await settled()
        assert isinstance(at.tasks[1].exception(), LedgerUnavailableError)
        at.ledger.failure = None
        at.flow.slot_may_be_free()
        await at.ask(2)
        assert at.tasks[2].result() == ""


async def test_waits_end_while_the_ledger_does_not_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    """A ledger that is away answers no admission: no attempt waits longer for that, or takes its turn later."""
    monkeypatch.setattr("uploader.flow.CHECK_WAITS_SECONDS", 0.001)
    async with place(2, ahead_seconds=0.01) as at:
        at.ledger.gate.clear()
        await at.ask(1)
        assert await at.tasks[1] == "its turn did not come within 0.01 s"
        at.ledger.gate.set()
        await settled()
        assert at.flow.unanswered == {}


@pytest.mark.parametrize("by_429", [True, False])
async def test_scopes_before_anything_is_sent_are_interrupted(by_429: bool) -> None:
    """A stop ends both kinds of them; a 429 that another attempt meets ends those that have sent nothing yet."""
    async with place(1) as at:
        scopes = [at.flow.interruptible, at.flow.interruptible_by_429]

        async def wait(number: int) -> None:
            async with scopes[number]():
                await asyncio.Event().wait()

        waits = [asyncio.create_task(wait(number)) for number in range(2)]
        await settled()
        if by_429:
            at.flow.cancel_unstarted()
        else:
            at.flow.apply(StopAsked(at.flow._now() + 3600.0, inf))
        await settled()
        assert [isinstance(one.exception(), TimeoutError) if one.done() else None for one in waits] == [
            None if by_429 else True,
            True,
        ]
        for one in waits:
            one.cancel()
        await asyncio.gather(*waits, return_exceptions=True)


async def test_a_scope_that_takes_a_while_to_end_is_not_ended_twice() -> None:
    """Between a stop and the end of what it has interrupted, other events come; they find it ending already."""
    async with place(1) as at:
        may_end = asyncio.Event()

        async def wait() -> None:
            async with at.flow.interruptible():
                try:
                    await asyncio.Event().wait()
                finally:
                    await may_end.wait()  # a connection that is closed in good order, say

        waiting = asyncio.create_task(wait())
        await settled()
        for _ in range(2):
            at.flow.apply(StopAsked(at.flow._now() + 3600.0, inf))
            await settled()
        may_end.set()
        with pytest.raises(TimeoutError):
            await waiting
