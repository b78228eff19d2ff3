"""What people write: requests, a thread a file, a semaphore of X uploads, backoff on 429, each job polled. No ledger.

It reads conversationId and audioPath from a CSV, the service from UPLOADER_BASE_URL, the token from ACCESS_TOKEN.
"""

import argparse
import csv
import os
import random
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import requests

BASE_URL = os.environ["UPLOADER_BASE_URL"]
HEADERS = {"Authorization": f"Bearer {os.environ['ACCESS_TOKEN']}"}
ANSWER_SECONDS = 300
LONGEST_WAIT = 30.0


def upload(uploads: threading.Semaphore, conversation: str, path: Path) -> str:
    """Append a file; the service's limit makes it wait, and try again."""
    url = f"{BASE_URL}/v1/process/audio/{conversation}"
    headers = {**HEADERS, "Content-Type": "audio/wav"}
    wait = 1.0
    while True:
        with uploads, path.open("rb") as audio:
            answer = requests.put(url, data=audio, headers=headers, timeout=ANSWER_SECONDS)
        if answer.status_code != 429:
            answer.raise_for_status()
            return str(answer.json()["jobId"])
        time.sleep(wait * random.uniform(0.5, 1.0))
        wait = min(2.0 * wait, LONGEST_WAIT)


def follow(job: str, seconds: float) -> str:
    """Poll a job until it has ended."""
    while True:
        answer = requests.get(f"{BASE_URL}/v1/job/{job}", headers=HEADERS, timeout=ANSWER_SECONDS)
        status = str(answer.json().get("status"))
        if status in {"completed", "failed"}:
            return status
        time.sleep(seconds)


def main(options: argparse.Namespace) -> None:
    """Upload everything that the manifest names."""
    uploads = threading.Semaphore(options.uploads)

    def carry(row: dict[str, str]) -> str:
        job = upload(uploads, row["conversationId"], Path(options.root, row["audioPath"]))
        return follow(job, options.poll_seconds)

    with Path(options.manifest).open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    with ThreadPoolExecutor(max_workers=len(rows)) as pool:
        ends = list(pool.map(carry, rows))
    sys.stdout.write(f"{len(ends)} files: {ends.count('failed')} failed\n")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("manifest")
    parser.add_argument("--uploads", type=int, default=10, help="the semaphore: uploads at once")
    parser.add_argument("--poll-seconds", type=float, default=5.0)
    parser.add_argument("--root", default=".", help="where relative paths start")
    main(parser.parse_args())
