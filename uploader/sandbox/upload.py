"""The state of one PUT, from its head to its journal entry."""

import asyncio
import contextlib
import hashlib
import sys
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import Any, Final

from aiohttp import web

from uploader.sandbox import request_target
from uploader.sandbox.body import expects_continue, read_body
from uploader.sandbox.entries import PutEntry
from uploader.sandbox.fault_plan import FaultPlan
from uploader.sandbox.request_head import RequestHead, deprecated

SECRET_HEADERS: Final = frozenset({"authorization", "x-api-key"})


@dataclass(slots=True)
class Upload:
    """One PUT: its checked head, the bytes read and its outcome."""

    request: web.BaseRequest
    number: int
    conversation: str
    request_head: RequestHead
    honours_expect: bool = True
    live: int = 0
    # the answer's status; None as long as it is not decided, and where no answer is given
    status: int | None = None
    # the planned faults; None where a check failed
    plan: FaultPlan | None = None
    # counted over the PUTs of its conversation that passed the checks of the head, from 1
    passed_number: int = 0
    holds_slot: bool = False
    # True once its connection was cut because it idled in the middle of the body
    idled: bool = False
    job_id: str | None = None
    # the bytes of the body that were read
    size: int = 0
    whole: bool = False
    digest: Any = field(default_factory=hashlib.sha256)

    @property
    def fault(self) -> str | None:
        """The planned fault."""
        if self.idled:
            return "idle_cut"
        return self.plan.fault if self.plan else None

    @property
    def reason(self) -> str | None:
        """The fault of the request, where it is refused for that."""
        return self.request_head.fault if self.status == HTTPStatus.BAD_REQUEST else None

    @property
    def awaits_continue(self) -> bool:
        """True where the client sends no body before 100 Continue."""
        return self.honours_expect and expects_continue(self.request)

    async def read(self, most: int = sys.maxsize, *, idle_seconds: float = 0.0) -> None:
        """Read the body to its end, or at most `most` bytes of it."""
        try:
            self.whole = await read_body(
                self.request, self._take, most, invites=self.honours_expect, idle_seconds=idle_seconds
            )
        except TimeoutError:
            self.idled = True
        if not self.whole:
            self.status = None

    async def read_rest(self, seconds: float) -> int:
        """Count the bytes behind an answer, until the client disconnects or `seconds` are over."""
        pieces: list[int] = []
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await read_body(self.request, lambda piece: pieces.append(len(piece)), invites=False)
        return sum(pieces)

    def _take(self, piece: bytes) -> None:
        self.size += len(piece)
        self.digest.update(piece)

    def entry(self, at: float, limit: int) -> PutEntry:
        """Return the upload's journal entry, at `at` seconds."""
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
            query=request_target.query(self.request.raw_path),
            parameters=self.request_head.parameters,
            reason=self.reason,
            deprecated=deprecated(self.request),
        )


def _shown_headers(request: web.BaseRequest) -> dict[str, str]:
    shown = {name.lower(): ", ".join(request.headers.getall(name)) for name in request.headers}
    return shown | dict.fromkeys(SECRET_HEADERS & shown.keys(), "(withheld)")
