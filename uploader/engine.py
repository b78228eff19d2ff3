"""The engine: begins attempts while lanes and slots allow, and stops cleanly. Only this module creates tasks."""

import asyncio
import random
from collections import Counter
from collections.abc import Callable, Coroutine, Mapping, Sequence
from math import inf
from typing import Any, Protocol

from uploader import logs, parameters
from uploader.attempt import AttemptResult, AttemptRunner, OpenSource, Uploads
from uploader.audio import open_source
from uploader.errors import CredentialsError, GaveUpError, LedgerUnavailableError, SlotsHeldError, UploaderError
from uploader.flow import FlowControl
from uploader.jobs import JobPoller, Jobs, log_callback
from uploader.ledger.callbacks import CallbackResult
from uploader.ledger.claiming import NOTHING_AHEAD, Ahead, ClaimResult, claim, need_slot_first
from uploader.ledger.lanes import reweigh_lanes
from uploader.ledger.limit import limit_facts, slot_holders
from uploader.ledger.reading import is_batch_over, last_doubt, latest_completed_jobs
from uploader.ledger.thread import Writer
from uploader.ledger.workers import has_moving_slots, take_jobs
from uploader.model import Claim, LimitFacts, LiveJob, Next, Order, Outcome, State
from uploader.pace import Paces, make_paces
from uploader.policy import caps
from uploader.policy.ahead import TRIAL_SECONDS, blind_slots, check_seconds, horizon_seconds, lanes_ahead, slots_ahead
from uploader.policy.breaker import BreakerState, reason_to_give_up
from uploader.policy.callbacks import is_webhook_silent
from uploader.policy.facts import CallbackEffect
from uploader.policy.flow import UNANSWERED, Flow, JobEnded, LimitMet, ProbeAnswered, RunEnds, SendAhead, StopAsked
from uploader.policy.held_back import HeldBack, SlotFacts, SlotMeter, slot_uses
from uploader.policy.histogram import UPLOAD_BOUNDS, Histogram
from uploader.policy.lane_weights import LaneWeights, reweigh
from uploader.policy.polling import polls_at_once
from uploader.policy.replies import is_success, loggable_reason
from uploader.policy.waiting import Standstill, format_holders, standstill
from uploader.results import rfc3339
from uploader.settings import Settings, unless_auto
from uploader.worker import Worker

log = logs.get_logger()

# seconds between two looks into the ledger: `uploader resolve` may have changed something beside the run
RECHECK_SECONDS = 30.0
# seconds that a run with a listener waits for a callback about its latest doubt, with nothing else to do
LISTEN_ON_SECONDS = 10.0
# the share of the grace time after which uploads are cut; the rest is for answers and results
CUT_SHARE_OF_GRACE = 0.75
# seconds without bodies sent ahead, after the service or a gateway has refused one for that
NEED_SLOT_FIRST_SECONDS = 24 * 3600.0


_BREAKER_EVENTS = {
    BreakerState.CLOSED: "breaker.closed",
    BreakerState.OPEN: "breaker.opened",
    BreakerState.HALF_OPEN: "breaker.half_open",
}


class Service(Uploads, Jobs, Protocol):
    """The service's calls that the engine makes."""

    async def authorise(self) -> str:
        """Fetch the first token; return why there is none yet."""
        ...

    async def ping(self, job_id: str) -> bool:
        """Return True where the service itself answers."""
        ...


