"""Loads a manifest into PostgreSQL ledgers of few and of many rows; tells what a row, a claim and an admission cost.

``python -m tests.benchmarks.postgres_loads FEW MANY`` reads ``manifest.csv`` in the current folder, has
a server of its own without autovacuum, and prints JSON.
"""

import csv
import json
import os
import resource
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from itertools import islice
from pathlib import Path
from uuid import uuid4

from tests.postgres import Database, running_server
from uploader import logs
from uploader.cli import ending
from uploader.client import Credentials
from uploader.ledger import Ledger
from uploader.ledger.claiming import Admission, admit, claim
from uploader.ledger.workers import end_worker
from uploader.model import Claim, Order
from uploader.run.activation import Prepared
from uploader.run.loading import prepare
from uploader.run.target import Target
from uploader.settings import Settings

BASE_URL = "https://service.example"
CLAIMS, TOGETHER = 50, 16
LIMIT = 100_000


class Server:
    """The processes of a PostgreSQL server on this host."""

    def __init__(self, database: Database) -> None:
        with closing(database.connect()) as connection:
            self._pid = int(self._stat(str(connection.info.backend_pid))[1])

    @staticmethod
    def _stat(pid: str) -> list[str]:
        """Read the fields of a process from its state on."""
        return Path("/proc", pid, "stat").read_text(encoding="utf-8").rpartition(")")[2].split()

    def cpu_seconds(self) -> float:
        """Return the user and system time of all its processes, those that have ended included."""
        ticks = 0
        for found in Path("/proc").glob("[0-9]*"):
            try:
                fields = self._stat(found.name)
            except OSError:
                continue
            if int(found.name) == self._pid:
                ticks += sum(map(int, fields[11:15]))
            elif int(fields[1]) == self._pid:
                ticks += sum(map(int, fields[11:13]))
        return ticks / os.sysconf("SC_CLK_TCK")


def _client_seconds() -> float:
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


class Ground:
    """A ledger in a database of its own, and what its loads have cost."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._server = Server(database)
        self.told: dict[str, dict[str, float]] = {}

    def load(self, rows: Sequence[Sequence[str]], kind: str) -> None:
        """Do all that `run` does until its first claim, then claim and admit some times."""
        manifest = Path("part.csv")
        with manifest.open("w", newline="", encoding="utf-8") as file:
            csv.writer(file).writerows([("conversationId", "audioPath"), *rows])
        results = Path("part.results.csv").absolute()
        settings = Settings(ledger=self._database.url, base_url=BASE_URL, results=results, batch="m", limit=LIMIT)
        target = Target(settings, BASE_URL, Credentials("id", "secret"))
        told = self.told[kind] = {}
        with self._measured(told, len(rows)):
            ledger = Ledger.open_for_run(settings.ledger)
            prepared = prepare(settings, str(manifest), ledger, [target], lambda: None)
            ledger.workers_have_begun()
        with closing(ledger):
            told |= self._carry(ledger, prepared)
        sys.stderr.write(f"{kind}: {told}\n")

    @contextmanager
    def _measured(self, told: dict[str, float], rows: int) -> Iterator[None]:
        client, server, begun = _client_seconds(), self._server.cpu_seconds(), time.perf_counter()
        yield
        told["wall"] = 1e6 * (time.perf_counter() - begun) / rows
        told["client"] = 1e6 * (_client_seconds() - client) / rows
        told["server"] = 1e6 * (self._server.cpu_seconds() - server) / rows

    def _cpu_seconds(self) -> float:
        return _client_seconds() + self._server.cpu_seconds()

    def _carry(self, ledger: Ledger, prepared: Prepared) -> dict[str, float]:
        """Return the milliseconds of CPU, of both sides, of a claim and of an admission of some items."""
        account, order = prepared.accounts[0], Order.LONGEST_LANE_FIRST
        account_id, worker_id = account.account_id, account.worker_id
        begun, claimed = self._cpu_seconds(), list[Claim]()
        for _ in range(CLAIMS):
            with ledger.writing(lambda _: [account_id]) as connection:
                claimed += claim(connection, account_id, TOGETHER, prepared.now(), order, worker_id=worker_id).claims
        has_claimed = self._cpu_seconds()
        for at in range(0, len(claimed), TOGETHER):
            admitting = [Admission(one, "hash") for one in claimed[at : at + TOGETHER]]
            with ledger.writing(lambda _: [account_id]) as connection:
                admit(connection, account_id, admitting, LIMIT, prepared.now(), order=order)
        ended = self._cpu_seconds()
        with ledger.writing() as connection:
            end_worker(connection, worker_id, account_id, prepared.now(), 900.0)
        calls = len(claimed) / TOGETHER
        return {"claim": 1e3 * (has_claimed - begun) / calls, "admission": 1e3 * (ended - has_claimed) / calls}


def main(few: int, many: int) -> None:
    """Load few and many rows night after night, and tell."""
    os.environ["UPLOADER_ACCESS_TOKEN"] = "t"
    logs.configure("json", "error")
    ending.collect_rarely()  # as the command does
    with Path("manifest.csv").open(encoding="utf-8", newline="") as file:
        lines = csv.reader(file)
        next(lines)
        pairs = list(islice(lines, many))
    told = {}
    with running_server(f"loads-{uuid4().hex}") as server:
        for count in (few, many):
            database = Database(server)
            ground = Ground(database)
            ground.load(pairs[:count], "first night")
            ground.load(pairs[:count], "all known, pending")
            ground.load(pairs[count - 1 :: -1], "in another order")
            told[count] = ground.told
            database.drop()
    sys.stdout.write(json.dumps(told) + "\n")


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]))
