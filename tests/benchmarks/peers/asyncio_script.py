"""What people write: asyncio, a semaphore of X uploads, backoff on 429, each job polled to its end. No ledger.

It reads conversationId and audioPath from a CSV, the service from UPLOADER_BASE_URL, the token from ACCESS_TOKEN.
"""

import argparse
import asyncio
import csv
import os
import random
import ssl
import sys
from pathlib import Path

import aiohttp

BASE_URL = os.environ["UPLOADER_BASE_URL"]
HEADERS = {"Authorization": f"Bearer {os.environ['ACCESS_TOKEN']}"}
MOST_TRIES = 1000
LONGEST_WAIT = 30.0


async def upload(session: aiohttp.ClientSession, uploads: asyncio.Semaphore, conversation: str, path: Path) -> str:
    """Append a file; the service's limit makes it wait, and try again."""
    url = f"{BASE_URL}/v1/process/audio/{conversation}"
    for tries in range(MOST_TRIES):
        async with uploads:
            audio = path.read_bytes()  # noqa: ASYNC240 - as people write it
            async with session.put(url, data=audio, headers={"Content-Type": "audio/wav"}) as answer:
                if answer.status != 429:
                    answer.raise_for_status()
                    return str((await answer.json())["jobId"])
        await asyncio.sleep(min(LONGEST_WAIT, 2.0**tries) * random.uniform(0.5, 1.0))
    raise RuntimeError(f"{path}: still refused after {MOST_TRIES} tries")


async def follow(session: aiohttp.ClientSession, job: str, seconds: float) -> str:
    """Poll a job until it has ended."""
    while True:
        async with session.get(f"{BASE_URL}/v1/job/{job}") as answer:
            status = str((await answer.json()).get("status"))
        if status in {"completed", "failed"}:
            return status
        await asyncio.sleep(seconds)


async def carry(
    session: aiohttp.ClientSession, uploads: asyncio.Semaphore, row: dict[str, str], options: argparse.Namespace
) -> str:
    """Upload one file and wait for its job."""
    job = await upload(session, uploads, row["conversationId"], Path(options.root, row["audioPath"]))
    return "accepted" if options.no_wait else await follow(session, job, options.poll_seconds)


async def main(rows: list[dict[str, str]], options: argparse.Namespace) -> None:
    """Upload everything that the manifest names."""
    uploads = asyncio.Semaphore(options.uploads)
    tls = ssl.create_default_context()
    async with aiohttp.ClientSession(headers=HEADERS, connector=aiohttp.TCPConnector(ssl=tls, limit=0)) as session:
        ends = await asyncio.gather(*(carry(session, uploads, row, options) for row in rows))
    sys.stdout.write(f"{len(ends)} files: {ends.count('failed')} failed\n")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("manifest")
    parser.add_argument("--uploads", type=int, default=10, help="the semaphore: uploads at once")
    parser.add_argument("--poll-seconds", type=float, default=5.0)
    parser.add_argument("--root", default=".", help="where relative paths start")
    parser.add_argument("--no-wait", action="store_true", help="do not wait for the jobs")
    given = parser.parse_args()
    with Path(given.manifest).open(newline="", encoding="utf-8") as manifest:
        asyncio.run(main(list(csv.DictReader(manifest)), given))
