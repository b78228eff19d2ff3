"""The benchmarks run: tiny nights of ours, and of a peer, judged by the sandbox's journal."""

from pathlib import Path

import pytest

from tests.benchmarks import corpus
from tests.benchmarks.bench import Bench
from tests.benchmarks.measures import makespan, nights
from uploader.sandbox import SandboxSettings

FILES = 10
CLIENTS = {client.name: client for client in makespan.clients(0.05)}


@pytest.mark.parametrize("name", ["ours, polling, limit told", "asyncio script"])
def test_a_night_is_measured_to_its_end(tmp_path: Path, name: str) -> None:
    """Every file is appended once, no job is above the limit, and the makespan is not below its bound."""
    settings = SandboxSettings(limit=3, job_seconds=0.02, job_seconds_per_mebibyte=0.2, job_scatter=0.2)
    night = makespan.night(Bench(tmp_path), settings, corpus.recordings(settings, files=FILES), CLIENTS[name])
    assert night.used.check().peak_bytes > 0
    assert (night.judged.appended, night.judged.twice) == (FILES, 0)
    assert night.judged.peak_live <= settings.limit
    assert night.judged.seconds >= night.bound


@pytest.mark.parametrize("name", ["ours, polling", "ours, webhook", "asyncio script"])
def test_a_night_over_a_network_is_measured_to_its_end(tmp_path: Path, name: str) -> None:
    """Every file is appended once over a way that takes its time, and no figure is better than the ideal one."""
    night = next(night for night in nights.NIGHTS if night.by_webhook is not None).scaled(0.05, 60)
    client = next(client for client in nights.clients(night, 0.05) if client.name == name)
    measured = nights.measure(Bench(tmp_path), night, client)
    assert measured.used.check().peak_bytes > 0
    assert (measured.judged.appended, measured.judged.twice) == (measured.files, 0)
    assert measured.judged.peak_live <= night.settings.limit
    assert measured.judged.seconds >= measured.ideal >= measured.bound
    if client.is_ours:
        assert measured.idle >= night.settings.round_trip, "an end is told here before the next last chunk leaves"
