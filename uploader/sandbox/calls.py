"""Sends callbacks to an upload's webhookUrl at every change of its job's status, with faults on request."""

import asyncio
from collections import Counter
from http import HTTPStatus
from typing import Final
from urllib.parse import urlsplit, urlunsplit

import aiohttp

from uploader.sandbox.entries import CallEntry, JobStatus
from uploader.sandbox.fault_plan import call_fault
from uploader.sandbox.journal import Journal
from uploader.sandbox.settings import SandboxSettings, is_loopback

# the delays after which a callback that is not answered with 200 is repeated
TRY_AGAIN_SECONDS: Final = (0.2, 0.5, 1.0, 2.0, 4.0)
# the time limit of a callback
CALL_SECONDS: Final = 5.0
# a guessed token in place of the URL's last segment
FORGED_TOKEN: Final = "f" * 43


class Calls:
    """The sender of callbacks, to this machine alone: a sandbox contacts no other host."""

    def __init__(self, settings: SandboxSettings, journal: Journal) -> None:
        self._faults = settings.faults
        self._one_way_seconds = settings.round_trip / 2
        self._journal = journal
        self._session: aiohttp.ClientSession | None = None
        self._under_way: set[asyncio.Task[None]] = set()
        self._made: Counter[str] = Counter()

    def notify(self, url: str, job_id: str, status: JobStatus) -> None:
        """Start the callback, or callbacks, for one change of a job's status."""
        self._made[job_id] += 1
        fault = call_fault(self._faults, job_id, self._made[job_id])
        if not is_loopback(urlsplit(url).hostname or "") or fault == "lost":
            self._record(job_id, status, fault or "elsewhere", None)
            return
        if fault == "forged":
            self._start(_forged(url), job_id, "failed", "forged")
        for _ in range(2 if fault == "twice" else 1):
            self._start(url, job_id, status, None if fault == "forged" else fault)

    async def stop(self) -> None:
        """Cancel all callbacks under way."""
        for task in self._under_way:
            task.cancel()
        await asyncio.gather(*self._under_way, return_exceptions=True)
        if self._session is not None:
            await self._session.close()
            self._session = None

    def _start(self, url: str, job_id: str, status: JobStatus, fault: str | None) -> None:
        task = asyncio.create_task(self._call(url, job_id, status, fault))
        self._under_way.add(task)
        task.add_done_callback(self._under_way.discard)

    async def _call(self, url: str, job_id: str, status: JobStatus, fault: str | None) -> None:
        if fault == "late":
            await asyncio.sleep(self._faults.calls.late_seconds)
        body = {"id" if fault == "named_id" else "jobId": job_id, "status": status}
        for wait in (*TRY_AGAIN_SECONDS, None):
            answer = await self._post(url, body)
            self._record(job_id, status, fault, answer)
            if answer == HTTPStatus.OK or wait is None or fault == "forged":
                return
            await asyncio.sleep(wait)

    async def _post(self, url: str, body: dict[str, str]) -> int | None:
        if self._session is None:
            self._session = aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=CALL_SECONDS))
        await asyncio.sleep(self._one_way_seconds)
        try:
            async with self._session.post(url, json=body, allow_redirects=False) as response:
                answer: int | None = response.status
        except (aiohttp.ClientError, TimeoutError):
            answer = None
        await asyncio.sleep(self._one_way_seconds)
        return answer

    def _record(self, job_id: str, status: JobStatus, fault: str | None, answer: int | None) -> None:
        now = self._journal.now()
        self._journal.add(CallEntry(at=now, job_id=job_id, job=status, fault=fault, status=answer))


def _forged(url: str) -> str:
    parts = urlsplit(url)
    return urlunsplit(parts._replace(path=f"{parts.path.rpartition('/')[0]}/{FORGED_TOKEN}"))
