"""The figures of a run in Prometheus' text format."""

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from enum import Enum
from math import inf
from typing import TYPE_CHECKING, TypeVar

from uploader.errors import ExitCode
from uploader.ledger.standing import Standing
from uploader.model import LimitFacts, Outcome
from uploader.policy.facts import CallbackEffect
from uploader.policy.held_back import SlotUse
from uploader.policy.histogram import Histogram

if TYPE_CHECKING:
    from prometheus_client.core import Metric

K = TypeVar("K", bound=Enum)

LAST_SUCCESS = "uploader_last_success_timestamp_seconds"
LAST_RUN = "uploader_last_run_timestamp_seconds"
LAST_EXIT_CODE = "uploader_last_run_exit_code"
# what a file keeps of the runs before
KEPT = (LAST_SUCCESS, LAST_RUN, LAST_EXIT_CODE)


@dataclass(frozen=True, slots=True)
class RunFigures:
    """The figures of a run at a moment, or at its end."""

    items: Standing
    limit: LimitFacts
    bytes_sent: int
    attempts: Mapping[Outcome, int]
    callbacks: Mapping[CallbackEffect, int]
    status_requests: int
    # the slots' seconds by their use
    slot_seconds: Mapping[SlotUse, float]
    job_seconds: Histogram
    upload_seconds: Histogram
    write_seconds: Histogram

    def add_counts(self, other: "RunFigures") -> "RunFigures":
        """Add the counters and histograms of another run; items, limit and slots' seconds stay as they are."""
        return replace(
            self,
            bytes_sent=self.bytes_sent + other.bytes_sent,
            attempts=Counter(self.attempts) + Counter(other.attempts),
            callbacks=Counter(self.callbacks) + Counter(other.callbacks),
            status_requests=self.status_requests + other.status_requests,
            job_seconds=self.job_seconds + other.job_seconds,
            upload_seconds=self.upload_seconds + other.upload_seconds,
            write_seconds=self.write_seconds + other.write_seconds,
        )


@dataclass(frozen=True, slots=True)
class Metrics:
    """All that a metrics file says."""

    # seconds since the epoch
    now: float
    begun_at: float
    version: str
    run: str
    batch: str
    # of the runs before, by the names in ``KEPT``
    kept: Mapping[str, float]
    # None while the run goes on
    exit_code: ExitCode | None = None
    # None where the run could not begin
    figures: RunFigures | None = None
    # False where no run goes on, and its exit code is not known
    is_active: bool = True

    def render(self) -> str:
        """Return the text of the file."""
        from prometheus_client.exposition import generate_latest  # noqa: PLC0415 - for runs with metrics alone

        # it asks its argument for nothing but ``collect``
        return generate_latest(self).decode()

    def collect(self) -> Iterator["Metric"]:
        """Yield the metric families, as a registry's collector does."""
        from prometheus_client.core import InfoMetricFamily  # noqa: PLC0415 - as above

        told = {"version": self.version, "run": self.run, "batch": self.batch}
        yield InfoMetricFamily("uploader_run", "The run that wrote this file.", told)
        yield _gauge("uploader_written_timestamp_seconds", "When this file was written.", self.now)
        yield _gauge("uploader_run_begin_timestamp_seconds", "When the run began.", self.begun_at)
        is_active = self.is_active and self.exit_code is None
        yield _gauge("uploader_run_active", "1 while the run goes on.", float(is_active))
        documented = {
            LAST_SUCCESS: "When a run last ended with exit code 0.",
            LAST_RUN: "When a run last ended.",
            LAST_EXIT_CODE: "The exit code of the run that ended last.",
        }
        for name, value in self.ended().items():
            yield _gauge(name, documented[name], value)
        if self.figures is not None:
            yield from _run_families(self.figures)

    def ended(self) -> Mapping[str, float]:
        """Return what is known of runs that have ended, this one included."""
        if self.exit_code is None:
            return self.kept
        ended = {LAST_RUN: self.now, LAST_EXIT_CODE: float(self.exit_code)}
        return {**self.kept, **ended, **({LAST_SUCCESS: self.now} if self.exit_code is ExitCode.DONE else {})}


