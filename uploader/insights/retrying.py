"""Reads from the service at a bounded rate, with retries."""

import asyncio
import random
from collections.abc import Callable
from typing import Protocol

from uploader import logs
from uploader.errors import GaveUpError
from uploader.model import Answer
from uploader.pace import Pace
from uploader.policy.insights import is_final, refusal
from uploader.policy.waits import cooldown_seconds

log = logs.get_logger()


class Conversations(Protocol):
    """The client's interface for conversations."""

    async def conversation(self, conversation_id: str, part: str = "") -> Answer:
        """Read a conversation, or a part of it."""
        ...


class RetryingReader:
    """A reader that retries with backoff at a bounded rate; may be used concurrently.

    Args:
        pace: The rate of requests.
        now: A monotonic clock, in seconds.
        rng: The source of jitter.
        give_up_seconds: The time after which one request is given up.
    """

    def __init__(
        self,
        client: Conversations,
        pace: Pace,
        now: Callable[[], float],
        rng: random.Random,
        give_up_seconds: float,
    ) -> None:
        self._client = client
        self._pace = pace
        self._now = now
        self._rng = rng
        self._give_up_seconds = give_up_seconds
        self._turn = asyncio.Lock()
        self._not_before = 0.0
        self._answered_at = now()

    async def ask(self, conversation_id: str, part: str = "") -> Answer:
        """Read until the answer is final, or this request was retried for ``give_up_seconds``.

        Raises:
            CredentialsError: The service refuses the credentials.
            GaveUpError: The service has given no good answer at all for so long.
        """
        begun, tries = self._now(), 0
        while True:
            await self._wait_for_turn()
            answer = await self._client.conversation(conversation_id, part)
            if is_final(answer):
                self._answered_at = self._now()
                return answer
            wait = cooldown_seconds(tries, answer.retry_after, self._now(), self._rng.random())
            if self._now() + wait - begun >= self._give_up_seconds:
                self._check_service(begun, answer)
                return answer
            tries += 1
            facts = {"httpStatus": answer.status, "reason": answer.failure or None, "seconds": round(wait, 3)}
            log.warning("insights.asked_again", **facts)
            await self._put_off(answer, wait)

    async def _wait_for_turn(self) -> None:
        async with self._turn:
            while (wait := self._not_before - self._now()) > 0:  # noqa: ASYNC110 - a time, which a 429 may put off
                await asyncio.sleep(wait)
            await self._pace.wait()

    async def _put_off(self, answer: Answer, wait: float) -> None:
        """Schedule the next try: after a 429 of all requests, after other failures of this one alone."""
        if answer.status == 429:
            self._not_before = max(self._not_before, self._now() + wait)
        else:
            await asyncio.sleep(wait)

    def _check_service(self, begun: float, answer: Answer) -> None:
        if self._answered_at <= begun:
            raise GaveUpError(
                f"the service gave no good answer for {self._give_up_seconds:g} s (give_up_seconds); the last: "
                f"{refusal(answer)}; written files stay: run the same command again, it carries on"
            )
