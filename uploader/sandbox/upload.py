"""Follows one PUT from its head to its journal entry."""

import asyncio
import contextlib
import hashlib
import sys
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import Any, Final

from aiohttp import web

from uploader.sandbox import target
from uploader.sandbox.body import asks_leave, read_body
from uploader.sandbox.entries import PutEntry
from uploader.sandbox.fates import Fate
from uploader.sandbox.head import Head, deprecated

SECRET_HEADERS: Final = frozenset({"authorization", "x-api-key"})


@dataclass(slots=True)
class Upload:
    """One PUT: what its head said, what was read of its body, what became of it."""

    request: web.BaseRequest
    number: int
    conversation: str
    head: Head
    honours_expect: bool = True
    live: int = 0
    status: int | None = None
    """None as long as it is not decided, and where no answer is given."""
    fate: Fate | None = None
    """None where a check failed."""
    passed_number: int = 0
    """Counted over the PUTs of its conversation that passed the checks of the head, from 1."""
    holds_slot: bool = False
    idled: bool = False
    """True once its connection was cut because it idled in the middle of the body."""
    job_id: str | None = None
    size: int = 0
    """The bytes of the body that were read."""
    whole: bool = False
    digest: Any = field(default_factory=hashlib.sha256)

    @property
    def fault(self) -> str | None:
        """The fault that befalls it."""
        if self.idled:
            return "idle_cut"
        return self.fate.fault if self.fate else None

    @property
    def reason(self) -> str | None:
        """What was wrong with the request, where that is why it is refused."""
        return self.head.fault if self.status == HTTPStatus.BAD_REQUEST else None

    @property
    def is_held_back(self) -> bool:
        """Whether its client sends nothing of the body as long as nobody has given leave."""
        return self.honours_expect and asks_leave(self.request)

    async def read(self, most: int = sys.maxsize, *, idle_seconds: float = 0.0) -> None:
        """Reads the body to its end, or `most` bytes of it, or until nothing came for `idle_seconds` (0: never)."""
        try:
            self.whole = await read_body(
                self.request, self._take, most, invites=self.honours_expect, idle_seconds=idle_seconds
            )
        except TimeoutError:
            self.idled = True
        if not self.whole:
            self.status = None

    async def read_rest(self, seconds: float) -> int:
        """Counts what comes behind an answer, until the client leaves or `seconds` are over."""
        pieces: list[int] = []
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await read_body(self.request, lambda piece: pieces.append(len(piece)), invites=False)
        return sum(pieces)

    def _take(self, piece: bytes) -> None:
        self.size += len(piece)
        self.digest.update(piece)

    def entry(self, at: float, limit: int) -> PutEntry:
        """Its line in the journal, at `at` seconds."""
        return PutEntry(
            at=at,
            number=self.number,
            conversation_id=self.conversation,
            status=self.status,
            job_id=self.job_id,
            fault=self.fault,
            bytes=self.size,
            content_length=self.request.content_length,
            sha256=self.digest.hexdigest() if self.whole else None,
            live=self.live,
            limit=limit,
            headers=_shown_headers(self.request),
            query=target.query(self.request.raw_path),
            parameters=self.head.parameters,
            reason=self.reason,
            deprecated=deprecated(self.request),
        )


def _shown_headers(request: web.BaseRequest) -> dict[str, str]:
    shown = {name.lower(): ", ".join(request.headers.getall(name)) for name in request.headers}
    return shown | dict.fromkeys(SECRET_HEADERS & shown.keys(), "(withheld)")
