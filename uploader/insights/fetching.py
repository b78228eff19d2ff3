"""Fetches conversations one after the other, as the ledger lists them."""

import asyncio
import time
from collections import Counter, deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from uploader import logs
from uploader.insights import files
from uploader.insights.retrying import RetryingReader
from uploader.ledger import Ledger
from uploader.ledger.conversations import Conversation, conversation_facts, conversations
from uploader.ledger.reading import BatchFacts
from uploader.model import Answer, ConversationFacts
from uploader.policy.insights import Plan, file_name, is_final, plan, refusal, why_not_yet
from uploader.policy.parts import PARTS, Part
from uploader.results import rfc3339

log = logs.get_logger()

# the conversations read from the ledger at once
PAGE = 500
# the most left-out conversations that a report keeps
EXAMPLES = 50


class LeftOut(NamedTuple):
    """A conversation whose file was not written, and the reason."""

    conversation_id: str
    reason: str


@dataclass(slots=True)
class Report:
    """Counts of conversations. ``lacking``: the files without a part, by the part's name."""

    written: int = 0
    up_to_date: int = 0
    left_out: int = 0
    # left-out conversations for which the service gave no good answer
    gave_up: int = 0
    examples: list[LeftOut] = field(default_factory=list)
    lacking: Counter[str] = field(default_factory=Counter)

    @property
    def conversations(self) -> int:
        """The number of conversations processed."""
        return self.written + self.up_to_date + self.left_out

    def leave_out(self, conversation: Conversation, reason: str, *, gave_up: bool = False) -> None:
        """Count a conversation as left out."""
        self.left_out += 1
        self.gave_up += gave_up
        if len(self.examples) < EXAMPLES:
            self.examples.append(LeftOut(conversation.conversation_id, reason))


class LeftOutError(Exception):
    """A conversation is left out; ``answer`` is the service's, where one is the reason."""

    def __init__(self, reason: str, answer: Answer | None = None) -> None:
        super().__init__(reason)
        self.status = answer.status if answer is not None else None
        self.gave_up = answer is not None and not is_final(answer)


