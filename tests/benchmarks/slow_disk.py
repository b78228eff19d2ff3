"""Uploads files as if from a slow disk, and prints how long the steps of the event loop took.

Arguments: the manifest. The page cache has nothing, and a read waits; the environment names server and certificates.
"""

import asyncio
import csv
import errno
import json
import os
import sys
import threading
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any
from unittest import mock

from uploader.audio import open_source
from uploader.audio.source import AudioFile
from uploader.client import Client, Credentials, TimeLimits, UploadRequest

READ_SECONDS = 0.05


class AlwaysAdmitted:
    """Lets every last chunk leave at once (an ``Admission``)."""

    def ask(self, _content_hash: str) -> "asyncio.Future[str]":
        """Let it leave."""
        answer: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        answer.set_result("")
        return answer

    def withdraw(self) -> None:
        """Nobody waits."""

    @asynccontextmanager
    async def interruptible(self) -> AsyncIterator[None]:
        """Stop nothing."""
        yield

    def moved(self, count: int) -> None:
        """Take no note."""

    def silence_seconds(self) -> float:
        """Wait for nothing."""
        return 0.0

    def is_stopping(self) -> bool:
        """Go on."""
        return False

    def must_cut(self) -> bool:
        """Go on."""
        return False

    def reason_to_withhold(self) -> str:
        """Send it."""
        return ""

    def reason_not_to_wait(self) -> str:
        """Wait."""
        return ""


def files_of(manifest: Path) -> list[tuple[Path, int]]:
    """The files that a manifest names, with their sizes."""
    with manifest.open(encoding="utf-8", newline="") as file:
        paths = [manifest.parent / row["audioPath"] for row in csv.DictReader(file)]
    return [(path, path.stat().st_size) for path in paths]


async def main(files: list[tuple[Path, int]]) -> None:
    """Upload files, all at once."""
    credentials = Credentials(access_token=os.environ["UPLOADER_ACCESS_TOKEN"])
    base_url = os.environ["UPLOADER_BASE_URL"]
    async with Client(base_url, credentials, TimeLimits(), time.time, uploads=len(files)) as client:
        waits: list[bool] = []
        steps: list[float] = []
        with _slow_disk(waits), _timed_steps(steps, waits):
            statuses = await asyncio.gather(*(_upload(client, path, size) for path, size in files))
    if statuses != [201] * len(files):
        raise RuntimeError(f"the server answered {statuses}")
    told = {"steps": len(steps), "longest": max(steps), "waits": len(waits), "waits_on_loop": sum(waits)}
    sys.stdout.write(json.dumps(told))


async def _upload(client: Client, path: Path, size: int) -> int | None:
    async with open_source(path, size) as source:
        reply = await client.upload(UploadRequest(path.stem, (), None), source, AlwaysAdmitted())
        return reply.status


@contextmanager
def _slow_disk(waits: list[bool]) -> Iterator[None]:
    """A page cache without anything, and reads that wait; take down of each whether it was the event loop's thread."""
    read, loop_thread = AudioFile.readinto, threading.get_ident()

    def read_slowly(file: AudioFile, buffer: Any) -> int:
        waits.append(threading.get_ident() == loop_thread)
        time.sleep(READ_SECONDS)
        return read(file, buffer)

    cold = BlockingIOError(errno.EAGAIN, "not in memory")
    with mock.patch.object(AudioFile, "readinto", read_slowly), mock.patch.object(os, "preadv", side_effect=cold):
        yield


@contextmanager
def _timed_steps(steps: list[float], waits: list[bool]) -> Iterator[None]:
    """Take down how long each step keeps the loop: its CPU, which other processes do not disturb, and its waits."""
    run = asyncio.Handle._run

    def run_timed(handle: asyncio.Handle) -> None:
        begun, waited = time.thread_time(), sum(waits)
        run(handle)
        steps.append(time.thread_time() - begun + (sum(waits) - waited) * READ_SECONDS)

    with mock.patch.object(asyncio.Handle, "_run", run_timed):
        yield


if __name__ == "__main__":
    asyncio.run(main(files_of(Path(sys.argv[1]).absolute())))
