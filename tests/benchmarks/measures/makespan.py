"""How long a night takes beside the lower bound, and what it costs: by the sandbox's journal, peers beside us."""

import subprocess
import sys
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from tests.benchmarks import corpus, schedule
from tests.benchmarks.bench import ROOT, Bench, Server
from tests.benchmarks.children import Used
from tests.benchmarks.clients import Start, append, asyncio_script, ours, ours_by_webhook, peer
from tests.benchmarks.corpus import Recording
from tests.benchmarks.judging import Judged, judge, taken_by_others
from tests.benchmarks.losses import Losses, losses
from tests.benchmarks.table import Must, Row, at_most
from uploader.model import Order
from uploader.sandbox import SandboxSettings

LIMIT = 10
CONFIGURED = 50
"""Where the limit is to be learned."""
JOB_SECONDS, JOB_SECONDS_PER_MEBIBYTE, JOB_SCATTER = 0.6, 40.0, 0.2
POLL_SECONDS = 5.0
"""How often the scripts poll a job."""
FOREIGN_SLOTS, FOREIGN_SECONDS = 3, 30.0
BOUNDS_TO_END = 3.0
"""So many lower bounds is everybody given to end."""
QUICK_FILES, QUICK_SCALE = 40, 0.05


@dataclass(frozen=True, slots=True, kw_only=True)
class Client:
    """A client that is measured, and what its figures must be."""

    name: str
    start: Start
    shared: bool = False
    over_bound: Must | None = None
    refusals: Must | None = None
    bytes_in_vain: Must | None = None
    status_requests: Must | None = None
    above_limit: Must | None = None


@dataclass(frozen=True, slots=True)
class Night:
    """What a client made of the corpus."""

    client: Client
    judged: Judged
    lost: Losses
    used: Used
    bound: float


def clients(scale: float) -> list[Client]:
    """Everybody who is measured, ours first."""
    polling = ("--uploads", str(LIMIT), "--poll-seconds", str(POLL_SECONDS * scale))
    return [
        Client(
            name="ours, polling, limit told",
            start=ours("--limit", str(LIMIT)),
            over_bound=at_most(1.03),
            refusals=at_most(0),
            bytes_in_vain=at_most(0),
            status_requests=at_most(12),
            above_limit=at_most(0),
        ),
        Client(
            name="ours, webhook, limit told",
            start=ours_by_webhook("--limit", str(LIMIT)),
            over_bound=at_most(1.01),
            refusals=at_most(0),
            bytes_in_vain=at_most(0),
            above_limit=at_most(0),
        ),
        Client(
            name=f"ours, polling, limit learned from {CONFIGURED}",
            start=ours("--limit", str(CONFIGURED)),
            over_bound=at_most(1.05),
            refusals=at_most(12),
            status_requests=at_most(12),
            above_limit=at_most(0),
        ),
        Client(name="ours, polling, limit shared", start=ours("--limit", str(LIMIT)), shared=True),
        Client(name="asyncio script", start=asyncio_script(LIMIT, POLL_SECONDS * scale)),
        Client(name="requests and threads", start=peer(sys.executable, "threads_script.py", *polling)),
        Client(name="xargs -P curl --retry", start=peer("sh", "xargs.sh", str(LIMIT))),
        Client(name="curl --parallel --retry", start=peer("sh", "curl_parallel.sh", str(LIMIT))),
    ]


def rows(bench: Bench) -> Iterator[Row]:
    """Everybody's figures; as many side by side as ``bench.at_once`` says, each with a sandbox of its own."""
    scale = bench.scale * (QUICK_SCALE if bench.quick else 1.0)
    settings = SandboxSettings(
        limit=LIMIT,
        job_seconds=JOB_SECONDS * scale,
        job_seconds_per_mebibyte=JOB_SECONDS_PER_MEBIBYTE * scale,
        job_scatter=JOB_SCATTER,
    )
    recordings = corpus.recordings(settings, files=QUICK_FILES if bench.quick else corpus.FILES)
    yield from _of_the_corpus([one.job for one in recordings])
    with ThreadPoolExecutor(bench.at_once) as pool:
        wanted = [client for client in clients(scale) if bench.client in client.name]
        # the last first: they take longest
        nights = [pool.submit(night, bench, settings, recordings, client) for client in reversed(wanted)]
        for one in reversed(nights):
            told = _told(one.result(), len(recordings))
            # of a night of a few seconds, the beginning and the end are most: it shows that all of it runs
            yield from (replace(row, must=None) for row in told) if bench.quick else told


