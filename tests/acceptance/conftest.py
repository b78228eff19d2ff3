"""Gives each test a place of its own, and lets the long batches run beside the short tests."""

from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.acceptance import campaigns
from tests.acceptance.campaigns import Campaign
from tests.acceptance.place import Place, Server

CAMPAIGNS: dict[str, Callable[[Place], Campaign]] = {
    work.__name__: work for work in (campaigns.thousand, campaigns.killed, campaigns.terminated)
}


def _campaign_of(item: pytest.Item) -> str | None:
    """The long batch that a test judges."""
    return next((name for name in getattr(item, "fixturenames", ()) if name in CAMPAIGNS), None)


def _is_worker(config: pytest.Config) -> bool:
    """Whether this is one of several processes that share the tests."""
    return hasattr(config, "workerinput")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Puts the tests that judge a long batch last; of several processes, one begins with them."""
    first = _is_worker(config)
    items.sort(key=lambda item: (_campaign_of(item) is None) is first)


class _Begun(Mapping[str, "Future[Campaign]"]):
    """The long batches, begun at once or when the first of them is asked for."""

    def __init__(self, pool: ThreadPoolExecutor, places: Mapping[str, Place], *, at_once: bool) -> None:
        self._pool = pool
        self._places = places
        self._under_way: dict[str, Future[Campaign]] = {}
        if at_once:
            self._begin()

    def _begin(self) -> None:
        self._under_way = {name: self._pool.submit(CAMPAIGNS[name], place) for name, place in self._places.items()}

    def __getitem__(self, name: str) -> "Future[Campaign]":
        if not self._under_way:
            self._begin()
        return self._under_way[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._places)

    def __len__(self) -> int:
        return len(self._places)


@pytest.fixture(scope="session", autouse=True)
def campaigning(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Mapping[str, "Future[Campaign]"]]:
    """The long batches that some chosen test judges, already under way; of several processes, in one alone."""
    chosen = dict.fromkeys(name for item in request.session.items if (name := _campaign_of(item)))
    places = {name: Place(tmp_path_factory.mktemp(name)) for name in chosen}
    with ThreadPoolExecutor(1) as pool:
        yield _Begun(pool, places, at_once=not _is_worker(request.config))
        pool.shutdown(wait=False, cancel_futures=True)
        for place in places.values():
            place.close()


@pytest.fixture
def thousand(campaigning: Mapping[str, "Future[Campaign]"]) -> Campaign:
    """The batch of a thousand files."""
    return campaigning["thousand"].result()


@pytest.fixture
def killed(campaigning: Mapping[str, "Future[Campaign]"]) -> Campaign:
    """The batch whose runs were killed."""
    return campaigning["killed"].result()


@pytest.fixture
def terminated(campaigning: Mapping[str, "Future[Campaign]"]) -> Campaign:
    """The batch whose runs were terminated."""
    return campaigning["terminated"].result()


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Place]:
    """An empty folder with a home of its own; what was started there ends with the test."""
    made = Place(tmp_path)
    yield made
    made.close()


@pytest.fixture(scope="session")
def shared_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A sandbox without faults, for all tests that need no other: each costs a process."""
    made = Place(tmp_path_factory.mktemp("server"))
    yield made.serve("--limit", "50")
    made.close()


@pytest.fixture
def server(shared_server: Server, place: Place) -> Server:
    """A sandbox without faults whose journal begins with the test; the place is pointed at it."""
    place.use(shared_server)
    return shared_server.from_now_on()
