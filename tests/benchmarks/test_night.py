"""The benchmarks run: a tiny night of ours, and one of a peer, judged by the sandbox's journal."""

from pathlib import Path

import pytest

from tests.benchmarks import corpus
from tests.benchmarks.bench import Bench
from tests.benchmarks.measures import makespan
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
