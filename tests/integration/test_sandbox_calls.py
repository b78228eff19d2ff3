"""What the sandbox tells a PUT's webhookUrl: every change of the job's status, and the faults that are asked for."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import quote

import pytest
from aiohttp import web

from tests.integration.by_hand import Client, playing
from uploader.sandbox import CallFaults, Faults, JobFaults, PutFaults

CHANGES = ["scheduled", "in_progress", "completed"]


@dataclass
class Hook:
    """A listener that keeps what it is told, and answers as it is told to."""

    url: str = ""
    calls: list[tuple[str, dict[str, Any]]] = field(default_factory=list)
    answers: list[int] = field(default_factory=list)

    async def answer(self, request: web.BaseRequest) -> web.Response:
        """Keep a call, by its path."""
        assert request.method == "POST"
        self.calls.append((request.rel_url.raw_path, await request.json()))
        return web.Response(status=self.answers.pop(0) if self.answers else 200)

    def told(self) -> list[str]:
        """The statuses, in the order in which they came."""
        return [body["status"] for _, body in self.calls]


@asynccontextmanager
async def hooked(faults: Faults | None = None) -> AsyncIterator[tuple[Client, Hook, str]]:
    """A sandbox, a listener, and the query that names it."""
    hook = Hook()
    runner = web.ServerRunner(web.Server(hook.answer))
    await runner.setup()
    try:
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        hook.url = f"http://127.0.0.1:{runner.addresses[0][1]}/hook/token"
        async with playing(faults or Faults(), job_seconds=0.1, limit=50) as client:
            yield client, hook, f"?webhookUrl={quote(hook.url, safe='')}"
    finally:
        await runner.cleanup()


async def test_every_change_of_the_status_is_told() -> None:
    """POST with jobId and status, each once; the journal has the answers."""
    async with hooked() as (client, hook, query):
        job_id = (await client.put(query=query)).body["jobId"]
        await client.until(lambda: len(client.sandbox.journal.calls()) == 3)
        assert hook.calls == [("/hook/token", {"jobId": job_id, "status": status}) for status in CHANGES]
        assert [(call.job, call.status, call.fault) for call in client.sandbox.journal.calls(job_id)] == [
            (status, 200, None) for status in CHANGES
        ]


async def test_without_a_webhook_nobody_is_called() -> None:
    """A PUT that names no webhookUrl makes no call."""
    async with hooked(Faults(jobs=JobFaults(failed=1.0))) as (client, hook, _):
        await client.put()
        await client.until(lambda: len(client.sandbox.journal.jobs()) == 2)
        assert (hook.calls, client.sandbox.journal.calls()) == ([], [])


async def test_a_call_that_is_not_answered_with_200_is_made_again() -> None:
    """As the service may do: again, until it is taken."""
    async with hooked() as (client, hook, query):
        hook.answers = [503]
        await client.put(query=query)
        await client.until(lambda: len(client.sandbox.journal.calls()) == 4)
        assert sorted(hook.told()) == sorted([*CHANGES, "scheduled"])


@pytest.mark.parametrize("host", ["192.0.2.1", "hook.example"])
async def test_only_this_machine_is_called(host: str) -> None:
    """A rehearsal reaches nobody else."""
    async with hooked() as (client, _, _):
        await client.put(query=f"?webhookUrl=https%3A%2F%2F{host}%2Fhook")
        await client.until(lambda: len(client.sandbox.journal.calls()) == 3)
        assert {(call.fault, call.status) for call in client.sandbox.journal.calls()} == {("elsewhere", None)}


async def test_a_lost_call_is_not_made() -> None:
    """The journal alone knows of it."""
    async with hooked(Faults(calls=CallFaults(lost=1.0))) as (client, hook, query):
        await client.put(query=query)
        await client.until(lambda: len(client.sandbox.journal.calls()) == 3)
        assert hook.calls == []


async def test_a_call_comes_twice() -> None:
    """Each change is told two times."""
    async with hooked(Faults(calls=CallFaults(twice=1.0))) as (client, hook, query):
        await client.put(query=query)
        await client.until(lambda: len(client.sandbox.journal.calls()) == 6)
        assert sorted(hook.told()) == sorted(CHANGES * 2)


async def test_a_forged_call_has_no_token_that_anybody_drew() -> None:
    """A forged callback has the right job and a wrong address."""
    async with hooked(Faults(calls=CallFaults(forged=1.0))) as (client, hook, query):
        await client.put(query=query)
        await client.until(lambda: len(client.sandbox.journal.calls()) == 6)
        forged = [body["status"] for path, body in hook.calls if path != "/hook/token"]
        assert forged == ["failed"] * 3
        assert sorted(body["status"] for path, body in hook.calls if path == "/hook/token") == sorted(CHANGES)


async def test_a_job_may_be_named_id() -> None:
    """As the service's own sample output elsewhere has it."""
    async with hooked(Faults(calls=CallFaults(named_id=1.0))) as (client, hook, query):
        job_id = (await client.put(query=query)).body["jobId"]
        await client.until(lambda: len(client.sandbox.journal.calls()) == 3)
        assert [body for _, body in hook.calls] == [{"id": job_id, "status": status} for status in CHANGES]


async def test_a_late_call_comes_behind_those_that_follow() -> None:
    """Order is not kept: what was said first may arrive last."""
    faults = Faults(seed=6, calls=CallFaults(late=0.5, late_seconds=0.5))
    async with hooked(faults) as (client, hook, query):
        for conversation in "abcdefgh":
            await client.put(conversation, query=query)
        await client.until(lambda: len(client.sandbox.journal.calls()) == 24)
        orders = [[call.job for call in client.sandbox.journal.calls(put.job_id)] for put in _puts(client)]
        assert all(sorted(order) == sorted(CHANGES) for order in orders)
        assert any(order != CHANGES for order in orders)
        assert len(hook.calls) == 24


async def test_a_half_that_is_taken_makes_a_job() -> None:
    """The service that breaks its word: cut off in the middle, and appended all the same."""
    async with hooked(Faults(put=PutFaults(cut_taken=1.0))) as (client, hook, query):
        assert (await client.put(query=query)).status is None
        await client.until(lambda: len(client.sandbox.journal.calls()) == 3)
        (put,) = client.sandbox.journal.appended()
        assert (put.fault, put.sha256) == ("cut_taken", None)
        assert hook.told() == CHANGES


def _puts(client: Client) -> Any:
    return client.sandbox.journal.appended()
