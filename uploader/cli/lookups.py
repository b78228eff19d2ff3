"""The requests of `uploader resolve`: one job, and conversations as they are now."""

import asyncio
import time
from collections.abc import Mapping

from uploader.client import Client, JobAnswer, TimeLimits
from uploader.model import ConversationSnapshot
from uploader.run.target import credentials
from uploader.settings import Settings


def fetch_job(settings: Settings, base_url: str, job_id: str) -> JobAnswer:
    """Fetch a job from the service."""

    async def ask() -> JobAnswer:
        async with _client(settings, base_url) as client:
            return await client.job(job_id)

    return asyncio.run(ask())


def read_snapshots(
    settings: Settings, base_url: str, conversations: Mapping[int, str]
) -> dict[int, ConversationSnapshot | None]:
    """Read a snapshot of each lane's conversation in turn; None for one that cannot be read."""

    async def read_all() -> dict[int, ConversationSnapshot | None]:
        async with _client(settings, base_url) as client:
            return {lane_id: await client.snapshot(conversation) for lane_id, conversation in conversations.items()}

    return asyncio.run(read_all())


def _client(settings: Settings, base_url: str) -> Client:
    return Client(base_url, credentials(settings), TimeLimits(connect=settings.connect_seconds), time.time)
