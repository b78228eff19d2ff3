"""Nights over a network as people have it, and their like: makespan and idle slots, by the sandbox's journal."""

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace

from tests.benchmarks import corpus, schedule
from tests.benchmarks.bench import Bench
from tests.benchmarks.children import Used
from tests.benchmarks.clients import Start, append, asyncio_script, ours, ours_by_webhook
from tests.benchmarks.corpus import Recording
from tests.benchmarks.idle import idle_seconds
from tests.benchmarks.judging import Judged, judge
from tests.benchmarks.losses import Losses, losses
from tests.benchmarks.schedule import Job
from tests.benchmarks.table import Must, Row, at_most
from uploader.model import Order
from uploader.sandbox import SandboxSettings

SMALL = 2_000
"""Bytes of a file whose way takes no time."""
LARGE, UPLINK = 256 * 1024, 64 * 1024
"""A file that takes four seconds to send."""
FAR = 0.2
NONE = at_most(0)
POLL_SECONDS = 5.0
"""How often the script polls a job."""
BOUNDS_TO_END = 8.0
QUICK_FILES, QUICK_SCALE = 10, 0.1
"""The quick run has one of so many files, and takes so much of the seconds."""
IDLE_ROUND_TRIPS_POLLING, IDLE_ROUND_TRIPS_WEBHOOK = 2.0, 1.2


