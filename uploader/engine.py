"""Starts attempts while lanes and slots allow, and stops cleanly; the only place that creates tasks."""

import asyncio
import random
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import dataclass, replace
from math import inf
from typing import Any, Protocol

from uploader import logs
from uploader.attempt import Carried, Carrier, OpenSource, Rules, Uploads
from uploader.audio import open_source
from uploader.errors import CredentialsError, GaveUpError, LedgerUnavailableError, SlotsHeldError, UploaderError
from uploader.jobs import Follower, Jobs, log_callback
from uploader.ledger.callbacks import CallbackResult
from uploader.ledger.claiming import Claimed, claim
from uploader.ledger.lanes import reweigh_lanes
from uploader.ledger.limit import limit_facts, slot_holders
from uploader.ledger.reading import last_doubt, latest_completed_jobs, live_jobs, unsent
from uploader.ledger.thread import Writer
from uploader.model import Claim, LimitFacts, Next, Order, State
from uploader.pace import Pace
from uploader.policy.brake import TROUBLED_LANES, Phase, after_429, after_probe, reason_to_give_up
from uploader.policy.callbacks import is_webhook_silent
from uploader.policy.cooldown import (
    Cooldown,
    after_accepted,
    after_claim,
    after_end_of_job,
    after_other_ending,
    after_throttle,
    gives_up_at,
    note_alone,
)
from uploader.policy.facts import CallbackEffect
from uploader.policy.lane_weights import LaneWeights, reweigh
from uploader.policy.polling import looks_at_once
from uploader.policy.replies import is_success, loggable_reason
from uploader.policy.waiting import Standstill, format_holders, standstill
from uploader.results import rfc3339
from uploader.way_out import WayOut

log = logs.get_logger()

LOOK_AGAIN_SECONDS = 30.0
LISTEN_ON_SECONDS = 10.0
"""How long a run that listens waits for a word of its latest doubt, when there is nothing else to do."""
CUT_SHARE_OF_GRACE = 0.75
"""Uploads are cut after this share of the grace time: what is left is for answers and results."""


_BREAKER_EVENTS = {
    Phase.OFF: "breaker.closed",
    Phase.PROBING: "breaker.opened",
    Phase.TRIAL: "breaker.half_open",
}


class Service(Uploads, Jobs, Protocol):
    """The client, as far as the engine needs it."""

    async def authorise(self) -> str:
        """Fetch the first token; tells why there is none yet."""
        ...

    async def is_there(self, job_id: str) -> bool:
        """Whether the service itself answers."""
        ...


@dataclass(frozen=True, slots=True)
class Pool:
    """How much at once: ``limit`` jobs of the account, ``uploads`` at a time, ``rate`` PUTs a second.

    ``order`` says which lane goes first. ``unanswered`` uploads may wait for their answer.
    """

    limit: int
    uploads: int
    rate: float
    polls_per_second: float
    grace_seconds: float
    give_up_seconds: float
    no_wait: bool
    order: Order = Order.LONGEST_LANE_FIRST
    unanswered: int = TROUBLED_LANES