class Engine:
    """The control loop of one account: claims, runs attempts, polls jobs, and ends when nothing can go on.

    Args:
        worker_id: The worker that this engine is, in the ledger.
        batch_id: The batch that it runs; None: every batch of the account, until it is stopped.
        settings: The settings; what is ``auto`` in them follows the account.
        now: Seconds since the epoch, never running backwards and never jumping.
        rng: The random source of jitter.
        new_token: Draws the secret of an attempt's ``webhookUrl``, where there is a listener.
        until: Nothing new starts from this time on, in seconds since the epoch.
        sources: Opens the audio files.
        is_gone: Returns True where the process of another worker is known to be dead.
        paces: The account's rate limiters, where it shares them with other engines.
        is_ledger_away: Returns True while the ledger is away, or does not answer.
    """

    def __init__(
        self,
        *,
        client: Service,
        writer: Writer,
        account_id: int,
        worker_id: int,
        batch_id: int | None,
        settings: Settings,
        now: Callable[[], float],
        rng: random.Random,
        new_token: Callable[[], str],
        until: float | None = None,
        sources: OpenSource = open_source,
        is_gone: Callable[[str], bool] = lambda _: False,
        paces: Paces | None = None,
        is_ledger_away: Callable[[], bool] = lambda: False,
    ) -> None:
        self.throttled = 0
        self.standstill: Standstill | None = None
        self.meter = SlotMeter()
        self._is_measure_due = False
        # for metrics: the attempts by outcome, the callbacks by effect, and how long uploads took
        self.attempts: Counter[Outcome] = Counter()
        self.callbacks: Counter[CallbackEffect] = Counter()
        self.upload_seconds = Histogram(UPLOAD_BOUNDS)
        self._is_webhook_silence_logged = False
        self._is_ledger_away = is_ledger_away
        self._client = client
        self._writer = writer
        self._account_id = account_id
        self._settings = settings
        # None: follows the account
        self._uploads = unless_auto(settings.uploads)
        self._rate = unless_auto(settings.rate)
        self._polls_per_second = unless_auto(settings.jobs.polls_per_second)
        self._order = Order(settings.schedule.order)
        # a webhookUrl of [parameters] is every row's own
        defaults = parameters.check_config(settings.parameters, settings.extra_parameters, settings.file)
        listens = settings.webhook_url is not None and "webhookUrl" not in defaults
        self._new_token = new_token if listens else None
        self._listens_until: float | None = None
        self._now = now
        self._begun_at = now()
        self._rng = rng
        self._changed = asyncio.Event()
        # something happened that may let a claim find more than the last one did
        self._is_claim_due = True
        self._is_claiming = False
        # nothing was left, and a claim after a look at other workers is the last one
        self._is_end_checked = False
        # the result of the last claim, and the lanes of which it was told that their turn is near
        self._found = ClaimResult([], LimitFacts(settings.limit, None, settings.limit, 0), waiting=True)
        self._due_lanes: frozenset[int] = frozenset()
        # the last claim began as many attempts as it was allowed to
        self._was_claim_full = False
        # the attempts under way, and when each began
        self._under_way: dict[asyncio.Task[None], tuple[float, Claim]] = {}
        self._failure: BaseException | None = None
        self._logged_breaker = BreakerState.CLOSED
        self._logged_standstill: Standstill | None = None
        self._last_429 = ""
        # it is in the ledger that bodies are not to be sent ahead
        self._is_refusal_saved = False
        self._stopping = False
        # the latest attempt found that its recording is none of this host's: those of others may go
        self._lacks_recordings = False
        self._lane_weights = LaneWeights()
        self._put_pace, self._poll_pace = paces or make_paces(settings)
        self._worker = Worker(
            writer=writer,
            worker_id=worker_id,
            account_id=account_id,
            batch_id=batch_id,
            settings=settings,
            now=now,
            is_gone=is_gone,
            looks_for_work=self._looks_for_work,
            on_beat=self._on_beat,
        )
        self._poller = JobPoller(
            client=client,
            writer=writer,
            pace=self._poll_pace,
            now=now,
            settings=settings,
            on_job_ended=self._on_job_ended,
            on_job_removed=self._on_job_removed,
        )
        self.flow = FlowControl(
            writer=writer,
            account_id=account_id,
            settings=settings,
            flow=Flow(
                ahead=SendAhead(is_on=settings.send_ahead == "auto"),
                unanswered=unless_auto(settings.doubt.unanswered) or UNANSWERED,
                unanswered_is_fixed=settings.doubt.unanswered != "auto",
                late_at=inf if until is None else until,
            ),
            now=now,
            is_lane_live=self._poller.is_lane_live,
            has_lease=self._worker.has_lease,
            measure=self._measure_soon,
        )
        self._runner = AttemptRunner(
            client=client,
            writer=writer,
            pace=self._put_pace,
            flow=self.flow,
            settings=settings,
            defaults=defaults,
            now=now,
            rng=rng,
            sources=sources,
            # a worker for every batch may lack what other hosts have
            leaves_missing=batch_id is None,
        )

    @property
    def limit(self) -> LimitFacts:
        """The account's limit and slots, as the latest claim or admission found them."""
        return self.flow.limit

    async def run(self) -> None:
        """Run until the active batch is over, or nothing of it can go on.

        Raises:
            UploaderError: The reason for an early end; all attempts that were under way are recorded.
        """
        pollers = polls_at_once(self._polls_per_second)
        helpers = [self._start(work()) for work in (self._poller.dispatch, self.flow.run, self._worker.keep_lease)]
        helpers += [self._start(self._poller.poll_jobs()) for _ in range(pollers)]
        try:
            await self._work()
        except UploaderError as error:
            self.fail(error)
        finally:
            await self._drain()
            for helper in helpers:
                helper.cancel()
            await asyncio.gather(*helpers, return_exceptions=True)
        if self._failure is not None:
            raise self._failure

    def look_soon(self) -> None:
        """Look for what other workers have changed; see ``Worker.look_soon``."""
        self._worker.look_soon()

    def stop(self, reserve_seconds: float = 0.0) -> None:
        """Start nothing new; cut what cannot end within the grace time (the first signal).

        Args:
            reserve_seconds: The part of the grace time that the results need.
        """
        self._stopping = True
        grace = max(self._settings.grace_seconds - reserve_seconds, self._settings.grace_seconds / 4)
        self._close_after(grace * CUT_SHARE_OF_GRACE, grace)
        self._changed.set()

    def _close_after(self, cut_seconds: float, end_seconds: float) -> None:
        now = self._now()
        self.flow.apply(StopAsked(now + cut_seconds, now + end_seconds))

    async def _work(self) -> None:
        self._poller.learn(await self._writer.call(latest_completed_jobs, self._account_id))
        worker_id = self._worker.worker_id
        for job in await self._writer.call(take_jobs, self._account_id, worker_id, overdue_too=True):
            self._poller.add(job, soon=True)
        await self._authorise()
        while not self._ending:
            self._changed.clear()
            if self._is_claim_due:
                self._is_claim_due = False
                await self._begin_attempts()
            over = await self._is_finished() and not await self._awaits_callback()
            # an event during the ledger's answer may have made more to do
            if over and not self._changed.is_set():
                return
            self._check_poll_failures()
            await self._check_standstill()
            await self._wait(self._wake_at())

    async def _authorise(self) -> None:
        """Fetch the first token before anything is claimed: wrong credentials end the run here."""
        try:
            async with self.flow.interruptible():
                missing = await self._client.authorise()
        except TimeoutError:
            return
        if missing:
            log.warning("token.missing", reason=missing)

    @property
    def _ending(self) -> bool:
        return self._stopping or self._failure is not None

    async def _begin_attempts(self) -> None:
        if self._is_probe_due():
            await self._probe()
        if self._order is Order.LONGEST_LANE_FIRST:
            await self._reweigh_lanes()
        wanted = self._attempts_wanted()
        ahead = self._ahead()
        self._is_claiming = True
        found = self._found = await self._writer.call(
            claim,
            self._account_id,
            wanted,
            self._now(),
            self._order,
            self._new_token,
            ahead,
            worker_id=self._worker.worker_id,
        )
        self._is_claiming = False
        self._was_claim_full, self._due_lanes = len(found.claims) == wanted, frozenset(ahead.lanes)
        self.flow.has_more = found.has_more
        if found.limit.workers > 1 and not self._worker.has_others:
            # it is to see this worker's looks from now on
            self._worker.look_soon()
        self._adjust_rates(found.limit)
        self.flow.update_limit(found.limit)
        if found.claims:
            self._is_end_checked = False
        for claimed in found.claims:
            self._under_way[self._start(self._run_attempt(claimed))] = (self._now(), claimed)
        # the slots are measured once these attempts have begun
        self.flow.changed()

    @property
    def _is_lane_ready(self) -> bool:
        """Return True where the last claim left a lane that may go."""
        return self._found.waiting and not self._found.lacks_lanes

    @property
    def status_requests(self) -> int:
        """The number of status requests of jobs so far."""
        return self._poller.requests

    @property
    def unwritten(self) -> int:
        """The number of attempts whose outcome could not be written to the ledger."""
        return self._runner.unwritten

    @property
    def job_seconds(self) -> Histogram:
        """The lifetimes of the jobs whose end was seen."""
        return self._poller.job_seconds

    @property
    def jobs_ended(self) -> Mapping[State, int]:
        """The jobs whose end was seen, by the state of their items."""
        return self._poller.ended

    def held_back(self) -> HeldBack | None:
        """Return what has held the run back so far; None before anything was to be sent."""
        self._measure()
        return self.meter.held_back()

    def _measure_soon(self) -> None:
        """Measure in the loop's next turn: the answers to one transaction come together, and are measured once."""
        if not self._is_measure_due:
            self._is_measure_due = True
            asyncio.get_running_loop().call_soon(self._measure)

    def _measure(self) -> None:
        """Take note of what each slot does now."""
        self._is_measure_due = False
        now, flow, limit = self._now(), self.flow, self.limit
        is_any_left = flow.has_more or flow.waiting or self._runner.travelling()
        if not is_any_left or self._ending or self._is_late:
            self.meter.update({}, now, waits=False)
            return
        # where attempts have their slot from their claim on, the service has no job of those under way
        taken = limit.live - (limit.sending if limit.needs_slot_first else 0)
        unwritten = self._poller.unwritten_ends
        facts = SlotFacts(limit.in_force, taken - limit.doubtful, limit.doubtful, unwritten=unwritten)
        if taken - unwritten < limit.in_force:
            facts = self._idle_facts(facts)
        self.meter.update(slot_uses(flow.state, facts, now), now, waits=self._is_lane_ready or flow.due > 0)

    def _idle_facts(self, facts: SlotFacts) -> SlotFacts:
        """Add all that explains why slots are idle."""
        flow, paced = self.flow, self._runner.paced
        return facts._replace(
            due=flow.due,
            unanswered=len(flow.unanswered),
            paced=paced,
            travelling=max(sum(map(flow.is_turn_near, self._runner.travelling())) - paced, 0),
            retrying=self._found.retrying if (self._found.wake_at or 0.0) > self._now() else 0,
            is_lane_ready=self._is_lane_ready,
            left_to_others=self._found.left_to_others,
            uploads_free=max((self._uploads or caps.UPLOADS) - len(self._under_way), 0),
            hands_free=self._attempts_wanted(),
            is_claiming=self._is_claiming or self._is_claim_due,
            is_ledger_away=self._is_ledger_away(),
        )

    def _adjust_rates(self, limit: LimitFacts) -> None:
        """Let the rates that no person has set follow the account's limit and its jobs."""
        model = self._poller.durations.model
        job_seconds = None if model is None else model.typical_seconds
        if self._rate is None:
            self._put_pace.adjust(caps.put_rate(limit.in_force, job_seconds), caps.put_burst(limit.in_force))
        if self._polls_per_second is None:
            rate = caps.poll_rate(limit.in_force, job_seconds, self._poller.live_count)
            self._poll_pace.adjust(rate, caps.poll_burst(limit.in_force))

    def _ahead(self) -> Ahead:
        """Predict the slots and lanes that are free by the time that a body has been sent."""
        state = self.flow.state
        if not state.may_send_ahead() or self.limit.needs_slot_first or state.throttle.backoff.is_on(self._now()):
            return NOTHING_AHEAD
        horizon, model = horizon_seconds(state.lead), self._poller.durations.model
        ends = self._poller.ends_within(horizon)
        part = self.limit.in_force if self._found.part is None else min(self._found.part, self.limit.in_force)
        if model is None:
            may_try = state.lead.is_learned and not self._runner.travelling()
            travel, was_cut = self._travel_seconds(), state.ahead.was_cut
            slots = blind_slots(part, travel, was_cut=was_cut, may_try=may_try)
        else:
            # an attempt behind a live job takes that job's slot, and none that is free for the other lanes
            sure = ends.keys() & ({claimed.lane_id for _, claimed in self._under_way.values()})
            slots = slots_ahead((ends | dict.fromkeys(sure, 1.0)).values(), part, model, horizon)
        lanes, trial_until = lanes_ahead(ends), self._trial_until()
        if state.ahead.is_confirmed or (trial_until is not None and self._now() >= trial_until):
            return Ahead(slots, lanes)
        # a single body tries it first
        return Ahead(min(slots, 1), lanes[: 1 if trial_until is None else 0])

    def _trial_until(self) -> float | None:
        """Return the time from which others may follow the first body sent ahead; None where none is under way."""
        begun = [begun for begun, claimed in self._under_way.values() if claimed.is_ahead]
        return min(begun) + TRIAL_SECONDS if begun else None

    def _travel_seconds(self) -> float:
        """Return the time that bodies take: before the first answer, the age of the oldest attempt."""
        if self.flow.state.lead.is_learned:
            return self.flow.state.lead.seconds
        return self._now() - min((begun for begun, _ in self._under_way.values()), default=inf)

    async def _reweigh_lanes(self) -> None:
        """Recompute the lanes' order once the constant part of jobs' durations has changed enough."""
        weights = reweigh(self._lane_weights, self._poller.durations)
        if weights is not None:
            self._lane_weights = weights
            await self._writer.call(reweigh_lanes, self._account_id, weights.item_seconds)

    def _attempts_wanted(self) -> int:
        state = self.flow.state
        free = max(0, state.breaker.attempts_allowed(self._uploads or caps.UPLOADS) - len(self._under_way))
        unadmitted = sum(self.flow.is_turn_near(claimed.lane_id) for _, claimed in self._under_way.values())
        return state.attempts_allowed(free, unadmitted, self._now())

    def _looks_for_work(self) -> bool:
        """Return True where an attempt would begin, had the account a slot for it."""
        return not self._ending and not self._lacks_recordings and self._attempts_wanted() > 0

    @property
    def _is_late(self) -> bool:
        return self.flow.state.is_late(self._now())

    def _on_beat(self, jobs: Sequence[LiveJob], is_news: bool) -> None:
        """Follow the jobs that an ended worker has left, and go on by what others have changed."""
        for job in jobs:
            self._poller.add(job, soon=True)
        if is_news:
            self._is_claim_due = True
            self.flow.slot_may_be_free()
            self._changed.set()

    async def _is_finished(self) -> bool:
        if self._worker.batch_id is None:
            # nothing is ever over: what is loaded next is sent, until the time is
            return self._is_late and not self._under_way and not self._poller.active_jobs
        if self._worker.has_others:
            # since the last look at the ledger a callback, or a claim, may have given the batch something to do again
            return (self._worker.is_batch_over or self._is_late) and await self._is_over()
        if self._under_way or (self._found.waiting and not self._is_late):
            return False
        if self._poller.active_jobs and not (self._settings.no_wait and await self._is_over()):
            return False
        if not self._is_end_checked:
            # other workers may have begun, left something and ended since the last claim
            await self._worker.look()
            self._is_end_checked = self._is_claim_due = True
            self._changed.set()
            return False
        return True

    async def _is_over(self) -> bool:
        """Return True where nothing of the batch can move any more, whoever carries it."""
        batch_id = self._worker.batch_id
        return batch_id is None or await self._writer.call(
            is_batch_over, self._account_id, batch_id, no_wait=self._settings.no_wait, is_late=self._is_late
        )

    async def _awaits_callback(self) -> bool:
        """Return True where a callback may still resolve the latest doubt, with nothing else to wait for."""
        if self._new_token is None:
            return False
        doubt = await self._writer.call(last_doubt, self._account_id)
        if doubt is not None and doubt > self._now():
            # of a clock that was set back since: as the present time it would move on with each look
            doubt = self._begun_at
        self._listens_until = None if doubt is None else doubt + LISTEN_ON_SECONDS
        return self._listens_until is not None and self._now() < self._listens_until

    def _check_poll_failures(self) -> None:
        """End the run where only jobs are left, and no status request is answered.

        Raises:
            GaveUpError: No status request was answered for too long.
        """
        since, limit_seconds = self._poller.failing_since, self._settings.give_up_seconds
        if since is None or self._under_way or self._now() < since + limit_seconds:
            return
        raise GaveUpError(
            f"no status request had a good answer for {limit_seconds:g} s (give_up_seconds), and nothing else could go "
            f"on: {self._poller.failure}: nothing is lost; run the same command again when the service answers"
        )

    async def _check_standstill(self) -> None:
        """Log a long wait without visible reason; end the run where waiting is in vain.

        Raises:
            SlotsHeldError: Nothing can be sent before a person has resolved the items that hold the slots.
            GaveUpError: Nothing but 429s came for too long.
        """
        now, state, found = self._now(), self.flow.state, self._found
        self.standstill = None
        if self._under_way or self._is_late or not found.waiting or self._is_claim_due:
            return
        if now >= state.gives_up_at(self._settings.give_up_seconds):
            raise GaveUpError(
                f"for {self._settings.give_up_seconds:g} s (give_up_seconds) nothing but 429s was answered while "
                f"nothing of ours was live; the last: {self._last_429}: nothing is lost; run the same command again "
                "later"
            )
        full = not found.limit.free and not self._poller.has_live_jobs
        if full and self._worker.has_others:
            full = not await self._writer.call(has_moving_slots, self._account_id)
        reason = standstill(state, now, full=full, frees_at=found.wake_at)
        if reason is None or not reason.is_worth_logging(now):
            return
        # a worker for every batch waits until a person has resolved them
        ends = self._worker.batch_id is not None
        if ends and reason.is_in_vain(now) and not await self._awaits_callback():
            holders = await self._writer.call(slot_holders, self._account_id, now)
            raise SlotsHeldError(format_holders(holders, found.limit.in_force))
        self.standstill = reason
        if reason != self._logged_standstill:
            self._logged_standstill = reason
            until = reason.until if reason.until < inf else None
            log.warning("run.waits", waitsFor=reason.reason, until=rfc3339(until))

    def _wake_at(self) -> float:
        now, state, found = self._now(), self.flow.state, self._found
        times = [found.wake_at] if found.wake_at is not None else []
        if self._listens_until is not None and self._listens_until > now:
            times.append(self._listens_until)
        if not self._is_late:
            times.append(state.late_at)
        if found.waiting and state.throttle.backoff.is_on(now):
            times.append(min(state.throttle.backoff.until, state.gives_up_at(self._settings.give_up_seconds)))
        if self._poller.failing_since is not None and not self._under_way:
            times.append(self._poller.failing_since + self._settings.give_up_seconds)
        if found.waiting:
            times.append(now + RECHECK_SECONDS)
        if state.breaker.state is BreakerState.OPEN and not self._under_way and not self._is_late:
            times.append(state.breaker.probe_at)
        return min(times, default=inf)

    async def _wait(self, until: float) -> None:
        """Wait for an event, for a time, or until the prediction lets an attempt begin."""
        while True:
            recheck_seconds = self._recheck_seconds()
            wait = max(min(until - self._now(), recheck_seconds), 0.0)
            try:
                async with asyncio.timeout(None if wait == inf else wait):
                    await self._changed.wait()
            except TimeoutError:
                if self._now() < until and not (recheck_seconds < inf and self._would_claim_more()):
                    continue
                self._is_claim_due = True
            return

    def _recheck_seconds(self) -> float:
        """Return the seconds after which an attempt may begin without an event; infinite where none may."""
        state = self.flow.state
        if not state.may_send_ahead() or self.limit.needs_slot_first or not self._attempts_wanted():
            return inf
        if self._found.lacks_lanes and self._poller.live_lanes <= self._due_lanes:
            return inf
        lead = horizon_seconds(state.lead)
        if self._poller.durations.model is not None:
            return max(self._poller.ends_plausible_in(lead), check_seconds(lead))
        # the first bodies show how long bodies take, and the first one ahead that others may follow
        is_tried = state.ahead.is_confirmed or state.ahead.was_cut
        trial_until = self._trial_until()
        is_trial_due = not is_tried and (trial_until is None or self._now() < trial_until)
        is_answer_due = self._under_way and not state.lead.is_learned
        return check_seconds(lead) if is_answer_due or (is_trial_due and state.lead.is_learned) else inf

    def _would_claim_more(self) -> bool:
        """Return True where a claim would find more than the last one, by the present prediction."""
        ahead, limit = self._ahead(), self.limit
        sending = len(self._under_way) - len(self.flow.unanswered)
        room = limit.in_force - limit.live - self._found.left_to_others - sending + ahead.slots
        return room > 0 and (not self._found.lacks_lanes or bool(set(ahead.lanes) - self._due_lanes))

    async def _run_attempt(self, claimed: Claim) -> None:
        result = await self._runner.run(claimed)
        self.attempts[result.verdict.outcome] += 1
        self.upload_seconds.observe(result.upload_seconds)
        self._check_breaker()
        self._after_attempt(result)
        if result.verdict.next is Next.COOL_DOWN:
            self.throttled += 1
            self.flow.cancel_unstarted()
            self._last_429 = loggable_reason(result.verdict, result.reply)
            await self._log_limit(result.reply.retry_after)
        await self._check_ahead()

    def _after_attempt(self, result: AttemptResult) -> None:
        verdict, claimed = result.verdict, result.claim
        self._lacks_recordings = result.reply.source_is_elsewhere
        if verdict.next is not Next.FOLLOW or verdict.job_id is None:
            self._is_claim_due = True
            self.flow.slot_may_be_free()
            return
        # where the answer was lost and a callback named the job, the time of its start is unknown
        job = claimed.job(verdict.job_id, self._now())._replace(has_known_start=is_success(result.reply.status))
        self._poller.add(job, callback_received=result.recorded.has_callback)
        if result.recorded.ended is not None:
            self._poller.apply_callback_end(job, result.recorded.ended)

    async def _check_ahead(self) -> None:
        """Save and log that the service or a gateway refuses bodies that are sent ahead."""
        refusal = self.flow.state.ahead.refusal
        if not refusal or self._is_refusal_saved or self.limit.needs_slot_first:
            return
        # several uploads may meet it at once, and the run may outlast the day
        self._is_refusal_saved = True
        until = self._now() + NEED_SLOT_FIRST_SECONDS
        await self._writer.call(need_slot_first, self._account_id, until, refusal)
        self.flow.update_limit(self.limit._replace(needs_slot_first=True))
        log.warning("account.needs_slot_first", reason=refusal, until=rfc3339(until))

    def apply_callback(self, result: CallbackResult) -> None:
        """Continue after a callback that is in the ledger."""
        self.callbacks[result.effect] += 1
        log_callback(result)
        if result.effect is CallbackEffect.DEFERRED:
            self._runner.callback_received(result.attempt_id)
        job = result.job
        if job is None or result.account_id != self._account_id:
            return  # a job of another account is polled by that account's next run
        if result.effect is CallbackEffect.ACCEPTED:
            self._poller.add(job, callback_received=True)
        if result.ended is not None:
            self._poller.apply_callback_end(job, result.ended)
        else:
            self._poller.callback_received(job)
        if result.effect is CallbackEffect.ACCEPTED:
            self._is_claim_due = True
            self.flow.slot_may_be_free()
        self._changed.set()

    async def _log_limit(self, retry_after: str | None) -> None:
        """Log the limit after a 429 that is about it."""
        now = self._now()
        holders = await self._writer.call(slot_holders, self._account_id, now)
        alone = not any(holder.state in (State.ACCEPTED, State.IN_DOUBT) for holder in holders)
        self.flow.apply(LimitMet(alone))
        facts = await self._writer.call(limit_facts, self._account_id, None, now)
        self.flow.update_limit(facts)
        log.warning(
            "account.throttled",
            seconds=round(max(self.flow.state.throttle.backoff.until - now, 0.0), 3),
            configured=facts.configured,
            stated=facts.stated,
            inForce=facts.in_force,
            live=facts.live,
            liveByOthers=facts.others,
            retryAfter=retry_after,
        )

    def _on_job_ended(self) -> None:
        """Claim and admit: a job has ended, and its end is queued for the ledger before them."""
        self.flow.apply(JobEnded())
        self.flow.slot_may_be_free()
        self._is_claim_due = True
        self._measure_soon()
        self._changed.set()

    def _on_job_removed(self) -> None:
        """End the wait for jobs once none is left that the run waits for."""
        # the end is in the ledger: without this, its slot would count as the ledger's until the next event
        self._measure_soon()
        self._check_webhook()
        if not self._poller.active_jobs:
            self._changed.set()

    @property
    def is_webhook_silent(self) -> bool:
        """Return True where no callback came of jobs that were to call."""
        known = self.callbacks.total() - self.callbacks[CallbackEffect.UNKNOWN_TOKEN]
        # callbacks may have come to another worker
        return not self._worker.has_others and is_webhook_silent(self._poller.ended_without_callback, known)

    def _check_webhook(self) -> None:
        """Log once that no callbacks come: the night is polled, as if there were no listener."""
        if self.is_webhook_silent and not self._is_webhook_silence_logged:
            self._is_webhook_silence_logged = True
            log.warning(
                "webhook.silent",
                jobs=self._poller.ended_without_callback,
                remedy="see that the service reaches --webhook-url, and that POSTs there come to --webhook",
            )

    def _is_probe_due(self) -> bool:
        breaker = self.flow.state.breaker
        due = breaker.state is BreakerState.OPEN and not self._under_way and self._now() >= breaker.probe_at
        return due and not self._is_late

    async def _probe(self) -> None:
        try:
            async with self.flow.interruptible():
                good = await self._client.ping(self._poller.any_job_id or "probe")
        except TimeoutError:
            return
        log.warning("breaker.probed", answers=good)
        self.flow.apply(ProbeAnswered(good, self._rng.random()))
        self._check_breaker()

    def _check_breaker(self) -> None:
        """Log the breaker's changes, and end the run where failures have lasted for too long."""
        breaker = self.flow.state.breaker
        if breaker.state is not self._logged_breaker:
            self._logged_breaker = breaker.state
            log.warning(_BREAKER_EVENTS[breaker.state], lanesInTrouble=len(breaker.failing_lanes))
        reason = reason_to_give_up(breaker, self._settings.give_up_seconds)
        if reason is not None:
            self.fail(GaveUpError(reason))

    def _start(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        task = asyncio.create_task(work)
        task.add_done_callback(self._on_task_done)
        return task

    def _on_task_done(self, task: asyncio.Task[None]) -> None:
        self._under_way.pop(task, None)
        if not task.cancelled() and (error := task.exception()) is not None:
            self.fail(error)
        self._is_claim_due |= self._was_claim_full
        # an accepted upload alone lets nothing begin: the run goes on when its job ends
        if self._is_claim_due or self._ending or not self._under_way:
            self._changed.set()

    def fail(self, error: BaseException) -> None:
        """End the run with an error; the first is the run's, later ones follow from it."""
        if self._failure is None:
            self._failure = error
            if self._worker.batch_id is None and isinstance(error, UploaderError):
                # the other accounts go on, for as long as the worker does
                account = self._settings.account_name
                log.error("account.ended", account=account, reason=str(error).partition("\n")[0])
        self._changed.set()

    async def _drain(self) -> None:
        """Wait for the attempts under way; after a lack of credentials or good answers none is cut."""
        self.flow.apply(RunEnds())
        patient = isinstance(self._failure, (CredentialsError, GaveUpError))
        if isinstance(self._failure, LedgerUnavailableError) or (self._failure is not None and not patient):
            self._close_after(0.0, self._settings.grace_seconds)
        while self._under_way:
            await asyncio.wait(self._under_way)


async def run_engines(
    engines: Sequence[Engine], background: Sequence[Callable[[], Coroutine[Any, Any, None]]] = ()
) -> list[BaseException | None]:
    """Run the engines of several accounts concurrently until all have ended: the end of one ends no other.

    Args:
        background: Functions that run as long as any engine does, such as progress and results; an error of one of
            them ends all engines.

    Returns:
        The error that ended each engine, None where none did.
    """

    def on_helper_done(task: asyncio.Task[None]) -> None:
        if not task.cancelled() and (error := task.exception()) is not None:
            for engine in engines:
                engine.fail(error)

    helpers = [asyncio.create_task(function()) for function in background]
    for helper in helpers:
        helper.add_done_callback(on_helper_done)
    try:
        return await asyncio.gather(*(engine.run() for engine in engines), return_exceptions=True)
    finally:
        for helper in helpers:
            helper.cancel()
        await asyncio.gather(*helpers, return_exceptions=True)


async def run_concurrently(works: Sequence[Coroutine[Any, Any, None]]) -> None:
    """Run coroutines concurrently until all are done; the first error cancels the others and is raised."""
    try:
        async with asyncio.TaskGroup() as group:
            for work in works:
                group.create_task(work)
    except BaseExceptionGroup as failures:
        raise failures.exceptions[0] from None
