"""`uploader status --watch`: the live lines of a run, as another process sees them in the ledger."""

import math
import time
from collections import deque
from typing import NamedTuple

from uploader.cli.inspecting import named_batch
from uploader.ledger import Connection, Ledger
from uploader.ledger.limit import limit_facts
from uploader.ledger.reading import BatchFacts, find_batches, unfinished_accounts
from uploader.ledger.standing import Standing, standing, unfinished
from uploader.policy.limits import add_limits
from uploader.settings import Settings
from uploader.status.formatting import held_back_json
from uploader.status.live import LiveView
from uploader.status.progress import Progress, measured
from uploader.status.remaining import seconds_left

LEAST_SECONDS = 1.0
# the largest share of the time that reading may take: the run has the same disk
SHARE_OF_TIME = 0.01
# the bytes a second are those of this time
RATE_SECONDS = 30.0
# the most batches that have a line
BATCHES_SHOWN = 5


class _Appended(NamedTuple):
    """The bytes that were appended until a time."""

    at: float
    size: int


def watch_run(settings: Settings) -> None:
    """Redraw the live lines until no run is on."""
    appended: deque[_Appended] = deque()
    with Ledger.open_for_reading(settings.ledger) as ledger, LiveView() as view:

        def read() -> Progress:
            with ledger.reading() as connection:
                return _progress(connection, settings, ledger.address, appended)

        share = math.inf  # the first reading builds the statements of all others
        while ledger.held_by_run:
            progress, cost = measured(read)
            view.show(progress)
            time.sleep(max(LEAST_SECONDS, cost / share))
            share = SHARE_OF_TIME


def _progress(connection: Connection, settings: Settings, address: str, appended: deque[_Appended]) -> Progress:
    now, shown = time.time(), _shown(connection, settings, address)
    counted = [standing(connection, batch.batch_id) for batch in shown]
    accounts = {account.account_id for batch in shown for account in unfinished_accounts(connection, batch.batch_id)}
    limits = {
        account_id: limit_facts(connection, account_id, None, now)
        for account_id in sorted(accounts) or [shown[0].account_id]
    }
    # the account that ends last
    left = [seconds_left(connection, account_id, settings, limit.in_force, now) for account_id, limit in limits.items()]
    run = {**held_back_json(None), "waitsUntil": None, "waitsFor": None, **(shown[0].held_back or {})}
    return Progress(
        now=now,
        batches=[(batch.name, found) for batch, found in zip(shown, counted, strict=True)],
        limit=add_limits(limits.values()),
        bytes_per_second=_rate(counted, appended),
        seconds_left=max(left),
        waits=f"waits for {run['waitsFor']}" if run["waitsFor"] else "",
        held_back=run,
    )


def _shown(connection: Connection, settings: Settings, address: str) -> list[BatchFacts]:
    """List the batches that are not over, the one that ran last first; that one where all are."""
    latest = named_batch(connection, settings, address)
    if settings.batch is not None:
        return [latest]
    others = [batch for batch in find_batches(connection, ids=unfinished(connection)) if batch != latest]
    return [latest, *others][:BATCHES_SHOWN]


def _rate(counted: list[Standing], appended: deque[_Appended]) -> int:
    now, size = time.monotonic(), sum(found.bytes_done for found in counted)
    appended.append(_Appended(now, size))
    while len(appended) > 2 and appended[1].at < now - RATE_SECONDS:
        appended.popleft()
    first = appended[0]
    return int(max(size - first.size, 0) / max(now - first.at, LEAST_SECONDS))
