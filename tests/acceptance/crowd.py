"""``python -m tests.acceptance.crowd``: many workers on one ledger, who may be killed and replaced."""

import argparse
import os
import resource
import signal
import sqlite3
import sys
import time
from collections.abc import Sequence
from contextlib import closing, nullcontext
from pathlib import Path
from random import Random
from tempfile import TemporaryDirectory
from typing import Any

from tests.acceptance.batches import Row, make_rows, read_results, write_table
from tests.acceptance.judging import check_one_at_a_time
from tests.acceptance.kills import count_faults
from tests.acceptance.place import Place, Running, Server
from tests.postgres import Database, running_server
from uploader.sandbox.entries import JobEntry, PutBegun

DEADLINE_SECONDS = 1800.0
CONFIG = "crowd.toml"


def serve_accounts(place: Place, chosen: argparse.Namespace) -> list[Server]:
    """Start a sandbox for each account, and name them in the config file and in the environment."""
    servers = [
        place.serve("--limit", str(chosen.limit), "--job-seconds", str(chosen.job_seconds))
        for _ in range(chosen.accounts)
    ]
    place.use(servers[0])
    tables = []
    for number, server in enumerate(servers):
        tables.append(f'[accounts.a{number}]\nbase_url = "{server.base_url}"\nlimit = {chosen.limit}\n')
        for key in ("APP_ID", "APP_SECRET"):
            place.environment[f"UPLOADER_ACCOUNTS__A{number}__{key}"] = server.environment[f"UPLOADER_{key}"]
    place.write(CONFIG, "".join(tables))
    return servers


def account_of(row: Row, accounts: int) -> int:
    """Return the number of a row's account: that of its conversation."""
    return int(row.conversation.rpartition("-")[2]) % accounts


def run_crowd(place: Place, chosen: argparse.Namespace) -> dict[str, Any]:
    """Let workers carry one manifest, and perhaps kill and replace them; return the violations, and what was done."""
    rows = make_rows(place, chosen.items, chosen.lanes, seed=chosen.seed)
    cells = [
        {
            "conversationId": row.conversation,
            "audioPath": row.audio,
            "account": f"a{account_of(row, chosen.accounts)}",
        }
        for row in rows
    ]
    write_table(place, "m.csv", cells)
    servers = serve_accounts(place, chosen)
    words = ("run", "m.csv", "--config", CONFIG, "--doubt-seconds", "3", "--log-level", "error", "--results")
    running = [place.start(*words, f"results-{number}.csv") for number in range(chosen.workers)]
    done = kill_and_replace(place, chosen, words, running) if chosen.kill_every else {}
    codes = sorted({run.wait(DEADLINE_SECONDS).code for run in running})
    # the sandboxes, and the database, live on
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    last = place.run(*words, "last.csv")
    found = {**done, "codes": codes, "exitCode": last.code, **judge(place, servers, rows, chosen)}
    return {**found, "clientMsPerItem": round((used.ru_utime + used.ru_stime) * 1000 / chosen.items, 2)}


# the admitted attempts of each worker, and those that were cut before their admission
SPREAD = (
    "SELECT worker_id, count(admitted_at), count(*) - count(admitted_at) FROM attempts GROUP BY worker_id "
    "ORDER BY worker_id"
)


def spread(place: Place, database: Database | None) -> dict[str, Any]:
    """Return how many attempts each worker carried, and how many bodies it sent in vain, by the ledger."""
    connection: Any = sqlite3.connect(place.ledger) if database is None else database.connect()
    with closing(connection):
        rows = connection.execute(SPREAD).fetchall()
    return {"carried": [row[1] for row in rows], "inVain": [row[2] for row in rows]}


def server_seconds(database: Database) -> float:
    """Return the CPU seconds of the database server's processes that have ended."""
    with closing(database.connect()) as connection:
        (own,) = connection.execute("SELECT pg_backend_pid()").fetchone() or (0,)
        parent = Path(f"/proc/{own}/stat").read_text(encoding="ascii").rpartition(")")[2].split()[1]
    of_children = Path(f"/proc/{parent}/stat").read_text(encoding="ascii").rpartition(")")[2].split()[13:15]
    return sum(map(int, of_children)) / os.sysconf("SC_CLK_TCK")


