"""`uploader run` with its ledger on a PostgreSQL server: the same promises, and a password that nobody is shown."""

import signal
from collections import Counter
from contextlib import closing
from pathlib import Path
from socket import socket
from urllib.parse import urlsplit

import psycopg
import pytest

from tests.acceptance.batches import make_rows, read_results, write_manifest
from tests.acceptance.judging import check_appended, check_job_ids, check_limit, check_one_at_a_time
from tests.acceptance.place import Place, Server, until
from uploader.ledger import Ledger

PASSWORD = "Pa55-w0rd-0f-the-1edger"

# a load waits, in its first step with rows, for whoever has this advisory lock; so a frozen worker's lock holds it up
HELD_UP = """
    CREATE FUNCTION hold_up() RETURNS trigger LANGUAGE plpgsql AS
    $$ BEGIN PERFORM pg_advisory_xact_lock(42); RETURN NEW; END $$;
    CREATE TRIGGER hold_up BEFORE UPDATE ON load_leases FOR EACH ROW WHEN (NEW.progress = 'merging')
    EXECUTE FUNCTION hold_up();
"""
WAITING = "SELECT 1 FROM pg_stat_activity WHERE datname = current_database() AND wait_event = 'advisory'"


@pytest.fixture
def address(postgres_url: str) -> str:
    """Provide the address of a new ledger with a password in it, for which the tests' server does not ask."""
    parts = urlsplit(postgres_url)
    user, _, host = parts.netloc.rpartition("@")
    return parts._replace(netloc=f"{user.partition(':')[0]}:{PASSWORD}@{host}").geturl()


def check_secret(place: Place, *endings: object) -> None:
    """The password is in no output, and in no file but the journal's folder."""
    assert PASSWORD not in repr(endings)
    for path in place.folder.rglob("*"):
        if path.is_file():
            assert PASSWORD.encode() not in path.read_bytes(), path


def test_a_night_is_appended_once_in_order_and_its_password_is_not_shown(
    place: Place, server: Server, address: str
) -> None:
    """Every command works on the server's ledger; by the journal nothing is missing, twice or out of order."""
    place.environment["UPLOADER_LEDGER"] = address
    rows = make_rows(place, 24, 6)
    manifest = write_manifest(place, "m.csv", rows)
    words = ("--limit", "3", "--log-format", "json", "--log-level", "debug")
    endings = [place.run("plan", manifest), place.run("doctor"), place.run("run", manifest, *words, "--json")]
    plan, doctor, run = endings
    assert (plan.code, run.code) == (0, 0), plan.err + run.err
    assert "there is none yet" in doctor.out
    assert run.summary["ledger"].startswith("postgresql://…@")
    # the tests' own server promises nothing: it is made to be quick
    unsafe = {str(event["remedy"]).partition(" ")[0] for event in run.events("ledger.server_unsafe")}
    assert unsafe == {"set", "ALTER"}
    check_appended(server.journal, rows)
    check_limit(server.journal, 3)
    check_one_at_a_time(server.journal)
    check_job_ids(server.journal, read_results(place.path("m.results.csv")))
    again = write_manifest(place, "again.csv", rows)
    for command in (f"run {again}", f"plan {again}", "status", "results --batch m.csv", "resolve", "doctor"):
        endings.append(place.run(*command.split()))
        assert endings[-1].code == 0, endings[-1].err
    checked, copied = place.run("ledger", "check"), place.run("ledger", "backup", "copy.dump")
    endings += [checked, copied, place.run("ledger", "check", "--json"), place.run("ledger", "upgrade")]
    assert [ending.code for ending in endings[-4:]] == [0, 2, 0, 0]
    assert "pg_amcheck" in checked.out, "nothing of the server's files was read, and nobody is told so"
    assert "pg_dump --format=custom --file=" in copied.err
    check_appended(server.journal, rows)
    check_secret(place, *endings)