@dataclass(frozen=True, slots=True, kw_only=True)
class Night:
    """A service, the files that it is to take, and the figures that ours must keep to.

    ``lanes`` are so many conversations, of so many files each. ``over_ideal`` is about the run that polls,
    ``by_webhook`` about the one that is called back; where it is None there is none.
    """

    name: str
    settings: SandboxSettings
    lanes: tuple[tuple[int, int], ...]
    file_bytes: int = SMALL
    over_ideal: Must | None = None
    by_webhook: Must | None = None
    refusals: Must | None = NONE
    bodies_in_vain: Must | None = None

    def scaled(self, scale: float, fewer: int = 1) -> "Night":
        """Return the night with its seconds shortened, and one of so many files; what is demanded does not count."""
        old = self.settings
        settings = replace(
            old,
            job_seconds=old.job_seconds * scale,
            job_seconds_per_mebibyte=old.job_seconds_per_mebibyte * scale,
            answer_seconds=old.answer_seconds * scale,
            round_trip=old.round_trip * scale,
            idle_cut=old.idle_cut * scale,
            uplink=old.uplink / scale,
            limit=max(2, old.limit // fewer),
        )
        lanes = tuple(
            (conversations // fewer, files) if conversations >= fewer else (conversations, max(1, files // fewer))
            for conversations, files in self.lanes
        )
        return Night(name=self.name, settings=settings, lanes=lanes, file_bytes=self.file_bytes, refusals=None)

    def recordings(self) -> list[Recording]:
        """Return the files that are appended."""
        return corpus.alike(self.settings, self.lanes, self.file_bytes)

    def in_slots(self, recordings: Sequence[Recording]) -> list[Job]:
        """Return what each file holds a slot for: its job, and its upload where the service counts uploads."""
        uplink = self.settings.uplink
        sending = self.file_bytes / uplink if self.settings.counts_uploads and uplink else 0.0
        return [replace(one.job, seconds=one.job.seconds + sending) for one in recordings]


def _settings(limit: int, job_seconds: float, **more: float) -> SandboxSettings:
    alike: dict[str, float] = {"job_seconds_per_mebibyte": 0.0, **more}
    return replace(SandboxSettings(), limit=limit, job_seconds=job_seconds, **alike)  # type: ignore[arg-type]


NIGHTS = (
    Night(
        name="uploads as long as the jobs",
        settings=_settings(10, 2.0, uplink=UPLINK),
        lanes=((300, 1),),
        file_bytes=LARGE,
        over_ideal=at_most(1.15),
    ),
    Night(
        name="answers of 5 s, limit 50",
        settings=_settings(50, 10.0, answer_seconds=5.0),
        lanes=((300, 1),),
        over_ideal=at_most(1.15),
    ),
    Night(
        name="limit 500, jobs of 15 s",
        settings=_settings(500, 15.0),
        lanes=((2000, 1),),
        over_ideal=at_most(1.05),
    ),
    Night(
        name="200 ms, jobs of 4 s, limit 50",
        settings=_settings(50, 4.0, round_trip=FAR),
        lanes=((600, 1),),
        over_ideal=at_most(1.10),
        by_webhook=at_most(1.06),
    ),
    Night(
        name="jobs of 0.2 s, limit 10",
        settings=_settings(10, 0.2),
        lanes=((1000, 1),),
        over_ideal=at_most(1.30),
    ),
    Night(
        name="one lane of 1,000 jobs of 0.1 s beside 300 others",
        settings=_settings(10, 0.1),
        lanes=((1, 1000), (300, 1)),
        over_ideal=at_most(1.30),
    ),
    Night(
        name="five lanes of 50 jobs of 1 s",
        settings=_settings(10, 1.0),
        lanes=((5, 50),),
        over_ideal=at_most(1.03),
    ),
    Night(
        name="uploads count as jobs",
        settings=replace(_settings(10, 2.0, uplink=UPLINK), counts_uploads=True),
        lanes=((100, 1),),
        file_bytes=LARGE,
        refusals=None,
        bodies_in_vain=at_most(2),
    ),
    # Jobs that scatter end when nobody foresaw it: a body that was sent ahead of them waits.
    Night(
        name="a gateway cuts after 10 idle seconds",
        settings=_settings(10, 0.0, job_seconds_per_mebibyte=60.0, job_scatter=0.3, uplink=UPLINK, idle_cut=10.0),
        lanes=((60, 1),),
        file_bytes=LARGE,
        bodies_in_vain=at_most(2),
    ),
)


@dataclass(frozen=True, slots=True)
class Client:
    """A client that is measured, and what its figures must be."""

    name: str
    start: Start
    over_ideal: Must | None = None
    idle: Must | None = None
    is_ours: bool = False


@dataclass(frozen=True, slots=True)
class Measured:
    """One night of one client."""

    night: Night
    client: Client
    judged: Judged
    lost: Losses
    used: Used
    files: int
    bound: float
    ideal: float
    idle: float


def clients(night: Night, scale: float = 1.0) -> Iterator[Client]:
    """Yield who is measured: ours with its default settings but for the limit, then the script."""
    limit, round_trip = night.settings.limit, night.settings.round_trip
    told = ("--limit", str(limit))
    for name, start, over_ideal, most in (
        ("ours, polling", ours(*told), night.over_ideal, IDLE_ROUND_TRIPS_POLLING),
        ("ours, webhook", ours_by_webhook(*told), night.by_webhook, IDLE_ROUND_TRIPS_WEBHOOK),
    ):
        if round_trip or name == "ours, polling":
            # where there is no way, the round trips are the machine's own
            idle = at_most(most * round_trip) if round_trip and over_ideal else None
            yield Client(name, start, over_ideal, idle, is_ours=True)
    yield Client("asyncio script", asyncio_script(limit, POLL_SECONDS * scale))


def rows(bench: Bench) -> Iterator[Row]:
    """Yield everybody's figures, night by night; as many side by side as ``bench.at_once`` says."""
    scale = bench.scale * (QUICK_SCALE if bench.quick else 1.0)
    is_whole = scale == 1.0
    nights = [night if is_whole else night.scaled(scale, QUICK_FILES if bench.quick else 1) for night in NIGHTS]
    wanted = [
        (night, client)
        for night in nights
        if bench.night in night.name
        for client in clients(night, scale)
        if bench.client in client.name
    ]
    with ThreadPoolExecutor(bench.at_once) as pool:
        for measured in [pool.submit(measure, bench, night, client) for night, client in wanted]:
            found = _figures(measured.result())
            # of a night of a few seconds, the beginning and the end are most: it shows that all of it runs
            yield from found if is_whole else (replace(row, must=None) for row in found)


def measure(bench: Bench, night: Night, client: Client) -> Measured:
    """Let a client append a night's files, and judge it by the server's journal."""
    place = bench.place(f"{night.name} {client.name}".replace(",", "").replace(" ", "-"))
    recordings, settings = night.recordings(), night.settings
    jobs = night.in_slots(recordings)
    bound = schedule.lower_bound(jobs, settings.limit)
    most = BOUNDS_TO_END * bound + 30.0
    used, journal = append(bench, place, settings, recordings, client.start, seconds=most)
    return Measured(
        night,
        client,
        judge(journal, recordings),
        losses(journal, recordings, settings.limit),
        used,
        len(recordings),
        bound,
        schedule.ideal(jobs, settings.limit, Order.LONGEST_LANE_FIRST),
        idle_seconds(journal, recordings, settings.limit, counts_uploads=settings.counts_uploads),
    )


def _figures(one: Measured) -> Iterator[Row]:
    judged, client, night = one.judged, one.client, one.night
    whole = one.used.is_good and judged.appended == one.files
    seconds = one.used.seconds if one.used.stopped else judged.seconds

    def row(figure: str, value: float, must: Must | None, *, unit: str = "", remarks: str = "") -> Row:
        return Row(
            figure=f"{night.name}: {figure}",
            of=client.name,
            value=value,
            unit=unit,
            must=must,
            remarks=remarks,
            whole=whole,
        )

    yield row("over the ideal schedule", seconds / one.ideal, client.over_ideal, remarks=_remarks(one))
    yield row("over the bound", seconds / one.bound, None)
    yield row("idle time of a slot", one.idle, client.idle, unit="s")
    if client.is_ours:
        yield row("files out of order", judged.out_of_order, NONE)
        for figure, value, must in (
            ("refusals", judged.refusals, night.refusals),
            ("bodies in vain", judged.bodies_in_vain, night.bodies_in_vain),
        ):
            if must is not None:
                yield row(figure, value, must)


def _remarks(one: Measured) -> str:
    judged = one.judged
    return (
        f"{one.used.ending(judged.appended, one.files)}{judged.seconds:.1f} s, bound {one.bound:.1f} s, ideal "
        f"{one.ideal:.1f} s; {judged.refusals} refusals, {judged.bodies_in_vain} bodies in vain, peak "
        f"{judged.peak_live} live, {judged.out_of_order} out of order, {judged.status_requests_per_job:.1f} status "
        f"requests a job, {one.used.cpu_seconds:.1f} s of CPU; of the slots' time lost: {one.lost}"
    )