def kill_and_replace(
    place: Place, chosen: argparse.Namespace, words: Sequence[str], running: list[Running]
) -> dict[str, int]:
    """Kill a random worker again and again, and begin another; ``running`` are those that are left at the end."""
    draw, killed, begun = Random(chosen.seed), 0, len(running)
    ends_at = time.monotonic() + chosen.seconds
    while time.monotonic() < ends_at and any(run.process.poll() is None for run in running):
        time.sleep(chosen.kill_every)
        victim = draw.choice(running)
        killed += victim.process.poll() is None
        victim.process.send_signal(signal.SIGKILL)
        victim.wait()
        running.remove(victim)
        running.append(place.start(*words, f"results-{begun}.csv"))
        begun += 1
    return {"killed": killed, "begun": begun}


def judge(place: Place, servers: Sequence[Server], rows: Sequence[Row], chosen: argparse.Namespace) -> dict[str, Any]:
    """Count the violations by the journals of all accounts, and the items a second."""
    results = read_results(place.path("last.csv"))
    found: dict[str, Any] = {"rows": 0, "appended": 0, "twice": 0, "outOfOrder": 0, "unexplained": 0}
    peaks, spans = [], []
    for number, server in enumerate(servers):
        mine = [row for row in rows if account_of(row, chosen.accounts) == number]
        own = {row.conversation for row in mine}
        counted = count_faults(server, mine, [line for line in results if line["conversationId"] in own])
        peaks.append(counted["peakLive"])
        for name in found:
            found[name] += counted[name]
        journal = server.journal
        check_one_at_a_time(journal)
        times = [entry.at for entry in journal.entries if isinstance(entry, PutBegun | JobEntry)]
        spans.append(times[-1] - times[0])
    # each sandbox has a clock of its own
    seconds = max(spans)
    states = {state: sum(line["status"] == state for line in results) for state in {line["status"] for line in results}}
    return {
        **found,
        "states": states,
        "peakLive": peaks,
        "seconds": round(seconds, 1),
        "itemsPerSecond": round(found["appended"] / seconds, 1),
    }


def main() -> int:
    """Run the crowd, and tell; 1 where a promise was broken."""
    parser = argparse.ArgumentParser(description=__doc__)
    defaults = (("workers", 8), ("items", 10_000), ("lanes", 2_000), ("limit", 50), ("accounts", 1), ("seed", 1))
    for name, default in defaults:
        parser.add_argument(f"--{name}", type=int, default=default)
    for name, seconds, meaning in (
        ("seconds", 120.0, "how long workers are killed"),
        ("kill-every", 0.0, "seconds between two kills; 0: nobody is killed"),
        ("job-seconds", 0.5, "how long a job takes"),
    ):
        parser.add_argument(f"--{name}", type=float, default=seconds, help=meaning)
    parser.add_argument("--postgres", action="store_true", help="on a PostgreSQL server of the tests' own")
    chosen = parser.parse_args()
    with TemporaryDirectory() as folder, running_server("crowd") if chosen.postgres else nullcontext("") as address:
        place = Place(Path(folder))
        database = Database(address) if chosen.postgres else None
        if database is not None:
            place.environment["UPLOADER_LEDGER"] = database.url
        try:
            before = server_seconds(database) if database is not None else 0.0
            found = run_crowd(place, chosen) | spread(place, database)
            if database is not None:
                found["serverMsPerItem"] = round((server_seconds(database) - before) * 1000 / chosen.items, 2)
        finally:
            place.close()
            if database is not None:
                database.drop()
    print(found)  # noqa: T201 - its report
    broken = found["twice"] + found["outOfOrder"] + found["unexplained"] + max(max(found["peakLive"]) - chosen.limit, 0)
    return int(broken > 0 or found["rows"] != chosen.items)


if __name__ == "__main__":
    sys.exit(main())