def test_after_a_kill_the_same_command_carries_on(place: Place, address: str) -> None:
    """A run that is killed is known to be dead on its host; the next one takes over, and appends nothing twice."""
    place.environment["UPLOADER_LEDGER"] = address
    server = place.serve("--limit", "4", "--job-seconds", "0.3")
    place.use(server)
    rows = make_rows(place, 30, 10)
    manifest = write_manifest(place, "m.csv", rows)
    running = place.start("run", manifest, "--limit", "4")
    until(lambda: len(server.journal.appended()) >= 8, "a part is appended")
    running.process.send_signal(signal.SIGKILL)
    running.wait()
    ended = place.run("run", manifest, "--limit", "4")
    states = {line["status"] for line in read_results(place.path("m.results.csv"))}
    assert ended.code in (0, 4), ended.err
    assert states <= {"completed", "in_doubt", "held"}
    check_limit(server.journal, 4)
    more = Counter(put.sha256 for put in server.journal.appended()) - Counter(row.sha256 for row in rows)
    assert not more


@pytest.mark.parametrize("command", ["run m.csv", "plan m.csv", "status", "doctor"])
def test_a_server_that_is_not_there_is_told_in_words(place: Place, server: Server, command: str) -> None:
    """Exit 5, with the driver's reason and without the password."""
    write_manifest(place, "m.csv", make_rows(place, 1, 1))
    with closing(socket()) as unused:
        unused.bind(("127.0.0.1", 0))
        port = unused.getsockname()[1]
        place.environment["UPLOADER_LEDGER"] = f"postgresql://uploader:{PASSWORD}@127.0.0.1:{port}/ledger"
        ended = place.run(*command.split())
    assert ended.code == 5, ended
    assert f"ledger postgresql://…@127.0.0.1:{port}/ledger" in ended.err + ended.out
    assert "Connection refused" in ended.err + ended.out
    check_secret(place, ended)
    assert server.journal.puts() == []


def test_a_user_that_the_server_does_not_take_is_told_in_words(place: Place, server: Server, address: str) -> None:
    """Exit 2: the same address is refused every night until somebody corrects it."""
    parts = urlsplit(address)
    _, _, host = parts.netloc.rpartition("@")
    stranger = parts._replace(netloc=f"nobody-we-know:{PASSWORD}@{host}").geturl()
    place.environment["UPLOADER_LEDGER"] = stranger
    ended = place.run("run", write_manifest(place, "m.csv", make_rows(place, 1, 1)))
    assert ended.code == 2, ended
    assert "correct user, password and database in UPLOADER_LEDGER" in ended.err
    check_secret(place, ended)


@pytest.mark.parametrize("spelling", ["u:p/ss%s@h/d", "u:a:%s@h:x/d", "u:a@%s@h/d", "u:%s@h/d?b"])
def test_an_address_that_is_none_shows_nothing_of_its_password(place: Place, server: Server, spelling: str) -> None:
    """The driver would quote the part that it cannot read, which may be of the password."""
    place.environment["UPLOADER_LEDGER"] = "postgresql://" + spelling % PASSWORD
    ended = place.run("run", write_manifest(place, "m.csv", make_rows(place, 1, 1)))
    assert ended.code == 2, ended
    check_secret(place, ended)


@pytest.mark.real_start
def test_without_the_driver_its_remedy_is_told(place: Place, tmp_path: Path) -> None:
    """Exit 2, and how to install it; a ledger in a file needs no driver."""
    place.write("psycopg/__init__.py", "raise ModuleNotFoundError(\"No module named 'psycopg'\")")
    place.environment["PYTHONPATH"] = str(place.folder)
    place.environment["UPLOADER_LEDGER"] = f"postgresql://uploader:{PASSWORD}@localhost/ledger"
    ended = place.run("status")
    assert ended.code == 2, ended
    assert "pip install 'uploader[postgres]'" in ended.err
    check_secret(place, ended)


# a host whose clock is a week slow
SLOW_CLOCK = """
import time

host_time = time.time
time.time = lambda: host_time() - 7 * 86400
"""


