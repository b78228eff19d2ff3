"""Outcomes that change no item: explained by what was quicker, or reported as an anomaly."""

from collections.abc import Iterable

from sqlalchemy import Connection, RowMapping, and_, bindparam, exists, select

from uploader import logs
from uploader.ledger.facts import add_anomaly
from uploader.ledger.schema import attempts, items, resolutions
from uploader.model import Claim, LiveJob, Outcome, State, Verdict
from uploader.policy.facts import WITH_JOB

log = logs.get_logger()

# an item and one of its attempts, as they are now
_FOUND = (
    select(
        *items.c["state", "attempts", "job_id"],
        attempts.c.outcome,
        exists().where(resolutions.c.item_id == items.c.id).label("is_resolved"),
    )
    .select_from(items)
    .outerjoin(attempts, and_(attempts.c.item_id == items.c.id, attempts.c.number == bindparam("number")))
    .where(items.c.id == bindparam("item"))
)


def report_outcomes(connection: Connection, outcomes: Iterable[tuple[Claim, Verdict]]) -> None:
    """Report each outcome that its item does not show, and keep its jobId as the item's anomaly.

    Args:
        connection: The transaction that has written the outcomes, of which fewer items were changed than there are.
        outcomes: The attempts, and what their replies mean.
    """
    for claim, verdict in outcomes:
        item = connection.execute(_FOUND, {"item": claim.item_id, "number": claim.number}).mappings().first()
        if _shows(item, claim.number, verdict):
            continue
        anomaly = f"attempt {claim.number} ended as {verdict.outcome.value}{_as_job(verdict.job_id)} {_too_late(item)}"
        if verdict.job_id is not None:
            add_anomaly(connection, claim.item_id, anomaly)
        _log(claim, claim.number, verdict.job_id, item, anomaly)


def report_job(connection: Connection, job: LiveJob, what: str) -> None:
    """Report news of a job that changed no item, unless a callback or a person's decision was quicker.

    Args:
        connection: The transaction.
        what: The news, as in "job X ...".
    """
    item = connection.execute(_FOUND, {"item": job.item_id, "number": job.attempt}).mappings().first()
    if item is not None and (item["job_id"] == job.job_id or item["is_resolved"]):
        return
    _log(job, job.attempt, job.job_id, item, f"job {job.job_id} {what} {_too_late(item)}")


def _shows(item: RowMapping | None, number: int, verdict: Verdict) -> bool:
    """Return True where an item is as an outcome left it, or has moved on by what explains the outcome."""
    if item is None:
        return False
    if verdict.state is State.ACCEPTED:
        return bool(item["job_id"] == verdict.job_id) and item["state"] in WITH_JOB
    if verdict.state is State.PENDING and item["attempts"] > number:
        return True  # not appended, as the worker that took it over has assumed
    # written before, by a commit that seemed to fail; or a callback has named the attempt's job
    is_as_written = item["state"] == verdict.state and item["attempts"] == number
    return is_as_written or bool(item["outcome"] == Outcome.APPLIED)


def _as_job(job_id: str | None) -> str:
    return f" as job {job_id}" if job_id is not None else ""


def _too_late(item: RowMapping | None) -> str:
    if item is None:
        return "and the ledger does not know its item"
    return f"when its item was {item['state']} by attempt {item['attempts']}{_as_job(item['job_id'])}"


def _log(source: Claim | LiveJob, attempt: int, job_id: str | None, item: RowMapping | None, anomaly: str) -> None:
    log.error(
        "outcome.unmatched",
        batch=source.batch,
        line=source.line,
        conversationId=source.conversation_id,
        attempt=attempt,
        jobId=job_id,
        state=item["state"] if item is not None else None,
        remark=anomaly,
    )
