"""Gives each test a place of its own, and a warm interpreter that starts its commands."""

import signal
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from tests.acceptance.place import Place, Server, base_environment
from tests.acceptance.starting import ForkServer, NewInterpreter, Start

# whoever runs the tests detached (nohup) hands on that SIGHUP is ignored, and the commands would do so, too
signal.signal(signal.SIGHUP, signal.SIG_DFL)


@pytest.fixture(scope="session")
def starts(pytestconfig: pytest.Config) -> Iterator[Start]:
    """Choose the way to start commands: forked from a warm interpreter, or by option each as a new one."""
    if pytestconfig.getoption("--real-start") or pytestconfig.getoption("--nightly"):
        yield NewInterpreter
        return
    with closing(ForkServer(base_environment())) as server:
        yield server


@pytest.fixture
def place(request: pytest.FixtureRequest, tmp_path: Path, ledger_folder: Path, starts: Start) -> Iterator[Place]:
    """An empty folder with a home of its own; what was started there ends with the test."""
    real = request.node.get_closest_marker("real_start") is not None
    made = Place(tmp_path, starts=NewInterpreter if real else starts, state=ledger_folder)
    yield made
    made.close()
    made.check_logs()


@pytest.fixture(scope="session")
def shared_server(tmp_path_factory: pytest.TempPathFactory, starts: Start) -> Iterator[Server]:
    """A sandbox without faults, for all tests that need no other: each costs a process."""
    made = Place(tmp_path_factory.mktemp("server"), starts=starts)
    yield made.serve("--limit", "50")
    made.close()


@pytest.fixture
def server(shared_server: Server, place: Place) -> Server:
    """A sandbox without faults whose journal begins with the test; the place is pointed at it."""
    place.use(shared_server)
    return shared_server.from_now_on()


@pytest.fixture(params=["sqlite", "postgres"])
def place_of(request: pytest.FixtureRequest, place: Place) -> Place:
    """Provide a place whose ledger is on each database."""
    if request.param == "postgres":
        place.environment["UPLOADER_LEDGER"] = request.getfixturevalue("postgres_url")
    return place