@pytest.mark.real_start
def test_the_time_of_a_decision_and_of_an_adoption_is_the_servers(place: Place, postgres_url: str) -> None:
    """A person whose host has a wrong clock settles and adopts: the ledger has the times of its server."""
    place.environment["UPLOADER_LEDGER"] = postgres_url
    server = place.serve(faults="[put]\nlost_before = 1.0")
    place.use(server)
    (row,) = make_rows(place, 1, 1)
    write_manifest(place, "m.csv", [row])
    assert place.run("run", "m.csv", "--doubt-seconds", "1").code == 4
    place.write("slow/sitecustomize.py", SLOW_CLOCK)
    slow = {"PYTHONPATH": str(place.path("slow"))}
    for command in (
        ("ledger", "adopt", "m.results.csv", "--batch", "adopted"),
        ("resolve", "--conversation", row.conversation, "--not-appended"),
    ):
        ended = place.run(*command, environment=slow)
        assert ended.code == 0, ended
    with closing(psycopg.connect(postgres_url)) as connection:
        ages = connection.execute(
            "SELECT extract(epoch FROM clock_timestamp()) - made FROM (SELECT resolved_at FROM resolutions UNION ALL "
            "SELECT loaded_at FROM loads UNION ALL SELECT ran_at FROM batches) "
            "AS times (made)"
        ).fetchall()
    assert len(ages) == 5
    assert all(0 <= age < 86400 for (age,) in ages), ages


def test_a_ledger_that_moves_goes_on_where_it_was(place: Place, postgres_url: str) -> None:
    """The next night knows every append of the file's nights; the file refuses to run and says where it went."""
    server = place.serve()
    place.use(server)
    rows = make_rows(place, 12, 4)
    manifest = write_manifest(place, "m.csv", rows)
    assert place.run("run", manifest, "--first", "8").code == 6
    before = len(server.journal.appended())
    parts = urlsplit(postgres_url)
    user, _, host = parts.netloc.rpartition("@")
    place.environment["PGPASSWORD"] = parts.password or ""
    postgres_url = parts._replace(netloc=f"{user.partition(':')[0]}@{host}").geturl()
    refused = place.run("ledger", "move", "--to", postgres_url.replace("@", f":{PASSWORD}@"))
    assert refused.code == 2
    assert PASSWORD not in refused.err
    moved = place.run("ledger", "move", "--to", postgres_url)
    assert moved.code == 0, moved.err
    assert "12 items" in moved.out
    for command in (f"run {manifest}", f"plan {manifest}", "status", "resolve", f"ledger move --to {postgres_url}"):
        ended = place.run(*command.split())
        assert ended.code == 2, command
        assert "it was moved to postgresql://" in ended.err
    assert len(server.journal.appended()) == before
    place.environment["UPLOADER_LEDGER"] = postgres_url
    place.environment["UPLOADER_LEDGER_MUST_EXIST"] = "true"
    assert place.run("run", manifest).code == 0
    check_appended(server.journal, rows)
    check_one_at_a_time(server.journal)
    assert place.run("ledger", "move", "--to", postgres_url).code == 2


def test_a_signal_ends_a_load_that_waits_for_a_lock(place: Place, server: Server, postgres_url: str) -> None:
    """Exit 143 within the grace time, though the lock is never released; then the same command appends all once."""
    place.environment["UPLOADER_LEDGER"] = postgres_url
    Ledger.open_for_run(postgres_url).close()
    rows = make_rows(place, 6, 3)
    manifest = write_manifest(place, "m.csv", rows)
    with psycopg.connect(postgres_url, autocommit=True) as holder:
        holder.execute(HELD_UP)
        holder.execute("SELECT pg_advisory_lock(42)")
        running = place.start("run", manifest, "--grace-seconds", "1", "--log-format", "json")
        until(lambda: holder.execute(WAITING).fetchone() is not None, "the load waits for the lock")
        ended = running.stop(signal.SIGTERM)
        assert ended.code == 143, ended.err
        assert server.journal.appended() == []
    again = place.run("run", manifest)
    assert again.code == 0, again.err
    check_appended(server.journal, rows)
    check_job_ids(server.journal, read_results(place.path("m.results.csv")))
