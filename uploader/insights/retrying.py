"""Asks the service at a bounded rate, and again until it has said what can be said."""

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
    """Who can be asked for conversations: the client, or what a test puts in its place."""

    async def conversation(self, conversation_id: str, part: str = "") -> Answer:
        """Ask for a conversation, or for what stands under it."""
        ...


class RetryingReader:
    """Asks for one thing after the other; several may do so side by side.

    Args:
        client: The service.
        pace: How many questions a second.
        now: Seconds that never run backwards.
        chance: Where jitter comes from.
        give_up_seconds: How long one thing is asked for.
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
        """Ask until the answer is final; one that is not means that this alone could not be had for so long.

        Raises:
            CredentialsError: The service does not take the credentials.
            GaveUpError: It gave no good answer to anything for so long.
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
        """A 429 is about all that is asked; any other trouble may be this conversation's alone."""
        if answer.status == 429:
            self._not_before = max(self._not_before, self._now() + wait)
        else:
            await asyncio.sleep(wait)

    def _check_service(self, begun: float, answer: Answer) -> None:
        if self._answered_at <= begun:
            raise GaveUpError(
                f"the service gave no good answer for {self._give_up_seconds:g} s (give_up_seconds); the last: "
                f"{refusal(answer)}; what is written stays: run the same command again, it goes on"
            )
