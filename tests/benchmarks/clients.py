"""Clients that append a manifest to a sandbox: ours and the peers, each started as a person would start it."""

import socket
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path

from tests.benchmarks import corpus
from tests.benchmarks.bench import PEERS, Bench, Server
from tests.benchmarks.children import Used
from tests.benchmarks.corpus import Recording
from tests.benchmarks.judging import are_over
from uploader.sandbox import Journal, SandboxSettings

Start = Callable[[Bench, Path, Server, dict[str, str], float], Used]
"""Runs a client in its place against a server, with a token in the environment, for so many seconds at most."""
Beside = Callable[[Server, dict[str, str]], AbstractContextManager[None]]


def ours(*options: str) -> Start:
    """Return a run that polls its jobs."""

    def start(bench: Bench, place: Path, server: Server, _: dict[str, str], seconds: float) -> Used:
        return bench.uploader(place, "run", "manifest.csv", *options, server=server, seconds=seconds)

    return start


def ours_by_webhook(*options: str) -> Start:
    """Return a run that is called back."""

    def start(bench: Bench, place: Path, server: Server, _: dict[str, str], seconds: float) -> Used:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            address = f"127.0.0.1:{probe.getsockname()[1]}"
        words = ("--webhook", address, "--webhook-url", f"http://{address}", *options)
        return bench.uploader(place, "run", "manifest.csv", *words, server=server, seconds=seconds)

    return start


def peer(program: str, name: str, *options: str) -> Start:
    """Return a run of a peer's script."""

    def start(bench: Bench, place: Path, server: Server, token: dict[str, str], seconds: float) -> Used:
        words = ("manifest.csv", *options)
        return bench.run(
            place, "peer", program, PEERS / name, *words, server=server, environment=token, seconds=seconds
        )

    return start


def asyncio_script(limit: int, poll_seconds: float) -> Start:
    """Return a run of the asyncio script with so many uploads at once."""
    return peer(sys.executable, "asyncio_script.py", "--uploads", str(limit), "--poll-seconds", str(poll_seconds))


def sandbox_arguments(settings: SandboxSettings) -> tuple[str, ...]:
    """Return the words that give a sandbox these settings: its limit, its jobs and its distance."""
    words = (
        *("--limit", str(settings.limit)),
        *("--job-seconds", str(settings.job_seconds)),
        *("--job-seconds-per-mebibyte", str(settings.job_seconds_per_mebibyte)),
        *("--job-scatter", str(settings.job_scatter)),
        *("--answer-seconds", str(settings.answer_seconds)),
        *("--round-trip", str(settings.round_trip)),
        *("--uplink", str(int(settings.uplink))),
        *("--idle-cut", str(settings.idle_cut)),
    )
    return (*words, "--counts-uploads") if settings.counts_uploads else words


def append(
    bench: Bench,
    place: Path,
    settings: SandboxSettings,
    recordings: Sequence[Recording],
    start: Start,
    *,
    seconds: float,
    beside: Beside | None = None,
) -> tuple[Used, Journal]:
    """Let a client append a corpus to a sandbox of its own; the journal is read once all jobs have ended.

    Args:
        bench: The run of the benchmarks.
        place: The client's folder.
        settings: The sandbox's.
        recordings: The corpus.
        start: Runs the client.
        seconds: How long the client, and then its jobs, may take.
        beside: Whoever else uses the account meanwhile, by the server and a token in the environment.
    """
    corpus.write(place, recordings)
    with bench.sandbox(place, *sandbox_arguments(settings)) as server:
        token = {"ACCESS_TOKEN": server.token()}
        with beside(server, token) if beside else nullcontext():
            used = start(bench, place, server, token, seconds)
        if not used.stopped:
            until_jobs_are_over(server, seconds)
        return used, server.journal


def until_jobs_are_over(server: Server, seconds: float) -> None:
    """Wait until every job has ended.

    Raises:
        RuntimeError: They did not within so many seconds.
    """
    deadline = time.monotonic() + seconds
    while not are_over(server.journal):
        if time.monotonic() > deadline:
            raise RuntimeError("the sandbox's jobs do not end")
        time.sleep(0.2)