def _of_the_corpus(jobs: Sequence[schedule.Job]) -> Iterator[Row]:
    bound = schedule.lower_bound(jobs, LIMIT)
    work, longest = sum(job.seconds for job in jobs) / LIMIT, schedule.longest_conversation(jobs)
    remarks = (
        f"bound {bound:.1f} s: all jobs over the limit {work:.1f} s, the longest conversation {longest:.1f} s; "
        f"jobs of {min(job.seconds for job in jobs):.1f} to {max(job.seconds for job in jobs):.1f} s"
    )
    for order in (Order.MANIFEST, Order.LONGEST_LANE_FIRST):
        over = schedule.ideal(jobs, LIMIT, order) / bound
        yield Row(figure="makespan over bound", of=f"ideal schedule, {order.value}", value=over, remarks=remarks)


def night(bench: Bench, settings: SandboxSettings, recordings: Sequence[Recording], client: Client) -> Night:
    """Let a client append the corpus to a sandbox of its own."""
    place = bench.place(client.name.replace(",", "").replace(" ", "-"))
    jobs = [one.job for one in recordings]
    most = BOUNDS_TO_END * schedule.lower_bound(jobs, settings.limit) + 10.0
    foreign = partial(_foreign, bench, settings, place) if client.shared else None
    used, journal = append(bench, place, settings, recordings, client.start, seconds=most, beside=foreign)
    bound = schedule.lower_bound(jobs, settings.limit, taken_by_others(journal, recordings))
    lost = losses(journal, recordings, settings.limit)
    return Night(client, judge(journal, recordings), lost, used, bound)


@contextmanager
def _foreign(
    bench: Bench, settings: SandboxSettings, place: Path, server: Server, token: dict[str, str]
) -> Iterator[None]:
    scale = settings.job_seconds / JOB_SECONDS
    size = int((FOREIGN_SECONDS - JOB_SECONDS) / JOB_SECONDS_PER_MEBIBYTE * 2**20)
    words = (f"--slots={FOREIGN_SLOTS}", f"--seconds={FOREIGN_SECONDS * scale}", f"--bytes={size}")
    environment = {**bench.environment(place, server), **token}
    with (place / "foreign.err").open("wb") as logging:
        script = str(ROOT / "tests" / "benchmarks" / "foreign.py")
        running = subprocess.Popen([sys.executable, script, *words], cwd=place, env=environment, stderr=logging)
    try:
        yield
    finally:
        running.terminate()
        running.wait()


def _told(one: Night, files: int) -> Iterator[Row]:
    client, judged = one.client, one.judged
    whole = one.used.is_good and judged.appended == files
    yield Row(
        figure="makespan over bound",
        of=client.name,
        value=(one.used.seconds if one.used.stopped else judged.seconds) / one.bound,
        must=client.over_bound,
        remarks=_remarks(one, files),
        whole=whole,
    )
    figures = (
        ("refusals", judged.refusals, "", client.refusals),
        ("bytes in vain", judged.bytes_in_vain / 2**20, "MiB", client.bytes_in_vain),
        ("status requests per job", judged.status_requests_per_job, "", client.status_requests),
        ("live jobs above the limit", max(0, judged.peak_live - LIMIT), "", client.above_limit),
    )
    for figure, value, unit, must in figures:
        if must is not None:
            yield Row(figure=figure, of=client.name, value=value, unit=unit, must=must, whole=whole)


def _remarks(one: Night, files: int) -> str:
    judged = one.judged
    ending = one.used.ending(judged.appended, files)
    return (
        f"{ending}{judged.refusals} refusals, {judged.bytes_in_vain / 2**20:.1f} MiB in vain, "
        f"{judged.status_requests_per_job:.1f} status requests a job, {judged.out_of_order} files out of order, "
        f"{judged.twice} appended twice, peak {judged.peak_live} live, {one.used.cpu_seconds:.1f} s of CPU; "
        f"of the slots' time lost: {one.lost}; first request after {judged.before_seconds:.1f} s"
    )
