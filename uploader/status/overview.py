"""The overview that `uploader status` shows of a ledger."""

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property, reduce
from pathlib import Path
from typing import Any

from uploader.errors import ExitCode
from uploader.ledger.leases import WorkerFacts
from uploader.ledger.orphans import Orphans
from uploader.ledger.reading import AccountFacts, Anomaly, BatchFacts, Trouble
from uploader.ledger.standing import NOTHING, Standing
from uploader.model import LimitFacts, LiveJob, State
from uploader.policy.endings import ending
from uploader.results import rfc3339
from uploader.status.formatting import (
    ORPHANS_REMEDY,
    anomaly_json,
    counts_json,
    format_anomalies,
    format_count,
    format_counts,
    format_held_back,
    format_limit,
    format_orphans,
    format_slot_first,
    format_trouble,
    held_back_json,
    limit_json,
    orphans_json,
    resolve_command,
    run_command,
    trouble_json,
)

COMMANDS_SHOWN = 10
# the most jobs in the text report; the JSON report has all
JOBS_SHOWN = 10


@dataclass(frozen=True)
class Overview:
    """A ledger's batches, live jobs, limits and items that need a person."""

    ledger: str
    # a run holds the ledger
    busy: bool
    # accepted is over
    no_wait: bool
    # the config file, for the commands; None: there is none
    config: Path | None
    # the batch that is named, or ran last
    batch: BatchFacts
    # in the order in which they are shown
    batches: Sequence[tuple[BatchFacts, Standing]]
    # of each account, the batch's own first
    limits: Sequence[tuple[AccountFacts, LimitFacts]]
    jobs: Sequence[LiveJob] = ()
    # the workers that have not ended, each with whether it is alive as far as is known
    workers: Sequence[tuple[WorkerFacts, bool]] = ()
    troubles: Sequence[Trouble] = ()
    # anomalies to report whatever the item's outcome, such as an append too many
    anomalies: Sequence[Anomaly] = ()
    # orphans of the batches
    orphans: Sequence[Orphans] = ()
    # ids of the accounts where all slots are held in vain
    stuck: Collection[int] = ()

    @cached_property
    def exit_code(self) -> ExitCode:
        """The exit code of a run of all shown batches; orphans count as needing a person."""
        standing = reduce(Standing.__add__, (standing for _, standing in self.batches), NOTHING)
        codes = [self._code(facts, standing) for facts, standing in self.batches]
        # a run carries on some batch, or could; or else is of no use before a person has resolved what holds the slots
        some = (code for code in (ExitCode.NOT_NOW, ExitCode.GAVE_UP) if code in codes)
        unfinished = next(some, ExitCode.IN_DOUBT)
        found = ending(standing.counts, overdue=standing.overdue, no_wait=self.no_wait, unfinished=unfinished)
        if not all(facts.is_loaded for facts, _ in self.batches):
            return unfinished
        if found is not ExitCode.DONE or not self.orphans:
            return found
        is_in_doubt = any(group.counts[State.IN_DOUBT] for group in self.orphans)
        return ExitCode.IN_DOUBT if is_in_doubt else ExitCode.NEEDS_PERSON

    def as_json(self) -> dict[str, Any]:
        """Return the overview as the JSON object of ``--json``."""
        return {
            "ledger": self.ledger,
            "running": self.busy,
            "exitCode": int(self.exit_code),
            "batch": self.batch.name,
            "limit": limit_json(self.limits[0][1]),
            "limits": [
                {"account": account.name, "baseUrl": account.base_url, **limit_json(limit)}
                for account, limit in self.limits
            ],
            "batches": [
                {
                    "batch": facts.name,
                    "baseUrl": facts.base_url,
                    "ranAt": rfc3339(facts.ran_at),
                    "results": facts.results,
                    "prunedAt": None if facts.pruned_at is None else rfc3339(facts.pruned_at),
                    "loaded": facts.is_loaded,
                    "exitCode": int(self._code(facts, standing)),
                    "items": standing.items,
                    "counts": counts_json(standing.counts),
                    "overdue": standing.overdue,
                    **self._run_json(facts),
                }
                for facts, standing in self.batches
            ],
            "workers": [_worker_json(worker, is_alive=is_alive) for worker, is_alive in self.workers],
            "jobs": [_job_json(job) for job in self.jobs],
            "needsPerson": [trouble_json(trouble) for trouble in self.troubles],
            "outOfOrder": [anomaly_json(anomaly) for anomaly in self.anomalies],
            "former": [orphans_json(group) for group in self.orphans],
        }

    def as_lines(self) -> list[str]:
        """Format the overview as lines of text."""
        return [
            f"ledger {self.ledger}" + (": a run is on" if self.busy else ""),
            *(f"limit  {self._where(account)}{format_limit(limit)}" for account, limit in self.limits),
            *(
                f"       {self._where(account)}{format_slot_first(limit)}"
                for account, limit in self.limits
                if limit.needs_slot_first
            ),
            *self._format_batches(),
            *self._format_workers(),
            *self._format_jobs(),
            *self._format_orphans(),
            *self._format_troubles(),
            *self._format_next(),
            *self._format_anomalies(),
        ]

    def _is_on(self, facts: BatchFacts) -> bool:
        """Return True where a run carries a batch on; one that still loads its manifest may be of any batch."""
        alive = [worker for worker, is_alive in self.workers if is_alive]
        wants = [
            worker.batch_id for worker in alive if worker.batch_id is not None or worker.base_url == facts.base_url
        ]
        return self.busy and (not alive or None in wants or facts.batch_id in wants)

    def _code(self, facts: BatchFacts, standing: Standing) -> ExitCode:
        is_stuck = facts.is_loaded and facts.account_id in self.stuck
        unfinished = ExitCode.IN_DOUBT if is_stuck else ExitCode.GAVE_UP
        unfinished = ExitCode.NOT_NOW if self._is_on(facts) else unfinished
        if not facts.is_loaded:
            return unfinished
        return ending(standing.counts, overdue=standing.overdue, no_wait=self.no_wait, unfinished=unfinished)

    def _run_json(self, facts: BatchFacts) -> dict[str, Any]:
        """Return what has held a batch's latest run back, and what it waits for while it is on, as JSON."""
        shown = {**held_back_json(None), "waitsFor": None, "waitsUntil": None, **(facts.held_back or {})}
        return shown if self._is_on(facts) else {**shown, "waitsFor": None, "waitsUntil": None}

    def _where(self, account: AccountFacts) -> str:
        """Format an account's prefix; empty where the ledger has one account."""
        return f"{account}: " if len(self.limits) > 1 else ""

    def _format_batches(self) -> Iterator[str]:
        for facts, standing in self.batches:
            text = f"{format_count(standing.items, 'item')}: {format_counts(standing.counts)}"
            # one all of whose rows name accounts has no row for its own
            is_sent_to = any(account.account_id == facts.account_id for account, _ in self.limits)
            service = f" ({facts.base_url})" if len(self.limits) > 1 and is_sent_to else ""
            pruned = f"; its rows were pruned at {rfc3339(facts.pruned_at)}" if facts.pruned_at is not None else ""
            yield f"batch  {facts.name}{service}: {text}{pruned}"
            if not facts.is_loaded:
                yield f"       {self._format_load(facts)}"
            run = self._run_json(facts)
            if held_back := format_held_back(run):
                yield f"       held back {held_back}"
            if run["waitsFor"] is not None:
                until = f", until {run['waitsUntil']}" if run["waitsUntil"] is not None else ""
                yield f"       sending waits for {run['waitsFor']}{until}"
            yield from (f"       {format_orphans(group)}" for group in self.orphans if group.batch_id == facts.batch_id)

    def _format_load(self, facts: BatchFacts) -> str:
        """Format the state of a batch that is loaded in part."""
        if self._is_on(facts):
            return "its manifest is being loaded: more items come"
        return "its load was interrupted: run the same command again"

    def _format_workers(self) -> Iterator[str]:
        for worker, is_alive in self.workers:
            what = (worker.batch or "every batch") + self._of_account(worker)
            since = rfc3339(worker.begun_at)
            does = f"{format_count(worker.sending, 'upload')}, {format_count(worker.jobs, 'job')}"
            dead = "" if is_alive else "; it does not answer: the next run, or another worker, takes over"
            yield f"worker {worker.worker_id} on {worker.host}: {what} since {since}: {does}{dead}"

    def _of_account(self, worker: WorkerFacts) -> str:
        """Format the account of a worker; empty where the ledger has one account."""
        account = AccountFacts(0, worker.base_url, worker.account)
        return f" for {account}" if len(self.limits) > 1 else ""

    def _format_jobs(self) -> Iterator[str]:
        for job in self.jobs[:JOBS_SHOWN]:
            since = rfc3339(job.accepted_at)
            yield f"job    {job.job_id}: line {job.line} of {job.batch}, {job.conversation_id}, since {since}"
        if more := len(self.jobs) - JOBS_SHOWN:
            yield from [f"job    and {format_count(more, 'job')} more"] if more > 0 else []

    def _format_orphans(self) -> Iterator[str]:
        if self.orphans:
            yield f"before {ORPHANS_REMEDY}:"
            yield from (f"  {resolve_command(group.batch, self.ledger)}" for group in self.orphans)

    def _format_troubles(self) -> Iterator[str]:
        """Format the items that need a person by batch, with the command that lists and resolves them."""
        for batch in dict.fromkeys(trouble.batch for trouble in self.troubles):
            yield f"needs a person in {batch}:"
            yield from (f"  {format_trouble(trouble)}" for trouble in self.troubles if trouble.batch == batch)
            yield f"next   {resolve_command(batch, self.ledger)}"

    def _format_next(self) -> Iterator[str]:
        """Format the commands that carry on the batches that wait for a run."""
        why = "the run that is on is another batch's" if self.busy else "no run is on"
        limits = {account.account_id: limit.configured for account, limit in self.limits}
        # a batch that is loaded in part is carried on by its manifest alone
        loaded = [(facts, standing) for facts, standing in self.batches if facts.is_loaded]
        waiting = [facts for facts, standing in loaded if self._code(facts, standing) is ExitCode.GAVE_UP]
        for facts in waiting[:COMMANDS_SHOWN]:
            yield f"{why}, and {facts.name} is not over: type its `uploader run …` again, or"
            # the account above all tables may send nothing itself, and has no limit then
            limit = limits.get(facts.account_id)
            yield f"  {run_command(facts.name, facts.base_url, self.ledger, config=self.config, limit=limit)}"

    def _format_anomalies(self) -> Iterator[str]:
        if self.anomalies:
            batches = ", ".join(dict.fromkeys(anomaly.batch for anomaly in self.anomalies))
            yield f"out of order in {batches}: (to be looked at; nothing is to be settled)"
            yield from (f"  {line}" for line in format_anomalies(self.anomalies))


def _worker_json(worker: WorkerFacts, *, is_alive: bool) -> dict[str, Any]:
    return {
        "worker": worker.worker_id,
        "alive": is_alive,
        "host": worker.host,
        "version": worker.version,
        "account": worker.account,
        "baseUrl": worker.base_url,
        "batch": worker.batch,
        "begunAt": rfc3339(worker.begun_at),
        "leaseUntil": rfc3339(worker.lease_until),
        "sending": worker.sending,
        "jobs": worker.jobs,
    }


def _job_json(job: LiveJob) -> dict[str, Any]:
    return {
        "jobId": job.job_id,
        "batch": job.batch,
        "line": job.line,
        "conversationId": job.conversation_id,
        "acceptedAt": rfc3339(job.accepted_at),
    }
