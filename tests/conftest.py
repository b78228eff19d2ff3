"""How many processes run the tests, how they start commands, and how deep they go."""

import gc
import os
import shutil
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING
from uuid import uuid4

import pytest
from hypothesis import settings

if TYPE_CHECKING:
    from tests.postgres import Database, LedgerDatabase
    from tests.remote_servers import ObjectStore

# Also where no bytecode is to be written: each process would else spend seconds on compiling all tests and modules
# anew. The commands that the tests start write it, too.
sys.dont_write_bytecode = False

# the file system in memory that Linux has, and how much of it is to be free: a test's ledger takes a few mebibytes
MEMORY, ENOUGH_BYTES = Path("/dev/shm"), 2**28

# so many new files each process may well compile for itself
FEW_FILES = 50

# no deadline: a slow machine is no finding
settings.register_profile("default run", deadline=None, max_examples=30)
settings.register_profile("nightly", deadline=None, max_examples=1000)
settings.load_profile("default run")


def pytest_addoption(parser: pytest.Parser) -> None:
    """One option for the tests that start commands, and one for all that is only depth."""
    parser.addoption(
        "--real-start", action="store_true", help="start every command as a new interpreter, none as a warm one's fork"
    )
    parser.addoption(
        "--nightly",
        action="store_true",
        help="more schedules, seeds and drawn cases, larger files, and every command as a new interpreter",
    )


def pytest_configure(config: pytest.Config) -> None:
    """Nightly, whatever is drawn is drawn thirty times as often. A new clone's tests are compiled once."""
    if config.getoption("--nightly"):
        settings.load_profile("nightly")
    if not hasattr(config, "workerinput") and (config.getoption("numprocesses", None) or 0) > 1:
        _compile_tests(config)


def _compile_tests(config: pytest.Config) -> None:
    """Let one process compile the tests where most of them are new: each of several would do so for itself."""
    cache: pytest.Cache | None = getattr(config, "cache", None)
    if cache is None:
        return
    known = f"compiled/{sys.version_info.minor}"
    compiled_at = cache.get(known, 0.0)
    if sum(path.stat().st_mtime > compiled_at for path in Path(__file__).parent.rglob("*.py")) > FEW_FILES:
        begun_at = time.time()
        words = ("--collect-only", "-qq", "-p", "no:xdist", "-o", "addopts=--strict-markers")
        subprocess.run([sys.executable, "-m", "pytest", *words, *config.args], stdout=subprocess.DEVNULL, check=False)
        cache.set(known, begun_at)


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Draw as many seeds as a test asks for with its marker."""
    for marker in metafunc.definition.iter_markers("seeds"):
        nightly = metafunc.config.getoption("--nightly")
        metafunc.parametrize("seed", range(marker.kwargs["nightly"] if nightly else marker.args[0]))


@pytest.hookimpl(optionalhook=True)  # one may run them without the plugin
def pytest_xdist_auto_num_workers(config: pytest.Config) -> int:
    """Three for each core: tests of the real command wait for its jobs most of their time."""
    del config
    return 3 * (os.cpu_count() or 1)


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Of several processes, each begins with a stretch of the list: spread what waits among what computes.

    The unit tests, which take milliseconds each, are the end of each stretch: by them all processes end together. Laws
    that are pure policy, and no matter of a database, are tried on the second one nightly; so is what is only depth.
    """
    if not config.getoption("--nightly"):
        items[:] = [item for item in items if not _is_of_night(item)]
    if not hasattr(config, "workerinput"):
        return
    folders = [item.path.parent for item in items]
    counts, begun = Counter(folders), Counter[Path]()
    places: list[float] = []
    for folder in folders:
        places.append(begun[folder] / counts[folder])
        begun[folder] += 1
    order = sorted(range(len(items)), key=places.__getitem__)
    large = [items[number] for number in order if folders[number].name != "unit"]
    small = [items[number] for number in order if folders[number].name == "unit"]
    processes: int = config.workerinput["workercount"]
    items[:] = [
        item
        for number in range(processes)
        for part in (large, small)
        for item in part[len(part) * number // processes : len(part) * (number + 1) // processes]
    ]


def _is_of_night(item: pytest.Item) -> bool:
    """Tell whether a test is only depth, or tries on PostgreSQL what no statement of SQL decides."""
    if item.get_closest_marker("nightly") is not None:
        return True
    parameters = item.callspec.params if isinstance(item, pytest.Function) and hasattr(item, "callspec") else {}
    databases = {parameters.get("database_url"), parameters.get("place_of")}
    return "postgres" in databases and item.get_closest_marker("policy") is not None


def pytest_collection_finish() -> None:
    """Compile the ledger's statements once for all tests of this process, and collect no garbage among its modules."""
    gc.collect()
    gc.freeze()
    if "uploader.ledger" in sys.modules:
        from tests.statements import compile_once  # noqa: PLC0415 - imports SQLAlchemy, which not every test needs

        compile_once()


@pytest.fixture(scope="session")
def store(tmp_path_factory: pytest.TempPathFactory) -> Iterator["ObjectStore"]:
    """Provide a store that speaks S3."""
    from tests.remote_servers import object_store  # noqa: PLC0415 - most runs of single tests have no use for it

    pytest.importorskip("obstore", reason="the extra cloud is not installed")
    pytest.importorskip("moto", reason="moto, the store of the tests, is not installed")
    with object_store(tmp_path_factory.mktemp("store")) as running:
        yield running


@pytest.fixture(scope="session")
def postgres_server() -> Iterator[str]:
    """Provide the address of a PostgreSQL server, one for all processes of the tests."""
    from tests.postgres import running_server  # noqa: PLC0415 - most runs of single tests have no use for it

    with running_server(os.environ.get("PYTEST_XDIST_TESTRUNUID", uuid4().hex)) as address:
        yield address


@pytest.fixture(scope="session")
def _ledger_database(postgres_server: str) -> Iterator["LedgerDatabase"]:
    from tests.postgres import LedgerDatabase  # noqa: PLC0415 - as above

    database = LedgerDatabase(postgres_server)
    yield database
    database.drop()


@pytest.fixture
def postgres_url(_ledger_database: "LedgerDatabase") -> str:
    """Provide the address of a PostgreSQL ledger in which nothing was ever done."""
    _ledger_database.empty()
    return _ledger_database.url


@pytest.fixture
def new_database(postgres_server: str) -> Iterator["Database"]:
    """Provide a PostgreSQL database without any table."""
    from tests.postgres import Database  # noqa: PLC0415 - as above

    database = Database(postgres_server)
    yield database
    database.drop()


@pytest.fixture(scope="session")
def _ledgers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Provide a folder in memory, where there is room: a ledger waits for its disk at each commit."""
    if not os.access(MEMORY, os.W_OK) or shutil.disk_usage(MEMORY).free < ENOUGH_BYTES:
        yield tmp_path_factory.mktemp("ledgers")
        return
    with TemporaryDirectory(prefix="uploader-ledgers-", dir=MEMORY) as folder:
        yield Path(folder)


@pytest.fixture
def ledger_folder(_ledgers: Path) -> Iterator[Path]:
    """Provide an empty folder for a ledger."""
    with TemporaryDirectory(dir=_ledgers) as folder:
        yield Path(folder)


@pytest.fixture(params=["sqlite", "postgres"])
def database_url(request: pytest.FixtureRequest, ledger_folder: Path) -> str:
    """Provide the address of a new ledger, on each database."""
    if request.param == "sqlite":
        return f"sqlite:///{ledger_folder}/ledger.db"
    address: str = request.getfixturevalue("postgres_url")
    return address