class Fetcher:
    """Fetches the conversations of a batch.

    Args:
        reader: Reads from the service.
        ledger: The ledger; it is only read.
        batch: The batch, with the account and base URL of the conversations to fetch.
        folder: The folder of the files.
        wanted: The parts to fetch.
        again: Fetch parts even where a file has them.
        now: Returns the time in seconds since the epoch.
        report: Gets the counts; those of several accounts may be one.
    """

    def __init__(
        self,
        *,
        reader: RetryingReader,
        ledger: Ledger,
        batch: BatchFacts,
        folder: Path,
        wanted: Sequence[Part],
        again: bool,
        now: Callable[[], float],
        report: Report | None = None,
    ) -> None:
        self.report = report if report is not None else Report()
        self._reader = reader
        self._ledger = ledger
        self._batch = batch
        self._folder = folder
        self._wanted = wanted
        self._again = again
        self._now = now
        self._turn = asyncio.Lock()
        self._page: deque[Conversation] = deque()
        self._last_line = 0
        self._seen: set[int] = set()

    async def fetch_all(self) -> None:
        """Fetch one conversation after the other until none is left; may run several times concurrently.

        Raises:
            UploaderError: The fetch cannot go on; files already written stay.
        """
        while (conversation := await self._next()) is not None:
            await self._fetch(conversation)

    async def _next(self) -> Conversation | None:
        async with self._turn:
            if not self._page:
                await self._fill_page()
            conversation = self._page.popleft() if self._page else None
            if conversation is not None:
                self._seen.add(conversation.lane_id)
            return conversation

    async def _fill_page(self) -> None:
        """Read the next page, without conversations seen before that a run has since appended to."""
        while not self._page and (page := await asyncio.to_thread(self._read_page)):
            self._last_line = page[-1].line
            self._page.extend(conversation for conversation in page if conversation.lane_id not in self._seen)

    def _read_page(self) -> Sequence[Conversation]:
        with self._ledger.reading() as connection:
            batch = self._batch
            return conversations(connection, batch.batch_id, batch.account_id, self._last_line, PAGE)

    async def _fetch(self, conversation: Conversation) -> None:
        begun = time.monotonic()
        try:
            content = await self._bring_up_to_date(conversation)
        except LeftOutError as error:
            self.report.leave_out(conversation, str(error), gave_up=error.gave_up)
            log.warning("insights.left_out", **self._event(conversation), httpStatus=error.status)
            return
        if content is None:
            self.report.up_to_date += 1
            return  # its missing parts were counted with it
        self.report.written += 1
        self.report.lacking.update(content["errors"].keys())
        seconds = round(time.monotonic() - begun, 3)
        log.info("insights.written", **self._event(conversation), lacking=len(content["errors"]), seconds=seconds)

    def _event(self, conversation: Conversation) -> dict[str, Any]:
        return {"batch": self._batch.name, "line": conversation.line, "conversationId": conversation.conversation_id}

    async def _bring_up_to_date(self, conversation: Conversation) -> Mapping[str, Any] | None:
        """Write the file of a conversation; None where the existing one is up to date."""
        facts = await asyncio.to_thread(self._read_facts, conversation)
        if reason := why_not_yet(facts):
            raise LeftOutError(reason)
        path = self._folder / file_name(conversation.conversation_id)
        found = await asyncio.to_thread(files.read, path, self._batch.base_url, conversation.conversation_id)
        todo = plan(self._wanted, files.kept(found), _completed(facts), again=self._again)
        if not todo.fetch:
            self.report.lacking.update((found or {}).get("errors", {}).keys())
            return None
        content = await self._content(conversation, facts, todo, found if found is not None and todo.keep else {})
        if await asyncio.to_thread(self._read_facts, conversation) != facts:
            raise LeftOutError("it was appended to while it was fetched: run the same command again")
        files.write(path, content)  # here, not in a thread: no signal can come between the writing and the counting
        return content

    def _read_facts(self, conversation: Conversation) -> ConversationFacts:
        with self._ledger.reading() as connection:
            return conversation_facts(connection, conversation.lane_id, self._now())

    async def _content(
        self, conversation: Conversation, facts: ConversationFacts, todo: Plan, found: Mapping[str, Any]
    ) -> dict[str, Any]:
        """Merge the new parts into those of the old file that still hold."""
        head = await self._get(conversation)
        if refusal(head):
            raise LeftOutError(refusal(head), head)
        old = {part.member for part in todo.keep}
        parts = {member: when for member, when in found.get("parts", {}).items() if member in old}
        errors = {member: why for member, why in found.get("errors", {}).items() if member in old}
        bodies = {member: found.get(member) for member in old}
        for part in todo.fetch:
            answer = await self._get(conversation, part.path)
            why = refusal(answer)
            errors |= {part.member: why} if why else {}
            bodies[part.member] = None if why else answer.body
            parts[part.member] = rfc3339(self._now())
        return {
            "conversationId": conversation.conversation_id,
            "service": self._batch.base_url,
            "fetchedAt": rfc3339(self._now()),
            "completed": _completed(facts),
            "parts": _in_order(parts),
            "errors": _in_order(errors),
            "conversation": head.body,
            **_in_order(bodies),
        }

    async def _get(self, conversation: Conversation, path: str = "") -> Answer:
        answer = await self._reader.ask(conversation.conversation_id, path)
        if not is_final(answer):
            raise LeftOutError(f"no good answer, again and again; the last: {refusal(answer)}", answer)
        return answer


def _in_order(members: Mapping[str, Any]) -> dict[str, Any]:
    return {part.member: members[part.member] for part in PARTS if part.member in members}


def _completed(facts: ConversationFacts) -> dict[str, Any]:
    """Return the file's record of a conversation's completed items."""
    return {"items": facts.completed, "lastFinishedAt": rfc3339(facts.last_finished_at)}