def kept_of(text: str) -> dict[str, float]:
    """Read from a metrics file what the next one keeps.

    Raises:
        ValueError: The text is no metrics file.
    """
    from prometheus_client.parser import text_string_to_metric_families  # noqa: PLC0415 - as above

    samples = [sample for family in text_string_to_metric_families(text) for sample in family.samples]
    return {sample.name: sample.value for sample in samples if sample.name in KEPT}


def _run_families(figures: RunFigures) -> Iterator["Metric"]:
    limit = figures.limit
    counts = {state.value: count for state, count in figures.items.counts.items()}
    yield _gauges("uploader_items", "The batch's items by state.", "state", counts)
    stated = {} if limit.stated is None else {"stated": limit.stated}
    limits = {"configured": limit.configured, **stated, "in_force": limit.in_force}
    yield _gauges("uploader_limit", "Concurrent jobs: configured, stated by a 429, and in force.", "kind", limits)
    slots = {"jobs": limit.live - limit.doubtful, "doubt": limit.doubtful}
    yield _gauges("uploader_slots_in_use", "The slots that jobs, and items in doubt, hold.", "use", slots)
    yield _counter("uploader_attempts", "Attempts by outcome.", "outcome", _named(Outcome, figures.attempts))
    yield _counter("uploader_callbacks", "Callbacks by effect.", "effect", _named(CallbackEffect, figures.callbacks))
    yield _counter("uploader_sent_bytes", "Bytes of recordings that were sent.", "", {"": figures.bytes_sent})
    yield _counter("uploader_status_requests", "Requests for a job's status.", "", {"": figures.status_requests})
    idle = {use.value: figures.slot_seconds.get(use, 0.0) for use in SlotUse if use is not SlotUse.BUSY}
    busy = figures.slot_seconds.get(SlotUse.BUSY, 0.0)
    yield _counter("uploader_slot_busy_seconds", "Seconds in which slots were busy.", "", {"": busy})
    yield _counter("uploader_slot_idle_seconds", "Seconds in which slots were idle, by cause.", "cause", idle)
    yield _histogram("uploader_job_seconds", "From a job's acceptance to its end.", figures.job_seconds)
    yield _histogram("uploader_upload_seconds", "From a request's begin to its answer.", figures.upload_seconds)
    yield _histogram("uploader_ledger_write_seconds", "The ledger's transactions.", figures.write_seconds)


def _named(kinds: Iterable[K], counted: Mapping[K, int]) -> dict[str, int]:
    """Return the counts by the names of their kinds, those of none included."""
    return {kind.name.lower(): counted.get(kind, 0) for kind in kinds}


def _gauge(name: str, documentation: str, value: float) -> "Metric":
    from prometheus_client.core import GaugeMetricFamily  # noqa: PLC0415 - as above

    return GaugeMetricFamily(name, documentation, value)


def _gauges(name: str, documentation: str, label: str, values: Mapping[str, float]) -> "Metric":
    from prometheus_client.core import GaugeMetricFamily  # noqa: PLC0415 - as above

    family = GaugeMetricFamily(name, documentation, labels=[label])
    for kind, value in values.items():
        family.add_metric([kind], value)
    return family


def _counter(name: str, documentation: str, label: str, values: Mapping[str, float]) -> "Metric":
    from prometheus_client.core import CounterMetricFamily  # noqa: PLC0415 - as above

    family = CounterMetricFamily(name, documentation, labels=[label] if label else [])
    for kind, value in values.items():
        family.add_metric([kind] if label else [], value)
    return family


def _histogram(name: str, documentation: str, found: Histogram) -> "Metric":
    from prometheus_client.core import HistogramMetricFamily  # noqa: PLC0415 - as above

    buckets = [("+Inf" if bound == inf else str(bound), float(count)) for bound, count in found.cumulative()]
    return HistogramMetricFamily(name, documentation, buckets=buckets, sum_value=found.sum)
