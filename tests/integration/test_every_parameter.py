"""The real client and the sandbox: what was to be said is what was heard."""

import json
from pathlib import Path
from typing import Any

import pytest

from tests.every_parameter import EVERY_PARAMETER
from tests.integration.servers import (
    asking,
    audio,
    clean_environment,  # noqa: F401 - a fixture
    send,
    speaking,
)
from uploader.client import Credentials
from uploader.sandbox import Sandbox, SandboxSettings
from uploader.sandbox.entries import ConversationEntry, PollEntry, PutEntry, TokenEntry

Recorded = PutEntry | TokenEntry | PollEntry | ConversationEntry


def written(value: Any) -> str:
    """A value as the service takes it: text as it is, everything else as JSON text."""
    return value if isinstance(value, str) else json.dumps(value)


@pytest.mark.parametrize("names", [[*EVERY_PARAMETER], [*reversed(EVERY_PARAMETER)]], ids=["in order", "reversed"])
async def test_every_parameter_reaches_the_sandbox_equal(tmp_path: Path, names: list[str]) -> None:
    """Every documented parameter, with reserved and foreign characters everywhere, stands in the journal as it was."""
    query = [(name, written(EVERY_PARAMETER[name])) for name in names]
    async with Sandbox(SandboxSettings()) as sandbox:
        async with speaking(sandbox.base_url, Credentials("sandbox", "sandbox")) as client:
            reply = await send(client, audio(tmp_path, 1000), request=asking(query=query))
        [put] = sandbox.journal.puts()
    assert (reply.status, put.reason) == (201, None)
    assert put.parameters == EVERY_PARAMETER
    assert put.query == tuple(query)


async def test_nothing_deprecated_is_sent(tmp_path: Path) -> None:
    """Neither PUT nor poll nor look nor the request for a token carries x-api-key."""
    async with Sandbox(SandboxSettings()) as sandbox:
        async with speaking(sandbox.base_url, Credentials("sandbox", "sandbox")) as client:
            await send(client, audio(tmp_path, 1000))
            [put] = sandbox.journal.puts()
            await client.job(str(put.job_id))
            await client.conversation("c")
        asked = [entry for entry in sandbox.journal.entries if isinstance(entry, Recorded)]
    assert [(entry.event, entry.deprecated) for entry in asked] == [
        *(("token", ()), ("put", ()), ("poll", ()), ("look", ())),
    ]
