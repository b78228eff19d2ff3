"""Another program on the same account: it holds some slots for half of the time, in conversations of its own.

Each of its slots is held by jobs of so many seconds, one after the other, with as long a rest before each. A 429 makes
it ask again a second later. It knows the service as a peer does, and goes on until it is ended.
"""

import argparse
import asyncio
import os

import aiohttp

BASE_URL = os.environ["UPLOADER_BASE_URL"]
HEADERS = {"Authorization": f"Bearer {os.environ['ACCESS_TOKEN']}", "Content-Type": "audio/wav"}


async def hold(session: aiohttp.ClientSession, slot: int, options: argparse.Namespace) -> None:
    """Hold one slot for half of the time."""
    url = f"{BASE_URL}/v1/process/audio/foreign-{slot}"
    number = 0
    while True:
        await asyncio.sleep(options.seconds)
        number += 1
        body = f"{slot} {number} ".encode().ljust(options.bytes, b"\0")
        while True:
            async with session.put(url, data=body) as answer:
                if answer.status == 201:
                    break
            await asyncio.sleep(options.ask_again_seconds)
        await asyncio.sleep(options.seconds)


async def main(options: argparse.Namespace) -> None:
    """Hold all of its slots."""
    async with aiohttp.ClientSession(headers=HEADERS) as session, asyncio.TaskGroup() as group:
        for slot in range(options.slots):
            group.create_task(hold(session, slot, options))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--slots", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=30.0, help="how long a job of so many --bytes takes")
    parser.add_argument("--bytes", type=int, required=True)
    parser.add_argument("--ask-again-seconds", type=float, default=1.0)
    asyncio.run(main(parser.parse_args()))
