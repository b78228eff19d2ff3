"""``python -m tests.acceptance.away FAULT``: workers on one ledger whose server, or network, fails again and again.

FAULT is ``restarts`` (of the server, as after a crash), ``commits`` (their answers are lost), ``ledger`` (one worker's
way to the server is cut, silent or slow, at times for longer than its lease) or ``service`` (its way to the service).
With ``--pooler`` all workers go through a pgbouncer in transaction mode.
"""

import argparse
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from random import Random
from tempfile import TemporaryDirectory
from types import MappingProxyType
from urllib.parse import urlsplit

from tests.acceptance.batches import make_rows, read_results, write_manifest
from tests.acceptance.judging import check_one_at_a_time
from tests.acceptance.kills import count_faults
from tests.acceptance.place import Place, Running, Server, until
from tests.postgres import Database, pooled, restartable_server
from tests.proxy import Loss, Network, Proxy, proxied

DEADLINE_SECONDS = 1800.0
# how long a network is bad, the last one beyond a lease; and how long it is good then
BAD_SECONDS, GOOD_SECONDS = (0.3, 1.0, 3.0, 40.0), (0.5, 3.0)
# of so many COMMITs one is lost
COMMITS_A_LOSS = 6


class Campaign:
    """Workers that carry one manifest, each with a way of its own to the ledger and to the service."""

    def __init__(self, place: Place, chosen: argparse.Namespace, ledger: str, restart: Callable[[], None]) -> None:
        self._place = place
        self._chosen = chosen
        self._draw = Random(chosen.seed)
        self._ledger = ledger
        self._restart = restart
        self.faults = 0
        self.codes: list[int] = []

    def run(self) -> dict[str, object]:
        """Run the workers to their end, with faults meanwhile; return the violations, and what was done."""
        chosen, place = self._chosen, self._place
        rows = make_rows(place, chosen.items, chosen.lanes, seed=chosen.seed)
        write_manifest(place, "m.csv", rows)
        server = place.serve("--limit", str(chosen.limit), "--job-seconds", str(chosen.job_seconds))
        place.use(server)
        with proxied(self._ledger) as (ledger, url), self._way_to(server) as service:
            # one of them has ways of its own, to the service as through an HTTP proxy: the account is by its address
            running = [self._start(0, url, {"http_proxy": f"http://127.0.0.1:{service.port}"})]
            running += [self._start(number, self._ledger) for number in range(1, chosen.workers)]
            until(lambda: len(server.journal.appended()) >= chosen.items // 20, "all have begun", DEADLINE_SECONDS)
            begun = time.monotonic()
            if chosen.fault == "commits":
                drawn = self._draw.choices([None, Loss.BEFORE, Loss.AFTER], [COMMITS_A_LOSS - 1, 0.5, 0.5], k=100_000)
                ledger.lose_commits(*drawn)
            while any(not worker.is_over for worker in running) and self.faults < chosen.times:
                self._fail(service if chosen.fault == "service" else ledger, running)
            self.codes = [worker.wait(DEADLINE_SECONDS).code for worker in running]
            seconds = time.monotonic() - begun
            if chosen.fault == "commits":
                self.faults = ledger.lost
        last = place.start("run", "m.csv", *self._words(), environment={"UPLOADER_LEDGER": self._ledger}).wait(
            DEADLINE_SECONDS
        )
        check_one_at_a_time(server.journal)
        found = count_faults(server, rows, read_results(place.path("m.results.csv")))
        return {"faults": self.faults, "seconds": round(seconds, 1), "codes": [*self.codes, last.code], **found}

    def _words(self) -> tuple[str, ...]:
        return ("--limit", str(self._chosen.limit), "--doubt-seconds", "3", "--log-level", "warning")

    def _start(self, number: int, ledger: str, more: Mapping[str, str] = MappingProxyType({})) -> Running:
        results = str(self._place.path(f"results-{number}.csv"))
        environment = {"UPLOADER_LEDGER": ledger, **more}
        return self._place.start("run", "m.csv", *self._words(), "--results", results, environment=environment)

    @contextmanager
    def _way_to(self, server: Server) -> Iterator[Proxy]:
        parts = urlsplit(server.base_url)
        proxy = Proxy(str(parts.hostname), int(parts.port or 80))
        try:
            yield proxy
        finally:
            proxy.close()

    def _fail(self, proxy: Proxy, running: list[Running]) -> None:
        """Let one fault come and go, after a while in which all is well."""
        self._pause(self._draw.uniform(*GOOD_SECONDS), running)
        if self._chosen.fault == "commits":
            return  # the proxy has its orders
        self.faults += 1
        if self._chosen.fault == "restarts":
            self._restart()
            return
        network = self._draw.choice([Network.CUT, Network.SILENT, Network.GOOD])
        proxy.behave(network, delay_seconds=0.2 if network is Network.GOOD else 0.0)
        self._pause(BAD_SECONDS[self.faults % len(BAD_SECONDS)], running)
        proxy.behave(Network.GOOD)

    @staticmethod
    def _pause(seconds: float, running: list[Running]) -> None:
        """Wait, but not for longer than the workers live."""
        ends_at = time.monotonic() + seconds
        while time.monotonic() < ends_at and any(not worker.is_over for worker in running):
            time.sleep(0.05)


def main() -> int:
    """Run the campaign, and tell; 1 where a promise was broken."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("fault", choices=("restarts", "commits", "ledger", "service"))
    for name, default in (("workers", 2), ("items", 400), ("lanes", 100), ("limit", 8), ("seed", 1), ("times", 5)):
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--job-seconds", type=float, default=0.5)
    parser.add_argument("--pooler", action="store_true", help="all workers go through a pgbouncer in transaction mode")
    chosen = parser.parse_args()
    with ExitStack() as stack:
        folder = stack.enter_context(TemporaryDirectory())
        address, restart = stack.enter_context(restartable_server())
        database = Database(address)
        url = stack.enter_context(pooled(database.url)) if chosen.pooler else database.url
        place = Place(Path(folder))
        stack.callback(place.close)
        found = Campaign(place, chosen, url, restart).run()
    print(found)  # noqa: T201 - its report
    broken = sum(int(found[name]) for name in ("twice", "outOfOrder", "unexplained"))  # type: ignore[call-overload]
    return int(broken > 0 or found["peakLive"] > chosen.limit or found["rows"] != chosen.items)


if __name__ == "__main__":
    sys.exit(main())