class Engine:
    """Runs the lanes that the ledger has in scope to their end.

    Args:
        client: The service.
        writer: The ledger's writer.
        account_id: The account.
        pool: How much at once.
        rules: What the settings say of attempts.
        now: Seconds since the epoch, never running backwards and never jumping.
        chance: Where jitter comes from.
        new_token: Draws the secret of an attempt's ``webhookUrl``, where there is a listener.
        sources: Opens the audio files.
    """

    def __init__(
        self,
        *,
        client: Service,
        writer: Writer,
        account_id: int,
        pool: Pool,
        rules: Rules,
        now: Callable[[], float],
        rng: random.Random,
        new_token: Callable[[], str],
        sources: OpenSource = open_source,
    ) -> None:
        self.way_out = WayOut(pool.unanswered)
        self.limit = LimitFacts(pool.limit, None, pool.limit, 0)
        self.throttled = 0
        self._calls = 0
        self._told_silence = False
        self._client = client
        self._writer = writer
        self._account_id = account_id
        self._hold = rules.hold
        self._until = rules.until
        # a webhookUrl of [parameters] is every row's own
        listens = rules.webhook_url is not None and "webhookUrl" not in rules.defaults
        self._new_token = new_token if listens else None
        self._listens_until: float | None = None
        self._pool = pool
        self._now = now
        self._rng = rng
        self._changed = asyncio.Event()
        self._is_claim_due = True
        """Whether something happened that may let a claim find more than the last one did."""
        self._lacks_hands = False
        """Whether the last claim began as many attempts as it was allowed to."""
        self._under_way: set[asyncio.Task[None]] = set()
        self._failure: BaseException | None = None
        self._told_phase = Phase.OFF
        self.standstill: Standstill | None = None
        self._told_standstill: Standstill | None = None
        self._last_429 = ""
        self._stopping = False
        self._cooldown = Cooldown()
        self._lane_weights = LaneWeights()
        self._carrier = Carrier(
            client=client,
            writer=writer,
            pace=Pace(pool.rate),
            way_out=self.way_out,
            rules=rules,
            now=now,
            rng=rng,
            sources=sources,
        )
        self._follower = Follower(
            client=client,
            writer=writer,
            pace=Pace(pool.polls_per_second),
            now=now,
            doubt_seconds=rules.doubt_seconds,
            timeout_seconds=rules.job_timeout_seconds,
            hold=rules.hold,
            room=self._take_note_of_room,
            ended=self._take_note_of_end,
        )

    async def run(self, beside: Sequence[Callable[[], Coroutine[Any, Any, None]]] = ()) -> None:
        """Carry everything in scope as far as it goes.

        Args:
            beside: What runs along as long as the engine does: progress, results.

        Raises:
            UploaderError: Why it ended early; everything that was under way is written down.
        """
        lookers = looks_at_once(self._pool.polls_per_second)
        helpers = [self._start(self._follower.hand_out())]
        helpers += [self._start(self._follower.look_around()) for _ in range(lookers)]
        helpers += [self._start(one()) for one in beside]
        try:
            await self._work()
        except UploaderError as error:
            self._fail(error)
        finally:
            await self._drain()
            for one in helpers:
                one.cancel()
            await asyncio.gather(*helpers, return_exceptions=True)
        if self._failure is not None:
            raise self._failure

    def stop(self, reserve_seconds: float = 0.0) -> None:
        """Start nothing new; cut what cannot end within the grace time (the first signal).

        Args:
            reserve_seconds: What the grace time must leave for the results.
        """
        self._stopping = True
        grace = max(self._pool.grace_seconds - reserve_seconds, self._pool.grace_seconds / 4)
        self.way_out.close_after(grace * CUT_SHARE_OF_GRACE, grace)
        self._changed.set()

    async def _work(self) -> None:
        self._follower.learn(await self._writer.call(latest_completed_jobs, self._account_id))
        for job in await self._writer.call(live_jobs, self._account_id):
            self._follower.add(job, soon=True)
        await self._authorise()
        claimed = Claimed([], self.limit, waiting=True)
        while not self._ending:
            self._changed.clear()
            if self._is_claim_due:
                self._is_claim_due = False
                claimed = await self._start_attempts()
            over = await self._is_over(claimed) and not await self._listens_on()
            # what changed while the ledger was asked may have made more to do
            if over and not self._changed.is_set():
                return
            self._look_at_silence()
            await self._look_at_standstill(claimed)
            await self._wait_until(self._wake_at(claimed))

    async def _authorise(self) -> None:
        """Fetch the first token before anything is claimed: wrong credentials end the run here."""
        try:
            async with self.way_out.until_stopped():
                missing = await self._client.authorise()
        except TimeoutError:
            return
        if missing:
            log.warning("token.missing", reason=missing)

    @property
    def _ending(self) -> bool:
        return self._stopping or self._failure is not None

    async def _start_attempts(self) -> Claimed:
        if self._is_probe_due():
            await self._probe()
        pool = self._pool
        if pool.order is Order.LONGEST_LANE_FIRST:
            await self._reweigh_lanes()
        hands = self._free_hands()
        claimed = await self._writer.call(
            claim, self._account_id, hands, pool.limit, self._now(), pool.order, self._new_token
        )
        self._lacks_hands = len(claimed.claims) == hands
        self.limit = replace(claimed.limit, live=claimed.limit.live + len(claimed.claims))
        for one in claimed.claims:
            self._cooldown = after_claim(self._cooldown, one.attempt_id, self._now())
            self._under_way.add(self._start(self._carry(one)))
        return claimed

    async def _reweigh_lanes(self) -> None:
        """Order the lanes anew once jobs have shown that they take a while whatever their audio, or no longer do."""
        anew = reweigh(self._lane_weights, self._follower.durations)
        if anew is not None:
            self._lane_weights = anew
            await self._writer.call(reweigh_lanes, anew.item_seconds)

    @property
    def _is_late(self) -> bool:
        return self._until is not None and self._now() >= self._until

    def _free_hands(self) -> int:
        if self._is_late:
            return 0
        free = max(0, self.way_out.brake.attempts_allowed(self._pool.uploads) - len(self._under_way))
        return self._cooldown.attempts_allowed(free, self._now())

    async def _is_over(self, claimed: Claimed) -> bool:
        if self._under_way or (claimed.waiting and not self._is_late):
            return False
        if not self._follower.in_scope or (self._is_late and self._pool.no_wait):
            return True
        return self._pool.no_wait and not await self._writer.call(unsent, self._account_id, hold=self._hold)

    async def _listens_on(self) -> bool:
        """Whether a call may still settle a doubt of just now, where nothing else is to be waited for."""
        if self._new_token is None:
            return False
        doubt = await self._writer.call(last_doubt, self._account_id)
        # a clock that was set back would make a doubt of tomorrow
        self._listens_until = None if doubt is None else min(doubt, self._now()) + LISTEN_ON_SECONDS
        return self._listens_until is not None and self._now() < self._listens_until

    def _look_at_silence(self) -> None:
        """End the run where only jobs are left to wait for, and the service does not answer about them.

        Raises:
            GaveUpError: No status request was answered for too long.
        """
        since, patience = self._follower.silent_since, self._pool.give_up_seconds
        if since is None or self._under_way or self._now() < since + patience:
            return
        raise GaveUpError(
            f"no status request had a good answer for {patience:g} s (give_up_seconds), and nothing else could go on: "
            f"{self._follower.silence}: nothing is lost; run the same command again when the service answers"
        )

    async def _look_at_standstill(self, claimed: Claimed) -> None:
        """Tell a long wait that nothing visible explains; end the run where waiting is in vain.

        Raises:
            SlotsHeldError: Nothing can move before a person has settled what holds the slots.
            GaveUpError: Nothing but 429s came for too long.
        """
        now = self._now()
        self.standstill = None
        if self._under_way or self._is_late or not claimed.waiting or self._is_claim_due:
            return
        if now >= gives_up_at(self._cooldown, self._pool.give_up_seconds):
            raise GaveUpError(
                f"for {self._pool.give_up_seconds:g} s (give_up_seconds) nothing but 429s was answered while nothing "
                f"of ours was live; the last: {self._last_429}: nothing is lost; run the same command again later"
            )
        full = claimed.limit.live >= claimed.limit.in_force and not self._follower.follows_any
        found = standstill(self.way_out.brake, self._cooldown, now, full=full, frees_at=claimed.wake_at)
        if found is None or not found.is_worth_telling(now):
            return
        if found.is_in_vain(now) and not await self._listens_on():
            holders = await self._writer.call(slot_holders, self._account_id, now)
            raise SlotsHeldError(format_holders(holders, claimed.limit.in_force))
        self.standstill = found
        if found != self._told_standstill:
            self._told_standstill = found
            log.warning("run.waits", waitsFor=found.reason, until=rfc3339(found.until if found.until < inf else None))

    def _wake_at(self, claimed: Claimed) -> float | None:
        times = [claimed.wake_at] if claimed.wake_at is not None else []
        if self._listens_until is not None and self._listens_until > self._now():
            times.append(self._listens_until)
        if self._until is not None and not self._is_late:
            times.append(self._until)
        if claimed.waiting and self._cooldown.is_on(self._now()):
            times.append(min(self._cooldown.until, gives_up_at(self._cooldown, self._pool.give_up_seconds)))
        if self._follower.silent_since is not None and not self._under_way:
            times.append(self._follower.silent_since + self._pool.give_up_seconds)
        if claimed.waiting:
            times.append(self._now() + LOOK_AGAIN_SECONDS)  # `uploader resolve` may have changed something beside us
        if self.way_out.brake.phase is Phase.PROBING and not self._under_way and not self._is_late:
            times.append(self.way_out.brake.probe_at)
        return min(times, default=None)

    async def _wait_until(self, at: float | None) -> None:
        try:
            async with asyncio.timeout(None if at is None else max(at - self._now(), 0.0)):
                await self._changed.wait()
        except TimeoutError:
            self._is_claim_due = True

    async def _carry(self, one: Claim) -> None:
        carried = await self._carrier.carry(one)
        self._look_at_brake()
        self._take_note(carried)
        if carried.verdict.next is Next.COOL_DOWN:
            self._last_429 = loggable_reason(carried.verdict, carried.reply)
            await self._tell_limit(carried.reply.retry_after)

    def _take_note(self, carried: Carried) -> None:
        verdict, one = carried.verdict, carried.claim
        self._is_claim_due |= verdict.next is not Next.FOLLOW
        if verdict.next is Next.COOL_DOWN:
            self._cool_down(carried)
        elif verdict.next is Next.FOLLOW and verdict.job_id is not None:
            self._cooldown = after_accepted(self._cooldown, one.attempt_id)
            # where the answer was lost and a call told of the job, nobody knows when it began
            job = replace(one.job(verdict.job_id, self._now()), watched=is_success(carried.reply.status))
            self._follower.add(job, heard=carried.has_callback)
            if carried.ended is not None:
                self._follower.hear_end(job, carried.ended)
        else:
            self._cooldown = after_other_ending(self._cooldown, one.attempt_id)

    def hear(self, result: CallbackResult) -> None:
        """Take note of a call to the webhook that is in the ledger."""
        self._calls += result.effect is not CallbackEffect.UNKNOWN_TOKEN
        log_callback(result)
        if result.effect is CallbackEffect.DEFERRED:
            self._carrier.hear(result.attempt_id)
        job = result.job
        if job is None or result.account_id != self._account_id:
            return  # what another account's job does, its next run sees
        if result.effect is CallbackEffect.ACCEPTED:
            self._follower.add(job, heard=True)
        if result.ended is not None:
            self._follower.hear_end(job, result.ended)
        else:
            self._follower.hear(job)
        self._is_claim_due |= result.effect is CallbackEffect.ACCEPTED
        self._changed.set()

    def _cool_down(self, carried: Carried) -> None:
        """One cooldown for the account, not one per file."""
        self.throttled += 1
        header, about_limit = carried.reply.retry_after, carried.refusal is not None
        jitter = self._rng.random()
        self._cooldown = after_throttle(self._cooldown, header, self._now(), jitter, about_limit=about_limit)
        self.way_out.hold_back()

    async def _tell_limit(self, retry_after: str | None) -> None:
        """Tell what is known of the limit once a 429 has taught something of it."""
        now = self._now()
        holders = await self._writer.call(slot_holders, self._account_id, now)
        alone = not any(one.state in (State.ACCEPTED, State.IN_DOUBT) for one in holders)
        self._cooldown = note_alone(self._cooldown, now, alone=alone)
        self.way_out.set_brake(after_429(self.way_out.brake, alone=alone))
        facts = await self._writer.call(limit_facts, self._account_id, self._pool.limit, now)
        log.warning(
            "account.throttled",
            seconds=round(max(self._cooldown.until - now, 0.0), 3),
            configured=facts.configured,
            stated=facts.stated,
            inForce=facts.in_force,
            live=facts.live,
            liveByOthers=facts.others,
            retryAfter=retry_after,
        )

    def _take_note_of_room(self) -> None:
        """A job of ours has ended, and a claim that is made from now on finds that in the ledger."""
        self._cooldown = after_end_of_job(self._cooldown)
        self._is_claim_due = True
        self._changed.set()

    def _take_note_of_end(self) -> None:
        """A job of ours is followed no more."""
        self._look_at_webhook()
        if not self._follower.in_scope:
            self._changed.set()

    @property
    def is_webhook_silent(self) -> bool:
        """Whether nothing is heard of jobs that were to call."""
        return is_webhook_silent(self._follower.ended_unheard, self._calls)

    def _look_at_webhook(self) -> None:
        """Tell once that nobody calls: the night is polled, as if there were no listener."""
        if self.is_webhook_silent and not self._told_silence:
            self._told_silence = True
            log.warning(
                "webhook.silent",
                jobs=self._follower.ended_unheard,
                remedy="see that the service reaches --webhook-url, and that POSTs there come to --webhook",
            )

    def _is_probe_due(self) -> bool:
        brake = self.way_out.brake
        due = brake.phase is Phase.PROBING and not self._under_way and self._now() >= brake.probe_at
        return due and not self._is_late

    async def _probe(self) -> None:
        try:
            async with self.way_out.until_stopped():
                good = await self._client.is_there(self._follower.example or "probe")
        except TimeoutError:
            return
        log.warning("breaker.probed", answers=good)
        brake = after_probe(self.way_out.brake, good=good, now=self._now(), jitter=self._rng.random())
        self.way_out.set_brake(brake)
        self._look_at_brake()

    def _look_at_brake(self) -> None:
        """Tell when the brake goes on or off, and end the run where it has been on for too long."""
        brake = self.way_out.brake
        if brake.phase is not self._told_phase:
            self._told_phase = brake.phase
            log.warning(_BREAKER_EVENTS[brake.phase], lanesInTrouble=len(brake.troubled))
        reason = reason_to_give_up(brake, self._pool.give_up_seconds)
        if reason is not None:
            self._fail(GaveUpError(reason))

    def _start(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        task = asyncio.create_task(work)
        task.add_done_callback(self._ended)
        return task

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._under_way.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            self._fail(error)
        self._is_claim_due |= self._lacks_hands
        # an accepted upload alone lets nothing begin: the run goes on when its job ends
        if self._is_claim_due or self._ending or not self._under_way:
            self._changed.set()

    def _fail(self, error: BaseException) -> None:
        """Keep the first reason to end; the others follow from it."""
        if self._failure is None:
            self._failure = error
        self._changed.set()

    async def _drain(self) -> None:
        """Let what is under way come to its end; without credentials or a good answer nothing is cut."""
        patient = isinstance(self._failure, (CredentialsError, GaveUpError))
        if isinstance(self._failure, LedgerUnavailableError) or (self._failure is not None and not patient):
            self.way_out.close_after(0.0, self._pool.grace_seconds)
        while self._under_way:
            await asyncio.wait(self._under_way)


async def side_by_side(works: Sequence[Coroutine[Any, Any, None]]) -> None:
    """Do several works at once, until all are done; the first failure ends the others, and is raised."""
    try:
        async with asyncio.TaskGroup() as group:
            for work in works:
                group.create_task(work)
    except BaseExceptionGroup as failures:
        raise failures.exceptions[0] from None


def steady_clock(wall: Callable[[], float], steady: Callable[[], float]) -> Callable[[], float]:
    """Seconds since the epoch that follow a steady clock: a wall clock that jumps shortens no wait."""
    offset = wall() - steady()
    return lambda: offset + steady()
